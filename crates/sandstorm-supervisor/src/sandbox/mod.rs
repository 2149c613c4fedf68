//! Building the sandbox from outside, without any privilege of our own.
//!
//! With root's help (setuid and root mode) init runs already. It is told the limits as soon as they are
//! known (`announce`), so that it goes on while we open the home; then the helper is given package, data
//! and lock, and hands init its mounts. Without it, or where the home's file system cannot be
//! id-mapped, the same steps are done here with the caller's own rights, and init finds the directories
//! again inside its namespaces.
//!
//! Inside (`init::main`): the grain's ids, the network; then, told to go on, time offsets and the
//! ban on nested namespaces while /proc is there, mounts, pivot, the app's own user namespace, then
//! capabilities and the seccomp filter last of all, because every step before them needs a call
//! that it forbids.
#![forbid(unsafe_code)]

pub mod bpf;
pub mod counters;
pub mod devices;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod outer;
pub mod page;
pub mod parents;
pub mod share;
pub mod syscalls;

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use self::counters::Watch;
use self::limits::{Floor, Limits};
use self::parents::Parents;
use self::share::{CPU, Groups, MEMORY, PIDS, Share};
use crate::args::Args;
use crate::error::Error;
use crate::explain::{self, Signs};
use crate::grain::app::BUILD_TIMEOUT;
use crate::grain::{image, project};
use crate::helper::{Disk, Failed, Kept, Made, Step};
use crate::home::GrainDirs;
use crate::init::{self, Ours, OwnGrain, Start};
use crate::link::{Build, Heard, Link, Report};
use crate::mode::{self, Caller, Mode};
use crate::privileged::slot::FIRST_UID;
use crate::privileged::{Begun, Half, clone_init};
use crate::sys::process::{self, Forked, SingleThread};

/// A sandbox, seen from outside; init may still build its inside.
#[derive(Debug)]
pub struct Outside {
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Other end of the app's fd 3.
    pub door: OwnedFd,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
    /// The grain's, held for life, with init.
    pub lock: OwnedFd,
    /// pid 1 of the grain.
    pub init: OwnedFd,
    /// Held for life, with init.
    pub slot: Option<OwnedFd>,
    /// Which version of control groups keeps memory, processes, processor time; 0 for none.
    pub limited: [u8; 3],
    /// What of the kernel's keeps the limits of bytes and inodes.
    pub disk: Kept,
    /// What resource limits do because the groups do not.
    pub floor: Floor,
    pub watch: Watch,
    /// What the log should say about how the grain runs.
    pub notes: Vec<String>,
}

fn limit(groups: &mut Groups, limits: &Limits) {
    let Limits { memory, pids, cpu, weight, .. } = *limits;
    share::limit(groups, &Share { memory, pids, cpu, weight });
}

fn send_build(link: &Link, groups: &Groups) -> io::Result<()> {
    link.send_build(Build { limited: groups.limited })
}

/// Sets the limits, and lets init, where it runs already, go on.
///
/// # Errors
/// `Kernel` for what its link answers.
pub fn announce(begun: &mut Begun, limits: &Limits) -> Result<(), Error> {
    let Half::Root(helper) = &mut begun.half else { return Ok(()) };
    let Some(groups) = helper.groups() else { return Ok(()) };
    limit(groups, limits);
    match send_build(&begun.ours.link, groups) {
        // If init is gone, the helper tells why, or it does.
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET)) => Ok(()),
        other => other.map_err(Error::kernel("tell init to go on")),
    }
}

