//! Grains as the rest of the shell sees them: make, open, wake, stop, watch.
//!
//! The Cap'n Proto clients are `Rc` and live on a small fixed set of threads (`pool`); a
//! [`Grains`] handle talks to them by channels and can be cloned and used from anywhere.

mod conn;
pub mod cookies;
mod core;
mod crowd;
mod destroy;
mod errors;
mod gateway;
mod group;
mod log;
mod manifest;
mod pause;
mod policy;
pub mod pool;
pub mod ports;
pub mod proxy;
pub mod report;
mod room;
mod session;
mod shared;
mod slot;
mod spawn;
mod websocket;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::edge::{EdgeBody, GrainHost};
use crate::error::{Error, Result};
use crate::ids::{AccountId, GrainId, LoginId};
use crate::state::{Event, Events};
use crate::store::{Action, NewGrain, Package, Store, random};
pub use pause::Pause;
use pool::{Local, Thread};
pub use proxy::GrainBody;
pub use shared::Live;
use shared::{Entry, Shared};

/// Grains live on so many threads at most.
const MAX_THREADS: usize = 8;

#[derive(Clone)]
pub struct Grains(Arc<Shared>);

/// What a grain is doing right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrainState {
    Asleep,
    /// `step` is a phrase for the person who waits ("Starting the app").
    Starting {
        step: &'static str,
    },
    Running,
    Stopping,
    /// It did not start, or ended by itself. `reason` is a sentence; `code` as on error pages;
    /// `log_tail` the last lines of its log, control characters removed (owner only); `pause` is
    /// set while requests do not start it again.
    Crashed {
        reason: String,
        code: String,
        log_tail: String,
        pause: Option<Pause>,
    },
}

/// Whose browser a grain session belongs to. `secret` is the sign-in's raw cookie secret, never
/// stored: host label and hand-over cookie are derived from it, so the same sign-in gets the same
/// host for the same grain each time, and nobody else can guess it.
#[derive(Clone)]
pub struct LoginKey {
    pub login: LoginId,
    pub account: Option<AccountId>,
    pub secret: [u8; 32],
}

/// What the session may do inside the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Everything the app defines (owner).
    All,
    /// By the names of the app's view info.
    Names(Vec<String>),
}

/// Where the grain's page points its frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// `scheme://host[:port]`: goes into `frame-src`.
    pub origin: String,
    /// `origin/_sandstorm-init?ticket=…&path=…`: one use, 60 seconds.
    pub init_url: String,
}

/// A ready session for curl and scripts.
#[derive(Clone, Debug)]
pub struct ScriptSession {
    pub origin: String,
    /// Value of a `Cookie` header.
    pub cookie: String,
    /// Seconds since the epoch.
    pub expires: i64,
}

