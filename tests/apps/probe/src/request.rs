//! Reading requests: the head by httparse, the body by its framing, everything kept raw.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A connection and what was read too much of it.
pub struct Conn {
    pub stream: TcpStream,
    pub buf: Vec<u8>,
}

/// A request whose body is not read yet.
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// Head as it came, empty line included.
    pub raw: Vec<u8>,
}

/// A body that was read.
pub struct Body {
    pub bytes: u64,
    pub hash: u64,
    /// "none", "length", "chunked".
    pub framing: &'static str,
    /// The client sent all that it announced.
    pub complete: bool,
    /// The first bytes.
    pub start: Vec<u8>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The path without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query, percent-decoded.
    pub fn param(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?')?.1;
        query
            .split('&')
            .filter_map(|pair| pair.split_once('=').or(Some((pair, ""))))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| String::from_utf8_lossy(&percent_decode(value)).into_owned())
    }

    pub fn number(&self, name: &str, default: u64) -> u64 {
        self.param(name).and_then(|v| v.parse().ok()).unwrap_or(default)
    }
}

pub fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).and_then(|p| std::str::from_utf8(p).ok());
        match (bytes[at], pair.and_then(|p| u8::from_str_radix(p, 16).ok())) {
            (b'%', Some(value)) => {
                out.push(value);
                at += 3;
            }
            (b'+', _) => {
                out.push(b' ');
                at += 1;
            }
            (b, _) => {
                out.push(b);
                at += 1;
            }
        }
    }
    out
}

/// FNV-1a, so that a test can compare long bodies without either side keeping them.
pub fn hash(mut state: u64, bytes: &[u8]) -> u64 {
    for b in bytes {
        state = (state ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3);
    }
    state
}

pub const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;

impl Conn {
    pub fn new(stream: TcpStream) -> Self {
        Conn { stream, buf: Vec::new() }
    }

    fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0; 65536];
        let n = self.stream.read(&mut piece)?;
        self.buf.extend_from_slice(&piece[..n]);
        Ok(n > 0)
    }

    /// The next request's head; `None` when the client has closed.
    pub fn read_head(&mut self) -> io::Result<Option<Request>> {
        loop {
            let mut fields = [httparse::EMPTY_HEADER; 200];
            let mut parsed = httparse::Request::new(&mut fields);
            match parsed.parse(&self.buf) {
                Ok(httparse::Status::Complete(length)) => {
                    let headers = parsed
                        .headers
                        .iter()
                        .map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned()))
                        .collect();
                    let request = Request {
                        method: parsed.method.unwrap_or_default().to_owned(),
                        target: parsed.path.unwrap_or_default().to_owned(),
                        headers,
                        raw: self.buf[..length].to_vec(),
                    };
                    self.buf.drain(..length);
                    return Ok(Some(request));
                }
                Ok(httparse::Status::Partial) => {
                    if !self.fill()? {
                        return Ok(None);
                    }
                }
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
        }
    }

    /// Reads the body; `on_piece` is called after each piece.
    pub fn read_body(&mut self, request: &Request, mut on_piece: impl FnMut(u64)) -> Body {
        let mut body =
            Body { bytes: 0, hash: HASH_START, framing: "none", complete: true, start: Vec::new() };
        let chunked = request.header("transfer-encoding").is_some();
        if chunked {
            body.framing = "chunked";
            loop {
                let Some(line) = self.line() else {
                    body.complete = false;
                    return body;
                };
                let size = line.split(';').next().unwrap_or_default().trim();
                let Ok(size) = u64::from_str_radix(size, 16) else {
                    body.complete = false;
                    return body;
                };
                if size == 0 {
                    while self.line().is_some_and(|l| !l.is_empty()) {}
                    return body;
                }
                if !self.take(size, &mut body, &mut on_piece) || self.line().is_none() {
                    body.complete = false;
                    return body;
                }
            }
        }
        if let Some(length) = request.header("content-length").and_then(|v| v.parse().ok()) {
            body.framing = "length";
            body.complete = self.take(length, &mut body, &mut on_piece);
        }
        body
    }

    fn take(&mut self, mut size: u64, body: &mut Body, on_piece: &mut impl FnMut(u64)) -> bool {
        while size > 0 {
            if self.buf.is_empty() && !matches!(self.fill(), Ok(true)) {
                return false;
            }
            let n = (size.min(self.buf.len() as u64)) as usize;
            body.hash = hash(body.hash, &self.buf[..n]);
            let keep = 4096usize.saturating_sub(body.start.len()).min(n);
            body.start.extend_from_slice(&self.buf[..keep]);
            self.buf.drain(..n);
            size -= n as u64;
            body.bytes += n as u64;
            on_piece(body.bytes);
        }
        true
    }

    fn line(&mut self) -> Option<String> {
        loop {
            if let Some(lf) = self.buf.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buf.drain(..=lf).collect();
                return Some(String::from_utf8_lossy(&line).trim_end().to_owned());
            }
            if !matches!(self.fill(), Ok(true)) {
                return None;
            }
        }
    }

    /// Blocks until the client closes or breaks the connection.
    pub fn wait_for_close(&mut self) {
        let mut piece = [0; 65536];
        while matches!(self.stream.read(&mut piece), Ok(n) if n > 0) {}
    }

    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }
}
