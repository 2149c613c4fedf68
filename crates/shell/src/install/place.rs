//! An unpacked tree and its file get their final names, so that they are whole after a power cut.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, fstatat},
};

use super::budget::Taken;
use super::receive::TempFile;
use crate::ids::PackageId;
use crate::remove::remove_all;

/// What a file is rounded up to: the block of nearly every file system. Many small files fill a
/// disk by their blocks.
const BLOCK: u64 = 4096;
/// Levels of directories below the root, one more than the format allows.
const MAX_DEPTH: usize = 64;

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

/// An empty folder in `tmp/` that goes, with all that is in it, when it is dropped: not by the
/// thread that drops it, if others are served there.
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
        let Some(path) = self.0.take() else { return };
        // Left-overs are wiped at the next start.
        let remove = move || drop(remove_all(&path));
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

/// Moves tree and file to `apps/ID` and `packages/ID.spk`. Blocks until both are on the disk.
pub fn keep(home: &Path, id: &str, mut work: WorkDir, file: &mut TempFile) -> io::Result<()> {
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

/// What tree and file take on the disk. The process that unpacked says so too, but whoever
/// subverts it can say anything.
pub fn measure(work: &WorkDir, packed: &Path) -> io::Result<Taken> {
    let file = fs::metadata(packed)?;
    let mut taken = Taken { bytes: on_disk(file.len(), file.blocks()), entries: 0 };
    add(work.open()?.into(), 0, &mut taken)?;
    Ok(taken)
}

fn add(dir: OwnedFd, depth: usize, taken: &mut Taken) -> io::Result<()> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut listing = Dir::from_fd(openat(&dir, c".", flags, Mode::empty())?)?;
    for entry in listing.iter() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        taken.entries += 1;
        let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        let bytes = on_disk(unsigned(stat.st_size), unsigned(stat.st_blocks));
        taken.bytes = taken.bytes.saturating_add(bytes);
        if stat.st_mode & libc::S_IFMT == libc::S_IFDIR {
            if depth == MAX_DEPTH {
                return Err(io::Error::other("its directories are nested too deep"));
            }
            add(openat(&dir, name, flags, Mode::empty())?, depth + 1, taken)?;
        }
    }
    Ok(())
}

/// The larger of what a file's size says, in whole blocks, and its `blocks` of 512 bytes: room can
/// be taken past a file's end, and what was written may have no blocks yet.
fn on_disk(size: u64, blocks: u64) -> u64 {
    size.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX).max(blocks.saturating_mul(512))
}

/// Takes a package's file and tree away; both may be gone already.
pub fn discard(home: &Path, id: &str) -> io::Result<()> {
    match set_aside(home, id)? {
        // What is left of it in `tmp/` goes at the next start at the latest.
        Some(aside) => remove_all(&aside),
        None => Ok(()),
    }
}

/// Takes a package's file away, and its tree's name. The tree leaves in one step, and is to be
/// removed where the answer says: what stands under a package's name is whole, also after a crash.
/// Both may be gone already.
pub fn set_aside(home: &Path, id: &str) -> io::Result<Option<PathBuf>> {
    let missing_is_fine = |done: io::Result<()>| match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    let (apps, packages) = (home.join("apps"), home.join("packages"));
    missing_is_fine(fs::remove_file(packages.join(format!("{id}.spk"))))?;
    let name = hex::encode(crate::store::random::<12>());
    let aside = home.join("tmp").join(format!("removed.{name}"));
    missing_is_fine(fs::rename(apps.join(id), &aside))?;
    File::open(&packages)?.sync_all()?;
    File::open(&apps)?.sync_all()?;
    Ok(aside.exists().then_some(aside))
}

/// Ids below `apps/` and `packages/` that are not in `known`.
pub fn remains(home: &Path, known: &HashSet<String>) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    for (folder, ending) in [("apps", ""), ("packages", ".spk")] {
        for entry in fs::read_dir(home.join(folder))? {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_suffix(ending));
            // Only what this server would have put there.
            if let Some(id) =
                id.filter(|id| id.parse::<PackageId>().is_ok_and(|p| p.to_string() == **id))
                && !known.contains(id)
            {
                found.insert(id.to_owned());
            }
        }
    }
    Ok(found)
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
        keep(home.path(), "abc", work, &mut receiver.finish().unwrap().file).unwrap();
        assert!(home.path().join("apps/abc/new").exists());
        assert!(!home.path().join("apps/abc/old").exists());
        assert_eq!(fs::read(home.path().join("packages/abc.spk")).unwrap(), b"spk");
        discard(home.path(), "abc").unwrap();
        for folder in ["apps", "packages", "tmp"] {
            assert_eq!(fs::read_dir(home.path().join(folder)).unwrap().count(), 0, "{folder}");
        }
        discard(home.path(), "abc").unwrap();
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

    #[test]
    fn blocks_and_entries_are_counted_and_links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path()).unwrap();
        let work = WorkDir::create(home.path()).unwrap();
        fs::create_dir_all(work.path().join("a/b")).unwrap();
        fs::write(work.path().join("a/one"), "x").unwrap();
        fs::write(work.path().join("a/b/two"), vec![0; 4097]).unwrap();
        std::os::unix::fs::symlink("/", work.path().join("a/root")).unwrap();
        let packed = home.path().join("tmp/file");
        fs::write(&packed, "spk").unwrap();
        let taken = measure(&work, &packed).unwrap();
        assert_eq!(taken.entries, 5);
        // Three files and a link; what the directories themselves take is the file system's choice.
        assert!((4096 * 5..4096 * 8).contains(&taken.bytes), "{taken:?}");
        let deep = work.path().join("d/".repeat(70));
        fs::create_dir_all(deep).unwrap();
        assert!(measure(&work, &packed).is_err());
    }

    #[test]
    fn only_whole_ids_that_nobody_knows_are_remains() {
        let home = tempfile::tempdir().unwrap();
        prepare(home.path()).unwrap();
        let (known, lost, file) = ("0".repeat(32), "1".repeat(32), "2".repeat(32));
        for name in [&known, &lost, "somebodys"] {
            fs::create_dir(home.path().join("apps").join(name)).unwrap();
        }
        for name in [format!("{known}.spk"), format!("{file}.spk"), "notes.txt".to_owned()] {
            fs::write(home.path().join("packages").join(name), "").unwrap();
        }
        let found = remains(home.path(), &HashSet::from([known])).unwrap();
        assert_eq!(found, BTreeSet::from([lost, file]));
    }
}
