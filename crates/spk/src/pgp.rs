//! The author's PGP statement in a manifest: a signed sentence that names the app.
//!
//! `gpg` reads what a stranger made, so it runs under a helper process of ours (`spk pgp-server`),
//! which is confined first and started before the caller confines itself. Question and answer are
//! one `VerifiedInfo` message each, over the helper's stdin and stdout.

use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use capnp::message::{Builder, ReaderOptions};
use sandstorm_schema::ids::AppId;
use sandstorm_schema::package_capnp::{manifest, verified_info};

use crate::error::{Error, Result};
use crate::format::frame;
use crate::format::limits::MAX_MANIFEST_WORDS;
use crate::sys::lockdown;
use crate::sys::scratch::working_name;

/// Bytes of gpg's answers that are looked at.
const MAX_OUTPUT: u64 = 64 << 10;

/// The sentence that an author signs.
pub fn sentence(app: AppId) -> String {
    format!("I am the author of the Sandstorm.io app with the following ID: {app}")
}

/// What came out of the check.
#[derive(Debug, PartialEq, Eq)]
pub enum Author {
    /// The package has no statement.
    Unsigned,
    /// The statement holds; the fingerprint of the key.
    Key(String),
    /// There is a statement, and no `gpg` here that could check it, or no Landlock to confine it.
    Unchecked,
}

/// A helper that waits for a question.
pub struct Helper(Option<Child>);

impl Helper {
    /// Starts the helper, if there is a `gpg`.
    ///
    /// # Errors
    /// Our own executable cannot be started again.
    pub fn start() -> Result<Helper> {
        if find_gpg().is_none() {
            return Ok(Helper(None));
        }
        let failed = |e| Error::io("cannot start the helper that checks PGP signatures")(e);
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("pgp-server")
            .env_clear()
            .envs(std::env::var_os("TMPDIR").map(|dir| ("TMPDIR", dir)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        Ok(Helper(Some(child)))
    }

    /// Checks the statement in a manifest. Asks the helper once at most.
    ///
    /// # Errors
    /// A statement that does not hold, or a helper that broke down.
    pub fn check(mut self, app: AppId, manifest: manifest::Reader<'_>) -> Result<Author> {
        let bad = |e: capnp::Error| Error::Manifest(e.to_string());
        let metadata = manifest.get_metadata().map_err(bad)?;
        let author = metadata.get_author();
        if !author.has_pgp_signature() {
            return Ok(Author::Unsigned);
        }
        if !metadata.has_pgp_keyring() {
            return Err(Error::Pgp("a signature without a keyring (pgpKeyring) beside it".into()));
        }
        let Some(child) = &mut self.0 else { return Ok(Author::Unchecked) };
        let mut question = Builder::new_default();
        let mut root = question.init_root::<verified_info::Builder<'_>>();
        let mut id = root.reborrow().init_app_id();
        let words: Vec<u64> = app.0.chunks_exact(8).map(le_word).collect();
        id.set_id0(words[0]);
        id.set_id1(words[1]);
        id.set_id2(words[2]);
        id.set_id3(words[3]);
        root.set_metadata(metadata).map_err(bad)?;

        let failed = |e| Error::io("the helper that checks PGP signatures")(e);
        let bytes = capnp::serialize::write_message_to_words(&question);
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(&bytes).map_err(failed)?;
        }
        let mut answer = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_OUTPUT).read_to_end(&mut answer).map_err(failed)?;
        }
        if answer.is_empty() {
            let mut told = Vec::new();
            if let Some(stderr) = child.stderr.take() {
                stderr.take(MAX_OUTPUT).read_to_end(&mut told).map_err(failed)?;
            }
            let told = String::from_utf8_lossy(&told);
            let told = crate::error::display_bytes(told.trim().as_bytes());
            return Err(Error::Pgp(told));
        }
        read_answer(&answer)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Without a question it ends at the end of its stdin.
            drop(child.stdin.take());
            let _ = child.wait();
        }
    }
}

