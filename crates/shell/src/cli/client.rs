//! A sub-command's end of the control socket.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::ext_control_capnp::control;
use sandstorm_schema::rpc::connect::{Trust, Vat, connect_at};
use sandstorm_schema::rpc::error::text;

use super::output::called;
use crate::error::{Error, Result};

/// Connects to the running server and does `work` with it.
pub fn run(
    home: &Path,
    work: impl AsyncFnOnce(control::Client) -> capnp::Result<()>,
) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let vat = connect(home).await?;
        let result = work(vat.bootstrap()).await;
        vat.disconnect().await;
        result.map_err(|e| Error::Internal(text(&e)))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The connection; an error says how to start the server.
pub async fn connect(home: &Path) -> Result<Vat> {
    let not_running = |why: std::io::Error| {
        Error::Internal(match why.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => format!(
                "no server runs with the home {}; start one with `{} serve`, or name another \
                 home with --home or SANDSTORM_HOME",
                home.display(),
                called()
            ),
            std::io::ErrorKind::PermissionDenied => format!(
                "{}/shell.socket answers only the server's own user and root",
                home.display()
            ),
            _ => format!("{}/shell.socket: {why}", home.display()),
        })
    };
    let dir = std::fs::File::open(home).map_err(not_running)?;
    let stream = connect_at(dir.as_fd(), "shell.socket").await.map_err(not_running)?;
    Ok(Vat::spawn(stream, Side::Client, None, Trust::Peer))
}
