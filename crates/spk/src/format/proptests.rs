//! Properties of writer and reader together: every tree that may be packed comes back as it was,
//! and bytes that nobody meant as an archive are refused without a panic.

use proptest::prelude::*;

use super::archive::{CheckOnly, Content, Visitor, check_name, walk};
use super::layout::Layout;
use super::{container, manifest};
use crate::error::Result;
use crate::keyring::Key;
use crate::progress::Silent;
use crate::sys::scratch::Scratch;
use crate::tree::{Kind, Node, Source, Tree};

/// Eight-byte alignment for bytes that stand in for a mapped file.
struct Aligned(Vec<u64>, usize);

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let mut words = vec![0u64; bytes.len().div_ceil(8)];
        for (word, chunk) in words.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..chunk.len()].copy_from_slice(chunk);
            *word = u64::from_ne_bytes(whole);
        }
        Aligned(words, bytes.len())
    }

    fn walk(&self, visitor: &mut impl Visitor) -> Result<super::archive::Totals> {
        // A map would do; a message builder's words are the library's way to aligned bytes.
        let bytes: Vec<capnp::Word> = self
            .0
            .iter()
            .map(|word| {
                let b = word.to_ne_bytes();
                capnp::word(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7])
            })
            .collect();
        walk(&capnp::Word::words_to_bytes(&bytes)[..self.1], visitor)
    }
}

/// Names with everything that is allowed and little sense.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let any = prop::collection::vec(any::<u8>(), 1..12);
    let usual = "[a-c.]{1,3}".prop_map(String::into_bytes);
    let long = (200usize..=255).prop_map(|len| vec![b'n'; len]);
    prop_oneof![4 => usual, 2 => any, 1 => long]
        .prop_filter("a name that the format has", |name| check_name(name).is_ok())
}

fn node() -> impl Strategy<Value = Node> {
    let file = (prop::collection::vec(any::<u8>(), 0..40), any::<bool>()).prop_map(
        |(bytes, executable)| {
            let size = bytes.len() as u64;
            Kind::File { executable, size, source: Source::Bytes(bytes.into()) }
        },
    );
    let link = prop::collection::vec(1u8.., 1..40).prop_map(|target| Kind::Symlink(target.into()));
    let leaf = (name(), any::<i64>(), prop_oneof![file, link])
        .prop_map(|(name, mtime_ns, kind)| Node { name: name.into(), mtime_ns, kind });
    leaf.prop_recursive(5, 40, 6, |inner| {
        (name(), any::<i64>(), prop::collection::vec(inner, 0..6)).prop_map(
            |(name, mtime_ns, children)| Node {
                name: name.into(),
                mtime_ns,
                kind: Kind::Directory(unique(children)),
            },
        )
    })
}

/// One entry a name, sorted, as the readers of trees make them.
fn unique(mut nodes: Vec<Node>) -> Vec<Node> {
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes.dedup_by(|a, b| a.name == b.name);
    nodes
}

fn tree() -> impl Strategy<Value = Tree> {
    prop::collection::vec(node(), 0..6)
        .prop_map(|root| Tree { root: unique(root), ..Tree::default() })
}

/// One line an entry, for comparing.
#[derive(Default, Debug, PartialEq, Eq)]
struct Lines(Vec<String>);

impl Visitor for Lines {
    fn leaf(&mut self, path: &[u8], name: &[u8], mtime: i64, content: Content<'_>) -> Result<()> {
        assert!(path.ends_with(name));
        self.0.push(format!("{path:?} {mtime} {content:?}"));
        Ok(())
    }

    fn enter(&mut self, path: &[u8], name: &[u8], mtime: i64) -> Result<()> {
        assert!(path.ends_with(name));
        self.0.push(format!("{path:?} {mtime} directory"));
        Ok(())
    }

    fn leave(&mut self, path: &[u8], mtime: i64) -> Result<()> {
        self.0.push(format!("{path:?} {mtime} end"));
        Ok(())
    }
}

/// What a walk of this tree should report.
fn expected(nodes: &[Node], parent: &[u8], lines: &mut Lines) {
    for node in nodes {
        let path = crate::tree::dir::join(parent, &node.name);
        match &node.kind {
            Kind::File { executable, source: Source::Bytes(bytes), .. } => {
                let content = Content::File { bytes, executable: *executable };
                lines.0.push(format!("{path:?} {} {content:?}", node.mtime_ns));
            }
            Kind::Symlink(target) => {
                let content = Content::Symlink(target);
                lines.0.push(format!("{path:?} {} {content:?}", node.mtime_ns));
            }
            Kind::Directory(children) => {
                lines.0.push(format!("{path:?} {} directory", node.mtime_ns));
                expected(children, &path, lines);
                lines.0.push(format!("{path:?} {} end", node.mtime_ns));
            }
            Kind::File { .. } => unreachable!("no other sources here"),
        }
    }
}

