//! Which HTTP headers and statuses cross between shell and bridge, and how.
//!
//! Both ends use these tables, and both apply them in full: the bridge is part of a hostile app,
//! and an app must not see what a hostile client adds. Names are compared without case; a pattern
//! ending in `*` matches every name that begins so.
//!
//! A header travels in one of three ways: in a field of `WebSession` of its own (content type,
//! cookies, entity tags and the like: [`REQUEST_FIELDS`], [`RESPONSE_FIELDS`]), as an "additional
//! header" if a table here lists it, or not at all.

use crate::web_session_capnp::web_session::response::{ClientErrorCode, SuccessCode};

/// Who understands an additional header at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// Part of the public interface: every end knows it.
    Public,
    /// Only between our shell and our bridge; other ends ignore it.
    Ours,
}

/// A row of the tables: a name or pattern in lower case, and who knows it.
#[derive(Debug, Clone, Copy)]
pub struct Header {
    pub pattern: &'static str,
    pub since: Since,
    /// What breaks without it.
    pub why: &'static str,
}

const fn public(pattern: &'static str, why: &'static str) -> Header {
    Header { pattern, since: Since::Public, why }
}

const fn ours(pattern: &'static str, why: &'static str) -> Header {
    Header { pattern, since: Since::Ours, why }
}

/// Additional headers of a request. The public ones are `WebSession.Context.headerWhitelist`.
pub const REQUEST_HEADERS: &[Header] = &[
    public("x-sandstorm-app-*", "an app's own"),
    public("oc-total-length", "ownCloud clients: uploads in pieces"),
    public("oc-chunk-size", "ownCloud clients: uploads in pieces"),
    public("x-oc-mtime", "ownCloud clients: time of the file"),
    public("oc-fileid", "ownCloud clients"),
    public("oc-chunked", "ownCloud clients: uploads in pieces"),
    public("oc-checksum", "ownCloud clients: intact uploads"),
    public("oc-chunk-offset", "ownCloud clients: uploads in pieces"),
    public("oc-lazyops", "ownCloud clients"),
    public("x-hgarg-*", "Mercurial's protocol"),
    public("x-phabricator-*", "Phabricator's protocol"),
    public("x-requested-with", "scripts' mark against forged requests"),
    public("x-csrftoken", "Django's mark against forged requests"),
    public("x-csrf-token", "Rails' mark against forged requests"),
    ours("range", "seeking in sound and video, resumed downloads"),
    ours("if-range", "seeking in sound and video, resumed downloads"),
    ours("if-modified-since", "304 from apps without entity tags"),
    ours("if-unmodified-since", "lost updates, for apps without entity tags"),
    ours("cache-control", "a forced reload"),
    ours("last-event-id", "server-sent events that go on after a lost connection"),
    ours("if", "WebDAV: writing what one has locked"),
    ours("timeout", "WebDAV: length of a lock"),
    ours("depth", "WebDAV: verbs whose method has no argument for it, such as REPORT"),
    ours("tus-*", "tus: uploads that go on after a lost connection"),
    ours("upload-*", "tus: where an upload stands, how long it is"),
    ours("hx-*", "htmx: which part of a page is asked for"),
];

/// Additional headers of an answer. The public ones are `WebSession.Response.headerWhitelist`.
pub const RESPONSE_HEADERS: &[Header] = &[
    public("x-sandstorm-app-*", "an app's own"),
    public("x-oc-mtime", "ownCloud clients: time of the file"),
    ours("content-range", "seeking in sound and video, resumed downloads"),
    ours("accept-ranges", "seeking in sound and video, resumed downloads"),
    ours("last-modified", "304 from apps without entity tags"),
    ours("cache-control", "pages that must not be kept, and files that may"),
    ours("expires", "the same in HTTP/1.0's words"),
    ours("vary", "caches that give one visitor another's answer"),
    ours("retry-after", "clients that should wait"),
    ours("allow", "405 and OPTIONS"),
    ours("dav", "WebDAV: what OPTIONS is asked for"),
    ours("lock-token", "WebDAV: the name of a new lock"),
    ours("content-disposition", "file names beyond ASCII, `inline`"),
    ours("x-total-count", "lists in pages: how many there are in all"),
    ours("tus-*", "tus: uploads that go on after a lost connection"),
    ours("upload-*", "tus: where an upload stands, how long it is"),
    ours("hx-*", "htmx: what its script in the page does next"),
    ours(EXACT_STATUS, "statuses that the interface has no word for"),
];

