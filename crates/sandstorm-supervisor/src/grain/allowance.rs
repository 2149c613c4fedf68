//! What a grain may take of the disk, and what a measurement of it means. Not the file system's
//! quota (`sys::quota`): that is asked for where there is one, and then this only warns.
#![forbid(unsafe_code)]

use super::storage::{Disk, Usage};

/// What a fuller grain is told: percent, and the level that this is.
const WARNINGS: [(u64, u8); 2] = [(95, 2), (80, 1)];
/// Where the kernel keeps the limit, so much is as full as it gets.
const BRIM: (u64, u8) = (99, 3);
/// Percent below which a warning may be given again, and writes are let go again.
const REST: u64 = 5;
const ROOM: u64 = 98;
/// Once writes fail, so much more and the grain is ended: some ways to take space are no writes
/// (empty files, directories, pages of a file that is mapped and has holes).
pub(super) const MORE: Usage = Usage { bytes: 64 << 20, inodes: 2000 };
/// Beyond the limit by a tenth, or by so much where that is more, lies the ceiling, which a grain does
/// not pass however often it is started anew.
const BEYOND: Usage = Usage { bytes: 256 << 20, inodes: 2000 };
/// What a grain that was full at its start may take all the same: an app may need it to start and
/// delete something. Its log comes on top.
const LITTLE: Usage = Usage { bytes: 1 << 20, inodes: 100 };

/// Whether the grain may write, by what it takes and what it may take; with some room between the
/// two answers, so that they do not alternate.
#[derive(Debug)]
pub struct Allowance {
    limit: Usage,
    /// What the log and its predecessor can take, which are in the same directory.
    log: u64,
    /// Least usage since writes began to fail.
    full: Option<Usage>,
    /// Writes fail since before the first measurement.
    was_full: bool,
    /// Measurements to come of which what is found was written before writes failed: it takes a
    /// moment until every process has been told, in which a fast one writes much.
    settling: u8,
    warned: u8,
    /// Walks in a row that could not see everything.
    blind: u8,
    /// The file system is nearly full, whoever filled it.
    scarce: bool,
    /// The kernel refuses what is beyond the limit, so here is only told how full it is.
    by_kernel: bool,
}

/// Measurements after which every process has been told, and has ended the write that it was in.
const SETTLING: u8 = 2;

/// Room beyond the reserve before writes are let go again.
const RELIEF: u64 = 32 << 20;

/// After so many such walks the limit counts as reached: what is opened up and shut again, or too
/// deep, cannot be kept from growing.
const MAX_BLIND: u8 = 3;

/// What a new measurement means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As before.
    Same,
    /// Four fifths, or nineteen twentieths, are used: tell the owner.
    Nearly(String),
    /// The kernel refuses more.
    Kept(String),
    /// No more writes.
    Full(String),
    /// Writes again.
    Free,
    /// It goes on without writing: end it.
    Runaway(String),
}

impl Allowance {
    pub fn new(bytes: u64, inodes: u64, log: u64) -> Allowance {
        let limit = Usage { bytes, inodes };
        let log = log.saturating_mul(2);
        Allowance {
            limit,
            log,
            full: None,
            was_full: false,
            settling: 0,
            warned: 0,
            blind: 0,
            scarce: false,
            by_kernel: false,
        }
    }

    /// The kernel keeps the limit (`project`): nothing is stopped for what a grain takes, and what
    /// cannot be seen is counted all the same. A file system that runs full is another matter.
    pub fn kept_by_the_kernel(&mut self) {
        self.by_kernel = true;
    }

    pub fn is_kept_by_the_kernel(&self) -> bool {
        self.by_kernel
    }

    /// The grain was full when it last ran, so that nothing is written before it is measured.
    pub fn was_full(&mut self) {
        self.was_full = true;
    }

    /// Whether a full grain has grown too much since it took `least`.
    fn is_runaway(&self, least: Usage, usage: Usage) -> bool {
        let past = |used: u64, least: u64, limit: u64, more: u64, beyond: u64, little: u64| {
            let ceiling = limit.saturating_add(beyond.max(limit / 10));
            used > (least + more).min(ceiling).max(least + little)
        };
        let Usage { bytes, inodes } = self.limit;
        let little = LITTLE.bytes + self.log;
        past(usage.bytes, least.bytes, bytes, MORE.bytes.max(little), BEYOND.bytes, little)
            || past(usage.inodes, least.inodes, inodes, MORE.inodes, BEYOND.inodes, LITTLE.inodes)
    }

