//! One RPC connection to one supervisor, and what was obtained through it.
//!
//! Faces a supervisor and, behind it, an app: both hostile. The guard of `Vat::spawn_within` bounds
//! what they send; here every call that should answer soon has a time limit.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp_rpc::rpc_twoparty_capnp::Side;
use futures::FutureExt;
use futures::future::{LocalBoxFuture, Shared};
use sandstorm_schema::ext_http_capnp::http_ext;
use sandstorm_schema::grain_capnp::{session_context, ui_view};
use sandstorm_schema::limits::SHORT_TEXT;
use sandstorm_schema::rpc::GuardLimits;
use sandstorm_schema::rpc::connect::Vat;
use sandstorm_schema::rpc::error as rpc_error;
use sandstorm_schema::supervisor_capnp::{sandstorm_core, supervisor};
use sandstorm_schema::web_session_capnp::web_session;
use tokio::net::UnixStream;
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;

use super::Permissions;
use super::core::{ContextImpl, CoreImpl, Identities};
use super::session::GrainSession;
use super::shared::{Entry, Shared as Grains};
use super::spawn::Child;
use crate::error::{Error, Result};

/// A call that only the supervisor answers.
const SUPERVISOR_TIME: Duration = Duration::from_secs(15);
/// A call that waits for the app to come up.
const APP_TIME: Duration = Duration::from_secs(60);
/// Sessions of one grain at once; the longest unused gives way.
const MAX_SESSIONS: usize = 256;
/// Calls given up on one connection (0.4 KB each, at both ends) before it is replaced.
const WORN: u32 = 10_000;
/// Permissions that an app may define.
const MAX_PERMISSIONS: u32 = 256;

pub struct Conn {
    vat: Cell<Option<Vat>>,
    closed: Shared<LocalBoxFuture<'static, ()>>,
    pub supervisor: supervisor::Client,
    core: sandstorm_core::Client,
    identities: Identities,
    view: OnceCell<View>,
    sessions: Rc<RefCell<HashMap<[u8; 32], Rc<SessionCell>>>>,
    uses: Cell<u64>,
    /// The process behind the socket, as the kernel names it.
    pub pid: Option<u32>,
    /// The same, if we started it.
    pub child: Option<Child>,
    /// The app has answered something since this connection was made.
    pub answered: Cell<bool>,
    /// It is on record that the grain has set itself up.
    pub settled: Cell<bool>,
    /// When the grain came up, as far as we know; kept over a change of connections.
    pub since: Cell<std::time::Instant>,
    /// Its end is counted.
    pub counted_end: Cell<bool>,
    dead: Cell<bool>,
    /// Calls that were given up before their answer: the RPC layer never forgets those.
    given_up: Cell<u32>,
    /// We asked for its end.
    pub stopping: Cell<bool>,
}

/// See [`Conn::counted`].
pub struct Counted<'a>(Option<&'a Cell<u32>>);

impl Counted<'_> {
    pub fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.0 {
            count.set(count.get().saturating_add(1));
        }
    }
}

/// The app's view and the permissions it defines.
struct View {
    client: ui_view::Client,
    permissions: Vec<String>,
}

struct SessionCell {
    web: OnceCell<(WebSession, AbortOnDropHandle<()>)>,
    used: Cell<u64>,
}

/// One grain session inside the app.
#[derive(Clone)]
pub struct WebSession {
    pub web: web_session::Client,
    /// The same object by our own interface.
    pub ext: http_ext::Client,
    /// Whether it has that interface; unknown until it was asked once.
    pub has_ext: Rc<Cell<Option<bool>>>,
}

/// What a browser tells once, when its session begins.
pub struct Visitor<'a> {
    pub user_agent: &'a str,
    pub languages: Vec<&'a str>,
}

impl Conn {
    /// Speaks to the supervisor at the other end of `stream` and hands it the system's core.
    pub async fn open(
        shared: &Arc<Grains>,
        entry: &Arc<Entry>,
        stream: UnixStream,
        child: Option<Child>,
    ) -> Result<Rc<Conn>> {
        let conn = Conn::new(shared, entry, stream, child);
        if let Err(error) = conn.keep_alive().await {
            conn.disconnect().await;
            return Err(error);
        }
        Ok(conn)
    }

    /// The same towards a supervisor that has just said that it listens: what is asked of it next
    /// follows the core without waiting, and meets whatever is wrong.
    pub fn open_fresh(
        shared: &Arc<Grains>,
        entry: &Arc<Entry>,
        stream: UnixStream,
        child: Option<Child>,
    ) -> Rc<Conn> {
        let conn = Conn::new(shared, entry, stream, child);
        let (grain, sent) = (entry.grain.clone(), conn.send_keep_alive());
        tokio::task::spawn_local(async move {
            if let Err(e) = sent.await {
                tracing::warn!("grain {grain}: first keepAlive: {e}");
            }
        });
        conn
    }

