//! `shell check`: is everything in place for grains to run?

mod database;
mod owner;

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;

use crate::cli::output::called;
use crate::config::{Config, Listen, Settings};
use crate::disk::Disk;
use crate::error::Error;
use crate::identity::text::one_line;
use crate::install::place;
use crate::store::Store;

/// Something that keeps the server from working well.
pub struct Problem {
    /// What is wrong, in a sentence.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

fn problem(what: impl Into<String>, fix: impl Into<String>) -> Problem {
    Problem { what: what.into(), fix: fix.into() }
}

/// The line of the supervisor's trial that tells its weaker mode.
const USER_NAMESPACES: &str = "mode: user namespaces";
/// The line that tells that grains can have image files.
const IMAGES: &str = "image files: can be made for grains";
/// The supervisor's trial takes milliseconds.
const TRIAL: Duration = Duration::from_secs(10);
/// Descriptors that a server with a few dozen grains needs.
const FILES: u64 = 4096;

/// What `shell check` found.
#[derive(Default)]
pub struct Report {
    /// What an operator has to mend.
    pub problems: Vec<Problem>,
    /// How grains run here, a line for each thing that an operator may have weakened.
    pub machine: Vec<String>,
    /// What is as it should be and may still surprise.
    pub notes: Vec<String>,
}

/// Judges the settings and the machine; needs no running server. Root judges as the home's owner, and
/// stays that.
pub fn run(home: &Path, settings: Settings) -> Report {
    if let Err(why) = owner::become_owner(home) {
        let fix = "Run this as the server's user.";
        return Report { problems: vec![problem(why, fix)], ..Report::default() };
    }
    let judged = settings.with_file(home).and_then(|settings| {
        let listen = Listen::check(&settings)?;
        Config::check(&settings, home.to_owned(), listen)
    });
    match judged {
        Ok(config) => {
            let trial = try_supervisor(&config.bin.join("sandstorm-supervisor"));
            let notes = match missing(&config.home) {
                Some(Ok(note)) => vec![note],
                _ => Vec::new(),
            };
            Report { problems: of_config(&config), machine: trial.unwrap_or_default(), notes }
        }
        Err(error) => {
            let fix = match &error {
                Error::Config(_) => "Change that setting.".to_owned(),
                _ => {
                    format!("Run this as the server's user, or give that user {}.", home.display())
                }
            };
            Report { problems: vec![problem(error.to_string(), fix)], ..Report::default() }
        }
    }
}

/// Judges the machine under these settings.
pub fn of_config(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    for warning in &config.warnings {
        out.push(problem(&*warning.what, warning.fix));
    }
    if config.allow_dev_accounts && !config.bind_ip.is_loopback() {
        out.push(problem(
            format!("Development accounts are on, and the server listens on {}.", config.bind_ip),
            "Unset ALLOW_DEV_ACCOUNTS: with it anybody can sign in as anybody.",
        ));
    }
    home(config, &mut out);
    database::database(config, &mut out);
    packages(config, &mut out);
    unknown_packages(config, &mut out);
    programs(config, &mut out);
    limits(&mut out);
    port(config, &mut out);
    out
}

/// Has this process these rights on the path?
fn may(path: &Path, rights: AccessFlags) -> bool {
    nix::unistd::faccessat(nix::fcntl::AT_FDCWD, path, rights, AtFlags::AT_EACCESS).is_ok()
}

/// Another program on the server's port, while no server runs on this home.
fn port(config: &Config, out: &mut Vec<Problem>) {
    if !config.home.is_dir() || crate::control::is_served(&config.home) != Some(false) {
        return;
    }
    let address = std::net::SocketAddr::new(config.bind_ip, config.port);
    if let Err(error) = std::net::TcpListener::bind(address) {
        out.push(problem(
            format!("The server cannot listen on {address}: {error}."),
            "End the program that has the port, or set PORT and BIND_IP to what is free.",
        ));
    }
}

/// A home that is not there yet: a note where the first start makes it, else why it cannot. `None`:
/// it is there.
fn missing(home: &Path) -> Option<Result<String, Problem>> {
    match fs::metadata(home) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
        _ => return None,
    }
    let own = nix::unistd::geteuid();
    if fs::symlink_metadata(home).is_ok() {
        return Some(Err(problem(
            format!("{} is a symbolic link that leads nowhere.", home.display()),
            "Make the directory that it names, or remove the link.",
        )));
    }
    let above = home.ancestors().skip(1).find(|dir| fs::symlink_metadata(dir).is_ok())?;
    let why = match nix::unistd::faccessat(
        nix::fcntl::AT_FDCWD,
        above,
        AccessFlags::W_OK | AccessFlags::X_OK,
        AtFlags::AT_EACCESS,
    ) {
        _ if !above.is_dir() => "is not a directory".to_owned(),
        Ok(()) => {
            return Some(Ok(format!(
                "{} does not exist yet; the first `{} serve` makes it.",
                home.display(),
                called()
            )));
        }
        Err(nix::errno::Errno::EROFS) => "is on a file system that is mounted read-only".to_owned(),
        Err(_) => format!("cannot be written by uid {own}"),
    };
    Some(Err(problem(
        format!("{} does not exist and cannot be made: {} {why}.", home.display(), above.display()),
        format!(
            "As root, make it for this user: mkdir -p {0} && chown {own} {0} && chmod 700 {0} — or \
             set SANDSTORM_HOME to a directory of theirs.",
            home.display()
        ),
    )))
}

