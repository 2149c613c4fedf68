//! pid 1 of a grain: builds the inside of the sandbox, starts the app, reaps, forwards signals.
//!
//! It ends when the supervisor's end of the link closes; where both have one uid a parent-death
//! signal comes on top. Before that it kills every process of the grain and waits until each is
//! gone: it holds the grain's lock and uid slot, and the kernel would close those before it kills,
//! so that a new start could meet an old writer that is slow to die.
//!
//! Trust: once it has reported `Ready` it has no privilege left and runs under the same filter as the
//! app, whose uid it shares; it is not dumpable, and reads nothing that the app wrote except the first
//! bytes of a program that could not be executed.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::net::SocketType;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use sandstorm_schema::memory;

use crate::args::{self, Action, Args};
use crate::error::{Error, StepError, step};
use crate::explain::{self, Signs};
use crate::explain_exec;
use crate::home::GrainDirs;
use crate::layers::{Layer, off};
use crate::link::{Build, Command, Link, Report};
use crate::mode::Caller;
use crate::sandbox;
use crate::sandbox::bpf;
use crate::sandbox::limits::{Floor, Limits};
use crate::sandbox::mounts::{self, Fresh, Trees};
use crate::sandbox::namespaces::{self, Own};
use crate::sys::process::{self, Forked, SingleThread};
use crate::sys::{creds, fd, signal};

/// The supervisor's ends of all that joins it with init at first.
#[derive(Debug)]
pub struct Ours {
    /// Commands to init and its reports; closing it ends the grain.
    pub link: Link,
    /// Read end of the app's stdout and stderr.
    pub output: OwnedFd,
}

/// Init's ends.
#[derive(Debug)]
pub struct Ends {
    link: Link,
    /// The app's fds 1 and 2.
    output: OwnedFd,
    null: OwnedFd,
}

/// Both. (The app's fd 3 is made by init: a socket belongs to the network that its maker is in, and lets
/// whoever has it ask for that network's interfaces and take its names.)
///
/// # Errors
/// `Kernel`.
pub fn ends() -> Result<(Ours, Ends), Error> {
    let (ours, link) = Link::pair().map_err(Error::kernel("make the link to init"))?;
    let (read, output) = fd::pipe().map_err(Error::kernel("make the log pipe"))?;
    let null = fd::open(c"/dev/null", OFlags::RDWR).map_err(Error::kernel("open /dev/null"))?;
    Ok((Ours { link: ours, output: read }, Ends { link, output, null }))
}

/// Who a grain is: on disk its files are the caller's.
#[derive(Debug, Clone, Copy)]
pub struct Ids {
    pub caller: Caller,
    /// Uid and gid by which the kernel knows it.
    pub outside: (u32, u32),
}

/// What the forked child starts with.
#[derive(Debug)]
pub struct Start<'a> {
    ends: Ends,
    ids: Ids,
    slot: Option<OwnedFd>,
    /// Where the helper, and nobody else, gives it mounts.
    orders: Option<Link>,
    /// Where no root helps: what the supervisor, whose fork this is, has found out already.
    own: Option<OwnGrain<'a>>,
}

/// A grain whose supervisor has looked at everything before it forked init.
#[derive(Debug)]
pub struct OwnGrain<'a> {
    pub args: &'a Args,
    pub dirs: &'a GrainDirs,
    pub lock: OwnedFd,
}

impl<'a> Start<'a> {
    /// Forked with root's rights, before anybody has looked at an argument: init does so itself.
    pub fn by_root(ends: Ends, ids: Ids, slot: OwnedFd, orders: Link) -> Start<'a> {
        Start { ends, ids, slot: Some(slot), orders: Some(orders), own: None }
    }

    /// Forked by the supervisor; `own` unless this is a trial.
    pub fn by_supervisor(ends: Ends, caller: Caller, own: Option<OwnGrain<'a>>) -> Start<'a> {
        let ids = Ids { caller, outside: (caller.uid, caller.gid) };
        Start { ends, ids, slot: None, orders: None, own }
    }
}

/// What init keeps open for its life, under numbers that are not the app's.
#[derive(Debug)]
struct Kept {
    link: Link,
    output: OwnedFd,
    null: OwnedFd,
    /// The app's fd 3, once the grain has its network.
    door: Option<OwnedFd>,
    slot: Option<OwnedFd>,
    /// Missing in a trial, and until it comes with the mounts.
    lock: Option<OwnedFd>,
}

