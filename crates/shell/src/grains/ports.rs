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
    let granted = shared.store.port_for(grain.as_str(), account, first, last, reuse).await?;
    let Some(granted) = granted else {
        return Err(Error::Conflict(format!(
            "All ports from {first} to {last} belong to other grains, so this one cannot be \
             opened. The operator can widen GRAIN_PORTS{}",
            if reuse { ", or destroy grains that are in the trash" } else { "" }
        )));
    };
    shared.listen(granted.port)?;
    Ok(granted)
}

impl Shared {
    /// Listens on a grain's port unless that is done already.
    fn listen(&self, port: u16) -> Result<()> {
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
            Err(source) => {
                self.release_port(port);
                Err(Error::Conflict(format!(
                    "Port {port}, which belongs to this grain, cannot be opened: {source}. \
                     Another program may be using it; end that program, or move GRAIN_PORTS."
                )))
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
                    tracing::warn!("grain {grain}: {e}");
                }
            }
        }
        Ok(())
    }
}
