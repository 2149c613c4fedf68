//! The one error type of the supervisor and its exit codes.
//!
//! Every variant is a step that failed, with the path or value it failed on, in words that tell
//! the caller what to change. Trust: texts may quote argument strings of the (unprivileged)
//! caller; they never quote file contents.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

use sandstorm_schema::grain_limits;

/// What a failed start or a failed run ends with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line is not of the form that `--help` shows.
    #[error("{0}\nTry `sandstorm-supervisor --help`.")]
    Usage(String),
    /// What `--help` and the like were asked for cannot be told.
    #[error("cannot write to stdout: {0}")]
    Stdout(io::Error),
    /// The program file itself is not installed as a setuid program must be.
    #[error(
        "{path} is setuid but has owner {uid} and mode {mode:04o}; a setuid supervisor must belong to root with mode 4750 \
         and the group of the shell's user: chown root:GROUP {path} && chmod 4750 {path}"
    )]
    Installation { path: String, uid: u32, mode: u32 },
    /// A directory of the home has the wrong owner or can be written by others.
    #[error("{what} {path} {fault}; {fix}")]
    Untrusted { what: &'static str, path: PathBuf, fault: String, fix: String },
    /// A directory of the home could not be opened or made.
    #[error("cannot {action} {path}: {source}")]
    Storage { action: &'static str, path: PathBuf, source: io::Error },
    /// `--new` for a grain that is there already, or a start of one that is not.
    #[error("{0}")]
    Grain(String),
    /// Somebody holds the grain's lock and does not answer on its socket.
    #[error(
        "grain {0} is locked by another process that does not answer on its socket; it may still be starting or \
         ending: try again, or end the process that holds grains/{0}/lock"
    )]
    Locked(String),
    /// A system call that the sandbox needs failed.
    #[error("cannot {step}: {source}{advice}")]
    Kernel {
        step: &'static str,
        source: io::Error,
        /// Empty, or a sentence that starts with a newline and says what to change.
        advice: String,
    },
    /// A step inside the sandbox failed before the app could be started.
    #[error("the sandbox could not be built: cannot {step}: {source}{advice}")]
    Sandbox { step: String, source: io::Error, advice: String },
    /// The app could not be started, or ended.
    #[error("{0}")]
    App(String),
    /// The app was ended because it takes disk space without end.
    #[error("{0}")]
    Greed(String),
}

impl Error {
    /// A kernel step without advice; `explain` adds some where the cause is known.
    pub fn kernel<E: Into<io::Error>>(step: &'static str) -> impl FnOnce(E) -> Error {
        move |source| Error::Kernel { step, source: source.into(), advice: String::new() }
    }

    /// The process exit status for this error; `--help` prints the same table.
    pub fn exit_code(&self) -> i32 {
        match self {
            Error::App(_) | Error::Stdout(_) => 1,
            Error::Usage(_) => 2,
            Error::Installation { .. } | Error::Untrusted { .. } => 3,
            Error::Kernel { .. } | Error::Sandbox { .. } => 4,
            Error::Storage { .. } | Error::Grain(_) => 5,
            Error::Locked(_) => 6,
            Error::Greed(_) => grain_limits::EXIT_GREED,
        }
    }
}

/// A step of the sandbox's building, by its name, and why it failed.
pub type StepError = (&'static str, io::Error);

/// Names the step of a result.
pub fn step<T, E: Into<io::Error>>(
    what: &'static str,
    result: Result<T, E>,
) -> Result<T, StepError> {
    result.map_err(|e| (what, e.into()))
}

/// Exit codes in words, for `--help` and the documentation.
pub const EXIT_CODES: &[(i32, &str)] = &[
    (0, "the grain was shut down, fell asleep, or is already running"),
    (1, "the app could not be started, or ended by itself; or nothing can be written to stdout"),
    (2, "the command line is wrong"),
    (3, "refused: the program or the home has the wrong owner or mode"),
    (4, "the kernel refused a part of the sandbox"),
    (5, "the home, the package or the grain cannot be used"),
    (6, "the grain is locked by a process that does not answer"),
    (
        grain_limits::EXIT_GREED,
        "the app was ended because it went on taking disk space past its limit",
    ),
];
