//! Root's part in the disk limit of a grain: the limits of one project number.
//!
//! Trust: the descriptor is a directory that the caller owns (the helper has looked). The number
//! follows from its inode, so a caller can set limits, below the compiled ceilings, for numbers of
//! directories of their own and for no other. Which files are counted under a number is settled
//! without privilege: see `grain::project`.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::{fd, quota};

/// First of our project numbers; far above those that people give out in /etc/projects. (That the
/// grains' uids begin at the same number means nothing.)
const FIRST: u64 = 0x6000_0000;

/// The project number of a grain's data directory: no two directories of a file system have the
/// same, and none is given again while its directory is there.
///
/// # Errors
/// `ERANGE` for an inode number that is too large (file systems other than ext4).
pub fn number(data: BorrowedFd<'_>) -> io::Result<u32> {
    // The largest number means "none" to the kernel.
    let number = fd::inode(data)?.checked_add(FIRST).and_then(|n| u32::try_from(n).ok());
    number.filter(|n| *n < u32::MAX).ok_or_else(|| io::Error::from_raw_os_error(libc::ERANGE))
}

/// Sets limits of bytes and inodes. Whether they are kept.
pub fn limit(data: BorrowedFd<'_>, (disk, inodes): (u64, u64)) -> bool {
    let set = |number| quota::set_limits(data, number, disk, inodes);
    quota::are_kept(data) && number(data).and_then(set).is_ok()
}
