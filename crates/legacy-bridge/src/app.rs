//! The app's process: start it, wait for its port, notice its end.
//!
//! The bridge may be pid 1 of its namespace (under today's supervisor it is), so it reaps whatever
//! ends, not only its own child.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::http1::{Conn, Upstream};
use crate::{log, sys};

/// The running app.
#[derive(Debug)]
pub struct App {
    pid: Pid,
}

/// How the app ended, in words for the log and as the bridge's own exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// "exited with status 3", "was killed by signal 9 (SIGKILL)".
    pub words: String,
    /// What the bridge exits with: the app's own status, 128 + signal, and 1 for a success that
    /// nobody asked for.
    pub code: i32,
}

impl App {
    /// Starts the command with the bridge's environment, working directory and fds 0 to 2.
    ///
    /// The standard library clears the child's signal mask and puts SIGPIPE back to its default;
    /// every other fd of the bridge is close-on-exec.
    ///
    /// # Errors
    /// [`Error::Spawn`], with the reason in words.
    pub fn start(command: &[OsString]) -> Result<App> {
        let program = &command[0];
        let child: Child = Command::new(program)
            .args(&command[1..])
            .spawn()
            .map_err(|e| spawn_error(program, &e))?;
        // Not kept as a `Child`: this process reaps by itself.
        Ok(App { pid: Pid::from_raw(child.id() as i32) })
    }

    /// Waits until the app has ended. Reaps every other child on the way, and hands termination
    /// signals on to the app so that it can save its work.
    ///
    /// # Errors
    /// [`Error::System`] when signals cannot be watched.
    pub async fn wait(&self) -> Result<Ending> {
        let watch = |kind, step| signal(kind).map_err(|source| Error::System { step, source });
        let mut child = watch(SignalKind::child(), "watching for the app's end")?;
        let mut term = watch(SignalKind::terminate(), "watching for SIGTERM")?;
        let mut int = watch(SignalKind::interrupt(), "watching for SIGINT")?;
        loop {
            if let Some(ending) = self.reap() {
                return Ok(ending);
            }
            tokio::select! {
                _ = child.recv() => {}
                _ = term.recv() => self.signal(Signal::SIGTERM),
                _ = int.recv() => self.signal(Signal::SIGINT),
            }
        }
    }

    /// Sends the app a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(self.pid, signal);
    }

    /// Reaps all ended children; the app's ending if it is among them.
    fn reap(&self) -> Option<Ending> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.pid => {
                    return Some(Ending::exited(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.pid => {
                    return Some(Ending::killed(signal));
                }
                Ok(WaitStatus::StillAlive) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

impl Ending {
    fn exited(status: i32) -> Ending {
        match status {
            0 => Ending {
                words: "exited with status 0 (it must stay in the foreground while it serves)"
                    .into(),
                code: 1,
            },
            code => Ending { words: format!("exited with status {code}"), code },
        }
    }

    fn killed(signal: Signal) -> Ending {
        let number = signal as i32;
        Ending { words: format!("was killed by signal {number} ({signal})"), code: 128 + number }
    }
}

fn spawn_error(program: &OsString, error: &std::io::Error) -> Error {
    let command = program.to_string_lossy().into_owned();
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound if command.contains('/') => {
            "there is no such file in the package, or its interpreter or loader (the first line of \
             a script, ld-linux of a program) is missing"
                .to_owned()
        }
        std::io::ErrorKind::NotFound => format!(
            "it is in no directory of PATH ({}); write its full path",
            std::env::var("PATH").unwrap_or_else(|_| "not set".into())
        ),
        std::io::ErrorKind::PermissionDenied => "it is not executable".to_owned(),
        _ => error.to_string(),
    };
    Error::Spawn { command, reason }
}

/// Waits until the app accepts a connection, and hands that connection to `upstream`.
///
/// Where IPv4's loopback was asked for, IPv6's is tried too: servers told to listen on `localhost`
/// end up on either.
///
/// # Errors
/// [`Error::StartTimeout`] after `limit`.
pub async fn wait_for_port(upstream: &Rc<Upstream>, limit: Duration) -> Result<()> {
    let asked = upstream.addr();
    let other = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), asked.port());
    let places = if asked.ip() == Ipv4Addr::LOCALHOST { vec![asked, other] } else { vec![asked] };
    let start = Instant::now();
    let mut next_note = Duration::from_secs(10);
    loop {
        for place in &places {
            let Ok(conn) = Conn::connect(*place).await else { continue };
            let waited = start.elapsed();
            if next_note > Duration::from_secs(10) {
                log!("the app accepts connections on {place} after {} s", waited.as_secs());
            } else if *place != asked {
                log!("the app listens on {place}, not on {asked}; going on with that");
            }
            upstream.set_ready(*place, conn);
            return Ok(());
        }
        let waited = start.elapsed();
        if waited >= limit {
            return Err(Error::StartTimeout { addr: asked, seconds: limit.as_secs() });
        }
        if waited >= next_note {
            log!(
                "still waiting after {} s for the app to accept connections on {asked}",
                waited.as_secs()
            );
            next_note *= 3;
        }
        // Fine steps at first, so that opening a grain waits for the app alone.
        match waited.as_millis() {
            0..200 => short_pause().await,
            200..500 => tokio::time::sleep(Duration::from_millis(1)).await,
            500..5_000 => tokio::time::sleep(Duration::from_millis(5)).await,
            _ => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}

/// A fifth of a millisecond. The runtime's own timers know whole ones only, and add one.
async fn short_pause() {
    let timer = || -> io::Result<AsyncFd<OwnedFd>> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let time = Expiration::OneShot(Duration::from_micros(200).into());
        timer.set(time, TimerSetTimeFlags::empty())?;
        sys::watch_readable(timer.into())
    };
    match timer() {
        Ok(timer) => drop(timer.readable().await),
        // A sandbox without such timers, or no descriptor left.
        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
    }
}
