//! From the head of an HTTP answer to a WebSession response.
//!
//! The status decides the kind of response; what the interface cannot say goes into additional
//! headers that our shell understands and others ignore (`http_map`). Header lines that make no
//! sense are left out and named once in the log, so that the page still arrives.

use bytes::Bytes;
use sandstorm_schema::http_map::{
    CREATED, CREATED_LOCATION, EXACT_STATUS, WireStatus, exact_status,
    head_response_header_allowed, response_header_allowed, to_wire,
};
use sandstorm_schema::util_capnp::handle;
use sandstorm_schema::web_session_capnp::web_session::{
    self,
    response::{self, ClientErrorCode, SuccessCode},
};

use super::cookies::{Expires, SetCookie, parse_set_cookie};
use super::values::{ETag, attachment_name};
use crate::error::{Error, Result};
use crate::http1::{Asked, Framing, Head};
use crate::log_once;

/// What kind of response an answer becomes.
///
/// # Errors
/// [`Error::Unusable`] for statuses that mean nothing here: 101 that nobody asked for, a redirect
/// without an address.
pub fn wire_status(head: &Head, asked: Asked) -> Result<WireStatus> {
    match to_wire(head.status) {
        // No precondition was there to fail. Some apps mean their own by it, and explain
        // themselves in a body, for which that kind of response has no room.
        Some(WireStatus::PreconditionFailed)
            if head.status == 412
                && !asked.conditionally
                && head.first("content-type").is_some() =>
        {
            Ok(WireStatus::ClientError(ClientErrorCode::BadRequest))
        }
        Some(WireStatus::Redirect { .. }) if head.first("location").is_none() => {
            Err(Error::Unusable(format!("status {} without a Location header", head.status)))
        }
        Some(wire) => Ok(wire),
        None => Err(Error::Unusable(format!("status {}", head.status))),
    }
}

/// The body of a response, where its kind has one.
pub enum Body {
    /// All of it.
    Bytes(Bytes),
    /// It goes to the caller's stream; the handle stops it.
    Stream(handle::Client),
}

/// Says a body's type, encoding and language. A content and an error's body have the same three
/// fields, but builders of different types.
macro_rules! describe {
    ($out:ident, $head:expr) => {
        if let Some(value) = joined($head, "content-type") {
            $out.set_mime_type(&value);
        }
        if let Some(value) = joined($head, "content-encoding") {
            $out.set_encoding(&value);
        }
        if let Some(value) = joined($head, "content-language") {
            $out.set_language(&value);
        }
    };
}

/// Fills the body of an error; the builders of the two kinds differ in the same way.
macro_rules! fill_error {
    ($error:ident, $head:expr, $body:expr) => {
        match error_body($head, $body) {
            ErrorBody::Html(text) => $error.set_description_html(text),
            ErrorBody::Other(bytes) => {
                let mut out = $error.init_non_html_body();
                out.set_data(bytes);
                describe!(out, $head);
            }
        }
    };
}

/// Fills a response from an answer. To a HEAD it says what the length would have been.
///
/// # Errors
/// As [`wire_status`].
pub fn fill(mut out: response::Builder<'_>, head: &Head, body: Body, asked: Asked) -> Result<()> {
    for line in &head.dropped {
        log_once!(
            &format!("line {}", line.split(':').next().unwrap_or_default()),
            "left out a malformed header line of the app: {line}"
        );
    }
    set_cookies(out.reborrow(), head);
    match wire_status(head, asked)? {
        WireStatus::Content(code) => fill_content(out.reborrow(), code, head, body),
        WireStatus::NoContent { should_reset_form } => {
            let mut none = out.reborrow().init_no_content();
            none.set_should_reset_form(should_reset_form);
            if let Some(tag) = etag(head) {
                set_etag(none.init_e_tag(), &tag);
            }
        }
        WireStatus::PreconditionFailed => {
            let failed = out.reborrow().init_precondition_failed();
            if let Some(tag) = etag(head) {
                set_etag(failed.init_matching_e_tag(), &tag);
            }
        }
        WireStatus::Redirect { is_permanent, switch_to_get } => {
            let mut redirect = out.reborrow().init_redirect();
            redirect.set_is_permanent(is_permanent);
            redirect.set_switch_to_get(switch_to_get);
            redirect.set_location(head.first("location").map(text).unwrap_or_default().as_str());
        }
        WireStatus::ClientError(code) => {
            let mut error = out.reborrow().init_client_error();
            error.set_status_code(code);
            fill_error!(error, head, &body);
        }
        WireStatus::ServerError => {
            let mut error = out.reborrow().init_server_error();
            fill_error!(error, head, &body);
        }
    }
    let exact = exact_status(head.status, head.first("www-authenticate").is_some());
    additional_headers(out, head, exact, asked.head);
    Ok(())
}

/// Fills the response that stands for an answer that cannot be passed on: 502 and a sentence.
pub fn fill_bad_gateway(mut out: response::Builder<'_>, problem: &Error) {
    let text = format!(
        "<!DOCTYPE html><title>502 Bad Gateway</title><h1>The app's answer did not arrive</h1>\
         <p>{}.</p><p>The log of this grain says more.</p>",
        escape_html(&problem.to_string())
    );
    out.reborrow().init_server_error().set_description_html(&text);
    let mut headers = out.init_additional_headers(1);
    let mut exact = headers.reborrow().get(0);
    exact.set_name(EXACT_STATUS);
    exact.set_value("502");
}

