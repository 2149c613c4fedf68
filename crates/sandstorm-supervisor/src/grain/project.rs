//! Which files count towards a grain's disk quota: the project number of its data directory.
//!
//! The number is that directory's own (`privileged::quota::number`) and what is made below it inherits
//! it; the app cannot change it from its user namespace. A grain that was copied or restored has
//! another directory, and its files are numbered anew before it starts; the directory itself comes
//! last, so that a start that was killed is gone on with: what it has numbered is only looked at. Trust: names, modes and depth are the app's
//! or a backup's; no link is followed and no mount crossed. Runs without privilege.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::privileged::quota;
use crate::sys::fd;
use crate::sys::quota::{project, set_project};

/// Levels that are followed, with two descriptors each.
const MAX_DEPTH: usize = 200;

/// Sees to it that everything below `data` is counted under its number. `most` inodes are allowed:
/// what has far more is not numbered.
///
/// # Errors
/// When something cannot be numbered: it cannot be opened, is too deep, too much, or beyond the limit.
/// Then nothing is, as far as that can be had, since nothing may be renamed from one number to
/// another.
pub fn settle(data: BorrowedFd<'_>, most: u64) -> io::Result<()> {
    let number = quota::number(data)?;
    let top = open(data, c".")?;
    if project(top.as_fd())? == (number, true) {
        return Ok(());
    }
    let settled = renumber(top.as_fd(), number, most, project, set_project)
        .and_then(|()| set_project(top.as_fd(), number, true));
    if settled.is_err() {
        let _ = renumber(top.as_fd(), 0, u64::MAX, project, set_project);
        let _ = set_project(top.as_fd(), 0, false);
    }
    settled
}

fn open(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    // Without waiting: it may be a pipe by now.
    fd::open_in(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW)
}

/// Files and directories below `top`. Links, pipes and sockets, which take next to nothing, cannot
/// be opened and keep the number they have.
fn renumber(
    top: BorrowedFd<'_>,
    number: u32,
    most: u64,
    get: impl Fn(BorrowedFd<'_>) -> io::Result<(u32, bool)>,
    set: impl Fn(BorrowedFd<'_>, u32, bool) -> io::Result<()>,
) -> io::Result<()> {
    let own = rustix::fs::fstat(top)?;
    let enough = most.saturating_mul(2).saturating_add(10_000);
    let mut seen = 0;
    let mut stack = vec![Level::new(open(top, c".")?)?];
    loop {
        let depth = stack.len();
        let Some(level) = stack.last_mut() else { return Ok(()) };
        let Some(found) = level.entries.next() else {
            stack.pop();
            continue;
        };
        let name = found?.file_name().to_owned();
        if [c".", c".."].contains(&name.as_c_str()) {
            continue;
        }
        let dir = level.dir.as_fd();
        let entry = fd::open_in(dir, &name, OFlags::PATH | OFlags::NOFOLLOW)?;
        let stat = rustix::fs::fstat(&entry)?;
        let kind = stat.st_mode & libc::S_IFMT;
        if stat.st_dev != own.st_dev || ![libc::S_IFREG, libc::S_IFDIR].contains(&kind) {
            continue;
        }
        seen += 1;
        if seen > enough || depth >= MAX_DEPTH {
            return Err(Errno::TOOBIG.into());
        }
        let file = open(dir, &name)?;
        let directory = kind == libc::S_IFDIR;
        // Setting is a transaction of the file system each time; looking costs next to nothing.
        let wanted = (number, directory && number != 0);
        if get(file.as_fd())? != wanted {
            set(file.as_fd(), wanted.0, wanted.1)?;
        }
        if directory {
            stack.push(Level::new(file)?);
        }
    }
}

/// A directory that is being read.
struct Level {
    dir: OwnedFd,
    entries: nix::dir::OwningIter,
}

impl Level {
    fn new(dir: OwnedFd) -> io::Result<Level> {
        let entries = nix::dir::Dir::from_fd(dir.try_clone()?)?.into_iter();
        Ok(Level { dir, entries })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs no file system with quotas: what is set is only counted.
    fn numbered(data: &std::fs::File, most: u64) -> io::Result<usize> {
        let count = std::cell::Cell::new(0);
        let set = |_: BorrowedFd<'_>, _, _| {
            count.set(count.get() + 1);
            Ok(())
        };
        renumber(data.as_fd(), 7, most, |_| Ok((0, false)), set)?;
        Ok(count.get())
    }

    #[test]
    fn files_and_directories_are_numbered_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        std::fs::write(dir.path().join("below/file"), "x").unwrap();
        std::os::unix::fs::symlink("file", dir.path().join("below/link")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let data = std::fs::File::open(dir.path()).unwrap();
        assert_eq!(numbered(&data, 10).unwrap(), 2);
    }

    #[test]
    fn what_a_killed_start_has_numbered_is_not_numbered_again() {
        use std::cell::{Cell, RefCell};
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("below")).unwrap();
        for n in 0..8 {
            std::fs::write(dir.path().join(format!("below/{n}")), "").unwrap();
        }
        let data = std::fs::File::open(dir.path()).unwrap();
        let (numbers, left) = (RefCell::new(std::collections::HashMap::new()), Cell::new(4));
        let get = |file: BorrowedFd<'_>| {
            Ok(numbers.borrow().get(&fd::inode(file)?).copied().unwrap_or((0, false)))
        };
        let set = |file: BorrowedFd<'_>, number: u32, inherit: bool| {
            left.set(left.get() - 1);
            if left.get() < 0 {
                return Err(io::ErrorKind::Interrupted.into());
            }
            numbers.borrow_mut().insert(fd::inode(file)?, (number, inherit));
            Ok(())
        };
        let start = || renumber(data.as_fd(), 7, 100, get, set);
        assert!(start().is_err(), "killed after four of nine");
        left.set(5);
        start().unwrap();
        assert_eq!(numbers.borrow().len(), 9);
        let below = std::fs::File::open(dir.path().join("below")).unwrap();
        assert_eq!(get(below.as_fd()).unwrap(), (7, true));
        // One that has the number and does not hand it on is no more than begun.
        numbers.borrow_mut().insert(fd::inode(&below).unwrap(), (7, false));
        left.set(1);
        start().unwrap();
        assert_eq!(get(below.as_fd()).unwrap(), (7, true));
    }

    #[test]
    fn what_is_too_deep_or_too_much_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let data = std::fs::File::open(dir.path()).unwrap();
        let refused = |most| numbered(&data, most).unwrap_err().raw_os_error();
        for n in 0..10_100 {
            std::fs::write(dir.path().join(n.to_string()), "").unwrap();
        }
        assert_eq!(refused(10), Some(libc::E2BIG));
        assert_eq!(numbered(&data, 100).unwrap(), 10_100);
        let mut deep = dir.path().to_owned();
        for _ in 0..MAX_DEPTH + 10 {
            deep.push("d");
            std::fs::create_dir(&deep).unwrap();
        }
        assert_eq!(refused(100_000), Some(libc::E2BIG));
    }
}
