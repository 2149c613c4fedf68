//! A file that has got its name, and can still be taken back: whoever made it must be told, and where
//! that fails, a status of failure must not stand beside a changed directory. The name comes first,
//! since a reader of what is told may open the file at once.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Taken back when it is dropped, unless it is kept. Whatever stands under the working name
/// afterwards (the file itself, or the one that it replaced) is the caller's to remove.
pub struct Placed<'a> {
    working: &'a Path,
    target: &'a Path,
    before: Before,
    kept: bool,
}

/// What the target was before.
enum Before {
    Nothing,
    /// A file, which has the working name now.
    Aside,
    /// A file that is lost: this file system cannot exchange two names. The new one stays.
    Gone,
}

impl<'a> Placed<'a> {
    /// Renames `working` to `target`, both in one directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn put(working: &'a Path, target: &'a Path) -> std::io::Result<Placed<'a>> {
        let before = match exchange(working, target) {
            Ok(()) => Before::Aside,
            Err(Errno::ENOENT) => Before::Nothing,
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                if target.symlink_metadata().is_ok() { Before::Gone } else { Before::Nothing }
            }
            Err(errno) => return Err(errno.into()),
        };
        if !matches!(before, Before::Aside) {
            std::fs::rename(working, target)?;
        }
        Ok(Placed { working, target, before, kept: false })
    }

    /// From here on it stays.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        match self.before {
            Before::Aside => drop(exchange(self.working, self.target)),
            Before::Nothing => drop(std::fs::rename(self.target, self.working)),
            Before::Gone => {}
        }
    }
}

fn exchange(one: &Path, other: &Path) -> nix::Result<()> {
    renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{read_to_string, write};

    #[test]
    fn what_was_there_comes_back_unless_the_new_file_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (working, target) = (dir.path().join("working"), dir.path().join("target"));
        write(&working, "1").unwrap();
        drop(Placed::put(&working, &target).unwrap());
        assert!(!target.exists());
        Placed::put(&working, &target).unwrap().keep();
        assert_eq!(read_to_string(&target).unwrap(), "1");
        write(&working, "2").unwrap();
        drop(Placed::put(&working, &target).unwrap());
        assert_eq!(read_to_string(&target).unwrap(), "1");
        Placed::put(&working, &target).unwrap().keep();
        assert_eq!(read_to_string(&target).unwrap(), "2");
    }
}
