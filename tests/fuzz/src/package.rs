//! What comes out of a package file, before and after its signature.

use std::collections::HashSet;

use ed25519_dalek::SigningKey;
use sha2::{Digest, Sha512};
use spk::Result;
use spk::format::archive::{self, Content, Visitor, check_link, check_name};
use spk::format::limits::{MAGIC, MAX_DEPTH};
use spk::format::manifest::{self as manifests, Manifest};
use spk::format::{container, signature, xz};
use spk::info::{self, Info};
use spk::progress::Silent;
use spk::sys::scratch::Scratch;

/// A manifest, and everything that is printed of it.
pub fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    let root = manifest.root().expect("it was parsed");
    let _ = info::check_links(root);
    let id = sandstorm_schema::ids::AppId([7; 32]);
    let package = sandstorm_schema::ids::PackageId([7; 16]);
    let Ok(info) = Info::new(id, package, root, None) else { return };
    for text in [info.for_people(), info.json()] {
        // Nothing in it can steer a terminal.
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}

/// An archive part, walked as it is when a package is unpacked.
pub fn archive(data: &[u8]) {
    // A mapped file is aligned; so are words.
    let mut words = vec![capnp::word(0, 0, 0, 0, 0, 0, 0, 0); data.len().div_ceil(8)];
    capnp::Word::words_to_bytes_mut(&mut words)[..data.len()].copy_from_slice(data);
    let bytes = &capnp::Word::words_to_bytes(&words)[..data.len()];
    let mut rules = Rules { bytes, ..Rules::default() };
    let walked = archive::walk(bytes, &mut rules);
    assert!(rules.content <= data.len(), "{} bytes out of {}", rules.content, data.len());
    if let Ok(totals) = walked {
        assert!(rules.open.is_empty() && !rules.twice);
        assert_eq!((totals.entries, totals.bytes), (rules.entries, rules.content as u64));
        // A second walk, with the manifest looked for, comes to the same.
        let checked = manifests::check(bytes).expect("it was walked");
        assert_eq!(checked.totals, totals);
    }
}

/// What a walk promises to its visitor.
#[derive(Default)]
struct Rules<'a> {
    bytes: &'a [u8],
    entries: u64,
    content: usize,
    /// Names in each directory from the root down, and the path of the innermost.
    open: Vec<Vec<u8>>,
    seen: HashSet<Vec<u8>>,
    /// A name came twice in one directory: the walk must fail in the end.
    twice: bool,
}

impl Rules<'_> {
    fn entry(&mut self, path: &[u8], name: &[u8]) {
        self.entries += 1;
        assert!(check_name(name).is_ok() && path.ends_with(name), "{path:?} {name:?}");
        let depth = path.split(|b| *b == b'/').count();
        assert!(depth <= MAX_DEPTH && depth == self.open.len() + 1, "{path:?}");
        if let Some(parent) = self.open.last() {
            assert!(path.starts_with(parent), "{path:?} in {parent:?}");
        }
        self.twice |= !self.seen.insert(path.to_vec());
    }
}

impl Visitor for Rules<'_> {
    fn leaf(&mut self, path: &[u8], name: &[u8], _: i64, content: Content<'_>) -> Result<()> {
        self.entry(path, name);
        match content {
            Content::File { bytes, .. } => {
                self.content += bytes.len();
                let range = self.bytes.as_ptr_range();
                assert!(
                    bytes.is_empty()
                        || (range.contains(&bytes.as_ptr())
                            && bytes.as_ptr_range().end <= range.end),
                    "content from elsewhere"
                );
            }
            Content::Symlink(target) => assert!(check_link(target).is_ok()),
        }
        Ok(())
    }

    fn enter(&mut self, path: &[u8], name: &[u8], _: i64) -> Result<()> {
        self.entry(path, name);
        self.open.push(path.to_vec());
        Ok(())
    }

    fn leave(&mut self, path: &[u8], _: i64) -> Result<()> {
        assert_eq!(self.open.pop().as_deref(), Some(path));
        Ok(())
    }
}

/// A package file. The first byte says how much of it the rest is: the whole file, what is
/// compressed in it, or an archive that somebody signed.
pub fn container(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let packed = |bytes: &[u8]| {
        let mut encoder = xz::Encoder::new(MAGIC.to_vec(), 1).expect("memory");
        std::io::Write::write_all(&mut encoder, bytes).expect("memory");
        encoder.finish().expect("memory")
    };
    let signed = |archive: &[u8]| {
        let key = SigningKey::from_bytes(&[7; 32]);
        let digest: [u8; 64] = Sha512::digest(archive).into();
        let mut bytes = Vec::new();
        signature::write(&key, &digest, &mut bytes).expect("memory");
        bytes.extend_from_slice(archive);
        packed(&bytes)
    };
    let file = match how % 3 {
        0 => data.to_vec(),
        1 => packed(data),
        _ => signed(data),
    };
    let scratch = Scratch::new().expect("a place for temporary files");
    let opened = container::open(&file[..], 0, scratch, 1, &Silent);
    match how % 3 {
        // Nobody can guess a signature; what is opened was in the corpus.
        0 | 1 => drop(opened.map(|opened| archive(opened.archive.bytes()))),
        _ => assert!(opened.expect("signed by us").archive.bytes() == data),
    }
}
