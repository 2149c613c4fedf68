//! Signal dispositions and masks, timers, and a signalfd for pid 1.

use std::io;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Every disposition to its default, nothing blocked.
pub fn reset_all() -> io::Result<()> {
    // SAFETY: all-zero is a valid `struct sigaction` with SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: a valid action. KILL, STOP and the two that libc reserves answer EINVAL.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    unblock_all()
}

/// Ignored signals to their default, nothing blocked.
pub fn heed(ignored: impl IntoIterator<Item = Signal>) -> io::Result<()> {
    for signal in ignored {
        // SAFETY: SIG_DFL is a valid disposition.
        unsafe { libc::signal(signal as i32, libc::SIG_DFL) };
    }
    unblock_all()
}

/// Blocks all that can be blocked.
pub fn block_all() -> io::Result<()> {
    Ok(SigSet::all().thread_set_mask()?)
}

/// Blocks none.
pub fn unblock_all() -> io::Result<()> {
    Ok(SigSet::empty().thread_set_mask()?)
}

/// Ignores one signal.
pub fn ignore(signal: Signal) {
    // SAFETY: SIG_IGN is a valid disposition.
    unsafe { libc::signal(signal as i32, libc::SIG_IGN) };
}

/// Blocks exactly these, and answers a non-blocking, close-on-exec signalfd for them.
pub fn watch(signals: impl IntoIterator<Item = Signal>) -> io::Result<SignalFd> {
    let set: SigSet = signals.into_iter().collect();
    set.thread_set_mask()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Ends this process after so long, whatever it waits for but a dead disk: a signal with its default
/// action, which a caller's timer slack does not put off. A forked child has no such end.
pub fn end_after(limit: Duration) -> io::Result<()> {
    let mut alarm = SigSet::empty();
    alarm.add(Signal::SIGALRM);
    alarm.thread_unblock()?;
    let seconds = limit.as_secs().try_into().unwrap_or(u32::MAX);
    nix::unistd::alarm::set(seconds);
    Ok(())
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
