//! WebSockets: an echo with tricks.
//!
//! `/ws` echoes messages. `?protocol=P` chooses a subprotocol, `?hello=TEXT` sends a text frame in
//! the same write as the 101 head, `?close=CODE&reason=TEXT` closes so after the first message (or
//! at once with `&now=1`), `?flood=1` sends 64 KiB messages without end, `?deaf=1` reads nothing.
//! The message `pid` is answered with the process number, `headers` with the handshake's head.

use std::io::{self, Read};

use crate::record::Record;
use crate::request::{Conn, Request};

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub fn serve(conn: &mut Conn, request: &Request, record: &Record) -> io::Result<()> {
    let tag = request.param("tag");
    let tag = tag.as_deref();
    let Some(key) = request.header("sec-websocket-key") else {
        return conn.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
    };
    let accept = base64(&sha1(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes()));
    let mut out = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n"
    );
    if let Some(protocol) = request.param("protocol") {
        out.push_str(&format!("Sec-WebSocket-Protocol: {protocol}\r\n"));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    if let Some(hello) = request.param("hello") {
        out.extend_from_slice(&frame(TEXT, hello.as_bytes()));
    }
    conn.write(&out)?;
    record.tag(tag, "open", 0, 0);
    let outcome = talk(conn, request, record, tag);
    record.tag(tag, if outcome.is_ok() { "closed" } else { "broken" }, 0, 0);
    outcome
}

fn talk(conn: &mut Conn, request: &Request, record: &Record, tag: Option<&str>) -> io::Result<()> {
    let close = request.param("close").and_then(|c| c.parse::<u16>().ok());
    let reason = request.param("reason").unwrap_or_default();
    let say_goodbye = |conn: &mut Conn, code: u16| {
        let mut payload = code.to_be_bytes().to_vec();
        payload.extend_from_slice(reason.as_bytes());
        conn.write(&frame(CLOSE, &payload))
    };
    if let (Some(code), Some(_)) = (close, request.param("now")) {
        say_goodbye(conn, code)?;
        conn.wait_for_close();
        return Ok(());
    }
    if request.param("flood").is_some() {
        let message = frame(BINARY, &vec![b'x'; 65536]);
        let mut written = 0;
        loop {
            conn.write(&message)?;
            written += message.len() as u64;
            record.tag(tag, "writing", 0, written);
        }
    }
    if request.param("deaf").is_some() {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }
    loop {
        let (kind, payload) = read_frame(conn)?;
        match kind {
            CLOSE => {
                conn.write(&frame(CLOSE, &payload))?;
                return Ok(());
            }
            PING => conn.write(&frame(PONG, &payload))?,
            TEXT | BINARY => {
                if let Some(code) = close {
                    say_goodbye(conn, code)?;
                    conn.wait_for_close();
                    return Ok(());
                }
                let answer = match payload.as_slice() {
                    b"pid" => std::process::id().to_string().into_bytes(),
                    b"headers" => request.raw.clone(),
                    _ => payload,
                };
                conn.write(&frame(kind, &answer))?;
            }
            _ => {}
        }
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | kind];
    match payload.len() {
        n @ 0..126 => out.push(n as u8),
        n @ 126..65536 => {
            out.push(126);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
        n => {
            out.push(127);
            out.extend_from_slice(&(n as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

fn read_frame(conn: &mut Conn) -> io::Result<(u8, Vec<u8>)> {
    let head = exact(conn, 2)?;
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(exact(conn, 2)?.try_into().expect("two bytes"))),
        127 => u64::from_be_bytes(exact(conn, 8)?.try_into().expect("eight bytes")),
        n => u64::from(n),
    };
    let mask = if head[1] & 0x80 != 0 { exact(conn, 4)? } else { vec![0; 4] };
    let mut payload = exact(conn, length as usize)?;
    for (at, b) in payload.iter_mut().enumerate() {
        *b ^= mask[at % 4];
    }
    Ok((head[0] & 0x0f, payload))
}

fn exact(conn: &mut Conn, n: usize) -> io::Result<Vec<u8>> {
    while conn.buf.len() < n {
        let mut piece = [0; 65536];
        match conn.stream.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            got => conn.buf.extend_from_slice(&piece[..got]),
        }
    }
    Ok(conn.buf.drain(..n).collect())
}

/// SHA-1, which the handshake prescribes (FIPS 180-4 §6.1).
fn sha1(input: &[u8]) -> [u8; 20] {
    let mut h = [0x6745_2301u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
    let mut message = input.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend_from_slice(&(input.len() as u64 * 8).to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut w = [0u32; 80];
        for (at, word) in block.chunks_exact(4).enumerate() {
            w[at] = u32::from_be_bytes(word.try_into().expect("four bytes"));
        }
        for at in 16..80 {
            w[at] = (w[at - 3] ^ w[at - 8] ^ w[at - 14] ^ w[at - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = h;
        for (at, word) in w.iter().enumerate() {
            let (f, k) = match at / 20 {
                0 => ((b & c) | (!b & d), 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6u32),
            };
            let next = a
                .rotate_left(5)
                .wrapping_add(f)
                .wrapping_add(e)
                .wrapping_add(k)
                .wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, value) in h.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(value);
        }
    }
    let mut out = [0; 20];
    for (at, word) in h.iter().enumerate() {
        out[at * 4..at * 4 + 4].copy_from_slice(&word.to_be_bytes());
    }
    out
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            if at <= chunk.len() {
                out.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rfcs_own_example() {
        let accept = base64(&sha1(b"dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
