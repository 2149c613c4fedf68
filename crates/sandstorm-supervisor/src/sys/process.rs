//! Processes: clone into namespaces, fork, exec, wait; and what exec hands on (limits, priority).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

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
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// `struct clone_args` (include/uapi/linux/sched.h), version 2.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Forks into the namespaces of `flags`; with `cgroup` (a cgroup v2 directory) the child is born there.
///
/// Falls back to `clone` where a container's filter answers clone3 with ENOSYS.
pub fn clone(
    _one_thread: &SingleThread,
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
) -> io::Result<Forked> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: RawFd = -1;
    let signal = libc::SIGCHLD;
    let mut args = CloneArgs {
        flags: (flags | libc::CLONE_PIDFD) as u32 as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: signal as u64,
        ..CloneArgs::default()
    };
    if let Some(fd) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = fd.as_raw_fd() as u64;
    }
    // SAFETY: no stack is given and memory is not shared, so this is a plain fork; the token shows
    // that no other thread could hold a lock (malloc's, say) that the child would wait for. args
    // has the layout of the size passed; the kernel writes an int to `pidfd`.
    let mut result =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) });
    if cgroup.is_none() && matches!(&result, Err(e) if e.raw_os_error() == Some(libc::ENOSYS)) {
        // SAFETY: the same fork by the older call; x86_64 and aarch64 take the pidfd's address as
        // the third argument (parent_tid).
        result = check(unsafe {
            libc::syscall(
                libc::SYS_clone,
                (flags | libc::CLONE_PIDFD | signal) as u32 as u64,
                0u64,
                &raw mut pidfd,
                0u64,
                0u64,
            )
        });
    }
    match result? {
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent(Child {
            pid: pid as i32,
            // SAFETY: the kernel stored a fresh fd for us.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        })),
    }
}

/// Moves this process into a new network namespace.
pub fn unshare_network() -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::unshare(libc::CLONE_NEWNET) }))?;
    Ok(())
}

/// Moves this process's children-to-be into a new time namespace.
pub fn unshare_time() -> io::Result<()> {
    const CLONE_NEWTIME: i32 = 0x80;
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::unshare(CLONE_NEWTIME) }))?;
    Ok(())
}

/// `execve`. Returns only on failure.
pub fn exec(path: &CStr, argv: &[CString], environ: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
    };
    let (argv, environ) = (pointers(argv), pointers(environ));
    // SAFETY: both arrays end in null and their strings outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), environ.as_ptr()) };
    io::Error::last_os_error()
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    Status(i32),
    Signal(i32),
}

/// Reaps any child without waiting: its pid and how it ended.
pub fn reap_one() -> io::Result<Option<(i32, Ended)>> {
    let mut status = 0;
    // SAFETY: status is valid for writes.
    let pid = check(i64::from(unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) }))?;
    Ok((pid > 0).then(|| (pid as i32, ended(status))))
}

/// The path of this program's own file, for words only.
pub fn own_path() -> String {
    let path = super::fd::read_link(c"/proc/self/exe").unwrap_or_default();
    String::from_utf8_lossy(&path).into_owned()
}

/// Waits for one child.
pub fn wait_for(pid: i32) -> io::Result<Ended> {
    let mut status = 0;
    loop {
        // SAFETY: status is valid for writes.
        match check(i64::from(unsafe { libc::waitpid(pid, &raw mut status, 0) })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
            Ok(_) => return Ok(ended(status)),
        }
    }
}

fn ended(status: i32) -> Ended {
    if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Status(libc::WEXITSTATUS(status))
    }
}

/// `kill`.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::kill(pid, signal) }))?;
    Ok(())
}