impl Kept {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let always = [self.link.as_fd(), self.output.as_fd(), self.null.as_fd()];
        let others = [&self.door, &self.slot, &self.lock];
        always.into_iter().chain(others.into_iter().flatten().map(AsFd::as_fd)).collect()
    }
}

/// Signals that init receives by descriptor and passes on to the app.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// The parent-death signal: received by descriptor like the forwarded ones, so that there is time
/// to end in order.
const ORPHANED: Signal = Signal::SIGPWR;

/// Numbers below this are set aside for the app's fds.
const ABOVE: i32 = 10;

/// The child's whole life.
pub fn main(one_thread: &SingleThread, start: Start<'_>) -> ! {
    let Start { ends, ids, slot, orders, own } = start;
    rustix::process::umask(0o077.into());
    let _ = signal::unblock_all();
    let (own, lock) = match own {
        Some(OwnGrain { args, dirs, lock }) => (Some((args, dirs)), Some(lock)),
        None => (None, None),
    };
    let Ok(mut kept) = keep(ends, slot, lock) else { process::exit_now(1) };
    // Our copies of the supervisor's and the helper's ends would keep both alive for each other.
    // Whoever owns the numbers never drops them: this process does not return.
    let mut open = kept.descriptors();
    open.extend(orders.iter().map(AsFd::as_fd));
    open.extend(own.iter().flat_map(|(_, dirs)| [dirs.package.as_fd(), dirs.sandbox.as_fd()]));
    if let Err(error) = fd::close_all_but(&open) {
        fail(&kept, "close what was inherited", &error);
    }
    // Outside, its uid is the grain's alone from here on; inside it is the caller's, 0 if root started us.
    let first = namespaces::take_ids(ids.caller, ids.outside)
        .and_then(|()| step("hand out the id map", orders.as_ref().map_or(Ok(()), hand_out_map)))
        // While control groups and mounts are made outside.
        .and_then(|()| namespaces::settle_network())
        .and_then(|()| step("make the app's socket", make_door(&mut kept)));
    if let Err((what, error)) = first {
        fail(&kept, what, &error);
    }
    // The same words that the supervisor has read, and the same answer.
    let parsed = match own {
        None => args::parse(std::env::args_os().skip(1)).ok(),
        Some(_) => None,
    };
    let (args, from) = match (&parsed, own, orders) {
        (_, Some((args, dirs)), _) => (args, Source::Directories(dirs)),
        (Some(Action::Run(args)), None, Some(orders)) => (&**args, Source::Helper(orders)),
        (Some(Action::Check), ..) => try_out(&kept, ids.caller),
        _ => process::exit_now(1),
    };
    match self::build(&mut kept, from, ids.caller, &args.limits) {
        Ok(Inside { signals, notes, pid_max, limited }) => {
            if kept.link.report(&Report::Ready(notes.join("\n"))).is_err() {
                process::exit_now(0);
            }
            let floor = sandbox::floor(&limited, kept.slot.is_some());
            serve(App { one_thread, kept, args, floor, pid_max }, &signals)
        }
        Err((what, error)) => fail(&kept, what, &error),
    }
}

/// What every grain's start does, without a grain.
fn try_out(kept: &Kept, caller: Caller) -> ! {
    if let Err((what, error)) = join_groups(kept).and_then(|_| namespaces::try_inside(caller)) {
        fail(kept, what, &error);
    }
    let _ = kept.link.report(&Report::Ready(String::new()));
    process::exit_now(0)
}

/// The helper makes mounts in which the files' owner is us.
fn hand_out_map(helper: &Link) -> io::Result<()> {
    let map = fd::open(c"/proc/self/ns/user", OFlags::RDONLY)?;
    helper.send_descriptors([map.as_fd()])
}

/// Inside the grain's network: the app's fd 3. The supervisor gets the other end.
fn make_door(kept: &mut Kept) -> io::Result<()> {
    let (door, outside) = fd::socketpair(SocketType::STREAM)?;
    kept.door = Some(fd::dup_above(&door, ABOVE)?);
    kept.link.send_descriptors([outside.as_fd()])
}

fn fail(kept: &Kept, what: &str, error: &io::Error) -> ! {
    // The host's /proc is here until the old root goes, and no later step fails for what it tells.
    let advice = explain::advice(explain::Step::Inside, error, &Signs::read(kept.slot.is_some()));
    let _ = kept.link.report(&Report::Failed {
        step: what.to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
        advice,
    });
    process::exit_now(1)
}

