//! Control groups: memory, processes and processor time of a grain, by whatever the machine has.
//!
//! Version 2, version 1, or both side by side (then 2 starts and kills, 1 limits). In setuid mode
//! the groups are made by root, nested in the caller's own group where the kernel allows that, so
//! that the caller's limits go on counting; otherwise in a subtree that was delegated to us. A
//! grain joins before its first process is forked. Trust: the fixed tree below /sys/fs/cgroup,
//! checked to be cgroup file systems; names of groups are the kernel's and opened beneath it.
//! Without any of it the grain still runs, and the log says what is not limited.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::limits::Limits;
use crate::sys::fd;

const CGROUP2_MAGIC: i64 = 0x6367_7270;
const CGROUP1_MAGIC: i64 = 0x0027_e0eb;
/// Stands before a grain's name in version 1, where groups lie beside others.
const V1_PREFIX: &str = "sandstorm-";

/// What the groups can limit, in the order of the log.
const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Pids, Controller::Cpu];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controller {
    Memory,
    Pids,
    Cpu,
}

impl Controller {
    fn name(self) -> &'static str {
        match self {
            Controller::Memory => "memory",
            Controller::Pids => "pids",
            Controller::Cpu => "cpu",
        }
    }
}

/// Which version of control groups keeps a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// Groups of one grain, and the handles that stay useful without privilege.
#[derive(Debug, Default)]
pub struct Cgroup {
    /// Version 2 directory, to be born in.
    unified: Option<OwnedFd>,
    /// `tasks` files of the version 1 groups, opened with the rights that may join them.
    v1: Vec<OwnedFd>,
    /// Where the groups are, and what is put before the grain's name: only a trial removes them.
    made: Vec<(OwnedFd, &'static str)>,
    /// What is limited, and by what.
    pub limited: Vec<(Controller, Version)>,
    /// Open for writing: `1` ends every process of the grain, frozen or not.
    pub kill: Option<OwnedFd>,
    pub memory: Option<MemoryEvents>,
    pub counters: Counters,
    /// What is limited and how, for the log.
    pub notes: Vec<String>,
}

/// Open files of the groups, which say how often a limit was met.
#[derive(Debug, Default)]
pub struct Counters {
    /// `memory.current` (2) or `memory.usage_in_bytes` (1).
    memory: Option<OwnedFd>,
    /// `pids.current` and `pids.events`.
    pids: Option<(OwnedFd, OwnedFd)>,
    /// `cpu.stat`.
    cpu: Option<OwnedFd>,
}

impl Counters {
    /// Bytes of memory in use.
    pub fn memory(&self) -> Option<u64> {
        self.memory.as_ref().and_then(|f| text(f.as_fd()).trim().parse().ok())
    }

    /// Processes and threads there are, and forks that were refused.
    pub fn pids(&self) -> Option<(u64, u64)> {
        let (current, events) = self.pids.as_ref()?;
        Some((text(current.as_fd()).trim().parse().ok()?, count(events.as_fd(), "max ")))
    }

    /// Periods of 100 ms in which the grain was stopped for having had its processor time.
    pub fn throttled(&self) -> Option<u64> {
        self.cpu.as_ref().map(|f| count(f.as_fd(), "nr_throttled "))
    }

    fn open(&mut self, controller: Controller, version: Version, dir: BorrowedFd<'_>) {
        let open = |name| open_at(dir, name, libc::O_RDONLY).ok();
        match (controller, version) {
            (Controller::Memory, Version::One) => self.memory = open("memory.usage_in_bytes"),
            (Controller::Memory, Version::Two) => self.memory = open("memory.current"),
            (Controller::Pids, _) => self.pids = open("pids.current").zip(open("pids.events")),
            (Controller::Cpu, _) => self.cpu = open("cpu.stat"),
        }
    }
}

/// Tells whether the grain ran out of memory.
#[derive(Debug)]
pub struct MemoryEvents {
    /// `memory.events` (2) or `memory.oom_control` (1).
    counters: OwnedFd,
    /// Count at the start; a reused group keeps counting.
    before: u64,
    /// Becomes readable when memory runs out (1 only; 2 kills the whole group by itself).
    pub alarm: Option<OwnedFd>,
}

impl MemoryEvents {
    /// Kills for want of memory since the start.
    pub fn kills(&self) -> u64 {
        count(self.counters.as_fd(), "oom_kill ").saturating_sub(self.before)
    }
}

fn text(file: BorrowedFd<'_>) -> String {
    let mut buffer = [0; 1024];
    let n = fd::read_at(file.as_raw_fd(), &mut buffer, 0).unwrap_or(0);
    String::from_utf8_lossy(&buffer[..n]).into_owned()
}

/// The number on the line that starts with `word`; 0 where there is none.
fn count(file: BorrowedFd<'_>, word: &str) -> u64 {
    text(file)
        .lines()
        .filter_map(|l| l.strip_prefix(word))
        .find_map(|v| v.trim().parse().ok())
        .unwrap_or(0)
}

/// Whose rights make the groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    Root,
    /// Only inside a subtree that belongs to us.
    Delegated,
}

