//! The first instructions: take back everything that the caller's exec handed on.
//!
//! Trust: none. Whoever may run the setuid file chose our environment, descriptors, limits,
//! signals, timers, priority, terminal and working directory. Nothing is read from any of them
//! but the arguments, which `args` judges once every privilege is gone. Every step can be interrupted
//! by a signal of the caller without leaving anything half-made, since nothing outside the process is
//! touched.
//!
//! The session keyring is left in `init`, once the process has the grain's own uid: made here it
//! would be charged to the caller, whose quota of 200 keys ends before the 500th grain.
#![forbid(unsafe_code)]

use nix::sys::signal::Signal;
use rustix::process::{Resource, getuid};

use crate::error::Error;
use crate::sys::{creds, fd, process, signal};

/// Limits set at the start: (resource, soft, hard).
///
/// A caller could have set any of them to trip us between two steps. None is AS: some runtimes
/// reserve address space that they never use, and the app inherits these.
const LIMITS: &[(Resource, Option<u64>, Option<u64>)] = &[
    (Resource::Core, Some(0), Some(0)),
    (Resource::Cpu, None, None),
    (Resource::Fsize, None, None),
    (Resource::Data, None, None),
    (Resource::As, None, None),
    (Resource::Stack, Some(8 << 20), None),
    // The most that a grain can be given (`files`); our own limit is held against what apps of this uid have
    // in flight on sockets, when we send descriptors.
    (Resource::Nofile, Some(65_536), Some(65_536)),
    (Resource::Memlock, Some(64 << 10), Some(64 << 10)),
    (Resource::Nice, Some(0), Some(0)),
    (Resource::Rtprio, Some(0), Some(0)),
];

/// Resets what exec hands on and puts root's rights aside. Must run before anything else in `main`.
///
/// # Errors
/// Only for steps without which going on would be unsafe.
pub fn first_steps(one_thread: &process::SingleThread) -> Result<(), Error> {
    // Already so after a setuid exec unless fs.suid_dumpable says otherwise.
    creds::set_dumpable(false).map_err(Error::kernel("make the process undumpable"))?;
    process::clear_environment(one_thread);
    fd::ensure_standard_fds().map_err(Error::kernel("open fds 0 to 2"))?;
    fd::close_from(3).map_err(Error::kernel("close inherited fds (close_range)"))?;

    signal::reset_all().map_err(Error::kernel("reset signals"))?;
    // A closed stdout and a file size limit become errors that are handled, not deaths.
    signal::ignore(Signal::SIGPIPE);
    signal::ignore(Signal::SIGXFSZ);
    signal::stop_timers();

    for (resource, soft, hard) in LIMITS {
        process::set_limit(*resource, *soft, *hard)
            .map_err(Error::kernel("reset resource limits"))?;
    }
    // Control groups are looked into by processes without rights; whatever else is made names its mode.
    rustix::process::umask(0o022.into());
    process::reset_scheduling();
    leave_terminal();
    // Nothing below needs root's rights but the steps that take them back by name.
    creds::set_effective_uid(getuid().as_raw())
        // A change of ids sets the flag as fs.suid_dumpable says.
        .and_then(|()| creds::set_dumpable(false))
        .map_err(Error::kernel("take the caller's uid"))
}

/// A grain outlives the terminal and the shell that started it.
fn leave_terminal() {
    if rustix::process::setsid().is_err() {
        // We lead a process group already (started from an interactive shell), so the session
        // stays; giving up its terminal is enough. If we lead the session, the kernel sends
        // SIGHUP to the foreground group, which may be us.
        signal::ignore(Signal::SIGHUP);
        process::give_up_terminal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grain_can_be_given_all_the_files_that_there_are_to_give() {
        let most = sandstorm_schema::grain_limits::find("files").unwrap().ceiling;
        assert!(LIMITS.contains(&(Resource::Nofile, Some(most), Some(most))));
    }
}
