//! Signs of life: when the grain was last wanted, and what keeps it awake.
//!
//! A sign is a keepAlive or a call into the app. Without one for the idle time, and without a wake
//! lock, the grain ends. Trust: the app can hold wake locks, which its owner sees and may cancel.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Wake locks that one grain may hold at once.
const MAX_WAKE_LOCKS: usize = 16;

/// Shared by everything that is a sign of life.
pub struct Life {
    last: Cell<Instant>,
    idle: Duration,
    locks: RefCell<BTreeMap<u32, Rc<dyn Fn()>>>,
    next_lock: Cell<u32>,
    wanted: Notify,
}

impl Life {
    pub fn new(idle: Duration) -> Rc<Life> {
        Rc::new(Life {
            last: Cell::new(Instant::now()),
            idle,
            locks: RefCell::default(),
            next_lock: Cell::new(0),
            wanted: Notify::new(),
        })
    }

    /// Somebody wants the grain.
    pub fn sign(&self) {
        self.last.set(Instant::now());
        self.wanted.notify_waiters();
    }

    /// Waits until somebody wants the grain.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Whether somebody wanted it within this time.
    pub fn is_recent(&self, within: Duration) -> bool {
        self.last.get().elapsed() < within
    }

    /// Takes a wake lock; `on_cancel` runs if it is cancelled from outside. `None` when the grain
    /// holds too many already.
    pub fn hold(self: &Rc<Self>, on_cancel: Rc<dyn Fn()>) -> Option<WakeLock> {
        let mut locks = self.locks.borrow_mut();
        if locks.len() >= MAX_WAKE_LOCKS {
            return None;
        }
        let number = self.next_lock.get();
        self.next_lock.set(number.wrapping_add(1));
        locks.insert(number, on_cancel);
        Some(WakeLock { life: self.clone(), number })
    }

    /// Ends a wake lock by its number; `false` when there is none.
    pub fn cancel(&self, number: u32) -> bool {
        let lock = self.locks.borrow_mut().remove(&number);
        self.sign();
        lock.is_some_and(|on_cancel| {
            on_cancel();
            true
        })
    }

    /// Whether a wake lock of this number is held.
    pub fn holds(&self, number: u32) -> bool {
        self.locks.borrow().contains_key(&number)
    }

    /// Returns once nobody wants the grain any more.
    pub async fn ended(&self) {
        loop {
            let until = self.last.get() + self.idle;
            if Instant::now() >= until && self.locks.borrow().is_empty() {
                return;
            }
            if self.locks.borrow().is_empty() {
                tokio::time::sleep_until(until).await;
            } else {
                // The time starts anew when the last lock goes.
                tokio::time::sleep(self.idle.min(Duration::from_secs(5))).await;
            }
        }
    }
}

/// Keeps the grain awake until dropped or cancelled.
pub struct WakeLock {
    life: Rc<Life>,
    pub number: u32,
}

impl Drop for WakeLock {
    fn drop(&mut self) {
        if self.life.locks.borrow_mut().remove(&self.number).is_some() {
            self.life.sign();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn is_over(life: &Life, seconds: u64) -> bool {
        tokio::time::timeout(Duration::from_secs(seconds), life.ended()).await.is_ok()
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_sign_puts_the_end_off() {
        let life = Life::new(Duration::from_secs(90));
        assert!(!is_over(&life, 89).await);
        life.sign();
        assert!(!is_over(&life, 89).await);
        assert!(is_over(&life, 2).await);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_wake_lock_holds_until_dropped_or_cancelled() {
        let life = Life::new(Duration::from_secs(90));
        let cancelled = Rc::new(Cell::new(false));
        let flag = cancelled.clone();
        let first = life.hold(Rc::new(move || flag.set(true))).unwrap();
        let second = life.hold(Rc::new(|| {})).unwrap();
        assert!(!is_over(&life, 1000).await);
        assert!(life.cancel(first.number));
        assert!(cancelled.get());
        assert!(!life.cancel(first.number));
        drop(first);
        assert!(!is_over(&life, 1000).await);
        drop(second);
        assert!(!is_over(&life, 80).await, "the time starts anew");
        assert!(is_over(&life, 20).await);
    }

    #[test]
    fn wake_locks_are_few() {
        let life = Life::new(Duration::from_secs(1));
        let held: Vec<_> =
            (0..MAX_WAKE_LOCKS).map(|_| life.hold(Rc::new(|| {})).unwrap()).collect();
        assert!(life.hold(Rc::new(|| {})).is_none());
        drop(held);
        assert!(life.hold(Rc::new(|| {})).is_some());
    }
}
