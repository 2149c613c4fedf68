//! The manifest of a package, or the bridge's configuration: a framed message inside the archive.

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use sandstorm_schema::package_capnp::manifest;

use super::archive::{CheckOnly, Content, Totals, Visitor, walk};
use super::frame;
use super::limits::{API_VERSION, MANIFEST_NAME, MAX_MANIFEST_WORDS};
use crate::error::{Error, Result};

/// A manifest out of a package: a copy that was made while all of it was checked, and which is no
/// larger than a manifest may be.
pub struct Manifest(Builder<HeapAllocator>);

impl Manifest {
    /// Reads a manifest from the bytes of its file.
    ///
    /// # Errors
    /// It is no message, is too large, points outside of itself, or points to the same words again
    /// and again.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let frame = frame::read(&mut &bytes[..], MAX_MANIFEST_WORDS)
            .map_err(|fault| Error::Manifest(fault.to_string()))?;
        // Pointers may share their target, and a copy has it once for each: what is two kilobytes in
        // a package must not be hundreds of megabytes here, nor in the shell. Twice is not worth a
        // refusal.
        let words = frame.words();
        let options =
            ReaderOptions { traversal_limit_in_words: Some(2 * words + 1024), nesting_limit: 64 };
        let message = Reader::new(frame, options);
        let bad = |e: capnp::Error| Error::Manifest(e.to_string());
        let room = u32::try_from(words).unwrap_or(u32::MAX).max(16);
        let mut copy = Builder::new(HeapAllocator::new().first_segment_words(room));
        // A copy walks over every pointer: after it no getter can fail.
        copy.set_root(message.get_root::<manifest::Reader<'_>>().map_err(bad)?).map_err(bad)?;
        if copy.size_in_words() as u64 > MAX_MANIFEST_WORDS {
            let fault = "its pointers share so much that it is too large when it is read";
            return Err(Error::Manifest(fault.into()));
        }
        Ok(Manifest(copy))
    }

    /// The manifest itself.
    ///
    /// # Errors
    /// Cannot happen after [`Manifest::parse`].
    pub fn root(&self) -> Result<manifest::Reader<'_>> {
        self.0.get_root_as_reader().map_err(|e| Error::Manifest(e.to_string()))
    }

    /// Why no server of today takes a package with this manifest, if so.
    ///
    /// # Errors
    /// Cannot happen after [`Manifest::parse`].
    pub fn refusal(&self) -> Result<Option<String>> {
        let root = self.root()?;
        let (least, most) = (root.get_min_api_version(), root.get_max_api_version());
        Ok(if least > most {
            Some(format!("{MANIFEST_NAME}: minApiVersion is greater than maxApiVersion"))
        } else if least > API_VERSION {
            Some(format!("{MANIFEST_NAME}: minApiVersion is {least}, servers have {API_VERSION}"))
        } else {
            None
        })
    }

    /// What keeps people from using it, one line each.
    pub fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        let mut look = || -> capnp::Result<()> {
            let root: manifest::Reader<'_> = self.0.get_root_as_reader()?;
            let actions = root.get_actions()?;
            if actions.is_empty() {
                gaps.push(format!("{MANIFEST_NAME}: no actions, so nobody can make a grain"));
            }
            for (index, action) in actions.iter().enumerate() {
                if starts_nothing(action.get_command()?)? {
                    gaps.push(format!("{MANIFEST_NAME}: actions[{index}] has an empty command"));
                }
            }
            if starts_nothing(root.get_continue_command()?)? {
                gaps.push(format!(
                    "{MANIFEST_NAME}: continueCommand is empty, so no grain can be opened again"
                ));
            }
            Ok(())
        };
        // What cannot be read was told by `parse`.
        let _ = look();
        gaps
    }
}

fn starts_nothing(command: manifest::command::Reader<'_>) -> capnp::Result<bool> {
    Ok(command.get_argv()?.is_empty() && !command.has_deprecated_executable_path())
}

/// What a full check of an archive found.
pub struct Checked {
    /// What stands under the manifest's name; taking a package apart does not need a good one.
    manifest: Option<Result<Manifest>>,
    pub totals: Totals,
}

/// Checks every entry of an archive and reads its manifest, if there is one.
///
/// # Errors
/// The first rule that an entry breaks.
pub fn check(archive: &[u8]) -> Result<Checked> {
    let mut finder = Finder::default();
    let totals = walk(archive, &mut finder)?;
    Ok(Checked { manifest: finder.manifest, totals })
}

