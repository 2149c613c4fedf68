//! `SandstormApi`: what the app may ask of the system over fd 3.
//!
//! Trust: the caller is the app. What it hands over reaches the system through the membrane, so
//! capabilities seen here are as the outside sees them. Methods that are not here answer
//! `unimplemented`.
#![forbid(unsafe_code)]

use std::rc::Rc;

use capnp::Error;
use capnp::any_pointer;
use sandstorm_schema::grain_capnp::sandstorm_api;
use sandstorm_schema::util_capnp::handle;

use super::core::CoreSlot;
use crate::grain::life::{Life, WakeLock};
use crate::grain::log::Log;

/// The app's bootstrap object.
pub struct SandstormApiImpl {
    pub grain_id: String,
    pub core: Rc<CoreSlot>,
    pub life: Rc<Life>,
    pub log: Rc<Log>,
}

/// Keeps the grain awake and the owner told, until dropped.
struct WakeLockImpl {
    _lock: WakeLock,
    /// The owner's notification goes when this goes.
    _shown: Option<handle::Client>,
}

impl handle::Server for WakeLockImpl {}

type Id = any_pointer::Owned;

impl sandstorm_api::Server<Id> for SandstormApiImpl {
    async fn restore(
        self: Rc<Self>,
        params: sandstorm_api::RestoreParams<Id>,
        mut results: sandstorm_api::RestoreResults<Id>,
    ) -> Result<(), Error> {
        let mut request = self.core.get().await?.restore_request();
        request.get().set_token(params.get()?.get_token()?);
        let response = request.send().promise.await?;
        results.get().init_cap().set_as(response.get()?.get_cap())
    }

    async fn drop(
        self: Rc<Self>,
        params: sandstorm_api::DropParams<Id>,
        _: sandstorm_api::DropResults<Id>,
    ) -> Result<(), Error> {
        let mut request = self.core.get().await?.drop_request();
        request.get().set_token(params.get()?.get_token()?);
        request.send().promise.await.map(drop)
    }

    async fn background_activity(
        self: Rc<Self>,
        params: sandstorm_api::BackgroundActivityParams<Id>,
        _: sandstorm_api::BackgroundActivityResults<Id>,
    ) -> Result<(), Error> {
        let mut request = self.core.get().await?.background_activity_request();
        request.get().set_event(params.get()?.get_event()?)?;
        request.send().promise.await.map(drop)
    }

    async fn get_identity_id(
        self: Rc<Self>,
        params: sandstorm_api::GetIdentityIdParams<Id>,
        mut results: sandstorm_api::GetIdentityIdResults<Id>,
    ) -> Result<(), Error> {
        let mut request = self.core.get().await?.get_identity_id_request();
        request.get().set_identity(params.get()?.get_identity()?);
        let response = request.send().promise.await?;
        results.get().set_id(response.get()?.get_id()?);
        Ok(())
    }

    async fn schedule(
        self: Rc<Self>,
        params: sandstorm_api::ScheduleParams,
        _: sandstorm_api::ScheduleResults<Id>,
    ) -> Result<(), Error> {
        let mut request = self.core.get().await?.schedule_request();
        request.set(params.get()?)?;
        request.send().promise.await.map(drop)
    }
}
