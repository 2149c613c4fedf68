//! Short answers that the edge gives itself.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::EdgeBody;
use super::first_line::Unfit;
use crate::config::Config;
use crate::pace;
use crate::pages::standalone::{Sheet, style_source};

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

/// The same as a page for people, as text for programs.
pub fn told<B>(request: &Request<B>, status: StatusCode, sheet: &Sheet<'_>) -> Response<EdgeBody> {
    let accept = request.headers().get(header::ACCEPT).and_then(|v| v.to_str().ok());
    if pace::may_log(sheet.code) {
        tracing::info!(code = sheet.code, status = status.as_u16(), "{}", sheet.title);
    }
    if !accept.is_some_and(|accept| accept.contains("text/html")) {
        let text = format!("{}. {} {}", sheet.title, sheet.why, sheet.advice);
        return plain(status, format!("{}\n", text.trim()));
    }
    let mut answer = plain(status, sheet.html());
    let headers = answer.headers_mut();
    let policy = format!(
        "default-src 'none'; style-src {}; frame-ancestors 'none'; sandbox \
         allow-top-navigation-by-user-activation",
        style_source()
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
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

pub fn misdirected<B>(config: &Config, request: &Request<B>) -> Response<EdgeBody> {
    let home = format!("{}/", config.root);
    let asked = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let asked: String = asked.unwrap_or("this name").chars().take(100).collect();
    let sheet = Sheet {
        title: "Nothing is served under this name",
        why: &format!("You asked for {asked}. This server is at {home}."),
        advice: "Whoever runs this server sets its names by ROOT_URL and WILDCARD_HOST.",
        code: "S-HOST",
        home: Some(&home),
        ..Sheet::default()
    };
    told(request, StatusCode::MISDIRECTED_REQUEST, &sheet)
}

/// A request line that cannot be read: what stands in its place means nothing.
pub fn unfit<B>(config: &Config, request: &Request<B>, unfit: Unfit) -> Response<EdgeBody> {
    let home = format!("{}/", config.root);
    let (status, sheet) = match unfit {
        Unfit::Characters => (
            StatusCode::BAD_REQUEST,
            Sheet {
                title: "This address cannot be read",
                why: "It has characters that must be written as percent codes: blanks, < > \" and \
                      ` are %20, %3C, %3E, %22 and %60.",
                advice: "Copy the whole link again; a program must encode what it puts into an \
                         address.",
                code: "S-400",
                ..Sheet::default()
            },
        ),
        Unfit::TooLong => (
            StatusCode::URI_TOO_LONG,
            Sheet {
                title: "This address is too long",
                why: "Path and query have more than 64 kB, the most that is read.",
                advice: "A form with much in it must be sent by POST.",
                code: "S-414",
                ..Sheet::default()
            },
        ),
    };
    told(request, status, &Sheet { home: Some(&home), ..sheet })
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
