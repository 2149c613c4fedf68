//! System calls that no library offers us without `unsafe`, those that are always made with the same
//! care (close-on-exec, beneath a directory, through no link), and groups of them that are one step
//! (drop, mount, limit). All `unsafe` blocks of this program are here. Any other call is made where it
//! is needed, by rustix; by nix what that lacks (signals and their descriptor, execve, unshare).
//!
//! Trust: callers are our own code; arguments are fds, numbers and C strings that they own.

pub mod creds;
pub mod fd;
pub mod loop_device;
pub mod mount;
pub mod net;
pub mod process;
pub mod quota;
pub mod signal;

use std::io;

/// Turns the -1 convention into a result.
pub(crate) fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
