//! A browser's connection, with what an unknown peer may hold of this server's memory bounded.
//!
//! Two things grow with what a peer does or leaves undone: a head that it does not finish, and an
//! answer that it does not read. The first is bounded by a small number of large heads at once,
//! the second in time. On its way in, a request line that would be refused without a word is
//! replaced by one that can be answered (`first_line`).

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::first_line::{FirstLine, Seen, Unfit, ends_head, is_plain};
use crate::shares::{Share, Shares, holder};

/// Bytes of a head that every connection may have; nearly all are below 8 KiB.
const SMALL_HEAD: usize = 64 * 1024;
/// How many connections may be in the middle of a larger head, each of up to 1 MiB.
const LARGE_HEADS: usize = 64;
/// Those of one address (in IPv6 a /64), and fewer when many have many.
const LARGE_HEADS_EACH: usize = 16;
/// A peer that takes no byte of an answer for so long is cut off. nginx's `send_timeout` is a
/// minute; a paused download may last a little longer here.
pub const STALL: Duration = Duration::from_secs(300);

/// For so long at most what a peer still sends is read and thrown away once it has its answer, where
/// the body of its request was not read to its end. Closed at once, its kernel would be told that
/// nobody reads, and would throw away the answer that says why.
const LINGER: Duration = Duration::from_secs(2);

/// A request line longer than this (bytes) is left to the library.
const LONG_LINE: usize = 1 << 20;

/// Where in its exchange a connection is: told by who serves it, read by [`Guarded`].
#[derive(Clone)]
pub struct Phase(Arc<Told>);

struct Told {
    in_head: AtomicBool,
    /// Heads that were read whole.
    heads: AtomicU32,
    /// The request that was read last has no body.
    bodyless: AtomicBool,
    /// What was wrong with the request line that was replaced.
    unfit: Mutex<Option<Unfit>>,
}

impl Phase {
    /// A head is whole: what comes next is its body, if it has one. What was wrong with its first
    /// line, which then was replaced.
    pub fn head_is_read(&self, bodyless: bool) -> Option<Unfit> {
        self.0.bodyless.store(bodyless, Ordering::Relaxed);
        self.0.heads.fetch_add(1, Ordering::Relaxed);
        self.0.in_head.store(false, Ordering::Relaxed);
        self.0.unfit.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The next head may come.
    pub fn answered(&self) {
        self.0.in_head.store(true, Ordering::Relaxed);
    }
}

/// The right to large heads, which all connections share.
pub fn large_heads() -> Arc<Shares<IpAddr>> {
    Shares::fair(LARGE_HEADS_EACH, LARGE_HEADS)
}

/// The connection.
pub struct Guarded<S> {
    stream: S,
    in_head: Phase,
    large: Arc<Shares<IpAddr>>,
    peer: IpAddr,
    /// Bytes of the head so far.
    read: usize,
    /// The right to a large head.
    held: Option<Share<IpAddr>>,
    /// While a head certainly begins: its first line.
    line: Option<FirstLine>,
    /// Bytes that were looked at and are still to be passed on.
    out: Vec<u8>,
    /// Heads that began.
    heads: u32,
    /// The last bytes of the head so far, and whether they are its end with nothing behind it.
    tail: Vec<u8>,
    ends_clean: bool,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Nothing more is said; what still comes is thrown away until then.
    lingers: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// `large`: of all connections together ([`large_heads`]).
    pub fn new(stream: S, peer: IpAddr, large: &Arc<Shares<IpAddr>>) -> (Guarded<S>, Phase) {
        let in_head = Phase(Arc::new(Told {
            in_head: AtomicBool::new(true),
            heads: AtomicU32::new(0),
            bodyless: AtomicBool::new(false),
            unfit: Mutex::new(None),
        }));
        let guarded = Guarded {
            stream,
            in_head: in_head.clone(),
            large: large.clone(),
            peer: holder(peer),
            read: 0,
            held: None,
            line: Some(FirstLine::default()),
            out: Vec::new(),
            heads: 0,
            tail: Vec::new(),
            ends_clean: false,
            stall: STALL,
            stalled: None,
            lingers: None,
        };
        (guarded, in_head)
    }

    /// The right to a large head goes back once the head is read, be the answer ever so long.
    fn is_in_head(&mut self) -> bool {
        let in_head = self.in_head.0.in_head.load(Ordering::Relaxed);
        if !in_head {
            (self.read, self.held) = (0, None);
        }
        in_head
    }