/// Has everything outside done; the grain's init goes on by itself. `announce` came before.
///
/// # Errors
/// `Kernel` or `Sandbox` with advice, `Untrusted` for what has the wrong owner.
pub fn enter(
    one_thread: &SingleThread,
    begun: Begun,
    dirs: &GrainDirs,
    lock: OwnedFd,
    args: &Args,
) -> Result<Outside, Error> {
    let mut notes = Vec::new();
    notes.extend(bit_ignored(begun.mode));
    let (mut disk, limits) = (Disk::Measured, [args.limits.disk, args.limits.inodes]);
    let rooted = matches!(begun.half, Half::Root(_));
    if let Some(new) = image::find(dirs, args)? {
        if !rooted {
            return Err(image::without_root(false));
        }
        disk = Disk::Image { new, limits };
    } else if rooted && crate::sys::quota::are_kept(dirs.sandbox.as_fd()) {
        match project::settle(dirs.sandbox.as_fd(), args.limits.inodes) {
            Ok(()) => disk = Disk::Quota(limits),
            Err(e) => notes.push(format!(
                "the disk limit is kept by accounting: the grain's files could not be counted under a quota ({e})"
            )),
        }
    }
    let grain = Grain { dirs, lock: &lock, args, disk };
    let held = hold(one_thread, begun, Some(&grain), &args.limits)?;
    let Held { ours: Ours { link, output }, door, init, slot, own_uid, disk, groups, note } = held;
    notes.insert(usize::from(notes.len() > 1), note);
    notes.extend(counters::notes(&groups.limited, &args.limits));
    let floor = floor(&groups.limited, own_uid);
    let limited = groups.limited;
    let watch = Watch::new(groups);
    Ok(Outside { link, door, output, lock, init, slot, limited, disk, floor, watch, notes })
}

/// What a start has that a trial has not.
struct Grain<'a> {
    dirs: &'a GrainDirs,
    lock: &'a OwnedFd,
    args: &'a Args,
    disk: Disk,
}

/// An init and how it is held.
struct Held {
    ours: Ours,
    /// Other end of the app's fd 3.
    door: OwnedFd,
    init: OwnedFd,
    slot: Option<OwnedFd>,
    own_uid: bool,
    disk: Kept,
    groups: Groups,
    /// How the grain runs, in words.
    note: String,
}

/// Has an init that builds, with root's help or without.
fn hold(
    one_thread: &SingleThread,
    begun: Begun,
    grain: Option<&Grain<'_>>,
    limits: &Limits,
) -> Result<Held, Error> {
    let Begun { caller, mode, ours, half } = begun;
    let (ours, inits, note) = match half {
        Half::Own(inits) => {
            let note = "user-namespace mode: the grain runs under the uid of the server's user";
            (ours, inits, note.to_owned())
        }
        Half::Root(helper) => {
            let disk = grain.map_or(Disk::Measured, |g| g.disk);
            let in_image = matches!(disk, Disk::Image { .. });
            let all = grain.map(|g| {
                let data = if in_image { &g.dirs.grain } else { &g.dirs.sandbox };
                [g.dirs.package.as_fd(), data.as_fd(), g.lock.as_fd()]
            });
            helper
                .give(all.as_ref().map_or(&[], |all| all), disk)
                .map_err(Error::kernel("ask the privileged helper"))?;
            let init = helper.init();
            let outcome =
                helper.outcome().map_err(Error::kernel("hear from the privileged helper"))?;
            match outcome {
                Ok(Made { init, uid, disk, groups, slot }) => {
                    let note = format!("setuid mode: the grain has kernel uid {uid}");
                    let (door, slot) = (door(&ours.link)?, Some(slot));
                    return Ok(Held { ours, door, init, slot, own_uid: true, disk, groups, note });
                }
                Err(Failed { step: Step::IdMap, errno }) if caller.uid != 0 && !in_image => {
                    let note = format!(
                        "setuid mode without a uid of its own for the grain: the home's file system (or a mount of it in another namespace) \
                         cannot be id-mapped, or the uid is not mapped here ({}); the grain runs as without root, \
                         under the uid of the server's user",
                        io::Error::from_raw_os_error(errno)
                    );
                    // What root made is nothing to a process of the caller's uid: all of it ends here.
                    drop(ours);
                    init.map_or(Ok(()), |pid| process::wait_for(pid).map(drop))
                        .map_err(Error::kernel("wait for the first init"))?;
                    let (ours, inits) = init::ends()?;
                    (ours, inits, note)
                }
                Err(failed) if failed.step == Step::Begin => {
                    return Err(helpers_words(failed, mode));
                }
                Err(failed) => {
                    // Init then knows only that no mounts came.
                    if in_image && !matches!(failed.step, Step::Init | Step::Release) {
                        return Err(
                            image::refused(failed).unwrap_or_else(|| helpers_words(failed, mode))
                        );
                    }
                    let words = inits_words(&ours.link);
                    return Err(words.unwrap_or_else(|| helpers_words(failed, mode)));
                }
            }
        }
    };
    let name = grain.map_or("check".into(), |g| g.dirs.grain_name.to_string_lossy());
    let mut groups = Groups::version_2(&Parents::find(), &name, false);
    limit(&mut groups, limits);
    let (init, groups) = own_half(one_thread, caller, &ours.link, inits, grain, groups)?;
    let (door, disk) = (door(&ours.link)?, Kept::default());
    Ok(Held { ours, door, init, slot: None, own_uid: false, disk, groups, note })
}

