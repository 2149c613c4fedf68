//! The process that stays root: what a sandbox needs of root, asked for by numbers and descriptors.
//!
//! Trust: whoever asks is our own program, but an unprivileged one that has read the caller's
//! arguments; so what it asks for is judged as if the caller asked. It can have, by itself or by
//! the caller's doing: a uid that nobody uses, limits below the compiled ceilings, namespaces for
//! our own init, and mounts, `nosuid` and `nodev`, of directories that are the caller's anyway. The
//! helper has no id and no terminal of the caller's, whose signals do not reach it; it ends when the other
//! side does, and leaves nothing but control groups that the next grain uses again.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::groups::{Groups, Handle, Right, Share};
use super::{Caller, IdMap, InitEnds, clone_init, quota, slot, write_maps};
use crate::init::{self, Start};
use crate::layers;
use crate::link::{Build, Kind, Link};
use crate::sandbox::namespaces::{self, INSIDE_ID};
use crate::sys::process::{self, Child, Forked, SingleThread};
use crate::sys::{creds, fd, mount};
use sandstorm_schema::grain_limits;

/// A step that was refused; the other side has words for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
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

impl Step {
    const ALL: [Step; 10] = [
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
}

/// A step and the kernel's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    pub step: Step,
    pub errno: i32,
}

