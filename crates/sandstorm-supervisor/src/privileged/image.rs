//! A grain's data in a file system of its own: an ext4 in one file, `grains/GRAIN/image`.
//!
//! The kernel parses what is mounted here with all its rights, so it mounts nothing that anybody but it
//! and `mke2fs` (in a process without rights) has written. The file is root's alone (0600, one link) and
//! marked by an attribute that only root can set; the caller, who owns the directory, can move it and
//! remove it. It must lie on a file system of the kernel's own: a FUSE server could tell us any
//! owner and mark. Its lock belongs to the open file that the loop device keeps, so one file is never
//! mounted twice; device, mounts and lock end with the last process that has one of the mounts.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::sys::signal::Signal;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Uid, XattrFlags};
use rustix::io::Errno;

use super::become_for_good;
use super::helper::Errand;
use crate::helper::{Failed, Step};
use crate::layers;
use crate::sys::loop_device::{self, BLOCK};
use crate::sys::process::{self, Ended, Forked, SingleThread};
use crate::sys::{fd, mount, signal};

const NAME: &CStr = c"image";
const MARK: &CStr = c"trusted.sandstorm.image";
/// The types of statfs(2) of ext4, XFS, Btrfs, tmpfs, F2FS.
const TRUSTED: [u64; 5] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0xf2f5_2010];
/// What makes a file system, by fixed paths.
pub const MAKERS: [&CStr; 2] = [c"/usr/sbin/mke2fs", c"/sbin/mke2fs"];
/// What every kernel since 4.4 can mount and grow.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
                        sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";
/// Bytes for files in the smallest image, which mke2fs can still make, and in the largest: a file of
/// ext4 ends at 16 TiB.
const SIZES: std::ops::RangeInclusive<u64> = 8 << 20..=8 << 40;
/// The file's last bytes are no part of the file system: some programs look there, too, for what a
/// device is, and would take an app's bytes for an answer.
const TAIL: u64 = 1 << 20;
/// What a new or growing image leaves on the host's disk, which root could fill to its last block.
const LEFT: u64 = 64 << 20;
/// How long the mounts of the grain's last run may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What becomes the app's `/var`.
#[derive(Debug)]
pub struct Image {
    /// Kept until the mounts hold it.
    _device: OwnedFd,
    path: CString,
    /// Mounted as the caller's ids see it, for the side without rights.
    pub plain: OwnedFd,
}

impl Image {
    /// Makes or opens the image in this directory, for so many bytes and inodes, and mounts it.
    ///
    /// # Errors
    /// Steps of an image.
    pub fn find(
        one_thread: &SingleThread,
        dir: BorrowedFd<'_>,
        new: bool,
        (disk, inodes): (u64, u64),
        errand: &Errand,
    ) -> Result<Image, Failed> {
        let disk = disk.clamp(*SIZES.start(), *SIZES.end());
        let file = if new {
            make(one_thread, dir, [disk, inodes], errand).map_err(Step::ImageMake.failed())?
        } else {
            open(dir).map_err(Step::ImageFile.failed())?
        };
        let (device, path) =
            loop_device::attach(file.as_fd()).map_err(Step::ImageDevice.failed())?;
        let plain = mount_from(&path).map_err(Step::ImageMount.failed())?;
        if new {
            publish(&file, &plain, dir).map_err(Step::ImageMake.failed())?;
        } else {
            // Whoever looks at its size finds what could not be had.
            let _ = grow(&file, &device, &plain, disk);
        }
        Ok(Image { _device: device, path, plain })
    }

    /// Detached, with the id map of `userns`.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn mount(&self, userns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        // Not a copy of the other mount: before Linux 6.15 a detached one has none.
        let mounted = mount_from(&self.path)?;
        mount::set_attributes(&mounted, layers::data_flags(), Some(userns)).map(|()| mounted)
    }
}

