//! Short answers that the edge gives itself.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::EdgeBody;
use crate::config::Config;

/// Plain text, never sniffed, never cached.
pub fn plain(status: StatusCode, text: impl Into<String>) -> Response<EdgeBody> {
    let mut answer = Response::new(EdgeBody::full(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    let fixed = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'; sandbox"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
}

pub fn internal() -> Response<EdgeBody> {
    plain(StatusCode::INTERNAL_SERVER_ERROR, "We could not finish this. Try again.\n")
}

pub fn redirect(status: StatusCode, to: &str) -> Response<EdgeBody> {
    match HeaderValue::from_str(to) {
        Ok(value) => {
            let mut answer = plain(status, format!("See {to}\n"));
            answer.headers_mut().insert(header::LOCATION, value);
            answer
        }
        Err(_) => plain(StatusCode::BAD_REQUEST, "This address cannot be redirected.\n"),
    }
}

/// `localhost` instead of the shell's name: the same page there.
pub fn to_root<B>(config: &Config, request: &Request<B>) -> Response<EdgeBody> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // A path of `//host` must stay a path.
    let path = path.trim_start_matches('/');
    redirect(StatusCode::TEMPORARY_REDIRECT, &format!("{}/{path}", config.root))
}

pub fn misdirected<B>(config: &Config, _request: &Request<B>) -> Response<EdgeBody> {
    plain(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "Nothing is served under this name. This server is at {}/ (its operator sets that \
             by ROOT_URL and WILDCARD_HOST).\n",
            config.root
        ),
    )
}

/// Tells a page of the shell that names below the wildcard lead here.
pub fn selftest<B>(request: &Request<B>) -> Response<EdgeBody> {
    let mut answer = if request.uri().path() == "/" && *request.method() == Method::GET {
        plain(StatusCode::OK, "Wildcard hosts lead to this server.\n")
    } else {
        plain(StatusCode::BAD_REQUEST, "Only / is here.\n")
    };
    answer.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    answer
}
