//! A short walk of what the fuzz targets do for longer: the committed corpus, and some thousand
//! mutations of it, through the same functions. Finds what a careless change breaks at once.

use std::fs;
use std::path::{Path, PathBuf};

use fuzz_entries::TARGETS;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn corpus(target: &str) -> Vec<Vec<u8>> {
    let dir = fuzz().join("corpus").join(target);
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// One change of an input.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index, prop::sample::Index),
    Double(prop::sample::Index, prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    // What lengths, counts and separators look like.
    let telling = prop::sample::select(&b"\0\x01\x02\x03\x07\x7f\x80\xff\r\n:;=,/. \"%"[..]);
    prop_oneof![
        4 => (at(), prop_oneof![any::<u8>(), telling]).prop_map(|(at, byte)| Change::Set(at, byte)),
        3 => (at(), 0u8..8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        1 => (at(), at()).prop_map(|(from, to)| Change::Cut(from, to)),
        1 => (at(), at()).prop_map(|(from, to)| Change::Double(from, to)),
        1 => (at(), prop::collection::vec(any::<u8>(), 1..9))
            .prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    if bytes.is_empty() {
        return;
    }
    let range = |from: &prop::sample::Index, to: &prop::sample::Index, len: usize| {
        let (a, b) = (from.index(len), to.index(len));
        a.min(b)..a.max(b)
    };
    match change {
        Change::Set(at, byte) => {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        Change::Flip(at, bit) => {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        Change::Cut(from, to) => drop(bytes.drain(range(from, to, bytes.len()))),
        Change::Double(from, to) => {
            let range = range(from, to, bytes.len());
            let piece = bytes[range.clone()].to_vec();
            bytes.splice(range.end..range.end, piece);
        }
        Change::Insert(at, more) => {
            let at = at.index(bytes.len());
            bytes.splice(at..at, more.iter().copied());
        }
    }
}

fn smoke(name: &str, cases: u32) {
    let (_, entry) = TARGETS.iter().find(|(known, _)| *known == name).expect("in the table");
    let corpus = corpus(name);
    assert!(corpus.len() >= 3, "the corpus of {name} has {} files", corpus.len());
    entry(b"");
    for input in &corpus {
        entry(input);
    }
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let inputs = (prop::sample::select(corpus), prop::collection::vec(change(), 1..5));
    let outcome = TestRunner::new(config).run(&inputs, |(mut input, changes)| {
        changes.iter().for_each(|change| apply(&mut input, change));
        entry(&input);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}

macro_rules! targets {
    ($($name:ident: $cases:literal,)*) => {
        $(#[test] fn $name() { smoke(stringify!($name), $cases); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    bridge_config: 2000,
    bridge_response: 5000,
    cookie_filter: 2000,
    manifest: 2000,
    package_archive: 5000,
    package_container: 500,
    request_filter: 5000,
    response_filter: 2000,
    rpc_guard: 1000,
}

/// Table, targets, manifest of `fuzz/`, corpora and the tests above name the same things.
#[test]
fn nothing_is_forgotten() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} in fuzz/Cargo.toml");
    }
    for place in ["fuzz_targets", "corpus"] {
        let mut found: Vec<String> = fs::read_dir(fuzz().join(place))
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        found.sort();
        assert_eq!(found, names, "{place}");
    }
}
