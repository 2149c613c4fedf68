//! Visitors who leave an app that takes nothing of what they sent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::SinkExt;
use sandstorm_tests::{Client, Mode, Server, apps, eventually_async, processes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

/// Connections of each kind.
const EACH: usize = 20;
/// A minute, a look at the socket, the last bytes of a WebSocket, and a busy machine.
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn who_leaves_an_app_that_takes_nothing_leaves_nothing_behind() -> Result<()> {
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_IDLE_SECONDS", "2").start()? else {
        return Ok(());
    };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    ensure!(client.get("/count").await?.status == 200);
    // That connection ends.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sockets = || {
        let files = processes::open_files(server.pid());
        files.iter().filter(|path| path.starts_with("socket:")).count()
    };
    let before = sockets();
    let mut open = Vec::new();
    for number in 0..EACH {
        open.push(web_socket(&client, number).await?);
        // As much as the window and the library hold; the rest stays in the kernel.
        let mut body = begin(&client, "PUT /deaf", 100_000_000).await?;
        send_some(&mut body, 100_000 * number).await?;
        open.push(body);
        // Whole, so that only its end waits.
        let mut body = begin(&client, "PUT /deaf", 100_000).await?;
        send_some(&mut body, 100_000).await?;
        open.push(body);
        // What follows a request that hangs keeps the library from reading on.
        let mut hangs = begin(&client, "GET /hang", 0).await?;
        hangs.write_all(b"GET / HT").await?;
        open.push(hangs);
    }
    eventually_async("all are served", Duration::from_secs(30), async || {
        (sockets() >= open.len()).then_some(())
    })
    .await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(open);
    let begun = std::time::Instant::now();
    eventually_async("the descriptors are back", LIMIT, async || {
        (sockets() <= before).then_some(())
    })
    .await
    .with_context(|| format!("{before} sockets before, {} after", sockets()))?;
    println!("given up after {:?}", begun.elapsed());
    server.wait_state(&grain, "asleep", Duration::from_secs(60))
}

/// The app takes a message in half a second: who is gone by then was heard all the same.
#[tokio::test]
async fn what_a_visitor_sent_before_leaving_is_taken() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let client = server.session(&server.create(&app.app_id)?)?;
    let (mut socket, _) = client.websocket("/slow", &[]).await?;
    socket.send(Message::binary(vec![1; 300_000])).await?;
    drop(socket);
    eventually_async("all bytes are heard", Duration::from_secs(30), async || {
        let heard: usize = client.get("/heard").await.ok()?.text().parse().ok()?;
        (heard > 300_000).then_some(())
    })
    .await
}

/// One with a small message, every other one with more than the app's window.
async fn web_socket(client: &Client, number: usize) -> Result<TcpStream> {
    let mut socket = client.websocket("/deaf", &[]).await?.0;
    let length = if number % 2 == 0 { 1 } else { 30_000 * number };
    // What does not fit stays unsent.
    let message = Message::binary(vec![1; length]);
    let _ = tokio::time::timeout(Duration::from_millis(300), socket.send(message)).await;
    Ok(socket.into_inner())
}

async fn begin(client: &Client, line: &str, length: usize) -> Result<TcpStream> {
    let mut stream = client.connect().await?;
    let (host, origin) = (&client.host, &client.origin);
    let cookie = client.cookie.as_deref().unwrap_or_default();
    let head = format!(
        "{line} HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\nCookie: {cookie}\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn send_some(stream: &mut TcpStream, bytes: usize) -> Result<()> {
    let body = vec![1; bytes];
    let _ = tokio::time::timeout(Duration::from_millis(300), stream.write_all(&body)).await;
    let answered = tokio::time::timeout(Duration::from_millis(1), stream.read_u8()).await;
    ensure!(answered.is_err(), "{answered:?}");
    Ok(())
}
