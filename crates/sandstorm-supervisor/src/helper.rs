//! The privileged helper, as this process sees it once it has no rights itself: what is asked of it;
//! and its answer, with both ends of the way that takes.
//!
//! Trust: the helper is our own program and holds root; what it answers is believed. What it is
//! asked for it judges by itself (`privileged::helper`).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sandbox::share::Groups;
use crate::sys::fd;
use crate::sys::process::{self, Child};

/// A step that was refused; the other side has words for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    Begin,
    Ask,
    SlotDirectory,
    SlotOwner,
    Slot,
    Namespaces,
    Owner,
    Init,
    /// The grain has no uid of its own here.
    IdMap,
    Mounts,
    Release,
    ImageFile,
    ImageMake,
    ImageDevice,
    ImageMount,
}

/// A step and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub step: Step,
    pub errno: i32,
}

impl Failed {
    /// A file system that cannot be id-mapped (one in user space may not even let root look) is another
    /// matter than a mount that failed.
    fn by_mapping(self) -> Failed {
        let cannot = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPERM, libc::EACCES];
        match self {
            Failed { step: Step::Mounts, errno } if cannot.contains(&errno) => {
                Failed { step: Step::IdMap, errno }
            }
            other => other,
        }
    }
}

impl Step {
    pub fn failed<E: Into<io::Error>>(self) -> impl Fn(E) -> Failed {
        move |e| Failed { step: self, errno: e.into().raw_os_error().unwrap_or(libc::EIO) }
    }
}

const STEPS: [Step; 15] = [
    Step::Begin,
    Step::Ask,
    Step::SlotDirectory,
    Step::SlotOwner,
    Step::Slot,
    Step::Namespaces,
    Step::Owner,
    Step::Init,
    Step::IdMap,
    Step::Mounts,
    Step::Release,
    Step::ImageFile,
    Step::ImageMake,
    Step::ImageDevice,
    Step::ImageMount,
];
/// Longest answer.
const ANSWER: usize = 16;

/// What keeps a grain's limits of bytes and inodes, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// Nobody but the supervisor.
    Measured,
    /// The data is counted under its number, which has them.
    Quota([u64; 2]),
    /// The image file in the directory that is given in the data's place, or one to be made there.
    Image { new: bool, limits: [u64; 2] },
}

/// What root's rights began, before they were given up.
#[derive(Debug)]
pub struct Rooted {
    pub init: Child,
    /// By which the kernel knows the grain.
    pub uid: u32,
    pub helper: Child,
    pub socket: OwnedFd,
    pub groups: Groups,
    /// The lock of the grain's uid and of these groups, held for life.
    pub slot: OwnedFd,
}

/// Our hold on the helper.
#[derive(Debug)]
pub struct Helper {
    /// Or what was refused already.
    begun: Result<Rooted, Failed>,
}

impl Drop for Helper {
    /// The helper ends when it hears nothing more, and with it an init that has no mounts yet. No zombie
    /// of the helper is left; init may wait for us as well, so whoever drops our end of its link reaps it.
    fn drop(&mut self) {
        let refused = Failed { step: Step::Ask, errno: libc::ESRCH };
        if let Ok(Rooted { helper, socket, .. }) = std::mem::replace(&mut self.begun, Err(refused))
        {
            drop(socket);
            let _ = process::wait_for(helper.pid);
        }
    }
}

/// A grain that was made with root's help.
#[derive(Debug)]
pub struct Made {
    /// pid 1 of the grain.
    pub init: OwnedFd,
    /// By which the kernel knows the grain.
    pub uid: u32,
    pub disk: Kept,
    pub groups: Groups,
    /// The lock of the grain's uid and of these groups, held for life.
    pub slot: OwnedFd,
}

/// What keeps the limits of bytes and inodes that were asked for, as the helper knows it.
#[derive(Debug, Default)]
pub struct Kept {
    /// The file system that all grains share.
    pub quota: bool,
    /// A file system of the grain's own: its mount.
    pub image: Option<OwnedFd>,
}

impl Helper {
    pub fn new(begun: Result<Rooted, Failed>) -> Helper {
        Helper { begun }
    }

    /// What root made for limits, if it began.
    pub fn groups(&mut self) -> Option<&mut Groups> {
        self.begun.as_mut().ok().map(|begun| &mut begun.groups)
    }

    /// Init's number.
    pub fn init(&self) -> Option<rustix::process::Pid> {
        self.begun.as_ref().ok().map(|begun| begun.init.pid)
    }

