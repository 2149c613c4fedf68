//! One two-party connection, and Unix sockets that are reached through a directory's fd.
//!
//! Trust: decided by the caller with [`Trust`]. Towards a less trusted process (supervisor
//! towards app; shell towards supervisor, unpacker and sub-commands) it must be
//! [`Trust::Hostile`]; the other end of the same connection must be [`Trust::Peer`], because two
//! ends that both stop reading when their queues are full wait for each other for ever.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use capnp::capability::{Client, FromClientHook};
use capnp::private::capability::ClientHook;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{Disconnector, RpcSystem};
use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{LocalBoxFuture, Shared};
use tokio::net::{UnixListener, UnixStream};

use super::error::{self, disconnected};
use super::guard::Guard;
pub use super::guard::{Budget, GuardLimits, GuardStats};
use super::link::{self, Link};

/// How far the process at the other end is trusted.
#[derive(Clone, Copy, Debug)]
pub enum Trust {
    /// Our equal or better: one message of it may end us.
    Peer,
    /// Less trusted than we are: every message is held against these limits.
    Hostile(GuardLimits),
}

/// Longest wait for a peer to take our last messages. (The queue itself gives up before.)
const DISCONNECT: Duration = Duration::from_secs(5);

/// One connection to another process. A clone is another handle on the same connection.
///
/// Dropping handles does not end the connection: it runs until the peer leaves, breaks a rule, or
/// [`Vat::disconnect`] is called. A panic inside of it ends it alone.
#[derive(Clone)]
pub struct Vat {
    inner: Rc<Inner>,
}

struct Inner {
    /// Gone when the connection is.
    system: RefCell<Option<RpcSystem<Side>>>,
    disconnector: RefCell<Option<Disconnector<Side>>>,
    link: Link,
    side: Side,
    panicked: Cell<bool>,
    closed: Shared<LocalBoxFuture<'static, Result<(), capnp::Error>>>,
}

impl Vat {
    /// Speaks RPC on `stream`; `bootstrap` is what the peer gets when it asks for our first object.
    /// `side` only has to differ between both ends.
    ///
    /// # Panics
    /// Outside of a `LocalSet`.
    pub fn spawn(stream: UnixStream, side: Side, bootstrap: Option<Client>, trust: Trust) -> Vat {
        let guard = match trust {
            Trust::Peer => None,
            Trust::Hostile(limits) => Some(Guard::new(limits, None)),
        };
        Vat::start(stream, side, bootstrap, guard)
    }

    /// The same towards a hostile peer whose messages are counted together with those of others.
    pub fn spawn_within(
        stream: UnixStream,
        side: Side,
        bootstrap: Option<Client>,
        limits: GuardLimits,
        budget: Arc<Budget>,
    ) -> Vat {
        Vat::start(stream, side, bootstrap, Some(Guard::new(limits, Some(budget))))
    }

    fn start(
        stream: UnixStream,
        side: Side,
        bootstrap: Option<Client>,
        guard: Option<Guard>,
    ) -> Vat {
        let (network, link) = link::open(stream, side, guard);
        let system = RpcSystem::new(Box::new(network), bootstrap);
        // Taken before the first poll, as its documentation asks.
        let disconnector = system.get_disconnector();
        let (ended, closed) = oneshot::channel();
        let inner = Rc::new(Inner {
            system: RefCell::new(Some(system)),
            disconnector: RefCell::new(Some(disconnector)),
            link,
            side,
            panicked: Cell::new(false),
            closed: closed
                .map(|end| end.unwrap_or_else(|_| Err(disconnected("the connection broke down"))))
                .boxed_local()
                .shared(),
        });
        let task = inner.clone();
        tokio::task::spawn_local(async move {
            let end = task.run().await;
            let _ = ended.send(end);
        });
        Vat { inner }
    }

    /// The peer's first object. Calls on it wait until the peer has answered, and fail as
    /// disconnected when the connection has ended. It stays a promise ([`settled`] would wait for
    /// ever): capnp-rpc addresses it by the question and never by what was answered.
    pub fn bootstrap<C: FromClientHook>(&self) -> C {
        if let Some(hook) = self.inner.ask_bootstrap() {
            return C::new(hook);
        }
        // We are called from inside the connection, by a method that it is serving: ask outside.
        let inner = self.inner.clone();
        let (sender, receiver) = oneshot::channel::<Client>();
        tokio::task::spawn_local(async move {
            tokio::task::yield_now().await;
            let _ = sender.send(Client::new(inner.ask_bootstrap().unwrap_or_else(ended)));
        });
        let later: Client = capnp_rpc::new_future_client(async move {
            receiver.await.map_err(|_| disconnected("the connection has ended"))
        });
        C::new(later.hook)
    }

