//! From a started process to a served grain, and to its end.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt};
use sandstorm_schema::rpc::connect::{Trust, Vat};
use tokio::net::UnixStream;

use crate::app::{App, Ending, wait_for_port};
use crate::args::Run;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::http1::Upstream;
use crate::log;
use crate::rpc::{Bridge, ViewImpl};

/// Where the supervisor puts the grain's RPC socket.
const RPC_FD: RawFd = 3;
/// After the app's end, answers that it wrote before may still reach the shell.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// After the supervisor's end, how long the app may take to end by itself.
const LAST_CHANCE: Duration = Duration::from_secs(2);

/// Takes fd 3 and makes sure that the app does not inherit it.
///
/// # Errors
/// [`Error::NoRpcSocket`] when fd 3 is closed or no stream socket.
pub fn take_rpc_socket() -> Result<std::os::unix::net::UnixStream> {
    let fail = |e: nix::Error| Error::NoRpcSocket(e.desc().to_owned());
    // SAFETY: only borrowed for two calls that fail cleanly on a closed fd.
    let fd = unsafe { BorrowedFd::borrow_raw(RPC_FD) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(fail)?;
    getsockopt(&fd, sockopt::SockType).map_err(fail)?;
    // SAFETY: fd 3 is open (checked above), was handed to this process by its parent for this very
    // purpose, and nothing else in this program owns it: this is called once, before anything is
    // opened.
    let owned = unsafe { OwnedFd::from_raw_fd(RPC_FD) };
    let socket = std::os::unix::net::UnixStream::from(owned);
    socket
        .set_nonblocking(true)
        .map_err(|source| Error::System { step: "preparing fd 3", source })?;
    Ok(socket)
}

/// Starts the app and serves it until it or the supervisor ends. Returns the exit status.
///
/// # Errors
/// When the app cannot be started or does not accept connections in time.
pub fn run(run: &Run, config: Config, socket: std::os::unix::net::UnixStream) -> Result<i32> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::System { step: "starting the event loop", source })?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(run, config, socket))
}

async fn serve(run: &Run, config: Config, socket: std::os::unix::net::UnixStream) -> Result<i32> {
    let socket = UnixStream::from_std(socket)
        .map_err(|source| Error::System { step: "preparing fd 3", source })?;
    let app = App::start(&run.command)?;
    let upstream = Upstream::new(run.addr);
    let view = ViewImpl(Bridge::new(Rc::clone(&upstream), config)).client();
    // The supervisor is our better: it could do to us what it likes anyway, so no guard.
    let vat = Vat::spawn(socket, Side::Client, Some(view.client), Trust::Peer);
    let rpc = vat.closed();
    tokio::pin!(rpc);
    let ending = app.wait();
    tokio::pin!(ending);
    let ready = wait_for_port(&upstream, run.start_timeout);
    tokio::pin!(ready);
    let mut is_ready = false;
    loop {
        tokio::select! {
            ending = &mut ending => {
                let Ending { words, code } = ending?;
                log!("the app {words}");
                let _ = tokio::time::timeout(LAST_WORDS, &mut rpc).await;
                return Ok(code);
            }
            outcome = &mut ready, if !is_ready => match outcome {
                Ok(()) => is_ready = true,
                Err(error) => {
                    app.signal(Signal::SIGKILL);
                    return Err(error);
                }
            },
            _ = &mut rpc => {
                log!("the supervisor closed the connection; ending the app");
                app.signal(Signal::SIGTERM);
                if tokio::time::timeout(LAST_CHANCE, &mut ending).await.is_err() {
                    app.signal(Signal::SIGKILL);
                }
                return Ok(0);
            }
        }
    }
}
