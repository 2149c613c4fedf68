//! The command line: what was typed, checked, and nothing opened.
//!
//! Trust: in setuid mode every word comes from an unprivileged caller. There is no way to name a
//! path but `--home`, no uid, and no limit outside the table of `sandbox::limits`.
#![forbid(unsafe_code)]

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::{EXIT_CODES, Error};
use crate::sandbox::limits::{Limits, TABLE};

/// What to do.
#[derive(Debug)]
pub enum Action {
    Run(Box<Args>),
    /// Try what a grain needs from this machine, without a grain, and say what there is.
    Check,
    /// Print this and exit 0.
    Print(String),
}

/// A checked command line.
#[derive(Debug)]
pub struct Args {
    pub home: PathBuf,
    /// Name below `apps/`.
    pub package: CString,
    /// Name below `grains/`.
    pub grain: CString,
    /// The grain is to be made.
    pub new: bool,
    /// A grain without data gets a file system of its own for them.
    pub image: bool,
    /// The app starts as soon as its sandbox stands, not at the first call that needs it.
    pub start: bool,
    /// The app's whole environment, `NAME=VALUE` each.
    pub environ: Vec<CString>,
    /// The program, a path inside the package, and its arguments.
    pub command: Vec<CString>,
    /// Time without a sign of life after which the grain is ended.
    pub idle: Duration,
    pub limits: Limits,
}

/// Bytes that the arguments and environment of the app may have together. The kernel takes a quarter
/// of the 8 MiB stack, pointers to them included: half of that leaves room for as many as fit.
const MAX_COMMAND_BYTES: usize = 1 << 20;
/// Without a sign of life for so long a grain ends, unless it is told otherwise.
const IDLE: Duration = Duration::from_secs(90);
/// An idle time-out outside this range is a mistake.
const IDLE_SECONDS: std::ops::RangeInclusive<u64> = 1..=86_400;

/// Parses the words after the program name.
///
/// # Errors
/// `Usage`, naming the word that is wrong.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Action, Error> {
    let mut words = words.into_iter().map(OsStringExt::into_vec);
    let mut home = None;
    let (mut new, mut image, mut start) = (false, false, false);
    let mut environ = Vec::new();
    let mut idle = IDLE;
    let mut limits = Limits::default();
    let mut names = Vec::new();
    let mut command = None;

    while let Some(word) = words.next() {
        // `--name=value` and `--name value` are the same.
        let (option, mut inline) = match word.iter().position(|b| *b == b'=') {
            Some(at) if word.starts_with(b"--") => {
                (word[..at].to_vec(), Some(word[at + 1..].to_vec()))
            }
            // `-eNAME=VALUE` too, as of any short option.
            _ if word.len() > 2 && word.starts_with(b"-e") => {
                (b"-e".to_vec(), Some(word[2..].to_vec()))
            }
            _ => (word.clone(), None),
        };
        let mut value = || {
            inline
                .take()
                .or_else(|| words.next())
                .ok_or_else(|| Error::Usage(format!("{} wants a value", show(&option))))
        };
        match option.as_slice() {
            b"--home" => home = Some(PathBuf::from(OsString::from_vec(value()?))),
            b"-e" | b"--env" => environ.push(environment(value()?)?),
            b"--idle-seconds" => {
                idle = idle_time(&utf8(value()?)?)?;
            }
            #[cfg(feature = "unsafe-disable")]
            b"--unsafe-disable" => crate::layers::disable(&utf8(value()?)?)?,
            b"--limit" => limits.set(&utf8(value()?)?)?,
            b"-n" | b"--new" => new = true,
            b"--image" => image = true,
            b"--start" => start = true,
            b"-h" | b"--help" => return Ok(Action::Print(help())),
            b"-V" | b"--version" => {
                return Ok(Action::Print(format!(
                    "sandstorm-supervisor {}\n",
                    env!("CARGO_PKG_VERSION")
                )));
            }
            b"--check" => return Ok(Action::Check),
            b"--system-calls" => return Ok(Action::Print(crate::sandbox::page::markdown())),
            b"--" => {
                command = Some(words.by_ref().collect::<Vec<_>>());
            }
            other if other.starts_with(b"-") => {
                return Err(Error::Usage(format!("unknown option {}", show(other))));
            }
            _ => names.push(word),
        }
        if inline.is_some() {
            return Err(Error::Usage(format!("{} takes no value", show(&option))));
        }
    }

    let home = home.ok_or_else(|| Error::Usage("--home DIR is missing".into()))?;
    let [package, grain]: [Vec<u8>; 2] = names
        .try_into()
        .map_err(|_| Error::Usage("give PACKAGE, GRAIN, then `--` and the command".into()))?;
    let command = command.unwrap_or_default();
    if command.first().is_none_or(|program| program.is_empty()) {
        return Err(Error::Usage(
            "give the command after `--`: a path inside the package and its arguments".into(),
        ));
    }
    let size: usize = command.iter().map(Vec::len).sum::<usize>()
        + environ.iter().map(|e| e.as_bytes().len()).sum::<usize>();
    if size > MAX_COMMAND_BYTES {
        return Err(Error::Usage(format!(
            "the command and its environment have {size} bytes; at most {MAX_COMMAND_BYTES} are allowed"
        )));
    }
    Ok(Action::Run(Box::new(Args {
        home,
        package: name("package", package)?,
        grain: name("grain", grain)?,
        new,
        image,
        start,
        environ,
        command: command.into_iter().map(c_string).collect::<Result<_, _>>()?,
        idle,
        limits,
    })))
}

