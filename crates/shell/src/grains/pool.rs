//! The threads that hold Cap'n Proto clients.
//!
//! capnp-rpc is `Rc` throughout, so a grain's connection lives on one thread, its home, chosen by
//! the grain's id. A thread runs a runtime of its own for tasks that stay on it; work comes as
//! closures over a channel. Grains' browser connections are served on the same thread
//! (see `edge`), so a request usually never changes threads.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::shared::Shared;
use super::slot::Slot;
use crate::error::{Error, Result};
use crate::ids::GrainId;

type Job = Box<dyn FnOnce(Rc<Local>) + Send>;

/// A handle on one thread. Cheap to clone.
#[derive(Clone)]
pub struct Thread(mpsc::UnboundedSender<Job>);

/// What lives on one thread.
pub struct Local {
    /// Which thread this is: grains with this home are here.
    pub index: usize,
    pub shared: Arc<Shared>,
    pub slots: RefCell<HashMap<GrainId, Rc<Slot>>>,
}

/// Receiving ends of the threads' channels, until the threads start.
pub struct Inboxes(Vec<mpsc::UnboundedReceiver<Job>>);

/// Makes the handles of `count` threads; [`start`] brings them to life.
pub fn prepare(count: usize) -> (Vec<Thread>, Inboxes) {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..count).map(|_| mpsc::unbounded_channel()).unzip();
    (senders.into_iter().map(Thread).collect(), Inboxes(receivers))
}

/// Starts the threads. They end with the process.
pub fn start(inboxes: Inboxes, shared: &Arc<Shared>) -> Result<()> {
    for (index, mut inbox) in inboxes.0.into_iter().enumerate() {
        let shared = shared.clone();
        let (started, start) = std::sync::mpsc::channel();
        std::thread::Builder::new()
            .name(format!("grains-{index}"))
            .spawn(move || {
                // Not a `LocalSet`: each of its wake-ups costs two system calls.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(tokio::runtime::LocalOptions::default());
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(e) => return drop(started.send(e)),
                };
                drop(started);
                let local = Rc::new(Local { index, shared, slots: RefCell::default() });
                runtime.block_on(async move {
                    tokio::task::spawn_local(super::slot::tick(local.clone()));
                    while let Some(job) = inbox.recv().await {
                        job(local.clone());
                    }
                });
            })
            .map_err(Error::io("starting a thread"))?;
        if let Ok(e) = start.recv() {
            return Err(Error::io("starting a thread")(e));
        }
    }
    Ok(())
}

impl Thread {
    /// Runs `work` there and waits for its value. When the caller gives up, `work` is dropped.
    pub fn call<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce(Rc<Local>) -> LocalBoxFuture<'static, T> + Send + 'static,
    {
        let (mut answer, value) = oneshot::channel();
        let sent = self.0.send(Box::new(move |local| {
            tokio::task::spawn_local(async move {
                tokio::select! {
                    value = work(local) => {
                        // A caller that gave up just now wants nothing.
                        let _ = answer.send(value);
                    }
                    () = answer.closed() => {}
                }
            });
        }));
        async move {
            let lost = || Error::Internal("a grain's thread has ended".into());
            sent.map_err(|_| lost())?;
            value.await.map_err(|_| lost())
        }
    }
}
