//! The one response body type of the edge.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Body of any answer: bytes at hand, a page of the shell, or a grain's stream.
pub struct EdgeBody(Kind);

enum Kind {
    Full(Option<Bytes>),
    Shell(axum::body::Body),
    Stream(Stream),
}

/// A body that comes chunk by chunk from a grain.
pub struct Stream {
    /// `Err` cuts the connection, so that the client knows the answer is not whole.
    pub chunks: Box<dyn ChunkSource>,
    /// Bytes still to come, if the app told.
    pub length: Option<u64>,
}

/// Where chunks come from; `None` is the good end.
pub trait ChunkSource: Send {
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>>;
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

    pub fn stream(stream: Stream) -> EdgeBody {
        EdgeBody(Kind::Stream(stream))
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
            Kind::Stream(stream) => match std::task::ready!(stream.chunks.poll_chunk(cx)) {
                None => match stream.length {
                    None | Some(0) => Poll::Ready(None),
                    Some(left) => {
                        Poll::Ready(Some(Err(Cut(format!("{left} bytes are missing")).into())))
                    }
                },
                Some(Err(cut)) => Poll::Ready(Some(Err(cut.into()))),
                Some(Ok(bytes)) => {
                    if let Some(left) = &mut stream.length {
                        match left.checked_sub(bytes.len() as u64) {
                            Some(rest) => *left = rest,
                            None => {
                                let cut = Cut("it is longer than it said".into());
                                return Poll::Ready(Some(Err(cut.into())));
                            }
                        }
                    }
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(bytes) => bytes.is_none(),
            Kind::Shell(body) => body.is_end_stream(),
            // Even of length 0 it is polled once more: `done` has to come.
            Kind::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Kind::Shell(body) => body.size_hint(),
            Kind::Stream(stream) => match stream.length {
                Some(length) => SizeHint::with_exact(length),
                None => SizeHint::default(),
            },
        }
    }
}
