//! The paths that are more than a script.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::record::{Record, quote};
use crate::request::{Body, Conn, Request};
use crate::{script, websocket};

/// What `/file` says of its age.
const MODIFIED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

/// Answers one request; true when the connection may go on.
pub fn answer(conn: &mut Conn, request: Request, record: &Record) -> io::Result<bool> {
    let keep = !request.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
    let path = request.path().to_owned();
    if path != "/last" && path != "/stats" && path != "/upload" && path != "/echo" {
        record.remember(describe(&request, None));
    }
    if let Some(name) = path.strip_prefix("/run/") {
        let script = record.scripts.lock().expect("lock").get(name).cloned();
        return match script {
            Some(text) => script::run(conn, &request, record, &text),
            None => plain(conn, 404, "text/plain", b"no such script").map(|()| keep),
        };
    }
    if let Some(name) = path.strip_prefix("/scripts/") {
        let body = read_whole(conn, &request);
        let text = String::from_utf8_lossy(&body).into_owned();
        record.scripts.lock().expect("lock").insert(name.to_owned(), text);
        return plain(conn, 201, "text/plain", b"stored\n").map(|()| keep);
    }
    if let Some(bell) = path.strip_prefix("/ring/") {
        record.ring(bell);
        return plain(conn, 200, "text/plain", b"rung\n").map(|()| keep);
    }
    if let Some(name) = path.strip_prefix("/store/") {
        return store(conn, &request, name).map(|()| keep);
    }
    match path.as_str() {
        "/run" => {
            let text = request.param("s").unwrap_or_default();
            return script::run(conn, &request, record, &text);
        }
        "/" => plain(conn, 200, "text/html; charset=utf-8", INDEX.as_bytes())?,
        "/last" => plain(conn, 200, "application/json", record.requests_json().as_bytes())?,
        "/stats" => {
            let json = record.stats_json(request.param("tag").as_deref());
            plain(conn, 200, "application/json", json.as_bytes())?;
        }
        "/file" => file(conn, &request)?,
        "/upload" => return upload(conn, &request, record).map(|()| false),
        "/endless" => return endless(conn, &request, record).map(|()| false),
        "/drip" => return drip(conn, &request, record).map(|()| false),
        "/sse" => return events(conn, &request, record).map(|()| false),
        "/never" => {
            let tag = request.param("tag");
            record.tag(tag.as_deref(), "waiting", 0, 0);
            conn.wait_for_close();
            record.tag(tag.as_deref(), "closed", 0, 0);
            return Ok(false);
        }
        "/ws" => return websocket::serve(conn, &request, record).map(|()| false),
        "/exit" => std::process::exit(request.number("code", 0) as i32),
        _ => {
            let body = conn.read_body(&request, |_| {});
            let json = describe(&request, Some(&body));
            record.remember(json.clone());
            let status = request.number("status", 200) as u16;
            plain(conn, status, "application/json", json.as_bytes())?;
        }
    }
    Ok(keep)
}

const INDEX: &str = "<!DOCTYPE html><html lang=\"en\"><title>Probe</title><h1>Probe</h1>\
                     <p id=\"ready\">A server whose answers are scripted.</p></html>\n";