/// Whether nobody has reaped this child yet, so that its number is still its own.
pub fn is_unreaped(child: &Child) -> bool {
    // SAFETY: no signal is sent, and no information with it; the kernel only looks.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            child.pidfd.as_raw_fd(),
            0,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    sent == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// SIGKILL to every process that this one may signal, but itself and pid 1.
pub fn kill_all_others() -> io::Result<()> {
    kill(-1, libc::SIGKILL)
}

/// Waits until this process has no child left.
pub fn reap_all() {
    loop {
        let mut status = 0;
        // SAFETY: status is valid for writes.
        match check(i64::from(unsafe { libc::waitpid(-1, &raw mut status, 0) })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Waits until every child has ended, for so long at most.
pub fn reap_within(limit: std::time::Duration) {
    let start = std::time::Instant::now();
    while let Ok(reaped) = reap_one() {
        if reaped.is_none() {
            if start.elapsed() > limit {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

/// Niceness of a process, 0 for the calling one.
pub fn set_priority(pid: i32, nice: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::setpriority(libc::PRIO_PROCESS, pid as libc::id_t, nice) }))?;
    Ok(())
}

/// Lets go of this program's own code and constants in memory, most of which only a start needs.
/// What is used again is mapped again, from the file that all supervisors share.
pub fn forget_code() {
    unsafe extern "C" {
        // Given by the linker: the first byte of the program and the end of its code.
        static __executable_start: u8;
        static etext: u8;
    }
    // Any page size that Linux has on these machines divides this.
    const PAGE: usize = 1 << 16;
    let (start, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let (start, end) = (start.next_multiple_of(PAGE), end & !(PAGE - 1));
    if start < end {
        // SAFETY: the range holds nothing but constants and code, mapped from the file and never
        // written (relocated data lies behind the code), so dropping the mapped pages loses nothing.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Ends this process at once, running no destructor.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: never returns and touches no memory.
    unsafe { libc::_exit(status) }
}

/// A session of its own, without a controlling terminal.
pub fn new_session() -> io::Result<()> {
    // SAFETY: no arguments.
    check(i64::from(unsafe { libc::setsid() }))?;
    Ok(())
}

/// Lets go of the controlling terminal without leaving the session.
pub fn give_up_terminal() {
    if let Ok(tty) = super::fd::open(c"/dev/tty", libc::O_RDWR | libc::O_NOCTTY, 0) {
        // SAFETY: the request takes no argument.
        unsafe { libc::ioctl(tty.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Sets soft and hard limit, staying below the present hard limit where raising it is refused.
pub fn set_limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: wanted outlives the call.
    match check(i64::from(unsafe { libc::setrlimit(resource, &raw const wanted) })) {
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: now is valid for writes.
            check(i64::from(unsafe { libc::getrlimit(resource, &raw mut now) }))?;
            let hard = hard.min(now.rlim_max);
            let clamped = libc::rlimit { rlim_cur: soft.min(hard), rlim_max: hard };
            // SAFETY: clamped outlives the call.
            check(i64::from(unsafe { libc::setrlimit(resource, &raw const clamped) }))?;
            Ok(())
        }
        other => other.map(drop),
    }
}

/// Sets the soft limit of another process and leaves its hard limit; `Ok(false)` when it was so
/// already.
pub fn set_soft_limit_of(
    pid: i32,
    resource: libc::__rlimit_resource_t,
    soft: u64,
) -> io::Result<bool> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: now is valid for writes; no new limit is given.
    check(i64::from(unsafe { libc::prlimit(pid, resource, std::ptr::null(), &raw mut now) }))?;
    let wanted = soft.min(now.rlim_max);
    if now.rlim_cur == wanted {
        return Ok(false);
    }
    now.rlim_cur = wanted;
    // SAFETY: now outlives the call; the old limit is not wanted.
    check(i64::from(unsafe {
        libc::prlimit(pid, resource, &raw const now, std::ptr::null_mut())
    }))?;
    Ok(true)
}

/// Whether RLIMIT_NPROC counts by uid and user namespace (Linux 5.14 and newer), not by uid alone.
pub fn counts_processes_by_namespace() -> bool {
    // SAFETY: all-zero is a valid utsname, valid for writes; the kernel ends its texts with a NUL.
    let release = unsafe {
        let mut name: libc::utsname = std::mem::zeroed();
        libc::uname(&raw mut name);
        CStr::from_ptr(name.release.as_ptr()).to_string_lossy().into_owned()
    };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return false;
    };
    (major, minor) >= (5, 14)
}

/// Sets the mask for new files.
pub fn set_umask(mask: u32) {
    // SAFETY: no pointers, cannot fail.
    unsafe { libc::umask(mask) };
}

/// Empties the environment.
pub fn clear_environment(_one_thread: &SingleThread) {
    // SAFETY: the token shows that no other thread reads the environment.
    unsafe { libc::clearenv() };
}

/// Usual niceness, scheduling class and processors. Refusals are ignored: then the caller has set
/// itself a lower priority than it may take back, which harms only itself.
pub fn reset_scheduling() {
    // SAFETY: param is valid for the call; all-zero is a valid one.
    unsafe {
        let param: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const param);
        libc::setpriority(libc::PRIO_PROCESS, 0, 0);
    }
    allow_processors(0, None);
}

/// Has a child that was just forked begin at once, on another processor than ours if there is one.
/// Left to itself it often waits in our processor's queue until we do, while another idles.
pub fn begin_elsewhere(child: &Child) {
    // SAFETY: no arguments; what it answers is out of date at worst.
    let ours = unsafe { libc::sched_getcpu() };
    if allow_processors(child.pid, usize::try_from(ours).ok()) {
        allow_processors(child.pid, None);
    }
}

/// Whether the kernel agreed.
fn allow_processors(pid: i32, except: Option<usize>) -> bool {
    // SAFETY: all-zero is a valid set, and it is valid for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in (0..libc::CPU_SETSIZE as usize).filter(|cpu| Some(*cpu) != except) {
            libc::CPU_SET(cpu, &mut set);
        }
        libc::sched_setaffinity(pid, size_of::<libc::cpu_set_t>(), &raw const set) == 0
    }
}

/// Seconds and nanoseconds of a clock.
pub fn clock(id: libc::clockid_t) -> (i64, i64) {
    // SAFETY: all-zero is a valid timespec, valid for writes.
    unsafe {
        let mut now: libc::timespec = std::mem::zeroed();
        libc::clock_gettime(id, &raw mut now);
        (now.tv_sec, now.tv_nsec)
    }
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
