//! The app as a process: not started, running, ended, and why, told by init over the link.
//!
//! Trust: init's reports are bounded and decode or fail. The app is started at the first need.
#![forbid(unsafe_code)]

use std::cell::{Cell, OnceCell};
use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, watch};

use crate::error::Error;
use crate::link::{Command, Heard, Link, Report};
use crate::sys::process::Ended;

/// How far the app has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The sandbox is being built.
    Building,
    /// The sandbox stands and waits.
    Ready,
    Starting,
    Running,
    /// It is over, and this is why, in words.
    Over(String),
}

/// Handle on the app behind init.
pub struct App {
    link: AsyncFd<Link>,
    state: watch::Sender<State>,
    /// Whether writes are allowed, where init has not been told yet: its link is full.
    untold: Cell<Option<bool>>,
    /// Something is untold.
    behind: Notify,
    temporary: OnceCell<[OwnedFd; 2]>,
}

/// A sandbox takes milliseconds; a machine in trouble, seconds.
pub const BUILD_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two tries to tell init something where the kernel has no memory for it.
const AGAIN: Duration = Duration::from_millis(50);

impl App {
    /// Takes over the link; must run inside the runtime.
    ///
    /// # Errors
    /// What registering the descriptor answers.
    pub fn new(link: Link) -> io::Result<Rc<App>> {
        rustix::io::ioctl_fionbio(&link, true)?;
        Ok(Rc::new(App {
            link: crate::sys::fd::watch(link, Interest::READABLE | Interest::WRITABLE)?,
            state: watch::Sender::new(State::Building),
            untold: Cell::new(None),
            behind: Notify::new(),
            temporary: OnceCell::new(),
        }))
    }

    async fn next_report(&self) -> io::Result<Option<Report>> {
        loop {
            let mut ready = self.link.readable().await?;
            let Ok(heard) = ready.try_io(|link| link.get_ref().heard()) else { continue };
            match heard? {
                Some(Heard::Report(report)) => return Ok(Some(report)),
                Some(Heard::Temporary(mounts)) => drop(self.temporary.set(mounts)),
                Some(Heard::Door(_)) => return Err(io::ErrorKind::InvalidData.into()),
                None => return Ok(None),
            }
        }
    }

    /// The grain's `/tmp` and `/dev/shm`, once it is built.
    pub fn temporary(&self) -> Option<&[OwnedFd; 2]> {
        self.temporary.get()
    }

    /// Waits until the sandbox stands. The text is for the log.
    ///
    /// # Errors
    /// `Sandbox` with the step that failed inside.
    pub async fn built(&self) -> Result<String, Error> {
        let sandbox = |step: String, source: io::Error| Error::Sandbox {
            step,
            source,
            advice: String::new(),
        };
        let report = tokio::time::timeout(BUILD_TIMEOUT, self.next_report())
            .await
            .map_err(|_| {
                sandbox("finish the sandbox in time".into(), io::ErrorKind::TimedOut.into())
            })?
            .map_err(|e| sandbox("hear from init".into(), e))?;
        match report {
            Some(Report::Ready(notes)) => {
                self.state.send_replace(State::Ready);
                Ok(notes)
            }
            Some(Report::Failed { step, errno, advice }) => {
                Err(Error::Sandbox { step, source: io::Error::from_raw_os_error(errno), advice })
            }
            _ => Err(sandbox(
                "hear from init, which ended early".into(),
                io::ErrorKind::UnexpectedEof.into(),
            )),
        }
    }

    /// Waits until init, which was told to at the beginning, has started the app.
    ///
    /// # Errors
    /// In words, why it could not.
    pub async fn started_at_once(&self) -> Result<(), String> {
        self.state.send_replace(State::Starting);
        let why = match self.next_report().await {
            Ok(Some(Report::Started)) => {
                self.state.send_replace(State::Running);
                return Ok(());
            }
            other => over(other),
        };
        self.state.send_replace(State::Over(why.clone()));
        Err(why)
    }

