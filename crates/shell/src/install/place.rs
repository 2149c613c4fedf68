//! An unpacked tree and its file get their final names, so that they are whole after a power cut.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::receive::TempFile;
use crate::remove::remove_all;

/// The folders below the server's home that packages need. The answer is what an earlier run left
/// in `tmp/`: to be removed, but no reason to wait or not to start.
pub fn prepare(home: &Path) -> io::Result<Vec<PathBuf>> {
    for (name, mode) in [("tmp", 0o700), ("packages", 0o700), ("apps", 0o755)] {
        let path = home.join(name);
        match fs::DirBuilder::new().mode(mode).create(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    fs::read_dir(home.join("tmp"))?.map(|entry| Ok(entry?.path())).collect()
}

/// Removes what `prepare` found. What cannot go is named and stays until the next start.
pub fn remove_left_overs(found: &[PathBuf]) {
    for path in found {
        if let Err(error) = remove_all(path) {
            tracing::warn!("removing what an earlier run left, {}: {error}", path.display());
        }
    }
}

/// An empty folder in `tmp/` that goes, with all that is in it, when it is dropped.
#[derive(Debug)]
pub struct WorkDir(Option<PathBuf>);

impl WorkDir {
    /// Makes one.
    pub fn create(home: &Path) -> io::Result<WorkDir> {
        let name = hex::encode(crate::store::random::<12>());
        let path = home.join("tmp").join(format!("unpack.{name}"));
        fs::DirBuilder::new().mode(0o755).create(&path)?;
        // Whatever the umask is: grains run under other uids and read the tree.
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(WorkDir(Some(path)))
    }

    /// Opened, for a child to inherit.
    pub fn open(&self) -> io::Result<File> {
        File::open(self.path())
    }

    fn path(&self) -> &Path {
        self.0.as_deref().expect("the path is taken only by `keep`")
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Left-overs are wiped at the next start.
            let _ = remove_all(path);
        }
    }
}

/// Moves tree and file to `apps/ID` and `packages/ID.spk`. Blocks until both are on the disk.
pub fn keep(home: &Path, id: &str, mut work: WorkDir, file: TempFile) -> io::Result<()> {
    let (apps, packages) = (home.join("apps"), home.join("packages"));
    // One sync of the file system: an fsync for each of many thousand files would take minutes.
    nix::unistd::syncfs(&work.open()?).map_err(io::Error::from)?;
    let tree = apps.join(id);
    if tree.exists() {
        // Not in the database, so nobody uses it: the server ended between rename and commit.
        remove_all(&tree)?;
    }
    fs::rename(work.path(), &tree)?;
    work.0 = None;
    file.rename(&packages.join(format!("{id}.spk")))?;
    File::open(&apps)?.sync_all()?;
    File::open(&packages)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::receive::Receiver;

    #[test]
    fn a_package_is_moved_whole_and_replaces_a_left_over() {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path()).unwrap();
        fs::create_dir(home.path().join("apps/abc")).unwrap();
        fs::write(home.path().join("apps/abc/old"), "").unwrap();
        let work = WorkDir::create(home.path()).unwrap();
        fs::write(work.path().join("new"), "").unwrap();
        let mut receiver = Receiver::begin(home.path(), None).unwrap();
        receiver.push(b"spk").unwrap();
        keep(home.path(), "abc", work, receiver.finish().unwrap().file).unwrap();
        assert!(home.path().join("apps/abc/new").exists());
        assert!(!home.path().join("apps/abc/old").exists());
        assert_eq!(fs::read(home.path().join("packages/abc.spk")).unwrap(), b"spk");
        drop(WorkDir::create(home.path()).unwrap());
        fs::create_dir_all(home.path().join("tmp/unpack.x/y")).unwrap();
        fs::write(home.path().join("tmp/upload.x"), "").unwrap();
        let locked = home.path().join("tmp/unpack.x/y/locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("file"), "").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o555)).unwrap();
        let left = prepare(home.path()).unwrap();
        assert_eq!(left.len(), 2);
        remove_left_overs(&left);
        assert_eq!(fs::read_dir(home.path().join("tmp")).unwrap().count(), 0);
    }
}
