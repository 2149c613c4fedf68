//! Takes a package apart: verify, check every entry, then write. The target appears only when it
//! is complete.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::{Mode, fchmod, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Error, Result, display_path};
use crate::format::container::{self, Verified};
use crate::format::{archive, manifest};
use crate::progress::{Progress, Step};
use crate::sys::scratch::{Scratch, open_dir, working_name};
use crate::sys::tree::{Extractor, exists_at, remove_content};
use crate::tarball::TarWriter;

/// Threads that decompress.
pub fn decoder_threads() -> u32 {
    crate::pack::cores().min(4) as u32
}

/// A directory in the making beside its target.
pub struct WorkDir {
    parent: OwnedFd,
    target: Vec<u8>,
    working: Option<String>,
    dir: OwnedFd,
}

impl WorkDir {
    /// Is `target` free, and where is its parent? Nothing is made yet.
    ///
    /// # Errors
    /// The target exists or its parent does not.
    pub fn check(target: &Path) -> Result<(OwnedFd, Vec<u8>)> {
        let failed = |errno| Error::sys(display_path(target))(errno);
        let name = match target.file_name() {
            Some(name) => name.as_bytes().to_vec(),
            None => return Err(failed(Errno::EEXIST)),
        };
        let parent = match target.parent() {
            Some(parent) if parent != Path::new("") => open_dir(parent)?,
            _ => open_dir(Path::new("."))?,
        };
        if exists_at(parent.as_fd(), &name).map_err(failed)? {
            return Err(failed(Errno::EEXIST));
        }
        Ok((parent, name))
    }

    /// Makes the directory, under a working name.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(parent: OwnedFd, target: Vec<u8>) -> Result<WorkDir> {
        let shown = display_path(Path::new(OsStr::from_bytes(&target)));
        let working = working_name(&target)?;
        mkdirat(&parent, working.as_str(), Mode::S_IRWXU).map_err(Error::sys(&shown))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&parent, working.as_str(), flags, Mode::empty()) {
            Ok(dir) => Ok(WorkDir { parent, target, working: Some(working), dir }),
            Err(errno) => {
                let _ = unlinkat(&parent, working.as_str(), UnlinkatFlags::RemoveDir);
                Err(Error::sys(&shown)(errno))
            }
        }
    }

    /// The directory itself.
    pub fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    /// Gives the directory its name; whatever took that name meanwhile stays.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn finish(&mut self) -> Result<()> {
        let shown = display_path(Path::new(OsStr::from_bytes(&self.target)));
        fchmod(&self.dir, Mode::from_bits_truncate(0o755)).map_err(Error::sys(&shown))?;
        let Some(working) = &self.working else { return Ok(()) };
        let (parent, target) = (&self.parent, &self.target[..]);
        let flags = RenameFlags::RENAME_NOREPLACE;
        let renamed = match renameat2(parent, working.as_str(), parent, target, flags) {
            // A file system without this flag. A directory replaces at most an empty one.
            Err(Errno::EINVAL) => nix::fcntl::renameat(parent, working.as_str(), parent, target),
            other => other,
        };
        renamed.map_err(Error::sys(&shown))?;
        self.working = None;
        Ok(())
    }

    /// Takes the name away again, so that nothing is left behind.
    fn take_back(&mut self) {
        let Ok(working) = working_name(&self.target) else { return };
        if nix::fcntl::renameat(&self.parent, &self.target[..], &self.parent, working.as_str())
            .is_ok()
        {
            self.working = Some(working);
        }
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Some(working) = &self.working {
            let _ = remove_content(self.dir.as_fd());
            let _ = unlinkat(&self.parent, working.as_str(), UnlinkatFlags::RemoveDir);
        }
    }
}

/// What is known of a package that was taken apart.
pub struct Unpacked {
    pub verified: Verified,
    pub checked: manifest::Checked,
}

/// Verifies a package and checks every entry; writes nothing.
///
/// # Errors
/// Whatever is wrong with it.
pub fn check(
    source: impl Read,
    size: u64,
    scratch: Scratch,
    progress: &dyn Progress,
) -> Result<Unpacked> {
    let verified = container::open(source, size, scratch, decoder_threads(), progress)?;
    let checked = manifest::check(verified.archive.bytes())?;
    verified.archive.release_pages();
    Ok(Unpacked { verified, checked })
}

impl Unpacked {
    /// Writes the files below `dir`, an empty directory.
    ///
    /// # Errors
    /// Those of the file system; what was written so far is the caller's to remove.
    pub fn extract(&self, dir: BorrowedFd<'_>, progress: &dyn Progress) -> Result<()> {
        let archive = &self.verified.archive;
        // The unit is roughly bytes: each entry counts for 64 besides its content.
        let totals = self.checked.totals;
        progress.begin(Step::Extract, totals.bytes + 64 * totals.entries);
        let mut extractor = Extractor::new(dir, archive, progress)?;
        archive::walk(archive.bytes(), &mut extractor)?;
        Ok(())
    }
}

/// Takes a package apart into a tar file.
///
/// # Errors
/// Whatever is wrong with the package; those of `sink`.
pub fn to_tar(
    source: impl Read,
    size: u64,
    scratch: Scratch,
    sink: impl std::io::Write,
    progress: &dyn Progress,
) -> Result<Unpacked> {
    let unpacked = check(source, size, scratch, progress)?;
    let totals = unpacked.checked.totals;
    progress.begin(Step::Extract, totals.bytes + 64 * totals.entries);
    let archive = &unpacked.verified.archive;
    let sink = std::io::BufWriter::with_capacity(256 << 10, sink);
    let mut writer = TarWriter::new(sink, archive, progress);
    archive::walk(archive.bytes(), &mut writer)?;
    writer.finish()?;
    progress.end();
    Ok(unpacked)
}

/// Takes a package apart into `target`, which must not exist. Then `tell` says so.
///
/// # Errors
/// Whatever is wrong with the package or the file system, those of `tell`. Then nothing is left
/// behind.
pub fn to_directory(
    source: impl Read,
    size: u64,
    target: &Path,
    progress: &dyn Progress,
    tell: impl FnOnce(&Unpacked) -> Result<()>,
) -> Result<()> {
    let (parent, name) = WorkDir::check(target)?;
    let beside = target.parent().filter(|dir| *dir != Path::new("")).unwrap_or(Path::new("."));
    let scratch = Scratch::new_in(parent.as_fd(), Some(beside))?;
    let unpacked = check(source, size, scratch, progress)?;
    let mut work = WorkDir::create(parent, name)?;
    unpacked.extract(work.dir(), progress)?;
    work.finish()?;
    // The directory first: whoever reads the word may go there at once.
    let told = tell(&unpacked);
    if told.is_err() {
        work.take_back();
    }
    told
}
