//! The head of an answer: status line, header lines, and how long the body is.
//!
//! Input is hostile, or at least sloppy. What decides the framing is judged strictly, because a
//! wrong guess would hand one answer's bytes to another request; every other malformed line is
//! dropped and reported, because a person would rather see the page than our opinion of it.
//!
//! Line ends: CRLF, and a bare LF (RFC 9112 §2.2 allows it). A CR inside a line spoils that line.
//! Folded values (obs-fold) are joined with one blank, except in framing fields, where they are
//! refused.

use bytes::Bytes;
use sandstorm_schema::http_map::is_token_byte;

/// Bytes of a head, status line and final empty line included.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Header lines of a head.
pub const MAX_FIELDS: usize = 100;

/// Why a head cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// More than [`MAX_HEAD_BYTES`].
    #[error("its headers are larger than {} KiB", MAX_HEAD_BYTES / 1024)]
    TooLarge,
    /// More than [`MAX_FIELDS`].
    #[error("it has more than {MAX_FIELDS} header lines")]
    TooManyFields,
    /// The first line is not `HTTP/1.x NNN`.
    #[error("it does not begin with an HTTP/1 status line but with {0:?}")]
    StatusLine(String),
    /// The body's length is given twice or in two ways.
    #[error("{0}")]
    Framing(&'static str),
}

/// How the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none: HEAD, 1xx, 204, 304.
    None,
    /// After this many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Eof,
}

/// One header line. The name keeps the app's spelling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// An HTTP token.
    pub name: Bytes,
    /// Without outer blanks; no CR, LF or NUL.
    pub value: Bytes,
}

/// A parsed head.
#[derive(Debug, Clone)]
pub struct Head {
    /// 100 to 599.
    pub status: u16,
    /// True for HTTP/1.1 and above.
    pub http_1_1: bool,
    /// In the app's order, framing fields included.
    pub fields: Vec<Field>,
    /// How the body ends.
    pub framing: Framing,
    /// `Content-Length`, also where there is no body to count (HEAD, 304).
    pub declared_length: Option<u64>,
    /// The app said `Connection: close`.
    pub close: bool,
    /// The answer announces a body that cannot be there (204, 304, HEAD): sloppy apps then send
    /// it all the same, so the connection is not used again.
    pub suspicious: bool,
    /// The beginning of each dropped line, for the log.
    pub dropped: Vec<String>,
}

impl Head {
    /// Values of a header, by lower-case name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Bytes> + 'a {
        self.fields
            .iter()
            .filter(move |f| f.name.eq_ignore_ascii_case(name.as_bytes()))
            .map(|f| &f.value)
    }

    /// The first value of a header, by lower-case name.
    pub fn first<'a>(&'a self, name: &'a str) -> Option<&'a Bytes> {
        self.all(name).next()
    }

    /// True for a header that a `Connection` header declares to be about the connection.
    pub fn is_about_connection(&self, name: &str) -> bool {
        self.all("connection").any(|value| {
            value
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        })
    }

    /// True when the connection may carry another request once the body is complete.
    pub fn reusable(&self) -> bool {
        self.http_1_1 && !self.close && !self.suspicious && self.framing != Framing::Eof
    }
}

/// Finds the end of a head in a growing buffer without looking at any byte twice.
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
}

impl HeadScanner {
    /// Length of the head including its empty line, once `buf` holds all of it.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] as soon as the limit is passed.
    pub fn find_end(&mut self, buf: &[u8]) -> Result<Option<usize>, HeadError> {
        // An empty line is LF, then LF or CR LF: look from three bytes before what is new.
        let mut at = self.scanned.saturating_sub(3);
        while let Some(lf) = buf[at..].iter().position(|b| *b == b'\n').map(|p| at + p) {
            let rest = &buf[lf + 1..];
            let end = match rest {
                [b'\n', ..] => Some(lf + 2),
                [b'\r', b'\n', ..] => Some(lf + 3),
                _ => None,
            };
            match end {
                Some(end) if end > MAX_HEAD_BYTES => return Err(HeadError::TooLarge),
                Some(end) => return Ok(Some(end)),
                None => at = lf + 1,
            }
        }
        self.scanned = buf.len();
        if buf.len() >= MAX_HEAD_BYTES {
            return Err(HeadError::TooLarge);
        }
        // No need to wait for 64 KiB to know that this is not HTTP.
        let prefix = &b"HTTP/1."[..buf.len().min(7)];
        if !buf.starts_with(prefix) {
            return Err(HeadError::StatusLine(excerpt(buf)));
        }
        Ok(None)
    }
}

/// Parses one whole head, as delimited by [`HeadScanner`]. `head_request`: the request was HEAD.
///
/// # Errors
/// Where the status line or the framing cannot be trusted. Other bad lines land in
/// [`Head::dropped`].
pub fn parse_head(head: &Bytes, head_request: bool) -> Result<Head, HeadError> {
    let mut lines = Lines { rest: head, at: 0 };
    let (start, end) = lines.next().unwrap_or((0, 0));
    let (status, http_1_1) = parse_status_line(&head[start..end])?;

    let mut fields: Vec<Field> = Vec::with_capacity(16);
    let mut dropped = Vec::new();
    let mut seen = 0;
    let mut last_was_dropped = false;
    for (start, end) in lines {
        let line = &head[start..end];
        if line.is_empty() {
            break;
        }
        seen += 1;
        if seen > MAX_FIELDS {
            return Err(HeadError::TooManyFields);
        }
        if line[0] == b' ' || line[0] == b'\t' {
            fold(&mut fields, line, last_was_dropped, &mut dropped)?;
            continue;
        }
        match parse_line(head, start, end)? {
            Some(field) => {
                fields.push(field);
                last_was_dropped = false;
            }
            None => {
                dropped.push(excerpt(line));
                last_was_dropped = true;
            }
        }
    }
    frame(status, http_1_1, fields, dropped, head_request)
}

