//! One WebSocket a tab: what changed, and that the tab is still there.
//!
//! Trust: the socket belongs to a sign-in, proved by its cookie and by its origin, and hears only
//! of what that person may see. It carries names of what changed, never the data: the page asks
//! for that by the routes that check rights.
//!
//! Not server-sent events: a browser keeps six connections to a host over HTTP/1.1, and seven open
//! grains would hang.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::identity::{Login, RECHECK, check_origin};
use crate::ids::{GrainId, LoginId, PackageId};
use crate::pages::PageError;
use crate::state::{App, Event};

/// Proxies cut what is silent for a minute.
const PING: Duration = Duration::from_secs(25);
/// The page has nothing long to say (bytes).
const MAX_MESSAGE: usize = 1024;

/// Sockets of one sign-in: a tab has one. More cost every event more, and a script can open
/// thousands.
const MAX_SOCKETS: usize = 32;
/// The close code for a socket whose place a newer one has; the page waits until it is looked at.
/// Codes from 4000 are an application's own (RFC 6455 §7.4.2).
const TOO_MANY: u16 = 4029;

/// The sockets that are open, by sign-in. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sockets(Arc<Mutex<HashMap<LoginId, VecDeque<CancellationToken>>>>);

/// One socket's place among those of its sign-in, until it is dropped.
pub struct Place {
    sockets: Sockets,
    login: LoginId,
    /// Cancelled when a newer one needed the place.
    taken: CancellationToken,
}

impl Sockets {
    /// Takes a place; of too many the oldest ends.
    fn open(&self, login: LoginId) -> Place {
        let taken = CancellationToken::new();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.entry(login).or_default();
        mine.push_back(taken.clone());
        while mine.len() > MAX_SOCKETS {
            mine.pop_front().inspect(CancellationToken::cancel);
        }
        Place { sockets: self.clone(), login, taken }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.taken.is_cancelled() {
            return;
        }
        // Marks its own entry, so that it can be found.
        self.taken.cancel();
        let mut all = self.sockets.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mine) = all.get_mut(&self.login) {
            mine.retain(|one| !one.is_cancelled());
            if mine.is_empty() {
                all.remove(&self.login);
            }
        }
    }
}

/// How long a client may take to read that its socket ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// What the page shows.
#[derive(Debug, Deserialize)]
pub struct Shows {
    /// The open grain, on its page.
    grain: Option<String>,
    /// The installation whose steps are shown.
    install: Option<String>,
}

/// `GET /live?grain=ID` or `?install=ID`.
pub async fn socket(
    State(app): State<App>,
    Query(shows): Query<Shows>,
    headers: HeaderMap,
    login: Login,
    upgrade: WebSocketUpgrade,
) -> Result<Response, PageError> {
    // Browsers let any page open a WebSocket anywhere, with cookies.
    check_origin(&app, &headers)?;
    let grain = match shows.grain {
        Some(id) => Some(crate::pages::open_grain(&app, &login, &id).await?),
        None => None,
    };
    let install = shows.install.and_then(|id| id.parse().ok());
    let place = app.sockets.open(login.session.id);
    // Before the browser hears that the socket is open: it then looks at everything, and whatever
    // happens after that look must be told.
    let events = app.events.subscribe();
    let state = grain.as_ref().map(|id| app.grains.watch(id));
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let _tab = grain.as_ref().map(|id| app.grains.tab_opened(id, login.session.id));
        serve(app, login, (grain, install), place, socket, events, state).await;
    }))
}

async fn serve(
    app: App,
    login: Login,
    (grain, install): (Option<GrainId>, Option<PackageId>),
    place: Place,
    mut socket: WebSocket,
    events: tokio::sync::broadcast::Receiver<Event>,
    state: Option<tokio::sync::watch::Receiver<crate::grains::GrainState>>,
) {
    let end = tokio::select! {
        () = tell(&app, &login, (grain, install), &mut socket, events, state) => None,
        // Also in the middle of a word that nobody reads.
        () = place.taken.cancelled() => {
            Some(CloseFrame { code: TOO_MANY, reason: "too many at once".into() })
        }
    };
    let _ = tokio::time::timeout(FAREWELL, socket.send(Message::Close(end))).await;
}