impl Failed {
    pub fn new(step: Step, error: &io::Error) -> Failed {
        Failed { step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

/// What the helper made.
#[derive(Debug)]
pub struct Made {
    pub init: OwnedFd,
    /// The grain's kernel uid, or why it has none of its own.
    pub own_uid: Result<u32, i32>,
    /// Held for life, with init.
    pub slot: OwnedFd,
    pub limited: [u8; 3],
    /// The limits of bytes and inodes that were asked for are kept.
    pub quota: bool,
    pub handles: Vec<(Handle, OwnedFd)>,
}

/// The unprivileged side's hold on the helper.
#[derive(Debug)]
pub struct Helper {
    /// Nothing only while it is being dropped.
    socket: Option<OwnedFd>,
    process: Child,
}

impl Drop for Helper {
    /// The helper ends when it hears nothing more; no zombie of it is left to whoever is pid 1.
    fn drop(&mut self) {
        self.socket = None;
        let _ = process::wait_for(self.process.pid);
    }
}

/// Longest answer.
const ANSWER: usize = 32;

impl Helper {
    /// Forks it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn fork(one_thread: &SingleThread, caller: Caller, ends: InitEnds) -> io::Result<Helper> {
        let (socket, helpers) = fd::socketpair(libc::SOCK_SEQPACKET)?;
        match process::clone(one_thread, 0, None)? {
            Forked::Parent(process) => Ok(Helper { socket: Some(socket), process }),
            Forked::Child => {
                drop(socket);
                // From here on the caller's signals do not reach this process: not from a terminal,
                // whose keys signal a whole group without asking for rights, and not by uid.
                let apart = process::new_session()
                    .and_then(|()| creds::set_all_uids(0))
                    .and_then(|()| creds::set_dumpable(false));
                if apart.is_err() {
                    process::exit_now(1);
                }
                let answer = serve(one_thread, caller, &helpers, ends);
                send(&helpers, answer);
                process::exit_now(0)
            }
        }
    }

    /// The first thing to ask, as soon as the limits are known.
    ///
    /// # Errors
    /// What the socket answers; that the helper is gone is left to `outcome`, which has its words.
    pub fn ask(&self, share: &Share) -> io::Result<()> {
        let words = [share.memory, share.pids, share.cpu, share.weight, layers::bits().into()];
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.say(&bytes, &[])
    }

    /// The rest: package, data and lock of a grain; nothing for a trial. `quota`: limits of bytes and
    /// inodes, for data that is counted under its number.
    ///
    /// # Errors
    /// As `ask`.
    pub fn give(&self, descriptors: &[BorrowedFd<'_>], quota: Option<[u64; 2]>) -> io::Result<()> {
        let words: Vec<u8> = quota.iter().flatten().flat_map(|word| word.to_le_bytes()).collect();
        self.say(if words.is_empty() { b"g" } else { words.as_slice() }, descriptors)
    }

    fn say(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        match fd::send_with(socket.as_fd(), bytes, descriptors) {
            Err(e) if is_gone(&e) => Ok(()),
            other => other,
        }
    }

    /// Waits for the outcome and the helper's end. The inner error is a step's.
    ///
    /// # Errors
    /// What the socket answers, or `UnexpectedEof` when the helper died.
    pub fn outcome(self) -> io::Result<Result<Made, Failed>> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let socket = self.socket.as_ref().ok_or_else(ended)?;
        let mut bytes = [0; ANSWER];
        let received = match fd::receive_with(socket.as_fd(), &mut bytes) {
            // It ended without having read all; its answer comes after that is told.
            Err(e) if is_gone(&e) => fd::receive_with(socket.as_fd(), &mut bytes),
            other => other,
        };
        let (length, fds) = received?;
        decode(&bytes[..length], fds).ok_or_else(ended)
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
}

fn send(to: &OwnedFd, answer: Result<Made, Failed>) {
    // If nobody hears it, nobody needs it.
    let _ = match answer {
        Err(Failed { step, errno }) => {
            let bytes = [&[b'f', step as u8][..], &errno.to_le_bytes()].concat();
            fd::send_with(to.as_fd(), &bytes, &[])
        }
        Ok(made) => {
            let (own, number) = match made.own_uid {
                Ok(uid) => (1, uid),
                Err(errno) => (0, errno as u32),
            };
            let mut bytes = [&[b'm', own][..], &number.to_le_bytes(), &made.limited].concat();
            bytes.push(made.quota.into());
            bytes.extend(made.handles.iter().map(|(handle, _)| *handle as u8));
            let mut fds = vec![made.init.as_fd(), made.slot.as_fd()];
            fds.extend(made.handles.iter().map(|(_, file)| file.as_fd()));
            fd::send_with(to.as_fd(), &bytes, &fds)
        }
    };
}

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Result<Made, Failed>> {
    let number = |b: &[u8]| b.try_into().map(i32::from_le_bytes).ok();
    match bytes {
        [b'f', step, errno @ ..] => {
            let step = Step::ALL.into_iter().find(|s| *s as u8 == *step)?;
            Some(Err(Failed { step, errno: number(errno)? }))
        }
        [b'm', own, a, b, c, d, m, p, u, quota, handles @ ..] if fds.len() == handles.len() + 2 => {
            let value = number(&[*a, *b, *c, *d])?;
            let mut fds = fds.into_iter();
            let (init, slot) = (fds.next()?, fds.next()?);
            let handles = handles
                .iter()
                .zip(fds)
                .map(|(tag, file)| Some((Handle::from_number(*tag)?, file)))
                .collect::<Option<_>>()?;
            let own_uid = if *own == 1 { Ok(value as u32) } else { Err(value) };
            let (limited, quota) = ([*m, *p, *u], *quota == 1);
            Some(Ok(Made { init, own_uid, slot, limited, quota, handles }))
        }
        _ => None,
    }
}

/// The helper's whole life.
fn serve(
    one_thread: &SingleThread,
    caller: Caller,
    socket: &OwnedFd,
    ends: InitEnds,
) -> Result<Made, Failed> {
    let failed = |step: Step| move |e: io::Error| Failed::new(step, &e);
    // Opened while the supervisor certainly lives, so that it is nobody else's later.
    let supervisor = CString::new(format!("/proc/{}", process::parent())).unwrap_or_default();
    let supervisor = fd::open(&supervisor, libc::O_PATH | libc::O_DIRECTORY, 0);
    // Init's orders come from here alone: it still has root's number when it waits for them, and
    // the other side could send it others.
    let (orders, inits_orders) = Link::pair().map_err(failed(Step::Ask))?;
    // While the other side gives up its rights and reads its arguments.
    let (number, slot) = slot::take()?;
    let mut bytes = [0; 40];
    let (length, _) = fd::receive_with(socket.as_fd(), &mut bytes).map_err(failed(Step::Ask))?;
    let Some(share) = share(&bytes[..length]) else {
        // Nothing but the end of the other side: it had something else to do.
        process::exit_now(0)
    };
    let name = number.to_string();
    let mut groups = Groups::to_be_born_in(&name, &share, Right::Root);
    let flags = namespaces::flags() | libc::CLONE_PARENT;
    let child = match clone_init(one_thread, flags, &groups).map_err(failed(Step::Namespaces))? {
        Forked::Child => init::main(one_thread, Start::by_root(ends, slot, inits_orders)),
        Forked::Parent(child) => child,
    };
    // Hundreds of spinning processes of the app must not keep init from ending them. The app
    // itself starts with the usual niceness; where we may not do this it takes a little longer.
    let _ = process::set_priority(child.pid, -20);
    // While init makes its network, which takes as long as all the rest; it joins before it does
    // anything else.
    groups.add_to_join(&name, &share);

    let (length, given) =
        fd::receive_with(socket.as_fd(), &mut bytes).map_err(failed(Step::Ask))?;
    if length == 0 {
        process::exit_now(0);
    }
    let id = slot::FIRST_UID + number;
    let (mut own_uid, mut kind) = (Ok(id), Kind::Trial);
    let mut trees = Vec::new();
    let mut quota = false;
    if let Ok([package, data, lock]) = <[OwnedFd; 3]>::try_from(given) {
        let owner = fd::stat(data.as_fd()).map_err(failed(Step::Owner))?.st_uid;
        if owner != caller.uid {
            return Err(Failed { step: Step::Owner, errno: libc::EACCES });
        }
        quota = quota::limit(data.as_fd(), &bytes[..length]);
        let map = IdMap { inside: (caller.uid, caller.gid), outside: (id, id) };
        let userns = id_map_namespace(one_thread, map).map_err(failed(Step::Namespaces))?;
        let made = match mounts(&package, &data, Some(userns.as_fd())) {
            // A file system that cannot be id-mapped: the grain runs under the caller's uid, which
            // must not be root's.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPERM)
                ) =>
            {
                if caller.uid == 0 {
                    return Err(Failed::new(Step::IdMap, &e));
                }
                own_uid = Err(e.raw_os_error().unwrap_or(libc::EIO));
                mounts(&package, &data, None)
            }
            made => made,
        };
        trees.extend(made.map_err(failed(Step::Mounts))?);
        trees.push(lock);
        kind = Kind::Trees { own_uid: own_uid.is_ok() };
    }
    let outside = own_uid.map_or((caller.uid, caller.gid), |uid| (uid, uid));
    let map = IdMap { inside: (INSIDE_ID, INSIDE_ID), outside };
    write_maps(&child, map, true).map_err(failed(Step::Maps))?;
    let build = Build { kind, limited: groups.limited };
    let all: Vec<_> = trees.iter().chain(&groups.entrances).map(AsFd::as_fd).collect();
    orders.send_build(build, &all).map_err(failed(Step::Release))?;
    // No preference of the caller's for the supervisor being killed first, or never, when memory
    // is short. By root, because an undumpable process's own /proc is root's.
    let _ = supervisor.and_then(|dir| super::write_in(dir.as_fd(), c"oom_score_adj", "0"));
    let Groups { limited, handles, .. } = groups;
    Ok(Made { init: child.pidfd, own_uid, slot, limited, quota, handles })
}

/// What was asked for, if each of it is below its ceiling; the layers go to `layers`.
fn share(bytes: &[u8]) -> Option<Share> {
    let bytes: &[u8; 40] = bytes.try_into().ok()?;
    let word = |n: usize| -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[n * 8..n * 8 + 8]);
        u64::from_le_bytes(word)
    };
    let below = |n: usize, name| {
        let limit = grain_limits::find(name)?;
        (1..=limit.ceiling).contains(&word(n)).then(|| word(n))
    };
    layers::set_bits(word(4));
    Some(Share {
        memory: below(0, "memory")?,
        pids: below(1, "pids")?,
        cpu: below(2, "cpu")?,
        weight: below(3, "weight")?,
    })
}

