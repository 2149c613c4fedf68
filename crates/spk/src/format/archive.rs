//! Walks an archive: hostile bytes that were signed, by whomever.
//!
//! The walk checks every rule of the format before it reports an entry, never follows anything,
//! and cannot be made to do more work than the archive has bytes: the traversal limit equals the
//! archive's size, so many entries cannot share one blob.

use std::collections::TryReserveError;

use capnp::message::{Reader, ReaderOptions};
use sandstorm_schema::package_capnp::archive::{self, file};

use super::frame;
use super::limits::{ARCHIVE_NESTING, MAX_DEPTH, MAX_ENTRIES, MAX_LINK_BYTES, MAX_NAME_BYTES};
use crate::error::{Error, Result};

/// Which rule an entry breaks.
#[derive(Debug, thiserror::Error)]
pub enum EntryFault {
    #[error("an entry without a name")]
    EmptyName,
    #[error("the name `.` or `..` is not allowed")]
    DotName,
    #[error("a slash in a name")]
    SlashInName,
    #[error("a NUL byte in a name")]
    NulInName,
    #[error("a name of {0} bytes, file systems take {MAX_NAME_BYTES}")]
    NameTooLong(usize),
    #[error("there are two entries of this name")]
    Duplicate,
    #[error("a symbolic link without a target")]
    EmptyLink,
    #[error("a NUL byte in a link's target")]
    NulInLink,
    #[error("a link's target of {0} bytes, file systems take {MAX_LINK_BYTES}")]
    LinkTooLong(usize),
    #[error("of unknown kind {0}")]
    UnknownKind(u16),
    #[error("more than {MAX_DEPTH} levels deep")]
    TooDeep,
    #[error("malformed: {0}")]
    Malformed(capnp::Error),
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    File { bytes: &'a [u8], executable: bool },
    Symlink(&'a [u8]),
}

/// Receives the entries of a walk, depth first, in the archive's order.
pub trait Visitor {
    /// A file or a link. `path` is for messages, `name` its last component.
    ///
    /// # Errors
    /// Ends the walk.
    fn leaf(&mut self, path: &[u8], name: &[u8], mtime_ns: i64, content: Content<'_>)
    -> Result<()>;

    /// A directory begins. Its time is told again when it ends, which is when it can be set.
    ///
    /// # Errors
    /// Ends the walk.
    fn enter(&mut self, path: &[u8], name: &[u8], mtime_ns: i64) -> Result<()>;

    /// The directory that was entered last ends.
    ///
    /// # Errors
    /// Ends the walk.
    fn leave(&mut self, path: &[u8], mtime_ns: i64) -> Result<()>;
}

/// What a walk has seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Files, links and directories.
    pub entries: u64,
    /// Sum of the files' sizes in bytes.
    pub bytes: u64,
}

/// Walks the archive part `bytes` (aligned to 8 bytes).
///
/// # Errors
/// The first rule that is broken, with the entry's path; errors of the visitor.
pub fn walk(bytes: &[u8], visitor: &mut impl Visitor) -> Result<Totals> {
    let options = ReaderOptions {
        traversal_limit_in_words: Some(bytes.len() / 8),
        nesting_limit: ARCHIVE_NESTING,
    };
    let frame = frame::in_place(bytes).map_err(Error::ArchiveFrame)?;
    let message = Reader::new(frame, options);
    let root = message.get_root::<archive::Reader<'_>>().map_err(Error::Archive)?;
    let files = root.get_files().map_err(Error::Archive)?;
    let mut walk = Walk { visitor, path: Vec::new(), totals: Totals::default() };
    walk.directory(files, 1)?;
    Ok(walk.totals)
}

type Files<'a> = capnp::struct_list::Reader<'a, file::Owned>;

struct Walk<'v, V> {
    visitor: &'v mut V,
    path: Vec<u8>,
    totals: Totals,
}

impl<V: Visitor> Walk<'_, V> {
    /// `depth` is the level of this directory's entries; the root's are at 1.
    fn directory(&mut self, files: Files<'_>, depth: usize) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(Error::entry(&self.path, EntryFault::TooDeep));
        }
        // Before anything is reserved: the count comes from the package.
        self.totals.entries += u64::from(files.len());
        if self.totals.entries > MAX_ENTRIES {
            return Err(Error::TooManyEntries);
        }
        let parent = self.path.len();
        let mut names = Names::with_capacity(files.len() as usize).map_err(|_| Error::Io {
            what: "names".into(),
            source: std::io::ErrorKind::OutOfMemory.into(),
        })?;
        for file in files {
            let name = match file.get_name() {
                Ok(name) => name.as_bytes(),
                Err(e) => return Err(Error::entry(&self.path, EntryFault::Malformed(e))),
            };
            if parent > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&name[..name.len().min(MAX_NAME_BYTES + 1)]);
            check_name(name).map_err(|fault| Error::entry(&self.path, fault))?;
            names.push(name);
            self.entry(file, name, depth)?;
            self.path.truncate(parent);
        }
        if let Some(name) = names.duplicate() {
            if parent > 0 {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name);
            return Err(Error::entry(&self.path, EntryFault::Duplicate));
        }
        Ok(())
    }

    fn entry(&mut self, file: file::Reader<'_>, name: &[u8], depth: usize) -> Result<()> {
        let mtime = file.get_last_modification_time_ns();
        let content = match file.which() {
            Ok(file::Regular(bytes)) => {
                bytes.map(|bytes| Content::File { bytes, executable: false })
            }
            Ok(file::Executable(bytes)) => {
                bytes.map(|bytes| Content::File { bytes, executable: true })
            }
            Ok(file::Symlink(target)) => target.map(|target| Content::Symlink(target.as_bytes())),
            Ok(file::Directory(files)) => {
                let files = files.map_err(|e| self.malformed(e))?;
                self.visitor.enter(&self.path, name, mtime)?;
                self.directory(files, depth + 1)?;
                return self.visitor.leave(&self.path, mtime);
            }
            Err(capnp::NotInSchema(kind)) => {
                return Err(Error::entry(&self.path, EntryFault::UnknownKind(kind)));
            }
        };
        let content = content.map_err(|e| self.malformed(e))?;
        match content {
            Content::File { bytes, .. } => self.totals.bytes += bytes.len() as u64,
            Content::Symlink(target) => {
                check_link(target).map_err(|fault| Error::entry(&self.path, fault))?;
            }
        }
        self.visitor.leaf(&self.path, name, mtime, content)
    }

    fn malformed(&self, error: capnp::Error) -> Error {
        Error::entry(&self.path, EntryFault::Malformed(error))
    }
}

