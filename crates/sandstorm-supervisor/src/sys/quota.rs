//! Project quotas: the number that a file is counted under, and limits for a number.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::check;

/// What is made below a directory gets its number (`FS_XFLAG_PROJINHERIT`, include/uapi/linux/fs.h).
const INHERIT: u32 = 0x200;
/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` (the same file).
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
/// `PRJQUOTA`, `Q_SETQUOTA`, `QIF_LIMITS` (include/uapi/linux/quota.h); a block is 1 KiB there.
const PROJECT: u32 = 2;
const SET_QUOTA: u32 = 0x80_0008;
const BOTH_LIMITS: u32 = 5;
const BLOCK: u64 = 1024;
/// `Q_XGETQSTATV`, its structure's version, `FS_QUOTA_PDQ_ENFD` (include/uapi/linux/dqblk_xfs.h).
const GET_STATE: u32 = 0x5808;
const STATE_VERSION: u8 = 1;
const ENFORCED: u16 = 1 << 5;

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    reserved: [u8; 8],
}

/// The kernel's `struct if_dqblk`.
#[repr(C)]
#[derive(Default)]
struct Limits {
    most_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    most_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    times: [u64; 2],
    valid: u32,
}

/// The kernel's `struct fs_quota_statv`, as far as it is read, and room for the rest (160 bytes).
#[repr(C)]
struct State {
    version: u8,
    pad: u8,
    flags: u16,
    rest: [u32; 63],
}

/// The number of an open file, and whether what is made below it gets the same.
pub fn project(file: BorrowedFd<'_>) -> io::Result<(u32, bool)> {
    let attributes = attributes(file)?;
    Ok((attributes.project, attributes.flags & INHERIT != 0))
}

/// Sets it. Only a file's owner may, from the first user namespace.
pub fn set_project(file: BorrowedFd<'_>, number: u32, inherit: bool) -> io::Result<()> {
    let mut attributes = attributes(file)?;
    attributes.project = number;
    attributes.flags =
        if inherit { attributes.flags | INHERIT } else { attributes.flags & !INHERIT };
    // SAFETY: the request reads one `struct fsxattr`, which lives through the call.
    check(i64::from(unsafe {
        libc::ioctl(file.as_raw_fd(), SET_ATTRIBUTES as _, &raw const attributes)
    }))?;
    Ok(())
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the request fills one `struct fsxattr`, which lives through the call.
    check(i64::from(unsafe {
        libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES as _, &raw mut attributes)
    }))?;
    Ok(attributes)
}

/// Whether limits of project numbers are kept on the file system that holds `file`. Needs no right.
pub fn are_kept(file: BorrowedFd<'_>) -> bool {
    let mut state = State { version: STATE_VERSION, pad: 0, flags: 0, rest: [0; 63] };
    // SAFETY: the kernel fills at most 160 of the structure's 256 bytes.
    unsafe { control(file, GET_STATE, 0, (&raw mut state).cast()) }.is_ok()
        && state.flags & ENFORCED != 0
}

/// Sets the most that files of this number may take, in bytes (rounded up to KiB) and in inodes, on
/// the file system that holds `file`. Root's alone.
pub fn set_limits(file: BorrowedFd<'_>, number: u32, bytes: u64, inodes: u64) -> io::Result<()> {
    let mut limits = Limits {
        most_blocks: bytes.div_ceil(BLOCK),
        most_inodes: inodes,
        valid: BOTH_LIMITS,
        ..Limits::default()
    };
    // SAFETY: the kernel reads one `struct if_dqblk`, which lives through the call.
    unsafe { control(file, SET_QUOTA, number, (&raw mut limits).cast()) }
}

/// `quotactl_fd` for project quotas.
///
/// # Safety
/// `data` points to what `command` reads or fills.
unsafe fn control(
    file: BorrowedFd<'_>,
    command: u32,
    number: u32,
    data: *mut libc::c_void,
) -> io::Result<()> {
    let command = command << 8 | PROJECT;
    // SAFETY: by this function's contract; the others are numbers.
    check(unsafe {
        libc::syscall(libc::SYS_quotactl_fd, file.as_raw_fd(), command, number, data)
    })?;
    Ok(())
}
