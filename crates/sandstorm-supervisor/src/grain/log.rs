//! The grain's log: what the app prints and what the supervisor says, capped in size and rate.
//!
//! The app writes into a pipe, never into the file. The supervisor owns the file, so whoever
//! watches it is served from here without inotify. Trust: the bytes are the app's and are passed on
//! as they are; a flood is slowed down by not reading the pipe, which stops its writer.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

use crate::sys::fd;

/// Starts every line of the supervisor's own.
const PREFIX: &str = "** SANDSTORM SUPERVISOR: ";
/// Bytes a second that are taken from the app over time, and at once.
const RATE: u64 = 1 << 20;
const BURST: u64 = 1 << 20;
/// Bytes that are taken at once, in a buffer that every grain has.
const CHUNK: usize = 16 << 10;
/// Bytes that wait for one watcher; a slower one loses the oldest.
const WATCHER_QUEUE: usize = 256 << 10;
/// Most bytes of the past that a watcher can ask for.
pub const MAX_BACKLOG: u64 = 2 << 20;

/// The open log.
pub struct Log {
    dir: OwnedFd,
    file: RefCell<Option<OwnedFd>>,
    size: Cell<u64>,
    limit: u64,
    at_line_start: Cell<bool>,
    slowed: Cell<u64>,
    watchers: RefCell<Vec<Weak<Watcher>>>,
}

impl Log {
    /// Opens `log` in the grain's directory for appending.
    ///
    /// # Errors
    /// When it cannot be opened, or is not a regular file.
    pub fn open(dir: OwnedFd, limit: u64) -> io::Result<Rc<Log>> {
        let (file, size) = open_file(&dir)?;
        Ok(Rc::new(Log {
            dir,
            file: RefCell::new(Some(file)),
            size: Cell::new(size),
            limit,
            at_line_start: Cell::new(true),
            slowed: Cell::new(0),
            watchers: RefCell::new(Vec::new()),
        }))
    }

    /// Bytes of the present file.
    pub fn size(&self) -> u64 {
        self.size.get()
    }

    /// How often the app's output had to wait for its share of bytes a second.
    pub fn slowed(&self) -> u64 {
        self.slowed.get()
    }

    /// A line of the supervisor's own.
    pub fn note(&self, text: &str) {
        let mut line = String::with_capacity(text.len() + PREFIX.len() + 2);
        if !self.at_line_start.get() {
            line.push('\n');
        }
        for part in text.lines() {
            line.push_str(PREFIX);
            line.push_str(part);
            line.push('\n');
        }
        self.write(Bytes::from(line));
    }

    /// Bytes of the app.
    pub fn write(&self, bytes: Bytes) {
        let Some(last) = bytes.last() else { return };
        self.at_line_start.set(*last == b'\n');
        self.open_again();
        let mut rest = &bytes[..];
        if let Some(file) = &*self.file.borrow() {
            while !rest.is_empty() {
                // A full disk loses log lines, nothing else.
                match rustix::io::write(file, rest) {
                    Ok(n) => rest = &rest[n..],
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                }
            }
        }
        // What was lost must not push out what was kept.
        self.size.set(self.size.get() + (bytes.len() - rest.len()) as u64);
        if self.size.get() > self.limit {
            self.rotate();
        }
        self.watchers
            .borrow_mut()
            .retain(|weak| weak.upgrade().is_some_and(|watcher| watcher.push(bytes.clone())));
    }

    /// The present file becomes `log.1`, whose predecessor goes.
    fn rotate(&self) {
        match rustix::fs::renameat(&self.dir, c"log", &self.dir, c"log.1") {
            // Gone already: then this is written to a file without a name.
            Ok(()) | Err(Errno::NOENT) => {
                *self.file.borrow_mut() = None;
                self.open_again();
            }
            // Try again after as much again.
            Err(_) => self.size.set(0),
        }
    }

    /// Opens the file if the last rotation could not: a full disk may have room again.
    fn open_again(&self) {
        let mut file = self.file.borrow_mut();
        if file.is_some() {
            return;
        }
        let opened = open_file(&self.dir);
        self.size.set(opened.as_ref().map_or(0, |(_, size)| *size));
        *file = opened.ok().map(|(file, _)| file);
    }

