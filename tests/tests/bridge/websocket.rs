//! WebSockets: raw bytes both ways, the shell's side played by hand.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sandstorm_schema::web_session_capnp::web_session::web_socket_stream;

use crate::client::Session;
use crate::grain::{Grain, story};

/// What the app sent, and whether its end is gone.
#[derive(Default)]
struct Received {
    bytes: Vec<u8>,
    gone: bool,
    /// Hold answers back while set.
    hold: bool,
}

struct Client(Rc<RefCell<Received>>);

impl Drop for Client {
    fn drop(&mut self) {
        self.0.borrow_mut().gone = true;
    }
}

impl web_socket_stream::Server for Client {
    async fn send_bytes(
        self: Rc<Self>,
        params: web_socket_stream::SendBytesParams,
    ) -> Result<(), capnp::Error> {
        self.0.borrow_mut().bytes.extend_from_slice(params.get()?.get_message()?);
        drop(params);
        while self.0.borrow().hold {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

struct Socket {
    protocols: Vec<String>,
    to_app: web_socket_stream::Client,
    received: Rc<RefCell<Received>>,
}

impl Socket {
    async fn open(
        session: &Session,
        path: &str,
        protocols: &[&str],
        hold: bool,
    ) -> Result<Socket, capnp::Error> {
        let received = Rc::new(RefCell::new(Received { hold, ..Received::default() }));
        let mut call = session.web.open_web_socket_request();
        call.get().set_path(path);
        call.get().init_context();
        let mut list = call.get().init_protocol(protocols.len() as u32);
        for (at, protocol) in protocols.iter().enumerate() {
            list.set(at as u32, protocol);
        }
        call.get().set_client_stream(capnp_rpc::new_client(Client(Rc::clone(&received))));
        let answer = call.send().promise.await?;
        let answer = answer.get()?;
        let protocols =
            answer.get_protocol()?.iter().map(|p| p.unwrap().to_string().unwrap()).collect();
        Ok(Socket { protocols, to_app: answer.get_server_stream()?, received })
    }

    /// Sends a masked text frame.
    async fn send(&self, text: &[u8]) {
        let mut frame = vec![0x81, 0x80 | text.len() as u8, 0, 0, 0, 0];
        frame.extend_from_slice(text);
        let mut call = self.to_app.send_bytes_request();
        call.get().set_message(&frame);
        call.send().await.unwrap();
    }

    /// Waits until exactly these bytes have come.
    async fn expect(&self, bytes: &[u8]) {
        for _ in 0..250 {
            if self.received.borrow().bytes.len() >= bytes.len() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.received.borrow().bytes, bytes);
    }

    async fn expect_gone(&self) {
        for _ in 0..200 {
            if self.received.borrow().gone {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the app's end is not noticed");
    }
}

#[test]
fn echo_subprotocol_and_handshake() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let socket =
            Socket::open(&session, "ws?protocol=v2", &["mqtt", "v2"], false).await.unwrap();
        assert_eq!(socket.protocols, ["v2"]);
        socket.send(b"hello").await;
        socket.expect(b"\x81\x05hello").await;
        socket.send(b"headers").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let all = String::from_utf8_lossy(&socket.received.borrow().bytes).into_owned();
        let head = all.to_lowercase();
        for line in [
            "get /ws?protocol=v2 http/1.1\r\n",
            "host: ui-1.sandstorm.localhost:3000\r\n",
            "upgrade: websocket\r\n",
            "connection: upgrade\r\n",
            "sec-websocket-version: 13\r\n",
            "sec-websocket-protocol: mqtt, v2\r\n",
            "x-sandstorm-username: ada",
        ] {
            assert!(head.contains(line), "{line:?} in {all}");
        }
        assert!(!head.contains("accept-language") && !head.contains("sec-websocket-extensions"));
        let none = Socket::open(&session, "ws", &[], false).await.unwrap();
        assert!(none.protocols.is_empty());
    });
}

/// "The first message is lost": it stands in the same packet as the handshake.
#[test]
fn a_hundred_first_messages_arrive() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for _ in 0..100 {
            let socket = Socket::open(&session, "ws?hello=hi", &[], false).await.unwrap();
            socket.expect(b"\x81\x02hi").await;
        }
    });
}