fn keep(ends: Ends, slot: Option<OwnedFd>, lock: Option<OwnedFd>) -> io::Result<Kept> {
    let above = |fd: OwnedFd| fd::dup_above(&fd, ABOVE);
    // The caller's stdout and stderr are not ours to keep open.
    for n in 0..3 {
        fd::dup_onto(&ends.null, n)?;
    }
    Ok(Kept {
        link: ends.link.duplicate_above(ABOVE)?,
        output: above(ends.output)?,
        null: above(ends.null)?,
        door: None,
        slot: slot.map(above).transpose()?,
        lock: lock.map(above).transpose()?,
    })
}

/// Waits until limits are set, and enters the control groups that keep them: which version keeps each.
///
/// Each thread moving itself is the one way that takes no machine-wide lock: moving a process
/// by its number waits for an RCU grace period a hierarchy, 5 to 20 ms together. (We have one thread.)
fn join_groups(kept: &Kept) -> Result<[u8; 3], StepError> {
    // Root's, if it made some, come before anything that the program says once it has no rights.
    let entrances = match kept.slot {
        Some(_) => kept.link.entrances(),
        None => Ok(Some(Vec::new())),
    };
    let Ok(Some(entrances)) = entrances else { process::exit_now(0) };
    let Ok(Some(Build { limited })) = kept.link.build() else { process::exit_now(0) };
    let entered = limited.iter().enumerate().filter(|(_, version)| **version == 1).try_for_each(
        |(controller, _)| {
            // Without it the limit would be believed and not hold.
            let entrance = entrances.iter().find(|(number, _)| *number == controller);
            let (_, tasks) = entrance.ok_or(io::ErrorKind::InvalidData)?;
            fd::write_all_at_once(tasks, b"0")
        },
    );
    step("enter the grain's control groups", entered).map(|()| limited)
}

/// Where package and data come from.
enum Source<'a> {
    Helper(Link),
    Directories(&'a GrainDirs),
}

/// A finished sandbox, from inside.
struct Inside {
    signals: SignalFd,
    /// What the log should say.
    notes: Vec<String>,
    pid_max: i32,
    limited: [u8; 3],
}

/// The steps inside, in their order.
fn build(
    kept: &mut Kept,
    from: Source<'_>,
    caller: Caller,
    limits: &Limits,
) -> Result<Inside, StepError> {
    let mut notes = Vec::new();

    // A process group of its own (number 1), which the filter can keep the app away from.
    step("start a session", rustix::process::setsid())?;
    // While the host's /proc is there.
    if off(Layer::TimeNamespace) {
        notes.push("no time namespace".to_owned());
    } else if let Err(e) = namespaces::hide_boot_time() {
        notes.push(format!("uptime is visible to the app: no time namespace ({e})"));
    }
    namespaces::prefer_as_oom_victim();

    // Only now: with root's uid an older kernel would take it for the whole machine's.
    let pid_max = namespaces::narrow_pids();
    // Charged to the grain's uid where it has one. A full quota leaves the caller's keyring, which
    // only keyctl could reach, and the filter refuses that.
    let _ = creds::join_new_session_keyring();

    if off(Layer::Nested) {
        notes.push("nested user namespaces are not forbidden".to_owned());
    } else if let Err(e) = namespaces::forbid_nested() {
        notes.push(format!("nested user namespaces are stopped by the filter alone ({e})"));
    }
    let own = step("open /proc/self", Own::open())?;
    let fresh = Fresh::make(limits)?;
    let temporary = kept.link.show_temporary([fresh.tmp.as_fd(), fresh.shm.as_fd()]);
    step("show what is temporary", temporary)?;
    // Before anything that depends on the package or could take much.
    let limited = join_groups(kept)?;
    let trees = match from {
        Source::Directories(dirs) => mounts::prepare_inside(dirs)?,
        Source::Helper(orders) => {
            let given = step("take over the mounts", orders.descriptors())?;
            // The supervisor tells why.
            let Some([package, data, lock]) = given else { process::exit_now(0) };
            kept.lock = Some(step("keep the grain's lock", fd::dup_above(&lock, ABOVE))?);
            Trees::received(package, data)
        }
    };
    mounts::assemble(&trees, &fresh, limits)?;
    drop((trees, fresh));
    step("make the app's user namespace", namespaces::go_inner(&own, caller))?;
    drop(own);

    // No directory of the old root may stay open: MNT_DETACH revokes nothing.
    if !off(Layer::Descriptors) {
        step("close everything else", fd::close_all_but(&kept.descriptors()))?;
    }

    if !off(Layer::NoNewPrivs) {
        step("set no_new_privs", rustix::thread::set_no_new_privs(true))?;
    }
    #[cfg(feature = "unsafe-disable")]
    if off(Layer::Capabilities) {
        step("keep capabilities over exec", creds::keep_over_exec())?;
    }
    if !off(Layer::Capabilities) {
        step("lock the capability sets", creds::lock_capability_sets())?;
        step("drop capabilities", creds::drop_capabilities())?;
    }
    step("make init undumpable", creds::set_dumpable(off(Layer::Dumpable)))?;
    // After the last change of ids, which clears it. If the supervisor died before, the link says so.
    step("ask for a parent-death signal", nix::sys::prctl::set_pdeathsig(ORPHANED))?;

    let awaited = FORWARDED.into_iter().chain([Signal::SIGCHLD, ORPHANED]);
    let signals = step("block signals and watch for them", signal::watch(awaited))?;
    let inside = Inside { signals, notes, pid_max, limited };
    if off(Layer::Seccomp) {
        return Ok(inside);
    }
    // Last of all: every step above needs a call that the filter refuses. Init lives under it too.
    step("install the filter", process::install_filter(&bpf::APP)).map(|()| inside)
}

