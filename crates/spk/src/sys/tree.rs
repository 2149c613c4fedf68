//! Writes and removes trees through directory descriptors, so that no link planted meanwhile can
//! lead anywhere else. Every name is one component and nothing is followed.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, copy_file_range, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};

use crate::error::{Error, Result, display_bytes};
use crate::format::archive::{Content, Visitor};
use crate::progress::Progress;
use crate::sys::map::Map;

/// What unpacked files and directories may be, whatever the umask: package trees are read-only
/// and shared by every grain, whose processes run under other uids.
const PLAIN: Mode = Mode::from_bits_truncate(0o644);
/// See [`PLAIN`].
const OPEN: Mode = Mode::from_bits_truncate(0o755);

/// Files up to this size are written straight from the mapping; larger ones are copied by the
/// kernel without passing through our memory.
const WRITE_FROM_MAP: usize = 64 << 10;

/// Pages of the mapping are handed back after this many bytes.
const RELEASE_EVERY: u64 = 16 << 20;

/// Writes the entries of an archive below a directory.
pub struct Extractor<'a> {
    map: &'a Map,
    progress: &'a dyn Progress,
    /// The open directories, the deepest last; never empty.
    stack: Vec<OwnedFd>,
    done: u64,
    released: u64,
}

impl<'a> Extractor<'a> {
    /// `root` must be an empty directory of ours.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new(root: BorrowedFd<'_>, map: &'a Map, progress: &'a dyn Progress) -> Result<Self> {
        let root = root.try_clone_to_owned().map_err(Error::io("cannot open the directory"))?;
        Ok(Extractor { map, progress, stack: vec![root], done: 0, released: 0 })
    }

    fn here(&self) -> Result<BorrowedFd<'_>> {
        match self.stack.last() {
            Some(dir) => Ok(dir.as_fd()),
            None => Err(Error::Usage("left more directories than entered".into())),
        }
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

impl Visitor for Extractor<'_> {
    fn leaf(
        &mut self,
        path: &[u8],
        name: &[u8],
        mtime_ns: i64,
        content: Content<'_>,
    ) -> Result<()> {
        let failed = |errno| Error::sys(display_bytes(path))(errno);
        let times = timespec(mtime_ns);
        match content {
            Content::Symlink(target) => {
                let dir = self.here()?;
                symlinkat(target, dir, name).map_err(failed)?;
                utimensat(dir, name, &times, &times, UtimensatFlags::NoFollowSymlink)
                    .map_err(failed)?;
                self.advance(64)
            }
            Content::File { bytes, executable } => {
                let flags = OFlag::O_WRONLY
                    | OFlag::O_CREAT
                    | OFlag::O_EXCL
                    | OFlag::O_NOFOLLOW
                    | OFlag::O_CLOEXEC;
                let fd = openat(self.here()?, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
                    .map_err(failed)?;
                let mut file = File::from(fd);
                if bytes.len() <= WRITE_FROM_MAP {
                    file.write_all(bytes).map_err(Error::io(display_bytes(path)))?;
                    self.advance(64 + bytes.len() as u64)?;
                } else {
                    self.copy(path, bytes, &mut file)?;
                }
                fchmod(&file, if executable { OPEN } else { PLAIN }).map_err(failed)?;
                futimens(&file, &times, &times).map_err(failed)
            }
        }
    }

    fn enter(&mut self, path: &[u8], name: &[u8], _: i64) -> Result<()> {
        let failed = |errno| Error::sys(display_bytes(path))(errno);
        let dir = self.here()?;
        mkdirat(dir, name, Mode::S_IRWXU).map_err(failed)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let inner = openat(dir, name, flags, Mode::empty()).map_err(failed)?;
        self.stack.push(inner);
        self.advance(64)
    }

    fn leave(&mut self, path: &[u8], mtime_ns: i64) -> Result<()> {
        let failed = |errno| Error::sys(display_bytes(path))(errno);
        let Some(dir) = self.stack.pop() else { return Ok(()) };
        fchmod(&dir, OPEN).map_err(failed)?;
        let times = timespec(mtime_ns);
        futimens(&dir, &times, &times).map_err(failed)
    }
}

