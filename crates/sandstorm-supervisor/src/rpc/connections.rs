//! Connections on the grain's socket.
//!
//! Trust: the kernel says who connects; only the server's user and root may.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::ext_report_capnp::reporting_supervisor;
use sandstorm_schema::rpc::connect::{Trust, Vat};
use tokio::net::UnixListener;

use super::supervisor::{Grain, SupervisorImpl};
use crate::mode::Caller;

/// Connections on the socket at once: a shell, its restarted successor, tools.
const MAX_CONNECTIONS: usize = 64;
/// How long the end may take to tell the callers, and an eighth of it to leave each.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long connections stay open after the last answer of a grain that ended by itself.
const LINGER: Duration = Duration::from_millis(100);

/// All of one grain.
#[derive(Default)]
pub struct Connections {
    open: RefCell<BTreeMap<u64, Vat>>,
    next: Cell<u64>,
}

impl Connections {
    /// Takes connections from the server's user (and root) for ever.
    pub async fn accept(self: Rc<Self>, listener: UnixListener, grain: Rc<Grain>, caller: Caller) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    // Out of descriptors, say. Not a reason to end, nor to spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let allowed =
                stream.peer_cred().is_ok_and(|peer| peer.uid() == caller.uid || peer.uid() == 0);
            if !allowed || self.open.borrow().len() >= MAX_CONNECTIONS {
                continue;
            }
            let client: reporting_supervisor::Client =
                capnp_rpc::new_client(SupervisorImpl(grain.clone()));
            let vat = Vat::spawn(stream, Side::Server, Some(client.client), Trust::Peer);
            let number = self.next.get();
            self.next.set(number + 1);
            let closed = vat.closed();
            self.open.borrow_mut().insert(number, vat);
            let all = self.clone();
            tokio::task::spawn_local(async move {
                let _ = closed.await;
                let vat = all.open.borrow_mut().remove(&number);
                if let Some(vat) = vat {
                    vat.disconnect().await;
                }
            });
        }
    }

    /// Waits until what is to be said has been sent, then closes.
    ///
    /// With `linger` the connections stay open a moment longer: a peer whose own message meets a
    /// closed socket may not look any more at what we sent before.
    pub async fn close(&self, linger: bool) {
        let sent = async {
            loop {
                // At least once, so that woken calls come to their answers.
                tokio::time::sleep(Duration::from_millis(5)).await;
                if self.open.borrow().values().all(|vat| vat.queued_bytes() == 0) {
                    return;
                }
            }
        };
        let _ = tokio::time::timeout(LAST_WORDS, sent).await;
        if linger && !self.open.borrow().is_empty() {
            tokio::time::sleep(LINGER).await;
        }
        let all = std::mem::take(&mut *self.open.borrow_mut());
        for vat in all.into_values() {
            let _ = tokio::time::timeout(LAST_WORDS / 8, vat.disconnect()).await;
        }
    }
}
