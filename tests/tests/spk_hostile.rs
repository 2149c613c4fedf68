//! Packages that somebody made to do harm, each with what is said about it, and with a twin that
//! differs only in the fault and is taken. Written by the tests' own writer.

mod spk_support;

use std::fs;
use std::path::Path;

use xz2::stream::Check;

use spk_support::*;

/// A way to be bad.
struct Case {
    name: &'static str,
    bad: Vec<u8>,
    /// Words of the refusal.
    says: &'static str,
    good: Vec<u8>,
}

fn case(name: &'static str, bad: Vec<u8>, says: &'static str, good: Vec<u8>) -> Case {
    Case { name, bad, says, good }
}

/// A case inside the archive: the tree and one entry more.
fn with(name: &'static str, bad: Entry, says: &'static str, good: Entry) -> Case {
    let tree = |entry| signed(&[tree(), vec![entry]].concat());
    case(name, tree(bad), says, tree(good))
}

/// An archive whose words somebody changed afterwards, signed as it is.
fn patched(entries: &[Entry], patch: impl FnOnce(&mut Words)) -> Vec<u8> {
    let mut words = archive(entries);
    patch(&mut words);
    let archive = words.framed();
    package(&[&sign(&key(), &archive), &archive])
}

fn nested(levels: usize) -> Entry {
    (0..levels).fold(dir("d", vec![]), |inner, _| dir("d", vec![inner]))
}

/// The whole package with this archive part in this framing, signed.
fn framed(archive: &[u8]) -> Vec<u8> {
    package(&[&sign(&key(), archive), archive])
}

