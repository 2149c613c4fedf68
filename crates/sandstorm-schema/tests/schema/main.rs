//! The schema files against the tables of the wire format, against the committed Rust, and as app
//! authors use them. All of it needs Debian's `capnproto` and `libcapnp-dev`.

mod authors;
mod generate;
mod generated;
mod model;
mod python;
mod rows;
/// The same as all suites have: this crate cannot depend on theirs, which depends on it.
#[path = "../../../../tests/src/skip.rs"]
mod skip;
mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The checkout's root.
fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Runs `capnp` with the arguments; what it prints decides, so nothing is shown here.
fn capnp<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    let output = Command::new("capnp").env_remove("PWD").args(args).output();
    output.expect("cannot run capnp: install Debian's packages capnproto and libcapnp-dev")
}

/// The schema files of a directory, in order of their names.
fn schema_files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "capnp"));
    files.sort();
    files
}
