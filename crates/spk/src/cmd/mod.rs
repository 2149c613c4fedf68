//! One command a file.

pub mod init;
pub mod keys;
pub mod pack;
pub mod unpack;
pub mod unpack_server;
pub mod verify;

use std::fmt::Arguments;
use std::io::{self, StdoutLock, Write};

use spk::error::{Error, Result};

/// Prints to stdout.
pub fn print(text: Arguments<'_>) -> Result<()> {
    let mut stdout = Stdout(std::io::stdout().lock());
    stdout.write_fmt(text).and_then(|()| stdout.flush()).map_err(Error::Stdout)
}

/// stdout. A reader that left early (`spk verify FILE | head -1`) has what it wanted: the rest goes
/// nowhere, and the command ends as it would have.
pub struct Stdout(pub StdoutLock<'static>);

fn unless_left<T>(result: io::Result<T>, then: T) -> io::Result<T> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(then),
        other => other,
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_left(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_left(self.0.flush(), ())
    }
}

/// One line on stderr that does not end the command.
pub fn warn(text: Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "spk: warning: {text}");
}