/// Package and data as detached mounts; with `userns` both get its id map.
fn mounts(
    package: &OwnedFd,
    data: &OwnedFd,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<[OwnedFd; 2]> {
    let tree = |dir: &OwnedFd, attributes| {
        let tree = mount::clone_tree(dir.as_fd())?;
        mount::set_attributes(tree.as_fd(), attributes, userns).map(|()| tree)
    };
    Ok([tree(package, mount::package_flags())?, tree(data, mount::data_flags())?])
}

/// A user namespace that exists only as the id map of a mount: files of `map.inside` on disk
/// appear as `map.outside`.
fn id_map_namespace(one_thread: &SingleThread, map: IdMap) -> io::Result<OwnedFd> {
    let (hold, held) = fd::pipe()?;
    match process::clone(one_thread, libc::CLONE_NEWUSER, None)? {
        Forked::Child => {
            // Until the parent closes its end, or dies.
            drop(held);
            let _ = fd::read(hold.as_raw_fd(), &mut [0]);
            process::exit_now(0)
        }
        Forked::Parent(child) => {
            let made = write_maps(&child, map, true).and_then(|()| {
                let path = CString::new(format!("/proc/{}/ns/user", child.pid))?;
                fd::open(&path, libc::O_RDONLY, 0)
            });
            drop(held);
            match process::wait_for(child.pid)? {
                process::Ended::Status(0) => made,
                _ => Err(io::ErrorKind::Interrupted.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(words: [u64; 5]) -> Option<Share> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        share(&bytes)
    }

    #[test]
    fn nothing_above_a_ceiling_is_granted() {
        let of = |name| grain_limits::find(name).unwrap().ceiling;
        let most = [of("memory"), of("pids"), of("cpu"), of("weight"), 0];
        assert!(asked(most).is_some());
        for n in 0..4 {
            let mut more = most;
            more[n] += 1;
            assert_eq!(asked(more), None, "word {n}");
            more[n] = 0;
            assert_eq!(asked(more), None, "word {n}");
        }
        assert_eq!(share(&[1; 39]), None);
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let (a, b) = fd::socketpair(libc::SOCK_SEQPACKET).unwrap();
        let mut bytes = [0; ANSWER];
        for step in Step::ALL {
            send(&a, Err(Failed { step, errno: 13 }));
            let (n, fds) = fd::receive_with(b.as_fd(), &mut bytes).unwrap();
            assert_eq!(decode(&bytes[..n], fds).unwrap().unwrap_err(), Failed { step, errno: 13 });
        }
        let file = || fd::open(c"/dev/null", libc::O_RDONLY, 0).unwrap();
        let handles = vec![(Handle::Kill, file()), (Handle::CpuStat, file())];
        let (own_uid, limited, quota) = (Ok(7), [1, 0, 2], true);
        let made = Made { init: file(), own_uid, slot: file(), limited, quota, handles };
        send(&a, Ok(made));
        let (n, fds) = fd::receive_with(b.as_fd(), &mut bytes).unwrap();
        let made = decode(&bytes[..n], fds).unwrap().unwrap();
        assert_eq!((made.own_uid, made.limited, made.quota), (Ok(7), [1, 0, 2], true));
        assert_eq!(made.handles.len(), 2);
        assert_eq!(made.handles[1].0, Handle::CpuStat);
    }

    // It is waited for by its number, when `Helper` is dropped.
    #[allow(clippy::zombie_processes)]
    #[test]
    fn an_answer_is_heard_though_the_helper_read_no_more() {
        let (socket, helpers) = fd::socketpair(libc::SOCK_SEQPACKET).unwrap();
        let ended = std::process::Command::new("/bin/true").spawn().unwrap();
        let pidfd = fd::open(c"/dev/null", libc::O_RDONLY, 0).unwrap();
        let process = Child { pid: ended.id() as i32, pidfd };
        let helper = Helper { socket: Some(socket), process };
        let share = Share { memory: 1, pids: 1, cpu: 1, weight: 1 };
        helper.ask(&share).unwrap();
        let failed = Failed { step: Step::SlotOwner, errno: 1 };
        send(&helpers, Err(failed));
        drop(helpers);
        helper.give(&[], None).unwrap();
        assert_eq!(helper.outcome().unwrap().unwrap_err(), failed);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes, Vec::new());
            let _ = share(&bytes);
        }
    }
}
