//! Control groups: memory, processes and processor time of a grain, by whatever the machine has.
//!
//! Version 2 where it has the controllers, else version 1. Root makes the groups, nested in the
//! caller's own where the kernel allows that, so that the caller's limits go on counting; without
//! root they are made in a subtree that was delegated to us. A grain joins before its first process
//! does anything. Trust: the fixed tree below /sys/fs/cgroup, checked to be control group file
//! systems; names of groups are the kernel's and opened beneath it. Without any of it the grain
//! still runs, and the log says what is not limited.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::fd;

const CGROUP2_MAGIC: i64 = 0x6367_7270;
const CGROUP1_MAGIC: i64 = 0x0027_e0eb;

/// What the groups can limit, in the order of the log.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
pub const MEMORY: usize = 0;
pub const PIDS: usize = 1;
pub const CPU: usize = 2;

/// What a grain may have of the machine: bytes, processes, percent of a processor, weight (100 is
/// everybody's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub memory: u64,
    pub pids: u64,
    pub cpu: u64,
    pub weight: u64,
}

/// An open file of a group that goes on telling something to a process without rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Handle {
    /// Open for writing: `1` ends every process of the grain, frozen or not.
    Kill,
    /// `memory.events` (2) or `memory.oom_control` (1).
    MemoryEvents,
    /// Becomes readable when memory runs out (1 only; 2 kills the whole group by itself).
    MemoryAlarm,
    MemoryUsed,
    PidsUsed,
    PidsEvents,
    CpuStat,
}

impl Handle {
    const ALL: [Handle; 7] = [
        Handle::Kill,
        Handle::MemoryEvents,
        Handle::MemoryAlarm,
        Handle::MemoryUsed,
        Handle::PidsUsed,
        Handle::PidsEvents,
        Handle::CpuStat,
    ];

    pub fn from_number(number: u8) -> Option<Handle> {
        Handle::ALL.into_iter().find(|handle| *handle as u8 == number)
    }
}

/// A file, what is written to it, and whether the limit stands or falls with that.
type Setting = (&'static str, fn(&Share) -> String, bool);

/// How one version limits one controller, and what is kept open.
struct Files {
    set: &'static [Setting],
    keep: &'static [(Handle, &'static str)],
    /// A version 1 group is used again if this file says no more than this: what a predecessor
    /// leaves, the kernel takes back in its own time, and until then it would count against us.
    quiet: Option<(&'static str, u64)>,
}

const PIDS_FILES: Files = Files {
    // One more for init.
    set: &[("pids.max", |s| (s.pids + 1).to_string(), true)],
    keep: &[(Handle::PidsUsed, "pids.current"), (Handle::PidsEvents, "pids.events")],
    quiet: Some(("pids.current", 0)),
};
const V2: [Files; 3] = [
    Files {
        set: &[
            ("memory.max", |s| s.memory.to_string(), true),
            ("memory.swap.max", |_| "0".into(), false),
            ("memory.oom.group", |_| "1".into(), false),
        ],
        keep: &[(Handle::MemoryUsed, "memory.current"), (Handle::MemoryEvents, "memory.events")],
        quiet: None,
    },
    PIDS_FILES,
    Files {
        set: &[
            ("cpu.max", |s| format!("{} 100000", s.cpu * 1000), true),
            ("cpu.weight", |s| s.weight.to_string(), false),
        ],
        keep: &[(Handle::CpuStat, "cpu.stat")],
        quiet: None,
    },
];
const V1: [Files; 3] = [
    Files {
        // Memory and swap together may never be below memory alone.
        set: &[
            ("memory.memsw.limit_in_bytes", |_| "-1".into(), false),
            ("memory.limit_in_bytes", |s| s.memory.to_string(), true),
            ("memory.memsw.limit_in_bytes", |s| s.memory.to_string(), false),
        ],
        keep: &[
            (Handle::MemoryUsed, "memory.usage_in_bytes"),
            (Handle::MemoryEvents, "memory.oom_control"),
        ],
        quiet: Some(("memory.usage_in_bytes", 4 << 20)),
    },
    PIDS_FILES,
    Files {
        // 1024 shares are what weight 100 is in version 2; the quota is of a period of 100 ms.
        set: &[
            ("cpu.shares", |s| (s.weight * 1024 / 100).max(2).to_string(), false),
            ("cpu.cfs_quota_us", |s| (s.cpu * 1000).to_string(), true),
        ],
        keep: &[(Handle::CpuStat, "cpu.stat")],
        quiet: None,
    },
];

