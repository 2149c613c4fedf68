//! The queue of messages on their way to the peer, and the task that writes them.
//!
//! Trust: a peer decides how fast this queue drains, and (by its calls) how fast it fills. So it
//! is counted to the byte, readers of the same connection can wait for it to drain, and a peer
//! that takes nothing for too long loses the connection.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator};
use tokio::io::AsyncWrite;
use tokio::time::Instant;

use crate::rpc::error::disconnected;

/// How long a peer has to take our last messages when we close the connection.
const LINGER: Duration = Duration::from_secs(2);

/// Pieces of memory in one write. Small messages go out many at once.
const SLICES: usize = 32;

/// Bytes in one write, about: more than the socket takes at once is gathered in vain.
const GATHER: usize = 256 * 1024;

/// So many queued bytes are written without waiting for more.
const EAGER: usize = 32 * 1024;

type Message = Rc<Builder<HeapAllocator>>;

/// Handle on the queue of one connection.
#[derive(Clone)]
pub struct Outbox {
    queue: Rc<RefCell<Queue>>,
}

#[derive(Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    /// Bytes of the first parcel that are written.
    offset: usize,
    bytes: usize,
    /// Of these, bytes that the peer made us send.
    caused_bytes: usize,
    sent: u64,
    written: u64,
    taken: u64,
    /// Set once nothing more may be sent: what ended the connection, and when.
    closing: Option<(capnp::Result<()>, Instant)>,
    /// Writing is over, well or not.
    over: Option<capnp::Error>,
    connection_gone: bool,
    /// When the peer last took something (or the queue was empty).
    progress: Option<Instant>,
    write_stall: Option<Duration>,
    writer: Option<Waker>,
    /// The reader: waiting for the queue to drain, or reading until it breaks.
    drain_watcher: Option<Waker>,
    over_watcher: Option<Waker>,
    waiters: Vec<Waker>,
}

struct Parcel {
    message: Message,
    header: Vec<u8>,
    bytes: usize,
    caused: bool,
}

impl Outbox {
    /// A queue whose peer must take a byte every `write_stall`.
    pub fn new(write_stall: Option<Duration>) -> Self {
        Outbox { queue: Rc::new(RefCell::new(Queue { write_stall, ..Queue::default() })) }
    }

    /// Queues `message`; `caused` when it answers something that the peer sent. Returns the
    /// message's number for [`Outbox::wait_written`].
    pub fn send(&self, message: Message, caused: bool) -> u64 {
        let mut queue = self.queue.borrow_mut();
        queue.sent += 1;
        let number = queue.sent;
        if queue.over.is_some() {
            return number;
        }
        let parcel = Parcel::new(message, caused);
        if queue.parcels.is_empty() {
            queue.progress = queue.write_stall.map(|_| Instant::now());
        }
        queue.bytes += parcel.bytes;
        queue.caused_bytes += if caused { parcel.bytes } else { 0 };
        queue.parcels.push_back(parcel);
        wake(queue.writer.take());
        number
    }

    /// Resolves when message `number` is written, with an error when it never will be.
    pub async fn wait_written(self, number: u64) -> capnp::Result<()> {
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            if queue.written >= number {
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = &queue.over {
                return Poll::Ready(Err(error.clone()));
            }
            queue.waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Bytes waiting.
    pub fn bytes(&self) -> usize {
        self.queue.borrow().bytes
    }

    /// Bytes waiting that the peer made us send.
    pub fn caused_bytes(&self) -> usize {
        self.queue.borrow().caused_bytes
    }

    /// Bytes that the peer has taken so far.
    pub fn taken(&self) -> u64 {
        self.queue.borrow().taken
    }

    /// Waits until at most `limit` caused bytes are queued, or writing is over.
    pub async fn drained(&self, limit: usize) {
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            if queue.caused_bytes <= limit || queue.over.is_some() {
                return Poll::Ready(());
            }
            keep(&mut queue.drain_watcher, cx);
            Poll::Pending
        })
        .await
    }