    /// Follows init's reports until it is over; returns why.
    pub async fn follow(&self) -> String {
        let reports = async {
            loop {
                match self.next_report().await {
                    Ok(Some(Report::Started)) => {
                        self.state.send_replace(State::Running);
                    }
                    Ok(Some(Report::Ready(_) | Report::Failed { .. })) => {}
                    other => break over(other),
                }
            }
        };
        let why = tokio::select! {
            why = reports => why,
            never = self.catch_up() => match never {},
        };
        self.state.send_replace(State::Over(why.clone()));
        why
    }

    /// Lets the grain's processes write to files, or not. A frozen init reads nothing, and its link
    /// may be full: then it is told as soon as there is room (while `follow` runs).
    pub fn set_writes(&self, allowed: bool) {
        self.untold.set(Some(allowed));
        if self.tell().is_err() {
            self.behind.notify_one();
        }
    }

    /// Tells init what is untold.
    fn tell(&self) -> io::Result<()> {
        let Some(allowed) = self.untold.get() else { return Ok(()) };
        match self.link.get_ref().send(&Command::Writes(allowed)) {
            // Where init is gone nobody writes.
            Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
            _ => self.untold.set(None),
        }
        Ok(())
    }

    /// Tells init what is untold whenever there is room.
    async fn catch_up(&self) -> Infallible {
        loop {
            while self.untold.get().is_some() {
                match self.link.writable().await {
                    Ok(mut ready) => {
                        if let Ok(Err(_)) = ready.try_io(|_| self.tell()) {
                            tokio::time::sleep(AGAIN).await;
                        }
                    }
                    // The runtime ends.
                    Err(_) => std::future::pending().await,
                }
            }
            self.behind.notified().await;
        }
    }

    /// Sends a command, after what is untold.
    fn send(&self, command: &Command) -> io::Result<()> {
        self.tell()?;
        self.link.get_ref().send(command)
    }

    /// Lets the owner of a directory in the grain's storage look into it again. `path` is named from
    /// the grain's directory; what is not the app's, or too long, stays as it is.
    pub fn open_up(&self, path: &[u8]) {
        if let Some(below) = path.strip_prefix(b"sandbox/".as_slice()) {
            // Where there is no room the next walk names it again.
            let _ = self.send(&Command::OpenUp(below.to_vec()));
        }
    }

    /// Ends init and with it every process of the grain.
    pub fn end(&self) {
        let link = self.link.get_ref();
        if link.send(&Command::End).is_err() {
            // It does not read what it has been sent: that nothing more comes it cannot miss.
            let _ = rustix::net::shutdown(link, rustix::net::Shutdown::Both);
        }
    }

    /// Starts the app if it is not running; returns when its exec has succeeded.
    ///
    /// # Errors
    /// `failed` with words for the person who opened the grain.
    pub async fn ensure_started(&self) -> Result<(), capnp::Error> {
        let mut state = self.state.subscribe();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Running => return Ok(()),
                State::Over(why) => return Err(capnp::Error::failed(why)),
                State::Ready => {
                    self.send(&Command::Start).map_err(|e| match e.kind() {
                        io::ErrorKind::WouldBlock => {
                            capnp::Error::overloaded("the grain is frozen".into())
                        }
                        _ => capnp::Error::failed(format!("init is gone: {e}")),
                    })?;
                    self.state.send_replace(State::Starting);
                }
                State::Building | State::Starting => {
                    if state.changed().await.is_err() {
                        return Err(capnp::Error::failed("the grain is ending".into()));
                    }
                }
            }
        }
    }
}

/// Why the app is over, from what init said last.
fn over(last: io::Result<Option<Report>>) -> String {
    match last {
        Ok(Some(Report::NotStarted(why))) => why,
        Ok(Some(Report::Ended(ended))) => in_words(ended),
        Ok(_) => "the grain's processes were killed from outside".to_owned(),
        Err(e) => format!("init sent what cannot be understood ({e})"),
    }
}