/// A tab shows the grain and keeps it awake; dropping this says that it was closed.
pub struct TabGuard(#[allow(dead_code)] Live);

impl Grains {
    /// Starts the threads. The second value is where ports that are given out in port mode come,
    /// to be listened on. `groups`: below which supervisors make control groups named after grains,
    /// for us to remove.
    pub fn start(
        config: &Config,
        store: &Store,
        events: &Events,
        groups: Option<PathBuf>,
    ) -> Result<(Grains, mpsc::UnboundedReceiver<ports::NewPort>)> {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        let (threads, inboxes) = pool::prepare(cores.clamp(1, MAX_THREADS));
        let (new_ports, ports) = mpsc::unbounded_channel();
        let shared =
            Shared::new(config.clone(), store.clone(), events.clone(), threads, new_ports, groups);
        let shared = Arc::new(shared);
        pool::start(inboxes, &shared)?;
        Ok((Grains(shared), ports))
    }

    /// Finds the supervisors that an earlier shell left running, and opens the known ports.
    pub async fn find_running(&self) -> Result<()> {
        self.0.listen_on_known_ports().await?;
        let mut waiting = Vec::new();
        for row in self.0.store.all_grains().await? {
            let Ok(grain) = row.id.parse::<GrainId>() else { continue };
            if self.0.config.home.join("grains").join(&row.id).join("socket").exists() {
                let entry = self.0.entry(&grain);
                let _ = entry.owner.set(row.owner);
                let in_trash = row.trashed_at.is_some();
                waiting.push(self.on_home(entry, move |local, entry| {
                    Box::pin(async move {
                        let slot = local.slot(&entry);
                        // The server ended before the grain did.
                        if !in_trash {
                            slot.adopt(&local).await;
                        } else if let Err(error) = slot.stop_in_trash(&local).await {
                            tracing::warn!("grain {}, in the trash: {error}", entry.grain);
                        }
                    })
                }));
            }
        }
        // One that does not answer must not hold up the start.
        let found = tokio::spawn(futures::future::join_all(waiting));
        let _ = tokio::time::timeout(std::time::Duration::from_secs(5), found).await;
        Ok(())
    }

    /// Makes a grain by one of the package's own actions and starts it in the background; how that
    /// goes is its state.
    pub async fn create(
        &self,
        owner: AccountId,
        package: &Package,
        action: &Action,
        title: &str,
    ) -> Result<GrainId> {
        let grain = GrainId::generate(getrandom::fill)
            .map_err(|e| Error::Internal(format!("no random numbers: {e}")))?;
        let new = NewGrain {
            id: grain.as_str(),
            package,
            owner,
            title,
            noun: &action.noun,
            action: action.position,
        };
        self.0.store.create_grain(&new).await?;
        self.0.events.send(Event::AccountChanged(owner));
        let grains = self.clone();
        let id = grain.clone();
        tokio::spawn(async move {
            if let Err(e) = grains.wake(&id).await {
                tracing::info!("grain {id}: first start: {e}");
            }
        });
        Ok(grain)
    }

    /// Makes or refreshes the grain session of this sign-in and a one-use ticket for its frame.
    /// `path` is where in the app to start (`/` and on). Does not wake the grain: the frame's
    /// first request does.
    pub async fn open(
        &self,
        login: &LoginKey,
        grain: &GrainId,
        permissions: Permissions,
        path: &str,
    ) -> Result<Frame> {
        self.0.open(login, grain, permissions, path).await
    }

    /// A session for curl and scripts, with the owner's identity. Names of permissions that the
    /// app does not have are an error that lists those it has; so this wakes the grain if any
    /// are given.
    pub async fn open_for_script(
        &self,
        grain: &GrainId,
        permissions: Permissions,
    ) -> Result<ScriptSession> {
        if let Permissions::Names(names) = &permissions {
            let known = self.permission_names(grain).await?;
            if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
                return Err(Error::BadRequest(if known.is_empty() {
                    format!("this app has no permission {unknown:?}; it defines none")
                } else {
                    format!("this app has no permission {unknown:?}; it has {}", known.join(", "))
                }));
            }
        }
        self.0.open_for_script(grain, permissions).await
    }

    /// Names of the permissions that the app defines; wakes the grain.
    pub async fn permission_names(&self, grain: &GrainId) -> Result<Vec<String>> {
        self.on_home(self.0.entry(grain), |local, entry| {
            Box::pin(async move {
                let conn = local.slot(&entry).conn_for_person(&local).await?;
                Ok(conn.permission_names().await?.to_vec())
            })
        })
        .await?
    }

    pub fn state(&self, grain: &GrainId) -> GrainState {
        self.0.known(grain).map_or(GrainState::Asleep, |entry| entry.state())
    }

    pub fn watch(&self, grain: &GrainId) -> watch::Receiver<GrainState> {
        self.0.entry(grain).watch()
    }

    /// Starts the grain if it sleeps and waits until it serves.
    pub async fn wake(&self, grain: &GrainId) -> Result<()> {
        self.on_home(self.0.entry(grain), |local, entry| {
            Box::pin(async move {
                let _live = entry.live();
                local.slot(&entry).conn_for_person(&local).await.map(drop)
            })
        })
        .await?
    }

    /// Ends the grain's processes; fine if it sleeps.
    pub async fn stop(&self, grain: &GrainId) -> Result<()> {
        self.end(grain, false).await
    }

    /// Ends the grain's processes without asking them.
    pub async fn kill(&self, grain: &GrainId) -> Result<()> {
        self.end(grain, true).await
    }

    /// Lets a grain that is in the trash fall asleep; one that was taken out meanwhile stays as it is.
    pub async fn stop_in_trash(&self, grain: &GrainId) -> Result<()> {
        let work = self.on_home(self.0.entry(grain), |local, entry| {
            Box::pin(async move { local.slot(&entry).stop_in_trash(&local).await })
        });
        tokio::spawn(work).await.map_err(|e| Error::Internal(e.to_string()))??
    }

    async fn end(&self, grain: &GrainId, now: bool) -> Result<()> {
        let work = self.on_home(self.0.entry(grain), move |local, entry| {
            Box::pin(async move { local.slot(&entry).stop(&local, now).await })
        });
        // In a task of its own: a caller that gives up must not leave it half-done.
        tokio::spawn(work).await.map_err(|e| Error::Internal(e.to_string()))??
    }

    pub async fn restart(&self, grain: &GrainId) -> Result<()> {
        self.stop(grain).await?;
        self.wake(grain).await
    }

    /// What limits a running grain, as its supervisor says; nothing for one that sleeps.
    pub async fn limits(&self, grain: &GrainId) -> Result<Vec<report::LimitState>> {
        self.on_home(self.0.entry(grain), |local, entry| {
            Box::pin(async move {
                match local.slot(&entry).running() {
                    Some(conn) => report::limits(&conn.supervisor).await,
                    None => Ok(Vec::new()),
                }
            })
        })
        .await?
    }

    pub fn tab_opened(&self, grain: &GrainId, _login: LoginId) -> TabGuard {
        TabGuard(self.0.entry(grain).live())
    }

    /// The last `backlog` bytes of the grain's log, then what comes, until the receiver drops.
    pub async fn log(&self, grain: &GrainId, backlog: u64) -> Result<mpsc::Receiver<Bytes>> {
        let (send, receive) = mpsc::channel(16);
        let thread = self.0.thread(&self.0.entry(grain)).clone();
        let entry = self.0.entry(grain);
        tokio::spawn(thread.call(move |local| Box::pin(log::follow(local, entry, backlog, send))));
        Ok(receive)
    }

    /// The last `bytes` of the grain's log as it stands.
    pub async fn log_so_far(&self, grain: &GrainId, bytes: u64) -> Result<Bytes> {
        let dir = self.0.config.home.join("grains").join(grain.as_str());
        Ok(log::read(dir, bytes).await)
    }

    /// Ends every grain session of a sign-in (sign-out): requests get 403, sockets close.
    pub fn end_login(&self, login: LoginId) {
        self.0.sessions.revoke(|session| session.login == Some(login));
    }

    /// Ends every session of a grain (trash, access removed).
    pub fn revoke_grain(&self, grain: &GrainId) {
        self.0.sessions.revoke(|session| session.entry.grain == *grain);
    }

    /// The thread on which a host's requests are at home, if its session is known.
    pub fn home_of(&self, host: &GrainHost) -> Option<Thread> {
        self.0.sessions.home_of(host).map(|index| self.0.threads[index].clone())
    }

    /// Answers a request to a grain's host, from any thread.
    pub async fn serve(&self, request: Request<Incoming>, host: GrainHost) -> Response<EdgeBody> {
        let session = match gateway::admit(&self.0, &request, &host).await {
            Ok(session) => session,
            Err(refusal) => return *refusal,
        };
        let thread = self.0.thread(&session.entry).clone();
        let answer = thread.call(move |local| {
            Box::pin(async move { proxy::into_edge(proxy::serve(local, session, request).await) })
        });
        answer.await.unwrap_or_else(|_| crate::edge::reply::internal())
    }

    /// The same on a grains' thread: without a detour if the grain is at home there.
    pub async fn serve_on(
        &self,
        local: Rc<Local>,
        request: Request<Incoming>,
        host: GrainHost,
    ) -> Response<GrainBody> {
        match gateway::admit(&self.0, &request, &host).await {
            Ok(session) if session.entry.home == local.index => {
                proxy::serve(local, session, request).await
            }
            Ok(_) => self.serve(request, host).await.map(GrainBody::Whole),
            Err(refusal) => refusal.map(GrainBody::Whole),
        }
    }

    fn on_home<T, F>(
        &self,
        entry: Arc<Entry>,
        work: F,
    ) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Local>, Arc<Entry>) -> futures::future::LocalBoxFuture<'static, T>
            + Send
            + 'static,
    {
        let thread = self.0.thread(&entry).clone();
        thread.call(move |local| work(local, entry))
    }
}

/// Fresh bytes, for names that are no secret.
fn random_name() -> String {
    hex::encode(random::<8>())
}