    fn new(
        shared: &Arc<Grains>,
        entry: &Arc<Entry>,
        stream: UnixStream,
        child: Option<Child>,
    ) -> Rc<Conn> {
        let pid =
            stream.peer_cred().ok().and_then(|cred| cred.pid()).and_then(|p| p.try_into().ok());
        let budget = shared.rooms.messages_of(entry.owner.get().copied());
        let limits = GuardLimits::supervisor();
        let vat = Vat::spawn_within(stream, Side::Client, None, limits, budget);
        let identities = Identities::default();
        let supervisor: supervisor::Client = vat.bootstrap();
        let core = CoreImpl {
            supervisor: supervisor.clone(),
            fullness: Cell::new(-1),
            locks: Rc::default(),
            shared: shared.clone(),
            entry: entry.clone(),
            identities: identities.clone(),
        };
        // How it ends does not matter to those who wait: it is over.
        let closed = vat.closed().map(drop).boxed_local().shared();
        Rc::new(Conn {
            supervisor,
            vat: Cell::new(Some(vat)),
            closed,
            core: capnp_rpc::new_client(core),
            identities,
            view: OnceCell::new(),
            sessions: Rc::default(),
            uses: Cell::new(0),
            pid,
            child,
            answered: Cell::new(false),
            settled: Cell::new(false),
            since: Cell::new(std::time::Instant::now()),
            counted_end: Cell::new(false),
            dead: Cell::new(false),
            given_up: Cell::new(0),
            stopping: Cell::new(false),
        })
    }

    /// Ends the connection; the supervisor and its grain go on.
    pub async fn disconnect(&self) {
        self.dead.set(true);
        if let Some(vat) = self.vat.take() {
            vat.disconnect().await;
        }
    }

