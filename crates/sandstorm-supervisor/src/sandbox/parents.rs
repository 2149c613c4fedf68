//! Where control groups can be made: the caller's own group of each hierarchy, found and opened with the
//! caller's own rights.
//!
//! Trust: the fixed tree below /sys/fs/cgroup, checked to be control group file systems; names of groups are
//! the kernel's and opened beneath it.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;

use super::share::CONTROLLERS;
use crate::sys::fd;

/// Open directories (`O_PATH`) in which groups can be made.
#[derive(Debug)]
pub struct Parents {
    /// Top of version 2's hierarchy.
    pub unified: Option<OwnedFd>,
    /// The part of it that was delegated to the caller.
    pub delegated: Option<OwnedFd>,
    /// The caller's own version 1 group of each of `CONTROLLERS`. Not its hierarchy's top: there the caller's
    /// own limits would not count.
    pub alone: [Option<OwnedFd>; 3],
}

impl Parents {
    /// Never fails: what cannot be had is not there.
    pub fn find() -> Parents {
        // A group may have any name; one that is no text matches no path, and that controller is left out.
        let own = std::fs::read("/proc/self/cgroup").unwrap_or_default();
        let own = String::from_utf8_lossy(&own);
        let unified = hierarchy("/sys/fs/cgroup", libc::CGROUP2_SUPER_MAGIC)
            .or_else(|| hierarchy("/sys/fs/cgroup/unified", libc::CGROUP2_SUPER_MAGIC));
        // Delegation as a service manager does it: the server has moved itself into `main`, so its
        // parent has no processes and may hand controllers to our groups beside it.
        let delegated = unified.as_ref().and_then(|top| {
            let path = path_in(&own, "")?.strip_suffix("/main")?;
            beneath(top.as_fd(), path).ok()
        });
        let alone = CONTROLLERS.map(|controller| {
            let top = hierarchy(&format!("/sys/fs/cgroup/{controller}"), libc::CGROUP_SUPER_MAGIC)?;
            beneath(top.as_fd(), path_in(&own, controller)?).ok()
        });
        Parents { unified, delegated, alone }
    }
}

/// The path of our own group in the hierarchy of a controller, from /proc/self/cgroup.
fn path_in<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|c| c == controller).then_some(path)
    })
}

fn hierarchy(path: &str, magic: i64) -> Option<OwnedFd> {
    let path = CString::new(path).ok()?;
    let dir = fd::open(&path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    (rustix::fs::fstatfs(&dir).ok()?.f_type == magic).then_some(dir)
}

/// A directory of a hierarchy by the path that the kernel told; one outside our control group
/// namespace (`/..`) leads out and is refused.
fn beneath(top: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let relative = CString::new(format!("./{}", path.trim_start_matches('/')))?;
    fd::open_in(top, &relative, OFlags::PATH | OFlags::DIRECTORY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text = "4:memory:/user/box\n1:cpu,cpuacct:/\n0::/system.slice/shell.service/main\n\
                    7:pids:/../outside\nnonsense\n";
        assert_eq!(path_in(text, ""), Some("/system.slice/shell.service/main"));
        assert_eq!(path_in(text, "cpu"), Some("/"));
        assert_eq!(path_in(text, "memory"), Some("/user/box"));
        assert_eq!(path_in(text, "blkio"), None);
        let tmp = fd::open(c"/tmp", OFlags::PATH | OFlags::DIRECTORY).unwrap();
        assert!(beneath(tmp.as_fd(), "/../etc").is_err());
    }
}