/// Tells what happens until somebody ends it.
async fn tell(
    app: &App,
    login: &Login,
    (grain, install): (Option<GrainId>, Option<PackageId>),
    socket: &mut WebSocket,
    mut events: tokio::sync::broadcast::Receiver<Event>,
    mut state: Option<tokio::sync::watch::Receiver<crate::grains::GrainState>>,
) {
    let mut ping = tokio::time::interval(PING);
    // The first at once: it may have ended before we listened.
    let mut recheck = tokio::time::interval(RECHECK);
    loop {
        let news = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => match name_of(login, (&grain, install), event) {
                    Ok(Some(name)) => name,
                    Ok(None) => continue,
                    Err(SignedOut) => "signed-out".to_owned(),
                },
                // Too much happened to tell: look at everything.
                Err(RecvError::Lagged(_)) => "all".to_owned(),
                Err(RecvError::Closed) => break,
            },
            () = changed(&mut state) => match &grain {
                Some(id) => format!("grain:{id}"),
                None => continue,
            },
            _ = ping.tick() => match socket.send(Message::Ping(Default::default())).await {
                Ok(()) => continue,
                Err(_) => break,
            },
            _ = recheck.tick() => match app.store.login_by_id(login.session.id).await {
                Ok(None) => "signed-out".to_owned(),
                _ => continue,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => continue,
            },
        };
        let over = news == "signed-out";
        if socket.send(Message::Text(news.into())).await.is_err() || over {
            break;
        }
    }
}

async fn changed(state: &mut Option<tokio::sync::watch::Receiver<crate::grains::GrainState>>) {
    if let Some(watch) = state {
        if watch.changed().await.is_ok() {
            return;
        }
    }
    std::future::pending().await
}

struct SignedOut;

/// What this person is told of an event, if anything.
fn name_of(
    login: &Login,
    (open, shown): (&Option<GrainId>, Option<PackageId>),
    event: Event,
) -> Result<Option<String>, SignedOut> {
    Ok(match event {
        // One that is deleted for good is nobody's any more; its page must still hear of it.
        Event::GrainChanged { grain, owner } => (owner == Some(login.id())
            || open.as_ref() == Some(&grain))
        .then(|| format!("grain:{grain}")),
        Event::GrainsChanged(grains) => {
            open.as_ref().filter(|id| grains.contains(id)).map(|id| format!("grain:{id}"))
        }
        Event::AccountChanged(id) => (id == login.id()).then(|| "account".to_owned()),
        // A package's id is all that one needs to have it, so nobody is told one that they do not
        // know: what others install is theirs.
        Event::InstallChanged(id) => {
            (login.is_member() && shown == Some(id)).then(|| format!("install:{id}"))
        }
        Event::LoginEnded(id) if id == login.session.id => return Err(SignedOut),
        Event::LoginEnded(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_too_many_sockets_the_oldest_ends() {
        let sockets = Sockets::default();
        let mut places: Vec<_> = (0..MAX_SOCKETS + 3).map(|_| sockets.open(LoginId(1))).collect();
        let other = sockets.open(LoginId(2));
        let ended: Vec<_> = places.iter().map(|place| place.taken.is_cancelled()).collect();
        assert!(ended[..3].iter().all(|&ended| ended), "the three oldest");
        assert!(ended[3..].iter().all(|&ended| !ended) && !other.taken.is_cancelled());
        // One that closes makes room for one.
        drop(places.pop());
        places.push(sockets.open(LoginId(1)));
        assert!(!places[3].taken.is_cancelled());
        drop((places, other));
        assert!(sockets.0.lock().unwrap().is_empty());
    }
}
