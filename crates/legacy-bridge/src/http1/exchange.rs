//! One request, one answer: which connection it takes, and what happens when that breaks.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::body::{BodyDecoder, BodyError};
use super::conn::{BODY_READ, Conn, write_all};
use super::head::Head;
use super::pool::{Patience, Pool};
use super::request::{BodyLength, RequestHead};
use crate::error::{Error, Result};

/// A request body up to this size is written before the answer is read: it fits into the socket's
/// buffers. A larger one is written while the answer is read, because the app may refuse it early.
const WRITE_AHEAD: usize = 16 * 1024;
/// How long a refused connection is tried again: apps reload their listeners.
const RECONNECT: Duration = Duration::from_secs(2);

/// The app's address, its readiness and its idle connections.
#[derive(Debug)]
pub struct Upstream {
    addr: Cell<SocketAddr>,
    pool: Rc<Pool>,
    ready: Cell<bool>,
    became_ready: Notify,
    requests: Cell<u64>,
    requested: Notify,
}

/// How long the rest of a request may still go out after its answer is complete.
const LINGER: Duration = Duration::from_secs(30);

/// Aborts a task when dropped.
#[derive(Debug)]
pub struct AbortOnDrop(pub JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl AbortOnDrop {
    /// True when the task has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Lets the task run on by itself, but not for ever.
    fn linger(mut self) {
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(LINGER, &mut self.0).await;
        });
    }
}

impl Upstream {
    /// An app at this address that does not answer yet.
    pub fn new(addr: SocketAddr) -> Rc<Self> {
        Self::with_patience(addr, Patience::default())
    }

    /// The same, with other times for the idle connections.
    pub fn with_patience(addr: SocketAddr, patience: Patience) -> Rc<Self> {
        Rc::new(Upstream {
            addr: Cell::new(addr),
            pool: Pool::new(patience),
            ready: Cell::new(false),
            became_ready: Notify::new(),
            requests: Cell::new(0),
            requested: Notify::new(),
        })
    }

    /// Where the app listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr.get()
    }

    /// Tells waiting requests that the app accepts connections on `addr`. `first` is the
    /// connection that showed it; a request soon after may use it.
    pub fn set_ready(&self, addr: SocketAddr, first: Conn) {
        self.addr.set(addr);
        self.pool.put(first);
        self.ready.set(true);
        self.became_ready.notify_waiters();
    }

    /// Waits until the app accepts connections.
    pub async fn ready(&self) {
        while !self.ready.get() {
            self.became_ready.notified().await;
        }
    }

    /// Connections taken for requests so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Waits for the next request.
    pub async fn next_request(&self) {
        self.requested.notified().await;
    }

    #[cfg(test)]
    pub(super) fn beside(&self) -> usize {
        self.pool.beside()
    }

    #[cfg(test)]
    pub(super) fn failed_trials(&self) -> u32 {
        self.pool.failed_trials()
    }

    fn note_request(&self) {
        self.requests.set(self.requests.get() + 1);
        self.requested.notify_waiters();
    }

    /// Opens a connection for one request.
    ///
    /// # Errors
    /// [`Error::Connect`] when the app refuses for longer than [`RECONNECT`].
    pub async fn connect(&self) -> Result<Conn> {
        self.ready().await;
        self.note_request();
        let start = Instant::now();
        loop {
            match Conn::connect(self.addr()).await {
                Ok(conn) => return Ok(conn),
                Err(e)
                    if e.kind() == io::ErrorKind::ConnectionRefused
                        && start.elapsed() < RECONNECT =>
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(source) => return Err(Error::Connect { addr: self.addr(), source }),
            }
        }
    }

    /// Sends a request whose body is at hand (`None`: the method has none) and returns the head of
    /// the answer and its body, unread.
    ///
    /// # Errors
    /// When no connection can be made, or the answer has no usable head.
    pub async fn exchange(
        self: &Rc<Self>,
        request: RequestHead,
        body: Option<Bytes>,
    ) -> Result<(Head, Incoming)> {
        self.ready().await;
        let is_head = request.is_head();
        // With a body, whatever the method: an app that reads none there would take it for the next
        // request of a connection that is used again, with headers of a stranger's making.
        let shares = request.is_safe() && body.as_ref().is_none_or(Bytes::is_empty);
        let length = match &body {
            None => BodyLength::None,
            Some(bytes) => BodyLength::Known(bytes.len() as u64),
        };
        let mut head_bytes = request.finish(length, !shares);
        let mut rest = body.unwrap_or_default();
        if rest.len() <= WRITE_AHEAD {
            head_bytes.extend_from_slice(&rest);
            rest = Bytes::new();
        }
        if shares && let Some(conn) = self.pool.take() {
            self.note_request();
            match self.attempt(conn, &head_bytes, &rest, is_head, shares).await {
                // The app closed it while it was idle, or what came is no answer but a late rest of
                // the one before, longer than it said. Neither is this request's fault.
                Err(Error::NoAnswer | Error::HeadTruncated | Error::Head(_) | Error::Socket(_)) => {
                    self.pool.note_failure()
                }
                other => return other,
            }
        }
        let conn = self.connect().await?;
        self.attempt(conn, &head_bytes, &rest, is_head, shares).await
    }

    async fn attempt(
        self: &Rc<Self>,
        mut conn: Conn,
        head_bytes: &[u8],
        rest: &Bytes,
        is_head: bool,
        keep: bool,
    ) -> Result<(Head, Incoming)> {
        // A failed write is not the end: the app may have answered before it closed.
        let written = write_all(&conn.stream, head_bytes).await;
        let writer = match written {
            Ok(()) if !rest.is_empty() => Some(Rc::new(spawn_writer(&conn.stream, rest.clone()))),
            _ => None,
        };
        let head = self.read_head(&mut conn, is_head).await?;
        let incoming = self.incoming(conn, &head, keep && written.is_ok(), writer);
        Ok((head, incoming))
    }

    /// Reads a head; meanwhile see [`Pool`] for what a long wait means.
    ///
    /// # Errors
    /// As [`Conn::read_head`].
    pub async fn read_head(&self, conn: &mut Conn, is_head: bool) -> Result<Head> {
        let waiting = self.pool.wait(&conn.stream);
        let head = conn.read_head(is_head);
        tokio::pin!(head);
        let head = match tokio::time::timeout(self.pool.patience().stall, &mut head).await {
            Ok(head) => head,
            Err(_) => {
                let _stall = self.pool.stall();
                head.await
            }
        };
        if head.is_ok() {
            waiting.answered();
        }
        head
    }

    /// The body that follows a head on this connection. `keep`: the connection may be used again
    /// when head and body allow it.
    pub fn incoming(
        &self,
        conn: Conn,
        head: &Head,
        keep: bool,
        writer: Option<Rc<AbortOnDrop>>,
    ) -> Incoming {
        let mut incoming = Incoming {
            conn: Some(conn),
            decoder: BodyDecoder::new(head.framing),
            pool: (keep && head.reusable()).then(|| Rc::clone(&self.pool)),
            writer,
        };
        incoming.finish_if_done();
        incoming
    }
}