fn le_word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn read_answer(bytes: &[u8]) -> Result<Author> {
    let broken = |e: String| Error::Pgp(format!("the helper's answer is malformed: {e}"));
    let frame = frame::read(&mut &bytes[..], 1024).map_err(|e| broken(e.to_string()))?;
    let message = capnp::message::Reader::new(frame, ReaderOptions::new());
    let root =
        message.get_root::<verified_info::Reader<'_>>().map_err(|e| broken(e.to_string()))?;
    let text = root.get_author_pgp_key_fingerprint().map_err(|e| broken(e.to_string()))?;
    if text.is_empty() {
        return Ok(Author::Unchecked);
    }
    fingerprint(text.as_bytes()).map(Author::Key).ok_or_else(|| broken("no fingerprint".into()))
}

/// 40 hex digits (64 for newer keys), upper case.
fn fingerprint(text: &[u8]) -> Option<String> {
    let good = (text.len() == 40 || text.len() == 64) && text.iter().all(u8::is_ascii_hexdigit);
    good.then(|| String::from_utf8_lossy(text).to_uppercase())
}

/// `gpg`, where distributions put it; PATH is not asked, for the server's is empty.
fn find_gpg() -> Option<PathBuf> {
    ["/usr/bin/gpg", "/usr/local/bin/gpg", "/bin/gpg"]
        .iter()
        .map(PathBuf::from)
        .find(|path| path.metadata().is_ok_and(|m| m.permissions().mode() & 0o111 != 0))
}

/// The helper's outer side: waits for a question, does not look at it, and hands it to a second
/// process in an empty directory, which it removes afterwards. Kept apart from the confined one
/// because that may not remove its own directory.
///
/// # Errors
/// The statement does not hold, in words for the asker.
pub fn serve() -> Result<()> {
    let failed = |e| Error::io("the helper that checks PGP signatures")(e);
    let mut question = Vec::new();
    let most = 8 * MAX_MANIFEST_WORDS + 8192;
    std::io::stdin().lock().take(most).read_to_end(&mut question).map_err(failed)?;
    if question.is_empty() {
        return Ok(());
    }
    let home = TempHome::make()?;
    let mut child = Command::new(std::env::current_exe().map_err(failed)?)
        .arg("pgp-server")
        .arg(&home.0)
        .env_clear()
        .current_dir(&home.0)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // It may have ended with an error of its own, which it has told.
        let _ = stdin.write_all(&question);
    }
    child.wait().map_err(failed)?;
    Ok(())
}

