//! Everything that runs with root's rights, in its order. Outside this directory that is only what it
//! calls: `sys`, rustix and nix; the message of `helper`; the names of files in `sandbox::share`; the
//! attributes of mounts in `layers`, `namespaces::flags`; and the first steps of `init::main`.
//!
//! 1. `reset`: take back what the caller's exec handed on.
//! 2. `begin`: who we are, from the kernel's answer on uids and the mode of our own file; the ends of
//!    the pipes that join this process and the grain's init.
//! 3. `by_root`: a uid is taken (`slot`), the control groups are made and opened (`groups`), and init is
//!    cloned into its namespaces, with the grain's effective uid; as its first step it gives up the others.
//! 4. A helper is forked (`helper`), which stays root. It is given checked directory descriptors and
//!    two numbers, nothing else: it makes two id-mapped mounts, hands them to init, and ends.
//! 5. `give_up`: this process drops every privilege for good, before it looks at its arguments.
//!
//! So a fault in the parsing of arguments, in opening the home or in anything later is a fault in
//! an unprivileged program. Without the setuid bit and without root there is no helper, and the
//! same steps are done with the caller's own rights (`sandbox`).
//!
//! Trust: none in the caller, who chose all that exec hands on and may signal this process at any
//! step before 3 and after 5 (between them nothing of ours has a uid of the caller's, and a terminal's
//! keys are blocked; who owns the control group that we are started in can still stop or end it, and
//! gains nothing).
#![forbid(unsafe_code)]

pub mod groups;
pub mod helper;
pub mod image;
pub mod quota;
mod reset;
pub mod slot;

use std::io;
use std::os::fd::AsFd;

use rustix::fs::OFlags;

use self::helper::Errand;
use crate::error::{Error, StepError, step};
use crate::helper::{Failed, Helper, Rooted, Step};
use crate::init::{self, Ids, Start};
use crate::link::Link;
use crate::mode::{Caller, Mode};
use crate::sandbox::namespaces;
use crate::sandbox::parents::Parents;
use crate::sandbox::share::Groups;
use crate::sys::process::{self, Forked, SingleThread};
use crate::sys::{creds, fd, signal};

/// This process without any privilege, and what it has in hand.
#[derive(Debug)]
pub struct Begun {
    pub caller: Caller,
    pub mode: Mode,
    /// What joins us with init.
    pub ours: init::Ours,
    pub half: Half,
}

/// Who makes the sandbox from outside.
#[derive(Debug)]
pub enum Half {
    Root(Helper),
    /// We ourselves, with init's ends.
    Own(init::Ends),
}

/// Resets, lets root's rights begin where there are any, and gives up every privilege.
///
/// # Errors
/// `Kernel` for a refused step, `Installation` for a setuid copy of another mode or owner.
pub fn begin(one_thread: &SingleThread) -> Result<Begun, Error> {
    reset::first_steps(one_thread)?;
    let ids = nix::unistd::getresuid().map_err(Error::kernel("read the uids"))?;
    let caller = Caller { uid: ids.real.as_raw(), gid: rustix::process::getgid().as_raw() };
    let mode = Mode::find(caller.uid, ids.saved.as_raw())?;
    let (ours, ends) = init::ends()?;
    // With the caller's own rights, like all above.
    let parents = Parents::find();
    let half = match mode {
        Mode::UserNamespace => Half::Own(ends),
        _ => Half::Root(Helper::new(by_root(one_thread, caller, &ours.link, ends, &parents))),
    };
    give_up(mode, caller).map_err(|(step, source)| Error::kernel(step)(source))?;
    signal::unblock_all().map_err(Error::kernel("unblock signals"))?;
    Ok(Begun { caller, mode, ours, half })
}

