//! Building the sandbox from outside, without any privilege of our own.
//!
//! With root's help (setuid and root mode) init runs already and the helper is asked (`helper`), in two
//! messages: the limits as soon as they are known, so that it makes groups while we open the home;
//! then package, data and lock. Meanwhile we get ready to serve, and take what it
//! made. Without it, the same steps are done here with the caller's own rights, and init finds the
//! directories again inside its namespaces.
//!
//! Inside (`init::main`): the network; then, told to go on, the grain's ids, time offsets and the
//! ban on nested namespaces while /proc is there, mounts, pivot, then capabilities and the seccomp
//! filter last of all, because every step before them needs a call that it forbids.
#![forbid(unsafe_code)]

pub mod bpf;
pub mod counters;
pub mod devices;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod outer;
pub mod page;
pub mod syscalls;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use self::counters::Watch;
use self::limits::{Floor, Limits};
use self::namespaces::INSIDE_ID;
use crate::args::Args;
use crate::error::Error;
use crate::explain::{self, Signs};
use crate::grain::project;
use crate::helper::{Answer, Failed, Helper, Made, Step};
use crate::home::GrainDirs;
use crate::init::{self, OwnGrain, Start};
use crate::link::{Build, Kind, Link, Report};
use crate::mode::{Caller, Mode};
use crate::privileged::groups::{CPU, Groups, MEMORY, PIDS, Share};
use crate::privileged::slot::FIRST_UID;
use crate::privileged::{Begun, Half, IdMap, clone_init, write_maps};
use crate::sys::creds;
use crate::sys::process::{self, Forked, SingleThread};

/// The supervisor's ends of everything that leads into the sandbox, which may still be in the
/// making.
#[derive(Debug)]
pub struct Sandbox {
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub app: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    /// Held for life, with init.
    pub lock: OwnedFd,
    mode: Mode,
    bit_ignored: bool,
    /// The disk limit could be the file system's affair, but for this.
    unnumbered: Option<io::Error>,
    making: Making,
}

#[derive(Debug)]
enum Making {
    Helper(Helper),
    Done(Made),
}

/// A finished sandbox, seen from outside.
#[derive(Debug)]
pub struct Outside {
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub app: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    /// The grain's, held for life, with init.
    pub lock: OwnedFd,
    /// pid 1 of the grain.
    pub init: OwnedFd,
    /// Held for life, with init.
    pub slot: Option<OwnedFd>,
    pub limited: [u8; 3],
    /// The file system keeps the limits of bytes and inodes.
    pub quota: bool,
    /// What resource limits do because the groups do not.
    pub floor: Floor,
    pub watch: Watch,
    /// What the log should say about how the grain runs.
    pub notes: Vec<String>,
}

fn share(limits: &Limits) -> Share {
    let Limits { memory, pids, cpu, weight, .. } = *limits;
    Share { memory, pids, cpu, weight }
}

/// Lets the helper, where there is one, begin.
///
/// # Errors
/// `Kernel` for what its socket answers.
pub fn announce(begun: &Begun, limits: &Limits) -> Result<(), Error> {
    match &begun.half {
        Half::Root(helper) => {
            helper.ask(&share(limits)).map_err(Error::kernel("ask the privileged helper"))
        }
        Half::Own(_) => Ok(()),
    }
}

/// Starts building; the grain's init goes on by itself. `announce` came before.
///
/// # Errors
/// `Kernel` with advice.
pub fn enter(
    one_thread: &SingleThread,
    begun: Begun,
    dirs: &GrainDirs,
    lock: OwnedFd,
    args: &Args,
) -> Result<Sandbox, Error> {
    let Begun { caller, mode, bit_ignored, link, app, output, half } = begun;
    let mut unnumbered = None;
    let making = match half {
        Half::Root(mut helper) => {
            let mut quota = None;
            if crate::sys::quota::are_kept(dirs.sandbox.as_fd()) {
                match project::settle(dirs.sandbox.as_fd(), args.limits.inodes) {
                    Ok(()) => quota = Some([args.limits.disk, args.limits.inodes]),
                    Err(e) => unnumbered = Some(e),
                }
            }
            let all = [dirs.package.as_fd(), dirs.sandbox.as_fd(), lock.as_fd()];
            helper.give(&all, quota).map_err(Error::kernel("ask the privileged helper"))?;
            Making::Helper(helper)
        }
        Half::Own(ends) => {
            let inits = lock.try_clone().map_err(Error::kernel("duplicate a descriptor"))?;
            let name = dirs.grain_name.to_string_lossy();
            let own = Some(OwnGrain { args, dirs, lock: inits });
            let own = Own { name: &name, limits: &args.limits, ends, kind: Kind::Own, grain: own };
            Making::Done(own_half(one_thread, caller, &link, own)?)
        }
    };
    Ok(Sandbox { link, app, output, lock, mode, bit_ignored, unnumbered, making })
}