fn container_cases() -> Vec<Case> {
    let archive = archive(&tree()).framed();
    let signature = sign(&key(), &archive);
    let digest = <sha2::Sha512 as sha2::Digest>::digest(&archive);
    let message = [&signature[..], &archive].concat();
    let good = || signed(&tree());
    let after = |tail: &[u8]| [&good()[..], tail].concat();
    let mut magic = good();
    magic[3] ^= 1;
    let mut damaged = good();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    let mut forged = signature.clone();
    forged[8 * 8 + 1] ^= 1;
    // Signed bytes are those of another archive.
    let other = [&archive[..], &[0; 8]].concat();
    let combined = |key: &ed25519_dalek::SigningKey, digest: &[u8]| {
        [&ed25519_dalek::Signer::sign(key, digest).to_bytes()[..], digest].concat()
    };
    let stranger = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let public = key().verifying_key().to_bytes();
    let sealed = |key: &[u8], signed: &[u8]| package(&[&signature_message(key, signed), &archive]);
    let right = combined(&key(), &digest);
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let mut tables = Vec::new();
    for count in [513u32, 512] {
        // Empty segments, then one with the archive's words; the root pointer is far.
        let mut bytes = (count - 1).to_le_bytes().to_vec();
        let words = (archive.len() / 8 - 1) as u32;
        let sizes = [1].into_iter().chain(vec![0; count as usize - 2]).chain([words]);
        sizes.for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend((2u64 | u64::from(count - 1) << 32).to_le_bytes());
        bytes.extend(&archive[8..]);
        tables.push(framed(&bytes));
    }
    let claims =
        |words: u32| [&0u32.to_le_bytes()[..], &words.to_le_bytes(), &archive[8..]].concat();
    let old = {
        let options = xz2::stream::LzmaOptions::new_preset(0).unwrap();
        let mut stream = xz2::stream::Stream::new_lzma_encoder(&options).unwrap();
        let mut bytes = Vec::with_capacity(2 * message.len() + 4096);
        stream.process_vec(&message, &mut bytes, xz2::stream::Action::Finish).unwrap();
        [&MAGIC[..], &bytes].concat()
    };
    let xz_only = |bytes: Vec<u8>| [&MAGIC[..], &bytes].concat();
    vec![
        case("empty file", vec![], "not a package", good()),
        case("magic cut short", good()[..7].to_vec(), "not a package", good()),
        case("magic with one bit wrong", magic, "not a package", good()),
        case("nothing after the magic", MAGIC.to_vec(), "ends too early", good()),
        case("one bit of the compressed part", damaged, "damaged", good()),
        case("last byte missing", good()[..good().len() - 1].to_vec(), "ends too early", good()),
        case(
            "junk at the end",
            after(b"junk"),
            "followed by bytes that are not .xz",
            after(&[0; 4]),
        ),
        case("padding not in fours", after(&[0; 6]), "followed by bytes", after(&[0; 8])),
        case(
            "second stream cut short",
            [&xz_only(xz(&message[..100])), &xz(&message[100..])[..20]].concat(),
            "ends too early",
            [&xz_only(xz(&message[..100])), &xz(&message[100..])[..]].concat(),
        ),
        case("the older .lzma", old, "not .xz", xz_only(xz_with(&message, Check::Sha256, 1 << 16))),
        case(
            "a dictionary of 256 MiB",
            xz_only(xz_with(&message, Check::Crc32, 256 << 20)),
            "more than 128 MiB",
            xz_only(xz_with(&message, Check::Crc32, 64 << 20)),
        ),
        case(
            "signature message cut short",
            package(&[&signature[..40]]),
            "signature message is malformed",
            good(),
        ),
        case(
            "signature message that claims 4 GiB",
            package(&[&[0u32.to_le_bytes(), (1u32 << 29).to_le_bytes()].concat(), &archive]),
            "claims 536870912 words",
            good(),
        ),
        case(
            "key of 31 bytes",
            sealed(&public[..31], &right),
            "31 bytes instead of 32",
            sealed(&public, &right),
        ),
        case(
            "signature of 64 bytes",
            sealed(&public, &right[..64]),
            "64 bytes instead of 128",
            sealed(&public, &right),
        ),
        case(
            "small-order key",
            sealed(&neutral, &right),
            "not a valid Ed25519 key",
            sealed(&public, &right),
        ),
        case("one bit of the signature", package(&[&forged, &archive]), "signature", good()),
        case(
            "somebody else's key",
            sealed(stranger.verifying_key().as_bytes(), &right),
            "does not belong to its public key",
            sealed(stranger.verifying_key().as_bytes(), &combined(&stranger, &digest)),
        ),
        case(
            "signed, but another archive",
            package(&[&signature, &other]),
            "not what was signed",
            package(&[&sign(&key(), &other), &other]),
        ),
        case(
            "no archive",
            package(&[&sign(&key(), b"")]),
            "ends in the middle of a message",
            good(),
        ),
        case("513 segments", tables.remove(0), "513 segments", tables.remove(0)),
        case(
            "a segment longer than the file",
            framed(&claims((archive.len() / 8) as u32)),
            "ends in the middle of a message",
            framed(&claims((archive.len() / 8) as u32 - 1)),
        ),
    ]
}

