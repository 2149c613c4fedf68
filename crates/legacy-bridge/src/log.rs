//! Lines for the grain's log (stderr), each with the prefix that people look for.
//!
//! Text from the app or the network may stand in them: control characters are replaced and lines
//! are cut, so that nobody can forge a line or flood the log with one.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use sandstorm_schema::pace::{Paces, Turn, WINDOW};

/// Characters of one line.
const MAX_LINE: usize = 1000;
/// Lines of one kind that [`paced`] writes within [`WINDOW`].
const LINES: u32 = 3;
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
        static PACES: RefCell<Paces> = const { RefCell::new(Paces::new(LINES)) };
    }
    if MUTED.load(Ordering::Relaxed) {
        return;
    }
    let turn = PACES.with_borrow_mut(|paces| paces.turn(kind, Instant::now()));
    match turn {
        Turn::Write => line(text),
        Turn::LeaveOut => {}
        Turn::Sum(end) => {
            tokio::task::spawn_local(async move {
                tokio::time::sleep_until(end.into()).await;
                let left_out = PACES.with_borrow_mut(|paces| paces.left_out(kind));
                let seconds = WINDOW.as_secs();
                line(format_args!("{left_out} more lines like this in {seconds} s: {kind}"));
            });
        }
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
