//! Everything that runs with root's rights, in its order. Outside this directory that is only what it
//! calls: `sys`, rustix and nix; the messages of `helper` and `link`; the attributes of mounts in
//! `layers`, `namespaces::flags`; and the first steps of `init::main`.
//!
//! 1. `reset`: take back what the caller's exec handed on.
//! 2. `begin`: who we are, from the kernel's answer on uids and the mode of our own file; the ends of
//!    the pipes that join this process and the grain's init.
//! 3. `by_root`: a uid is taken (`slot`) and the control group made that a process must be born into
//!    (`groups`); init is cloned into its namespaces and begins with what needs no orders.
//! 4. A helper is forked (`helper`), which stays root. It is told numbers and checked directory
//!    descriptors, nothing else: it sets limits, makes two id-mapped mounts, writes the id maps,
//!    gives init its orders, answers with descriptors, and ends.
//! 5. `give_up`: this process drops every privilege for good, before it looks at its arguments.
//!
//! So a fault in the parsing of arguments, in opening the home or in anything later is a fault in
//! an unprivileged program. Without the setuid bit and without root there is no helper, and the
//! same steps are done with the caller's own rights (`sandbox`).
//!
//! Trust: none in the caller, who chose all that exec hands on and may signal this process at any
//! step before 3 and after 5 (between them nothing of ours has a uid of the caller's, but a terminal's
//! keys may reach it; who owns the control group that we are started in can still stop or end it, and
//! gains nothing).
#![forbid(unsafe_code)]

pub mod groups;
pub mod helper;
pub mod quota;
mod reset;
pub mod slot;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::fs::OFlags;
use rustix::net::SocketType;

use self::groups::Groups;
use self::helper::Errand;
use crate::error::{Error, StepError, step};
use crate::helper::{Failed, Helper, Step};
use crate::init::{self, Start};
use crate::link::Link;
use crate::mode::{Caller, Mode};
use crate::sandbox::namespaces;
use crate::sys::process::{self, Child, Forked, SingleThread};
use crate::sys::{creds, fd};

/// This process without any privilege, and what it has in hand.
#[derive(Debug)]
pub struct Begun {
    pub caller: Caller,
    pub mode: Mode,
    /// The file is setuid root, and the kernel did not honour that.
    pub bit_ignored: bool,
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub app: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    pub half: Half,
}

/// Who makes the sandbox from outside.
#[derive(Debug)]
pub enum Half {
    Root(Helper),
    /// We ourselves, with init's ends.
    Own(init::Ends),
}

/// What root's rights began, before they were given up.
#[derive(Debug)]
pub struct Rooted {
    pub init: Child,
    /// The lock of the grain's uid.
    pub slot: OwnedFd,
    pub helper: Child,
    pub socket: OwnedFd,
}

/// Resets, lets root's rights begin where there are any, and gives up every privilege.
///
/// # Errors
/// `Kernel` for a refused step, `Installation` when a setuid copy has another mode than 4750 or
/// another owner than root.
pub fn begin(one_thread: &SingleThread) -> Result<Begun, Error> {
    reset::first_steps(one_thread)?;
    let ids = nix::unistd::getresuid().map_err(Error::kernel("read the uids"))?;
    let (real, saved) = (ids.real.as_raw(), ids.saved.as_raw());
    let caller = Caller { uid: real, gid: rustix::process::getgid().as_raw() };
    let (mode, bit_ignored) = mode(real, saved)?;
    let (link, inits_link) = Link::pair().map_err(Error::kernel("make the link to init"))?;
    let (app, inits_app) =
        fd::socketpair(SocketType::STREAM).map_err(Error::kernel("make the app's socket"))?;
    let (output, inits_output) = fd::pipe().map_err(Error::kernel("make the log pipe"))?;
    let null = fd::open(c"/dev/null", OFlags::RDWR).map_err(Error::kernel("open /dev/null"))?;
    let ends = init::Ends { link: inits_link, app: inits_app, output: inits_output, null };
    let half = match mode {
        Mode::UserNamespace => Half::Own(ends),
        Mode::Setuid | Mode::Root => Half::Root(Helper::new(by_root(one_thread, caller, ends))),
    };
    give_up(mode, caller).map_err(|(step, source)| Error::kernel(step)(source))?;
    Ok(Begun { caller, mode, bit_ignored, link, app, output, half })
}

