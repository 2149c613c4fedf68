//! Where the shell and its grains are in the browser's eyes, and which choices cannot work.

use crate::error::{Error, Result};

/// `scheme://host[:port]`, lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub https: bool,
    /// Without port; IPv6 in brackets.
    pub host: String,
    pub port: u16,
}

/// How grains are told apart in the browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrainHosts {
    /// A host name a session: `prefix` + label + `suffix`, `suffix` beginning with a dot or not.
    Wildcard(Wildcard),
    /// A port for every (grain, account).
    Port { first: u16, last: u16 },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wildcard {
    pub prefix: String,
    pub suffix: String,
    pub port: u16,
    /// The frame is (or may be) cross-site to the shell's page, so that only a
    /// `Secure; SameSite=None; Partitioned` cookie comes back from it.
    pub cross_site: bool,
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

fn config<T>(text: impl Into<String>) -> Result<T> {
    Err(Error::Config(text.into()))
}

impl Origin {
    /// Reads ROOT_URL: http or https, a host, maybe a port, nothing behind it.
    pub fn parse(text: &str) -> Result<Origin> {
        let bad = |why: &str| {
            config(format!(
                "ROOT_URL is \"{text}\", {why}; write it like https://box.example.org or \
                 http://sandstorm.localhost:3000"
            ))
        };
        let Ok(url) = url::Url::parse(text.trim()) else { return bad("which is no address") };
        let https = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return bad("which is neither http nor https"),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return bad("with a user name in it");
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return bad("with something behind the host");
        }
        let Some(host) = url.host_str() else { return bad("without a host") };
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        Ok(Origin { https, host, port: url.port().unwrap_or(default_port(https)) })
    }

    /// Host, and port where it is not the scheme's own: what a `Host` header carries.
    pub fn authority(&self) -> String {
        if self.port == default_port(self.https) {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    fn is_address(&self) -> bool {
        self.host.starts_with('[') || self.host.parse::<std::net::Ipv4Addr>().is_ok()
    }

    /// Does a browser accept `Secure` cookies and send `Sec-Fetch-*` here?
    pub fn is_trustworthy(&self) -> bool {
        self.https
            || self.host == "localhost"
            || self.host.ends_with(".localhost")
            || self.host == "[::1]"
            || self.host.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme(), self.authority())
    }
}

impl Wildcard {
    /// Reads WILDCARD_HOST (or makes its default) and judges it against ROOT_URL.
    pub fn check(root: &Origin, text: Option<&str>) -> Result<Wildcard> {
        if root.is_address() {
            return config(format!(
                "ROOT_URL is {root}, an address and not a name, so there can be no host names \
                 below it for grains; set GRAIN_MODE=port, or use a name"
            ));
        }
        let default = format!("*.{}", root.authority());
        let text = text.map(str::trim).filter(|t| !t.is_empty()).unwrap_or(&default);
        let bad = |why: &str| {
            config(format!(
                "WILDCARD_HOST is \"{text}\", {why}; write it like *.box.example.org, the `*` \
                 in its first part"
            ))
        };
        let text_lower = text.to_ascii_lowercase();
        let (host, port) = match text_lower.rsplit_once(':') {
            None => (text_lower.as_str(), default_port(root.https)),
            Some((host, port)) => match port.parse() {
                Ok(port) => (host, port),
                Err(_) => return bad("whose port is no number"),
            },
        };
        let Some((prefix, suffix)) = host.split_once('*') else { return bad("without a `*`") };
        if suffix.contains('*') || prefix.contains('.') {
            return bad("with the `*` in the wrong place");
        }
        let Some((rest_of_label, parent)) = suffix.split_once('.') else {
            return bad("without a domain behind the `*`");
        };
        let label_ok = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !label_ok(prefix)
            || prefix.starts_with('-')
            || !parent.split('.').all(|l| !l.is_empty() && label_ok(l))
            || !label_ok(rest_of_label)
            || rest_of_label.ends_with('-')
        {
            return bad("which is no host name");
        }
        if prefix.len() + rest_of_label.len() > 63 - 35 {
            return bad("whose first part leaves no room for a grain's name of 35 characters");
        }
        let cross_site = match site_relation(&root.host, parent) {
            Site::Same => false,
            // On https the stricter cookie works either way.
            Site::Unknown => root.https,
            Site::Cross => true,
        };
        if cross_site && !root.https {
            return config(format!(
                "with ROOT_URL {root} and WILDCARD_HOST {text} browsers see grains as another \
                 site and drop their cookies over plain http; {}",
                if root.host == "localhost" {
                    format!("set ROOT_URL=http://sandstorm.localhost:{}", root.port)
                } else if !root.host.contains('.') {
                    "set GRAIN_MODE=port, or give the server a name with a dot, or use https"
                        .to_owned()
                } else {
                    format!("set WILDCARD_HOST=*.{}, or use https", root.authority())
                }
            ));
        }
        Ok(Wildcard { prefix: prefix.into(), suffix: suffix.into(), port, cross_site })
    }

    /// `label` as a whole host name.
    pub fn host(&self, label: &str) -> String {
        format!("{}{label}{}", self.prefix, self.suffix)
    }

    /// The part of `host` (no port, lower case) that the `*` stands for.
    pub fn label<'a>(&self, host: &'a str) -> Option<&'a str> {
        let label = host.strip_prefix(&*self.prefix)?.strip_suffix(&*self.suffix)?;
        (!label.is_empty() && !label.contains('.')).then_some(label)
    }
}

