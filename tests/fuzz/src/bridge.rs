//! What the bridge reads: an app's answers, and the package's own configuration.

use bytes::{Bytes, BytesMut};
use legacy_bridge::config::Config;
use legacy_bridge::http::response::{Body, fill, wire_status};
use legacy_bridge::http1::{Asked, BodyDecoder, HeadScanner, parse_head};
use sandstorm_schema::web_session_capnp::web_session::response as wire;

/// The package's `/sandstorm-http-bridge-config`.
pub fn config(data: &[u8]) {
    legacy_bridge::log::mute();
    let Ok(config) = Config::parse(data) else { return };
    assert!(config.permission_names().iter().all(|name| !name.contains([',', '\r', '\n'])));
    if let Some(path) = config.api_path() {
        assert!(path.starts_with('/') && path.ends_with('/'));
    }
    config.view_info().expect("a copy of our own");
}

/// An app's answer, arriving in arbitrary pieces: head, body, and the response made of it. The
/// first byte says how it is cut into reads, and whether the request was HEAD.
pub fn response(data: &[u8]) {
    legacy_bridge::log::mute();
    let Some((how, input)) = data.split_first() else { return };
    let (step, head_request) = (usize::from(how & 0x7f) + 1, how & 0x80 != 0);
    let asked = Asked { head: head_request, conditionally: step % 2 == 0 };
    let mut scanner = HeadScanner::default();
    let mut arrived = 0;
    let end = loop {
        arrived = (arrived + step).min(input.len());
        match scanner.find_end(&input[..arrived]) {
            Ok(Some(end)) => break end,
            Ok(None) if arrived < input.len() => {}
            _ => return,
        }
    };
    assert!(end <= arrived);
    // However it was cut, the end is the same.
    assert_eq!(HeadScanner::default().find_end(input), Ok(Some(end)));
    let Ok(head) = parse_head(&Bytes::copy_from_slice(&input[..end]), head_request) else { return };

    let mut decoder = BodyDecoder::new(head.framing);
    let mut buf = BytesMut::new();
    let (mut body, mut fed) = (Vec::new(), end);
    while fed < input.len() && !decoder.is_done() {
        let to = (fed + step).min(input.len());
        buf.extend_from_slice(&input[fed..to]);
        fed = to;
        loop {
            match decoder.decode(&mut buf) {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        // Nothing is held back but an unfinished line of the framing.
        assert!(buf.len() <= 64 * 1024 + step);
    }
    assert!(body.len() <= input.len() - end);
    if decoder.end_of_input().is_err() || wire_status(&head, asked).is_err() {
        return;
    }
    let mut message = capnp::message::Builder::new_default();
    let out = message.init_root::<wire::Builder<'_>>();
    fill(out, &head, Body::Bytes(body.into()), asked).expect("the status was looked at");
    let response: wire::Reader<'_> = message.get_root_as_reader().expect("our own message");
    for header in response.get_additional_headers().expect("a list") {
        let value = header.get_value().expect("a text").as_bytes();
        assert!(!value.iter().any(|b| matches!(b, b'\r' | b'\n' | 0)));
    }
}
