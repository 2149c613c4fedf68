//! Building the sandbox: the ordered steps, outside and inside, each with its reason.
//!
//! Trust: outside, only checked descriptors and numbers; inside, the package's tree, which is
//! hostile but can only be looked up, never followed. Nothing here parses file contents.
//!
//! Outside (`enter`):
//! 1. pipes and sockets, so that nothing can fail for want of descriptors later;
//! 2. as root: a uid slot and control groups; then the clone into namespaces and groups;
//! 3. as root: detached mounts, device nodes, while the child makes its network namespace. All of it
//!    vanishes with the descriptors if we are killed;
//! 4. id maps of the child; it gets the mounts and is told to go on. The caller now gives up its
//!    privileges while the child builds.
//!
//! Inside (`init::main`): the network; then, told to go on, time offsets and the ban on nested
//! namespaces while /proc is there, the grain's ids, mounts, pivot, then capabilities and the
//! seccomp filter last of all, because every step before them needs a call that it forbids.
#![forbid(unsafe_code)]

pub mod bpf;
pub mod cgroup;
pub mod devices;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod outer;
pub mod page;
pub mod syscalls;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use self::cgroup::{Cgroup, Controller, Right};
use self::limits::{Floor, Limits};
use self::mounts::Trees;
use self::namespaces::{INSIDE_ID, IdMap};
use crate::args::Args;
use crate::error::Error;
use crate::explain::{self, Signs, Step};
use crate::harden;
use crate::home::GrainDirs;
use crate::identity::{AsRoot, Identity, Mode};
use crate::init::{self, Link};
use crate::slot::{self, Slot};
use crate::sys::fd;
use crate::sys::process::{self, Child, Forked, SingleThread};

/// A step inside the sandbox and why it failed.
pub type StepError = (&'static str, io::Error);

/// Names the step of a result.
pub fn step<T>(what: &'static str, result: io::Result<T>) -> Result<T, StepError> {
    result.map_err(|e| (what, e))
}

/// The supervisor's ends of everything that leads into the sandbox.
#[derive(Debug)]
pub struct Sandbox {
    /// pid 1 of the grain.
    pub init: Child,
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub app: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    /// Held for life, with init.
    pub slot: Option<Slot>,
    pub lock: OwnedFd,
    pub cgroup: Cgroup,
    /// What resource limits do because the groups do not.
    pub floor: Floor,
    /// What the log should say about how the grain runs.
    pub notes: Vec<String>,
}

/// Everything that the child needs. Borrowed from the parent's memory at the fork.
struct Plan<'a> {
    args: &'a Args,
    dirs: &'a GrainDirs,
    lock: &'a OwnedFd,
}

/// The ends that the child keeps.
struct ChildEnds {
    link: Link,
    app: OwnedFd,
    output: OwnedFd,
    null: OwnedFd,
}

/// Starts building; the grain's init goes on by itself. See the module's step list.
///
/// # Errors
/// `Kernel` with advice, or what `slot::take` says.
pub fn enter(
    one_thread: &SingleThread,
    identity: &Identity,
    dirs: &GrainDirs,
    lock: OwnedFd,
    args: &Args,
) -> Result<Sandbox, Error> {
    let (link, child_link) = Link::pair().map_err(Error::kernel("make the link to init"))?;
    let (app, child_app) =
        fd::socketpair(libc::SOCK_STREAM).map_err(Error::kernel("make the app's socket"))?;
    let (output, child_output) = fd::pipe().map_err(Error::kernel("make the log pipe"))?;
    let null = fd::open(c"/dev/null", libc::O_RDWR, 0).map_err(Error::kernel("open /dev/null"))?;
    let ends = ChildEnds { link: child_link, app: child_app, output: child_output, null };
    let plan = Plan { args, dirs, lock: &lock };
    let mut notes = Vec::new();
    notes.extend(identity.warning.clone());

    let (init, slot, own_uid, mut cgroup) = match &identity.privileged {
        Some(privileged) => {
            let (init, slot, own_uid, cgroup) = privileged.as_root(|root| {
                privileged_half(one_thread, root, identity, &plan, ends, &link, &mut notes)
            })?;
            (init, Some(slot), own_uid, cgroup)
        }
        None => {
            let (init, cgroup) = plain_half(one_thread, identity, &plan, ends, &link)?;
            notes.push(
                "user-namespace mode: the grain runs under the uid of the server's user".into(),
            );
            (init, None, false, cgroup)
        }
    };
    notes.append(&mut cgroup.notes);
    cgroup.settle();
    let floor = floor(&cgroup, own_uid);
    Ok(Sandbox { init, link, app, output, slot, lock, cgroup, floor, notes })
}

