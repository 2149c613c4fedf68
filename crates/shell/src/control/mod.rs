//! The control socket: sub-commands speak to the running server over `shell.socket`.
//!
//! It answers the server's own uid and root, by the kernel's word (`SO_PEERCRED`); such a peer may
//! do everything an operator may. Still its messages go through the guard: a broken client must
//! not take the server along. Runs on a thread of its own.

mod grains;
mod limits;
mod server;
mod upload;

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::ext_control_capnp::control;
use sandstorm_schema::rpc::connect::{GuardLimits, Trust, Vat, bind_at};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, Result};
use crate::state::App;

const NAME: &str = "shell.socket";

/// The one server of a home. The lock is the kernel's, so it ends with the process.
pub struct HomeLock(#[allow(dead_code)] nix::fcntl::Flock<fs::File>);

/// Takes the home for this process.
///
/// # Errors
/// `Conflict` when another server has it.
pub fn lock_home(home: &Path) -> Result<HomeLock> {
    let path = home.join("shell.lock");
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(Error::io(path.display().to_string()))?;
    match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(HomeLock(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(Error::Conflict(format!(
            "another server runs with the home {}; end it first, or use another home",
            home.display()
        ))),
        Err((_, e)) => Err(Error::io(path.display().to_string())(e.into())),
    }
}

/// Does a server run on this home? Judged by its lock, which is left as it was.
pub fn is_served(home: &Path) -> bool {
    let Ok(file) = fs::File::open(home.join("shell.lock")) else { return false };
    matches!(
        nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockSharedNonblock),
        Err((_, nix::errno::Errno::EWOULDBLOCK))
    )
}

/// Binds the socket, mode 0600; one that a killed server left is replaced (the caller holds the
/// home's lock).
fn bind(home: &Path) -> Result<UnixListener> {
    let path = home.join(NAME);
    let say = || Error::io(path.display().to_string());
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(say()(e)),
    }
    let dir = fs::File::open(home).map_err(say())?;
    let listener = bind_at(dir.as_fd(), NAME).map_err(say())?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(say())?;
    Ok(listener)
}

/// Serves until `end`; then the socket's file goes. Returns once it is bound.
pub async fn start(app: App, home: PathBuf, end: CancellationToken) -> Result<()> {
    let (ready, bound) = tokio::sync::oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting a thread"))?;
    std::thread::Builder::new()
        .name("control".into())
        .spawn(move || {
            tokio::task::LocalSet::new().block_on(&runtime, async move {
                let listener = match bind(&home) {
                    Ok(listener) => listener,
                    Err(e) => {
                        let _ = ready.send(Err(e));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                tokio::select! {
                    () = accept(app, listener) => {}
                    () = end.cancelled() => {}
                }
                let _ = fs::remove_file(home.join(NAME));
            });
        })
        .map_err(Error::io("starting a thread"))?;
    bound.await.unwrap_or_else(|_| Err(Error::Internal("the control thread ended".into())))
}

async fn accept(app: App, listener: UnixListener) {
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::debug!("control socket: {e}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
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
        tokio::task::spawn_local(async move {
            let _ = vat.closed().await;
            vat.disconnect().await;
        });
    }
}
