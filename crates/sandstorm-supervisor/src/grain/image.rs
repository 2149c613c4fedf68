//! A grain's data in an image file (`privileged::image` makes and mounts it), as the side without rights
//! sees it: whether there is one, how full it is, and words for what was refused.
//!
//! Trust: the caller may put anything under the name, which the helper judges; what is there, whatever
//! it is, means that the grain's data is in an image, and that it must not start without.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, OFlags};
use rustix::io::Errno;

use super::storage::Usage;
use crate::args::Args;
use crate::error::Error;
use crate::helper::{Failed, Step};
use crate::home::GrainDirs;
use crate::privileged::image::MAKERS;
use crate::sys::fd;

const NAME: &CStr = c"image";
/// Inodes of an empty ext4: its own ten, and the top directory, which the app did not make.
const OWN_INODES: u64 = 11;

/// Whether the grain has an image (`Some(false)`) or gets one now (`Some(true)`): where it is asked for
/// and the grain has no data yet. A start that was killed before it had made the image leaves such a grain.
///
/// # Errors
/// `Storage` when it cannot be told.
pub fn find(dirs: &GrainDirs, args: &Args) -> Result<Option<bool>, Error> {
    match rustix::fs::statat(&dirs.grain, NAME, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(Some(false)),
        Err(Errno::NOENT) => Ok((args.image && is_empty(dirs.sandbox.as_fd())).then_some(true)),
        Err(e) => Err(Error::Storage {
            action: "look for an image in",
            path: dirs.home_path.join("grains").join(&*dirs.grain_name.to_string_lossy()),
            source: e.into(),
        }),
    }
}

/// One that cannot be opened has been used.
fn is_empty(dir: BorrowedFd<'_>) -> bool {
    let names = fd::open_in(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY).and_then(|dir| {
        let names = nix::dir::Dir::from_fd(dir)?.into_iter();
        Ok(names.filter(|name| !matches!(name, Ok(n) if [c".", c".."].contains(&n.file_name()))))
    });
    names.is_ok_and(|mut names| names.next().is_none())
}

/// A mounted image.
#[derive(Debug)]
pub struct Image {
    top: OwnedFd,
    /// The grain's directory, where the file is.
    dir: OwnedFd,
}

impl Image {
    /// `mounted`: the image's mount.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn new(mounted: &OwnedFd, dir: OwnedFd) -> io::Result<Image> {
        let top = fd::open_in(mounted, c".", OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(Image { top, dir })
    }

    /// The directory that is the app's `/var`.
    pub fn top(&self) -> &OwnedFd {
        &self.top
    }

    /// What is used of it, with what is not written out yet.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn usage(&self) -> io::Result<Usage> {
        let all = rustix::fs::fstatvfs(&self.top)?;
        Ok(Usage {
            bytes: all.f_blocks.saturating_sub(all.f_bfree).saturating_mul(all.f_frsize),
            inodes: all.f_files.saturating_sub(all.f_ffree).saturating_sub(OWN_INODES),
        })
    }

    /// What can be used of it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn capacity(&self) -> io::Result<Usage> {
        let all = rustix::fs::fstatvfs(&self.top)?;
        // Kept back by the file system for itself.
        let reserve = all.f_bfree.saturating_sub(all.f_bavail);
        Ok(Usage {
            bytes: all.f_blocks.saturating_sub(reserve).saturating_mul(all.f_frsize),
            inodes: all.f_files.saturating_sub(OWN_INODES),
        })
    }

    /// Bytes that the file will yet take of the host's disk, at least: used in the image, and not written
    /// to the file. Lost, should there be no room then.
    pub fn unwritten(&self) -> u64 {
        let allocated = rustix::fs::statat(&self.dir, NAME, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(u64::MAX, |file| u64::try_from(file.st_blocks).unwrap_or(0) * 512);
        self.usage().map_or(0, |used| used.bytes.saturating_sub(allocated))
    }
}

/// What the log should say of an image's size.
pub fn note(capacity: Usage, disk: u64) -> String {
    let mib = capacity.bytes >> 20;
    let size =
        format!("the grain's data is in an image file of {mib} MiB and {} files", capacity.inodes);
    if capacity.bytes < disk - disk / 50 {
        return format!(
            "{size}: less than the limit of {} MiB, and it cannot be made larger here (more than 8 TiB, \
             hardly room on the disk, an image with errors, or root lacks CAP_SYS_RESOURCE)",
            disk >> 20
        );
    }
    if capacity.bytes / 2 > disk {
        return format!(
            "{size}: more than the limit of {} MiB, since an image never shrinks",
            disk >> 20
        );
    }
    size
}

