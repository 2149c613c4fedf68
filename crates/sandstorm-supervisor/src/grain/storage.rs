//! What a grain takes on disk: allocated blocks of everything below its directory.
//!
//! No inotify: instances are pooled by uid and 500 grains must fit. Instead the tree is walked, a
//! bounded number of entries at a time so that calls are not held up, and again after a pause that
//! grows with the tree. Trust: names, links, modes and depth below `sandbox/` are the app's. No
//! link is followed, no mount crossed, unreadable directories are counted as themselves.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::OFlags;
use sandstorm_schema::limits::grain_reserve;
use tokio::time::Instant;

use super::life::Life;
use crate::sys::fd;

/// Entries looked at before others get their turn.
const BATCH: usize = 256;
/// Levels that are followed, with two descriptors each. Below them nothing is known.
const MAX_DEPTH: usize = 200;
/// Files with several links that are remembered so as to count them once; of others each name
/// counts its share of the blocks.
const MAX_REMEMBERED: usize = 100_000;
/// Directories to be opened up that one walk names.
const MAX_SHUT: usize = 16;

/// What a walk found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated blocks, in bytes.
    pub bytes: u64,
    pub inodes: u64,
}

/// A walk's result.
#[derive(Debug, Default)]
pub struct Walk {
    pub usage: Usage,
    /// Directories that cannot be looked into, by their names from the top: what they hold is not
    /// counted. An app can make any of its own so.
    pub shut: Vec<Vec<u8>>,
    /// There is more that is not counted: too deep, or too many to be named.
    pub hidden: bool,
}

impl Walk {
    fn shut(&mut self, levels: &[Level], name: Option<&CStr>) {
        if self.shut.len() >= MAX_SHUT {
            self.hidden = true;
            return;
        }
        let names = levels.iter().skip(1).map(|level| level.name.as_c_str()).chain(name);
        let path = names.map(CStr::to_bytes).collect::<Vec<_>>().join(&b'/');
        if !self.shut.contains(&path) {
            self.shut.push(path);
        }
    }
}

/// Walks the tree below `top` once, and no further once far more than `most` inodes were seen.
///
/// # Errors
/// When `top` itself cannot be read.
pub async fn measure(top: &OwnedFd, most: u64) -> io::Result<Walk> {
    let own = rustix::fs::fstat(top)?;
    let mut walk = Walk::default();
    let mut seen = HashSet::new();
    let mut stack = vec![open_dir(top, CString::default())?];
    let mut looked = 0;
    let enough = most.saturating_mul(2).saturating_add(10_000);
    while let Some(level) = stack.last_mut() {
        // An error of the file system ends this directory; the others are still counted.
        let Some(Ok(found)) = level.entries.next() else {
            stack.pop();
            continue;
        };
        let name = found.file_name().to_owned();
        if [c".", c".."].contains(&name.as_c_str()) {
            continue;
        }
        looked += 1;
        if looked % BATCH == 0 {
            tokio::task::yield_now().await;
        }
        let opened = fd::open_in(&level.dir, &name, OFlags::PATH | OFlags::NOFOLLOW);
        let entry = match opened {
            Ok(entry) => entry,
            Err(e) => {
                if e.raw_os_error() == Some(libc::EACCES) {
                    // Its names can be read, and nothing more.
                    walk.shut(&stack, None);
                    stack.pop();
                }
                continue;
            }
        };
        let Ok(stat) = rustix::fs::fstat(&entry) else {
            continue;
        };
        if stat.st_dev != own.st_dev {
            continue;
        }
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let mut bytes = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if !directory && stat.st_nlink > 1 {
            if seen.len() >= MAX_REMEMBERED && !seen.contains(&stat.st_ino) {
                // 64 bits wide on x86_64, 32 on aarch64.
                #[allow(clippy::useless_conversion)]
                let links = u64::from(stat.st_nlink);
                bytes /= links.max(1);
            } else if !seen.insert(stat.st_ino) {
                continue;
            }
        }
        walk.usage.bytes += bytes;
        walk.usage.inodes += 1;
        if walk.usage.inodes > enough {
            break;
        }
        if directory {
            if stack.len() >= MAX_DEPTH {
                walk.hidden = true;
                continue;
            }
            match open_dir(&entry, name.clone()) {
                Ok(opened) => stack.push(opened),
                Err(_) => walk.shut(&stack, Some(&name)),
            }
        }
    }
    Ok(walk)
}

