//! The document around every page: head, bars, rail, live regions, and the headers that bind it.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use maud::{DOCTYPE, Markup, html};

use super::parts::{avatar, icon, mark, notices};
use super::viewer::{Look, Viewer};
use crate::assets;
use crate::identity::act::TOKEN_FIELD;

/// Which item of the menus is lit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nav {
    /// None.
    None,
    /// The grain list.
    Grains,
    /// Something new.
    New,
    /// Apps and installing.
    Apps,
    /// The person's own page.
    You,
    /// Administration.
    Admin,
    /// The sign-in page: its form is all that it offers.
    SignIn,
}

/// A page before it is wrapped.
#[derive(Debug)]
pub struct Page {
    title: String,
    nav: Nav,
    body: Markup,
    rail: Option<Markup>,
    status: StatusCode,
    frame: Option<String>,
    bare: bool,
    refresh: bool,
    wide: bool,
    search: String,
    icon: Option<String>,
}

impl Page {
    /// A page with bars.
    pub fn new(title: &str, nav: Nav, body: Markup) -> Page {
        Page {
            title: title.to_owned(),
            nav,
            body,
            rail: None,
            status: StatusCode::OK,
            frame: None,
            bare: false,
            refresh: false,
            wide: false,
            search: String::new(),
            icon: None,
        }
    }

    /// A page that belongs to no menu item.
    pub fn plain(title: &str, body: Markup) -> Page {
        Page::new(title, Nav::None, body)
    }

    /// The grain's page: no bars of ours, and exactly one origin in frames.
    pub fn grain(title: &str, body: Markup, frame: Option<String>) -> Page {
        Page { frame, bare: true, ..Page::plain(title, body) }
    }

    /// With this beside it.
    pub fn rail(self, rail: Markup) -> Page {
        Page { rail: Some(rail), ..self }
    }

    /// As wide as lists may be.
    pub fn wide(self) -> Page {
        Page { wide: true, ..self }
    }

    /// With this package's icon in the browser's tab.
    pub fn icon(self, package_id: &str) -> Page {
        Page { icon: Some(format!("/icon/{package_id}/grain")), ..self }
    }

    /// With this in the search box.
    pub fn search(self, words: &str) -> Page {
        Page { search: words.to_owned(), ..self }
    }

    /// Loaded again by itself, where there is no script.
    pub fn refreshing(self, on: bool) -> Page {
        Page { refresh: on, ..self }
    }

    /// With another status.
    pub fn status(self, status: StatusCode) -> Page {
        Page { status, ..self }
    }
}

/// The page as an answer.
pub fn respond(viewer: &Viewer, page: Page) -> Response {
    let frame = page.frame.clone();
    let status = page.status;
    let mut response = (status, document(viewer, page)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, policy(viewer, frame.as_deref()));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}

