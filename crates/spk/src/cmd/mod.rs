//! One command a file.

pub mod init;
pub mod keys;
pub mod pack;
pub mod unpack;
pub mod unpack_server;
pub mod verify;

use std::fmt::Arguments;
use std::io::Write;

use spk::error::{Error, Result};

/// Prints to stdout; a reader that left early is an error, not a panic.
pub fn print(text: Arguments<'_>) -> Result<()> {
    let mut stdout = std::io::stdout();
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(Error::io("stdout"))
}

/// One line on stderr that does not end the command.
pub fn warn(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "spk: warning: {text}");
}