fn plain(conn: &mut Conn, status: u16, kind: &str, body: &[u8]) -> io::Result<()> {
    let mut out = format!(
        "HTTP/1.1 {status} Probe\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(body);
    conn.write(&out)
}

fn describe(request: &Request, body: Option<&Body>) -> String {
    let headers: Vec<String> = request
        .headers
        .iter()
        .map(|(name, value)| format!("[{},{}]", quote(name), quote(value)))
        .collect();
    let body = match body {
        Some(b) => format!(
            ",\"body\":{{\"bytes\":{},\"hash\":\"{:016x}\",\"framing\":\"{}\",\"complete\":{},\
             \"start\":{}}}",
            b.bytes,
            b.hash,
            b.framing,
            b.complete,
            quote(&String::from_utf8_lossy(&b.start))
        ),
        None => String::new(),
    };
    format!(
        "{{\"method\":{},\"target\":{},\"headers\":[{}],\"raw\":{}{body}}}",
        quote(&request.method),
        quote(&request.target),
        headers.join(","),
        quote(&String::from_utf8_lossy(&request.raw))
    )
}

fn read_whole(conn: &mut Conn, request: &Request) -> Vec<u8> {
    // Scripts and stored texts are short; `start` keeps 4 KiB of them.
    conn.read_body(request, |_| {}).start
}

/// Byte number `at` of every generated file.
fn byte_at(at: u64) -> u8 {
    (at.wrapping_mul(31) ^ (at >> 8)) as u8
}

fn file(conn: &mut Conn, request: &Request) -> io::Result<()> {
    let size = request.number("size", 5000);
    let etag = format!("\"probe-{size}\"");
    let fresh = request.header("if-none-match").map_or_else(
        || request.header("if-modified-since") == Some(MODIFIED),
        |tags| tags.contains(&etag),
    );
    let common = format!("ETag: {etag}\r\nLast-Modified: {MODIFIED}\r\nAccept-Ranges: bytes\r\n");
    if request.header("if-match").is_some_and(|tags| tags != "*" && !tags.contains(&etag)) {
        return conn
            .write(format!("HTTP/1.1 412 No\r\n{common}Content-Length: 0\r\n\r\n").as_bytes());
    }
    if fresh {
        return conn.write(format!("HTTP/1.1 304 Not Modified\r\n{common}\r\n").as_bytes());
    }
    let range = request
        .header("range")
        .filter(|_| request.header("if-range").is_none_or(|r| r == etag || r == MODIFIED))
        .and_then(|r| r.strip_prefix("bytes="))
        .and_then(|r| r.split_once('-'))
        .map(|(from, to)| match (from.parse::<u64>(), to.parse::<u64>()) {
            (Ok(from), Ok(to)) => (from, to.min(size.saturating_sub(1))),
            (Ok(from), Err(_)) => (from, size.saturating_sub(1)),
            (Err(_), Ok(last)) => (size.saturating_sub(last), size.saturating_sub(1)),
            _ => (0, 0),
        });
    let (status, from, to, extra) = match range {
        Some((from, _)) if from >= size => {
            return conn.write(
                format!(
                    "HTTP/1.1 416 Range\r\n{common}Content-Range: bytes */{size}\r\n\
                     Content-Length: 0\r\n\r\n"
                )
                .as_bytes(),
            );
        }
        Some((from, to)) => {
            (206, from, to + 1, format!("Content-Range: bytes {from}-{to}/{size}\r\n"))
        }
        None => (200, 0, size, String::new()),
    };
    conn.write(
        format!(
            "HTTP/1.1 {status} File\r\nContent-Type: application/octet-stream\r\n{common}{extra}\
             Content-Length: {}\r\n\r\n",
            to - from
        )
        .as_bytes(),
    )?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let mut at = from;
    while at < to {
        let end = to.min(at + 65536);
        let piece: Vec<u8> = (at..end).map(byte_at).collect();
        conn.write(&piece)?;
        at = end;
    }
    Ok(())
}

fn upload(conn: &mut Conn, request: &Request, record: &Record) -> io::Result<()> {
    let tag = request.param("tag");
    let pause = request.number("slow", 0);
    if let Some(code) = request.param("early") {
        conn.write(
            format!("HTTP/1.1 {code} Early\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly")
                .as_bytes(),
        )?;
        if request.param("leave").is_some() {
            return Ok(());
        }
    }
    let mut paused_at = 0;
    let body = conn.read_body(request, |read| {
        record.tag(tag.as_deref(), "reading", read, 0);
        if pause > 0 && read >= paused_at + 65536 {
            paused_at = read;
            std::thread::sleep(Duration::from_millis(pause));
        }
    });
    let state = if body.complete { "complete" } else { "cut" };
    record.tag(tag.as_deref(), state, body.bytes, 0);
    let json = describe(request, Some(&body));
    record.remember(json.clone());
    if request.param("early").is_some() {
        return Ok(());
    }
    plain(conn, 200, "application/json", json.as_bytes())
}

fn endless(conn: &mut Conn, request: &Request, record: &Record) -> io::Result<()> {
    let tag = request.param("tag");
    let piece = vec![b'e'; request.number("piece", 65536) as usize];
    let chunked = request.param("chunked").is_some();
    let framing = if chunked { "Transfer-Encoding: chunked\r\n" } else { "" };
    conn.write(
        format!("HTTP/1.1 200 Endless\r\nContent-Type: application/octet-stream\r\n{framing}\r\n")
            .as_bytes(),
    )?;
    let mut written = 0;
    let outcome = loop {
        let sent = if chunked {
            let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
            framed.extend_from_slice(&piece);
            framed.extend_from_slice(b"\r\n");
            conn.write(&framed)
        } else {
            conn.write(&piece)
        };
        match sent {
            Ok(()) => written += piece.len() as u64,
            Err(e) => break e,
        }
        record.tag(tag.as_deref(), "writing", 0, written);
    };
    record.tag(tag.as_deref(), "broken", 0, written);
    Err(outcome)
}

fn drip(conn: &mut Conn, request: &Request, record: &Record) -> io::Result<()> {
    let tag = request.param("tag");
    let n = request.number("n", 10);
    let pause = Duration::from_millis(request.number("ms", 1000));
    conn.write(
        format!("HTTP/1.1 200 Drip\r\nContent-Type: text/plain\r\nContent-Length: {n}\r\n\r\n")
            .as_bytes(),
    )?;
    for written in 0..n {
        record.tag(tag.as_deref(), "writing", 0, written);
        conn.write(b"d")?;
        std::thread::sleep(pause);
    }
    record.tag(tag.as_deref(), "done", 0, n);
    Ok(())
}

fn events(conn: &mut Conn, request: &Request, record: &Record) -> io::Result<()> {
    let tag = request.param("tag");
    let n = request.number("n", u64::MAX);
    conn.write(b"HTTP/1.1 200 Events\r\nContent-Type: text/event-stream\r\n\r\n")?;
    // A reader tells at once when the client has gone; writing would only tell at the next event.
    let watched = conn.stream.try_clone()?;
    let (gone, is_gone) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut conn = Conn::new(watched);
        conn.wait_for_close();
        let _ = gone.send(());
    });
    let bell = request.param("bell");
    let mut pause = request.number("first", 0);
    for at in 0..n {
        record.tag(tag.as_deref(), "writing", 0, at);
        loop {
            if is_gone.recv_timeout(Duration::from_millis(pause)).is_ok() {
                record.tag(tag.as_deref(), "closed", 0, at);
                return Ok(());
            }
            match &bell {
                Some(bell) if record.rung(bell) <= at => pause = 5,
                _ => break,
            }
        }
        conn.write(format!("id: {at}\ndata: event {at}\n\n").as_bytes())?;
        pause = if bell.is_some() { 0 } else { request.number("every", 1000) };
    }
    record.tag(tag.as_deref(), "done", 0, n);
    Ok(())
}

fn store(conn: &mut Conn, request: &Request, name: &str) -> io::Result<()> {
    let clean = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if !clean {
        return plain(conn, 400, "text/plain", b"letters, digits and dashes only\n");
    }
    let base = std::env::var_os("PROBE_VAR").unwrap_or_else(|| "/var".into());
    let path = PathBuf::from(base).join(name);
    if request.method == "PUT" {
        let body = read_whole(conn, request);
        std::fs::write(&path, body)?;
        return plain(conn, 201, "text/plain", b"kept\n");
    }
    match std::fs::read(&path) {
        Ok(bytes) => plain(conn, 200, "application/octet-stream", &bytes),
        Err(e) => plain(conn, 404, "text/plain", e.to_string().as_bytes()),
    }
}