/// Everything that is done with root's rights and needs to know nothing; first of all init, because
/// its network takes as long to make as all the rest.
fn by_root(
    one_thread: &SingleThread,
    caller: Caller,
    link: &Link,
    ends: init::Ends,
    parents: &Parents,
) -> Result<Rooted, Failed> {
    // A terminal's keys need no right over who hears them: none of ours stops or ends by them while
    // it is root. One gid, which new control groups get, and by which the caller may look into them.
    signal::block_all()
        .and_then(|()| creds::set_all_uids(0))
        .and_then(|()| leave_groups(caller.uid == 0))
        .and_then(|()| creds::set_all_gids(caller.gid))
        .and_then(|()| creds::set_dumpable(false))
        .map_err(Step::Begin.failed())?;
    // No preference of the caller's for our being killed first, or never, when memory is short.
    let _ = fd::open(c"/proc/self", OFlags::PATH | OFlags::DIRECTORY)
        .and_then(|own| fd::write_in(&own, c"oom_score_adj", "0"));
    let (number, slot, inits_slot) = slot::take()?;
    let (name, id) = (number.to_string(), slot::FIRST_UID + number);
    let mut groups = Groups::version_2(parents, &name, true);
    // Init is given mounts by the helper alone: this process, without rights, could give it others.
    let (orders, inits_orders) = Link::pair().map_err(Step::Begin.failed())?;
    let held = inits_slot.try_clone().map_err(Step::Begin.failed())?;
    let errand = Errand { caller, uid: id, slot: held, orders };
    // Whoever owns a user namespace may map himself in it, and is charged for what its processes hold
    // (inotify, queued signals, timers). In a namespace that has no such uid there is none.
    creds::with_effective_ids(id, || Ok(())).map_err(Step::IdMap.failed())?;
    let (born_in, ids) = (&mut groups, Ids { caller, outside: (id, id) });
    let init = creds::with_effective_ids(id, move || match clone_init(one_thread, born_in)? {
        Forked::Child => {
            init::main(one_thread, Start::by_root(ends, ids, inits_slot, inits_orders))
        }
        Forked::Parent(child) => Ok(child),
    });
    let init = init.map_err(Step::Namespaces.failed())?;
    // Hundreds of spinning processes of the app must not keep init from ending them. The app
    // itself starts with the usual niceness; where we may not do this it takes a little longer.
    let _ = rustix::process::setpriority_process(Some(init.pid), -20);
    // Where one of these fails init ends with our end of its link, as it does after any failure.
    let (socket, helper) = link
        .send_entrances(&groups.add_version_1(parents, &name, id))
        .and_then(|()| helper::fork(one_thread, errand))
        .map_err(Step::Begin.failed())?;
    Ok(Rooted { init, uid: id, helper, socket, groups, slot })
}

/// Gives up every privilege of this process for good.
fn give_up(mode: Mode, caller: Caller) -> Result<(), StepError> {
    if mode == Mode::UserNamespace {
        step("set no_new_privs", rustix::thread::set_no_new_privs(true))?;
        step("make the process undumpable", creds::set_dumpable(false))?;
        step("drop capabilities", creds::drop_capabilities())?;
    } else {
        step("take root's rights to drop them", creds::set_effective_uid(0))?;
        become_for_good(caller.uid, caller.gid)?;
    }
    if caller.uid != 0 && creds::set_effective_uid(0).is_ok() {
        // The one thing that must never work from here on.
        process::exit_now(4);
    }
    Ok(())
}

/// From root: these ids everywhere and no supplementary group, capabilities out of every set, securebits
/// locked, no_new_privs, not dumpable.
fn become_for_good(uid: u32, gid: u32) -> Result<(), StepError> {
    step("set no_new_privs", rustix::thread::set_no_new_privs(true))?;
    step("drop supplementary groups", leave_groups(uid == 0))?;
    step("lock the capability sets", creds::lock_capability_sets())?;
    step("set the gid", creds::set_all_gids(gid))?;
    step("set the uid", creds::set_all_uids(uid))?;
    step("make the process undumpable", creds::set_dumpable(false))?;
    step("drop capabilities", creds::drop_capabilities())
}

/// Drops every supplementary group. Root of a user namespace whose maker has forbidden setgroups keeps
/// what it has.
fn leave_groups(root: bool) -> io::Result<()> {
    match creds::clear_groups() {
        Err(e) if root && e.raw_os_error() == Some(libc::EPERM) => Ok(()),
        result => result,
    }
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
        // A group of another kind or another's, an older kernel or a filter without clone3: join afterwards.
        Err(_) if born_into.is_some() => (process::clone(one_thread, flags, None)?, false),
        Err(e) => return Err(e),
    };
    let Forked::Parent(child) = &forked else { return Ok(forked) };
    process::begin_elsewhere(child);
    if !joined
        && let Some(dir) = &groups.unified
        && let Err(refused) = fd::write_in(dir, c"cgroup.procs", &child.pid.to_string())
    {
        // It is to be limited by that group, or nothing has been written to it.
        if groups.limited.contains(&2) {
            return Err(refused);
        }
        *groups = Groups::default();
    }
    Ok(forked)
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
        assert!(
            (1..600).contains(&lines),
            "{lines} lines of code, 600 is too many: think again, or change docs/security.md"
        );
    }

    /// No parser of arguments, no home, no server, no library but the standard one,
    /// system calls and the ceilings.
    #[test]
    fn what_root_runs_calls_little_else() {
        const MAY: [&str; 16] = [
            "use crate::error::",
            "use crate::helper::",
            "use crate::init::",
            "use crate::layers;",
            "use crate::link::",
            "use crate::mode::",
            "use crate::sandbox::namespaces",
            "use crate::sandbox::parents::",
            "use crate::sandbox::share::",
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
