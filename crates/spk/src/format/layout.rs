//! Writes an archive: one Cap'n Proto message in one segment, laid out before its first byte is
//! written and streamed after that, so a tree of a gigabyte needs no memory for its contents.
//!
//! All names and directories come first, the contents of the files after them: readers find the
//! whole structure in a few pages, and it compresses better.
//!
//! It is written twice, first to be hashed and then to be compressed. That both were the same is
//! judged by the bytes themselves, for time stamps can be set.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;

use sha2::{Digest, Sha512};

use super::archive::{check_link, check_name};
use super::limits::{MAX_ARCHIVE_BYTES, MAX_DEPTH, MAX_ENTRIES, MAX_FILE_BYTES};
use crate::error::{Error, Result, SourceFault};
use crate::progress::Progress;
use crate::tree::{Kind, Node, Source, Tree};

/// Words of `Archive.File`: two of data, two pointers.
const FILE_WORDS: u64 = 4;
/// Words before the root's directory: the root pointer and `Archive` itself.
const HEAD_WORDS: u64 = 2;
/// Bytes of a segment table with one segment.
const TABLE_BYTES: u64 = 8;

/// Where everything goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Words of names, links and directories, with the head.
    structure: u64,
    /// Words of the whole segment.
    total: u64,
}

impl Layout {
    /// Lays out a tree and checks it against the format's limits.
    ///
    /// # Errors
    /// What breaks a limit, by its path.
    pub fn of(tree: &Tree) -> Result<Layout> {
        let mut sums = Sums { structure: HEAD_WORDS, contents: 0, entries: 0 };
        sums.directory(&tree.root, &mut Vec::new(), 1)?;
        Ok(Layout { structure: sums.structure, total: sums.structure + sums.contents })
    }

    /// Bytes of the archive part.
    pub fn bytes(&self) -> u64 {
        TABLE_BYTES + 8 * self.total
    }

    /// Writes the archive part of the same tree. `before` is what an earlier time wrote, if there
    /// was one; `progress` is told the bytes.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it was when it was found or `before`; those of
    /// `sink`.
    pub fn write(
        &self,
        tree: &Tree,
        sink: &mut impl Write,
        before: Option<&Written>,
        progress: &dyn Progress,
    ) -> Result<Written> {
        let mut out = Out {
            sink,
            written: 0,
            hash: Sha512::new(),
            marks: Vec::new(),
            before: before.map_or(&[], |before| &before.marks),
            progress,
        };
        out.bytes(&0u32.to_le_bytes())?;
        out.bytes(&(self.total as u32).to_le_bytes())?;
        out.structure(tree, self)?;
        out.contents(tree)?;
        debug_assert_eq!(out.written, self.bytes());
        let written = Written { digest: out.hash.finalize().into(), marks: out.marks };
        match before {
            // Cannot be: every mark was the same.
            Some(before) if before.digest != written.digest => {
                Err(Error::source(b"the tree", SourceFault::Changed))
            }
            _ => Ok(written),
        }
    }
}

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub struct Written {
    /// SHA-512 of all bytes.
    pub digest: [u8; 64],
    /// After each file, the first bytes of the hash so far: enough to name the first file that is
    /// not what it was.
    marks: Vec<u64>,
}

/// Words of a text: its bytes and the NUL.
fn text_words(text: &[u8]) -> u64 {
    (text.len() as u64 + 1).div_ceil(8)
}

/// Words of a directory's own block: the tag, the entries, their names and link targets.
fn block_words(nodes: &[Node]) -> u64 {
    let texts = nodes.iter().map(|node| {
        text_words(&node.name)
            + match &node.kind {
                Kind::Symlink(target) => text_words(target),
                _ => 0,
            }
    });
    1 + FILE_WORDS * nodes.len() as u64 + texts.sum::<u64>()
}

struct Sums {
    structure: u64,
    contents: u64,
    entries: u64,
}

