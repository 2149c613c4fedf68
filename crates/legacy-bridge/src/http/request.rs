//! From a WebSession call to the head of an HTTP request.
//!
//! What holds for the whole session (who is asking, through which address) is rendered once, when
//! the session is opened; each call adds its context. Everything passes through
//! [`RequestHead::header`], which refuses to break a line.

use sandstorm_schema::http_map;
use sandstorm_schema::identity_capnp::{profile::Pronouns, user_info};
use sandstorm_schema::ip_capnp::ip_address;
use sandstorm_schema::web_session_capnp::web_session;

use super::values::{ETag, encode_uri_component, q_value};
use crate::error::{Error, Result};
use crate::http1::RequestHead;

/// What kind of session the shell opened, as the app is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionType {
    /// A person looks at the grain.
    Normal,
    /// A person picks something from the grain for another one.
    Request,
    /// A person gives the grain something.
    Offer,
}

impl SessionType {
    fn name(self) -> &'static str {
        match self {
            SessionType::Normal => "normal",
            SessionType::Request => "request",
            SessionType::Offer => "offer",
        }
    }
}

/// Headers and addresses that stay the same for a whole session.
#[derive(Debug, Default)]
pub struct SessionHeaders {
    lines: Vec<(&'static str, String)>,
    accept_language: Option<String>,
    /// Put before every path: `/`, or the package's API path.
    root_path: String,
    /// What `Destination` headers begin with: scheme and host as the app sees them.
    origin: String,
    /// API sessions carry no cookies.
    cookies: bool,
}

/// Who opened the session and how, apart from the address.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Kind of session.
    pub session_type: SessionType,
    /// The bridge's number for it.
    pub session_id: u64,
    /// The shell's number of the browser tab.
    pub tab_id: &'a [u8],
    /// Names for the bits of `permissions`.
    pub permission_names: &'a [String],
}

impl SessionHeaders {
    /// For a person's browser.
    ///
    /// # Errors
    /// When the parameters cannot be read.
    pub fn for_web(
        opening: &Opening<'_>,
        user: user_info::Reader<'_>,
        params: web_session::params::Reader<'_>,
    ) -> Result<Self> {
        let mut this = Self::common(opening, user)?;
        this.root_path = "/".into();
        this.cookies = true;
        match BasePath::parse(params.get_base_path()?.to_str()?) {
            Some(base) => {
                this.origin = base.origin.to_owned();
                this.push("Host", base.host);
                this.push("X-Sandstorm-Base-Path", base.origin);
                this.push("X-Forwarded-Proto", base.scheme);
            }
            None => this.no_base_path(),
        }
        this.push_if_any("User-Agent", params.get_user_agent()?.to_str()?);
        let mut languages = Vec::new();
        for language in params.get_acceptable_languages()? {
            languages.push(clean(language?.to_str()?));
        }
        this.accept_language = Some(languages.join(",")).filter(|l| !l.is_empty());
        Ok(this)
    }

