//! Steps 3 to 6 of the porting guide: bridge and start scripts into the tree, manifest, key, `spk pack`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::{manifest, recipe::Recipe, tree};
use crate::{paths, shell_out};

/// Raised when this file or the manifest's form changes what comes out of the same recipe.
const BUILDER: &str = "package 1";

/// Builds the package, or finds it in the cache.
pub fn build(recipe: &Recipe) -> Result<PathBuf> {
    let tree = tree::build(recipe)?;
    let spk = paths::program("spk")?;
    let bridge = recipe.port.map(|_| paths::program("legacy-bridge")).transpose()?;

    let mut hash = Sha256::new();
    hash.update(BUILDER);
    hash.update(tree.as_os_str().as_encoded_bytes());
    // Not `spk`: it makes the same bytes of the same tree, and big trees take a minute.
    if let Some(bridge) = &bridge {
        hash.update(Sha256::digest(fs::read(bridge)?));
    }
    for entry in ["package.capnp", "util.capnp"] {
        hash.update(fs::read(paths::top().join("schema/sandstorm").join(entry))?);
    }
    let dir = paths::cache()?.join(format!(
        "spk-{}-{}",
        recipe.name,
        &hex::encode(hash.finalize())[..16]
    ));
    let done = dir.join(format!("{}.spk", recipe.name));
    if done.is_file() {
        super::touch(&dir);
        return Ok(done);
    }
    fs::create_dir_all(&dir)?;
    eprintln!("packing {}", recipe.title);
    let work = tempfile::Builder::new().prefix(".packing-").tempdir_in(paths::cache()?)?;
    let root = work.path().join("root");
    // Hard links: the cached tree's files are only read, what is new gets files of its own.
    shell_out::run(Command::new("cp").arg("-al").arg(&tree).arg(&root))?;
    if let Some(bridge) = bridge {
        let name = if recipe.bridge.is_some() { "sandstorm-http-bridge" } else { "legacy-bridge" };
        fs::copy(bridge, root.join(name))?;
        script(&root.join("start"), &start(recipe))?;
        script(&root.join("start-new"), &start_new(recipe))?;
    }
    manifest::write(recipe, &root, work.path())?;
    let packed = work.path().join("app.spk");
    shell_out::run(Command::new(&spk).arg("pack").arg(&root).arg(key(recipe, &spk)?).arg(&packed))?;
    // The server's user reads it too.
    fs::set_permissions(&packed, fs::Permissions::from_mode(0o644))?;
    fs::rename(&packed, &done)?;
    forget_old(&recipe.name, &[&tree, &dir])?;
    Ok(done)
}

/// Trees and packages of this app that no build has used for two weeks.
fn forget_old(name: &str, keep: &[&Path]) -> Result<()> {
    const FORTNIGHT: Duration = Duration::from_secs(14 * 24 * 3600);
    for entry in fs::read_dir(paths::cache()?)?.flatten() {
        let file = entry.file_name().to_string_lossy().into_owned();
        let ours = [format!("tree-{name}-"), format!("spk-{name}-")]
            .iter()
            .any(|start| file.strip_prefix(start.as_str()).is_some_and(|hash| hash.len() == 16));
        let old = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .is_ok_and(|at| at.elapsed().is_ok_and(|age| age > FORTNIGHT));
        if ours && old && !keep.contains(&entry.path().as_path()) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// For a new grain: the recipe's `first`, a mark that it got to its end, then the app.
fn start_new(recipe: &Recipe) -> String {
    if recipe.first.trim().is_empty() {
        return start(recipe);
    }
    format!("#!/bin/sh\nset -e\n{}\ntouch /var/.set-up\nexec /start\n", recipe.first.trim())
}

/// For a grain that exists. One that was killed during its set-up begins again.
fn start(recipe: &Recipe) -> String {
    let check = if recipe.first.trim().is_empty() {
        ""
    } else {
        "[ -e /var/.set-up ] || exec /start-new\n"
    };
    format!("#!/bin/sh\nset -e\n{check}{}\n", recipe.start.trim())
}

/// The app's signing key: one a machine, in the cache, so that a new build is an update.
fn key(recipe: &Recipe, spk: &Path) -> Result<PathBuf> {
    let dir = paths::cache()?.join("keys");
    fs::create_dir_all(&dir)?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))?;
    let key = dir.join(format!("{}.key", recipe.name));
    if !key.is_file() {
        shell_out::run(Command::new(spk).arg("keygen").arg(&key))?;
    }
    Ok(key)
}
