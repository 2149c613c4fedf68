//! Answers on their way back: small ones whole, all others as a stream with back-pressure.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sandstorm_schema::http_map::WireStatus;
use sandstorm_schema::limits::{BUFFERED_REQUEST_BODY, ERROR_BODY, SMALL_BODY};
use sandstorm_schema::rpc::body::BodyWriter;
use sandstorm_schema::util_capnp::{byte_stream, handle};
use sandstorm_schema::web_session_capnp::web_session::response;
use tokio::time::Instant;

use crate::error::{Error, Result};
use crate::http::response::{Body, fill, stream_length, wire_status};
use crate::http1::{AbortOnDrop, Asked, Framing, Head, Incoming};
use crate::log_paced;

/// How long a small body may take to be complete and travel in the answer itself: servers often
/// write head and body with two calls, and on a busy machine the second comes late. An answer that
/// is sent as a stream costs six messages more on each of two hops, just then when there is no time
/// for them.
const SMALL_WAIT: Duration = Duration::from_millis(5);
/// The same for a body that is known to be short.
const SHORT_WAIT: Duration = Duration::from_millis(40);
/// How long an error's body may take: the interface carries it in one piece, so nobody sees
/// anything of it before its end.
const ERROR_BODY_TIME: Duration = Duration::from_secs(30);

/// Fills a response from an answer whose head has arrived. What is long goes to `stream`.
///
/// # Errors
/// When the answer cannot be passed on; nothing was sent to `stream` then.
pub async fn respond(
    head: Head,
    mut incoming: Incoming,
    asked: Asked,
    stream: Option<byte_stream::Client>,
    response: response::Builder<'_>,
) -> Result<()> {
    let body = match wire_status(&head, asked)? {
        WireStatus::Content(_) => match collect_small(&head, &mut incoming).await {
            (first, true) => Body::Bytes(first),
            (first, false) => match stream {
                Some(stream) => Body::Stream(start_pump(&head, first, incoming, stream)),
                None => Body::Bytes(collect_all(first, &mut incoming).await?),
            },
        },
        WireStatus::ClientError(_) | WireStatus::ServerError => {
            Body::Bytes(collect_error(&head, &mut incoming).await?)
        }
        // What body there is has no place in the interface. Reading what has arrived already
        // lets the connection be used again.
        WireStatus::NoContent { .. }
        | WireStatus::PreconditionFailed
        | WireStatus::Redirect { .. } => {
            let _ = incoming.next_ready();
            Body::Bytes(Bytes::new())
        }
    };
    fill(response, &head, body, asked)
}

/// What of the body comes almost at once, and whether that is all of it. A body that breaks counts
/// as not complete: the stream shows the break.
async fn collect_small(head: &Head, incoming: &mut Incoming) -> (Bytes, bool) {
    let mut first = match incoming.next_ready() {
        Ok(Some(piece)) if incoming.is_done() => return (piece, true),
        Ok(Some(piece)) => BytesMut::from(piece),
        Ok(None) if incoming.is_done() => return (Bytes::new(), true),
        Ok(None) => BytesMut::new(),
        Err(_) => return (Bytes::new(), false),
    };
    let wait = match head.framing {
        Framing::Length(n) if n <= SMALL_BODY as u64 => Some(SHORT_WAIT),
        Framing::Length(_) | Framing::None => None,
        Framing::Chunked | Framing::Eof => {
            let events =
                head.first("content-type").is_some_and(|t| t.starts_with(b"text/event-stream"));
            (!events).then_some(SMALL_WAIT)
        }
    };
    if let Some(wait) = wait {
        let deadline = Instant::now() + wait;
        while !incoming.is_done() && first.len() < SMALL_BODY {
            match tokio::time::timeout_at(deadline, incoming.next()).await {
                Ok(Ok(Some(piece))) => first.extend_from_slice(&piece),
                Ok(Ok(None)) => break,
                Ok(Err(_)) | Err(_) => return (first.freeze(), false),
            }
        }
    }
    (first.freeze(), incoming.is_done())
}

async fn collect_all(first: Bytes, incoming: &mut Incoming) -> Result<Bytes> {
    let mut all = BytesMut::from(first);
    while let Some(piece) = incoming.next().await? {
        if all.len() + piece.len() > BUFFERED_REQUEST_BODY {
            return Err(Error::Unusable(
                "its body is larger than 16 MiB and the caller gave no stream for it".into(),
            ));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

/// The body of an error answer, cut where it is too long or too slow.
async fn collect_error(head: &Head, incoming: &mut Incoming) -> Result<Bytes> {
    let mut all = BytesMut::new();
    let deadline = Instant::now() + ERROR_BODY_TIME;
    loop {
        match tokio::time::timeout_at(deadline, incoming.next()).await {
            Ok(Ok(Some(piece))) => all.extend_from_slice(&piece),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                log_paced!(
                    "cut",
                    "cut the body of a {} answer: not complete after 30 s",
                    head.status
                );
                break;
            }
        }
        if all.len() > ERROR_BODY {
            log_paced!("cut", "cut the body of a {} answer: larger than 1 MiB", head.status);
            all.truncate(ERROR_BODY);
            break;
        }
    }
    Ok(all.freeze())
}

/// Holding this keeps a body flowing; dropping it closes the app's connection.
struct PumpHandle {
    _task: AbortOnDrop,
}

impl handle::Server for PumpHandle {}

fn start_pump(
    head: &Head,
    first: Bytes,
    incoming: Incoming,
    stream: byte_stream::Client,
) -> handle::Client {
    let length = stream_length(head);
    let task = tokio::task::spawn_local(async move {
        match pump(length, first, incoming, stream).await {
            Ok(()) => {}
            // The reader sees its stream end without `done`.
            Err(Pumping::App(error)) => log_paced!("download", "{error}; the download was cut off"),
            // The reader went away: nothing to tell anybody.
            Err(Pumping::Reader) => {}
        }
    });
    capnp_rpc::new_client(PumpHandle { _task: AbortOnDrop(task) })
}

enum Pumping {
    App(Error),
    Reader,
}

async fn pump(
    length: Option<u64>,
    first: Bytes,
    mut incoming: Incoming,
    stream: byte_stream::Client,
) -> Result<(), Pumping> {
    let mut writer = BodyWriter::new(stream);
    if let Some(length) = length {
        writer.expect_size(length).await.map_err(|_| Pumping::Reader)?;
    }
    if !first.is_empty() {
        writer.write(first).await.map_err(|_| Pumping::Reader)?;
    }
    loop {
        let piece = tokio::select! {
            piece = incoming.next() => piece.map_err(Pumping::App)?,
            // A quiet app must not hide that nobody reads any more.
            _ = writer.broken() => return Err(Pumping::Reader),
        };
        match piece {
            Some(piece) => writer.write(piece).await.map_err(|_| Pumping::Reader)?,
            None => break,
        }
    }
    writer.done().await.map_err(|_| Pumping::Reader)
}
