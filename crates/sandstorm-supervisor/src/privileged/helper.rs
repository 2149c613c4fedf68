//! The process that stays root: what a sandbox needs of root, asked for by numbers and descriptors.
//!
//! Trust: whoever asks (`crate::helper`) is our own program, but an unprivileged one that has read
//! the caller's arguments; so what it asks for is judged as if the caller asked. It can have, by
//! itself or by the caller's doing: a uid that nobody uses, limits below the compiled ceilings, and
//! mounts, `nosuid` and `nodev`, of directories that are the caller's anyway. The helper has no uid
//! and no terminal of the caller's, whose signals do not reach it; it ends when the other side does,
//! and leaves nothing but control groups (those of version 1 the next grain uses again).
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::net::SocketType;
use sandstorm_schema::grain_limits;

use super::groups::{Groups, Share};
use super::{IdMap, quota, slot, write_maps};
use crate::helper::{Built, Failed, Step, send};
use crate::layers;
use crate::link::{Build, Kind, Link};
use crate::mode::Caller;
use crate::sandbox::namespaces::INSIDE_ID;
use crate::sys::process::{self, Child, Forked, SingleThread};
use crate::sys::{fd, mount};

/// How long the other side may take before each of the two things that it asks: it may wait for a
/// grain's lock, and number the files of a restored grain.
const PATIENCE: Duration = Duration::from_secs(600);

/// What the helper begins with: all that can be made before it is told anything.
#[derive(Debug)]
pub struct Errand<'a> {
    pub caller: Caller,
    /// The grain's among all that run, and its lock: no other start takes it while we set limits.
    pub number: u32,
    pub slot: BorrowedFd<'a>,
    pub groups: Groups,
    /// Waits for its orders.
    pub init: &'a Child,
    pub orders: Link,
}

/// Forks it. The end of its socket, and itself.
///
/// # Errors
/// What the kernel answers.
pub fn fork(one_thread: &SingleThread, errand: Errand<'_>) -> io::Result<(OwnedFd, Child)> {
    let (socket, helpers) = fd::socketpair(SocketType::SEQPACKET)?;
    match process::clone(one_thread, 0, None)? {
        Forked::Parent(process) => Ok((socket, process)),
        Forked::Child => {
            let answer = settle(&helpers, &errand)
                .map_err(Step::Begin.failed())
                .and_then(|()| serve(one_thread, &helpers, errand));
            send(&helpers, answer);
            process::exit_now(0)
        }
    }
}

/// Keeps nothing that the other side's end should end, hears no terminal (its keys signal a whole
/// group, without asking for rights), and waits for nobody for ever.
fn settle(helpers: &OwnedFd, errand: &Errand<'_>) -> io::Result<()> {
    rustix::process::setsid()?;
    let mut keep =
        vec![helpers.as_fd(), errand.slot, errand.init.pidfd.as_fd(), errand.orders.as_fd()];
    keep.extend(errand.groups.unified.as_ref().map(AsFd::as_fd));
    fd::close_all_but(&keep)?;
    fd::close_between(0, 2)?;
    fd::ensure_standard_fds()?;
    fd::set_patience(helpers, PATIENCE)
}

