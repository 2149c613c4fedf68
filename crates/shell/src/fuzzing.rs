//! Ways in for the fuzz targets: bytes of a browser or of an app, through a filter, and what must
//! hold of the outcome. Nothing of the program calls this.
//!
//! Each function panics when a promise is broken; that is its whole result.

use capnp::message::ReaderOptions;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use sandstorm_schema::http_map::{self, RequestFacts, header_name_valid, header_value_valid};
use sandstorm_schema::web_session_capnp::web_session::{context, response};

use crate::edge::{GrainHost, head::peek_host};
use crate::grains::cookies::{self, AppCookie, Marks};
use crate::grains::proxy::answer::{Asked, convert};
use crate::grains::proxy::context::{Head, destination};

/// The first byte chooses the host and what browsers accept there.
fn place(how: u8) -> (GrainHost, Marks) {
    let host = match how & 1 {
        0 => GrainHost::Label("ui-0123456789abcdef".into()),
        _ => GrainHost::Port(7001),
    };
    let marks = Marks { https: how & 2 != 0, cross_site: how & 4 != 0, trustworthy: how & 8 != 0 };
    (host, marks)
}

/// Is this one of our own cookies, as a browser would compare it?
fn is_our_name(name: &str) -> bool {
    name == "sandstorm-sid"
        || name.starts_with("sandstorm-sid-")
        || name.starts_with("sandstorm-port")
        || name.eq_ignore_ascii_case("__Host-Http-sandstorm")
        || name.eq_ignore_ascii_case("sandstorm-shell")
}

/// A request's `Cookie` lines (one a line of `data`), and each of them set by an app.
pub fn cookie_filter(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let (host, marks) = place(*how);
    let mut headers = HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(100) {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(header::COOKIE, value);
        }
    }
    let prefix = cookies::prefix(&host, i64::from(*how >> 6));
    let sorted = cookies::sort(&headers, &host, &prefix);
    let mut sent = 0;
    for (name, value) in &sorted.app {
        let in_the_jar = format!("{prefix}{name}");
        assert!(!is_our_name(&in_the_jar), "ours went to the app: {in_the_jar:?}");
        assert!(!name.contains([';', '=']) && !value.contains(';'), "{name:?}={value:?}");
        sent += name.len() + value.len();
    }
    assert!(sent <= 8192, "{sent} bytes of cookies");
    assert!(sorted.sids.iter().all(|sid| !sid.contains(';')));
    let mut answer = HeaderMap::new();
    cookies::expire(&sorted.excess, "ui-0123456789abcdef.example.org:3000", &mut answer);
    for line in answer.get_all(header::SET_COOKIE) {
        let line = std::str::from_utf8(line.as_bytes()).expect("made of text");
        assert!(line.contains("; Max-Age=0"), "{line:?}");
    }

    for (index, (name, value)) in sorted.app.iter().enumerate() {
        let path = sorted.app.get(index + 1).map_or("", |(path, _)| *path);
        let cookie = AppCookie {
            name,
            value,
            expires: (index % 3 == 1).then_some(index as i64 - 100),
            max_age: (index % 3 == 2).then_some(u64::MAX),
            path,
            http_only: index % 2 == 0,
        };
        if let Some(line) = cookies::line(&cookie, &prefix, marks) {
            check_set_cookie(&line, &prefix);
        }
    }
}

/// A `Set-Cookie` line of an app: the name is not ours, the attributes are those that we write.
fn check_set_cookie(line: &HeaderValue, prefix: &str) {
    let line = std::str::from_utf8(line.as_bytes()).expect("made of text");
    let mut parts = line.split(';').map(str::trim);
    let pair = parts.next().expect("split gives one");
    let (name, _) = pair.split_once('=').expect("name=value");
    assert!(!name.is_empty() && !is_our_name(name), "{line:?}");
    assert!(name.starts_with(prefix), "another port's cookie: {line:?}");
    for part in parts {
        let attribute = part.split('=').next().expect("split gives one");
        let ours = ["Path", "Expires", "Max-Age", "HttpOnly", "Secure", "SameSite", "Partitioned"];
        assert!(ours.contains(&attribute), "an attribute of its own: {line:?}");
    }
}