/// What a start of the app needs.
struct App<'a> {
    one_thread: &'a SingleThread,
    kept: Kept,
    args: &'a Args,
    floor: Floor,
    pid_max: i32,
}

/// Lets every process of the grain but init write to files, or makes every such write fail.
///
/// There is no /proc inside, so every number that a process could have is tried: 0.02 s, or 1 s at the
/// largest number of older kernels, once in the rare case of a full grain. Children inherit, so a pass that
/// changes nothing is the last.
fn set_writes(allowed: bool, pid_max: i32) {
    // The app's filter keeps it from changing this one, so every process has ours.
    let maximum = getrlimit(Resource::Fsize).maximum;
    let wanted = Rlimit { current: if allowed { maximum } else { Some(0) }, maximum };
    // New processes are born during a pass; what still escapes then meets the next measurement.
    for _ in 0..5 {
        let mut changed = false;
        for pid in (2..=pid_max).map(Pid::from_raw) {
            changed |= prlimit(pid, Resource::Fsize, wanted)
                .is_ok_and(|was| was.current != wanted.current);
        }
        if !changed {
            return;
        }
    }
}

/// Makes a directory of the app's readable to its owner.
///
/// With the app's own rights, so whatever a link that is put in its place leads to, the app could
/// do to it by itself.
fn open_up(path: &[u8]) -> io::Result<()> {
    let path = CString::new([b"/var/", path].concat()).map_err(io::Error::other)?;
    let dir = fd::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    let mode = rustix::fs::fstat(&dir)?.st_mode & 0o777;
    Ok(rustix::fs::chmod(&path, (mode | 0o500).into())?)
}

/// Waits for commands and signals until the supervisor is gone.
fn serve(mut app: App<'_>, signals: &SignalFd) -> ! {
    let mut running: Option<Pid> = None;
    let mut writes = true;
    if app.args.start {
        launch(&mut app, &mut running, writes);
    }
    // Some child may have ended that is not reaped yet.
    let mut zombies = false;
    loop {
        let mut waiting = [app.kept.link.as_fd(), signals.as_fd()]
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        if fd::poll(&mut waiting, zombies.then_some(Duration::ZERO)).is_err() {
            end();
        }
        // One, and a few zombies, between two looks at the link: the app can send signals without end.
        if let Ok(Some(info)) = signals.read_signal() {
            match (Signal::try_from(info.ssi_signo as i32), running) {
                (Ok(ORPHANED), _) => end(),
                (Ok(Signal::SIGCHLD), _) => zombies = true,
                (Ok(signal), Some(pid)) => {
                    let _ = process::kill(pid, signal);
                }
                _ => {}
            }
        }
        zombies = zombies && reap(&app.kept.link, &mut running);
        if !waiting[0].revents().is_empty() {
            match app.kept.link.command() {
                Ok(Some(Command::Start)) if running.is_none() => {
                    launch(&mut app, &mut running, writes);
                }
                Ok(Some(Command::Writes(allowed))) => {
                    writes = allowed;
                    set_writes(allowed, app.pid_max);
                }
                Ok(Some(Command::OpenUp(path))) => {
                    // The app may have taken it away meanwhile.
                    let _ = open_up(&path);
                }
                Ok(Some(Command::Start)) => {}
                // Asked to, or the supervisor is gone or not itself any more: everything here ends
                // with us.
                Ok(Some(Command::End) | None) | Err(_) => end(),
            }
        }
    }
}

