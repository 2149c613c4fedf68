//! What the sub-commands print, and the name that they are called by.

use std::fmt::Arguments;
use std::io::Write;

/// One line to stdout. A reader that has gone (`| head`) has what it wanted: the program ends
/// quietly with 0. A disk that is full is an error like any other, exit 1.
pub fn line(text: Arguments<'_>) {
    if let Err(error) = try_line(text) {
        std::process::exit(not_written(&error));
    }
}

/// How a program ends whose output was not taken.
pub fn not_written(error: &std::io::Error) -> i32 {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        return 0;
    }
    // A closed stderr must not turn into a panic.
    let _ = writeln!(std::io::stderr(), "{}: cannot write to stdout: {error}", called());
    1
}

/// One line to stdout, for a program that goes on whatever comes of it.
pub fn try_line(text: Arguments<'_>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// `println!` for sub-commands, by [`line`].
macro_rules! outln {
    ($($text:tt)*) => { $crate::cli::output::line(format_args!($($text)*)) };
}
pub(crate) use outln;

/// The name that this program was started by: `shell` in a checkout, `sandstorm` where it is
/// installed. Messages that name a command name one that can be typed.
pub fn called() -> String {
    std::env::args_os()
        .next()
        .as_deref()
        .map(std::path::Path::new)
        .and_then(|path| path.file_name()?.to_str().map(str::to_owned))
        .filter(|name| !name.is_empty() && name.len() < 64)
        .unwrap_or_else(|| "shell".into())
}