/// The rules for a name, shared with the packer.
///
/// # Errors
/// The rule that is broken.
pub fn check_name(name: &[u8]) -> std::result::Result<(), EntryFault> {
    match name {
        b"" => Err(EntryFault::EmptyName),
        b"." | b".." => Err(EntryFault::DotName),
        _ if name.contains(&b'/') => Err(EntryFault::SlashInName),
        _ if name.contains(&0) => Err(EntryFault::NulInName),
        _ if name.len() > MAX_NAME_BYTES => Err(EntryFault::NameTooLong(name.len())),
        _ => Ok(()),
    }
}

/// The rules for a link's target, shared with the packer. Where it points is nobody's business:
/// it is never followed outside of the sandbox.
///
/// # Errors
/// The rule that is broken.
pub fn check_link(target: &[u8]) -> std::result::Result<(), EntryFault> {
    if target.is_empty() {
        Err(EntryFault::EmptyLink)
    } else if target.contains(&0) {
        Err(EntryFault::NulInLink)
    } else if target.len() > MAX_LINK_BYTES {
        Err(EntryFault::LinkTooLong(target.len()))
    } else {
        Ok(())
    }
}

/// The names of one directory. Our packer sorts, others need not: only then is sorting paid for.
struct Names<'a> {
    names: Vec<&'a [u8]>,
    ascending: bool,
}

impl<'a> Names<'a> {
    fn with_capacity(count: usize) -> std::result::Result<Self, TryReserveError> {
        let mut names = Vec::new();
        names.try_reserve_exact(count)?;
        Ok(Names { names, ascending: true })
    }

    fn push(&mut self, name: &'a [u8]) {
        self.ascending &= self.names.last().is_none_or(|last| *last < name);
        self.names.push(name);
    }

    fn duplicate(mut self) -> Option<&'a [u8]> {
        if self.ascending {
            return None;
        }
        self.names.sort_unstable();
        self.names.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0])
    }
}

/// A visitor that only lets the rules be checked.
#[derive(Debug, Default)]
pub struct CheckOnly;

impl Visitor for CheckOnly {
    fn leaf(&mut self, _: &[u8], _: &[u8], _: i64, _: Content<'_>) -> Result<()> {
        Ok(())
    }

    fn enter(&mut self, _: &[u8], _: &[u8], _: i64) -> Result<()> {
        Ok(())
    }

    fn leave(&mut self, _: &[u8], _: i64) -> Result<()> {
        Ok(())
    }
}