    fn count(&mut self, bytes: usize) -> io::Result<()> {
        if !self.is_in_head() {
            return Ok(());
        }
        self.read = self.read.saturating_add(bytes);
        if self.read > SMALL_HEAD && self.held.is_none() {
            let share = self.large.enter(self.peer);
            self.held = Some(share.ok_or_else(|| {
                tracing::debug!("too many large heads at once; a connection is closed");
                io::Error::from(io::ErrorKind::ConnectionAborted)
            })?);
        }
        Ok(())
    }

    /// Arms the look at the first line where a new head certainly begins.
    fn begin(&mut self) {
        let told = &self.in_head.0;
        let heads = told.heads.load(Ordering::Relaxed);
        if self.heads == heads || !self.is_in_head() {
            return;
        }
        self.heads = heads;
        let certain = self.ends_clean && self.in_head.0.bodyless.load(Ordering::Relaxed);
        self.line = certain.then(FirstLine::default);
        (self.tail, self.ends_clean) = (Vec::new(), false);
    }

    /// Bytes that are passed on.
    fn note(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // Bytes of the next head that come while this request is answered are read with its own.
        self.ends_clean = self.is_in_head() && ends_head(&self.tail, bytes);
        let keep = bytes.len().min(4);
        self.tail.extend_from_slice(&bytes[bytes.len() - keep..]);
        let extra = self.tail.len().saturating_sub(4);
        self.tail.drain(..extra);
    }

    /// Passes on what was looked at.
    fn serve(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.out.len().min(buf.remaining());
        buf.put_slice(&self.out[..count]);
        self.out.drain(..count);
    }

