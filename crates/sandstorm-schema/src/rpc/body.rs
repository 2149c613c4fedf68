//! Bodies over `ByteStream`: one side writes with a bounded window, the other reads as it can.
//!
//! Every body of a request or an answer passes here, so this is where back-pressure lives: a
//! reader that stops lets [`limits::BODY_WINDOW`] bytes come and no more, over every hop.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use capnp::Error;
use futures::StreamExt;
use futures::future::{LocalBoxFuture, poll_fn};
use futures::stream::{FuturesUnordered, Stream};

use super::error::{disconnected, failed};
use crate::limits::{BODY_CHUNK, BODY_WINDOW, CALL_COST};
use crate::util_capnp::byte_stream;

/// Writes a body into a peer's `ByteStream`.
///
/// The first error sticks: every later call returns it. Dropping the writer without
/// [`BodyWriter::done`] tells the peer that the body broke off.
pub struct BodyWriter {
    client: byte_stream::Client,
    in_flight: FuturesUnordered<LocalBoxFuture<'static, Result<usize, Error>>>,
    bytes_in_flight: usize,
    error: Option<Error>,
}

impl BodyWriter {
    pub fn new(client: byte_stream::Client) -> Self {
        BodyWriter { client, in_flight: FuturesUnordered::new(), bytes_in_flight: 0, error: None }
    }

    /// Announces the whole body's length in bytes.
    pub async fn expect_size(&mut self, size: u64) -> Result<(), Error> {
        self.check()?;
        let mut request = self.client.expect_size_request();
        request.get().set_size(size);
        let result = request.send().promise.await.map(drop);
        self.keep(result)
    }

    /// Sends bytes in chunks; waits while a whole window is on its way.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(BODY_CHUNK));
            while self.bytes_in_flight > 0 && self.bytes_in_flight + cost(chunk.len()) > BODY_WINDOW
            {
                self.one_answer().await?;
            }
            self.check()?;
            self.send(&chunk);
        }
        // Collect what has been answered meanwhile, so that an error shows early.
        while let Some(Some(answer)) = futures::FutureExt::now_or_never(self.in_flight.next()) {
            self.count(answer)?;
        }
        self.check()
    }

    /// Ends the body, once every byte has been taken.
    pub async fn done(&mut self) -> Result<(), Error> {
        while !self.in_flight.is_empty() {
            self.one_answer().await?;
        }
        self.check()?;
        let result = self.client.done_request().send().promise.await.map(drop);
        self.keep(result)
    }

    /// Resolves with the error when the reader at the other end has gone or refused a write;
    /// never resolves while nothing is on its way and all is well.
    pub async fn broken(&mut self) -> Error {
        loop {
            if let Some(error) = &self.error {
                return error.clone();
            }
            if self.in_flight.is_empty() {
                futures::future::pending::<()>().await;
            }
            let _ = self.one_answer().await;
        }
    }

    fn send(&mut self, chunk: &[u8]) {
        // A plain call on the streaming method: the wire is the same, and the window is ours, so
        // that it holds through forwarders that know nothing of streams.
        let size =
            Some(capnp::MessageSize { word_count: (chunk.len() / 8 + 16) as u64, cap_count: 0 });
        let mut request = capnp::capability::FromClientHook::as_client_hook(&self.client).new_call(
            <byte_stream::Client as capnp::traits::HasTypeId>::TYPE_ID,
            0,
            size,
        );
        request.get().init_as::<byte_stream::write_params::Builder<'_>>().set_data(chunk);
        let promise = request.send();
        let length = cost(chunk.len());
        self.bytes_in_flight += length;
        self.in_flight.push(Box::pin(async move { promise.promise.await.map(|_| length) }));
    }

    async fn one_answer(&mut self) -> Result<(), Error> {
        match self.in_flight.next().await {
            Some(answer) => self.count(answer),
            None => Ok(()),
        }
    }

    fn count(&mut self, answer: Result<usize, Error>) -> Result<(), Error> {
        let result = answer.map(|length| self.bytes_in_flight -= length);
        self.keep(result)
    }

    fn keep(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        if let (Err(error), None) = (&result, &self.error) {
            self.error = Some(error.clone());
        }
        self.check()
    }

    fn check(&self) -> Result<(), Error> {
        self.error.clone().map_or(Ok(()), Err)
    }
}

/// What a chunk of this length takes of a window.
fn cost(length: usize) -> usize {
    length.max(CALL_COST)
}

/// What is known when a body begins.
#[derive(Debug)]
pub enum Start {
    /// The writer announced the whole length in bytes.
    Size(u64),
    /// Bytes came without a length.
    Unknown,
    /// The body is empty.
    Empty,
}

#[derive(Default)]
struct Pipe {
    chunks: VecDeque<Bytes>,
    buffered: usize,
    size: Option<u64>,
    received: u64,
    done: bool,
    /// The writer's end is gone.
    writer_gone: bool,
    /// The reader's end is gone.
    reader_gone: bool,
    reader: Option<Waker>,
    writers: Vec<Waker>,
}

impl Pipe {
    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writers(&mut self) {
        self.writers.drain(..).for_each(Waker::wake);
    }
}

