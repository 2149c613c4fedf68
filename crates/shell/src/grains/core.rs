//! The capabilities that the shell gives out: `SandstormCore` to a supervisor, `SessionContext`
//! and `Identity` to an app. Callers are hostile; what cannot work yet says `unimplemented`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use capnp::Error;
use capnp::capability::FromClientHook;
use sandstorm_schema::activity_capnp::notification_target;
use sandstorm_schema::grain_capnp::session_context;
use sandstorm_schema::identity_capnp::identity;
use sandstorm_schema::rpc::error::{failed, unimplemented};
use sandstorm_schema::rpc::settled;
use sandstorm_schema::supervisor_capnp::{sandstorm_core, supervisor};
use sandstorm_schema::util_capnp::handle;

use super::report;
use super::session::GrainSession;
use super::shared::{Entry, Shared};
use crate::identity::text::one_line;
use crate::store::Tone;

/// Percent of the disk limit at which the owner is told.
const WARN_AT: [i64; 3] = [100, 95, 80];
/// Longest wait for an app to settle a promise.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);
/// Ongoing notifications of one grain at once.
const MAX_LOCKS: usize = 16;

/// The persons that a grain was told of, by their objects, for as long as it holds these: each
/// takes itself out. (The library's own set keeps an entry for ever.)
#[derive(Clone, Default)]
pub struct Identities(Rc<RefCell<HashMap<usize, Weak<IdentityImpl>>>>);

impl Identities {
    /// The object of a session's person.
    pub fn new_client(&self, session: &GrainSession) -> identity::Client {
        let identity = Rc::new(IdentityImpl::of(session, self.clone()));
        let weak = Rc::downgrade(&identity);
        self.0.borrow_mut().insert(Rc::as_ptr(&identity) as usize, weak);
        capnp_rpc::new_client_from_rc(identity)
    }

    /// The person behind a capability that is no promise; `None` if we did not give it out.
    fn find(&self, client: &identity::Client) -> Option<Rc<IdentityImpl>> {
        // What a local object's hook calls its pointer is that of the object.
        self.0.borrow().get(&client.as_client_hook().get_ptr())?.upgrade()
    }
}

/// What a grain's supervisor may ask of the system.
pub struct CoreImpl {
    pub shared: Arc<Shared>,
    pub entry: Arc<Entry>,
    pub identities: Identities,
    /// Whose report it is: asked for what limits the disk.
    pub supervisor: supervisor::Client,
    /// Percent of the disk limit when it was last looked at.
    pub fullness: Cell<i64>,
    /// Ongoing notifications that came through this core. On a fresh connection the supervisor
    /// shows all of them again before the old one goes.
    pub locks: Rc<Cell<usize>>,
}

impl sandstorm_core::Server for CoreImpl {
    async fn get_owner_notification_target(
        self: Rc<Self>,
        _: sandstorm_core::GetOwnerNotificationTargetParams,
        mut results: sandstorm_core::GetOwnerNotificationTargetResults,
    ) -> Result<(), Error> {
        let target = OwnerImpl { entry: self.entry.clone(), locks: self.locks.clone() };
        results.get().set_owner(capnp_rpc::new_client(target));
        Ok(())
    }

    async fn report_grain_size(
        self: Rc<Self>,
        params: sandstorm_core::ReportGrainSizeParams,
        _: sandstorm_core::ReportGrainSizeResults,
    ) -> Result<(), Error> {
        let bytes = i64::try_from(params.get()?.get_bytes()).unwrap_or(i64::MAX);
        let grain = &self.entry.grain;
        match self.shared.store.grain_size(grain.as_str(), bytes).await {
            Ok(()) => {
                self.entry.tell();
                // Not awaited: the supervisor waits for us.
                tokio::task::spawn_local(self.clone().look_at_fullness());
                Ok(())
            }
            Err(e) => {
                tracing::warn!("size of grain {grain}: {e}");
                Err(failed("the size could not be stored"))
            }
        }
    }

    async fn get_identity_id(
        self: Rc<Self>,
        params: sandstorm_core::GetIdentityIdParams,
        mut results: sandstorm_core::GetIdentityIdResults,
    ) -> Result<(), Error> {
        let client = params.get()?.get_identity()?;
        drop(params);
        // A promise of the app's may never be kept.
        let client = tokio::time::timeout(PATIENCE, settled(client))
            .await
            .map_err(|_| failed("this identity is a promise that is not kept"))??;
        let known = self.identities.find(&client);
        match known {
            Some(identity) => {
                results.get().set_id(&identity.id);
                Ok(())
            }
            None => Err(failed("this is not an identity that the system gave to this grain")),
        }
    }

    async fn restore(
        self: Rc<Self>,
        _: sandstorm_core::RestoreParams,
        _: sandstorm_core::RestoreResults,
    ) -> Result<(), Error> {
        Err(unimplemented("saved capabilities cannot be restored yet"))
    }

