//! Calls on a node by code of this process (and by the RPC layer when a promise was redirected).

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use capnp::capability::{Promise, RemotePromise, Request, Response};
use capnp::message::Builder;
use capnp::private::capability::{ClientHook, PipelineHook, PipelineOp, RequestHook, ResponseHook};
use capnp::traits::{Imbue, ImbueMut};
use capnp::{Error, any_pointer};

use super::node::Node;
use super::{Core, Crossed, Direction, broken};
use crate::rpc::error;

/// A call that is being built. Its parameters cross when it is sent.
pub(super) struct CrossingRequest {
    node: Rc<Node>,
    interface: u64,
    method: u16,
    message: Builder<capnp::message::HeapAllocator>,
    table: Vec<Option<Box<dyn ClientHook>>>,
}

impl CrossingRequest {
    pub(super) fn new(node: Rc<Node>, interface: u64, method: u16) -> Self {
        let message = Builder::new_default();
        CrossingRequest { node, interface, method, message, table: Vec::new() }
    }

    fn cross(self) -> Result<(Rc<Node>, Request<any_pointer::Owned, any_pointer::Owned>), Error> {
        let CrossingRequest { node, interface, method, message, table } = self;
        node.check(interface, method)?;
        let mut request = node.callee(interface, method).new_call(interface, method, None);
        let mut content: any_pointer::Reader<'_> = message.get_root_as_reader()?;
        content.imbue(&table);
        node.core.transfer(content, request.get(), node.direction.flip())?;
        Ok((node, request))
    }
}

impl RequestHook for CrossingRequest {
    fn get(&mut self) -> any_pointer::Builder<'_> {
        let mut root: any_pointer::Builder<'_> = match self.message.get_root() {
            Ok(root) => root,
            Err(_) => unreachable!("a builder of ours has a root"),
        };
        root.imbue_mut(&mut self.table);
        root
    }

    fn get_brand(&self) -> usize {
        self.node.core.brand()
    }

    fn send(self: Box<Self>) -> RemotePromise<any_pointer::Owned> {
        let (node, request) = match self.cross() {
            Ok(crossed) => crossed,
            Err(error) => {
                let pipeline = any_pointer::Pipeline::new(Box::new(BrokenPipeline(error.clone())));
                return RemotePromise { promise: Promise::err(error), pipeline };
            }
        };
        let RemotePromise { promise, pipeline } = request.send();
        let answer: Rc<RefCell<Answer>> = Rc::new(RefCell::new(Answer::Awaited(pipeline.hook)));
        let crossing = CrossingPipeline {
            core: node.core.clone(),
            direction: node.direction,
            answer: answer.clone(),
        };
        let promise = Promise::from_future(async move {
            let result = async {
                let response = node
                    .core
                    .unless_revoked(node.direction, promise)
                    .await
                    .map_err(error::passed_on)?;
                let content = response.get()?;
                let words = content.target_size()?.word_count;
                Crossed::new(&node.core, content, words, node.direction).map(Rc::new)
            }
            .await;
            *answer.borrow_mut() = match &result {
                Ok(crossed) => Answer::Here(crossed.clone()),
                Err(error) => Answer::Failed(error.clone()),
            };
            result.map(|crossed| Response::new(Box::new(CrossedResponse(crossed))))
        });
        RemotePromise { promise, pipeline: any_pointer::Pipeline::new(Box::new(crossing)) }
    }

    fn send_streaming(self: Box<Self>) -> Promise<(), Error> {
        match self.cross() {
            Err(error) => Promise::err(error),
            Ok((node, request)) => {
                let sent = request.hook.send_streaming();
                Promise::from_future(async move {
                    node.core.unless_revoked(node.direction, sent).await.map_err(error::passed_on)
                })
            }
        }
    }

    fn tail_send(self: Box<Self>) -> Option<(u32, Promise<(), Error>, Box<dyn PipelineHook>)> {
        None
    }
}

struct CrossedResponse(Rc<Crossed>);

impl ResponseHook for CrossedResponse {
    fn get(&self) -> Result<any_pointer::Reader<'_>, Error> {
        self.0.reader()
    }
}

enum Answer {
    /// Pipelined references go through the inner call's own pipeline.
    Awaited(Box<dyn PipelineHook>),
    Here(Rc<Crossed>),
    Failed(Error),
}

struct CrossingPipeline {
    core: Rc<Core>,
    direction: Direction,
    answer: Rc<RefCell<Answer>>,
}

impl PipelineHook for CrossingPipeline {
    fn add_ref(&self) -> Box<dyn PipelineHook> {
        Box::new(CrossingPipeline {
            core: self.core.clone(),
            direction: self.direction,
            answer: self.answer.clone(),
        })
    }

    fn get_pipelined_cap(&self, ops: &[PipelineOp]) -> Box<dyn ClientHook> {
        match &*self.answer.borrow() {
            // From our copy: a pointer of the wrong kind is an error here, and a panic there.
            Answer::Here(crossed) => crossed
                .reader()
                .and_then(|content| content.get_pipelined_cap(ops))
                .unwrap_or_else(broken),
            Answer::Failed(error) => broken(error.clone()),
            Answer::Awaited(inner) => {
                // The answer may have reached the inner call, and not yet us.
                let hook = catch_unwind(AssertUnwindSafe(|| inner.get_pipelined_cap(ops)));
                match hook {
                    Ok(hook) => self.core.wrap(hook, self.direction),
                    Err(_) => broken(error::failed("the answer holds no such object")),
                }
            }
        }
    }
}

struct BrokenPipeline(Error);

impl PipelineHook for BrokenPipeline {
    fn add_ref(&self) -> Box<dyn PipelineHook> {
        Box::new(BrokenPipeline(self.0.clone()))
    }

    fn get_pipelined_cap(&self, _ops: &[PipelineOp]) -> Box<dyn ClientHook> {
        broken(self.0.clone())
    }
}
