//! A membrane: objects on one side are reached from the other only through it.
//!
//! Trust: the supervisor puts one between a hostile app and the shell. It forwards any interface,
//! known or not; its policy sees every call and may refuse it; once revoked, nothing passes any
//! more in either direction. Each object that crosses, in parameters, answers or promises, is
//! wrapped; one that comes back is unwrapped, so identity survives. It sees no frames: sizes and
//! numbers are the guard's ([`super::guard`]).
//!
//! ```text
//!            outside (shell)  │  inside (app)
//!   call ──────────────────▶ node ──────────▶ object          Direction::Inward
//!        object ◀─────────── node ◀────────── call            Direction::Outward
//! ```

mod node;
mod request;

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use capnp::capability::{Client, FromClientHook};
use capnp::message::{Builder, HeapAllocator};
use capnp::private::capability::ClientHook;
use capnp::traits::{Imbue, ImbueMut};
use capnp::{Error, any_pointer};
use tokio::sync::Notify;

use super::error;
use node::{Node, NodeHook};

/// Which way calls on an object cross the membrane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From outside to an object inside.
    Inward,
    /// From inside to an object outside.
    Outward,
}

impl Direction {
    fn flip(self) -> Self {
        match self {
            Direction::Inward => Direction::Outward,
            Direction::Outward => Direction::Inward,
        }
    }
}

/// One call that wants to cross.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crossing {
    pub direction: Direction,
    /// The interface's id. A cast changes only the caller's type, so this is all that counts.
    pub interface: u64,
    /// The method's ordinal.
    pub method: u16,
}

/// Decides about calls. Seeing a call is a sign of life, whether it is allowed or not.
pub trait MembranePolicy {
    /// `Err` refuses the call with that error.
    fn check(&self, crossing: Crossing) -> Result<(), Error>;

    /// Another object that takes an allowed call in the callee's stead, on the callee's side of
    /// the membrane. Unlike the callee it is ours, so it may do what the callee may not be asked
    /// to do from across.
    fn stand_in(&self, _crossing: Crossing, _callee: &dyn ClientHook) -> Option<Client> {
        None
    }

    /// How long a call whose callee was lost waits for the revocation, whose error says why.
    fn last_words(&self, _direction: Direction) -> Duration {
        Duration::ZERO
    }
}

/// One membrane. A clone is the same membrane.
#[derive(Clone)]
pub struct Membrane {
    core: Rc<Core>,
}

impl Membrane {
    pub fn new(policy: Rc<dyn MembranePolicy>) -> Self {
        let tables = RefCell::new(Tables::default());
        let revoked = RefCell::new(None);
        Membrane { core: Rc::new(Core { policy, tables, revoked, revocation: Notify::new() }) }
    }

    /// `inner` lives inside; the result is for the outside.
    pub fn outward_face<C: FromClientHook>(&self, inner: C) -> C {
        C::new(self.core.wrap(inner.into_client_hook(), Direction::Inward))
    }

    /// `outer` lives outside; the result is for the inside.
    pub fn inward_face<C: FromClientHook>(&self, outer: C) -> C {
        C::new(self.core.wrap(outer.into_client_hook(), Direction::Outward))
    }

    /// Ends all crossing: calls on their way and later ones fail with `error`, and every object
    /// that was held for the other side is let go of. The first call counts.
    pub fn revoke(&self, error: Error) {
        if self.core.revoked.borrow().is_some() {
            return;
        }
        *self.core.revoked.borrow_mut() = Some(error);
        let nodes: Vec<_> =
            self.core.tables.borrow().by_pointer.values().filter_map(Weak::upgrade).collect();
        // Objects may run code of theirs when they are let go of: no borrow is held here.
        nodes.iter().for_each(|node| drop(node.let_go()));
        self.core.revocation.notify_waiters();
    }

    /// Objects that stand in the membrane now.
    pub fn nodes(&self) -> usize {
        self.core.tables.borrow().by_pointer.len()
    }
}

/// Puts `inner` behind a new membrane; calls on the result go [`Direction::Inward`].
pub fn wrap(inner: Client, policy: Rc<dyn MembranePolicy>) -> (Client, Membrane) {
    let membrane = Membrane::new(policy);
    (membrane.outward_face(inner), membrane)
}

struct Core {
    policy: Rc<dyn MembranePolicy>,
    tables: RefCell<Tables>,
    revoked: RefCell<Option<Error>>,
    revocation: Notify,
}

/// The nodes that live. Weak, so that a node lives as long as somebody uses it; known by what
/// they wrap, so that an object that crosses twice is the same object twice.
#[derive(Default)]
struct Tables {
    by_inner: HashMap<(Direction, usize), Weak<Node>>,
    by_pointer: HashMap<usize, Weak<Node>>,
}

