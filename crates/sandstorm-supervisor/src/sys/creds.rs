//! Who this process is: ids, capabilities, securebits, dumpability.

use std::io;

use rustix::process::{DumpableBehavior, Gid, Uid};
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

use super::check;

/// Sets the effective uid only; the saved uid stays, so that it can be taken back.
///
/// As all below for the calling thread alone, which is the only one.
pub fn set_effective_uid(uid: u32) -> io::Result<()> {
    Ok(rustix::thread::set_thread_res_uid(None, Uid::from_raw(uid), None)?)
}

/// Does something as root with these as effective ids, which count for what is made and opened
/// meanwhile, and with root's capabilities. Where root's own ids cannot be had again the process ends.
///
/// # Errors
/// Those of `what`, or of taking the ids.
pub fn with_effective_ids<T>(id: u32, what: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let gid = rustix::process::getegid();
    let set_gid = |gid| rustix::thread::set_thread_res_gid(None, gid, None);
    let taken = keep_over_ids(true)
        .and_then(|()| Ok(set_gid(Gid::from_raw(id))?))
        .and_then(|()| set_effective_uid(id));
    let done = taken.and_then(|()| what());
    let back = set_effective_uid(0).and_then(|()| Ok(set_gid(gid)?));
    if back.and_then(|()| keep_over_ids(false)).is_err() {
        super::process::exit_now(4);
    }
    done
}

/// Sets all three uids.
pub fn set_all_uids(uid: u32) -> io::Result<()> {
    let uid = Uid::from_raw(uid);
    Ok(rustix::thread::set_thread_res_uid(uid, uid, uid)?)
}

/// Sets all three gids.
pub fn set_all_gids(gid: u32) -> io::Result<()> {
    let gid = Gid::from_raw(gid);
    Ok(rustix::thread::set_thread_res_gid(gid, gid, gid)?)
}

/// Drops every supplementary group.
pub fn clear_groups() -> io::Result<()> {
    Ok(rustix::thread::set_thread_groups(&[])?)
}

/// Whether this process may be traced, dumped and looked into by others of its uid.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    let behavior = if on { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(rustix::process::set_dumpable_behavior(behavior)?)
}

/// Makes every permitted capability effective.
pub fn raise_permitted() -> io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let all = CapabilitySets { effective: now.permitted, ..now };
    Ok(rustix::thread::set_capabilities(None, all)?)
}

/// Empties the bounding and ambient sets and locks securebits. Needs CAP_SETPCAP, so it comes
/// before `drop_capabilities`.
///
/// Securebits: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE, each locked, and KEEP_CAPS locked off.
pub fn lock_capability_sets() -> io::Result<()> {
    // Up to the first number that the kernel does not know; newer kernels may know more
    // capabilities than we do, and each must go.
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            Err(rustix::io::Errno::INVAL) if number > 0 => break,
            other => other?,
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let all = CapabilitiesSecureBits::from_bits_retain(0xff);
    Ok(rustix::thread::set_capabilities_secure_bits(all - CapabilitiesSecureBits::KEEP_CAPS)?)
}

/// Hands every permitted capability on to whatever this process executes. Only a build for tests
/// does.
#[cfg(feature = "unsafe-disable")]
pub fn keep_over_exec() -> io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let all = CapabilitySets { inheritable: now.permitted, ..now };
    rustix::thread::set_capabilities(None, all)?;
    for capability in now.permitted.iter() {
        let _ = rustix::thread::configure_capability_in_ambient_set(capability, true);
    }
    Ok(())
}

/// Whether capabilities stay effective when ids change (SECBIT_NO_SETUID_FIXUP). Before
/// `lock_capability_sets`.
pub fn keep_over_ids(on: bool) -> io::Result<()> {
    let none = CapabilitiesSecureBits::empty();
    let bits = if on { CapabilitiesSecureBits::NO_SETUID_FIXUP } else { none };
    Ok(rustix::thread::set_capabilities_secure_bits(bits)?)
}

/// Empties the effective, permitted and inheritable sets.
pub fn drop_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

/// Leaves the caller's session keyring for a fresh, empty one.
pub fn join_new_session_keyring() -> io::Result<()> {
    // SAFETY: a null name asks for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, 0u64) })?;
    Ok(())
}
