//! What every request handler shares.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::config::Config;
use crate::grains::Grains;
use crate::identity::form::Forms;
use crate::ids::{AccountId, GrainId, LoginId, PackageId};
use crate::install::Installer;
use crate::live::Sockets;
use crate::middleware::acts::Acts;
use crate::store::Store;

/// The running shell. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Inner>);

pub struct Inner {
    pub config: Config,
    pub store: Store,
    pub grains: Grains,
    pub installer: Installer,
    pub events: Events,
    pub sockets: Sockets,
    pub forms: Forms,
    pub acts: Acts,
}

impl App {
    pub fn new(
        config: Config,
        store: Store,
        grains: Grains,
        installer: Installer,
        events: Events,
    ) -> App {
        App(Arc::new(Inner {
            config,
            store,
            grains,
            installer,
            events,
            sockets: Sockets::default(),
            forms: Forms::new(),
            acts: Acts::new(),
        }))
    }
}

impl std::ops::Deref for App {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

/// Something changed; whoever shows it looks again. Never carries the data itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Title, state, size, star or trash of a grain. `owner`: where the sender knows it; who has the
    /// grain open hears of it in any case. It is said here so that no listener has to look it up.
    GrainChanged {
        /// Which.
        grain: GrainId,
        /// Whose.
        owner: Option<AccountId>,
    },
    /// Several at once: for who has one of them open. Their lists hear [`Event::AccountChanged`].
    GrainsChanged(Arc<[GrainId]>),
    /// One person's list of grains or notices.
    AccountChanged(AccountId),
    /// A step of an installation, or the set of installed apps.
    InstallChanged(PackageId),
    /// A sign-in ended: its grain sessions and sockets end with it.
    LoginEnded(LoginId),
}

/// Broadcast of [`Event`]s; a receiver that lags looks at everything again.
#[derive(Clone)]
pub struct Events(broadcast::Sender<Event>);

impl Events {
    pub fn new() -> Events {
        Events(broadcast::channel(1024).0)
    }

    pub fn send(&self, event: Event) {
        // No listener is no error: nobody is looking.
        let _ = self.0.send(event);
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}
