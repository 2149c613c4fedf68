//! The control socket: sub-commands speak to the running server over `shell.socket`.
//!
//! It answers the server's own uid and root, by the kernel's word (`SO_PEERCRED`); such a peer may
//! do everything an operator may. Still its messages go through the guard: a broken client must
//! not take the server along. Runs on a thread of its own.

mod grains;
mod home;
mod limits;
mod server;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::ext_control_capnp::control;
use sandstorm_schema::rpc::connect::{GuardLimits, Trust, Vat};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::{Error, Result};
use crate::state::App;
use home::{Bound, Name};
pub use home::{HomeLock, SOCKET, is_served, lock_home, read_only};

/// The socket's name is looked at this often: somebody may have removed it.
const LOOK: Duration = Duration::from_secs(2);

/// How long the calls under way may take to be given up at the end.
const END: Duration = Duration::from_secs(3);

/// Serves until `end`; then calls under way are given up, connections are closed and the socket's file
/// goes. Returns once it is bound; what it answers resolves when all of that is over.
pub async fn start(
    app: App,
    lock: Arc<HomeLock>,
    end: CancellationToken,
) -> Result<tokio::sync::oneshot::Receiver<()>> {
    let (over, is_over) = tokio::sync::oneshot::channel();
    let (ready, bound) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting a thread"))?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let mut bound = match lock.bind() {
                    Ok(bound) => bound,
                    Err(e) => {
                        let _ = ready.send(Err(e));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                let open = TaskTracker::new();
                tokio::select! {
                    () = accept(app, &lock, &mut bound, &open, &end) => {}
                    () = end.cancelled() => {}
                }
                lock.unbind(&bound);
                open.close();
                // A call that is dropped with its connection unclosed lives on in cycles of references,
                // with the database's one connection that writes.
                let _ = tokio::time::timeout(END, open.wait()).await;
                let _ = over.send(());
            });
        })
        .map_err(Error::io("starting a thread"))?;
    bound.await.unwrap_or_else(|_| Err(Error::Internal("the control thread ended".into())))?;
    Ok(is_over)
}

async fn accept(
    app: App,
    lock: &HomeLock,
    bound: &mut Bound,
    open: &TaskTracker,
    end: &CancellationToken,
) {
    let own = nix::unistd::geteuid().as_raw();
    let mut looks = tokio::time::interval(LOOK);
    let mut told = String::new();
    loop {
        let accepted = tokio::select! {
            accepted = bound.listener.accept() => accepted,
            _ = looks.tick() => {
                look(lock, bound, &mut told);
                continue;
            }
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("control socket: {e}");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        match stream.peer_cred() {
            Ok(peer) if peer.uid() == own || peer.uid() == 0 => {}
            other => {
                tracing::warn!("control socket: refused {other:?}");
                continue;
            }
        }
        let object = server::ControlImpl::new(app.clone());
        let client: control::Client = capnp_rpc::new_client(object);
        let trust = Trust::Hostile(GuardLimits::control());
        let vat = Vat::spawn(stream, Side::Server, Some(client.client), trust);
        let end = end.clone();
        open.spawn_local(async move {
            tokio::select! {
                _ = vat.closed() => {}
                () = end.cancelled() => {}
            }
            vat.disconnect().await;
        });
    }
}

/// Mends the socket's name, and says once what cannot be mended.
fn look(lock: &HomeLock, bound: &mut Bound, told: &mut String) {
    match lock.look(bound) {
        Name::Ours => told.clear(),
        Name::Anew(anew) => {
            tracing::warn!("the control socket had been removed and was made anew");
            *bound = anew;
            told.clear();
        }
        Name::Lost(why) if *told != why => {
            tracing::error!("{why}");
            *told = why;
        }
        Name::Lost(_) => {}
    }
}
