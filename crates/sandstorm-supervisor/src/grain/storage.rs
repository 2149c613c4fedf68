//! What a grain takes on disk: allocated blocks of everything below its directory.
//!
//! No inotify: instances are pooled by uid and 500 grains must fit. Instead the tree is walked, a
//! bounded number of entries at a time so that calls are not held up, and again after a pause that
//! grows with the tree. Trust: names, links, modes and depth below `sandbox/` are the app's. No
//! link is followed, no mount crossed, unreadable directories are counted as themselves. A grain's own
//! file system (`image`) is asked instead, at each glance.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use sandstorm_schema::limits::grain_reserve;
use tokio::time::Instant;

use super::allowance::MORE;
use super::image::Image;
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
    /// There is more that is not counted: too deep, too many to be named, or what could not be looked
    /// at for a reason that opening it up does not help (no descriptors or memory, a damaged disk).
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

    /// Why a name could not be looked at. Whether its directory is shut to us, which can be opened up.
    fn missed(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error() {
            Some(libc::EACCES) => return true,
            // Taken away meanwhile.
            Some(libc::ENOENT) => {}
            _ => self.hidden = true,
        }
        false
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
        let found = match level.entries.next() {
            Some(Ok(found)) => found,
            // An error of the file system ends this directory; the others are still counted.
            other => {
                walk.hidden |= other.is_some();
                stack.pop();
                continue;
            }
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
                if walk.missed(&e) {
                    // Its names can be read, and nothing more.
                    walk.shut(&stack, None);
                    stack.pop();
                }
                continue;
            }
        };
        let stat = match rustix::fs::fstat(&entry) {
            Ok(stat) => stat,
            Err(e) => {
                // Nothing is shut here: the entry is open.
                walk.hidden |= e != Errno::NOENT;
                continue;
            }
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
                Err(e) => {
                    if walk.missed(&e) {
                        walk.shut(&stack, Some(&name));
                    }
                }
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

/// Writes go on during a walk that takes no longer than the last one's so much.
const SHORT_WALK: Duration = Duration::from_millis(100);
/// How often what is needed for an alarm doubles.
const MAX_ALARMS: u32 = 5;

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
    pub(super) free: u64,
    /// Less than this and no grain may write, so that the server itself still can.
    pub(super) reserve: u64,
}

impl Space {
    fn of(top: &OwnedFd, image: Option<&Image>) -> Space {
        let Ok(all) = rustix::fs::fstatvfs(top) else { return Space::default() };
        let bytes = |blocks: u64| blocks.saturating_mul(all.f_frsize);
        let unwritten = image.map_or(0, Image::unwritten);
        Space {
            // What is left to a user who is not root.
            free: bytes(all.f_bavail).saturating_sub(unwritten),
            reserve: grain_reserve(bytes(all.f_blocks)),
        }
    }

