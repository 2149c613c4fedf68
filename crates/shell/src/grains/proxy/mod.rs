//! One request to a grain: wake it, ask its app, hand back the answer.
//!
//! Runs on the grain's home thread. Whatever the app does ends here: a broken answer is a clear
//! error, a broken body a cut connection, and a client that leaves takes its call with it.

pub mod answer;
mod body;
mod call;
pub mod context;
mod upload;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use sandstorm_schema::rpc::body::{BodyReceiver, Start};

pub use body::{AppStream, GrainBody, into_edge};

use self::answer::{Asked, BodyKind, Converted};
use self::call::Target;
use self::context::Head;
use self::upload::Payload;
use super::conn::{Conn, Visitor, WebSession};
use super::cookies::{self, Sorted};
use super::errors::Fault;
use super::gateway::{self, is_upgrade, marks};
use super::pool::Local;
use super::session::GrainSession;
use super::shared::Live;
use super::slot::Slot;
use super::{GrainState, Permissions, policy, websocket};
use crate::edge::{EdgeBody, Peer, reply};
use crate::error::{Error, Result};

/// Requests, bodies and sockets of one grain at once.
const MAX_LIVE: usize = 1024;
/// An app that streams usually says the length, or sends the first bytes, with its answer; one
/// that says nothing for so long (server-sent events) gets its head sent without a length.
const FIRST_BYTES: Duration = Duration::from_millis(25);

/// What Sandstorm tells an app of a client that names no language.
const DEFAULT_LANGUAGES: [&str; 2] = ["en-US", "en"];

/// How soon after such an answer an app that is ending has ended: its bridge alone stays for 300 ms.
const LAST_BREATH: Duration = Duration::from_millis(800);

/// What a request is, apart from its body.
pub struct Ask<'a> {
    pub local: &'a Rc<Local>,
    pub session: &'a Arc<GrainSession>,
    pub slot: Rc<Slot>,
    pub parts: &'a Parts,
    pub head: Head<'a>,
}

/// Answers a request that was admitted to `session`.
pub async fn serve(
    local: Rc<Local>,
    session: Arc<GrainSession>,
    request: Request<Incoming>,
) -> Response<GrainBody> {
    let live = session.entry.live();
    let (mut parts, body) = request.into_parts();
    let upgrade = is_upgrade(&parts.headers)
        .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
        .flatten();
    let sorted = cookies::sort(&parts.headers, &session.host, &session.cookie_prefix);
    let Sorted { app, excess, sids } = sorted;
    let revoked = session.revoked.clone();
    let work = answer(&local, &session, &parts, app, body, upgrade, live);
    let result = tokio::select! {
        result = work => result,
        () = revoked.cancelled() => Err(Fault::new(
            StatusCode::FORBIDDEN,
            "S-SESSION",
            "This grain is not open here",
            "Its session has just ended: you signed out, or access was removed.",
            format!("Open the grain from {}/.", local.shared.config.root),
        )),
    };
    let mut answer = match result {
        Ok(answer) => only_in_its_frame(&local, &session, &parts, answer),
        Err(fault) => fault.answer(&parts.headers, &local.shared.config.root).map(GrainBody::Whole),
    };
    policy::apply(answer.headers_mut(), &session.policy);
    if !excess.is_empty() {
        let host = session.origin.split_once("://").map_or("", |(_, host)| host);
        cookies::expire(&excess, host, answer.headers_mut());
    }
    if sids.len() > 1 {
        let (shared, path) = (&local.shared, parts.uri.path());
        let (host, origin) = (&session.host, &session.origin);
        gateway::expire_planted(shared, host, origin, path, answer.headers_mut());
    }
    answer
}

async fn answer(
    local: &Rc<Local>,
    session: &Arc<GrainSession>,
    parts: &Parts,
    cookies: Vec<(&str, &str)>,
    body: Incoming,
    upgrade: Option<hyper::upgrade::OnUpgrade>,
    live: Live,
) -> std::result::Result<Response<GrainBody>, Fault> {
    let owner = session.permissions == Permissions::All;
    if session.entry.live_count() > MAX_LIVE {
        let busy = Error::Overloaded("It has more than 1,024 requests open.".into());
        return Err(Fault::of(busy, owner));
    }
    let target = call::target(parts, session)?;
    let head = Head::read(parts, cookies)?;
    let ask = Ask { local, session, slot: local.slot(&session.entry), parts, head };
    if is_upgrade(&parts.headers) {
        let Some(upgrade) = upgrade else {
            let why = "This connection cannot become a WebSocket.".into();
            return Err(Fault::of(Error::BadRequest(why), owner));
        };
        return websocket::open(&ask, upgrade, live).await;
    }
    let mut payload = Payload::read(body, &target, &session.room).await?;
    let result = exchange(&ask, &target, &mut payload).await;
    let converted = match result {
        Ok(done) => done,
        Err(error) => return Err(Fault::of(error, owner)),
    };
    let (Converted { answer, body }, receiver) = converted;
    finish(session, parts, answer, body, receiver, live).await
}

