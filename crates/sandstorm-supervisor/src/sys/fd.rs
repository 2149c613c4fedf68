//! File descriptors: opening below a directory, pipes, locks, closing what was inherited.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use super::check;

/// Resolution stays below the start directory and follows no link of any kind.
pub const BENEATH: u64 =
    libc::RESOLVE_BENEATH | libc::RESOLVE_NO_SYMLINKS | libc::RESOLVE_NO_MAGICLINKS;

/// The kernel's `struct open_how` (include/uapi/linux/openat2.h).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// `openat2`; always close-on-exec.
pub fn openat2(
    dir: BorrowedFd<'_>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    let how = OpenHow { flags: (flags | libc::O_CLOEXEC) as u64, mode: u64::from(mode), resolve };
    // SAFETY: path is NUL-terminated, how outlives the call and its exact size is passed.
    let raw = check(unsafe {
        libc::syscall(
            libc::SYS_openat2,
            dir.as_raw_fd(),
            path.as_ptr(),
            &raw const how,
            size_of::<OpenHow>(),
        )
    })?;
    // SAFETY: the kernel just returned this fd to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Opens `path` by string with the process's own rights; always close-on-exec.
pub fn open(path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    // SAFETY: path is NUL-terminated; mode is passed as open expects it.
    let raw =
        check(i64::from(unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC, mode) }))?;
    // SAFETY: a fresh fd that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// `fstat`.
pub fn stat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    // SAFETY: all-zero is a valid `struct stat`.
    let mut out: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: out is valid for writes for the whole call. AT_EMPTY_PATH makes O_PATH fds work too.
    check(i64::from(unsafe {
        libc::fstatat(fd.as_raw_fd(), c"".as_ptr(), &raw mut out, libc::AT_EMPTY_PATH)
    }))?;
    Ok(out)
}

/// Magic number of the file system that holds `fd`.
pub fn filesystem_magic(fd: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: all-zero is a valid `struct statfs`.
    let mut out: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: out is valid for writes.
    check(i64::from(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut out) }))?;
    Ok(out.f_type as i64)
}

/// Bytes of the file system that holds `fd`: those that an unprivileged user can still use, and
/// all there are.
pub fn space(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    // SAFETY: all-zero is a valid `struct statfs`.
    let mut out: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: out is valid for writes.
    check(i64::from(unsafe { libc::fstatfs(fd.as_raw_fd(), &raw mut out) }))?;
    let block = out.f_bsize as u64;
    Ok((out.f_bavail.saturating_mul(block), out.f_blocks.saturating_mul(block)))
}

/// `mkdirat`.
pub fn mkdirat(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    check(i64::from(unsafe { libc::mkdirat(dir.as_raw_fd(), name.as_ptr(), mode) }))?;
    Ok(())
}

/// `mkdirat` where there may be one already.
pub fn ensure_dir(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    match mkdirat(dir, name, mode) {
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// `mknodat` for a device node or an empty file.
pub fn mknodat(dir: BorrowedFd<'_>, name: &CStr, mode: u32, dev: u64) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    check(i64::from(unsafe { libc::mknodat(dir.as_raw_fd(), name.as_ptr(), mode, dev) }))?;
    Ok(())
}

/// `fchmod`.
pub fn chmod(fd: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fchmod(fd.as_raw_fd(), mode) }))?;
    Ok(())
}

/// `fchmodat` by a path, which follows a link.
pub fn chmod_path(path: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: path is NUL-terminated.
    check(i64::from(unsafe { libc::fchmodat(libc::AT_FDCWD, path.as_ptr(), mode, 0) }))?;
    Ok(())
}

/// `fsync`; used on directories to make a new name durable.
pub fn fsync(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fsync(fd.as_raw_fd()) }))?;
    Ok(())
}

/// `syncfs`: everything of the file system that holds `fd`.
pub fn syncfs(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::syncfs(fd.as_raw_fd()) }))?;
    Ok(())
}

/// Takes an exclusive `flock` without waiting; `Ok(false)` when somebody else has it.
///
/// The lock belongs to the open file description, so a forked child that keeps the fd holds it too.
pub fn try_lock(fd: BorrowedFd<'_>) -> io::Result<bool> {
    try_flock(fd, libc::LOCK_EX)
}

/// Takes a file's exclusive `flock` and shares it between two open descriptions of it, neither of which
/// can give up the other's; `Ok(false)` when somebody else has it.
pub fn try_lock_for_two(first: BorrowedFd<'_>, second: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(try_flock(first, libc::LOCK_EX)?
        // The same lock in another mode; Linux changes it in one step.
        && try_flock(first, libc::LOCK_SH)?
        && try_flock(second, libc::LOCK_SH)?)
}

