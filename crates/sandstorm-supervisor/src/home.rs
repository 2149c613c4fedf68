//! The home's directories, opened by descriptor and checked, and the grain's lock.
//!
//! Trust: the caller owns everything here and may rename, replace and unmount it at any moment.
//! So each directory is opened once, below the one before, following no link, with the caller's
//! own rights, and only the descriptor is used afterwards. `grains/` and `apps/` must belong to the
//! caller and be writable by nobody else; then no third person can swap what is below.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::args::Args;
use crate::error::Error;
use crate::mode::Caller;
use crate::sys::fd;

/// How long a start waits for a lock whose holder does not serve (it is starting or ending).
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// Open directories of one grain.
#[derive(Debug)]
pub struct GrainDirs {
    /// Absolute path of the home; only for messages and for finding it again in another mount
    /// namespace, where what is below is compared with the descriptors here.
    pub home_path: PathBuf,
    pub package_name: CString,
    pub grain_name: CString,
    /// `apps/PACKAGE`, O_PATH.
    pub package: OwnedFd,
    /// `grains/GRAIN`, readable.
    pub grain: OwnedFd,
    /// `grains/GRAIN/sandbox`, O_PATH.
    pub sandbox: OwnedFd,
}

/// Opens (with `--new`: makes) everything that the grain needs.
///
/// # Errors
/// `Storage` for what cannot be opened, `Untrusted` for wrong owners and modes, `Grain` for a
/// missing grain or one that exists although `--new` was given.
pub fn open(args: &Args, caller: Caller) -> Result<GrainDirs, Error> {
    let home_text = CString::new(args.home.as_os_str().as_bytes())
        .map_err(|_| Error::Usage("--home has a NUL byte".into()))?;
    let home = fd::open(&home_text, OFlags::PATH | OFlags::DIRECTORY).map_err(or_missing(
        storage("open the home", &args.home),
        || {
            format!(
                "there is no home {}; --home names the directory that has apps/ and grains/",
                args.home.display()
            )
        },
    ))?;
    let home_path = if args.home.is_absolute() {
        args.home.clone()
    } else {
        absolute_path(home.as_fd())
            .map_err(storage("find the absolute path of the home", &args.home))?
    };
    // From here on nothing depends on where we were started.
    rustix::process::chdir(c"/").map_err(Error::kernel("leave the caller's working directory"))?;

    let apps = open_checked(home.as_fd(), c"apps", &home_path, caller)?;
    let grains = open_checked(home.as_fd(), c"grains", &home_path, caller)?;
    let package_path = home_path.join("apps").join(as_path(&args.package));
    let package = open_below(apps.as_fd(), &args.package, OFlags::PATH).map_err(or_missing(
        storage("open the package", &package_path),
        || {
            format!(
                "there is no package {}; the server unpacks one when its app is installed, \
                 `spk unpack` does by hand",
                package_path.display()
            )
        },
    ))?;

    let grain_path = home_path.join("grains").join(as_path(&args.grain));
    if args.new {
        make_grain(grains.as_fd(), &args.grain, &grain_path)?;
    }
    let missing = || {
        or_missing(storage("open the grain", &grain_path), || {
            format!("there is no grain {}; --new makes one", grain_path.display())
        })
    };
    let grain = open_below(grains.as_fd(), &args.grain, OFlags::RDONLY).map_err(missing())?;
    let sandbox = open_below(grain.as_fd(), c"sandbox", OFlags::PATH).map_err(missing())?;
    for (what, dir, path) in [
        ("the grain directory", &grain, grain_path.clone()),
        ("the grain's data directory", &sandbox, grain_path.join("sandbox")),
    ] {
        require_owner(what, dir.as_fd(), &path, caller)?;
    }
    Ok(GrainDirs {
        home_path,
        package_name: args.package.clone(),
        grain_name: args.grain.clone(),
        package,
        grain,
        sandbox,
    })
}

/// A directory below `dir`, opened without following any link.
pub fn open_below(dir: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    fd::open_in(dir, name, flags | OFlags::DIRECTORY)
}

fn as_path(name: &CStr) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()))
}

/// Words of its own for what is not there; `other` for all else.
fn or_missing(
    other: impl FnOnce(io::Error) -> Error,
    words: impl FnOnce() -> String,
) -> impl FnOnce(io::Error) -> Error {
    move |e| if e.raw_os_error() == Some(libc::ENOENT) { Error::Grain(words()) } else { other(e) }
}

