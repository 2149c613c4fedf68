//! Port mode: a port for every (grain, account), and a listener on each.

use std::net::TcpListener;

use super::shared::Shared;
use crate::config::GrainHosts;
use crate::error::{Error, Result};
use crate::ids::{AccountId, GrainId};
use crate::store::PortGrant;

/// A port that was given out and has to be listened on.
pub type NewPort = (u16, TcpListener);

/// The port of this (grain, account), listened on from now.
pub async fn grant(shared: &Shared, grain: &GrainId, account: AccountId) -> Result<PortGrant> {
    let GrainHosts::Port { first, last } = shared.config.grain_hosts else {
        return Err(Error::Internal("ports are given out in port mode only".into()));
    };
    let reuse = shared.config.root.https;
    // What kept one that would be new from being listened on.
    let mut busy: Option<(u16, std::io::Error)> = None;
    let open = |port| match shared.listen(port) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!("port {port} is not given to a grain: {error}");
            busy = Some((port, error));
            false
        }
    };
    let granted = shared.store.port_for(grain.as_str(), account, first, last, reuse, open).await?;
    let Some(granted) = granted else {
        return Err(Error::Conflict(match busy {
            Some((port, error)) => format!(
                "No port from {first} to {last} can be opened for this grain: other programs have \
                 those that are free (port {port}: {error}). The operator can move GRAIN_PORTS, or \
                 end these programs"
            ),
            None => format!(
                "The ports from {first} to {last} belong to other grains, and the last of them are \
                 for people who have few, so this one cannot be opened. The operator can widen \
                 GRAIN_PORTS{}",
                if reuse { ", or destroy grains that are in the trash" } else { "" }
            ),
        }));
    };
    shared.listen(granted.port).map_err(|error| lost(granted.port, &error))?;
    Ok(granted)
}

/// A port that a grain has cannot be listened on: it stays the grain's, since browsers keep what the
/// grain stored under it.
fn lost(port: u16, error: &std::io::Error) -> Error {
    Error::Conflict(format!(
        "Port {port}, which belongs to this grain, cannot be opened: {error}. Another program may be \
         using it; end that program, or move GRAIN_PORTS."
    ))
}

impl Shared {
    /// Listens on a grain's port unless that is done already.
    fn listen(&self, port: u16) -> std::io::Result<()> {
        if !self.claim_port(port) {
            return Ok(());
        }
        let bound = TcpListener::bind((self.config.bind_ip, port))
            .and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
        match bound {
            Ok(listener) => {
                self.hand_port((port, listener));
                Ok(())
            }
            Err(error) => {
                self.release_port(port);
                Err(error)
            }
        }
    }

    /// Listens on every port that was ever given out, at start. One that is busy is reported
    /// when its grain is opened.
    pub async fn listen_on_known_ports(&self) -> Result<()> {
        let GrainHosts::Port { first, last } = self.config.grain_hosts else { return Ok(()) };
        for (port, grain, _) in self.store.ports().await? {
            if (first..=last).contains(&port) {
                if let Err(e) = self.listen(port) {
                    tracing::warn!("grain {grain}: {}", lost(port, &e));
                }
            }
        }
        Ok(())
    }
}
