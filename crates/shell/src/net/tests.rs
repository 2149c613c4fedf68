use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const LIMITS: Limits = Limits {
    max_bytes: 1000,
    total_time: Duration::from_secs(10),
    stall_time: Duration::from_millis(500),
    private: Private::Yes,
};

impl Sink for Vec<u8> {
    async fn take(&mut self, data: Bytes) -> std::io::Result<()> {
        self.extend_from_slice(&data);
        Ok(())
    }
}

/// A server that gives each connection the next of `answers`; `{port}` stands for its own.
async fn server(answers: Vec<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            let (answer, stall) = match answer.strip_suffix("STALL") {
                Some(answer) => (answer.to_owned(), true),
                None => (answer, false),
            };
            stream.write_all(answer.replace("{port}", &port.to_string()).as_bytes()).await.unwrap();
            if stall {
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        }
    });
    port
}

async fn ask(answers: &[&str], limits: Limits) -> std::result::Result<Vec<u8>, String> {
    let port = server(answers.iter().map(|a| (*a).to_owned()).collect()).await;
    let mut out = Vec::new();
    fetch(&format!("http://127.0.0.1:{port}/a%2Fb?c"), &mut out, limits, |_| ())
        .await
        .map(|_| out)
        .map_err(|e| e.to_string())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
const MOVED: &str = "HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 0\r\n\r\n";

#[tokio::test]
async fn bytes_arrive_also_after_redirects() {
    assert_eq!(ask(&[OK], LIMITS).await.unwrap(), b"hello");
    assert_eq!(ask(&[MOVED, MOVED, MOVED, MOVED, MOVED, OK], LIMITS).await.unwrap(), b"hello");
    let e = ask(&[MOVED; 6], LIMITS).await.unwrap_err();
    assert!(e.contains("more than 5"), "{e}");
}

#[tokio::test]
async fn private_addresses_are_refused_directly_and_behind_names() {
    let limits = Limits { private: Private::No, ..LIMITS };
    for url in [
        "http://127.0.0.1:1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://localhost/",
        "http://x.localhost/",
        "http://169.254.169.254/latest",
    ] {
        let e = fetch(url, &mut Vec::new(), limits, |_| ()).await.unwrap_err().to_string();
        assert!(e.contains("ALLOW_PRIVATE_DOWNLOADS"), "{url}: {e}");
    }
    for url in ["file:///etc/passwd", "ftp://x/", "gopher://x/", "http://u:p@x/", "x"] {
        assert!(fetch(url, &mut Vec::new(), limits, |_| ()).await.is_err(), "{url}");
    }
}

#[tokio::test]
async fn answers_that_cannot_be_used() {
    for (answer, words) in [
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404"),
        ("HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello", "206"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "larger"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "broke off"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhelloSTALL", "nothing for"),
        ("STALL", "too long"),
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", "encoding"),
        ("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n", "where"),
        ("HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n", "file"),
        ("SSH-2.0-x\r\n\r\n", "HTTP"),
    ] {
        let e = ask(&[answer], LIMITS).await.unwrap_err();
        assert!(e.contains(words), "{answer:?}: {e}");
    }
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(2000));
    assert!(ask(&[&endless], LIMITS).await.unwrap_err().contains("larger"));
}
