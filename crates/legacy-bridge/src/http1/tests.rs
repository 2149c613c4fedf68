//! The parsers against tables, against arbitrary bytes, and against any way of cutting input up.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use sandstorm_schema::http_map::is_token_byte;

use super::*;

/// Feeds input in these pieces, as a socket would.
fn scan(input: &[u8], cuts: &[usize]) -> Result<Option<usize>, HeadError> {
    let mut scanner = HeadScanner::default();
    let mut have = 0;
    for cut in cuts.iter().chain([&input.len()]) {
        have = have.max((*cut).min(input.len()));
        if have > 0
            && let Some(end) = scanner.find_end(&input[..have])?
        {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn head(text: &str) -> Result<Head, HeadError> {
    parse_head(&Bytes::copy_from_slice(text.as_bytes()), false)
}

/// Decodes a body that arrives in these pieces, then the end of the connection.
fn decode(framing: Framing, input: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = BodyDecoder::new(framing);
    let (mut buf, mut out, mut fed) = (BytesMut::new(), Vec::new(), 0);
    for cut in cuts.iter().chain([&input.len()]) {
        let to = (*cut).clamp(fed, input.len());
        buf.extend_from_slice(&input[fed..to]);
        fed = to;
        while let Some(piece) = decoder.decode(&mut buf)? {
            assert!(!piece.is_empty());
            out.extend_from_slice(&piece);
        }
    }
    decoder.end_of_input()?;
    Ok((out, buf.len()))
}

#[test]
fn heads_that_are_read() {
    let h = head("HTTP/1.1 200 OK\r\nA: b\r\nCONTENT-length: 5 \r\nX:\r\n\r\n").unwrap();
    assert_eq!((h.status, h.framing), (200, Framing::Length(5)));
    assert_eq!(h.first("x").unwrap(), "");
    assert!(h.reusable() && h.dropped.is_empty());
    let h = head("HTTP/1.0 204 \n\n").unwrap();
    assert_eq!((h.status, h.framing, h.reusable()), (204, Framing::None, false));
    let h = head("HTTP/1.1   404\r\nTransfer-Encoding: CHUNKED\r\nConnection: a, Close\r\n\r\n");
    let h = h.unwrap();
    assert_eq!((h.status, h.framing, h.close), (404, Framing::Chunked, true));
    let h = head("HTTP/1.1 200 OK\r\nA: b\r\n\t c\r\n  d\r\n\r\n").unwrap();
    assert_eq!(h.first("a").unwrap(), "b c d");
    assert_eq!(h.framing, Framing::Eof);
    let h = head("HTTP/1.1 200 OK\r\nbad line\r\n folded\r\nA: b\r\n\r\n").unwrap();
    assert_eq!((h.dropped.len(), h.fields.len()), (1, 1));
}

#[test]
fn preconditions_are_known_in_any_case() {
    for (name, conditionally) in [
        ("If-Match", true),
        ("if-range", true),
        ("IF-NONE-MATCH", true),
        ("Iffy", false),
        ("I", false),
    ] {
        let mut request = RequestHead::new("GET", "/").unwrap();
        request.header(name, "x").unwrap();
        assert_eq!(request.asked().conditionally, conditionally, "{name}");
    }
}

#[test]
fn reuse_is_for_answers_without_a_doubt() {
    for (text, head_request, reusable) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, false),
        ("HTTP/1.1 304 OK\r\n\r\n", false, true),
        ("HTTP/1.1 304 OK\r\nContent-Length: 0\r\n\r\n", false, true),
        ("HTTP/1.1 304 OK\r\nContent-Length: 5\r\n\r\n", false, false),
        ("HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, false),
        ("HTTP/1.1 200 OK\r\n\r\n", false, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\n", false, false),
    ] {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        assert_eq!(parse_head(&bytes, head_request).unwrap().reusable(), reusable, "{text}");
    }
}

#[test]
fn bodies() {
    let chunked = b"5;x=\"y\"\r\nhello\r\n1\n!\n0\r\nTrailer: x\r\n\r\nrest";
    assert_eq!(decode(Framing::Chunked, chunked, &[]), Ok((b"hello!".to_vec(), 4)));
    assert_eq!(decode(Framing::Length(3), b"abcdef", &[]), Ok((b"abc".to_vec(), 3)));
    assert_eq!(decode(Framing::Eof, b"abc", &[1]), Ok((b"abc".to_vec(), 0)));
    assert_eq!(decode(Framing::None, b"abc", &[]), Ok((vec![], 3)));
    for (framing, input, error) in [
        (Framing::Length(3), &b"ab"[..], BodyError::Truncated),
        (Framing::Chunked, b"", BodyError::Truncated),
        (Framing::Chunked, b"5\r\nhel", BodyError::Truncated),
        (Framing::Chunked, b"0\r\n", BodyError::Truncated),
        (Framing::Chunked, b"\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"-1\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"0x5\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b" 5\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"5 5\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"5\r\r\nhello\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"1234567890123456\r\n", BodyError::ChunkSize),
        (Framing::Chunked, b"1\r\nab\r\n", BodyError::ChunkEnd),
    ] {
        assert_eq!(decode(framing, input, &[]), Err(error), "{:?}", String::from_utf8_lossy(input));
    }
    let long_line = [b"5;".as_slice(), &[b'x'; 5000], b"\r\nhello\r\n0\r\n\r\n"].concat();
    assert_eq!(decode(Framing::Chunked, &long_line, &[]), Err(BodyError::TooLarge));
    let trailers = [b"0\r\n".as_slice(), &b"T: x\r\n".repeat(20_000), b"\r\n"].concat();
    assert_eq!(decode(Framing::Chunked, &trailers, &[]), Err(BodyError::TooLarge));
}

#[test]
fn a_request_of_every_length_kind() {
    let make = || {
        let mut head = RequestHead::new("PUT", "/a%2Fb?c").unwrap();
        head.header("Host", "x").unwrap();
        head
    };
    let text = |length, close| String::from_utf8(make().finish(length, close)).unwrap();
    let start = "PUT /a%2Fb?c HTTP/1.1\r\nHost: x\r\n";
    assert_eq!(text(BodyLength::None, false), format!("{start}\r\n"));
    assert_eq!(
        text(BodyLength::Known(7), true),
        format!("{start}Content-Length: 7\r\nConnection: close\r\n\r\n")
    );
    assert_eq!(
        text(BodyLength::Chunked, false),
        format!("{start}Transfer-Encoding: chunked\r\n\r\n")
    );
}

/// Bytes that look like a head, with every kind of damage.
fn head_like() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        Just(b"HTTP/1.1 200 OK".to_vec()),
        Just(b"Content-Length: 5".to_vec()),
        Just(b"Transfer-Encoding: chunked".to_vec()),
        Just(b" folded".to_vec()),
        Just(b"Connection: close".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..20),
        "[A-Za-z-]{1,8}: ?[ -~]{0,12}".prop_map(String::into_bytes),
    ];
    let end = prop_oneof![Just(b"\r\n".to_vec()), Just(b"\n".to_vec()), Just(b"\r".to_vec())];
    proptest::collection::vec((line, end), 0..12).prop_map(|lines| {
        let mut out = b"HTTP/1.1 200 OK\r\n".to_vec();
        for (line, end) in lines {
            out.extend(line);
            out.extend(end);
        }
        out.extend(b"\r\n\r\n");
        out
    })
}

proptest! {
    #[test]
    fn cutting_a_head_up_changes_nothing(
        input in head_like(),
        mut cuts in proptest::collection::vec(0usize..300, 0..6),
    ) {
        cuts.sort_unstable();
        let whole = scan(&input, &[]);
        prop_assert_eq!(&scan(&input, &cuts), &whole);
        let each: Vec<usize> = (0..input.len()).collect();
        prop_assert_eq!(&scan(&input, &each), &whole);
    }

    #[test]
    fn what_a_head_gives_is_clean(input in head_like(), head_request in any::<bool>()) {
        let input = Bytes::from(input);
        if let Ok(Some(end)) = scan(&input, &[])
            && let Ok(head) = parse_head(&input.slice(..end), head_request)
        {
            prop_assert!((100..=599).contains(&head.status));
            for field in &head.fields {
                prop_assert!(!field.name.is_empty() && field.name.iter().all(|b| is_token_byte(*b)));
                prop_assert!(!field.value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
            }
            prop_assert!(head.all("content-length").count() <= 1);
            prop_assert!(
                head.framing != Framing::Chunked || head.all("content-length").next().is_none()
            );
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_danger(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = scan(&input, &[]);
        let _ = parse_head(&Bytes::from(input.clone()), false);
        for framing in [Framing::Chunked, Framing::Eof, Framing::Length(7), Framing::None] {
            let _ = decode(framing, &input, &[]);
        }
    }

    #[test]
    fn chunks_come_out_as_they_went_in(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..8),
        mut cuts in proptest::collection::vec(0usize..500, 0..8),
        extension in "(;[a-z=\"]{0,6})?",
        rest in proptest::collection::vec(any::<u8>(), 0..20),
    ) {
        cuts.sort_unstable();
        let mut wire = Vec::new();
        for piece in &pieces {
            wire.extend(format!("{:X}{extension}\r\n", piece.len()).into_bytes());
            wire.extend(piece);
            wire.extend(b"\r\n");
        }
        wire.extend(b"0\r\n\r\n");
        wire.extend(&rest);
        let (out, left) = decode(Framing::Chunked, &wire, &cuts).unwrap();
        prop_assert_eq!(out, pieces.concat());
        prop_assert_eq!(left, rest.len());
    }

    #[test]
    fn no_header_breaks_out(
        method in "\\PC{0,6}|GET|[ -~\r\n\0]{0,8}",
        target in "/[!-~ž\r\n\0 ]{0,20}",
        name in "[!-~\r\n: ]{0,10}|X-A",
        value in "[ -~ž\t\r\n\0]{0,20}",
    ) {
        let Ok(mut head) = RequestHead::new(&method, &target) else { return Ok(()) };
        let added = head.header(&name, &value).is_ok();
        let bytes = head.finish(BodyLength::Known(0), true);
        let text = String::from_utf8(bytes).unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        // Request line, perhaps the header, two of ours, the empty line and what follows it.
        prop_assert_eq!(lines.len(), if added { 6 } else { 5 });
        prop_assert!(lines.iter().all(|l| !l.contains(['\r', '\n', '\0'])));
        prop_assert_eq!(lines[0], format!("{method} {target} HTTP/1.1"));
        prop_assert_eq!(lines[0].matches(' ').count(), 2);
    }
}
