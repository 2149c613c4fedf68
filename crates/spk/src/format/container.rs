//! Opens a package: magic, signature, hash. Nothing of the archive is looked at before they hold.
//!
//! The file is read once, from front to back, so it may be a pipe. Its archive waits in a file
//! without a name.

use std::io::{self, BufReader, Read, Write};
use std::sync::mpsc;

use sandstorm_schema::ids::{AppId, PackageId};
use sha2::{Digest, Sha256, Sha512};

use super::frame;
use super::limits::{MAGIC, MAX_ARCHIVE_BYTES, MAX_SIGNATURE_WORDS};
use super::xz::{Decoder, XzError};
use super::{replacement, signature};
use crate::error::{Error, Result};
use crate::progress::{Progress, Step};
use crate::sys::map::Map;
use crate::sys::scratch::Scratch;

/// A package whose signature and hash hold.
pub struct Verified {
    /// The app that it belongs to, key replacement considered.
    pub app_id: AppId,
    /// From the hash of the file itself.
    pub package_id: PackageId,
    /// The archive part, not parsed yet.
    pub archive: Map,
}

/// Bytes of one piece on its way to the hash and the disk.
const PIECE: usize = 1 << 20;

/// Reads and checks a package. `size` is the file's length for the progress, 0 if unknown; the
/// archive is kept in `scratch`; `threads` decompress.
///
/// # Errors
/// Everything that [`Error`] says of a container; those of reading and of the temporary file.
pub fn open(
    source: impl Read,
    size: u64,
    scratch: Scratch,
    threads: u32,
    progress: &dyn Progress,
) -> Result<Verified> {
    progress.begin(Step::Verify, size);
    let mut source = Hashing { source, hash: Sha256::new(), bytes: 0 };
    let mut magic = [0; MAGIC.len()];
    match source.read_exact(&mut magic) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(Error::Magic),
        other => other.map_err(Error::io("cannot read the package"))?,
    }
    if magic != MAGIC {
        return Err(Error::Magic);
    }
    let decoder = Decoder::new(BufReader::with_capacity(256 << 10, source), threads);
    let mut plain = Plain { decoder, failed: None };
    let frame = match frame::read(&mut plain, MAX_SIGNATURE_WORDS) {
        Ok(frame) => frame,
        Err(fault) => {
            return Err(match plain.failed {
                Some(error) => Error::Xz(error),
                None => Error::SignatureFrame(fault),
            });
        }
    };
    let signed = signature::open(frame)?;

    let (digest, bytes) = spool(&mut plain, &scratch, progress)?;
    let source = plain.decoder.into_source().into_inner();
    let package_id = PackageId::from_sha256(&source.hash.finalize().into());
    if digest != signed.digest {
        return Err(Error::Digest);
    }
    let app_id =
        replacement::app_of(signed.signer, package_id).ok_or(Error::Revoked(signed.signer))?;
    Ok(Verified { app_id, package_id, archive: Map::new(scratch, bytes)? })
}

/// Decompresses the archive part into `scratch`; a second thread hashes and writes meanwhile.
fn spool<R: Read>(
    plain: &mut Plain<R>,
    scratch: &Scratch,
    progress: &dyn Progress,
) -> Result<([u8; 64], u64)> {
    std::thread::scope(|scope| {
        let (full, to_write) = mpsc::sync_channel::<Vec<u8>>(3);
        let (empty, to_fill) = mpsc::channel::<Vec<u8>>();
        for _ in 0..4 {
            let _ = empty.send(vec![0; PIECE]);
        }
        let writer = scope.spawn(move || -> io::Result<[u8; 64]> {
            let mut hash = Sha512::new();
            let mut file = scratch.as_file();
            for piece in to_write {
                file.write_all(&piece)?;
                hash.update(&piece);
                let _ = empty.send(piece);
            }
            Ok(hash.finalize().into())
        });
        let mut total = 0u64;
        let result = loop {
            // The writer is gone when it failed; its error is told below.
            let Ok(mut piece) = to_fill.recv() else { break Ok(()) };
            piece.resize(PIECE, 0);
            let got = match plain.fill(&mut piece) {
                Ok(0) => break Ok(()),
                Ok(got) => got,
                Err(error) => break Err(Error::Xz(error)),
            };
            total += got as u64;
            if total > MAX_ARCHIVE_BYTES {
                break Err(Error::ArchiveTooLarge);
            }
            piece.truncate(got);
            if let Err(error) = progress.done(plain.consumed()) {
                break Err(error);
            }
            if full.send(piece).is_err() {
                break Ok(());
            }
        };
        drop(full);
        let written = match writer.join() {
            Ok(written) => written
                .map_err(Error::io(format!("cannot write the temporary file{}", scratch.place()))),
            Err(panic) => std::panic::resume_unwind(panic),
        };
        result?;
        Ok((written?, total))
    })
}

/// The decompressed bytes; keeps the decoder's own error, which `io::Error` would flatten.
struct Plain<R: Read> {
    decoder: Decoder<BufReader<Hashing<R>>>,
    failed: Option<XzError>,
}

impl<R: Read> Plain<R> {
    /// Fills `room` unless the file ends; returns the bytes.
    fn fill(&mut self, room: &mut [u8]) -> std::result::Result<usize, XzError> {
        let mut done = 0;
        while done < room.len() {
            match self.decoder.read(&mut room[done..])? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    /// Compressed bytes read so far.
    fn consumed(&self) -> u64 {
        self.decoder.source().get_ref().bytes
    }
}

impl<R: Read> Read for Plain<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if room.is_empty() {
            return Ok(0);
        }
        self.decoder.read(room).map_err(|error| {
            self.failed = Some(error);
            io::ErrorKind::InvalidData.into()
        })
    }
}

/// Hashes and counts what is read through it.
struct Hashing<R> {
    source: R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let n = self.source.read(room)?;
        self.hash.update(&room[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}
