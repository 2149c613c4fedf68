//! The link between the supervisor and its own other half, init (pid 1 of the grain).
//!
//! A SOCK_SEQPACKET pair: one small message a packet. Both ends are this program, forked, so the
//! form is fixed; it is not Cap'n Proto because init has neither a runtime nor any reason to parse.
//! Trust: the supervisor still treats reports as untrusted: init lives beside the app. Whatever
//! does not decode is an error, and texts are short.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::SocketType;

use crate::sys::fd;
use crate::sys::process::Ended;

/// Longest message, and so the longest text.
const MAX: usize = 1024;

/// Supervisor to init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Start the app.
    Start,
    /// Let all processes write to files, or let every write fail (the disk limit is reached).
    Writes(bool),
    /// Add `u+rx` to a directory of the app's, named from /var: what it holds cannot be counted.
    OpenUp(Vec<u8>),
    /// End, and everything with you.
    End,
}

/// What init is told once limits are set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Build {
    /// Which version of control groups keeps memory, pids, cpu; 0 for none.
    pub limited: [u8; 3],
}

/// Init to supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// The sandbox stands, every privilege is gone. Texts: what the log should say.
    Ready(String),
    /// A step of the building failed. `advice` is empty or starts on a new line.
    Failed { step: String, errno: i32, advice: String },
    /// The app's exec succeeded.
    Started,
    /// The app's exec failed; in words.
    NotStarted(String),
    /// The app's first process ended.
    Ended(Ended),
}

/// What comes from init.
#[derive(Debug)]
pub enum Heard {
    /// Our end of the app's fd 3, once.
    Door(OwnedFd),
    /// The grain's `/tmp` and `/dev/shm`, once, after that.
    Temporary([OwnedFd; 2]),
    Report(Report),
}

