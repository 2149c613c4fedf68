//! Cookies on a grain host, both ways.
//!
//! What a browser sends here may hold anything: a sibling host can set cookies for the parent
//! domain, and a frame's script as many as it likes. Ours never reach the app, the app's never
//! look like ours, and no amount of them locks a person out.

use http::{HeaderMap, HeaderValue, header};

use crate::edge::GrainHost;

/// Longest cookie that a browser keeps (name and value); a longer one is not the app's.
const ONE: usize = 4096;
/// Cookies of one request to an app, in bytes: servers with a limit have at least 8 KiB a line.
const ALL: usize = 7 * 1024;

/// Names that one answer expires, in bytes: it holds them once for each domain above its host
/// until it is read. The others have their turn at the next request.
const EXPIRED: usize = 8 * 1024;

/// A request's cookies, sorted by whose they are.
#[derive(Debug, Default)]
pub struct Sorted<'a> {
    /// Values of the hand-over cookie.
    pub sids: Vec<&'a str>,
    /// The app's, by the names it knows.
    pub app: Vec<(&'a str, &'a str)>,
    /// Names (as the browser has them) that are too much and should be expired.
    pub excess: Vec<&'a str>,
}

/// The prefix that the app's cookies have in port mode, where all ports of a host share a jar, and
/// a port may have had another grain before (`generation` of them). Empty in wildcard mode.
pub fn prefix(host: &GrainHost, generation: i64) -> String {
    match (host, generation) {
        (GrainHost::Label(_), _) => String::new(),
        (GrainHost::Port(port), 0) => format!("p{port}-"),
        (GrainHost::Port(port), generation) => format!("p{port}.{generation}-"),
    }
}

/// The cookie by which a browser is known that has forgotten what an earlier grain of this port
/// left in it.
fn mark_name(host: &GrainHost) -> String {
    match host {
        GrainHost::Label(_) => "sandstorm-port".to_owned(),
        GrainHost::Port(port) => format!("sandstorm-port-{port}"),
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("sandstorm-sid")
        || name.starts_with("sandstorm-port")
        || name.eq_ignore_ascii_case("sandstorm-shell")
        || name.to_ascii_lowercase().starts_with("__host-http-sandstorm")
}

/// `prefix`: that of the app's cookies.
pub fn sort<'a>(headers: &'a HeaderMap, host: &GrainHost, prefix: &str) -> Sorted<'a> {
    let own_sid = super::session::cookie_name(host);
    let mut out = Sorted::default();
    let (mut bytes, mut excess) = (0, 0);
    for line in headers.get_all(header::COOKIE) {
        for piece in line.as_bytes().split(|&b| b == b';') {
            // Bytes outside UTF-8 cannot travel as Text; such a cookie stays behind.
            let Ok(piece) = std::str::from_utf8(piece) else { continue };
            let piece = piece.trim();
            let (name, value) = piece.split_once('=').unwrap_or(("", piece));
            let (name, value) = (name.trim(), value.trim());
            if name == own_sid {
                out.sids.push(value);
                continue;
            }
            if is_ours(name) || piece.is_empty() {
                continue;
            }
            let Some(app_name) = name.strip_prefix(prefix) else { continue };
            if piece.len() > ONE || bytes + piece.len() + 2 > ALL {
                if out.excess.len() < 50 && excess + name.len() <= EXPIRED && !name.is_empty() {
                    excess += name.len();
                    out.excess.push(name);
                }
                continue;
            }
            bytes += piece.len() + 2;
            out.app.push((app_name, value));
        }
    }
    out
}

/// The domains above a host (`name[:port]`) that a page there can set cookies for, but for the last
/// label.
fn domains_above(host_name: &str) -> impl Iterator<Item = &str> {
    fn above(name: &str) -> Option<&str> {
        name.split_once('.').map(|(_, parent)| parent)
    }
    let first = above(host_name.split(':').next().unwrap_or_default());
    std::iter::successors(first, |name| above(name)).filter(|name| name.contains('.'))
}

