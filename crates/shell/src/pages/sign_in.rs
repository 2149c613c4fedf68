//! Signing in and out: development accounts where they are switched on, and links that work once.

use std::borrow::Cow;

use axum::extract::{Path, Query, State};
use axum::response::Response;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use maud::{Markup, html};
use serde::Deserialize;

use super::PageResult;
use super::layout::{self, Nav, Page};
use super::parts::icon;
use super::viewer::Viewer;
use crate::edge::ClientAddr;
use crate::error::Error;
use crate::identity::act::OpenForm;
use crate::identity::login::{decode_secret, encode_secret};
use crate::identity::text::one_line;
use crate::identity::{self, ActForm, Login, cookie};
use crate::state::App;
use crate::store::{ByLink, NewLogin, Role};

/// A path of our own, fit for `Location`: anything else could lead to another site.
pub fn local_path(to: &str) -> Option<&str> {
    let fine = to.starts_with('/')
        && !to.starts_with("//")
        && to.len() < 4096
        && to.bytes().all(|b| (0x21..0x7f).contains(&b) && b != b'\\');
    fine.then_some(to)
}

/// Where to go after.
#[derive(Debug, Deserialize)]
pub struct To {
    #[serde(default)]
    to: String,
}

/// `GET /sign-in`.
pub async fn page(Query(to): Query<To>, viewer: Viewer) -> PageResult {
    let to = local_path(&to.to).unwrap_or("/").to_owned();
    Ok(sign_in(&viewer, &to, StatusCode::OK))
}

/// `GET /sign-in/done`: leads on, or tells what a browser that keeps no cookies would otherwise show
/// as one sign-in page after the other.
pub async fn done(Query(to): Query<To>, viewer: Viewer) -> PageResult {
    let to = local_path(&to.to).unwrap_or("/");
    if viewer.login.is_some() {
        return Ok(layout::redirect(to));
    }
    let root = &viewer.app.config.root;
    let body = html! {
        section.problem {
            h1 { "Your browser did not send the sign-in cookie back" }
            p {
                "So this server cannot know you on the next page. Allow cookies for "
                bdi { (root.host) } " in the browser's settings, also those of extensions, then "
                "sign in again. A link that signs in works once: ask for a new one."
            }
            @if !cookie::secure(root) {
                p {
                    "If cookies are allowed, delete those of this address, and of the names above "
                    "it: an old one may stand in the way. With https none can."
                }
            }
            div.buttons {
                a.button.main href=(format!("/sign-in?{}", layout::to_query(to))) { "Sign in" }
            }
            p.hint { "Code " code { "S-COOKIE" } }
        }
    };
    let title = "Error: Your browser did not send the sign-in cookie back";
    let page = Page::new(title, Nav::SignIn, body).status(StatusCode::FORBIDDEN);
    let mut response = layout::respond(&viewer, page);
    harden(&mut response);
    Ok(response)
}

/// The home page of somebody who is not signed in.
pub async fn landing(viewer: Viewer) -> PageResult {
    Ok(sign_in(&viewer, "/", StatusCode::OK))
}

fn sign_in(viewer: &Viewer, to: &str, status: StatusCode) -> Response {
    let dev = viewer.app.config.allow_dev_accounts;
    let body = html! {
        section.sign-in {
            h1 { "Sign in to " bdi { (viewer.server) } }
            @if dev { (dev_form(to)) } @else { (no_provider()) }
        }
    };
    layout::respond(viewer, Page::new("Sign in", Nav::SignIn, body).status(status))
}

fn no_provider() -> Markup {
    html! {
        p { "You sign in with a link that works once. Ask whoever runs this server for one." }
        p.hint {
            "Is that you? On the server, run " code { "sandstorm admin-link" }
            " (or " code { "bin/shell admin-link" } " where it was built) and open the link that "
            "it prints."
        }
    }
}

fn dev_form(to: &str) -> Markup {
    html! {
        p.strip.warning {
            (icon("warning"))
            span { "Development accounts are switched on: anybody who reaches this page can be \
                    anybody. Never do this on a server that others reach." }
        }
        form action="/sign-in/dev" method="post" {
            input type="hidden" name="to" value=(to);
            label for="name" { "Name" }
            input #name name="name" required maxlength="60" autocomplete="username"
                aria-describedby="name-hint";
            p.hint #name-hint { "A new name makes a new account." }
            label for="role" { "Role of a new account" }
            select #role name="role" {
                option value="member" selected { "Member" }
                option value="admin" { "Administrator" }
                option value="visitor" { "Visitor" }
            }
            div.buttons { button.main { "Sign in" } }
        }
    }
}

/// The development form.
#[derive(Debug, Deserialize)]
pub struct DevForm {
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    to: String,
}

