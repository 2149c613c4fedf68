//! Connections that are used again, and all the cases in which they must not be.

use std::time::{Duration, Instant};

use crate::grain::{Grain, Setup, story};

fn connections(grain: &Grain) -> u64 {
    grain.probe("/stats")["connections"].as_u64().unwrap()
}

#[test]
fn small_reads_share_a_connection_and_writes_do_not() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        session.get("echo").await;
        let before = connections(&grain);
        for _ in 0..50 {
            assert_eq!(session.get("file?size=100").await.status, 200);
        }
        assert!(connections(&grain) - before <= 3, "reads open connections");
        let before = connections(&grain);
        for _ in 0..5 {
            session.post("echo", "", b"x").await;
        }
        assert!(connections(&grain) - before >= 6, "a POST went over a used connection");
    });
}

#[test]
fn an_idle_connection_is_given_back_soon() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        session.get("echo").await;
        tokio::time::sleep(Duration::from_millis(1600)).await;
        assert_eq!(grain.probe("/stats")["open"], 1, "only the one that asks");
    });
}

/// Nothing that came after an odd answer may reach another request.
#[test]
fn odd_answers_end_their_connection() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for odd in [
            // More bytes than announced.
            r"w HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
            // A body where none may be.
            r"w HTTP/1.1 304 X\r\nContent-Length: 4\r\n\r\nevil",
            r"w HTTP/1.1 204 X\r\nContent-Length: 4\r\n\r\nevil",
            r"w HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
            r"w HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        ] {
            let script = format!("{odd}\nkeep");
            session.run(&script).await;
            let json = session.get("echo").await.json().await;
            assert_eq!(json["target"], "/echo", "{odd}");
        }
        // An app that answers HEAD with a body.
        let script = crate::client::script_path(
            "w HTTP/1.1 200 OK\\r\\nContent-Length: 4\\r\\n\\r\\nevil\nkeep",
        );
        assert_eq!(session.head(&script).await.header("content-length"), Some("4"));
        assert_eq!(session.get("echo").await.json().await["target"], "/echo");
    });
}

#[test]
fn a_connection_that_closes_while_idle_is_replaced() {
    story(async {
        let grain = Grain::start().await;
        let session = grain.session().await;
        for pause in [0, 1, 5, 20, 60] {
            for _ in 0..5 {
                // Announces keep-alive and closes all the same, a little later.
                let answer = session
                    .run(&format!(
                        "w HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nhi\nsleep {pause}"
                    ))
                    .await;
                assert_eq!(answer.status, 200);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                assert_eq!(session.get("echo").await.status, 200);
            }
        }
    });
}

/// A server that serves one connection at a time must never wait for one of our idle ones.
#[test]
fn a_server_with_one_connection_at_a_time_is_not_held_up() {
    story(async {
        let grain = Grain::with(Setup::default(), &["--single"]);
        let session = grain.session().await;
        let begin = Instant::now();
        for _ in 0..5 {
            let all = (0..6).map(|_| async {
                session.get("echo").await;
                session.post("echo", "", b"x").await;
            });
            futures::future::join_all(all).await;
        }
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
}
