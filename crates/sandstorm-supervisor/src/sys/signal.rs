//! Signal dispositions and masks, timers, and a signalfd for pid 1.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::check;

/// Every disposition to its default, nothing blocked.
pub fn reset_all() -> io::Result<()> {
    // SAFETY: all-zero is a valid `struct sigaction` with SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: a valid action. KILL, STOP and the two that libc reserves answer EINVAL.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    set_mask(&[])
}

/// Ignores one signal.
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is a valid disposition; a wrong number fails without effect.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

fn set_of(signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set; sigaddset gets valid numbers from our constants.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        set
    }
}

/// Replaces the signal mask by exactly these.
pub fn set_mask(blocked: &[i32]) -> io::Result<()> {
    let set = set_of(blocked);
    // SAFETY: set is initialised; the old mask is not wanted.
    check(i64::from(unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    }))?;
    Ok(())
}

/// A non-blocking, close-on-exec signalfd for these (which the caller has blocked).
pub fn signalfd(signals: &[i32]) -> io::Result<OwnedFd> {
    let set = set_of(signals);
    // SAFETY: set is initialised and outlives the call.
    let raw = check(i64::from(unsafe {
        libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
    }))?;
    // SAFETY: a fresh fd.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Stops the interval timers that survive exec.
pub fn stop_timers() {
    // SAFETY: all-zero is a valid, disarming `struct itimerval`.
    let zero: libc::itimerval = unsafe { std::mem::zeroed() };
    for which in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
        // SAFETY: zero outlives the call; the old value is not wanted.
        unsafe { libc::setitimer(which, &raw const zero, std::ptr::null_mut()) };
    }
}
