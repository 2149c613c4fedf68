//! The chroot tree of an app: step 1 and 2 of the porting guide. Cached by what it is made from.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use super::{libraries, recipe::Recipe};
use crate::{paths, shell_out};

/// Raised when this file changes what comes out of the same recipe.
const BUILDER: &str = "tree 2";

/// Builds the tree, or finds it in the cache. Its files are shared: do not write into it.
pub fn build(recipe: &Recipe) -> Result<PathBuf> {
    let cache = paths::cache()?;
    let done = cache.join(format!("tree-{}-{}", recipe.name, &fingerprint(recipe)?[..16]));
    if done.is_dir() {
        super::touch(&done);
        return Ok(done);
    }
    eprintln!("building the tree of {} (once)", recipe.title);
    let work = tempfile::Builder::new().prefix(".building-").tempdir_in(&cache)?;
    let root = work.path().join("root");
    fs::create_dir(&root)?;
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
    fill(recipe, &root, work.path(), &cache)?;
    match fs::rename(&root, &done) {
        Err(_) if done.is_dir() => {} // another build of the same tree came first
        other => other.with_context(|| format!("cannot move the tree to {}", done.display()))?,
    }
    Ok(done)
}

/// Everything that decides what the tree becomes.
fn fingerprint(recipe: &Recipe) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(BUILDER);
    hash_dir(&mut hash, &recipe.dir())?;
    for file in ["/bin/busybox", "/lib/x86_64-linux-gnu/libc.so.6"] {
        hash.update(fs::read(file).unwrap_or_default());
    }
    for file in &recipe.host {
        if let Ok(meta) = fs::metadata(file) {
            hash.update(format!("{file} {:?}", meta.modified().ok()));
        }
    }
    if let Some(member) = &recipe.workspace {
        hash.update(fs::read(workspace_program(member)?)?);
    }
    Ok(hex::encode(hash.finalize()))
}

fn hash_dir(hash: &mut Sha256, dir: &Path) -> Result<()> {
    let mut entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(|e| e.file_name());
    for entry in entries {
        hash.update(entry.file_name().as_encoded_bytes());
        if entry.file_type()?.is_dir() {
            hash_dir(hash, &entry.path())?;
        } else {
            hash.update(fs::read(entry.path())?);
        }
        hash.update([0]);
    }
    Ok(())
}

fn fill(recipe: &Recipe, root: &Path, work: &Path, cache: &Path) -> Result<()> {
    for dir in ["dev", "tmp", "var", "bin", "app"] {
        fs::create_dir(root.join(dir))?;
    }
    if !recipe.debian.is_empty() {
        debian(recipe, root, work)?;
    }
    for path in &recipe.host {
        host(root, Path::new(path))?;
    }
    if !recipe.npm.is_empty() {
        npm(recipe, root, work)?;
    }
    for words in &recipe.cargo {
        cargo(words, root, cache)?;
    }
    if !recipe.pip.is_empty() {
        pip(recipe, root, work)?;
    }
    if let Some(member) = &recipe.workspace {
        fs::copy(workspace_program(member)?, root.join("bin").join(member))?;
    }
    if recipe.dir().join("files").is_dir() {
        let from = recipe.dir().join("files").join(".");
        shell_out::run(Command::new("cp").arg("-a").arg(from).arg(root))?;
    }
    for path in &recipe.without {
        let path = root.join(path.trim_start_matches('/'));
        if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
            .with_context(|| format!("`without` names {}", path.display()))?;
    }
    if recipe.port.is_some() && !root.join("bin/sh").exists() {
        busybox(root)?;
    }
    libraries::close(root)
}

/// A shell and the usual commands, in one static file.
fn busybox(root: &Path) -> Result<()> {
    let busybox = root.join("bin/busybox");
    fs::copy("/bin/busybox", &busybox).context("no /bin/busybox: install busybox-static")?;
    // Links for all names: without /proc the shell finds only a few of its own commands.
    for name in shell_out::text(Command::new("/bin/busybox").arg("--list"))?.lines() {
        let link = root.join("bin").join(name);
        if link.symlink_metadata().is_err() {
            symlink("busybox", link)?;
        }
    }
    Ok(())
}

