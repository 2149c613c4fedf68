//! Idle connections to the app, kept for a moment so that a page's many small requests do not each
//! open one.
//!
//! Reuse is a speed-up that must never be seen. So: only safe requests without a body use an idle
//! connection; only a complete and unsuspicious answer returns one; none lives longer than a second (apps close
//! theirs after five or more). An app on which reuse fails again and again is spared it for good.
//!
//! A simple server serves one connection at a time, or as many as it has workers: what we keep idle
//! it waits on, and whoever asks next waits too. So the pool counts *beside* how many idle
//! connections the app was seen to answer: none, until it answers a request that was sent, or still
//! unanswered, while some lay idle and open. As long as a request waits for its answer, no more are
//! kept, and one worker is left. Whether there can be more is found out by keeping too many for a
//! moment ([`Patience::trial`]): after a trial that failed they are closed at once, and the next one
//! is a long time off, the longer the more have failed. The worker that is left may have a long
//! answer to give; so past [`Patience::stall`] all idle connections are closed in any case.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::conn::Conn;

/// Idle connections kept at most: a few busy pages' worth.
const MAX_IDLE: usize = 64;
/// How long an idle connection is kept.
const MAX_IDLE_TIME: Duration = Duration::from_millis(1000);
/// How often expired connections are looked for.
const SWEEP: Duration = Duration::from_millis(250);
/// Failed reuses after which it is given up.
const MAX_FAILURES: u32 = 8;

/// How long the pool waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// A request that waits so long beside idle connections that may be too many has them closed,
    /// if nobody got an answer meanwhile.
    pub trial: Duration,
    /// Until the next trial after a first one that failed; twice as long after each one more.
    pub between_trials: Duration,
    /// After this wait for a head all idle connections are closed.
    pub stall: Duration,
}

impl Default for Patience {
    /// A trial is longer than a busy machine lets an app wait that has nothing else to do, and short
    /// for a person; an app that was only slow to start is soon tried again, and one that serves one
    /// at a time has a dozen trials in its first hour.
    fn default() -> Self {
        Patience {
            trial: Duration::from_millis(20),
            between_trials: Duration::from_millis(250),
            stall: Duration::from_millis(100),
        }
    }
}

/// Idle connections of one app.
#[derive(Debug)]
pub struct Pool {
    idle: RefCell<Vec<Idle>>,
    /// Requests without an answer, oldest first.
    waiting: RefCell<Vec<Waiter>>,
    /// Counts connections that became idle, and requests.
    clock: Cell<u64>,
    /// The most idle connections beside which the app has answered.
    beside: Cell<usize>,
    /// Answers so far.
    answers: Cell<u64>,
    trial: Cell<Trial>,
    failed_trials: Cell<u32>,
    patience: Patience,
    /// Requests that have waited long for their answer and still do.
    stalled: Cell<u32>,
    failures: Cell<u32>,
    sweeping: Cell<bool>,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
    /// By the pool's clock.
    at: u64,
}

#[derive(Debug)]
struct Waiter {
    /// By the pool's clock.
    at: u64,
    stream: Rc<TcpStream>,
    /// When it was last seen to have no byte of an answer, by the pool's clock.
    unanswered: u64,
}

#[derive(Debug, Clone, Copy)]
enum Trial {
    /// One may begin.
    Allowed,
    /// More is kept than is known to be well.
    Running,
    /// One failed.
    NotBefore(Instant),
}

/// While this lives, no connection is kept idle.
#[derive(Debug)]
pub struct Stall(Rc<Pool>);

impl Drop for Stall {
    fn drop(&mut self) {
        self.0.stalled.set(self.0.stalled.get() - 1);
    }
}

/// A request that waits for its answer.
#[derive(Debug)]
pub struct Waiting {
    pool: Rc<Pool>,
    at: u64,
}

