//! WebSockets.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::probe;
use crate::support::Probe;

#[tokio::test]
async fn web_sockets() -> Result<()> {
    let probe = probe!();
    echo_and_subprotocol(&probe).await?;
    the_first_message_is_never_lost(&probe).await?;
    close_codes_arrive(&probe).await?;
    large_messages(&probe).await?;
    a_page_elsewhere_cannot_open_one(&probe).await?;
    what_is_no_handshake(&probe).await?;
    destroying_the_grain_closes_it(&probe).await?;
    Ok(())
}

async fn echo_and_subprotocol(probe: &Probe) -> Result<()> {
    let (mut socket, head) = probe.client.websocket("/ws?protocol=v2", &["mqtt", "v2"]).await?;
    let protocol = head.headers().get("sec-websocket-protocol").context("a protocol")?;
    ensure!(protocol == "v2", "{protocol:?}");
    ensure!(head.headers().get("sec-websocket-extensions").is_none());
    for text in ["a", "", "Žába", &"x".repeat(70_000)] {
        socket.send(Message::text(text)).await?;
        let back = socket.next().await.context("an echo")??;
        ensure!(back == Message::text(text), "{back:?}");
    }
    socket.close(None).await?;
    Ok(())
}

async fn the_first_message_is_never_lost(probe: &Probe) -> Result<()> {
    for round in 0..100 {
        let (mut socket, _) = probe.client.websocket("/ws?hello=hi", &[]).await?;
        let first = tokio::time::timeout(Duration::from_secs(5), socket.next()).await;
        let first = first.with_context(|| format!("round {round}"))?.context("a message")??;
        ensure!(first == Message::text("hi"), "round {round}: {first:?}");
    }
    Ok(())
}

async fn close_codes_arrive(probe: &Probe) -> Result<()> {
    for path in ["/ws?close=4001&reason=bye&now=1", "/ws?close=4001&reason=bye"] {
        let (mut socket, _) = probe.client.websocket(path, &[]).await?;
        if !path.contains("now") {
            socket.send(Message::text("x")).await?;
        }
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    ensure!(frame.code == CloseCode::Library(4001), "{frame:?}");
                    ensure!(frame.reason.as_str() == "bye", "{frame:?}");
                    break;
                }
                Some(Ok(_)) => {}
                other => bail!("{path}: {other:?} instead of a close frame"),
            }
        }
    }
    Ok(())
}

async fn large_messages(probe: &Probe) -> Result<()> {
    let (socket, _) = probe.client.websocket("/ws", &[]).await?;
    let big = vec![7u8; 8 << 20];
    let (mut send, mut receive) = socket.split();
    let sending = send.send(Message::binary(big.clone()));
    let (sent, back) = tokio::join!(sending, receive.next());
    sent?;
    ensure!(back.context("an echo")?? == Message::binary(big));
    Ok(())
}

async fn a_page_elsewhere_cannot_open_one(probe: &Probe) -> Result<()> {
    let mut other = probe.client.clone();
    other.origin = probe.server.origin();
    ensure!(other.websocket("/ws", &[]).await.is_err());
    other.origin = "null".into();
    ensure!(other.websocket("/ws", &[]).await.is_err());
    let nobody = probe.client.with_cookie(None);
    ensure!(nobody.websocket("/ws", &[]).await.is_err());
    Ok(())
}

async fn what_is_no_handshake(probe: &Probe) -> Result<()> {
    let upgrade = [("upgrade", "websocket"), ("connection", "Upgrade")];
    let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for (more, status) in [
        (vec![("sec-websocket-version", "13")], 400),
        (vec![("sec-websocket-version", "13"), ("sec-websocket-key", "short")], 400),
        (vec![key, ("sec-websocket-version", "8")], 426),
        (vec![key, ("sec-websocket-version", "13"), ("sec-websocket-protocol", "a b")], 400),
    ] {
        let headers: Vec<_> = upgrade.iter().chain(&more).copied().collect();
        let answer = probe.client.request("GET", "/ws", &headers, "").await?;
        ensure!(answer.status == status, "{more:?}: {}", answer.status);
        let spoken = answer.header("sec-websocket-version");
        ensure!(spoken == if status == 426 { "13" } else { "" }, "{more:?}: {spoken:?}");
    }
    // Other protocols are not ours to switch to: an ordinary answer.
    let headers = [("upgrade", "h2c"), ("connection", "Upgrade")];
    ensure!(probe.client.request("GET", "/echo", &headers, "").await?.status == 200);
    Ok(())
}

async fn destroying_the_grain_closes_it(probe: &Probe) -> Result<()> {
    let (grain, client) = probe.another()?;
    let (mut socket, _) = client.websocket("/ws", &[]).await?;
    socket.send(Message::text("x")).await?;
    socket.next().await.context("an echo")??;
    probe.server.json(&["grain", "delete", &grain])?;
    let end = tokio::time::timeout(Duration::from_secs(2), socket.next()).await;
    let end = end.context("the socket stayed open")?;
    ensure!(!matches!(end, Some(Ok(Message::Text(_)))), "{end:?}");
    ensure!(client.get("/echo").await?.status == 403);
    Ok(())
}
