//! What needs `unsafe`, which are fd 3 and watching a descriptor; and the processor's clock.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};

/// Where the supervisor puts the grain's RPC socket.
const RPC_FD: RawFd = 3;

/// Takes fd 3 and makes sure that the app does not inherit it. To be called once, before anything
/// else is opened.
///
/// # Errors
/// [`Error::NoRpcSocket`] when fd 3 is closed or no socket.
pub fn take_rpc_socket() -> Result<UnixStream> {
    let fail = |e: nix::Error| Error::NoRpcSocket(e.desc().to_owned());
    // SAFETY: only borrowed for two calls that fail cleanly on a closed fd.
    let fd = unsafe { BorrowedFd::borrow_raw(RPC_FD) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(fail)?;
    getsockopt(&fd, sockopt::SockType).map_err(fail)?;
    // SAFETY: fd 3 is open (checked above), was handed to this process by its parent for this very
    // purpose, and nothing else in this program owns it.
    let socket = UnixStream::from(unsafe { OwnedFd::from_raw_fd(RPC_FD) });
    socket
        .set_nonblocking(true)
        .map_err(|source| Error::System { step: "preparing fd 3", source })?;
    Ok(socket)
}

/// Watches a descriptor's readability in the current runtime.
///
/// # Errors
/// What epoll answers.
pub fn watch_readable(owner: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd's number stays open and the same for as long as the registration holds it.
    let registered = unsafe { AsyncFd::register_with_interest(owner, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// Processor time that this process has used.
pub fn processor_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}
