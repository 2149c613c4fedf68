//! The privileged helper, as this process sees it once it has no rights itself: what is asked of it;
//! and its answer, with both ends of the way that takes.
//!
//! Trust: the helper is our own program and holds root; what it answers is believed. What it is
//! asked for it judges by itself (`privileged::helper`).
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::privileged::Rooted;
use crate::privileged::groups::{Groups, Share};
use crate::sys::fd;
use crate::sys::process;

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
    IdMap,
    Mounts,
    Maps,
    Release,
}

/// A step and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub step: Step,
    pub errno: i32,
}

impl Step {
    pub fn failed<E: Into<io::Error>>(self) -> impl Fn(E) -> Failed {
        move |e| Failed { step: self, errno: e.into().raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// What an open descriptor is, among those that are left to a process without rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Handle {
    /// The version 2 group, a directory.
    Unified,
    /// The version 1 groups of `CONTROLLERS`.
    Memory,
    Pids,
    Cpu,
    /// `cgroup.kill`, for writing: `1` ends every process of the grain, frozen or not.
    Kill,
    /// Becomes readable when memory runs out (version 1 only; 2 kills the whole group by itself).
    MemoryAlarm,
}

/// What the helper made, as it knows it.
#[derive(Debug)]
pub struct Built {
    pub groups: Groups,
    /// The grain's kernel uid, or why it has none of its own.
    pub own_uid: Result<u32, i32>,
    /// The limits of bytes and inodes that were asked for are kept.
    pub quota: bool,
}

const STEPS: [Step; 11] = [
    Step::Begin,
    Step::Ask,
    Step::SlotDirectory,
    Step::SlotOwner,
    Step::Slot,
    Step::Namespaces,
    Step::Owner,
    Step::IdMap,
    Step::Mounts,
    Step::Maps,
    Step::Release,
];
const HANDLES: [Handle; 6] =
    [Handle::Unified, Handle::Memory, Handle::Pids, Handle::Cpu, Handle::Kill, Handle::MemoryAlarm];

/// Longest answer.
const ANSWER: usize = 32;

/// Our hold on the helper, and on the init that waits for its orders.
#[derive(Debug)]
pub struct Helper {
    /// Or what was refused already.
    begun: Result<Rooted, Failed>,
    /// Init may have got its orders.
    told: bool,
}

impl Drop for Helper {
    /// The helper ends when it hears nothing more, and with it an init that has no orders yet; no zombie
    /// of them is left to whoever is pid 1.
    fn drop(&mut self) {
        let refused = Failed { step: Step::Ask, errno: libc::ESRCH };
        if let Ok(Rooted { helper, init, socket, .. }) =
            std::mem::replace(&mut self.begun, Err(refused))
        {
            drop(socket);
            let _ = process::wait_for(helper.pid);
            if !self.told {
                let _ = process::wait_for(init.pid);
            }
        }
    }
}

/// What the building from outside came to, by the helper or by ourselves.
#[derive(Debug)]
pub struct Made {
    /// pid 1 of the grain.
    pub init: OwnedFd,
    /// The lock of the grain's uid, held for life, with init.
    pub slot: Option<OwnedFd>,
    pub answer: Answer,
}

impl Helper {
    pub fn new(begun: Result<Rooted, Failed>) -> Helper {
        Helper { begun, told: false }
    }

    /// The first thing to ask, as soon as the limits are known.
    ///
    /// # Errors
    /// What the socket answers; that the helper is gone is left to `outcome`, which has its words.
    pub fn ask(&self, share: &Share) -> io::Result<()> {
        let words = [share.memory, share.pids, share.cpu, share.weight];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.say(&bytes, &[])
    }

    /// The rest: package, data and lock of a grain; nothing for a trial. `quota`: limits of bytes and
    /// inodes, for data that is counted under its number.
    ///
    /// # Errors
    /// As `ask`.
    pub fn give(
        &mut self,
        descriptors: &[BorrowedFd<'_>],
        quota: Option<[u64; 2]>,
    ) -> io::Result<()> {
        self.told = true;
        let words: Vec<u8> = quota.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        self.say(if words.is_empty() { b"g" } else { words.as_slice() }, descriptors)
    }

    fn say(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Ok(Rooted { socket, .. }) = &self.begun else { return Ok(()) };
        match fd::send_with(socket, bytes, descriptors) {
            Err(e) if is_gone(&e) => Ok(()),
            other => other,
        }
    }

    /// Waits for the outcome and the helper's end. The inner error is a step's.
    ///
    /// # Errors
    /// What the socket answers, or `UnexpectedEof` when the helper died.
    pub fn outcome(mut self) -> io::Result<Result<Made, Failed>> {
        let begun = match &self.begun {
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
        let answer = match decode(&bytes[..length], fds).ok_or_else(ended)? {
            Err(failed) => {
                // Init has ended, or ends without orders.
                self.told = false;
                return Ok(Err(failed));
            }
            Ok(answer) => answer,
        };
        let (init, slot) = (begun.init.pidfd.try_clone()?, Some(begun.slot.try_clone()?));
        Ok(Ok(Made { init, slot, answer }))
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
}

/// How a grain is held from outside.
#[derive(Debug, Default)]
pub struct Answer {
    /// The grain's kernel uid, or why it has none of its own; nothing in user-namespace mode.
    pub own_uid: Option<Result<u32, i32>>,
    /// Which version of control groups keeps memory, processes, processor time; 0 for none.
    pub limited: [u8; 3],
    /// The limits of bytes and inodes that were asked for are kept by the file system.
    pub quota: bool,
    pub handles: Vec<(Handle, OwnedFd)>,
}

/// The helper's answer.
pub fn send(to: &OwnedFd, answer: Result<Built, Failed>) {
    let (bytes, handles) = match answer {
        Err(Failed { step, errno }) => {
            ([&[b'f', step as u8][..], &errno.to_le_bytes()].concat(), Vec::new())
        }
        Ok(Built { groups: Groups { limited, handles, .. }, own_uid, quota }) => {
            let (own, number) = own_uid.map_or_else(|e| (0, e), |uid| (1, uid as i32));
            let head = [&[b'm', own][..], &number.to_le_bytes(), &limited, &[quota.into()]];
            let tags = handles.iter().map(|(handle, _)| *handle as u8);
            (head.concat().into_iter().chain(tags).collect(), handles)
        }
    };
    let fds: Vec<_> = handles.iter().map(|(_, file)| file.as_fd()).collect();
    // If nobody hears it, nobody needs it.
    let _ = fd::send_with(to, &bytes, &fds);
}

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Result<Answer, Failed>> {
    let number = |b: &[u8]| b.try_into().map(i32::from_le_bytes).ok();
    match bytes {
        [b'f', step, errno @ ..] => {
            let step = STEPS.into_iter().find(|s| *s as u8 == *step)?;
            Some(Err(Failed { step, errno: number(errno)? }))
        }
        [b'm', own, a, b, c, d, m, p, u, quota, tags @ ..] if fds.len() == tags.len() => {
            let value = number(&[*a, *b, *c, *d])?;
            let handle = |tag: u8| HANDLES.into_iter().find(|handle| *handle as u8 == tag);
            let handles = tags.iter().zip(fds).map(|(tag, file)| Some((handle(*tag)?, file)));
            let handles = handles.collect::<Option<_>>()?;
            let own_uid = Some(if *own == 1 { Ok(value as u32) } else { Err(value) });
            Some(Ok(Answer { own_uid, limited: [*m, *p, *u], quota: *quota == 1, handles }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::Child;
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
        for handle in HANDLES {
            let handles = vec![(Handle::Kill, file()), (handle, file())];
            let groups = Groups { limited: [1, 0, 2], handles, ..Groups::default() };
            send(&a, Ok(Built { groups, own_uid: Ok(7), quota: true }));
            let (n, fds) = fd::receive_with(&b, &mut bytes).unwrap();
            let answer = decode(&bytes[..n], fds).unwrap().unwrap();
            let of = (answer.own_uid, answer.limited, answer.quota);
            assert_eq!(of, (Some(Ok(7)), [1, 0, 2], true));
            assert_eq!(answer.handles.len(), 2);
            assert_eq!(answer.handles[1].0, handle);
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
        let begun = Rooted { init: ended(), slot: file(), helper: ended(), socket };
        let mut helper = Helper::new(Ok(begun));
        let share = Share { memory: 1, pids: 1, cpu: 1, weight: 1 };
        helper.ask(&share).unwrap();
        let failed = Failed { step: Step::SlotOwner, errno: 1 };
        send(&helpers, Err(failed));
        drop(helpers);
        helper.give(&[], None).unwrap();
        assert_eq!(helper.outcome().unwrap().unwrap_err(), failed);
    }

    #[test]
    fn what_was_refused_before_anything_was_asked_is_told_at_the_end() {
        let failed = Failed { step: Step::SlotOwner, errno: 1 };
        let mut helper = Helper::new(Err(failed));
        helper.ask(&Share { memory: 1, pids: 1, cpu: 1, weight: 1 }).unwrap();
        helper.give(&[], None).unwrap();
        assert_eq!(helper.outcome().unwrap().unwrap_err(), failed);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes, Vec::new());
        }
    }
}
