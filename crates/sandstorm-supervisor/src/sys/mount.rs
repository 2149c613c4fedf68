//! The mount calls by file descriptor (Linux 5.12 and newer), and pivot_root.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;
use crate::layers::{Layer, off};

pub const RDONLY: u64 = libc::MOUNT_ATTR_RDONLY;
pub const NOSUID: u64 = libc::MOUNT_ATTR_NOSUID;
pub const NODEV: u64 = libc::MOUNT_ATTR_NODEV;
pub const NOEXEC: u64 = libc::MOUNT_ATTR_NOEXEC;
const IDMAP: u64 = libc::MOUNT_ATTR_IDMAP;

const OPEN_TREE_CLONE: u32 = 1;
const OPEN_TREE_CLOEXEC: u32 = libc::O_CLOEXEC as u32;
const FSOPEN_CLOEXEC: u32 = 1;
const FSMOUNT_CLOEXEC: u32 = 1;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
const MOVE_MOUNT_T_EMPTY_PATH: u32 = 0x40;

/// `struct mount_attr` (include/uapi/linux/mount.h).
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

/// Of everything that the app can write.
pub fn data_flags() -> u64 {
    if off(Layer::MountFlags) { 0 } else { NOSUID | NODEV }
}

/// Of the package.
pub fn package_flags() -> u64 {
    data_flags() | if off(Layer::ReadOnly) { 0 } else { RDONLY }
}

fn owned(raw: i64) -> OwnedFd {
    // SAFETY: only called with the fresh, non-negative result of a call that returns a new fd.
    unsafe { OwnedFd::from_raw_fd(raw as RawFd) }
}

/// A detached copy of the mount at `dir` (this directory and below, without other mounts on it).
pub fn clone_tree(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    open_tree(dir, c"")
}

/// The same, of a path.
pub fn open_tree(dir: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as u32;
    // SAFETY: path is NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags) })
        .map(owned)
}

/// Adds attributes to one mount and makes it private; with `userns` also that namespace's id map.
///
/// A copy of a shared mount, which all are where systemd started the machine, is shared with it: what
/// is mounted on it would appear outside, and it could not become the root.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: u64,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let attr = MountAttr {
        set: attributes | if userns.is_some() { IDMAP } else { 0 },
        clear: 0,
        propagation: libc::MS_PRIVATE,
        userns: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: attr outlives the call and its exact size is passed; the path is constant.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Makes every mount of this namespace private, so that nothing travels in or out.
pub fn make_all_private() -> io::Result<()> {
    // SAFETY: constant target; the other pointers may be null for a change of propagation.
    check(i64::from(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    }))?;
    Ok(())
}

/// A detached fresh tmpfs with the given options and attributes.
pub fn tmpfs(options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<OwnedFd> {
    fresh(c"tmpfs", options, attributes)
}

/// The same for a file system of any kind that needs no device.
pub fn fresh(kind: &CStr, options: &[(&CStr, &CStr)], attributes: u64) -> io::Result<OwnedFd> {
    // SAFETY: the name is NUL-terminated.
    let fs = check(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) })
        .map(owned)?;
    for (key, value) in options {
        // SAFETY: both strings are NUL-terminated and outlive the call.
        check(unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                fs.as_raw_fd(),
                FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        })?;
    }
    // SAFETY: the create command takes no pointers.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            FSCONFIG_CMD_CREATE,
            std::ptr::null::<u8>(),
            std::ptr::null::<u8>(),
            0,
        )
    })?;
    // SAFETY: no pointers.
    check(unsafe {
        libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), FSMOUNT_CLOEXEC, attributes as u32)
    })
    .map(owned)
}

/// Attaches a detached mount onto `target` (an O_PATH fd of a directory or a file).
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both paths are constant and empty.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH,
        )
    })?;
    Ok(())
}

/// Makes the working directory (a mount) the root and takes the old root out of the namespace.
pub fn pivot_to_working_directory() -> io::Result<()> {
    // SAFETY: constant paths.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) })?;
    // The old root is now stacked on "."; the working directory still names the new one below it,
    // so this path resolves to the old.
    // SAFETY: constant path.
    check(i64::from(unsafe { libc::umount2(c".".as_ptr(), libc::MNT_DETACH) }))?;
    Ok(())
}