    /// Nearly none is left. `more`: bytes that must be there beyond the reserve.
    pub(super) fn is_scarce(self, more: u64) -> bool {
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
/// `report`'s affair. `top` is the grain's directory, `image` its own file system, if it has one.
pub async fn watch(
    top: OwnedFd,
    image: Option<&Image>,
    life: &Life,
    most: u64,
    hold: impl Fn(),
    mut report: impl AsyncFnMut(&Walk, bool, Disk) -> Plan,
) {
    let mut last: Option<Usage> = None;
    let mut pace = Pace { pause: SOON };
    let mut first = None;
    let mut held = false;
    // Neighbours write too: each time that it was they, more is needed for the next alarm.
    let mut alarms = 0;
    loop {
        let started = Instant::now();
        let found = match image {
            Some(image) => image.usage().map(|usage| Walk { usage, ..Walk::default() }),
            None => measure(&top, most).await,
        };
        // One that failed has seen nothing, and says so.
        let (mut found, seen) = match found {
            Ok(found) => (found, true),
            Err(_) => (Walk { hidden: true, ..Walk::default() }, false),
        };
        if found.hidden || !found.shut.is_empty() {
            // What is not seen is still there: a full grain must not be let go for it, nor ended for
            // having grown when it is seen again.
            let least = last.unwrap_or_default();
            found.usage.bytes = found.usage.bytes.max(least.bytes);
            found.usage.inodes = found.usage.inodes.max(least.inodes);
        }
        let now = Space::of(&top, image);
        if seen {
            first.get_or_insert((now.free, found.usage.bytes));
        }
        let (free, bytes) = first.unwrap_or((now.free, found.usage.bytes));
        let lost = (free + bytes).saturating_sub(now.free + found.usage.bytes);
        // An image hides nothing: deleted files that are open are counted by its file system.
        let lost = if image.is_some() { 0 } else { lost };
        let changed = last != Some(found.usage);
        last = Some(found.usage);
        let mut plan = report(&found, changed, Disk { space: now, lost }).await;
        if changed && plan.next == Next::AsUsual {
            plan.next = Next::Soon;
        }
        if plan.next == Next::Never {
            return;
        }
        if std::mem::take(&mut held) {
            alarms = if plan.left == 0 { 0 } else { (alarms + 1).min(MAX_ALARMS) };
        }
        let walk = started.elapsed();
        let until = Instant::now() + pace.next(walk, plan.next == Next::Soon);
        let mut space = Space::of(&top, image);
        let earliest = Instant::now() + walk * 9;
        while Instant::now() < until {
            let glance =
                if life.is_recent(Duration::from_secs(30)) { GLANCE } else { GLANCE_AT_REST };
            tokio::time::sleep(glance.min(until.saturating_duration_since(Instant::now()))).await;
            if image.is_some_and(|image| image.usage().ok() != last) {
                break;
            }
            let now = Space::of(&top, image);
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
    pub(super) space: Space,
    /// Bytes that went since the grain runs and are in none of its files: others took them, or they
    /// are in deleted files that a program holds open. What others free counts against it.
    pub(super) lost: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::PermissionsExt;

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
        use rustix::process::{Uid, geteuid};
        use rustix::thread::set_thread_res_uid;
        let (dir, fd) = tree();
        for (name, mode) in [("none", 0o300), ("names", 0o400)] {
            let path = dir.path().join("a").join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::write(path.join("large"), vec![1; 100_000]).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        // Nothing is shut to root; the tree and this thread become somebody else's.
        let (root, nobody) = (geteuid().is_root(), Uid::from_raw(65_534));
        if root {
            for path in ["", "a", "a/none", "a/names"] {
                let path = dir.path().join(path);
                std::os::unix::fs::chown(path, Some(nobody.as_raw()), None).unwrap();
            }
            set_thread_res_uid(None, nobody, None).unwrap();
        }
        let walk = measure(&fd, 10_000).await;
        if root {
            set_thread_res_uid(None, Uid::ROOT, None).unwrap();
        }
        let mut walk = walk.unwrap();
        walk.shut.sort();
        assert_eq!(walk.shut, [b"a/names".to_vec(), b"a/none".to_vec()]);
    }

    /// Runs itself once more in a process of its own, which alone lacks descriptors.
    #[test]
    fn what_cannot_be_opened_for_lack_of_descriptors_is_hidden() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        const DIR: &str = "SANDSTORM_TEST_FEW_DESCRIPTORS";
        let Some(dir) = std::env::var_os(DIR) else {
            let (dir, _) = tree();
            std::fs::create_dir(dir.path().join("a")).unwrap();
            std::fs::write(dir.path().join("a/large"), vec![1; 100_000]).unwrap();
            let name =
                "grain::storage::tests::what_cannot_be_opened_for_lack_of_descriptors_is_hidden";
            let again = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env(DIR, dir.path())
                .status();
            assert!(again.unwrap().success());
            return;
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let top = OwnedFd::from(std::fs::File::open(dir).unwrap());
        let walk = || runtime.block_on(measure(&top, 10_000));
        let seen = walk().unwrap();
        assert!(!seen.hidden && seen.usage.inodes == 2, "{seen:?}");
        let lowest_free = i64::from(rustix::io::dup(&top).unwrap().as_raw_fd());
        let maximum = getrlimit(Resource::Nofile).maximum;
        // Two for the top, one for a look at the directory in it, two to open that.
        for more in 0..5 {
            let current = Some((lowest_free + more) as u64);
            setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
            match walk() {
                Err(_) => assert!(more < 2, "{more}"),
                Ok(walk) => assert!(walk.hidden && walk.shut.is_empty(), "{more}: {walk:?}"),
            }
        }
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        assert!(!walk().unwrap().hidden);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_top_that_cannot_be_read_is_reported_as_hidden() {
        // No directory, so it is as unreadable as one on a damaged disk.
        let file = OwnedFd::from(tempfile::tempfile().unwrap());
        let life = Life::new(Duration::from_secs(60));
        let told = std::cell::Cell::new(0);
        let watching = watch(
            file,
            None,
            &life,
            100,
            || {},
            async |walk, _, _| {
                assert!(walk.hidden && walk.usage == Usage::default());
                told.set(told.get() + 1);
                Plan { next: if told.get() < 3 { Next::Soon } else { Next::Never }, left: 0 }
            },
        );
        tokio::time::timeout(Duration::from_secs(60), watching).await.unwrap();
        assert_eq!(told.get(), 3);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn what_was_seen_and_is_hidden_now_still_counts() {
        let (dir, fd) = tree();
        // More than the directories take that hide it.
        std::fs::write(dir.path().join("large"), vec![1; 4 << 20]).unwrap();
        let mut deep = dir.path().to_owned();
        deep.extend(std::iter::repeat_n("d", MAX_DEPTH + 10));
        let life = Life::new(Duration::from_secs(60));
        let first = std::cell::Cell::new(None);
        watch(
            fd,
            None,
            &life,
            100_000,
            || {},
            async |walk, _, _| {
                let Some(first) = first.replace(Some(walk.usage)) else {
                    std::fs::create_dir_all(&deep).unwrap();
                    std::fs::rename(dir.path().join("large"), deep.join("large")).unwrap();
                    return Plan { next: Next::Soon, left: 0 };
                };
                assert!(walk.hidden);
                assert!(walk.usage.bytes >= first.bytes, "{walk:?} {first:?}");
                Plan { next: Next::Never, left: 0 }
            },
        )
        .await;
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
}
