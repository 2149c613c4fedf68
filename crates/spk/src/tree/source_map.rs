//! Reads what a package definition names: single paths and whole directories, each looked for in
//! an ordered list of places on the author's disk.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

use super::dir::join;
use super::disk::{Forbidden, Seen, list, look, stat_long};
use super::{Kind, Node, Tree, components};
use crate::error::{Error, Result, SourceFault, display_bytes, display_path};
use crate::format::limits::MAX_DEPTH;

/// A place where files are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// Where it stands in the package: components, none for the root.
    pub package: Vec<Vec<u8>>,
    /// The directory or file on this disk.
    pub source: PathBuf,
    /// Paths below it that are not there, with all they hold.
    pub hide: Vec<Vec<u8>>,
}

impl Mapping {
    /// Where `path` would be on the disk; `None` when this mapping cannot have it.
    fn place(&self, path: &[&[u8]]) -> Option<PathBuf> {
        let rest = strip(path, &self.package)?;
        let joined = rest.join(&b'/');
        let hidden = self.hide.iter().any(|hide| {
            joined.strip_prefix(&hide[..]).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        });
        (!hidden).then(|| {
            let mut place = self.source.clone();
            place.extend(rest.iter().map(|part| OsStr::from_bytes(part)));
            place
        })
    }

    /// The next component on the way from `path` down to this mapping's root.
    fn way_down(&self, path: &[&[u8]]) -> Option<&[u8]> {
        let prefix = self.package.get(..path.len())?;
        let same = prefix.iter().zip(path).all(|(a, b)| a == b);
        (same && self.package.len() > path.len()).then(|| &self.package[path.len()][..])
    }
}

fn strip<'a, 'p>(path: &'a [&'p [u8]], prefix: &[Vec<u8>]) -> Option<&'a [&'p [u8]]> {
    let (head, rest) = path.split_at_checked(prefix.len())?;
    head.iter().zip(prefix).all(|(a, b)| a == b).then_some(rest)
}

/// A directory under construction.
#[derive(Default)]
struct Building {
    mtime_ns: i64,
    entries: BTreeMap<Vec<u8>, Built>,
}

enum Built {
    Directory(Building),
    Leaf(Node),
}

/// Puts a tree together from named paths.
pub struct Collector<'a> {
    search: &'a [Mapping],
    forbidden: &'a Forbidden,
    root: Building,
    warnings: Vec<String>,
}

/// Directories of the root that the sandbox mounts something over: always there, always empty.
const MOUNT_POINTS: [&[u8]; 3] = [b"dev", b"tmp", b"var"];

