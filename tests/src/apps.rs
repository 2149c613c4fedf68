//! Packages of real apps, built by `cargo xtask app` from `tests/apps` and cached outside the tree.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::top;

/// The .spk of an app with a recipe ("tiddlywiki", "dufs", "radicale", "node-red", "native").
/// Fast when it has been built before; `cargo xtask ci` builds all of them first.
pub fn package(name: &str) -> Result<PathBuf> {
    let mut command = match std::env::var_os("SANDSTORM_XTASK") {
        Some(program) => Command::new(program),
        None => {
            let mut cargo = Command::new("cargo");
            cargo.args(["run", "--release", "--quiet", "--package", "xtask", "--"]);
            cargo
        }
    };
    let done = command
        .args(["app", "build", name])
        .current_dir(top())
        .output()
        .context("cannot start xtask")?;
    ensure!(
        done.status.success(),
        "the app {name} could not be built:\n{}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(PathBuf::from(String::from_utf8(done.stdout)?.trim()))
}