fn idle_time(text: &str) -> Result<Duration, Error> {
    let seconds = text.parse().ok().filter(|n| IDLE_SECONDS.contains(n));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        Error::Usage(format!(
            "--idle-seconds wants a number from {} to {}, not {text:?}",
            IDLE_SECONDS.start(),
            IDLE_SECONDS.end()
        ))
    })
}

fn c_string(bytes: Vec<u8>) -> Result<CString, Error> {
    CString::new(bytes).map_err(|_| Error::Usage("an argument has a NUL byte".into()))
}

fn utf8(bytes: Vec<u8>) -> Result<String, Error> {
    String::from_utf8(bytes)
        .map_err(|e| Error::Usage(format!("{} is not UTF-8", show(e.as_bytes()))))
}

fn environment(bytes: Vec<u8>) -> Result<CString, Error> {
    match bytes.iter().position(|b| *b == b'=') {
        None | Some(0) => Err(Error::Usage(format!("-e wants NAME=VALUE, not {}", show(&bytes)))),
        Some(_) => c_string(bytes),
    }
}

/// Four times a package id; far below what a file system takes.
const MAX_NAME: usize = 128;

/// A directory name below `apps/` or `grains/`: letters, digits, `-`, `_` and `.`, not starting with a dot.
fn name(what: &str, bytes: Vec<u8>) -> Result<CString, Error> {
    let fine = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
    if bytes.is_empty() || bytes.len() > MAX_NAME || bytes[0] == b'.' || !bytes.iter().all(fine) {
        return Err(Error::Usage(format!(
            "{} is no {what} name (at most {MAX_NAME} letters, digits, - _ . and no leading dot)",
            show(&bytes)
        )));
    }
    c_string(bytes)
}

/// A word for an error message: printable, and not endless.
fn show(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(80)];
    format!("{:?}", String::from_utf8_lossy(cut))
}

