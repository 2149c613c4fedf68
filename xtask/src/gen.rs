//! `cargo xtask gen`: writes the Rust of `schema/` anew. The result is committed, so that a plain
//! build needs no `capnp` tool; run this after every change of a schema file.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context, Result, anyhow};

#[path = "../../crates/sandstorm-schema/tests/schema/generate.rs"]
mod generate;

pub fn run(repo: &Path) -> Result<()> {
    let fresh = tempfile::tempdir()?;
    let written = generate::generate(repo, fresh.path())
        .map_err(|e| anyhow!("{e}\nInstall Debian's packages capnproto and libcapnp-dev"))?;
    // Only now touch what is committed: a failed run must not leave a crate that cannot be built,
    // for this program is built with it.
    let out = repo.join("crates/sandstorm-schema/src/gen");
    match std::fs::remove_dir_all(&out) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            return Err(e).with_context(|| format!("cannot empty {}", out.display()));
        }
        _ => {}
    }
    for file in written {
        let to = out.join(&file);
        std::fs::create_dir_all(to.parent().expect("every file is below a directory"))?;
        std::fs::copy(fresh.path().join(&file), &to)
            .with_context(|| format!("cannot write {}", to.display()))?;
    }
    Ok(())
}
