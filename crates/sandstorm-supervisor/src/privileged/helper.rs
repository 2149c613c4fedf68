//! The process that stays root: the two mounts that only root can make, and quotas, asked for by
//! descriptors and numbers.
//!
//! Trust: whoever asks (`crate::helper`) is our own program, but an unprivileged one that has read
//! the caller's arguments; so what it asks for is judged as if the caller asked. It can have, by
//! itself or by the caller's doing: mounts, `nosuid` and `nodev`, of a directory of the caller's and of
//! one that the caller can open, which only init gets; quotas of its own directories, below the compiled
//! ceilings; and image files (`image`), whose mounts init and whoever asks get. The helper has no uid
//! and no terminal of the caller's, whose signals do not reach it; it ends when the
//! other side does, and leaves nothing.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::SocketType;
use sandstorm_schema::grain_limits;

use super::image::Image;
use super::quota;
use crate::helper::{ASKED, Failed, Kept, Step, send};
use crate::layers;
use crate::link::Link;
use crate::mode::Caller;
use crate::sys::process::{self, Child, Forked, SingleThread};
use crate::sys::{fd, mount, signal};

/// How long the other side may take before it asks: it may wait for a grain's lock, and number the
/// files of a restored grain.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long the helper may live, whatever it waits for but a disk, or a server of a file system, that never
/// answers and is not told to give up.
const LIFE: Duration = Duration::from_secs(660);

/// What the helper begins with.
#[derive(Debug)]
pub struct Errand {
    pub caller: Caller,
    /// The grain's.
    pub uid: u32,
    /// Init's lock of the grain's uid: held as long as somebody may give it mounts.
    pub slot: OwnedFd,
    /// To init, which waits for its mounts.
    pub orders: Link,
}

/// Forks it. The end of its socket, and itself.
///
/// # Errors
/// What the kernel answers.
pub fn fork(one_thread: &SingleThread, errand: Errand) -> io::Result<(OwnedFd, Child)> {
    let (socket, helpers) = fd::socketpair(SocketType::SEQPACKET)?;
    match process::clone(one_thread, 0, None)? {
        Forked::Parent(process) => Ok((socket, process)),
        Forked::Child => {
            let settled = settle(&helpers, &errand).map_err(Step::Begin.failed());
            send(&helpers, settled.and_then(|()| serve(one_thread, &helpers, &errand)));
            process::exit_now(0)
        }
    }
}

/// Keeps nothing that the other side's end should end, hears no terminal (its keys signal a whole
/// group, without asking for rights), and waits for nobody for ever.
fn settle(helpers: &OwnedFd, errand: &Errand) -> io::Result<()> {
    rustix::process::setsid()?;
    fd::close_all_but(&[helpers.as_fd(), errand.slot.as_fd(), errand.orders.as_fd()])?;
    fd::close_between(0, 2)?;
    fd::ensure_standard_fds()?;
    signal::end_after(LIFE)?;
    fd::set_patience(helpers, PATIENCE)
}

/// The helper's whole life: one message, and what keeps the limits in it.
fn serve(one_thread: &SingleThread, socket: &OwnedFd, errand: &Errand) -> Result<Kept, Failed> {
    let mut asked = [0; ASKED];
    let given = match fd::receive_with(socket, &mut asked) {
        // Nothing but the end of the other side: it had something else to do.
        Ok((0, _)) => process::exit_now(0),
        other => other.map_err(Step::Ask.failed())?.1,
    };
    // Init's own, handed out before it looked at an argument: the files' owner is init.
    let userns = errand.orders.descriptors().map_err(Step::Init.failed())?;
    let [userns] = userns.ok_or(Errno::SRCH).map_err(Step::Init.failed())?;
    let Ok([package, data, lock]) = <[OwnedFd; 3]>::try_from(given) else {
        // A trial.
        return Ok(Kept::default());
    };
    if fd::owner(&data).map_err(Step::Mounts.failed())? != errand.caller.uid {
        return Err(Step::Owner.failed()(Errno::ACCESS));
    }
    let (kind, words) = (asked[0], asked[1..].as_chunks().0);
    let limits = below(&words[0], "disk").zip(below(&words[1], "inodes"));
    let quota = kind == b'q' && limits.is_some_and(|limits| quota::limit(data.as_fd(), limits));
    let image = matches!(kind, b'i' | b'n').then(|| {
        // Never the directory that the image is in, in its place.
        let limits = limits.ok_or(Errno::INVAL).map_err(Step::Ask.failed())?;
        Image::find(one_thread, data.as_fd(), kind == b'n', limits, errand)
    });
    let image = image.transpose()?;
    let copy = |dir: &OwnedFd, flags| mount::copy(dir, flags, Some(userns.as_fd()));
    let package = copy(&package, layers::package_flags()).map_err(Step::Mounts.failed())?;
    let var = match &image {
        Some(image) => image.mount(userns.as_fd()),
        None => copy(&data, layers::data_flags()),
    };
    let var = var.map_err(Step::Mounts.failed())?;
    let all = [package.as_fd(), var.as_fd(), lock.as_fd()];
    errand.orders.send_descriptors(all).map_err(Step::Release.failed())?;
    Ok(Kept { quota, image: image.map(|image| image.plain) })
}

/// A number, unless it is 0 or above the ceiling of that name.
fn below(word: &[u8; 8], name: &str) -> Option<u64> {
    let value = u64::from_le_bytes(*word);
    grain_limits::find(name).filter(|l| (1..=l.ceiling).contains(&value)).map(|_| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_above_a_ceiling_is_granted() {
        for name in ["disk", "inodes"] {
            let most = grain_limits::find(name).unwrap().ceiling;
            assert_eq!(below(&most.to_le_bytes(), name), Some(most));
            assert_eq!(below(&(most + 1).to_le_bytes(), name), None);
            assert_eq!(below(&[0; 8], name), None);
        }
    }
}
