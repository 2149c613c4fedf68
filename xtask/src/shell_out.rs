//! Running other programs, with errors that say which one failed and what it said.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs to the end; quiet on success, the whole output in the error otherwise.
pub fn run(command: &mut Command) -> Result<()> {
    output(command).map(drop)
}

/// Runs to the end and returns what it wrote to stdout.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let shown = format!("{command:?}");
    let done = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
    if !done.status.success() {
        bail!(
            "{shown} ended with {}\n{}{}",
            done.status,
            String::from_utf8_lossy(&done.stdout),
            String::from_utf8_lossy(&done.stderr)
        );
    }
    Ok(done.stdout)
}

/// [`output`] as trimmed text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).trim().to_owned())
}