fn try_flock(fd: BorrowedFd<'_>, kind: i32) -> io::Result<bool> {
    // SAFETY: no pointers.
    match check(i64::from(unsafe { libc::flock(fd.as_raw_fd(), kind | libc::LOCK_NB) })) {
        Ok(_) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Lets a read of this socket wait for so many seconds at most; then it answers `EAGAIN`.
pub fn set_patience(socket: BorrowedFd<'_>, seconds: i64) -> io::Result<()> {
    let limit = nix::sys::time::TimeVal::new(seconds, 0);
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &limit)
        .map_err(io::Error::from)
}

/// A close-on-exec pipe: (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for two descriptors.
    check(i64::from(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }))?;
    // SAFETY: both are fresh and owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// A close-on-exec Unix socket pair of the given type.
pub fn socketpair(kind: i32) -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: fds has room for two descriptors.
    check(i64::from(unsafe {
        libc::socketpair(libc::AF_UNIX, kind | libc::SOCK_CLOEXEC, 0, fds.as_mut_ptr())
    }))?;
    // SAFETY: both are fresh and owned by nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Duplicates `fd` onto `target` (not close-on-exec), also when both are the same number.
pub fn dup_onto(fd: RawFd, target: RawFd) -> io::Result<()> {
    if fd == target {
        // SAFETY: no pointers; clears close-on-exec, which dup2 to itself would leave.
        check(i64::from(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }))?;
    } else {
        // SAFETY: no pointers; target is a number that the caller has set aside.
        check(i64::from(unsafe { libc::dup2(fd, target) }))?;
    }
    Ok(())
}

/// A close-on-exec duplicate of `fd` numbered at least `lowest`.
pub fn dup_above(fd: BorrowedFd<'_>, lowest: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let raw =
        check(i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, lowest) }))?;
    // SAFETY: a fresh fd.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

/// Sends one message and descriptors with it.
pub fn send_with(to: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights = if raw.is_empty() { &[][..] } else { &rights[..] };
    let parts = [io::IoSlice::new(bytes)];
    sendmsg::<()>(to.as_raw_fd(), &parts, rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for one message, of which it answers the length, and takes the descriptors (at most twelve,
/// close-on-exec) that come with it.
pub fn receive_with(from: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = nix::cmsg_space!([RawFd; 12]);
    let mut parts = [io::IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    // With a limit of time set, a process that was stopped and goes on hears of it here.
    let message = loop {
        match recvmsg::<()>(from.as_raw_fd(), &mut parts, Some(&mut space), flags) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control {
            // SAFETY: the kernel just made these for us; nobody else owns them.
            fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

/// Closes every fd from `first` on, whoever owns it.
///
/// Only for the first instructions of a process and for a forked child about to exec or to settle:
/// the caller leaks or forgets every `OwnedFd` in that range.
pub fn close_from(first: u32) -> io::Result<()> {
    close_between(first, u32::MAX)
}

/// Closes every fd in `first..=last`.
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
    for n in 0..3 {
        // SAFETY: no pointers.
        if unsafe { libc::fcntl(n, libc::F_GETFD) } < 0 {
            // SAFETY: constant path. The lowest free number is n, because all below are open.
            let raw = check(i64::from(unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) }))?;
            if raw != i64::from(n) {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
        }
    }
    Ok(())
}

/// Writes once; short writes are the caller's business.
pub fn write(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the slice is valid for reads of its length.
    check(unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) } as i64).map(|n| n as usize)
}

/// Writes everything with one call, as files of /proc and /sys want it.
pub fn write_all_at_once(file: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let n = write(file.as_raw_fd(), bytes)?;
    if n == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Opens what is there beneath a directory, through no link.
pub fn open_in(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<OwnedFd> {
    openat2(dir, name, flags, 0, BENEATH)
}

/// Writes a file beneath a directory in one piece, as those of /proc want it.
pub fn write_in(dir: BorrowedFd<'_>, name: &CStr, text: &str) -> io::Result<()> {
    let file = open_in(dir, name, libc::O_WRONLY)?;
    write_all_at_once(&file, text.as_bytes())
}

/// Reads once.
pub fn read(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        // SAFETY: the slice is valid for writes of its length.
        match check(unsafe { libc::read(fd, buffer.as_mut_ptr().cast(), buffer.len()) } as i64) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|n| n as usize),
        }
    }
}

/// Waits until one of `fds` is ready or has hung up; `timeout_ms` < 0 waits for ever.
pub fn poll(fds: &mut [libc::pollfd], timeout_ms: i32) -> io::Result<usize> {
    loop {
        // SAFETY: the slice is valid for the call and its length is passed.
        match check(i64::from(unsafe {
            libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout_ms)
        })) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|n| n as usize),
        }
    }
}