/// Whether this machine has what an image takes, in a line; that a start succeeds only a start shows.
pub fn prospect() -> String {
    let there = |path| fd::open(path, OFlags::PATH).is_ok();
    let found = match (MAKERS.into_iter().any(there), there(c"/dev/loop-control")) {
        (false, _) => "mke2fs is missing (e2fsprogs)",
        (_, false) => "there are no loop devices (module loop)",
        _ => "can be made for grains",
    };
    format!("image files: {found}")
}

/// Nobody here may mount anything.
pub fn without_root(new: bool) -> Error {
    Error::Grain(if new {
        "--image needs the supervisor setuid root (mode 4750 root:GROUP; `make install`), since only root \
         mounts an image: install it so, or leave --image out (GRAIN_IMAGE, or grain_image in sandstorm.toml)"
            .into()
    } else {
        "the grain's data is in an image file (grains/GRAIN/image), which only root mounts: install the \
         supervisor setuid root (mode 4750 root:GROUP; `make install`)"
            .into()
    })
}

/// What the helper could not do for a grain with an image; nothing where it is no affair of the image's.
pub fn refused(failed: Failed) -> Option<Error> {
    let errno = failed.errno;
    let home =
        "\nimages can be on ext4, XFS, Btrfs, F2FS or tmpfs, and the home is on something else";
    let (step, advice) = match failed.step {
        Step::ImageMake => (
            "make an image file for the grain (--image)",
            match errno {
                libc::ENOENT => {
                    "\nneither /usr/sbin/mke2fs nor /sbin/mke2fs is there: install e2fsprogs"
                }
                libc::EOPNOTSUPP | libc::EOVERFLOW => home,
                libc::ENOSPC => "\nthe disk of the home has less than 64 MiB left",
                libc::EIO => {
                    "\nmke2fs failed: the limits disk and inodes may be too small or too large, or the disk is full"
                }
                _ => "",
            },
        ),
        Step::IdMap => (
            "give the grain a uid of its own, without which it cannot have its image file",
            "\nthe home's file system cannot be id-mapped, or this is a namespace without the grains' uids: \
             put the home on ext4, XFS or Btrfs",
        ),
        Step::ImageDevice => (
            "get a loop device for the grain's image file",
            "\nload the kernel's module `loop`; a container has to be given /dev/loop-control and loop devices",
        ),
        Step::ImageMount => (
            "mount the grain's image file",
            "\nthe kernel's log (dmesg) says why; with the grain stopped, `e2fsck -f` on grains/GRAIN/image \
             checks the file",
        ),
        Step::ImageFile => (
            "use the grain's image file",
            match errno {
                libc::EWOULDBLOCK => {
                    "\nit is mounted already: by the grain's last run, which has not ended, or by another \
                     grain whose image it was"
                }
                libc::EOPNOTSUPP => home,
                libc::EPERM | libc::ELOOP | libc::ENXIO | libc::EISDIR => {
                    "\ngrains/GRAIN/image is not one that this program made: a file of root's with mode 0600, \
                     one link, and the attribute trusted.sandstorm.image. No other is mounted: a file system \
                     that somebody has written can take over the kernel. A copy needs the attribute too: \
                     see docs/security.md"
                }
                _ => "",
            },
        ),
        _ => return None,
    };
    let source = io::Error::from_raw_os_error(errno);
    Some(Error::Kernel { step, source, advice: advice.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_not_empty() {
        let dir = tempfile::tempdir().unwrap();
        let opened = std::fs::File::open(dir.path()).unwrap();
        assert!(is_empty(opened.as_fd()));
        std::fs::write(dir.path().join(".hidden"), "").unwrap();
        assert!(!is_empty(opened.as_fd()));
    }

    #[test]
    fn a_size_that_is_not_the_limit_is_told() {
        let of = |bytes| note(Usage { bytes, inodes: 1 }, 100 << 20);
        assert!(of(50 << 20).contains("less than the limit of 100 MiB"));
        assert!(of(250 << 20).contains("more than the limit of 100 MiB"));
        assert!(!of(101 << 20).contains("limit"));
    }

    #[test]
    fn every_refusal_has_words() {
        for step in
            [Step::IdMap, Step::ImageFile, Step::ImageMake, Step::ImageDevice, Step::ImageMount]
        {
            for errno in [libc::EPERM, libc::EAGAIN, libc::EOPNOTSUPP, libc::ENOENT] {
                assert!(
                    refused(Failed { step, errno }).unwrap().to_string().contains("image file")
                );
            }
        }
    }
}
