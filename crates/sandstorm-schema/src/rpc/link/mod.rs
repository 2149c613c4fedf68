//! Our `VatNetwork`: frames in, frames out, and (towards a less trusted peer) the guard between.
//!
//! Trust: see [`crate::rpc::guard`]. Written in place of `capnp_rpc::twoparty` because that one
//! reads frames before anybody can refuse them, queues without bound, and lets failures of the
//! writing half pass unnoticed by those who wait for answers.

mod frame;
mod outbox;

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::Duration;

use capnp::capability::Promise;
use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{FlowController, IncomingMessage, OutgoingMessage, VatNetwork, twoparty};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

pub use frame::{Frame, FrameReader};
pub use outbox::Outbox;

use super::guard::{Guard, Hold, Verdict};
use crate::limits;

/// Largest frame of a peer that we trust, in bytes. Above every guard's, since our betters pass on
/// what our equals sent them.
const TRUSTED_FRAME: usize = 64 * 1024 * 1024;

/// Words of an outgoing message's first piece: holds any small message; larger ones get a second
/// piece that is as large as they are.
const FIRST_PIECE_WORDS: u32 = 128;

/// How often it is looked whether a promise has resolved that a message waits for.
const PROMISE_LOOK: Duration = Duration::from_millis(2);

/// What both halves of a connection share with the [`super::Vat`].
#[derive(Clone)]
pub struct Link {
    pub outbox: Outbox,
    pub guard: Option<Rc<RefCell<Guard>>>,
}

/// The network of two vats.
pub struct Network {
    link: Link,
    side: Side,
    first: Option<Connection>,
    core: Weak<Core>,
    writer: Option<OwnedWriteHalf>,
}

/// Opens `stream`; `guard` when the peer is less trusted than we are.
pub fn open(stream: UnixStream, side: Side, guard: Option<Guard>) -> (Network, Link) {
    let (read, write) = stream.into_split();
    let limits = guard.as_ref().map(|guard| *guard.limits());
    let outbox = Outbox::new(limits.as_ref().map(|limits| limits.write_stall));
    let reader = match &limits {
        Some(limits) => FrameReader::new(read, limits.frame_bytes, Some(limits.read_stall)),
        None => FrameReader::new(read, TRUSTED_FRAME, None),
    };
    let link = Link { outbox, guard: guard.map(|guard| Rc::new(RefCell::new(guard))) };
    let core = Rc::new(Core {
        link: link.clone(),
        side,
        reader: Rc::new(RefCell::new(Some(reader))),
        streams: RefCell::new(None),
    });
    let network = Network {
        link: link.clone(),
        side,
        core: Rc::downgrade(&core),
        first: Some(Connection { core }),
        writer: Some(write),
    };
    (network, link)
}

impl VatNetwork<Side> for Network {
    fn connect(&mut self, host: Side) -> Option<Box<dyn capnp_rpc::Connection<Side>>> {
        if host == self.side {
            return None;
        }
        // `Vat` does not ask for a connection that has ended.
        let core = self.core.upgrade()?;
        Some(Box::new(Connection { core }))
    }

    fn accept(&mut self) -> Promise<Box<dyn capnp_rpc::Connection<Side>>, capnp::Error> {
        match self.first.take() {
            Some(connection) => Promise::ok(Box::new(connection)),
            None => Promise::from_future(futures::future::pending()),
        }
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), capnp::Error> {
        match self.writer.take() {
            Some(writer) => Promise::from_future(self.link.outbox.clone().run(writer)),
            None => Promise::from_future(futures::future::pending()),
        }
    }
}

/// What lives as long as the RPC system uses the connection.
struct Core {
    link: Link,
    side: Side,
    /// Taken while a message is being read.
    reader: Rc<RefCell<Option<FrameReader<OwnedReadHalf>>>>,
    streams: RefCell<Option<Box<dyn capnp_rpc::Connection<Side>>>>,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.link.outbox.connection_gone();
    }
}

struct Connection {
    core: Rc<Core>,
}

impl capnp_rpc::Connection<Side> for Connection {
    fn get_peer_vat_id(&self) -> Side {
        self.core.side
    }

    fn new_outgoing_message(&mut self, words: u32) -> Box<dyn OutgoingMessage> {
        Box::new(Outgoing { message: new_message(words), link: self.core.link.clone() })
    }

    fn receive_incoming_message(
        &mut self,
    ) -> Promise<Option<Box<dyn IncomingMessage>>, capnp::Error> {
        let slot = self.core.reader.clone();
        let link = self.core.link.clone();
        Promise::from_future(async move {
            let Some(mut reader) = slot.borrow_mut().take() else {
                return Err(super::error::failed("two readers of one connection"));
            };
            let message = link.receive(&mut reader).await?;
            *slot.borrow_mut() = Some(reader);
            Ok(message)
        })
    }