fn written(tree: &Tree) -> Vec<u8> {
    let layout = Layout::of(tree).unwrap();
    let mut bytes = Vec::new();
    let first = layout.write(tree, &mut std::io::sink(), None, &Silent).unwrap();
    let again = layout.write(tree, &mut bytes, Some(&first), &Silent).unwrap();
    assert_eq!(first, again);
    assert_eq!(bytes.len() as u64, layout.bytes());
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn trees_come_back(tree in tree()) {
        let mut wanted = Lines::default();
        expected(&tree.root, b"", &mut wanted);
        let mut found = Lines::default();
        Aligned::new(&written(&tree)).walk(&mut found).unwrap();
        prop_assert_eq!(found, wanted);
    }

    #[test]
    fn damaged_archives_do_no_harm(
        tree in tree(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = written(&tree);
        for (at, byte) in cuts {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = Aligned::new(&bytes).walk(&mut CheckOnly);
        bytes.truncate(len.index(bytes.len()));
        let _ = Aligned::new(&bytes).walk(&mut CheckOnly);
    }

    #[test]
    fn noise_is_no_archive(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = Aligned::new(&bytes).walk(&mut CheckOnly);
        let _ = manifest::Manifest::parse(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The same key and tree give the same package, whatever the number of threads, and it opens.
    #[test]
    fn packages_are_reproducible_and_open(tree in tree(), threads in 1u32..4) {
        let key = Key::from_seed(&[3; 32]);
        let pack = |threads| {
            let mut bytes = Vec::new();
            crate::pack::write(&tree, &key, &[], &mut bytes, threads, &Silent).unwrap();
            bytes
        };
        let package = pack(1);
        prop_assert!(package == pack(threads));
        let scratch = Scratch::new().unwrap();
        let opened = container::open(&package[..], 0, scratch, threads, &Silent).unwrap();
        prop_assert_eq!(opened.app_id, key.app_id());
        let mut wanted = Lines::default();
        expected(&tree.root, b"", &mut wanted);
        let mut found = Lines::default();
        walk(opened.archive.bytes(), &mut found).unwrap();
        opened.archive.release_pages();
        prop_assert_eq!(&found, &wanted);
        // Released pages have the same bytes.
        let mut again = Lines::default();
        walk(opened.archive.bytes(), &mut again).unwrap();
        prop_assert_eq!(again, wanted);
    }

    /// One wrong bit anywhere is noticed, or means nothing.
    #[test]
    fn one_bit_is_noticed(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let tree = Tree { root: vec![Node::generated(b"f", vec![7; 3000])], ..Tree::default() };
        let key = Key::from_seed(&[4; 32]);
        let mut package = Vec::new();
        crate::pack::write(&tree, &key, &[], &mut package, 1, &Silent).unwrap();
        let at = at.index(package.len());
        package[at] ^= 1 << bit;
        let scratch = Scratch::new().unwrap();
        if let Ok(opened) = container::open(&package[..], 0, scratch, 1, &Silent) {
            // Then at least everything that was signed is the same.
            let mut found = Lines::default();
            walk(opened.archive.bytes(), &mut found).unwrap();
            let mut wanted = Lines::default();
            expected(&tree.root, b"", &mut wanted);
            prop_assert_eq!(found, wanted);
        }
    }
}

/// Three blocks and more: the case where threads could make a difference.
#[test]
fn large_packages_do_not_depend_on_threads() {
    let file = |seed: u8| {
        let mut bytes = vec![0; super::limits::XZ_BLOCK as usize];
        bytes.chunks_mut(5000).enumerate().for_each(|(i, chunk)| chunk[i % 50] = seed ^ i as u8);
        Node::generated(&[b'a' + seed], bytes)
    };
    let root = (0..3).map(file).collect();
    let tree = Tree { root, ..Tree::default() };
    let key = Key::from_seed(&[5; 32]);
    let hash = |threads| {
        let mut package = Vec::new();
        crate::pack::write(&tree, &key, &[], &mut package, threads, &Silent).unwrap();
        package
    };
    assert!(hash(1) == hash(3));
}