impl Cgroup {
    /// Makes the groups and sets the limits. Never fails: what cannot be had is noted.
    ///
    /// `name` is this grain's among all that run.
    pub fn prepare(name: &str, limits: &Limits, right: Right) -> Cgroup {
        let mut group = Cgroup::default();
        let paths = own_paths();
        if let Some((top, parent)) = unified_parent(&paths, right) {
            group.use_unified(&top, parent, name, limits);
        }
        if right == Right::Root {
            for controller in CONTROLLERS {
                if group.by(controller).is_none() {
                    group.use_v1(&paths, controller, name, limits);
                }
            }
        }
        group.note(limits);
        group
    }

    /// What `prepare` would do here, undone again.
    pub fn trial(limits: &Limits, right: Right) -> Cgroup {
        let name = format!("check-{}", std::process::id());
        let group = Cgroup::prepare(&name, limits, right);
        for (parent, prefix) in &group.made {
            if let Ok(name) = CString::new(format!("{prefix}{name}")) {
                let _ = fd::rmdirat(parent.as_fd(), &name);
            }
        }
        group
    }

    /// What keeps this limit.
    pub fn by(&self, controller: Controller) -> Option<Version> {
        self.limited.iter().find(|(c, _)| *c == controller).map(|(_, version)| *version)
    }

    fn note(&mut self, limits: &Limits) {
        let names = |version: Option<Version>| {
            let names: Vec<_> = CONTROLLERS
                .into_iter()
                .filter(|c| self.by(*c) == version)
                .map(Controller::name)
                .collect();
            names.join(", ")
        };
        let (two, one, none) = (names(Some(Version::Two)), names(Some(Version::One)), names(None));
        let mut notes = Vec::new();
        for (version, names) in [("2", two), ("1", one)] {
            if !names.is_empty() {
                notes.push(format!("limits by cgroup version {version}: {names}"));
            }
        }
        if !notes.is_empty() {
            notes.push(format!(
                "memory {} MiB, {} processes, {} % of a processor, weight {}",
                limits.memory >> 20,
                limits.pids,
                limits.cpu,
                limits.weight
            ));
        }
        if !none.is_empty() {
            notes.push(format!(
                "not limited by cgroup: {none} (no controller that this program may use)"
            ));
        }
        self.notes = notes;
    }

    fn use_unified(&mut self, top: &OwnedFd, parent: OwnedFd, name: &str, limits: &Limits) {
        for level in [top, &parent] {
            hand_down(level.as_fd());
        }
        let Ok(dir) = fresh_group(parent.as_fd(), name) else { return };
        let set = |file: &str, value: String| write_at(dir.as_fd(), file, &value).is_ok();
        if set("memory.max", limits.memory.to_string()) {
            self.limited.push((Controller::Memory, Version::Two));
            set("memory.swap.max", "0".into());
            set("memory.oom.group", "1".into());
            self.memory = open_at(dir.as_fd(), "memory.events", libc::O_RDONLY).ok().map(|file| {
                let before = count(file.as_fd(), "oom_kill ");
                MemoryEvents { counters: file, before, alarm: None }
            });
        }
        if set("pids.max", (limits.pids + 1).to_string()) {
            self.limited.push((Controller::Pids, Version::Two));
        }
        if set("cpu.max", format!("{} 100000", limits.cpu * 1000)) {
            self.limited.push((Controller::Cpu, Version::Two));
            set("cpu.weight", limits.weight.to_string());
        }
        for (controller, version) in self.limited.clone() {
            self.counters.open(controller, version, dir.as_fd());
        }
        self.kill = open_at(dir.as_fd(), "cgroup.kill", libc::O_WRONLY).ok();
        self.unified = Some(dir);
        self.made.push((parent, ""));
    }

