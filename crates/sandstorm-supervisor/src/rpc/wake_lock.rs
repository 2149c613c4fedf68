//! Wake locks: the app keeps its grain awake, the owner sees it and may end it.
//!
//! Trust: the app's notification object is only ever called, never believed. The lock counts in
//! `Life`; nothing survives the run of the grain.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use capnp::Error;
use sandstorm_schema::activity_capnp::{notification_display_info, ongoing_notification};
use sandstorm_schema::persistent_capnp::persistent;
use sandstorm_schema::supervisor_capnp::{
    api_token_owner, persistent_ongoing_notification, system_persistent,
};
use sandstorm_schema::util_capnp::handle;

use super::core::CoreSlot;
use crate::grain::life::{Life, WakeLock};
use crate::grain::log::Log;

/// All locks of this run, by number.
#[derive(Default)]
pub struct WakeLocks {
    shown: RefCell<BTreeMap<u32, persistent_ongoing_notification::Client>>,
}

impl WakeLocks {
    /// The owner's view of a lock that is still held.
    pub fn notification(&self, number: u32) -> Option<persistent_ongoing_notification::Client> {
        self.shown.borrow().get(&number).cloned()
    }
}

/// Takes a lock and shows it to the owner. Dropping the result ends both.
///
/// # Errors
/// `overloaded` when the grain holds too many; what the system answers to the notification.
pub async fn take(
    life: &Rc<Life>,
    log: &Rc<Log>,
    core: &Rc<CoreSlot>,
    locks: &Rc<WakeLocks>,
    info: notification_display_info::Reader<'_>,
    app: Option<ongoing_notification::Client>,
) -> Result<handle::Client, Error> {
    let state = Rc::new(Held { app, shown: RefCell::new(None) });
    let on_cancel = {
        let state = Rc::downgrade(&state);
        let log = log.clone();
        Rc::new(move || cancelled(&state, &log))
    };
    let lock = life
        .hold(on_cancel)
        .ok_or_else(|| Error::overloaded("this grain holds too many wake locks already".into()))?;
    let number = lock.number;
    let notification: persistent_ongoing_notification::Client =
        capnp_rpc::new_client(NotificationImpl { number, life: life.clone(), core: core.clone() });
    locks.shown.borrow_mut().insert(number, notification.clone());
    // From here on the lock ends with this object, also when showing it fails.
    let result = WakeLockImpl { _lock: lock, state: state.clone(), locks: locks.clone(), number };

    let target = core.get().await?.get_owner_notification_target_request().send();
    let mut request = target.pipeline.get_owner().add_ongoing_request();
    request.get().set_display_info(info)?;
    request.get().set_notification(capnp::capability::FromClientHook::cast_to(notification));
    let response = request.send().promise.await?;
    *state.shown.borrow_mut() = Some(response.get()?.get_handle()?);
    log.note("the app keeps the grain awake");
    Ok(capnp_rpc::new_client(result))
}

struct Held {
    app: Option<ongoing_notification::Client>,
    /// Dropping it takes the notification away.
    shown: RefCell<Option<handle::Client>>,
}

fn cancelled(state: &Weak<Held>, log: &Log) {
    log.note("the app's wish to stay awake was cancelled");
    let Some(state) = state.upgrade() else { return };
    state.shown.borrow_mut().take();
    if let Some(app) = &state.app {
        let call = app.cancel_request().send().promise;
        tokio::task::spawn_local(async move {
            // The app may ignore it; its lock is gone all the same.
            let _ = call.await;
        });
    }
}

/// What the app holds.
struct WakeLockImpl {
    _lock: WakeLock,
    state: Rc<Held>,
    locks: Rc<WakeLocks>,
    number: u32,
}

impl handle::Server for WakeLockImpl {
    async fn ping(
        self: Rc<Self>,
        _: handle::PingParams,
        _: handle::PingResults,
    ) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for WakeLockImpl {
    fn drop(&mut self) {
        self.locks.shown.borrow_mut().remove(&self.number);
        // A drop must not send a call with a capability on the connection that is being changed.
        if let Some(shown) = self.state.shown.borrow_mut().take() {
            tokio::task::spawn_local(async move { drop(shown) });
        }
    }
}

/// What the owner's side holds, and may save for as long as the lock lasts.
struct NotificationImpl {
    number: u32,
    life: Rc<Life>,
    core: Rc<CoreSlot>,
}

impl ongoing_notification::Server for NotificationImpl {
    async fn cancel(
        self: Rc<Self>,
        _: ongoing_notification::CancelParams,
        _: ongoing_notification::CancelResults,
    ) -> Result<(), Error> {
        self.life.cancel(self.number);
        Ok(())
    }
}

impl persistent::Server<capnp::data::Owned, api_token_owner::Owned> for NotificationImpl {
    async fn save(
        self: Rc<Self>,
        params: persistent::SaveParams<api_token_owner::Owned>,
        mut results: persistent::SaveResults<capnp::data::Owned>,
    ) -> Result<(), Error> {
        if !self.life.holds(self.number) {
            return Err(Error::failed("this wake lock has ended".into()));
        }
        let mut request = self.core.get().await?.make_token_request();
        request.get().init_ref().set_wake_lock_notification(self.number);
        request.get().set_owner(params.get()?.get_seal_for()?)?;
        let response = request.send().promise.await?;
        results.get().set_sturdy_ref(response.get()?.get_token()?)
    }
}

impl system_persistent::Server for NotificationImpl {}
impl persistent_ongoing_notification::Server for NotificationImpl {}
