//! Reads a directory as it is: 2014's `spk pack DIR`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::disk::{Forbidden, Seen, list, look, stat_long};
use super::{Kind, Node, Tree};
use crate::error::{Error, Result, SourceFault, display_path};
use crate::format::archive::check_name;
use crate::format::limits::MAX_DEPTH;

/// Reads the tree below `root`. A link as `root` itself is followed, none below it is.
///
/// # Errors
/// Something that cannot be read or that no package can hold, by its path.
pub fn scan(root: &Path, forbidden: &Forbidden) -> Result<Tree> {
    let stat = stat_long(root, true).map_err(Error::sys(display_path(root)))?;
    if stat.st_mode & nix::libc::S_IFMT != nix::libc::S_IFDIR {
        return Err(Error::refused(root, "neither a directory nor a .tar file"));
    }
    let mut tree = Tree::default();
    tree.root = children(root, b"", 1, &Options { forbidden, hidden: &[] }, &mut tree.warnings)?;
    tree.sort();
    Ok(tree)
}

/// What a walk over a directory leaves out.
pub struct Options<'a> {
    pub forbidden: &'a Forbidden,
    /// Paths below the start that are not looked at, with all they hold.
    pub hidden: &'a [Vec<u8>],
}

/// The entries of a directory and all that is below. `shown` is its path in the package, `depth`
/// the level of the entries.
///
/// # Errors
/// See [`scan`].
pub fn children(
    path: &Path,
    shown: &[u8],
    depth: usize,
    options: &Options<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Node>> {
    descend(path, shown, b"", depth, options, warnings)
}

fn descend(
    path: &Path,
    shown: &[u8],
    relative: &[u8],
    depth: usize,
    options: &Options<'_>,
    warnings: &mut Vec<String>,
) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    // Only the root may be a link.
    for name in list(path, relative.is_empty())? {
        let relative = join(relative, &name);
        if options.hidden.contains(&relative) {
            continue;
        }
        let shown = join(shown, &name);
        check_name(&name).map_err(|fault| Error::source(&shown, fault))?;
        if depth > MAX_DEPTH {
            return Err(Error::source(&shown, SourceFault::TooDeep));
        }
        let inner = path.join(OsStr::from_bytes(&name));
        match look(&inner, &name, &shown, options.forbidden, warnings)? {
            Seen::Node(node) => nodes.push(node),
            Seen::Skipped => {}
            Seen::Directory { mtime_ns } => {
                let below = descend(&inner, &shown, &relative, depth + 1, options, warnings)?;
                nodes.push(Node { name: name.into(), mtime_ns, kind: Kind::Directory(below) });
            }
        }
    }
    Ok(nodes)
}

/// `parent/name`, or `name` when there is no parent.
pub fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}
