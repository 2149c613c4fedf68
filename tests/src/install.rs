//! An installation of its own for each test: programs, home, and an ordinary user who runs them.
//!
//! The user is a number nobody else has (no entry in /etc/passwd is needed), so that whatever runs
//! under it belongs to this test and can be ended at the end, and so that the kernel's per-user
//! pools are not shared between tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::{bin, is_root, processes, program, skip, top};

/// The two ways in which a supervisor gets its rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Supervisor 4750 root:GROUP. Needs root to set up.
    Setuid,
    /// No bit; user namespaces.
    UserNamespace,
}

/// First of the numbers that tests take as uids; 65536 is where other ranges begin.
const FIRST_UID: u32 = 61_000;
const UIDS: u32 = 4_000;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Programs, home and user of one test.
#[derive(Debug)]
pub struct Installation {
    dir: TempDir,
    pub mode: Mode,
    pub uid: u32,
    pub gid: u32,
}

impl Installation {
    /// Sets one up. `None` when this machine cannot (the skip has been announced).
    pub fn new(mode: Mode) -> Result<Option<Installation>> {
        if mode == Mode::Setuid && !is_root() {
            skip::announce(&skip::current_test(), "setuid mode needs root to set up");
            return Ok(None);
        }
        let dir = tempfile::Builder::new()
            .prefix("sandstorm-test-")
            .tempdir_in(parent(mode)?)
            .context("cannot make a directory for the test")?;
        let (uid, gid) = if is_root() {
            let uid = free_uid();
            (uid, uid)
        } else {
            (nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw())
        };
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let installation = Installation { dir, mode, uid, gid };
        installation.fill()?;
        Ok(Some(installation))
    }

    fn fill(&self) -> Result<()> {
        match self.mode {
            Mode::Setuid => self.make_install(),
            Mode::UserNamespace => self.copy_programs(),
        }
    }

    /// What `make install` does, below the test's directory.
    fn make_install(&self) -> Result<()> {
        let done = Command::new(top().join("deploy/scripts/install.sh"))
            .arg("install")
            .env("PREFIX", "/usr")
            .env("DESTDIR", self.dir.path())
            .env("SANDSTORM_USER", format!("{}:{}", self.uid, self.gid))
            .env("SANDSTORM_BIN", bin())
            .output()
            .context("cannot start install.sh")?;
        ensure!(
            done.status.success(),
            "`make install` failed:\n{}",
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// Programs and home as in a checkout, nothing setuid.
    fn copy_programs(&self) -> Result<()> {
        for dir in ["usr", "usr/bin", "var"] {
            let dir = self.dir.path().join(dir);
            fs::create_dir(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        }
        for name in ["shell", "sandstorm-supervisor", "spk", "legacy-bridge"] {
            let to = self.program(name);
            fs::copy(program(name), &to).with_context(|| format!("cannot copy {name}"))?;
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755))?;
        }
        let home = self.home();
        fs::create_dir(&home)?;
        fs::set_permissions(&home, fs::Permissions::from_mode(0o750))?;
        chown(&home, Some(self.uid), Some(self.gid))?;
        Ok(())
    }

    /// A directory of the test, readable to the user, gone at the end.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The programs' directory.
    pub fn bin(&self) -> PathBuf {
        self.dir.path().join("usr/bin")
    }

    /// One of the programs; the shell is called `sandstorm` once installed.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin().join(if name == "shell" { "sandstorm" } else { name })
    }

    /// `$SANDSTORM_HOME`.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("var/sandstorm")
    }

    /// A grain's directory.
    pub fn grain_dir(&self, grain: &str) -> PathBuf {
        self.home().join("grains").join(grain)
    }

    /// One of the installed programs, to be run as the ordinary user, with nothing in its
    /// environment but PATH and SANDSTORM_HOME.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("SANDSTORM_HOME", self.home())
            .current_dir(self.dir.path());
        self.as_user(&mut command);
        command
    }

    /// Makes `command` run as the ordinary user, with no group but its own.
    pub fn as_user(&self, command: &mut Command) {
        if is_root() {
            // std empties the supplementary groups when root gives up its uid.
            command.uid(self.uid).gid(self.gid);
        }
    }

    /// Writes a file that the user can read.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes)?;
        chown(&path, Some(self.uid), Some(self.gid))?;
        Ok(path)
    }

    /// A new directory that the user owns.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(name);
        fs::create_dir_all(&path)?;
        chown(&path, Some(self.uid), Some(self.gid))?;
        Ok(path)
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        // Whatever the test left running: by user where that is the test's own, and whatever names
        // the test's directory in its command line.
        let dir = self.dir.path().to_string_lossy().into_owned();
        for _ in 0..50 {
            let mut pids = processes::naming(&dir);
            if is_root() {
                pids.extend(processes::of_uid(self.uid));
            }
            let me = std::process::id() as i32;
            pids.retain(|&pid| pid != me);
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                processes::kill(pid);
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let left = processes::mounts_below(&dir);
        if !left.is_empty() && !std::thread::panicking() {
            panic!("mounts were left over: {left:?}");
        }
    }
}

/// A place that the user can reach, short enough for Unix sockets, and where a setuid bit counts.
fn parent(mode: Mode) -> Result<PathBuf> {
    let candidates = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into()];
    for dir in candidates {
        let flags = nix::sys::statvfs::statvfs(&dir).map(|s| s.flags());
        let nosuid = flags.is_ok_and(|f| f.contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
        let reachable = fs::metadata(&dir).is_ok_and(|m| m.permissions().mode() & 0o001 != 0);
        if reachable && !(nosuid && mode == Mode::Setuid) {
            return Ok(dir);
        }
    }
    ensure!(false, "neither the temporary directory, /tmp nor /var/tmp lets a setuid bit count");
    unreachable!()
}

/// A uid with no process. Tests of one binary run side by side, and so may several binaries: each
/// begins elsewhere in the range.
fn free_uid() -> u32 {
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let uid = FIRST_UID + (std::process::id() * 37 + step) % UIDS;
        if processes::of_uid(uid).is_empty() {
            return uid;
        }
    }
}
