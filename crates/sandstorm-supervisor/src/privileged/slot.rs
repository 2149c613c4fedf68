//! A kernel uid for each running grain.
//!
//! Trust: root-owned state only. A slot is a file in /run/sandstorm-uid, locked by supervisor and
//! init for life, so two live grains never share a uid and a dead one's uid is free at once. The
//! number need not be stable: on disk everything belongs to the caller (see `helper`).
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::helper::{Failed, Step};
use crate::sys::fd;

/// First uid of the range; far above what distributions, directories and subuid files usually give out.
/// (Container managers may pick ranges around it; a grain has no more than one number of one.)
pub const FIRST_UID: u32 = 0x6000_0000;
/// Grains that can run at once.
const SLOTS: u32 = 65_536;
/// So many that a number, and with it a control group, rests for a while between two grains.
const LOWEST: u32 = 64;
/// How many slots are tried; with half of all taken, each try after the first twenty finds a free
/// one as often as not.
const ATTEMPTS: u32 = 200;

/// Takes a free slot, ours as long as one of the two locks on it is open in any process: one of the
/// lowest few, and further up the more of them are taken, so that a start beside 500 grains asks for a
/// dozen, not for 500. The second lock is init's: the program, taken over, could give up its own.
///
/// # Errors
/// When /run/sandstorm-uid cannot be made or is not root's own, or all slots are taken.
pub fn take() -> Result<(u32, OwnedFd, OwnedFd), Failed> {
    let directory = OFlags::PATH | OFlags::DIRECTORY;
    let dir = fd::open(c"/run", directory).and_then(|run| {
        fd::ensure_dir(&run, c"sandstorm-uid", 0o700)?;
        fd::open_in(&run, c"sandstorm-uid", directory)
    });
    let dir = dir.map_err(Step::SlotDirectory.failed())?;
    let stat = rustix::fs::fstat(&dir).map_err(Step::SlotDirectory.failed())?;
    if stat.st_uid != 0 || stat.st_mode & 0o077 != 0 {
        return Err(Step::SlotOwner.failed()(Errno::ACCESS));
    }
    let mut among = LOWEST;
    for attempt in 0..ATTEMPTS {
        // Any number will do; only two starts at once should not follow each other.
        let number = std::process::id().wrapping_add(attempt) % among;
        among = (among + among / 2).min(SLOTS);
        let name = CString::new(number.to_string()).unwrap_or_default();
        // Never written: the descriptor goes to a process without rights.
        let open =
            || fd::create_in(&dir, &name, OFlags::RDONLY, 0o600).map_err(Step::Slot.failed());
        let (ours, inits) = (open()?, open()?);
        let taken = fd::try_lock_for_two(ours.as_fd(), inits.as_fd());
        if taken.map_err(Step::Slot.failed())? {
            return Ok((number, ours, inits));
        }
    }
    Err(Step::Slot.failed()(Errno::AGAIN))
}
