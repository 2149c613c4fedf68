//! A read-only mapping of a file that nobody else can reach.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use super::scratch::Scratch;
use crate::error::{Error, Result};

/// The bytes of a scratch file, mapped.
pub struct Map {
    file: Scratch,
    /// `None` for an empty file, which cannot be mapped.
    start: Option<NonNull<u8>>,
    len: usize,
}

impl Map {
    /// Maps the whole file, whose length the caller knows to be `len`.
    ///
    /// # Errors
    /// No address space; a file that is shorter.
    pub fn new(file: Scratch, len: u64) -> Result<Map> {
        let on_disk = file.as_file().metadata().map_err(Error::io("temporary file"))?.len();
        if on_disk < len {
            let source = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::Io { what: "temporary file".into(), source });
        }
        let len = len as usize;
        let start = match NonZeroUsize::new(len) {
            None => None,
            Some(len) => {
                // SAFETY: a new mapping at an address of the kernel's choice. The file has at
                // least `len` bytes and has no name, so nobody else can write or shorten it, and
                // `Scratch` inside `self` hands out no way to do so either.
                let mapped = unsafe {
                    mmap(
                        None,
                        len,
                        ProtFlags::PROT_READ,
                        MapFlags::MAP_SHARED,
                        file.as_file().as_fd(),
                        0,
                    )
                };
                Some(mapped.map_err(Error::sys("cannot map the temporary file"))?.cast::<u8>())
            }
        };
        Ok(Map { file, start, len })
    }

    /// The file's bytes. The address is a multiple of the page size.
    pub fn bytes(&self) -> &[u8] {
        match self.start {
            None => &[],
            // SAFETY: `start` and `len` describe the live mapping made in `new`, which nothing
            // writes to (see there) and which lives as long as `self`.
            Some(start) => unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) },
        }
    }

    /// The file, and where `part` of [`Map::bytes`] begins in it.
    ///
    /// # Panics
    /// When `part` is not a part of this mapping.
    pub fn locate(&self, part: &[u8]) -> (&std::fs::File, u64) {
        let offset = (part.as_ptr() as usize).wrapping_sub(self.bytes().as_ptr() as usize);
        assert!(offset <= self.len && part.len() <= self.len - offset, "not in the mapping");
        (self.file.as_file(), offset as u64)
    }

    /// Lets the kernel take the pages back that were read so far: they count as our memory. What
    /// is read again is mapped again, with the same bytes.
    pub fn release_pages(&self) {
        if let Some(start) = self.start {
            // SAFETY: the range is our own mapping; for a shared file mapping "don't need" only
            // drops page table entries, the bytes stay what they are.
            let _ = unsafe { madvise(start.cast(), self.len, MmapAdvise::MADV_DONTNEED) };
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if let Some(start) = self.start {
            // SAFETY: the mapping was made in `new` with this length, and every borrow of it has
            // ended, for `drop` has the only reference.
            let _ = unsafe { munmap(start.cast(), self.len) };
        }
    }
}