#[test]
fn close_code_and_reason_arrive_before_the_end() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let socket =
            Socket::open(&session, "ws?close=4001&reason=bye&tag=ws", &[], false).await.unwrap();
        socket.send(b"x").await;
        socket.expect(b"\x88\x05\x0f\xa1bye").await;
        // The app waits for our end; the socket is still open.
        assert!(!socket.received.borrow().gone);
        drop(socket.to_app);
        grain.wait_for_tag("ws", &["closed"]).await;
    });
}

#[test]
fn either_end_that_leaves_takes_the_other_along() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let leaves = Socket::open(&session, "ws?tag=c", &[], false).await.unwrap();
        let begin = Instant::now();
        drop(leaves.to_app);
        grain.wait_for_tag("c", &["broken"]).await;
        assert!(begin.elapsed() < Duration::from_secs(1));
        // A close frame that the app echoes before it closes.
        let stays = Socket::open(&session, "ws?tag=s", &[], false).await.unwrap();
        let mut call = stays.to_app.send_bytes_request();
        call.get().set_message(b"\x88\x82\0\0\0\0\x03\xe8");
        call.send().await.unwrap();
        stays.expect(b"\x88\x02\x03\xe8").await;
        stays.expect_gone().await;
    });
}

#[test]
fn a_flood_waits_for_a_slow_reader() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let idle = grain.memory_kib();
        let socket = Socket::open(&session, "ws?flood=1&tag=f", &[], true).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = grain.tag("f").written;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(grain.tag("f").written, first, "the writer does not stall");
        assert!(socket.received.borrow().bytes.len() < 1 << 20);
        assert!(grain.memory_kib() < idle + 5 * 1024);
        socket.received.borrow_mut().hold = false;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(grain.tag("f").written > first);
    });
}

/// Nothing but the socket's buffers takes what a deaf app does not read.
#[test]
fn a_deaf_app_stalls_the_sender() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        let socket = Socket::open(&session, "ws?deaf=1", &[], false).await.unwrap();
        let mut sent = 0;
        let piece = vec![0u8; 65536];
        loop {
            // The plain call ends when the bridge has passed the bytes on.
            let client = &socket.to_app.client;
            let mut call: capnp::capability::Request<
                web_socket_stream::send_bytes_params::Owned,
                capnp::any_pointer::Owned,
            > = client.new_call(
                <web_socket_stream::Client as capnp::traits::HasTypeId>::TYPE_ID,
                0,
                None,
            );
            call.get().set_message(&piece);
            let call = call.send().promise;
            if tokio::time::timeout(Duration::from_secs(1), call).await.is_err() {
                break;
            }
            sent += piece.len();
            assert!(sent < 30_000_000, "the bridge takes everything");
        }
    });
}

#[test]
fn a_refused_handshake_is_an_error_with_words() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for (path, words) in [
            ("echo?status=404", "status 404"),
            ("echo", "status 200"),
            (
                "run?s=w%20HTTP%2F1.1%20101%20X%5Cr%5CnUpgrade:%20h2c%5Cr%5Cn%5Cr%5Cn",
                "another protocol",
            ),
        ] {
            let error = Socket::open(&session, path, &[], false).await.err().expect(path);
            assert!(error.extra.contains(words), "{path}: {error}");
        }
        let error = Socket::open(&session, "ws", &["a\r\nX: y"], false).await.err().unwrap();
        assert!(error.extra.contains("not a token"), "{error}");
        assert_eq!(session.get("echo").await.status, 200);
    });
}