/// Lines that expire cookies of the hand-over cookie's name which are not the hand-over cookie: that
/// one has no domain and the path `/`. What is sent to `path` was set for a part of it. One answer
/// expires a few KiB of them; the others have their turn at the next.
pub fn expire_planted(
    host: &GrainHost,
    host_name: &str,
    path: &str,
    marks: Marks,
    headers: &mut HeaderMap,
) {
    let cookie = super::session::cookie_name(host);
    let name = host_name.split(':').next().unwrap_or_default();
    let slashes = path.match_indices('/').map(|(at, _)| at).filter(|at| *at > 0);
    let parts = slashes.flat_map(|at| [&path[..at], &path[..=at]]);
    let below = parts.chain((path.len() > 1 && !path.ends_with('/')).then_some(path));
    // From a frame of another site two jars are seen, and a line counts for one.
    let jars: &[&str] = match marks.cross_site {
        true => &["; Secure; SameSite=None", "; Secure; SameSite=None; Partitioned"],
        false => &[""],
    };
    let mut bytes = 0;
    for path in std::iter::once("/").chain(below).filter(|path| !path.contains(';')) {
        let own = [None, Some(name)].into_iter().filter(|_| path != "/");
        for domain in own.chain(domains_above(host_name).map(Some)) {
            let domain = domain.map(|d| format!("; Domain={d}")).unwrap_or_default();
            for jar in jars {
                let line = format!("{cookie}=; Path={path}; Max-Age=0{domain}{jar}");
                bytes += line.len();
                if bytes > EXPIRED {
                    return;
                }
                if let Ok(line) = HeaderValue::from_str(&line) {
                    headers.append(header::SET_COOKIE, line);
                }
            }
        }
    }
}

/// Lines that expire `excess`, wherever below this site they were set.
pub fn expire(excess: &[&str], host_name: &str, headers: &mut HeaderMap) {
    for cookie in excess {
        for domain in std::iter::once(None).chain(domains_above(host_name).map(Some)) {
            let domain = domain.map(|d| format!("; Domain={d}")).unwrap_or_default();
            if let Ok(line) =
                HeaderValue::from_str(&format!("{cookie}=; Path=/; Max-Age=0{domain}"))
            {
                headers.append(header::SET_COOKIE, line);
            }
        }
    }
}

/// Leads a browser into a port that other grains had before: unless it shows `mark`, it is told to
/// forget what they stored, and marked. The cookies of theirs that it shows are expired one by one:
/// "cookies" in `Clear-Site-Data` would take those of the whole site.
pub fn forget_others(
    request: &HeaderMap,
    host: &GrainHost,
    mark: &str,
    marks: Marks,
    answer: &mut HeaderMap,
) {
    let name = mark_name(host);
    let shown = || {
        let lines = request.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        lines.flat_map(|line| line.split(';')).filter_map(|piece| piece.trim().split_once('='))
    };
    if shown().any(|(shown, value)| shown == name && value == mark) {
        return;
    }
    answer.insert("clear-site-data", HeaderValue::from_static("\"cache\", \"storage\""));
    let mut bytes = 0;
    for (name, _) in shown().filter(|(name, _)| !is_ours(name)).take(50) {
        bytes += name.len();
        if bytes > EXPIRED {
            break;
        }
        if let Ok(line) = HeaderValue::from_str(&format!("{name}=; Path=/; Max-Age=0")) {
            answer.append(header::SET_COOKIE, line);
        }
    }
    // As long as browsers keep any.
    let secure = if marks.trustworthy { "; Secure" } else { "" };
    let line = format!("{name}={mark}; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax{secure}");
    if let Ok(line) = HeaderValue::from_str(&line) {
        answer.append(header::SET_COOKIE, line);
    }
}

/// How cookies are to be marked so that they come back.
#[derive(Clone, Copy, Debug)]
pub struct Marks {
    pub https: bool,
    /// Frame and page are different sites.
    pub cross_site: bool,
    /// Browsers accept `Secure` here.
    pub trustworthy: bool,
}

/// A cookie that the app sets.
#[derive(Debug, Default)]
pub struct AppCookie<'a> {
    pub name: &'a str,
    pub value: &'a str,
    /// Seconds since 1970.
    pub expires: Option<i64>,
    /// Seconds from now.
    pub max_age: Option<u64>,
    pub path: &'a str,
    pub http_only: bool,
}