/// Whose rights make the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Root,
    /// Only inside a subtree that belongs to us.
    Delegated,
}

/// Groups of one grain.
#[derive(Debug, Default)]
pub struct Groups {
    /// Version 2 directory, to be born in.
    pub unified: Option<OwnedFd>,
    /// `tasks` files of the version 1 groups, opened with the rights that may join them: for init,
    /// and for nobody after it.
    pub entrances: Vec<OwnedFd>,
    /// Which version keeps each of `CONTROLLERS`; 0 for none.
    pub limited: [u8; 3],
    pub handles: Vec<(Handle, OwnedFd)>,
}

impl Groups {
    /// Makes the version 2 group, which a process must be born into, and sets its limits. Never
    /// fails: what cannot be had is not in `limited`.
    ///
    /// `name` is this grain's among all that run.
    pub fn to_be_born_in(name: &str, share: &Share, right: Right) -> Groups {
        let mut groups = Groups::default();
        if let Some(dir) = v2_group(&own_groups(), name, right) {
            for (number, files) in V2.iter().enumerate() {
                groups.limit(dir.as_fd(), number, 2, files, share);
            }
            groups.keep(dir.as_fd(), Handle::Kill, "cgroup.kill", libc::O_WRONLY);
            groups.unified = Some(dir);
        }
        groups
    }

    /// As root: version 1 groups for what version 2 does not limit, for init to join.
    pub fn add_to_join(&mut self, name: &str, share: &Share) {
        let own = own_groups();
        for (number, files) in V1.iter().enumerate() {
            if self.limited[number] == 0 {
                self.use_v1(&own, name, number, files, share);
            }
        }
    }

    /// Nested in the caller's own group. A group stays
    /// when its grain has ended and is used again by the next that has its number, which is free
    /// only when every process of that grain is gone: making one takes longer than a mount.
    fn use_v1(&mut self, own: &str, name: &str, number: usize, files: &Files, share: &Share) {
        let controller = CONTROLLERS[number];
        let Some(top) = hierarchy(&format!("/sys/fs/cgroup/{controller}"), CGROUP1_MAGIC) else {
            return;
        };
        // Not at the top instead: there the caller's own limits would not count.
        let Some(path) = path_in(own, controller) else { return };
        let Ok(parent) = beneath(top.as_fd(), path) else { return };
        let name = format!("sandstorm-{name}");
        let again = make_dir(parent.as_fd(), &name).ok().filter(|dir| is_quiet(dir.as_fd(), files));
        let Some(dir) = again.or_else(|| fresh_group(parent.as_fd(), &name).ok()) else { return };
        let Ok(entrance) = open_at(dir.as_fd(), "tasks", libc::O_WRONLY) else { return };
        if !self.limit(dir.as_fd(), number, 1, files, share) {
            return;
        }
        self.entrances.push(entrance);
        let events = self.handles.iter().find(|(handle, _)| *handle == Handle::MemoryEvents);
        if let (MEMORY, Some((_, events)), Ok(alarm)) = (number, events, fd::eventfd()) {
            let line = format!("{} {}", alarm.as_raw_fd(), events.as_raw_fd());
            if write_at(dir.as_fd(), "cgroup.event_control", &line).is_ok() {
                self.handles.push((Handle::MemoryAlarm, alarm));
            }
        }
    }

    /// Whether the limit stands.
    fn limit(
        &mut self,
        dir: BorrowedFd<'_>,
        number: usize,
        version: u8,
        files: &Files,
        share: &Share,
    ) -> bool {
        for (file, value, must) in files.set {
            if write_at(dir, file, &value(share)).is_err() && *must {
                return false;
            }
        }
        for (handle, file) in files.keep {
            self.keep(dir, *handle, file, libc::O_RDONLY);
        }
        self.limited[number] = version;
        true
    }

    fn keep(&mut self, dir: BorrowedFd<'_>, handle: Handle, file: &str, flags: i32) {
        if let Ok(file) = open_at(dir, file, flags) {
            self.handles.push((handle, file));
        }
    }

    /// Puts a process (which waits) into the version 2 group, where it was not born there.
    ///
    /// # Errors
    /// The kernel's refusal; then the grain must not start, for it would be without its limits.
    pub fn join(&self, pid: i32) -> io::Result<()> {
        match &self.unified {
            Some(dir) => write_at(dir.as_fd(), "cgroup.procs", &pid.to_string()),
            None => Ok(()),
        }
    }
}