    /// Lets a peer wait for so long and no longer.
    fn bound<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        let stall = self.stall;
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(stall)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            self.serve(buf);
            return Poll::Ready(Ok(()));
        }
        // Asked while an answer is under way too: whether the peer has gone.
        self.is_in_head();
        self.begin();
        loop {
            let before = buf.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            let bytes = buf.filled().len() - before;
            self.count(bytes)?;
            let came = &buf.filled()[before..];
            let Some(mut line) = self.line.take() else {
                self.note(came);
                return Poll::Ready(Ok(()));
            };
            if line.is_new() && is_plain(came) {
                self.note(came);
                return Poll::Ready(Ok(()));
            }
            let seen = line.push(came);
            buf.set_filled(before);
            match seen {
                Seen::More if bytes > 0 && self.read <= LONG_LINE => self.line = Some(line),
                Seen::More => {
                    self.out = line.rest();
                    self.serve(buf);
                    return Poll::Ready(Ok(()));
                }
                Seen::Passed(passed, unfit) => {
                    *self.in_head.0.unfit.lock().unwrap_or_else(PoisonError::into_inner) = unfit;
                    self.note(&passed);
                    self.out = passed;
                    self.serve(buf);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.bound(cx, done)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.bound(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.bound(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingers.is_none() {
            let done = Pin::new(&mut self.stream).poll_shutdown(cx);
            ready!(self.bound(cx, done))?;
            if self.in_head.0.bodyless.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        let Guarded { stream, lingers, .. } = &mut *self;
        let timer = lingers.get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        while timer.as_mut().poll(cx).is_pending() {
            let mut scrap = [0; 4096];
            let mut scrap = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut *stream).poll_read(cx, &mut scrap)) {
                Ok(()) if !scrap.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    async fn read(guarded: &mut Guarded<tokio::io::DuplexStream>, bytes: usize) -> io::Result<()> {
        let mut buf = vec![0; bytes];
        guarded.read_exact(&mut buf).await.map(drop)
    }

    #[tokio::test]
    async fn only_so_many_heads_are_large_at_once() {
        let large = Shares::new(1, 1);
        let (ours, mut peer) = tokio::io::duplex(1 << 20);
        let (mut first, phase) = Guarded::new(ours, HERE, &large);
        let (ours, mut other) = tokio::io::duplex(1 << 20);
        let (mut second, _) = Guarded::new(ours, HERE, &large);
        for peer in [&mut peer, &mut other] {
            let mut head = b"GET / HTTP/1.1\r\n".to_vec();
            head.resize(SMALL_HEAD + 100, b'x');
            peer.write_all(&head).await.unwrap();
        }
        read(&mut first, SMALL_HEAD + 1).await.unwrap();
        read(&mut second, SMALL_HEAD).await.unwrap();
        let refused = read(&mut second, 1).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        // Nothing more comes, and the right goes back all the same.
        phase.head_is_read(false);
        read(&mut first, 99).await.unwrap();
        let mut none = [0];
        assert!(futures::poll!(std::pin::pin!(first.read(&mut none))).is_pending());
        assert_eq!(large.taken(), 0);
        // A body is no head.
        peer.write_all(&vec![b'x'; 2 * SMALL_HEAD]).await.unwrap();
        read(&mut first, 2 * SMALL_HEAD).await.unwrap();
        assert_eq!(large.taken(), 0);
        phase.answered();
        peer.write_all(&vec![b'x'; SMALL_HEAD]).await.unwrap();
        read(&mut first, SMALL_HEAD).await.unwrap();
        assert_eq!(large.taken(), 0);
    }

    #[test]
    fn one_address_does_not_hold_all_large_heads() {
        let large = large_heads();
        let of = |last| {
            std::iter::from_fn({
                let large = large.clone();
                move || large.enter([192, 0, 2, last].into())
            })
        };
        let held: Vec<_> = of(1).collect();
        assert_eq!(held.len(), LARGE_HEADS_EACH);
        assert_eq!(of(2).take(4).count(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_and_who_takes_slowly_is_not() {
        let large = Shares::new(1, 1);
        let (ours, mut peer) = tokio::io::duplex(10);
        let (mut guarded, _) = Guarded::new(ours, HERE, &large);
        let slow = async {
            let mut buf = [0; 10];
            for _ in 0..4 {
                tokio::time::sleep(STALL - Duration::from_secs(1)).await;
                peer.read_exact(&mut buf).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(guarded.write_all(&[0; 50]), slow);
        written.unwrap();
        let cut = guarded.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::TimedOut);
    }

    /// An answer before the end of a body, which the peer reads when it has sent everything.
    #[tokio::test(start_paused = true)]
    async fn who_still_sends_hears_the_answer() {
        let large = Shares::new(1, 1);
        let (ours, mut peer) = tokio::io::duplex(1000);
        let (mut guarded, phase) = Guarded::new(ours, HERE, &large);
        phase.head_is_read(false);
        let serve = async move {
            guarded.write_all(b"no").await.unwrap();
            phase.answered();
            guarded.shutdown().await.unwrap();
        };
        let ask = async {
            peer.write_all(&[b'x'; 100_000]).await.unwrap();
            let mut answer = [0; 2];
            peer.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"no");
            drop(peer);
        };
        tokio::join!(serve, ask);
        // Not for ever.
        let (ours, mut peer) = tokio::io::duplex(1000);
        let (mut guarded, phase) = Guarded::new(ours, HERE, &large);
        phase.head_is_read(false);
        let begin = tokio::time::Instant::now();
        let sends = async {
            while peer.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        let serve = async move { guarded.shutdown().await.unwrap() };
        tokio::join!(sends, serve);
        assert!(begin.elapsed() < 2 * LINGER);
        // Nobody waits where there was no body.
        let (ours, _peer) = tokio::io::duplex(1000);
        let (mut guarded, phase) = Guarded::new(ours, HERE, &large);
        phase.head_is_read(true);
        let begin = tokio::time::Instant::now();
        guarded.shutdown().await.unwrap();
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    /// One connection, several requests: a line is replaced where a head certainly begins, and
    /// nothing of a body ever is.
    #[tokio::test]
    async fn a_line_is_replaced_only_where_a_head_begins() {
        let large = Shares::new(1, 1);
        let (ours, mut peer) = tokio::io::duplex(1 << 20);
        let (mut guarded, phase) = Guarded::new(ours, HERE, &large);
        let bad = b"GET /<> HTTP/1.1\r\nHost: a\r\n\r\n";
        let mended = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut passes = async |sent: &[u8], got: &[u8]| {
            peer.write_all(sent).await.unwrap();
            let mut buf = vec![0; got.len()];
            guarded.read_exact(&mut buf).await.unwrap();
            assert_eq!(buf.escape_ascii().to_string(), got.escape_ascii().to_string());
        };
        passes(bad, mended).await;
        assert_eq!(phase.head_is_read(true), Some(Unfit::Characters));
        phase.answered();
        let good = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        passes(good, good).await;
        assert_eq!(phase.head_is_read(true), None);
        phase.answered();
        passes(bad, mended).await;
        assert_eq!(phase.head_is_read(true), Some(Unfit::Characters));
        phase.answered();
        // A body that looks like a head, which still comes when the answer is given.
        passes(b"PUT / HTTP/1.1\r\n\r\n", b"PUT / HTTP/1.1\r\n\r\n").await;
        assert_eq!(phase.head_is_read(false), None);
        phase.answered();
        passes(bad, bad).await;
        assert_eq!(phase.head_is_read(true), None);
        phase.answered();
        // Two at once: where the second begins is not looked for.
        let both = [&good[..], bad].concat();
        passes(&both, &both).await;
        assert_eq!(phase.head_is_read(true), None);
        phase.answered();
        assert_eq!(phase.head_is_read(true), None);
        // While an answer is under way.
        passes(bad, bad).await;
        phase.answered();
        passes(bad, bad).await;
    }
}
