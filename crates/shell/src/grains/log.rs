//! A grain's log: from its files, and live from its supervisor.

use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The last `bytes` of a log file; empty if there is none. The file belongs to the supervisor,
/// but lies in a directory of the grain: no link is followed, nothing but a file is read.
pub fn tail(path: &Path, bytes: u64) -> Vec<u8> {
    let open = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path);
    let Ok(mut file) = open else { return Vec::new() };
    let Ok(metadata) = file.metadata() else { return Vec::new() };
    if !metadata.is_file() {
        return Vec::new();
    }
    let from = metadata.len().saturating_sub(bytes);
    let mut out = Vec::new();
    if file.seek(SeekFrom::Start(from)).is_ok() {
        // A file that shrinks meanwhile gives less.
        let _ = file.take(bytes).read_to_end(&mut out);
    }
    out
}

/// The last `bytes` of `log`, reaching back into `log.1` where that was rotated away.
pub fn backlog(dir: &Path, bytes: u64) -> Vec<u8> {
    let new = tail(&dir.join("log"), bytes);
    let missing = bytes.saturating_sub(new.len() as u64);
    let mut out = if missing > 0 { tail(&dir.join("log.1"), missing) } else { Vec::new() };
    out.extend_from_slice(&new);
    out
}
