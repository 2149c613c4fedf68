//! Stream framing of Cap'n Proto messages: a segment table, then the segments.
//!
//! Both ends are hostile here: tables are checked before anything is allocated or sliced. Written
//! by hand because the library stops at 511 segments and the format allows 512, and because an
//! archive is read in place from a mapped file instead of being copied.

use std::io::{self, Read};

use capnp::Word;
use capnp::message::ReaderSegments;

use super::limits::MAX_SEGMENTS;

/// What is wrong with a segment table.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("its segment table names {0} segments, the format allows 512")]
    TooManySegments(u64),
    #[error("it claims {0} words, more than the {1} allowed here")]
    TooLarge(u64, u64),
    #[error("it ends in the middle of a message")]
    Truncated,
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// One message in memory of our own.
pub struct OwnedFrame {
    words: Vec<Word>,
    /// Start and length of each segment, in words.
    segments: Vec<(usize, usize)>,
}

impl OwnedFrame {
    /// Words of all segments.
    pub fn words(&self) -> usize {
        self.words.len()
    }
}

impl ReaderSegments for OwnedFrame {
    fn get_segment(&self, idx: u32) -> Option<&[u8]> {
        let &(start, len) = self.segments.get(idx as usize)?;
        Some(Word::words_to_bytes(&self.words[start..start + len]))
    }

    fn len(&self) -> usize {
        self.segments.len()
    }
}

/// One message inside a larger aligned buffer.
pub struct Frame<'a> {
    segments: Vec<&'a [u8]>,
}

impl ReaderSegments for Frame<'_> {
    fn get_segment(&self, idx: u32) -> Option<&[u8]> {
        self.segments.get(idx as usize).copied()
    }

    fn len(&self) -> usize {
        self.segments.len()
    }
}

/// Parses the message at the start of `bytes`, which must be aligned to 8 bytes (the Cap'n Proto
/// library checks that when the first pointer is read). Bytes after the message are not looked at.
pub fn in_place(bytes: &[u8]) -> Result<Frame<'_>, FrameError> {
    let (count, table_bytes) = table_size(bytes.get(..4).ok_or(FrameError::Truncated)?)?;
    let table = bytes.get(4..table_bytes).ok_or(FrameError::Truncated)?;
    let mut segments = Vec::with_capacity(count);
    let mut at = table_bytes;
    for words in table.chunks_exact(4).take(count).map(u32_le) {
        let end = at.checked_add(words as usize * 8).ok_or(FrameError::Truncated)?;
        segments.push(bytes.get(at..end).ok_or(FrameError::Truncated)?);
        at = end;
    }
    Ok(Frame { segments })
}

/// Reads one message of at most `max_words` from a stream.
///
/// # Errors
/// A bad table, a message over `max_words`, the end of the stream inside the message.
pub fn read(source: &mut impl Read, max_words: u64) -> Result<OwnedFrame, FrameError> {
    match read_or_end(source, max_words)? {
        Some(frame) => Ok(frame),
        None => Err(FrameError::Truncated),
    }
}

/// Like [`read`], but the end of the stream before the first byte is `None`.
pub fn read_or_end(
    source: &mut impl Read,
    max_words: u64,
) -> Result<Option<OwnedFrame>, FrameError> {
    let mut first = [0; 4];
    match fill(source, &mut first)? {
        0 => return Ok(None),
        4 => {}
        _ => return Err(FrameError::Truncated),
    }
    let (count, table_bytes) = table_size(&first)?;
    let mut table = vec![0; table_bytes - 4];
    if fill(source, &mut table)? != table.len() {
        return Err(FrameError::Truncated);
    }
    let mut segments = Vec::with_capacity(count);
    let mut total = 0u64;
    for words in table.chunks_exact(4).take(count).map(u32_le) {
        segments.push((total as usize, words as usize));
        total += u64::from(words);
    }
    if total > max_words {
        return Err(FrameError::TooLarge(total, max_words));
    }
    // Grow while bytes really arrive: a short stream must not cost what its table claims.
    const STEP: usize = 8192;
    let mut words: Vec<Word> = Vec::new();
    while (words.len() as u64) < total {
        let from = words.len();
        let upto = (from + STEP).min(total as usize);
        words.resize(upto, capnp::word(0, 0, 0, 0, 0, 0, 0, 0));
        let room = Word::words_to_bytes_mut(&mut words[from..upto]);
        if fill(source, room)? != room.len() {
            return Err(FrameError::Truncated);
        }
    }
    Ok(Some(OwnedFrame { words, segments }))
}

/// Segment count and bytes of the whole table, padding included.
fn table_size(first: &[u8]) -> Result<(usize, usize), FrameError> {
    let count = u64::from(u32_le(first)) + 1;
    if count > MAX_SEGMENTS as u64 {
        return Err(FrameError::TooManySegments(count));
    }
    let count = count as usize;
    Ok((count, (4 + 4 * count).next_multiple_of(8)))
}

fn u32_le(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Reads until `room` is full or the stream ends; returns the bytes read.
fn fill(source: &mut impl Read, room: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < room.len() {
        match source.read(&mut room[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(segments: &[u32]) -> Vec<u8> {
        let mut bytes = (segments.len() as u32 - 1).to_le_bytes().to_vec();
        segments.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let words: u32 = segments.iter().sum();
        bytes.resize(bytes.len() + 8 * words as usize, 7);
        bytes
    }

    #[test]
    fn segments_are_found_in_both_ways() {
        for segments in [&[1][..], &[1, 2], &[0, 3, 1], &[1; 512]] {
            let bytes = framed(segments);
            let there = in_place(&bytes).unwrap();
            let read = read(&mut &bytes[..], 1000).unwrap();
            for (i, words) in segments.iter().enumerate() {
                assert_eq!(there.get_segment(i as u32).unwrap().len(), *words as usize * 8);
                assert_eq!(
                    read.get_segment(i as u32).unwrap(),
                    there.get_segment(i as u32).unwrap()
                );
            }
            assert!(there.get_segment(segments.len() as u32).is_none());
        }
    }

    #[test]
    fn faults_are_told() {
        assert!(matches!(in_place(&framed(&[1; 513])), Err(FrameError::TooManySegments(513))));
        assert!(matches!(in_place(&[]), Err(FrameError::Truncated)));
        let whole = framed(&[2, 2]);
        for cut in 1..whole.len() {
            assert!(matches!(in_place(&whole[..cut]), Err(FrameError::Truncated)), "{cut}");
            assert!(matches!(read(&mut &whole[..cut], 9), Err(FrameError::Truncated)), "{cut}");
        }
        assert!(matches!(read(&mut &whole[..], 3), Err(FrameError::TooLarge(4, 3))));
        assert!(read_or_end(&mut io::empty(), 9).unwrap().is_none());
    }
}