    /// Counts a call as given up unless it is told that its answer came.
    pub fn counted(&self) -> Counted<'_> {
        Counted(Some(&self.given_up))
    }

    /// Counts calls that nobody waits for any more.
    pub fn gave_up(&self, calls: usize) {
        let calls = u32::try_from(calls).unwrap_or(u32::MAX);
        self.given_up.set(self.given_up.get().saturating_add(calls));
    }

    /// Whether so many calls were given up that a fresh connection is due.
    pub fn is_worn(&self) -> bool {
        self.given_up.get() >= WORN
    }

    pub fn is_alive(&self) -> bool {
        !self.dead.get() && !self.stopping.get()
    }

    /// For how long the grain has run.
    pub fn ran(&self) -> Duration {
        self.since.get().elapsed()
    }

    /// Waits until the connection is over.
    pub async fn closed(&self) {
        self.closed.clone().await;
        self.dead.set(true);
    }

    pub async fn keep_alive(&self) -> Result<()> {
        self.send_keep_alive().await
    }

    /// Sends it at once; the future is for the answer.
    fn send_keep_alive(&self) -> impl Future<Output = Result<()>> + use<> {
        let mut request = self.supervisor.keep_alive_request();
        request.get().set_core(self.core.clone());
        let promise = request.send().promise;
        async move { timed("the box", SUPERVISOR_TIME, promise).await.map(drop) }
    }

    /// Asks the supervisor to end the grain; a disconnect is its success.
    pub async fn shutdown(&self) -> Result<()> {
        let promise = self.supervisor.shutdown_request().send().promise;
        match timed("the box", SUPERVISOR_TIME, promise).await {
            Ok(_) | Err(Error::Disconnected(_)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Names of the app's permissions, in its order; starts the app.
    pub async fn permission_names(&self) -> Result<&[String]> {
        Ok(&self.view().await?.permissions)
    }

    async fn view(&self) -> Result<&View> {
        self.view
            .get_or_try_init(|| async {
                let main = self.supervisor.get_main_view_request().send();
                // Asked of the view that is promised: it is answered as soon as the app can.
                let info = main.pipeline.get_view().get_view_info_request().send().promise;
                let response = timed("starting the app", APP_TIME, main.promise).await?;
                let client =
                    response.get().and_then(|results| results.get_view()).map_err(from_rpc)?;
                drop(response);
                let permissions = match timed("starting the app", APP_TIME, info).await {
                    Ok(response) => permission_names(&response).map_err(from_rpc)?,
                    // An old app may have none to tell of.
                    Err(Error::Unimplemented(_)) => Vec::new(),
                    Err(e) => return Err(e),
                };
                Ok(View { client, permissions })
            })
            .await
    }

    /// The session inside the app, opened at its first use.
    pub async fn session(
        &self,
        session: &GrainSession,
        visitor: Visitor<'_>,
    ) -> Result<WebSession> {
        let cell = self.session_cell(&session.sid_hash);
        let opened = cell.web.get_or_try_init(|| async {
            let web = self.new_session(session, visitor).await?;
            let (all, key) = (Rc::downgrade(&self.sessions), session.sid_hash);
            let revoked = session.revoked.clone();
            // Signed out: the app has this person's session and capabilities no longer.
            let watch = tokio::task::spawn_local(async move {
                revoked.cancelled().await;
                let cell = all.upgrade().and_then(|all| all.borrow_mut().remove(&key));
                drop(cell);
            });
            Ok::<_, Error>((web, AbortOnDropHandle::new(watch)))
        });
        Ok(opened.await?.0.clone())
    }

    fn session_cell(&self, key: &[u8; 32]) -> Rc<SessionCell> {
        self.uses.set(self.uses.get() + 1);
        let mut sessions = self.sessions.borrow_mut();
        if !sessions.contains_key(key) && sessions.len() >= MAX_SESSIONS {
            let oldest = sessions.iter().min_by_key(|(_, cell)| cell.used.get()).map(|(k, _)| *k);
            if let Some(oldest) = oldest {
                sessions.remove(&oldest);
            }
        }
        let cell = sessions
            .entry(*key)
            .or_insert_with(|| Rc::new(SessionCell { web: OnceCell::new(), used: Cell::new(0) }));
        cell.used.set(self.uses.get());
        cell.clone()
    }

    /// Ends a session: the app sees its capability dropped.
    pub fn forget_session(&self, key: &[u8; 32]) {
        self.sessions.borrow_mut().remove(key);
    }

    async fn new_session(
        &self,
        session: &GrainSession,
        visitor: Visitor<'_>,
    ) -> Result<WebSession> {
        let view = self.view().await?;
        let mut request = view.client.new_session_request();
        let mut params = request.get();
        let mut user = params.reborrow().init_user_info();
        user.reborrow().init_display_name().set_default_text(&*session.display_name);
        user.set_identity_id(&session.identity);
        user.set_preferred_handle(&*session.handle);
        user.set_identity(self.identities.new_client(session));
        let mut bits = user.init_permissions(view.permissions.len() as u32);
        for (index, name) in view.permissions.iter().enumerate() {
            let held = match &session.permissions {
                Permissions::All => true,
                Permissions::Names(names) => names.contains(name),
            };
            bits.set(index as u32, held);
        }
        let context: session_context::Client = capnp_rpc::new_client(ContextImpl);
        params.set_context(context);
        params.set_session_type(web_session_type());
        params.set_tab_id(&session.tab_id);
        let mut web = params
            .get_session_params()
            .init_as::<sandstorm_schema::web_session_capnp::web_session::params::Builder<'_>>(
        );
        web.set_base_path(&*session.origin);
        web.set_user_agent(if visitor.user_agent.is_empty() {
            "UnknownAgent/0.0"
        } else {
            visitor.user_agent
        });
        let mut languages = web.init_acceptable_languages(visitor.languages.len() as u32);
        for (index, language) in visitor.languages.iter().enumerate() {
            languages.set(index as u32, *language);
        }
        let response = timed("opening the app", APP_TIME, request.send().promise).await?;
        let ui = response.get().and_then(|results| results.get_session()).map_err(from_rpc)?;
        let hook = capnp::capability::FromClientHook::into_client_hook(ui);
        Ok(WebSession {
            web: capnp::capability::FromClientHook::new(hook.add_ref()),
            ext: capnp::capability::FromClientHook::new(hook),
            has_ext: Rc::new(Cell::new(None)),
        })
    }
}

fn web_session_type() -> u64 {
    <web_session::Client as capnp::traits::HasTypeId>::TYPE_ID
}

fn permission_names(
    response: &capnp::capability::Response<ui_view::view_info::Owned>,
) -> capnp::Result<Vec<String>> {
    let list = response.get()?.get_permissions()?;
    let mut names = Vec::new();
    for index in 0..list.len().min(MAX_PERMISSIONS) {
        let name = list.get(index).get_name()?.to_string()?;
        names.push(name.chars().take(SHORT_TEXT).collect());
    }
    Ok(names)
}

/// Waits for an answer, but not for ever.
pub async fn timed<T>(
    what: &'static str,
    time: Duration,
    promise: impl Future<Output = capnp::Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(time, promise).await {
        Ok(answer) => answer.map_err(from_rpc),
        Err(_) => Err(Error::Timeout(what)),
    }
}

/// A peer's error in our words.
pub fn from_rpc(error: capnp::Error) -> Error {
    let words = rpc_error::text(&error);
    if rpc_error::is_disconnected(&error) {
        Error::Disconnected(words)
    } else if rpc_error::is_unimplemented(&error) {
        Error::Unimplemented(words)
    } else if rpc_error::is_overloaded(&error) {
        Error::Overloaded(words)
    } else if rpc_error::is_remote(&error) {
        Error::AppFailed(words)
    } else {
        Error::BadGateway(words)
    }
}

#[cfg(test)]
mod tests;
