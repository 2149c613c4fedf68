//! The compressed layer, both ways.
//!
//! Reading is hostile: only `.xz` (never the older `.lzma`), memory and output are bounded, and
//! nothing may follow the last stream but zero padding in fours. Several streams in a row are one
//! stream of bytes, as for `xz -dc`, and share one budget.

use std::io::{self, BufRead, Write};

use xz2::stream::{Action, Check, Error, Filters, LzmaOptions, MtStreamBuilder, Status, Stream};

use super::limits::{DECODER_MEMORY, ENCODER_MEMORY, XZ_BLOCK, XZ_DICTIONARY, XZ_PRESET};

/// What is wrong with the compressed bytes.
#[derive(Debug, thiserror::Error)]
pub enum XzError {
    #[error("its compressed part is not .xz")]
    Format,
    #[error("its compressed part is damaged")]
    Data,
    #[error("its compressed part ends too early")]
    Truncated,
    #[error("its compressed part is followed by bytes that are not .xz")]
    Trailing,
    #[error("its .xz stream uses features that this program does not know")]
    Options,
    #[error("decompressing it needs more than {} MiB of memory", DECODER_MEMORY >> 20)]
    Memory,
    #[error("the decompressor failed ({0})")]
    Internal(Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Decompresses an `.xz` file: any number of streams.
pub struct Decoder<R> {
    source: R,
    threads: u32,
    stream: Option<Stream>,
    /// No stream has begun yet: trailing zeros are padding only after one.
    first: bool,
    finished: bool,
}

impl<R: BufRead> Decoder<R> {
    /// `threads` decompress in parallel where the stream has blocks with sizes.
    pub fn new(source: R, threads: u32) -> Self {
        Decoder { source, threads: threads.max(1), stream: None, first: true, finished: false }
    }

    /// The source, for a look at what has gone through it.
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The source, when all is read.
    pub fn into_source(self) -> R {
        self.source
    }

    /// Fills some of `room` (which must not be empty); 0 means that the file ended cleanly.
    ///
    /// # Errors
    /// See [`XzError`]. After an error the decoder must not be used again.
    pub fn read(&mut self, room: &mut [u8]) -> Result<usize, XzError> {
        while !self.finished {
            let stream = match &mut self.stream {
                Some(stream) => stream,
                None => {
                    if !self.next_stream()? {
                        self.finished = true;
                        break;
                    }
                    continue;
                }
            };
            let input = match self.source.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let ended = input.is_empty();
            let action = if ended { Action::Finish } else { Action::Run };
            let (seen, made) = (stream.total_in(), stream.total_out());
            let status = stream.process(input, room, action).map_err(told)?;
            let used = (stream.total_in() - seen) as usize;
            let produced = (stream.total_out() - made) as usize;
            self.source.consume(used);
            match status {
                Status::StreamEnd => self.stream = None,
                // "No progress possible": with all input given, there is none to come.
                Status::MemNeeded if ended => return Err(XzError::Truncated),
                _ => {}
            }
            if produced > 0 {
                return Ok(produced);
            }
        }
        Ok(0)
    }

    /// Skips padding and opens the next stream; false at the end of the file.
    fn next_stream(&mut self) -> Result<bool, XzError> {
        let mut padding = 0u64;
        let more = loop {
            let input = match self.source.fill_buf() {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if input.is_empty() {
                break false;
            }
            if self.first {
                break true;
            }
            let zeros = input.iter().take_while(|&&b| b == 0).count();
            let all = zeros == input.len();
            padding += zeros as u64;
            // What follows must be another stream; checked here for the better message.
            let next = input.get(zeros).copied();
            self.source.consume(zeros);
            if !all {
                if next != Some(0xfd) {
                    return Err(XzError::Trailing);
                }
                break true;
            }
        };
        if padding % 4 != 0 {
            return Err(XzError::Trailing);
        }
        if !more {
            return if self.first { Err(XzError::Truncated) } else { Ok(false) };
        }
        self.first = false;
        let stream = MtStreamBuilder::new()
            .threads(self.threads)
            .memlimit_threading(DECODER_MEMORY)
            .memlimit_stop(DECODER_MEMORY)
            .decoder();
        self.stream = Some(stream.map_err(told)?);
        Ok(true)
    }
}

fn told(error: Error) -> XzError {
    match error {
        Error::Data => XzError::Data,
        Error::Options => XzError::Options,
        Error::Format => XzError::Format,
        Error::MemLimit | Error::Mem => XzError::Memory,
        other => XzError::Internal(other),
    }
}

/// How many threads compress: the cores that there are, or what fits [`ENCODER_MEMORY`].
pub fn encoder_threads(cores: usize) -> u32 {
    let fits = |threads: u32| match settings(threads) {
        Ok(builder) => builder.memusage() <= ENCODER_MEMORY,
        Err(_) => false,
    };
    (1..=cores.clamp(1, 64) as u32).take_while(|&n| n == 1 || fits(n)).last().unwrap_or(1)
}

fn settings(threads: u32) -> Result<MtStreamBuilder, Error> {
    let mut options = LzmaOptions::new_preset(XZ_PRESET)?;
    options.dict_size(XZ_DICTIONARY);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let mut builder = MtStreamBuilder::new();
    builder.threads(threads).block_size(XZ_BLOCK).filters(filters).check(Check::Crc64);
    Ok(builder)
}

/// Compresses what is written to it. The output depends on the input alone, not on the number of
/// threads: blocks have a fixed size and are independent.
pub struct Encoder<W> {
    sink: W,
    stream: Stream,
    room: Vec<u8>,
}

impl<W: Write> Encoder<W> {
    /// Starts a stream with `threads` workers.
    ///
    /// # Errors
    /// Not enough memory or threads.
    pub fn new(sink: W, threads: u32) -> io::Result<Self> {
        let stream = settings(threads)?.encoder()?;
        Ok(Encoder { sink, stream, room: vec![0; 64 << 10] })
    }

    fn step(&mut self, input: &[u8], action: Action) -> io::Result<(usize, Status)> {
        let (seen, made) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.process(input, &mut self.room, action)?;
        let produced = (self.stream.total_out() - made) as usize;
        self.sink.write_all(&self.room[..produced])?;
        Ok(((self.stream.total_in() - seen) as usize, status))
    }

    /// Ends the stream and gives the sink back.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> io::Result<W> {
        while self.step(&[], Action::Finish)?.1 != Status::StreamEnd {}
        Ok(self.sink)
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        loop {
            let (used, _) = self.step(bytes, Action::Run)?;
            if used > 0 {
                return Ok(used);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::BufReader;

    fn pack(bytes: &[u8], threads: u32) -> Vec<u8> {
        let mut encoder = Encoder::new(Vec::new(), threads).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<u8>, XzError> {
        // A tiny buffer, so that every boundary is met.
        let mut decoder = Decoder::new(BufReader::with_capacity(5, bytes), 2);
        let mut all = Vec::new();
        let mut room = [0; 4096];
        loop {
            match decoder.read(&mut room)? {
                0 => return Ok(all),
                n => all.extend_from_slice(&room[..n]),
            }
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut x = 1u32;
        (0..len)
            .map(|_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 27) as u8
            })
            .collect()
    }

    #[test]
    fn round_trip_with_streams_and_padding() {
        let (a, b) = (noise(100_000), noise(5));
        let mut file = pack(&a, 1);
        assert_eq!(unpack(&file).unwrap(), a);
        file.extend([0; 8]);
        file.extend(pack(&b, 1));
        file.extend([0; 4]);
        assert_eq!(unpack(&file).unwrap(), [a, b].concat());
        assert!(unpack(&pack(&[], 1)).unwrap().is_empty());
    }

    #[test]
    fn bytes_do_not_depend_on_threads() {
        // Three blocks, mostly zeros: quick to compress.
        let mut input = vec![0; 17 << 20];
        input.chunks_mut(1 << 16).zip(noise(300)).for_each(|(chunk, byte)| chunk[7] = byte);
        let one = pack(&input, 1);
        assert!(one == pack(&input, 2) && one == pack(&input, 3));
        assert!(unpack(&one).unwrap() == input);
    }

    #[test]
    fn what_is_not_clean_xz_is_refused() {
        let good = pack(&noise(1000), 1);
        let with = |tail: &[u8]| [&good[..], tail].concat();
        for (bad, want) in [
            (with(&[0; 3]), "Trailing"),
            (with(&[1]), "Trailing"),
            (with(b"\0\0\0\0junk"), "Trailing"),
            (with(&[0, 0, 0xfd]), "Trailing"),
            (with(&[0xfd]), "Truncated"),
            (good[..good.len() - 1].to_vec(), "Truncated"),
            (Vec::new(), "Truncated"),
            (vec![0; 16], "Format"),
            (b"plain text, longer than a header".to_vec(), "Format"),
        ] {
            let error = unpack(&bad).unwrap_err();
            assert_eq!(format!("{error:?}"), want, "{:?}", &bad[bad.len().saturating_sub(8)..]);
        }
        let mut flipped = good.clone();
        flipped[40] ^= 1;
        assert!(matches!(unpack(&flipped), Err(XzError::Data)));
        // The older format, and a dictionary that does not fit.
        let options = LzmaOptions::new_preset(6).unwrap();
        let mut lzma = Stream::new_lzma_encoder(&options).unwrap();
        let mut old = Vec::with_capacity(4096);
        lzma.process_vec(b"hello", &mut old, Action::Finish).unwrap();
        assert!(matches!(unpack(&old), Err(XzError::Format)));
        for (dictionary, fits) in [(64u32 << 20, true), (256 << 20, false)] {
            let mut options = LzmaOptions::new_preset(0).unwrap();
            options.dict_size(dictionary);
            let mut filters = Filters::new();
            filters.lzma2(&options);
            let mut stream = Stream::new_stream_encoder(&filters, Check::None).unwrap();
            let mut big = Vec::with_capacity(4096);
            stream.process_vec(b"hello", &mut big, Action::Finish).unwrap();
            match unpack(&big) {
                Ok(bytes) => assert!(fits && bytes == b"hello"),
                Err(error) => assert!(!fits && matches!(error, XzError::Memory), "{error}"),
            }
        }
    }

    #[test]
    fn memory_decides_the_threads() {
        assert_eq!(encoder_threads(1), 1);
        let many = encoder_threads(64);
        assert!((2..8).contains(&many), "{many}");
        assert!(settings(2).unwrap().memusage() <= ENCODER_MEMORY);
    }
}