    /// The last `amount` bytes (at most `MAX_BACKLOG`), reaching back into `log.1`.
    pub fn tail(&self, amount: u64) -> Vec<u8> {
        let amount = amount.min(MAX_BACKLOG);
        let mut bytes = read_tail(&self.dir, c"log", amount);
        let missing = amount - bytes.len() as u64;
        if missing > 0 {
            let mut older = read_tail(&self.dir, c"log.1", missing);
            older.append(&mut bytes);
            return older;
        }
        bytes
    }

    /// Begins to collect new output for a watcher.
    pub fn watch(&self) -> Rc<Watcher> {
        let watcher = Rc::new(Watcher::default());
        self.watchers.borrow_mut().push(Rc::downgrade(&watcher));
        watcher
    }
}

fn open_file(dir: &OwnedFd) -> io::Result<(OwnedFd, u64)> {
    let file = fd::create_in(
        dir.as_fd(),
        c"log",
        OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK,
        0o600,
    )?;
    let stat = rustix::fs::fstat(&file)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err(io::Error::other("`log` is not a regular file"));
    }
    Ok((file, u64::try_from(stat.st_size).unwrap_or(0)))
}

fn read_tail(dir: &OwnedFd, name: &std::ffi::CStr, amount: u64) -> Vec<u8> {
    let Ok(file) = fd::open_in(dir, name, OFlags::RDONLY | OFlags::NONBLOCK) else {
        return Vec::new();
    };
    let size = rustix::fs::fstat(&file).map_or(0, |s| u64::try_from(s.st_size).unwrap_or(0));
    let mut bytes = vec![0; usize::try_from(amount.min(size)).unwrap_or(0)];
    let mut file = std::fs::File::from(file);
    let read = io::Seek::seek(&mut file, io::SeekFrom::Start(size - bytes.len() as u64))
        .and_then(|_| io::Read::read_exact(&mut file, &mut bytes));
    if read.is_err() {
        bytes.clear();
    }
    bytes
}

/// New output waiting for one reader.
#[derive(Default)]
pub struct Watcher {
    queue: RefCell<VecDeque<Bytes>>,
    waiting: Cell<usize>,
    lost: Cell<bool>,
    closed: Cell<bool>,
    notify: Notify,
}

impl Watcher {
    fn push(&self, bytes: Bytes) -> bool {
        if self.closed.get() {
            return false;
        }
        let mut queue = self.queue.borrow_mut();
        self.waiting.set(self.waiting.get() + bytes.len());
        queue.push_back(bytes);
        while self.waiting.get() > WATCHER_QUEUE {
            match queue.pop_front() {
                Some(old) => {
                    self.waiting.set(self.waiting.get() - old.len());
                    self.lost.set(true);
                }
                None => break,
            }
        }
        self.notify.notify_one();
        true
    }

    /// The next piece of output.
    pub async fn next(&self) -> Bytes {
        loop {
            if self.lost.replace(false) {
                return Bytes::from(format!("\n{PREFIX}(output left out here: read too slowly)\n"));
            }
            if let Some(bytes) = self.queue.borrow_mut().pop_front() {
                self.waiting.set(self.waiting.get() - bytes.len());
                return bytes;
            }
            self.notify.notified().await;
        }
    }

    /// Nobody reads any more.
    pub fn close(&self) {
        self.closed.set(true);
        self.queue.borrow_mut().clear();
    }
}

