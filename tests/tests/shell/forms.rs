//! Forms that anybody may send, and what an unfinished one costs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::person;

/// Begins a form and leaves it so; `from`: the address that a trusted proxy tells.
async fn begin(server: &Server, from: &str) -> Result<TcpStream> {
    let client = server.client()?;
    let mut stream = client.connect().await?;
    let head = format!(
        "POST /sign-in/dev HTTP/1.1\r\nHost: {}\r\nOrigin: {}\r\nX-Forwarded-For: {from}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nTransfer-Encoding: chunked\r\n\r\n\
         1\r\nn\r\n",
        client.host, client.origin
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

/// All that comes until the server closes.
async fn rest(stream: &mut TcpStream) -> Result<String> {
    let mut bytes = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut bytes))
        .await
        .context("the connection stays open")??;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn unfinished_forms_of_one_address_are_few_and_end() -> Result<()> {
    let started = Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?;
    let Some(server) = started else { return Ok(()) };
    let mut begun = Vec::new();
    for _ in 0..20 {
        let mut stream = begin(&server, "192.0.2.1").await?;
        begun.push(tokio::spawn(async move { rest(&mut stream).await }));
    }
    // Others, and pages, are not concerned.
    person(&server, "Ada", "member").await?;
    let (mut late, mut refused) = (0, 0);
    for answer in begun {
        let answer = answer.await??;
        match answer.split(' ').nth(1) {
            Some("408") if answer.contains("S-408") => late += 1,
            Some("503") if answer.contains("S-BUSY") => refused += 1,
            _ => anyhow::bail!("{answer}"),
        }
    }
    ensure!((late, refused) == (16, 4), "{late} were waited for, {refused} refused");
    let mut again = begin(&server, "192.0.2.1").await?;
    again.write_all(b"6\r\name=Bo\r\n0\r\n\r\n").await?;
    let mut first = [0; 12];
    again.read_exact(&mut first).await?;
    ensure!(&first == b"HTTP/1.1 303", "{}", String::from_utf8_lossy(&first));
    Ok(())
}

/// Who is no trusted proxy has one address, whatever their headers say.
#[tokio::test]
async fn an_untrusted_peer_cannot_choose_its_address() -> Result<()> {
    let started = Server::builder(Mode::Setuid)
        .env("ALLOW_DEV_ACCOUNTS", "true")
        .env("TRUSTED_PROXIES", "10.0.0.0/8")
        .start()?;
    let Some(server) = started else { return Ok(()) };
    let mut begun = Vec::new();
    for n in 0..16 {
        begun.push(begin(&server, &format!("192.0.2.{n}")).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let answer = rest(&mut begin(&server, "192.0.2.99").await?).await?;
    ensure!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("S-BUSY"), "{answer}");
    drop(begun);
    Ok(())
}

/// What nobody asks for is answered at once, and its connection closed.
#[tokio::test]
async fn without_development_accounts_their_form_is_not_read() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let mut stream = begin(&server, "192.0.2.1").await?;
    let answer = rest(&mut stream).await?;
    ensure!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    Ok(())
}
