//! Files of the app's `/var/www`, served without starting the app.
//!
//! Trust: the tree is the app's. No link may lead out of `www`, which the kernel sees to
//! (`RESOLVE_BENEATH`); special files are not there.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::sys::fd;

/// What stands at a path.
#[derive(Debug)]
pub enum Found {
    /// An open regular file and its size in bytes.
    File(File, u64),
    Directory,
    Nothing,
}

/// Links inside `www` are followed, out of it never; magic links do not exist there.
const WITHIN: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

/// Looks up `path` (relative to `www` of the grain's data, leading slashes ignored).
///
/// # Errors
/// Only for trouble that is not the path's, such as too many open files.
pub fn find(data: &OwnedFd, path: &str) -> io::Result<Found> {
    let Ok(www) = fd::open_in(data, c"www", OFlags::PATH | OFlags::DIRECTORY) else {
        return Ok(Found::Nothing);
    };
    let relative = path.trim_start_matches('/');
    if relative.is_empty() {
        return Ok(Found::Directory);
    }
    let Ok(relative) = CString::new(relative) else {
        return Ok(Found::Nothing);
    };
    // Not blocking on a FIFO that the app put there.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = match openat2(&www, &relative, flags, Mode::empty(), WITHIN) {
        Ok(opened) => opened,
        Err(e @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(e.into()),
        Err(_) => return Ok(Found::Nothing),
    };
    let stat = rustix::fs::fstat(&opened)?;
    Ok(match stat.st_mode & libc::S_IFMT {
        libc::S_IFREG => Found::File(File::from(opened), u64::try_from(stat.st_size).unwrap_or(0)),
        libc::S_IFDIR => Found::Directory,
        _ => Found::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_outside_www_can_be_reached() {
        let dir = tempfile::tempdir().unwrap();
        let www = dir.path().join("sandbox/www");
        std::fs::create_dir_all(www.join("sub")).unwrap();
        std::fs::write(www.join("index.html"), b"hi").unwrap();
        std::fs::write(dir.path().join("sandbox/secret"), b"no").unwrap();
        symlink("index.html", www.join("inside")).unwrap();
        symlink("../secret", www.join("outside")).unwrap();
        symlink("/etc/passwd", www.join("absolute")).unwrap();
        nix::sys::stat::mknod(
            &www.join("fifo"),
            nix::sys::stat::SFlag::S_IFIFO,
            nix::sys::stat::Mode::S_IRUSR,
            0,
        )
        .unwrap();
        let data = OwnedFd::from(File::open(dir.path().join("sandbox")).unwrap());
        let is_file = |path| matches!(find(&data, path).unwrap(), Found::File(_, 2));
        assert!(is_file("index.html") && is_file("/index.html") && is_file("inside"));
        assert!(matches!(find(&data, "sub").unwrap(), Found::Directory));
        assert!(matches!(find(&data, "").unwrap(), Found::Directory));
        for path in ["outside", "absolute", "../secret", "sub/../../secret", "fifo", "nope", "a\0b"]
        {
            assert!(matches!(find(&data, path).unwrap(), Found::Nothing), "{path:?}");
        }
    }
}