fn entry_cases() -> Vec<Case> {
    let named = |name: &[u8]| file(name, "x");
    let tagged = |tag| Entry { tag, ..file("thing", "x") };
    let wide = vec![b'n'; 256];
    let long = vec![b'l'; 4096];
    let unnamed = Entry { name: None, ..file("", "x") };
    let three = |entries: Vec<Entry>| dir("etc", entries);
    let mut cases = vec![
        with("empty name", named(b""), "(no name): an entry without a name", named(b"e")),
        with("null name", unnamed, "an entry without a name", named(b"e")),
        with("dot", named(b"."), ".: the name", named(b"...")),
        with("dot dot", named(b".."), "..: the name", named(b"..a")),
        with(
            "slash",
            named(b"../../etc/passwd"),
            "../../etc/passwd: a slash",
            named(b"..\\..\\etc"),
        ),
        with("absolute", named(b"/etc/passwd"), "/etc/passwd: a slash", named(b"\\etc")),
        with("NUL in a name", named(b"a\0b"), "a\\u{0}b: a NUL byte", named(b"a\nb")),
        with("name of 256 bytes", named(&wide), "a name of 256 bytes", named(&wide[..255])),
        with("name twice", named(b"var"), "var: there are two", named(b"Var")),
        with(
            "name twice, deeper, not side by side",
            three(vec![file("b", "1"), file("a", "2"), link("b", "/")]),
            "etc/b: there are two",
            three(vec![file("b", "1"), file("a", "2"), link("c", "/")]),
        ),
        with(
            "file through a link of the same name",
            three(vec![link("passwd", "/etc/passwd"), file("passwd", "root")]),
            "etc/passwd: there are two",
            three(vec![link("passwd", "/etc/passwd"), file("passwe", "root")]),
        ),
        with(
            "bad name deep inside",
            dir("a", vec![dir("b", vec![named(b"..")])]),
            "a/b/..: the name",
            dir("a", vec![dir("b", vec![named(b"...")])]),
        ),
        with("unknown kind", tagged(4), "thing: of unknown kind 4", tagged(1)),
        with("unknown kind 65535", tagged(65535), "thing: of unknown kind 65535", tagged(0)),
        with(
            "link without target",
            link("l", ""),
            "l: a symbolic link without a target",
            link("l", "/"),
        ),
        with(
            "link that is null",
            Entry { content: Content::Null, ..link("l", "") },
            "l: a symbolic link without a target",
            Entry { content: Content::Null, ..dir("l", vec![]) },
        ),
        with("NUL in a link", link("l", b"a\0b"), "l: a NUL byte in a link", link("l", b"a\x01b")),
        with(
            "link of 4096 bytes",
            link("l", &long),
            "target of 4096 bytes",
            link("l", &long[..4095]),
        ),
        with("64 levels", nested(63), "more than 63 levels deep", nested(62)),
        with(
            "a file's content where a directory belongs",
            Entry { tag: 3, ..file("d", "12345678") },
            // Bytes read as structs are entries without a name.
            "d/: an entry without a name",
            file("d", "12345678"),
        ),
        with(
            "a directory where a file's content belongs",
            Entry { tag: 0, ..dir("f", vec![file("x", "")]) },
            "f: malformed",
            dir("f", vec![file("x", "")]),
        ),
    ];
    // Pointers that somebody bent.
    let entries = [tree(), vec![file("blob", vec![5; 800])]].concat();
    let last = |words: &Words| {
        let count = (words.0[2] as u32 >> 2) as usize;
        2 + 1 + 4 * (count - 1)
    };
    let good = || patched(&entries, |_| {});
    cases.push(case(
        "content outside of the message",
        patched(&entries, |words| {
            let at = last(words) + 3;
            words.0[at] += 1 << 32 << 20;
        }),
        "blob: malformed",
        good(),
    ));
    cases.push(case(
        "name without its NUL",
        patched(&entries, |words| {
            let at = last(words) + 2;
            // One byte shorter: the last one is `b`, not NUL.
            words.0[at] -= 1 << 32 << 3;
        }),
        "malformed",
        good(),
    ));
    cases.push(case(
        "a directory that contains itself",
        patched(&[tree(), vec![dir("loop", vec![file("x", "")])]].concat(), |words| {
            let at = last(words) + 3;
            words.pointer(at, 2, 1, words.0[1] >> 32);
        }),
        "malformed",
        signed(&[tree(), vec![dir("loop", vec![file("x", "")])]].concat()),
    ));
    cases.push(case(
        "a thousand names for one blob",
        patched(&many(1000), |words| {
            let first = 2 + 1;
            let blob = first + 3;
            let target = blob as i64 + 1 + i64::from((words.0[blob] as u32 as i32) >> 2);
            let size = words.0[blob] >> 32;
            for i in 1..1000 {
                words.pointer(first + 4 * i + 3, target as usize, 1, size);
            }
        }),
        "malformed",
        signed(&many(1000)),
    ));
    cases.push(case(
        "half a billion entries that take no room",
        patched(&tree(), |words| {
            // A list of structs without data: 2^29 - 1 of them in one word.
            let at = words.take(1);
            words.0[at] = ((1u64 << 29) - 1) << 2;
            words.pointer(1, at, 1, 7);
        }),
        "Read limit exceeded",
        signed(&tree()),
    ));
    cases
}

/// A thousand files, the first with a blob, the others with one word each.
fn many(count: usize) -> Vec<Entry> {
    let content = |i: usize| if i == 0 { vec![7; 80_000] } else { vec![7; 8] };
    let files = (0..count).map(|i| file(format!("f{i:04}"), content(i)));
    files.collect()
}