/// Makes a `ByteStream` to hand to a peer, and the end where its bytes come out.
pub fn pipe() -> (byte_stream::Client, BodyReceiver) {
    let pipe = Rc::new(RefCell::new(Pipe::default()));
    let server = BodyStreamImpl { pipe: pipe.clone() };
    (capnp_rpc::new_client(server), BodyReceiver { pipe })
}

/// Where the bytes of a peer's body come out. Dropping it fails the writer.
pub struct BodyReceiver {
    pipe: Rc<RefCell<Pipe>>,
}

impl BodyReceiver {
    /// Waits for the first sign: a length, bytes, or the end.
    pub async fn start(&mut self) -> Result<Start, Error> {
        poll_fn(|cx| {
            let mut pipe = self.pipe.borrow_mut();
            if let Some(size) = pipe.size {
                Poll::Ready(Ok(Start::Size(size)))
            } else if !pipe.chunks.is_empty() {
                Poll::Ready(Ok(Start::Unknown))
            } else if pipe.done {
                Poll::Ready(Ok(Start::Empty))
            } else if pipe.writer_gone {
                Poll::Ready(Err(disconnected("the body never began")))
            } else {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        })
        .await
    }

    /// The announced length in bytes, if any came yet.
    pub fn size(&self) -> Option<u64> {
        self.pipe.borrow().size
    }

    /// The next bytes; `None` after a complete body; an error when it broke off or its length is
    /// not what was announced.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        let mut pipe = self.pipe.borrow_mut();
        if let Some(chunk) = pipe.chunks.pop_front() {
            pipe.buffered -= cost(chunk.len());
            pipe.wake_writers();
            return Poll::Ready(Some(Ok(chunk)));
        }
        if pipe.done {
            return Poll::Ready(match pipe.size {
                Some(size) if size != pipe.received => Some(Err(failed(format!(
                    "the body has {} bytes, but {size} were announced",
                    pipe.received
                )))),
                _ => None,
            });
        }
        if pipe.writer_gone {
            return Poll::Ready(Some(Err(disconnected("the body broke off"))));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Stream for BodyReceiver {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_chunk(cx)
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.reader_gone = true;
        pipe.chunks.clear();
        pipe.wake_writers();
    }
}

/// The exported `ByteStream`.
struct BodyStreamImpl {
    pipe: Rc<RefCell<Pipe>>,
}

impl Drop for BodyStreamImpl {
    fn drop(&mut self) {
        let mut pipe = self.pipe.borrow_mut();
        pipe.writer_gone = true;
        pipe.wake_reader();
    }
}

impl BodyStreamImpl {
    /// Waits until there is room for a piece, or nobody to make it.
    async fn room(&self, length: usize) {
        poll_fn(|cx| {
            let mut pipe = self.pipe.borrow_mut();
            let full = pipe.buffered > 0 && pipe.buffered + cost(length) > BODY_WINDOW;
            if full && !pipe.reader_gone {
                pipe.writers.push(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
        .await;
    }

    fn take(&self, piece: &[u8]) -> Result<(), Error> {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.reader_gone {
            return Err(disconnected("nobody reads this body any more"));
        }
        if pipe.done {
            return Err(failed("write after done"));
        }
        pipe.received += piece.len() as u64;
        if pipe.size.is_some_and(|size| pipe.received > size) {
            pipe.writer_gone = true;
            pipe.wake_reader();
            return Err(failed("more bytes than were announced"));
        }
        if !piece.is_empty() {
            pipe.buffered += cost(piece.len());
            pipe.chunks.push_back(Bytes::copy_from_slice(piece));
            pipe.wake_reader();
        }
        Ok(())
    }
}

/// `write` is a streaming method: capnp-rpc calls nothing else here until it has answered.
impl byte_stream::Server for BodyStreamImpl {
    async fn write(self: Rc<Self>, params: byte_stream::WriteParams) -> Result<(), Error> {
        let mut rest = params.get()?.get_data()?;
        // The message waits as it came, counted by the guard, and is answered when all of it has
        // been copied, as there is room: a peer chooses how large its pieces are.
        loop {
            let (piece, more) = rest.split_at(rest.len().min(BODY_CHUNK));
            self.room(piece.len()).await;
            self.take(piece)?;
            if more.is_empty() {
                return Ok(());
            }
            rest = more;
        }
    }

    async fn done(
        self: Rc<Self>,
        _params: byte_stream::DoneParams,
        _results: byte_stream::DoneResults,
    ) -> Result<(), Error> {
        let mut pipe = self.pipe.borrow_mut();
        if pipe.done {
            return Err(failed("done was called twice"));
        }
        pipe.done = true;
        pipe.wake_reader();
        Ok(())
    }

    async fn expect_size(
        self: Rc<Self>,
        params: byte_stream::ExpectSizeParams,
        _results: byte_stream::ExpectSizeResults,
    ) -> Result<(), Error> {
        let size = params.get()?.get_size();
        let mut pipe = self.pipe.borrow_mut();
        // A body's length is known before its first byte or not at all.
        if pipe.received == 0 && !pipe.done {
            pipe.size = Some(size);
            pipe.wake_reader();
        }
        Ok(())
    }
}
