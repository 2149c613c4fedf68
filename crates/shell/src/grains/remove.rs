//! Removing a grain's files, which its app may have made hard to remove.
//!
//! The app is stopped before; what it left may still have any name, mode and depth. Links are
//! never followed. Works below `tmp/`, which is wiped at start, so a crash half-way costs nothing.

use std::fs::{self, DirEntry};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Moves the grain's directory out of `grains/`; `None` if there is none. One rename: after a
/// crash the grain is whole or gone.
pub fn set_aside(home: &Path, grain: &str) -> Result<Option<PathBuf>> {
    let from = home.join("grains").join(grain);
    let tmp = home.join("tmp");
    fs::create_dir_all(&tmp).map_err(Error::io(tmp.display().to_string()))?;
    let to = tmp.join(format!("deleting.{grain}.{}", super::random_name()));
    match fs::rename(&from, &to) {
        Ok(()) => Ok(Some(to)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::io(format!("removing {}", from.display()))(e)),
    }
}

/// Removes a tree whatever modes its directories have.
pub fn remove_tree(root: &Path) -> io::Result<()> {
    // Depth is bounded by the disk alone, so no recursion on the stack.
    let mut stack = vec![root.to_owned()];
    while let Some(dir) = stack.last().cloned() {
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
        let mut deeper = false;
        for entry in fs::read_dir(&dir)? {
            let entry: DirEntry = entry?;
            if entry.file_type()?.is_dir() {
                stack.push(entry.path());
                deeper = true;
                // One at a time keeps the stack as long as the tree is deep.
                break;
            }
            fs::remove_file(entry.path())?;
        }
        if !deeper {
            fs::remove_dir(&dir)?;
            stack.pop();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locked_directories_and_links_go_and_their_targets_stay() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::write(&outside, "stays").unwrap();
        let grain = dir.path().join("grains/g1");
        let mut deep = grain.join("sandbox");
        for _ in 0..50 {
            deep.push("d");
        }
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("f"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, deep.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), deep.join("dirlink")).unwrap();
        fs::set_permissions(&deep, fs::Permissions::from_mode(0o0)).unwrap();
        let moved = set_aside(dir.path(), "g1").unwrap().unwrap();
        assert!(!grain.exists());
        remove_tree(&moved).unwrap();
        assert!(!moved.exists());
        assert_eq!(fs::read_to_string(&outside).unwrap(), "stays");
        assert!(set_aside(dir.path(), "g1").unwrap().is_none());
    }
}