fn help() -> String {
    let mut limits = String::new();
    for l in TABLE {
        limits.push_str(&format!(
            "  {:8} default {}, at most {} {}\n           {}\n",
            l.name, l.default, l.ceiling, l.unit, l.meaning
        ));
    }
    let idle = IDLE.as_secs();
    let codes: String =
        EXIT_CODES.iter().map(|(code, meaning)| format!("  {code}  {meaning}\n")).collect();
    format!(
        "\
Runs one grain: builds its sandbox, starts the app in it when it is first needed, and serves the
Supervisor interface (Cap'n Proto RPC) on HOME/grains/GRAIN/socket.

Usage: sandstorm-supervisor --home DIR [OPTIONS] PACKAGE GRAIN -- COMMAND [ARGUMENT...]

  PACKAGE   directory below HOME/apps; becomes the app's read-only /
  GRAIN     directory below HOME/grains; its `sandbox` becomes the app's /var
  COMMAND   program to run, a path inside the package; no shell, no PATH search

Options:
  --home DIR           where apps/ and grains/ are; both must belong to the caller
  -n, --new            make the grain; an error if it is there already
  --image              keep the data of a grain that has none yet in a file system of its own, the file
                       GRAIN/image, whose size is the disk limit: setuid only, wants mke2fs and loop
                       devices. A grain that has the file is always run with it
  --start              start the app at once, not at the first call that needs it; `Listening...`
                       then says that it runs, too
  -e NAME=VALUE        one variable of the app's environment, which is empty otherwise
  --idle-seconds N     end the grain after N seconds without keepAlive or calls ({idle})
  --limit NAME=VALUE   one of the limits below; K, M, G, T are powers of 1024
  --check              try what a grain needs of this machine, without a grain: prints the mode and
                       what limits grains, or what to change (exit status 4)
  -h, --help           this text
  -V, --version        the version
  --system-calls       what apps and this program may ask of the kernel, as Markdown

Limits:
{limits}
Prints `Listening...` when the socket is ready, or `Already running...` (and exits 0) when another
supervisor serves this grain. Everything later goes to HOME/grains/GRAIN/log.

The program works in one of two modes, which it finds by itself: installed setuid root (mode 4750
root:GROUP) it gives every grain a kernel uid of its own; otherwise it uses user namespaces.

Examples:
  sandstorm-supervisor --home /var/sandstorm --new 0123456789abcdef0123456789abcdef \\
      AbCdEfGhJkLmNpQrStWxYz -- /bin/server --port 8000
  sandstorm-supervisor --home ./.sandstorm -e LANG=C.UTF-8 --limit memory=256M PACKAGE GRAIN -- /app

Exit status:
{codes}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Result<Action, Error> {
        parse(line.iter().map(OsString::from))
    }

    fn run(line: &[&str]) -> Args {
        match words(line).unwrap() {
            Action::Run(args) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_contract_line_parses() {
        let args = run(&[
            "--home",
            "/h",
            "--new",
            "--image",
            "-e",
            "A=b=c",
            "-eB=c=d",
            "--idle-seconds",
            "5",
            "--limit",
            "pids=7",
            "pkg",
            "grainid12",
            "--",
            "/bin/app",
            "--home",
            "x",
        ]);
        assert_eq!(args.home, PathBuf::from("/h"));
        assert!(args.new && args.image);
        assert_eq!(args.environ, [c"A=b=c".to_owned(), c"B=c=d".to_owned()]);
        assert_eq!(args.idle, Duration::from_secs(5));
        assert_eq!(args.limits.pids, 7);
        assert_eq!(args.package.as_c_str(), c"pkg");
        assert_eq!(args.command, [c"/bin/app".to_owned(), c"--home".to_owned(), c"x".to_owned()]);
        let inline = run(&["--home=/h", "pkg", "grainid12", "--", "/a"]);
        assert_eq!(inline.home, PathBuf::from("/h"));
    }

    #[test]
    fn wrong_lines_are_refused() {
        let good = ["--home", "/h", "pkg", "grainid12", "--", "/a"];
        assert!(words(&good).is_ok());
        let wrong = |middle: &[&str], rest: &[&str]| {
            let line = [&["--home", "/h"], middle, rest].concat();
            words(&line).err().unwrap_or_else(|| panic!("{line:?}")).to_string()
        };
        let (names, command) = (["pkg", "grainid12"], ["--", "/a"]);
        for (names, word) in [
            (&["../pkg", "grainid12"][..], "package name"),
            (&[".pkg", "grainid12"], "package name"),
            (&["", "grainid12"], "package name"),
            (&["pkg", "grain/id"], "grain name"),
            (&["pkg", ".."], "grain name"),
            (&["pkg", ""], "grain name"),
            (&["pkg", &"g".repeat(MAX_NAME + 1)], "grain name"),
            (&["pkg", "grainid12", "third"], "PACKAGE, GRAIN"),
            (&["pkg"], "PACKAGE, GRAIN"),
        ] {
            assert!(wrong(names, &command).contains(word), "{names:?}");
        }
        for (option, word) in [
            (&["--uid", "0"][..], "unknown option \"--uid\""),
            (&["--new=1"], "takes no value"),
            (&["-e", "=x"], "NAME=VALUE"),
            (&["-e", "x"], "NAME=VALUE"),
            (&["-ex"], "NAME=VALUE"),
            (&["-e=x=y"], "NAME=VALUE"),
            (&["-nx"], "unknown option"),
            (&["--idle-seconds", "0"], "from 1 to"),
            (&["--limit", "uid=0"], "uid"),
        ] {
            let rest = [&names[..], &command].concat();
            assert!(wrong(option, &rest).contains(word), "{option:?}");
        }
        for rest in [&[][..], &["--"], &["--", ""]] {
            assert!(wrong(&names, rest).contains("command after `--`"), "{rest:?}");
        }
        for (line, word) in
            [(&["pkg", "grainid12", "--", "/a"][..], "--home"), (&["--home"], "value")]
        {
            assert!(words(line).unwrap_err().to_string().contains(word), "{line:?}");
        }
    }

    #[test]
    fn help_names_every_limit_and_code() {
        let Action::Print(text) = words(&["--help"]).unwrap() else { panic!("help runs nothing") };
        for limit in TABLE {
            assert!(text.contains(limit.name));
        }
        for (_, meaning) in EXIT_CODES {
            assert!(text.contains(meaning));
        }
    }
}
