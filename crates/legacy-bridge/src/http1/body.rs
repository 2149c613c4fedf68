//! The body of an answer: takes the framing off, piece by piece, in bounded memory.
//!
//! The decoder never holds bytes back: what the caller read is handed out at once, as slices of
//! the caller's buffer. Trailers are read and dropped.

use bytes::{Buf, Bytes, BytesMut};

use super::head::Framing;

/// Bytes of one chunk-size line, extensions included.
const MAX_CHUNK_LINE: usize = 4 * 1024;
/// Bytes of all trailer lines together.
const MAX_TRAILERS: usize = 64 * 1024;

/// Why a body cannot be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection ended too early.
    #[error("it breaks off before its end")]
    Truncated,
    /// A chunk-size line that is none.
    #[error("a chunk does not begin with its size")]
    ChunkSize,
    /// A chunk is not followed by a line end.
    #[error("a chunk is longer than its size")]
    ChunkEnd,
    /// A line of the framing is too long.
    #[error("its chunk framing is too large")]
    TooLarge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// This many bytes of a body with a length are still to come.
    Remaining(u64),
    UntilEof,
    ChunkLine,
    /// This many bytes of a chunk are still to come.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// Trailer lines, with the bytes of them seen so far.
    Trailers(usize),
    Done,
}

/// Takes the framing off one body.
#[derive(Debug)]
pub struct BodyDecoder {
    state: State,
}

impl BodyDecoder {
    /// A decoder for a body that ends in this way.
    pub fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) => State::Remaining(n),
            Framing::Chunked => State::ChunkLine,
            Framing::Eof => State::UntilEof,
        };
        BodyDecoder { state }
    }

    /// True once the whole body was handed out.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the next piece of body out of `input`. `None`: more input is needed, or the body is
    /// done. Bytes after the body stay in `input`.
    ///
    /// # Errors
    /// When the framing is broken; the decoder must not be used after that.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BodyError> {
        loop {
            if input.is_empty() {
                return Ok(None);
            }
            match self.state {
                State::Done => return Ok(None),
                State::UntilEof => return Ok(Some(input.split().freeze())),
                State::Remaining(left) => {
                    let (piece, left) = take(input, left);
                    self.state = if left == 0 { State::Done } else { State::Remaining(left) };
                    return Ok(Some(piece));
                }
                State::Chunk(left) => {
                    let (piece, left) = take(input, left);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                    return Ok(Some(piece));
                }
                State::ChunkEnd => match input.as_ref() {
                    [b'\n', ..] => {
                        input.advance(1);
                        self.state = State::ChunkLine;
                    }
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::ChunkLine;
                    }
                    [b'\r'] => return Ok(None),
                    _ => return Err(BodyError::ChunkEnd),
                },
                State::ChunkLine => match take_line(input, MAX_CHUNK_LINE)? {
                    None => return Ok(None),
                    Some(line) => {
                        self.state = match parse_chunk_size(&line)? {
                            0 => State::Trailers(0),
                            n => State::Chunk(n),
                        };
                    }
                },
                State::Trailers(seen) => match take_line(input, MAX_TRAILERS - seen)? {
                    None => return Ok(None),
                    Some(line) if line.is_empty() => self.state = State::Done,
                    Some(line) => {
                        let seen = seen + line.len() + 2;
                        if seen >= MAX_TRAILERS {
                            return Err(BodyError::TooLarge);
                        }
                        self.state = State::Trailers(seen);
                    }
                },
            }
        }
    }

    /// The connection ended.
    ///
    /// # Errors
    /// [`BodyError::Truncated`] unless the end of the connection ends the body.
    pub fn end_of_input(&mut self) -> Result<(), BodyError> {
        match self.state {
            State::Done => Ok(()),
            State::UntilEof => {
                self.state = State::Done;
                Ok(())
            }
            _ => Err(BodyError::Truncated),
        }
    }
}

/// Splits off at most `left` bytes; returns them and what is left after them.
fn take(input: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let n = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    (input.split_to(n).freeze(), left - n as u64)
}

/// Takes one line without its end, once it is complete.
fn take_line(input: &mut BytesMut, max: usize) -> Result<Option<BytesMut>, BodyError> {
    let window = &input[..input.len().min(max)];
    match window.iter().position(|b| *b == b'\n') {
        Some(lf) => {
            let mut line = input.split_to(lf + 1);
            line.truncate(lf);
            if line.last() == Some(&b'\r') {
                line.truncate(lf - 1);
            }
            Ok(Some(line))
        }
        None if input.len() >= max => Err(BodyError::TooLarge),
        None => Ok(None),
    }
}

/// `1a2b[;extensions]`, at most 15 hexadecimal digits.
fn parse_chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    if digits.is_empty() || digits.len() > 15 || rest.contains(&b'\r') {
        return Err(BodyError::ChunkSize);
    }
    if !matches!(rest.trim_ascii_start().first(), None | Some(b';')) {
        return Err(BodyError::ChunkSize);
    }
    Ok(digits.iter().fold(0u64, |n, d| {
        let digit = (*d as char).to_digit(16).unwrap_or(0);
        (n << 4) | u64::from(digit)
    }))
}