/// Init, made with the caller's own rights.
fn own_half(
    one_thread: &SingleThread,
    caller: Caller,
    link: &Link,
    inits: init::Ends,
    grain: Option<&Grain<'_>>,
    mut groups: Groups,
) -> Result<(OwnedFd, Groups), Error> {
    let own = match grain {
        None => None,
        Some(Grain { args, dirs, lock, .. }) => {
            let lock = lock.try_clone().map_err(Error::kernel("duplicate a descriptor"))?;
            Some(OwnGrain { args, dirs, lock })
        }
    };
    let child = match clone_init(one_thread, &mut groups).map_err(|e| {
        let step = explain::Step::Namespaces;
        kernel_error("make the grain's namespaces", e, step, Mode::UserNamespace)
    })? {
        Forked::Child => init::main(one_thread, Start::by_supervisor(inits, caller, own)),
        Forked::Parent(child) => child,
    };
    send_build(link, &groups)
        .map_err(Error::kernel("tell init to go on"))
        .map_err(|broken| inits_words(link).unwrap_or(broken))?;
    Ok((child.pidfd, groups))
}

/// Our end of the app's fd 3, which init makes once it is in its network.
fn door(link: &Link) -> Result<OwnedFd, Error> {
    match link.door(BUILD_TIMEOUT).map_err(Error::kernel("hear from init"))? {
        Some(Heard::Door(door)) => Ok(door),
        Some(Heard::Report(report)) => Err(failure(report).unwrap_or_else(gone)),
        Some(Heard::Temporary(_)) | None => Err(gone()),
    }
}

fn gone() -> Error {
    Error::Kernel {
        step: "hear from init, which ended early",
        source: io::ErrorKind::UnexpectedEof.into(),
        advice: String::new(),
    }
}

/// What init reports of a failure says more than our broken pipe.
fn inits_words(link: &Link) -> Option<Error> {
    link.report_at_hand().and_then(failure)
}

fn failure(report: Report) -> Option<Error> {
    let Report::Failed { step, errno, advice } = report else { return None };
    Some(Error::Sandbox { step, source: io::Error::from_raw_os_error(errno), advice })
}

fn bit_ignored(mode: Mode) -> Option<String> {
    let ignored = mode == Mode::UserNamespace && mode::has_root_bit();
    ignored.then(|| BIT_IGNORED.to_owned())
}

const BIT_IGNORED: &str = "this program is setuid root, but the kernel did not honour that: the caller runs with no_new_privs \
     (a systemd option that implies it, a container flag) or the file lies on a nosuid mount; \
     using a user namespace instead";

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
        Step::Init => plain("hear from the grain's init"),
        Step::Release => plain("hand init its mounts"),
        // Of grains that have one: `image::refused` has the words.
        Step::ImageFile | Step::ImageMake | Step::ImageDevice | Step::ImageMount => {
            plain("use the grain's image file")
        }
    }
}

/// Tries, without a grain, what decides whether one can run here; a line for each finding.
///
/// # Errors
/// `Kernel` or `Sandbox` with advice when no grain could start.
pub fn check(one_thread: &SingleThread, mut begun: Begun) -> Result<String, Error> {
    let limits = Limits::default();
    announce(&mut begun, &limits)?;
    let mode = begun.mode;
    let Held { ours, groups, .. } = hold(one_thread, begun, None, &limits)?;
    match ours.link.heard().map_err(Error::kernel("hear from init"))? {
        Some(Heard::Report(Report::Ready(_))) => {}
        Some(Heard::Report(other)) => return Err(failure(other).unwrap_or_else(gone)),
        _ => return Err(gone()),
    }
    let name = match mode {
        Mode::Setuid => "mode: setuid",
        Mode::Root => "mode: root",
        Mode::UserNamespace => "mode: user namespaces",
    };
    let lines = [name.to_owned()].into_iter().chain(bit_ignored(mode));
    let lines = lines.chain(counters::notes(&groups.limited, &limits));
    let lines = lines.chain((mode != Mode::UserNamespace).then(image::prospect));
    Ok(lines.map(|line| line + "\n").collect())
}
