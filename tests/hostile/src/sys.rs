//! The few raw helpers that several attacks share.

use std::ffi::CString;

/// A C string of a text without NUL.
pub fn c(text: &str) -> CString {
    CString::new(text).expect("attack texts hold no NUL")
}

/// Makes any system call with up to six word arguments.
///
/// Pointers are passed as integers: each caller keeps what they point at alive.
pub fn call(number: i64, args: &[i64]) -> i64 {
    let a = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the attacks hand over numbers or pointers to live buffers of the size that the
    // call documents; a refused call touches nothing.
    unsafe { libc::syscall(number, a(0), a(1), a(2), a(3), a(4), a(5)) }
}

/// Writes `bytes` to a new or existing file; false when any step fails.
pub fn write_file(path: &str, bytes: &[u8]) -> bool {
    std::fs::write(path, bytes).is_ok()
}

/// Whether the effective user differs from the real one (set-id bits took effect).
pub fn euid_differs() -> bool {
    // SAFETY: these calls cannot fail and touch no memory.
    unsafe { libc::geteuid() != libc::getuid() || libc::getegid() != libc::getgid() }
}

/// Whether the descriptor is open.
pub fn is_open(fd: i32) -> bool {
    // SAFETY: F_GETFD reads a flag of the descriptor table only.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}
