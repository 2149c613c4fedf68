//! Who may speak to a grain: everything that is decided from a request's head.
//!
//! Faces the network and, worse, sibling hosts: another grain's page is same-site to this host,
//! so SameSite protects nothing here. What counts is the cookie that belongs to this host, and
//! what the browser itself says of where a request comes from.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::cookies::{self, Marks};
use super::errors::Fault;
use super::session::GrainSession;
use super::shared::Shared;
use super::{policy, session};
use crate::config::GrainHosts;
use crate::edge::{EdgeBody, GrainHost, reply};

/// What stands between a request and its grain: an answer of ours.
pub type Refusal = Box<Response<EdgeBody>>;

/// Lets a request through to its session, or says why not.
pub async fn admit<B>(
    shared: &Shared,
    request: &Request<B>,
    host: &GrainHost,
) -> Result<Arc<GrainSession>, Refusal> {
    let headers = request.headers();
    let refuse = |fault: Fault| {
        let mut answer = fault.answer(headers, &shared.config.root);
        let policy =
            policy::content_security(&shared.config, &session::origin(&shared.config, host));
        policy::apply(answer.headers_mut(), &policy);
        Err(Box::new(answer))
    };
    if request.uri().path() == "/_sandstorm-init" {
        return Err(Box::new(hand_over(shared, request, host)));
    }
    let sorted = cookies::sort(headers, host, "");
    let session = match shared.session_by_cookie(host, &sorted.sids).await {
        Ok(Some(session)) => session,
        Ok(None) => {
            let mut refusal = refuse(no_session(shared, headers, sorted.sids.is_empty()));
            if let (Err(answer), false) = (&mut refusal, sorted.sids.is_empty()) {
                let origin = session::origin(&shared.config, host);
                expire_planted(shared, host, &origin, request.uri().path(), answer.headers_mut());
            }
            return refusal;
        }
        Err(error) => return refuse(Fault::of(error, false)),
    };
    if let Err(why) = from_here(request, &session, &shared.config.grain_hosts) {
        return refuse(Fault::new(
            StatusCode::FORBIDDEN,
            "S-ORIGIN",
            "This request came from another site",
            format!("Only the grain's own page may send it here ({why})."),
            "Open the grain from your list.",
        ));
    }
    if headers.contains_key("service-worker") {
        return refuse(Fault::new(
            StatusCode::FORBIDDEN,
            "S-WORKER",
            "Service workers are switched off",
            "A service worker could take away the policy that keeps this grain's data here.",
            "The app works without one.",
        ));
    }
    Ok(session)
}

/// See [`cookies::expire_planted`].
pub fn expire_planted(
    shared: &Shared,
    host: &GrainHost,
    origin: &str,
    path: &str,
    headers: &mut HeaderMap,
) {
    let name = origin.split_once("://").map_or("", |(_, name)| name);
    cookies::expire_planted(host, name, path, marks(shared), headers);
}

/// `/_sandstorm-init?ticket=T&path=P`: one use, then a cookie and a redirect.
fn hand_over<B>(shared: &Shared, request: &Request<B>, host: &GrainHost) -> Response<EdgeBody> {
    let origin = session::origin(&shared.config, host);
    let policy = policy::content_security(&shared.config, &origin);
    let finish = |mut answer: Response<EdgeBody>| {
        policy::apply(answer.headers_mut(), &policy);
        answer
            .headers_mut()
            .insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        answer
    };
    let mut ticket = None;
    let mut path = "/".to_owned();
    for (name, value) in
        url::form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
    {
        match &*name {
            "ticket" => ticket = Some(value.into_owned()),
            "path" => path = value.into_owned(),
            _ => {}
        }
    }
    let ticket = match ticket.filter(|_| *request.method() == Method::GET) {
        Some(ticket) => shared.sessions.redeem(&ticket, host),
        None => None,
    };
    let Some(ticket) = ticket else {
        return finish(
            Fault::new(
                StatusCode::FORBIDDEN,
                "S-TICKET",
                "This way in was used already",
                "An address like this opens a grain once, within a minute.",
                "Load the grain's page again.",
            )
            .answer(request.headers(), &shared.config.root),
        );
    };
    // A path of our own making, whatever was asked: `//elsewhere` and `\` lead off this host.
    let path = format!("/{}", path.trim_start_matches(['/', '\\']));
    let path = percent_encoding::utf8_percent_encode(&path, LOCATION).to_string();
    let mut answer = reply::redirect(StatusCode::SEE_OTHER, &path);
    let headers = answer.headers_mut();
    let marks = marks(shared);
    headers.append(header::SET_COOKIE, cookies::sid_line(host, &ticket.sid, marks));
    if let Some(mark) = &ticket.mark {
        cookies::forget_others(request.headers(), host, mark, marks, headers);
    }
    finish(answer)
}