/// Everything that is done with root's rights and needs to know nothing; first of all init, because
/// its network takes as long to make as all the rest.
fn by_root(one_thread: &SingleThread, caller: Caller, ends: init::Ends) -> Result<Rooted, Failed> {
    // One gid, which new control groups get, and by which the caller may look into them.
    let all = creds::set_all_uids(0)
        .and_then(|()| creds::set_all_gids(caller.gid))
        .and_then(|()| creds::set_dumpable(false));
    all.map_err(Step::Begin.failed())?;
    // No preference of the caller's for our being killed first, or never, when memory is short.
    let _ = fd::open(c"/proc/self", OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|own| fd::write_in(&own, c"oom_score_adj", "0"));
    let (number, slot, inits_slot) = slot::take()?;
    let mut groups = Groups::to_be_born_in(&number.to_string(), true);
    // Init's orders come from the helper alone: it still can be root's number when it waits for them,
    // and this process, without rights, could send it others.
    let (orders, inits_orders) = Link::pair().map_err(Step::Begin.failed())?;
    // Whoever owns a user namespace is charged for what its processes hold (inotify, queued signals,
    // timers): the grain's uid, or one app would use up root's. Where that uid is not mapped (root of a
    // namespace) it stays root's.
    let _ = creds::keep_over_ids(true)
        .and_then(|()| creds::set_effective_uid(slot::FIRST_UID + number));
    let init = match clone_init(one_thread, &mut groups).map_err(Step::Namespaces.failed())? {
        Forked::Child => init::main(one_thread, Start::by_root(ends, inits_slot, inits_orders)),
        Forked::Parent(child) => child,
    };
    let again = creds::set_effective_uid(0).and_then(|()| creds::keep_over_ids(false));
    again.map_err(Step::Begin.failed())?;
    drop((ends, inits_orders));
    // Hundreds of spinning processes of the app must not keep init from ending them. The app
    // itself starts with the usual niceness; where we may not do this it takes a little longer.
    let _ = rustix::process::setpriority_process(Some(init.pid), -20);
    let errand = Errand { caller, number, slot: inits_slot.as_fd(), groups, init: &init, orders };
    let (socket, helper) = helper::fork(one_thread, errand).map_err(|e| {
        // It ends without orders.
        let _ = process::wait_for(init.pid);
        Step::Begin.failed()(e)
    })?;
    Ok(Rooted { init, slot, helper, socket })
}

/// The mode, and whether a setuid bit had no effect. By now the effective uid is the caller's; the
/// saved one is what the file's bit gave.
fn mode(real: u32, saved: u32) -> Result<(Mode, bool), Error> {
    let own = fd::open(c"/proc/self/exe", OFlags::PATH)
        .and_then(|exe| Ok(rustix::fs::fstat(exe)?))
        .map_err(Error::kernel("look at the program's own file (/proc/self/exe)"))?;
    match (saved, real) {
        (0, 0) => Ok((Mode::Root, false)),
        // The kernel let GROUP and nobody else get here only if the mode says so.
        (0, _) if own.st_uid == 0 && own.st_mode & 0o7777 == 0o4750 => Ok((Mode::Setuid, false)),
        (0, _) => Err(Error::Installation {
            path: process::own_path(),
            uid: own.st_uid,
            mode: own.st_mode & 0o7777,
        }),
        _ => Ok((Mode::UserNamespace, own.st_mode & libc::S_ISUID != 0 && own.st_uid == 0)),
    }
}

/// Gives up every privilege of this process for good: capabilities out of every set, securebits
/// locked, no_new_privs, not dumpable, the caller's ids everywhere, no supplementary group. (Without
/// root's help the process stays the caller's to look into until it has written init's id maps, since
/// its own files in /proc are the caller's only so long.)
fn give_up(mode: Mode, caller: Caller) -> Result<(), StepError> {
    step("set no_new_privs", rustix::thread::set_no_new_privs(true))?;
    if mode != Mode::UserNamespace {
        step("take root's rights to drop them", creds::set_effective_uid(0))?;
        match creds::clear_groups() {
            // Root of a user namespace whose maker has forbidden setgroups keeps what it has.
            Err(e) if mode == Mode::Root && e.raw_os_error() == Some(libc::EPERM) => {}
            result => step("drop supplementary groups", result)?,
        }
        step("lock the capability sets", creds::lock_capability_sets())?;
        step("set the caller's gid", creds::set_all_gids(caller.gid))?;
        step("set the caller's uid", creds::set_all_uids(caller.uid))?;
        step("make the process undumpable", creds::set_dumpable(false))?;
    }
    step("drop capabilities", creds::drop_capabilities())?;
    if caller.uid != 0 && creds::set_effective_uid(0).is_ok() {
        // The one thing that must never work from here on.
        process::exit_now(4);
    }
    Ok(())
}

/// Clones into the namespaces and, where the kernel lets us, straight into the version 2 group.
///
/// # Errors
/// What the kernel answers.
pub fn clone_init(one_thread: &SingleThread, groups: &mut Groups) -> io::Result<Forked> {
    let flags = namespaces::flags();
    let born_into = groups.unified.as_ref().map(AsFd::as_fd);
    let (forked, joined) = match process::clone(one_thread, flags, born_into) {
        Ok(forked) => (forked, born_into.is_some()),
        // A group of another kind, an older kernel or a filter without clone3: join afterwards.
        Err(_) if born_into.is_some() => (process::clone(one_thread, flags, None)?, false),
        Err(e) => return Err(e),
    };
    let Forked::Parent(child) = &forked else { return Ok(forked) };
    process::begin_elsewhere(child);
    if !joined && let Some(dir) = groups.unified.take() {
        // It waits meanwhile.
        if fd::write_in(&dir, c"cgroup.procs", &child.pid.to_string()).is_err() {
            process::kill(child.pid, Signal::SIGKILL)?;
            process::wait_for(child.pid)?;
            return clone_init(one_thread, groups);
        }
        groups.unified = Some(dir);
    }
    Ok(forked)
}