impl Sums {
    fn directory(&mut self, nodes: &[Node], path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let parent = path.len();
        self.structure += 1;
        for node in nodes {
            if parent > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&node.name);
            self.entry(node, path, depth)?;
            path.truncate(parent);
        }
        Ok(())
    }

    fn entry(&mut self, node: &Node, path: &mut Vec<u8>, depth: usize) -> Result<()> {
        let refuse = |fault: SourceFault| Error::source(path, fault);
        check_name(&node.name).map_err(|fault| refuse(fault.into()))?;
        if depth > MAX_DEPTH {
            return Err(refuse(SourceFault::TooDeep));
        }
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(refuse(SourceFault::TooMany));
        }
        self.structure += FILE_WORDS + text_words(&node.name);
        match &node.kind {
            Kind::File { size, .. } => {
                if *size > MAX_FILE_BYTES {
                    return Err(refuse(SourceFault::FileTooLarge(*size)));
                }
                self.contents += size.div_ceil(8);
            }
            Kind::Symlink(target) => {
                check_link(target).map_err(|fault| refuse(fault.into()))?;
                self.structure += text_words(target);
            }
            Kind::Directory(_) => {}
        }
        let bytes = TABLE_BYTES + 8 * (self.structure + self.contents);
        if bytes > MAX_ARCHIVE_BYTES {
            return Err(refuse(SourceFault::ArchiveTooLarge(bytes)));
        }
        match &node.kind {
            Kind::Directory(children) => self.directory(children, path, depth + 1),
            _ => Ok(()),
        }
    }
}

/// Directories in the order of the archive: breadth first.
fn directories(tree: &Tree) -> impl Iterator<Item = &[Node]> {
    let mut queue = VecDeque::from([&tree.root[..]]);
    std::iter::from_fn(move || {
        let nodes = queue.pop_front()?;
        queue.extend(nodes.iter().filter_map(|node| match &node.kind {
            Kind::Directory(children) => Some(&children[..]),
            _ => None,
        }));
        Some(nodes)
    })
}

struct Out<'a, W> {
    sink: &'a mut W,
    written: u64,
    hash: Sha512,
    marks: Vec<u64>,
    /// The marks of the time before.
    before: &'a [u64],
    progress: &'a dyn Progress,
}

