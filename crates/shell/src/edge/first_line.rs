//! Request lines that the HTTP library would refuse with a bare 400 or 414.
//!
//! Faces the network. The library answers what it cannot read by itself and without a word, so a
//! line whose address it would refuse is replaced by one that it reads, and what was wrong is kept
//! for who answers. That is done only where a head certainly begins: with the first byte of a
//! connection, or after a request that had no body and brought nothing along behind it. A byte of a
//! body is never touched.

use http::Uri;
use sandstorm_schema::http_map::is_token_byte;

/// What is wrong with a request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// Its address has characters that belong encoded.
    Characters,
    /// Its address is too long.
    TooLong,
}

/// Bytes of a line that are looked at: the library reads addresses of up to 64 KiB.
const LONGEST: usize = 64 * 1024 + 64;
/// A method of our own would be longer than any that exists.
const METHOD: usize = 32;

/// Looks at the beginning of one head.
#[derive(Debug, Default)]
pub struct FirstLine {
    /// What came so far of a line that has not ended; bytes past [`LONGEST`] are not kept.
    held: Vec<u8>,
    too_long: bool,
}

/// What becomes of the bytes that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// The line goes on: nothing is passed on yet.
    More,
    /// Passed on, in place of all bytes so far.
    Passed(Vec<u8>, Option<Unfit>),
}

impl FirstLine {
    /// Takes the next bytes of the head.
    pub fn push(&mut self, bytes: &[u8]) -> Seen {
        // Empty lines before a head mean nothing, to the library neither; held, they would take the
        // line's room.
        let empty = if self.held.is_empty() {
            bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count()
        } else {
            0
        };
        let bytes = &bytes[empty..];
        let end = line_end(&self.held, bytes);
        let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
        let room = LONGEST.saturating_sub(self.held.len());
        self.too_long |= line.len() > room;
        self.held.extend_from_slice(&line[..line.len().min(room)]);
        if end.is_none() {
            return Seen::More;
        }
        let (mut passed, unfit) = self.judged();
        passed.extend_from_slice(rest);
        Seen::Passed(passed, unfit)
    }

    /// Nothing came yet.
    pub fn is_new(&self) -> bool {
        self.held.is_empty()
    }

    /// What was held when no more comes.
    pub fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }

    /// The line as it is passed on.
    fn judged(&mut self) -> (Vec<u8>, Option<Unfit>) {
        let line = std::mem::take(&mut self.held);
        let start = line.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(line.len());
        let mut words = line[start..].splitn(2, |b| *b == b' ');
        let (Some(method), Some(after)) = (words.next(), words.next()) else { return (line, None) };
        if method.is_empty() || method.len() > METHOD || !method.iter().all(|b| is_token_byte(*b)) {
            return (line, None);
        }
        let replaced = |version: &[u8]| [method, b" / ", version, b"\r\n"].concat();
        if self.too_long {
            // Its end was not kept.
            return (replaced(b"HTTP/1.1"), Some(Unfit::TooLong));
        }
        let after = after.strip_suffix(b"\n").unwrap_or(after);
        let after = after.strip_suffix(b"\r").unwrap_or(after);
        // A blank in the address is the sender's mistake too: the last word is the version.
        let Some(last) = after.iter().rposition(|b| *b == b' ') else { return (line, None) };
        let (address, version) = (&after[..last], &after[last + 1..]);
        if !matches!(version, b"HTTP/1.1" | b"HTTP/1.0") || address.is_empty() {
            return (line, None);
        }
        let unfit = match Uri::try_from(address) {
            Ok(_) => return (line, None),
            Err(_) if address.len() >= usize::from(u16::MAX) => Unfit::TooLong,
            Err(_) => Unfit::Characters,
        };
        (replaced(version), Some(unfit))
    }
}

/// Whether these first bytes of a head hold a whole line of which every character is fit: nearly
/// all do, and pass as they are.
pub fn is_plain(bytes: &[u8]) -> bool {
    const FIT: &[u8] = b" -._~%/?&=:,;+!$'()*@";
    let end = bytes.iter().take(LONGEST / 8).position(|b| *b == b'\r');
    end.is_some_and(|end| {
        bytes.get(end + 1) == Some(&b'\n')
            && bytes[..end].iter().all(|b| b.is_ascii_alphanumeric() || FIT.contains(b))
            && bytes[..end].iter().filter(|b| **b == b' ').count() == 2
    })
}

/// Where the first line that is not empty ends in `bytes`, which come after `held`.
fn line_end(held: &[u8], bytes: &[u8]) -> Option<usize> {
    let mut begun = held.iter().any(|b| !matches!(b, b'\r' | b'\n'));
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'\n' if begun => return Some(at + 1),
            b'\r' | b'\n' => {}
            _ => begun = true,
        }
    }
    None
}

