//! Who this process is: ids, capabilities, securebits, no_new_privs, dumpability.

use std::io;

use super::check;

/// (real, effective, saved) uid.
pub fn uids() -> (u32, u32, u32) {
    let (mut r, mut e, mut s) = (0, 0, 0);
    // SAFETY: three valid pointers; the call cannot fail with them.
    unsafe { libc::getresuid(&raw mut r, &raw mut e, &raw mut s) };
    (r, e, s)
}

/// Real gid.
pub fn gid() -> u32 {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::getgid() }
}

/// Sets the effective uid only; the saved uid stays, so that it can be taken back.
///
/// Raw system call: this process has one thread, and glibc's variant would signal others.
pub fn set_effective_uid(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, u32::MAX, uid, u32::MAX) })?;
    Ok(())
}

/// Sets all three uids.
pub fn set_all_uids(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
    Ok(())
}

/// Sets all three gids.
pub fn set_all_gids(gid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    Ok(())
}

/// Drops every supplementary group.
pub fn clear_groups() -> io::Result<()> {
    // SAFETY: a length of zero reads no pointer.
    check(unsafe { libc::syscall(libc::SYS_setgroups, 0usize, std::ptr::null::<u32>()) })?;
    Ok(())
}

fn prctl(option: i32, a: u64, b: u64) -> io::Result<i64> {
    // SAFETY: only used below with options whose arguments are plain numbers.
    check(i64::from(unsafe { libc::prctl(option, a, b, 0u64, 0u64) }))
}

/// `no_new_privs`: no exec can gain anything from here on. Drops nothing by itself.
pub fn set_no_new_privs() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Whether this process may be traced, dumped and looked into by others of its uid.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, u64::from(on), 0).map(drop)
}

/// Keeps the permitted capabilities over the next change of uid.
pub fn set_keep_capabilities(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, u64::from(on), 0).map(drop)
}

/// The kernel sends `signal` when the thread that forked us ends. Lost at a change of uid.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as u64, 0).map(drop)
}

/// `struct __user_cap_header_struct` and two `__user_cap_data_struct` (version 3).
#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
const CAP_VERSION_3: u32 = 0x2008_0522;

/// Makes every permitted capability effective.
pub fn raise_permitted() -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    for d in &mut data {
        d.effective = d.permitted;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Empties the bounding and ambient sets and locks securebits. Needs CAP_SETPCAP, so it comes
/// before `drop_capabilities`.
///
/// Securebits 0xef: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each locked, and KEEP_CAPS
/// locked off.
pub fn lock_capability_sets() -> io::Result<()> {
    // Read up to the first number that the kernel does not know; newer kernels may know more
    // capabilities than we do, and each must go.
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) && capability > 0 => break,
            Err(e) => return Err(e),
        }
    }
    match prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0) {
        Ok(_) => {}
        Err(e) => return Err(e),
    }
    prctl(libc::PR_SET_SECUREBITS, 0xef, 0).map(drop)
}

/// Hands every permitted capability on to whatever this process executes. Only a build for tests
/// does.
#[cfg(feature = "unsafe-disable")]
pub fn keep_over_exec() -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    for d in &mut data {
        d.inheritable = d.permitted;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    for capability in 0..64u64 {
        // SAFETY: plain numbers.
        unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) };
    }
    Ok(())
}

/// Whether capabilities stay effective when ids change (SECBIT_NO_SETUID_FIXUP). Before
/// `lock_capability_sets`.
pub fn keep_over_ids(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_SECUREBITS, if on { 4 } else { 0 }, 0).map(drop)
}

/// Empties the effective, permitted and inheritable sets.
pub fn drop_capabilities() -> io::Result<()> {
    let mut header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let data = [CapData::default(); 2];
    // SAFETY: header and data have the layout of version 3 and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) })?;
    Ok(())
}

/// Leaves the caller's session keyring for a fresh, empty one.
pub fn join_new_session_keyring() -> io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: u64 = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0u64) })?;
    Ok(())
}
