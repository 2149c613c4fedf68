//! The mount calls by file descriptor (Linux 5.12 and newer), and pivot_root.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags,
};

use super::check;

#[cfg(feature = "unsafe-disable")]
pub const NONE: MountAttrFlags = MountAttrFlags::empty();
pub const RDONLY: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_RDONLY;
pub const NOSUID: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;
pub const NODEV: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NODEV;
pub const NOEXEC: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOEXEC;

/// Adds attributes to one mount and makes it private; with `userns` also that namespace's id map.
///
/// A copy of a shared mount, which all are where systemd started the machine, is shared with it: what
/// is mounted on it would appear outside, and it could not become the root.
pub fn set_attributes(
    mount: impl AsFd,
    attributes: MountAttrFlags,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    change(mount, attributes, userns, 0)
}

/// The same for a mount and all that are mounted on it.
pub fn set_attributes_below(mount: impl AsFd, attributes: MountAttrFlags) -> io::Result<()> {
    change(mount, attributes, None, libc::AT_RECURSIVE)
}

fn change(
    mount: impl AsFd,
    attributes: MountAttrFlags,
    userns: Option<BorrowedFd<'_>>,
    flags: i32,
) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: u64::from(attributes.bits()) | userns.map_or(0, |_| libc::MOUNT_ATTR_IDMAP),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: attr outlives the call and its exact size is passed; the path is constant.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    })?;
    Ok(())
}

/// A detached, private copy of the mount at `dir` (this directory and below, without other mounts on it), with
/// these attributes and, with `userns`, its id map.
pub fn copy(
    dir: impl AsFd,
    attributes: MountAttrFlags,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(dir, c"", flags)?;
    set_attributes(&tree, attributes, userns).map(|()| tree)
}

/// Mounts what is at a path of the host's, through no link at its end, onto a name in a directory of ours.
pub fn bind(host: &CStr, dir: impl AsFd, name: &CStr) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, host, flags)?;
    let by_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(rustix::mount::move_mount(tree, c"", dir, name, by_fd)?)
}

/// Makes every mount of this namespace private, so that nothing travels in or out.
pub fn make_all_private() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    Ok(rustix::mount::mount_change(c"/", private)?)
}

/// A detached fresh tmpfs with the given options and attributes.
pub fn tmpfs(options: &[(&CStr, &CStr)], attributes: MountAttrFlags) -> io::Result<OwnedFd> {
    fresh(c"tmpfs", options, attributes)
}

/// The same for a file system of any kind that needs no device.
pub fn fresh(
    kind: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&fs, *key, *value)?;
    }
    rustix::mount::fsconfig_create(&fs)?;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// A detached mount of the file system on a device, with these options, of which one without a value is a
/// flag. A second mount of the same device is of the same file system, whatever options it names.
pub fn of_device(
    kind: &CStr,
    device: &CStr,
    options: &[(&CStr, &CStr)],
    attributes: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&fs, c"source", device)?;
    for (key, value) in options {
        if value.is_empty() {
            rustix::mount::fsconfig_set_flag(&fs, *key)?;
        } else {
            rustix::mount::fsconfig_set_string(&fs, *key, *value)?;
        }
    }
    rustix::mount::fsconfig_create(&fs)?;
    Ok(rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Attaches a detached mount onto `target` (an O_PATH fd of a directory or a file).
pub fn attach(mount: impl AsFd, target: impl AsFd) -> io::Result<()> {
    let by_fd = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", by_fd)?)
}

/// Makes the working directory (a mount) the root and takes the old root out of the namespace.
pub fn pivot_to_working_directory() -> io::Result<()> {
    rustix::process::pivot_root(c".", c".")?;
    // The old root is now stacked on "."; the working directory still names the new one below it,
    // so this path resolves to the old.
    Ok(rustix::mount::unmount(c".", UnmountFlags::DETACH)?)
}
