//! The grain's main view, and objects that outlive it by being saved.

use std::cell::RefCell;
use std::rc::Rc;

use capnp::capability::{
    Client, DispatchCallResult, FromClientHook, FromServer, Params, Promise, Results,
};
use capnp::private::capability::ClientHook;
use capnp::traits::HasTypeId;
use capnp::{Error, any_pointer};
use sandstorm_schema::grain_capnp::{app_persistent, main_view, ui_view};
use sandstorm_schema::util_capnp::handle;

use crate::Api;
use crate::session::Session;
use crate::store::Store;

/// Filled in once the connection stands.
#[derive(Default)]
pub struct ApiSlot(RefCell<Option<Api>>);

impl ApiSlot {
    pub fn set(&self, api: Api) {
        *self.0.borrow_mut() = Some(api);
    }

    /// The system's API.
    ///
    /// # Errors
    /// Before the connection stands.
    pub fn get(&self) -> Result<Api, Error> {
        self.0.borrow().clone().ok_or_else(|| Error::failed("no connection yet".into()))
    }
}

pub struct View {
    store: Rc<Store>,
    api: Rc<ApiSlot>,
}

impl View {
    pub fn new(store: Store, api: Rc<ApiSlot>) -> View {
        View { store: Rc::new(store), api }
    }
}

impl ui_view::Server for View {
    async fn get_view_info(
        self: Rc<Self>,
        _: ui_view::GetViewInfoParams,
        mut results: ui_view::GetViewInfoResults,
    ) -> Result<(), Error> {
        let mut info = results.get();
        let mut permissions = info.reborrow().init_permissions(2);
        permissions.reborrow().get(0).set_name("read");
        permissions.reborrow().get(0).init_title().set_default_text("read");
        permissions.reborrow().get(1).set_name("write");
        permissions.reborrow().get(1).init_title().set_default_text("write");
        info.init_app_title().set_default_text("Native");
        Ok(())
    }

    async fn new_session(
        self: Rc<Self>,
        params: ui_view::NewSessionParams,
        mut results: ui_view::NewSessionResults,
    ) -> Result<(), Error> {
        let params = params.get()?;
        let user = params.get_user_info()?;
        let name = user.get_display_name()?.get_default_text()?.to_string()?;
        let identity = user.get_identity_id()?.iter().map(|b| format!("{b:02x}")).collect();
        let permissions = user.get_permissions()?.iter().collect();
        let person = if user.has_identity() { Some(user.get_identity()?) } else { None };
        let session = Session {
            name,
            identity,
            person,
            permissions,
            store: self.store.clone(),
            api: self.api.clone(),
        };
        let client: sandstorm_schema::web_session_capnp::web_session::Client =
            capnp_rpc::new_client(session);
        results.get().set_session(client.cast_to());
        Ok(())
    }
}

impl main_view::Server<capnp::text::Owned> for View {
    async fn restore(
        self: Rc<Self>,
        params: main_view::RestoreParams<capnp::text::Owned>,
        mut results: main_view::RestoreResults<capnp::text::Owned>,
    ) -> Result<(), Error> {
        let id = params.get()?.get_object_id()?.to_string()?;
        results.get().init_cap().set_as_capability(thing(id).hook);
        Ok(())
    }

    async fn drop(
        self: Rc<Self>,
        params: main_view::DropParams<capnp::text::Owned>,
        _: main_view::DropResults<capnp::text::Owned>,
    ) -> Result<(), Error> {
        println!("dropped {}", params.get()?.get_object_id()?.to_str()?);
        Ok(())
    }
}

/// An object that can be saved: a handle that answers pings.
pub fn thing(id: String) -> Client {
    let client: ThingClient = capnp_rpc::new_client(Thing { id });
    client.0
}

struct Thing {
    id: String,
}

impl app_persistent::Server<capnp::text::Owned> for Thing {
    async fn save(
        self: Rc<Self>,
        _: app_persistent::SaveParams<capnp::text::Owned>,
        mut results: app_persistent::SaveResults<capnp::text::Owned>,
    ) -> Result<(), Error> {
        let mut results = results.get();
        results.set_object_id(self.id.as_str())?;
        results.init_label().set_default_text(&self.id);
        Ok(())
    }
}

impl handle::Server for Thing {
    async fn ping(
        self: Rc<Self>,
        _: handle::PingParams,
        _: handle::PingResults,
    ) -> Result<(), Error> {
        println!("ping of {}", self.id);
        Ok(())
    }
}

/// What a generated interface that extends both would be: one object, two interfaces.
struct ThingClient(Client);

impl FromClientHook for ThingClient {
    fn new(hook: Box<dyn ClientHook>) -> Self {
        ThingClient(Client::new(hook))
    }
    fn into_client_hook(self) -> Box<dyn ClientHook> {
        self.0.hook
    }
    fn as_client_hook(&self) -> &dyn ClientHook {
        &*self.0.hook
    }
}

impl FromServer<Thing> for ThingClient {
    type Dispatch = ThingDispatch;
    fn from_server(server: Rc<Thing>) -> ThingDispatch {
        ThingDispatch(server)
    }
}

#[derive(Clone)]
struct ThingDispatch(Rc<Thing>);

impl std::ops::Deref for ThingDispatch {
    type Target = Thing;
    fn deref(&self) -> &Thing {
        &self.0
    }
}

impl capnp::capability::Server for ThingDispatch {
    fn dispatch_call(
        self,
        interface: u64,
        method: u16,
        params: Params<any_pointer::Owned>,
        results: Results<any_pointer::Owned>,
    ) -> DispatchCallResult {
        if interface == handle::Client::TYPE_ID {
            handle::ServerDispatch::<Thing>::dispatch_call_internal(self.0, method, params, results)
        } else if interface == app_persistent::Client::<capnp::text::Owned>::TYPE_ID {
            app_persistent::ServerDispatch::<Thing, capnp::text::Owned>::dispatch_call_internal(
                self.0, method, params, results,
            )
        } else {
            let error = Error::unimplemented("a thing has no such interface".into());
            DispatchCallResult::new(Promise::err(error), false)
        }
    }

    fn as_ptr(&self) -> usize {
        Rc::as_ptr(&self.0) as usize
    }
}
