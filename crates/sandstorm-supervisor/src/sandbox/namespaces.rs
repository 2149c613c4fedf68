//! The namespaces of a grain: which, and what is set in them before anything else.
//!
//! Trust: runs in the new process, before any byte of the package is looked at.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;

use nix::time::{ClockId, clock_gettime};
use rustix::fs::OFlags;
use rustix::system::{setdomainname, sethostname};

use crate::error::{StepError, step};
use crate::layers::{Layer, off};
use crate::sys::{fd, mount, net, process};

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

/// Inside: no further user namespace can be made below this one, whatever a filter lets through.
/// (A process without capabilities would get them all back in one.)
///
/// # Errors
/// EACCES or EROFS where a container mounts /proc/sys read-only; seccomp then stands alone.
pub fn forbid_nested() -> io::Result<()> {
    write_proc(c"/proc/sys/user/max_user_namespaces", "0")
}

/// Inside: the whole grain is a better victim than anything else when the machine is short of memory.
pub fn prefer_as_oom_victim() {
    // Cannot fail for a higher value but where /proc is masked; then the default stays.
    let _ = write_proc(c"/proc/self/oom_score_adj", "500");
}

/// Inside, once the process has the grain's uid and full rights over its namespaces: process
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

/// Inside, for a trial: what every grain's start does with mounts.
///
/// # Errors
/// EPERM or EACCES where an LSM keeps capabilities out of user namespaces.
pub fn try_inside() -> io::Result<()> {
    mount::make_all_private()?;
    mount::tmpfs(&[(c"size", c"4096")], mount::NOSUID | mount::NODEV).map(drop)
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
