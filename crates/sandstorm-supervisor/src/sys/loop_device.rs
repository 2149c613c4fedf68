//! A file as a block device: a loop device for it, and growing an ext4 that is mounted from one.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{check, fd};

/// `LOOP_CTL_GET_FREE`, `LOOP_CONFIGURE`, `LOOP_SET_CAPACITY` and flags (include/uapi/linux/loop.h).
const GET_FREE: libc::c_ulong = 0x4c82;
const CONFIGURE: libc::c_ulong = 0x4c0a;
const SET_CAPACITY: libc::c_ulong = 0x4c07;
/// The kernel lets go of the file when the last who uses the device does.
const AUTOCLEAR: u32 = 4;
/// Past the page cache of the file, which would hold everything twice; where the file's own file system
/// cannot do that the kernel leaves it out by itself.
const DIRECT_IO: u32 = 16;
/// `EXT4_IOC_RESIZE_FS` (include/uapi/linux/ext4.h).
const RESIZE: libc::c_ulong = 0x4008_6610;
/// Block size of device and file system, bytes.
pub const BLOCK: u64 = 4096;
/// Another start takes the free device that we were told of: try the next, so often at most.
const ATTEMPTS: u32 = 100;

/// The kernel's `struct loop_config`, with the `struct loop_info64` in it as far as it is set: between
/// and behind are names and fields that stay zero.
#[repr(C)]
struct Config {
    file: u32,
    block_size: u32,
    info: [u32; 13],
    flags: u32,
    rest: [u32; 60],
}

/// Size of the kernel's structure.
const _: () = assert!(size_of::<Config>() == 304);

/// A loop device for the file, and the path of its node. It lasts until the descriptor and every mount
/// are gone, and holds the file's open description, with any lock on it, as long.
pub fn attach(file: BorrowedFd<'_>) -> io::Result<(OwnedFd, CString)> {
    let control = fd::open(c"/dev/loop-control", OFlags::RDWR)?;
    for _ in 0..ATTEMPTS {
        // SAFETY: the request takes no argument.
        let number = check(i64::from(unsafe { libc::ioctl(control.as_raw_fd(), GET_FREE as _) }))?;
        let path = CString::new(format!("/dev/loop{number}"))?;
        let device = fd::open(&path, OFlags::RDWR)?;
        let config = Config {
            file: file.as_raw_fd() as u32,
            block_size: BLOCK as u32,
            info: [0; 13],
            flags: AUTOCLEAR | DIRECT_IO,
            rest: [0; 60],
        };
        // SAFETY: the request reads one `struct loop_config`, which lives through the call.
        let done = unsafe { libc::ioctl(device.as_raw_fd(), CONFIGURE as _, &raw const config) };
        match check(i64::from(done)) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            done => return done.map(|_| (device, path)),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

/// Tells the device that its file has another size.
pub fn take_size(device: impl AsFd) -> io::Result<()> {
    // SAFETY: the request takes no argument.
    check(i64::from(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), SET_CAPACITY as _, 0) }))?;
    Ok(())
}

/// Grows a mounted ext4, of which `top` is any open directory, to so many bytes. Needs
/// `CAP_SYS_RESOURCE`.
pub fn grow_ext4(top: impl AsFd, bytes: u64) -> io::Result<()> {
    let blocks = bytes / BLOCK;
    // SAFETY: the request reads one number, which lives through the call.
    check(i64::from(unsafe {
        libc::ioctl(top.as_fd().as_raw_fd(), RESIZE as _, &raw const blocks)
    }))?;
    Ok(())
}