/// An additional header with the app's own status, three digits. See [`from_wire`].
pub const EXACT_STATUS: &str = "x-sandstorm-exact-status";

/// Request headers that have a field or an argument of their own in `WebSession`.
pub const REQUEST_FIELDS: &[&str] = &[
    "accept",
    "accept-encoding",
    "accept-language",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "destination",
    "host",
    "if-match",
    "if-none-match",
    "overwrite",
    "sec-websocket-protocol",
    "user-agent",
];

/// Answer headers that have a field of their own in `WebSession`.
pub const RESPONSE_FIELDS: &[&str] = &[
    "content-encoding",
    "content-language",
    "content-length",
    "content-type",
    "etag",
    "location",
    "sec-websocket-protocol",
    "set-cookie",
];

/// Headers about one connection, not about the message: never passed on by anyone. Those that a
/// `Connection` header names are to be treated alike.
pub const HOP_BY_HOP: &[&str] = &[
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers by which an app's answer would reach beyond its frame. No table above has them; they
/// are listed so that nobody adds them, and so that a log can say what was left out and why.
pub const APP_HEADERS_REFUSED: &[(&str, &str)] = &[
    ("alt-svc", "moves the origin to another server"),
    ("clear-site-data", "wipes what belongs to the session"),
    ("content-security-policy", "the shell's own policy stands here"),
    ("content-security-policy-report-only", "reports carry data to another server"),
    ("link", "preconnect and preload carry data to another server"),
    ("nel", "reports carry data to another server"),
    ("refresh", "navigates the frame"),
    ("report-to", "reports carry data to another server"),
    ("reporting-endpoints", "reports carry data to another server"),
    ("service-worker-allowed", "a service worker would strip the policy"),
    ("strict-transport-security", "binds hosts that are not the app's"),
    ("www-authenticate", "a password prompt in the server's name"),
];

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => {
            name.len() > prefix.len()
                && name.as_bytes()[..prefix.len()].eq_ignore_ascii_case(prefix.as_bytes())
        }
        None => name.eq_ignore_ascii_case(pattern),
    }
}

fn listed(table: &[&str], name: &str) -> bool {
    table.iter().any(|entry| entry.eq_ignore_ascii_case(name))
}

/// Whether a request header may travel as an additional header, whoever the other end is.
pub fn request_header_allowed(name: &str) -> bool {
    REQUEST_HEADERS.iter().any(|header| matches(header.pattern, name))
}

/// Whether an answer's header may travel as an additional header and reach the browser.
/// [`EXACT_STATUS`] is not among them: the bridge makes it itself with [`exact_status`], the app's
/// own header of that name is dropped, and the shell hands it to [`from_wire`] only.
pub fn response_header_allowed(name: &str) -> bool {
    !name.eq_ignore_ascii_case(EXACT_STATUS)
        && RESPONSE_HEADERS.iter().any(|header| matches(header.pattern, name))
}

/// As [`response_header_allowed`], for an answer to HEAD: there, and only there, `content-length`
/// travels as an additional header, since no body tells the length.
pub fn head_response_header_allowed(name: &str) -> bool {
    name.eq_ignore_ascii_case("content-length") || response_header_allowed(name)
}

/// The address of what an answer with [`CREATED`] made travels as this additional header, and only
/// there: on a redirect it has a field, and elsewhere it means nothing.
pub const CREATED_LOCATION: &str = "location";
/// The status whose `Location` names what was made.
pub const CREATED: u16 = 201;

/// Whether a header belongs to one connection alone (see [`HOP_BY_HOP`]).
pub fn is_hop_by_hop(name: &str) -> bool {
    listed(HOP_BY_HOP, name)
}

/// Whether a request header travels in a field of its own, and so needs no table.
pub fn request_header_has_field(name: &str) -> bool {
    listed(REQUEST_FIELDS, name)
}

