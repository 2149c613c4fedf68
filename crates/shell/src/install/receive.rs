//! A package file on its way in: streamed to `tmp/`, hashed as it comes, bounded.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt};
use sandstorm_schema::limits::INSTALL_RESERVE;
use sha2::{Digest, Sha256};

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

/// Stands for one that is elsewhere just now.
impl Default for TempFile {
    fn default() -> TempFile {
        TempFile { path: PathBuf::new(), kept: true }
    }
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
    pub fn rename(&mut self, to: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, to)?;
        self.kept = true;
        Ok(())
    }

    /// Takes a name that it was given away again; nothing where it was given none.
    pub fn take_back(&mut self, from: &Path) -> io::Result<()> {
        if self.kept {
            std::fs::rename(from, &self.path)?;
            self.kept = false;
        }
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
        Ok(Receiver { temp, file, hash, size: 0, look_at: 0, home })
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

    /// [`Receiver::push`] elsewhere: large writes go to a full page cache now and then, and hashing
    /// takes its time, too.
    async fn store(mut self, data: Bytes) -> Result<Receiver, Failure> {
        tokio::task::spawn_blocking(move || self.push(&data).map(|()| self))
            .await
            .map_err(|_| Failure::machine("PKG-IO", "The upload was stopped. Try again."))?
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
            self = self.store(chunk).await?;
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

/// A file that `net::fetch` brings.
#[derive(Debug)]
pub struct Download(Result<Receiver, Failure>);

impl Download {
    /// Begins one.
    pub fn begin(home: &Path) -> Result<Download, Failure> {
        Receiver::begin(home, None).map(|receiver| Download(Ok(receiver)))
    }

    /// The receiver, or why it took no more: `fetch` itself has no such words.
    pub fn into_receiver(self) -> Result<Receiver, Failure> {
        self.0
    }
}

impl crate::net::Sink for Download {
    async fn take(&mut self, data: Bytes) -> io::Result<()> {
        let cut = || Err(Failure::machine("PKG-GET", "The download was stopped. Try again."));
        self.0 = match std::mem::replace(&mut self.0, cut()) {
            Ok(receiver) => receiver.store(data).await,
            refused => refused,
        };
        self.0.as_ref().map(drop).map_err(|failure| io::Error::other(failure.words.clone()))
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

    /// On a runtime of one thread nothing else happens while that thread writes.
    #[tokio::test]
    async fn a_download_is_not_written_on_the_runtimes_threads() {
        use crate::net::Sink;
        let home = home();
        let mut download = Download::begin(home.path()).unwrap();
        let large = Bytes::from(vec![7; 64 << 20]);
        let mut ticks = 0;
        {
            let taken = download.take(large);
            tokio::pin!(taken);
            loop {
                tokio::select! {
                    biased;
                    taken = &mut taken => break taken.unwrap(),
                    () = tokio::time::sleep(Duration::from_millis(1)) => ticks += 1,
                }
            }
        }
        assert!(ticks > 0, "the thread was taken for the whole write");
        let received = download.into_receiver().unwrap().finish().unwrap();
        assert_eq!(received.size, 64 << 20);
        // What is refused is refused in its own words, and stays so.
        let mut download = Download::begin(&home.path().join("gone")).map(drop).unwrap_err();
        assert!(download.code.starts_with("PKG-IO"), "{download}");
        let mut full = Download::begin(home.path()).unwrap();
        if let Ok(receiver) = &mut full.0 {
            receiver.size = MAX_FILE;
        }
        for _ in 0..2 {
            full.take(Bytes::from_static(b"x")).await.unwrap_err();
        }
        download = full.into_receiver().unwrap_err();
        assert!(download.code.starts_with("PKG-SIZE"), "{download}");
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
