//! Wake locks: the app keeps its grain awake, the owner sees it and may end it.
//!
//! Trust: the app's notification object is only ever called, never believed. The lock counts in
//! `Life`; nothing survives the run of the grain. The shell knows of it by the core that it was shown
//! through, so each new core (of a restarted shell, of a fresh connection) is shown what is held.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use capnp::Error;
use capnp::message::{HeapAllocator, TypedBuilder};
use sandstorm_schema::activity_capnp::{notification_display_info, ongoing_notification};
use sandstorm_schema::persistent_capnp::persistent;
use sandstorm_schema::supervisor_capnp::{
    api_token_owner, persistent_ongoing_notification, system_persistent,
};
use sandstorm_schema::util_capnp::handle;

use super::core::CoreSlot;
use crate::grain::life::{Life, WakeLock};
use crate::grain::log::Log;

/// The largest text of a lock in words of 8 bytes: it is kept for as long as the lock is held.
const MAX_INFO: u64 = 8192;

/// All locks of this run, by number.
#[derive(Default)]
pub struct WakeLocks {
    shown: RefCell<BTreeMap<u32, (persistent_ongoing_notification::Client, Weak<Held>)>>,
}

impl WakeLocks {
    /// The owner's view of a lock that is still held.
    pub fn notification(&self, number: u32) -> Option<persistent_ongoing_notification::Client> {
        self.shown.borrow().get(&number).map(|(notification, _)| notification.clone())
    }

    /// Shows the locks to a system that has come anew.
    pub fn show_again(&self, core: &Rc<CoreSlot>, log: &Rc<Log>) {
        for (notification, held) in self.shown.borrow().values() {
            // One that is being taken sees by itself that the core has changed.
            let Some(held) = held.upgrade().filter(|held| held.shown.borrow().is_some()) else {
                continue;
            };
            let (core, log, notification) = (core.clone(), log.clone(), notification.clone());
            tokio::task::spawn_local(async move {
                if let Err(error) = show(&core, &held, &notification).await {
                    log.note(&format!("a wish to stay awake could not be told again: {error}"));
                }
            });
        }
    }
}

/// Takes a lock and shows it to the owner. Dropping the result ends both.
///
/// # Errors
/// `overloaded` when the grain holds too many; `failed` when the text is too long; what the system
/// answers to the notification.
pub async fn take(
    life: &Rc<Life>,
    log: &Rc<Log>,
    core: &Rc<CoreSlot>,
    locks: &Rc<WakeLocks>,
    info: notification_display_info::Reader<'_>,
    app: Option<ongoing_notification::Client>,
) -> Result<handle::Client, Error> {
    if info.total_size()?.word_count > MAX_INFO {
        return Err(Error::failed("the text of a wake lock has more than 64 KiB".into()));
    }
    let mut kept = TypedBuilder::new_default();
    kept.set_root(info)?;
    let (shown, cancelled) = (RefCell::new(None), Cell::new(false));
    let state = Rc::new(Held { app, info: kept, shown, cancelled });
    let on_cancel = {
        let state = Rc::downgrade(&state);
        let log = log.clone();
        Rc::new(move || self::cancelled(&state, &log))
    };
    let lock = life
        .hold(on_cancel)
        .ok_or_else(|| Error::overloaded("this grain holds too many wake locks already".into()))?;
    let number = lock.number;
    let notification: persistent_ongoing_notification::Client =
        capnp_rpc::new_client(NotificationImpl { number, life: life.clone(), core: core.clone() });
    let known = (notification.clone(), Rc::downgrade(&state));
    locks.shown.borrow_mut().insert(number, known);
    // From here on the lock ends with this object, also when showing it fails.
    let result = WakeLockImpl { _lock: lock, state: state.clone(), locks: locks.clone(), number };
    show(core, &state, &notification).await?;
    log.note("the app keeps the grain awake");
    Ok(capnp_rpc::new_client(result))
}

/// Shows a lock through the present core, and once more if another has come meanwhile.
async fn show(
    core: &CoreSlot,
    held: &Held,
    notification: &persistent_ongoing_notification::Client,
) -> Result<(), Error> {
    loop {
        let through = core.get().await?;
        let target = through.get_owner_notification_target_request().send();
        let mut request = target.pipeline.get_owner().add_ongoing_request();
        request.get().set_display_info(held.info.get_root_as_reader()?)?;
        let object = capnp::capability::FromClientHook::cast_to(notification.clone());
        request.get().set_notification(object);
        let answer = request.send().promise.await;
        if !core.holds(&through) {
            continue;
        }
        let handle = answer?.get()?.get_handle()?;
        if !held.cancelled.get() {
            // The one through an earlier core goes here.
            let _before = held.shown.replace(Some(handle));
        }
        return Ok(());
    }
}

struct Held {
    app: Option<ongoing_notification::Client>,
    info: TypedBuilder<notification_display_info::Owned, HeapAllocator>,
    /// Dropping it takes the notification away.
    shown: RefCell<Option<handle::Client>>,
    cancelled: Cell<bool>,
}

fn cancelled(state: &Weak<Held>, log: &Log) {
    log.note("the app's wish to stay awake was cancelled");
    let Some(state) = state.upgrade() else { return };
    state.cancelled.set(true);
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