/// What is built without root.
struct Own<'a> {
    /// This grain's among all that run.
    name: &'a str,
    limits: &'a Limits,
    ends: init::Ends,
    kind: Kind,
    /// Nothing for a trial.
    grain: Option<OwnGrain<'a>>,
}

/// Everything from outside with the caller's own rights.
fn own_half(
    one_thread: &SingleThread,
    caller: Caller,
    link: &Link,
    own: Own<'_>,
) -> Result<Made, Error> {
    let mode = Mode::UserNamespace;
    let Own { name, limits, ends, kind, grain } = own;
    let mut groups = Groups::to_be_born_in(name, false);
    let child = match clone_init(one_thread, &mut groups).map_err(|e| {
        kernel_error("make the grain's namespaces", e, explain::Step::Namespaces, mode)
    })? {
        Forked::Child => init::main(one_thread, Start::by_supervisor(ends, grain)),
        Forked::Parent(child) => child,
    };
    // It waits meanwhile.
    groups.limit_unified(&share(limits));
    let map = IdMap { inside: (INSIDE_ID, INSIDE_ID), outside: (caller.uid, caller.gid) };
    write_maps(&child, map, false)
        .map_err(|e| kernel_error("write the grain's id map", e, explain::Step::Inside, mode))
        .and_then(|()| {
            link.send_build(Build { kind, limited: groups.limited }, &[])
                .map_err(Error::kernel("tell init to go on"))
        })
        .map_err(|broken| inits_words(link).unwrap_or(broken))?;
    // From here on nobody of the caller's other processes looks into this one.
    creds::set_dumpable(false).map_err(Error::kernel("make the process undumpable"))?;
    let Groups { limited, handles, .. } = groups;
    let answer = Answer { limited, handles, ..Answer::default() };
    Ok(Made { init: child.pidfd, slot: None, answer })
}

/// What init reports of a failure says more than our broken pipe.
fn inits_words(link: &Link) -> Option<Error> {
    match link.report_at_hand()? {
        Report::Failed { step, errno, advice } => {
            Some(Error::Sandbox { step, source: io::Error::from_raw_os_error(errno), advice })
        }
        _ => None,
    }
}

impl Making {
    fn finish(self, link: &Link, mode: Mode) -> Result<Made, Error> {
        let helper = match self {
            Making::Done(made) => return Ok(made),
            Making::Helper(helper) => helper,
        };
        let outcome = helper.outcome().map_err(Error::kernel("hear from the privileged helper"))?;
        outcome.map_err(|failed| inits_words(link).unwrap_or_else(|| helpers_words(failed, mode)))
    }
}

impl Sandbox {
    /// Waits until everything outside is done.
    ///
    /// # Errors
    /// `Kernel` or `Sandbox` with advice, `Untrusted` for what has the wrong owner.
    pub fn finish(self, limits: &Limits) -> Result<Outside, Error> {
        let Sandbox { link, app, output, lock, mode, making, .. } = self;
        let Made { init, slot, answer } = making.finish(&link, mode)?;
        let Answer { own_uid, limited, quota, handles } = answer;
        let mut notes = Vec::new();
        notes.extend(self.bit_ignored.then(bit_ignored));
        notes.push(match own_uid {
            None => {
                "user-namespace mode: the grain runs under the uid of the server's user".to_owned()
            }
            Some(Ok(uid)) => format!("setuid mode: the grain has kernel uid {uid}"),
            Some(Err(errno)) => format!(
                "setuid mode without a uid of its own for the grain: the home's file system cannot be id-mapped, or the uid is not mapped here ({}); \
                 the grain runs under the uid of the server's user",
                io::Error::from_raw_os_error(errno)
            ),
        });
        notes.extend(counters::notes(&limited, limits));
        notes.extend(self.unnumbered.map(|e| {
            format!("the disk limit is kept by accounting: the grain's files could not be counted under a quota ({e})")
        }));
        let floor = floor(&limited, matches!(own_uid, Some(Ok(_))));
        let watch = Watch::new(&limited, handles);
        Ok(Outside { link, app, output, lock, init, slot, limited, quota, floor, watch, notes })
    }
}