/// One end.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Both ends.
    ///
    /// # Errors
    /// What socketpair answers.
    pub fn pair() -> io::Result<(Link, Link)> {
        fd::socketpair(SocketType::SEQPACKET).map(|(a, b)| (Link(a), Link(b)))
    }

    /// The same end once more, under a number of at least `lowest`.
    ///
    /// # Errors
    /// What fcntl answers.
    pub fn duplicate_above(&self, lowest: i32) -> io::Result<Link> {
        fd::dup_above(&self.0, lowest).map(Link)
    }

    /// Sends a command.
    ///
    /// # Errors
    /// EPIPE when init is gone.
    pub fn send(&self, command: &Command) -> io::Result<()> {
        self.packet(&match command {
            Command::Start => vec![b'S'],
            Command::End => vec![b'E'],
            Command::Writes(allowed) => vec![b'W', u8::from(*allowed)],
            Command::OpenUp(path) if path.len() >= MAX => {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            Command::OpenUp(path) => [b"O", path.as_slice()].concat(),
        })
    }

    /// The first command: limits are set, build the sandbox.
    ///
    /// # Errors
    /// EPIPE when init is gone.
    pub fn send_build(&self, build: Build) -> io::Result<()> {
        let [memory, pids, cpu] = build.limited;
        self.packet(&[b'B', memory, pids, cpu])
    }

    /// Waits for the first command; `None` when whoever gives it is gone.
    ///
    /// # Errors
    /// What read answers, or InvalidData.
    pub fn build(&self) -> io::Result<Option<Build>> {
        let mut buffer = [0; MAX];
        let n = fd::read(&self.0, &mut buffer)?;
        match buffer[..n] {
            [] => Ok(None),
            [b'B', memory, pids, cpu] => Ok(Some(Build { limited: [memory, pids, cpu] })),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Before any command, from root: the entrances of control groups, each with its controller's number.
    ///
    /// # Errors
    /// What sendmsg answers.
    pub fn send_entrances(&self, entrances: &[(usize, OwnedFd)]) -> io::Result<()> {
        let numbers = entrances.iter().map(|(number, _)| *number as u8);
        let all: Vec<_> = entrances.iter().map(|(_, file)| file.as_fd()).collect();
        fd::send_with(&self.0, &[b'G'].into_iter().chain(numbers).collect::<Vec<_>>(), &all)
    }

    /// Waits for them; `None` when whoever sends them is gone.
    ///
    /// # Errors
    /// What recvmsg answers, or InvalidData.
    pub fn entrances(&self) -> io::Result<Option<Vec<(usize, OwnedFd)>>> {
        let mut buffer = [0; MAX];
        let (n, all) = fd::receive_with(&self.0, &mut buffer)?;
        match &buffer[..n] {
            [] => Ok(None),
            [b'G', numbers @ ..] if numbers.len() == all.len() => {
                Ok(Some(numbers.iter().map(|n| usize::from(*n)).zip(all).collect()))
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Sends descriptors, of whose meaning both sides know.
    ///
    /// # Errors
    /// EPIPE when the other side is gone.
    pub fn send_descriptors<const N: usize>(&self, all: [BorrowedFd<'_>; N]) -> io::Result<()> {
        fd::send_with(&self.0, b"d", &all)
    }

    /// Waits for them; `None` when whoever sends them is gone.
    ///
    /// # Errors
    /// What recvmsg answers, or InvalidData for another number of them.
    pub fn descriptors<const N: usize>(&self) -> io::Result<Option<[OwnedFd; N]>> {
        let (n, all) = fd::receive_with(&self.0, &mut [0])?;
        let all = (n > 0).then(|| all.try_into()).transpose();
        all.map_err(|_| io::ErrorKind::InvalidData.into())
    }

    /// What init reported, without waiting for it.
    pub fn report_at_hand(&self) -> Option<Report> {
        while fd::is_readable(&self.0, Duration::ZERO) {
            match self.heard().ok()?? {
                Heard::Door(_) | Heard::Temporary(_) => {}
                Heard::Report(report) => return Some(report),
            }
        }
        None
    }

    /// Waits for the first thing that init tells, for so long at most: our end of the app's fd 3, or why
    /// there is none; `None` when it is gone.
    ///
    /// # Errors
    /// What recvmsg answers, InvalidData or TimedOut.
    pub fn door(&self, patience: Duration) -> io::Result<Option<Heard>> {
        if !fd::is_readable(&self.0, patience) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.heard()
    }

    /// Sends a report.
    ///
    /// # Errors
    /// EPIPE when the supervisor is gone.
    pub fn report(&self, report: &Report) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(64);
        match report {
            Report::Ready(text) => {
                bytes.push(b'r');
                bytes.extend_from_slice(text.as_bytes());
            }
            Report::Failed { step, errno, advice } => {
                bytes.push(b'f');
                bytes.extend_from_slice(&errno.to_le_bytes());
                bytes.extend_from_slice(step.as_bytes());
                bytes.extend_from_slice(advice.as_bytes());
            }
            Report::Started => bytes.push(b's'),
            Report::NotStarted(text) => {
                bytes.push(b'n');
                bytes.extend_from_slice(text.as_bytes());
            }
            Report::Ended(ended) => {
                let (kind, value) = match ended {
                    Ended::Status(n) => (b'x', *n),
                    Ended::Signal(n) => (b'k', *n),
                };
                bytes.push(b'e');
                bytes.push(kind);
                bytes.extend_from_slice(&value.to_le_bytes());
            }
        }
        bytes.truncate(MAX);
        self.packet(&bytes)
    }

    fn packet(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, bytes)?;
        Ok(())
    }

    /// Waits for a command; `None` when the supervisor is gone.
    ///
    /// # Errors
    /// What read answers, or InvalidData.
    pub fn command(&self) -> io::Result<Option<Command>> {
        let mut buffer = [0; MAX];
        let n = fd::read(&self.0, &mut buffer)?;
        match &buffer[..n] {
            [] => Ok(None),
            [b'S'] => Ok(Some(Command::Start)),
            [b'E'] => Ok(Some(Command::End)),
            [b'W', n] => Ok(Some(Command::Writes(*n != 0))),
            [b'O', path @ ..] if !path.is_empty() => Ok(Some(Command::OpenUp(path.to_vec()))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Shows the supervisor the grain's `/tmp` and `/dev/shm`.
    ///
    /// # Errors
    /// EPIPE when it is gone.
    pub fn show_temporary(&self, mounts: [BorrowedFd<'_>; 2]) -> io::Result<()> {
        fd::send_with(&self.0, b"t", &mounts)
    }

    /// Reads what init tells; `None` when it is gone. With a non-blocking end: WouldBlock.
    ///
    /// # Errors
    /// What recvmsg answers, or InvalidData.
    pub fn heard(&self) -> io::Result<Option<Heard>> {
        let mut buffer = [0; MAX];
        let received = match fd::receive_with(&self.0, &mut buffer) {
            // It ended without having read all that it was told; what it said comes after that.
            Err(e) if e.raw_os_error() == Some(libc::ECONNRESET) => {
                fd::receive_with(&self.0, &mut buffer)
            }
            other => other,
        };
        let (n, given) = received?;
        let wrong = |_: Vec<OwnedFd>| io::Error::from(io::ErrorKind::InvalidData);
        match &buffer[..n] {
            b"d" => {
                let [end] = <[OwnedFd; 1]>::try_from(given).map_err(wrong)?;
                Ok(Some(Heard::Door(end)))
            }
            b"t" => Ok(Some(Heard::Temporary(given.try_into().map_err(wrong)?))),
            bytes => Ok(decode(bytes)?.map(Heard::Report)),
        }
    }
}

fn decode(bytes: &[u8]) -> io::Result<Option<Report>> {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let number = |b: &[u8]| -> io::Result<i32> {
        Ok(i32::from_le_bytes(b.try_into().map_err(|_| io::ErrorKind::InvalidData)?))
    };
    Ok(Some(match bytes {
        [] => return Ok(None),
        [b'r', rest @ ..] => Report::Ready(text(rest)),
        [b'f', a, b, c, d, rest @ ..] => {
            let mut step = text(rest);
            let advice = step.split_off(step.find('\n').unwrap_or(step.len()));
            Report::Failed { step, errno: number(&[*a, *b, *c, *d])?, advice }
        }
        [b's'] => Report::Started,
        [b'n', rest @ ..] => Report::NotStarted(text(rest)),
        [b'e', b'x', rest @ ..] => Report::Ended(Ended::Status(number(rest)?)),
        [b'e', b'k', rest @ ..] => Report::Ended(Ended::Signal(number(rest)?)),
        _ => return Err(io::ErrorKind::InvalidData.into()),
    }))
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> OwnedFd {
        link.0
    }
}

impl AsRawFd for Link {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_message_arrives_as_it_was_sent() {
        let (a, b) = Link::pair().unwrap();
        let entrance = (2, a.as_fd().try_clone_to_owned().unwrap());
        a.send_entrances(&[entrance]).unwrap();
        let entrances = b.entrances().unwrap().unwrap();
        assert_eq!(entrances.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [2]);
        drop(entrances);
        let build = Build { limited: [0, 1, 2] };
        a.send_build(build).unwrap();
        assert_eq!(b.build().unwrap().unwrap(), build);
        a.send_descriptors([b.as_fd(), a.as_fd()]).unwrap();
        assert!(b.descriptors::<2>().unwrap().is_some());
        a.send_descriptors([b.as_fd()]).unwrap();
        assert!(b.descriptors::<2>().is_err(), "another number than was agreed on");
        assert!(a.report_at_hand().is_none());
        for command in [
            Command::Start,
            Command::Writes(false),
            Command::Writes(true),
            Command::OpenUp(b"a/b".to_vec()),
            Command::End,
        ] {
            a.send(&command).unwrap();
            assert_eq!(b.command().unwrap(), Some(command));
        }
        for report in [
            Report::Ready("x".into()),
            Report::Failed { step: "y".into(), errno: 13, advice: String::new() },
            Report::Failed { step: "y".into(), errno: 13, advice: "\ndo this".into() },
            Report::Started,
            Report::NotStarted("z".into()),
            Report::Ended(Ended::Status(3)),
            Report::Ended(Ended::Signal(9)),
        ] {
            b.report(&report).unwrap();
            assert_eq!(a.report_at_hand(), Some(report));
        }
        b.report(&Report::NotStarted("w".repeat(5000))).unwrap();
        let Some(Report::NotStarted(text)) = a.report_at_hand() else { panic!("another report") };
        assert_eq!(text.len(), MAX - 1);
        b.send_descriptors([a.as_fd()]).unwrap();
        assert!(matches!(a.heard(), Ok(Some(Heard::Door(_)))));
        b.show_temporary([a.as_fd(), a.as_fd()]).unwrap();
        assert!(matches!(a.heard(), Ok(Some(Heard::Temporary(_)))));
        // What it said last is heard though it has not read all.
        a.send(&Command::Start).unwrap();
        b.report(&Report::Started).unwrap();
        drop(b);
        assert!(matches!(a.heard(), Ok(Some(Heard::Report(Report::Started)))));
        assert!(a.heard().unwrap().is_none());
        assert!(a.send(&Command::Start).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }
}
