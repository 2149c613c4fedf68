//! The committed Rust is what the schema gives.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Lines that name the version of a tool, which may differ from machine to machine.
fn is_version_line(line: &str) -> bool {
    line.starts_with("// capnp binary version: ") || line.starts_with("// capnpc crate version: ")
}

fn without_versions(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.lines().filter(|line| !is_version_line(line)).map(|line| format!("{line}\n")).collect()
}

fn files_below(dir: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_below(&path, found);
        } else {
            found.insert(path);
        }
    }
}

#[test]
fn generating_again_changes_nothing_but_versions() {
    let fresh = tempfile::tempdir().unwrap();
    let names = super::generate::generate(&super::repo(), fresh.path()).unwrap();
    assert!(names.len() >= 18, "{names:?}");
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    for name in &names {
        // Not assert_eq: nobody wants to see 300 kB twice.
        assert!(
            without_versions(&fresh.path().join(name)) == without_versions(&committed.join(name)),
            "{} is out of date: run `cargo xtask gen`",
            name.display(),
        );
    }
    let mut present = BTreeSet::new();
    files_below(&committed, &mut present);
    let expected: BTreeSet<PathBuf> = names.iter().map(|name| committed.join(name)).collect();
    assert_eq!(present, expected, "src/gen has files that no schema file gives");
}

/// The file that stands in for Cap'n Proto's `persistent.capnp` has its type ids and layout.
#[test]
fn the_stand_in_lies_on_the_standard_files_wire() {
    let ours = super::repo().join("schema/rust/capnp/persistent.capnp");
    let [ours, standard] =
        [ours.as_path(), Path::new("/usr/include/capnp/persistent.capnp")].map(|file| {
            let output = super::capnp([Path::new("compile"), Path::new("-ocapnp"), file]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        });
    for text in [&ours, &standard] {
        for part in [
            "interface Persistent @0xc8cb212fcd9f5691 (SturdyRef, Owner) {",
            "save @0 ",
            "@0xf76fba59183073a5 ",
            "@0xb76848c18c40efbf ",
            "sealFor @0 :Owner;  # ptr[0]",
            "sturdyRef @0 :SturdyRef;  # ptr[0]",
        ] {
            assert!(text.contains(part), "{part:?} is missing in:\n{text}");
        }
    }
}