/// A directory that is being read, a few names at a time.
struct Level {
    name: CString,
    dir: OwnedFd,
    entries: nix::dir::OwningIter,
}

fn open_dir(at: &OwnedFd, name: CString) -> io::Result<Level> {
    let dir = fd::open_in(at, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let entries = nix::dir::Dir::from_fd(dir.try_clone()?)?.into_iter();
    Ok(Level { name, dir, entries })
}

/// When to walk again.
///
/// A walk costs in proportion to the tree, so at most a tenth of the time goes into walking. A tree
/// that changes is walked again soon, one that rests less and less often; while the grain is in use
/// the free space of its file system is looked at meanwhile, which costs nothing, and a drop brings
/// the next walk forward.
pub struct Pace {
    pause: Duration,
}

const SOON: Duration = Duration::from_millis(250);
const SELDOM: Duration = Duration::from_secs(60);
/// How often free space is looked at, for a grain in use and for one at rest.
const GLANCE: Duration = Duration::from_millis(250);
const GLANCE_AT_REST: Duration = Duration::from_secs(5);
/// Free bytes that may go without a walk.
const DROP: u64 = 8 << 20;

impl Pace {
    fn next(&mut self, walk: Duration, soon: bool) -> Duration {
        self.pause = if soon { SOON } else { (self.pause * 2).min(SELDOM) };
        self.pause = self.pause.max(walk * 9).min(Duration::from_secs(600));
        self.pause
    }
}

/// What a report makes of the next walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A change is waited for.
    Soon,
    AsUsual,
    Never,
}

/// Free space of the file system that all grains share.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Space {
    free: u64,
    /// Less than this and no grain may write, so that the server itself still can.
    reserve: u64,
}

/// Writes go on during a walk that takes no longer than the last one's so much.
const SHORT_WALK: Duration = Duration::from_millis(100);
/// How often what is needed for an alarm doubles.
const MAX_ALARMS: u32 = 5;
impl Space {
    fn of(top: &OwnedFd) -> Space {
        let Ok(all) = rustix::fs::fstatvfs(top) else { return Space::default() };
        let bytes = |blocks: u64| blocks.saturating_mul(all.f_frsize);
        // What is left to a user who is not root.
        Space { free: bytes(all.f_bavail), reserve: grain_reserve(bytes(all.f_blocks)) }
    }

    /// Nearly none is left. `more`: bytes that must be there beyond the reserve.
    fn is_scarce(self, more: u64) -> bool {
        self.free < self.reserve + more
    }
}

/// What a walk means for the next one.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub next: Next,
    /// Bytes that the grain may still take.
    pub left: u64,
}

/// Walks again and again, telling `report` every result, and whether it differs from the last;
/// until it wants no more. `most` inodes are allowed. `hold` stops writes at once, before a walk
/// that may take a while, when more space has gone than the grain may take: what it says then is
/// `report`'s affair.
pub async fn watch(
    top: OwnedFd,
    life: &Life,
    most: u64,
    hold: impl Fn(),
    mut report: impl AsyncFnMut(&Walk, bool, Disk) -> Plan,
) {
    let mut last = None;
    let mut pace = Pace { pause: SOON };
    let mut first = None;
    let mut held = false;
    // Neighbours write too: each time that it was they, more is needed for the next alarm.
    let mut alarms = 0;
    loop {
        let started = Instant::now();
        let mut plan = Plan { next: Next::AsUsual, left: u64::MAX };
        if let Ok(found) = measure(&top, most).await {
            let now = Space::of(&top);
            let (free, bytes) = *first.get_or_insert((now.free, found.usage.bytes));
            let lost = (free + bytes).saturating_sub(now.free + found.usage.bytes);
            let changed = last != Some(found.usage);
            last = Some(found.usage);
            plan = report(&found, changed, Disk { space: now, lost }).await;
            if changed && plan.next == Next::AsUsual {
                plan.next = Next::Soon;
            }
        }
        if plan.next == Next::Never {
            return;
        }
        if std::mem::take(&mut held) {
            alarms = if plan.left == 0 { 0 } else { (alarms + 1).min(MAX_ALARMS) };
        }
        let walk = started.elapsed();
        let until = Instant::now() + pace.next(walk, plan.next == Next::Soon);
        let mut space = Space::of(&top);
        let earliest = Instant::now() + walk * 9;
        while Instant::now() < until {
            let glance =
                if life.is_recent(Duration::from_secs(30)) { GLANCE } else { GLANCE_AT_REST };
            tokio::time::sleep(glance.min(until.saturating_duration_since(Instant::now()))).await;
            let now = Space::of(&top);
            // What others free must not hide what this grain takes.
            space.free = space.free.max(now.free);
            let gone = space.free.saturating_sub(now.free);
            let alarm = plan.left.saturating_add(MORE.bytes << alarms);
            if gone > DROP && (gone > alarm || now.is_scarce(0)) {
                // A short walk tells who it was before much more is gone.
                if walk > SHORT_WALK {
                    hold();
                    held = true;
                }
                break;
            }
            if gone > DROP && Instant::now() >= earliest {
                break;
            }
        }
    }
}