/// A request's head as it stands on the wire, into the message for the app.
pub fn request_filter(data: &[u8]) {
    let _ = peek_host(data);
    let mut lines = [httparse::EMPTY_HEADER; 200];
    let mut parsed = httparse::Request::new(&mut lines);
    if !matches!(parsed.parse(data), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let (Some(method), Some(path)) = (parsed.method, parsed.path) else { return };
    let mut request = Request::builder().method(method).uri(path);
    for line in &*parsed.headers {
        request = request.header(line.name, line.value);
    }
    let Ok(request) = request.body(()) else { return };
    let (parts, ()) = request.into_parts();
    let host = GrainHost::Label("ui-0123456789abcdef".into());
    let cookies = cookies::sort(&parts.headers, &host, "");
    if let Ok(path) = destination(&parts.headers, "https://ui-0123456789abcdef.example.org") {
        let whole = parts.headers.get("destination").expect("there was one").as_bytes();
        assert!(whole.ends_with(path.as_bytes()));
    }
    let Ok(head) = Head::read(&parts, cookies.app) else { return };
    let mut message = capnp::message::Builder::new_default();
    head.write(message.init_root::<context::Builder<'_>>(), None);
    let told: context::Reader<'_> = message.get_root_as_reader().expect("our own message");

    for item in told.get_additional_headers().expect("a list") {
        let name = item.get_name().expect("a text").to_str().expect("UTF-8");
        let value = item.get_value().expect("a text").as_bytes();
        assert!(http_map::request_header_allowed(name) && !http_map::is_hop_by_hop(name));
        assert!(header_name_valid(name), "{name:?}");
        assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)), "{name}: {value:?}");
        assert!(!matches!(name, "cookie" | "authorization" | "host"), "{name}");
    }
    for cookie in told.get_cookies().expect("a list") {
        let name = cookie.get_key().expect("a text").to_str().expect("UTF-8");
        assert!(!is_our_name(name), "{name:?}");
    }
    for item in told.get_accept().expect("a list") {
        assert!((0.0..=1.0).contains(&item.get_q_value()));
    }
    let methods = [&Method::GET, &Method::HEAD];
    assert_eq!(head.facts.get_or_head, methods.contains(&&parts.method));
}

/// An app's answer, a framed `WebSession.Response`, into HTTP.
pub fn response_filter(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let (host, marks) = place(*how);
    let options = ReaderOptions { traversal_limit_in_words: Some(1 << 20), nesting_limit: 64 };
    let Ok(message) = capnp::serialize::read_message(&mut &*data, options) else { return };
    let Ok(reader) = message.get_root::<response::Reader<'_>>() else { return };
    let (head, all) = (how & 16 != 0, how & 32 != 0);
    let facts = RequestFacts { range: all, if_modified_since: all, ..RequestFacts::GET };
    let cookie_prefix = &*cookies::prefix(&host, i64::from(*how >> 6));
    let Ok(converted) = convert(reader, &Asked { facts, head, cookie_prefix, marks }) else {
        return;
    };
    let status = converted.answer.status().as_u16();
    assert!((200..=599).contains(&status) && status != 407 && status != 421, "{status}");
    assert!(all || !matches!(status, 206 | 304 | 416), "{status}, which nobody asked for");
    for (name, value) in converted.answer.headers() {
        check_response_header(name, value, head, cookie_prefix);
    }
}

fn check_response_header(name: &HeaderName, value: &HeaderValue, head: bool, prefix: &str) {
    assert!(header_value_valid(value.as_bytes()), "{name}: {value:?}");
    if *name == header::SET_COOKIE {
        return check_set_cookie(value, prefix);
    }
    // What has a field of its own in the interface, and what the table lists.
    let field = [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_DISPOSITION,
        header::ETAG,
        header::LOCATION,
    ];
    let listed = match head {
        true => http_map::head_response_header_allowed(name.as_str()),
        false => http_map::response_header_allowed(name.as_str()),
    };
    assert!(field.contains(name) || listed, "{name}: {value:?}");
    assert!(!http_map::is_hop_by_hop(name.as_str()), "{name}");
}
