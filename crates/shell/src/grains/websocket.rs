//! WebSockets: the handshake is ours, the frames are the app's, byte for byte.
//!
//! No extension is negotiated, so that both ends understand the same frames. Both directions have
//! a bounded window: who does not read stalls who writes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use capnp::capability::FromClientHook;
use capnp::traits::HasTypeId;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http::{HeaderValue, Method, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use sandstorm_schema::http_map::is_token_byte;
use sandstorm_schema::limits::{BODY_WINDOW, CALL_COST, SMALL_BODY};
use sandstorm_schema::rpc::error::{disconnected, overloaded};
use sandstorm_schema::web_session_capnp::web_session::web_socket_stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use super::conn::{Conn, WebSession, from_rpc};
use super::errors::Fault;
use super::proxy::context::{path, text};
use super::proxy::{Ask, GrainBody, gone, left, open_session, verdict};
use super::session::GrainSession;
use super::shared::Live;
use crate::edge::{EdgeBody, Peer};
use crate::error::{Error, Result};

/// Chunks of the app that wait for the browser; large ones hold a share of the owner's room too.
const QUEUE: usize = 8;
/// How long an app may go on taking what a browser sent before it left.
const LAST_BYTES: Duration = Duration::from_secs(30);
/// Subprotocols that a browser may offer.
const MAX_PROTOCOLS: usize = 32;

/// Opens the app's end, then answers 101 and carries bytes until one side ends.
pub async fn open(
    ask: &Ask<'_>,
    upgrade: hyper::upgrade::OnUpgrade,
    live: Live,
) -> std::result::Result<Response<GrainBody>, Fault> {
    let owner = ask.session.permissions == super::Permissions::All;
    let fault = |error| Fault::of(error, owner);
    let headers = &ask.parts.headers;
    let key = text(headers, "sec-websocket-key");
    let key_ok = STANDARD.decode(key).is_ok_and(|key| key.len() == 16);
    if ask.parts.method != Method::GET || !key_ok {
        return Err(fault(Error::BadRequest("This is no WebSocket handshake.".into())));
    }
    if text(headers, "sec-websocket-version").trim() != "13" {
        let why = "Only version 13 of the WebSocket protocol is spoken here.";
        let mut fault = fault(Error::BadRequest(why.into()));
        fault.status = StatusCode::UPGRADE_REQUIRED;
        return Err(fault);
    }
    let offered: Vec<&str> = headers
        .get_all("sec-websocket-protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|protocol| !protocol.is_empty())
        .take(MAX_PROTOCOLS)
        .collect();
    if !offered.iter().all(|protocol| protocol.bytes().all(is_token_byte)) {
        let why = "A name in Sec-WebSocket-Protocol has characters that none may have.";
        return Err(fault(Error::BadRequest(why.into())));
    }
    let opened = dial(ask, &offered).await.map_err(fault)?;
    let mut answer = Response::new(GrainBody::Whole(EdgeBody::empty()));
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let head = answer.headers_mut();
    head.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    head.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    if let Ok(value) = HeaderValue::from_str(&accept(key)) {
        head.insert(header::SEC_WEBSOCKET_ACCEPT, value);
    }
    // One that was not offered would make the browser give up.
    if let Some(protocol) = opened.protocol.as_deref().filter(|p| offered.contains(p)) {
        if let Ok(value) = HeaderValue::from_str(protocol) {
            head.insert(header::SEC_WEBSOCKET_PROTOCOL, value);
        }
    }
    let session = ask.session.clone();
    let peer = ask.parts.extensions.get::<Peer>().cloned();
    tokio::task::spawn_local(async move {
        let revoked = session.revoked.clone();
        let carried = async {
            if let Ok(io) = upgrade.await {
                carry(TokioIo::new(io), opened, &session, peer.as_ref()).await;
            }
        };
        tokio::select! {
            () = carried => {}
            () = revoked.cancelled() => {}
            // The app takes nothing, so that the socket is not read to its end.
            () = left(peer.as_ref()) => {}
        }
        drop(live);
    });
    Ok(answer)
}

/// The app's end of a socket.
struct Opened {
    to_app: web_socket_stream::Client,
    from_app: mpsc::Receiver<Bytes>,
    protocol: Option<String>,
    conn: Rc<Conn>,
}

async fn dial(ask: &Ask<'_>, offered: &[&str]) -> Result<Opened> {
    for again in [false, true] {
        let conn = ask.slot.conn(ask.local, again).await?;
        // Who leaves before it is answered is counted.
        let counted = conn.counted();
        let result = match open_session(ask, &conn).await {
            Ok(web) => handshake(ask, &web, offered, &conn).await,
            Err(error) => Err(error),
        };
        counted.answered();
        match result {
            // The app had no time to see anything of it, or does not mind a second try.
            Err(Error::Disconnected(_)) if !again => gone(ask, &conn).await,
            Err(Error::Disconnected(why)) => {
                gone(ask, &conn).await;
                return Err(verdict(ask, why).await);
            }
            other => return other,
        }
    }
    Err(verdict(ask, "It ended twice.".into()).await)
}

async fn handshake(
    ask: &Ask<'_>,
    web: &WebSession,
    offered: &[&str],
    conn: &Rc<Conn>,
) -> Result<Opened> {
    let (send, from_app) = mpsc::channel(QUEUE);
    let mut request = web.web.open_web_socket_request();
    let mut params = request.get();
    params.set_path(path(ask.parts));
    ask.head.write(params.reborrow().init_context(), None);
    let mut list = params.reborrow().init_protocol(offered.len() as u32);
    for (index, protocol) in offered.iter().enumerate() {
        list.set(index as u32, *protocol);
    }
    let session = ask.session.clone();
    params.set_client_stream(capnp_rpc::new_client(FromAppImpl { send, session }));
    let response = request.send().promise.await.map_err(from_rpc)?;
    let results = response.get().map_err(from_rpc)?;
    let chosen = results.get_protocol().map_err(from_rpc)?;
    let protocol = match chosen.is_empty() {
        true => None,
        false => chosen.get(0).map_err(from_rpc)?.to_string().ok(),
    };
    let to_app = results.get_server_stream().map_err(from_rpc)?;
    Ok(Opened { to_app, from_app, protocol, conn: conn.clone() })
}

/// What the app calls with its bytes; answering late is what holds it back.
struct FromAppImpl {
    send: mpsc::Sender<Bytes>,
    session: Arc<GrainSession>,
}

impl web_socket_stream::Server for FromAppImpl {
    async fn send_bytes(
        self: Rc<Self>,
        params: web_socket_stream::SendBytesParams,
    ) -> std::result::Result<(), capnp::Error> {
        let bytes = Bytes::copy_from_slice(params.get()?.get_message()?);
        drop(params);
        if bytes.is_empty() {
            return Ok(());
        }
        let bytes = if bytes.len() > SMALL_BODY {
            let live = self.session.entry.live();
            self.session.room.try_hold(bytes, live).ok_or_else(|| {
                overloaded("too much waits to be read by browsers; send smaller pieces")
            })?
        } else {
            bytes
        };
        self.send.send(bytes).await.map_err(|_| disconnected("the browser has left"))
    }
}

async fn carry<T>(io: T, opened: Opened, session: &GrainSession, peer: Option<&Peer>)
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let Opened { to_app, mut from_app, conn, .. } = opened;
    let (mut read, mut write) = tokio::io::split(io);
    let up = async {
        let mut window = Window::new(to_app, peer, &conn);
        let mut buffer = BytesMut::with_capacity(SMALL_BODY);
        loop {
            buffer.reserve(SMALL_BODY);
            let more = tokio::select! {
                more = read.read_buf(&mut buffer) => more,
                // Broken while nothing is sent: the app has gone.
                () = window.broken() => return,
            };
            match more {
                Ok(1..) => {
                    session.entry.touch();
                    let chunk = buffer.split().freeze();
                    if window.send(&chunk).await.is_err() {
                        return;
                    }
                }
                _ => {
                    // What was read before the end still belongs to the app, if it takes it.
                    let _ = tokio::time::timeout(LAST_BYTES, window.drain()).await;
                    return;
                }
            }
        }
    };
    let down = async {
        while let Some(chunk) = from_app.recv().await {
            if write.write_all(&chunk).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        // The app closed its end: the browser has its close frame already.
        let _ = write.shutdown().await;
    };
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

/// Calls of `sendBytes` on their way, bounded by the bytes they carry. Plain calls, so that the
/// window holds through forwarders that know nothing of streams.
struct Window<'a> {
    peer: Option<&'a Peer>,
    conn: &'a Conn,
    client: web_socket_stream::Client,
    calls: FuturesUnordered<futures::future::LocalBoxFuture<'static, (usize, bool)>>,
    bytes: usize,
    failed: bool,
}

impl<'a> Window<'a> {
    fn new(
        client: web_socket_stream::Client,
        peer: Option<&'a Peer>,
        conn: &'a Conn,
    ) -> Window<'a> {
        Window { peer, conn, client, calls: FuturesUnordered::new(), bytes: 0, failed: false }
    }

    async fn send(&mut self, chunk: &[u8]) -> std::result::Result<(), ()> {
        let length = chunk.len().max(CALL_COST);
        while self.bytes > 0 && self.bytes + length > BODY_WINDOW {
            self.one().await;
        }
        if self.failed {
            return Err(());
        }
        let size = capnp::MessageSize { word_count: (chunk.len() / 8 + 16) as u64, cap_count: 0 };
        let mut request = self.client.as_client_hook().new_call(
            <web_socket_stream::Client as HasTypeId>::TYPE_ID,
            0,
            Some(size),
        );
        request
            .get()
            .init_as::<web_socket_stream::send_bytes_params::Builder<'_>>()
            .set_message(chunk);
        let promise = request.send().promise;
        self.bytes += length;
        self.calls.push(Box::pin(async move { (length, promise.await.is_ok()) }));
        Ok(())
    }

    async fn one(&mut self) {
        if let Some((length, ok)) = self.calls.next().await {
            self.bytes -= length;
            self.failed |= !ok;
            if let Some(peer) = self.peer {
                peer.moved();
            }
        }
    }

    async fn drain(&mut self) {
        while !self.calls.is_empty() {
            self.one().await;
        }
    }

    /// Resolves when a call has failed.
    async fn broken(&mut self) {
        while !self.failed {
            if self.calls.is_empty() {
                std::future::pending::<()>().await;
            }
            self.one().await;
        }
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.conn.gave_up(self.calls.len());
    }
}

/// `Sec-WebSocket-Accept` of RFC 6455 §4.2.2.
fn accept(key: &str) -> String {
    use sha1::Digest;
    let digest = sha1::Sha1::digest(format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
    STANDARD.encode(digest)
}

#[cfg(test)]
mod tests {
    #[test]
    fn accept_of_the_rfc() {
        assert_eq!(super::accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
