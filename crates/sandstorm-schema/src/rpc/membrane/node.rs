//! One object in the membrane, as a hook that the RPC layer and local callers use.

use std::cell::RefCell;
use std::rc::{Rc, Weak};

use capnp::capability::{Promise, Request};
use capnp::private::capability::{ClientHook, ParamsHook, ResultsHook};
use capnp::{Error, MessageSize, any_pointer};

use super::request::CrossingRequest;
use super::{Core, Crossing, Direction, broken};
use crate::rpc::error;

pub(super) struct Node {
    pub(super) core: Rc<Core>,
    pub(super) direction: Direction,
    /// The inner hook's `get_ptr`, which stays while we hold it.
    key: usize,
    /// Gone after a revocation.
    inner: RefCell<Option<Box<dyn ClientHook>>>,
}

impl Node {
    pub(super) fn new(
        core: Rc<Core>,
        direction: Direction,
        key: usize,
        inner: Box<dyn ClientHook>,
    ) -> Rc<Self> {
        Rc::new(Node { core, direction, key, inner: RefCell::new(Some(inner)) })
    }

    /// What tells this node from all others that live.
    pub(super) fn pointer(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    /// The object behind; a broken one after a revocation.
    pub(super) fn inner(&self) -> Box<dyn ClientHook> {
        match &*self.inner.borrow() {
            Some(inner) => inner.add_ref(),
            None => broken(self.core.revoked().unwrap_or_else(|| error::disconnected("revoked"))),
        }
    }

    /// Who takes a call: the object behind, or what the policy puts in its stead.
    pub(super) fn callee(&self, interface: u64, method: u16) -> Box<dyn ClientHook> {
        let inner = self.inner();
        let crossing = Crossing { direction: self.direction, interface, method };
        self.core.policy.stand_in(crossing, &*inner).map_or(inner, |client| client.hook)
    }

    pub(super) fn let_go(&self) -> Option<Box<dyn ClientHook>> {
        self.inner.borrow_mut().take()
    }

    pub(super) fn check(&self, interface: u64, method: u16) -> Result<(), Error> {
        self.core.check(Crossing { direction: self.direction, interface, method })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let mut tables = self.core.tables.borrow_mut();
        tables.by_pointer.remove(&self.pointer());
        // A later node may have the same key: only a dead entry is ours.
        let key = (self.direction, self.key);
        if tables.by_inner.get(&key).is_some_and(|entry| entry.strong_count() == 0) {
            tables.by_inner.remove(&key);
        }
    }
}

pub(super) struct NodeHook {
    node: Rc<Node>,
}

impl NodeHook {
    pub(super) fn new(node: Rc<Node>) -> Self {
        NodeHook { node }
    }
}

impl ClientHook for NodeHook {
    fn add_ref(&self) -> Box<dyn ClientHook> {
        Box::new(NodeHook { node: self.node.clone() })
    }

    fn new_call(
        &self,
        interface: u64,
        method: u16,
        _hint: Option<MessageSize>,
    ) -> Request<any_pointer::Owned, any_pointer::Owned> {
        Request::new(Box::new(CrossingRequest::new(self.node.clone(), interface, method)))
    }

    fn call(
        &self,
        interface: u64,
        method: u16,
        params: Box<dyn ParamsHook>,
        mut results: Box<dyn ResultsHook>,
    ) -> Promise<(), Error> {
        let node = self.node.clone();
        let request = node.check(interface, method).and_then(|()| {
            let content = params.get()?;
            let mut request = node.callee(interface, method).new_call(interface, method, None);
            node.core.transfer(content, request.get(), node.direction.flip())?;
            Ok(request)
        });
        // The caller's message is copied: its memory goes before the answer is waited for.
        drop(params);
        match request {
            Err(error) => Promise::err(error),
            Ok(request) => {
                // Without its pipeline, so that dropping the promise gives the call up.
                let answer = request.send().promise;
                Promise::from_future(async move {
                    let answer = node
                        .core
                        .unless_revoked(node.direction, answer)
                        .await
                        .map_err(error::passed_on)?;
                    node.core.transfer(answer.get()?, results.get()?, node.direction)
                })
            }
        }
    }

    fn get_brand(&self) -> usize {
        self.node.core.brand()
    }

    fn get_ptr(&self) -> usize {
        self.node.pointer()
    }

    fn get_resolved(&self) -> Option<Box<dyn ClientHook>> {
        let resolved = self.node.inner.borrow().as_ref()?.get_resolved()?;
        Some(self.node.core.wrap(resolved, self.node.direction))
    }

    fn when_more_resolved(&self) -> Option<Promise<Box<dyn ClientHook>, Error>> {
        // capnp-rpc's promises tell only those who asked before.
        if let Some(resolved) = self.get_resolved() {
            return Some(Promise::ok(resolved));
        }
        let promise = self.node.inner.borrow().as_ref()?.when_more_resolved()?;
        // Whoever waits does not keep the node.
        let (core, direction) = (Rc::downgrade(&self.node.core), self.node.direction);
        Some(Promise::from_future(async move {
            let core = upgrade(&core)?;
            let resolved =
                core.unless_revoked(direction, promise).await.map_err(error::passed_on)?;
            Ok(core.wrap(resolved, direction))
        }))
    }

    fn when_resolved(&self) -> Promise<(), Error> {
        match self.when_more_resolved() {
            None => Promise::ok(()),
            Some(promise) => {
                Promise::from_future(async move { promise.await?.when_resolved().await })
            }
        }
    }
}

fn upgrade(core: &Weak<Core>) -> Result<Rc<Core>, Error> {
    core.upgrade().ok_or_else(|| error::disconnected("the membrane is gone"))
}
