//! The namespaces of a grain: which, who is who in them, and what is set before anything else.
//!
//! There are two user namespaces. The outer owns all others, and init builds the sandbox in it as
//! the owner of the grain's files; the app lives in the inner, which owns nothing. So the full set of
//! capabilities, should an app ever get it, is one over nothing but its own id map.
//!
//! Trust: runs in the new process, before any byte of the package is looked at.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;

use nix::time::{ClockId, clock_gettime};
use rustix::fs::OFlags;
use rustix::system::{setdomainname, sethostname};

use crate::error::{StepError, step};
use crate::layers::{Layer, off};
use crate::mode::Caller;
use crate::sys::{creds, fd, mount, net, process};

/// The uid and gid that every app sees as its own.
pub const INSIDE_ID: u32 = 1000;

/// Made with one clone. Two come later: time (`hide_boot_time`), because its offsets can only be set
/// before a process is in it, and the network (`settle_network`), which takes as long as all the
/// others together; the supervisor need not wait for it.
pub fn flags() -> i32 {
    let unless = |layer, flag| if off(layer) { 0 } else { flag };
    libc::CLONE_NEWUSER
        | libc::CLONE_NEWNS
        | unless(Layer::PidNamespace, libc::CLONE_NEWPID)
        | unless(Layer::IpcNamespace, libc::CLONE_NEWIPC)
        | unless(Layer::UtsNamespace, libc::CLONE_NEWUTS)
        | libc::CLONE_NEWCGROUP
}

fn write_proc(path: &CStr, text: &str) -> io::Result<()> {
    fd::write_all_at_once(&fd::open(path, OFlags::WRONLY)?, text.as_bytes())
}

/// What /proc has of a process that has gone into a user namespace and maps its own ids.
#[derive(Debug)]
pub struct Own(OwnedFd);

impl Own {
    /// While the host's /proc is there. The process must be dumpable, or its files are root's.
    ///
    /// # Errors
    /// What open answers.
    pub fn open() -> io::Result<Own> {
        fd::open(c"/proc/self", OFlags::PATH | OFlags::DIRECTORY).map(Own)
    }

    /// Nobody in this namespace, or in one below it, chooses among groups.
    ///
    /// # Errors
    /// As `map_ids`.
    pub fn deny_groups(&self) -> io::Result<()> {
        fd::write_in(&self.0, c"setgroups", "deny")
    }

    /// Maps these ids, (uid, gid), to ours in the namespace outside. Whoever owns a namespace may do
    /// that by himself, for one id, and once groups are not to be chosen among (`deny_groups`).
    ///
    /// # Errors
    /// EPERM where the kernel or an LSM does not let us use user namespaces.
    pub fn map_ids(&self, inside: (u32, u32), outside: (u32, u32)) -> io::Result<()> {
        let line = |inside: u32, outside: u32| format!("{inside} {outside} 1");
        fd::write_in(&self.0, c"uid_map", &line(inside.0, outside.0))?;
        fd::write_in(&self.0, c"gid_map", &line(inside.1, outside.1))
    }
}

/// Inside the outer user namespace, first of all: takes the ids of the owner of the grain's files, with
/// every capability over what the namespace owns. `outside`: ours so far.
///
/// # Errors
/// The step that failed.
pub fn take_ids(caller: Caller, outside: (u32, u32)) -> Result<(), StepError> {
    // Our own files in /proc are ours only while this holds. Nobody else has the grain's uid;
    // without root's help it is the caller's, who owns the grain anyway.
    step("own what /proc says of us", creds::set_dumpable(true))?;
    let own = step("open /proc/self", Own::open())?;
    let mapped = own.deny_groups().and_then(|()| own.map_ids((caller.uid, caller.gid), outside));
    step("write the grain's id map", mapped)?;
    step("keep capabilities", rustix::thread::set_keep_capabilities(true))?;
    step("take the grain's gid", creds::set_all_gids(caller.gid))?;
    step("take the grain's uid", creds::set_all_uids(caller.uid))?;
    step("raise capabilities", creds::raise_permitted())?;
    step("own what /proc says of us", creds::set_dumpable(true))
}