/// The `Set-Cookie` line, or `None` for a cookie that may not be set.
pub fn line(cookie: &AppCookie<'_>, prefix: &str, marks: Marks) -> Option<HeaderValue> {
    let name_ok = cookie.name.bytes().all(|b| b > b' ' && b < 0x7f && !b"=;,\"".contains(&b));
    let value_ok = cookie.value.bytes().all(|b| b >= b' ' && b != 0x7f && b != b';');
    if cookie.name.is_empty() || !name_ok || !value_ok || is_ours(cookie.name) {
        return None;
    }
    let mut text = format!("{prefix}{}={}", cookie.name, cookie.value);
    if cookie.path.starts_with('/')
        && cookie.path.bytes().all(|b| b > b' ' && b != b';' && b < 0x7f)
    {
        text += "; Path=";
        text += cookie.path;
    }
    if let Some(seconds) = cookie.expires {
        let seconds = u64::try_from(seconds).unwrap_or(0).min(253_402_300_799);
        let when = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        text += "; Expires=";
        text += &httpdate::fmt_http_date(when);
    }
    if let Some(seconds) = cookie.max_age {
        text += &format!("; Max-Age={seconds}");
    }
    if cookie.http_only {
        text += "; HttpOnly";
    }
    if marks.cross_site {
        text += "; Secure; SameSite=None; Partitioned";
    } else if marks.https || (cookie.name.starts_with("__") && marks.trustworthy) {
        // `__Host-` and `__Secure-` names are refused without it.
        text += "; Secure";
    }
    HeaderValue::from_bytes(text.as_bytes()).ok()
}