    /// For a program with a token. `root_path` is the package's `apiPath`.
    ///
    /// # Errors
    /// When the parameters cannot be read.
    pub fn for_api(
        opening: &Opening<'_>,
        user: user_info::Reader<'_>,
        address: Option<ip_address::Reader<'_>>,
        root_path: &str,
    ) -> Result<Self> {
        let mut this = Self::common(opening, user)?;
        this.root_path = root_path.to_owned();
        this.no_base_path();
        if let Some(address) = address {
            let bits =
                (u128::from(address.get_upper64()) << 64) | u128::from(address.get_lower64());
            let ip = std::net::Ipv6Addr::from(bits);
            let text = ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |v4| v4.to_string());
            this.push("X-Real-IP", &text);
        }
        Ok(this)
    }

    fn no_base_path(&mut self) {
        self.origin = "http://sandbox".into();
        self.push("Host", "sandbox");
    }

    fn common(opening: &Opening<'_>, user: user_info::Reader<'_>) -> Result<Self> {
        let mut this = SessionHeaders::default();
        let name = user.get_display_name()?.get_default_text()?.to_str()?;
        let name = if name.is_empty() { "Anonymous User" } else { name };
        this.push("X-Sandstorm-Username", &encode_uri_component(name));
        let identity = user.get_identity_id()?;
        if !identity.is_empty() {
            this.push("X-Sandstorm-User-Id", &hex::encode(&identity[..identity.len().min(16)]));
            let handle = user.get_preferred_handle()?.to_str()?;
            this.push_if_any("X-Sandstorm-Preferred-Handle", handle);
            this.push_if_any("X-Sandstorm-User-Picture", user.get_picture_url()?.to_str()?);
            let pronouns = match user.get_pronouns() {
                Ok(Pronouns::Male) => "male",
                Ok(Pronouns::Female) => "female",
                Ok(Pronouns::Robot) => "robot",
                Ok(Pronouns::Neutral) | Err(_) => "",
            };
            this.push_if_any("X-Sandstorm-User-Pronouns", pronouns);
        }
        let mut permissions = Vec::new();
        for (held, name) in user.get_permissions()?.iter().zip(opening.permission_names) {
            if held {
                permissions.push(name.as_str());
            }
        }
        this.push("X-Sandstorm-Permissions", &permissions.join(","));
        this.push("X-Sandstorm-Tab-Id", &hex::encode(opening.tab_id));
        this.push("X-Sandstorm-Session-Id", &opening.session_id.to_string());
        this.push("X-Sandstorm-Session-Type", opening.session_type.name());
        Ok(this)
    }

    fn push(&mut self, name: &'static str, value: &str) {
        self.lines.push((name, clean(value)));
    }

    fn push_if_any(&mut self, name: &'static str, value: &str) {
        if !value.is_empty() {
            self.push(name, value);
        }
    }

    /// The head of one request: session, then context. `path` is as in WebSession, without its
    /// leading slash. `own`: headers that the method itself demands. `websocket`: leave out what
    /// makes no sense in a handshake.
    ///
    /// # Errors
    /// [`crate::Error::BadRequest`] when a method, path or header would break the request,
    /// [`crate::Error::OutsideApi`] when a path could lead out of the API.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        context: web_session::context::Reader<'_>,
        own: &[(&str, &str)],
        websocket: bool,
    ) -> Result<RequestHead> {
        self.stays_inside(path)?;
        let mut head = RequestHead::new(method, &format!("{}{path}", self.root_path))?;
        for (name, value) in &self.lines {
            head.header(name, value)?;
        }
        if let Some(languages) = &self.accept_language
            && !websocket
        {
            head.header("Accept-Language", languages)?;
        }
        if !websocket {
            head.header("Accept", &accept(context)?)?;
            let encodings = accept_encoding(context)?;
            if !encodings.is_empty() {
                head.header("Accept-Encoding", &encodings)?;
            }
        }
        if self.cookies {
            let cookies = cookies(context)?;
            if !cookies.is_empty() {
                head.header("Cookie", &cookies)?;
            }
        }
        preconditions(&mut head, context)?;
        for (name, value) in own {
            head.header(name, value)?;
        }
        for header in context.get_additional_headers()? {
            let name = header.get_name()?.to_str()?;
            let twice = own.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
            if !twice && http_map::request_header_allowed(name) {
                head.header(name, header.get_value()?.to_str()?)?;
            }
        }
        Ok(head)
    }

    /// A `Destination` value: the app's own address, then the path.
    ///
    /// # Errors
    /// [`crate::Error::OutsideApi`] when the path could lead out of the API.
    pub fn destination(&self, path: &str) -> Result<String> {
        self.stays_inside(path)?;
        let path = path.strip_prefix('/').unwrap_or(path);
        Ok(format!("{}{}{path}", self.origin, self.root_path))
    }

    /// Programs with a token have the API and nothing else of the app. Servers do not agree on when
    /// to decode a path and what separates its segments, so a path is not put right but refused.
    fn stays_inside(&self, path: &str) -> Result<()> {
        match self.root_path != "/" && may_climb(path) {
            true => Err(Error::OutsideApi),
            false => Ok(()),
        }
    }
}

/// Whether any server could take a segment of this path for `..` (RFC 3986 §5.2.4): decoded before
/// it is split or after, with `\` as a separator, with parameters behind a `;`. URL parsers resolve
/// such segments before they send a request.
fn may_climb(path: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let decoded = percent_encoding::percent_decode_str(path).collect::<Vec<u8>>();
    decoded
        .split(|byte| matches!(byte, b'/' | b'\\'))
        .any(|segment| segment == b".." || segment.starts_with(b"..;"))
}

