//! A WebSocket's bytes on their way to the shell: a bounded number, and every call's end is seen.
//!
//! Plain calls on a method that the schema calls streaming: the same on the wire, but each call's
//! own end can be awaited. So an error is noticed at once, and nothing is dropped before the peer
//! has taken it (dropping a call cancels it).

use std::collections::VecDeque;

use bytes::Bytes;
use capnp::Error;
use capnp::capability::Promise;
use capnp::traits::HasTypeId;
use futures::FutureExt;
use sandstorm_schema::limits::BODY_WINDOW;
use sandstorm_schema::web_session_capnp::web_session::web_socket_stream;

/// Calls under way, by size, oldest first.
struct Window {
    in_flight: VecDeque<(usize, Promise<(), Error>)>,
    bytes: usize,
    limit: usize,
}

impl Window {
    fn new(limit: usize) -> Self {
        Window { in_flight: VecDeque::new(), bytes: 0, limit }
    }

    /// Waits until there is room; fails when an earlier call has failed.
    async fn room(&mut self) -> Result<(), Error> {
        while let Some((_, promise)) = self.in_flight.front_mut() {
            if self.bytes < self.limit {
                match promise.now_or_never() {
                    None => break,
                    Some(outcome) => outcome?,
                }
            } else {
                promise.await?;
            }
            self.forget_oldest();
        }
        Ok(())
    }

    fn track(&mut self, bytes: usize, promise: Promise<(), Error>) {
        self.bytes += bytes;
        self.in_flight.push_back((bytes, promise));
    }

    async fn drain(&mut self) -> Result<(), Error> {
        while let Some((_, promise)) = self.in_flight.front_mut() {
            promise.await?;
            self.forget_oldest();
        }
        Ok(())
    }

    fn forget_oldest(&mut self) {
        if let Some((bytes, _)) = self.in_flight.pop_front() {
            self.bytes -= bytes;
        }
    }
}

type AnyCall = capnp::capability::Request<capnp::any_pointer::Owned, capnp::any_pointer::Owned>;

fn finish(call: AnyCall) -> Promise<(), Error> {
    Promise::from_future(call.send().promise.map(|r| r.map(|_| ())))
}

/// Sends a WebSocket's raw bytes.
pub struct SocketSink {
    client: web_socket_stream::Client,
    window: Window,
}

impl SocketSink {
    /// Half a body's window: frames are small.
    pub fn new(client: web_socket_stream::Client) -> Self {
        SocketSink { client, window: Window::new(BODY_WINDOW / 2) }
    }

    /// Sends bytes once the window has room for them.
    ///
    /// # Errors
    /// When the reader has gone, or failed on earlier bytes.
    pub async fn send(&mut self, piece: Bytes) -> Result<(), Error> {
        self.window.room().await?;
        let mut call: AnyCall =
            self.client.client.new_call(web_socket_stream::Client::TYPE_ID, 0, None);
        let mut params: web_socket_stream::send_bytes_params::Builder<'_> = call.get().init_as();
        params.set_message(&piece);
        self.window.track(piece.len(), finish(call));
        Ok(())
    }

    /// Waits until the reader has taken everything.
    ///
    /// # Errors
    /// When the reader has gone.
    pub async fn drain(mut self) -> Result<(), Error> {
        self.window.drain().await
    }
}
