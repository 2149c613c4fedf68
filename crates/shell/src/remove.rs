//! Removing trees that somebody else filled: grains' files, unpacked packages.
//!
//! Trust: names, modes, links and depth are an app's or a package's choice. So nothing is reached by
//! a path but the root: every step is one name below an open directory, no link is followed, a
//! directory without rights gets them, and depth is bounded by nothing (a path would end at 4,096
//! bytes, a recursion at the stack, a chain of descriptors at their limit).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Directories that are open at once; what lies deeper is first moved up to the root.
const DEPTH: usize = 32;

/// Removes a file, a link, or a tree whatever modes its directories have.
///
/// # Errors
/// The first entry that cannot be removed; what was removed before stays removed.
pub fn remove_all(root: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (root.parent(), root.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a root cannot be removed"));
    };
    let parent = std::fs::File::open(parent)?;
    let name = CString::new(name.as_bytes()).map_err(io::Error::other)?;
    if gone(unlinkat(&parent, name.as_c_str(), UnlinkatFlags::NoRemoveDir))? {
        return Ok(());
    }
    let dir = open_usable(parent.as_fd(), &name)?;
    empty(dir.as_fd(), dir.as_fd(), 0)?;
    Ok(unlinkat(&parent, name.as_c_str(), UnlinkatFlags::RemoveDir)?)
}

/// False when the name is a directory's.
fn gone(unlinked: nix::Result<()>) -> io::Result<bool> {
    match unlinked {
        Ok(()) => Ok(true),
        Err(Errno::EISDIR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens a directory below `dir` for listing, after giving its owner every right on it.
fn open_usable(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // Needs no right on the directory itself; and the mode is changed through the descriptor, since
    // the name may be another thing's by then.
    let found = openat(dir, name, flags | OFlag::O_PATH, Mode::empty())?;
    let own = format!("/proc/self/fd/{}", found.as_raw_fd());
    fchmodat(&found, own.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
    Ok(openat(&found, c".", flags | OFlag::O_RDONLY, Mode::empty())?)
}

/// Removes everything in `dir`, which lies `depth` directories below `root`.
fn empty(root: BorrowedFd<'_>, dir: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
    loop {
        // Listed afresh after each pass: entries move while others are removed, and subtrees that
        // were too deep arrive in the root.
        let mut listing = Dir::from_fd(openat(
            dir,
            c".",
            OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?)?;
        let mut removed = false;
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            removed = true;
            if gone(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir))? {
                continue;
            }
            let below = open_usable(dir, name)?;
            if depth + 1 < DEPTH {
                empty(root, below.as_fd(), depth + 1)?;
                unlinkat(dir, name, UnlinkatFlags::RemoveDir)?;
            } else {
                let fresh = format!("deep.{}", hex::encode(crate::store::random::<16>()));
                renameat(dir, name, root, fresh.as_str())?;
            }
        }
        if !removed {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn locked_directories_and_links_go_and_their_targets_stay() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "stays").unwrap();
        let tree = dir.path().join("tree");
        let deep = tree.join("a/b/c");
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "x").unwrap();
        symlink(outside.join("file"), deep.join("link")).unwrap();
        symlink(&outside, deep.join("dirlink")).unwrap();
        for (path, mode) in [(&deep, 0o0), (&tree.join("a/b"), 0o555), (&tree.join("a"), 0o300)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        // Root is stopped by no mode; the programs' tests run as an ordinary user.
        remove_all(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "stays");

        symlink(&outside, &tree).unwrap();
        remove_all(&tree).unwrap();
        assert!(fs::symlink_metadata(&tree).is_err() && outside.join("file").exists());
        assert_eq!(remove_all(&tree).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    /// Longer than any path can be, in more directories than descriptors are allowed.
    #[test]
    fn a_tree_deeper_than_a_path_is_long_goes_too() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut at: OwnedFd = fs::File::open(&tree).unwrap().into();
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        for _ in 0..3_000 {
            nix::sys::stat::mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            let file = openat(&at, "f", OFlag::O_CREAT | OFlag::O_WRONLY, Mode::empty()).unwrap();
            drop(file);
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        drop(at);
        remove_all(&tree).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
