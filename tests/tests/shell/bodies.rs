//! Bodies: large, endless, slow, broken, in both directions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::BodyExt;
use sandstorm_tests::{Mode, Server, apps, eventually_async};

use crate::probe;
use crate::support::Probe;

#[tokio::test]
async fn bodies_flow_both_ways() -> Result<()> {
    let probe = probe!();
    uploads_of_every_framing(&probe)?;
    an_early_answer_ends_an_upload(&probe)?;
    a_broken_upload_looks_broken_to_the_app(&probe).await?;
    too_large_for_one_message(&probe).await?;
    events_come_when_they_are_sent(&probe).await?;
    a_reader_that_stalls_stalls_the_app(&probe).await?;
    Ok(())
}

/// JSON that the app answers to an upload.
fn uploaded(done: &std::process::Output) -> Result<serde_json::Value> {
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let answer: serde_json::Value =
        serde_json::from_slice(&done.stdout).with_context(|| format!("{done:?}"))?;
    Ok(answer["body"].clone())
}

fn uploads_of_every_framing(probe: &Probe) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("body");
    let mut seen = Vec::new();
    for (size, options) in [
        (0, &["-T"][..]),
        (1, &["-T"]),
        (65_535, &["-T"]),
        (65_536, &["-T"]),
        (65_537, &["-T"]),
        (2_000_000, &["-H", "Expect: 100-continue", "--expect100-timeout", "30", "-T"]),
        (3_000_000, &["-H", "Transfer-Encoding: chunked", "-T"]),
        (300_000, &["-X", "POST", "-H", "Transfer-Encoding: chunked", "-T"]),
    ] {
        std::fs::write(&path, (0..size).map(|i| (i * 7 + i / 256) as u8).collect::<Vec<_>>())?;
        let file = path.to_str().context("a path of plain text")?;
        let begin = Instant::now();
        let done = probe.client.run_curl("/upload", &[options, &[file]].concat())?;
        let answer = uploaded(&done)?;
        ensure!(answer["bytes"] == size, "{size} {options:?}: {answer}");
        ensure!(answer["complete"] == true, "{size} {options:?}: {answer}");
        ensure!(begin.elapsed() < Duration::from_secs(10), "{size} took {:?}", begin.elapsed());
        seen.push(answer["framing"].clone());
    }
    // Which way the bridge frames it is its own affair, but a length is kept where there is one.
    ensure!(seen[..6].iter().all(|framing| framing == "length"), "{seen:?}");
    // Standard input: curl knows no length.
    std::fs::write(&path, vec![7; 3_000_000])?;
    let mut curl = probe.client.curl();
    let done = curl
        .args(["-T", "-"])
        .arg(probe.client.url("/upload"))
        .stdin(std::fs::File::open(&path)?)
        .output()?;
    ensure!(uploaded(&done)?["bytes"] == 3_000_000);
    Ok(())
}

fn an_early_answer_ends_an_upload(probe: &Probe) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("body");
    std::fs::write(&path, vec![1; 4_000_000])?;
    let file = path.to_str().context("a path of plain text")?;
    let status = ["-o", "/dev/null", "-w", "%{http_code}", "-T", file];
    let done = probe.client.run_curl("/upload?early=413", &status)?;
    ensure!(done.stdout == b"413", "{done:?}");
    Ok(())
}

