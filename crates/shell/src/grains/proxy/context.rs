//! A request's head in the words of `WebSession.Context`.
//!
//! What has a field goes into its field, what a table of the shared crate lists goes along as an
//! additional header, everything else stays here.

use http::{HeaderMap, Method, StatusCode, header, request::Parts};
use sandstorm_schema::http_map::{
    self, RequestFacts, header_name_valid, is_hop_by_hop, request_header_allowed,
};
use sandstorm_schema::util_capnp::byte_stream;
use sandstorm_schema::web_session_capnp::web_session;

use crate::grains::errors::Fault;

/// Items of an Accept or Accept-Encoding header that are passed on.
const MAX_ITEMS: usize = 64;
/// Entity tags of a precondition.
const MAX_ETAGS: usize = 256;

/// An entity tag without its quotes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ETag<'a> {
    pub value: &'a str,
    pub weak: bool,
}

#[derive(Debug, PartialEq)]
enum Precondition<'a> {
    None,
    Exists,
    DoesntExist,
    MatchesOneOf(Vec<ETag<'a>>),
    MatchesNoneOf(Vec<ETag<'a>>),
}

/// A head, read once and written into as many messages as need be.
pub struct Head<'a> {
    cookies: Vec<(&'a str, &'a str)>,
    accept: Vec<(String, f32)>,
    accept_encoding: Vec<(String, f32)>,
    additional: Vec<(&'a str, &'a str)>,
    /// Of PROPFIND, COPY and LOCK, whose calls have a place of their own for it.
    depth: Option<(&'a str, &'a str)>,
    precondition: Precondition<'a>,
    pub facts: RequestFacts,
}

