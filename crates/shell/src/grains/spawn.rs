//! Starting a supervisor: absolute path, cleared environment, known file descriptors.
//!
//! The supervisor outlives us if need be: it is in a process group of its own, and nothing of it
//! depends on the pipes it was started with once it has said `Listening...`.

use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::watch;

use super::manifest;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::identity::text::{lines, one_line};
use crate::ids::{GrainId, PackageId};
use crate::limits::Chosen;

/// From exec to `Listening...`; a machine under load starts slowly, but not this slowly.
const LISTEN_TIME: Duration = Duration::from_secs(30);
/// The supervisor ends its grain after so many seconds without a sign of life of ours.
pub const SUPERVISOR_IDLE: u64 = 90;
/// Exit status of a supervisor whose box stands, but whose app could not be started.
const APP_FAILED: i32 = 1;
/// Characters of a supervisor's last words that people are shown; a package has a part in them.
pub const WORDS: usize = 600;
/// What is kept of a supervisor's error output.
const STDERR_BYTES: usize = 16 * 1024;

/// A supervisor that we started.
#[derive(Clone)]
pub struct Child {
    exit: watch::Receiver<Option<ExitStatus>>,
    errors: Arc<Mutex<Vec<u8>>>,
}

impl Child {
    /// The exit status, if it comes within `time`.
    pub async fn exited(&self, time: Duration) -> Option<ExitStatus> {
        let mut exit = self.exit.clone();
        let status = tokio::time::timeout(time, exit.wait_for(Option::is_some)).await;
        status.ok()?.ok().and_then(|status| *status)
    }