    /// Ready with the error once writing is over. Keeps the waker until then.
    pub fn poll_over(&self, cx: &mut Context<'_>) -> Poll<capnp::Error> {
        let mut queue = self.queue.borrow_mut();
        if let Some(error) = &queue.over {
            return Poll::Ready(error.clone());
        }
        keep(&mut queue.over_watcher, cx);
        Poll::Pending
    }

    /// No more messages: write what is queued, then end with `reason`.
    pub fn close(&self, reason: capnp::Result<()>) {
        let mut queue = self.queue.borrow_mut();
        if queue.closing.is_none() {
            queue.closing = Some((reason, Instant::now()));
        }
        wake(queue.writer.take());
    }

    /// Resolves when writing is over.
    pub async fn wait_over(self) {
        poll_fn(|cx| {
            let mut queue = self.queue.borrow_mut();
            if queue.over.is_some() {
                return Poll::Ready(());
            }
            queue.waiters.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Whether the connection ends or has ended.
    pub fn is_closing(&self) -> bool {
        let queue = self.queue.borrow();
        queue.closing.is_some() || queue.over.is_some()
    }

    /// Drops everything queued and lets the connection end now.
    pub fn kill(&self) {
        self.queue.borrow_mut().end(disconnected("the connection was cut"));
    }

    /// The RPC system let go of the connection.
    pub fn connection_gone(&self) {
        let mut queue = self.queue.borrow_mut();
        queue.connection_gone = true;
        wake(queue.writer.take());
    }

    /// Writes the queue to `io` until [`Outbox::close`]; returns that call's reason.
    pub async fn run(self, mut io: impl AsyncWrite + Unpin) -> capnp::Result<()> {
        loop {
            poll_fn(|cx| self.queue.borrow_mut().poll_work(cx)).await;
            // One message seldom comes alone: what is ready to run may have more to say, and all
            // of it goes out at once.
            if self.queue.borrow().is_small() {
                tokio::task::yield_now().await;
            }
            // The timer is only for those who have to wait.
            let mut step = poll_fn(|cx| self.queue.borrow_mut().poll_step(cx, &mut io));
            let mut result = match futures::poll!(&mut step) {
                Poll::Ready(result) => Some(result),
                Poll::Pending => None,
            };
            if result.is_none() {
                let until = self.queue.borrow().deadline();
                result = match until {
                    None => Some(step.await),
                    Some(until) => tokio::time::timeout_at(until, step).await.ok(),
                };
            }
            match result {
                Some(Step::More) => {}
                Some(Step::Finished(reason)) => return reason,
                Some(Step::Failed(error)) => {
                    self.queue
                        .borrow_mut()
                        .end(disconnected(format!("writing to the connection: {error}")));
                }
                None => self.queue.borrow_mut().too_late(),
            }
        }
    }
}

enum Step {
    More,
    Finished(capnp::Result<()>),
    Failed(std::io::Error),
}

impl Queue {
    /// Ready when there is something to write or to end.
    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let work = match &self.over {
            Some(_) => self.connection_gone,
            None => !self.parcels.is_empty() || self.closing.is_some(),
        };
        if work {
            return Poll::Ready(());
        }
        keep(&mut self.writer, cx);
        Poll::Pending
    }

    /// So little that a write of its own would be a waste.
    fn is_small(&self) -> bool {
        self.over.is_none() && self.closing.is_none() && self.bytes < EAGER
    }

    fn poll_step(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Step> {
        if self.over.is_none() && self.parcels.is_empty() && self.closing.is_some() {
            self.end(disconnected("the connection is closed"));
        }
        if self.over.is_some() {
            // The reader hears of it, the RPC system cleans up, and lets go of the connection.
            return match (&self.closing, self.connection_gone) {
                (Some((reason, _)), true) => Poll::Ready(Step::Finished(reason.clone())),
                (None, true) => Poll::Ready(Step::Finished(Ok(()))),
                _ => self.sleep(cx),
            };
        }
        if self.parcels.is_empty() {
            return self.sleep(cx);
        }
        match self.poll_write(cx, io) {
            Poll::Ready(Ok(0)) => Poll::Ready(Step::Failed(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(bytes)) => {
                self.advance(bytes);
                Poll::Ready(Step::More)
            }
            Poll::Ready(Err(error)) => Poll::Ready(Step::Failed(error)),
            Poll::Pending => self.sleep(cx),
        }
    }

    fn sleep(&mut self, cx: &mut Context<'_>) -> Poll<Step> {
        keep(&mut self.writer, cx);
        Poll::Pending
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<std::io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut gathered, mut skip) = (0, 0, self.offset);
        'gather: for parcel in &self.parcels {
            let segments = parcel.message.get_segments_for_output();
            for piece in std::iter::once(&parcel.header[..]).chain(segments.iter().copied()) {
                if skip >= piece.len() {
                    skip -= piece.len();
                    continue;
                }
                slices[used] = IoSlice::new(&piece[std::mem::take(&mut skip)..]);
                gathered += slices[used].len();
                used += 1;
                if used == SLICES || gathered >= GATHER {
                    break 'gather;
                }
            }
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..used])
    }

    fn advance(&mut self, bytes: usize) {
        self.progress = self.write_stall.map(|_| Instant::now());
        self.offset += bytes;
        self.bytes -= bytes;
        self.taken += bytes as u64;
        while let Some(first) = self.parcels.front() {
            if self.offset < first.bytes {
                break;
            }
            self.offset -= first.bytes;
            self.caused_bytes -= if first.caused { first.bytes } else { 0 };
            self.parcels.pop_front();
            self.written += 1;
        }
        wake(self.drain_watcher.take());
        self.waiters.drain(..).for_each(Waker::wake);
    }

    /// When we give up on the peer, if nothing happens before.
    fn deadline(&self) -> Option<Instant> {
        if self.over.is_some() {
            return None;
        }
        let linger = self.closing.as_ref().map(|(_, since)| *since + LINGER);
        let stall = match (self.write_stall, self.progress, self.parcels.is_empty()) {
            (Some(stall), Some(progress), false) => Some(progress + stall),
            _ => None,
        };
        match (linger, stall) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// A deadline passed. It may have been one that was moved since.
    fn too_late(&mut self) {
        if self.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
            let seconds = self.write_stall.map_or(LINGER, |stall| stall).as_secs();
            self.end(if self.closing.is_some() {
                disconnected("the peer did not take our last messages")
            } else {
                disconnected(format!("the peer took nothing for {seconds} s"))
            });
        }
    }

    fn end(&mut self, error: capnp::Error) {
        if self.over.is_none() {
            self.over = Some(error);
        }
        self.parcels.clear();
        (self.offset, self.bytes, self.caused_bytes) = (0, 0, 0);
        wake(self.drain_watcher.take());
        wake(self.over_watcher.take());
        wake(self.writer.take());
        self.waiters.drain(..).for_each(Waker::wake);
    }
}

impl Parcel {
    fn new(message: Message, caused: bool) -> Self {
        let segments = message.get_segments_for_output();
        let mut header = Vec::with_capacity((segments.len() / 2 + 1) * 8);
        header.extend((segments.len() as u32 - 1).to_le_bytes());
        let mut bytes = 0;
        for segment in segments.iter() {
            header.extend(((segment.len() / 8) as u32).to_le_bytes());
            bytes += segment.len();
        }
        header.resize(header.len().next_multiple_of(8), 0);
        bytes += header.len();
        drop(segments);
        Parcel { header, bytes, caused, message }
    }
}

fn keep(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *slot = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