impl<'a> Head<'a> {
    pub fn read(parts: &'a Parts, cookies: Vec<(&'a str, &'a str)>) -> Result<Head<'a>, Fault> {
        let headers = &parts.headers;
        let get_or_head = matches!(parts.method, Method::GET | Method::HEAD);
        let precondition = precondition(headers, get_or_head)?;
        let mut additional = Vec::new();
        let mut depth = None;
        let dropped = named_by_connection(headers);
        for (name, value) in headers {
            let name = name.as_str();
            let depth_is_an_argument =
                name == "depth" && matches!(parts.method.as_str(), "PROPFIND" | "COPY" | "LOCK");
            if request_header_allowed(name)
                && !is_hop_by_hop(name)
                && header_name_valid(name)
                && !dropped.iter().any(|other| other.eq_ignore_ascii_case(name))
            {
                // Bytes outside UTF-8 cannot travel as Text.
                match std::str::from_utf8(value.as_bytes()) {
                    Ok(value) if depth_is_an_argument => depth = Some((name, value)),
                    Ok(value) => additional.push((name, value)),
                    Err(_) => {}
                }
            }
        }
        let has = |name: &str| additional.iter().any(|(other, _)| *other == name);
        let facts = RequestFacts {
            get_or_head,
            range: has("range"),
            if_none_match: matches!(
                precondition,
                Precondition::MatchesNoneOf(_) | Precondition::DoesntExist
            ),
            if_modified_since: has("if-modified-since"),
        };
        Ok(Head {
            cookies,
            accept: quality_list(headers, header::ACCEPT),
            accept_encoding: quality_list(headers, header::ACCEPT_ENCODING),
            additional,
            depth,
            precondition,
            facts,
        })
    }

    /// For a method of the public interface, where the depth is an argument.
    pub fn write(
        &self,
        context: web_session::context::Builder<'_>,
        stream: Option<byte_stream::Client>,
    ) {
        self.write_with(context, stream, None);
    }

    /// For the call that takes a method by name, where the depth has no other place.
    pub fn write_named(
        &self,
        context: web_session::context::Builder<'_>,
        stream: Option<byte_stream::Client>,
    ) {
        self.write_with(context, stream, self.depth);
    }

    fn write_with(
        &self,
        mut context: web_session::context::Builder<'_>,
        stream: Option<byte_stream::Client>,
        depth: Option<(&str, &str)>,
    ) {
        if !self.cookies.is_empty() {
            let mut list = context.reborrow().init_cookies(self.cookies.len() as u32);
            for (index, (name, value)) in self.cookies.iter().enumerate() {
                let mut pair = list.reborrow().get(index as u32);
                pair.set_key(*name);
                pair.set_value(*value);
            }
        }
        if let Some(stream) = stream {
            context.set_response_stream(stream);
        }
        if !self.accept.is_empty() {
            let mut list = context.reborrow().init_accept(self.accept.len() as u32);
            for (index, (kind, quality)) in self.accept.iter().enumerate() {
                let mut item = list.reborrow().get(index as u32);
                item.set_mime_type(&**kind);
                item.set_q_value(*quality);
            }
        }
        if !self.accept_encoding.is_empty() {
            let count = self.accept_encoding.len() as u32;
            let mut list = context.reborrow().init_accept_encoding(count);
            for (index, (coding, quality)) in self.accept_encoding.iter().enumerate() {
                let mut item = list.reborrow().get(index as u32);
                item.set_content_coding(&**coding);
                item.set_q_value(*quality);
            }
        }
        let count = self.additional.len() + usize::from(depth.is_some());
        if count > 0 {
            let mut list = context.reborrow().init_additional_headers(count as u32);
            for (index, (name, value)) in self.additional.iter().copied().chain(depth).enumerate() {
                let mut header = list.reborrow().get(index as u32);
                header.set_name(name);
                header.set_value(value);
            }
        }
        let mut slot = context.init_e_tag_precondition();
        let (tags, mut list) = match &self.precondition {
            Precondition::None => return slot.set_none(()),
            Precondition::Exists => return slot.set_exists(()),
            Precondition::DoesntExist => return slot.set_doesnt_exist(()),
            Precondition::MatchesOneOf(tags) => (tags, slot.init_matches_one_of(tags.len() as u32)),
            Precondition::MatchesNoneOf(tags) => {
                (tags, slot.init_matches_none_of(tags.len() as u32))
            }
        };
        for (index, tag) in tags.iter().enumerate() {
            let mut item = list.reborrow().get(index as u32);
            item.set_value(tag.value);
            item.set_weak(tag.weak);
        }
    }
}

/// Header names that `Connection` declares to be about this hop only.
fn named_by_connection(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}

/// `a;q=0.5, b;level=1` as pairs; parameters other than `q` stay with their item.
fn quality_list(headers: &HeaderMap, name: header::HeaderName) -> Vec<(String, f32)> {
    let mut out = Vec::new();
    for value in headers.get_all(name) {
        let Ok(value) = value.to_str() else { continue };
        for item in value.split(',') {
            let mut pieces = item.split(';').map(str::trim);
            let Some(what) = pieces.next().filter(|what| !what.is_empty()) else { continue };
            let mut what = what.to_owned();
            let mut quality = 1.0;
            for piece in pieces {
                match piece.split_once('=') {
                    Some((key, value)) if key.trim().eq_ignore_ascii_case("q") => {
                        quality = value.trim().parse::<f32>().unwrap_or(1.0).clamp(0.0, 1.0);
                    }
                    _ if piece.is_empty() => {}
                    _ => {
                        what.push(';');
                        what.push_str(piece);
                    }
                }
            }
            if quality.is_nan() {
                quality = 1.0;
            }
            out.push((what, quality));
            if out.len() == MAX_ITEMS {
                return out;
            }
        }
    }
    out
}

fn precondition(headers: &HeaderMap, get_or_head: bool) -> Result<Precondition<'_>, Fault> {
    let malformed = |name: &str| {
        Fault::new(
            StatusCode::BAD_REQUEST,
            "S-ETAG",
            "This request makes no sense",
            format!("Its {name} header is no list of entity tags."),
            "",
        )
    };
    if headers.contains_key(header::IF_MATCH) {
        return match tags(headers, header::IF_MATCH) {
            Some(None) => Ok(Precondition::Exists),
            Some(Some(tags)) => Ok(Precondition::MatchesOneOf(tags)),
            // To ignore it would be to lose somebody's update.
            None => Err(malformed("If-Match")),
        };
    }
    if headers.contains_key(header::IF_NONE_MATCH) {
        return match tags(headers, header::IF_NONE_MATCH) {
            Some(None) => Ok(Precondition::DoesntExist),
            Some(Some(tags)) => Ok(Precondition::MatchesNoneOf(tags)),
            // A cache with a sloppy validator gets a fresh answer.
            None if get_or_head => Ok(Precondition::None),
            None => Err(malformed("If-None-Match")),
        };
    }
    Ok(Precondition::None)
}

/// `None`: malformed; `Some(None)`: `*`.
#[allow(clippy::option_option)]
fn tags(headers: &HeaderMap, name: header::HeaderName) -> Option<Option<Vec<ETag<'_>>>> {
    let mut out = Vec::new();
    let mut any = false;
    for value in headers.get_all(name) {
        let mut rest = std::str::from_utf8(value.as_bytes()).ok()?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        while !rest.is_empty() {
            let (tag, tail) = etag(rest)?;
            out.push(tag);
            let tail = tail.trim_start();
            rest = match tail.strip_prefix(',') {
                Some(tail) => tail.trim_start_matches([',', ' ', '\t']),
                None if tail.is_empty() => tail,
                None => return None,
            };
        }
    }
    match (any, out.is_empty()) {
        (true, true) => Some(None),
        (false, false) if out.len() <= MAX_ETAGS => Some(Some(out)),
        _ => None,
    }
}

/// The entity tag that `text` begins with, and what follows it.
fn etag(text: &str) -> Option<(ETag<'_>, &str)> {
    let (weak, text) = match text.strip_prefix("W/") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (value, rest) = text.strip_prefix('"')?.split_once('"')?;
    let fine = value.bytes().all(|b| b > b' ' && b != 0x7f);
    fine.then_some((ETag { value, weak }, rest))
}