/// The file system at a walk.
#[derive(Debug, Clone, Copy, Default)]
pub struct Disk {
    space: Space,
    /// Bytes that went since the grain runs and are in none of its files: others took them, or they
    /// are in deleted files that a program holds open. What others free counts against it.
    lost: u64,
}

/// What a fuller grain is told: percent, and the level that this is.
const WARNINGS: [(u64, u8); 2] = [(95, 2), (80, 1)];
/// Where the kernel keeps the limit, so much is as full as it gets.
const BRIM: (u64, u8) = (99, 3);
/// Percent below which a warning may be given again, and writes are let go again.
const REST: u64 = 5;
const ROOM: u64 = 98;
/// Once writes fail, so much more and the grain is ended: some ways to take space are no writes
/// (empty files, directories, pages of a file that is mapped and has holes).
const MORE: Usage = Usage { bytes: 64 << 20, inodes: 2000 };
/// Beyond the limit by a tenth, or by so much where that is more, lies the ceiling: however often
/// it is started anew, a grain gets no further than it was, and
const BEYOND: Usage = Usage { bytes: 256 << 20, inodes: 2000 };
/// so little more, which an app may need to start and delete something; its log comes on top.
const LITTLE: Usage = Usage { bytes: 1 << 20, inodes: 100 };

/// Whether the grain may write, by what it takes and what it may take; with some room between the
/// two answers, so that they do not alternate.
#[derive(Debug)]
pub struct Quota {
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
    kept: bool,
}

/// Half a second and more.
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

impl Quota {
    pub fn new(bytes: u64, inodes: u64, log: u64) -> Quota {
        let limit = Usage { bytes, inodes };
        let log = log.saturating_mul(2);
        Quota {
            limit,
            log,
            full: None,
            was_full: false,
            settling: 0,
            warned: 0,
            blind: 0,
            scarce: false,
            kept: false,
        }
    }

    /// The kernel keeps the limit (`project`): nothing is stopped for what a grain takes, and what
    /// cannot be seen is counted all the same. A file system that runs full is another matter.
    pub fn kept_by_the_kernel(&mut self) {
        self.kept = true;
    }