/// Setuid and root mode: a uid for the grain, id-mapped mounts, real device nodes.
fn privileged_half(
    one_thread: &SingleThread,
    root: &AsRoot,
    identity: &Identity,
    plan: &Plan<'_>,
    ends: ChildEnds,
    link: &Link,
    notes: &mut Vec<String>,
) -> Result<(Child, Slot, bool, Cgroup), Error> {
    let slot = slot::take(root)?;
    let mut cgroup = Cgroup::prepare(&slot.number.to_string(), &plan.args.limits, Right::Root);
    let (forked, joined) = clone_into(one_thread, &cgroup, identity)?;
    let child = match forked {
        Forked::Child => child_main(one_thread, plan, ends, link, &cgroup, Some(&slot)),
        Forked::Parent(child) => child,
    };
    cgroup.forget_entrances();
    // Hundreds of spinning processes of the app must not keep init from ending them. The app
    // itself starts with the usual niceness; where we may not do this it takes a little longer.
    let _ = process::set_priority(child.pid, -20);
    if !joined {
        cgroup.join(child.pid).map_err(Error::kernel("put the grain into its control group"))?;
    }
    let (trees, own_uid) = outer_mounts(one_thread, root, identity, plan, &slot, notes)?;
    let caller = identity.caller;
    let outside = if own_uid { (slot.uid(), slot.uid()) } else { (caller.uid, caller.gid) };
    release(&child, link, outside, Some((own_uid, &trees)), identity)?;
    // As root: an undumpable process's own /proc is root's.
    harden::reset_oom_score();
    Ok((child, slot, own_uid, cgroup))
}

/// The mounts of a grain, id-mapped where that can be had; whether the grain gets the slot's uid.
fn outer_mounts(
    one_thread: &SingleThread,
    root: &AsRoot,
    identity: &Identity,
    plan: &Plan<'_>,
    slot: &Slot,
    notes: &mut Vec<String>,
) -> Result<(Trees, bool), Error> {
    let caller = identity.caller;
    let mapped = namespaces::id_map_namespace(
        one_thread,
        IdMap { inside: (caller.uid, caller.gid), outside: (slot.uid(), slot.uid()) },
    )
    .and_then(|userns| mounts::prepare(root, plan.dirs, Some(userns.as_fd())));
    match mapped {
        Ok(trees) => {
            notes.push(format!("setuid mode: the grain has kernel uid {}", slot.uid()));
            Ok((trees, true))
        }
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => {
            Err(kernel_error("use the mount calls", e, Step::MountCalls, identity))
        }
        Err(e) if caller.uid == 0 => Err(Error::Kernel {
            step: "give the grain an id-mapped view of its data",
            source: e,
            advice:
                "\nthe supervisor was started by root and this file system cannot be id-mapped: \
                     start the server as an ordinary user, or put the home on ext4, xfs or btrfs"
                    .into(),
        }),
        Err(e) => {
            notes.push(format!(
                "setuid mode without a uid of its own for the grain: the home's file system cannot be id-mapped ({e}); \
                 the grain runs under the uid of the server's user"
            ));
            let trees = mounts::prepare(root, plan.dirs, None).map_err(|e| {
                kernel_error("prepare the grain's mounts", e, Step::Inside, identity)
            })?;
            Ok((trees, false))
        }
    }
}

/// User-namespace mode: everything else happens inside.
fn plain_half(
    one_thread: &SingleThread,
    identity: &Identity,
    plan: &Plan<'_>,
    ends: ChildEnds,
    link: &Link,
) -> Result<(Child, Cgroup), Error> {
    let name = plan.dirs.grain_name.to_string_lossy();
    let cgroup = Cgroup::prepare(&name, &plan.args.limits, Right::Delegated);
    let (forked, joined) = clone_into(one_thread, &cgroup, identity)?;
    let child = match forked {
        Forked::Child => child_main(one_thread, plan, ends, link, &cgroup, None),
        Forked::Parent(child) => child,
    };
    if !joined {
        cgroup.join(child.pid).map_err(Error::kernel("put the grain into its control group"))?;
    }
    let caller = identity.caller;
    release(&child, link, (caller.uid, caller.gid), None, identity)?;
    harden::reset_oom_score();
    Ok((child, cgroup))
}

/// Clones into the namespaces and, where the kernel lets us, straight into the version 2 group;
/// the second value says whether that worked.
fn clone_into(
    one_thread: &SingleThread,
    cgroup: &Cgroup,
    identity: &Identity,
) -> Result<(Forked, bool), Error> {
    if let Some(dir) = cgroup.unified() {
        // A group of another kind, an older kernel or a filter without clone3: join afterwards.
        if let Ok(forked) = process::clone(one_thread, namespaces::flags(), Some(dir)) {
            return Ok((forked, true));
        }
    }
    process::clone(one_thread, namespaces::flags(), None)
        .map(|forked| (forked, false))
        .map_err(|e| kernel_error("make the grain's namespaces", e, Step::Namespaces, identity))
}