impl Core {
    /// Of the membrane's own: the RPC layer takes a hook with the brand of a connection for one of
    /// its own.
    fn brand(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn revoked(&self) -> Option<Error> {
        self.revoked.borrow().clone()
    }

    fn check(&self, crossing: Crossing) -> Result<(), Error> {
        self.policy.check(crossing)?;
        self.revoked().map_or(Ok(()), Err)
    }

    /// `hook` as the other side may have it; calls on it go in `direction`.
    fn wrap(
        self: &Rc<Self>,
        mut hook: Box<dyn ClientHook>,
        direction: Direction,
    ) -> Box<dyn ClientHook> {
        if let Some(error) = self.revoked() {
            return broken(error);
        }
        while let Some(resolved) = hook.get_resolved() {
            hook = resolved;
        }
        if hook.get_brand() == self.brand() {
            let node = self.tables.borrow().by_pointer.get(&hook.get_ptr()).and_then(Weak::upgrade);
            match node {
                // It comes home.
                Some(node) if node.direction != direction => return node.inner(),
                _ => return hook,
            }
        }
        let key = (direction, hook.get_ptr());
        let known = self.tables.borrow().by_inner.get(&key).and_then(Weak::upgrade);
        let node = known.unwrap_or_else(|| {
            let node = Node::new(self.clone(), direction, key.1, hook);
            let mut tables = self.tables.borrow_mut();
            tables.by_inner.insert(key, Rc::downgrade(&node));
            tables.by_pointer.insert(node.pointer(), Rc::downgrade(&node));
            node
        });
        Box::new(NodeHook::new(node))
    }

    /// Copies a message's content across; objects in it are for calls in `direction`.
    fn transfer(
        self: &Rc<Self>,
        from: any_pointer::Reader<'_>,
        mut to: any_pointer::Builder<'_>,
        direction: Direction,
    ) -> Result<(), Error> {
        // The objects are hidden in `from`; a copy with a table of ours brings them out.
        let size = from.target_size()?;
        if size.cap_count == 0 {
            return to.set_as(from);
        }
        let crossed = Crossed::new(self, from, size.word_count, direction)?;
        to.set_as(crossed.reader()?)
    }

    /// `work`, or the revocation's error if that comes first, or soon after the callee was lost.
    async fn unless_revoked<T>(
        &self,
        direction: Direction,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let mut revoked = pin!(self.revocation.notified());
        // Registered before the flag is read, so that none is missed.
        revoked.as_mut().enable();
        if let Some(error) = self.revoked() {
            return Err(error);
        }
        match futures::future::select(pin!(work), revoked).await {
            futures::future::Either::Left((Err(lost), revoked))
                if error::is_disconnected(&lost) =>
            {
                let patience = self.policy.last_words(direction);
                match tokio::time::timeout(patience, revoked).await {
                    Ok(()) => Err(self.revoked().unwrap_or(lost)),
                    Err(_) => Err(lost),
                }
            }
            futures::future::Either::Left((result, _)) => result,
            futures::future::Either::Right(((), _)) => {
                Err(self.revoked().unwrap_or_else(|| error::disconnected("revoked")))
            }
        }
    }
}

/// A message's content after it crossed, with the objects in it wrapped.
struct Crossed {
    message: Builder<HeapAllocator>,
    table: Vec<Option<Box<dyn ClientHook>>>,
}

impl Crossed {
    fn new(
        core: &Rc<Core>,
        from: any_pointer::Reader<'_>,
        words: u64,
        direction: Direction,
    ) -> Result<Self, Error> {
        let words = u32::try_from(words + 1).map_err(|_| error::failed("message too large"))?;
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(words));
        let mut table: Vec<Option<Box<dyn ClientHook>>> = Vec::new();
        let mut root: any_pointer::Builder<'_> = message.init_root();
        root.imbue_mut(&mut table);
        root.set_as(from)?;
        for hook in table.iter_mut().filter_map(Option::as_mut) {
            let crossed = core.wrap(hook.add_ref(), direction);
            *hook = crossed;
        }
        Ok(Crossed { message, table })
    }

    fn reader(&self) -> Result<any_pointer::Reader<'_>, Error> {
        let mut root: any_pointer::Reader<'_> = self.message.get_root_as_reader()?;
        root.imbue(&self.table);
        Ok(root)
    }
}

fn broken(error: Error) -> Box<dyn ClientHook> {
    capnp_rpc::new_broken_cap(error).hook
}
