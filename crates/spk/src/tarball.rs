//! Writes a tree as a `.tar` file: plain headers where they can say it, POSIX extensions where
//! they cannot (long names, times with fractions or before 1970).

use std::io::Write;

use crate::error::{Error, Result};
use crate::format::archive::{Content, Visitor};
use crate::progress::Progress;
use crate::sys::map::Map;

const BLOCK: usize = 512;
/// Pages of the mapping are handed back after this many bytes.
const RELEASE_EVERY: u64 = 16 << 20;

/// Writes the entries of a walk.
pub struct TarWriter<'a, W> {
    sink: W,
    map: &'a Map,
    progress: &'a dyn Progress,
    done: u64,
    released: u64,
}

impl<'a, W: Write> TarWriter<'a, W> {
    /// `map` is where the walk's contents come from.
    pub fn new(sink: W, map: &'a Map, progress: &'a dyn Progress) -> Self {
        TarWriter { sink, map, progress, done: 0, released: 0 }
    }

    /// Writes the end and gives the sink back.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(mut self) -> Result<W> {
        self.bytes(&[0; 2 * BLOCK])?;
        self.sink.flush().map_err(Error::io("cannot write the tar file"))?;
        Ok(self.sink)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(Error::io("cannot write the tar file"))
    }

    fn pad(&mut self, len: usize) -> Result<()> {
        let gap = len.next_multiple_of(BLOCK) - len;
        self.bytes(&[0; BLOCK][..gap])
    }

    fn entry(&mut self, entry: &Header<'_>, content: &[u8]) -> Result<()> {
        let mut records = Vec::new();
        if entry.path.len() > 100 {
            record(&mut records, "path", entry.path);
        }
        if entry.link.len() > 100 {
            record(&mut records, "linkpath", entry.link);
        }
        if entry.mtime_ns < 0 || entry.mtime_ns % 1_000_000_000 != 0 {
            record(&mut records, "mtime", decimal(entry.mtime_ns).as_bytes());
        }
        if !records.is_empty() {
            let name = b"././@PaxHeader";
            let extension = Header { path: name, link: b"", mode: 0o644, kind: b'x', mtime_ns: 0 };
            self.bytes(&extension.block(records.len()))?;
            self.bytes(&records)?;
            self.pad(records.len())?;
        }
        self.bytes(&entry.block(content.len()))?;
        for part in content.chunks(1 << 20) {
            self.bytes(part)?;
            self.advance(part.len() as u64)?;
        }
        self.pad(content.len())?;
        self.advance(64)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.done += bytes;
        if self.done - self.released >= RELEASE_EVERY {
            self.map.release_pages();
            self.released = self.done;
        }
        self.progress.done(self.done)
    }
}

impl<W: Write> Visitor for TarWriter<'_, W> {
    fn leaf(&mut self, path: &[u8], _: &[u8], mtime_ns: i64, content: Content<'_>) -> Result<()> {
        match content {
            Content::File { bytes, executable } => {
                let mode = if executable { 0o755 } else { 0o644 };
                self.entry(&Header { path, link: b"", mode, kind: b'0', mtime_ns }, bytes)
            }
            Content::Symlink(link) => {
                self.entry(&Header { path, link, mode: 0o777, kind: b'2', mtime_ns }, b"")
            }
        }
    }

    fn enter(&mut self, path: &[u8], _: &[u8], mtime_ns: i64) -> Result<()> {
        let path = [path, b"/"].concat();
        self.entry(&Header { path: &path, link: b"", mode: 0o755, kind: b'5', mtime_ns }, b"")
    }

    fn leave(&mut self, _: &[u8], _: i64) -> Result<()> {
        Ok(())
    }
}

struct Header<'a> {
    path: &'a [u8],
    link: &'a [u8],
    mode: u32,
    kind: u8,
    mtime_ns: i64,
}

impl Header<'_> {
    fn block(&self, size: usize) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.path[..self.path.len().min(100)]);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        put(108, b"0000000\0");
        put(116, b"0000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        // Times that do not fit are in the extension.
        let seconds = self.mtime_ns.div_euclid(1_000_000_000).clamp(0, 0o77_777_777_777);
        put(136, format!("{seconds:011o}\0").as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// One `length key=value` line; the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut total = rest + 1;
    while rest + total.to_string().len() != total {
        total = rest + total.to_string().len();
    }
    records.extend(format!("{total} {key}=").bytes());
    records.extend(value);
    records.push(b'\n');
}

/// Nanoseconds as decimal seconds.
fn decimal(ns: i64) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tar::decimal_time;

    #[test]
    fn records_count_themselves() {
        for len in [1, 80, 88, 89, 90, 91, 92, 985, 990, 995] {
            let mut records = Vec::new();
            record(&mut records, "path", &vec![b'x'; len]);
            let text = String::from_utf8(records.clone()).unwrap();
            let told: usize = text.split_once(' ').unwrap().0.parse().unwrap();
            assert_eq!(told, records.len());
        }
    }

    #[test]
    fn times_come_back() {
        for ns in [0, 1, -1, i64::MAX, i64::MIN, -446_752_799_500_000_000, 1_500_000_000] {
            assert_eq!(decimal_time(decimal(ns).as_bytes()), Some(ns));
        }
    }
}
