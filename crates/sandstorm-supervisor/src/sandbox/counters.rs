//! What the open files of a grain's control groups tell, to a process without any right over them.
//!
//! Version 1 groups are used again and go on counting, so each count is taken from the start on.
//! Trust: numbers of the kernel.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;

use super::limits::Limits;
use super::share::{CONTROLLERS, CPU, Groups, MEMORY, PIDS};
use crate::sys::fd;

/// A count and what it was at the start.
#[derive(Debug)]
struct Count {
    file: OwnedFd,
    word: &'static str,
    before: u64,
}

impl Count {
    fn new(file: OwnedFd, word: &'static str) -> Count {
        let before = count(file.as_fd(), word);
        Count { file, word, before }
    }

    fn now(&self) -> u64 {
        count(self.file.as_fd(), self.word).saturating_sub(self.before)
    }
}

/// How much is used, and how often a limit was met.
#[derive(Debug, Default)]
pub struct Counters {
    memory: Option<OwnedFd>,
    pids: Option<OwnedFd>,
    refused: Option<Count>,
    throttled: Option<Count>,
}

impl Counters {
    /// Bytes of memory in use.
    pub fn memory(&self) -> Option<u64> {
        text(self.memory.as_ref()?.as_fd()).trim().parse().ok()
    }

    /// Processes and threads there are, and forks that were refused.
    pub fn pids(&self) -> Option<(u64, u64)> {
        let current = text(self.pids.as_ref()?.as_fd()).trim().parse().ok()?;
        Some((current, self.refused.as_ref()?.now()))
    }

    /// Periods of 100 ms in which the grain was stopped for having had its processor time.
    pub fn throttled(&self) -> Option<u64> {
        self.throttled.as_ref().map(Count::now)
    }
}

/// Tells whether the grain ran out of memory.
#[derive(Debug)]
pub struct MemoryEvents {
    kills: Count,
    /// Becomes readable when memory runs out (version 1 only; 2 kills the whole group by itself).
    pub alarm: Option<OwnedFd>,
}

impl MemoryEvents {
    /// Kills for want of memory since the start.
    pub fn kills(&self) -> u64 {
        self.kills.now()
    }
}

/// Everything that the handles of one grain's groups give.
#[derive(Debug, Default)]
pub struct Watch {
    pub counters: Counters,
    pub memory: Option<MemoryEvents>,
    /// Open for writing: `1` ends every process of the grain, frozen or not.
    pub kill: Option<OwnedFd>,
}

impl Watch {
    /// What cannot be opened is not watched.
    pub fn new(groups: Groups) -> Watch {
        let open = |number: usize, [one, two]: [&CStr; 2]| {
            let (dir, name) = match groups.limited[number] {
                2 => (&groups.unified, two),
                _ => (&groups.alone[number], one),
            };
            fd::open_in(dir.as_ref()?, name, OFlags::RDONLY).ok()
        };
        let alarm = groups.events.as_ref().zip(groups.alone[MEMORY].as_ref());
        let alarm = alarm.and_then(|(register, group)| memory_alarm(register, group).ok());
        let events = open(MEMORY, [c"memory.oom_control", c"memory.events"]);
        let counters = Counters {
            memory: open(MEMORY, [c"memory.usage_in_bytes", c"memory.current"]),
            pids: open(PIDS, [c"pids.current"; 2]),
            refused: open(PIDS, [c"pids.events"; 2]).map(|file| Count::new(file, "max ")),
            throttled: open(CPU, [c"cpu.stat"; 2]).map(|file| Count::new(file, "nr_throttled ")),
        };
        let kills = events.map(|file| Count::new(file, "oom_kill "));
        let memory = kills.map(|kills| MemoryEvents { kills, alarm });
        Watch { counters, memory, kill: groups.kill }
    }
}

/// Becomes readable when memory runs out.
fn memory_alarm(register: &OwnedFd, group: &OwnedFd) -> io::Result<OwnedFd> {
    let alarm = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let events = fd::open_in(group, c"memory.oom_control", OFlags::RDONLY)?;
    let line = format!("{} {}", alarm.as_raw_fd(), events.as_raw_fd());
    fd::write_all_at_once(register, line.as_bytes()).map(|()| alarm)
}

fn text(file: BorrowedFd<'_>) -> String {
    let mut buffer = [0; 1024];
    let n = rustix::io::pread(file, &mut buffer, 0).unwrap_or(0);
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

/// For the log: which version keeps what, and what nothing keeps.
pub fn notes(limited: &[u8; 3], limits: &Limits) -> Vec<String> {
    let names = |version: u8| {
        let kept = CONTROLLERS.iter().zip(limited).filter(|(_, by)| **by == version);
        kept.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    let mut notes = Vec::new();
    for version in [2, 1] {
        let names = names(version);
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
    let none = names(0);
    if !none.is_empty() {
        notes.push(format!(
            "not limited by cgroup: {none} (no controller that this program may use)"
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_is_used_again_counts_from_zero() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        write("pids.events", "low 0\nmax 7\n");
        write("pids.current", "3\n");
        let dir = std::fs::File::open(group.path()).unwrap().into();
        let alone = [None, Some(dir), None];
        let watch = Watch::new(Groups { limited: [0, 1, 0], alone, ..Groups::default() });
        assert_eq!(watch.counters.pids(), Some((3, 0)));
        write("pids.events", "low 0\nmax 9\n");
        assert_eq!(watch.counters.pids(), Some((3, 2)));
        assert_eq!(watch.counters.throttled(), None);
    }

    #[test]
    fn one_group_of_version_2_tells_everything() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        write("memory.current", "4096\n");
        write("memory.events", "oom 1\noom_kill 0\n");
        write("pids.current", "2\n");
        write("pids.events", "max 0\n");
        write("cpu.stat", "nr_throttled 5\n");
        let dir = std::fs::File::open(group.path()).unwrap().into();
        let unified = Some(dir);
        let watch = Watch::new(Groups { limited: [2; 3], unified, ..Groups::default() });
        write("cpu.stat", "nr_throttled 6\n");
        write("memory.events", "oom 1\noom_kill 2\n");
        assert_eq!(watch.counters.memory(), Some(4096));
        assert_eq!(watch.counters.pids(), Some((2, 0)));
        assert_eq!(watch.counters.throttled(), Some(1));
        assert_eq!(watch.memory.unwrap().kills(), 2);
    }

    #[test]
    fn the_log_says_what_limits_and_what_does_not() {
        let notes = notes(&[1, 0, 2], &Limits::default());
        assert!(notes.contains(&"limits by cgroup version 2: cpu".to_owned()), "{notes:?}");
        assert!(notes.contains(&"limits by cgroup version 1: memory".to_owned()), "{notes:?}");
        assert!(notes.iter().any(|n| n.starts_with("not limited by cgroup: pids")), "{notes:?}");
    }
}
