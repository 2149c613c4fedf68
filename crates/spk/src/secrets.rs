//! Private keys must not get into a package: under whatever name, in the middle of whatever file.

use std::collections::HashSet;
use std::io::Write;

use crate::error::{Error, Result, SourceFault};
use crate::keyring::{Key, PRIVATE_BYTES};
use crate::tree::{Kind, Node, Tree, dir};

/// What is looked for.
pub struct Secrets {
    keys: HashSet<[u8; PRIVATE_BYTES]>,
    /// By the first two bytes of a key: so that nearly every place is passed by at once.
    starts: Vec<bool>,
}

impl Secrets {
    /// The private halves of these keys.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Secrets {
        let keys: HashSet<_> = keys.into_iter().map(Key::private_bytes).collect();
        let mut starts = vec![false; 1 << 16];
        keys.iter().for_each(|key| starts[start(key)] = true);
        Secrets { keys, starts }
    }

    fn are_in(&self, bytes: &[u8]) -> bool {
        bytes
            .windows(PRIVATE_BYTES)
            .any(|window| self.starts[start(window)] && self.keys.contains(window))
    }

    /// The error for a tree that was found to hold one, by the first file that does.
    ///
    /// # Errors
    /// Always: [`SourceFault::SigningKey`], or a file that cannot be read any more.
    pub fn refuse(&self, tree: &Tree) -> Result<()> {
        fn search(secrets: &Secrets, tree: &Tree, nodes: &[Node], path: &[u8]) -> Result<()> {
            for node in nodes {
                let path = dir::join(path, &node.name);
                match &node.kind {
                    Kind::Directory(children) => search(secrets, tree, children, &path)?,
                    Kind::File { .. } if secrets.are_in(&tree.read(node)?) => {
                        return Err(Error::source(&path, SourceFault::SigningKey));
                    }
                    Kind::File { .. } | Kind::Symlink(_) => {}
                }
            }
            Ok(())
        }
        search(self, tree, &tree.root, b"")?;
        // Not in one file's bytes.
        Err(Error::source(b"the tree", SourceFault::SigningKey))
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([bytes[0], bytes[1]]))
}

/// Looks through all that is written to it, and keeps nothing of it.
pub struct Search<'a> {
    secrets: &'a Secrets,
    /// The end of what was written: a key may go on in what comes next.
    end: Vec<u8>,
    found: bool,
}

impl<'a> Search<'a> {
    /// Nothing was written yet.
    pub fn new(secrets: &'a Secrets) -> Self {
        Search { secrets, end: Vec::new(), found: false }
    }

    /// Was there a key?
    pub fn found(&self) -> bool {
        self.found
    }
}

impl Write for Search<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        const OVERLAP: usize = PRIVATE_BYTES - 1;
        self.end.extend_from_slice(&bytes[..bytes.len().min(OVERLAP)]);
        self.found |= self.secrets.are_in(&self.end);
        if bytes.len() > OVERLAP {
            self.found |= self.secrets.are_in(bytes);
            self.end.clear();
            self.end.extend_from_slice(&bytes[bytes.len() - OVERLAP..]);
        } else {
            self.end.drain(..self.end.len().saturating_sub(OVERLAP));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_however_they_are_cut() {
        let keys = [Key::from_seed(&[1; 32]), Key::from_seed(&[2; 32])];
        let secrets = Secrets::of(&keys);
        let found = |bytes: &[u8], piece: usize| {
            let mut search = Search::new(&secrets);
            bytes.chunks(piece).for_each(|piece| search.write_all(piece).unwrap());
            search.found()
        };
        for key in &keys {
            for before in [0, 1, 63, 64, 65, 1000] {
                let bytes = [&vec![1; before][..], &key.private_bytes(), &[2; 100]].concat();
                for piece in [1, 7, 8, 62, 63, 64, 65, 128, 129, 5000] {
                    assert!(found(&bytes, piece), "{before} {piece}");
                    let mut other = bytes.clone();
                    other[before + 33] ^= 1;
                    assert!(!found(&other, piece), "{before} {piece}");
                }
            }
        }
    }
}