/// A response of 400, for a request that the app is not asked.
pub fn fill_bad_request(out: response::Builder<'_>, problem: &Error) {
    let mut error = out.init_client_error();
    error.set_status_code(ClientErrorCode::BadRequest);
    error.set_description_html(format!(
        "<!DOCTYPE html><title>400 Bad Request</title><h1>This address is not passed on</h1>\
         <p>{}.</p>",
        escape_html(&problem.to_string())
    ));
}

/// Makes text fit for an HTML page.
fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn fill_content(out: response::Builder<'_>, code: SuccessCode, head: &Head, body: Body) {
    let mut content = out.init_content();
    content.set_status_code(code);
    describe!(content, head);
    if let Some(tag) = etag(head) {
        set_etag(content.reborrow().init_e_tag(), &tag);
    }
    if let Some(name) = head.first("content-disposition").and_then(|v| attachment_name(&text(v))) {
        content.reborrow().get_disposition().set_download(&name);
    }
    match body {
        Body::Bytes(bytes) => content.get_body().set_bytes(&bytes),
        Body::Stream(handle) => content.get_body().set_stream(handle),
    }
}

enum ErrorBody<'a> {
    /// Can be said as `descriptionHtml`, which goes out as UTF-8 HTML.
    Html(&'a str),
    /// Everything else keeps its type and its bytes.
    Other(&'a [u8]),
}

fn error_body<'a>(head: &Head, body: &'a Body) -> ErrorBody<'a> {
    let bytes: &[u8] = match body {
        Body::Bytes(bytes) => bytes,
        Body::Stream(_) => &[],
    };
    let kind = joined(head, "content-type").unwrap_or_default().to_ascii_lowercase();
    let mut parts = kind.split(';').map(str::trim);
    let html = parts.next() == Some("text/html");
    let utf8 = parts.all(|p| p.replace('"', "") == "charset=utf-8");
    let plain = head.first("content-encoding").is_none();
    match std::str::from_utf8(bytes) {
        Ok(text) if html && utf8 && plain && !text.is_empty() => ErrorBody::Html(text),
        _ => ErrorBody::Other(bytes),
    }
}

fn etag(head: &Head) -> Option<ETag> {
    let value = text(head.first("etag")?);
    let tag = ETag::parse(&value);
    if tag.is_none() {
        log_once!("etag", "left out a malformed ETag of the app (no quotes?): {value}");
    }
    tag
}

fn set_etag(mut out: web_session::e_tag::Builder<'_>, tag: &ETag) {
    out.set_value(&tag.value);
    out.set_weak(tag.weak);
}

fn set_cookies(out: response::Builder<'_>, head: &Head) {
    let mut cookies: Vec<SetCookie> = Vec::new();
    for line in head.all("set-cookie").map(text) {
        match parse_set_cookie(&line) {
            Some(cookie) => cookies.push(cookie),
            None => log_once!("set-cookie", "left out a Set-Cookie of the app without a name"),
        }
    }
    if cookies.is_empty() {
        return;
    }
    let mut list = out.init_set_cookies(cookies.len() as u32);
    for (at, cookie) in cookies.iter().enumerate() {
        let mut entry = list.reborrow().get(at as u32);
        entry.set_name(&cookie.name);
        entry.set_value(&cookie.value);
        entry.set_http_only(cookie.http_only);
        if !cookie.path.is_empty() {
            entry.set_path(&cookie.path);
        }
        match cookie.expires {
            Expires::Never => entry.init_expires().set_none(()),
            Expires::At(time) => entry.init_expires().set_absolute(time),
            Expires::After(seconds) => entry.init_expires().set_relative(seconds),
        }
    }
}

/// Everything of the tables, repeated lines joined, and the exact status.
fn additional_headers(
    out: response::Builder<'_>,
    head: &Head,
    exact: Option<String>,
    head_request: bool,
) {
    let allowed = if head_request { head_response_header_allowed } else { response_header_allowed };
    let mut list: Vec<(String, String)> = Vec::new();
    for field in &head.fields {
        let name = text(&field.name).to_ascii_lowercase();
        // What `Connection` names is about this connection only.
        let created = name == CREATED_LOCATION && head.status == CREATED;
        if !(allowed(&name) || created) || head.is_about_connection(&name) {
            continue;
        }
        match list.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => {
                value.push_str(", ");
                value.push_str(&text(&field.value));
            }
            None => list.push((name, text(&field.value))),
        }
    }
    if let Some(status) = exact {
        list.push((EXACT_STATUS.to_owned(), status));
    }
    if list.is_empty() {
        return;
    }
    let mut headers = out.init_additional_headers(list.len() as u32);
    for (at, (name, value)) in list.iter().enumerate() {
        let mut header = headers.reborrow().get(at as u32);
        header.set_name(name);
        header.set_value(value);
    }
}

/// All values of a header in one line; `None` when there is none or they are empty.
fn joined(head: &Head, name: &str) -> Option<String> {
    let values: Vec<String> = head.all(name).map(text).collect();
    Some(values.join(", ")).filter(|v| !v.is_empty())
}

/// A value as text: UTF-8 if it is that, else Latin-1, the two that are in use.
fn text(bytes: &Bytes) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    }
}

/// The length to announce on the response stream.
pub fn stream_length(head: &Head) -> Option<u64> {
    match head.framing {
        Framing::Length(n) => Some(n),
        _ => None,
    }
}
