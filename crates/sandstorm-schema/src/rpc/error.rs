//! Errors that cross a connection: what a peer's kind means here, and its words made safe.

use capnp::{Error, ErrorKind};

use crate::limits::ERROR_TEXT;

/// The prefix that each hop puts in front of a peer's words.
const HOP: &str = "remote exception: ";

/// A peer's words for people and logs: hop prefixes and control characters taken out, cut to
/// [`ERROR_TEXT`] bytes.
pub fn text(error: &Error) -> String {
    let mut words = error.extra.as_str();
    while let Some(rest) = words.strip_prefix(HOP) {
        words = rest;
    }
    let mut clean = String::new();
    for c in words.chars() {
        if clean.len() + c.len_utf8() > ERROR_TEXT {
            clean.push('…');
            break;
        }
        clean.push(if is_unsafe(c) { ' ' } else { c });
    }
    clean
}

/// Control characters move a terminal's cursor; the bidirectional ones change what is read.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A peer's error as we pass it on: its kind, its words made safe.
pub fn passed_on(error: Error) -> Error {
    let words = text(&error);
    match error.kind {
        ErrorKind::Overloaded => overloaded(words),
        ErrorKind::Disconnected => disconnected(words),
        ErrorKind::Unimplemented => unimplemented(words),
        _ if words.is_empty() => failed(format!("{:?}", error.kind)),
        _ => failed(words),
    }
}

/// Whether the other end said this, and not our own reading of what it sent.
pub fn is_remote(error: &Error) -> bool {
    error.extra.starts_with(HOP)
}

/// Whether the other end, or something behind it, is gone: the call may be tried once more.
pub fn is_disconnected(error: &Error) -> bool {
    error.kind == ErrorKind::Disconnected
}

/// Whether the other end does not have the method. Some old apps say so in words only.
pub fn is_unimplemented(error: &Error) -> bool {
    error.kind == ErrorKind::Unimplemented
        || (error.kind == ErrorKind::Failed
            && error.extra.to_ascii_lowercase().contains("not implemented"))
}

/// Whether the other end had no room for the call.
pub fn is_overloaded(error: &Error) -> bool {
    error.kind == ErrorKind::Overloaded
}

/// "It went wrong, and would again."
pub fn failed(words: impl Into<String>) -> Error {
    Error::failed(words.into())
}

/// "Not now: too much at once."
pub fn overloaded(words: impl Into<String>) -> Error {
    Error::overloaded(words.into())
}

/// "The thing behind this is gone."
pub fn disconnected(words: impl Into<String>) -> Error {
    Error::disconnected(words.into())
}

/// "There is no such method here."
pub fn unimplemented(words: impl Into<String>) -> Error {
    Error::unimplemented(words.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_peer_are_cut_and_cleaned() {
        let error = failed(format!("{HOP}{HOP}no\x1b[31m such{}", "x".repeat(4000)));
        let text = text(&error);
        assert!(text.starts_with("no [31m such"));
        assert!(text.len() <= ERROR_TEXT + '…'.len_utf8());
    }

    #[test]
    fn passing_on_keeps_the_kind_and_hides_nothing() {
        for error in [failed("x"), overloaded("x"), disconnected("x"), unimplemented("x")] {
            assert_eq!(passed_on(error.clone()).kind, error.kind);
            assert_eq!(passed_on(error).extra, "x");
        }
        let local = Error::from_kind(ErrorKind::MessageIsTooDeeplyNested);
        assert_eq!(passed_on(local).extra, "MessageIsTooDeeplyNested");
        assert_eq!(passed_on(failed("a\u{202e}b\nc")).extra, "a b c");
    }

    #[test]
    fn old_apps_say_unimplemented_in_words() {
        assert!(is_unimplemented(&failed("Method not implemented.")));
        assert!(!is_unimplemented(&failed("broken")));
    }
}
