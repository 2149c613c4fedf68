//! The door towards a less trusted peer: what it may send, and how much of it.
//!
//! Trust: this module reads every message of a hostile process before capnp-rpc does. capnp-rpc
//! bounds nothing, and some inputs make it panic, loop or overflow its stack; so each message is
//! walked ([`walk()`]), held against the rules of its kind ([`inspect`]) and entered in tables that
//! mirror capnp-rpc's own ([`ledger`], [`promises`]). What breaks a rule ends the connection
//! ([`Violation`]); what is only too much at once is answered with `Overloaded` or cut.
//!
//! The mirror follows capnp-rpc 0.27's behaviour, seen from the wire: its tables change only by
//! messages that pass here, in this order.

mod budget;
mod inspect;
mod ledger;
mod limits;
mod pace;
mod promises;
mod rewrite;
mod walk;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator, Reader};

pub use budget::Budget;
pub use limits::GuardLimits;
pub use walk::walk;

use super::link::{Frame, open_frame};
use ledger::Ledger;

/// Messages of so many bytes pass however much is held: their number has limits of its own.
const SMALL: usize = 4096;

/// Why a peer lost its connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("malformed message: {0}")]
    Malformed(&'static str),
    #[error("message that no peer of ours may send: {0}")]
    Forbidden(&'static str),
    #[error("{what}: more than {limit}")]
    TooMany { what: &'static str, limit: usize },
    #[error("{what} refers to {id}, which does not exist")]
    Unknown { what: &'static str, id: u32 },
}

impl From<Violation> for capnp::Error {
    fn from(violation: Violation) -> Self {
        capnp::Error::failed(format!("connection refused by the guard: {violation}"))
    }
}

/// What becomes of a message.
pub enum Verdict {
    /// On to capnp-rpc.
    Pass(Reader<Frame>, Option<Hold>),
    /// Not on to capnp-rpc; this goes back to the peer.
    Answer(Builder<HeapAllocator>),
    /// Not yet: to be judged [`Guard::again`] when something may have changed.
    Wait(Reader<Frame>),
}

/// Counts a message's bytes for as long as somebody holds it.
pub struct Hold {
    held: Rc<Cell<usize>>,
    bytes: usize,
    /// Where they are counted, too.
    budget: Option<Arc<Budget>>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.held.set(self.held.get() - self.bytes);
        if let Some(budget) = &self.budget {
            budget.give_back(self.bytes);
        }
    }
}

/// The tables of one connection.
pub struct Guard {
    limits: GuardLimits,
    ledger: Ledger,
    held: Rc<Cell<usize>>,
    budget: Option<Arc<Budget>>,
    /// Found while sending, told when the peer's next message comes.
    pending: Option<Violation>,
}

/// How full a guarded connection's tables are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardStats {
    /// Objects of the peer's that we hold.
    pub imports: usize,
    /// Objects of ours that the peer holds.
    pub exports: usize,
    /// Calls of the peer's that we have not answered.
    pub unanswered_calls: usize,
    /// Calls of the peer's that are answered and not finished.
    pub open_answers: usize,
    /// Calls that the peer gave up and that still cost memory here.
    pub abandoned_calls: usize,
    /// Calls that we gave up and that the peer has not acknowledged: they cost memory there, and a
    /// little here. When these two grow into the thousands, open a new connection.
    pub given_up_calls: usize,
    /// Bytes of received messages that somebody holds.
    pub held_bytes: usize,
}

impl Guard {
    pub fn new(limits: GuardLimits, budget: Option<Arc<Budget>>) -> Self {
        let ledger = Ledger::new(&limits);
        Guard { limits, ledger, held: Rc::default(), budget, pending: None }
    }

    pub fn limits(&self) -> &GuardLimits {
        &self.limits
    }

    pub fn stats(&self) -> GuardStats {
        GuardStats { held_bytes: self.held.get(), ..self.ledger.stats() }
    }

    /// Judges a message of the peer's, while `queued` bytes wait on their way to it, and of them
    /// `answers` that it made us send.
    ///
    /// # Errors
    /// The [`Violation`] that ends the connection.
    pub fn incoming(
        &mut self,
        frame: Frame,
        queued: usize,
        answers: usize,
    ) -> Result<Verdict, Violation> {
        if let Some(violation) = self.pending.take() {
            return Err(violation);
        }
        too_many("bytes that wait to be taken", queued, self.limits.queued_bytes)?;
        too_many("bytes of answers that wait to be taken", answers, self.limits.answer_bytes)?;
        let pointers = walk(&frame)?;
        self.ledger.pace.spend_parts(pointers, 0);
        let patient = !self.limits.promise_wait.is_zero();
        self.again(open_frame(frame), patient)
    }

    /// Judges a message that was told to wait; for the last time unless `patient`.
    ///
    /// # Errors
    /// As [`Guard::incoming`].
    pub fn again(&mut self, reader: Reader<Frame>, patient: bool) -> Result<Verdict, Violation> {
        let bytes = reader.get_segments().bytes();
        let (hold, crowded) = self.hold(bytes);
        match inspect::incoming(&reader, &mut self.ledger, &self.limits, crowded, patient)? {
            inspect::Fate::Pass => {}
            inspect::Fate::Wait => return Ok(Verdict::Wait(reader)),
            inspect::Fate::Answer(message) => return Ok(Verdict::Answer(message)),
            inspect::Fate::Replace(message) => {
                return Ok(Verdict::Pass(open_frame(rewrite::frame(&message)), None));
            }
        }
        Ok(Verdict::Pass(reader, Some(hold)))
    }

    /// Counts a message; whether there is no room for it.
    fn hold(&self, bytes: usize) -> (Hold, bool) {
        let held = self.held.get() + bytes;
        self.held.set(held);
        let mut hold = Hold { held: self.held.clone(), bytes, budget: None };
        if bytes <= SMALL {
            return (hold, false);
        }
        let Some(budget) = &self.budget else { return (hold, held > self.limits.held_bytes) };
        let room = held <= self.limits.held_bytes && budget.try_take(bytes);
        hold.budget = room.then(|| budget.clone());
        (hold, !room)
    }

    /// For how long the peer's next message should stay where it is; to be asked again after that.
    pub fn rest(&mut self) -> Option<Duration> {
        self.ledger.pace.rest()
    }

    /// Enters a message of ours. True when the peer made us send it.
    pub fn outgoing(&mut self, message: &Builder<HeapAllocator>) -> bool {
        match inspect::outgoing(message, &mut self.ledger, &self.limits) {
            Ok(caused) => caused,
            Err(violation) => {
                self.pending.get_or_insert(violation);
                true
            }
        }
    }
}

fn too_many(what: &'static str, count: usize, limit: usize) -> Result<(), Violation> {
    if count > limit { Err(Violation::TooMany { what, limit }) } else { Ok(()) }
}
