//! A package file on its way in: streamed to `tmp/`, hashed as it comes, bounded.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sandstorm_schema::limits::INSTALL_RESERVE;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWrite;

use super::failure::{Failure, bytes, free_bytes};
use crate::ids::PackageId;

/// Largest package file. The archive inside may have 2^30 bytes; xz makes incompressible input a
/// little larger.
pub const MAX_FILE: u64 = (1 << 30) + (32 << 20);
/// The free space is looked at again after so many bytes: a sender may tell no size, several may
/// send at once, and grains write meanwhile.
const LOOK: u64 = 16 << 20;

/// A file in `tmp/` that goes when it is dropped.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    kept: bool,
}

impl TempFile {
    fn create(tmp: &Path) -> io::Result<(TempFile, File)> {
        use std::os::unix::fs::OpenOptionsExt;
        let name = hex::encode(crate::store::random::<12>());
        let path = tmp.join(format!("upload.{name}"));
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok((TempFile { path, kept: false }, file))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name.
    pub fn rename(mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept {
            // The folder is wiped at the next start anyway.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A whole file, with its id.
#[derive(Debug)]
pub struct Received {
    /// Where it is.
    pub file: TempFile,
    /// What it hashes to.
    pub id: PackageId,
    /// Bytes.
    pub size: u64,
}

/// A sender that says nothing for so long gives its place to others.
const STALL: Duration = Duration::from_secs(120);
/// One that sends a byte now and then, too: the largest file comes in this time at 25 kB/s.
const LONGEST: Duration = Duration::from_secs(12 * 3600);

/// Takes bytes until [`Receiver::finish`].
#[derive(Debug)]
pub struct Receiver {
    temp: TempFile,
    file: File,
    hash: Sha256,
    size: u64,
    /// The size at which the free space is looked at next.
    look_at: u64,
    home: PathBuf,
    /// Why it took no more of a download, whose own errors have no such words.
    pub(super) refused: Option<Failure>,
}

impl Receiver {
    /// Begins a file below `home/tmp`. `announced`: its size, where the sender told.
    pub fn begin(home: &Path, announced: Option<u64>) -> Result<Receiver, Failure> {
        if let Some(size) = announced {
            check_size(size)?;
            if free_bytes(home).is_some_and(|free| free < size + INSTALL_RESERVE) {
                return Err(Failure::disk_full(home, Some(size)));
            }
        }
        let (temp, file) = TempFile::create(&home.join("tmp"))
            .map_err(|error| Failure::io(home, "make a temporary file", &error))?;
        let (hash, home) = (Sha256::new(), home.to_owned());
        Ok(Receiver { temp, file, hash, size: 0, look_at: 0, home, refused: None })
    }

    /// The next bytes. Blocks on the disk.
    pub fn push(&mut self, data: &[u8]) -> Result<(), Failure> {
        self.size += data.len() as u64;
        check_size(self.size)?;
        if self.size >= self.look_at {
            self.look_at = self.size + LOOK;
            if free_bytes(&self.home).is_some_and(|free| free < INSTALL_RESERVE) {
                return Err(Failure::disk_full(&self.home, None));
            }
        }
        self.hash.update(data);
        self.file.write_all(data).map_err(|error| Failure::io(&self.home, "store the file", &error))
    }

    /// The file is whole.
    pub fn finish(self) -> Result<Received, Failure> {
        if self.size == 0 {
            return Err(Failure::file("PKG-EMPTY", "The file is empty. Choose another file."));
        }
        let digest: [u8; 32] = self.hash.finalize().into();
        let id = hex::encode(&digest[..16]).parse().map_err(|_| {
            Failure::machine("PKG-ID", "The file's id could not be made. Try again.")
        })?;
        Ok(Received { file: self.temp, id, size: self.size })
    }

    /// Receives a whole stream.
    pub async fn receive<E: std::fmt::Display>(
        mut self,
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Received, Failure> {
        let end = tokio::time::Instant::now() + LONGEST;
        loop {
            if tokio::time::Instant::now() >= end {
                return Err(Failure::file(
                    "PKG-CUT",
                    format!(
                        "The upload was not done after {} hours, so it was ended.",
                        LONGEST.as_secs() / 3600
                    ),
                ));
            }
            let Ok(next) = tokio::time::timeout(STALL, stream.next()).await else {
                return Err(Failure::file(
                    "PKG-CUT",
                    format!(
                        "Nothing of the file came for {} seconds, so the upload was ended. Send it again.",
                        STALL.as_secs()
                    ),
                ));
            };
            let Some(chunk) = next else { break };
            let chunk = chunk.map_err(|error| {
                Failure::file(
                    "PKG-CUT",
                    format!("The upload ended before the file was whole ({error}). Send it again."),
                )
            })?;
            // Large writes go to a full page cache now and then: not on the runtime's own threads.
            self = tokio::task::spawn_blocking(move || self.push(&chunk).map(|()| self))
                .await
                .map_err(|_| {
                Failure::machine("PKG-IO", "The upload was stopped. Try again.")
            })??;
        }
        self.finish()
    }
}

fn check_size(size: u64) -> Result<(), Failure> {
    if size > MAX_FILE {
        return Err(Failure::file(
            "PKG-SIZE",
            format!(
                "The file is larger than {}, the most that an app file may have.",
                bytes(MAX_FILE)
            ),
        ));
    }
    Ok(())
}

/// Downloads go through `net::fetch`, which writes.
impl AsyncWrite for Receiver {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(match self.push(data) {
            Ok(()) => Ok(data.len()),
            Err(failure) => {
                let error = io::Error::other(failure.words.clone());
                self.refused = Some(failure);
                Err(error)
            }
        })
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;

    #[tokio::test(start_paused = true)]
    async fn who_stops_sending_loses_the_place() {
        let home = home();
        let first = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"x"))]);
        let silent = Box::pin(first.chain(stream::pending()));
        let refused = Receiver::begin(home.path(), None).unwrap().receive(silent).await;
        assert!(refused.unwrap_err().code.starts_with("PKG-CUT"));
        // Nor is it enough to send a byte a minute.
        let trickle = Box::pin(stream::repeat(()).then(|()| async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Ok::<_, io::Error>(Bytes::from_static(b"x"))
        }));
        let refused = Receiver::begin(home.path(), None).unwrap().receive(trickle).await;
        assert!(refused.unwrap_err().words.contains("12 hours"));
    }