    /// A version 1 group nested in the caller's own, or at the top where that cannot be opened.
    fn use_v1(
        &mut self,
        paths: &[(String, String)],
        controller: Controller,
        name: &str,
        limits: &Limits,
    ) {
        let path = format!("/sys/fs/cgroup/{}", controller.name());
        let Some(top) = open_hierarchy(&path, CGROUP1_MAGIC) else { return };
        let own = paths
            .iter()
            .find(|(all, _)| all.split(',').any(|c| c == controller.name()))
            .and_then(|(_, path)| open_beneath(top.as_fd(), path).ok());
        let parent = own.unwrap_or(top);
        let Ok(dir) = fresh_group(parent.as_fd(), &format!("{V1_PREFIX}{name}")) else { return };
        self.made.push((parent, V1_PREFIX));
        let tasks = open_at(dir.as_fd(), "tasks", libc::O_WRONLY);
        if let (true, Ok(tasks)) = (set_v1(dir.as_fd(), controller, limits), tasks) {
            self.limited.push((controller, Version::One));
            self.counters.open(controller, Version::One, dir.as_fd());
            if controller == Controller::Memory {
                self.memory = v1_events(dir.as_fd());
            }
            self.v1.push(tasks);
        }
    }

    /// Lets go of the way to the groups above, which only making and removing need.
    pub fn settle(&mut self) {
        self.made.clear();
    }

