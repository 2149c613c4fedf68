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
use sandstorm_schema::persistent_capnp::persistent;
use sandstorm_schema::supervisor_capnp::api_token_owner;

use super::core::CoreSlot;
use super::wake_lock::{self, WakeLocks};
use crate::grain::life::Life;
use crate::grain::log::Log;

/// The app's bootstrap object.
pub struct SandstormApiImpl {
    pub grain_id: String,
    pub core: Rc<CoreSlot>,
    pub life: Rc<Life>,
    pub log: Rc<Log>,
    pub locks: Rc<WakeLocks>,
}

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

    async fn save(
        self: Rc<Self>,
        params: sandstorm_api::SaveParams<Id>,
        mut results: sandstorm_api::SaveResults<Id>,
    ) -> Result<(), Error> {
        let token = {
            let params = params.get()?;
            let object: persistent::Client<capnp::data::Owned, api_token_owner::Owned> =
                params.get_cap().get_as_capability()?;
            let mut request = object.save_request();
            let mut owner = request.get().init_seal_for().init_grain();
            owner.set_grain_id(self.grain_id.as_str());
            owner.set_save_label(params.get_label()?)?;
            request.send().promise.await?
        };
        results.get().set_token(token.get()?.get_sturdy_ref()?);
        Ok(())
    }

    async fn stay_awake(
        self: Rc<Self>,
        params: sandstorm_api::StayAwakeParams<Id>,
        mut results: sandstorm_api::StayAwakeResults<Id>,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let notification =
            if params.has_notification() { Some(params.get_notification()?) } else { None };
        let handle = wake_lock::take(
            &self.life,
            &self.log,
            &self.core,
            &self.locks,
            params.get_display_info()?,
            notification,
        )
        .await?;
        results.get().set_handle(handle);
        Ok(())
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