/// Whether an answer's header travels in a field of its own, and so needs no table.
pub fn response_header_has_field(name: &str) -> bool {
    listed(RESPONSE_FIELDS, name)
}

/// Whether `name` is a header name: a token, at most 256 bytes.
pub fn header_name_valid(name: &str) -> bool {
    (1..=256).contains(&name.len()) && name.bytes().all(is_token_byte)
}

/// Whether a byte may stand in a token of RFC 9110 §5.6.2, which methods and header names are.
pub fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `value` can stand in a header line: no CR, LF or NUL, which would let it end the line
/// and begin another.
pub fn header_value_valid(value: &[u8]) -> bool {
    !value.iter().any(|c| matches!(c, b'\r' | b'\n' | b'\0'))
}

/// How `WebSession.Response` says a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireStatus {
    /// A body follows.
    Content(SuccessCode),
    /// 204, or 205 when the form is to be reset.
    NoContent { should_reset_form: bool },
    /// `Location` is required.
    Redirect { is_permanent: bool, switch_to_get: bool },
    /// 304 or 412.
    PreconditionFailed,
    /// Any other 4xx.
    ClientError(ClientErrorCode),
    /// Any 5xx.
    ServerError,
}

/// The app's status in the interface's words; `None` for one that cannot be an answer (below 200
/// or above 599, or the long dead 305 and 306), which is the app's fault and becomes 502.
///
/// The interface knows fewer statuses than HTTP: the bridge adds [`exact_status`].
pub fn to_wire(status: u16) -> Option<WireStatus> {
    use ClientErrorCode as C;
    use SuccessCode as S;
    Some(match status {
        201 => WireStatus::Content(S::Created),
        202 => WireStatus::Content(S::Accepted),
        204 => WireStatus::NoContent { should_reset_form: false },
        205 => WireStatus::NoContent { should_reset_form: true },
        206 => WireStatus::Content(S::PartialContent),
        207 => WireStatus::Content(S::MultiStatus),
        200..=299 => WireStatus::Content(S::Ok),
        301 => WireStatus::Redirect { is_permanent: true, switch_to_get: true },
        304 | 412 => WireStatus::PreconditionFailed,
        305 | 306 => return None,
        307 => WireStatus::Redirect { is_permanent: false, switch_to_get: false },
        308 => WireStatus::Redirect { is_permanent: true, switch_to_get: false },
        300..=399 => WireStatus::Redirect { is_permanent: false, switch_to_get: true },
        403 => WireStatus::ClientError(C::Forbidden),
        404 => WireStatus::ClientError(C::NotFound),
        405 => WireStatus::ClientError(C::MethodNotAllowed),
        406 => WireStatus::ClientError(C::NotAcceptable),
        409 => WireStatus::ClientError(C::Conflict),
        410 => WireStatus::ClientError(C::Gone),
        413 => WireStatus::ClientError(C::RequestEntityTooLarge),
        414 => WireStatus::ClientError(C::RequestUriTooLong),
        415 => WireStatus::ClientError(C::UnsupportedMediaType),
        418 => WireStatus::ClientError(C::ImATeapot),
        422 => WireStatus::ClientError(C::UnprocessableEntity),
        400..=499 => WireStatus::ClientError(C::BadRequest),
        500..=599 => WireStatus::ServerError,
        _ => return None,
    })
}

/// Value of [`EXACT_STATUS`] that the bridge adds to an answer, or `None` where the interface's
/// own words say it all or the status must not get through. `has_challenge`: the app sent
/// `WWW-Authenticate`; since that header is dropped, its 401 becomes a plain 400.
pub fn exact_status(status: u16, has_challenge: bool) -> Option<String> {
    let wire = to_wire(status)?;
    let challenge = status == 401 && has_challenge;
    let any_request = RequestFacts { range: true, if_none_match: true, ..RequestFacts::GET };
    let needed = from_wire(wire, None, any_request) != status
        // Depends on the request, so always said.
        || wire == WireStatus::PreconditionFailed;
    (needed && !challenge && honoured(wire, status)).then(|| status.to_string())
}

