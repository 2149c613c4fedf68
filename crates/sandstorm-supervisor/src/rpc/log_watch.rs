//! `watchLog`: the past and then the present of the log, into a stream of the shell's.
#![forbid(unsafe_code)]

use std::rc::Rc;

use bytes::Bytes;
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::util_capnp::{byte_stream, handle};

use crate::grain::log::{Log, Watcher};

/// Watchers at once; each may hold a queue and a backlog.
pub const MAX_WATCHERS: usize = 32;

/// Dropping it stops the writing.
struct LogHandleImpl {
    watcher: Rc<Watcher>,
    task: tokio::task::AbortHandle,
}

impl handle::Server for LogHandleImpl {}

impl Drop for LogHandleImpl {
    fn drop(&mut self) {
        self.watcher.close();
        self.task.abort();
    }
}

/// Starts writing; the handle keeps it going. `token` is dropped when it ends.
pub fn start<T: 'static>(
    log: &Log,
    backlog: u64,
    stream: byte_stream::Client,
    token: T,
) -> handle::Client {
    // In one step, so that nothing is lost or doubled between the past and the present.
    let past = Bytes::from(log.tail(backlog));
    let watcher = log.watch();
    let source = watcher.clone();
    let task = tokio::task::spawn_local(async move {
        let _token = token;
        let mut writer = BodyWriter::new(stream);
        if writer.write(past).await.is_err() {
            source.close();
            return;
        }
        loop {
            let bytes = tokio::select! {
                bytes = source.next() => bytes,
                _ = writer.broken() => break,
            };
            if writer.write(bytes).await.is_err() {
                break;
            }
        }
        source.close();
    });
    capnp_rpc::new_client(LogHandleImpl { watcher, task: task.abort_handle() })
}
