//! The first instructions: take back everything that the caller's exec handed on.
//!
//! Trust: none. Whoever may run the setuid file chose our environment, descriptors, limits,
//! signals, timers, priority, terminal and working directory. Nothing is read from any of them
//! but the arguments, which `args` judges once every privilege is gone. Every step can be interrupted by a signal of the
//! caller without leaving anything half-made, since nothing outside the process is touched.
//!
//! The session keyring is left in `init`, once the process has the grain's own uid: made here it
//! would be charged to the caller, whose quota of 200 keys ends before the 500th grain.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::sys::{creds, fd, process, signal};

/// Limits set at the start: (resource, soft, hard).
///
/// A caller could have set any of them to trip us between two steps. None is AS: some runtimes
/// reserve address space that they never use, and the app inherits these.
const LIMITS: &[(libc::__rlimit_resource_t, u64, u64)] = &[
    (libc::RLIMIT_CORE, 0, 0),
    (libc::RLIMIT_CPU, libc::RLIM_INFINITY, libc::RLIM_INFINITY),
    (libc::RLIMIT_FSIZE, libc::RLIM_INFINITY, libc::RLIM_INFINITY),
    (libc::RLIMIT_DATA, libc::RLIM_INFINITY, libc::RLIM_INFINITY),
    (libc::RLIMIT_AS, libc::RLIM_INFINITY, libc::RLIM_INFINITY),
    (libc::RLIMIT_STACK, 8 << 20, libc::RLIM_INFINITY),
    (libc::RLIMIT_NOFILE, 1024, 4096),
    (libc::RLIMIT_MEMLOCK, 64 << 10, 64 << 10),
    (libc::RLIMIT_NICE, 0, 0),
    (libc::RLIMIT_RTPRIO, 0, 0),
];

/// Resets what exec hands on and puts root's rights aside. Must run before anything else in `main`.
///
/// # Errors
/// Only for steps without which going on would be unsafe.
pub fn first_steps(one_thread: &process::SingleThread) -> Result<(), Error> {
    let (real, effective, _) = creds::uids();
    if effective != real {
        // Already so after a setuid exec unless fs.suid_dumpable says otherwise.
        creds::set_dumpable(false).map_err(Error::kernel("make the process undumpable"))?;
    }
    process::clear_environment(one_thread);
    fd::ensure_standard_fds().map_err(Error::kernel("open fds 0 to 2"))?;
    fd::close_from(3).map_err(Error::kernel("close inherited fds (close_range)"))?;

    signal::reset_all().map_err(Error::kernel("reset signals"))?;
    // A closed stdout and a file size limit become errors that are handled, not deaths.
    signal::ignore(libc::SIGPIPE);
    signal::ignore(libc::SIGXFSZ);
    signal::stop_timers();

    for (resource, soft, hard) in LIMITS {
        process::set_limit(*resource, *soft, *hard)
            .map_err(Error::kernel("reset resource limits"))?;
    }
    // Control groups are looked into by processes without rights; whatever else is made names its mode.
    process::set_umask(0o022);
    process::reset_scheduling();
    leave_terminal();
    // Nothing below needs root's rights but the steps that take them back by name.
    if effective != real {
        // A change of ids sets the flag as fs.suid_dumpable says.
        let taken = creds::set_effective_uid(real).and_then(|()| creds::set_dumpable(false));
        taken.map_err(Error::kernel("take the caller's uid"))?;
    }
    Ok(())
}

/// A grain outlives the terminal and the shell that started it.
fn leave_terminal() {
    if process::new_session().is_err() {
        // We lead a process group already (started from an interactive shell), so the session
        // stays; giving up its terminal is enough. If we lead the session, the kernel sends
        // SIGHUP to the foreground group, which may be us.
        signal::ignore(libc::SIGHUP);
        process::give_up_terminal();
    }
}
