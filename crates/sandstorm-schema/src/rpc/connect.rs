//! Opening a connection: sockets found through a directory's descriptor, and the two vats on them.

use crate::limits;
use capnp::capability::{Client, FromClientHook};
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem, twoparty};
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use futures::io::{BufReader, BufWriter};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

/// How far the process at the other end is trusted.
#[derive(Clone, Copy, Debug)]
pub enum Trust {
    /// Our equal or better: nothing is checked beyond the library's own rules.
    Peer,
    /// Less trusted than we are: every message is held against these limits.
    Hostile(GuardLimits),
}

/// What a less trusted peer may do on one connection.
#[derive(Clone, Copy, Debug)]
pub struct GuardLimits {
    /// Largest message, in words; claimed sizes are checked before memory is taken.
    pub message_words: usize,
}

impl Default for GuardLimits {
    fn default() -> Self {
        GuardLimits { message_words: limits::MESSAGE_WORDS }
    }
}

/// One end of a two-party connection, driven on the current `LocalSet`.
///
/// Dropping it leaves the connection open; it ends when the peer leaves or at
/// [`Vat::disconnect`].
pub struct Vat {
    peer: Box<dyn capnp::private::capability::ClientHook>,
    disconnector: Disconnector<Side>,
    closed: Shared<LocalBoxFuture<'static, Result<(), capnp::Error>>>,
}

impl Vat {
    /// Speaks RPC on `stream`; `bootstrap` is what the peer gets when it asks for our first object.
    ///
    /// Must be called inside a `LocalSet` on a current-thread runtime.
    pub fn spawn(stream: UnixStream, side: Side, bootstrap: Option<Client>, trust: Trust) -> Vat {
        let (read, write) = stream.into_split();
        let reader = BufReader::with_capacity(limits::BODY_CHUNK, read.compat());
        let writer = BufWriter::with_capacity(limits::BODY_CHUNK, write.compat_write());
        let mut options = ReaderOptions::new();
        options.nesting_limit(limits::NESTING);
        options.traversal_limit_in_words(Some(match trust {
            Trust::Peer => limits::TRAVERSAL_WORDS,
            Trust::Hostile(guard) => guard.message_words,
        }));
        let mut network = twoparty::VatNetwork::new(reader, writer, side, options);
        network.set_window_size(limits::BODY_WINDOW);
        let mut system = RpcSystem::new(Box::new(network), bootstrap);
        let other = match side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        let peer: Client = system.bootstrap(other);
        let disconnector = system.get_disconnector();
        // A panic in the RPC layer ends this task alone; whoever waits hears of it as an error.
        let task = tokio::task::spawn_local(system);
        let closed = async move {
            match task.await {
                Ok(result) => result,
                Err(_) => Err(super::error::disconnected("the connection broke down")),
            }
        };
        Vat { peer: peer.hook, disconnector, closed: closed.boxed_local().shared() }
    }

    /// The peer's first object. Calls on it wait until the peer has answered.
    pub fn bootstrap<C: FromClientHook>(&self) -> C {
        C::new(self.peer.add_ref())
    }

    /// Resolves when the connection has ended, however often it is asked.
    pub async fn closed(&self) -> Result<(), capnp::Error> {
        self.closed.clone().await
    }

    /// Ends the connection; calls on its objects fail as disconnected from then on.
    pub async fn disconnect(self) {
        // An error means that it was over already.
        let _ = self.disconnector.await;
    }
}

/// The address of `name` in the directory `dir`, short however deep the directory lies: a Unix
/// socket's address ends at 107 bytes.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<PathBuf> {
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file name"));
    }
    Ok(PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
}

/// Connects to the socket `name` in `dir`.
pub async fn connect_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixStream> {
    UnixStream::connect(address(dir, name)?).await
}

/// Listens at `name` in `dir`; a file of that name is an error (`AddrInUse`).
pub fn bind_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixListener> {
    UnixListener::bind(address(dir, name)?)
}
