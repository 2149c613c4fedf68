//! Control groups of a grain: made and opened here, by whatever the machine has; what is written into
//! them is settled without privilege (`sandbox::share`).
//!
//! Version 2 where it has the controllers, else version 1. Root makes the groups, nested in the
//! caller's own where the kernel allows that, so that the caller's limits go on counting; without
//! root they are made in a subtree that was delegated to us. A grain joins before its init does
//! anything but make its network. Trust: the fixed tree below /sys/fs/cgroup, checked to be control
//! group file systems; names of groups are the kernel's and opened beneath it. Without any of it the
//! grain still runs, and the log says what is not limited.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use crate::sandbox::share::{self, CONTROLLERS, MEMORY, Setting};
use crate::sys::{creds, fd};

/// Groups are root's, and looked into by a process that has the caller's gid and no rights.
const GROUP_MODE: u32 = 0o750;

/// A version 1 group is used again if this file of its controller says no more than this: what a
/// predecessor leaves, the kernel takes back in its own time, and until then it would count against us.
const QUIET: [Option<(&CStr, u64)>; 3] = [
    Some((c"memory.usage_in_bytes", 4 << 20)),
    // An init that nobody has reaped yet.
    Some((c"pids.current", 1)),
    None,
];

/// What an open descriptor is, among those that are left to a process without rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handle {
    /// The version 2 group, a directory.
    Unified,
    /// A version 1 group, of one of `CONTROLLERS`.
    Alone(usize),
    /// `cgroup.kill`, for writing: `1` ends every process of the grain, frozen or not.
    Kill,
    /// Becomes readable when memory runs out (version 1 only; 2 kills the whole group by itself).
    MemoryAlarm,
}

/// Groups of one grain, all that is in them opened with the rights of whoever made them.
#[derive(Debug, Default)]
pub struct Groups {
    /// Version 2 directory, to be born in.
    pub unified: Option<OwnedFd>,
    /// Where limits are written, once.
    pub settings: Vec<(&'static Setting, OwnedFd)>,
    pub handles: Vec<(Handle, OwnedFd)>,
    /// Which version keeps each of `CONTROLLERS`; 0 for none, and for all until limits are written.
    pub limited: [u8; 3],
}

impl Groups {
    /// Makes the version 2 group, which a process must be born into. Never fails: what cannot be had
    /// is not there.
    ///
    /// `name` is this grain's among all that run. Without root, only inside a subtree that was
    /// delegated to us.
    pub fn to_be_born_in(name: &str, root: bool) -> Groups {
        let mut groups = Groups::default();
        let Some(dir) = v2_group(&own_groups(), name, root) else { return groups };
        for number in 0..CONTROLLERS.len() {
            groups.open_settings(dir.as_fd(), 2, number);
        }
        if let Ok(file) = fd::open_in(&dir, c"cgroup.kill", OFlags::WRONLY) {
            groups.handles.push((Handle::Kill, file));
        }
        groups.handles.extend(dir.try_clone().ok().map(|dir| (Handle::Unified, dir)));
        groups.unified = Some(dir);
        groups
    }

    /// Whether a grain can do without the version 2 group: not when it is to be limited by it.
    pub fn forget_unified(&mut self) -> bool {
        let not_needed = !self.limited.contains(&2);
        if not_needed {
            self.unified = None;
            self.settings.retain(|(setting, _)| setting.version != 2);
            self.handles.retain(|(handle, _)| matches!(handle, Handle::Alone(_)));
        }
        not_needed
    }

