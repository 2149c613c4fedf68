//! Files on the author's disk: what they were when they were first seen, and reading them later
//! only if they still are that.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::{Kind, Node, Source};
use crate::error::{Error, Result, SourceFault, display_bytes, display_path};
use crate::format::archive::check_link;
use crate::format::limits::MAX_FILE_BYTES;

/// A file, and what marks it as the one that was seen.
#[derive(Debug)]
pub struct DiskFile {
    pub path: PathBuf,
    stamp: Stamp,
}

/// Changes when somebody writes to the file, renames another one over it or sets its time. Not the
/// time of the inode's own change: a hard link made or removed elsewhere changes that, and is no
/// change of the file. Who writes and sets the time back is found out by the bytes, which are read
/// twice (`format::layout`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: i64,
    mtime: (i64, i64),
}

impl Stamp {
    fn of(stat: &FileStat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size,
            mtime: (stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

impl DiskFile {
    /// The file at a path, links followed, as it is now.
    ///
    /// # Errors
    /// It is missing or not a regular file.
    pub fn new(path: &Path) -> Result<DiskFile> {
        let path = std::fs::canonicalize(path).map_err(Error::io(display_path(path)))?;
        let stat = stat_long(&path, false).map_err(Error::sys(display_path(&path)))?;
        if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(Error::refused(&path, "not a file"));
        }
        Ok(DiskFile { path, stamp: Stamp::of(&stat) })
    }

    /// Opens the file for reading.
    ///
    /// # Errors
    /// It cannot be read, or is not the file that it was.
    pub fn open(&self) -> Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match open_long(&self.path, flags) {
            Ok(fd) => File::from(fd),
            Err(Errno::ENOENT | Errno::ELOOP | Errno::ENOTDIR) => return Err(self.changed()),
            Err(errno) => return Err(Error::sys(display_path(&self.path))(errno)),
        };
        self.check(&file)?;
        Ok(file)
    }

    /// Is this open file still what was seen?
    ///
    /// # Errors
    /// [`SourceFault::Changed`] when it is not.
    pub fn check(&self, file: &File) -> Result<()> {
        let stat = fstat(file.as_fd()).map_err(Error::sys(display_path(&self.path)))?;
        if Stamp::of(&stat) == self.stamp { Ok(()) } else { Err(self.changed()) }
    }

    /// The error for a file that is not what it was.
    pub fn changed(&self) -> Error {
        Error::source(self.path.as_os_str().as_bytes(), SourceFault::Changed)
    }
}

/// Files that must not get into a package, by device and inode.
#[derive(Default)]
pub struct Forbidden {
    keys: Vec<(u64, u64)>,
    output: Option<(u64, u64)>,
}

impl Forbidden {
    /// Never pack this signing key.
    pub fn key(&mut self, path: &Path) {
        self.keys.extend(identity(path));
    }