/// How a process ended, for people.
pub fn in_words(ended: Ended) -> String {
    match ended {
        Ended::Status(0) => "the app ended by itself (exit status 0)".into(),
        Ended::Status(n) => format!("the app ended with exit status {n}"),
        Ended::Signal(n) => {
            let (name, meaning) = match n {
                libc::SIGABRT => {
                    ("SIGABRT", ": it stopped itself, usually after an error that it printed")
                }
                libc::SIGSEGV => ("SIGSEGV", ": it read or wrote memory that is not there"),
                libc::SIGBUS => {
                    ("SIGBUS", ": it read or wrote memory that is not there, or /tmp is full")
                }
                libc::SIGILL => ("SIGILL", ": an instruction that this processor does not know"),
                libc::SIGFPE => ("SIGFPE", ": an impossible calculation"),
                libc::SIGKILL => ("SIGKILL", ": by the system, usually because memory ran out"),
                libc::SIGSYS => ("SIGSYS", ": it made a call of a foreign architecture"),
                libc::SIGTERM => ("SIGTERM", ""),
                libc::SIGPIPE => ("SIGPIPE", ": it wrote to a closed pipe"),
                libc::SIGXFSZ => ("SIGXFSZ", ": it wrote past its disk limit"),
                _ => ("", ""),
            };
            if name.is_empty() {
                format!("the app was ended by signal {n}")
            } else {
                format!("the app was ended by signal {n} ({name}{meaning})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Rc<App>, Link) {
        let (ours, theirs) = Link::pair().unwrap();
        (App::new(ours).unwrap(), theirs)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_app_starts_once_and_waits_for_exec() {
        let (app, init) = pair();
        init.report(&Report::Ready("note".into())).unwrap();
        assert_eq!(app.built().await.unwrap(), "note");
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let follower = {
                    let app = app.clone();
                    tokio::task::spawn_local(async move { app.follow().await })
                };
                let first = {
                    let app = app.clone();
                    tokio::task::spawn_local(async move { app.ensure_started().await })
                };
                let second = {
                    let app = app.clone();
                    tokio::task::spawn_local(async move { app.ensure_started().await })
                };
                tokio::task::yield_now().await;
                assert_eq!(init.command().unwrap(), Some(Command::Start));
                assert!(!first.is_finished() && !second.is_finished());
                init.report(&Report::Started).unwrap();
                first.await.unwrap().unwrap();
                second.await.unwrap().unwrap();
                init.report(&Report::Ended(Ended::Status(3))).unwrap();
                assert!(follower.await.unwrap().contains("exit status 3"));
                assert!(app.ensure_started().await.is_err());
            })
            .await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failed_step_is_named() {
        let (app, init) = pair();
        let advice = "\ndo this".to_owned();
        init.report(&Report::Failed { step: "attach /dev".into(), errno: libc::EPERM, advice })
            .unwrap();
        let text = app.built().await.unwrap_err().to_string();
        assert!(text.contains("attach /dev") && text.contains("not permitted"));
        assert!(text.ends_with("\ndo this"), "{text}");
        let (app, init) = pair();
        drop(init);
        assert!(app.built().await.is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_full_link_loses_no_stop_of_writes() {
        let (app, init) = pair();
        app.state.send_replace(State::Ready);
        // Init is frozen, and the app has shut many directories.
        let open_up = Command::OpenUp(b"d".to_vec());
        while app.link.get_ref().send(&open_up).is_ok() {}
        app.set_writes(true);
        app.set_writes(false);
        app.open_up(b"sandbox/d");
        assert!(app.ensure_started().await.is_err());
        let follower = async { app.follow().await };
        let told = async {
            tokio::task::yield_now().await;
            let mut told = Vec::new();
            rustix::io::ioctl_fionbio(&init, true).unwrap();
            // Until init has nothing to read for a while.
            for _ in 0..20 {
                while let Ok(command) = init.command() {
                    told.extend(command.filter(|command| *command != open_up));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            told
        };
        let told = tokio::select! { told = told => told, why = follower => panic!("{why}") };
        assert_eq!(told, [Command::Writes(false)]);
        // That there was no room for the start does not make it one.
        assert_eq!(*app.state.borrow(), State::Ready);
        drop(init);
        app.set_writes(true);
        assert_eq!(app.untold.get(), None);
    }

    #[test]
    fn endings_have_words() {
        assert!(in_words(Ended::Signal(9)).contains("SIGKILL"));
        assert!(in_words(Ended::Signal(11)).contains("SIGSEGV"));
        assert_eq!(in_words(Ended::Signal(35)), "the app was ended by signal 35");
        assert!(in_words(Ended::Status(0)).contains("by itself"));
    }
}
