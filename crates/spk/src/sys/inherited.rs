//! Descriptors that were open when this program started.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::error::{Error, Result};

/// Takes over a descriptor that the parent process gave us by its number. To be called once for
/// each number, before anything else is opened.
///
/// # Errors
/// It is not open.
pub fn inherited(number: RawFd) -> Result<OwnedFd> {
    let missing = |_| Error::Usage(format!("nothing is open as descriptor {number}"));
    // SAFETY: asked for its flags only, the descriptor need not be open; nothing is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_GETFD).map_err(missing)?;
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(missing)?;
    // SAFETY: the descriptor is open (asked above), and the caller promises that it came from the
    // parent: nothing else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` on. To be called before this process has opened any.
pub fn close_others(first: u32) {
    // SAFETY: by the contract of this function nothing in this process owns one of them. A kernel
    // without this call leaves them open, and the lock-down that follows keeps them useless.
    unsafe { nix::libc::syscall(nix::libc::SYS_close_range, first, u32::MAX, 0) };
}
