//! Memory that the messages of several connections share.
//!
//! Trust: each peer alone is bounded by its connection's limits; whoever runs many peers is bounded
//! here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on the bytes of messages above 4 KiB that several connections hold together. What is
/// beyond it is refused as what is beyond [`super::GuardLimits::held_bytes`].
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    most: usize,
    /// One that this is a part of.
    above: Option<Arc<Budget>>,
}

impl Budget {
    /// `most` bytes.
    pub fn new(most: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), most, above: None })
    }

    /// `most` bytes of what `above` has for all its parts.
    pub fn part_of(above: &Arc<Budget>, most: usize) -> Arc<Budget> {
        Arc::new(Budget { used: AtomicUsize::new(0), most, above: Some(above.clone()) })
    }

    /// Bytes that are held now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `bytes`, if there is room for them here and above.
    pub(super) fn try_take(&self, bytes: usize) -> bool {
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.most);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        let room = self.above.as_ref().is_none_or(|above| above.try_take(bytes));
        if !room {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        room
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(above) = &self.above {
            above.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_no_more_than_the_whole() {
        let all = Budget::new(100);
        let (one, other) = (Budget::part_of(&all, 80), Budget::part_of(&all, 80));
        assert!(one.try_take(80));
        assert!(!one.try_take(1));
        assert!(!other.try_take(21));
        assert!(other.try_take(20));
        assert_eq!((one.used(), other.used(), all.used()), (80, 20, 100));
        assert!(!other.try_take(usize::MAX));
        one.give_back(80);
        assert!(other.try_take(60));
        other.give_back(80);
        assert_eq!((one.used(), other.used(), all.used()), (0, 0, 0));
    }
}