    /// What it wrote to its error output, printable.
    pub fn errors(&self) -> String {
        printable(&self.errors.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How a start went.
pub enum Started {
    Listening(Child),
    /// Somebody else's supervisor serves this grain already.
    AlreadyRunning,
}

/// What a grain has of its own so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is to be made.
    New,
    /// No data, outside of an image at least.
    Empty,
    Used,
}

impl State {
    /// `dir`: the grain's.
    pub fn of(dir: &Path) -> State {
        match std::fs::read_dir(dir.join("sandbox")).map(|mut names| names.next().is_none()) {
            Ok(true) => State::Empty,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => State::New,
            _ => State::Used,
        }
    }
}

/// Starts a supervisor and waits until it listens.
///
/// # Errors
/// `GrainFailed` with the supervisor's own words.
pub async fn spawn(
    config: &Config,
    grain: &GrainId,
    package: &PackageId,
    state: State,
    limits: &Chosen,
    command: &manifest::Command,
) -> Result<Started> {
    let program = config.bin.join("sandstorm-supervisor");
    let mut child = Command::new(&program)
        .args(arguments(config, grain, package, state, limits, command))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .current_dir("/")
        .process_group(0)
        .kill_on_drop(false)
        .spawn()
        .map_err(|e| failed(format!("{} cannot be run: {e}", program.display()), String::new()))?;
    let pid = child.id().unwrap_or_default();
    let (Some(stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(Error::Internal("a child without pipes".into()));
    };
    let errors = Arc::new(Mutex::new(Vec::new()));
    let reading = tokio::spawn(keep_tail(stderr, errors.clone()));
    let (exited, exit) = watch::channel(None);
    tokio::spawn(async move {
        let status = child.wait().await.ok();
        // What it said last is still in the pipe.
        let _ = tokio::time::timeout(Duration::from_millis(500), reading).await;
        // Nobody waiting is fine.
        let _ = exited.send(status);
    });
    let child = Child { exit, errors };
    let mut stdout = BufReader::new(stdout);
    let mut line = Vec::new();
    let first = (&mut stdout).take(4096);
    tokio::pin!(first);
    match tokio::time::timeout(LISTEN_TIME, first.read_until(b'\n', &mut line)).await {
        Ok(Ok(_)) if line == b"Listening...\n" => {
            // Whatever else it prints must not block it.
            tokio::spawn(async move {
                let _ = tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await;
            });
            Ok(Started::Listening(child))
        }
        Ok(Ok(_)) if line == b"Already running...\n" => Ok(Started::AlreadyRunning),
        Ok(Ok(0)) => {
            let status = child.exited(Duration::from_secs(5)).await;
            Err(match status.and_then(|status| status.code()) {
                Some(APP_FAILED) => app_failed(&child.errors()),
                _ => failed(describe(status), child.errors()),
            })
        }
        Ok(_) => {
            kill(pid);
            Err(failed(format!("it said {:?}", printable(&line)), child.errors()))
        }
        Err(_) => {
            kill(pid);
            let seconds = LISTEN_TIME.as_secs();
            Err(failed(format!("it was not ready within {seconds} seconds"), child.errors()))
        }
    }
}

fn arguments(
    config: &Config,
    grain: &GrainId,
    package: &PackageId,
    state: State,
    limits: &Chosen,
    command: &manifest::Command,
) -> Vec<OsString> {
    let mut words: Vec<OsString> = vec!["--home".into(), config.home.as_os_str().into()];
    if state == State::New {
        words.push("--new".into());
    }
    // Also for a grain without data: its first start may have been killed before it made the image.
    if config.grain_image && state != State::Used {
        words.push("--image".into());
    }
    for pair in &command.environ {
        words.extend(["-e".into(), pair.into()]);
    }
    // Whoever opens a grain needs its app: it starts while we connect.
    words.push("--start".into());
    words.extend(["--idle-seconds".into(), SUPERVISOR_IDLE.to_string().into()]);
    for assignment in limits.assignments() {
        words.extend(["--limit".into(), assignment.into()]);
    }
    words.extend([package.to_string().into(), grain.as_str().into(), "--".into()]);
    words.extend(command.argv.iter().map(OsString::from));
    words
}

fn failed(reason: String, errors: String) -> Error {
    let reason = match own_words(&errors) {
        Some(words) => format!("The box could not be started: {}", one_line(words, WORDS)),
        None => format!("The box could not be started: {reason}."),
    };
    Error::GrainFailed { reason, code: super::errors::code("G-BOX"), log_tail: String::new() }
}

/// The box stood, and the app in it could not be executed.
fn app_failed(errors: &str) -> Error {
    let reason = match own_words(errors) {
        Some(words) => sentence(&one_line(words, WORDS)),
        None => "The app could not be started.".into(),
    };
    Error::GrainFailed { reason, code: super::errors::code("G-EXIT"), log_tail: String::new() }
}

/// The supervisor's own last words in its error output.
pub fn own_words(errors: &str) -> Option<&str> {
    const NAME: &str = "sandstorm-supervisor: ";
    let at = match errors.rfind(&format!("\n{NAME}")) {
        Some(at) => at + 1,
        None if errors.starts_with(NAME) => 0,
        None => return None,
    };
    Some(errors[at + NAME.len()..].trim()).filter(|words| !words.is_empty())
}

/// Words as a sentence of their own.
pub fn sentence(words: &str) -> String {
    let words = words.trim_end_matches(['.', ':', ' ']).trim();
    let mut chars = words.chars();
    match chars.next() {
        Some(first) => format!("{}{}.", first.to_uppercase(), chars.as_str()),
        None => String::new(),
    }
}

/// An exit status in words.
pub fn describe(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        None => "it does not answer".into(),
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("it ended with status {code}"),
            (None, Some(signal)) => format!("it was ended by signal {signal}"),
            (None, None) => "it ended".into(),
        },
    }
}

/// Ends a process that we started, or that the kernel named as a socket's owner.
pub fn kill(pid: u32) {
    if let Ok(pid @ 2..) = i32::try_from(pid) {
        let pid = nix::unistd::Pid::from_raw(pid);
        // Gone already is what we want.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

async fn keep_tail(mut from: impl AsyncRead + Unpin, tail: Arc<Mutex<Vec<u8>>>) {
    let mut chunk = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut chunk).await {
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend_from_slice(&chunk[..length]);
        let over = tail.len().saturating_sub(STDERR_BYTES);
        tail.drain(..over);
    }
}

/// Text of an app or a child for people: no control characters but line ends, none that turn text
/// around.
pub fn printable(bytes: &[u8]) -> String {
    lines(&String::from_utf8_lossy(bytes), usize::MAX)
}
