//! Where things are: the checkout, its programs, and the cache outside the tree.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The checkout's top directory.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the checkout").to_owned()
}

/// Directory of the four programs: `$SANDSTORM_BIN`, else `bin/` as `make` fills it.
pub fn bin() -> PathBuf {
    env::var_os("SANDSTORM_BIN").map_or_else(|| top().join("bin"), PathBuf::from)
}

/// One of our programs, with a word on how to get it when it is missing.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = bin().join(name);
    if !path.is_file() {
        bail!("{} is missing: run `make` first", path.display());
    }
    path.canonicalize().with_context(|| format!("cannot resolve {}", path.display()))
}

/// Cache for built apps and downloads, outside the tree so that `git clean` keeps it.
pub fn cache() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME").filter(|v| !v.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None if nix::unistd::geteuid().is_root() => PathBuf::from("/var/cache"),
        None => Path::new(&env::var_os("HOME").context("neither HOME nor XDG_CACHE_HOME is set")?)
            .join(".cache"),
    };
    let dir = base.join("sandstorm-apps");
    std::fs::create_dir_all(&dir)
        .with_context(|| format!("cannot make the cache directory {}", dir.display()))?;
    Ok(dir)
}
