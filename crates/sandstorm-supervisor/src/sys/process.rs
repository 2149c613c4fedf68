//! Processes: clone into namespaces, fork, exec, wait; and what exec hands on (limits, priority).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use rustix::fs::OFlags;
use rustix::process::{Pid, Resource, Rlimit, WaitOptions, WaitStatus};
use rustix::thread::CpuSet;

use super::check;

/// Proof that this process has one thread, which is what makes forking without exec sound.
///
/// `main` takes it first of all and gives it up before it makes the async runtime.
#[derive(Debug)]
pub struct SingleThread(());

impl SingleThread {
    /// To be called once, as the first thing of `main`.
    pub fn at_start() -> SingleThread {
        SingleThread(())
    }
}

/// Which side of a fork we are on.
#[derive(Debug)]
pub enum Forked {
    Child,
    Parent(Child),
}

/// A forked child, as the parent sees it.
#[derive(Debug)]
pub struct Child {
    /// Its number in our pid namespace.
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Forks into the namespaces of `flags`; with `cgroup` (a cgroup v2 directory) the child is born there.
///
/// Falls back to `clone` where a container's filter answers clone3 with ENOSYS.
pub fn clone(
    _one_thread: &SingleThread,
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Forked> {
    // libc has it in a type that is too small for it.
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let flags = flags | libc::CLONE_PIDFD;
    // SAFETY: all-zero is a valid `struct clone_args`: no stack, no thread-local storage, no set of ids.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from(flags as u32);
    args.pidfd = &raw mut pidfd as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: no stack is given and memory is not shared, so this is a plain fork; the token shows
    // that no other thread could hold a lock (malloc's, say) that the child would wait for. args
    // has the layout of the size passed; the kernel writes an int to `pidfd`.
    let mut result = check(unsafe {
        libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>())
    });
    if cgroup.is_none() && matches!(&result, Err(e) if e.raw_os_error() == Some(libc::ENOSYS)) {
        let flags = u64::from((flags | libc::SIGCHLD) as u32);
        // SAFETY: the same fork by the older call; x86_64 and aarch64 take the pidfd's address as
        // the third argument (parent_tid).
        result = check(unsafe {
            libc::syscall(libc::SYS_clone, flags, 0u64, &raw mut pidfd, 0u64, 0u64)
        });
    }
    let Some(pid) = Pid::from_raw(result? as i32) else { return Ok(Forked::Child) };
    // SAFETY: the kernel stored a fresh fd for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent(Child { pid, pidfd }))
}

/// Moves this process into a new network namespace.
pub fn unshare_network() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Moves this process into a new user namespace, in which it has every capability and no id yet.
pub fn unshare_user() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?)
}

/// Moves this process's children-to-be into a new time namespace.
pub fn unshare_time() -> io::Result<()> {
    Ok(nix::sched::unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?)
}

/// `execve`. Returns only on failure.
pub fn exec(path: &CStr, argv: &[CString], environ: &[CString]) -> io::Error {
    let Err(error) = nix::unistd::execve(path, argv, environ);
    error.into()
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Status(i32),
    Signal(i32),
}

/// Reaps any child without waiting: its pid and how it ended.
pub fn reap_one() -> io::Result<Option<(Pid, Ended)>> {
    let reaped = rustix::process::wait(WaitOptions::NOHANG)?;
    Ok(reaped.map(|(pid, status)| (pid, ended(status))))
}

/// The path of this program's own file, for words only.
pub fn own_path() -> String {
    let path = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    path.to_string_lossy().into_owned()
}

/// Waits for one child.
pub fn wait_for(pid: Pid) -> io::Result<Ended> {
    loop {
        let waited = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        match waited {
            Ok(Some((_, status))) => return Ok(ended(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

fn ended(status: WaitStatus) -> Ended {
    let signal = status.terminating_signal().map(Ended::Signal);
    signal.unwrap_or(Ended::Status(status.exit_status().unwrap_or_default()))
}

/// `kill`.
pub fn kill(pid: Pid, signal: Signal) -> io::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.as_raw_pid()), signal)?)
}

/// SIGKILL to every process that this one may signal, but itself and pid 1.
pub fn kill_all_others() -> io::Result<()> {
    Ok(nix::sys::signal::kill(nix::unistd::Pid::from_raw(-1), Signal::SIGKILL)?)
}

/// Waits until this process has no child left.
pub fn reap_all() {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Waits until every child has ended, for so long at most.
pub fn reap_within(limit: Duration) {
    let start = Instant::now();
    while let Ok(reaped) = reap_one() {
        if reaped.is_none() {
            if start.elapsed() > limit {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Ends this process at once, running no destructor.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Lets go of the controlling terminal without leaving the session.
pub fn give_up_terminal() {
    if let Ok(tty) = super::fd::open(c"/dev/tty", OFlags::RDWR | OFlags::NOCTTY) {
        // SAFETY: the request takes no argument.
        unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Sets soft and hard limit (`None`: unlimited), staying below the present hard limit where raising
/// it is refused.
pub fn set_limit(resource: Resource, soft: Option<u64>, hard: Option<u64>) -> io::Result<()> {
    match rustix::process::setrlimit(resource, Rlimit { current: soft, maximum: hard }) {
        Err(rustix::io::Errno::PERM) => {
            // Unlimited is more than any number.
            let least = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
            let maximum = least(hard, rustix::process::getrlimit(resource).maximum);
            let clamped = Rlimit { current: least(soft, maximum), maximum };
            Ok(rustix::process::setrlimit(resource, clamped)?)
        }
        other => Ok(other?),
    }
}

/// Whether RLIMIT_NPROC counts by uid and user namespace (Linux 5.14 and newer), not by uid alone.
pub fn counts_processes_by_namespace() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= (5, 14)
}

/// Empties the environment.
pub fn clear_environment(_one_thread: &SingleThread) {
    // SAFETY: the token shows that no other thread reads the environment.
    unsafe { libc::clearenv() };
}

/// Usual niceness, scheduling class, processors, punctuality and class of disk access. Refusals are ignored: then the caller has set
/// itself a lower priority than it may take back, which harms only itself.
pub fn reset_scheduling() {
    // SAFETY: param is valid for the call; all-zero is a valid one.
    unsafe {
        let param: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param);
    }
    let _ = rustix::process::setpriority_process(None, 0);
    let _ = allow_processors(None, None);
    // Nanoseconds; larger than a day, it would make every short sleep endless. 0 is what was inherited.
    let _ = nix::sys::prctl::set_timerslack(50_000);
    // IOPRIO_WHO_PROCESS, ourselves, no class (include/uapi/linux/ioprio.h): by niceness, as usual.
    // SAFETY: three numbers.
    unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, 0) };
}

/// Has a child that was just forked begin at once, on another processor than ours if there is one.
/// Left to itself it often waits in our processor's queue until we do, while another idles.
pub fn begin_elsewhere(child: &Child) {
    // Out of date at worst.
    let ours = nix::sched::sched_getcpu().ok();
    if allow_processors(Some(child.pid), ours).is_ok() {
        let _ = allow_processors(Some(child.pid), None);
    }
}

fn allow_processors(pid: Option<Pid>, except: Option<usize>) -> rustix::io::Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).filter(|cpu| Some(*cpu) != except).for_each(|cpu| set.set(cpu));
    rustix::thread::sched_setaffinity(pid, &set)
}

/// Installs a compiled seccomp program on this process.
pub fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let fprog = libc::sock_fprog {
        len: program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: fprog points to `len` instructions that outlive the call; the kernel only reads them.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0u32, &raw const fprog)
    })?;
    Ok(())
}