/// One line of an id map: `inside` in the namespace is `outside` in ours.
#[derive(Debug, Clone, Copy)]
pub struct IdMap {
    pub inside: (u32, u32),
    pub outside: (u32, u32),
}

/// Writes uid and gid map of a child. An unprivileged writer must first deny setgroups.
///
/// # Errors
/// EPERM where the kernel or an LSM does not let us use user namespaces.
pub fn write_maps(child: &Child, map: IdMap, privileged: bool) -> io::Result<()> {
    let path = std::ffi::CString::new(format!("/proc/{}", child.pid))?;
    let process = fd::open(&path, OFlags::PATH | OFlags::DIRECTORY)?;
    // Ended: then the number may be another process's by now.
    if fd::is_readable(&child.pidfd, Duration::ZERO) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    if !privileged {
        fd::write_in(&process, c"setgroups", "deny")?;
    }
    let line = |inside: u32, outside: u32| format!("{inside} {outside} 1");
    fd::write_in(&process, c"uid_map", &line(map.inside.0, map.outside.0))?;
    fd::write_in(&process, c"gid_map", &line(map.inside.1, map.outside.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    /// Names and texts of all files of this directory.
    fn files() -> Vec<(String, String)> {
        let all =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src/privileged")).unwrap();
        let all = all.map(|entry| entry.unwrap().path());
        all.map(|path| (path.display().to_string(), std::fs::read_to_string(&path).unwrap()))
            .collect()
    }

    /// Where the machine has control groups of version 2 at all; with which controllers does not matter.
    #[test]
    fn the_group_that_init_was_born_into_is_kept() {
        let directory = OFlags::PATH | OFlags::DIRECTORY;
        let name = CString::new(format!("sandstorm-test-{}", std::process::id())).unwrap();
        let made = [c"/sys/fs/cgroup/unified", c"/sys/fs/cgroup"].into_iter().find_map(|path| {
            let top = fd::open(path, directory).ok()?;
            (rustix::fs::fstatfs(&top).ok()?.f_type == libc::CGROUP2_SUPER_MAGIC).then_some(())?;
            rustix::fs::mkdirat(&top, &name, 0o755.into()).ok()?;
            Some((fd::open_in(&top, &name, directory).ok()?, top))
        });
        let Some((group, top)) = made else {
            println!("skipped: no control group can be made here");
            return;
        };
        let mut groups = Groups { unified: Some(group), ..Groups::default() };
        let forked = clone_init(&SingleThread::at_start(), &mut groups);
        if let Ok(Forked::Child) = forked {
            process::exit_now(0);
        }
        if let Ok(Forked::Parent(child)) = &forked {
            process::wait_for(child.pid).unwrap();
        }
        rustix::fs::unlinkat(&top, &name, rustix::fs::AtFlags::REMOVEDIR).unwrap();
        assert!(forked.is_ok());
        assert!(groups.unified.is_some(), "its limits would never be set");
    }

    fn code(text: &str) -> impl Iterator<Item = &str> {
        let lines = text.lines().take_while(|line| *line != "#[cfg(test)]").map(str::trim);
        lines.filter(|line| !line.is_empty() && !line.starts_with("//"))
    }

    /// The number is in docs/security.md too.
    #[test]
    fn what_root_runs_stays_small() {
        let lines: usize = files().iter().map(|(_, text)| code(text).count()).sum();
        assert!(lines < 600, "{lines} lines of code: think again, or change docs/security.md");
    }

    /// No parser of arguments, no home, no server, no library but the standard one,
    /// system calls and the ceilings.
    #[test]
    fn what_root_runs_calls_little_else() {
        const MAY: [&str; 14] = [
            "use crate::error::",
            "use crate::helper::",
            "use crate::init::",
            "use crate::layers;",
            "use crate::link::",
            "use crate::mode::",
            "use crate::sandbox::namespaces",
            "use crate::sys::",
            "use sandstorm_schema::grain_limits;",
            "use nix::",
            "use rustix::",
            "use self::",
            "use std::",
            "use super::",
        ];
        for (name, text) in &files() {
            assert!(!code(text).any(|l| l.contains("crate::") && !l.starts_with("use ")), "{name}");
            for line in code(text).filter(|line| line.starts_with("use ")) {
                assert!(MAY.iter().any(|start| line.starts_with(start)), "{name}: {line}");
            }
            assert!(!code(text).any(|line| line.contains("unsafe {")), "{name}");
        }
    }
}
