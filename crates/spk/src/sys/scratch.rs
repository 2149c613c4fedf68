//! Files and directories that exist only while we work: an unlinked file that the kernel removes
//! when we end, however we end, and working names beside a target.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::error::{Error, Result, display_path};

/// A file without a name.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    /// Words for whoever must know which disk is full.
    place: String,
}

impl Scratch {
    /// Makes one on the file system of `dir`, which messages call `name`, if it has one.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn new_in(dir: BorrowedFd<'_>, name: Option<&Path>) -> Result<Scratch> {
        let place = name.map(|name| format!(" in {}", display_path(name))).unwrap_or_default();
        let failed = |errno| Error::sys(format!("cannot make a temporary file{place}"))(errno);
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match openat(dir, ".", flags | OFlag::O_TMPFILE | OFlag::O_EXCL, mode) {
            Ok(fd) => Ok(Scratch { file: File::from(fd), place }),
            // Some file systems cannot make a file without a name.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL | Errno::ENOENT) => {
                let name = working_name(b"archive")?;
                let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
                let fd = openat(dir, name.as_str(), flags | create, mode).map_err(failed)?;
                unlinkat(dir, name.as_str(), UnlinkatFlags::NoRemoveDir)
                    .map_err(Error::sys("cannot unlink the temporary file"))?;
                Ok(Scratch { file: File::from(fd), place })
            }
            Err(errno) => Err(failed(errno)),
        }
    }

    /// Makes one where large temporary files belong: `$TMPDIR`, else `/var/tmp`, else `/tmp`.
    ///
    /// # Errors
    /// None of them can be written to.
    pub fn new() -> Result<Scratch> {
        let asked = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let places = asked.iter().map(Path::new).chain(["/var/tmp", "/tmp"].map(Path::new));
        let mut last = None;
        for place in places {
            match open_dir(place).and_then(|dir| Scratch::new_in(dir.as_fd(), Some(place))) {
                Ok(file) => return Ok(file),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(Error::Usage("no place for a temporary file".into())))
    }

    /// The file itself.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Where it is, as the end of a sentence: empty, or " in DIR".
    pub fn place(&self) -> &str {
        &self.place
    }
}

/// Opens a directory for work below it.
///
/// # Errors
/// It is missing, is something else, or may not be entered.
pub fn open_dir(path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())
        .map_err(Error::sys(display_path(path)))
}

/// A hidden name that nobody else uses, for something that will be renamed to `target`.
///
/// # Errors
/// The kernel has no random bytes.
pub fn working_name(target: &[u8]) -> Result<String> {
    let mut random = [0; 9];
    fill_random(&mut random)?;
    let safe: String = String::from_utf8_lossy(target)
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c))
        .take(100)
        .collect();
    Ok(format!(".{safe}.{}", hex::encode(random)))
}

/// Makes a new name in its directory last: without this a power cut may take it back.
///
/// # Errors
/// Those of the file system, but for a directory that cannot be synced: some file systems have no
/// such thing, and a directory that may be written to need not be readable.
pub fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()) {
        Err(e)
            if matches!(
                Errno::from_raw(e.raw_os_error().unwrap_or(0)),
                Errno::EINVAL | Errno::EACCES
            ) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Fills `room` with random bytes of the kernel.
///
/// # Errors
/// It has none.
pub fn fill_random(room: &mut [u8]) -> Result<()> {
    getrandom::fill(room).map_err(|e| {
        let source = std::io::Error::other(e.to_string());
        Error::Io { what: "cannot get random bytes".into(), source }
    })
}
