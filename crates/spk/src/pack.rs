//! Makes a package out of a tree: lay out, hash, sign, compress. The output appears under its name
//! only when it is whole.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, display_path};
use crate::format::layout::Layout;
use crate::format::limits::MAGIC;
use crate::format::{signature, xz};
use crate::keyring::Key;
use crate::progress::{Progress, Step};
use crate::secrets::{Search, Secrets};
use crate::sys::placed::Placed;
use crate::sys::scratch::{sync_parent, working_name};
use crate::tree::Tree;

/// Cores of this machine, or of what the process may use of it.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Writes the package of `tree`, signed with `key`, to `sink`. `threads` compress; the bytes do
/// not depend on their number. No key may be in it: neither this one nor any of `others`.
///
/// # Errors
/// A tree that no package can hold or that has a key in it, a file that cannot be read or changed
/// meanwhile, those of `sink`.
pub fn write(
    tree: &Tree,
    key: &Key,
    others: &[Key],
    sink: impl Write,
    threads: u32,
    progress: &dyn Progress,
) -> Result<()> {
    let layout = Layout::of(tree)?;
    let secrets = Secrets::of(others.iter().chain([key]));
    let mut search = Search::new(&secrets);
    progress.begin(Step::Hash, layout.bytes());
    let hashed = layout.write(tree, &mut search, None, progress)?;
    if search.found() {
        return secrets.refuse(tree);
    }

    progress.begin(Step::Compress, layout.bytes());
    let failed = |e| Error::io("cannot write the package")(e);
    let mut sink = BufWriter::with_capacity(256 << 10, sink);
    sink.write_all(&MAGIC).map_err(failed)?;
    let mut encoder = xz::Encoder::new(sink, threads).map_err(failed)?;
    signature::write(key.signing(), &hashed.digest, &mut encoder)
        .map_err(|e| failed(std::io::Error::other(e.to_string())))?;
    let mut again = BufWriter::with_capacity(64 << 10, encoder);
    layout.write(tree, &mut again, Some(&hashed), progress)?;
    let encoder = again.into_inner().map_err(|e| failed(e.into_error()))?;
    let mut sink = encoder.finish().map_err(failed)?;
    sink.flush().map_err(failed)?;
    progress.end();
    Ok(())
}

/// A file that gets its name when it is whole, and leaves nothing behind otherwise.
pub struct Output {
    target: PathBuf,
    working: Option<PathBuf>,
    file: File,
}

impl Output {
    /// May the output have this name? Asked before the work. `may_replace` decides by the first
    /// bytes of what is there already.
    ///
    /// # Errors
    /// What is there must stay: a key, a directory, any file that is not of this kind.
    pub fn check(target: &Path, may_replace: impl FnOnce(&[u8]) -> bool) -> Result<()> {
        let failed = |e| Error::io(display_path(target))(e);
        match std::fs::metadata(target) {
            Ok(meta) if meta.is_dir() => Err(Error::refused(target, "a directory")),
            Ok(meta) if meta.is_file() => {
                let mut start = Vec::new();
                File::open(target)
                    .and_then(|file| file.take(512).read_to_end(&mut start))
                    .map_err(failed)?;
                if !start.is_empty() && !may_replace(&start) {
                    return Err(Error::refused(
                        target,
                        "something else is there already; remove it or choose another name",
                    ));
                }
                Ok(())
            }
            Ok(meta) if direct(&meta) => Ok(()),
            Ok(_) => Err(Error::refused(target, "not a file")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Opens the output; to be checked before, and only when the tree was read: the working file
    /// may lie in it.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(target: &Path) -> Result<Output> {
        let failed = |e| Error::io(display_path(target))(e);
        match std::fs::metadata(target) {
            Ok(meta) if direct(&meta) => {
                // A device or a pipe has no working name beside it.
                let file = File::options().write(true).open(target).map_err(failed)?;
                return Ok(Output { target: target.to_owned(), working: None, file });
            }
            _ => {}
        }
        // Through a link to the file that it names.
        let target = std::fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let Some(name) = target.file_name() else {
            return Err(Error::refused(&target, "not a file name"));
        };
        let working = target.with_file_name(working_name(name.as_encoded_bytes())?);
        let file = File::create_new(&working).map_err(Error::io(display_path(&target)))?;
        Ok(Output { target, working: Some(working), file })
    }

    /// Where to write.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Gives the file its name, which from then on stands for all of it: after a power cut too. Then
    /// `tell` says so, and the file only stays if it can.
    ///
    /// # Errors
    /// Those of the file system and of `tell`; what had the name before has it again.
    pub fn finish(self, tell: impl FnOnce() -> Result<()>) -> Result<()> {
        let Some(working) = &self.working else { return tell() };
        let failed = |e| Error::io(display_path(&self.target))(e);
        self.file.sync_all().map_err(failed)?;
        let placed = Placed::put(working, &self.target).map_err(failed)?;
        sync_parent(&self.target).map_err(failed)?;
        tell()?;
        placed.keep();
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // What was written, or what the output has replaced.
        if let Some(working) = &self.working {
            let _ = std::fs::remove_file(working);
        }
    }
}

fn direct(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_char_device() || meta.file_type().is_fifo()
}

/// Packages may be written over by packages.
pub fn is_package(start: &[u8]) -> bool {
    start.starts_with(&MAGIC)
}
