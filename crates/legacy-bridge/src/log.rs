//! Lines for the grain's log (stderr), each with the prefix that people look for.
//!
//! Text from the app or the network may stand in them: control characters are replaced and lines
//! are cut, so that nobody can forge a line or flood the log with one.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Characters of one line.
const MAX_LINE: usize = 1000;
/// Lines of one kind that [`paced`] writes within [`WINDOW`].
const LINES: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);
/// Different lines that [`once`] remembers.
const MAX_KEYS: usize = 256;

static MUTED: AtomicBool = AtomicBool::new(false);

/// Writes nothing from now on: for the fuzz targets, whose every input is worth a line.
#[doc(hidden)]
pub fn mute() {
    MUTED.store(true, Ordering::Relaxed);
}

/// Writes one line.
pub fn line(text: fmt::Arguments<'_>) {
    if MUTED.load(Ordering::Relaxed) {
        return;
    }
    let text: String = text
        .to_string()
        .chars()
        .take(MAX_LINE)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // A closed or full log must not stop the app.
    let _ = std::io::stderr().write_all(format!("** HTTP-BRIDGE: {text}\n").as_bytes());
}

/// Writes a line the first time that this key is seen. Past 256 keys nothing more is said.
pub fn once(key: &str, text: fmt::Arguments<'_>) {
    thread_local! {
        static SEEN: RefCell<HashSet<String>> = RefCell::default();
    }
    let fresh = SEEN.with_borrow_mut(|seen| {
        seen.len() < MAX_KEYS && !seen.contains(key) && seen.insert(key.to_owned())
    });
    if fresh {
        line(text);
    }
}

/// Writes a line about one request. Of each kind some lines are written in ten seconds, then one
/// that says how many more there were: whoever sends requests could fill the log otherwise.
pub fn paced(kind: &'static str, text: fmt::Arguments<'_>) {
    thread_local! {
        static PACES: RefCell<HashMap<&'static str, Pace>> = RefCell::default();
    }
    if MUTED.load(Ordering::Relaxed) {
        return;
    }
    let turn = PACES.with_borrow_mut(|paces| paces.entry(kind).or_default().turn(Instant::now()));
    match turn {
        Turn::Write => line(text),
        Turn::LeaveOut => {}
        Turn::Sum(end) => {
            tokio::task::spawn_local(async move {
                tokio::time::sleep_until(end.into()).await;
                let left_out = PACES.with_borrow_mut(|paces| match paces.get_mut(kind) {
                    Some(pace) => std::mem::take(&mut pace.left_out),
                    None => 0,
                });
                let seconds = WINDOW.as_secs();
                line(format_args!("{left_out} more lines like this in {seconds} s: {kind}"));
            });
        }
    }
}

/// Lines of one kind.
#[derive(Default)]
struct Pace {
    end: Option<Instant>,
    written: u32,
    left_out: u64,
}

#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Write,
    LeaveOut,
    /// The first that is left out: at this moment their number is due.
    Sum(Instant),
}

impl Pace {
    fn turn(&mut self, now: Instant) -> Turn {
        let end = match self.end {
            // What was left out is told before anything else is written.
            Some(end) if now < end || self.left_out > 0 => end,
            _ => {
                self.written = 0;
                *self.end.insert(now + WINDOW)
            }
        };
        if self.written < LINES {
            self.written += 1;
            return Turn::Write;
        }
        self.left_out += 1;
        if self.left_out == 1 { Turn::Sum(end) } else { Turn::LeaveOut }
    }
}

/// `log!("…", …)`: one line for the grain's log.
#[macro_export]
macro_rules! log {
    ($($arg:tt)*) => { $crate::log::line(format_args!($($arg)*)) };
}

/// `log_once!(key, "…", …)`: one line for the grain's log, the first time only.
#[macro_export]
macro_rules! log_once {
    ($key:expr, $($arg:tt)*) => { $crate::log::once($key, format_args!($($arg)*)) };
}

/// `log_paced!(kind, "…", …)`: one line for the grain's log about one of many requests.
#[macro_export]
macro_rules! log_paced {
    ($kind:expr, $($arg:tt)*) => { $crate::log::paced($kind, format_args!($($arg)*)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_counted_rather_than_written() {
        let mut pace = Pace::default();
        let begin = Instant::now();
        for _ in 0..LINES {
            assert_eq!(pace.turn(begin), Turn::Write);
        }
        assert_eq!(pace.turn(begin), Turn::Sum(begin + WINDOW));
        assert_eq!(pace.turn(begin), Turn::LeaveOut);
        // Until the sum is written, even past its time.
        assert_eq!(pace.turn(begin + WINDOW), Turn::LeaveOut);
        assert_eq!(std::mem::take(&mut pace.left_out), 3);
        assert_eq!(pace.turn(begin + WINDOW), Turn::Write);
        // Few lines have no sum.
        assert_eq!(pace.turn(begin + 3 * WINDOW), Turn::Write);
    }
}
