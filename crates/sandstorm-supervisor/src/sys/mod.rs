//! System calls that no library offers us without `unsafe`, and those that are always made with the
//! same care (close-on-exec, beneath a directory, through no link). All `unsafe` of this program
//! stands below this module; what needs neither is called in `rustix` by whoever wants it.
//!
//! Trust: callers are our own code; arguments are fds, numbers and C strings that they own.
//! Functions return `io::Result` and know nothing of grains.

pub mod creds;
pub mod fd;
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
