//! Whose process this is, which mode that means, and privilege as a type.
//!
//! Trust: the kernel's answer on uids, nothing else. In setuid mode the effective uid is the
//! caller's from `harden::first_steps` on; root's rights are taken back only inside
//! `Privileged::as_root`, for single steps, and for good by nobody: `give_up` consumes the value.
#![forbid(unsafe_code)]

use std::os::fd::AsFd;

use crate::error::Error;
use crate::sys::{creds, fd};

/// How this process can build a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Installed setuid root, started by an ordinary user.
    Setuid,
    /// Started by root.
    Root,
    /// Neither: everything happens inside a user namespace.
    UserNamespace,
}

/// The user who started us: owner of the home and of everything on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}

/// The power to act as root for single steps. Only setuid and root mode have one.
#[derive(Debug)]
pub struct Privileged {
    caller: Caller,
}

/// Proof that root's rights are being held just now; lives only inside `as_root`.
#[derive(Debug)]
pub struct AsRoot(());

/// What the start of the program found out about itself.
#[derive(Debug)]
pub struct Identity {
    pub caller: Caller,
    pub mode: Mode,
    pub privileged: Option<Privileged>,
    /// A sentence for the log when the setuid bit had no effect.
    pub warning: Option<String>,
}

/// Finds the mode and checks how the program is installed.
///
/// # Errors
/// `Installation` when a setuid copy has another mode than 4750 or another owner than root.
pub fn establish() -> Result<Identity, Error> {
    // The effective uid is the caller's already; the saved one is what the file's bit gave.
    let (real, _, saved) = creds::uids();
    let caller = Caller { uid: real, gid: creds::gid() };
    let own = fd::open(c"/proc/self/exe", libc::O_PATH, 0)
        .and_then(|exe| fd::stat(exe.as_fd()))
        .map_err(Error::kernel("look at the program's own file (/proc/self/exe)"))?;
    let setuid_file = own.st_mode & libc::S_ISUID != 0 && own.st_uid == 0;

    if saved != 0 {
        let warning = setuid_file.then(|| {
            "this program is setuid root, but the kernel did not honour that: the caller runs with no_new_privs \
             (a systemd option that implies it, a container flag) or the file lies on a nosuid mount; \
             using a user namespace instead"
                .to_owned()
        });
        return Ok(Identity { caller, mode: Mode::UserNamespace, privileged: None, warning });
    }
    if real != 0 {
        // The kernel let GROUP and nobody else get here only if the mode says so.
        if own.st_uid != 0 || own.st_mode & 0o7777 != 0o4750 {
            let path = fd::read_link(c"/proc/self/exe").unwrap_or_default();
            return Err(Error::Installation {
                path: String::from_utf8_lossy(&path).into_owned(),
                uid: own.st_uid,
                mode: own.st_mode & 0o7777,
            });
        }
    }
    Ok(Identity {
        caller,
        mode: if real == 0 { Mode::Root } else { Mode::Setuid },
        privileged: Some(Privileged { caller }),
        warning: None,
    })
}

impl Privileged {
    /// Runs `step` with effective uid 0 and puts it aside again.
    ///
    /// # Errors
    /// What the step answers. If the uid cannot be put aside the process ends at once: going on
    /// as root is no option.
    pub fn as_root<T>(&self, step: impl FnOnce(&AsRoot) -> Result<T, Error>) -> Result<T, Error> {
        if self.caller.uid == 0 {
            return step(&AsRoot(()));
        }
        creds::set_effective_uid(0).map_err(Error::kernel("take root's rights for a step"))?;
        let result = step(&AsRoot(()));
        if creds::set_effective_uid(self.caller.uid).is_err() {
            crate::sys::process::exit_now(4);
        }
        result
    }
}

/// Gives up every privilege of this process for good: capabilities out of every set, securebits
/// locked, no_new_privs, not dumpable, the caller's ids everywhere, no supplementary group.
///
/// # Errors
/// `Kernel` if any step fails; the caller must then end.
pub fn give_up(privileged: Option<Privileged>, caller: Caller) -> Result<(), Error> {
    give_up_all(privileged.is_some(), caller)
}

/// The same in a forked child, whose copy of the rights ends with it.
///
/// # Errors
/// As `give_up`.
pub fn give_up_in_child(identity: &Identity) -> Result<(), Error> {
    give_up_all(identity.privileged.is_some(), identity.caller)
}

fn give_up_all(privileged: bool, caller: Caller) -> Result<(), Error> {
    creds::set_no_new_privs().map_err(Error::kernel("set no_new_privs"))?;
    if privileged {
        if caller.uid != 0 {
            creds::set_effective_uid(0)
                .map_err(Error::kernel("take root's rights to drop them"))?;
        }
        creds::clear_groups().map_err(Error::kernel("drop supplementary groups"))?;
        creds::lock_capability_sets().map_err(Error::kernel("lock the capability sets"))?;
        creds::set_all_gids(caller.gid).map_err(Error::kernel("set the caller's gid"))?;
        creds::set_all_uids(caller.uid).map_err(Error::kernel("set the caller's uid"))?;
    }
    creds::drop_capabilities().map_err(Error::kernel("drop capabilities"))?;
    creds::set_dumpable(false).map_err(Error::kernel("make the process undumpable"))?;
    if caller.uid != 0 && creds::set_effective_uid(0).is_ok() {
        // The one thing that must never work from here on.
        crate::sys::process::exit_now(4);
    }
    Ok(())
}