/// Starts the app and reports how that went.
fn launch(app: &mut App<'_>, running: &mut Option<Pid>, writes: bool) {
    let report = match start(app, writes) {
        Ok(pid) => {
            *running = Some(pid);
            Report::Started
        }
        Err(text) => Report::NotStarted(text),
    };
    // The app's alone from here on: when it closes it, that is the end of it.
    app.kept.door = None;
    let _ = app.kept.link.report(&report);
    memory::forget_code();
}

/// Kills every other process of the grain, waits until the last is gone, and ends. Nobody can
/// escape by forking: a fork with a deadly signal pending fails.
fn end() -> ! {
    let _ = process::kill_all_others();
    process::reap_all();
    process::exit_now(0)
}

/// Reaps some of the children that have ended; whether there may be more.
fn reap(link: &Link, running: &mut Option<Pid>) -> bool {
    for _ in 0..64 {
        let Ok(Some((pid, ended))) = process::reap_one() else { return false };
        if *running == Some(pid) {
            *running = None;
            let _ = link.report(&Report::Ended(ended));
        }
    }
    true
}

fn not_started(e: io::Error) -> String {
    format!("the app could not be started: {e}")
}

/// Executes the app; an error says in words what is missing. `writes`: whether it may write to files.
fn start(app: &App<'_>, writes: bool) -> Result<Pid, String> {
    let (outcome, low) = fd::pipe().map_err(not_started)?;
    // Out of the way of the app's own numbers.
    let status = fd::dup_above(&low, ABOVE).map_err(not_started)?;
    drop(low);
    let pid = match process::clone(app.one_thread, 0, None).map_err(not_started)? {
        Forked::Child => {
            let text = become_app(app, writes);
            let _ = rustix::io::write(&status, text.as_bytes());
            process::exit_now(127)
        }
        Forked::Parent(child) => child.pid,
    };
    drop(status);
    // Exec may wait for a slow file system, but not longer than the supervisor lives.
    let mut waiting =
        [PollFd::new(&outcome, PollFlags::IN), PollFd::new(&app.kept.link, PollFlags::empty())];
    if fd::poll(&mut waiting, None).is_err() || !waiting[1].revents().is_empty() {
        end();
    }
    let mut text = [0; 512];
    match fd::read(&outcome, &mut text) {
        // Closed by exec: it runs. Or by a kill, of which SIGCHLD tells.
        Ok(0) => Ok(pid),
        Ok(n) => {
            let _ = process::wait_for(pid);
            Err(String::from_utf8_lossy(&text[..n]).into_owned())
        }
        Err(e) => Err(not_started(e)),
    }
}

/// In the forked child: the app's descriptors, session, signals and limits, then exec.
fn become_app(app: &App<'_>, writes: bool) -> String {
    let ready = (|| {
        rustix::process::setsid()?;
        // Exec takes handlers back; what else is ignored `privileged::reset` did.
        signal::heed([Signal::SIGPIPE, Signal::SIGHUP])?;
        rustix::process::umask(0o007.into());
        // Refused where the server itself is nice: then so is the app.
        let _ = rustix::process::setpriority_process(None, 0);
        app.args.limits.apply_to_self(app.floor)?;
        fd::dup_onto(&app.kept.null, 0)?;
        fd::dup_onto(&app.kept.output, 1)?;
        fd::dup_onto(&app.kept.output, 2)?;
        // Everything else is numbered from ABOVE on and closes at exec.
        fd::dup_onto(app.kept.door.as_ref().ok_or(io::ErrorKind::NotConnected)?, 3)?;
        // A write past the limit is an error for the app to handle, not its death.
        signal::ignore(Signal::SIGXFSZ);
        let soft = if writes { None } else { Some(0) };
        process::set_limit(Resource::Fsize, soft, None)?;
        if !off(Layer::Seccomp) {
            process::install_filter(&bpf::APP_ADDITION)?;
        }
        Ok(())
    })();
    if let Err(e) = ready {
        return not_started(e);
    }
    let Some(program) = app.args.command.first() else {
        return "the app has no command".into();
    };
    #[cfg(feature = "unsafe-disable")]
    if off(Layer::Pivot) {
        // The package is the working directory, and `/` is the host's.
        let relative = [b".", program.to_bytes()].concat();
        if let Ok(program) = CString::new(relative) {
            let _ = process::exec(&program, &app.args.command, &app.args.environ);
        }
    }
    let error = process::exec(program, &app.args.command, &app.args.environ);
    explain_exec::in_words(&program.to_string_lossy(), &error)
}