/// Puts the calling process, which must have one thread, into version 1 groups by their entrances.
///
/// Each thread moving itself is the one way that takes no machine-wide lock: moving a process
/// by its number waits for an RCU grace period a hierarchy, 5 to 20 ms together.
///
/// # Errors
/// The kernel's refusal; then the grain must not start.
pub fn enter(entrances: &[OwnedFd]) -> io::Result<()> {
    entrances.iter().try_for_each(|tasks| fd::write(tasks.as_raw_fd(), b"0").map(drop))
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
fn v2_group(own: &str, name: &str, right: Right) -> Option<OwnedFd> {
    let top = hierarchy("/sys/fs/cgroup", CGROUP2_MAGIC)
        .or_else(|| hierarchy("/sys/fs/cgroup/unified", CGROUP2_MAGIC))?;
    // Delegation as a service manager does it: the server has moved itself into `main`, so its
    // parent has no processes and may hand controllers to our groups beside it.
    let parent = match path_in(own, "").and_then(|path| path.strip_suffix("/main")) {
        Some(delegated) => beneath(top.as_fd(), delegated).ok()?,
        None if right == Right::Root && hand_down(top.as_fd()) => {
            make_dir(top.as_fd(), "sandstorm").ok()?
        }
        None => return None,
    };
    if !hand_down(parent.as_fd()) && right == Right::Root {
        return None;
    }
    fresh_group(parent.as_fd(), name).ok()
}

/// Hands the controllers of a version 2 group down to those below it, as far as it has them; whether
/// it has any.
///
/// Written only where something is missing: every such write locks all groups of the machine.
fn hand_down(group: BorrowedFd<'_>) -> bool {
    let (has, hands_down) =
        (text_at(group, "cgroup.controllers"), text_at(group, "cgroup.subtree_control"));
    let among = |list: &str, name: &str| list.split_ascii_whitespace().any(|word| word == name);
    for controller in CONTROLLERS {
        if among(&has, controller) && !among(&hands_down, controller) {
            let _ = write_at(group, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
    CONTROLLERS.into_iter().any(|controller| among(&has, controller))
}

fn hierarchy(path: &str, magic: i64) -> Option<OwnedFd> {
    let path = CString::new(path).ok()?;
    let dir = fd::open(&path, libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
    (fd::filesystem_magic(dir.as_fd()).ok()? == magic).then_some(dir)
}

/// A directory of a hierarchy by the path that the kernel told; one outside our control group
/// namespace (`/..`) leads out and is refused.
fn beneath(top: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    open_at(top, relative, libc::O_PATH | libc::O_DIRECTORY)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match fd::mkdirat(parent, &CString::new(name)?, 0o755) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => Err(e),
        _ => beneath(parent, name),
    }
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
        let _ = fd::rmdirat(parent, &text);
        match fd::mkdirat(parent, &text, 0o755) {
            Ok(()) => return beneath(parent, &name),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

fn is_quiet(group: BorrowedFd<'_>, files: &Files) -> bool {
    files.quiet.is_none_or(|(file, most)| {
        text_at(group, file).trim().parse::<u64>().is_ok_and(|used| used <= most)
    })
}

fn text_at(group: BorrowedFd<'_>, file: &str) -> String {
    let mut text = [0; 512];
    let n = open_at(group, file, libc::O_RDONLY)
        .and_then(|f| fd::read(f.as_raw_fd(), &mut text))
        .unwrap_or(0);
    String::from_utf8_lossy(&text[..n]).into_owned()
}

fn open_at(dir: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<OwnedFd> {
    fd::openat2(dir, &CString::new(name)?, flags, 0, fd::BENEATH)
}

fn write_at(dir: BorrowedFd<'_>, name: &str, text: &str) -> io::Result<()> {
    let file = open_at(dir, name, libc::O_WRONLY)?;
    fd::write(file.as_raw_fd(), text.as_bytes()).map(drop)
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
        let tmp = fd::open(c"/tmp", libc::O_PATH | libc::O_DIRECTORY, 0).unwrap();
        assert!(beneath(tmp.as_fd(), "/../etc").is_err());
    }

    #[test]
    fn every_handle_has_a_number() {
        for handle in Handle::ALL {
            assert_eq!(Handle::from_number(handle as u8), Some(handle));
        }
        assert_eq!(Handle::from_number(200), None);
    }
}
