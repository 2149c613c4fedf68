//! Judging a request's head before anybody acts on it.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use axum::extract::FromRequestParts;
use http::request::Parts;
use http::{Extensions, HeaderMap, HeaderName, Request, Response, StatusCode, header};

use super::{EdgeBody, reply};
use crate::config::Config;
use crate::pages::standalone::Sheet;

/// Fields and bytes of a head, Cookie not counted: frames can make a browser send any number of
/// cookies, and an overlong cookie must never lock a person out.
const MAX_FIELDS: usize = 100;
const MAX_BYTES: usize = 64 * 1024;

/// Who is asking: the peer, or what a trusted proxy says.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddr(pub IpAddr);

impl ClientAddr {
    /// As the edge has noted it. A request that came another way, in a test, is nobody's.
    pub fn of(extensions: &Extensions) -> ClientAddr {
        extensions.get().copied().unwrap_or(ClientAddr(Ipv4Addr::UNSPECIFIED.into()))
    }
}

impl<S: Sync> FromRequestParts<S> for ClientAddr {
    type Rejection = Infallible;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<ClientAddr, Infallible> {
        Ok(ClientAddr::of(&parts.extensions))
    }
}

pub fn check<B>(request: &Request<B>) -> Result<(), Response<EdgeBody>> {
    let mut fields = 0;
    let mut bytes = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    for (name, value) in request.headers() {
        if name != header::COOKIE {
            fields += 1;
            bytes += name.as_str().len() + value.len() + 4;
        }
    }
    if fields > MAX_FIELDS || bytes > MAX_BYTES {
        let sheet = Sheet {
            title: "This request's head is too large",
            why: &format!(
                "It has {fields} fields and {bytes} bytes; up to {MAX_FIELDS} and {MAX_BYTES} are \
                 read, cookies not counted."
            ),
            advice: "Go back and try again with a shorter address.",
            code: "S-HEAD",
            ..Sheet::default()
        };
        return Err(reply::told(request, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &sheet));
    }
    // The library takes the last coding off and would pass the others on as if they were not there.
    let codings = request.headers().get_all(header::TRANSFER_ENCODING);
    if codings.iter().any(|value| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked")) {
        let text = "The only Transfer-Encoding here is chunked.\n";
        return Err(reply::plain(StatusCode::NOT_IMPLEMENTED, text));
    }
    Ok(())
}

/// The one host that a request names.
pub fn host<B>(request: &Request<B>) -> Result<&str, Response<EdgeBody>> {
    let bad = |text| Err(reply::plain(StatusCode::BAD_REQUEST, text));
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let Some(host) = hosts.next() else { return bad("The request has no Host header.\n") };
    if hosts.next().is_some() {
        return bad("The request has two Host headers.\n");
    }
    let Ok(host) = host.to_str() else { return bad("The Host header is no host name.\n") };
    match request.uri().authority() {
        // Two names for one request: whoever chose by the other would be deceived.
        Some(other) if !other.as_str().eq_ignore_ascii_case(host) => {
            bad("The request line and the Host header name two hosts.\n")
        }
        _ => Ok(host),
    }
}

/// The host in the first bytes of a connection, if they hold it; only to choose a thread.
pub fn peek_host(first: &[u8]) -> Option<String> {
    let mut lines = first.split(|&b| b == b'\n');
    lines.next()?;
    for line in lines {
        let line = line.strip_suffix(b"\r")?;
        let (name, value) = line.split_once_byte(b':')?;
        if name.eq_ignore_ascii_case(b"host") {
            return Some(std::str::from_utf8(value).ok()?.trim().to_owned());
        }
    }
    None
}

