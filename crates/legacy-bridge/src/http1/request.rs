//! The head of a request. Nothing that a caller passes in can end a line early.
//!
//! Callers hand over text from the network; every name must be a token and every value must be
//! free of control characters, or the whole request is refused. There is no way to append raw
//! bytes.

use sandstorm_schema::http_map::is_token_byte;

use crate::error::{Error, Result};

/// How the length of the request's body is announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// The method has no body: no header at all.
    None,
    /// `Content-Length`.
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

/// A request line and headers under construction.
#[derive(Debug, Clone)]
pub struct RequestHead {
    bytes: Vec<u8>,
    asked: Asked,
    is_safe: bool,
}

/// What the meaning of an answer depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The method is HEAD: the answer has no body whatever it announces.
    pub head: bool,
    /// With a precondition, such as `If-Match`.
    pub conditionally: bool,
}

impl RequestHead {
    /// Begins `METHOD TARGET HTTP/1.1`. The target is written byte for byte; it must begin with
    /// `/`, or be `*`.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the method is not a token, or the target has a blank or a control
    /// character.
    pub fn new(method: &str, target: &str) -> Result<Self> {
        if method.is_empty() || !method.bytes().all(is_token_byte) {
            return Err(Error::BadRequest("the method is not an HTTP token".into()));
        }
        let target_ok = target.starts_with('/') || target == "*";
        if !target_ok || target.bytes().any(|b| b <= b' ' || b == 0x7f) {
            return Err(Error::BadRequest(
                "the path has a blank or a control character; it must be percent-encoded".into(),
            ));
        }
        let mut bytes = Vec::with_capacity(512 + target.len());
        for part in [method, " ", target, " HTTP/1.1\r\n"] {
            bytes.extend_from_slice(part.as_bytes());
        }
        Ok(RequestHead {
            bytes,
            asked: Asked { head: method == "HEAD", conditionally: false },
            is_safe: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PROPFIND" | "REPORT"),
        })
    }

    /// Adds one header line.
    ///
    /// # Errors
    /// [`Error::BadRequest`] when the name is not a token, or the value has a control character
    /// other than a tab.
    pub fn header(&mut self, name: &str, value: &str) -> Result<()> {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return Err(Error::BadRequest("a header name is not an HTTP token".into()));
        }
        if value.bytes().any(|b| (b < b' ' && b != b'\t') || b == 0x7f) {
            return Err(Error::BadRequest(format!("header {name} has a control character")));
        }
        self.asked.conditionally |=
            name.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("if-"));
        for part in [name, ": ", value, "\r\n"] {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        Ok(())
    }

    /// What the answer's meaning depends on.
    pub fn asked(&self) -> Asked {
        self.asked
    }

    /// True for HEAD: its answer has no body whatever it announces.
    pub fn is_head(&self) -> bool {
        self.asked.head
    }

    /// True for methods that change nothing, so that a repeated request does no harm.
    pub fn is_safe(&self) -> bool {
        self.is_safe
    }

    /// Adds the framing headers and the empty line. `close` asks the app to close the connection
    /// after its answer.
    pub fn finish(mut self, length: BodyLength, close: bool) -> Vec<u8> {
        match length {
            BodyLength::None => {}
            BodyLength::Known(n) => {
                self.bytes.extend_from_slice(format!("Content-Length: {n}\r\n").as_bytes());
            }
            BodyLength::Chunked => {
                self.bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
            }
        }
        if close {
            self.bytes.extend_from_slice(b"Connection: close\r\n");
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}