fn home(config: &Config, out: &mut Vec<Problem>) {
    let home = &config.home;
    match missing(home) {
        None => {}
        Some(Ok(_)) => return,
        Some(Err(problem)) => return out.push(problem),
    }
    let own = nix::unistd::geteuid().as_raw();
    if let Err(error) = fs::metadata(home) {
        out.push(problem(
            format!("{} cannot be looked at by uid {own}: {error}.", home.display()),
            "Run this as the server's user, or let that user through the directories above.",
        ));
        return;
    }
    if !home.is_dir() {
        out.push(problem(
            format!("{} is not a directory.", home.display()),
            "Set SANDSTORM_HOME to one.",
        ));
        return;
    }
    if nix::unistd::faccessat(nix::fcntl::AT_FDCWD, home, AccessFlags::W_OK, AtFlags::AT_EACCESS)
        == Err(nix::errno::Errno::EROFS)
    {
        out.push(problem(
            format!("{} is on a file system that is mounted read-only.", home.display()),
            "Mount it writable, or set SANDSTORM_HOME to a directory elsewhere.",
        ));
    } else if !may(home, AccessFlags::W_OK | AccessFlags::X_OK) {
        out.push(problem(
            format!("{} cannot be written by uid {own}.", home.display()),
            format!("Run this as the server's user, or: chown {own} {}", home.display()),
        ));
    }
    // Whoever can write the home can put another database in its place.
    let others = fs::metadata(home).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    if others & 0o002 != 0 {
        out.push(problem(
            format!("{} can be written by everybody (mode {others:o}).", home.display()),
            format!("chmod o-w {}", home.display()),
        ));
    }
    if fs::symlink_metadata(home.join("sandstorm.sqlite")).is_ok_and(|m| !m.is_file()) {
        out.push(problem(
            format!("{} is not a file.", home.join("sandstorm.sqlite").display()),
            "Move it away, or put back a copy of the database.",
        ));
    }
    for name in ["grains", "apps"] {
        let path = home.join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_symlink() {
            out.push(problem(
                format!("{} is a symbolic link, which no grain's start follows.", path.display()),
                "Put the directory itself there; a bind mount will do for one on another disk.",
            ));
            continue;
        }
        if !metadata.is_dir() {
            out.push(problem(
                format!("{} is not a directory.", path.display()),
                "Move it away; the server makes it anew.",
            ));
            continue;
        }
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.uid() != own && own != 0 {
            out.push(problem(
                format!("{} belongs to uid {}, not to uid {own}.", path.display(), metadata.uid()),
                format!("chown -R {own} {}", path.display()),
            ));
        }
        if mode & 0o022 != 0 {
            out.push(problem(
                format!("{} can be written by others (mode {mode:o}).", path.display()),
                format!("chmod go-w {}", path.display()),
            ));
        }
    }
    if let Some((what, fix)) = Disk::of(home).and_then(|disk| disk.told(home)) {
        out.push(problem(what, fix));
    }
}

/// Each package that is kept is unpacked too: without its files no grain of the app starts.
fn packages(config: &Config, out: &mut Vec<Problem>) {
    let Ok(kept) = fs::read_dir(config.home.join("packages")) else { return };
    let apps = config.home.join("apps");
    let mut lost: Vec<String> = kept
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".spk").map(Into::into))
        .filter(|id: &String| !apps.join(id).join("sandstorm-manifest").is_file())
        .collect();
    lost.sort();
    if let Some(first) = lost.first() {
        out.push(problem(
            format!(
                "The files of {} installed packages are not below {} ({first} is one).",
                lost.len(),
                apps.display()
            ),
            "Put that directory back, or install these packages again.",
        ));
    }
}