/// `POST /sign-in/dev`, which is there only where development accounts are.
pub async fn dev(
    State(app): State<App>,
    headers: HeaderMap,
    OpenForm(form): OpenForm<DevForm>,
) -> PageResult {
    let name = one_line(&form.name, identity::DEV_NAME);
    if name.is_empty() {
        return Err(Error::BadRequest("write a name".into()).into());
    }
    let role = form.role.parse().unwrap_or(Role::Member);
    let account = identity::dev_account(&app.store, &name, role).await?;
    let login = app.store.create_login(account.id, &agent(&headers)).await?;
    let login = login.ok_or_else(suspended)?;
    Ok(enter(&app, &headers, &login, local_path(&form.to).unwrap_or("/")).await)
}

fn suspended() -> Error {
    Error::Forbidden("this account is suspended".into())
}

/// The browser's own words.
fn agent(headers: &HeaderMap) -> Cow<'_, str> {
    let agent = headers.get(header::USER_AGENT);
    agent.map_or(Cow::default(), |agent| String::from_utf8_lossy(agent.as_bytes()))
}

/// Gives this browser its fresh session, ends the one it had, and leads on.
async fn enter(app: &App, headers: &HeaderMap, login: &NewLogin, to: &str) -> Response {
    let ended = async {
        match Login::find(app, headers).await? {
            Some(old) => identity::sign_out(app, old.id(), old.session.id).await,
            None => Ok(false),
        }
    };
    // The new sign-in is made, and its link used up: what fails now does not take it back.
    if let Err(error) = ended.await {
        tracing::warn!("the sign-in before could not be ended: {error}");
    }
    // By way of a page that looks whether the cookie comes back.
    let mut response = layout::redirect(&format!("/sign-in/done?{}", layout::to_query(to)));
    let headers = response.headers_mut();
    headers
        .append(header::SET_COOKIE, cookie::set(&app.config.root, &encode_secret(&login.secret)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// `GET /link/SECRET`: uses the link up, swaps it for a cookie, and leads away from its address.
pub async fn link(
    State(app): State<App>,
    Path(secret): Path<String>,
    method: Method,
    client: ClientAddr,
    headers: HeaderMap,
    viewer: Viewer,
) -> PageResult {
    let prefetch = ["sec-purpose", "purpose", "x-moz"]
        .iter()
        .any(|name| headers.get(*name).is_some_and(|v| v.as_bytes().starts_with(b"pre")));
    let secret = decode_secret(&secret);
    if prefetch {
        // Not used up for a page that nobody may come to see; the browser asks again if they do.
        let page = Page::plain("Sign in", html! {}).status(StatusCode::SERVICE_UNAVAILABLE);
        let mut response = layout::respond(&viewer, page);
        harden(&mut response);
        return Ok(response);
    }
    if method == Method::HEAD {
        // Only looking, which gets GET's status: the link stays good.
        let good = match &secret {
            Some(secret) => app.store.is_link_good(secret).await?,
            None => false,
        };
        let mut response = if good { layout::redirect("/") } else { used_up(&viewer) };
        harden(&mut response);
        return Ok(response);
    }
    let opened = match secret {
        Some(secret) => app.store.sign_in_by_link(&secret, &agent(&headers), client.0).await?,
        None => ByLink::NotGood,
    };
    match opened {
        ByLink::NotGood => Ok(used_up(&viewer)),
        ByLink::Suspended => Err(suspended().into()),
        ByLink::In { login, grain } => {
            let to = grain.map_or("/".to_owned(), |grain| format!("/grain/{grain}"));
            Ok(enter(&app, &headers, &login, &to).await)
        }
    }
}

fn used_up(viewer: &Viewer) -> Response {
    let body = html! {
        section.problem {
            h1 { "This link does not work any more" }
            p { "It was used already, or it is too old. Each link signs in once." }
            p.hint {
                "A new one comes from the server: " code { "sandstorm admin-link" }
                " (or " code { "bin/shell admin-link" } " where it was built)."
            }
            div.buttons {
                @if viewer.login.is_some() { a.button.main href="/" { "My grains" } }
                @else { a.button.main href="/sign-in" { "Sign in" } }
            }
            p.hint { "Code " code { "S-LINK" } }
        }
    };
    let page = Page::plain("Error: This link does not work any more", body);
    let mut response = layout::respond(viewer, page.status(StatusCode::GONE));
    harden(&mut response);
    response
}

fn harden(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Nothing but the token.
#[derive(Debug, Deserialize)]
pub struct Nothing {}

/// `POST /sign-out`.
pub async fn sign_out(State(app): State<App>, act: ActForm<Nothing>) -> PageResult {
    identity::sign_out(&app, act.login.id(), act.login.session.id).await?;
    let mut response = layout::redirect("/sign-in");
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, cookie::clear(&app.config.root));
    // Pages kept for the Back button go, too.
    headers.insert("clear-site-data", HeaderValue::from_static("\"cache\""));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_our_own_are_followed() {
        for good in ["/", "/grain/abc?x=%20#y", "/install/1?url=http%3A%2F%2Fx"] {
            assert_eq!(local_path(good), Some(good));
        }
        for bad in ["", "//evil", "/\\evil", "https://evil", "/a b", "/a\r\nx: y", "/ä", "/\t/x"] {
            assert_eq!(local_path(bad), None, "{bad:?}");
        }
    }
}