fn mount_from(device: &CStr) -> io::Result<OwnedFd> {
    // What is freed goes back to the host's file system.
    let options = [(c"discard", c""), (c"errors", c"remount-ro")];
    mount::of_device(c"ext4", device, &options, layers::data_flags())
}

/// A file without a name yet, with an empty ext4 in it for so many bytes and inodes.
fn make(
    one_thread: &SingleThread,
    dir: BorrowedFd<'_>,
    [disk, inodes]: [u64; 2],
    errand: &Errand,
) -> io::Result<OwnedFd> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(dir, c".", flags, Mode::from_raw_mode(0o600), fd::BENEATH)?;
    // A file with anything in it has a block.
    let inodes = inodes.min(disk / BLOCK);
    let (size, journal) = (size(disk, inodes), format!("size={}", journal(disk)));
    trusted(&file, LEFT)?;
    rustix::fs::ftruncate(&file, size + TAIL)?;
    let (owner, nobody) = (errand.caller, errand.uid);
    // Room for the descriptors of 64 times the size.
    let most = (size / BLOCK * 64).min(u32::MAX.into());
    let extended =
        format!("root_owner={}:{},lazy_journal_init=1,resize={most}", owner.uid, owner.gid);
    // Eleven are the file system's own.
    let (inodes, blocks) = ((inodes + 11).to_string(), (size / BLOCK).to_string());
    #[rustfmt::skip]
    let words = ["mke2fs", "-qF", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "0", "-O", FEATURES,
        "-N", &inodes, "-J", &journal, "-E", &extended, "/proc/self/fd/3", &blocks];
    let words = words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>()?;
    let there = |program: &&&CStr| fd::open(program, OFlags::PATH).is_ok();
    let maker = MAKERS.iter().find(there).ok_or(Errno::NOENT)?;
    rustix::fs::fchown(&file, Some(Uid::from_raw(nobody)), Some(Gid::from_raw(nobody)))?;
    match process::clone(one_thread, 0, None)? {
        Forked::Child => {
            let _ = without_rights(&file, nobody).map(|()| process::exec(maker, &words, &[]));
            process::exit_now(1)
        }
        Forked::Parent(child) if process::wait_for(child.pid)? == Ended::Status(0) => {}
        Forked::Parent(_) => return Err(Errno::IO.into()),
    }
    rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
    fd::lock_within(&file, PATIENCE).map(|()| file)
}

/// Leaves nothing to this process but the file, as descriptor 3 and by its owner.
fn without_rights(file: &OwnedFd, id: u32) -> io::Result<()> {
    let file = fd::dup_above(file, 4)?;
    fd::close_all_but(&[file.as_fd()])?;
    fd::dup_onto(&file, 3)?;
    become_for_good(id, id).map_err(|(_, refused)| refused)?;
    // Whoever holds the lock of its uid waits for it.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    signal::unblock_all()
}

/// What the file needs so that files get about what is asked for: besides the tables of inodes, the
/// journal and the reserve, a thousandth for bitmaps, group descriptors and their copies, and what a last
/// group may lose.
fn size(disk: u64, inodes: u64) -> u64 {
    let parts = disk + inodes * 256 + (journal(disk) << 20) + reserve(disk);
    (parts + parts / 1000 + (1 << 20)).next_multiple_of(BLOCK)
}

/// What ext4 keeps back for itself: 2 %, 16 MiB at most (`ext4_calculate_resv_clusters`).
fn reserve(disk: u64) -> u64 {
    (disk / 50).min(16 << 20)
}

/// MiB, all of which the host's disk holds sooner or later.
fn journal(disk: u64) -> u64 {
    if disk < 64 << 20 { 4 } else { 16 }
}

