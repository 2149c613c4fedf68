//! What a suite wants of cargo while it runs: programs that no ordinary build makes, and the suites
//! themselves, to be run on another machine. Both are asked of the cargo that runs the test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::top;

fn cargo(args: &[&str]) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo).args(args).current_dir(top()).output().context("no cargo")?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}

/// A program that cargo has built beside the running test, with the same profile.
pub fn beside(name: &str) -> PathBuf {
    let mut dir = std::env::current_exe().expect("a test has a path");
    dir.pop();
    dir.pop();
    dir.join(name)
}

/// The supervisor with `--unsafe-disable`. It takes the half minute of one program where something
/// has changed, else nothing.
///
/// # Errors
/// What cargo said.
pub fn unsafe_supervisor() -> Result<PathBuf> {
    static BUILT: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let args = ["build", "--release", "--locked", "--quiet", "-p", "unsafe-supervisor"];
    BUILT
        .get_or_init(|| {
            let built = cargo(&[&args[..], &["--features", "unsafe-disable"]].concat());
            built.map(drop).map_err(|e| format!("{e:#}"))
        })
        .clone()
        .map_err(|e| anyhow!("the supervisor of the counter-proofs was not built: {e}"))?;
    Ok(beside("unsafe-supervisor"))
}

/// The program of one of the suites in `tests/tests`.
///
/// # Errors
/// What cargo said, or that it named no program.
pub fn suite(name: &str) -> Result<PathBuf> {
    // With the whole workspace's features, as in a run of everything: then there is nothing to build.
    let args = ["test", "--release", "--locked", "--workspace", "--no-run", "--test", name];
    let said = cargo(&[&args[..], &["--message-format", "json"]].concat())?;
    String::from_utf8(said)?
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo names no program of the suite {name}"))
}
