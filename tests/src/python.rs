//! Python for the independent programs in `tests/python`: Debian's interpreter in an environment of
//! its own, made once for each version of `requirements.txt` and kept in the user's cache directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// Debian's own, not one that somebody put in front of it on the PATH.
const PYTHON: &str = "/usr/bin/python3";

/// Where the independent programs are.
pub fn programs() -> PathBuf {
    crate::top().join("tests/python")
}

/// The environment's interpreter, making the environment if it is not there. Safe to call from
/// many tests at once: each makes its own and the first to finish wins.
pub fn interpreter() -> Result<PathBuf> {
    let requirements = programs().join("requirements.txt");
    let wanted = std::fs::read(&requirements)?;
    let version = output(Command::new(PYTHON).arg("--version"))
        .context("install Debian's packages python3 and python3-venv")?;
    let hash = Sha256::new().chain_update(&wanted).chain_update(&version).finalize();
    let name = format!("python-{}", &hex::encode(hash)[..16]);
    let cache = cache()?;
    let python = |environment: &Path| environment.join("bin/python");
    let finished = cache.join(&name);
    if python(&finished).exists() {
        return Ok(python(&finished));
    }

    // Packages find each other by absolute paths, so the environment is made where it will stay,
    // behind a name that nobody looks up: what `finished` is, is a link to it.
    let fresh =
        cache.join(format!("{name}.{}.{:?}", std::process::id(), std::thread::current().id()));
    let made = (|| {
        output(Command::new(PYTHON).args(["-m", "venv"]).arg(&fresh))?;
        let pip = ["-m", "pip", "install", "--quiet", "--no-input", "--only-binary=:all:", "-r"];
        output(Command::new(python(&fresh)).args(pip).arg(&requirements))
    })();
    if let Err(error) = made {
        let _ = std::fs::remove_dir_all(&fresh);
        return Err(error);
    }
    match std::os::unix::fs::symlink(&fresh, &finished) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_dir_all(&fresh)?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(python(&finished))
}

/// The user's cache directory for these tests, outside of the checkout.
fn cache() -> Result<PathBuf> {
    let base = match (std::env::var_os("XDG_CACHE_HOME"), std::env::var_os("HOME")) {
        (Some(cache), _) if !cache.is_empty() => PathBuf::from(cache),
        (_, Some(home)) => PathBuf::from(home).join(".cache"),
        _ => bail!("neither XDG_CACHE_HOME nor HOME is set"),
    };
    let cache = base.join("sandstorm-tests");
    std::fs::create_dir_all(&cache)?;
    Ok(cache)
}

/// Runs to the end and returns what was printed; the error holds what was said on stderr.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}
