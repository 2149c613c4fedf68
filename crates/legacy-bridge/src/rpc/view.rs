//! The grain as the shell sees it: `MainView`, which opens sessions.

use std::cell::Cell;
use std::rc::Rc;

use capnp::traits::HasTypeId;
use sandstorm_schema::api_session_capnp::api_session;
use sandstorm_schema::grain_capnp::{main_view, ui_session, ui_view};
use sandstorm_schema::hack_session_capnp::hack_email_session;
use sandstorm_schema::http_capnp::bridge_session;
use sandstorm_schema::identity_capnp::user_info;
use sandstorm_schema::web_session_capnp::web_session;

use super::session::SessionImpl;
use crate::config::Config;
use crate::http::request::{Opening, SessionHeaders, SessionType};
use crate::http1::Upstream;

/// What all sessions share.
#[derive(Debug)]
pub struct Bridge {
    /// The app.
    pub upstream: Rc<Upstream>,
    /// From the package.
    pub config: Config,
    next_session: Cell<u64>,
}

impl Bridge {
    /// Sessions are numbered from 0.
    pub fn new(upstream: Rc<Upstream>, config: Config) -> Rc<Self> {
        Rc::new(Bridge { upstream, config, next_session: Cell::new(0) })
    }
}

/// The exported `MainView`. Its `restore` and `drop` are for apps that save capabilities, which
/// needs more than the bridge offers so far: they answer `unimplemented`.
#[derive(Debug)]
pub struct ViewImpl(pub Rc<Bridge>);

impl ViewImpl {
    /// The bootstrap capability.
    pub fn client(self) -> main_view::Client<capnp::any_pointer::Owned> {
        capnp_rpc::new_client(self)
    }

    fn open(
        &self,
        session_type: SessionType,
        interface: u64,
        user: user_info::Reader<'_>,
        params: capnp::any_pointer::Reader<'_>,
        tab_id: &[u8],
    ) -> Result<ui_session::Client, capnp::Error> {
        let bridge = &self.0;
        let session_id = bridge.next_session.get();
        let opening = Opening {
            session_type,
            session_id,
            tab_id,
            permission_names: bridge.config.permission_names(),
        };
        let headers = if interface == web_session::Client::TYPE_ID {
            SessionHeaders::for_web(&opening, user, params.get_as()?)?
        } else if interface == api_session::Client::TYPE_ID
            && let Some(api_path) = bridge.config.api_path()
        {
            let params: api_session::params::Reader<'_> = params.get_as()?;
            let address =
                if params.has_remote_address() { Some(params.get_remote_address()?) } else { None };
            SessionHeaders::for_api(&opening, user, address, api_path)?
        } else {
            return Err(capnp::Error::unimplemented(match interface {
                i if i == api_session::Client::TYPE_ID => {
                    "this package's bridge config has no apiPath, so the app offers no API".into()
                }
                i if i == hack_email_session::Client::TYPE_ID => {
                    "legacy-bridge does not take in e-mail".into()
                }
                i => format!("legacy-bridge knows no session of type {i:#x}"),
            }));
        };
        bridge.next_session.set(session_id + 1);
        let session = SessionImpl::new(Rc::clone(bridge), headers);
        let client: bridge_session::Client = capnp_rpc::new_client(session);
        // Every face of the object is one client; the shell casts back.
        Ok(capnp::capability::FromClientHook::new(client.client.hook))
    }
}

impl ui_view::Server for ViewImpl {
    async fn get_view_info(
        self: Rc<Self>,
        _: ui_view::GetViewInfoParams,
        mut results: ui_view::GetViewInfoResults,
    ) -> Result<(), capnp::Error> {
        match self.0.config.view_info()? {
            Some(info) => results.set(info),
            None => {
                results.get();
                Ok(())
            }
        }
    }

    async fn new_session(
        self: Rc<Self>,
        params: ui_view::NewSessionParams,
        mut results: ui_view::NewSessionResults,
    ) -> Result<(), capnp::Error> {
        let p = params.get()?;
        let session = self.open(
            SessionType::Normal,
            p.get_session_type(),
            p.get_user_info()?,
            p.get_session_params(),
            p.get_tab_id()?,
        )?;
        results.get().set_session(session);
        Ok(())
    }

    async fn new_request_session(
        self: Rc<Self>,
        params: ui_view::NewRequestSessionParams,
        mut results: ui_view::NewRequestSessionResults,
    ) -> Result<(), capnp::Error> {
        let p = params.get()?;
        let session = self.open(
            SessionType::Request,
            p.get_session_type(),
            p.get_user_info()?,
            p.get_session_params(),
            p.get_tab_id()?,
        )?;
        results.get().set_session(session);
        Ok(())
    }

    async fn new_offer_session(
        self: Rc<Self>,
        params: ui_view::NewOfferSessionParams,
        mut results: ui_view::NewOfferSessionResults,
    ) -> Result<(), capnp::Error> {
        let p = params.get()?;
        let session = self.open(
            SessionType::Offer,
            p.get_session_type(),
            p.get_user_info()?,
            p.get_session_params(),
            p.get_tab_id()?,
        )?;
        results.get().set_session(session);
        Ok(())
    }
}

impl main_view::Server<capnp::any_pointer::Owned> for ViewImpl {}
