//! The way to the system: the `SandstormCore` that the shell hands over with `keepAlive`.
#![forbid(unsafe_code)]

use std::rc::Rc;

use capnp::capability::FromClientHook;
use sandstorm_schema::supervisor_capnp::sandstorm_core;
use tokio::sync::watch;

/// Holds the newest core; calls that need one wait until there is one.
pub struct CoreSlot(watch::Sender<Option<sandstorm_core::Client>>);

impl CoreSlot {
    pub fn new() -> Rc<CoreSlot> {
        Rc::new(CoreSlot(watch::Sender::new(None)))
    }

    /// Replaces the core; a restarted shell brings its own. Whether it is another than before.
    pub fn set(&self, core: sandstorm_core::Client) -> bool {
        let is_new = !self.holds(&core);
        self.0.send_replace(Some(core));
        is_new
    }

    /// Whether this is the present core. A connection gives one object one pointer for as long as
    /// it is held, which it is here.
    pub fn holds(&self, core: &sandstorm_core::Client) -> bool {
        let pointer = core.as_client_hook().get_ptr();
        self.0.borrow().as_ref().is_some_and(|held| held.as_client_hook().get_ptr() == pointer)
    }

    /// The present core, or the first one that comes.
    ///
    /// # Errors
    /// Never in practice: the slot outlives its users.
    pub async fn get(&self) -> Result<sandstorm_core::Client, capnp::Error> {
        let mut slot = self.0.subscribe();
        let core = slot
            .wait_for(Option::is_some)
            .await
            .map_err(|_| capnp::Error::disconnected("the grain is ending".into()))?;
        core.clone().ok_or_else(|| capnp::Error::disconnected("the grain is ending".into()))
    }

    /// The present core, if there is one.
    pub fn now(&self) -> Option<sandstorm_core::Client> {
        self.0.borrow().clone()
    }
}