    fn home() -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        home
    }

    fn chunks(parts: &[&'static str]) -> impl Stream<Item = Result<Bytes, io::Error>> + Unpin {
        let parts: Vec<_> = parts.iter().map(|p| Ok(Bytes::from_static(p.as_bytes()))).collect();
        stream::iter(parts)
    }

    #[tokio::test]
    async fn the_id_is_the_hash_of_all_bytes() {
        let home = home();
        let received = Receiver::begin(home.path(), Some(3)).unwrap();
        let received = received.receive(chunks(&["a", "bc"])).await.unwrap();
        assert_eq!(received.id.to_string(), "ba7816bf8f01cfea414140de5dae2223");
        assert_eq!(received.size, 3);
        let path = received.file.path().to_owned();
        assert_eq!(std::fs::read(&path).unwrap(), b"abc");
        drop(received);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_cannot_be_a_package_is_refused_early() {
        let home = home();
        let too_big = Receiver::begin(home.path(), Some(MAX_FILE + 1)).unwrap_err();
        assert!(too_big.code.starts_with("PKG-SIZE-"));
        let empty = Receiver::begin(home.path(), None).unwrap().receive(chunks(&[])).await;
        assert!(empty.unwrap_err().code.starts_with("PKG-EMPTY-"));
        let cut = stream::iter(vec![Ok(Bytes::from_static(b"a")), Err(io::Error::other("gone"))]);
        let cut = Receiver::begin(home.path(), None).unwrap().receive(cut).await.unwrap_err();
        assert!(cut.code.starts_with("PKG-CUT-"), "{cut}");
        assert_eq!(std::fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }
}
