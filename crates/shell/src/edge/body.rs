//! The response body of the edge: of one type, and fit for any thread.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Body of any answer: bytes at hand, a page of the shell, or chunks from a grain's thread.
pub struct EdgeBody(Kind);

enum Kind {
    Full(Option<Bytes>),
    Shell(axum::body::Body),
    Feed(Feed),
}

/// Chunks that come from another thread.
pub struct Feed {
    /// An `Err` cuts the connection, so that the client knows the answer is not whole; so does
    /// an end before `length`.
    pub chunks: mpsc::Receiver<Result<Bytes, Cut>>,
    /// Bytes of the whole body, if the app told.
    pub length: Option<u64>,
}

/// The app's stream broke off.
#[derive(Debug, thiserror::Error)]
#[error("the app's answer broke off: {0}")]
pub struct Cut(pub String);

impl EdgeBody {
    pub fn empty() -> EdgeBody {
        EdgeBody(Kind::Full(None))
    }

    pub fn full(bytes: impl Into<Bytes>) -> EdgeBody {
        let bytes = bytes.into();
        EdgeBody(Kind::Full((!bytes.is_empty()).then_some(bytes)))
    }

    pub fn shell(body: axum::body::Body) -> EdgeBody {
        EdgeBody(Kind::Shell(body))
    }

    pub fn feed(feed: Feed) -> EdgeBody {
        EdgeBody(Kind::Feed(feed))
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.0 {
            Kind::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Shell(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Feed(feed) => feed
                .chunks
                .poll_recv(cx)
                .map(|chunk| chunk.map(|c| c.map(Frame::data).map_err(Into::into))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Shell(body) => body.is_end_stream(),
            Kind::Feed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Shell(body) => body.size_hint(),
            Kind::Feed(feed) => feed.length.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
