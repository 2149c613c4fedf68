//! `cargo xtask fuzz`: runs the targets of `fuzz/` with cargo-fuzz, on the ordinary toolchain.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::paths;

/// Runs every target, or one, for so many seconds; stops at the first that fails.
pub fn run(target: Option<&str>, seconds: u64) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|known| target.is_none_or(|name| name == **known)).collect();
    if chosen.is_empty() {
        bail!("there is no fuzz target {target:?}; there are: {}", targets.join(", "));
    }
    let known = Command::new("cargo").args(["fuzz", "--version"]).output();
    if !known.is_ok_and(|done| done.status.success()) {
        bail!("cargo-fuzz is missing: cargo install --locked cargo-fuzz");
    }
    for name in chosen {
        println!("=== {name}, {seconds} s");
        let status = Command::new("cargo")
            .args(["fuzz", "run", "--fuzz-dir", "fuzz", "--target", "x86_64-unknown-linux-gnu"])
            .arg(name)
            .args(["--", "-timeout=10", "-rss_limit_mb=4096"])
            .arg(format!("-max_total_time={seconds}"))
            // The sanitizers' flags are unstable; this lets the stable compiler take them.
            .env("RUSTC_BOOTSTRAP", "1")
            .current_dir(paths::top())
            .status()
            .context("cannot start cargo fuzz")?;
        ensure!(
            status.success(),
            "{name} found something; its input is below fuzz/artifacts/{name}"
        );
    }
    Ok(())
}

fn targets() -> Result<Vec<String>> {
    let dir = paths::top().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .with_context(|| format!("no targets at {}", dir.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}