/// What the shell knows of its request when the answer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestFacts {
    /// The method is GET or HEAD.
    pub get_or_head: bool,
    /// A `Range` was passed on.
    pub range: bool,
    /// `If-None-Match` is the precondition that was passed on.
    pub if_none_match: bool,
    /// `If-Modified-Since` was passed on.
    pub if_modified_since: bool,
}

impl RequestFacts {
    /// A plain GET.
    pub const GET: RequestFacts = RequestFacts {
        get_or_head: true,
        range: false,
        if_none_match: false,
        if_modified_since: false,
    };
}

/// Whether an exact status may stand in for what the interface says: only inside its class, never
/// one that speaks about the connection or asks for a password to a proxy.
fn honoured(wire: WireStatus, exact: u16) -> bool {
    match wire {
        // Without a body these mean something else; they have a kind of their own.
        WireStatus::Content(_) => (200..=299).contains(&exact) && !matches!(exact, 204 | 205),
        WireStatus::NoContent { .. } => matches!(exact, 204 | 205),
        // 304 is no redirect; 305 and 306 would send the browser to a proxy.
        WireStatus::Redirect { .. } => matches!(exact, 300..=303 | 307..=399),
        WireStatus::PreconditionFailed => matches!(exact, 304 | 412),
        WireStatus::ClientError(_) => {
            (400..=499).contains(&exact) && !matches!(exact, 407 | 421 | 426)
        }
        WireStatus::ServerError => (500..=599).contains(&exact),
    }
}

/// The status that the browser gets.
///
/// `exact` is the value of [`EXACT_STATUS`] if the answer has one; a malformed one, or one that may
/// not stand here, is ignored. Statuses that only make sense for a certain request are put right
/// whoever sent them: 206 becomes 200 and 416 becomes 400 without a `Range`; 304 needs GET or HEAD
/// and a precondition that can fail so, else it is 412.
pub fn from_wire(wire: WireStatus, exact: Option<&str>, request: RequestFacts) -> u16 {
    let status = exact
        .and_then(parse_exact)
        .filter(|&exact| honoured(wire, exact))
        .unwrap_or_else(|| default_status(wire, request));
    let may_be_not_modified =
        request.get_or_head && (request.if_none_match || request.if_modified_since);
    match status {
        206 if !request.range => 200,
        416 if !request.range => 400,
        304 if !may_be_not_modified => 412,
        other => other,
    }
}

fn default_status(wire: WireStatus, request: RequestFacts) -> u16 {
    use ClientErrorCode as C;
    use SuccessCode as S;
    match wire {
        WireStatus::Content(code) => match code {
            S::Ok => 200,
            S::Created => 201,
            S::Accepted => 202,
            S::NoContent => 204,
            S::PartialContent => 206,
            S::MultiStatus => 207,
            S::NotModified => 304,
        },
        WireStatus::NoContent { should_reset_form: false } => 204,
        WireStatus::NoContent { should_reset_form: true } => 205,
        WireStatus::Redirect { is_permanent: true, switch_to_get: true } => 301,
        WireStatus::Redirect { is_permanent: false, switch_to_get: true } => 303,
        WireStatus::Redirect { is_permanent: false, switch_to_get: false } => 307,
        WireStatus::Redirect { is_permanent: true, switch_to_get: false } => 308,
        WireStatus::PreconditionFailed if request.if_none_match => 304,
        WireStatus::PreconditionFailed => 412,
        WireStatus::ClientError(code) => match code {
            C::BadRequest => 400,
            C::Forbidden => 403,
            C::NotFound => 404,
            C::MethodNotAllowed => 405,
            C::NotAcceptable => 406,
            C::Conflict => 409,
            C::Gone => 410,
            C::RequestEntityTooLarge => 413,
            C::RequestUriTooLong => 414,
            C::UnsupportedMediaType => 415,
            C::ImATeapot => 418,
            C::PreconditionFailed => 412,
            C::UnprocessableEntity => 422,
        },
        WireStatus::ServerError => 500,
    }
}

/// Three ASCII digits, nothing else.
fn parse_exact(text: &str) -> Option<u16> {
    let well_formed = text.len() == 3 && text.bytes().all(|c| c.is_ascii_digit());
    well_formed.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests;
