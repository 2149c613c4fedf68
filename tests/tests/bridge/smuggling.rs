//! A request inside another one's body: an app that leaves bodies unread must not come upon it.

use std::cell::RefCell;
use std::rc::Rc;

use sandstorm_tests::server::free_port;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::client::{answer, with_stream};
use crate::grain::{Grain, Setup, story};

/// What only the bridge may say.
const FORGED: &[u8] = b"GET /forged HTTP/1.1\r\nHost: x\r\nX-Sandstorm-Permissions: admin\r\n\r\n";

/// Method and path of every request that the app has read.
type Seen = Rc<RefCell<Vec<String>>>;

/// A server as simple as many are: it knows `Connection: close`, answers with the path, and takes
/// what follows a head for the next one.
async fn serve(mut stream: TcpStream, seen: Seen) {
    let mut input = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut input).await, Ok(n) if n > 0) {
                return;
            }
        };
        let head: Vec<u8> = input.drain(..end).collect();
        let head = String::from_utf8(head).unwrap();
        let request = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        let body = if request.starts_with("HEAD ") { "" } else { &request };
        let text = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", request.len());
        seen.borrow_mut().push(request);
        let _ = stream.write_all(text.as_bytes()).await;
        if head.lines().any(|line| line.eq_ignore_ascii_case("connection: close")) {
            let _ = stream.shutdown().await;
            while matches!(stream.read_buf(&mut input).await, Ok(n) if n > 0) {}
            return;
        }
    }
}

/// A bridge before such a server. The program that it starts is of no concern.
async fn start() -> (Grain, Seen) {
    let (port, seen) = (free_port().unwrap(), Seen::default());
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let all = Rc::clone(&seen);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, Rc::clone(&all)));
        }
    });
    let command = vec!["/probe-app".into(), format!("127.0.0.1:{}", free_port().unwrap())];
    (Grain::spawn(Setup { command, ..Setup::default() }, port), seen)
}

#[test]
fn a_body_is_never_the_next_request() {
    story(async {
        let (grain, seen) = start().await;
        let session = grain.session().await;
        let mut expected = Vec::new();
        for method in ["OPTIONS", "PROPFIND", "REPORT", "GET", "HEAD", "DELETE", "POST", "SEARCH"] {
            // So that a connection is idle.
            assert_eq!(session.get("before").await.body().await.unwrap(), b"GET /before");
            assert_eq!(session.request(method, "host", FORGED).await.status, 200, "{method}");
            assert_eq!(session.get("after").await.body().await.unwrap(), b"GET /after", "{method}");
            expected.extend(["GET /before".into(), format!("{method} /host"), "GET /after".into()]);
        }
        assert_eq!(*seen.borrow(), expected);
    });
}

#[test]
fn nor_is_it_by_the_methods_own_calls() {
    story(async {
        let (grain, seen) = start().await;
        let session = grain.session().await;
        let mut expected = Vec::new();
        for method in ["PROPFIND", "REPORT"] {
            assert_eq!(session.get("before").await.body().await.unwrap(), b"GET /before");
            let answered = if method == "REPORT" {
                let mut call = session.web.report_request();
                call.get().set_path("host");
                call.get().init_content().set_content(FORGED);
                let receiver = with_stream(call.get().init_context());
                answer(call.send().promise.await.unwrap(), receiver)
            } else {
                let mut call = session.web.propfind_request();
                call.get().set_path("host");
                call.get().set_xml_content(std::str::from_utf8(FORGED).unwrap());
                let receiver = with_stream(call.get().init_context());
                answer(call.send().promise.await.unwrap(), receiver)
            };
            assert_eq!(answered.unwrap().status, 200, "{method}");
            assert_eq!(session.get("after").await.body().await.unwrap(), b"GET /after", "{method}");
            expected.extend(["GET /before".into(), format!("{method} /host"), "GET /after".into()]);
        }
        assert_eq!(*seen.borrow(), expected);
    });
}

/// An app that sends more than it announced, and the rest so late that the next request is on its
/// way already: that one must not pay for it.
#[test]
fn the_late_rest_of_an_answer_spoils_no_other() {
    story(async {
        for rest in ["\r\n", "rest", "HTTP/1.1 "] {
            let port = free_port().unwrap();
            let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
            let late = Rc::new(RefCell::new(0));
            let count = Rc::clone(&late);
            tokio::task::spawn_local(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let count = Rc::clone(&count);
                    tokio::task::spawn_local(async move {
                        let mut input = Vec::new();
                        for at in 0.. {
                            input.clear();
                            while !input.ends_with(b"\r\n\r\n") {
                                if !matches!(stream.read_buf(&mut input).await, Ok(n) if n > 0) {
                                    return;
                                }
                            }
                            if at == 1 {
                                *count.borrow_mut() += 1;
                                let _ = stream.write_all(rest.as_bytes()).await;
                                return;
                            }
                            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";
                            let _ = stream.write_all(answer).await;
                        }
                    });
                }
            });
            let command = vec!["/probe-app".into(), format!("127.0.0.1:{}", free_port().unwrap())];
            let grain = Grain::spawn(Setup { command, ..Setup::default() }, port);
            let session = grain.session().await;
            for _ in 0..4 {
                let mut got = session.get("x").await;
                assert_eq!(
                    (got.status, got.body().await.unwrap()),
                    (200, b"hi".to_vec()),
                    "{rest:?}"
                );
            }
            assert!(*late.borrow() > 0, "no connection was used again");
        }
    });
}
