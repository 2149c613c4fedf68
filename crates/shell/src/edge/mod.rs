//! The HTTP edge: accept, limit, and hand each request to who serves its host.
//!
//! Faces the network: everything read here is hostile. Connections that open on a grain's host
//! move to the thread that holds the grain's RPC connection, so that their requests never change
//! threads; all others stay on the main runtime.

pub mod body;
mod first_line;
pub mod head;
mod io;
mod peers;
pub mod reply;
pub mod route;
mod socket;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1::UpgradeableConnection;
use hyper::service::HttpService;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::grains::GrainBody;
use crate::grains::pool::Local;
use crate::shares::Shares;
use crate::state::App;
pub use body::{EdgeBody, Feed};
use first_line::Unfit;
pub use head::ClientAddr;
use peers::Peers;
pub use route::{GrainHost, Target, Via};
pub use watch::Peer;
use watch::Watched;

/// A browser can be made to send 600 KB of cookies; a head of this size is still read.
const HEAD_BUFFER: usize = 1 << 20;
/// hyper's own bound on fields; ours (Cookie not counted) is in `head`.
const MAX_FIELDS: usize = 200;
/// From the first byte of a head to its end, and from one request to the next.
const HEAD_TIME: Duration = Duration::from_secs(60);
/// From the connection to the first byte of its first head.
const FIRST_BYTE_TIME: Duration = Duration::from_secs(15);
/// More open connections than this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 16_384;
/// What keeps failing is told this often.
const TELL: Duration = Duration::from_secs(60);
/// How long `SIGTERM` waits for answers that are under way.
const DRAIN_TIME: Duration = Duration::from_secs(20);

/// What the listeners share.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    app: App,
    router: axum::Router,
    main: tokio::runtime::Handle,
    slots: Arc<tokio::sync::Semaphore>,
    peers: Peers,
    large_heads: Arc<Shares<IpAddr>>,
    drain: CancellationToken,
    open: TaskTracker,
}

impl Edge {
    /// Must be called on the main runtime.
    pub fn new(app: App, router: axum::Router) -> Edge {
        let peers = Peers::new(app.config.trusted_proxies.clone(), MAX_CONNECTIONS);
        Edge(Arc::new(Inner {
            app,
            router,
            main: tokio::runtime::Handle::current(),
            slots: Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS)),
            peers,
            large_heads: io::large_heads(),
            drain: CancellationToken::new(),
            open: TaskTracker::new(),
        }))
    }

    /// Accepts until the drain begins.
    pub async fn listen(self, listener: TcpListener, via: Via) {
        socket::prepare(&listener);
        let mut told = None;
        loop {
            let Ok(slot) = self.0.slots.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.0.drain.cancelled() => return,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(e) => {
                    // A connection that was reset while it waited, or no file descriptors left:
                    // neither may end the loop, and the second must not spin, nor fill the log.
                    if !is_of_this_machine(&e) {
                        tracing::debug!("accept: {e}");
                    } else if told.is_none_or(|at: Instant| at.elapsed() >= TELL) {
                        tracing::error!("no connection can be accepted: {e}");
                        told = Some(Instant::now());
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let Some(share) = self.0.peers.enter(peer.ip()) else {
                tracing::debug!("{}: too many connections; closed", peer.ip());
                continue;
            };
            let _ = stream.set_nodelay(true);
            let edge = self.clone();
            self.0.open.spawn(async move {
                edge.place(stream, peer, via).await;
                drop((slot, share));
            });
        }
    }

    /// Ends accepting, lets what is under way finish, and returns after at most `DRAIN_TIME`.
    pub async fn drain(&self) {
        self.0.drain.cancel();
        self.0.open.close();
        let ended = async {
            self.0.open.wait().await;
            // And what goes on for those who have left.
            self.0.app.acts.ended().await;
        };
        if tokio::time::timeout(DRAIN_TIME, ended).await.is_err() {
            tracing::warn!("{} connections were still open and are cut", self.0.open.len());
        }
    }

    /// Serves the connection on the thread where it belongs.
    async fn place(self, stream: TcpStream, peer: SocketAddr, via: Via) {
        let mut first = [0u8; 2048];
        let peeked = tokio::select! {
            peeked = tokio::time::timeout(FIRST_BYTE_TIME, stream.peek(&mut first)) => peeked,
            () = self.0.drain.cancelled() => return,
        };
        let Ok(Ok(length @ 1..)) = peeked else { return };
        let home = match head::peek_host(&first[..length]) {
            Some(host) => match route::route(&self.0.app.config, via, &host) {
                Target::Grain(host) => self.0.app.grains.home_of(&host),
                _ => None,
            },
            None => None,
        };
        let Some(thread) = home else { return self.serve_here(stream, peer, via).await };
        let Ok(stream) = stream.into_std() else { return };
        let edge = self.clone();
        let served = thread.call(move |local| {
            Box::pin(async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    edge.serve_local(local, stream, peer, via).await;
                }
            })
        });
        // The tracker counts this connection until the thread is done with it.
        let _ = served.await;
    }

    async fn serve_here(self, stream: TcpStream, peer: SocketAddr, via: Via) {
        let edge = self.clone();
        let (stream, other_end) = Watched::new(stream);
        let (stream, phase) = io::Guarded::new(stream, peer.ip(), &self.0.large_heads);
        let asking = other_end.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let (edge, phase) = (edge.clone(), phase.clone());
            request.extensions_mut().insert(asking.clone());
            let unfit = phase.head_is_read(request.body().is_end_stream());
            async move {
                let answer = match edge.0.judge(&request, unfit, peer, via) {
                    Err(reply) => reply,
                    Ok((Target::Grain(host), _)) => edge.0.app.grains.serve(request, host).await,
                    Ok((target, client)) => edge.0.shell(target, request, client).await,
                };
                // What follows an upgrade is no head.
                if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                    phase.answered();
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.see_through(connection, &other_end).await;
    }

    async fn serve_local(
        self,
        local: std::rc::Rc<Local>,
        stream: TcpStream,
        peer: SocketAddr,
        via: Via,
    ) {
        let edge = self.clone();
        let (stream, other_end) = Watched::new(stream);
        let (stream, phase) = io::Guarded::new(stream, peer.ip(), &self.0.large_heads);
        let asking = other_end.clone();
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            let (edge, phase) = (edge.clone(), phase.clone());
            request.extensions_mut().insert(asking.clone());
            let local = local.clone();
            let unfit = phase.head_is_read(request.body().is_end_stream());
            async move {
                let answer = match edge.0.judge(&request, unfit, peer, via) {
                    Err(reply) => reply.map(GrainBody::Whole),
                    Ok((Target::Grain(host), _)) => {
                        edge.0.app.grains.serve_on(local, request, host).await
                    }
                    Ok((target, client)) => {
                        // A proxy in front reuses one connection for several hosts.
                        let main = edge.0.main.clone();
                        let job = async move { edge.0.shell(target, request, client).await };
                        main.spawn(job)
                            .await
                            .unwrap_or_else(|_| reply::internal())
                            .map(GrainBody::Whole)
                    }
                };
                // What follows an upgrade is no head.
                if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
                    phase.answered();
                }
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let connection = builder().serve_connection(TokioIo::new(stream), service).with_upgrades();
        self.see_through(connection, &other_end).await;
    }

    /// Serves a connection to its end, or until its peer has left.
    async fn see_through<S>(
        &self,
        connection: UpgradeableConnection<TokioIo<io::Guarded<Watched>>, S>,
        other_end: &Peer,
    ) where
        S: HttpService<Incoming>,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        S::ResBody: 'static,
        <S::ResBody as Body>::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        tokio::pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => {}
            () = self.0.drain.cancelled() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            }
            // While an app takes nothing of a body, or bytes wait behind a request, the library does
            // not read and so hears of no end.
            () = other_end.left() => tracing::debug!("a peer has left; its requests are given up"),
        }
    }
}