    pub fn is_kept(&self) -> bool {
        self.kept
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
        self.full.is_some()
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
        if self.kept { u64::MAX } else { self.limit.bytes.saturating_sub(usage.bytes) }
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
        let blind = !self.kept && self.blind >= MAX_BLIND;
        let stopped = blind || self.scarce;
        let percent = if stopped { self.percent(usage).max(100) } else { self.percent(usage) };
        let levels = || [BRIM].into_iter().filter(|_| self.kept).chain(WARNINGS);
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
            if percent < ROOM || self.kept && !stopped {
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
        let was_full = std::mem::take(&mut self.was_full);
        let full = percent >= 100 || was_full && percent >= ROOM;
        if full && (stopped || !self.kept) {
            self.full = Some(usage);
            self.settling = if was_full { 0 } else { SETTLING };
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
                    "folders in /var cannot be looked into, or are nested too deep: writes fail \
                     until they can be counted"
                        .into(),
                );
            }
            return Verdict::Full(format!(
                "the disk limit is reached ({}): writes fail until something is deleted",
                self.words(usage)
            ));
        }
        if was_full {
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
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const RESERVE: u64 = grain_reserve(1 << 40);
    const PLENTY: Disk = Disk { space: Space { free: 1 << 40, reserve: RESERVE }, lost: 0 };

    #[test]
    fn a_disk_without_room_stops_all_and_ends_who_may_hold_it() {
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        let mut at = |free: u64, lost: u64| {
            let space = Space { free: free << 20, reserve: RESERVE };
            quota.judge(Usage { bytes: 1 << 20, inodes: 5 }, true, Disk { space, lost: lost << 20 })
        };
        assert_eq!(at(200, 1000), Verdict::Same, "there is room, whoever took the rest");
        let Verdict::Full(words) = at(127, 200) else { panic!("writes must fail") };
        assert!(words.contains("the server's disk"), "{words}");
        assert_eq!(at(140, 200), Verdict::Same, "some room between");
        assert_eq!(at(161, 200), Verdict::Free);
        let Verdict::Runaway(words) = at(100, 300) else { panic!("it must end") };
        assert!(words.contains("300 MiB"), "{words}");
    }

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        (dir, fd)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn blocks_are_counted_once_and_links_not_followed() {
        let (dir, fd) = tree();
        assert_eq!(measure(&fd, 10_000).await.unwrap().usage, Usage::default());
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let one = measure(&fd, 10_000).await.unwrap().usage;
        assert!((100_000..200_000).contains(&one.bytes), "{one:?}");
        assert_eq!(one.inodes, 1);
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(measure(&fd, 10_000).await.unwrap().usage.bytes, one.bytes);
        std::os::unix::fs::symlink("/usr", dir.path().join("c")).unwrap();
        let linked = measure(&fd, 10_000).await.unwrap().usage;
        assert_eq!(linked.inodes, 2);
        assert!(linked.bytes < one.bytes + 8192);
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/e"), vec![1; 50_000]).unwrap();
        assert!(measure(&fd, 10_000).await.unwrap().usage.bytes >= one.bytes + 50_000);
    }

    #[test]
    fn the_quota_warns_stops_and_lets_go() {
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| quota.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
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
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        quota.kept_by_the_kernel();
        let usage = |mib: u64| Usage { bytes: mib << 20, inodes: 10 };
        assert_eq!(quota.left(usage(99)), u64::MAX, "no alarm for a neighbour's writes");
        let mut at = |mib: u64, sees| quota.judge(usage(mib), sees, PLENTY);
        assert!(matches!(at(81, true), Verdict::Nearly(_)));
        assert!(matches!(at(100, true), Verdict::Kept(_)));
        assert_eq!(at(100, true), Verdict::Same, "told once");
        for _ in 0..5 {
            assert_eq!(at(100, false), Verdict::Same, "what is hidden is counted");
        }
        assert_eq!(at(50, true), Verdict::Same);
        assert!(matches!(at(99, true), Verdict::Kept(_)), "and again after a rest");
        assert!(!quota.is_full());
        // The server's own disk is no affair of the quota's.
        let scarce = Disk { space: Space { free: 0, reserve: RESERVE }, lost: 0 };
        assert!(matches!(quota.judge(usage(99), true, scarce), Verdict::Full(_)));
        assert_eq!(quota.judge(usage(99), true, PLENTY), Verdict::Free);
    }

    #[test]
    fn who_goes_on_when_writes_fail_is_ended() {
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| quota.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
        assert!(matches!(at(10, 1200), Verdict::Full(_)));
        assert_eq!(at(10, 2900), Verdict::Same);
        assert!(matches!(at(10, 3300), Verdict::Runaway(_)));
        // Counted from the least there was since.
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        let mut at =
            |mib: u64, inodes| quota.judge(Usage { bytes: mib << 20, inodes }, true, PLENTY);
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
            let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
            quota.was_full();
            let first = quota.judge(Usage { bytes: mib << 20, inodes: 10 }, true, PLENTY);
            (
                first,
                quota.judge(Usage { bytes: mib << 20, inodes: 10 }, true, PLENTY),
                quota.is_full(),
            )
        };
        assert!(matches!(at(99), (Verdict::Full(_), Verdict::Same, true)));
        assert_eq!(at(97), (Verdict::Free, Verdict::Same, false));
        assert_eq!(at(1), (Verdict::Free, Verdict::Same, false));
    }