    /// As root: version 1 groups for what version 2 does not limit, for processes of this uid to join.
    /// Their `tasks` files, by number of their controller, are for init alone: the kernel goes by who
    /// opened one, so each is opened by that uid, never by root.
    ///
    /// # Errors
    /// When root's ids cannot be had again.
    pub fn add_to_join(&mut self, name: &str, id: u32) -> io::Result<Vec<(usize, OwnedFd)>> {
        let mut entrances = Vec::new();
        let (own, name) = (own_groups(), format!("sandstorm-{name}"));
        for number in 0..CONTROLLERS.len() {
            if self.settings.iter().any(|(setting, _)| setting.decides(2, number)) {
                continue;
            }
            let Some(dir) = v1_group(&own, &name, number) else { continue };
            let entrance =
                creds::with_effective_ids(id, || fd::open_in(&dir, c"tasks", OFlags::WRONLY));
            let Ok(entrance) = entrance? else { continue };
            self.open_settings(dir.as_fd(), 1, number);
            entrances.push((number, entrance));
            if number == MEMORY
                && let Ok(alarm) = memory_alarm(dir.as_fd())
            {
                self.handles.push((Handle::MemoryAlarm, alarm));
            }
            self.handles.push((Handle::Alone(number), dir));
        }
        Ok(entrances)
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
fn v1_group(own: &str, name: &str, number: usize) -> Option<OwnedFd> {
    let controller = CONTROLLERS[number];
    let top = hierarchy(&format!("/sys/fs/cgroup/{controller}"), libc::CGROUP_SUPER_MAGIC)?;
    // Not at the top instead: there the caller's own limits would not count.
    let parent = beneath(top.as_fd(), path_in(own, controller)?).ok()?;
    let quiet = |dir: &OwnedFd| {
        QUIET[number].is_none_or(|(file, most)| {
            text_at(dir.as_fd(), file).trim().parse::<u64>().is_ok_and(|used| used <= most)
        })
    };
    // Neither another caller's nor one that whoever owns the parent has made.
    let wanted = (0, rustix::process::getgid().as_raw(), GROUP_MODE | libc::S_IFDIR);
    let ours = |dir: &OwnedFd| {
        rustix::fs::fstat(dir).is_ok_and(|s| (s.st_uid, s.st_gid, s.st_mode) == wanted)
    };
    let again = make_dir(parent.as_fd(), name).ok().filter(|dir| quiet(dir) && ours(dir));
    again.or_else(|| fresh_group(parent.as_fd(), name).ok())
}

fn memory_alarm(group: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let (alarm, events) = (
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        fd::open_in(group, c"memory.oom_control", OFlags::RDONLY)?,
    );
    let line = format!("{} {}", alarm.as_raw_fd(), events.as_raw_fd());
    fd::write_in(group, c"cgroup.event_control", &line).map(|()| alarm)
}

fn own_groups() -> String {
    // A group may have any name; one that is no text matches no path, and that controller is left out.
    let bytes = std::fs::read("/proc/self/cgroup").unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The path of our own group in the hierarchy of a controller, from /proc/self/cgroup.
fn path_in<'a>(own: &'a str, controller: &str) -> Option<&'a str> {
    own.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|c| c == controller).then_some(path)
    })
}

/// A new version 2 group; root makes one only where there are controllers to give it.
fn v2_group(own: &str, name: &str, root: bool) -> Option<OwnedFd> {
    let top = hierarchy("/sys/fs/cgroup", libc::CGROUP2_SUPER_MAGIC)
        .or_else(|| hierarchy("/sys/fs/cgroup/unified", libc::CGROUP2_SUPER_MAGIC))?;
    // Delegation as a service manager does it: the server has moved itself into `main`, so its
    // parent has no processes and may hand controllers to our groups beside it.
    let parent = match path_in(own, "").and_then(|path| path.strip_suffix("/main")) {
        Some(delegated) => beneath(top.as_fd(), delegated).ok()?,
        None if root && hand_down(top.as_fd()) => make_dir(top.as_fd(), "sandstorm").ok()?,
        None => return None,
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

fn hierarchy(path: &str, magic: i64) -> Option<OwnedFd> {
    let path = CString::new(path).ok()?;
    let dir = fd::open(&path, OFlags::PATH | OFlags::DIRECTORY).ok()?;
    (rustix::fs::fstatfs(&dir).ok()?.f_type == magic).then_some(dir)
}

/// A directory of a hierarchy by the path that the kernel told; one outside our control group
/// namespace (`/..`) leads out and is refused.
fn beneath(top: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    fd::open_in(top, &CString::new(relative)?, OFlags::PATH | OFlags::DIRECTORY)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    fd::ensure_dir(parent, &CString::new(name)?, GROUP_MODE)?;
    beneath(parent, name)
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
        match rustix::fs::mkdirat(parent, &text, GROUP_MODE.into()) {
            Err(Errno::EXIST) => {}
            other => {
                other?;
                return beneath(parent, &name);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_lines_are_understood() {
        let text = "4:memory:/user/box\n1:cpu,cpuacct:/\n0::/system.slice/shell.service/main\n\
                    7:pids:/../outside\nnonsense\n";
        assert_eq!(path_in(text, ""), Some("/system.slice/shell.service/main"));
        assert_eq!(path_in(text, "cpu"), Some("/"));
        assert_eq!(path_in(text, "memory"), Some("/user/box"));
        assert_eq!(path_in(text, "blkio"), None);
        let tmp = fd::open(c"/tmp", OFlags::PATH | OFlags::DIRECTORY).unwrap();
        assert!(beneath(tmp.as_fd(), "/../etc").is_err());
    }
}
