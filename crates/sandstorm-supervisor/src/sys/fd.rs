//! File descriptors: opening below a directory, sockets, locks, closing what was inherited.

use std::ffi::CStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::{MaybeUninit, forget};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::{Errno, FdFlags, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

use super::check;

/// Resolution stays below the start directory and follows no link of any kind.
pub const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);

/// Most descriptors in one message.
const MOST: usize = 12;

/// Opens `path` by string with the process's own rights; always close-on-exec.
pub fn open(path: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    // Not `open`, which the supervisor's own filter has no more.
    Ok(rustix::fs::openat(rustix::fs::CWD, path, flags | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens what is there beneath a directory, through no link; always close-on-exec.
pub fn open_in(dir: impl AsFd, path: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC, Mode::empty(), BENEATH)?)
}

/// The same, and makes a file with this mode where there is none.
pub fn create_in(dir: impl AsFd, path: &CStr, flags: OFlags, mode: u32) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CREATE | OFlags::CLOEXEC;
    Ok(rustix::fs::openat2(dir, path, flags, Mode::from_raw_mode(mode), BENEATH)?)
}

/// `mkdirat` where there may be one already.
pub fn ensure_dir(dir: impl AsFd, name: &CStr, mode: u32) -> io::Result<()> {
    let made = rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode));
    if made == Err(Errno::EXIST) { Ok(()) } else { Ok(made?) }
}

/// The owner of what is open, as far as the kernel knows: asked so, a file system in user space cannot
/// keep us waiting.
pub fn owner(file: impl AsFd) -> io::Result<u32> {
    known(file).map(|known| known.stx_uid)
}

/// Its inode number, in the same way.
pub fn inode(file: impl AsFd) -> io::Result<u64> {
    known(file).map(|known| known.stx_ino)
}

fn known(file: impl AsFd) -> io::Result<Statx> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(file, c"", flags, StatxFlags::UID | StatxFlags::INO)?)
}

/// Takes an exclusive `flock` without waiting; `Ok(false)` when somebody else has it.
///
/// The lock belongs to the open file description, so a forked child that keeps the fd holds it too.
pub fn try_lock(file: impl AsFd) -> io::Result<bool> {
    try_flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Takes a file's exclusive `flock` and shares it between two open descriptions of it, neither of which
/// can give up the other's; `Ok(false)` when somebody else has it.
pub fn try_lock_for_two(first: impl AsFd, second: impl AsFd) -> io::Result<bool> {
    Ok(try_lock(&first)?
        // The same lock in another mode; Linux changes it in one step.
        && try_flock(&first, FlockOperation::NonBlockingLockShared)?
        && try_flock(&second, FlockOperation::NonBlockingLockShared)?)
}

/// `try_lock`, again and again for so long at most.
///
/// # Errors
/// EAGAIN when somebody else had it all the time.
pub fn lock_within(file: impl AsFd, patience: Duration) -> io::Result<()> {
    let begin = std::time::Instant::now();
    while !try_lock(&file)? {
        if begin.elapsed() > patience {
            return Err(Errno::AGAIN.into());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn try_flock(file: impl AsFd, kind: FlockOperation) -> io::Result<bool> {
    let done = rustix::fs::flock(file, kind);
    if done == Err(Errno::WOULDBLOCK) { Ok(false) } else { Ok(done.map(|()| true)?) }
}

/// Lets a read of this socket wait for so long at most; then it answers `EAGAIN`.
pub fn set_patience(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    Ok(set_socket_timeout(socket, Timeout::Recv, Some(limit))?)
}

/// A close-on-exec pipe: (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// A close-on-exec Unix socket pair of the given type.
pub fn socketpair(kind: SocketType) -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?)
}

/// Duplicates a descriptor onto the number `target`, not close-on-exec; whatever had it is closed.
pub fn dup_onto(fd: impl AsFd, target: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; target is a number that the caller has set aside.
    check(i64::from(unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) }))?;
    Ok(())
}

/// A close-on-exec duplicate numbered at least `lowest`.
pub fn dup_above(fd: impl AsFd, lowest: RawFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, lowest)?)
}