    #[test]
    fn starting_again_and_again_leads_no_further_than_the_ceiling() {
        let mib = |n: u64| Usage { bytes: n << 20, inodes: 10 };
        let mut usage = mib(101);
        let mut starts = 0;
        // Each run takes a mebibyte at a time until it is ended.
        while usage.bytes < 400 << 20 && starts < 20 {
            starts += 1;
            let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
            quota.was_full();
            assert!(matches!(quota.judge(usage, true, PLENTY), Verdict::Full(_)), "{usage:?}");
            while !matches!(quota.judge(usage, true, PLENTY), Verdict::Runaway(_)) {
                usage.bytes += 1 << 20;
            }
        }
        assert_eq!(starts, 20, "{usage:?}");
        assert!((356..=400).contains(&(usage.bytes >> 20)), "{usage:?}");
        // Who deletes is let be, from however far beyond.
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        assert!(matches!(quota.judge(mib(700), true, PLENTY), Verdict::Full(_)));
        for n in (120..=700).rev().step_by(20) {
            assert_eq!(quota.judge(mib(n), true, PLENTY), Verdict::Same);
        }
        assert_eq!(quota.judge(mib(90), true, PLENTY), Verdict::Free);
        // Names alone, too.
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        quota.was_full();
        let mut at = |inodes| quota.judge(Usage { bytes: 0, inodes }, true, PLENTY);
        assert!(matches!(at(5000), Verdict::Full(_)));
        assert_eq!(at(5100), Verdict::Same);
        assert!(matches!(at(5101), Verdict::Runaway(_)));
    }

    #[test]
    fn a_resting_tree_is_walked_seldom_and_a_large_one_not_all_the_time() {
        let mut pace = Pace { pause: SOON };
        let walk = Duration::from_millis(1);
        assert_eq!(pace.next(walk, true), SOON);
        for _ in 0..20 {
            pace.next(walk, false);
        }
        assert_eq!(pace.next(walk, false), SELDOM);
        assert!(pace.next(Duration::from_secs(10), true) >= Duration::from_secs(90));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn odd_trees_do_not_stop_the_walk() {
        let (dir, fd) = tree();
        let mut deep = dir.path().to_owned();
        for _ in 0..300 {
            deep.push("d");
            std::fs::create_dir(&deep).unwrap();
        }
        let shut = dir.path().join("shut");
        std::fs::create_dir(&shut).unwrap();
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0o000)).unwrap();
        nix::sys::stat::mknod(
            &dir.path().join("fifo"),
            nix::sys::stat::SFlag::S_IFIFO,
            nix::sys::stat::Mode::S_IRUSR,
            0,
        )
        .unwrap();
        let walk = measure(&fd, 10_000).await.unwrap();
        assert!(walk.usage.inodes >= 200, "{walk:?}");
        assert!(walk.hidden, "too deep is not nothing");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_cannot_be_looked_into_is_named() {
        if nix::unistd::geteuid().is_root() {
            // Nothing is shut to root: the same is tried with a real grain in the tests of hogs.
            return;
        }
        let (dir, fd) = tree();
        for (name, mode) in [("none", 0o300), ("names", 0o400)] {
            let path = dir.path().join("a").join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("large"), vec![1; 100_000]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut walk = measure(&fd, 10_000).await.unwrap();
        walk.shut.sort();
        assert_eq!(walk.shut, [b"a/names".to_vec(), b"a/none".to_vec()]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_walk_ends_when_it_has_seen_far_too_much() {
        let (dir, fd) = tree();
        for n in 0..10_100 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        let walk = measure(&fd, 10).await.unwrap();
        assert!((10_021..10_050).contains(&walk.usage.inodes), "{:?}", walk.usage);
    }

    #[test]
    fn the_blind_spot_counts_as_full_until_it_is_gone() {
        let mut quota = Quota::new(100 << 20, 1000, 128 << 10);
        let mut at = |sees| quota.judge(Usage { bytes: 1 << 20, inodes: 5 }, sees, PLENTY);
        assert_eq!(at(false), Verdict::Same);
        assert_eq!(at(false), Verdict::Same);
        assert!(matches!(at(false), Verdict::Full(_)));
        assert_eq!(at(false), Verdict::Same);
        assert_eq!(at(true), Verdict::Free);
    }
}