impl Checked {
    /// The manifest, without which nothing can be installed.
    ///
    /// # Errors
    /// It is missing or is not one.
    pub fn into_manifest(self) -> Result<Manifest> {
        let missing =
            || Error::Manifest("missing; a package without it cannot be installed".into());
        self.manifest.ok_or_else(missing)?
    }
}

#[derive(Default)]
struct Finder {
    manifest: Option<Result<Manifest>>,
    inner: CheckOnly,
}

impl Visitor for Finder {
    fn leaf(&mut self, path: &[u8], name: &[u8], mtime: i64, content: Content<'_>) -> Result<()> {
        if path == MANIFEST_NAME.as_bytes() {
            let not_a_file =
                |what| Err(Error::Manifest(format!("{what} instead of a regular file")));
            self.manifest = Some(match content {
                Content::File { bytes, executable: false } => Manifest::parse(bytes),
                Content::File { .. } => not_a_file("an executable"),
                Content::Symlink(_) => not_a_file("a link"),
            });
        }
        self.inner.leaf(path, name, mtime, content)
    }

    fn enter(&mut self, path: &[u8], name: &[u8], mtime_ns: i64) -> Result<()> {
        if path == MANIFEST_NAME.as_bytes() {
            let fault = "a directory instead of a regular file";
            self.manifest = Some(Err(Error::Manifest(fault.into())));
        }
        self.inner.enter(path, name, mtime_ns)
    }

    fn leave(&mut self, path: &[u8], mtime: i64) -> Result<()> {
        self.inner.leave(path, mtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandstorm_schema::package_capnp::metadata::screenshot;

    const BLOB: usize = 64 << 10;
    const MARK: &[u8; 8] = b"MARKxxxx";

    /// A manifest with a blob and with so many pictures, all of them that blob if they are `shared`.
    fn with_pictures(count: u32, shared: bool) -> Vec<u8> {
        let room = 64 * count + BLOB as u32;
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(room));
        let mut metadata = message.init_root::<manifest::Builder<'_>>().init_metadata();
        metadata.set_pgp_keyring(&[1; BLOB]);
        let mut pictures = metadata.init_screenshots(count);
        for at in 0..count {
            pictures.reborrow().get(at).set_png(MARK);
        }
        let mut words = capnp::serialize::write_message_to_words(&message);
        if !shared {
            return words;
        }
        // List pointers (kind 1, elements of a byte): the offset in words from behind the pointer
        // in bits 2 to 31, the number of elements from bit 35 on.
        let word = |bytes: &[u8], at: usize| {
            let piece = bytes.get(8 * at..8 * at + 8).unwrap();
            u64::from_le_bytes(piece.try_into().unwrap())
        };
        let target = |at: usize, pointer: u64| at + 1 + (pointer as u32 as usize >> 2);
        let pointers: Vec<(usize, u64)> = (1..words.len() / 8)
            .map(|at| (at, word(&words, at)))
            .filter(|(_, word)| word & 3 == 1 && word >> 32 & 7 == 2)
            .collect();
        let blob = pointers.iter().find(|(_, word)| word >> 35 == BLOB as u64).unwrap();
        let blob = target(blob.0, blob.1);
        let mut bent = 0;
        for (at, pointer) in pointers {
            let to = 8 * target(at, pointer);
            if pointer >> 35 == 8 && words.get(to..to + 8) == Some(MARK) {
                let offset = (blob as i64 - at as i64 - 1) as i32;
                let pointer = u64::from((offset << 2) as u32 | 1) | (BLOB as u64) << 35 | 2 << 32;
                words[8 * at..8 * at + 8].copy_from_slice(&pointer.to_le_bytes());
                bent += 1;
            }
        }
        assert_eq!(bent, count);
        words
    }

    fn parse(count: u32, shared: bool) -> Result<Manifest> {
        Manifest::parse(&with_pictures(count, shared))
    }

    #[test]
    fn pictures_of_their_own_are_read_as_often_as_wanted() {
        for manifest in [parse(5000, false).unwrap(), parse(1, true).unwrap()] {
            for _ in 0..100 {
                let pictures = manifest.root().unwrap().get_metadata().unwrap();
                let pictures = pictures.get_screenshots().unwrap();
                assert!(pictures.iter().all(|picture| {
                    matches!(picture.which(), Ok(screenshot::Png(Ok(png))) if png.len() >= 8)
                }));
                assert_eq!(manifest.gaps().len(), 2);
            }
        }
    }

    #[test]
    fn a_small_file_is_no_large_manifest() {
        // As many words as a manifest may have, and far more.
        for count in [100, 5000] {
            assert!(matches!(parse(count, true), Err(Error::Manifest(_))), "{count}");
        }
    }
}