fn manifest_cases() -> Vec<Case> {
    let with_manifest =
        |entry: Entry| signed(&[dir("dev", vec![]), dir("tmp", vec![]), dir("var", vec![]), entry]);
    let good = || with_manifest(file("sandstorm-manifest", manifest()));
    let cut = manifest()[..manifest().len() - 8].to_vec();
    let mut claims = manifest();
    claims[4..8].copy_from_slice(&(1u32 << 20 | 1).to_le_bytes());
    let mut bent = manifest();
    bent[8 + 7 * 8 + 3] ^= 0x40;
    vec![
        case("no manifest", with_manifest(file("x", "")), "sandstorm-manifest: missing", good()),
        case(
            "manifest in a subdirectory",
            with_manifest(dir("etc", vec![file("sandstorm-manifest", manifest())])),
            "sandstorm-manifest: missing",
            good(),
        ),
        case(
            "manifest is a link",
            with_manifest(link("sandstorm-manifest", "/etc/passwd")),
            "a link instead of a regular file",
            good(),
        ),
        case(
            "manifest is executable",
            with_manifest(program_entry("sandstorm-manifest")),
            "an executable instead of a regular file",
            good(),
        ),
        case(
            "manifest is a directory",
            with_manifest(dir("sandstorm-manifest", vec![])),
            "a directory instead of a regular file",
            good(),
        ),
        case(
            "manifest cut short",
            with_manifest(file("sandstorm-manifest", cut)),
            "ends in the middle of a message",
            good(),
        ),
        case(
            "manifest of 2^20 words and one",
            with_manifest(file("sandstorm-manifest", claims)),
            "claims 1048577 words",
            good(),
        ),
        case(
            "manifest with a pointer out of itself",
            with_manifest(file("sandstorm-manifest", bent)),
            "sandstorm-manifest",
            good(),
        ),
    ]
}

fn program_entry(name: &str) -> Entry {
    program(name, manifest())
}

/// Runs a case through a command in an otherwise empty directory.
fn refused(case: &Case, command: &str) {
    let home = tempfile::tempdir().unwrap();
    let package = home.path().join("p.spk");
    fs::write(&package, &case.bad).unwrap();
    let args: &[&str] =
        if command == "verify" { &["verify", "p.spk"] } else { &["unpack", "p.spk", "out"] };
    let output = spk(args, home.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{} ({command}): {said}", case.name);
    assert_eq!(said.trim_end().lines().count(), 1, "{} ({command}): {said}", case.name);
    assert!(said.contains(case.says), "{} ({command}): {said}", case.name);
    assert!(output.stdout.is_empty(), "{}: {}", case.name, stdout(&output));
    assert_eq!(names(home.path()), ["p.spk"], "{} ({command})", case.name);
}

fn accepted(case: &Case, verify: bool) {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("p.spk"), &case.good).unwrap();
    if verify {
        let output = spk(&["verify", "p.spk"], home.path());
        assert!(output.status.success(), "twin of {}: {}", case.name, stderr(&output));
    }
    let output = spk(&["unpack", "p.spk", "out"], home.path());
    assert!(output.status.success(), "twin of {}: {}", case.name, stderr(&output));
    assert_eq!(names(home.path()), ["out", "p.spk"]);
}

#[test]
fn bad_containers() {
    let cases = container_cases();
    assert!(cases.len() >= 20);
    for case in &cases {
        refused(case, "verify");
        refused(case, "unpack");
        accepted(case, true);
    }
}

#[test]
fn bad_entries() {
    let cases = entry_cases();
    assert!(cases.len() >= 25);
    for case in &cases {
        refused(case, "verify");
        refused(case, "unpack");
        // The thousand files have no manifest.
        accepted(case, case.name != "a thousand names for one blob");
    }
}

#[test]
fn bad_manifests() {
    for case in &manifest_cases() {
        refused(case, "verify");
        accepted(case, true);
    }
}