    async fn make_token(
        self: Rc<Self>,
        _: sandstorm_core::MakeTokenParams,
        _: sandstorm_core::MakeTokenResults,
    ) -> Result<(), Error> {
        Err(unimplemented("capabilities cannot be saved yet"))
    }
}

impl CoreImpl {
    /// Notes how full the grain's disk limit is, and tells the owner before it is reached.
    async fn look_at_fullness(self: Rc<Self>) {
        let grain = &self.entry.grain;
        // An older supervisor does not say; then nobody is warned, and its log says it.
        let Ok(rows) = report::limits(&self.supervisor).await else { return };
        let Some(percent) = report::percent_of_disk(&rows) else { return };
        let percent = i64::try_from(percent).unwrap_or(i64::MAX);
        if self.fullness.replace(percent) == percent {
            return;
        }
        if let Err(e) = self.note_fullness(percent).await {
            tracing::warn!("fullness of grain {grain}: {e}");
        }
    }

    async fn note_fullness(&self, percent: i64) -> crate::error::Result<()> {
        let (store, grain) = (&self.shared.store, &self.entry.grain);
        let before = store.grain_fullness(grain.as_str(), percent).await?;
        let Some(step) = WARN_AT.into_iter().find(|step| (before + 1..=percent).contains(step))
        else {
            return Ok(());
        };
        let Some(row) = store.grain(grain.as_str()).await? else { return Ok(()) };
        let title = one_line(&row.title, 60);
        let (tone, text) = match step {
            100 => (
                Tone::Bad,
                format!(
                    "“{title}” has used up its disk space: it cannot save anything until \
                     something in it is deleted."
                ),
            ),
            _ => (
                Tone::Warning,
                format!(
                    "“{title}” uses more than {step} % of its disk space. When it is full, it \
                         cannot save anything."
                ),
            ),
        };
        tracing::info!("grain {grain}: {percent} % of its disk limit");
        // An app that swings about the mark must not flood its owner.
        store.notify_daily(row.owner, tone, &text).await?;
        self.shared.events.send(crate::state::Event::AccountChanged(row.owner));
        Ok(())
    }
}

/// The grain's owner as the app may notify them. A held notification keeps the grain awake.
struct OwnerImpl {
    entry: Arc<Entry>,
    locks: Rc<Cell<usize>>,
}

impl notification_target::Server for OwnerImpl {
    async fn add_ongoing(
        self: Rc<Self>,
        params: notification_target::AddOngoingParams,
        mut results: notification_target::AddOngoingResults,
    ) -> Result<(), Error> {
        let notification = params.get()?.get_notification()?;
        drop(params);
        if self.locks.get() >= MAX_LOCKS {
            return Err(failed("a grain can have 16 ongoing notifications at once"));
        }
        self.locks.set(self.locks.get() + 1);
        self.entry.locks.fetch_add(1, Ordering::Relaxed);
        let (entry, locks) = (self.entry.clone(), self.locks.clone());
        let lock = WakeLockImpl { entry, locks, _notification: notification };
        results.get().set_handle(capnp_rpc::new_client(lock));
        Ok(())
    }
}

struct WakeLockImpl {
    entry: Arc<Entry>,
    locks: Rc<Cell<usize>>,
    _notification: sandstorm_schema::activity_capnp::ongoing_notification::Client,
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
        self.locks.set(self.locks.get() - 1);
        self.entry.touch();
        self.entry.locks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What an app can do with the session's surroundings; sharing and the powerbox come later.
pub struct ContextImpl;

impl session_context::Server for ContextImpl {}

/// A person, as far as this grain may know them.
pub struct IdentityImpl {
    id: [u8; 32],
    display_name: String,
    handle: String,
    among: Identities,
}

impl Drop for IdentityImpl {
    fn drop(&mut self) {
        self.among.0.borrow_mut().remove(&(std::ptr::from_ref(self) as usize));
    }
}

impl IdentityImpl {
    fn of(session: &GrainSession, among: Identities) -> IdentityImpl {
        IdentityImpl {
            id: session.identity,
            display_name: session.display_name.clone(),
            handle: session.handle.clone(),
            among,
        }
    }
}

impl identity::Server for IdentityImpl {
    async fn get_profile(
        self: Rc<Self>,
        _: identity::GetProfileParams,
        mut results: identity::GetProfileResults,
    ) -> Result<(), Error> {
        let mut profile = results.get().init_profile();
        profile.reborrow().init_display_name().set_default_text(&*self.display_name);
        profile.set_preferred_handle(&*self.handle);
        Ok(())
    }
}

#[cfg(test)]
impl Identities {
    pub fn count(&self) -> usize {
        self.0.borrow().len()
    }
}