    /// Whether writes fail now.
    pub fn is_full(&self) -> bool {
        self.full.is_some() || self.was_full
    }

    fn percent(&self, usage: Usage) -> u64 {
        let of = |used: u64, limit: u64| used.saturating_mul(100) / limit.max(1);
        of(usage.bytes, self.limit.bytes).max(of(usage.inodes, self.limit.inodes))
    }

    fn words(&self, usage: Usage) -> String {
        let Usage { bytes, inodes } = self.limit;
        format!("{} of {} MiB, {} of {inodes} files", usage.bytes >> 20, bytes >> 20, usage.inodes)
    }

    /// Bytes that may still be taken.
    pub fn left(&self, usage: Usage) -> u64 {
        if self.by_kernel { u64::MAX } else { self.limit.bytes.saturating_sub(usage.bytes) }
    }

    /// `sees_all`: nothing was hidden from this measurement.
    pub fn judge(&mut self, usage: Usage, sees_all: bool, disk: Disk) -> Verdict {
        self.scarce = disk.space.is_scarce(if self.scarce { RELIEF } else { 0 });
        if self.scarce && disk.lost > BEYOND.bytes {
            return Verdict::Runaway(format!(
                "ended: the server's disk is nearly full, and while this grain ran {} MiB went \
                 that no file shows; deleted files that a program holds open are gone with it",
                disk.lost >> 20
            ));
        }
        self.blind = if sees_all { 0 } else { self.blind.saturating_add(1).min(MAX_BLIND) };
        let blind = !self.by_kernel && self.blind >= MAX_BLIND;
        let stopped = blind || self.scarce;
        let percent = if stopped { self.percent(usage).max(100) } else { self.percent(usage) };
        let levels = || [BRIM].into_iter().filter(|_| self.by_kernel).chain(WARNINGS);
        let level = levels().find(|(at, _)| percent >= *at).map_or(0, |(_, level)| level);
        let rested = levels().find(|(_, l)| *l == self.warned).map_or(0, |(at, _)| at);
        if let Some(least) = &mut self.full {
            least.bytes = least.bytes.min(usage.bytes);
            least.inodes = least.inodes.min(usage.inodes);
            if self.settling > 0 {
                self.settling -= 1;
                // Names are no writes: nobody has to be told to make no more.
                least.bytes = usage.bytes;
            }
            let least = *least;
            if percent < ROOM || self.by_kernel && !stopped {
                self.full = None;
                self.warned = level;
                return Verdict::Free;
            }
            if self.is_runaway(least, usage) {
                return Verdict::Runaway(format!(
                    "ended: it went on taking disk space past its limit ({}); start it and delete \
                     something, or have the limit raised",
                    self.words(usage)
                ));
            }
            return Verdict::Same;
        }
        // What was not all seen may be full still.
        let was_full = self.was_full && sees_all;
        let full = percent >= 100 || was_full && percent >= ROOM;
        if full && (stopped || !self.by_kernel) {
            self.full = Some(usage);
            self.settling = if std::mem::take(&mut self.was_full) { 0 } else { SETTLING };
            if self.scarce {
                return Verdict::Full(format!(
                    "the server's disk is nearly full: {} MiB are free, and {} MiB are kept back \
                     for the server itself, so writes fail until there is room",
                    disk.space.free >> 20,
                    disk.space.reserve >> 20
                ));
            }
            if blind {
                return Verdict::Full(
                    "what is in /var cannot be counted (folders are shut or nested too deep, or the \
                     server lacks what it needs to look): writes fail until it can be"
                        .into(),
                );
            }
            return Verdict::Full(format!(
                "the disk limit is reached ({}): writes fail until something is deleted",
                self.words(usage)
            ));
        }
        if was_full {
            self.was_full = false;
            self.warned = level;
            return Verdict::Free;
        }
        if level > self.warned {
            self.warned = level;
            let words = self.words(usage);
            if level == BRIM.1 {
                return Verdict::Kept(format!(
                    "the disk limit is reached ({words}): writes fail until something is deleted"
                ));
            }
            return Verdict::Nearly(format!("{percent} % of the disk limit are used ({words})"));
        }
        if level < self.warned && percent + REST < rested {
            self.warned = level;
        }
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use sandstorm_schema::limits::grain_reserve;

    use super::super::storage::Space;
    use super::*;

    const RESERVE: u64 = grain_reserve(1 << 40);
    const PLENTY: Disk = Disk { space: Space { free: 1 << 40, reserve: RESERVE }, lost: 0 };

    #[test]
    fn a_disk_without_room_stops_all_and_ends_who_may_hold_it() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        let mut at = |free: u64, lost: u64| {
            let space = Space { free: free << 20, reserve: RESERVE };
            allowance.judge(
                Usage { bytes: 1 << 20, inodes: 5 },
                true,
                Disk { space, lost: lost << 20 },
            )
        };
        assert_eq!(at(200, 1000), Verdict::Same, "there is room, whoever took the rest");
        let Verdict::Full(words) = at(127, 200) else { panic!("writes must fail") };
        assert!(words.contains("the server's disk"), "{words}");
        assert_eq!(at(140, 200), Verdict::Same, "some room between");
        assert_eq!(at(161, 200), Verdict::Free);
        let Verdict::Runaway(words) = at(100, 300) else { panic!("it must end") };
        assert!(words.contains("300 MiB"), "{words}");
    }