    /// Resolves when the connection has ended: `Ok` when the peer left or we disconnected, the
    /// reason otherwise. Any number may wait.
    pub fn closed(&self) -> impl Future<Output = Result<(), capnp::Error>> + 'static {
        self.inner.closed.clone()
    }

    /// Ends the connection: calls in flight fail as disconnected, and what only the peer held is
    /// dropped. Waits for the end, at most a few seconds for a peer that takes nothing any more.
    /// Must not be awaited by a method that this connection is serving.
    pub async fn disconnect(self) {
        let disconnector = self.inner.disconnector.borrow_mut().take();
        if let Some(disconnector) = disconnector {
            // Its first poll releases everything; only the peer can hold up the rest.
            if tokio::time::timeout(DISCONNECT, disconnector).await.is_err() {
                self.inner.link.outbox.kill();
            }
        }
        let _ = self.closed().await;
    }

    /// How full the tables of a connection to a [`Trust::Hostile`] peer are.
    pub fn stats(&self) -> Option<GuardStats> {
        self.inner.link.guard.as_ref().map(|guard| guard.borrow().stats())
    }

    /// Bytes that wait for the peer to take them.
    pub fn queued_bytes(&self) -> usize {
        self.inner.link.outbox.bytes()
    }

    /// Whether this connection, or what it runs on, ended with a panic of ours.
    pub fn panicked(&self) -> bool {
        self.inner.panicked.get()
    }
}

impl Inner {
    async fn run(&self) -> Result<(), capnp::Error> {
        let poll = || {
            poll_fn(|cx| match self.system.borrow_mut().as_mut() {
                Some(system) => system.poll_unpin(cx),
                None => Poll::Ready(Ok(())),
            })
        };
        let end = match AssertUnwindSafe(poll()).catch_unwind().await {
            Ok(end) => end,
            Err(panic) => {
                self.panicked.set(true);
                self.link.outbox.kill();
                // The system is never polled again, yet who waits on it must hear of its end, and
                // only a Disconnector tells them.
                let disconnector = self.disconnector.borrow_mut().take();
                if let Some(disconnector) = disconnector {
                    let quiet = AssertUnwindSafe(disconnector).catch_unwind();
                    let _ = tokio::time::timeout(DISCONNECT, quiet).await;
                }
                Err(error::failed(format!("the connection broke down: {}", words(&*panic))))
            }
        };
        let system = self.system.borrow_mut().take();
        if catch_unwind(AssertUnwindSafe(|| drop(system))).is_err() {
            self.panicked.set(true);
        }
        end
    }

    /// None while the system is being polled.
    fn ask_bootstrap(&self) -> Option<Box<dyn ClientHook>> {
        let mut system = self.system.try_borrow_mut().ok()?;
        let peer = match self.side {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        };
        Some(match system.as_mut() {
            Some(system) if !self.link.outbox.is_closing() => system.bootstrap::<Client>(peer).hook,
            _ => ended(),
        })
    }
}

fn ended() -> Box<dyn ClientHook> {
    capnp_rpc::new_broken_cap(disconnected("the connection has ended")).hook
}

fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without words")
}

/// What `cap` stands for once its promises are settled; itself when it is no promise.
///
/// In place of capnp's `get_resolved_cap` and `when_resolved`, which wait for ever on a promise of
/// capnp-rpc's that was settled before. Not for [`Vat::bootstrap`]'s.
///
/// # Errors
/// The promise's, when it breaks.
pub async fn settled<C: FromClientHook>(cap: C) -> Result<C, capnp::Error> {
    let mut hook = cap.into_client_hook();
    loop {
        while let Some(resolved) = hook.get_resolved() {
            hook = resolved;
        }
        match hook.when_more_resolved() {
            None => return Ok(C::new(hook)),
            Some(promise) => hook = promise.await?,
        }
    }
}

/// The address of `name` in the directory `dir`, short however deep the directory lies: a Unix
/// socket's address ends at 107 bytes.
fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<PathBuf> {
    if name.is_empty()
        || name.len() > 64
        || name.contains(['/', '\0'])
        || [".", ".."].contains(&name)
    {
        let words = "a socket's name is one component of at most 64 bytes";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, words));
    }
    Ok(PathBuf::from(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd())))
}

/// Connects to the socket `name` in `dir`.
///
/// # Errors
/// What `connect` says: `NotFound`, or `ConnectionRefused` when nobody listens any more.
pub async fn connect_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixStream> {
    UnixStream::connect(address(dir, name)?).await
}

/// Listens at `name` in `dir`; a file of that name is an error (`AddrInUse`).
///
/// # Errors
/// What `bind` says.
pub fn bind_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<UnixListener> {
    UnixListener::bind(address(dir, name)?)
}
