//! What a grain's page may do, said in headers on every answer of a grain host.
//!
//! Without one of these on one answer, a frame or worker made from that answer would be free to
//! carry data away; so they go on errors, redirects, 304 and our own pages too.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::Config;

/// Flags of the frame, in the page's `sandbox` attribute and in the policy alike: never top
/// navigation.
pub const SANDBOX: &str = "allow-scripts allow-same-origin allow-forms allow-modals \
     allow-downloads allow-popups allow-popups-to-escape-sandbox allow-pointer-lock";

/// The policy of one grain origin (`scheme://host[:port]`).
pub fn content_security(config: &Config, origin: &str) -> HeaderValue {
    // An image or a media request to elsewhere would carry data in its address, so not even
    // those leave the origin.
    let code = "'self' 'unsafe-inline' 'unsafe-eval' data: blob:";
    let socket = origin.replacen("http", "ws", 1);
    let root = &config.root;
    let text = format!(
        "default-src 'none'; script-src {code}; style-src {code}; font-src {code}; \
         img-src 'self' data: blob:; media-src 'self' data: blob:; \
         connect-src 'self' {socket}; \
         frame-src 'self' blob: data:; child-src 'self' blob: data:; \
         worker-src 'self' blob: data:; manifest-src 'self'; form-action 'self'; \
         base-uri 'self'; object-src 'none'; frame-ancestors 'self' {root}; sandbox {SANDBOX}"
    );
    HeaderValue::from_str(&text).expect("origins are checked names and ports")
}

/// Puts the session's policy and its companions on an answer.
pub fn apply(headers: &mut HeaderMap, policy: &HeaderValue) {
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.clone());
    let fixed = [
        ("referrer-policy", "same-origin"),
        // No host name leaks into a DNS query for a link nobody pressed.
        ("x-dns-prefetch-control", "off"),
        ("cross-origin-resource-policy", "same-origin"),
        // Sibling hosts are same-site: no document.domain, no shared process by choice.
        ("origin-agent-cluster", "?1"),
    ];
    for (name, value) in fixed {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Listen, Settings};

    #[test]
    fn nothing_but_the_own_origin_is_reachable() {
        let settings = Settings::default();
        let listen = Listen::check(&settings).unwrap();
        let config = Config::check(&settings, "/tmp/h".into(), listen).unwrap();
        let policy = content_security(&config, "http://ui-1.sandstorm.localhost:3000");
        let policy = policy.to_str().unwrap();
        assert!(policy.contains("connect-src 'self' ws://ui-1.sandstorm.localhost:3000;"));
        assert!(policy.contains("frame-ancestors 'self' http://sandstorm.localhost:3000;"));
        assert!(!policy.contains('*'));
        assert!(!policy.contains("https:") && !policy.contains("http: "));
        assert!(!policy.contains("top-navigation"));
        let policy = content_security(&config, "https://ui-1.x.org");
        assert!(policy.to_str().unwrap().contains("connect-src 'self' wss://ui-1.x.org;"));
    }
}