/// The hand-over cookie.
pub fn sid_line(host: &GrainHost, sid: &str, marks: Marks) -> HeaderValue {
    let name = super::session::cookie_name(host);
    let site = if marks.cross_site {
        "; SameSite=None; Secure; Partitioned"
    } else if marks.trustworthy {
        "; SameSite=Lax; Secure"
    } else {
        "; SameSite=Lax"
    };
    HeaderValue::from_str(&format!("{name}={sid}; Path=/; HttpOnly{site}"))
        .expect("hexadecimal digits make a valid header")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Marks = Marks { https: false, cross_site: false, trustworthy: true };

    fn cookies(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_bytes(text.as_bytes()).unwrap());
        headers
    }

    #[test]
    fn ours_never_reach_the_app() {
        let headers = cookies(
            "a=1; sandstorm-sid=x; b=2=3; sandstorm-sid=y; __Host-Http-sandstorm=z; \
             sandstorm-shell=q; sandstorm-sid-7001=p; ; flag",
        );
        let sorted = sort(&headers, &GrainHost::Label("ui-1".into()), "");
        assert_eq!(sorted.sids, ["x", "y"]);
        assert_eq!(sorted.app, [("a", "1"), ("b", "2=3"), ("", "flag")]);
    }

    #[test]
    fn ports_do_not_share_cookies() {
        let headers = cookies("p7001-a=1; p7002-a=2; a=3; sandstorm-sid-7001=s; sandstorm-sid=t");
        let host = GrainHost::Port(7001);
        let sorted = sort(&headers, &host, &prefix(&host, 0));
        assert_eq!(sorted.sids, ["s"]);
        assert_eq!(sorted.app, [("a", "1")]);
        let cookie = AppCookie { name: "a", value: "1", ..Default::default() };
        assert_eq!(line(&cookie, &prefix(&host, 0), PLAIN).unwrap(), "p7001-a=1");
    }

    #[test]
    fn a_port_forgets_the_grain_that_had_it_before() {
        let host = GrainHost::Port(7001);
        let both = cookies("p7001-a=old; p7001.1-a=new; p7001.2-a=newer; sandstorm-port-7001=m");
        for (generation, value) in [(0, "old"), (1, "new"), (2, "newer")] {
            let sorted = sort(&both, &host, &prefix(&host, generation));
            assert_eq!(sorted.app, [("a", value)]);
        }
        let told = |request: &HeaderMap| {
            let mut answer = HeaderMap::new();
            forget_others(request, &host, "m", PLAIN, &mut answer);
            answer
        };
        assert!(told(&both).is_empty(), "once a browser");
        let answer =
            told(&cookies("p7001-a=old; b=2; sandstorm-sid-7001=s; sandstorm-port-7001=l"));
        assert_eq!(answer["clear-site-data"], "\"cache\", \"storage\"");
        let set: Vec<_> = answer.get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(set.len(), 3, "{set:?}");
        assert_eq!(set[0], "p7001-a=; Path=/; Max-Age=0");
        assert!(set[2].to_str().unwrap().starts_with("sandstorm-port-7001=m; Path=/; Max-Age="));
    }

    #[test]
    fn overlong_cookies_stay_behind_and_are_expired() {
        let mut text = format!("keep=1; big={}", "x".repeat(12_000));
        for i in 0..10 {
            text += &format!("; c{i}={}", "y".repeat(1000));
        }
        let headers = cookies(&text);
        let sorted = sort(&headers, &GrainHost::Label("ui-1".into()), "");
        assert_eq!(sorted.app[0], ("keep", "1"));
        let sent: usize = sorted.app.iter().map(|(n, v)| n.len() + v.len() + 3).sum();
        assert!(sent <= ALL, "{sent}");
        assert!(sorted.excess.contains(&"big"));
        let mut answer = HeaderMap::new();
        expire(&["big"], "ui-1.sandstorm.localhost:3000", &mut answer);
        let lines: Vec<_> = answer.get_all(header::SET_COOKIE).iter().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0], "big=; Path=/; Max-Age=0");
        assert_eq!(lines[1], "big=; Path=/; Max-Age=0; Domain=sandstorm.localhost");
    }

    #[test]
    fn planted_ones_are_expired_and_the_own_one_stays() {
        let lines = |path: &str, marks| {
            let mut answer = HeaderMap::new();
            let host = GrainHost::Label("ui-1".into());
            expire_planted(&host, "ui-1.sandstorm.localhost:3000", path, marks, &mut answer);
            let lines = answer.get_all(header::SET_COOKIE).iter();
            lines.map(|line| line.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let planted = "sandstorm-sid=; Path=/; Max-Age=0; Domain=sandstorm.localhost";
        assert_eq!(lines("/", PLAIN), [planted]);
        let of = |path: &str| {
            ["", "; Domain=ui-1.sandstorm.localhost", "; Domain=sandstorm.localhost"]
                .map(|domain| format!("sandstorm-sid=; Path={path}; Max-Age=0{domain}"))
        };
        let expected = [vec![planted.to_owned()], of("/a").into(), of("/a/").into()].concat();
        assert_eq!(lines("/a/", PLAIN), expected);
        assert_eq!(lines("/a/b", PLAIN), [expected, of("/a/b").into()].concat());
        let both = lines("/", Marks { cross_site: true, ..PLAIN });
        assert_eq!(both.len(), 2);
        assert!(both[1].ends_with("; Secure; SameSite=None; Partitioned"), "{both:?}");
        // However deep a path is; the own one is never named.
        for path in ["/x;y/".repeat(5), "/x".repeat(30_000)] {
            let lines = lines(&path, PLAIN);
            assert!(lines.iter().map(String::len).sum::<usize>() <= EXPIRED);
            assert!(!lines.contains(&"sandstorm-sid=; Path=/; Max-Age=0".to_owned()));
        }
    }

    #[test]
    fn an_app_cannot_set_ours_nor_break_the_line() {
        let set = |name, value, path| {
            line(&AppCookie { name, value, path, ..Default::default() }, "", PLAIN)
        };
        assert_eq!(set("a", "b c,d", "/x").unwrap(), "a=b c,d; Path=/x");
        for name in
            ["", "a b", "a;b", "a=b", "sandstorm-sid", "sandstorm-sid-1", "__Host-Http-Sandstorm"]
        {
            assert!(set(name, "1", "").is_none(), "{name}");
        }
        assert!(set("a", "b\r\nX: y", "").is_none());
        assert!(set("a", "b; Domain=localhost", "").is_none());
        assert_eq!(set("a", "b", "/; Domain=localhost").unwrap(), "a=b");
        assert_eq!(set("__Host-a", "b", "/").unwrap(), "__Host-a=b; Path=/; Secure");
        let cookie = AppCookie { name: "t", expires: Some(0), ..Default::default() };
        let expired = line(&cookie, "", PLAIN).unwrap();
        assert_eq!(expired, "t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