fn spawn_writer(stream: &Rc<TcpStream>, bytes: Bytes) -> AbortOnDrop {
    let stream = Rc::clone(stream);
    AbortOnDrop(tokio::task::spawn_local(async move {
        // The answer, or its absence, says what went wrong.
        let _ = write_all(&stream, &bytes).await;
    }))
}

/// The body of an answer, as it comes in. Dropping it before the end closes the connection.
#[derive(Debug)]
pub struct Incoming {
    /// Gone once the body is complete.
    conn: Option<Conn>,
    decoder: BodyDecoder,
    /// Where the connection goes afterwards, if it may be used again.
    pool: Option<Rc<Pool>>,
    /// The rest of the request, if it is still going out.
    writer: Option<Rc<AbortOnDrop>>,
}

impl Incoming {
    /// True once the whole body was handed out.
    pub fn is_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// The next piece of the body, as soon as there is one, at most about 64 KiB; `None` at its
    /// end. Nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`Error::Body`] when the body breaks off or breaks its framing.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.next_ready()? {
                return Ok(Some(piece));
            }
            let Some(conn) = &mut self.conn else {
                // Closed before its end: said again to whoever asks again.
                return if self.decoder.is_done() {
                    Ok(None)
                } else {
                    Err(BodyError::Truncated.into())
                };
            };
            match conn.read_more(BODY_READ).await {
                Ok(0) => {
                    self.conn = None;
                    self.decoder.end_of_input()?;
                    return Ok(None);
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(BodyError::Truncated.into());
                }
                Err(e) => return Err(Error::Socket(e)),
            }
        }
    }

    /// What of the body is in the buffer already. Small chunks are joined.
    ///
    /// # Errors
    /// [`Error::Body`] when the body breaks its framing.
    pub fn next_ready(&mut self) -> Result<Option<Bytes>> {
        let Some(conn) = &mut self.conn else { return Ok(None) };
        let mut joined: Option<BytesMut> = None;
        let mut first: Option<Bytes> = None;
        loop {
            let have = joined.as_ref().map_or(0, BytesMut::len);
            if have >= BODY_READ {
                break;
            }
            match self.decoder.decode(&mut conn.buf) {
                Ok(None) => break,
                Ok(Some(piece)) => match (&mut joined, first.take()) {
                    (Some(joined), _) => joined.extend_from_slice(&piece),
                    (None, None) => first = Some(piece),
                    (None, Some(before)) => {
                        let mut both = BytesMut::with_capacity(before.len() + piece.len());
                        both.extend_from_slice(&before);
                        both.extend_from_slice(&piece);
                        joined = Some(both);
                    }
                },
                // What came before the fault goes out first; the fault is met again.
                Err(_) if first.is_some() || joined.is_some() => break,
                Err(e) => return Err(e.into()),
            }
        }
        self.finish_if_done();
        Ok(joined.map(BytesMut::freeze).or(first))
    }

    /// Lets go of the connection once the body is complete.
    fn finish_if_done(&mut self) {
        if !self.decoder.is_done() {
            return;
        }
        let (conn, pool) = (self.conn.take(), self.pool.take());
        match self.writer.take() {
            // Answered before all of the request was read. An app may still want the rest.
            Some(writer) if !writer.is_finished() => {
                if let Some(writer) = Rc::into_inner(writer) {
                    writer.linger();
                }
            }
            _ => {
                if let (Some(conn), Some(pool)) = (conn, pool) {
                    pool.put(conn);
                }
            }
        }
    }
}
