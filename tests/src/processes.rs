//! Looking at processes from outside, by /proc: what belongs to a grain, and ending things by name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

/// One process, as /proc shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// The kernel's short name: the program's, at most 15 bytes.
    pub name: String,
    /// Arguments joined by blanks.
    pub command: String,
    pub uid: u32,
    /// Inode number of its pid namespace; 0 when it cannot be read.
    pub pid_namespace: u64,
}

/// All processes that are not zombies.
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(read)
        .collect()
}

fn read(pid: i32) -> Option<Process> {
    let dir = PathBuf::from(format!("/proc/{pid}"));
    let stat = fs::read_to_string(dir.join("stat")).ok()?;
    // "pid (name with (any) thing) S ppid …": the last ')' ends the name.
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let command = fs::read(dir.join("cmdline")).ok()?;
    Some(Process {
        pid,
        parent,
        name: head.split_once('(')?.1.to_owned(),
        command: String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " "),
        uid: fs::metadata(&dir).ok()?.uid(),
        pid_namespace: namespace(pid, "pid").unwrap_or(0),
    })
}

/// Inode number of one of a process's namespaces.
pub fn namespace(pid: i32, kind: &str) -> Option<u64> {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    link.to_str()?.split_once('[')?.1.trim_end_matches(']').parse().ok()
}

/// Where the open descriptors of a process lead.
pub fn open_files(pid: i32) -> Vec<String> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    fds.flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|path| path.display().to_string())
        .collect()
}

/// Processes whose command line contains `text`.
pub fn naming(text: &str) -> Vec<i32> {
    all().into_iter().filter(|p| p.command.contains(text)).map(|p| p.pid).collect()
}

/// Processes with this real or effective uid (the effective one owns /proc/PID; a program that
/// changed its uid may show as root, so the status is asked too).
pub fn of_uid(uid: u32) -> Vec<i32> {
    all()
        .into_iter()
        .filter(|p| {
            p.uid == uid
                || fs::read_to_string(format!("/proc/{}/status", p.pid)).is_ok_and(|status| {
                    status.lines().any(|line| {
                        line.strip_prefix("Uid:").is_some_and(|ids| {
                            ids.split_whitespace().any(|id| id.parse() == Ok(uid))
                        })
                    })
                })
        })
        .map(|p| p.pid)
        .collect()
}

/// Everything that runs for a grain: its supervisors (their command line names it), all they
/// started, and all that shares a pid namespace with those.
pub fn of_grain(grain: &str) -> Vec<Process> {
    let all = all();
    let mut pids: BTreeSet<i32> = all
        .iter()
        .filter(|p| p.command.contains(grain) && p.command.contains("sandstorm-supervisor"))
        .map(|p| p.pid)
        .collect();
    let ours = namespace(std::process::id() as i32, "pid");
    loop {
        let spaces: BTreeSet<u64> = all
            .iter()
            .filter(|p| pids.contains(&p.pid))
            .map(|p| p.pid_namespace)
            .filter(|&ns| ns != 0 && Some(ns) != ours)
            .collect();
        let more: Vec<i32> = all
            .iter()
            .filter(|p| !pids.contains(&p.pid))
            .filter(|p| pids.contains(&p.parent) || spaces.contains(&p.pid_namespace))
            .map(|p| p.pid)
            .collect();
        if more.is_empty() {
            break;
        }
        pids.extend(more);
    }
    all.into_iter().filter(|p| pids.contains(&p.pid)).collect()
}

/// The pid namespaces of a grain's app: remember them before a kill, since afterwards nothing else
/// ties what is left to the grain.
pub fn namespaces_of_grain(grain: &str) -> BTreeSet<u64> {
    let ours = namespace(std::process::id() as i32, "pid");
    of_grain(grain)
        .iter()
        .map(|p| p.pid_namespace)
        .filter(|&ns| ns != 0 && Some(ns) != ours)
        .collect()
}

/// Processes in any of these pid namespaces.
pub fn in_namespaces(spaces: &BTreeSet<u64>) -> Vec<Process> {
    all().into_iter().filter(|p| spaces.contains(&p.pid_namespace)).collect()
}

/// SIGKILL. A process that has gone already is as good.
pub fn kill(pid: i32) {
    let _ = signal::kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Any signal.
pub fn send(pid: i32, what: Signal) {
    let _ = signal::kill(Pid::from_raw(pid), what);
}

/// Is there such a process, and no zombie?
pub fn alive(pid: i32) -> bool {
    read(pid).is_some()
}

/// Mount points of this process's namespace at or below `dir`.
pub fn mounts_below(dir: &str) -> Vec<String> {
    fs::read_to_string("/proc/self/mountinfo")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| *point == dir || point.starts_with(&format!("{dir}/")))
        .map(str::to_owned)
        .collect()
}

/// Proportional memory of a process in KiB (`Pss` of smaps_rollup).
pub fn pss_kib(pid: i32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_itself_and_a_child_come_and_go() {
        let me = std::process::id() as i32;
        assert!(all().iter().any(|p| p.pid == me));
        let mut child = std::process::Command::new("sleep").arg("1000.25").spawn().unwrap();
        let pid = child.id() as i32;
        crate::eventually("sleep runs", std::time::Duration::from_secs(5), || {
            naming("sleep 1000.25").contains(&pid).then_some(())
        })
        .unwrap();
        kill(pid);
        child.wait().unwrap();
        assert!(!alive(pid));
    }
}