/// Asks the app; once more, from a fresh start, if it went away under a request that may be
/// repeated.
async fn exchange(
    ask: &Ask<'_>,
    target: &Target<'_>,
    payload: &mut Payload,
) -> Result<(Converted, BodyReceiver)> {
    for again in [false, true] {
        let conn = ask.slot.conn(ask.local, again).await?;
        let asked = Asked {
            facts: ask.head.facts,
            head: ask.parts.method == Method::HEAD,
            cookie_prefix: &ask.session.cookie_prefix,
            marks: marks(&ask.local.shared),
        };
        let counted = conn.counted();
        let opened = open_session(ask, &conn).await;
        // Nothing was asked yet, so even a POST may try again.
        if !again && matches!(opened, Err(Error::Disconnected(_))) {
            counted.answered();
            gone(ask, &conn).await;
            continue;
        }
        let result = match opened {
            Ok(web) => call::call(ask, (&conn, &web), target, payload, &asked).await,
            Err(error) => Err(error),
        };
        counted.answered();
        match result {
            Err(Error::Disconnected(_))
                if !again && target.idempotent && payload.is_replayable() =>
            {
                gone(ask, &conn).await;
            }
            Err(Error::Disconnected(why)) => {
                gone(ask, &conn).await;
                return Err(verdict(ask, why).await);
            }
            // The app, or its bridge, says 502 with its last breath.
            Ok((converted, _))
                if !again
                    && converted.answer.status() == StatusCode::BAD_GATEWAY
                    && target.idempotent
                    && payload.is_replayable()
                    && tokio::time::timeout(LAST_BREATH, conn.closed()).await.is_ok() => {}
            Ok(done) => {
                if !conn.answered.replace(true) {
                    ask.slot.settle(ask.local, &conn).await;
                }
                return Ok(done);
            }
            Err(error) => return Err(error),
        }
    }
    Err(verdict(ask, "It ended twice.".into()).await)
}

/// The session inside the app.
pub async fn open_session(ask: &Ask<'_>, conn: &Conn) -> Result<WebSession> {
    let headers = &ask.parts.headers;
    let mut languages: Vec<&str> = context::text(headers, "accept-language")
        .split(',')
        .map(str::trim)
        .filter(|language| !language.is_empty())
        .take(32)
        .collect();
    if languages.is_empty() {
        languages.extend(DEFAULT_LANGUAGES);
    }
    let visitor = Visitor { user_agent: context::text(headers, "user-agent"), languages };
    conn.session(ask.session, visitor).await
}

/// The session is of no use any more; if the whole connection is, wait until that is known.
pub async fn gone(ask: &Ask<'_>, conn: &Rc<Conn>) {
    conn.forget_session(&ask.session.sid_hash);
    // A lost connection is noticed at once; only an app that merely dropped the session lives on.
    let _ = tokio::time::timeout(Duration::from_millis(1500), conn.closed()).await;
}

/// Why the app went away, once that is known.
pub async fn verdict(ask: &Ask<'_>, why: String) -> Error {
    let mut state = ask.session.entry.watch();
    let settled = state.wait_for(|state| matches!(state, GrainState::Crashed { .. }));
    match tokio::time::timeout(Duration::from_secs(3), settled).await {
        Ok(Ok(state)) => match &*state {
            GrainState::Crashed { reason, code, log_tail, .. } => Error::GrainFailed {
                reason: reason.clone(),
                code: code.clone(),
                log_tail: log_tail.clone(),
            },
            _ => Error::Disconnected(why),
        },
        _ => Error::Disconnected(why),
    }
}

/// Resolves when the client has left for good; see [`Peer::left`].
pub async fn left(peer: Option<&Peer>) {
    match peer {
        Some(peer) => peer.left().await,
        None => std::future::pending().await,
    }
}

async fn finish(
    session: &GrainSession,
    parts: &Parts,
    answer: Response<()>,
    body: BodyKind,
    mut receiver: BodyReceiver,
    live: Live,
) -> std::result::Result<Response<GrainBody>, Fault> {
    Ok(match body {
        BodyKind::Bytes(bytes) => {
            let held = session.room.hold(bytes, live).await?;
            answer.map(|()| GrainBody::Whole(EdgeBody::full(held)))
        }
        BodyKind::Stream(_) if parts.method == Method::HEAD => {
            answer.map(|()| GrainBody::Whole(EdgeBody::empty()))
        }
        BodyKind::Stream(handle) => {
            let length = match tokio::time::timeout(FIRST_BYTES, receiver.start()).await {
                Ok(Ok(Start::Size(size))) => Some(size),
                Ok(Ok(Start::Empty)) => Some(0),
                // An error shows again when the body is read, and cuts it.
                _ => None,
            };
            let stream = AppStream::new(receiver, length, &session.revoked, handle, live);
            answer.map(|()| GrainBody::Stream(Box::new(stream)))
        }
    })
}

/// A grain's page lives in its frame: asked for as a whole document, it sends the browser to the
/// shell's page around it. Downloads are delivered.
fn only_in_its_frame(
    local: &Local,
    session: &GrainSession,
    parts: &Parts,
    answer: Response<GrainBody>,
) -> Response<GrainBody> {
    let document =
        parts.headers.get("sec-fetch-dest").is_some_and(|dest| dest.as_bytes() == b"document");
    let attachment = answer
        .headers()
        .get(header::CONTENT_DISPOSITION)
        .is_some_and(|value| value.as_bytes().to_ascii_lowercase().starts_with(b"attachment"));
    if !document || attachment || answer.status() == StatusCode::NO_CONTENT {
        return answer;
    }
    let to = format!(
        "{}/grain/{}/{}",
        local.shared.config.root,
        session.entry.grain,
        context::path(parts)
    );
    let mut redirect = reply::redirect(StatusCode::SEE_OTHER, &to).map(GrainBody::Whole);
    // What the app set besides stays set.
    for cookie in answer.headers().get_all(header::SET_COOKIE) {
        redirect.headers_mut().append(header::SET_COOKIE, HeaderValue::clone(cookie));
    }
    redirect
}