/// Whether a head of which `tail` are the last bytes so far ends with `bytes`, and nothing came
/// behind it.
pub fn ends_head(tail: &[u8], bytes: &[u8]) -> bool {
    let keep = 4usize.saturating_sub(bytes.len()).min(tail.len());
    let end = [&tail[tail.len() - keep..], bytes].concat();
    end.ends_with(b"\r\n\r\n") || end.ends_with(b"\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(line: &[u8]) -> (Vec<u8>, Option<Unfit>) {
        match FirstLine::default().push(line) {
            Seen::Passed(passed, unfit) => (passed, unfit),
            Seen::More => panic!("the line has ended"),
        }
    }

    #[test]
    fn what_is_fit_passes_byte_for_byte() {
        for line in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"GET /a?b=%3C HTTP/1.0\nHost: a\n\n",
            b"PROPFIND http://a/b HTTP/1.1\r\n",
            "GET /grün HTTP/1.1\r\n".as_bytes(),
            // Not for us: the library answers it.
            b"\x16\x03\x01 no HTTP\r\n",
            b"GET /\r\n",
            b"GET <> HTTP/9\r\n",
            b"PRI * HTTP/2.0\r\n",
        ] {
            assert_eq!(whole(line), (line.to_vec(), None), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn empty_lines_before_a_head_take_no_room() {
        let head = b"GET /innocent HTTP/1.1\r\nGET /evil HTTP/1.1\r\nHost: a\r\n\r\n";
        let flood = b"\r\n".repeat(LONGEST);
        assert_eq!(whole(&[&flood, &head[..]].concat()), (head.to_vec(), None));
        let mut line = FirstLine::default();
        assert_eq!(line.push(&flood), Seen::More);
        assert!(line.is_new());
        assert_eq!(line.push(head), Seen::Passed(head.to_vec(), None));
    }

    #[test]
    fn the_short_way_says_the_same() {
        for line in ["GET /a/b?c=d&e=%20 HTTP/1.1\r\nHost: a\r\n", "PUT /a:b@c;d HTTP/1.1\r\n"] {
            assert!(is_plain(line.as_bytes()));
            assert_eq!(whole(line.as_bytes()), (line.as_bytes().to_vec(), None));
        }
        for line in
            ["GET /a b HTTP/1.1\r\n", "GET /< HTTP/1.1\r\n", "GET / HTTP/1.1", "GET / HTTP/1.1\n"]
        {
            assert!(!is_plain(line.as_bytes()), "{line}");
        }
    }

    #[test]
    fn what_is_not_is_replaced_and_named() {
        for byte in *b"<>\"` " {
            let line = [b"GET /a?b=<", &[byte][..], b" HTTP/1.1\r\nHost: a\r\n\r\nmore"].concat();
            let (passed, unfit) = whole(&line);
            assert_eq!(unfit, Some(Unfit::Characters), "{}", line.escape_ascii());
            assert_eq!(passed, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore");
        }
        for length in [65_600, 900_000] {
            let line = format!("POST /{} HTTP/1.0\r\nA: b\r\n", "x".repeat(length));
            let (passed, unfit) = whole(line.as_bytes());
            assert_eq!(unfit, Some(Unfit::TooLong));
            assert!(passed.starts_with(b"POST / HTTP/1.") && passed.ends_with(b"\r\nA: b\r\n"));
        }
    }

    #[test]
    fn pieces_are_one_line() {
        let line = b"\r\nGET /<> HTTP/1.1\r\nHost: a\r\n";
        for size in 1..line.len() {
            let mut first = FirstLine::default();
            let mut passed = Vec::new();
            let mut found = None;
            let mut done = false;
            for piece in line.chunks(size) {
                if done {
                    passed.extend_from_slice(piece);
                } else if let Seen::Passed(bytes, unfit) = first.push(piece) {
                    passed.extend_from_slice(&bytes);
                    (found, done) = (unfit, true);
                }
            }
            assert_eq!(
                (found, &passed[..]),
                (Some(Unfit::Characters), &b"GET / HTTP/1.1\r\nHost: a\r\n"[..])
            );
        }
        let mut cut = FirstLine::default();
        assert_eq!(cut.push(b"GET /<"), Seen::More);
        assert_eq!(cut.rest(), b"GET /<");
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert!(ends_head(b"", b"GET / HTTP/1.1\r\n\r\n"));
        assert!(ends_head(b"a\r\n\r", b"\n"));
        assert!(ends_head(b"a\n", b"\n"));
        assert!(!ends_head(b"a\r\n", b"\r"));
        assert!(!ends_head(b"", b"GET / HTTP/1.1\r\n\r\nGET"));
    }
}
