//! A request's body on its way to the app.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sandstorm_schema::limits::{
    BODY_CHUNK, BODY_WINDOW, BUFFERED_REQUEST_BODY, CALL_COST, SMALL_BODY,
};
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::util_capnp::byte_stream;

use super::call::{Target, Way};
use super::left;
use crate::edge::Peer;
use crate::grains::conn::Conn;
use crate::grains::errors::Fault;
use crate::grains::room::{Room, Share};
use crate::grains::shared::Live;

/// A body, whole or still coming.
pub enum Payload {
    Whole(Bytes, Share),
    Coming(Coming),
    /// It went away with an earlier try. What the app has of it keeps its share.
    Spent {
        _held: Option<Share>,
    },
}

/// Bytes of a body that is kept to be sent a second time.
const REPLAYED: usize = 1 << 20;

/// A body of which the first bytes are here: asking for them made a client that waits for
/// `100 Continue` go on.
pub struct Coming {
    first: Option<Bytes>,
    rest: Incoming,
    pub size: Option<u64>,
}

impl Payload {
    pub async fn read(
        mut body: Incoming,
        target: &Target<'_>,
        room: &Room,
    ) -> Result<Payload, Fault> {
        if body.is_end_stream() {
            return Ok(Payload::Whole(Bytes::new(), room.share()));
        }
        let size = body.size_hint().exact();
        if matches!(target.way, Way::Post | Way::Put) {
            if size.is_none_or(|size| size > SMALL_BODY as u64) {
                let first = next(&mut body).await?;
                return Ok(Payload::Coming(Coming { first, rest: body, size }));
            }
        } else if size.is_some_and(|size| size > BUFFERED_REQUEST_BODY as u64) {
            return Err(too_large());
        }
        let coming = Coming { first: None, rest: body, size };
        coming.collect(room).await
    }

    /// The app has been asked: a large body is not kept for a second time.
    pub fn sent(&mut self) {
        if self.whole().len() > REPLAYED
            && let Payload::Whole(_, share) =
                std::mem::replace(self, Payload::Spent { _held: None })
        {
            *self = Payload::Spent { _held: Some(share) };
        }
    }

    /// Can be sent a second time.
    pub fn is_replayable(&self) -> bool {
        matches!(self, Payload::Whole(..))
    }

    pub fn whole(&self) -> &[u8] {
        match self {
            Payload::Whole(bytes, _) => bytes,
            _ => &[],
        }
    }
}

impl Coming {
    /// Everything in memory, within the limit for it and for the grain's owner.
    pub async fn collect(mut self, room: &Room) -> Result<Payload, Fault> {
        let mut share = room.share();
        let mut all = BytesMut::with_capacity(
            // What was announced is not there yet.
            self.size.unwrap_or(0).min(SMALL_BODY as u64) as usize,
        );
        let mut first = self.first.take();
        loop {
            let chunk = match first.take() {
                Some(first) => Some(first),
                None => next(&mut self.rest).await?,
            };
            let Some(chunk) = chunk else { return Ok(Payload::Whole(all.freeze(), share)) };
            if all.len() + chunk.len() > BUFFERED_REQUEST_BODY {
                return Err(too_large());
            }
            share.grow(chunk.len()).await?;
            all.extend_from_slice(&chunk);
        }
    }

    /// Sends everything into the app's stream. A client that leaves half-way leaves the stream
    /// without its end, so that the app knows the body is not whole; then this fails.
    /// So does one that has left while the app takes nothing of what came before.
    pub async fn pump(
        self,
        stream: byte_stream::Client,
        peer: Option<Peer>,
        conn: &Conn,
        live: Live,
    ) -> Result<(), Fault> {
        let calls = Cell::new(0);
        let sent = self.send(stream, peer.as_ref(), &calls);
        let sent = tokio::select! {
            sent = sent => sent,
            () = left(peer.as_ref()) => {
                conn.gave_up(calls.get().min(BODY_WINDOW / CALL_COST));
                Err(broke_off("The client has left.".into()))
            }
        };
        drop(live);
        sent
    }

    /// `calls`: how many were made.
    async fn send(
        mut self,
        stream: byte_stream::Client,
        peer: Option<&Peer>,
        calls: &Cell<usize>,
    ) -> Result<(), Fault> {
        let mut writer = BodyWriter::new(stream);
        calls.set(1);
        if let Some(size) = self.size {
            if writer.expect_size(size).await.is_err() {
                return Ok(());
            }
        }
        let mut first = self.first.take();
        loop {
            let chunk = match first.take() {
                Some(first) => Ok(Some(first)),
                None => tokio::select! {
                    chunk = next(&mut self.rest) => chunk,
                    // The app reads no further: its answer says why.
                    _ = writer.broken() => return Ok(()),
                },
            };
            match chunk? {
                Some(mut chunk) => {
                    // One piece at a time, so that an app that takes them slowly is seen to.
                    while !chunk.is_empty() {
                        calls.set(calls.get() + 1);
                        let piece = chunk.split_to(chunk.len().min(BODY_CHUNK));
                        if writer.write(piece).await.is_err() {
                            return Ok(());
                        }
                        if let Some(peer) = peer {
                            peer.moved();
                        }
                    }
                }
                None => break,
            }
        }
        // An error shows in the answer.
        let _ = writer.done().await;
        Ok(())
    }
}

/// A client may pause for so long between two pieces: meanwhile it holds memory and keeps a grain awake.
const PAUSE: Duration = Duration::from_secs(120);

/// The next bytes; trailers are dropped.
async fn next<B>(body: &mut B) -> Result<Option<Bytes>, Fault>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    loop {
        let Ok(frame) = tokio::time::timeout(PAUSE, Pin::new(&mut *body).frame()).await else {
            return Err(Fault::new(
                StatusCode::REQUEST_TIMEOUT,
                "S-BODY",
                "The upload stood still",
                "Nothing came for two minutes.",
                "Send it again.",
            ));
        };
        match frame {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if !data.is_empty() {
                        return Ok(Some(data));
                    }
                }
            }
            Some(Err(error)) => {
                return Err(broke_off(error.to_string()));
            }
        }
    }
}

fn broke_off(why: String) -> Fault {
    Fault::new(StatusCode::BAD_REQUEST, "S-BODY", "The upload broke off", why, "Send it again.")
}

fn too_large() -> Fault {
    Fault::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "S-SIZE",
        "This is too large",
        "A request of this kind can have at most 16 MiB.",
        "Send files by PUT or POST: those may be of any size.",
    )
}

#[cfg(test)]
mod tests {
    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stands_still_is_given_up() {
        let frame = |text: &'static str| Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)));
        let slow = futures::stream::unfold(0, |n| async move {
            tokio::time::sleep(PAUSE - Duration::from_secs(1)).await;
            (n < 2).then(|| (frame("x"), n + 1))
        });
        let mut slow = StreamBody::new(Box::pin(slow));
        assert!(next(&mut slow).await.unwrap().is_some());
        assert!(next(&mut slow).await.unwrap().is_some());
        let mut still =
            StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::io::Error>>());
        let fault = next(&mut still).await.unwrap_err();
        assert_eq!(fault.status, StatusCode::REQUEST_TIMEOUT);
    }
}
