//! One WebSocket a tab: what changed, and that the tab is still there.
//!
//! Trust: the socket belongs to a sign-in, proved by its cookie and by its origin, and hears only
//! of what that person may see. It carries names of what changed, never the data: the page asks
//! for that by the routes that check rights.
//!
//! Not server-sent events: a browser keeps six connections to a host over HTTP/1.1, and seven open
//! grains would hang.

use std::time::Duration;

use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::response::Response;
use http::HeaderMap;
use serde::Deserialize;
use tokio::sync::broadcast::error::RecvError;

use crate::grains::TabGuard;
use crate::identity::{Login, RECHECK, check_origin};
use crate::ids::{GrainId, PackageId};
use crate::pages::PageError;
use crate::state::{App, Event};

/// Proxies cut what is silent for a minute.
const PING: Duration = Duration::from_secs(25);
/// The page has nothing long to say (bytes).
const MAX_MESSAGE: usize = 1024;

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
    // Before the browser hears that the socket is open: it then looks at everything, and whatever
    // happens after that look must be told.
    let events = app.events.subscribe();
    let state = grain.as_ref().map(|id| app.grains.watch(id));
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    Ok(upgrade.on_upgrade(move |socket| async move {
        let tab = grain.as_ref().map(|id| app.grains.tab_opened(id, login.session.id));
        serve(app, login, (grain, install), tab, socket, events, state).await;
    }))
}

async fn serve(
    app: App,
    login: Login,
    (grain, install): (Option<GrainId>, Option<PackageId>),
    _tab: Option<TabGuard>,
    mut socket: WebSocket,
    mut events: tokio::sync::broadcast::Receiver<Event>,
    mut state: Option<tokio::sync::watch::Receiver<crate::grains::GrainState>>,
) {
    let mut ping = tokio::time::interval(PING);
    let mut recheck = tokio::time::interval(RECHECK);
    recheck.tick().await;
    loop {
        let news = tokio::select! {
            event = events.recv() => match event {
                Ok(event) => match name_of(&app, &login, (&grain, install), event).await {
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
    let _ = socket.send(Message::Close(None)).await;
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
async fn name_of(
    app: &App,
    login: &Login,
    (open, shown): (&Option<GrainId>, Option<PackageId>),
    event: Event,
) -> Result<Option<String>, SignedOut> {
    Ok(match event {
        Event::GrainChanged(id) => {
            match app.store.grain(id.as_ref()).await {
                Ok(Some(grain)) if grain.owner == login.id() => Some(format!("grain:{id}")),
                // One that is deleted for good is nobody's any more; its page must still hear of it.
                Ok(_) => (open.as_ref() == Some(&id)).then(|| format!("grain:{id}")),
                // Whose it is cannot be told just now: look at everything that is shown.
                Err(error) => {
                    tracing::warn!("a grain's owner could not be looked up: {error}");
                    Some("all".to_owned())
                }
            }
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