/// Takes control characters out of what the whole session repeats: one bad name must not make a
/// grain unusable.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The parts of an origin.
struct BasePath<'a> {
    origin: &'a str,
    scheme: &'a str,
    host: &'a str,
}

impl<'a> BasePath<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let origin = text.trim_end_matches('/');
        let (scheme, rest) = origin.split_once("://")?;
        let host = rest.split('/').next()?;
        let scheme_ok = scheme == "http" || scheme == "https";
        let host_ok = !host.is_empty() && host.bytes().all(|b| b > b' ' && b < 0x7f);
        (scheme_ok && host_ok).then_some(BasePath { origin, scheme, host })
    }
}

fn accept(context: web_session::context::Reader<'_>) -> Result<String> {
    let mut out = String::new();
    for entry in context.get_accept()? {
        push_weighted(&mut out, entry.get_mime_type()?.to_str()?, entry.get_q_value());
    }
    Ok(if out.is_empty() { "*/*".into() } else { out })
}

fn accept_encoding(context: web_session::context::Reader<'_>) -> Result<String> {
    let mut out = String::new();
    for entry in context.get_accept_encoding()? {
        push_weighted(&mut out, entry.get_content_coding()?.to_str()?, entry.get_q_value());
    }
    Ok(out)
}

fn push_weighted(out: &mut String, value: &str, q: f32) {
    if !out.is_empty() {
        out.push_str(", ");
    }
    out.push_str(value);
    if let Some(q) = q_value(q) {
        out.push_str(";q=");
        out.push_str(&q);
    }
}

fn cookies(context: web_session::context::Reader<'_>) -> Result<String> {
    let mut out = String::new();
    for cookie in context.get_cookies()? {
        let (key, value) = (cookie.get_key()?.to_str()?, cookie.get_value()?.to_str()?);
        // The hand-over cookie is the shell's, whoever forgot to take it out.
        if key == "sandstorm-sid" || key.contains([';', '=']) || value.contains(';') {
            continue;
        }
        if !out.is_empty() {
            out.push_str("; ");
        }
        out.push_str(key);
        out.push('=');
        out.push_str(value);
    }
    Ok(out)
}

fn preconditions(head: &mut RequestHead, context: web_session::context::Reader<'_>) -> Result<()> {
    use web_session::context::e_tag_precondition::Which;
    match context.get_e_tag_precondition().which() {
        Ok(Which::None(())) | Err(_) => Ok(()),
        Ok(Which::Exists(())) => head.header("If-Match", "*"),
        Ok(Which::DoesntExist(())) => head.header("If-None-Match", "*"),
        Ok(Which::MatchesOneOf(tags)) => head.header("If-Match", &tag_list(tags?)?),
        Ok(Which::MatchesNoneOf(tags)) => head.header("If-None-Match", &tag_list(tags?)?),
    }
}

fn tag_list(tags: capnp::struct_list::Reader<'_, web_session::e_tag::Owned>) -> Result<String> {
    let mut out = Vec::new();
    for tag in tags {
        let value = tag.get_value()?.to_str()?;
        out.push(ETag::write(value, tag.get_weak()).ok_or_else(|| {
            Error::BadRequest("an ETag has a quote or a control character".into())
        })?);
    }
    Ok(out.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_of_the_api() {
        let api = SessionHeaders { root_path: "/api/".into(), ..SessionHeaders::default() };
        for path in [
            "..",
            "../admin",
            "a/../../b",
            "%2e%2e/x",
            ".%2E/x",
            "a/%2e.",
            "..%2fadmin",
            "a%2F..%2Fb",
            "..\\x",
            "a%5c..%5Cb",
            "..;x=1/b",
            "/..",
            "a//..",
            "..?q",
        ] {
            assert!(matches!(api.stays_inside(path), Err(Error::OutsideApi)), "{path}");
            assert!(matches!(api.destination(path), Err(Error::OutsideApi)), "{path}");
        }
        for path in [
            "",
            "things",
            "a/./b",
            "...",
            "..a/b",
            "a..",
            "a?x=../..",
            "%252e%252e/x",
            "a;../b",
            "%ff/x",
        ] {
            assert!(api.stays_inside(path).is_ok(), "{path}");
        }
        let web = SessionHeaders { root_path: "/".into(), ..SessionHeaders::default() };
        assert!(web.stays_inside("../x").is_ok(), "a browser has the whole app anyway");
    }
}
