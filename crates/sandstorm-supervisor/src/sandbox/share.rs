//! What a grain may have of the machine, and how control groups are told.
//!
//! Trust: the groups and their files were made and opened by `privileged::groups`; this process only
//! writes what the limits say, which `args` has judged, and closes them. Who took it over could give
//! its own grain more than the ceilings, inside what the caller's groups allow, and nothing else.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys::fd;

/// What the groups can limit, in the order of the log.
pub const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];
pub const MEMORY: usize = 0;
pub const PIDS: usize = 1;
pub const CPU: usize = 2;

/// A version 1 group is used again if this file of its controller says no more than this: what a
/// predecessor leaves, the kernel takes back in its own time, and until then it would count against us.
pub const QUIET: [Option<(&CStr, u64)>; 3] = [
    Some((c"memory.usage_in_bytes", 4 << 20)),
    // An init that nobody has reaped yet.
    Some((c"pids.current", 1)),
    None,
];

/// What a grain may have of the machine: bytes, processes, percent of a processor, weight (100 is
/// everybody's).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub memory: u64,
    pub pids: u64,
    pub cpu: u64,
    pub weight: u64,
}

/// A file of a control group, and what is written to it.
#[derive(Debug)]
pub struct Setting {
    pub version: u8,
    controller: usize,
    pub file: &'static CStr,
    value: fn(&Share) -> String,
    /// Whether the limit stands or falls with it.
    must: bool,
}

impl Setting {
    /// Whether it decides on the limit of this controller.
    pub fn decides(&self, version: u8, controller: usize) -> bool {
        self.must && self.is_of(version, controller)
    }

    fn is_of(&self, version: u8, controller: usize) -> bool {
        (self.version, self.controller) == (version, controller)
    }
}

const fn setting(
    version: u8,
    controller: usize,
    file: &'static CStr,
    value: fn(&Share) -> String,
    must: bool,
) -> Setting {
    Setting { version, controller, file, value, must }
}

/// In the order in which they are written.
#[rustfmt::skip]
static SETTINGS: [Setting; 12] = [
    setting(2, MEMORY, c"memory.max", |s| s.memory.to_string(), true),
    setting(2, MEMORY, c"memory.swap.max", |_| "0".into(), false),
    setting(2, MEMORY, c"memory.oom.group", |_| "1".into(), false),
    // One more for init.
    setting(2, PIDS, c"pids.max", |s| (s.pids + 1).to_string(), true),
    setting(2, CPU, c"cpu.max", |s| format!("{} 100000", s.cpu * 1000), true),
    setting(2, CPU, c"cpu.weight", |s| s.weight.to_string(), false),
    // Memory and swap together may never be below memory alone.
    setting(1, MEMORY, c"memory.memsw.limit_in_bytes", |_| "-1".into(), false),
    setting(1, MEMORY, c"memory.limit_in_bytes", |s| s.memory.to_string(), true),
    setting(1, MEMORY, c"memory.memsw.limit_in_bytes", |s| s.memory.to_string(), false),
    setting(1, PIDS, c"pids.max", |s| (s.pids + 1).to_string(), true),
    // 1024 shares are what weight 100 is in version 2; the quota is of a period of 100 ms.
    setting(1, CPU, c"cpu.shares", |s| (s.weight * 1024 / 100).max(2).to_string(), false),
    setting(1, CPU, c"cpu.cfs_quota_us", |s| (s.cpu * 1000).to_string(), true),
];

/// Groups of one grain, all that is in them opened with the rights of whoever made them.
#[derive(Debug, Default)]
pub struct Groups {
    /// Version 2 directory, to be born in.
    pub unified: Option<OwnedFd>,
    /// Where limits are written, once.
    pub settings: Vec<(&'static Setting, OwnedFd)>,
    /// Version 1 directories, of each of `CONTROLLERS`.
    pub alone: [Option<OwnedFd>; 3],
    /// `cgroup.kill`, for writing: `1` ends every process of the grain, frozen or not.
    pub kill: Option<OwnedFd>,
    /// `cgroup.event_control` of version 1's memory group, for writing: who is told when memory runs out.
    pub events: Option<OwnedFd>,
    /// Which version keeps each of `CONTROLLERS`; 0 for none, and for all until limits are written.
    pub limited: [u8; 3],
}

/// Those of one controller.
pub fn settings(version: u8, controller: usize) -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(move |setting| setting.is_of(version, controller))
}

/// Sets the limits, for good, and notes what keeps each of them.
pub fn limit(groups: &mut Groups, share: &Share) {
    let open = std::mem::take(&mut groups.settings);
    let set = |setting: &Setting| {
        let file = open.iter().find(|(of, _)| std::ptr::eq(*of, setting));
        file.is_some_and(|(_, file)| match write(file, &(setting.value)(share)) {
            // Where the caller's own group has less than that: what holds it then holds the grain.
            Err(e) if setting.is_of(1, CPU) && e.raw_os_error() == Some(libc::EINVAL) => {
                write(file, "-1").is_ok()
            }
            written => written.is_ok(),
        })
    };
    for (controller, by) in groups.limited.iter_mut().enumerate() {
        // Every one is tried, whatever becomes of the others.
        let keeps = |version: &u8| {
            let failed = settings(*version, controller).filter(|one| !set(one) && one.must);
            failed.count() == 0
        };
        *by = [2, 1].into_iter().find(keeps).unwrap_or(0);
    }
}

/// A group that is used again mostly has the same, and setting a quota of processor time locks every
/// processor's queue: a third of a millisecond.
fn write(file: &OwnedFd, value: &str) -> io::Result<()> {
    let mut text = [0; 64];
    let n = rustix::io::pread(file, &mut text, 0)?;
    if text[..n].trim_ascii() == value.as_bytes() {
        return Ok(());
    }
    fd::write_all_at_once(file.as_fd(), value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::OFlags;

    const SHARE: Share = Share { memory: 4096, pids: 7, cpu: 50, weight: 200 };

    /// As if a group of this version had these files.
    fn groups(dir: &tempfile::TempDir, version: u8, files: &[&CStr]) -> Groups {
        let top = std::fs::File::open(dir.path()).unwrap();
        let mut groups = Groups::default();
        for setting in SETTINGS.iter().filter(|s| s.version == version && files.contains(&s.file)) {
            let file = fd::create_in(&top, setting.file, OFlags::RDWR, 0o600).unwrap();
            groups.settings.push((setting, file));
        }
        groups
    }

    #[test]
    fn what_decides_must_be_written_and_the_rest_may_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut some = groups(&dir, 2, &[c"memory.max", c"pids.max", c"cpu.weight"]);
        limit(&mut some, &SHARE);
        assert_eq!(some.limited, [2, 2, 0]);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!(read("memory.max"), "4096");
        assert_eq!(read("pids.max"), "8");
        assert_eq!(read("cpu.weight"), "200");
        assert!(some.settings.is_empty(), "nobody can change them afterwards");
    }

    #[test]
    fn what_is_set_already_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pids.max");
        std::fs::write(&path, "8\n").unwrap();
        limit(&mut groups(&dir, 1, &[c"pids.max", c"cpu.shares"]), &SHARE);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "8\n");
    }
}
