//! Whether a peer is still there while nobody reads what it sent.
//!
//! A connection that is read tells of its end. One whose bytes wait for a slow app is not read, and
//! what the kernel knows of it, that the peer has closed or was reset, stays unseen for as long as
//! the app likes: with it a descriptor, a buffer and a grain that does not sleep. So whoever waits
//! looks at the socket from time to time.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How often the socket is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// Looks in a row at a peer that has closed, without a byte moving between them, after which
/// nobody waits for it any more: a minute, as long as an app has to come up.
const LOOKS: u32 = 5;

/// A connection whose state others may ask for while it is served. They never keep it open.
pub struct Watched {
    stream: Arc<Mutex<TcpStream>>,
    moved: Arc<AtomicU64>,
}

/// The other end of a connection, for whoever works for it. Cheap to clone.
#[derive(Clone)]
pub struct Peer {
    stream: Weak<Mutex<TcpStream>>,
    /// Changes whenever bytes went on, in either direction.
    moved: Arc<AtomicU64>,
}

impl Watched {
    pub fn new(stream: TcpStream) -> (Watched, Peer) {
        let stream = Arc::new(Mutex::new(stream));
        let moved = Arc::<AtomicU64>::default();
        let peer = Peer { stream: Arc::downgrade(&stream), moved: moved.clone() };
        (Watched { stream, moved }, peer)
    }

    /// Nobody else holds the lock for longer than it takes to ask the kernel.
    fn stream(&self) -> MutexGuard<'_, TcpStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, done: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(done, Poll::Ready(Ok(1..))) {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

impl Peer {
    /// Bytes of this connection went on somewhere behind it.
    pub fn moved(&self) {
        self.moved.fetch_add(1, Ordering::Relaxed);
    }

    /// Resolves when the peer has closed, at least for sending, and nothing has moved for a minute
    /// since. A peer that sends no more may wait for its answer: while its bytes are taken, however
    /// slowly, or an answer flows, this does not resolve.
    pub async fn left(&self) {
        let (mut seen, mut looks) = (self.moved.load(Ordering::Relaxed), 0);
        while looks < LOOKS {
            tokio::time::sleep(LOOK).await;
            let moved = self.moved.load(Ordering::Relaxed);
            looks = if moved == seen && self.has_closed() { looks + 1 } else { 0 };
            seen = moved;
        }
    }

    /// What the kernel knows: the peer has sent its end, or the connection is broken or closed.
    fn has_closed(&self) -> bool {
        let Some(stream) = self.stream.upgrade() else { return true };
        let stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        // Errors and hang-ups are told unasked.
        let mut fds = [PollFd::new(&*stream, PollFlags::RDHUP)];
        match rustix::event::poll(&mut fds, Some(&Timespec::default())) {
            Ok(_) => !fds[0].revents().is_empty(),
            Err(_) => false,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let done = Pin::new(&mut *self.stream()).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.moved.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut *self.stream()).poll_write(cx, buf);
        self.count(done)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut *self.stream()).poll_write_vectored(cx, bufs);
        self.count(done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Watched, Peer, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (watched, peer) = Watched::new(listener.accept().await.unwrap().0);
        (watched, peer, client)
    }

    async fn leaves_within(peer: &Peer, time: Duration) -> bool {
        tokio::time::timeout(time, peer.left()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn who_closed_has_left_after_a_minute_though_nobody_reads() {
        let (watched, peer, mut client) = pair().await;
        client.write_all(b"unread").await.unwrap();
        assert!(!leaves_within(&peer, 100 * LOOK).await);
        drop(client);
        assert!(!leaves_within(&peer, Duration::from_secs(59)).await);
        assert!(leaves_within(&peer, Duration::from_secs(80)).await);
        drop(watched);
        assert!(leaves_within(&peer, Duration::from_secs(80)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_sends_no_more_stays_while_anything_moves() {
        let (mut watched, peer, mut client) = pair().await;
        client.write_all(&[1; 100]).await.unwrap();
        client.shutdown().await.unwrap();
        let waiting = tokio::spawn({
            let peer = peer.clone();
            async move { peer.left().await }
        });
        let pause = Duration::from_secs(50);
        for _ in 0..10 {
            tokio::time::sleep(pause).await;
            watched.read_exact(&mut [0]).await.unwrap();
        }
        assert!(!waiting.is_finished(), "its bytes are read");
        for _ in 0..10 {
            tokio::time::sleep(pause).await;
            watched.write_all(&[1]).await.unwrap();
        }
        assert!(!waiting.is_finished(), "it is answered");
        for _ in 0..10 {
            tokio::time::sleep(pause).await;
            peer.moved();
        }
        assert!(!waiting.is_finished(), "its bytes are taken");
        tokio::time::timeout(Duration::from_secs(80), waiting).await.unwrap().unwrap();
    }
}