/// A copy that nobody closes, not even exec. Only a build for tests leaves one.
#[cfg_attr(not(feature = "unsafe-disable"), allow(dead_code))]
pub fn leak(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: duplicates a descriptor that we own.
    check(i64::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD, 30) })).map(drop)
}

/// `readlinkat` of a short link, as bytes.
pub fn read_link(path: &CStr) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 4096];
    // SAFETY: path is NUL-terminated; the buffer is valid for its length.
    let n =
        check(unsafe { libc::readlink(path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
            as i64)? as usize;
    if n == buffer.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    buffer.truncate(n);
    Ok(buffer)
}

/// `unlinkat`; a missing name is no error.
pub fn unlink_if_there(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    match check(i64::from(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) })) {
        Err(e) if e.raw_os_error() != Some(libc::ENOENT) => Err(e),
        _ => Ok(()),
    }
}

/// `renameat` within one directory.
pub fn rename(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> io::Result<()> {
    let raw = dir.as_raw_fd();
    // SAFETY: both names are NUL-terminated.
    check(i64::from(unsafe { libc::renameat(raw, from.as_ptr(), raw, to.as_ptr()) }))?;
    Ok(())
}

/// `chdir` by string; only for "/".
pub fn chdir(path: &CStr) -> io::Result<()> {
    // SAFETY: path is NUL-terminated.
    check(i64::from(unsafe { libc::chdir(path.as_ptr()) }))?;
    Ok(())
}

/// `fchdir`.
pub fn fchdir(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fchdir(fd.as_raw_fd()) }))?;
    Ok(())
}

/// Sets O_NONBLOCK.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: no pointers.
    let flags = check(i64::from(unsafe { libc::fcntl(raw, libc::F_GETFL) }))? as i32;
    // SAFETY: no pointers.
    check(i64::from(unsafe { libc::fcntl(raw, libc::F_SETFL, flags | libc::O_NONBLOCK) }))?;
    Ok(())
}

/// Watches a descriptor's readability in the current runtime.
///
/// # Errors
/// What epoll answers.
pub fn watch_readable<T: AsRawFd + Into<OwnedFd>>(
    owner: T,
) -> io::Result<tokio::io::unix::AsyncFd<T>> {
    // SAFETY: `T` owns its descriptor (it can be turned into an OwnedFd), so the number stays open
    // and the same for as long as the registration holds `owner`.
    let registered = unsafe {
        tokio::io::unix::AsyncFd::register_with_interest(owner, tokio::io::Interest::READABLE)
    };
    registered.map_err(io::Error::from)
}

/// Reads once at an offset.
pub fn read_at(fd: RawFd, buffer: &mut [u8], offset: i64) -> io::Result<usize> {
    // SAFETY: the slice is valid for writes of its length.
    check(unsafe { libc::pread(fd, buffer.as_mut_ptr().cast(), buffer.len(), offset) } as i64)
        .map(|n| n as usize)
}

/// `rmdir` below a directory.
pub fn rmdirat(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: name is NUL-terminated.
    check(i64::from(unsafe {
        libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR)
    }))?;
    Ok(())
}

/// A non-blocking, close-on-exec event counter at zero.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let raw =
        check(i64::from(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }))?;
    // SAFETY: a fresh fd.
    Ok(unsafe { OwnedFd::from_raw_fd(raw as RawFd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_of_two_can_give_up_the_others_lock() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = std::ffi::CString::new(file.path().to_str().unwrap()).unwrap();
        let open = || super::open(&path, libc::O_RDONLY, 0).unwrap();
        let (first, second, third) = (open(), open(), open());
        assert!(try_lock_for_two(first.as_fd(), second.as_fd()).unwrap());
        assert!(!try_lock(third.as_fd()).unwrap());
        assert!(!try_lock_for_two(third.as_fd(), open().as_fd()).unwrap());
        try_flock(first.as_fd(), libc::LOCK_UN).unwrap();
        assert!(!try_lock(third.as_fd()).unwrap());
        drop(second);
        assert!(try_lock(third.as_fd()).unwrap());
    }
}
