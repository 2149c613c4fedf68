//! `keygen`, `appid`, `listkeys`, `getkey`: signing keys in files and in the keyring.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use sandstorm_schema::ids::AppId;
use spk::error::{Error, Result, display_path};
use spk::format::replacement;
use spk::keyring::{self, Key, Keyring};

use crate::args::Global;

/// `keygen FILE…` (2014) or `keygen` (into the keyring).
pub fn keygen(global: &Global, files: &[PathBuf], only_id: bool) -> Result<()> {
    if files.is_empty() {
        let path = keyring::path(global.keyring.as_deref())?;
        let key = Key::generate()?;
        let id = key.app_id();
        keyring::append(&path, &key, || super::print(format_args!("{id}\n")))?;
        warn_to_keep(global, &path);
        return Ok(());
    }
    // All or nothing: every name is looked at before the first key is made.
    for (index, path) in files.iter().enumerate() {
        if files[..index].contains(path) {
            return Err(Error::Usage(format!("{}: named twice", display_path(path))));
        }
        if path.symlink_metadata().is_ok() {
            return Err(keyring::exists(path));
        }
    }
    let mut made = Vec::new();
    let done = make_keys(files, only_id, &mut made);
    if done.is_err() {
        for path in made {
            let _ = std::fs::remove_file(path);
        }
    }
    done
}

/// Notes each file that it makes.
fn make_keys<'a>(files: &'a [PathBuf], only_id: bool, made: &mut Vec<&'a PathBuf>) -> Result<()> {
    let mut ids = Vec::new();
    for path in files {
        let key = Key::generate()?;
        keyring::create(path, &key)?;
        made.push(path);
        ids.push(key.app_id());
    }
    for (id, path) in ids.into_iter().zip(files) {
        print_id(id, path, only_id)?;
    }
    Ok(())
}

/// `appid KEYFILE…`
pub fn appid(files: &[PathBuf], only_id: bool) -> Result<()> {
    for path in files {
        let ring = Keyring::load(path)?;
        // Silence would pass for an answer.
        ring.first()?;
        for key in ring.keys() {
            print_id(key.app_id(), path, only_id)?;
        }
    }
    Ok(())
}

/// `listkeys`
pub fn listkeys(global: &Global) -> Result<()> {
    let ring = keyring(global)?;
    for key in ring.keys() {
        super::print(format_args!("{}\n", key.app_id()))?;
    }
    Ok(())
}

/// `getkey APPID…`
pub fn getkey(global: &Global, ids: &[String]) -> Result<()> {
    let stdout = std::io::stdout().lock();
    if stdout.is_terminal() {
        return Err(Error::Usage(
            "a key is binary and secret; send it to a file: spk getkey APPID > FILE".into(),
        ));
    }
    let ring = keyring(global)?;
    // All or nothing: look every id up before the first byte is written.
    let mut bytes = Vec::new();
    for text in ids {
        let id: AppId =
            text.parse().map_err(|e| Error::Usage(format!("{}: {e}", text.escape_debug())))?;
        let signer = replacement::signer_of(id);
        if signer != id {
            super::warn(format_args!("packages of {id} are signed with the key {signer} today"));
        }
        bytes.extend(ring.find(id)?.to_bytes());
    }
    let mut stdout = super::Stdout(stdout);
    stdout.write_all(&bytes).and_then(|()| stdout.flush()).map_err(Error::Stdout)
}

/// The keyring that is named, or the one of this user.
fn keyring(global: &Global) -> Result<Keyring> {
    let path = keyring::path(global.keyring.as_deref())?;
    if global.keyring.is_none() && matches!(path.try_exists(), Ok(false)) {
        return Err(Error::Key {
            path: display_path(&path),
            fault: "there is no keyring yet; `spk keygen` makes one, `-k` names another".into(),
        });
    }
    Keyring::load(&path)
}

/// What everyone must know who has just made a key.
pub fn warn_to_keep(global: &Global, path: &Path) {
    if !global.quiet {
        super::warn(format_args!(
            "the new key is in {}, not encrypted; keep a copy: without it nobody can update the app",
            display_path(path)
        ));
    }
}

fn print_id(id: AppId, path: &Path, only_id: bool) -> Result<()> {
    if only_id {
        super::print(format_args!("{id}\n"))
    } else {
        super::print(format_args!("{id} {}\n", display_path(path)))
    }
}
