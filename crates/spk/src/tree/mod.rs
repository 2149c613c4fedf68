//! What is going to be packed: a tree of names, with where each file's bytes come from. Built by
//! one of three readers (a directory, a `.tar` file, a package definition), written by
//! [`crate::format::layout`].

pub mod dir;
pub mod disk;
pub mod source_map;
pub mod tar;

use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result, display_bytes};
use crate::format::archive::check_name;
use disk::DiskFile;
use tar::TarFile;

/// A tree and what its nodes refer to.
#[derive(Debug, Default)]
pub struct Tree {
    pub root: Vec<Node>,
    /// The file that [`Source::Tar`] reads from.
    pub tar: Option<TarFile>,
    /// What the author should know, one line each.
    pub warnings: Vec<String>,
}

/// One entry. Names are bytes: the format has no charset.
#[derive(Debug)]
pub struct Node {
    pub name: Box<[u8]>,
    pub mtime_ns: i64,
    pub kind: Kind,
}

/// What an entry is.
#[derive(Debug)]
pub enum Kind {
    File { executable: bool, size: u64, source: Source },
    Symlink(Box<[u8]>),
    Directory(Vec<Node>),
}

/// Where a file's bytes come from.
#[derive(Debug)]
pub enum Source {
    /// Made by us.
    Bytes(Box<[u8]>),
    Disk(Box<DiskFile>),
    /// At this offset of [`Tree::tar`].
    Tar(u64),
}

impl Node {
    /// A directory that is on nobody's disk. Its time is 1970 so that packing the same tree again
    /// gives the same bytes.
    pub fn virtual_dir(name: &[u8], children: Vec<Node>) -> Node {
        Node { name: name.into(), mtime_ns: 0, kind: Kind::Directory(children) }
    }

    /// A file made by us.
    pub fn generated(name: &[u8], bytes: Vec<u8>) -> Node {
        let size = bytes.len() as u64;
        let source = Source::Bytes(bytes.into());
        Node {
            name: name.into(),
            mtime_ns: 0,
            kind: Kind::File { executable: false, size, source },
        }
    }
}

impl Tree {
    /// Sorts every directory by the bytes of its names: the order of the archive.
    pub fn sort(&mut self) {
        fn sort(nodes: &mut [Node]) {
            nodes.sort_by(|a, b| a.name.cmp(&b.name));
            for node in nodes {
                if let Kind::Directory(children) = &mut node.kind {
                    sort(children);
                }
            }
        }
        sort(&mut self.root);
    }

    /// The whole content of a file; for small ones.
    ///
    /// # Errors
    /// It cannot be read or has changed.
    pub fn read(&self, node: &Node) -> Result<Vec<u8>> {
        let Kind::File { size, source, .. } = &node.kind else { return Ok(Vec::new()) };
        let failed = |e| Error::io(display_bytes(&node.name))(e);
        let mut bytes = vec![0; *size as usize];
        match (source, &self.tar) {
            (Source::Bytes(content), _) => return Ok(content.to_vec()),
            (Source::Disk(file), _) => file.open()?.read_exact(&mut bytes).map_err(failed)?,
            (Source::Tar(at), Some(tar)) => {
                tar.file.read_exact_at(&mut bytes, *at).map_err(failed)?;
            }
            (Source::Tar(_), None) => {}
        }
        Ok(bytes)
    }

    /// The entry of this name in the root.
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.root.iter().find(|node| *node.name == *name.as_bytes())
    }
}

/// Splits a path inside a package into its components. Leading `./` and trailing slashes are
/// gone, `..` and empty paths are refused.
///
/// # Errors
/// A component that no package may have.
pub fn components(path: &[u8]) -> Result<Vec<&[u8]>> {
    let parts: Vec<&[u8]> =
        path.split(|b| *b == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    for part in &parts {
        check_name(part).map_err(|fault| Error::source(path, fault))?;
    }
    Ok(parts)
}