impl Extractor<'_> {
    fn copy(&mut self, path: &[u8], bytes: &[u8], file: &mut File) -> Result<()> {
        const STEP: usize = 8 << 20;
        let mut rest = bytes;
        while !rest.is_empty() {
            let part = &rest[..rest.len().min(STEP)];
            let (source, start) = self.map.locate(part);
            let mut from = start as i64;
            let copied = match copy_file_range(source, Some(&mut from), &*file, None, part.len()) {
                Ok(n) if n > 0 => n,
                Err(Errno::EINTR) => continue,
                // Not between these file systems, or not by this kernel: by hand then.
                Ok(_)
                | Err(
                    Errno::EXDEV
                    | Errno::EINVAL
                    | Errno::ENOSYS
                    | Errno::EOPNOTSUPP
                    | Errno::EPERM
                    | Errno::EBADF,
                ) => {
                    file.write_all(part).map_err(Error::io(display_bytes(path)))?;
                    part.len()
                }
                Err(errno) => return Err(Error::sys(display_bytes(path))(errno)),
            };
            rest = &rest[copied..];
            self.advance(copied as u64)?;
        }
        Ok(())
    }
}

/// Nanoseconds since 1970 as the kernel wants them: whole seconds downwards and the rest upwards,
/// also before 1970.
pub fn timespec(ns: i64) -> TimeSpec {
    TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000))
}

/// Removes everything below `dir`, of whatever mode, as far as it is ours. Does not stop at the
/// first failure, and tells about it.
///
/// # Errors
/// The first thing that could not be removed.
pub fn remove_content(dir: BorrowedFd<'_>) -> nix::Result<()> {
    // Descends by name from the descriptor of the level above; depth is bounded by what we wrote.
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(dir, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push((entry.file_name().to_owned(), entry.file_type()));
        }
    }
    let mut result = Ok(());
    for (name, kind) in names {
        let removed = if kind == Some(Type::Directory) {
            remove_dir(dir, &name)
        } else {
            match unlinkat(dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
                Err(Errno::EISDIR) => remove_dir(dir, &name),
                other => other,
            }
        };
        if result.is_ok() {
            result = removed;
        }
    }
    result
}

fn remove_dir(parent: BorrowedFd<'_>, name: &std::ffi::CStr) -> nix::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let open = || openat(parent, name, flags | OFlag::O_RDONLY, Mode::empty());
    let inner = match open() {
        Err(Errno::EACCES) => {
            // A directory without its own bits: give them back. Not through a link.
            let path = openat(parent, name, flags | OFlag::O_PATH, Mode::empty())?;
            let by_fd = format!("/proc/self/fd/{}", path.as_raw_fd());
            nix::sys::stat::fchmodat(
                nix::fcntl::AT_FDCWD,
                by_fd.as_str(),
                Mode::S_IRWXU,
                nix::sys::stat::FchmodatFlags::FollowSymlink,
            )?;
            open()?
        }
        other => other?,
    };
    fchmod(&inner, Mode::S_IRWXU).ok();
    let result = remove_content(inner.as_fd());
    drop(inner);
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)?;
    result
}

/// Is there something of this name (links count, whether or not they lead anywhere)?
///
/// # Errors
/// The directory cannot be searched.
pub fn exists_at(dir: BorrowedFd<'_>, name: &[u8]) -> nix::Result<bool> {
    match nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_round_down() {
        assert_eq!(timespec(-1), TimeSpec::new(-1, 999_999_999));
        assert_eq!(timespec(-1_000_000_000), TimeSpec::new(-1, 0));
        assert_eq!(timespec(1_500_000_000), TimeSpec::new(1, 500_000_000));
        assert_eq!(timespec(i64::MIN).tv_nsec(), 145_224_192);
    }

    #[test]
    fn odd_modes_do_not_keep_a_tree_from_being_removed() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b/c");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("f"), "x").unwrap();
        std::os::unix::fs::symlink("/", deep.join("root")).unwrap();
        use std::os::unix::fs::PermissionsExt;
        for path in ["a/b/c", "a/b", "a"] {
            let none = std::fs::Permissions::from_mode(0o000);
            std::fs::set_permissions(home.path().join(path), none).unwrap();
        }
        let root = crate::sys::scratch::open_dir(home.path()).unwrap();
        remove_content(root.as_fd()).unwrap();
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