impl<'a> Collector<'a> {
    /// Starts with what every package has.
    ///
    /// # Errors
    /// None in practice.
    pub fn new(search: &'a [Mapping], forbidden: &'a Forbidden) -> Result<Collector<'a>> {
        let root = Building::default();
        let mut new = Collector { search, forbidden, root, warnings: Vec::new() };
        for name in MOUNT_POINTS {
            new.directory(&[name], 0)?;
        }
        new.put(&[b"proc", b"cpuinfo"], Node::generated(b"cpuinfo", Vec::new()))?;
        Ok(new)
    }

    /// Adds a file of our own; it wins over every mapping.
    ///
    /// # Errors
    /// Something of another kind is there already.
    pub fn generated(&mut self, node: Node) -> Result<()> {
        let name = node.name.clone();
        self.put(&[&name], node)
    }

    /// Adds one path of the file list: a file, a link, or a directory without its content.
    ///
    /// # Errors
    /// No mapping has it, or it cannot be packed.
    pub fn listed(&mut self, path: &[u8]) -> Result<()> {
        let parts = relative(path)?;
        if self.is_leaf(&parts) {
            return Ok(());
        }
        match self.find(&parts)? {
            Some(found) => self.add(&parts, found),
            None if self.exists(&parts) => Ok(()),
            None => Err(self.nothing(path)),
        }
    }

    /// Tells of sources that are not there: mostly a slip of the pen.
    ///
    /// # Errors
    /// None of them is.
    pub fn check_sources(&mut self) -> Result<()> {
        let missing: Vec<String> = self
            .search
            .iter()
            .filter(|mapping| matches!(stat_long(&mapping.source, true), Err(Errno::ENOENT)))
            .map(|mapping| display_path(&mapping.source))
            .collect();
        if !missing.is_empty() && missing.len() == self.search.len() {
            let missing = missing.join(", ");
            return Err(Error::Definition(format!(
                "sourceMap: no such file or directory: {missing}"
            )));
        }
        let warning = |path| format!("sourceMap: {path}: no such file or directory, skipped");
        self.warnings.extend(missing.into_iter().map(warning));
        Ok(())
    }

    /// Adds a path with all that is below it, in any mapping; `.` is everything.
    ///
    /// # Errors
    /// No mapping has it, or something in it cannot be packed.
    pub fn included(&mut self, path: &[u8]) -> Result<()> {
        let parts = relative(path)?;
        if parts.is_empty() {
            return self.below(&parts);
        }
        match self.find(&parts)? {
            Some(Seen::Directory { mtime_ns }) => {
                self.directory(&parts, mtime_ns)?;
                self.below(&parts)
            }
            Some(found) => self.add(&parts, found),
            None if self.exists(&parts) => Ok(()),
            None => Err(self.nothing(path)),
        }
    }

    /// The tree.
    pub fn finish(self) -> Tree {
        fn build(building: Building) -> Vec<Node> {
            let node = |(name, built): (Vec<u8>, Built)| match built {
                Built::Leaf(node) => node,
                Built::Directory(inner) => {
                    let mtime_ns = inner.mtime_ns;
                    Node { name: name.into(), mtime_ns, kind: Kind::Directory(build(inner)) }
                }
            };
            building.entries.into_iter().map(node).collect()
        }
        Tree { root: build(self.root), tar: None, warnings: self.warnings }
    }

    fn below(&mut self, path: &[&[u8]]) -> Result<()> {
        if path.len() > MAX_DEPTH {
            return Err(Error::source(&path.join(&b'/'), SourceFault::TooDeep));
        }
        for name in self.names(path)? {
            let mut inner = path.to_vec();
            inner.push(&name);
            if path.is_empty() && MOUNT_POINTS.contains(&&name[..]) {
                continue;
            }
            match self.find(&inner)? {
                Some(Seen::Directory { mtime_ns }) => {
                    self.directory(&inner, mtime_ns)?;
                    self.below(&inner)?;
                }
                // What we generate wins.
                Some(_) if self.is_leaf(&inner) => {}
                Some(found) => self.add(&inner, found)?,
                // Hidden here, or gone since it was listed.
                None => {}
            }
        }
        Ok(())
    }

    /// Names that any mapping has in a directory.
    fn names(&self, path: &[&[u8]]) -> Result<BTreeSet<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for mapping in self.search {
            names.extend(mapping.way_down(path).map(<[u8]>::to_vec));
            let Some(place) = mapping.place(path) else { continue };
            let root = strip(path, &mapping.package).is_some_and(<[_]>::is_empty);
            match stat_long(&place, root) {
                Ok(stat) if stat.st_mode & nix::libc::S_IFMT == nix::libc::S_IFDIR => {
                    names.extend(list(&place, root)?);
                }
                Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(Error::sys(display_path(&place))(errno)),
            }
        }
        Ok(names)
    }

    /// The first thing that a mapping has at this path.
    fn find(&mut self, path: &[&[u8]]) -> Result<Option<Seen>> {
        let shown = path.join(&b'/');
        let name = path.last().copied().unwrap_or_default();
        let mut on_the_way = false;
        for mapping in self.search {
            on_the_way |= mapping.way_down(path).is_some();
            let Some(place) = mapping.place(path) else { continue };
            // The root of a mapping may be a link, what is below it stays a link.
            let root = strip(path, &mapping.package).is_some_and(<[_]>::is_empty);
            let place = match root.then(|| std::fs::canonicalize(&place)) {
                Some(Ok(real)) => real,
                _ => place,
            };
            match stat_long(&place, false) {
                Ok(_) => {
                    return look(&place, name, &shown, self.forbidden, &mut self.warnings)
                        .map(Some);
                }
                Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                Err(errno) => return Err(Error::sys(display_path(&place))(errno)),
            }
        }
        Ok(on_the_way.then_some(Seen::Directory { mtime_ns: 0 }))
    }

    fn nothing(&self, path: &[u8]) -> Error {
        let places: Vec<String> = self.search.iter().map(|m| display_path(&m.source)).collect();
        Error::Definition(format!(
            "{}: not found in the source map ({})",
            display_bytes(path),
            if places.is_empty() { "which is empty".into() } else { places.join(", ") }
        ))
    }

    fn add(&mut self, path: &[&[u8]], found: Seen) -> Result<()> {
        match found {
            Seen::Skipped => Ok(()),
            Seen::Directory { mtime_ns } => self.directory(path, mtime_ns),
            Seen::Node(node) => self.put(path, node),
        }
    }

    fn directory(&mut self, path: &[&[u8]], mtime_ns: i64) -> Result<()> {
        let directory = self.reach(path, path)?;
        if mtime_ns != 0 {
            directory.mtime_ns = mtime_ns;
        }
        Ok(())
    }

    fn put(&mut self, path: &[&[u8]], node: Node) -> Result<()> {
        let Some((name, parents)) = path.split_last() else {
            return Err(Error::Definition("the package's root is not a directory".into()));
        };
        let parent = self.reach(parents, path)?;
        match parent.entries.get(*name) {
            None => {
                parent.entries.insert(name.to_vec(), Built::Leaf(node));
                Ok(())
            }
            Some(Built::Leaf(_)) => Ok(()),
            Some(Built::Directory(_)) => Err(Error::Definition(format!(
                "{}: listed both as a file or link and as a directory",
                display_bytes(&path.join(&b'/'))
            ))),
        }
    }

    /// The directory at `path`, made where it is missing, on behalf of an entry in or at it.
    fn reach(&mut self, path: &[&[u8]], wanted: &[&[u8]]) -> Result<&mut Building> {
        let mut here = &mut self.root;
        let mut shown = Vec::new();
        for part in path {
            shown = join(&shown, part);
            let entry = here
                .entries
                .entry(part.to_vec())
                .or_insert_with(|| Built::Directory(Building::default()));
            match entry {
                Built::Directory(inner) => here = inner,
                Built::Leaf(leaf) => {
                    let kind = match leaf.kind {
                        Kind::Symlink(_) => "a link; list what it leads to instead",
                        _ => "a file",
                    };
                    return Err(Error::Definition(format!(
                        "{}: cannot be packed, for {} is {kind}",
                        display_bytes(&wanted.join(&b'/')),
                        display_bytes(&shown),
                    )));
                }
            }
        }
        Ok(here)
    }

    fn exists(&self, path: &[&[u8]]) -> bool {
        path.is_empty() || self.at(path).is_some()
    }

    fn is_leaf(&self, path: &[&[u8]]) -> bool {
        matches!(self.at(path), Some(Built::Leaf(_)))
    }

    fn at(&self, path: &[&[u8]]) -> Option<&Built> {
        let (name, parents) = path.split_last()?;
        let mut here = &self.root;
        for part in parents {
            match here.entries.get(*part)? {
                Built::Directory(inner) => here = inner,
                Built::Leaf(_) => return None,
            }
        }
        here.entries.get(*name)
    }
}

/// The components of a path in the package.
fn relative(path: &[u8]) -> Result<Vec<&[u8]>> {
    if path.starts_with(b"/") {
        return Err(Error::Definition(format!(
            "{}: paths in a package are written without a leading slash",
            display_bytes(path)
        )));
    }
    components(path)
}

/// The components of a mapping's place; a leading slash is forgiven there.
///
/// # Errors
/// `..` in it.
pub fn package_path(path: &[u8]) -> Result<Vec<Vec<u8>>> {
    Ok(components(path)?.into_iter().map(<[u8]>::to_vec).collect())
}
