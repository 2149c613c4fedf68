//! Who started us, and what that lets us do.
#![forbid(unsafe_code)]

use std::io;

use rustix::fs::{OFlags, Stat};

use crate::error::Error;
use crate::sys::{fd, process};

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

impl Mode {
    /// From the real uid and the saved one, which is what the file's bit gave.
    ///
    /// # Errors
    /// `Installation` when a setuid copy has another mode than 4750 or another owner than root.
    pub fn find(real: u32, saved: u32) -> Result<Mode, Error> {
        if saved != 0 {
            return Ok(Mode::UserNamespace);
        }
        let own =
            own_file().map_err(Error::kernel("look at the program's own file (/proc/self/exe)"))?;
        let (uid, mode) = (own.st_uid, own.st_mode & 0o7777);
        match (real, uid, mode) {
            (0, ..) => Ok(Mode::Root),
            // The kernel let GROUP and nobody else get here only if the mode says so.
            (_, 0, 0o4750) => Ok(Mode::Setuid),
            _ => Err(Error::Installation { path: process::own_path(), uid, mode }),
        }
    }
}

fn own_file() -> io::Result<Stat> {
    Ok(rustix::fs::fstat(fd::open(c"/proc/self/exe", OFlags::PATH)?)?)
}

/// Whether our file is setuid root, which without root's rights the kernel did not honour.
pub fn has_root_bit() -> bool {
    own_file().is_ok_and(|own| own.st_mode & libc::S_ISUID != 0 && own.st_uid == 0)
}