/// Whether a type is XML, as the verbs of WebDAV want it.
pub fn is_xml(content_type: Option<&str>) -> bool {
    let Some(kind) = content_type else { return true };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.is_empty() || kind.to_ascii_lowercase().ends_with("/xml")
}

/// `Destination` as the interface wants it: below this host, without the leading slash.
pub fn destination<'a>(headers: &'a HeaderMap, origin: &str) -> Result<&'a str, Fault> {
    let bad = |why: String| {
        Err(Fault::new(StatusCode::BAD_REQUEST, "S-DEST", "This request makes no sense", why, ""))
    };
    let Some(value) = headers.get("destination") else {
        return bad("It has no Destination header.".into());
    };
    let Ok(value) = std::str::from_utf8(value.as_bytes()) else {
        return bad("Its Destination is not UTF-8.".into());
    };
    if let Some(path) = value.strip_prefix('/') {
        return Ok(path);
    }
    let (_, authority) = origin.split_once("://").unwrap_or_default();
    let after = value
        .split_once("://")
        .filter(|(scheme, _)| matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https"))
        .map(|(_, rest)| rest);
    let Some(rest) = after else { return bad("Its Destination is no address.".into()) };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.eq_ignore_ascii_case(authority) {
        Ok(path)
    } else {
        Err(Fault::new(
            StatusCode::BAD_GATEWAY,
            "S-DEST",
            "This cannot go to another server",
            "Its Destination is not below this grain's own address.",
            "",
        ))
    }
}

/// The request's path as the interface wants it: without the leading slash, nothing decoded.
pub fn path(parts: &Parts) -> &str {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    path.strip_prefix('/').unwrap_or(path)
}

/// A header as text; absent or unreadable is empty.
pub fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok()).unwrap_or("")
}

/// Whether the other end may be asked for this verb by name (RFC 9110 token, not CONNECT, TRACE).
pub fn verb_allowed(method: &Method) -> bool {
    http_map::header_name_valid(method.as_str())
        && !matches!(*method, Method::CONNECT | Method::TRACE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/a%2Fb?x=%2F");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn nothing_is_decoded() {
        assert_eq!(path(&parts("GET", &[])), "a%2Fb?x=%2F");
    }

    #[test]
    fn only_listed_headers_travel() {
        let p = parts(
            "GET",
            &[
                ("range", "bytes=0-"),
                ("authorization", "x"),
                ("referer", "x"),
                ("origin", "x"),
                ("x-forwarded-for", "x"),
                ("x-sandstorm-user-id", "x"),
                ("x-sandstorm-app-a", "1"),
                ("connection", "x-csrf-token"),
                ("x-csrf-token", "1"),
                ("if-modified-since", "x"),
            ],
        );
        let head = Head::read(&p, vec![]).unwrap();
        let names: Vec<_> = head.additional.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["range", "x-sandstorm-app-a", "if-modified-since"]);
        assert!(head.facts.range && head.facts.if_modified_since && !head.facts.if_none_match);
    }

    #[test]
    fn preconditions() {
        let read = |method: &str, name: &str, value: &str| {
            let p = parts(method, &[(name, value)]);
            Head::read(&p, vec![]).map(|h| format!("{:?}", h.precondition)).map_err(|f| f.status)
        };
        assert!(read("GET", "if-none-match", "\"a\", W/\"b,c\"").unwrap().contains("b,c"));
        assert_eq!(read("GET", "if-none-match", "*").unwrap(), "DoesntExist");
        assert_eq!(read("PUT", "if-match", "*").unwrap(), "Exists");
        assert_eq!(read("GET", "if-none-match", "abc").unwrap(), "None");
        assert_eq!(read("PUT", "if-match", "abc"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(read("PUT", "if-match", "\"a\" \"b\""), Err(StatusCode::BAD_REQUEST));
        let p = parts("PUT", &[("if-match", "\"a\""), ("if-none-match", "*")]);
        let head = Head::read(&p, vec![]).unwrap();
        assert!(matches!(head.precondition, Precondition::MatchesOneOf(_)));
    }

    #[test]
    fn accept_keeps_parameters() {
        let p = parts("GET", &[("accept", "text/html;level=1;q=0.5, */*;q=x, ,")]);
        assert_eq!(
            quality_list(&p.headers, header::ACCEPT),
            [("text/html;level=1".to_owned(), 0.5), ("*/*".to_owned(), 1.0)]
        );
    }

    #[test]
    fn destinations() {
        let ask = |value: &str| {
            let p = parts("MOVE", &[("destination", value)]);
            destination(&p.headers, "http://g.localhost:3000")
                .map(str::to_owned)
                .map_err(|f| f.status)
        };
        assert_eq!(ask("http://G.localhost:3000/b%20c.txt"), Ok("b%20c.txt".into()));
        assert_eq!(ask("/b"), Ok("b".into()));
        assert_eq!(ask("http://other/b"), Err(StatusCode::BAD_GATEWAY));
        assert_eq!(ask("b"), Err(StatusCode::BAD_REQUEST));
        assert_eq!(ask("ftp://g.localhost:3000/b"), Err(StatusCode::BAD_REQUEST));
    }
}
