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
use std::time::{Duration, Instant};

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

/// How long to wait before walking again: a twentieth of the time at most goes into walking.
pub fn pause_after(walk: Duration) -> Duration {
    (walk * 20).clamp(Duration::from_secs(2), Duration::from_secs(120))
}

/// Walks again and again, telling `report` when the size has changed.
pub async fn watch(top: OwnedFd, mut report: impl AsyncFnMut(Usage)) {
    let mut last = None;
    loop {
        let started = Instant::now();
        if let Ok(usage) = measure(&top).await {
            if last != Some(usage) {
                last = Some(usage);
                report(usage).await;
            }
        }
        tokio::time::sleep(pause_after(started.elapsed())).await;
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
        std::fs::set_permissions(&shut, std::fs::Permissions::from_mode(0)).unwrap();
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