impl<W: Write> Out<'_, W> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_all(bytes).map_err(Error::io("cannot write the package"))?;
        self.hash.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn word(&mut self, low: u32, high: u32) -> Result<()> {
        self.bytes(&(u64::from(low) | u64::from(high) << 32).to_le_bytes())
    }

    fn pad(&mut self) -> Result<()> {
        let gap = (8 - self.written % 8) % 8;
        self.bytes(&[0; 8][..gap as usize])
    }

    /// A file is written; false when it is not what it was before.
    fn mark(&mut self) -> bool {
        let digest = self.hash.clone().finalize();
        let mut start = [0; 8];
        start.copy_from_slice(&digest[..8]);
        let mark = u64::from_le_bytes(start);
        let same = self.before.get(self.marks.len()).is_none_or(|before| *before == mark);
        self.marks.push(mark);
        same
    }

    /// The word of the segment that comes next.
    fn at(&self) -> u64 {
        (self.written - TABLE_BYTES) / 8
    }

    /// A pointer at the current word to the list at word `target`.
    fn list_pointer(&mut self, target: u64, element: u32, count: u64) -> Result<()> {
        // At most 2^27 words: every offset fits the 30 signed bits that a pointer has.
        let offset = (target - self.at() - 1) as u32;
        self.word(offset << 2 | 1, (count as u32) << 3 | element)
    }

    fn byte_list(&mut self, target: u64, count: u64) -> Result<()> {
        self.list_pointer(target, 2, count)
    }

    fn directory_list(&mut self, target: u64, nodes: &[Node]) -> Result<()> {
        self.list_pointer(target, 7, FILE_WORDS * nodes.len() as u64)
    }

    fn structure(&mut self, tree: &Tree, layout: &Layout) -> Result<()> {
        // `Archive`: no data, one pointer, right behind this one.
        self.word(0, 1 << 16)?;
        self.directory_list(HEAD_WORDS, &tree.root)?;
        let mut next_block = HEAD_WORDS + block_words(&tree.root);
        let mut next_content = layout.structure;
        for nodes in directories(tree) {
            // The tag of an inline composite list: count, then two data words and two pointers.
            self.word((nodes.len() as u32) << 2, 2 | 2 << 16)?;
            let mut next_text = self.at() + FILE_WORDS * nodes.len() as u64;
            for node in nodes {
                let tag = match &node.kind {
                    Kind::File { executable, .. } => u32::from(*executable),
                    Kind::Symlink(_) => 2,
                    Kind::Directory(_) => 3,
                };
                self.word(tag, 0)?;
                self.bytes(&node.mtime_ns.to_le_bytes())?;
                self.byte_list(next_text, node.name.len() as u64 + 1)?;
                next_text += text_words(&node.name);
                match &node.kind {
                    Kind::File { size, .. } => {
                        self.byte_list(next_content, *size)?;
                        next_content += size.div_ceil(8);
                    }
                    Kind::Symlink(target) => {
                        self.byte_list(next_text, target.len() as u64 + 1)?;
                        next_text += text_words(target);
                    }
                    Kind::Directory(children) => {
                        self.directory_list(next_block, children)?;
                        next_block += block_words(children);
                    }
                }
            }
            for node in nodes {
                self.text(&node.name)?;
                if let Kind::Symlink(target) = &node.kind {
                    self.text(target)?;
                }
            }
        }
        debug_assert_eq!((self.at(), next_block), (layout.structure, layout.structure));
        Ok(())
    }

    fn text(&mut self, text: &[u8]) -> Result<()> {
        self.bytes(text)?;
        self.bytes(&[0])?;
        self.pad()
    }

    fn contents(&mut self, tree: &Tree) -> Result<()> {
        let mut room = vec![0; 256 << 10];
        for node in directories(tree).flatten() {
            let Kind::File { size, source, .. } = &node.kind else { continue };
            match source {
                Source::Bytes(bytes) => self.bytes(bytes)?,
                Source::Disk(file) => {
                    let mut open = file.open()?;
                    let mut left = *size;
                    loop {
                        // One byte more than is left: a file that grew shows it.
                        let most = (left + 1).min(room.len() as u64) as usize;
                        let got = match open.read(&mut room[..most]) {
                            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                            other => {
                                other.map_err(Error::io(crate::error::display_path(&file.path)))?
                            }
                        };
                        if got as u64 > left || (got == 0 && left > 0) {
                            return Err(file.changed());
                        }
                        if got == 0 {
                            break;
                        }
                        left -= got as u64;
                        self.bytes(&room[..got])?;
                        self.progress.done(self.written)?;
                    }
                    file.check(&open)?;
                    if !self.mark() {
                        return Err(file.changed());
                    }
                }
                Source::Tar(start) => {
                    let Some(tar) = &tree.tar else {
                        return Err(Error::source(&node.name, SourceFault::Changed));
                    };
                    let mut done = 0;
                    while done < *size {
                        let most = (*size - done).min(room.len() as u64) as usize;
                        tar.file
                            .read_exact_at(&mut room[..most], start + done)
                            .map_err(|_| Error::source(&node.name, SourceFault::Changed))?;
                        self.bytes(&room[..most])?;
                        done += most as u64;
                        self.progress.done(self.written)?;
                    }
                    if !self.mark() {
                        return Err(Error::source(&node.name, SourceFault::Changed));
                    }
                }
            }
            self.pad()?;
            self.progress.done(self.written)?;
        }
        match &tree.tar {
            Some(tar) => tar.disk.check(&tar.file),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::progress::Silent;
    use crate::tree::{dir, disk::Forbidden};

    /// Writes a tree twice, with something done to its directory in between.
    fn twice(between: impl FnOnce(&std::path::Path)) -> Result<Written> {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for name in ["a", "b", "c"] {
            fs::write(tree.join(name), vec![7; 300_000]).unwrap();
        }
        let found = dir::scan(&tree, &Forbidden::default()).unwrap();
        let layout = Layout::of(&found).unwrap();
        let first = layout.write(&found, &mut std::io::sink(), None, &Silent).unwrap();
        between(&tree);
        layout.write(&found, &mut std::io::sink(), Some(&first), &Silent)
    }

    #[test]
    fn a_file_that_changed_between_the_passes_is_named_even_if_its_time_is_put_back() {
        let error = twice(|tree| {
            let time = tree.join("b").metadata().unwrap().modified().unwrap();
            let file = fs::File::options().write(true).open(tree.join("b")).unwrap();
            file.write_at(b"x", 200_000).unwrap();
            file.set_modified(time).unwrap();
        });
        let said = error.unwrap_err().to_string();
        assert!(said.contains("/tree/b: it changed while it was packed"), "{said}");
        // The same by its stamp alone, and another file of the same name, size and time.
        for bytes in [vec![7; 300_000], vec![7; 300_001]] {
            let error = twice(|tree| {
                let time = tree.join("c").metadata().unwrap().modified().unwrap();
                fs::write(tree.join("new"), &bytes).unwrap();
                fs::File::open(tree.join("new")).unwrap().set_modified(time).unwrap();
                fs::rename(tree.join("new"), tree.join("c")).unwrap();
            });
            assert!(error.unwrap_err().to_string().contains("/tree/c: it changed"));
        }
    }

    #[test]
    fn a_hard_link_made_or_removed_elsewhere_is_no_change() {
        twice(|tree| {
            fs::hard_link(tree.join("a"), tree.with_file_name("link")).unwrap();
            fs::hard_link(tree.join("b"), tree.with_file_name("gone")).unwrap();
            fs::remove_file(tree.with_file_name("gone")).unwrap();
        })
        .unwrap();
    }
}