/// The mounted file gets its name once everything in it is on the disk.
fn publish(file: &OwnedFd, mounted: &OwnedFd, dir: BorrowedFd<'_>) -> io::Result<()> {
    rustix::fs::unlinkat(mounted, c"lost+found", AtFlags::REMOVEDIR)?;
    rustix::fs::chmodat(mounted, c".", Mode::RWXU, AtFlags::empty())?;
    rustix::fs::syncfs(fd::open_in(mounted, c".", OFlags::RDONLY)?)?;
    rustix::fs::fsetxattr(file, MARK, b"1", XattrFlags::CREATE)?;
    rustix::fs::fsync(file)?;
    // By its descriptor alone only with CAP_DAC_READ_SEARCH before Linux 6.10.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(rustix::fs::CWD, path, dir, NAME, AtFlags::SYMLINK_FOLLOW)?;
    Ok(rustix::fs::fsync(dir)?)
}

/// An image that is there, if this program made it.
fn open(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let file = fd::open_in(dir, NAME, OFlags::RDWR | OFlags::NONBLOCK)?;
    let stat = rustix::fs::fstat(&file)?;
    let ours = (stat.st_uid, stat.st_mode) == (0, libc::S_IFREG | 0o600) && stat.st_nlink == 1;
    if !ours || rustix::fs::fgetxattr(&file, MARK, &mut [0; 1]).is_err() {
        return Err(Errno::PERM.into());
    }
    trusted(&file, 0)?;
    fd::lock_within(&file, PATIENCE).map(|()| file)
}

/// Whether it lies on a file system of the kernel's own, with so many bytes left on it.
fn trusted(file: &OwnedFd, left: u64) -> io::Result<()> {
    let host = rustix::fs::fstatfs(file)?;
    // Its type differs between machines.
    #[allow(clippy::unnecessary_cast)]
    let known = TRUSTED.contains(&(host.f_type as u64));
    let room = host.f_bavail.saturating_mul(host.f_bsize as u64) >= left;
    known.then_some(()).ok_or(Errno::OPNOTSUPP)?;
    Ok(room.then_some(()).ok_or(Errno::NOSPC)?)
}

/// Lets the file system have so many bytes for files, if it has fewer; its other parts but the journal
/// grow in proportion.
fn grow(file: &OwnedFd, device: &OwnedFd, mounted: &OwnedFd, disk: u64) -> io::Result<()> {
    let now = rustix::fs::fstatvfs(mounted)?;
    let capacity = (now.f_blocks * now.f_frsize).max(1);
    let wanted = disk + reserve(disk);
    if capacity >= wanted {
        return Ok(());
    }
    trusted(file, LEFT)?;
    let old = rustix::fs::fstat(file)?.st_size as u64;
    let new = grown(old, capacity, wanted);
    let top = fd::open_in(mounted, c".", OFlags::RDONLY)?;
    let resize = |size| rustix::fs::ftruncate(file, size).map(|()| loop_device::take_size(device));
    resize(new)??;
    loop_device::grow_ext4(&top, new - TAIL).inspect_err(|_| {
        // Half-way it is larger than before, and must not be cut.
        if rustix::fs::fstatvfs(mounted).is_ok_and(|then| then.f_blocks == now.f_blocks) {
            let _ = resize(old);
        }
    })
}

/// Bytes of a file, `old` so far, whose file system has `capacity` and is to have `wanted`.
fn grown(old: u64, capacity: u64, wanted: u64) -> u64 {
    let apart = old.saturating_sub(TAIL + (journal(capacity) << 20));
    let more = u128::from(wanted - capacity) * u128::from(apart) / u128::from(capacity);
    (old + more as u64).next_multiple_of(BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grown_file_is_about_as_large_as_a_new_one_of_that_limit() {
        for (old, new) in [(16, 64), (24, 100), (100, 10_240), (1024, 1 << 20)] {
            let (old, new) = (old << 20, new << 20);
            let file = |disk| size(disk, disk >> 13) + TAIL - (journal(disk) << 20);
            let capacity = |disk| disk + reserve(disk);
            let had = file(old) + (journal(old) << 20);
            let gets = grown(had, capacity(old), capacity(new)) - (journal(old) << 20);
            let most = file(new) + file(new) / 20;
            assert!((file(new)..most).contains(&gets), "{old} to {new}: {gets}, {}", file(new));
        }
    }
}
