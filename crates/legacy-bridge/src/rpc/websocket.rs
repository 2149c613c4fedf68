//! WebSockets: a handshake with the app, then raw bytes both ways. The bridge parses no frame.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use capnp::Error as RpcError;
use sandstorm_schema::http_map::is_token_byte;
use sandstorm_schema::web_session_capnp::web_session::web_socket_stream;
use tokio::net::TcpStream;

use super::window::SocketSink;
use crate::error::{Error, Result};
use crate::http1::{AbortOnDrop, BodyLength, Conn, RequestHead, Upstream, write_all};

/// Bytes of one message to the client.
const PIECE: usize = 16 * 1024;
/// The app proves nothing by its answer to it, so it need not be random.
const KEY: &str = "c2FuZHN0b3JtIGJyaWRnZQ==";

/// An open WebSocket.
pub struct Opened {
    /// What the app chose; at most one.
    pub protocols: Vec<String>,
    /// Takes the client's bytes.
    pub server_stream: web_socket_stream::Client,
}

/// Opens a WebSocket at the app and starts to forward what the app sends.
///
/// # Errors
/// When the app does not switch protocols.
pub async fn open(
    upstream: &Rc<Upstream>,
    mut head: RequestHead,
    protocols: &[String],
    client: web_socket_stream::Client,
) -> Result<Opened> {
    head.header("Upgrade", "websocket")?;
    head.header("Connection", "Upgrade")?;
    head.header("Sec-WebSocket-Version", "13")?;
    head.header("Sec-WebSocket-Key", KEY)?;
    if !protocols.is_empty() {
        if !protocols.iter().all(|p| !p.is_empty() && p.bytes().all(is_token_byte)) {
            return Err(Error::BadRequest("a WebSocket subprotocol is not a token".into()));
        }
        head.header("Sec-WebSocket-Protocol", &protocols.join(", "))?;
    }
    let mut conn = upstream.connect().await?;
    write_all(&conn.stream, &head.finish(BodyLength::None, false)).await.map_err(Error::Socket)?;
    let answer = upstream.read_head(&mut conn, false).await?;
    if answer.status != 101 {
        return Err(Error::Unusable(format!(
            "it answered the WebSocket handshake with status {}",
            answer.status
        )));
    }
    let upgrade = answer.first("upgrade").map(|u| u.to_ascii_lowercase());
    if upgrade.as_deref() != Some(b"websocket") {
        return Err(Error::Unusable("it switched to another protocol than websocket".into()));
    }
    let mut chosen = Vec::new();
    for value in answer.all("sec-websocket-protocol") {
        for word in String::from_utf8_lossy(value).split(',') {
            chosen.push(word.trim().to_owned());
        }
    }
    let stream = Rc::clone(&conn.stream);
    let task = tokio::task::spawn_local(async move {
        // Dropping the client's capability at the end is what tells it.
        let _ = forward(conn, client).await;
    });
    let server = ToApp { stream, failed: RefCell::new(None), _pump: AbortOnDrop(task) };
    Ok(Opened { protocols: chosen, server_stream: capnp_rpc::new_client(server) })
}

/// Client to app. Dropping it closes the connection.
struct ToApp {
    stream: Rc<TcpStream>,
    failed: RefCell<Option<String>>,
    _pump: AbortOnDrop,
}

impl web_socket_stream::Server for ToApp {
    async fn send_bytes(
        self: Rc<Self>,
        params: web_socket_stream::SendBytesParams,
    ) -> Result<(), RpcError> {
        if let Some(problem) = &*self.failed.borrow() {
            return Err(RpcError::disconnected(problem.clone()));
        }
        // Streaming calls come one at a time, so frames cannot mix.
        let outcome = write_all(&self.stream, params.get()?.get_message()?).await;
        outcome.map_err(|e| {
            let problem = format!("the app closed the WebSocket: {e}");
            *self.failed.borrow_mut() = Some(problem.clone());
            RpcError::disconnected(problem)
        })
    }
}

/// App to client, until either ends. The client has taken everything, the app's close frame
/// included, when this returns.
async fn forward(mut conn: Conn, client: web_socket_stream::Client) -> Result<(), RpcError> {
    let mut sink = SocketSink::new(client);
    loop {
        // What came with the 101 head goes first.
        if !conn.buf.is_empty() {
            sink.send(conn.buf.split().freeze()).await?;
        }
        match conn.read_more(PIECE).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break,
            Err(e) => return Err(RpcError::disconnected(e.to_string())),
        }
    }
    sink.drain().await
}
