//! A home has one server: the lock says whose it is, the socket's name leads to it.
//!
//! Trust: the directory belongs to the server's user. Whoever may write there can remove both
//! names; then nothing is taken from a server that came after us.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use sandstorm_schema::rpc::connect::bind_at;
use tokio::net::UnixListener;

use crate::error::{Error, Result};

/// The control socket's name in the home.
pub const SOCKET: &str = "shell.socket";
const LOCK: &str = "shell.lock";
/// Whoever asks whether a server runs holds the lock for a moment.
const PATIENCE: Duration = Duration::from_millis(500);

/// Device and inode.
type Identity = (u64, u64);

/// The one server of a home. The lock is the kernel's, so it ends with the process.
pub struct HomeLock {
    lock: Flock<fs::File>,
    dir: fs::File,
    home: PathBuf,
}

/// A bound control socket.
pub struct Bound {
    pub listener: UnixListener,
    file: Identity,
}

/// What became of the socket's name.
pub enum Name {
    /// It still leads to us.
    Ours,
    /// It had gone, and leads to this new socket now.
    Anew(Bound),
    /// It cannot lead to us; the text says why and what to do.
    Lost(String),
}

/// Takes the home for this process.
///
/// # Errors
/// `Conflict` when another server has it.
pub fn lock_home(home: &Path) -> Result<HomeLock> {
    let path = home.join(LOCK);
    let say = || Error::io(path.display().to_string());
    let dir = fs::File::open(home).map_err(Error::io(home.display().to_string()))?;
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path).map_err(
            |e| match e.kind() {
                io::ErrorKind::ReadOnlyFilesystem => read_only(home),
                _ => say()(e),
            },
        )?;
    let begin = std::time::Instant::now();
    loop {
        file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(HomeLock { lock, dir, home: home.to_owned() }),
            Err((back, Errno::EWOULDBLOCK)) if begin.elapsed() < PATIENCE => back,
            Err((_, Errno::EWOULDBLOCK)) => {
                return Err(Error::Conflict(format!(
                    "another server runs with the home {}; end it first, or use another home",
                    home.display()
                )));
            }
            Err((_, e)) => return Err(say()(e.into())),
        };
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The error for a home that nobody can write.
pub fn read_only(home: &Path) -> Error {
    Error::Config(format!(
        "{} is on a file system that is mounted read-only; mount it writable, or set \
         SANDSTORM_HOME to a directory elsewhere",
        home.display()
    ))
}

/// Does a server run on this home? Judged by its lock, which is left as it was. `None` where this
/// user may not look.
pub fn is_served(home: &Path) -> Option<bool> {
    let file = match fs::File::open(home.join(LOCK)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    Some(matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK))))
}

impl HomeLock {
    /// Binds the socket, mode 0600; one that a killed server left is replaced.
    ///
    /// # Errors
    /// Those of the directory.
    pub fn bind(&self) -> Result<Bound> {
        match unlinkat(&self.dir, SOCKET, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err(self.say()(e.into())),
        }
        self.bind_new().map_err(self.say())
    }

    /// Looks where the socket's name leads, and binds a new socket where it leads nowhere. What
    /// another process has put there is never taken away.
    pub fn look(&self, bound: &Bound) -> Name {
        match self.identity(SOCKET) {
            Ok(Some(found)) if found == bound.file => return Name::Ours,
            Ok(Some(_)) => {
                return Name::Lost(format!(
                    "{}/{SOCKET} was replaced by something that is not this server's, so \
                     sub-commands do not reach it; remove that file, and the server makes its \
                     socket anew",
                    self.home.display()
                ));
            }
            Ok(None) => {}
            Err(e) => return Name::Lost(format!("{}/{SOCKET}: {e}", self.home.display())),
        }
        // Without the lock's name a second server can start here, whose socket would be in our way.
        match (self.identity(LOCK), self.lock.metadata()) {
            (Ok(Some(found)), Ok(own)) if found == (own.dev(), own.ino()) => {}
            _ => {
                return Name::Lost(format!(
                    "{0}/{LOCK} and {0}/{SOCKET} were removed or replaced, so sub-commands do not \
                     reach this server; restart it, and before that start no other one here",
                    self.home.display()
                ));
            }
        }
        match self.bind_new() {
            Ok(bound) => Name::Anew(bound),
            Err(e) => Name::Lost(format!("{}/{SOCKET} cannot be made: {e}", self.home.display())),
        }
    }

    /// Removes the name if it still leads to this socket.
    pub fn unbind(&self, bound: &Bound) {
        if self.identity(SOCKET).is_ok_and(|found| found == Some(bound.file)) {
            let _ = unlinkat(&self.dir, SOCKET, UnlinkatFlags::NoRemoveDir);
        }
    }

    /// The name appears with the right mode, in one step, and only where there is none.
    fn bind_new(&self) -> io::Result<Bound> {
        let name = format!("{SOCKET}.{}", hex::encode(crate::store::random::<8>()));
        let listener = bind_at(self.dir.as_fd(), &name)?;
        let mode = Mode::from_bits_truncate(0o600);
        let named = fchmodat(&self.dir, &*name, mode, FchmodatFlags::FollowSymlink)
            .and_then(|()| linkat(&self.dir, &*name, &self.dir, SOCKET, AtFlags::empty()))
            .map_err(io::Error::from)
            .and_then(|()| self.identity(&name));
        unlinkat(&self.dir, &*name, UnlinkatFlags::NoRemoveDir)?;
        let file = named?.ok_or(io::ErrorKind::NotFound)?;
        Ok(Bound { listener, file })
    }

    fn identity(&self, name: &str) -> io::Result<Option<Identity>> {
        match fstatat(&self.dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((stat.st_dev, stat.st_ino))),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn say(&self) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::io(self.home.join(SOCKET).display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_name_comes_back_and_another_servers_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path();
        assert_eq!(is_served(home), Some(false));
        let lock = lock_home(home).unwrap();
        assert_eq!(is_served(home), Some(true));
        assert!(lock_home(home).is_err());
        let path = home.join(SOCKET);
        fs::write(&path, "left by a killed server").unwrap();
        let bound = lock.bind().unwrap();
        assert!(matches!(lock.look(&bound), Name::Ours));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::remove_file(&path).unwrap();
        let Name::Anew(anew) = lock.look(&bound) else { panic!("it was not made anew") };
        assert!(matches!(lock.look(&anew), Name::Ours));
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home).unwrap().count(), 2);

        // Somebody removed both names, and another server runs here now.
        fs::remove_file(home.join(LOCK)).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(matches!(lock.look(&anew), Name::Lost(_)) && !path.exists());
        let other = lock_home(home).unwrap();
        let others = other.bind().unwrap();
        assert!(matches!(lock.look(&anew), Name::Lost(_)));
        lock.unbind(&anew);
        assert!(matches!(other.look(&others), Name::Ours));
        other.unbind(&others);
        assert!(!path.exists());
    }
}
