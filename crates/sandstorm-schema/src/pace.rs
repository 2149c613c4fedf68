//! How many lines a log gets about what anybody can make happen again and again.
//!
//! Of each kind some lines are written in a window of time, then one that says how many more there
//! were: whoever sends requests could fill the log otherwise.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// In which lines are counted.
pub const WINDOW: Duration = Duration::from_secs(10);
/// Kinds that are told apart; all others count as one.
const MAX_KINDS: usize = 256;

/// The lines of all kinds.
#[derive(Debug)]
pub struct Paces {
    lines: u32,
    by_kind: BTreeMap<String, Pace>,
}

/// What to do with a line.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Write it.
    Write,
    /// Leave it out; it is counted.
    LeaveOut,
    /// The first that is left out: at this moment their number ([`Paces::left_out`]) is due.
    Sum(Instant),
}

#[derive(Debug, Default)]
struct Pace {
    end: Option<Instant>,
    written: u32,
    left_out: u64,
}

impl Paces {
    /// `lines` of each kind in each [`WINDOW`].
    pub const fn new(lines: u32) -> Paces {
        Paces { lines, by_kind: BTreeMap::new() }
    }

    /// For one more line of this kind.
    pub fn turn(&mut self, kind: &str, now: Instant) -> Turn {
        let lines = self.lines;
        let kind = self.known(kind);
        if !self.by_kind.contains_key(kind) {
            self.by_kind.insert(kind.to_owned(), Pace::default());
        }
        match self.by_kind.get_mut(kind) {
            Some(pace) => pace.turn(lines, now),
            None => Turn::Write,
        }
    }

    /// How many of this kind were left out, once, after [`Turn::Sum`].
    pub fn left_out(&mut self, kind: &str) -> u64 {
        let kind = self.known(kind);
        self.by_kind.get_mut(kind).map_or(0, |pace| std::mem::take(&mut pace.left_out))
    }

    /// Under which name it is counted.
    fn known<'a>(&self, kind: &'a str) -> &'a str {
        if self.by_kind.len() >= MAX_KINDS && !self.by_kind.contains_key(kind) { "" } else { kind }
    }
}

impl Pace {
    fn turn(&mut self, lines: u32, now: Instant) -> Turn {
        let end = match self.end {
            // What was left out is told before anything else is written.
            Some(end) if now < end || self.left_out > 0 => end,
            _ => {
                self.written = 0;
                *self.end.insert(now + WINDOW)
            }
        };
        if self.written < lines {
            self.written += 1;
            return Turn::Write;
        }
        self.left_out += 1;
        if self.left_out == 1 { Turn::Sum(end) } else { Turn::LeaveOut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_kind_are_counted_rather_than_written() {
        let mut paces = Paces::new(3);
        let begin = Instant::now();
        for _ in 0..3 {
            assert_eq!(paces.turn("a", begin), Turn::Write);
        }
        assert_eq!(paces.turn("a", begin), Turn::Sum(begin + WINDOW));
        assert_eq!(paces.turn("a", begin), Turn::LeaveOut);
        assert_eq!(paces.turn("b", begin), Turn::Write);
        // Until the sum is written, even past its time.
        assert_eq!(paces.turn("a", begin + WINDOW), Turn::LeaveOut);
        assert_eq!((paces.left_out("a"), paces.left_out("a")), (3, 0));
        assert_eq!(paces.turn("a", begin + WINDOW), Turn::Write);
        // Few lines have no sum.
        assert_eq!(paces.turn("a", begin + 3 * WINDOW), Turn::Write);
    }

    #[test]
    fn any_number_of_kinds_takes_bounded_memory() {
        let mut paces = Paces::new(1);
        let begin = Instant::now();
        let written =
            (0..10_000).filter(|kind| paces.turn(&kind.to_string(), begin) == Turn::Write).count();
        assert_eq!(written, MAX_KINDS + 1);
        assert_eq!(paces.left_out("no such kind"), 10_000 - written as u64);
        assert_eq!(paces.by_kind.len(), MAX_KINDS + 1);
    }
}