/// The helper's inner side: confines itself to `home`, answers one question with gpg's help, ends.
///
/// # Errors
/// The statement does not hold, in words for the asker.
pub fn serve_confined(home: &Path) -> Result<()> {
    let gpg = find_gpg().ok_or_else(|| Error::Pgp("gpg is gone".into()))?;
    let confined = lockdown::confine_gpg(home)?;
    let question = frame::read(&mut std::io::stdin().lock(), MAX_MANIFEST_WORDS)
        .map_err(|fault| Error::Pgp(fault.to_string()))?;
    let bad = |e: capnp::Error| Error::Pgp(e.to_string());
    let options = ReaderOptions {
        traversal_limit_in_words: Some(4 * MAX_MANIFEST_WORDS as usize),
        nesting_limit: 64,
    };
    let message = capnp::message::Reader::new(question, options);
    let root = message.get_root::<verified_info::Reader<'_>>().map_err(bad)?;
    let id = root.get_app_id().map_err(bad)?;
    let mut app = [0; 32];
    for (bytes, word) in
        app.chunks_exact_mut(8).zip([id.get_id0(), id.get_id1(), id.get_id2(), id.get_id3()])
    {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let metadata = root.get_metadata().map_err(bad)?;
    let keyring = metadata.get_pgp_keyring().map_err(bad)?;
    let signature = metadata.get_author().get_pgp_signature().map_err(bad)?;
    // It reads what a stranger made: never with all of our rights.
    let key = match confined {
        true => ask_gpg(&gpg, home, keyring, signature, AppId(app))?,
        false => String::new(),
    };

    let mut answer = Builder::new_default();
    answer.init_root::<verified_info::Builder<'_>>().set_author_pgp_key_fingerprint(&key);
    capnp::serialize::write_message(std::io::stdout(), &answer).map_err(bad)
}

fn ask_gpg(
    gpg: &Path,
    home: &Path,
    keyring: &[u8],
    signature: &[u8],
    app: AppId,
) -> Result<String> {
    let failed = |e| Error::io("gpg")(e);
    std::fs::write(home.join("keyring"), keyring).map_err(failed)?;
    std::fs::write(home.join("statement"), signature).map_err(failed)?;
    let output = Command::new(gpg)
        .args(["--homedir", "."])
        .args(["--batch", "--no-tty", "--no-autostart", "--no-auto-key-retrieve", "--no-options"])
        .args(["--max-output", "65536", "--status-file", "status"])
        .args(["--no-default-keyring", "--keyring", "./keyring", "--decrypt", "statement"])
        .env_clear()
        .env("LC_ALL", "C")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .and_then(|mut child| {
            let mut text = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(MAX_OUTPUT).read_to_end(&mut text)?;
            }
            Ok((child.wait()?, text))
        });
    let (status, text) = output.map_err(failed)?;
    let mut lines = Vec::new();
    if let Ok(file) = std::fs::File::open(home.join("status")) {
        file.take(MAX_OUTPUT).read_to_end(&mut lines).map_err(failed)?;
    }
    if !status.success() {
        return Err(Error::Pgp("the author's signature is not valid".into()));
    }
    if String::from_utf8_lossy(&text).trim() != sentence(app) {
        return Err(Error::Pgp(format!("the author did not sign the sentence: {}", sentence(app))));
    }
    valid_key(&String::from_utf8_lossy(&lines)).ok_or_else(|| Error::Pgp("gpg named no key".into()))
}

/// The primary key's fingerprint out of gpg's status lines.
fn valid_key(status: &str) -> Option<String> {
    let line = status.lines().find(|line| line.starts_with("[GNUPG:] VALIDSIG "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    fingerprint(words.get(11).or_else(|| words.get(2))?.as_bytes())
}

/// An empty home for gpg, gone when we are done.
struct TempHome(PathBuf);

impl TempHome {
    fn make() -> Result<TempHome> {
        let parent = std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty());
        let parent = parent.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let path = parent.join(working_name(b"spk-gpg")?);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(Error::io("cannot make a directory for gpg"))?;
        Ok(TempHome(path))
    }
}

impl Drop for TempHome {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_primary_key_is_taken_from_the_status() {
        let (sub, primary) = ("A".repeat(40), "b".repeat(40));
        let line = format!("[GNUPG:] VALIDSIG {sub} 2026-01-01 1 0 4 0 22 8 01 {primary}");
        assert_eq!(valid_key(&format!("x\n{line}\n")), Some("B".repeat(40)));
        let old = format!("[GNUPG:] VALIDSIG {sub} 2026-01-01 1 0 4 0 22 8 01");
        assert_eq!(valid_key(&old), Some(sub));
        assert_eq!(valid_key("[GNUPG:] GOODSIG x"), None);
        assert_eq!(valid_key("[GNUPG:] VALIDSIG xyz"), None);
    }

    #[test]
    fn an_answer_is_a_key_or_that_nothing_was_checked() {
        let answer = |text: &str| {
            let mut answer = Builder::new_default();
            answer.init_root::<verified_info::Builder<'_>>().set_author_pgp_key_fingerprint(text);
            read_answer(&capnp::serialize::write_message_to_words(&answer))
        };
        assert_eq!(answer("").unwrap(), Author::Unchecked);
        assert_eq!(answer(&"ab".repeat(20)).unwrap(), Author::Key("AB".repeat(20)));
        assert!(answer("no key").is_err());
    }

    #[test]
    fn ids_keep_their_bytes() {
        assert_eq!(le_word(&[1, 2, 3, 4, 5, 6, 7, 8]).to_le_bytes(), [1, 2, 3, 4, 5, 6, 7, 8]);
    }
}