/// Whether this machine has run out of something, so that nobody gets in.
fn is_of_this_machine(error: &std::io::Error) -> bool {
    let out_of = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| out_of.contains(&code))
}

fn builder() -> hyper::server::conn::http1::Builder {
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BUFFER)
        .max_headers(MAX_FIELDS);
    builder
}

impl Inner {
    /// Limits, host, and who is asking; an `Err` is the answer.
    fn judge(
        &self,
        request: &Request<Incoming>,
        unfit: Option<Unfit>,
        peer: SocketAddr,
        via: Via,
    ) -> Result<(Target, ClientAddr), Response<EdgeBody>> {
        if let Some(unfit) = unfit {
            return Err(reply::unfit(&self.app.config, request, unfit));
        }
        head::check(request)?;
        let host = head::host(request)?;
        let client = head::client_addr(&self.app.config, request.headers(), peer);
        Ok((route::route(&self.app.config, via, host), client))
    }

    async fn shell(
        &self,
        target: Target,
        mut request: Request<Incoming>,
        client: ClientAddr,
    ) -> Response<EdgeBody> {
        match target {
            Target::Shell => {
                request.extensions_mut().insert(client);
                let request = request.map(axum::body::Body::new);
                match self.router.clone().oneshot(request).await {
                    Ok(answer) => answer.map(EdgeBody::shell),
                    Err(never) => match never {},
                }
            }
            Target::Selftest => reply::selftest(&request),
            Target::Elsewhere => reply::to_root(&self.app.config, &request),
            Target::Unknown => reply::misdirected(&self.app.config, &request),
            Target::Grain(_) => reply::internal(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_resets_a_connection_is_told_apart_from_a_machine_that_has_no_descriptors_left() {
        let of = |code| is_of_this_machine(&std::io::Error::from_raw_os_error(code));
        assert!(of(libc::EMFILE) && of(libc::ENFILE));
        assert!(!of(libc::ECONNABORTED) && !of(libc::EINTR));
    }
}
