//! As root: a system user for the server, and copies of the programs that it cannot change.
//!
//! The home may belong to that user, so nothing below it is touched by path: `bin` is reached by
//! descriptor, must be root's own real directory, and gets each program as a new file that is
//! renamed into place. Otherwise a link planted in the home would turn root's writing elsewhere.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, unlinkat};

use crate::shell_out;

/// Who runs the server.
pub struct Owner {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

const PROGRAMS: [&str; 4] = ["shell", "sandstorm-supervisor", "spk", "legacy-bridge"];

/// The user `sandstorm` (or `$SANDSTORM_USER`, `user` or `user:group`), made if missing.
pub fn system_user() -> Result<Owner> {
    let asked = std::env::var("SANDSTORM_USER").unwrap_or_default();
    let mut words = asked.splitn(2, ':');
    let name = words.next().filter(|n| !n.is_empty()).unwrap_or("sandstorm").to_owned();
    let look_up = || passwd_ids(&name);
    let (uid, mut gid) = match look_up()? {
        Some(ids) => ids,
        None => {
            println!("Making the system user {name}");
            shell_out::run(Command::new("/usr/sbin/useradd").args([
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                "/nonexistent",
                "--shell",
                "/usr/sbin/nologin",
                &name,
            ]))?;
            look_up()?.with_context(|| format!("useradd made no user {name}"))?
        }
    };
    if let Some(group) = words.next() {
        let line = shell_out::text(Command::new("getent").args(["group", group]))
            .with_context(|| format!("there is no group {group}"))?;
        gid = line.split(':').nth(2).and_then(|n| n.parse().ok()).context("getent's answer")?;
    }
    ensure!(uid != 0, "the server must not run as root: choose another SANDSTORM_USER");
    Ok(Owner { name, uid, gid })
}

/// By getent: a static program has no name service of its own.
fn passwd_ids(name: &str) -> Result<Option<(u32, u32)>> {
    let done = Command::new("getent").args(["passwd", name]).output().context("getent")?;
    let line = String::from_utf8_lossy(&done.stdout).into_owned();
    let mut fields = line.trim().split(':').skip(2).map(|n| n.parse::<u32>());
    Ok(match (fields.next(), fields.next()) {
        (Some(Ok(uid)), Some(Ok(gid))) => Some((uid, gid)),
        _ => None,
    })
}

/// Can this user get to `dir`? Asked of the kernel, as that user.
pub fn can_reach(owner: &Owner, dir: &Path) -> Result<bool> {
    let status = Command::new("/bin/sh")
        .args(["-c", "cd -- \"$1\"", "sh"])
        .arg(dir)
        .uid(owner.uid)
        .gid(owner.gid)
        .current_dir("/")
        .stderr(std::process::Stdio::null())
        .status()
        .context("cannot start /bin/sh")?;
    Ok(status.success())
}

/// Makes the home for its owner and root's copies of the programs in it; returns their directory.
pub fn prepare(home: &Path, owner: &Owner, from: &Path) -> Result<PathBuf> {
    if !home.exists() {
        if let Some(parent) = home.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(home)
            .with_context(|| format!("cannot make {}", home.display()))?;
        chown(home, Some(owner.uid), Some(owner.gid))?;
        // The group's members need to get to the programs and no further.
        fs::set_permissions(home, fs::Permissions::from_mode(0o750))?;
    }
    let dir_flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let home_fd = openat(AT_FDCWD, home, dir_flags, Mode::empty())
        .with_context(|| format!("cannot open {}", home.display()))?;
    match mkdirat(&home_fd, "bin", Mode::from_bits_truncate(0o755)) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error).context("cannot make the programs' directory"),
    }
    let bin = home.join("bin");
    let bin_fd = openat(&home_fd, "bin", dir_flags, Mode::empty())
        .with_context(|| format!("{} is no directory", bin.display()))?;
    let stat = fstat(&bin_fd)?;
    if stat.st_uid != 0 || stat.st_mode & 0o022 != 0 {
        bail!(
            "{} is not root's own, so the supervisor cannot be put there: move it away",
            bin.display()
        );
    }
    fchmod(&bin_fd, Mode::from_bits_truncate(0o755))?;
    for name in PROGRAMS {
        let (group, mode) = match name {
            "sandstorm-supervisor" => (owner.gid, 0o4750),
            _ => (0, 0o755),
        };
        copy(&from.join(name), bin_fd.as_fd(), name, group, mode)
            .with_context(|| format!("cannot copy {name} to {}", bin.display()))?;
    }
    Ok(bin)
}

/// Puts a file of root's into `dir` unless the same one is there.
fn copy(from: &Path, dir: BorrowedFd<'_>, name: &str, group: u32, mode: u32) -> Result<()> {
    let mut wanted = Vec::new();
    File::open(from)
        .with_context(|| format!("{} is missing: run `make` first", from.display()))?
        .read_to_end(&mut wanted)?;
    if same(dir, name, &wanted, group, mode)? {
        return Ok(());
    }
    let temporary = format!(".{name}.new");
    match unlinkat(dir, temporary.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(error) => return Err(error.into()),
    }
    let flags =
        OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd: OwnedFd = openat(dir, temporary.as_str(), flags, Mode::from_bits_truncate(0o600))?;
    let mut file = File::from(fd);
    file.write_all(&wanted)?;
    // Owner before mode: a change of owner clears the setuid bit.
    fchown(&file, Some(Uid::from_raw(0)), Some(Gid::from_raw(group)))?;
    fchmod(&file, Mode::from_bits_truncate(mode))?;
    renameat(dir, temporary.as_str(), dir, name)?;
    Ok(())
}

fn same(dir: BorrowedFd<'_>, name: &str, wanted: &[u8], group: u32, mode: u32) -> Result<bool> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = match openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT) => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot open {name}")),
    };
    let meta = file.metadata()?;
    if meta.uid() != 0 || meta.gid() != group || meta.permissions().mode() & 0o7777 != mode {
        return Ok(false);
    }
    let mut found = Vec::new();
    file.read_to_end(&mut found)?;
    Ok(found == wanted)
}