    #[test]
    fn the_allowance_warns_stops_and_lets_go() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| allowance.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
        assert_eq!(at(50, 10), Verdict::Same);
        assert!(matches!(at(81, 10), Verdict::Nearly(_)));
        assert_eq!(at(82, 10), Verdict::Same);
        assert!(matches!(at(95, 10), Verdict::Nearly(_)), "a second time");
        assert_eq!(at(96, 10), Verdict::Same);
        assert!(matches!(at(101, 10), Verdict::Full(_)));
        assert_eq!(at(99, 10), Verdict::Same, "some room between");
        assert_eq!(at(97, 10), Verdict::Free);
        assert!(matches!(at(10, 1000), Verdict::Full(_)));
        assert_eq!(at(10, 500), Verdict::Free);
        assert!(matches!(at(85, 10), Verdict::Nearly(_)), "warned again after a rest");
    }

    #[test]
    fn what_the_kernel_keeps_is_only_told() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        allowance.kept_by_the_kernel();
        let usage = |mib: u64| Usage { bytes: mib << 20, inodes: 10 };
        assert_eq!(allowance.left(usage(99)), u64::MAX, "no alarm for a neighbour's writes");
        let mut at = |mib: u64, sees| allowance.judge(usage(mib), sees, PLENTY);
        assert!(matches!(at(81, true), Verdict::Nearly(_)));
        assert!(matches!(at(100, true), Verdict::Kept(_)));
        assert_eq!(at(100, true), Verdict::Same, "told once");
        for _ in 0..5 {
            assert_eq!(at(100, false), Verdict::Same, "what is hidden is counted");
        }
        assert_eq!(at(50, true), Verdict::Same);
        assert!(matches!(at(99, true), Verdict::Kept(_)), "and again after a rest");
        assert!(!allowance.is_full());
        // The server's own disk is no affair of the allowance's.
        let scarce = Disk { space: Space { free: 0, reserve: RESERVE }, lost: 0 };
        assert!(matches!(allowance.judge(usage(99), true, scarce), Verdict::Full(_)));
        assert_eq!(allowance.judge(usage(99), true, PLENTY), Verdict::Free);
    }

    #[test]
    fn who_goes_on_when_writes_fail_is_ended() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| allowance.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
        assert!(matches!(at(10, 1200), Verdict::Full(_)));
        assert_eq!(at(10, 2900), Verdict::Same);
        assert!(matches!(at(10, 3300), Verdict::Runaway(_)));
        // Counted from the least there was since.
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| allowance.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
        assert!(matches!(at(400, 10), Verdict::Full(_)));
        // Not every process knows yet.
        assert_eq!(at(900, 10), Verdict::Same);
        assert_eq!(at(900, 10), Verdict::Same);
        assert_eq!(at(150, 10), Verdict::Same);
        assert!(matches!(at(215, 10), Verdict::Runaway(_)));
    }

    #[test]
    fn what_was_full_is_so_until_it_is_measured() {
        let at = |mib: u64| {
            let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
            allowance.was_full();
            let first = allowance.judge(Usage { bytes: mib << 20, inodes: 10 }, true, PLENTY);
            (
                first,
                allowance.judge(Usage { bytes: mib << 20, inodes: 10 }, true, PLENTY),
                allowance.is_full(),
            )
        };
        assert!(matches!(at(99), (Verdict::Full(_), Verdict::Same, true)));
        assert_eq!(at(97), (Verdict::Free, Verdict::Same, false));
        assert_eq!(at(1), (Verdict::Free, Verdict::Same, false));
    }

    #[test]
    fn what_was_full_is_not_let_go_by_a_look_that_failed() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        allowance.was_full();
        let usage = |mib: u64| Usage { bytes: mib << 20, inodes: 10 };
        assert_eq!(allowance.judge(usage(0), false, PLENTY), Verdict::Same);
        assert!(allowance.is_full());
        assert!(matches!(allowance.judge(usage(99), true, PLENTY), Verdict::Full(_)));
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        allowance.was_full();
        assert_eq!(allowance.judge(usage(0), false, PLENTY), Verdict::Same);
        assert_eq!(allowance.judge(usage(1), true, PLENTY), Verdict::Free);
        assert!(!allowance.is_full());
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        allowance.was_full();
        for _ in 1..MAX_BLIND {
            assert_eq!(allowance.judge(usage(0), false, PLENTY), Verdict::Same);
        }
        assert!(matches!(allowance.judge(usage(0), false, PLENTY), Verdict::Full(_)));
        assert_eq!(allowance.judge(usage(1), true, PLENTY), Verdict::Free);
        assert!(!allowance.is_full());
    }

    #[test]
    fn starting_again_and_again_leads_no_further_than_the_ceiling() {
        let mib = |n: u64| Usage { bytes: n << 20, inodes: 10 };
        let mut usage = mib(101);
        let mut starts = 0;
        // Each run takes a mebibyte at a time until it is ended.
        while usage.bytes < 400 << 20 && starts < 20 {
            starts += 1;
            let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
            allowance.was_full();
            assert!(matches!(allowance.judge(usage, true, PLENTY), Verdict::Full(_)), "{usage:?}");
            while !matches!(allowance.judge(usage, true, PLENTY), Verdict::Runaway(_)) {
                usage.bytes += 1 << 20;
            }
        }
        assert_eq!(starts, 20, "{usage:?}");
        assert!((356..=400).contains(&(usage.bytes >> 20)), "{usage:?}");
        // Who deletes is let be, from however far beyond.
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        assert!(matches!(allowance.judge(mib(700), true, PLENTY), Verdict::Full(_)));
        for n in (120..=700).rev().step_by(20) {
            assert_eq!(allowance.judge(mib(n), true, PLENTY), Verdict::Same);
        }
        assert_eq!(allowance.judge(mib(90), true, PLENTY), Verdict::Free);
        // Names alone, too.
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        allowance.was_full();
        let mut at = |inodes| allowance.judge(Usage { bytes: 0, inodes }, true, PLENTY);
        assert!(matches!(at(5000), Verdict::Full(_)));
        assert_eq!(at(5100), Verdict::Same);
        assert!(matches!(at(5101), Verdict::Runaway(_)));
    }

    #[test]
    fn the_blind_spot_counts_as_full_until_it_is_gone() {
        let mut allowance = Allowance::new(100 << 20, 1000, 128 << 10);
        let mut at = |sees| allowance.judge(Usage { bytes: 1 << 20, inodes: 5 }, sees, PLENTY);
        assert_eq!(at(false), Verdict::Same);
        assert_eq!(at(false), Verdict::Same);
        assert!(matches!(at(false), Verdict::Full(_)));
        assert_eq!(at(false), Verdict::Same);
        assert_eq!(at(true), Verdict::Free);
    }
}