    fn new_stream(&mut self) -> (Box<dyn FlowController>, Promise<(), capnp::Error>) {
        // capnp-rpc's window is its own; only its two-party network can be told how wide.
        self.core
            .streams
            .borrow_mut()
            .get_or_insert_with(|| {
                let mut network = twoparty::VatNetwork::new(
                    futures::io::empty(),
                    futures::io::sink(),
                    Side::Client,
                    ReaderOptions::new(),
                );
                network.set_window_size(limits::BODY_WINDOW);
                network.connect(Side::Server).unwrap_or_else(|| unreachable!("other side"))
            })
            .new_stream()
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), capnp::Error> {
        let outbox = self.core.link.outbox.clone();
        outbox.close(result);
        Promise::from_future(async move {
            outbox.wait_over().await;
            Ok(())
        })
    }
}

impl Link {
    async fn receive(
        &self,
        reader: &mut FrameReader<OwnedReadHalf>,
    ) -> capnp::Result<Option<Box<dyn IncomingMessage>>> {
        loop {
            self.pause().await;
            self.rest().await;
            let frame = {
                let mut next = pin!(reader.next());
                poll_fn(|cx| {
                    if let Poll::Ready(error) = self.outbox.poll_over(cx) {
                        return Poll::Ready(Err(error));
                    }
                    next.as_mut().poll(cx)
                })
                .await?
            };
            let Some(frame) = frame else { return Ok(None) };
            let Some(guard) = &self.guard else {
                return Ok(Some(Box::new(Incoming { reader: open_frame(frame), _hold: None })));
            };
            let mut verdict = {
                let (queued, answers) = (self.outbox.bytes(), self.outbox.caused_bytes());
                guard.borrow_mut().incoming(frame, queued, answers)?
            };
            let mut waited = Duration::ZERO;
            loop {
                verdict = match verdict {
                    Verdict::Pass(reader, hold) => {
                        return Ok(Some(Box::new(Incoming { reader, _hold: hold })));
                    }
                    Verdict::Answer(message) => {
                        self.outbox.send(Rc::new(message), true);
                        break;
                    }
                    Verdict::Wait(reader) => {
                        let most = guard.borrow().limits().promise_wait;
                        let patient = waited < most && !self.outbox.is_closing();
                        if patient {
                            tokio::time::sleep(PROMISE_LOOK).await;
                            waited += PROMISE_LOOK;
                        }
                        guard.borrow_mut().again(reader, patient)?
                    }
                };
            }
        }
    }

    /// Leaves the peer's messages in the socket for as long as they come too fast.
    async fn rest(&self) {
        let Some(guard) = &self.guard else { return };
        loop {
            let Some(time) = guard.borrow_mut().rest() else { return };
            if self.outbox.is_closing() {
                return;
            }
            tokio::time::sleep(time).await;
        }
    }

    /// Lets a peer that asks faster than it listens wait. One that cannot listen until it has
    /// spoken gets a message through at each opening of the valve.
    async fn pause(&self) {
        let Some(guard) = &self.guard else { return };
        let (limit, valve) = {
            let guard = guard.borrow();
            (guard.limits().pause_reading_bytes, guard.limits().pause_valve)
        };
        while self.outbox.caused_bytes() > limit {
            let before = self.outbox.taken();
            let waited = tokio::time::timeout(valve, self.outbox.drained(limit)).await;
            if waited.is_err() && self.outbox.taken() == before || self.outbox.is_closing() {
                return;
            }
        }
    }
}

/// A message that the guard has walked, or whose sender we trust: no counter (see
/// [`super::guard`]).
pub fn open_frame(frame: Frame) -> Reader<Frame> {
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    options.nesting_limit(limits::NESTING);
    Reader::new(frame, options)
}

pub fn new_message(words: u32) -> Builder<HeapAllocator> {
    Builder::new(HeapAllocator::new().first_segment_words(words.min(FIRST_PIECE_WORDS)))
}

struct Incoming {
    reader: Reader<Frame>,
    _hold: Option<Hold>,
}

impl IncomingMessage for Incoming {
    fn get_body(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.reader.get_root()
    }
}

struct Outgoing {
    message: Builder<HeapAllocator>,
    link: Link,
}

impl OutgoingMessage for Outgoing {
    fn get_body(&mut self) -> capnp::Result<capnp::any_pointer::Builder<'_>> {
        self.message.get_root()
    }

    fn get_body_as_reader(&self) -> capnp::Result<capnp::any_pointer::Reader<'_>> {
        self.message.get_root_as_reader()
    }

    fn send(self: Box<Self>) -> (Promise<(), capnp::Error>, Rc<Builder<HeapAllocator>>) {
        let Outgoing { message, link } = *self;
        let caused = match &link.guard {
            Some(guard) => guard.borrow_mut().outgoing(&message),
            None => false,
        };
        let message = Rc::new(message);
        let number = link.outbox.send(message.clone(), caused);
        (Promise::from_future(link.outbox.wait_written(number)), message)
    }

    fn take(self: Box<Self>) -> Builder<HeapAllocator> {
        self.message
    }

    fn size_in_words(&self) -> usize {
        self.message.size_in_words()
    }
}