/// Start and end of each line of a head, line ends not included.
struct Lines<'a> {
    rest: &'a [u8],
    at: usize,
}

impl Iterator for Lines<'_> {
    type Item = (usize, usize);
    fn next(&mut self) -> Option<(usize, usize)> {
        let lf = self.rest.iter().position(|b| *b == b'\n')?;
        let start = self.at;
        let text = &self.rest[..lf];
        let end = start + text.strip_suffix(b"\r").unwrap_or(text).len();
        self.at += lf + 1;
        self.rest = &self.rest[lf + 1..];
        Some((start, end))
    }
}

/// `HTTP/1.x NNN[ reason]`; blanks between may repeat.
fn parse_status_line(line: &[u8]) -> Result<(u16, bool), HeadError> {
    let bad = || HeadError::StatusLine(excerpt(line));
    let rest = line.strip_prefix(b"HTTP/1.").ok_or_else(bad)?;
    let (minor, rest) = rest.split_first().ok_or_else(bad)?;
    if !minor.is_ascii_digit() || rest.first() != Some(&b' ') {
        return Err(bad());
    }
    let rest = rest.trim_ascii_start();
    let digits = rest.get(..3).ok_or_else(bad)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(rest.get(3), None | Some(b' ')) {
        return Err(bad());
    }
    let status = digits.iter().fold(0u16, |n, d| n * 10 + u16::from(d - b'0'));
    if !(100..=599).contains(&status) {
        return Err(bad());
    }
    Ok((status, *minor != b'0'))
}

/// One `name: value` line; `None` for a line to drop.
fn parse_line(head: &Bytes, start: usize, end: usize) -> Result<Option<Field>, HeadError> {
    let line = &head[start..end];
    let Some(colon) = line.iter().position(|b| *b == b':') else { return Ok(None) };
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(|b| is_token_byte(*b)) {
        // `Content-Length : 5`: dropping it would change where the body ends.
        let trimmed = name.trim_ascii();
        if is_framing_name(trimmed) {
            return Err(HeadError::Framing("its framing header has a malformed name"));
        }
        return Ok(None);
    }
    let value = line[colon + 1..].trim_ascii();
    if value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        if is_framing_name(name) {
            return Err(HeadError::Framing("its framing header has a malformed value"));
        }
        return Ok(None);
    }
    Ok(Some(Field { name: head.slice_ref(name), value: head.slice_ref(value) }))
}

/// Joins an obs-fold line to the field before it.
fn fold(
    fields: &mut [Field],
    line: &[u8],
    last_was_dropped: bool,
    dropped: &mut Vec<String>,
) -> Result<(), HeadError> {
    let more = line.trim_ascii();
    if last_was_dropped {
        return Ok(());
    }
    let Some(last) = fields.last_mut() else {
        dropped.push(excerpt(line));
        return Ok(());
    };
    if is_framing_name(&last.name) {
        return Err(HeadError::Framing("its framing header is folded over two lines"));
    }
    if more.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
        dropped.push(excerpt(line));
        return Ok(());
    }
    let mut joined = Vec::with_capacity(last.value.len() + 1 + more.len());
    joined.extend_from_slice(&last.value);
    joined.push(b' ');
    joined.extend_from_slice(more);
    last.value = Bytes::from(joined);
    Ok(())
}

/// Decides how the body ends (RFC 9112 §6.3, stricter where lengths contradict).
fn frame(
    status: u16,
    http_1_1: bool,
    fields: Vec<Field>,
    dropped: Vec<String>,
    head_request: bool,
) -> Result<Head, HeadError> {
    let mut length: Option<u64> = None;
    let mut chunked = false;
    let mut close = false;
    for field in &fields {
        let name = field.name.as_ref();
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return Err(HeadError::Framing("it has two Content-Length headers"));
            }
            length = Some(parse_length(&field.value)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked {
                return Err(HeadError::Framing("it has two Transfer-Encoding headers"));
            }
            match field.value.as_ref() {
                v if v.eq_ignore_ascii_case(b"chunked") => chunked = true,
                v if v.eq_ignore_ascii_case(b"identity") => {}
                _ => {
                    return Err(HeadError::Framing(
                        "its Transfer-Encoding is something else than chunked",
                    ));
                }
            }
        } else if name.eq_ignore_ascii_case(b"connection") {
            close |= field
                .value
                .split(|b| *b == b',')
                .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
        }
    }
    if chunked && length.is_some() {
        return Err(HeadError::Framing("it has both Content-Length and Transfer-Encoding"));
    }
    let bodiless = head_request || status < 200 || status == 204 || status == 304;
    let framing = match (bodiless, chunked, length) {
        (true, ..) => Framing::None,
        (_, true, _) => Framing::Chunked,
        (_, _, Some(n)) => Framing::Length(n),
        _ => Framing::Eof,
    };
    let suspicious = bodiless && (head_request || chunked || length.is_some_and(|n| n > 0));
    Ok(Head {
        status,
        http_1_1,
        fields,
        framing,
        declared_length: length,
        close,
        suspicious,
        dropped,
    })
}

fn parse_length(value: &[u8]) -> Result<u64, HeadError> {
    let bad = HeadError::Framing("its Content-Length is not a number");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    Ok(value.iter().fold(0u64, |n, d| n * 10 + u64::from(d - b'0')))
}

fn is_framing_name(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
}

/// The first bytes of hostile text, fit for a log line or an error page.
fn excerpt(bytes: &[u8]) -> String {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    String::from_utf8_lossy(&line[..line.len().min(60)])
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