    /// What there is to ask: package, data and lock of a grain; nothing for a trial.
    ///
    /// # Errors
    /// What the socket answers; that the helper is gone is left to `outcome`, which has its words.
    pub fn give(&self, descriptors: &[BorrowedFd<'_>], disk: Disk) -> io::Result<()> {
        let Ok(Rooted { socket, .. }) = &self.begun else { return Ok(()) };
        match fd::send_with(socket, &encode(disk), descriptors) {
            Err(e) if is_gone(&e) => Ok(()),
            other => other,
        }
    }

    /// Waits for the outcome and the helper's end. The inner error is a step's.
    ///
    /// # Errors
    /// What the socket answers, or `UnexpectedEof` when the helper died.
    pub fn outcome(mut self) -> io::Result<Result<Made, Failed>> {
        let begun = match &mut self.begun {
            Err(failed) => return Ok(Err(*failed)),
            Ok(begun) => begun,
        };
        let mut bytes = [0; ANSWER];
        let received = match fd::receive_with(&begun.socket, &mut bytes) {
            // It ended without having read all; its answer comes after that is told.
            Err(e) if is_gone(&e) => fd::receive_with(&begun.socket, &mut bytes),
            other => other,
        };
        let (length, fds) = received?;
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let disk = match decode(&bytes[..length], fds).ok_or_else(ended)? {
            Err(failed) => return Ok(Err(failed.by_mapping())),
            Ok(disk) => disk,
        };
        let (init, slot) = (begun.init.pidfd.try_clone()?, begun.slot.try_clone()?);
        let groups = std::mem::take(&mut begun.groups);
        Ok(Ok(Made { init, uid: begun.uid, disk, groups, slot }))
    }
}

/// Length of what is asked, bytes: a kind, the limits of bytes and inodes.
pub const ASKED: usize = 17;

fn encode(disk: Disk) -> [u8; ASKED] {
    let (kind, [bytes, inodes]) = match disk {
        Disk::Measured => (b'g', [0; 2]),
        Disk::Quota(limits) => (b'q', limits),
        Disk::Image { new: false, limits } => (b'i', limits),
        Disk::Image { new: true, limits } => (b'n', limits),
    };
    let mut asked = [kind; ASKED];
    asked[1..9].copy_from_slice(&bytes.to_le_bytes());
    asked[9..].copy_from_slice(&inodes.to_le_bytes());
    asked
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
}

/// The helper's answer: what was refused, or what keeps the limits.
pub fn send(to: &OwnedFd, answer: Result<Kept, Failed>) {
    let (bytes, image) = match answer {
        Err(Failed { step, errno }) => {
            ([&[b'f', step as u8][..], &errno.to_le_bytes()].concat(), None)
        }
        Ok(Kept { quota, image }) => (vec![b'm', quota.into()], image),
    };
    let fds: Vec<_> = image.iter().map(AsFd::as_fd).collect();
    // If nobody hears it, nobody needs it.
    let _ = fd::send_with(to, &bytes, &fds);
}

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Result<Kept, Failed>> {
    match bytes {
        [b'f', step, errno @ ..] => {
            let step = STEPS.into_iter().find(|s| *s as u8 == *step)?;
            Some(Err(Failed { step, errno: i32::from_le_bytes(errno.try_into().ok()?) }))
        }
        [b'm', quota] => Some(Ok(Kept { quota: *quota == 1, image: fds.into_iter().next() })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustix::fs::OFlags;
    use rustix::net::SocketType;

    fn file() -> OwnedFd {
        fd::open(c"/dev/null", OFlags::RDONLY).unwrap()
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let (a, b) = fd::socketpair(SocketType::SEQPACKET).unwrap();
        let mut bytes = [0; ANSWER];
        for step in STEPS {
            send(&a, Err(Failed { step, errno: 13 }));
            let (n, fds) = fd::receive_with(&b, &mut bytes).unwrap();
            assert_eq!(decode(&bytes[..n], fds).unwrap().unwrap_err(), Failed { step, errno: 13 });
        }
        for (quota, image) in [(true, None), (false, None), (false, Some(file()))] {
            let has_image = image.is_some();
            send(&a, Ok(Kept { quota, image }));
            let (n, fds) = fd::receive_with(&b, &mut bytes).unwrap();
            let kept = decode(&bytes[..n], fds).unwrap().unwrap();
            assert_eq!((kept.quota, kept.image.is_some()), (quota, has_image));
        }
    }

    // Both are waited for by their numbers, when `Helper` is dropped: the answer is a refusal.
    #[allow(clippy::zombie_processes)]
    #[test]
    fn an_answer_is_heard_though_the_helper_read_no_more() {
        let (socket, helpers) = fd::socketpair(SocketType::SEQPACKET).unwrap();
        let ended = || {
            let process = std::process::Command::new("/bin/true").spawn().unwrap();
            Child { pid: rustix::process::Pid::from_child(&process), pidfd: file() }
        };
        let begun = Rooted {
            init: ended(),
            uid: 1,
            helper: ended(),
            socket,
            groups: Groups::default(),
            slot: file(),
        };
        let helper = Helper::new(Ok(begun));
        let failed = Failed { step: Step::SlotOwner, errno: 1 };
        send(&helpers, Err(failed));
        drop(helpers);
        helper.give(&[], Disk::Measured).unwrap();
        assert_eq!(helper.outcome().unwrap().unwrap_err(), failed);
    }

    /// Every limit, whatever its bytes, is asked for as what it is.
    #[test]
    fn a_limit_is_never_taken_for_a_kind() {
        for bytes in [u64::from(b'i'), u64::from(b'n'), 1_234_567_785, u64::MAX] {
            let asked = encode(Disk::Quota([bytes, 7]));
            assert_eq!((asked[0], &asked[1..9]), (b'q', &bytes.to_le_bytes()[..]));
            assert_eq!(asked[9..], 7u64.to_le_bytes());
        }
    }

    #[test]
    fn what_was_refused_before_anything_was_asked_is_told_at_the_end() {
        let failed = Failed { step: Step::SlotOwner, errno: 1 };
        let helper = Helper::new(Err(failed));
        helper.give(&[], Disk::Measured).unwrap();
        assert_eq!(helper.outcome().unwrap().unwrap_err(), failed);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes, Vec::new());
        }
    }
}