/// The helper's whole life.
fn serve(one_thread: &SingleThread, socket: &OwnedFd, errand: Errand<'_>) -> Result<Built, Failed> {
    let Errand { caller, number, mut groups, init, orders, .. } = errand;
    let mut bytes = [0; 32];
    // Nothing but the end of the other side: it had something else to do.
    let mut hear = || match fd::receive_with(socket, &mut bytes) {
        Ok((0, _)) => process::exit_now(0),
        Ok((length, fds)) => Ok((bytes[..length].to_vec(), fds)),
        Err(e) => Err(Step::Ask.failed()(e)),
    };
    let id = slot::FIRST_UID + number;
    // Needs no orders either: while the other side gives up its rights and reads its arguments.
    let map = IdMap { inside: (caller.uid, caller.gid), outside: (id, id) };
    let userns = id_map_namespace(one_thread, map);
    let refused = |e: &io::Error| e.raw_os_error().unwrap_or(libc::EIO);
    let mut own_uid = userns.as_ref().map(|_| id).map_err(refused);
    let Some(share) = share(&hear()?.0) else { process::exit_now(0) };
    // While init makes its network, which takes as long as all the rest; it joins before it does
    // anything else.
    groups.limit_unified(&share);
    groups.add_to_join(&number.to_string(), &share);

    let (asked, given) = hear()?;
    let (mut kind, mut trees, mut quota) = (Kind::Trial, Vec::new(), false);
    if let Ok([package, data, lock]) = <[OwnedFd; 3]>::try_from(given) {
        if rustix::fs::fstat(&data).map_err(Step::Owner.failed())?.st_uid != caller.uid {
            return Err(Failed { step: Step::Owner, errno: libc::EACCES });
        }
        quota = quota::limit(data.as_fd(), &asked);
        // A file system that cannot be id-mapped, or no such uid here (root of a namespace).
        let cannot = [libc::EINVAL, libc::EOPNOTSUPP, libc::EPERM];
        let mapped = userns.and_then(|userns| mounts(&package, &data, Some(userns.as_fd())));
        let made = match mapped {
            Err(e) if cannot.contains(&refused(&e)) => {
                own_uid = Err(refused(&e));
                mounts(&package, &data, None)
            }
            made => made,
        };
        trees.extend(made.map_err(Step::Mounts.failed())?);
        trees.push(lock);
        kind = Kind::Trees { own_uid: own_uid.is_ok() };
    }
    // The grain runs under the caller's uid then, which must not be root's.
    if let (Err(errno), 0) = (own_uid, caller.uid) {
        return Err(Failed { step: Step::IdMap, errno });
    }
    let outside = own_uid.map_or((caller.uid, caller.gid), |uid| (uid, uid));
    write_maps(init, IdMap { inside: (INSIDE_ID, INSIDE_ID), outside }, true)
        .map_err(Step::Maps.failed())?;
    let build = Build { kind, limited: groups.limited };
    let all: Vec<_> = trees.iter().chain(&groups.entrances).map(AsFd::as_fd).collect();
    orders.send_build(build, &all).map_err(Step::Release.failed())?;
    Ok(Built { groups, own_uid, quota })
}

/// What was asked for, if each of it is below its ceiling.
fn share(bytes: &[u8]) -> Option<Share> {
    let (words, []) = bytes.as_chunks() else { return None };
    let [memory, pids, cpu, weight] = words else { return None };
    Some(Share {
        memory: below(memory, "memory")?,
        pids: below(pids, "pids")?,
        cpu: below(cpu, "cpu")?,
        weight: below(weight, "weight")?,
    })
}

/// A number, unless it is 0 or above the ceiling of that name.
pub fn below(word: &[u8; 8], name: &str) -> Option<u64> {
    let value = u64::from_le_bytes(*word);
    grain_limits::find(name).filter(|l| (1..=l.ceiling).contains(&value)).map(|_| value)
}

/// Package and data as detached mounts; with `userns` both get its id map.
fn mounts(
    package: &OwnedFd,
    data: &OwnedFd,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<[OwnedFd; 2]> {
    let package = mount::copy(package, layers::package_flags(), userns)?;
    Ok([package, mount::copy(data, layers::data_flags(), userns)?])
}

/// A user namespace that exists only as the id map of a mount: files of `map.inside` on disk
/// appear as `map.outside`.
fn id_map_namespace(one_thread: &SingleThread, map: IdMap) -> io::Result<OwnedFd> {
    let (hold, held) = fd::pipe()?;
    match process::clone(one_thread, libc::CLONE_NEWUSER, None)? {
        Forked::Child => {
            // Until the parent closes its end, or dies.
            drop(held);
            let _ = fd::read(&hold, &mut [0]);
            process::exit_now(0)
        }
        Forked::Parent(child) => {
            let made = write_maps(&child, map, true).and_then(|()| {
                // Nobody else has its number before it is waited for.
                let path = CString::new(format!("/proc/{}/ns/user", child.pid))?;
                fd::open(&path, OFlags::RDONLY)
            });
            drop(held);
            process::wait_for(child.pid).and(made)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(words: [u64; 4]) -> Option<Share> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        share(&bytes)
    }

    #[test]
    fn nothing_above_a_ceiling_is_granted() {
        let of = |name| grain_limits::find(name).unwrap().ceiling;
        let most = [of("memory"), of("pids"), of("cpu"), of("weight")];
        assert!(asked(most).is_some());
        for n in 0..4 {
            let mut more = most;
            more[n] += 1;
            assert_eq!(asked(more), None, "word {n}");
            more[n] = 0;
            assert_eq!(asked(more), None, "word {n}");
        }
        assert_eq!(share(&[1; 31]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = share(&bytes);
        }
    }
}