/// Sends one message and at most twelve descriptors with it.
pub fn send_with(to: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !rights.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut rights, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for one message, of which it answers the length, and takes the descriptors (at most twelve,
/// close-on-exec) that come with it.
pub fn receive_with(from: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    // With a limit of time set, a process that was stopped and goes on hears of it here.
    let message = retry_on_intr(|| {
        rustix::net::recvmsg(&from, &mut [IoSliceMut::new(buffer)], &mut rights, flags)
    })?;
    // Some were lost: nobody may take what is left for all.
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Errno::NOBUFS.into());
    }
    let mut fds = Vec::new();
    for part in rights.drain() {
        if let RecvAncillaryMessage::ScmRights(taken) = part {
            fds.extend(taken);
        }
    }
    Ok((message.bytes, fds))
}

/// Closes everything from 3 on but these, whoever owns it: as `close_between`.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<u32> = keep.iter().map(|f| f.as_raw_fd() as u32).collect();
    numbers.sort_unstable();
    let mut next = 3;
    for n in numbers {
        if n > next {
            close_between(next, n - 1)?;
        }
        next = next.max(n + 1);
    }
    close_from(next)
}

/// Closes every fd from `first` on, whoever owns it: as `close_between`.
pub fn close_from(first: u32) -> io::Result<()> {
    close_between(first, u32::MAX)
}

/// Closes every fd in `first..=last`, whoever owns it.
///
/// Only for the first instructions of a process and for a forked child about to exec or to settle:
/// the caller leaks or forgets every `OwnedFd` in that range.
pub fn close_between(first: u32, last: u32) -> io::Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no pointers; double close is prevented by the contract above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) })?;
    Ok(())
}

/// Makes sure that fds 0 to 2 are open, so that nothing we open later lands there.
pub fn ensure_standard_fds() -> io::Result<()> {
    loop {
        // The kernel gives the lowest number that is free.
        let null = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty())?;
        if null.as_raw_fd() > 2 {
            return Ok(());
        }
        forget(null);
    }
}

/// Writes everything with one call, as files of /proc and /sys want it.
pub fn write_all_at_once(file: impl AsFd, bytes: &[u8]) -> io::Result<()> {
    let n = rustix::io::write(file, bytes)?;
    if n == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Writes a file beneath a directory in one piece, as those of /proc want it.
pub fn write_in(dir: impl AsFd, name: &CStr, text: &str) -> io::Result<()> {
    write_all_at_once(open_in(dir, name, OFlags::WRONLY)?, text.as_bytes())
}

/// Reads once.
pub fn read(fd: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(retry_on_intr(|| rustix::io::read(&fd, &mut *buffer))?)
}

/// Waits until one of `fds` is ready or has hung up, for so long at most.
pub fn poll(fds: &mut [PollFd<'_>], limit: Option<Duration>) -> io::Result<usize> {
    let limit = limit.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
    Ok(retry_on_intr(|| rustix::event::poll(fds, limit.as_ref()))?)
}

/// Whether something waits to be read, or nobody is left to write it.
pub fn is_readable(fd: impl AsFd, limit: Duration) -> bool {
    matches!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(limit)), Ok(1))
}

/// A copy that nobody closes, not even exec. Only a build for tests leaves one.
#[cfg_attr(not(feature = "unsafe-disable"), allow(dead_code))]
pub fn leak(fd: impl AsFd) -> io::Result<()> {
    let copy = dup_above(fd, 30)?;
    rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
    forget(copy);
    Ok(())
}

/// `unlinkat`; a missing name is no error.
pub fn unlink_if_there(dir: impl AsFd, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

/// Watches a descriptor's readability in the current runtime.
///
/// # Errors
/// What epoll answers.
pub fn watch_readable<T: AsRawFd + Into<OwnedFd>>(
    owner: T,
) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    watch(owner, tokio::io::Interest::READABLE)
}

/// The same for readiness of any kind.
pub fn watch<T: AsRawFd + Into<OwnedFd>>(
    owner: T,
    interest: tokio::io::Interest,
) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: `T` owns its descriptor (it can be turned into an OwnedFd), so the number stays open
    // and the same for as long as the registration holds `owner`.
    let registered = unsafe { tokio::io::unix::AsyncFd::register_with_interest(owner, interest) };
    registered.map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_of_two_can_give_up_the_others_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        let open = || super::open(&path, OFlags::RDONLY).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(try_lock_for_two(&first, &second).unwrap());
        assert!(!try_lock(&third).unwrap());
        assert!(!try_lock_for_two(&third, open()).unwrap());
        try_flock(&first, FlockOperation::Unlock).unwrap();
        assert!(!try_lock(&third).unwrap());
        drop(second);
        assert!(try_lock(&third).unwrap());
    }
}