async fn a_broken_upload_looks_broken_to_the_app(probe: &Probe) -> Result<()> {
    use tokio::io::AsyncWriteExt;
    let mut stream = probe.client.connect().await?;
    let head = format!(
        "PUT /upload?tag=cut HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nContent-Length: 1000000\r\n\r\n",
        probe.client.host,
        probe.client.cookie.as_deref().unwrap_or("")
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(&[0; 200_000]).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(stream);
    eventually_async("the app sees the upload break", Duration::from_secs(5), async || {
        (probe.fate("cut").await.ok()?["state"] == "cut").then_some(())
    })
    .await
}

async fn too_large_for_one_message(probe: &Probe) -> Result<()> {
    let size = 16 * 1024 * 1024;
    let answer = probe.client.request("PATCH", "/upload", &[], vec![1; size]).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    // The answer comes before the whole body was sent; curl reads it all the same.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), vec![1; size + 1])?;
    let body = format!("@{}", file.path().display());
    let options = ["-X", "PATCH", "--data-binary", &body, "-o", "/dev/null", "-w", "%{http_code}"];
    let done = probe.client.run_curl("/upload", &options)?;
    ensure!(done.stdout == b"413", "{done:?}");
    Ok(())
}

/// The app sends an event only when it is told to, and is told only when the one before has
/// arrived: what is held back anywhere on the way hangs, at any speed of the machine.
async fn events_come_when_they_are_sent(probe: &Probe) -> Result<()> {
    let before = probe.open_connections().await?;
    let request = probe
        .client
        .build("GET", "/sse?bell=next&tag=sse")
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let patience = Duration::from_secs(20);
    let response = tokio::time::timeout(patience, probe.client.send(request))
        .await
        .context("the head waits for the first event")??;
    ensure!(response.status() == 200);
    let mut body = response.into_body();
    for number in 0..5 {
        ensure!(probe.client.get("/ring/next").await?.status == 200);
        let frame = tokio::time::timeout(patience, body.frame())
            .await
            .with_context(|| format!("event {number} is held back"))?
            .context("an event")??;
        let text = frame.data_ref().map(|data| String::from_utf8_lossy(data).into_owned());
        let expected = format!("id: {number}\ndata: event {number}\n\n");
        ensure!(text.as_deref() == Some(&*expected), "{frame:?}");
    }
    drop(body);
    eventually_async("the app sees the reader leave", Duration::from_secs(5), async || {
        (probe.open_connections().await.ok()? <= before).then_some(())
    })
    .await
}

async fn a_reader_that_stalls_stalls_the_app(probe: &Probe) -> Result<()> {
    let request = probe
        .client
        .build("GET", "/endless?tag=endless")
        .body(http_body_util::Empty::<bytes::Bytes>::new())?;
    let mut body = probe.client.send(request).await?.into_body();
    body.frame().await.context("bytes")??;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let written = async || -> Result<u64> {
        probe.fate("endless").await?["written"].as_u64().context("a count")
    };
    let before = written().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let after = written().await?;
    ensure!(before == after, "the app went on writing: {before} then {after} bytes");
    // Kernel buffers and windows of four processes.
    ensure!(after < 16 << 20, "{after} bytes were taken from the app");
    // Going on reading goes on writing.
    for _ in 0..200 {
        body.frame().await.context("bytes")??;
    }
    ensure!(written().await? > after);
    Ok(())
}

/// An app that knows only whole bodies in one place, and no method beyond those of the interface.
/// An app that says that it failed has answered. Its words, which may be a trace, are its owner's.
#[tokio::test]
async fn what_an_app_says_of_its_own_failure_is_for_its_owner() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let owner = server.session(&grain)?.get("/fail").await?;
    ensure!(owner.status == 500 && owner.text().contains("secret.py"), "{owner:?}");
    let visitor = server.session_with(&grain, &["--permissions", "read"])?.get("/fail").await?;
    ensure!(visitor.status == 500 && !visitor.text().contains("secret.py"), "{visitor:?}");
    ensure!(visitor.text().contains("G-ERR"), "{visitor:?}");
    Ok(())
}

#[tokio::test]
async fn what_an_app_cannot_take_has_its_status() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let client = server.session(&server.create(&app.app_id)?)?;
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), vec![1; (16 << 20) + 1])?;
    let body = format!("@{}", file.path().display());
    let options = ["-X", "PUT", "--data-binary", &body, "-o", "/dev/null", "-w", "%{http_code}"];
    let done = client.run_curl("/whole", &options)?;
    ensure!(done.stdout == b"413", "{done:?}");
    let answer = client.request("PROPFIND", "/", &[("content-type", "text/plain")], "x").await?;
    ensure!(answer.status == 415, "{answer:?}");

    // XML in gzip, which the interface that all apps have carries as text only.
    let packed = [("content-type", "application/xml"), ("content-encoding", "gzip")];
    for (xml, status) in [("<a/>".to_owned(), 200), ("x".repeat((1 << 20) + 1), 413)] {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, xml.as_bytes())?;
        let answer = client.request("PROPFIND", "/", &packed, gzip.finish()?).await?;
        ensure!(answer.status == status, "{answer:?}");
        ensure!(status != 200 || answer.text() == "got <a/>", "{answer:?}");
    }
    for (bytes, encoding) in [("no gzip", "gzip"), ("<a/>", "br")] {
        let headers = [("content-type", "application/xml"), ("content-encoding", encoding)];
        let answer = client.request("PROPFIND", "/", &headers, bytes).await?;
        ensure!(answer.status == 415, "{answer:?}");
    }
    Ok(())
}
