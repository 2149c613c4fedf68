//! `/dev` of a grain: null, zero, random, urandom, an empty `shm`, and nothing else.
//!
//! Trust: made before the package is looked at, inside, without root: the nodes are binds of the
//! host's (mknod fails in a user namespace).
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::FileType;

use crate::sys::mount;

/// Name inside, host's node.
///
/// `random` is urandom: the app must never wait for entropy, and both are the same generator.
const NODES: &[(&CStr, &CStr)] = &[
    (c"null", c"/dev/null"),
    (c"zero", c"/dev/zero"),
    (c"random", c"/dev/urandom"),
    (c"urandom", c"/dev/urandom"),
];

/// A tree of empty files, still detached.
///
/// # Errors
/// What the kernel answers.
pub fn make_empty() -> io::Result<OwnedFd> {
    let dev = mount::tmpfs(
        &[(c"size", c"64k"), (c"nr_inodes", c"16"), (c"mode", c"0755")],
        mount::NOSUID | mount::NOEXEC | mount::NODEV,
    )?;
    rustix::fs::mkdirat(&dev, c"shm", 0o755.into())?;
    for (name, _) in NODES {
        rustix::fs::mknodat(&dev, *name, FileType::RegularFile, 0o600.into(), 0)?;
    }
    Ok(dev)
}

/// Once `dev` is attached and the host's /dev still reachable: binds the host's nodes over
/// the empty files. A bind's own flags count, so the nodes work on a nodev mount.
///
/// # Errors
/// What the kernel answers.
pub fn bind_nodes(dev: BorrowedFd<'_>) -> io::Result<()> {
    for (name, host) in NODES {
        mount::bind(host, dev, name)?;
    }
    // All at once, while nobody else is here.
    mount::set_attributes_below(dev, mount::RDONLY | mount::NOSUID | mount::NOEXEC)
}