/// Files of packages that the database does not know. Asked only while a server runs: it has just
/// gone on with what a kill had left, and without one a database in use may not be read.
fn unknown_packages(config: &Config, out: &mut Vec<Problem>) {
    if crate::control::is_served(&config.home) != Some(true) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    let database = config.home.join("sandstorm.sqlite");
    let Ok(known) = runtime.block_on(Store::known_packages(&database)) else { return };
    let Ok(found) = place::remains(&config.home, &known) else { return };
    if let Some(first) = found.first() {
        out.push(problem(
            format!(
                "Below {0}/apps or {0}/packages are files of {1} packages that this server does not \
                 know ({first} is one). They take room and nothing uses them.",
                config.home.display(),
                found.len()
            ),
            format!(
                "`{} app delete {first}` removes them, unless a newer copy of the database is to \
                 be put back.",
                called()
            ),
        ));
    }
}

fn programs(config: &Config, out: &mut Vec<Problem>) {
    let own = nix::unistd::geteuid();
    for name in ["sandstorm-supervisor", "spk"] {
        let path = config.bin.join(name);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                out.push(problem(
                    format!("{} cannot be reached by uid {own}.", path.display()),
                    "Install the programs where that user may go (`make install`).",
                ));
                continue;
            }
            Err(_) => {
                out.push(problem(
                    format!("{} is missing.", path.display()),
                    "Build or install all four programs into one directory: `make`, or \
                     `make install`.",
                ));
                continue;
            }
        };
        let mode = metadata.permissions().mode();
        if !may(&path, AccessFlags::X_OK) {
            out.push(problem(
                format!(
                    "{} cannot be run by uid {own} (group {}, mode {:o}).",
                    path.display(),
                    metadata.gid(),
                    mode & 0o7777
                ),
                format!(
                    "Run this as the server's user, or give the file that user's group: \
                     chgrp GROUP {0} && chmod {1:o} {0}",
                    path.display(),
                    mode & 0o7777
                ),
            ));
            continue;
        }
        if name != "sandstorm-supervisor" {
            continue;
        }
        if mode & 0o6000 != 0 && (metadata.uid() != 0 || mode & 0o7777 != 0o4750) {
            out.push(problem(
                format!(
                    "{} has owner {} and mode {:o}, so it refuses to run.",
                    path.display(),
                    metadata.uid(),
                    mode & 0o7777
                ),
                format!(
                    "chown root:GROUP {0} && chmod 4750 {0}, GROUP the server's",
                    path.display()
                ),
            ));
            continue;
        }
        match try_supervisor(&path) {
            Ok(said) if mode & 0o4000 != 0 && said.iter().any(|l| l == USER_NAMESPACES) => {
                out.push(problem(
                    "The supervisor is setuid root, but the kernel does not honour that here.",
                    "Start the server without no_new_privs (a systemd option that implies it, a \
                     container's flag), from a file system that is not mounted nosuid.",
                ));
            }
            Ok(said) if config.grain_image && !said.iter().any(|l| l == IMAGES) => {
                let why = said.iter().find_map(|l| l.strip_prefix("image files: "));
                out.push(problem(
                    format!(
                        "GRAIN_IMAGE is on, and new grains cannot have image files here: {}.",
                        why.unwrap_or("the supervisor is not setuid root")
                    ),
                    "Mend that, or unset GRAIN_IMAGE: without an image a grain's disk limit is kept by \
                     quotas or by measuring.",
                ));
            }
            Ok(_) => {}
            Err(said) => out.push(problem(
                format!("No grain can start here: {said}"),
                "Change what it names, or install the supervisor setuid root (`make install`).",
            )),
        }
    }
}

/// Lets the supervisor try what a grain's start needs; it alone knows, by its own rights and the
/// profile that the machine may have for it.
///
/// # Errors
/// What it says is missing, in sentences.
pub fn try_supervisor(program: &Path) -> Result<Vec<String>, String> {
    let failed = |e: std::io::Error| format!("{} cannot be started: {e}", program.display());
    let mut child = Command::new(program)
        .arg("--check")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let give_up = Instant::now() + TRIAL;
    while child.try_wait().map_err(failed)?.is_none() {
        if Instant::now() > give_up {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{} --check did not end in {TRIAL:?}", program.display()));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let done = child.wait_with_output().map_err(failed)?;
    let lines = |bytes: &[u8]| -> Vec<String> {
        String::from_utf8_lossy(bytes).lines().map(|l| one_line(l, 500)).collect()
    };
    if done.status.success() {
        return Ok(lines(&done.stdout));
    }
    Err(lines(&done.stderr).join(" "))
}

fn limits(out: &mut Vec<Problem>) {
    use nix::sys::resource::{Resource, getrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        if hard < FILES {
            out.push(problem(
                format!("At most {hard} files can be open at once."),
                "Raise the limit (`ulimit -Hn`, or LimitNOFILE= in the systemd unit).",
            ));
        }
    }
}