    /// The version 2 group for a child to be born in.
    pub fn unified(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
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

    /// Puts the calling process, which must have one thread, into the version 1 groups.
    ///
    /// Each thread moving itself is the one way that takes no machine-wide lock: moving a process
    /// by its number waits for an RCU grace period a hierarchy, 5 to 20 ms together.
    ///
    /// # Errors
    /// As `join`.
    pub fn enter(&self) -> io::Result<()> {
        self.v1.iter().try_for_each(|tasks| fd::write(tasks.as_raw_fd(), b"0").map(drop))
    }

    /// In the parent, once the child has them: nobody unprivileged may hold what can move
    /// processes.
    pub fn forget_entrances(&mut self) {
        self.v1.clear();
    }
}

/// Hands the controllers of a version 2 group down to those below it, as far as it has them.
///
/// Written only where something is missing: every such write locks all groups of the machine.
fn hand_down(group: BorrowedFd<'_>) {
    let words = |file: &str| {
        let mut text = [0; 512];
        let n = open_at(group, file, libc::O_RDONLY)
            .and_then(|f| fd::read(f.as_raw_fd(), &mut text))
            .unwrap_or(0);
        String::from_utf8_lossy(&text[..n]).into_owned()
    };
    let (has, hands_down) = (words("cgroup.controllers"), words("cgroup.subtree_control"));
    for controller in ["memory", "pids", "cpu"] {
        let among = |list: &str| list.split_ascii_whitespace().any(|w| w == controller);
        if among(&has) && !among(&hands_down) {
            let _ = write_at(group, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
}

/// The lines of /proc/self/cgroup: (controllers, path).
fn own_paths() -> Vec<(String, String)> {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    parse_paths(&text)
}

fn parse_paths(text: &str) -> Vec<(String, String)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            // Outside our cgroup namespace: not ours to use.
            (path.starts_with('/') && !path.starts_with("/.."))
                .then(|| (controllers.to_owned(), path.to_owned()))
        })
        .collect()
}

fn open_hierarchy(path: &str, magic: i64) -> Option<OwnedFd> {
    let path = CString::new(path).ok()?;
    let dir = fd::open(&path, libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
    (fd::filesystem_magic(dir.as_fd()).ok()? == magic).then_some(dir)
}

/// Hierarchy and directory in which version 2 groups of grains are made.
fn unified_parent(paths: &[(String, String)], right: Right) -> Option<(OwnedFd, OwnedFd)> {
    let top = open_hierarchy("/sys/fs/cgroup", CGROUP2_MAGIC)
        .or_else(|| open_hierarchy("/sys/fs/cgroup/unified", CGROUP2_MAGIC))?;
    let own = paths.iter().find(|(controllers, _)| controllers.is_empty()).map(|(_, p)| p.as_str());
    // Delegation as a service manager does it: the server has moved itself into `main`, so its
    // parent has no processes and may hand controllers to our groups beside it.
    if let Some(delegated) = own.and_then(|p| p.strip_suffix("/main")) {
        let dir = open_beneath(top.as_fd(), delegated).ok()?;
        return Some((dir.try_clone().ok()?, dir));
    }
    if right == Right::Delegated {
        return None;
    }
    match make_dir(top.as_fd(), "sandstorm") {
        Ok(dir) => Some((top, dir)),
        Err(_) => None,
    }
}

/// A directory of a hierarchy by the path that the kernel told.
fn open_beneath(top: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    let relative = path.trim_start_matches('/');
    let relative = if relative.is_empty() { "." } else { relative };
    let path = CString::new(relative).map_err(io::Error::other)?;
    fd::openat2(top, &path, libc::O_PATH | libc::O_DIRECTORY, 0, fd::BENEATH)
}

fn make_dir(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let text = CString::new(name).map_err(io::Error::other)?;
    match fd::mkdirat(parent, &text, 0o755) {
        Err(e) if e.raw_os_error() != Some(libc::EEXIST) => Err(e),
        _ => open_beneath(parent, name),
    }
}

/// A group made anew, so that its counters start at zero.
///
/// What a killed predecessor left under this name is removed first. Where its processes are still
/// dying that is refused, and the next name is taken: a group must not be used again after
/// cgroup.kill, because Linux 6.14 and later kill whoever is born into one.
fn fresh_group(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    for n in 0..8 {
        let name = if n == 0 { name.to_owned() } else { format!("{name}.{n}") };
        let text = CString::new(name.as_str()).map_err(io::Error::other)?;
        let _ = fd::rmdirat(parent, &text);
        match fd::mkdirat(parent, &text, 0o755) {
            Ok(()) => return open_beneath(parent, &name),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EBUSY))
}

fn set_v1(dir: BorrowedFd<'_>, controller: Controller, limits: &Limits) -> bool {
    let set = |file: &str, value: u64| write_at(dir, file, &value.to_string()).is_ok();
    match controller {
        Controller::Memory => {
            // Memory and swap together can only be set once memory alone is below.
            let limited = set("memory.limit_in_bytes", limits.memory);
            let _ = set("memory.memsw.limit_in_bytes", limits.memory);
            limited
        }
        Controller::Pids => set("pids.max", limits.pids + 1),
        Controller::Cpu => {
            // 1024 shares are what weight 100 is in version 2.
            if limits.weight != 100 {
                let _ = set("cpu.shares", (limits.weight * 1024 / 100).max(2));
            }
            // Of a period of 100 ms, which every new group has.
            set("cpu.cfs_quota_us", limits.cpu * 1000)
        }
    }
}

fn v1_events(dir: BorrowedFd<'_>) -> Option<MemoryEvents> {
    let counters = open_at(dir, "memory.oom_control", libc::O_RDONLY).ok()?;
    let before = count(counters.as_fd(), "oom_kill ");
    let alarm = fd::eventfd().ok().filter(|event| {
        let line = format!("{} {}", event.as_raw_fd(), counters.as_raw_fd());
        write_at(dir, "cgroup.event_control", &line).is_ok()
    });
    Some(MemoryEvents { counters, before, alarm })
}

fn open_at(dir: BorrowedFd<'_>, name: &str, flags: i32) -> io::Result<OwnedFd> {
    let name = CString::new(name).map_err(io::Error::other)?;
    fd::openat2(dir, &name, flags, 0, fd::BENEATH)
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
        let paths = parse_paths(text);
        assert_eq!(paths.len(), 3);
        assert!(paths.contains(&(String::new(), "/system.slice/shell.service/main".into())));
        assert!(paths.contains(&("cpu,cpuacct".into(), "/".into())));
    }
}
