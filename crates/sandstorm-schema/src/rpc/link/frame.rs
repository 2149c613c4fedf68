//! One message as it came off the socket.
//!
//! Trust: the bytes are a peer's. Memory grows as they arrive, never as a header claims (capnp's
//! own reader takes and touches all of a claimed 64 MiB at once).

use std::time::Duration;

use capnp::Word;
use capnp::message::ReaderSegments;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};

use crate::limits::{SEGMENTS, WORD};
use crate::rpc::error::{disconnected, failed};

/// Bytes taken for a message before the first of them has come.
const FIRST_STEP_WORDS: usize = 256 * 1024 / WORD;

/// Small messages are read many at once; bodies go past the buffer.
const READ_BUFFER: usize = 8 * 1024;

/// A peer that sends less than this between two waits, in the middle of a message, is let wait.
const TRICKLE: usize = 4 * 1024;

/// For so long: each piece costs a wake-up, however small it is.
const TRICKLE_REST: Duration = Duration::from_millis(1);

const ZERO: Word = capnp::word(0, 0, 0, 0, 0, 0, 0, 0);

/// The segments of one message, in one piece of memory.
#[derive(Debug)]
pub struct Frame {
    words: Vec<Word>,
    /// Where each segment ends, in words; empty when there is only one (nearly always).
    ends: Vec<u32>,
}

impl Frame {
    /// A frame of one segment, from words in the machine's memory order.
    pub fn from_words(words: Vec<Word>) -> Self {
        Frame { words, ends: Vec::new() }
    }

    /// A frame of the segments that end at the words `ends`.
    pub fn from_segments(words: Vec<Word>, ends: Vec<u32>) -> Self {
        debug_assert_eq!(ends.last().map_or(0, |end| *end as usize), words.len());
        Frame { words, ends }
    }

    /// The size in bytes, without the frame's header.
    pub fn bytes(&self) -> usize {
        self.words.len() * WORD
    }

    fn range(&self, segment: usize) -> Option<(usize, usize)> {
        if self.ends.is_empty() {
            return (segment == 0).then_some((0, self.words.len()));
        }
        let end = *self.ends.get(segment)? as usize;
        let start = if segment == 0 { 0 } else { self.ends[segment - 1] as usize };
        Some((start, end))
    }

    /// The words of segment `segment`, if there is one.
    pub fn segment(&self, segment: usize) -> Option<&[Word]> {
        self.range(segment).map(|(start, end)| &self.words[start..end])
    }

    /// The whole message as it travels, header included.
    pub fn to_bytes(&self) -> Vec<u8> {
        let count = self.ends.len().max(1);
        let mut bytes = Vec::with_capacity(self.bytes() + 8 + count * 4);
        bytes.extend((count as u32 - 1).to_le_bytes());
        for i in 0..count {
            let (start, end) = self.range(i).unwrap_or((0, 0));
            bytes.extend(((end - start) as u32).to_le_bytes());
        }
        bytes.resize(bytes.len().next_multiple_of(WORD), 0);
        bytes.extend_from_slice(Word::words_to_bytes(&self.words));
        bytes
    }
}

impl ReaderSegments for Frame {
    fn get_segment(&self, id: u32) -> Option<&[u8]> {
        self.segment(id as usize).map(Word::words_to_bytes)
    }

    fn len(&self) -> usize {
        self.ends.len().max(1)
    }
}

/// Reads frames from a stream.
pub struct FrameReader<R> {
    io: BufReader<R>,
    max_words: usize,
    stall: Option<Duration>,
    /// Bytes of this message since the last time that more of it was waited for, if it was.
    since_wait: Option<usize>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Frames of at most `max_bytes`; in the middle of a frame at most `stall` without a byte.
    pub fn new(io: R, max_bytes: usize, stall: Option<Duration>) -> Self {
        let io = BufReader::with_capacity(READ_BUFFER, io);
        FrameReader { io, max_words: max_bytes / WORD, stall, since_wait: None }
    }

