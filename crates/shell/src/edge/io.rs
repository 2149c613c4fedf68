//! A browser's connection, with what an unknown peer may hold of this server's memory bounded.
//!
//! Two things grow with what a peer does or leaves undone: a head that it does not finish, and an
//! answer that it does not read. The first is bounded by a small number of large heads at once,
//! the second in time.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

/// Bytes of a head that every connection may have; nearly all are below 8 KiB.
const SMALL_HEAD: usize = 64 * 1024;
/// How many connections may be in the middle of a larger head, each of up to 1 MiB.
pub const LARGE_HEADS: usize = 64;
/// A peer that takes no byte of an answer for so long is cut off. nginx's `send_timeout` is a
/// minute; a paused download may last a little longer here.
const STALL: Duration = Duration::from_secs(300);

/// Where in its exchange a connection is: told by who serves it, read by [`Guarded`].
#[derive(Clone)]
pub struct Phase(Arc<AtomicBool>);

impl Phase {
    /// A head is whole: what comes next is its body.
    pub fn head_is_read(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// The next head may come.
    pub fn answered(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The connection.
pub struct Guarded<S> {
    stream: S,
    in_head: Phase,
    large: Arc<Semaphore>,
    /// Bytes of the head so far.
    read: usize,
    /// The right to a large head.
    held: Option<OwnedSemaphorePermit>,
    stall: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Guarded<S> {
    /// `large` is shared by all connections and has [`LARGE_HEADS`] permits.
    pub fn new(stream: S, large: &Arc<Semaphore>) -> (Guarded<S>, Phase) {
        let in_head = Phase(Arc::new(AtomicBool::new(true)));
        let guarded = Guarded {
            stream,
            in_head: in_head.clone(),
            large: large.clone(),
            read: 0,
            held: None,
            stall: STALL,
            stalled: None,
        };
        (guarded, in_head)
    }

    /// The right to a large head goes back once the head is read, be the answer ever so long.
    fn is_in_head(&mut self) -> bool {
        let in_head = self.in_head.0.load(Ordering::Relaxed);
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
            let permit = self.large.clone().try_acquire_owned();
            self.held = Some(permit.map_err(|_| {
                tracing::debug!("too many large heads at once; a connection is closed");
                io::Error::from(io::ErrorKind::ConnectionAborted)
            })?);
        }
        Ok(())
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
        // Asked while an answer is under way too: whether the peer has gone.
        self.is_in_head();
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let bytes = buf.filled().len() - before;
        Poll::Ready(self.count(bytes))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
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
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.bound(cx, done)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn read(guarded: &mut Guarded<tokio::io::DuplexStream>, bytes: usize) -> io::Result<()> {
        let mut buf = vec![0; bytes];
        guarded.read_exact(&mut buf).await.map(drop)
    }

    #[tokio::test]
    async fn only_so_many_heads_are_large_at_once() {
        let large = Arc::new(Semaphore::new(1));
        let (ours, mut peer) = tokio::io::duplex(1 << 20);
        let (mut first, phase) = Guarded::new(ours, &large);
        let (ours, mut other) = tokio::io::duplex(1 << 20);
        let (mut second, _) = Guarded::new(ours, &large);
        for peer in [&mut peer, &mut other] {
            peer.write_all(&vec![b'x'; SMALL_HEAD + 100]).await.unwrap();
        }
        read(&mut first, SMALL_HEAD + 1).await.unwrap();
        read(&mut second, SMALL_HEAD).await.unwrap();
        let refused = read(&mut second, 1).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionAborted);
        // Nothing more comes, and the right goes back all the same.
        phase.head_is_read();
        read(&mut first, 99).await.unwrap();
        let mut none = [0];
        assert!(futures::poll!(std::pin::pin!(first.read(&mut none))).is_pending());
        assert_eq!(large.available_permits(), 1);
        // A body is no head.
        peer.write_all(&vec![b'x'; 2 * SMALL_HEAD]).await.unwrap();
        read(&mut first, 2 * SMALL_HEAD).await.unwrap();
        assert_eq!(large.available_permits(), 1);
        phase.answered();
        peer.write_all(&vec![b'x'; SMALL_HEAD]).await.unwrap();
        read(&mut first, SMALL_HEAD).await.unwrap();
        assert_eq!(large.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_is_cut_off_and_who_takes_slowly_is_not() {
        let large = Arc::new(Semaphore::new(1));
        let (ours, mut peer) = tokio::io::duplex(10);
        let (mut guarded, _) = Guarded::new(ours, &large);
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
}
