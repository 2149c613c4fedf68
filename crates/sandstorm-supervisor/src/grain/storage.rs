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
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::time::Instant;

use super::life::Life;
use crate::sys::fd;

/// Entries looked at before others get their turn.
const BATCH: usize = 256;
/// Directories open at once, which bounds both descriptors and depth; deeper ones are counted as
/// themselves.
const MAX_DEPTH: usize = 200;
/// Files with several links that are remembered so as to count them once.
const MAX_REMEMBERED: usize = 100_000;

/// What a walk found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Allocated blocks, in bytes.
    pub bytes: u64,
    pub inodes: u64,
}

/// Walks the tree below `top` once.
///
/// # Errors
/// When `top` itself cannot be read.
pub async fn measure(top: &OwnedFd) -> io::Result<Usage> {
    let own = fd::stat(top.as_fd())?;
    let mut usage = Usage::default();
    let mut seen = HashSet::new();
    let mut stack = vec![open_dir(top, c".")?];
    let mut looked = 0;
    while let Some((dir, entries)) = stack.last_mut() {
        let Some(name) = entries.pop() else {
            stack.pop();
            continue;
        };
        looked += 1;
        if looked % BATCH == 0 {
            tokio::task::yield_now().await;
        }
        let Ok(entry) =
            fd::openat2(dir.as_fd(), &name, libc::O_PATH | libc::O_NOFOLLOW, 0, fd::BENEATH)
        else {
            continue;
        };
        let Ok(stat) = fd::stat(entry.as_fd()) else {
            continue;
        };
        if stat.st_dev != own.st_dev {
            continue;
        }
        let directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let linked = !directory && stat.st_nlink > 1;
        if linked && (seen.len() >= MAX_REMEMBERED || !seen.insert(stat.st_ino)) {
            continue;
        }
        usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        usage.inodes += 1;
        if directory && stack.len() < MAX_DEPTH {
            if let Ok(opened) = open_dir(&entry, c".") {
                stack.push(opened);
            }
        }
    }
    Ok(usage)
}

type OpenDir = (OwnedFd, Vec<CString>);

/// A directory and its names. The names of one directory are held at once.
fn open_dir(parent: &OwnedFd, name: &CStr) -> io::Result<OpenDir> {
    let dir = fd::openat2(
        parent.as_fd(),
        name,
        libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW,
        0,
        fd::BENEATH,
    )?;
    let names = nix::dir::Dir::from_fd(dir.try_clone()?)?
        .iter()
        .filter_map(|e| e.ok().map(|e| e.file_name().to_owned()))
        .filter(|name| ![c".", c".."].contains(&name.as_c_str()))
        .collect();
    Ok((dir, names))
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

/// Walks again and again, telling `report` every result, and whether it differs from the last.
/// `report` answers whether it waits for a change.
pub async fn watch(top: OwnedFd, life: &Life, mut report: impl AsyncFnMut(Usage, bool) -> bool) {
    let mut last = None;
    let mut pace = Pace { pause: SOON };
    loop {
        let started = Instant::now();
        let mut soon = false;
        if let Ok(usage) = measure(&top).await {
            let changed = last != Some(usage);
            last = Some(usage);
            soon = report(usage, changed).await || changed;
        }
        let walk = started.elapsed();
        let until = Instant::now() + pace.next(walk, soon);
        let free = fd::free_bytes(top.as_fd()).unwrap_or(0);
        let earliest = Instant::now() + walk * 9;
        while Instant::now() < until {
            let glance =
                if life.is_recent(Duration::from_secs(30)) { GLANCE } else { GLANCE_AT_REST };
            tokio::time::sleep(glance.min(until.saturating_duration_since(Instant::now()))).await;
            let now = fd::free_bytes(top.as_fd()).unwrap_or(0);
            if now + DROP < free && Instant::now() >= earliest {
                break;
            }
        }
    }
}

/// Whether the grain may write, by what it takes and what it may take; with some room between the
/// two answers, so that they do not alternate.
#[derive(Debug)]
pub struct Quota {
    bytes: u64,
    inodes: u64,
    full: bool,
    warned: bool,
}

/// What a new measurement means.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As before.
    Same,
    /// Nine tenths are used: tell the owner.
    Nearly(String),
    /// No more writes.
    Full(String),
    /// Writes again.
    Free,
}

impl Quota {
    pub fn new(bytes: u64, inodes: u64) -> Quota {
        Quota { bytes, inodes, full: false, warned: false }
    }

    /// Whether writes fail now.
    pub fn is_full(&self) -> bool {
        self.full
    }

    pub fn judge(&mut self, usage: Usage) -> Verdict {
        let above = |percent: u64| {
            usage.bytes / 100 >= self.bytes * percent / 10_000
                || usage.inodes * 100 >= self.inodes * percent
        };
        let words = || {
            format!(
                "{} of {} MiB and {} of {} files",
                usage.bytes >> 20,
                self.bytes >> 20,
                usage.inodes,
                self.inodes
            )
        };
        if !self.full && above(100) {
            self.full = true;
            self.warned = true;
            return Verdict::Full(format!(
                "the disk limit is reached ({}): writes fail until something is deleted",
                words()
            ));
        }
        if self.full && !above(98) {
            self.full = false;
            self.warned = above(85);
            return Verdict::Free;
        }
        if !self.full && !self.warned && above(90) {
            self.warned = true;
            return Verdict::Nearly(format!(
                "nine tenths of the disk limit are used ({})",
                words()
            ));
        }
        if self.warned && !above(85) {
            self.warned = false;
        }
        Verdict::Same
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        (dir, fd)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn blocks_are_counted_once_and_links_not_followed() {
        let (dir, fd) = tree();
        assert_eq!(measure(&fd).await.unwrap(), Usage::default());
        std::fs::write(dir.path().join("a"), vec![1; 100_000]).unwrap();
        let one = measure(&fd).await.unwrap();
        assert!((100_000..200_000).contains(&one.bytes), "{one:?}");
        assert_eq!(one.inodes, 1);
        std::fs::hard_link(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert_eq!(measure(&fd).await.unwrap().bytes, one.bytes);
        std::os::unix::fs::symlink("/usr", dir.path().join("c")).unwrap();
        let linked = measure(&fd).await.unwrap();
        assert_eq!(linked.inodes, 2);
        assert!(linked.bytes < one.bytes + 8192);
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/e"), vec![1; 50_000]).unwrap();
        assert!(measure(&fd).await.unwrap().bytes >= one.bytes + 50_000);
    }

    #[test]
    fn the_quota_warns_stops_and_lets_go() {
        let mut quota = Quota::new(100 << 20, 1000);
        let mut at = |mib: u64, inodes| quota.judge(Usage { bytes: mib << 20, inodes });
        assert_eq!(at(50, 10), Verdict::Same);
        assert!(matches!(at(91, 10), Verdict::Nearly(_)));
        assert_eq!(at(92, 10), Verdict::Same);
        assert!(matches!(at(101, 10), Verdict::Full(_)));
        assert_eq!(at(99, 10), Verdict::Same, "some room between");
        assert_eq!(at(97, 10), Verdict::Free);
        assert!(matches!(at(10, 1000), Verdict::Full(_)));
        assert_eq!(at(10, 500), Verdict::Free);
        assert!(matches!(at(95, 10), Verdict::Nearly(_)), "warned again after a rest");
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
        let usage = measure(&fd).await.unwrap();
        assert!(usage.inodes >= 200, "{usage:?}");
    }
}
