//! Scripts: exact bytes at exact times. One step a line; after the last one the connection closes
//! (broken rather than closed when the request has a body that was not read).
//!
//! | step | meaning |
//! |---|---|
//! | `w TEXT` | writes TEXT; `\r \n \t \0 \\ \xNN` are escapes |
//! | `rep N TEXT` | writes TEXT N times |
//! | `drip N MS TEXT` | writes TEXT N times with a pause after each |
//! | `sleep MS` | waits |
//! | `read` | reads the request's body first |
//! | `half` | closes the writing side only |
//! | `hang` | waits until the client closes |
//! | `keep` | does not close at the end: the next request is answered on this connection |

use std::io;
use std::net::Shutdown;
use std::time::Duration;

use crate::record::Record;
use crate::request::{Conn, Request};

/// Runs a script; true when the connection may go on.
pub fn run(conn: &mut Conn, request: &Request, record: &Record, script: &str) -> io::Result<bool> {
    let tag = request.param("tag");
    let mut written = 0u64;
    let mut keep = false;
    record.tag(tag.as_deref(), "running", 0, 0);
    let outcome = (|| -> io::Result<()> {
        for line in script.lines().map(str::trim_start).filter(|l| !l.is_empty()) {
            let (step, rest) = line.split_once(' ').unwrap_or((line, ""));
            match step {
                "w" => write(conn, rest, &mut written)?,
                "rep" => {
                    let (n, text) = number(rest);
                    for _ in 0..n {
                        write(conn, text, &mut written)?;
                    }
                }
                "drip" => {
                    let (n, rest) = number(rest);
                    let (ms, text) = number(rest);
                    for _ in 0..n {
                        write(conn, text, &mut written)?;
                        record.tag(tag.as_deref(), "running", 0, written);
                        std::thread::sleep(Duration::from_millis(ms));
                    }
                }
                "sleep" => std::thread::sleep(Duration::from_millis(number(rest).0)),
                "read" => {
                    let body = conn.read_body(request, |_| {});
                    record.tag(tag.as_deref(), "running", body.bytes, written);
                }
                "half" => conn.stream.shutdown(Shutdown::Write)?,
                "hang" => conn.wait_for_close(),
                "keep" => keep = true,
                other => eprintln!("probe-app: unknown step {other:?}"),
            }
            record.tag(tag.as_deref(), "running", 0, written);
        }
        Ok(())
    })();
    let state = if outcome.is_ok() { "done" } else { "broken" };
    record.tag(tag.as_deref(), state, 0, written);
    outcome.map(|()| keep)
}

fn write(conn: &mut Conn, text: &str, written: &mut u64) -> io::Result<()> {
    let bytes = unescape(text);
    conn.write(&bytes)?;
    *written += bytes.len() as u64;
    Ok(())
}

fn number(text: &str) -> (u64, &str) {
    let (n, rest) = text.split_once(' ').unwrap_or((text, ""));
    (n.parse().unwrap_or(0), rest)
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        match bytes.next() {
            Some(b'r') => out.push(b'\r'),
            Some(b'n') => out.push(b'\n'),
            Some(b't') => out.push(b'\t'),
            Some(b'0') => out.push(0),
            Some(b'x') => {
                let digits = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                let digits = std::str::from_utf8(&digits).unwrap_or("00");
                out.push(u8::from_str_radix(digits, 16).unwrap_or(0));
            }
            Some(other) => out.push(other),
            None => out.push(b'\\'),
        }
    }
    out
}
