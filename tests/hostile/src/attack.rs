//! What an attack is, and how one is run so that it cannot disturb the next.

use std::io::Error;

/// What an attempt came to.
pub enum Outcome {
    /// It had its effect; the text says which.
    Succeeded(String),
    /// It was refused; the text gives the errno or the reason.
    Refused(String),
}

/// What the runner told the program about the world outside the box.
#[derive(Default)]
pub struct Context {
    /// Port of a TCP listener on the host's 127.0.0.1.
    pub tcp: Option<u16>,
    /// Name of an abstract Unix socket that listens outside.
    pub abstract_name: Option<String>,
    /// Key of a System V shared memory segment made outside.
    pub shm: Option<i32>,
    /// Seconds to stay after the last attack.
    pub hold_seconds: u64,
    /// True when run outside a sandbox: dangerous attacks are left out.
    pub bare: bool,
}

impl Context {
    /// Reads `NAME=VALUE` words; unknown ones are ignored.
    pub fn parse(words: impl Iterator<Item = String>) -> Self {
        let mut context = Context::default();
        for word in words {
            match word.split_once('=') {
                Some(("tcp", v)) => context.tcp = v.parse().ok(),
                Some(("abstract", v)) => context.abstract_name = Some(v.to_owned()),
                Some(("shm", v)) => context.shm = v.parse().ok(),
                Some(("hold", v)) => context.hold_seconds = v.parse().unwrap_or(0),
                Some(("bare", v)) => context.bare = v == "1",
                _ => {}
            }
        }
        context
    }
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Attack {
    pub name: &'static str,
    /// What it tries, in words.
    pub tries: &'static str,
    /// The layer that must stop it (the words of docs/security.md).
    pub layer: &'static str,
    /// Whether it may be tried outside a sandbox without harm to the machine.
    pub safe_bare: bool,
    pub attempt: fn(&Context) -> Outcome,
}

/// Turns a system call's answer into an outcome: anything but -1 had its effect.
pub fn answer(result: i64, effect: &str) -> Outcome {
    if result == -1 { refused() } else { Outcome::Succeeded(effect.to_owned()) }
}

/// The refusal that errno tells of.
pub fn refused() -> Outcome {
    Outcome::Refused(Error::last_os_error().to_string())
}

/// Seconds after which a silent attempt counts as stuck.
const PATIENCE: u32 = 5;

impl Attack {
    /// Runs the attempt in a child; returns verdict and detail, without tabs or line ends.
    pub fn run(&self, context: &Context) -> (&'static str, String) {
        let mut pipe = [0; 2];
        // SAFETY: `pipe` has room for the two descriptors that the call writes.
        if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) } != 0 {
            return ("stuck", format!("no pipe: {}", Error::last_os_error()));
        }
        // SAFETY: this program has one thread, so the child may run any code after fork.
        let child = unsafe { libc::fork() };
        if child == -1 {
            return ("stuck", format!("no child: {}", Error::last_os_error()));
        }
        if child == 0 {
            // SAFETY: plain calls on our own process; SIGALRM's default action ends it.
            unsafe { libc::alarm(PATIENCE) };
            let (tag, text) = match (self.attempt)(context) {
                Outcome::Succeeded(text) => ('S', text),
                Outcome::Refused(text) => ('R', text),
            };
            let line = format!("{tag}{}", text.replace(['\t', '\n'], " "));
            // SAFETY: the buffer is valid for its length; _exit runs no destructors of the parent.
            unsafe {
                libc::write(pipe[1], line.as_ptr().cast(), line.len());
                libc::_exit(0);
            }
        }
        // SAFETY: closing our copy of the write end, which nothing else in this process uses.
        unsafe { libc::close(pipe[1]) };
        let mut buffer = [0u8; 4096];
        let mut status = 0;
        // SAFETY: the buffer is valid for its length, `status` for one int; `child` is ours.
        let got = unsafe {
            let got = libc::read(pipe[0], buffer.as_mut_ptr().cast(), buffer.len());
            libc::close(pipe[0]);
            libc::waitpid(child, &mut status, 0);
            got
        };
        if got > 0 {
            let text = String::from_utf8_lossy(&buffer[1..got as usize]).into_owned();
            return (if buffer[0] == b'S' { "succeeded" } else { "refused" }, text);
        }
        match libc::WIFSIGNALED(status).then(|| libc::WTERMSIG(status)) {
            Some(libc::SIGALRM) => ("stuck", format!("no answer in {PATIENCE} s")),
            Some(signal) => ("killed", format!("by signal {signal}")),
            None => ("stuck", format!("ended with status {status} and said nothing")),
        }
    }
}
