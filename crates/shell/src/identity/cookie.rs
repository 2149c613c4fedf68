//! The one cookie of the shell's own host.
//!
//! `__Host-Http-` means to a browser: Secure, this host only, and never set by a script. So a
//! grain on a sibling host, which can set cookies for the parent domain, cannot plant this one.
//! On plain http with a name that is not `*.localhost` browsers refuse Secure cookies; there the
//! cookie has another name, and a second one of that name (a planted one) makes both worthless.

use http::{HeaderMap, HeaderValue, header};

use crate::config::Origin;

const PREFIXED: &str = "__Host-Http-sandstorm";
const PLAIN: &str = "sandstorm-shell";
/// Browsers keep no cookie longer; when a sign-in ends is the server's affair.
const MAX_AGE: u32 = 400 * 24 * 3600;

/// What the cookie is called at this address.
pub fn name(root: &Origin) -> &'static str {
    if secure(root) { PREFIXED } else { PLAIN }
}

/// Whether browsers accept a Secure cookie from this address.
pub fn secure(root: &Origin) -> bool {
    root.https || root.host == "localhost" || root.host.ends_with(".localhost")
}

/// The value of the one cookie of this name; none when there are two.
pub fn read<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut found = None;
    for header in headers.get_all(header::COOKIE) {
        // A header with bytes outside ASCII may still hold our cookie; look at the pieces.
        for piece in header.as_bytes().split(|b| *b == b';') {
            let Ok(piece) = std::str::from_utf8(piece) else { continue };
            let Some((key, value)) = piece.trim().split_once('=') else { continue };
            if key == name {
                if found.is_some() {
                    return None;
                }
                found = Some(value);
            }
        }
    }
    found
}

/// A `Set-Cookie` that signs this browser in.
pub fn set(root: &Origin, value: &str) -> HeaderValue {
    build(root, value, MAX_AGE)
}

/// A `Set-Cookie` that forgets it.
pub fn clear(root: &Origin) -> HeaderValue {
    build(root, "", 0)
}

fn build(root: &Origin, value: &str, age: u32) -> HeaderValue {
    let secure = if secure(root) { "; Secure" } else { "" };
    let text =
        format!("{}={value}; Path=/; Max-Age={age}; HttpOnly; SameSite=Lax{secure}", name(root));
    HeaderValue::from_str(&text).expect("a base64 value makes a valid header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Origin {
        Origin::parse(text).unwrap()
    }

    #[test]
    fn the_name_follows_what_browsers_accept() {
        assert_eq!(name(&root("https://box.example.org")), PREFIXED);
        assert_eq!(name(&root("http://sandstorm.localhost:3000")), PREFIXED);
        assert_eq!(name(&root("http://box:3000")), PLAIN);
        let cookie = set(&root("http://box:3000"), "abc");
        assert!(!cookie.to_str().unwrap().contains("Secure"));
        let cookie = set(&root("https://box.example.org"), "abc");
        assert!(cookie.to_str().unwrap().ends_with("HttpOnly; SameSite=Lax; Secure"));
    }

    #[test]
    fn two_of_one_name_are_none() {
        let mut headers = HeaderMap::new();
        headers.append(header::COOKIE, HeaderValue::from_bytes(b"x=\xff; s=1; t=2").unwrap());
        assert_eq!(read(&headers, "s"), Some("1"));
        assert_eq!(read(&headers, "u"), None);
        headers.append(header::COOKIE, HeaderValue::from_static("a=b;s=planted"));
        assert_eq!(read(&headers, "s"), None);
    }
}
