//! `/dev` of a grain: null, zero, random, urandom, an empty `shm`, and nothing else.
//!
//! Trust: made before the package is looked at. Device nodes are real ones where we are root and
//! binds of the host's otherwise (mknod fails in a user namespace).
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::identity::AsRoot;
use crate::sys::{fd, mount};

/// Name inside, host's node, device number (major 1).
///
/// `random` is urandom: the app must never wait for entropy, and both are the same generator.
const NODES: &[(&CStr, &CStr, u32)] = &[
    (c"null", c"/dev/null", 3),
    (c"zero", c"/dev/zero", 5),
    (c"random", c"/dev/urandom", 9),
    (c"urandom", c"/dev/urandom", 9),
];

fn tmpfs(attributes: u64) -> io::Result<OwnedFd> {
    let dev =
        mount::tmpfs(&[(c"size", c"64k"), (c"nr_inodes", c"16"), (c"mode", c"0755")], attributes)?;
    fd::mkdirat(dev.as_fd(), c"shm", 0o755)?;
    Ok(dev)
}

/// As root, outside: a detached, read-only tree with real nodes.
///
/// # Errors
/// What the kernel answers.
pub fn make_nodes(_root: &AsRoot) -> io::Result<OwnedFd> {
    let dev = tmpfs(mount::NOSUID | mount::NOEXEC)?;
    for (name, _, minor) in NODES {
        fd::mknodat(dev.as_fd(), name, libc::S_IFCHR | 0o666, libc::makedev(1, *minor))?;
        // mknod obeys the umask.
        let node = fd::openat2(dev.as_fd(), name, libc::O_RDONLY, 0, fd::BENEATH)?;
        fd::chmod(node.as_fd(), 0o666)?;
    }
    mount::set_attributes(dev.as_fd(), mount::RDONLY, None)?;
    Ok(dev)
}

/// Inside, without root: a tree of empty files, still detached.
///
/// # Errors
/// What the kernel answers.
pub fn make_empty() -> io::Result<OwnedFd> {
    let dev = tmpfs(mount::NOSUID | mount::NOEXEC | mount::NODEV)?;
    for (name, _, _) in NODES {
        fd::mknodat(dev.as_fd(), name, libc::S_IFREG | 0o600, 0)?;
    }
    Ok(dev)
}

/// Inside, once `dev` is attached and the host's /dev still reachable: binds the host's nodes over
/// the empty files. A bind's own flags count, so the nodes work on a nodev mount.
///
/// # Errors
/// What the kernel answers.
pub fn bind_nodes(dev: BorrowedFd<'_>) -> io::Result<()> {
    for (name, host, _) in NODES {
        let source = fd::open(host, libc::O_PATH | libc::O_NOFOLLOW, 0)?;
        let node = mount::clone_tree(source.as_fd())?;
        mount::set_attributes(node.as_fd(), mount::RDONLY | mount::NOSUID | mount::NOEXEC, None)?;
        let target = fd::openat2(dev, name, libc::O_PATH | libc::O_NOFOLLOW, 0, fd::BENEATH)?;
        mount::attach(node.as_fd(), target.as_fd())?;
    }
    mount::set_attributes(dev, mount::RDONLY, None)
}