/// Headers of every answer that is one person's: kept by no cache but the browser's own, framed by
/// nobody. `middleware` puts them on.
pub fn guard(response: &mut Response) {
    let headers = response.headers_mut();
    let is_html = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/html");
    if headers.get(header::CONTENT_TYPE).is_some_and(is_html) {
        // A part of a page, which its script puts there; alone it needs nothing.
        headers
            .entry(header::CONTENT_SECURITY_POLICY)
            .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    }
    for (name, value) in [
        (header::CACHE_CONTROL, "private, no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    for (name, value) in [
        // Windows that an app opens must go on working, so not plain `same-origin`.
        ("cross-origin-opener-policy", "same-origin-allow-popups"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

fn policy(viewer: &Viewer, frame: Option<&str>) -> HeaderValue {
    let root = &viewer.app.config.root;
    // Some browsers do not count our own WebSocket as 'self'.
    let socket = format!("{}://{}", if root.https { "wss" } else { "ws" }, root.authority());
    let text = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self' {socket}; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'; frame-src {}",
        frame.unwrap_or("'none'")
    );
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("default-src 'none'"))
}

/// Compresses a page. The form tokens in it look different in each answer (`Login::token`), so its
/// length tells nothing about them.
pub async fn pack(response: Response) -> Response {
    let is_page = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if !is_page || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    // Our own pages are whole in memory, so this waits for nothing.
    let Ok(body) = axum::body::to_bytes(body, usize::MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    if body.len() < 1024 {
        return Response::from_parts(parts, body.into());
    }
    let body = assets::gzip(&body, flate2::Compression::new(5));
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(parts, body.into())
}

/// A 303 to a path of our own.
pub fn redirect(to: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let to = HeaderValue::from_str(to).unwrap_or(HeaderValue::from_static("/"));
    response.headers_mut().insert(header::LOCATION, to);
    response
}

/// `to=PATH`, encoded.
pub fn to_query(path: &str) -> String {
    url::form_urlencoded::Serializer::new(String::new()).append_pair("to", path).finish()
}

/// The hidden field without which no form changes anything.
pub fn token_field(viewer: &Viewer) -> Markup {
    html! { input type="hidden" name=(TOKEN_FIELD) value=(viewer.token()); }
}

fn document(viewer: &Viewer, page: Page) -> Markup {
    let signed_in = viewer.login.is_some();
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[(viewer.look != Look::System).then(|| viewer.look.as_str())] {
            head {
                meta charset="utf-8";
                meta name="viewport"
                    content="width=device-width, initial-scale=1, viewport-fit=cover, \
                             interactive-widget=resizes-content";
                meta name="color-scheme" content="light dark";
                title {
                    (page.title)
                    @if !page.title.ends_with(viewer.server.as_str()) { " - " (viewer.server) }
                }
                link rel="stylesheet" href=(assets::STYLE.path());
                @match &page.icon {
                    Some(icon) => { link rel="icon" href=(icon); }
                    None => { link rel="icon" type="image/svg+xml" href=(assets::FAVICON.path()); }
                }
                script type="module" src=(assets::SCRIPT.path()) {}
                @if page.refresh {
                    noscript { meta http-equiv="refresh" content="2"; }
                }
            }
            body.grain-page[page.bare] data-signed-in=[signed_in.then_some("")]
                data-token=[signed_in.then(|| viewer.token())]
                data-member=[viewer.login.as_ref().is_some_and(|l| l.is_member()).then_some("")] {
                a.skip href="#main" { "Skip to the content" }
                @if !page.bare { (top_bar(viewer, &page)) }
                // The overview lists them with what to do.
                @if !page.bare && page.nav != Nav::Admin { (warnings(viewer)) }
                div.columns[!page.bare].with-rail[page.rail.is_some()] {
                    @if let Some(rail) = &page.rail { (rail) }
                    main #main.wide[page.wide] tabindex="-1" {
                        @if !page.bare { (notices(viewer)) }
                        (page.body)
                    }
                }
                @if !page.bare && signed_in { (bottom_bar(viewer, page.nav)) }
                div #said.unseen role="status" {}
                div #alarm.unseen role="alert" {}
            }
        }
    }
}

fn top_bar(viewer: &Viewer, page: &Page) -> Markup {
    html! {
        header.top {
            a.home href="/" { (mark()) span { bdi { (viewer.server) } } }
            @if let Some(login) = &viewer.login {
                form.search role="search" action="/" method="get" {
                    label.unseen for="q" { "Search your grains" }
                    (icon("search"))
                    input #q type="search" name="q" value=(page.search) autocomplete="off"
                        maxlength="200" placeholder="Search" aria-keyshortcuts="/";
                    kbd aria-hidden="true" { "Ctrl K" }
                }
                nav.places aria-label="Places" {
                    (place("/", "Grains", page.nav == Nav::Grains))
                    (place("/apps", "Apps", page.nav == Nav::Apps))
                    @if login.is_admin() {
                        (place("/admin", "Administration", page.nav == Nav::Admin))
                    }
                }
                a.quiet href="/notices" aria-label="News" title="News" { (icon("bell")) }
                a.me href="/you" aria-label={ "You, " (login.account().display_name) }
                    title="You" aria-current=[(page.nav == Nav::You).then_some("page")] {
                    (avatar(login.account()))
                }
            } @else if page.nav != Nav::SignIn {
                a.button href=(format!("/sign-in?{}", to_query(&viewer.path))) { "Sign in" }
            }
        }
    }
}

fn place(href: &str, name: &str, here: bool) -> Markup {
    html! { a href=(href) aria-current=[here.then_some("page")] { (name) } }
}

fn bottom_bar(viewer: &Viewer, nav: Nav) -> Markup {
    let item = |href: &str, symbol: &str, name: &str, here: bool| {
        html! {
            a href=(href) aria-current=[here.then_some("page")] { (icon(symbol)) span { (name) } }
        }
    };
    let admin = viewer.login.as_ref().is_some_and(|login| login.is_admin());
    let member = viewer.login.as_ref().is_some_and(|login| login.is_member());
    html! {
        nav.bottom aria-label="Main" {
            (item("/", "grains", "Grains", nav == Nav::Grains))
            (item("/apps", "apps", "Apps", nav == Nav::Apps))
            @if member { (item("/new", "plus", "New", nav == Nav::New)) }
            @if admin { (item("/admin", "gauge", "Admin", nav == Nav::Admin)) }
            (item("/you", "person", "You", nav == Nav::You))
        }
    }
}

/// What every administrator must know about the settings.
fn warnings(viewer: &Viewer) -> Markup {
    let admin = viewer.login.as_ref().is_some_and(|login| login.is_admin());
    html! {
        @if admin {
            @for warning in &viewer.app.config.warnings {
                p.strip.warning role="note" {
                    (icon("warning"))
                    span { (warning.what) br; span.hint { (warning.fix) } }
                }
            }
        }
    }
}
