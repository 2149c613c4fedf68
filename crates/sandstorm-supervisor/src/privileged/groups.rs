//! Control groups of a grain: made and opened here, by whatever the machine has; what is written into
//! them is settled without privilege (`sandbox::share`).
//!
//! Version 2 where it has the controllers, else version 1. Root makes the groups, nested in the
//! caller's own where the kernel allows that, so that the caller's limits go on counting; without
//! root they are made in a subtree that was delegated to us. A grain joins before its init does
//! anything but make its network. Trust: where groups are made was found with the caller's rights
//! (`sandbox::parents`). Without any of it the grain still runs, and the log says what is not limited.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use crate::sandbox::parents::Parents;
use crate::sandbox::share::{self, CONTROLLERS, Groups, MEMORY};
use crate::sys::{creds, fd};

/// Groups are root's, and looked into by a process that has the caller's gid and no rights.
const GROUP_MODE: u32 = 0o750;

impl Groups {
    /// Makes the version 2 group, which a process must be born into. Never fails: what cannot be had
    /// is not there.
    ///
    /// `name` is this grain's among all that run. Without root, only inside a subtree that was
    /// delegated to us.
    pub fn version_2(parents: &Parents, name: &str, root: bool) -> Groups {
        let mut groups = Groups::default();
        let Some(dir) = v2_group(parents, name, root) else { return groups };
        for number in 0..CONTROLLERS.len() {
            groups.open_settings(dir.as_fd(), 2, number);
        }
        groups.kill = fd::open_in(&dir, c"cgroup.kill", OFlags::WRONLY).ok();
        groups.unified = Some(dir);
        groups
    }

    /// As root: version 1 groups for what version 2 does not limit, for processes of this uid to join.
    /// Their `tasks` files, by number of their controller, are for init alone: the kernel goes by who
    /// opened one, so each is opened by that uid, never by root.
    pub fn add_version_1(
        &mut self,
        parents: &Parents,
        name: &str,
        id: u32,
    ) -> Vec<(usize, OwnedFd)> {
        let mut entrances = Vec::new();
        let name = format!("sandstorm-{name}");
        for number in 0..CONTROLLERS.len() {
            if self.settings.iter().any(|(setting, _)| setting.decides(2, number)) {
                continue;
            }
            let Some(parent) = &parents.alone[number] else { continue };
            let Some(dir) = v1_group(parent.as_fd(), &name, number) else { continue };
            let open = || fd::open_in(&dir, c"tasks", OFlags::WRONLY);
            let Ok(entrance) = creds::with_effective_ids(id, open) else { continue };
            self.open_settings(dir.as_fd(), 1, number);
            entrances.push((number, entrance));
            if number == MEMORY {
                self.events = fd::open_in(&dir, c"cgroup.event_control", OFlags::WRONLY).ok();
            }
            self.alone[number] = Some(dir);
        }
        entrances
    }

    fn open_settings(&mut self, dir: BorrowedFd<'_>, version: u8, number: usize) {
        for setting in share::settings(version, number) {
            let file = fd::open_in(dir, setting.file, OFlags::RDWR).ok();
            self.settings.extend(file.map(|file| (setting, file)));
        }
    }
}

/// Nested in the caller's own group. A group stays when its grain has ended and is used again by
/// the next that has its number, which is free only when every process of that grain is gone: making
/// one takes longer than a mount.
fn v1_group(parent: BorrowedFd<'_>, name: &str, number: usize) -> Option<OwnedFd> {
    let quiet = |dir: &OwnedFd| {
        share::QUIET[number].is_none_or(|(file, most)| {
            text_at(dir.as_fd(), file).trim().parse::<u64>().is_ok_and(|used| used <= most)
        })
    };
    // Neither another caller's nor one that whoever owns the parent has made.
    let wanted = (0, rustix::process::getgid().as_raw(), GROUP_MODE | libc::S_IFDIR);
    let ours = |dir: &OwnedFd| {
        rustix::fs::fstat(dir).is_ok_and(|s| (s.st_uid, s.st_gid, s.st_mode) == wanted)
    };
    let again = make_dir(parent, name).ok().filter(|dir| quiet(dir) && ours(dir));
    again.or_else(|| fresh_group(parent, name).ok())
}

/// A new version 2 group; root makes one only where there are controllers to give it.
fn v2_group(parents: &Parents, name: &str, root: bool) -> Option<OwnedFd> {
    let (top, made);
    let parent = match &parents.delegated {
        Some(delegated) => delegated,
        None => {
            top = parents.unified.as_ref().filter(|top| root && hand_down(top.as_fd()))?;
            made = make_dir(top.as_fd(), "sandstorm").ok()?;
            &made
        }
    };
    let of_use = hand_down(parent.as_fd()) || !root;
    of_use.then(|| fresh_group(parent.as_fd(), name).ok())?
}

/// Hands the controllers of a version 2 group down to those below it, as far as it has them; whether
/// it has any.
///
/// Written only where something is missing: every such write locks all groups of the machine.
fn hand_down(group: BorrowedFd<'_>) -> bool {
    let (has, hands_down) =
        (text_at(group, c"cgroup.controllers"), text_at(group, c"cgroup.subtree_control"));
    let among = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    for controller in CONTROLLERS {
        if among(&has, controller) && !among(&hands_down, controller) {
            let _ = fd::write_in(group, c"cgroup.subtree_control", &format!("+{controller}"));
        }
    }
    CONTROLLERS.into_iter().any(|controller| among(&has, controller))
}

fn open(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    fd::open_in(parent, &CString::new(name)?, OFlags::PATH | OFlags::DIRECTORY)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    fd::ensure_dir(parent, &CString::new(name)?, GROUP_MODE)?;
    open(parent, name)
}

/// A group made anew.
///
/// What a killed predecessor left under this name is removed first. Where its processes are still
/// dying that is refused, and the next name is taken: a group must not be used again after
/// cgroup.kill, because Linux 6.14 and later kill whoever is born into one.
fn fresh_group(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    for n in 0..8 {
        let name = if n == 0 { name.to_owned() } else { format!("{name}.{n}") };
        let text = CString::new(name.as_str())?;
        let _ = rustix::fs::unlinkat(parent, &text, AtFlags::REMOVEDIR);
        let made = rustix::fs::mkdirat(parent, &text, GROUP_MODE.into());
        if made != Err(Errno::EXIST) {
            made?;
            return open(parent, &name);
        }
    }
    Err(Errno::EXIST.into())
}

fn text_at(group: BorrowedFd<'_>, file: &CStr) -> String {
    let mut text = [0; 512];
    let n =
        fd::open_in(group, file, OFlags::RDONLY).and_then(|f| fd::read(&f, &mut text)).unwrap_or(0);
    String::from_utf8_lossy(&text[..n]).into_owned()
}