impl Waiting {
    /// The answer has come. Whatever was idle before it did, the app can serve beside it.
    pub fn answered(self) {
        let pool = &self.pool;
        pool.answers.set(pool.answers.get() + 1);
        let unanswered =
            pool.waiting.borrow().iter().find(|w| w.at == self.at).map(|w| w.unanswered);
        let mut idle = pool.idle.borrow_mut();
        // With a look at each only where it can teach anything.
        if idle.len() > pool.beside.get()
            && let Some(unanswered) = unanswered
        {
            // A server that answers one after the other may have closed it in between.
            let open = idle
                .iter_mut()
                .map(|idle| usize::from(idle.at <= unanswered && idle.conn.still_idle()))
                .sum::<usize>();
            if open > pool.beside.get() {
                pool.beside.set(open);
                pool.failed_trials.set(0);
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.waiting.borrow_mut().retain(|w| w.at != self.at);
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(patience: Patience) -> Rc<Pool> {
        Rc::new(Pool {
            idle: RefCell::default(),
            waiting: RefCell::default(),
            clock: Cell::new(0),
            beside: Cell::new(0),
            answers: Cell::new(0),
            trial: Cell::new(Trial::Allowed),
            failed_trials: Cell::new(0),
            patience,
            stalled: Cell::new(0),
            failures: Cell::new(0),
            sweeping: Cell::new(false),
        })
    }

    /// How long it waits for what.
    pub fn patience(&self) -> Patience {
        self.patience
    }

    /// The connection used last, if one is idle and still good. None where the app may serve one
    /// at a time and somebody may wait for just that one to be closed: over it others would be
    /// served first, again and again.
    pub fn take(&self) -> Option<Conn> {
        if self.beside.get() == 0 && self.too_many() > 0 {
            return None;
        }
        loop {
            let mut idle = self.idle.borrow_mut().pop()?;
            if idle.since.elapsed() < MAX_IDLE_TIME && idle.conn.still_idle() {
                idle.conn.reused = true;
                return Some(idle.conn);
            }
        }
    }

    /// Keeps a connection whose last answer is complete. Must run on a `LocalSet`.
    pub fn put(self: &Rc<Self>, conn: Conn) {
        if self.stalled.get() > 0
            || self.failures.get() >= MAX_FAILURES
            || !conn.buf.is_empty()
            || self.idle.borrow().len() >= MAX_IDLE
        {
            return;
        }
        self.idle.borrow_mut().push(Idle { conn, since: Instant::now(), at: self.tick() });
        self.settle();
        if !self.idle.borrow().is_empty() && !self.sweeping.replace(true) {
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move { pool.sweep().await });
        }
    }

    /// A request was sent over this connection. Must run on a `LocalSet`.
    pub fn wait(self: &Rc<Self>, stream: &Rc<TcpStream>) -> Waiting {
        let at = self.tick();
        let waiter = Waiter { at, stream: Rc::clone(stream), unanswered: 0 };
        self.waiting.borrow_mut().push(waiter);
        self.settle();
        Waiting { pool: Rc::clone(self), at }
    }

    /// Notes that a reused connection was found closed.
    pub fn note_failure(&self) {
        self.failures.set(self.failures.get().saturating_add(1));
        self.idle.borrow_mut().clear();
    }

    /// Closes all idle connections, and keeps none until the result is dropped.
    pub fn stall(self: &Rc<Self>) -> Stall {
        self.stalled.set(self.stalled.get() + 1);
        self.idle.borrow_mut().clear();
        Stall(Rc::clone(self))
    }

    #[cfg(test)]
    pub(super) fn beside(&self) -> usize {
        self.beside.get()
    }

    #[cfg(test)]
    pub(super) fn failed_trials(&self) -> u32 {
        self.failed_trials.get()
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// How many idle connections may keep a request waiting, as far as we know.
    fn too_many(&self) -> usize {
        match self.waiting.borrow().is_empty() {
            true => 0,
            false => self.idle.borrow().len().saturating_sub(self.beside.get()),
        }
    }

    /// Begins a trial or closes what is too many.
    fn settle(self: &Rc<Self>) {
        let many = self.too_many();
        if many == 0 {
            return;
        }
        match self.trial.get() {
            Trial::NotBefore(time) if Instant::now() < time => {
                self.idle.borrow_mut().drain(..many);
                return;
            }
            Trial::Running => {}
            Trial::Allowed | Trial::NotBefore(_) => {
                self.trial.set(Trial::Running);
                let pool = Rc::clone(self);
                tokio::task::spawn_local(async move { pool.try_out().await });
            }
        }
        self.look();
    }

    /// Notes which requests have no byte of an answer by now.
    fn look(&self) {
        let mut waiting = self.waiting.borrow_mut();
        let mut fds: Vec<PollFd<'_>> =
            waiting.iter().map(|w| PollFd::new(w.stream.as_fd(), PollFlags::POLLIN)).collect();
        if poll(&mut fds, PollTimeout::ZERO).is_err() {
            return;
        }
        let silent: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(false)).collect();
        for (waiter, silent) in waiting.iter_mut().zip(silent) {
            if silent {
                waiter.unanswered = self.clock.get();
            }
        }
    }

    /// Keeps too many as long as there are answers: a busy server's are only late.
    async fn try_out(self: Rc<Self>) {
        loop {
            let (begun, answers) = (self.tick(), self.answers.get());
            tokio::time::sleep(self.patience.trial).await;
            let many = self.too_many();
            if many == 0 {
                self.trial.set(Trial::Allowed);
                return;
            }
            let waited = self.waiting.borrow().first().is_some_and(|oldest| oldest.at < begun);
            if waited && answers == self.answers.get() {
                self.idle.borrow_mut().drain(..many);
                let failed = self.failed_trials.get();
                self.failed_trials.set(failed.saturating_add(1));
                let pause = self.patience.between_trials.saturating_mul(1 << failed.min(16));
                self.trial.set(Trial::NotBefore(Instant::now() + pause));
                return;
            }
        }
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            tokio::time::sleep(SWEEP).await;
            let mut idle = self.idle.borrow_mut();
            idle.retain_mut(|i| i.since.elapsed() < MAX_IDLE_TIME && i.conn.still_idle());
            if idle.is_empty() {
                *idle = Vec::new();
                self.sweeping.set(false);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::rc::Rc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Condvar, Mutex};
    use std::time::Duration;

    use bytes::Bytes;

    use super::Patience;
    use crate::http1::{Conn, RequestHead, Upstream};

    const NEVER: Duration = Duration::from_secs(100_000);

    /// Holds answers to `/held` back while it is shut.
    #[derive(Default)]
    struct Gate {
        shut: Mutex<bool>,
        opened: Condvar,
    }

    impl Gate {
        fn set(&self, shut: bool) {
            *self.shut.lock().unwrap() = shut;
            self.opened.notify_all();
        }

        fn pass(&self) {
            drop(self.opened.wait_while(self.shut.lock().unwrap(), |shut| *shut).unwrap());
        }
    }

    /// Serves a connection as long as the other side likes.
    fn serve(stream: &TcpStream, gate: &Gate) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut line, mut close, mut held) = (String::new(), false, false);
        while reader.read_line(&mut line).is_ok_and(|n| n > 0) {
            close |= line.starts_with("Connection: close");
            held |= line.starts_with("GET /held ");
            if line == "\r\n" {
                if held {
                    gate.pass();
                }
                let mut stream = stream;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
                if close {
                    return;
                }
                held = false;
            }
            line.clear();
        }
    }

    struct App {
        addr: SocketAddr,
        connections: Arc<AtomicUsize>,
        gate: Arc<Gate>,
    }

    /// A server that serves one connection to its end before it takes the next, or all at once.
    fn app(one_at_a_time: bool) -> App {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let app = App {
            addr: listener.local_addr().unwrap(),
            connections: Arc::default(),
            gate: Arc::default(),
        };
        let (connections, gate) = (Arc::clone(&app.connections), Arc::clone(&app.gate));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let gate = Arc::clone(&gate);
                let thread = std::thread::spawn(move || serve(&stream, &gate));
                if one_at_a_time {
                    thread.join().unwrap();
                }
            }
        });
        app
    }

    fn story<F: Future<Output = ()>>(story: F) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            tokio::time::timeout(Duration::from_secs(30), story).await.expect("nobody hangs");
        });
    }

    async fn upstream(app: &App, patience: Patience) -> Rc<Upstream> {
        let upstream = Upstream::with_patience(app.addr, patience);
        upstream.set_ready(app.addr, Conn::connect(app.addr).await.unwrap());
        upstream
    }

    async fn ask(upstream: &Rc<Upstream>, method: &str, path: &str) {
        let body = (method == "POST").then(|| Bytes::from_static(b"\r\n"));
        let request = RequestHead::new(method, path).unwrap();
        let (_, mut body) = upstream.exchange(request, body).await.unwrap();
        assert_eq!(body.next().await.unwrap().unwrap(), "hi");
    }

    /// After one trial that fails such a server waits for none of our idle connections any more:
    /// nothing here would ever end that wait.
    #[test]
    fn a_server_of_one_connection_is_known_and_not_kept_waiting() {
        story(async {
            let app = app(true);
            let patience =
                Patience { trial: Duration::from_millis(5), between_trials: NEVER, stall: NEVER };
            let upstream = upstream(&app, patience).await;
            for _ in 0..20 {
                let gets = (0..4).map(|_| ask(&upstream, "GET", "/"));
                let (_, ()) =
                    tokio::join!(futures::future::join_all(gets), ask(&upstream, "POST", "/"));
                ask(&upstream, "GET", "/").await;
                ask(&upstream, "POST", "/").await;
            }
            // Who asks by themselves has reuse as before.
            ask(&upstream, "GET", "/").await;
            let before = app.connections.load(Ordering::SeqCst);
            for _ in 0..10 {
                ask(&upstream, "GET", "/").await;
            }
            assert_eq!(app.connections.load(Ordering::SeqCst), before);
        });
    }

    /// A server that can serve more at once keeps its connections although a request takes long,
    /// but for those that it was not yet seen to be able to serve.
    #[test]
    fn a_wide_server_keeps_its_connections() {
        story(async {
            let app = app(false);
            let patience = Patience { trial: NEVER, between_trials: Duration::ZERO, stall: NEVER };
            let upstream = upstream(&app, patience).await;
            // Answers in any order: each that comes beside an idle connection shows that it can.
            for _ in 0..20 {
                let gets = (0..4).map(|_| ask(&upstream, "GET", "/"));
                futures::future::join_all(gets).await;
                ask(&upstream, "POST", "/").await;
            }
            assert!(upstream.beside() > 0);
            app.gate.set(true);
            let held = RefCell::new(true);
            let slow = async {
                ask(&upstream, "GET", "/held").await;
                assert!(!*held.borrow(), "the gate is shut");
            };
            let quick = async {
                let before = app.connections.load(Ordering::SeqCst);
                for _ in 0..20 {
                    ask(&upstream, "GET", "/").await;
                }
                let opened = app.connections.load(Ordering::SeqCst) - before;
                assert!(opened <= 2, "{opened} connections for twenty requests");
                *held.borrow_mut() = false;
                app.gate.set(false);
            };
            tokio::join!(slow, quick);
        });
    }

    /// A first trial that failed because the app was slow is no judgement for ever.
    #[test]
    fn a_slow_answer_is_forgiven() {
        story(async {
            let app = app(false);
            let patience = Patience {
                trial: Duration::from_millis(1),
                between_trials: Duration::ZERO,
                stall: NEVER,
            };
            let upstream = upstream(&app, patience).await;
            app.gate.set(true);
            let slow = ask(&upstream, "GET", "/held");
            let quick = async {
                while upstream.failed_trials() == 0 {
                    ask(&upstream, "GET", "/").await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                app.gate.set(false);
            };
            tokio::join!(slow, quick);
            while upstream.beside() == 0 {
                ask(&upstream, "GET", "/").await;
                ask(&upstream, "POST", "/").await;
            }
            assert_eq!(upstream.failed_trials(), 0);
        });
    }
}