    /// The next frame; `None` when the peer left between two frames.
    ///
    /// Must be polled to its end: what a dropped call has read is lost.
    pub async fn next(&mut self) -> capnp::Result<Option<Frame>> {
        let mut start = [0u8; 8];
        // Between frames a peer may be silent for as long as it likes.
        let got = self.io.read(&mut start).await.map_err(read_error)?;
        if got == 0 {
            return Ok(None);
        }
        self.since_wait = None;
        self.fill(&mut start[got..]).await?;
        let (count, first) = split(start);
        let count = count.wrapping_add(1) as usize;
        if count == 0 || count > SEGMENTS {
            return Err(failed(format!("the message has {count} segments, more than {SEGMENTS}")));
        }
        let mut total = first as usize;
        let mut ends = Vec::new();
        if count > 1 {
            let mut table = vec![0u8; (count & !1) * 4];
            self.fill(&mut table).await?;
            ends.reserve_exact(count);
            ends.push(first);
            for length in table.chunks_exact(4).take(count - 1) {
                total += u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
                // Whoever is past the limit here is refused below, so that ends fit 32 bits.
                ends.push(total as u32);
            }
        }
        if total > self.max_words {
            return Err(failed(format!(
                "the message has {} bytes, more than {}",
                total.saturating_mul(WORD),
                self.max_words * WORD
            )));
        }
        let mut words = vec![ZERO; total.min(FIRST_STEP_WORDS)];
        let mut filled = 0;
        loop {
            self.fill(Word::words_to_bytes_mut(&mut words[filled..])).await?;
            filled = words.len();
            if filled == total {
                return Ok(Some(Frame { words, ends }));
            }
            let next = total.min(filled * 2);
            // Exactly: a vector that doubles by itself would hold twice what is counted.
            words.reserve_exact(next - filled);
            words.resize(next, ZERO);
        }
    }

    /// Fills `buf`, from the middle of a frame.
    async fn fill(&mut self, mut buf: &mut [u8]) -> capnp::Result<()> {
        while !buf.is_empty() {
            let got = self.some(buf).await?;
            if got == 0 {
                return Err(disconnected("the connection ended in the middle of a message"));
            }
            if let Some(bytes) = &mut self.since_wait {
                *bytes += got;
            }
            buf = &mut buf[got..];
        }
        Ok(())
    }

    /// What has come, at once or after a while.
    async fn some(&mut self, buf: &mut [u8]) -> capnp::Result<usize> {
        // A timer only for those who have to wait.
        let Some(stall) = self.stall else { return self.io.read(buf).await.map_err(read_error) };
        if let std::task::Poll::Ready(got) = futures::poll!(std::pin::pin!(self.io.read(buf))) {
            return got.map_err(read_error);
        }
        if self.since_wait.replace(0).is_some_and(|bytes| bytes < TRICKLE) {
            tokio::time::sleep(TRICKLE_REST).await;
        }
        match tokio::time::timeout(stall, self.io.read(buf)).await {
            Ok(got) => got.map_err(read_error),
            Err(_) => {
                Err(failed(format!("the message stopped in its middle for {} s", stall.as_secs())))
            }
        }
    }
}

fn split(start: [u8; 8]) -> (u32, u32) {
    let both = u64::from_le_bytes(start);
    (both as u32, (both >> 32) as u32)
}