#[test]
fn entries_are_counted() {
    let home = tempfile::tempdir().unwrap();
    for (count, passes) in [(1 << 20, true), ((1 << 20) + 1, false)] {
        let mut entries = tree();
        entries.extend((entries.len()..count).map(|i| file(format!("{i:x}"), "")));
        fs::write(home.path().join("p.spk"), signed(&entries)).unwrap();
        let output = spk(&["verify", "p.spk"], home.path());
        assert_eq!(output.status.success(), passes, "{}", stderr(&output));
        assert_eq!(stderr(&output).contains("more than 1048576 entries"), !passes);
    }
}

#[test]
fn a_bomb_stops_at_the_limit() {
    // Some 150 KB that become 1 GiB and 8 bytes, then 1 GiB sharp. The archive message is at the
    // front, the zeros behind it are hashed but not parsed. Compressed once, as one of many streams.
    let zeros = vec![0; 32 << 20];
    let stream = xz_with(&zeros, Check::None, 1 << 20);
    let archive = archive(&tree()).framed();
    for (bytes, passes) in [(1 << 30, true), ((1 << 30) + 8, false)] {
        let padding = bytes - archive.len();
        let (streams, rest) = (padding / zeros.len(), padding % zeros.len());
        let mut hash = <sha2::Sha512 as sha2::Digest>::new();
        sha2::Digest::update(&mut hash, &archive);
        (0..streams).for_each(|_| sha2::Digest::update(&mut hash, &zeros));
        sha2::Digest::update(&mut hash, &zeros[..rest]);
        let digest = sha2::Digest::finalize(hash);
        let signature = ed25519_dalek::Signer::sign(&key(), &digest).to_bytes();
        let combined = [&signature[..], &digest].concat();
        let message = signature_message(key().verifying_key().as_bytes(), &combined);
        let mut package = package(&[&message, &archive]);
        (0..streams).for_each(|_| package.extend(&stream));
        package.extend(xz(&zeros[..rest]));
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("p.spk"), package).unwrap();
        let output = spk(&["unpack", "p.spk", "out"], home.path());
        assert_eq!(output.status.success(), passes, "{bytes}: {}", stderr(&output));
        if passes {
            assert_eq!(names(home.path()), ["out", "p.spk"]);
        } else {
            assert!(stderr(&output).contains("larger than 1073741824 bytes"));
            assert_eq!(names(home.path()), ["p.spk"]);
        }
    }
}

/// Links are made, never followed: a tree that tries to write through one.
#[test]
fn links_lead_nowhere() {
    let home = tempfile::tempdir().unwrap();
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    let entries = [
        tree(),
        vec![
            link("a", outside.to_str().unwrap()),
            link("b", "../outside"),
            dir("c", vec![link("d", "/"), link("e", ".."), link("self", "self")]),
        ],
    ]
    .concat();
    fs::write(home.path().join("p.spk"), signed(&entries)).unwrap();
    let output = spk(&["unpack", "p.spk", "out"], home.path());
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(names(&outside), [""; 0]);
    assert_eq!(fs::read_link(home.path().join("out/c/d")).unwrap(), Path::new("/"));
}

/// Random damage to a good package is refused or changes nothing, and leaves nothing behind.
#[test]
fn random_damage_is_refused() {
    let good = signed(&[tree(), vec![file("noise", (0..=255).collect::<Vec<u8>>())]].concat());
    let mut seed = 7u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let home = tempfile::tempdir().unwrap();
    for round in 0..100 {
        let mut bytes = good.clone();
        match round % 3 {
            0 => bytes.truncate(random() % good.len()),
            1 => {
                let at = random() % good.len();
                bytes[at] ^= 1 << (random() % 8);
            }
            _ => {
                let at = random() % good.len();
                bytes.insert(at, random() as u8);
            }
        }
        fs::write(home.path().join("p.spk"), &bytes).unwrap();
        let output = spk(&["unpack", "p.spk", "out"], home.path());
        // Some bits of .xz mean nothing; then the content must be the same.
        if output.status.success() {
            assert_eq!(fs::read(home.path().join("out/noise")).unwrap().len(), 256, "{round}");
            fs::remove_dir_all(home.path().join("out")).unwrap();
        } else {
            assert_eq!(output.status.code(), Some(1), "{round}: {}", stderr(&output));
        }
        assert_eq!(names(home.path()), ["p.spk"], "{round}");
    }
}
