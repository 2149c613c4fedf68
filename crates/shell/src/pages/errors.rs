//! Error pages: what happened, why, what to do, and a code that stands in the log too.

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use maud::{Markup, html};

use super::layout::{self, Page};
use super::sign_in::local_path;
use super::viewer::{PART_HEADER, Viewer};
use crate::error::Error;
use crate::install::failure::coded;
use crate::pace;
use crate::state::App;

/// The code of what was asked by nobody who is signed in.
const SIGNED_OUT: &str = "S-SIGNIN";

/// Why a page's handler could not answer.
#[derive(Clone, Debug)]
pub enum PageError {
    /// Nobody is signed in, and the page is somebody's.
    SignIn,
    /// Something with a status, a kind and words.
    Told {
        /// Of the answer.
        status: StatusCode,
        /// Such as `S-DB`; empty where the status says all.
        kind: &'static str,
        /// What the person should know.
        words: String,
    },
}

impl From<Error> for PageError {
    fn from(error: Error) -> PageError {
        let status = error.status();
        let words = match &error {
            error if error.is_disk_full() => {
                tracing::error!("{error}");
                "Not everything could be saved. Ask whoever runs this server to make room on its \
                 disk, then look at what was done and try again"
                    .into()
            }
            // What broke inside is for the log.
            Error::Store(_) | Error::Io { .. } | Error::Internal(_) => {
                tracing::error!("{error}");
                String::new()
            }
            error => error.to_string(),
        };
        PageError::Told { status, kind: error.code(), words }
    }
}

impl From<crate::store::StoreError> for PageError {
    fn from(error: crate::store::StoreError) -> PageError {
        Error::from(error).into()
    }
}