fn storage<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::Storage { action, path, source: source.into() }
}

fn absolute_path(dir: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let path = std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    if path.is_absolute() { Ok(path) } else { Err(Errno::NOENT.into()) }
}

fn open_checked(
    home: BorrowedFd<'_>,
    name: &'static CStr,
    home_path: &Path,
    caller: Caller,
) -> Result<OwnedFd, Error> {
    let path = home_path.join(as_path(name));
    let dir = open_below(home, name, OFlags::PATH)
        .map_err(storage("open (as a directory, not a link)", &path))?;
    require_owner("the directory", dir.as_fd(), &path, caller)?;
    let mode = rustix::fs::fstat(&dir).map_err(storage("examine", &path))?.st_mode;
    if mode & 0o022 != 0 {
        return Err(Error::Untrusted {
            what: "the directory",
            fault: format!("can be written by others (mode {:04o})", mode & 0o7777),
            fix: format!("chmod go-w {}", path.display()),
            path,
        });
    }
    Ok(dir)
}

fn require_owner(
    what: &'static str,
    dir: BorrowedFd<'_>,
    path: &Path,
    caller: Caller,
) -> Result<(), Error> {
    let stat = rustix::fs::fstat(dir).map_err(storage("examine", path))?;
    if stat.st_uid == caller.uid {
        return Ok(());
    }
    Err(Error::Untrusted {
        what,
        path: path.to_owned(),
        fault: format!("belongs to uid {}, but the caller is uid {}", stat.st_uid, caller.uid),
        fix: "start the supervisor as the user who owns the home".into(),
    })
}

/// Makes `grains/GRAIN` and its `sandbox`, both 0700.
///
/// `sandbox` is what makes a grain: a directory without it is the remains of a start that was
/// killed between the two steps, and is taken over.
fn make_grain(grains: BorrowedFd<'_>, name: &CStr, path: &Path) -> Result<(), Error> {
    fd::ensure_dir(grains, name, 0o700).map_err(storage("make the grain directory", path))?;
    let grain =
        open_below(grains, name, OFlags::RDONLY).map_err(storage("open the grain", path))?;
    match rustix::fs::mkdirat(&grain, c"sandbox", 0o700.into()) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            return Err(Error::Grain(format!(
                "the grain {} exists already; start it without --new",
                path.display()
            )));
        }
        Err(e) => return Err(storage("make the grain's data directory", path)(e)),
    }
    let unwritten = |e: io::Error| storage("write the grain directory to disk", path)(e);
    let parent = fd::open_in(grains, c".", OFlags::RDONLY).map_err(unwritten)?;
    let written = rustix::fs::fsync(&grain).and_then(|()| rustix::fs::fsync(&parent));
    written.map_err(|e| unwritten(e.into()))
}

/// Who serves this grain.
#[derive(Debug)]
pub enum Turn {
    /// We do: the lock, held for life by us and by init.
    Ours(OwnedFd),
    /// Another supervisor does.
    Theirs,
}

/// Takes the grain's lock, or finds the supervisor that has it and, says `is_serving`, answers.
///
/// While the lock is held and nobody answers on the socket (a start or an end in progress) this
/// waits up to ten seconds.
///
/// # Errors
/// `Storage` when the lock file cannot be opened, `Locked` when the wait was in vain.
pub fn take_turn(dirs: &GrainDirs, is_serving: impl Fn(UnixStream) -> bool) -> Result<Turn, Error> {
    let path = dirs.home_path.join("grains").join(as_path(&dirs.grain_name)).join("lock");
    let lock = fd::create_in(
        dirs.grain.as_fd(),
        c"lock",
        OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK,
        0o600,
    )
    .map_err(storage("open the grain's lock", &path))?;
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if fd::try_lock(&lock).map_err(storage("lock", &path))? {
            return Ok(Turn::Ours(lock));
        }
        let socket = format!("/proc/self/fd/{}/socket", dirs.grain.as_raw_fd());
        if let Ok(stream) = UnixStream::connect(socket) {
            if is_serving(stream) {
                return Ok(Turn::Theirs);
            }
        }
        if started.elapsed() > LOCK_PATIENCE {
            return Err(Error::Locked(dirs.grain_name.to_string_lossy().into_owned()));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}
