//! Shared libraries: finds what the ELF files of a tree need and copies it from this machine, as the
//! porting guide's "use ldd" step does by hand.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// Copies the libraries that ELF files below `root` need and `root` lacks. Files for other machines
/// are passed over.
pub fn close(root: &Path) -> Result<()> {
    let mut elves = Vec::new();
    find_elves(root, &mut elves)?;
    let mut done = BTreeSet::new();
    for elf in elves {
        for library in needed(root, &elf)? {
            if done.insert(library.clone()) {
                copy_in(root, &library)?;
            }
        }
    }
    Ok(())
}

fn find_elves(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find_elves(&entry.path(), found)?;
        } else if kind.is_file() && is_elf_for_here(&entry.path())? {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// 64-bit little-endian ELF for this architecture.
fn is_elf_for_here(path: &Path) -> Result<bool> {
    const MACHINE: u8 = if cfg!(target_arch = "x86_64") { 0x3e } else { 0xb7 };
    let mut head = [0u8; 20];
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    Ok(head.starts_with(b"\x7fELF\x02\x01") && head[18] == MACHINE && head[19] == 0)
}

/// Absolute paths, on this machine, of the libraries and the loader that `elf` names.
fn needed(root: &Path, elf: &Path) -> Result<Vec<PathBuf>> {
    let search = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib", "lib"]
        .map(|dir| root.join(dir).to_string_lossy().into_owned())
        .join(":");
    let answer = Command::new("ldd")
        .arg(elf)
        .env("LD_LIBRARY_PATH", search)
        .env("LC_ALL", "C")
        .output()
        .context("cannot start ldd")?;
    let mut libraries = Vec::new();
    for line in String::from_utf8_lossy(&answer.stdout).lines() {
        let line = line.trim();
        if let Some(name) = line.strip_suffix("=> not found") {
            // Not an error: npm packages carry builds for other C libraries beside ours.
            eprintln!(
                "note: {} names {}, which is neither in the tree nor on this machine; if the app \
                 misses it, name the Debian package that has it in the recipe's `debian`",
                elf.strip_prefix(root).unwrap_or(elf).display(),
                name.trim()
            );
            continue;
        }
        // "libm.so.6 => /lib/x86_64-linux-gnu/libm.so.6 (0x…)" or "/lib64/ld-linux… (0x…)"
        let path = line.split(" => ").last().and_then(|rest| rest.split(" (").next()).unwrap_or("");
        if path.starts_with('/') && !Path::new(path).starts_with(root) {
            libraries.push(PathBuf::from(path));
        }
    }
    Ok(libraries)
}

/// Copies one file, links followed, to the same place in the tree, unless it is there.
fn copy_in(root: &Path, library: &Path) -> Result<()> {
    let inside = root.join(library.strip_prefix("/").expect("absolute"));
    if inside.symlink_metadata().is_ok() {
        return Ok(());
    }
    let parent = inside.parent().expect("below root");
    fs::create_dir_all(parent)?;
    fs::copy(library, &inside)
        .with_context(|| format!("cannot copy {} into the tree", library.display()))?;
    Ok(())
}