/// Gives the waiting child its ids and, where root made them, its mounts and whether the ids are its
/// own; and lets it go on.
fn release(
    child: &Child,
    link: &Link,
    outside: (u32, u32),
    mounts: Option<(bool, &Trees)>,
    identity: &Identity,
) -> Result<(), Error> {
    let map = IdMap { inside: (INSIDE_ID, INSIDE_ID), outside };
    let privileged = identity.privileged.is_some();
    let released = namespaces::write_maps(child, map, privileged)
        .map_err(|e| kernel_error("write the grain's id map", e, Step::Inside, identity))
        .and_then(|()| {
            match mounts {
                Some((own_uid, trees)) => link.send_build(own_uid, &trees.descriptors()),
                None => link.send_build(false, &[]),
            }
            .map_err(Error::kernel("tell init to go on"))
        });
    released.map_err(|broken| match link.report_at_hand() {
        // Its own words say more than our broken pipe.
        Some(init::Report::Failed { step, errno, advice }) => {
            Error::Sandbox { step, source: io::Error::from_raw_os_error(errno), advice }
        }
        _ => broken,
    })
}

/// What resource limits have to do in place of the groups that there are not.
pub fn floor(cgroup: &Cgroup, own_uid: bool) -> Floor {
    Floor {
        processes: own_uid || process::counts_processes_by_namespace(),
        group: cgroup.by(Controller::Pids).is_some(),
        memory: cgroup.by(Controller::Memory).is_none(),
        processor: cgroup.by(Controller::Cpu).is_none(),
    }
}

fn child_main(
    one_thread: &SingleThread,
    plan: &Plan<'_>,
    ends: ChildEnds,
    parents: &Link,
    cgroup: &Cgroup,
    slot: Option<&Slot>,
) -> ! {
    // Our copy of the supervisor's end would keep the link open after its death. Whoever owns the
    // number never drops it: this process does not return.
    let number = parents.as_raw_fd() as u32;
    let _ = fd::close_between(number, number);
    init::main(
        one_thread,
        init::Config {
            link: ends.link,
            app: ends.app,
            output: ends.output,
            null: ends.null,
            lock: plan.lock.as_fd(),
            slot: slot.map(|slot| slot.lock.as_fd()),
            cgroup,
            dirs: plan.dirs,
            limits: &plan.args.limits,
            command: &plan.args.command,
            environ: &plan.args.environ,
        },
    )
}

fn kernel_error(what: &'static str, source: io::Error, kind: Step, identity: &Identity) -> Error {
    let signs = Signs::read(identity.mode != Mode::UserNamespace);
    let advice = explain::advice(kind, &source, &signs);
    Error::Kernel { step: what, source, advice }
}

/// Tries, without a grain, what decides whether one can run here; a line for each finding.
///
/// # Errors
/// `Kernel` with advice when no grain could start.
pub fn check(one_thread: &SingleThread, identity: &Identity) -> Result<String, Error> {
    let limits = Limits::default();
    let cgroup = match &identity.privileged {
        Some(privileged) => privileged.as_root(|_| {
            try_namespaces(one_thread, identity)?;
            Ok(Cgroup::trial(&limits, Right::Root))
        })?,
        None => {
            try_namespaces(one_thread, identity)?;
            Cgroup::trial(&limits, Right::Delegated)
        }
    };
    let mode = match identity.mode {
        Mode::Setuid => "mode: setuid",
        Mode::Root => "mode: root",
        Mode::UserNamespace => "mode: user namespaces",
    };
    let lines = [mode.to_owned()].into_iter().chain(identity.warning.clone()).chain(cgroup.notes);
    Ok(lines.map(|line| line + "\n").collect())
}

/// The namespaces of a grain, its id map, and one mount inside: some systems let the first
/// succeed and refuse the last.
fn try_namespaces(one_thread: &SingleThread, identity: &Identity) -> Result<(), Error> {
    let (link, child_link) = Link::pair().map_err(Error::kernel("make a link"))?;
    let child = match process::clone(one_thread, namespaces::flags(), None)
        .map_err(|e| kernel_error("make namespaces", e, Step::Namespaces, identity))?
    {
        Forked::Child => {
            let number = link.as_raw_fd() as u32;
            let _ = fd::close_between(number, number);
            let tried = child_link.build().and_then(|_| namespaces::try_inside());
            process::exit_now(tried.map_or_else(|e| e.raw_os_error().unwrap_or(libc::EIO), |()| 0))
        }
        Forked::Parent(child) => child,
    };
    let caller = identity.caller;
    let released = release(&child, &link, (caller.uid, caller.gid), None, identity);
    drop(link);
    let ended = process::wait_for(child.pid).map_err(Error::kernel("wait for a child"))?;
    released?;
    match ended {
        process::Ended::Status(0) => Ok(()),
        process::Ended::Status(errno) => {
            let error = io::Error::from_raw_os_error(errno);
            Err(kernel_error(
                "mount something inside a user namespace",
                error,
                Step::Inside,
                identity,
            ))
        }
        process::Ended::Signal(n) => {
            let error = io::Error::other(format!("the attempt was ended by signal {n}"));
            Err(kernel_error(
                "mount something inside a user namespace",
                error,
                Step::Inside,
                identity,
            ))
        }
    }
}
