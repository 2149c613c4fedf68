//! A second writer of packages, for tests only: from the format's description, sharing no code
//! with `spk`. It writes what it is told, so every rule can be broken one at a time.
#![allow(dead_code)] // each suite uses its own part

use std::path::Path;
use std::process::{Command, Output};

use ed25519_dalek::{Signer, SigningKey};
use sha2::{Digest, Sha512};
use xz2::stream::{Check, Filters, LzmaOptions, Stream};

/// The magic number of the format.
pub const MAGIC: [u8; 8] = [0x8f, 0xc6, 0xcd, 0xef, 0x45, 0x1a, 0xea, 0x96];

/// An entry as it is written: the tag and the name are whatever one wants.
#[derive(Clone)]
pub struct Entry {
    pub name: Option<Vec<u8>>,
    pub tag: u16,
    pub mtime: i64,
    pub content: Content,
}

#[derive(Clone)]
pub enum Content {
    Null,
    Data(Vec<u8>),
    Text(Vec<u8>),
    List(Vec<Entry>),
}

pub fn file(name: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Entry {
    let (name, content) = (Some(name.as_ref().to_vec()), Content::Data(bytes.as_ref().to_vec()));
    Entry { name, tag: 0, mtime: 0, content }
}

pub fn program(name: impl AsRef<[u8]>, bytes: impl AsRef<[u8]>) -> Entry {
    Entry { tag: 1, ..file(name, bytes) }
}

pub fn link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Entry {
    Entry { tag: 2, content: Content::Text(target.as_ref().to_vec()), ..file(name, "") }
}

pub fn dir(name: impl AsRef<[u8]>, entries: Vec<Entry>) -> Entry {
    Entry { tag: 3, content: Content::List(entries), ..file(name, "") }
}

/// A message under construction: one segment of words, grown at the end.
#[derive(Default)]
pub struct Words(pub Vec<u64>);

impl Words {
    pub fn take(&mut self, count: usize) -> usize {
        let at = self.0.len();
        self.0.resize(at + count, 0);
        at
    }

    pub fn pointer(&mut self, at: usize, target: usize, low_bits: u64, high: u64) {
        let offset = ((target as i64 - at as i64 - 1) as u32 as u64) << 2 & 0xffff_ffff;
        self.0[at] = offset | low_bits | high << 32;
    }

    pub fn bytes(&mut self, at: usize, bytes: &[u8]) {
        let target = self.take(bytes.len().div_ceil(8));
        for (i, byte) in bytes.iter().enumerate() {
            self.0[target + i / 8] |= u64::from(*byte) << (8 * (i % 8));
        }
        self.pointer(at, target, 1, (bytes.len() as u64) << 3 | 2);
    }

    pub fn text(&mut self, at: usize, text: &[u8]) {
        self.bytes(at, &[text, &[0]].concat());
    }

    pub fn entries(&mut self, at: usize, entries: &[Entry]) {
        let tag = self.take(1 + 4 * entries.len());
        self.0[tag] = (entries.len() as u64) << 2 | (2 | 2 << 16) << 32;
        self.pointer(at, tag, 1, (4 * entries.len() as u64) << 3 | 7);
        for (i, entry) in entries.iter().enumerate() {
            let here = tag + 1 + 4 * i;
            self.0[here] = u64::from(entry.tag);
            self.0[here + 1] = entry.mtime as u64;
            if let Some(name) = &entry.name {
                self.text(here + 2, name);
            }
            match &entry.content {
                Content::Null => {}
                Content::Data(bytes) => self.bytes(here + 3, bytes),
                Content::Text(text) => self.text(here + 3, text),
                Content::List(inner) => self.entries(here + 3, inner),
            }
        }
    }

    /// In stream framing, one segment.
    pub fn framed(&self) -> Vec<u8> {
        let table = (self.0.len() as u64) << 32;
        [table].iter().chain(&self.0).flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The archive message of a tree.
pub fn archive(entries: &[Entry]) -> Words {
    let mut words = Words(vec![1 << 48, 0]);
    words.entries(1, entries);
    words
}

/// The signature message, from its two fields.
pub fn signature_message(key: &[u8], signed: &[u8]) -> Vec<u8> {
    let mut words = Words(vec![2 << 48, 0, 0]);
    words.bytes(1, key);
    words.bytes(2, signed);
    words.framed()
}

/// The signature message of `key` over an archive part.
pub fn sign(key: &SigningKey, archive: &[u8]) -> Vec<u8> {
    let digest = Sha512::digest(archive);
    let signed = [&key.sign(&digest).to_bytes()[..], &digest].concat();
    signature_message(key.verifying_key().as_bytes(), &signed)
}

/// Compressed in one stream.
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    xz_with(bytes, Check::Crc64, 1 << 20)
}

/// Compressed with this check and dictionary.
pub fn xz_with(bytes: &[u8], check: Check, dictionary: u32) -> Vec<u8> {
    use std::io::Write;
    let mut options = LzmaOptions::new_preset(0).unwrap();
    options.dict_size(dictionary);
    let mut filters = Filters::new();
    filters.lzma2(&options);
    let stream = Stream::new_stream_encoder(&filters, check).unwrap();
    let mut encoder = xz2::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A whole package.
pub fn package(parts: &[&[u8]]) -> Vec<u8> {
    [&MAGIC[..], &xz(&parts.concat())].concat()
}

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[0; 32])
}

/// The app id of [`key`].
pub const APP: &str = "7ep2gg6fquk2usp3p382nvsefekm45cr3rj479jus14a32utv8nh";

/// A signed package of a tree.
pub fn signed(entries: &[Entry]) -> Vec<u8> {
    let archive = archive(entries).framed();
    package(&[&sign(&key(), &archive), &archive])
}

/// A manifest with a version, a title and one action, by hand.
pub fn manifest() -> Vec<u8> {
    let mut words = Words(vec![(2 | 5 << 16) << 32]);
    let data = words.take(2);
    words.0[data + 1] = 3; // appVersion is the low half of the second data word
    let pointers = words.take(5);
    let title = words.take(2);
    words.pointer(pointers + 3, title, 0, 2 << 16);
    words.text(title, b"Test");
    words.framed()
}

/// The least tree that a server installs.
pub fn tree() -> Vec<Entry> {
    vec![
        dir("dev", vec![]),
        file("sandstorm-manifest", manifest()),
        dir("tmp", vec![]),
        dir("var", vec![]),
    ]
}

/// Runs `spk`.
pub fn spk(args: &[&str], dir: &Path) -> Output {
    Command::new(sandstorm_tests::program("spk")).args(args).current_dir(dir).output().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Names in a directory, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