fn bit_ignored() -> String {
    "this program is setuid root, but the kernel did not honour that: the caller runs with no_new_privs \
     (a systemd option that implies it, a container flag) or the file lies on a nosuid mount; \
     using a user namespace instead"
        .to_owned()
}

/// What resource limits have to do in place of the groups that there are not.
pub fn floor(limited: &[u8; 3], own_uid: bool) -> Floor {
    Floor {
        processes: own_uid || process::counts_processes_by_namespace(),
        group: limited[PIDS] != 0,
        memory: limited[MEMORY] == 0,
        processor: limited[CPU] == 0,
    }
}

fn kernel_error(what: &'static str, source: io::Error, kind: explain::Step, mode: Mode) -> Error {
    let signs = Signs::read(mode != Mode::UserNamespace);
    let advice = explain::advice(kind, &source, &signs);
    Error::Kernel { step: what, source, advice }
}

fn helpers_words(failed: Failed, mode: Mode) -> Error {
    let source = io::Error::from_raw_os_error(failed.errno);
    let plain = |what| Error::Kernel {
        step: what,
        source: io::Error::from_raw_os_error(failed.errno),
        advice: String::new(),
    };
    match failed.step {
        Step::Begin => plain("start the privileged helper"),
        Step::Ask if failed.errno == libc::EAGAIN => plain("hear in time what the grain needs"),
        Step::Ask => plain("hear what the grain needs"),
        Step::SlotDirectory => plain("make and open /run/sandstorm-uid"),
        Step::SlotOwner => Error::Untrusted {
            what: "the directory",
            path: "/run/sandstorm-uid".into(),
            fault: "is not root's own (mode 0700)".into(),
            fix: "remove it while no grain runs; the supervisor makes it anew".into(),
        },
        Step::Slot => plain("find a free uid in /run/sandstorm-uid"),
        Step::Namespaces => {
            kernel_error("make the grain's namespaces", source, explain::Step::Namespaces, mode)
        }
        Step::Owner => plain("use the grain's data directory, which is not the caller's"),
        Step::IdMap => Error::Kernel {
            step: "give the grain an id-mapped view of its data",
            source,
            advice: format!(
                "\nthe supervisor was started by root, and this file system cannot be id-mapped, or this is a \
                     namespace without the grains' uids ({FIRST_UID} on): start the server as an ordinary user, \
                     or put the home on ext4, xfs or btrfs"
            ),
        },
        Step::Mounts => {
            let missing = failed.errno == libc::ENOSYS;
            let kind = if missing { explain::Step::MountCalls } else { explain::Step::Inside };
            kernel_error("prepare the grain's mounts", source, kind, mode)
        }
        Step::Maps => kernel_error("write the grain's id map", source, explain::Step::Inside, mode),
        Step::Release => plain("tell init to go on"),
    }
}

/// Tries, without a grain, what decides whether one can run here; a line for each finding.
///
/// # Errors
/// `Kernel` or `Sandbox` with advice when no grain could start.
pub fn check(one_thread: &SingleThread, begun: Begun) -> Result<String, Error> {
    let limits = Limits::default();
    announce(&begun, &limits)?;
    let Begun { caller, mode, bit_ignored: ignored, link, half, .. } = begun;
    let making = match half {
        Half::Root(mut helper) => {
            helper.give(&[], None).map_err(Error::kernel("ask the privileged helper"))?;
            Making::Helper(helper)
        }
        Half::Own(ends) => {
            let (name, kind) = ("check", Kind::Trial);
            let own = Own { name, limits: &limits, ends, kind, grain: None };
            Making::Done(own_half(one_thread, caller, &link, own)?)
        }
    };
    let made = making.finish(&link, mode)?;
    let gone = || Error::Kernel {
        step: "try a sandbox: its init ended early",
        source: io::ErrorKind::UnexpectedEof.into(),
        advice: String::new(),
    };
    match link.next_report().map_err(Error::kernel("hear from init"))?.ok_or_else(gone)? {
        Report::Failed { step, errno, advice } => {
            return Err(Error::Sandbox {
                step,
                source: io::Error::from_raw_os_error(errno),
                advice,
            });
        }
        Report::Ready(_) => {}
        _ => return Err(gone()),
    }
    let name = match mode {
        Mode::Setuid => "mode: setuid",
        Mode::Root => "mode: root",
        Mode::UserNamespace => "mode: user namespaces",
    };
    let lines = [name.to_owned()].into_iter().chain(ignored.then(bit_ignored));
    let lines = lines.chain(counters::notes(&made.answer.limited, &limits));
    Ok(lines.map(|line| line + "\n").collect())
}