#[derive(Debug, PartialEq)]
enum Site {
    Same,
    /// Two common labels: one registrable domain unless those two are a public suffix.
    Unknown,
    Cross,
}

fn site_relation(root: &str, parent: &str) -> Site {
    if !root.contains('.') {
        // A name of one label is a site of its own, and so is each name below it.
        return Site::Cross;
    }
    if parent == root || parent.ends_with(&format!(".{root}")) {
        return Site::Same;
    }
    let common = root.rsplit('.').zip(parent.rsplit('.')).take_while(|(a, b)| a == b).count();
    if common >= 2 { Site::Unknown } else { Site::Cross }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Origin {
        Origin::parse(text).unwrap()
    }

    fn wildcard(url: &str, host: Option<&str>) -> Result<Wildcard> {
        Wildcard::check(&root(url), host)
    }

    #[test]
    fn default_wildcard_is_below_the_root_and_same_site() {
        let w = wildcard("http://sandstorm.localhost:3000", None).unwrap();
        assert_eq!(
            (w.suffix.as_str(), w.port, w.cross_site),
            (".sandstorm.localhost", 3000, false)
        );
        assert_eq!(w.host("ui-1"), "ui-1.sandstorm.localhost");
        assert_eq!(w.label("ui-1.sandstorm.localhost"), Some("ui-1"));
        assert_eq!(w.label("sandstorm.localhost"), None);
        assert_eq!(w.label("a.b.sandstorm.localhost"), None);
        assert_eq!(w.label(".sandstorm.localhost"), None);
    }

    #[test]
    fn cross_site_over_plain_http_is_refused_with_the_remedy() {
        for (url, host, remedy) in [
            ("http://localhost:3000", None, "ROOT_URL=http://sandstorm.localhost:3000"),
            ("http://box:3000", None, "GRAIN_MODE=port"),
            ("http://a.example.org", Some("*.b.example.net"), "WILDCARD_HOST=*.a.example.org"),
            ("http://192.168.1.5:3000", None, "GRAIN_MODE=port"),
            ("http://[::1]:3000", None, "GRAIN_MODE=port"),
        ] {
            let e = wildcard(url, host).unwrap_err().to_string();
            assert!(e.contains(remedy), "{url}: {e}");
        }
        assert!(wildcard("https://a.example.org", Some("*.b.example.net")).unwrap().cross_site);
        assert!(!wildcard("http://a.example.org", Some("*.b.example.org")).unwrap().cross_site);
        assert!(!wildcard("https://a.example.org", None).unwrap().cross_site);
    }

    #[test]
    fn malformed_wildcards_are_refused() {
        for host in
            ["box.example.org", "a.*.example.org", "*.*.example.org", "*", "*.x:y", "*_.x.y"]
        {
            assert!(wildcard("https://example.org", Some(host)).is_err(), "{host}");
        }
        let w = wildcard("https://example.org", Some("g-*.example.org:8443")).unwrap();
        assert_eq!((w.prefix.as_str(), w.port), ("g-", 8443));
        assert_eq!(w.label("g-ui-2.example.org"), Some("ui-2"));
    }

    #[test]
    fn root_urls() {
        assert_eq!(root("https://Box.Example.org/").to_string(), "https://box.example.org");
        assert_eq!(root("http://x.localhost:3000").authority(), "x.localhost:3000");
        for bad in ["box.example.org", "ftp://x", "http://x/y", "http://u@x", "http://"] {
            assert!(Origin::parse(bad).is_err(), "{bad}");
        }
        assert!(root("http://127.0.0.1:3000").is_trustworthy());
        assert!(!root("http://box.example.org").is_trustworthy());
    }
}