trait SplitOnce {
    fn split_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnce for [u8] {
    fn split_once_byte(&self, byte: u8) -> Option<(&[u8], &[u8])> {
        let at = self.iter().position(|&b| b == byte)?;
        Some((&self[..at], &self[at + 1..]))
    }
}

/// Walks X-Forwarded-For from the near end for as long as the sender is a trusted proxy.
pub fn client_addr(config: &Config, headers: &HeaderMap, peer: SocketAddr) -> ClientAddr {
    let trusted = |ip: IpAddr| config.trusted_proxies.iter().any(|range| range.contains(ip));
    let mut client = peer.ip().to_canonical();
    let lines: Vec<&str> = headers
        .get_all(HeaderName::from_static("x-forwarded-for"))
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    for hop in lines.iter().rev().flat_map(|line| line.rsplit(',')) {
        if !trusted(client) {
            break;
        }
        let hop = hop.trim();
        let parsed = hop
            .parse::<IpAddr>()
            .ok()
            .or_else(|| hop.parse::<SocketAddr>().ok().map(|addr| addr.ip()));
        match parsed {
            Some(ip) => client = ip.to_canonical(),
            None => break,
        }
    }
    ClientAddr(client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listen, Settings};

    #[test]
    fn forwarded_addresses_count_from_trusted_peers_only() {
        let settings =
            Settings { trusted_proxies: Some("loopback,10.0.0.0/8".into()), ..Settings::default() };
        let listen = Listen::check(&settings).unwrap();
        let config = Config::check(&settings, "/tmp/h".into(), listen).unwrap();
        let ask = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            client_addr(&config, &headers, SocketAddr::new(peer.parse().unwrap(), 1)).0.to_string()
        };
        assert_eq!(ask("192.0.2.1", &["1.2.3.4"]), "192.0.2.1");
        assert_eq!(ask("127.0.0.1", &["1.2.3.4"]), "1.2.3.4");
        // What the client itself wrote, left of the first untrusted hop, never counts.
        assert_eq!(ask("127.0.0.1", &["6.6.6.6, 1.2.3.4"]), "1.2.3.4");
        assert_eq!(ask("127.0.0.1", &["6.6.6.6, 1.2.3.4, 10.0.0.7"]), "1.2.3.4");
        assert_eq!(ask("127.0.0.1", &["6.6.6.6", "1.2.3.4, 10.0.0.7"]), "1.2.3.4");
        assert_eq!(ask("127.0.0.1", &["rubbish"]), "127.0.0.1");
        assert_eq!(ask("127.0.0.1", &["::ffff:1.2.3.4"]), "1.2.3.4");
    }

    #[test]
    fn big_heads_are_refused_but_not_for_cookies() {
        let build = |count: usize, size: usize, cookie: usize| {
            let mut request = Request::builder().uri("/");
            for i in 0..count {
                request = request.header(format!("x-{i}"), "v".repeat(size));
            }
            request.header("cookie", "c".repeat(cookie)).body(()).unwrap()
        };
        assert!(check(&build(100, 10, 600_000)).is_ok());
        assert!(check(&build(101, 10, 0)).is_err());
        assert!(check(&build(2, 40_000, 0)).is_err());
        assert!(check(&build(1, 60_000, 0)).is_ok());
    }

    #[test]
    fn one_host() {
        let ask = |uri: &str, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri);
            for host in hosts {
                request = request.header("host", *host);
            }
            host(&request.body(()).unwrap()).map(str::to_owned).map_err(|r| r.status().as_u16())
        };
        assert_eq!(ask("/", &["a"]), Ok("a".into()));
        assert_eq!(ask("http://A/", &["a"]), Ok("a".into()));
        assert_eq!(ask("/", &[]), Err(400));
        assert_eq!(ask("/", &["a", "a"]), Err(400));
        assert_eq!(ask("http://b/", &["a"]), Err(400));
    }

    #[test]
    fn peeking() {
        assert_eq!(peek_host(b"GET / HTTP/1.1\r\nA: b\r\nHOST: x:1 \r\n"), Some("x:1".into()));
        assert_eq!(peek_host(b"GET / HTTP/1.1\r\nHost: x"), None);
        assert_eq!(peek_host(b"GET / HTTP/1.1\r\n\r\nHost: x\r\n"), None);
        assert_eq!(peek_host(b""), None);
    }
}