/// How cookies of grain hosts are marked under these settings.
pub fn marks(shared: &Shared) -> Marks {
    Marks {
        https: shared.config.root.https,
        cross_site: matches!(&shared.config.grain_hosts,
            GrainHosts::Wildcard(wildcard) if wildcard.cross_site),
        trustworthy: shared.config.root.is_trustworthy(),
    }
}

/// Does the request come from the grain's own page?
fn from_here<B>(
    request: &Request<B>,
    session: &GrainSession,
    hosts: &GrainHosts,
) -> Result<(), String> {
    let headers = request.headers();
    let text = |name: &str| headers.get(name).map(|v| v.to_str().unwrap_or("unreadable"));
    let origin = text("origin");
    let own = origin == Some(session.origin.as_str());
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    match text("sec-fetch-site") {
        Some("same-origin") => match origin {
            // A page with the policy `no-referrer` has the origin `null`.
            None | Some("null") => Ok(()),
            Some(_) if own => Ok(()),
            Some(other) => Err(format!("origin {other}")),
        },
        Some("none") => Ok(()),
        Some(site) => {
            let near = site == "same-site"
                || matches!(hosts, GrainHosts::Wildcard(w) if w.cross_site && site == "cross-site");
            let frame = text("sec-fetch-dest") == Some("iframe")
                && text("sec-fetch-mode") == Some("navigate");
            // The shell's page loads its frame; `frame-ancestors` keeps others from doing so.
            if near && frame && *request.method() == Method::GET {
                Ok(())
            } else {
                Err(format!("Sec-Fetch-Site {site}"))
            }
        }
        None => match origin {
            Some(_) if own => Ok(()),
            Some(other) => Err(format!("origin {other}")),
            None if (reads && !is_upgrade(headers)) || session.script => Ok(()),
            None => Err("it names no origin".into()),
        },
    }
}

/// A WebSocket handshake, as far as the head tells.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let has = |name: header::HeaderName, token: &str| {
        headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|item| item.trim().eq_ignore_ascii_case(token))
    };
    has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade")
}

fn no_session(shared: &Shared, headers: &HeaderMap, no_cookie: bool) -> Fault {
    let framed = headers.get("sec-fetch-dest").is_some_and(|dest| dest == "iframe");
    if no_cookie && framed {
        let root = &shared.config.root;
        let why = if root.is_trustworthy() {
            "It may block all cookies, or cookies in frames.".to_owned()
        } else {
            format!("It may block cookies, or refuse them because {root} is plain http.")
        };
        return Fault::new(
            StatusCode::FORBIDDEN,
            "S-COOKIE",
            "Your browser did not send the grain's cookie back",
            why,
            format!(
                "Allow cookies for {} and the names below it in your browser's settings, then \
                 load the grain's page again. If that does not help, the operator can set \
                 GRAIN_MODE=port or use https.",
                root.host
            ),
        );
    }
    Fault::new(
        StatusCode::FORBIDDEN,
        "S-SESSION",
        "This grain is not open here",
        if no_cookie {
            "The request brings no cookie of this grain."
        } else {
            "Its cookie has ended: you signed out, or the grain was opened anew."
        },
        format!("Open the grain from {}/.", shared.config.root),
    )
}

/// What may not stand in a Location header; everything else stays as it was typed.
const LOCATION: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