    /// Leave out the package that is about to be written over.
    pub fn output(&mut self, path: &Path) {
        self.output = identity(path);
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// What stands at a path, directories without their content.
pub enum Seen {
    Node(Node),
    Directory {
        mtime_ns: i64,
    },
    /// Left out, with the reason in the warnings.
    Skipped,
}

/// Looks at `path` without following it. `shown` is its path in the package.
///
/// # Errors
/// It is missing, cannot be read, or no package can hold it.
pub fn look(
    path: &Path,
    name: &[u8],
    shown: &[u8],
    forbidden: &Forbidden,
    warnings: &mut Vec<String>,
) -> Result<Seen> {
    let stat = stat_long(path, false).map_err(Error::sys(display_path(path)))?;
    let mtime_ns = stat
        .st_mtime
        .checked_mul(1_000_000_000)
        .and_then(|ns| ns.checked_add(stat.st_mtime_nsec))
        .ok_or_else(|| Error::source(shown, SourceFault::Time))?;
    let mut odd = |what: &str| {
        warnings.push(format!("{}: {what}, packed as an empty file", display_bytes(shown)));
        Source::Bytes(Box::default())
    };
    let format = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
    let (size, source) = match format {
        SFlag::S_IFDIR => return Ok(Seen::Directory { mtime_ns }),
        SFlag::S_IFLNK => {
            let target = readlink_long(path).map_err(Error::sys(display_path(path)))?;
            check_link(&target).map_err(|fault| Error::source(shown, fault))?;
            let kind = Kind::Symlink(target.into());
            return Ok(Seen::Node(Node { name: name.into(), mtime_ns, kind }));
        }
        SFlag::S_IFREG => {
            let id = (stat.st_dev, stat.st_ino);
            if forbidden.keys.contains(&id) {
                return Err(Error::source(shown, SourceFault::SigningKey));
            }
            if forbidden.output == Some(id) {
                warnings.push(format!("{}: the package itself, left out", display_bytes(shown)));
                return Ok(Seen::Skipped);
            }
            let size = stat.st_size as u64;
            if size > MAX_FILE_BYTES {
                return Err(Error::source(shown, SourceFault::FileTooLarge(size)));
            }
            let file = DiskFile { path: path.to_owned(), stamp: Stamp::of(&stat) };
            (size, Source::Disk(Box::new(file)))
        }
        SFlag::S_IFSOCK => (0, odd("a socket")),
        SFlag::S_IFIFO => (0, odd("a named pipe")),
        _ => (0, odd("a device")),
    };
    let executable = format == SFlag::S_IFREG && stat.st_mode & Mode::S_IXUSR.bits() != 0;
    let kind = Kind::File { executable, size, source };
    Ok(Seen::Node(Node { name: name.into(), mtime_ns, kind }))
}

/// Names in a directory, without `.` and `..`. Without `follow` a link is no directory, whatever
/// stood there when it was looked at.
///
/// # Errors
/// It cannot be read.
pub fn list(path: &Path, follow: bool) -> Result<Vec<Vec<u8>>> {
    let failed = |errno| Error::sys(display_path(path))(errno);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = match open_long(path, if follow { flags } else { flags | OFlag::O_NOFOLLOW }) {
        Err(Errno::ELOOP | Errno::ENOTDIR) if !follow => {
            return Err(Error::source(path.as_os_str().as_bytes(), SourceFault::Changed));
        }
        other => other.map_err(failed)?,
    };
    let mut dir = nix::dir::Dir::from_fd(fd).map_err(failed)?;
    let mut names = Vec::new();
    for entry in dir.iter() {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// `stat` or, without `follow`, `lstat`, for paths of any length.
///
/// # Errors
/// Those of the system call.
pub fn stat_long(path: &Path, follow: bool) -> nix::Result<FileStat> {
    let flag = if follow { AtFlags::empty() } else { AtFlags::AT_SYMLINK_NOFOLLOW };
    shorten(path, |dir, rest| match dir {
        Some(dir) => fstatat(dir, rest, flag),
        None => fstatat(AT_FDCWD, rest, flag),
    })
}

fn open_long(path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    shorten(path, |dir, rest| match dir {
        Some(dir) => openat(dir, rest, flags, Mode::empty()),
        None => openat(AT_FDCWD, rest, flags, Mode::empty()),
    })
}

fn readlink_long(path: &Path) -> nix::Result<Vec<u8>> {
    let target = shorten(path, |dir, rest| match dir {
        Some(dir) => readlinkat(dir, rest),
        None => readlinkat(AT_FDCWD, rest),
    })?;
    Ok(target.as_bytes().to_vec())
}

/// Runs `call` on a path that is short enough for the kernel: a longer one is entered in steps.
/// A tree of 63 levels can have paths four times as long as `PATH_MAX`.
fn shorten<T>(
    path: &Path,
    call: impl FnOnce(Option<&OwnedFd>, &Path) -> nix::Result<T>,
) -> nix::Result<T> {
    const SHORT: usize = 3000;
    let mut bytes = path.as_os_str().as_bytes();
    let mut dir: Option<OwnedFd> = None;
    while bytes.len() > SHORT {
        let Some(cut) = bytes[..SHORT].iter().rposition(|b| *b == b'/').filter(|cut| *cut > 0)
        else {
            return Err(Errno::ENAMETOOLONG);
        };
        let step = Path::new(std::ffi::OsStr::from_bytes(&bytes[..cut]));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        dir = Some(match &dir {
            Some(dir) => openat(dir.as_fd(), step, flags, Mode::empty())?,
            None => openat(AT_FDCWD, step, flags, Mode::empty())?,
        });
        bytes = &bytes[cut + 1..];
    }
    call(dir.as_ref(), Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_a_link_is_not_listed() {
        let home = tempfile::tempdir().unwrap();
        let (inside, link) = (home.path().join("inside"), home.path().join("link"));
        std::fs::create_dir(&inside).unwrap();
        std::fs::write(inside.join("secret"), "x").unwrap();
        std::os::unix::fs::symlink(&inside, &link).unwrap();
        assert_eq!(list(&link, true).unwrap(), [b"secret"]);
        assert_eq!(list(&inside, false).unwrap(), [b"secret"]);
        let refused = list(&link, false).unwrap_err();
        assert!(matches!(refused, Error::Source { fault: SourceFault::Changed, .. }), "{refused}");
    }
}
