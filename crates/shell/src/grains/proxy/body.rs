//! The answer's body on the home thread, and its way to another thread.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::Response;
use http_body::{Body, Frame, SizeHint};
use sandstorm_schema::rpc::body::BodyReceiver;
use sandstorm_schema::rpc::error::text;
use sandstorm_schema::util_capnp::handle;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::edge::body::Cut;
use crate::edge::{EdgeBody, Feed};
use crate::grains::shared::Live;

/// Body of an answer on a grain's own thread.
pub enum GrainBody {
    Whole(EdgeBody),
    Stream(Box<AppStream>),
}

/// Bytes that an app sends as long as it likes.
pub struct AppStream {
    receiver: BodyReceiver,
    length: Option<u64>,
    broken: Option<Cut>,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Dropping it tells the app that nobody listens.
    _handle: Option<handle::Client>,
    _live: Live,
}

impl AppStream {
    pub fn new(
        receiver: BodyReceiver,
        length: Option<u64>,
        revoked: &CancellationToken,
        handle: Option<handle::Client>,
        live: Live,
    ) -> AppStream {
        let revoked = Box::pin(revoked.clone().cancelled_owned());
        AppStream { receiver, length, broken: None, revoked, _handle: handle, _live: live }
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if let Some(cut) = self.broken.take() {
            return Poll::Ready(Some(Err(cut)));
        }
        if self.revoked.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(Cut("its session has ended".into()))));
        }
        match Pin::new(&mut self.receiver).poll_next(cx) {
            Poll::Ready(Some(Err(error))) => {
                // An error ends the connection at once, with what waits in its buffer. A pause
                // before it sends that first: the client gets all that the app has sent.
                self.broken = Some(Cut(text(&error)));
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            other => other.map_err(|e| Cut(text(&e))),
        }
    }
}

impl Body for GrainBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            GrainBody::Whole(body) => Pin::new(body).poll_frame(cx),
            GrainBody::Stream(stream) => stream
                .poll_chunk(cx)
                .map(|chunk| chunk.map(|c| c.map(Frame::data).map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            GrainBody::Whole(body) => body.is_end_stream(),
            GrainBody::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            GrainBody::Whole(body) => body.size_hint(),
            GrainBody::Stream(stream) => {
                stream.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// Makes an answer fit to leave this thread: a stream is pumped through a channel of two chunks,
/// so that back-pressure holds.
pub fn into_edge(answer: Response<GrainBody>) -> Response<EdgeBody> {
    answer.map(|body| match body {
        GrainBody::Whole(body) => body,
        GrainBody::Stream(mut stream) => {
            let (send, receive) = mpsc::channel(2);
            let length = stream.length;
            tokio::task::spawn_local(async move {
                loop {
                    let next = std::future::poll_fn(|cx| stream.poll_chunk(cx));
                    let chunk = tokio::select! {
                        chunk = next => chunk,
                        // The client left: so does the app's stream.
                        () = send.closed() => return,
                    };
                    let Some(chunk) = chunk else { return };
                    let broken = chunk.is_err();
                    if send.send(chunk).await.is_err() || broken {
                        return;
                    }
                }
            });
            EdgeBody::feed(Feed { chunks: receive, length })
        }
    })
}