fn debian(recipe: &Recipe, root: &Path, work: &Path) -> Result<()> {
    let dir = work.join("debs");
    fs::create_dir(&dir)?;
    // apt fetches as its own user; let it write here.
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
    shell_out::run(
        Command::new("apt-get").args(["-q", "download"]).args(&recipe.debian).current_dir(&dir),
    )?;
    for entry in fs::read_dir(&dir)? {
        shell_out::run(Command::new("dpkg-deb").arg("-x").arg(entry?.path()).arg(root))?;
    }
    Ok(())
}

fn host(root: &Path, path: &Path) -> Result<()> {
    ensure!(path.is_absolute(), "`host` wants absolute paths, not {}", path.display());
    // --parents keeps the place, -a the links inside a directory; the named path itself is followed.
    shell_out::run(
        Command::new("cp").args(["-aH", "--parents"]).arg(path).arg(root).current_dir("/"),
    )
}

fn package_json(recipe: &Recipe) -> Result<String> {
    let mut dependencies = serde_json::Map::new();
    for word in &recipe.npm {
        let (name, version) = word
            .rsplit_once('@')
            .filter(|(name, _)| !name.is_empty())
            .with_context(|| format!("`npm` wants name@version, not {word}"))?;
        dependencies.insert(name.to_owned(), version.into());
    }
    let value = serde_json::json!({
        "name": recipe.name, "version": "0.0.0", "private": true, "dependencies": dependencies,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

const NPM_QUIET: [&str; 5] =
    ["--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"];

fn npm(recipe: &Recipe, root: &Path, work: &Path) -> Result<()> {
    let dir = work.join("npm");
    fs::create_dir(&dir)?;
    fs::write(dir.join("package.json"), package_json(recipe)?)?;
    let lock = recipe.dir().join("package-lock.json");
    let verb = if lock.is_file() {
        fs::copy(&lock, dir.join("package-lock.json"))?;
        "ci"
    } else {
        "install"
    };
    shell_out::run(Command::new("npm").arg(verb).args(NPM_QUIET).current_dir(&dir))?;
    fs::rename(dir.join("node_modules"), root.join("app/node_modules"))?;
    // A Node.js runtime among them becomes /bin/node; its headers and manual are not for an app.
    for entry in fs::read_dir(root.join("app/node_modules"))? {
        let entry = entry?;
        let node = entry.path().join("bin/node");
        if entry.file_name().to_string_lossy().starts_with("node-linux-") && node.is_file() {
            fs::rename(node, root.join("bin/node"))?;
            for name in ["include", "share", "bin"] {
                fs::remove_dir_all(entry.path().join(name)).ok();
            }
        }
    }
    Ok(())
}

/// Programs built from their sources, statically linked like ours.
fn cargo(words: &str, root: &Path, cache: &Path) -> Result<()> {
    let mut words = words.split_whitespace();
    let package = words.next().context("an empty word in `cargo`")?;
    let installed = cache.join("cargo-install");
    shell_out::run(
        Command::new("cargo")
            .args(["install", "--quiet", "--locked", "--force", "--no-track", "--root"])
            .arg(&installed)
            .args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"])
            .arg(cache.join("cargo-target"))
            .arg(package)
            .args(words)
            .env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols")
            .env_remove("CARGO_TARGET_DIR")
            .current_dir(cache),
    )?;
    for entry in fs::read_dir(installed.join("bin"))? {
        let entry = entry?;
        fs::copy(entry.path(), root.join("bin").join(entry.file_name()))?;
        fs::remove_file(entry.path())?;
    }
    Ok(())
}

const PYTHON: &str = "/usr/bin/python3";

fn pip_install(recipe: &Recipe, work: &Path, locked: bool) -> Result<PathBuf> {
    let venv = work.join("venv");
    let target = work.join("python");
    shell_out::run(Command::new(PYTHON).args(["-m", "venv"]).arg(&venv))?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", "--no-compile"])
        .args(["--only-binary", ":all:", "--target"])
        .arg(&target);
    let lock = recipe.dir().join("requirements.txt");
    if locked && lock.is_file() {
        pip.args(["--require-hashes", "--no-deps", "-r"]).arg(lock);
    } else {
        pip.args(&recipe.pip);
    }
    shell_out::run(&mut pip)?;
    Ok(target)
}

fn pip(recipe: &Recipe, root: &Path, work: &Path) -> Result<()> {
    let target = pip_install(recipe, work, true)?;
    fs::rename(target, root.join("app/python"))?;
    // Debian's own interpreter and standard library.
    let version = shell_out::text(
        Command::new(PYTHON).args(["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]),
    )?;
    host(root, Path::new(&format!("/usr/bin/python{version}")))?;
    host(root, Path::new(&format!("/usr/lib/python{version}")))?;
    symlink(format!("../usr/bin/python{version}"), root.join("bin/python3"))?;
    for name in ["__pycache__", "config-*", "lib2to3", "idlelib", "ensurepip", "sitecustomize.py"] {
        shell_out::run(
            Command::new("find")
                .arg(root.join("usr/lib"))
                .args(["-depth", "-name", name, "-exec", "rm", "-rf", "{}", ";"]),
        )?;
    }
    Ok(())
}

/// Writes the lock files of a recipe anew: exact versions with hashes, no addresses.
pub fn lock(recipe: &Recipe) -> Result<()> {
    let work = tempfile::tempdir()?;
    if !recipe.npm.is_empty() {
        fs::write(work.path().join("package.json"), package_json(recipe)?)?;
        shell_out::run(
            Command::new("npm")
                .args(["install", "--package-lock-only", "--omit-lockfile-registry-resolved"])
                .args(NPM_QUIET)
                .current_dir(work.path()),
        )?;
        fs::copy(work.path().join("package-lock.json"), recipe.dir().join("package-lock.json"))?;
    }
    if !recipe.pip.is_empty() {
        let target = pip_install(recipe, work.path(), false)?;
        let frozen = shell_out::text(
            Command::new(work.path().join("venv/bin/pip"))
                .args(["--disable-pip-version-check", "freeze", "--path"])
                .arg(&target),
        )?;
        let wheels = work.path().join("wheels");
        shell_out::run(
            Command::new(work.path().join("venv/bin/pip"))
                .args(["--disable-pip-version-check", "download", "--quiet", "--no-deps"])
                .args(["--only-binary", ":all:", "--dest"])
                .arg(&wheels)
                .args(frozen.lines()),
        )?;
        let mut text = String::from("# Written by `cargo xtask app lock`.\n");
        for line in frozen.lines() {
            let wheel = wheel_of(&wheels, line)?;
            let hash = hex::encode(Sha256::digest(fs::read(wheel)?));
            text += &format!("{line} --hash=sha256:{hash}\n");
        }
        fs::write(recipe.dir().join("requirements.txt"), text)?;
    }
    Ok(())
}

/// The downloaded file of `name==version`: wheel names spell the name in their own way.
fn wheel_of(wheels: &Path, line: &str) -> Result<PathBuf> {
    let (name, version) = line.split_once("==").context("pip freeze printed no version")?;
    let plain = |text: &str| text.to_lowercase().replace(['-', '.'], "_");
    for entry in fs::read_dir(wheels)? {
        let path = entry?.path();
        let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        let mut parts = file.split('-');
        if parts.next().map(plain) == Some(plain(name)) && parts.next() == Some(version) {
            return Ok(path);
        }
    }
    anyhow::bail!("pip downloaded no file for {line}")
}

fn workspace_program(member: &str) -> Result<PathBuf> {
    shell_out::run(
        Command::new("cargo")
            .args(["build", "--release", "--quiet", "-p", member])
            .current_dir(paths::top()),
    )?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::top().join("target"), PathBuf::from);
    let path = target.join("x86_64-unknown-linux-gnu/release").join(member);
    ensure!(path.is_file(), "{} was not built", path.display());
    Ok(path)
}