/// Copies the app's output into the log until every writer has closed it.
pub async fn pump(log: &Log, output: pipe::Receiver) {
    let mut buffer = vec![0; CHUNK];
    let mut budget = BURST;
    let mut filled = tokio::time::Instant::now();
    loop {
        let now = tokio::time::Instant::now();
        let earned = (now - filled).as_millis() as u64 * RATE / 1000;
        if earned > 0 {
            budget = (budget + earned).min(BURST);
            filled = now;
        }
        if budget == 0 {
            log.slowed.set(log.slowed.get() + 1);
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        }
        if output.readable().await.is_err() {
            return;
        }
        let room = buffer.len().min(usize::try_from(budget).unwrap_or(buffer.len()));
        match output.try_read(&mut buffer[..room]) {
            Ok(0) => return,
            Ok(n) => {
                budget -= n as u64;
                log.write(Bytes::copy_from_slice(&buffer[..n]));
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(limit: u64) -> (tempfile::TempDir, Rc<Log>) {
        let dir = tempfile::tempdir().unwrap();
        let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
        (dir, Log::open(fd, limit).unwrap())
    }

    #[test]
    fn notes_start_on_a_line_of_their_own() {
        let (dir, log) = log(1000);
        log.write(Bytes::from_static(b"no newline"));
        log.note("one\ntwo");
        let text = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert_eq!(text, format!("no newline\n{PREFIX}one\n{PREFIX}two\n"));
    }

    #[test]
    fn size_stays_under_twice_the_limit_and_the_tail_reaches_back() {
        let (dir, log) = log(1000);
        for n in 0..1000 {
            log.write(Bytes::from(format!("{n:09}\n")));
        }
        let size = |name| std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(size("log") <= 1010 && size("log.1") <= 1010);
        let tail = String::from_utf8(log.tail(1500)).unwrap();
        assert!(tail.len() <= 1500, "{}", tail.len());
        assert!(tail.ends_with("000000999\n"));
        assert!(tail.len() > 1000, "{}", tail.len());
        let numbers: Vec<u32> = tail.lines().skip(1).map(|l| l.parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|w| w[1] == w[0] + 1));
    }

    #[test]
    fn a_log_that_was_taken_away_begins_anew() {
        let (dir, log) = log(100);
        std::fs::remove_file(dir.path().join("log")).unwrap();
        log.write(Bytes::from(vec![b'x'; 101]));
        log.write(Bytes::from_static(b"later\n"));
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), b"later\n");
    }

    #[test]
    fn a_log_that_cannot_be_rotated_goes_on_when_there_is_room() {
        use crate::sys::mount;
        // Room for the top directory and one file: the second cannot be made.
        let options = [(c"nr_inodes", c"2"), (c"mode", c"700"), (c"size", c"64k")];
        let disk = mount::tmpfs(&options, mount::NOEXEC);
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let disk = disk.unwrap();
        let dir = fd::open_in(&disk, c".", OFlags::RDONLY | OFlags::DIRECTORY).unwrap();
        let log = Log::open(dir, 100).unwrap();
        log.write(Bytes::from(vec![b'x'; 101]));
        log.write(Bytes::from_static(b"lost\n"));
        assert!(fd::open_in(&disk, c"log", OFlags::RDONLY).is_err(), "there was no room");
        assert_eq!(log.size(), 0);
        rustix::fs::unlinkat(&disk, c"log.1", rustix::fs::AtFlags::empty()).unwrap();
        log.write(Bytes::from_static(b"later\n"));
        assert_eq!(log.tail(1000), b"later\n");
        assert_eq!(log.size(), 6);
        // Nor is what was kept pushed out by what finds no room.
        let log = Log::open(disk, 100 << 10).unwrap();
        for _ in 0..40 {
            log.write(Bytes::from(vec![b'x'; 10_000]));
        }
        assert!(log.tail(1000).starts_with(b"xxx"));
        assert!(log.size() <= 64 << 10, "{}", log.size());
    }

    #[test]
    fn a_link_a_directory_or_a_fifo_is_not_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let open = || {
            let fd = OwnedFd::from(std::fs::File::open(dir.path()).unwrap());
            Log::open(fd, 1000)
        };
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("log")).unwrap();
        assert!(open().is_err());
        std::fs::remove_file(dir.path().join("log")).unwrap();
        std::fs::create_dir(dir.path().join("log")).unwrap();
        assert!(open().is_err());
        std::fs::remove_dir(dir.path().join("log")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("log"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(open().is_err());
        // One that somebody reads can be opened, and is none either.
        let reader = dir.path().join("log");
        let _reader = fd::open(
            &std::ffi::CString::new(reader.to_str().unwrap()).unwrap(),
            OFlags::RDONLY | OFlags::NONBLOCK,
        );
        assert!(open().is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn watchers_get_what_comes_and_slow_ones_are_told() {
        let (_dir, log) = log(1 << 20);
        let watcher = log.watch();
        log.write(Bytes::from_static(b"hello\n"));
        assert_eq!(watcher.next().await, "hello\n");
        for _ in 0..40 {
            log.write(Bytes::from(vec![b'x'; 10_000]));
        }
        assert!(watcher.waiting.get() <= WATCHER_QUEUE);
        assert!(watcher.next().await.starts_with(b"\n** SANDSTORM"));
        drop(watcher);
        log.write(Bytes::from_static(b"later\n"));
        assert!(log.watchers.borrow().is_empty());
    }
}
