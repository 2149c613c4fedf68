//! Memory that the messages of several connections share.
//!
//! Trust: each peer alone is bounded by its connection's limits; whoever runs many peers is bounded
//! here.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on the bytes of messages above 4 KiB that several connections hold together. What is
/// beyond it is refused as what is beyond [`super::GuardLimits::held_bytes`].
///
/// A part never has more than half of what its whole has left, itself not counted: so however many
/// parts take all they can, there is room left for one more (the dynamic thresholds of shared packet
/// buffers: Choudhury and Hahne, 1998).
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
        let left = self.above.as_ref().map_or(usize::MAX, |above| above.left() / 2);
        let most = self.most.min(left);
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= most);
        if self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_err() {
            return false;
        }
        let room = self.above.as_ref().is_none_or(|above| above.try_take(bytes));
        if !room {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
        room
    }

    fn left(&self) -> usize {
        self.most.saturating_sub(self.used())
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
        let one = Budget::part_of(&all, 80);
        assert!(one.try_take(20));
        assert!(!one.try_take(21), "half of what is left");
        assert!(!one.try_take(usize::MAX));
        assert_eq!((one.used(), all.used()), (20, 20));
        one.give_back(20);
        assert_eq!((one.used(), all.used()), (0, 0));
        let small = Budget::part_of(&all, 10);
        assert!(small.try_take(10));
        assert!(!small.try_take(1));
    }

    #[test]
    fn however_many_take_all_they_can_there_is_room_for_one_more() {
        const KIB: usize = 1 << 10;
        let all = Budget::new(512 * KIB);
        let parts: Vec<_> = (0..8).map(|_| Budget::part_of(&all, 128 * KIB)).collect();
        for part in &parts {
            while part.try_take(KIB) {}
        }
        assert_eq!(parts[0].used(), 128 * KIB);
        assert!(parts[7].used() >= 8 * KIB, "{}", parts[7].used());
        let next = Budget::part_of(&all, 128 * KIB);
        assert!(next.try_take(4 * KIB));
        for part in &parts {
            part.give_back(part.used());
        }
        assert!(next.try_take(124 * KIB), "what is given back is there again");
    }
}
