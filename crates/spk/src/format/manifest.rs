//! The manifest of a package, or the bridge's configuration: a framed message inside the archive.

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use sandstorm_schema::package_capnp::manifest;

use super::archive::{CheckOnly, Content, Totals, Visitor, walk};
use super::frame::{self, OwnedFrame};
use super::limits::{API_VERSION, MANIFEST_NAME, MAX_MANIFEST_WORDS};
use crate::error::{Error, Result};

/// A manifest out of a package.
pub struct Manifest(Reader<OwnedFrame>);

impl Manifest {
    /// Reads a manifest from the bytes of its file.
    ///
    /// # Errors
    /// It is no message, is too large, or points outside of itself.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        let frame = frame::read(&mut &bytes[..], MAX_MANIFEST_WORDS)
            .map_err(|fault| Error::Manifest(fault.to_string()))?;
        // Generous: several readers go over it, and its size is bounded.
        let options = ReaderOptions {
            traversal_limit_in_words: Some(64 * MAX_MANIFEST_WORDS as usize),
            nesting_limit: 64,
        };
        let manifest = Manifest(Reader::new(frame, options));
        // A copy walks over every pointer: after it no getter can fail.
        manifest.copy()?;
        Ok(manifest)
    }

    /// The manifest itself.
    ///
    /// # Errors
    /// Cannot happen after [`Manifest::parse`].
    pub fn root(&self) -> Result<manifest::Reader<'_>> {
        self.0.get_root().map_err(|e| Error::Manifest(e.to_string()))
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
            let root: manifest::Reader<'_> = self.0.get_root()?;
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

    fn copy(&self) -> Result<Builder<HeapAllocator>> {
        let mut copy = Builder::new_default();
        copy.set_root(self.root()?).map_err(|e| Error::Manifest(e.to_string()))?;
        Ok(copy)
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
