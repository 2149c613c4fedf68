//! Idle connections to the app, kept for a moment so that a page's many small requests do not each
//! open one.
//!
//! Reuse is a speed-up that must never be seen. So: only safe requests without a body use an idle
//! connection; only a complete and unsuspicious answer returns one; none lives longer than a second (apps close
//! theirs after five or more); and a simple server that serves one connection at a time must not
//! wait for us, so all idle ones are closed as soon as any request waits long for its answer. An
//! app on which reuse fails again and again is spared it for good.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::conn::Conn;

/// Idle connections kept at most: a few busy pages' worth.
const MAX_IDLE: usize = 64;
/// How long an idle connection is kept.
const MAX_IDLE_TIME: Duration = Duration::from_millis(1000);
/// How often expired connections are looked for.
const SWEEP: Duration = Duration::from_millis(250);
/// Failed reuses after which it is given up.
const MAX_FAILURES: u32 = 8;

/// Idle connections of one app.
#[derive(Debug, Default)]
pub struct Pool {
    idle: RefCell<Vec<(Conn, Instant)>>,
    /// Requests that have waited long for their answer and still do.
    stalled: Cell<u32>,
    failures: Cell<u32>,
    sweeping: Cell<bool>,
}

/// While this lives, no connection is kept idle.
#[derive(Debug)]
pub struct Stall(Rc<Pool>);

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.stalled.set(self.0.stalled.get() - 1);
    }
}

impl Pool {
    /// The connection used last, if one is idle and still good.
    pub fn take(&self) -> Option<Conn> {
        loop {
            let (mut conn, since) = self.idle.borrow_mut().pop()?;
            if since.elapsed() < MAX_IDLE_TIME && conn.still_idle() {
                conn.reused = true;
                return Some(conn);
            }
        }
    }

    /// Keeps a connection whose last answer is complete. Must run on a `LocalSet`.
    pub fn put(self: &Rc<Self>, conn: Conn) {
        if self.stalled.get() > 0
            || self.failures.get() >= MAX_FAILURES
            || !conn.buf.is_empty()
            || self.idle.borrow().len() >= MAX_IDLE
        {
            return;
        }
        self.idle.borrow_mut().push((conn, Instant::now()));
        if !self.sweeping.replace(true) {
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move { pool.sweep().await });
        }
    }

    /// Notes that a reused connection was found closed.
    pub fn note_failure(&self) {
        self.failures.set(self.failures.get().saturating_add(1));
        self.idle.borrow_mut().clear();
    }

    /// Closes all idle connections, and keeps none until the result is dropped.
    pub fn stall(self: &Rc<Self>) -> Stall {
        self.stalled.set(self.stalled.get() + 1);
        self.idle.borrow_mut().clear();
        Stall(Rc::clone(self))
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let mut idle = self.idle.borrow_mut();
            idle.retain_mut(|(conn, since)| since.elapsed() < MAX_IDLE_TIME && conn.still_idle());
            if idle.is_empty() {
                *idle = Vec::new();
                self.sweeping.set(false);
                return;
            }
        }
    }
}
