//! What strangers, visitors and apps can make the shell hold in memory, and uploads by plain form.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Client, Mode, Server, apps, eventually, eventually_async, processes};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::probe;
use crate::support::Probe;

/// KiB by which the shell may grow while somebody does their worst: one owner's share, the same
/// again on its way through the pipes, and the heap's own waste.
const MOST: u64 = 200 * 1024;

#[tokio::test]
async fn nobody_fills_the_shells_memory() -> Result<()> {
    let probe = probe!();
    heads_without_an_end(&probe).await?;
    answers_that_nobody_reads(&probe).await?;
    requests_that_an_app_leaves_waiting(&probe).await?;
    Ok(())
}

fn memory(probe: &Probe) -> Result<u64> {
    processes::pss_kib(probe.server.pid()).context("the shell runs")
}

/// Opens many connections, has each do its part, and looks at the shell for a while.
async fn crowd<F>(probe: &Probe, what: &str, count: usize, each: F) -> Result<()>
where
    F: Fn(TcpStream) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
{
    let before = memory(probe)?;
    let mut open = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        let stream = socket.connect(([127, 0, 0, 1], probe.server.port()).into()).await?;
        open.push(tokio::spawn(each(stream)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..8 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let grown = memory(probe)?.saturating_sub(before);
        ensure!(grown < MOST, "{what}: the shell grew by {} MB", grown / 1024);
        // Everybody else is served.
        ensure!(probe.client.get("/echo").await?.status == 200, "{what}: others are not served");
    }
    for task in open {
        task.abort();
    }
    Ok(())
}

async fn stay(stream: TcpStream) {
    tokio::time::sleep(Duration::from_secs(60)).await;
    drop(stream);
}

async fn heads_without_an_end(probe: &Probe) -> Result<()> {
    let host = probe.client.host.clone();
    crowd(probe, "heads without an end", 400, |mut stream| {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: {}", "x".repeat(1_000_000));
        Box::pin(async move {
            let _ = stream.write_all(head.as_bytes()).await;
            stay(stream).await;
        })
    })
    .await
}

async fn answers_that_nobody_reads(probe: &Probe) -> Result<()> {
    let script = format!(
        "w HTTP/1.1 500 No\\r\\nContent-Length: 1000000\\r\\n\\r\\n\nrep 1000 {}",
        "x".repeat(1000)
    );
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\n\r\n",
        probe.script(&script),
        probe.client.host,
        probe.client.cookie.clone().context("a session")?
    );
    crowd(probe, "answers that nobody reads", 400, |mut stream| {
        let request = request.clone();
        Box::pin(async move {
            let _ = stream.write_all(request.as_bytes()).await;
            stay(stream).await;
        })
    })
    .await
}

async fn requests_that_an_app_leaves_waiting(probe: &Probe) -> Result<()> {
    const BODY: usize = 8 << 20;
    let head = format!(
        "REPORT {} HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nOrigin: {}\r\nContent-Length: {BODY}\r\n\r\n",
        probe.script("read\nhang"),
        probe.client.host,
        probe.client.cookie.clone().context("a session")?,
        probe.client.origin,
    );
    crowd(probe, "requests that an app leaves waiting", 60, |mut stream| {
        let head = head.clone();
        Box::pin(async move {
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&vec![b'x'; BODY]).await;
            stay(stream).await;
        })
    })
    .await
}

/// `POST /install` as a browser without script sends it, by curl.
#[tokio::test]
async fn a_package_comes_by_the_plain_form() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let link = eventually("a link is printed", Duration::from_secs(20), || server.printed_link())?;
    let browser: Client = server.client()?.sign_in(&link).await?;
    let page = browser.get("/install").await?.text();
    let token = page
        .split("name=\"token\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .context("a form's token")?;
    let package = apps::package("dufs")?;
    // More than a framework's usual limit for forms.
    let padded = server.installation.write("big.spk", &std::fs::read(&package)?)?;
    ensure!(std::fs::metadata(&padded)?.len() > 2 << 20, "too small to show anything");
    let send = |token: &str| {
        browser.run_curl(
            "/install",
            &[
                "-H",
                &format!("Origin: {}", browser.origin),
                "-F",
                &format!("token={token}"),
                "-F",
                &format!("package=@{}", padded.display()),
                "-w",
                "%{http_code} %{redirect_url}",
                "-o",
                "/dev/null",
            ],
        )
    };
    let refused = send(&"x".repeat(100_000))?;
    ensure!(refused.stdout.starts_with(b"403 "), "{refused:?}");
    let sent = send(token)?;
    let told = String::from_utf8_lossy(&sent.stdout).into_owned();
    ensure!(told.starts_with("303 ") && told.contains("/install/"), "{told} {sent:?}");
    let to = told.rsplit_once('/').context("a path")?.1.to_owned();
    let path = format!("/install/{to}");
    eventually_async("the file is checked and its app shown", Duration::from_secs(60), || async {
        browser.get(&path).await.ok()?.text().contains("dufs").then_some(())
    })
    .await
}