/// From the outer into the inner user namespace, which owns nothing; there our uid is the app's.
///
/// # Errors
/// EPERM where an LSM keeps us from it.
pub fn go_inner(own: &Own, caller: Caller) -> io::Result<()> {
    // The kernel makes none for a process whose root is not its namespace's.
    if off(Layer::Owner) || off(Layer::Pivot) {
        return Ok(());
    }
    process::unshare_user()?;
    own.map_ids((INSIDE_ID, INSIDE_ID), (caller.uid, caller.gid))
}

/// Inside, while the host's /proc is still there: children of this process count time from now,
/// so that uptime and boot time of the host stay unknown.
///
/// # Errors
/// EPERM or EINVAL where the kernel has no time namespaces; the caller goes on without.
pub fn hide_boot_time() -> io::Result<()> {
    process::unshare_time()?;
    let boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |now| now.tv_sec());
    let mono = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec());
    // A little above zero: some programs subtract from "now" at their start.
    let offsets = format!("monotonic {} 0\nboottime {} 0\n", 60 - mono, 60 - boot);
    write_proc(c"/proc/self/timens_offsets", &offsets)
}

/// Inside: one more user namespace can be made below this one, the app's, and none after it, whatever a
/// filter lets through. (A process without capabilities would get them all back in one.)
///
/// The other kinds are left to capabilities and the filter: a limit for each costs a start a tenth.
///
/// # Errors
/// EACCES or EROFS where a container mounts /proc/sys read-only; seccomp then stands alone.
pub fn forbid_nested() -> io::Result<()> {
    write_proc(c"/proc/sys/user/max_user_namespaces", "1")
}

/// Inside: the whole grain is a better victim than anything else when the machine is short of memory.
pub fn prefer_as_oom_victim() {
    // Cannot fail for a higher value but where /proc is masked; then the default stays.
    let _ = write_proc(c"/proc/self/oom_score_adj", "500");
}

/// Inside, in the outer user namespace and with the grain's uid: process
/// numbers stay below 65,536 (Linux 6.14 and later; elsewhere refused), since init goes through all
/// of them when the disk limit is reached. Answers the largest number that a process can have.
pub fn narrow_pids() -> i32 {
    const ENOUGH: i32 = 65_536;
    if write_proc(c"/proc/sys/kernel/pid_max", &ENOUGH.to_string()).is_ok() {
        return ENOUGH;
    }
    let text = std::fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default();
    text.trim().parse().unwrap_or(4_194_304)
}

/// Inside, for a trial: what every grain's start does.
///
/// # Errors
/// EPERM or EACCES where an LSM keeps capabilities out of user namespaces.
pub fn try_inside(caller: Caller) -> Result<(), StepError> {
    let mounted = mount::make_all_private()
        .and_then(|()| mount::tmpfs(&[(c"size", c"4096")], mount::NOSUID | mount::NODEV));
    drop(step("mount inside", mounted)?);
    let own = step("open /proc/self", Own::open())?;
    step("make the app's user namespace", go_inner(&own, caller))
}

/// Inside, first of all and while the host's /proc is there: the network namespace with its loopback
/// up, and the host name.
///
/// # Errors
/// The step that failed; some containers refuse to set a host name, which then stays the
/// container's.
pub fn settle_network() -> Result<(), StepError> {
    if !off(Layer::UtsNamespace) {
        // Or "localdomain" or the container's own.
        let _ = sethostname(b"sandbox").and_then(|()| setdomainname(b"sandbox"));
    }
    if off(Layer::NetNamespace) {
        return Ok(());
    }
    step("make the grain's network namespace", process::unshare_network())?;
    step("bring loopback up", net::loopback_up())?;
    limit_socket_buffers();
    Ok(())
}

/// What one TCP socket of the grain may hold in the kernel. Left alone it grows to the host's limits, 32 MiB and more a connection on newer kernels:
/// then a slow app's unread upload waits there instead of in the browser, and an upload that was
/// given up half-way reaches its end only after all of that was read.
fn limit_socket_buffers() {
    // Smallest, first, largest, in bytes. Refused where a container mounts /proc/sys read-only.
    // Looked up once: the kernel searches through the tables of every namespace that there is.
    let Ok(table) = fd::open(c"/proc/sys/net/ipv4", OFlags::PATH | OFlags::DIRECTORY) else {
        return;
    };
    let _ = fd::write_in(&table, c"tcp_rmem", "4096 131072 1048576");
    let _ = fd::write_in(&table, c"tcp_wmem", "4096 65536 1048576");
}
