//! What can go wrong, one variant a step. Every message fits on one line, names the entry or file
//! and, where there is something to do, says what.

use std::fmt;
use std::io;
use std::path::Path;

use sandstorm_schema::ids::AppId;

use crate::format::archive::EntryFault;
use crate::format::frame::FrameError;
use crate::format::limits;
use crate::format::signature::SignatureError;
use crate::format::xz::XzError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine is at fault: a file cannot be read or written.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// Nobody can be told; what the command is about may well be good.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),

    // The container.
    #[error("not a package: it does not begin with the package format's magic number")]
    Magic,
    #[error("{0}")]
    Xz(#[from] XzError),
    #[error("its signature message is malformed: {0}")]
    SignatureFrame(FrameError),
    #[error("{0}")]
    Signature(#[from] SignatureError),
    #[error("its archive is larger than {} bytes", limits::MAX_ARCHIVE_BYTES)]
    ArchiveTooLarge,
    #[error("its content is not what was signed")]
    Digest,
    #[error("the key {0} that signed it was revoked")]
    Revoked(AppId),

    // The archive.
    #[error("its archive is malformed: {0}")]
    ArchiveFrame(FrameError),
    #[error("its archive is malformed: {0}")]
    Archive(capnp::Error),
    #[error("{path}: {fault}")]
    Entry { path: String, fault: EntryFault },
    #[error("it holds more than {} entries", limits::MAX_ENTRIES)]
    TooManyEntries,
    #[error("{name}: {0}", name = limits::MANIFEST_NAME)]
    Manifest(String),
    #[error("PGP: {0}")]
    Pgp(String),

    // Packing.
    #[error("{path}: {fault}")]
    Source { path: String, fault: SourceFault },
    #[error("{0}")]
    Definition(String),

    // Keys.
    #[error("{path}: {fault}")]
    Key { path: String, fault: String },

    // What stands on this disk.
    #[error("{path}: {fault}")]
    Refused { path: String, fault: String },

    // The command line and the terminal.
    #[error("{0}")]
    Usage(String),
    #[error("interrupted")]
    Interrupted,
    #[error("cannot lock this process down: {0}")]
    Lockdown(String),
}

/// Why something on the author's disk cannot be packed.
#[derive(Debug, thiserror::Error)]
pub enum SourceFault {
    #[error("it changed while it was packed; try again when nothing writes to it")]
    Changed,
    #[error("a file of {0} bytes, the format allows {max}", max = limits::MAX_FILE_BYTES)]
    FileTooLarge(u64),
    #[error("with it the archive has {0} bytes, the format allows {max}", max = limits::MAX_ARCHIVE_BYTES)]
    ArchiveTooLarge(u64),
    #[error("more than {} directories deep, the format allows no more", limits::MAX_DEPTH)]
    TooDeep,
    #[error("one entry more than the {} allowed", limits::MAX_ENTRIES)]
    TooMany,
    #[error("its time stamp cannot be written as nanoseconds since 1970 in 64 bits")]
    Time,
    #[error("a signing key is in it, and no key may ever be part of a package")]
    SigningKey,
    #[error("the package would contain itself; write it outside of the tree")]
    Output,
    #[error("{0}")]
    Tar(String),
    #[error("{0}")]
    Entry(#[from] EntryFault),
}

impl Error {
    /// Wraps an I/O error with what was being done, for `map_err`.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { what: what.to_string(), source }
    }

    /// The same for the errors of system calls.
    pub fn sys(what: impl fmt::Display) -> impl FnOnce(nix::errno::Errno) -> Error {
        move |errno| Error::Io { what: what.to_string(), source: errno.into() }
    }

    /// Something that stands at a path and must not, or should and does not.
    pub fn refused(path: &Path, fault: impl Into<String>) -> Error {
        Error::Refused { path: display_path(path), fault: fault.into() }
    }

    /// A fault of an entry of a package.
    pub fn entry(path: &[u8], fault: EntryFault) -> Error {
        Error::Entry { path: display_bytes(path), fault }
    }

    /// A fault of something that was to be packed.
    pub fn source(path: &[u8], fault: impl Into<SourceFault>) -> Error {
        Error::Source { path: display_bytes(path), fault: fault.into() }
    }

    /// True when the same package may pass another time: the machine was at fault.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Io { .. } | Error::Stdout(_) | Error::Interrupted | Error::Lockdown(_) => true,
            Error::Xz(e) => matches!(e, XzError::Io(_) | XzError::Internal(_)),
            Error::SignatureFrame(e) | Error::ArchiveFrame(e) => matches!(e, FrameError::Io(_)),
            _ => false,
        }
    }
}

/// A path that somebody else chose, made fit for one line of a terminal: control characters and
/// bytes that are not UTF-8 become escapes, long ones lose their middle.
pub fn display_bytes(path: &[u8]) -> String {
    let mut text = String::new();
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || is_hidden(c) || c == '\\' {
                text.extend(c.escape_default());
            } else {
                text.push(c);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    const MOST: usize = 300;
    let count = text.chars().count();
    if count > MOST {
        let head: String = text.chars().take(MOST / 2).collect();
        let tail: String = text.chars().skip(count - MOST / 2).collect();
        text = format!("{head}[…]{tail}");
    }
    if text.is_empty() { "(no name)".to_owned() } else { text }
}

/// Takes no room, or turns the direction of what follows: a terminal can be made to show another
/// text by it.
pub fn is_hidden(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// [`display_bytes`] for a path on this machine.
pub fn display_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    display_bytes(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_on_one_line() {
        assert_eq!(display_bytes(b"usr/lib"), "usr/lib");
        assert_eq!(display_bytes("Žába".as_bytes()), "Žába");
        assert_eq!(display_bytes(b"a\nb\x1b[31m\xff\\"), "a\\nb\\u{1b}[31m\\xff\\\\");
        assert_eq!(display_bytes("a\u{202e}b".as_bytes()), "a\\u{202e}b");
        assert_eq!(display_bytes(b""), "(no name)");
        assert!(display_bytes(&[b'x'; 70_000]).chars().count() < 310);
    }
}