impl PageError {
    /// Not there, or not for this person.
    pub fn not_found() -> PageError {
        Error::NotFound("page").into()
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        // A placeholder: the layer in `pages` renders it for the person who asked.
        let mut response = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// What an error page needs to know of the request.
#[derive(Debug)]
pub struct Asked {
    headers: HeaderMap,
    method: Method,
    path: String,
    part: bool,
}

impl Asked {
    /// Keeps the few headers that an error page needs.
    pub fn of(parts: &Parts) -> Asked {
        let mut headers = HeaderMap::new();
        for name in [header::COOKIE, header::ACCEPT, header::REFERER] {
            for value in parts.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
        let part = parts.headers.contains_key(PART_HEADER);
        Asked { headers, method: parts.method.clone(), path, part }
    }

    /// Where the page's buttons lead: the address that was asked for, or, since a form's own is no
    /// page, the page on which the form stood.
    fn back<'a>(&'a self, root: &str) -> &'a str {
        if self.reads() {
            return &self.path;
        }
        self.headers
            .get(header::REFERER)
            .and_then(|from| from.to_str().ok()?.strip_prefix(root))
            .and_then(local_path)
            .unwrap_or("/")
    }

    fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// No route matched.
pub async fn not_found() -> PageError {
    PageError::not_found()
}

/// What the framework refused before a handler saw it, in bare words of its own: an address that
/// cannot be taken apart, a method that its path does not know. `reads`: GET or HEAD.
pub fn of_the_framework(reads: bool, response: &Response) -> Option<PageError> {
    let bare = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let (kind, words) = match response.status() {
        StatusCode::BAD_REQUEST if reads && bare => {
            ("S-400", "this address is no page, or part of it cannot be read: copy the whole link")
        }
        StatusCode::METHOD_NOT_ALLOWED if bare => {
            ("S-405", "this address does not take requests of this kind")
        }
        _ => return None,
    };
    Some(PageError::Told { status: response.status(), kind, words: words.into() })
}

/// The page for an error.
pub async fn page(app: &App, asked: &Asked, error: PageError) -> Response {
    let (status, kind, words) = match error {
        // A part of a page would get the sign-in form into its midst.
        PageError::SignIn if asked.reads() && !asked.part => {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.append_pair("to", &asked.path);
            return layout::redirect(&format!("/sign-in?{}", query.finish()));
        }
        PageError::SignIn => (
            StatusCode::FORBIDDEN,
            SIGNED_OUT,
            "So nothing was changed. Sign in and try again.".to_owned(),
        ),
        PageError::Told { status, kind, words } => (status, kind, words),
    };
    let code = if status.is_server_error() { coded(kind) } else { kind.to_owned() };
    if status.is_server_error() && pace::may_log(&code) {
        tracing::error!(code, path = loggable(&asked.path), "error page");
    }
    let back = asked.back(&app.config.root.to_string());
    let viewer = Viewer::for_error(app, &asked.headers, back).await;
    let heading = if kind == SIGNED_OUT { "You are signed out" } else { heading(status) };
    let content = content(&viewer, asked, status, heading, &code, &words);
    let page = Page::plain(&format!("Error: {heading}"), content).status(status);
    let mut response = layout::respond(&viewer, page);
    if status == StatusCode::REQUEST_TIMEOUT {
        // RFC 9110 §15.5.9; what would come next is the rest of the request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A path without the secrets that some paths carry.
pub fn loggable(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or(path);
    for prefix in ["/link/", "/shared/", "/signup/"] {
        if path.starts_with(prefix) {
            return prefix;
        }
    }
    path
}

fn heading(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 422 => "This could not be done",
        403 | 404 => "Not here for you",
        405 => "Not done this way",
        408 => "It took too long",
        409 => "It changed meanwhile",
        413 => "Too large",
        421 => "Not this server's name",
        503 => "Too much at once",
        502 | 504 => "The app did not answer",
        507 => "This server's disk is full",
        _ => "We could not finish this",
    }
}

fn content(
    viewer: &Viewer,
    asked: &Asked,
    status: StatusCode,
    heading: &str,
    code: &str,
    words: &str,
) -> Markup {
    let words = sentence(words);
    html! {
        section.problem {
            h1 { (heading) }
            @match status.as_u16() {
                404 => {
                    p {
                        "There is no such page, or it is not shared with "
                        @match &viewer.login {
                            Some(login) => { bdi { (login.account().display_name) } "." }
                            None => { "people who are not signed in." }
                        }
                    }
                }
                500 => {
                    p {
                        "Something went wrong on this server. "
                        @if !asked.reads() {
                            "Look at what was done before you try again: it may be a part. "
                        }
                    }
                }
                _ => {}
            }
            @if status != StatusCode::NOT_FOUND && !words.is_empty() { p { (words) } }
            div.buttons {
                @if status.is_server_error() {
                    a.button.main href=(viewer.path) { "Try again" }
                }
                @if viewer.login.is_some() {
                    a.button.main[!status.is_server_error()] href="/" { "My grains" }
                    @if matches!(status, StatusCode::NOT_FOUND | StatusCode::FORBIDDEN) {
                        a.button href=(format!("/sign-in?{}", layout::to_query(&viewer.path))) {
                            "Other account"
                        }
                    }
                } @else {
                    a.button.main[!status.is_server_error()]
                        href=(format!("/sign-in?{}", layout::to_query(&viewer.path))) { "Sign in" }
                }
            }
            p.hint { "Code " code { (code) } }
        }
    }
}

/// Capital letter and full stop, since error texts in the code have neither.
pub fn sentence(words: &str) -> String {
    let mut chars = words.trim().chars();
    let mut out: String =
        chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default();
    if !out.is_empty() && !out.ends_with(['.', '?', '!', ')']) {
        out.push('.');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_form_leads_back_to_its_own_page() {
        let asked = |method: Method, referer: &str| {
            let request = http::Request::builder().method(method).uri("/you/look?x=1");
            let request = request.header(header::REFERER, referer).body(()).unwrap();
            let asked = Asked::of(&request.into_parts().0);
            asked.back("http://a.example:3000").to_owned()
        };
        assert_eq!(asked(Method::GET, "http://a.example:3000/you"), "/you/look?x=1");
        assert_eq!(asked(Method::POST, "http://a.example:3000/?q=a"), "/?q=a");
        for elsewhere in ["", "http://a.example:30001/x", "http://evil/", "http://a.example:3000"] {
            assert_eq!(asked(Method::POST, elsewhere), "/", "{elsewhere}");
        }
    }

    #[test]
    fn secrets_in_paths_stay_out_of_the_log() {
        assert_eq!(loggable("/link/abc?x=1"), "/link/");
        assert_eq!(loggable("/grain/abc?x=1"), "/grain/abc");
    }

    #[test]
    fn words_become_sentences() {
        assert_eq!(sentence("no such page"), "No such page.");
        assert_eq!(sentence("It is so. (PKG-X)"), "It is so. (PKG-X)");
        assert_eq!(sentence(""), "");
    }
}
