//! `shell check`: is everything in place for grains to run?

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::config::{Config, Listen, Settings};

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

/// Less free space than this, and installs and grains begin to fail.
const FREE_BYTES: u64 = 1 << 30;
/// Descriptors that a server with a few dozen grains needs.
const FILES: u64 = 4096;

/// Judges the settings and the machine; needs no running server.
pub fn run(home: &Path, settings: Settings) -> Vec<Problem> {
    let judged = settings.with_file(home).and_then(|settings| {
        let listen = Listen::check(&settings)?;
        Config::check(&settings, home.to_owned(), listen)
    });
    match judged {
        Ok(config) => of_config(&config),
        Err(error) => vec![problem(error.to_string(), "Change that setting.")],
    }
}

/// Judges the machine under these settings.
pub fn of_config(config: &Config) -> Vec<Problem> {
    let mut out = Vec::new();
    for warning in &config.warnings {
        out.push(problem(warning, "Set ROOT_URL to an https address."));
    }
    if config.allow_dev_accounts && !config.bind_ip.is_loopback() {
        out.push(problem(
            format!("Development accounts are on, and the server listens on {}.", config.bind_ip),
            "Unset ALLOW_DEV_ACCOUNTS: with it anybody can sign in as anybody.",
        ));
    }
    home(config, &mut out);
    programs(config, &mut out);
    limits(&mut out);
    out
}

fn home(config: &Config, out: &mut Vec<Problem>) {
    let home = &config.home;
    if !home.exists() {
        out.push(problem(
            format!("{} does not exist yet.", home.display()),
            "The first `shell serve` makes it.",
        ));
        return;
    }
    let own = nix::unistd::geteuid().as_raw();
    for name in ["grains", "apps"] {
        let path = home.join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        if metadata.uid() != own && own != 0 {
            out.push(problem(
                format!("{} belongs to uid {}, not to you.", path.display(), metadata.uid()),
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
    if let Ok(stat) = nix::sys::statvfs::statvfs(home) {
        let free = stat.blocks_available() * stat.fragment_size();
        if free < FREE_BYTES {
            out.push(problem(
                format!("Only {} MB are free below {}.", free >> 20, home.display()),
                "Make room, or move the home to a larger disk.",
            ));
        }
    }
}

fn programs(config: &Config, out: &mut Vec<Problem>) {
    for name in ["sandstorm-supervisor", "spk"] {
        let path = config.bin.join(name);
        let Ok(metadata) = fs::metadata(&path) else {
            out.push(problem(
                format!("{} is missing.", path.display()),
                "Build or install all four programs into one directory: `make`, or `make install`.",
            ));
            continue;
        };
        let mode = metadata.permissions().mode();
        if name != "sandstorm-supervisor" {
            continue;
        }
        if mode & 0o6000 == 0 {
            user_namespaces(out);
        } else if metadata.uid() != 0 || mode & 0o7777 != 0o4750 {
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
        }
    }
}

/// Without the setuid bit everything hangs on these.
fn user_namespaces(out: &mut Vec<Problem>) {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    if read("/proc/sys/user/max_user_namespaces").as_deref() == Some("0")
        || read("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0")
    {
        out.push(problem(
            "User namespaces are switched off, and the supervisor is not setuid root.",
            "Run `make install` (setuid), or sysctl -w user.max_user_namespaces=10000 \
             kernel.unprivileged_userns_clone=1",
        ));
    }
    if read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1")
        && !nix::unistd::geteuid().is_root()
    {
        out.push(problem(
            "AppArmor keeps unprivileged programs from using user namespaces.",
            "Run `make install` (setuid), or give the supervisor an AppArmor profile with `userns`.",
        ));
    }
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