fn read_error(error: std::io::Error) -> capnp::Error {
    disconnected(format!("reading from the connection: {error}"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::Pin;
    use std::rc::Rc;
    use std::task::{Context, Poll};

    use super::*;
    use proptest::prelude::*;
    use tokio::io::ReadBuf;

    fn read(bytes: &[u8], max: usize) -> capnp::Result<Option<Frame>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(FrameReader::new(bytes, max, None).next())
    }

    #[test]
    fn segments_come_out_as_they_went_in() {
        for count in 1..6usize {
            let mut segments: Vec<Vec<u8>> = Vec::new();
            let mut bytes = (count as u32 - 1).to_le_bytes().to_vec();
            for i in 0..count {
                segments.push(vec![i as u8 + 1; i * 8]);
                bytes.extend((i as u32).to_le_bytes());
            }
            bytes.resize(bytes.len().next_multiple_of(8), 0);
            segments.iter().for_each(|s| bytes.extend(s));
            let frame = read(&bytes, 1024).unwrap().unwrap();
            assert_eq!(ReaderSegments::len(&frame), count);
            for (i, s) in segments.iter().enumerate() {
                assert_eq!(frame.get_segment(i as u32).unwrap(), &s[..]);
            }
            assert!(frame.get_segment(count as u32).is_none());
            assert_eq!(frame.to_bytes(), bytes);
        }
    }

    #[test]
    fn sizes_are_checked_before_memory_is_taken() {
        let mut claim = 0u32.to_le_bytes().to_vec();
        claim.extend(u32::MAX.to_le_bytes());
        assert!(read(&claim, 1 << 20).unwrap_err().extra.contains("more than 1048576"));
        let mut many = 510u32.to_le_bytes().to_vec();
        many.extend(vec![0xff; 511 * 4]);
        many.resize(many.len().next_multiple_of(8), 0);
        assert!(read(&many, 1 << 20).is_err());
        assert!(read(&[0xff; 8], 1 << 20).unwrap_err().extra.contains("segments"));
        assert!(read(&600u64.to_le_bytes(), 1 << 20).unwrap_err().extra.contains("segments"));
    }

    #[test]
    fn the_end_is_clean_only_between_frames() {
        assert!(read(&[], 64).unwrap().is_none());
        assert!(read(&[0], 64).is_err());
        assert!(read(&[0, 0, 0, 0, 1, 0, 0, 0], 64).is_err());
        assert!(read(&[0; 8], 64).unwrap().is_some());
    }

    #[test]
    fn a_trickle_is_read_in_few_pieces() {
        /// One byte each time that it is asked, and then nothing for the moment.
        struct Trickle {
            bytes: Vec<u8>,
            came: tokio::time::Instant,
            reads: Rc<Cell<usize>>,
        }
        impl AsyncRead for Trickle {
            fn poll_read(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<std::io::Result<()>> {
                // A byte every 10 us.
                let due = (self.came.elapsed().as_micros() / 10) as usize;
                if due == 0 {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.came = tokio::time::Instant::now();
                let n = due.min(self.bytes.len()).min(buf.remaining());
                let rest = self.bytes.split_off(n);
                buf.put_slice(&std::mem::replace(&mut self.bytes, rest));
                self.reads.set(self.reads.get() + 1);
                Poll::Ready(Ok(()))
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let words = 2_000u32;
            let mut bytes = vec![0, 0, 0, 0];
            bytes.extend(words.to_le_bytes());
            bytes.resize(8 + words as usize * 8, 7);
            let reads = Rc::new(Cell::new(0));
            let came = tokio::time::Instant::now();
            let io = Trickle { bytes, came, reads: reads.clone() };
            let mut reader = FrameReader::new(io, 1 << 20, Some(Duration::from_secs(60)));
            let frame = reader.next().await.unwrap().unwrap();
            assert_eq!(frame.bytes(), words as usize * 8);
            // 16,008 bytes come in 160 ms; by themselves they would be as many reads.
            assert!(reads.get() < 1_000, "{} reads", reads.get());
        });
    }

    #[test]
    fn a_large_frame_is_whole() {
        let words = 3 * FIRST_STEP_WORDS + 5;
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend((words as u32).to_le_bytes());
        bytes.extend((0..words as u64).flat_map(|i| i.to_le_bytes()));
        let frame = read(&bytes, words * 8).unwrap().unwrap();
        assert_eq!(frame.get_segment(0).unwrap(), &bytes[8..]);
        assert!(read(&bytes, words * 8 - 8).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_frame_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, 4096);
        }
    }
}
