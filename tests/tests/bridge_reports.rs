//! What people reported of systems like this one, tried over the whole chain: browser's bytes,
//! shell, supervisor, bridge, app, and back. The app is the probe, whose answers are scripted.
//!
//! One server and one grain serve all rows; each row is a function, and all of them are tried
//! before the first failure is reported.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use sandstorm_tests::{Client, Mode, Server, apps};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

type Row = for<'a> fn(&'a Client) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

/// A row's name and function.
macro_rules! rows {
    ($($name:ident),* $(,)?) => {
        const ROWS: &[(&str, Row)] = &[$((stringify!($name), |c| Box::pin($name(c)))),*];
    };
}

rows![
    seeking_in_media,
    head_tells_the_length,
    one_sloppy_header,
    json_errors_stay_json,
    downloads_keep_their_names,
    encoded_slashes,
    two_cookies_and_one_that_goes,
    a_grown_cookie,
    an_upload_that_waits_for_100_continue,
    files_of_unknown_length,
    live_events,
    a_broken_answer,
    websocket_subprotocol,
    websocket_first_message,
    websocket_close_code,
    renaming_over_webdav,
    webdav_locks_and_options,
    other_verbs,
    workers_need_the_policy_everywhere,
    a_form_with_null_origin,
    an_app_that_never_answers,
    conditional_requests,
    exact_statuses,
    empty_bodies,
    compressed_answers,
];

#[test]
fn every_row() -> Result<()> {
    let mode = if sandstorm_tests::is_root() { Mode::Setuid } else { Mode::UserNamespace };
    let Some(server) = Server::builder(mode).env("GRAIN_IDLE_SECONDS", "4").start()? else {
        return Ok(());
    };
    let app = server.install(&apps::package("probe")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut failures = Vec::new();
    let only = std::env::var("ROW").ok();
    for (name, row) in ROWS.iter().filter(|(name, _)| only.as_deref().is_none_or(|o| o == *name)) {
        let begin = Instant::now();
        let outcome = runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(60), row(&client)).await? });
        println!(
            "{name}: {} ({:?})",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            begin.elapsed()
        );
        if let Err(error) = outcome {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    let tall = Tall { runtime: &runtime, server: &server, grain: &grain, client: &client };
    type TallRow = fn(&Tall<'_>) -> Result<()>;
    let rows: [(&str, TallRow); 3] = [
        ("long_bodies_take_no_memory", |t| t.long_bodies_take_no_memory()),
        ("a_slow_download_keeps_the_grain_up", |t| t.a_slow_download_keeps_the_grain_up()),
        ("a_failed_start_says_what_ended", |t| t.a_failed_start_says_what_ended()),
    ];
    for (name, row) in rows.iter().filter(|(name, _)| only.as_deref().is_none_or(|o| o == *name)) {
        let begin = Instant::now();
        let outcome = row(&tall);
        println!(
            "{name}: {} ({:?})",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            begin.elapsed()
        );
        if let Err(error) = outcome {
            failures.push(format!("{name}: {error:#}"));
        }
    }
    ensure!(
        failures.is_empty(),
        "{} rows fail:\n{}\n--- the grain's log ---\n{}",
        failures.len(),
        failures.join("\n"),
        server.grain_log(&grain)
    );
    Ok(())
}

/// The path of a script for the probe.
fn script(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let text = lines.join("\n");
    format!(
        "/run?s={}",
        percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC)
    )
}

/// Runs curl in a thread; its output as (exit code, stdout).
async fn curl(client: &Client, path: &str, options: &[&str]) -> Result<(i32, Vec<u8>)> {
    let (client, path) = (client.clone(), path.to_owned());
    let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
    let output = tokio::task::spawn_blocking(move || {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        client.run_curl(&path, &options)
    })
    .await??;
    Ok((output.status.code().unwrap_or(-1), output.stdout))
}

async fn stats(client: &Client, tag: &str) -> Result<Value> {
    let all: Value = serde_json::from_slice(&client.get(&format!("/stats?tag={tag}")).await?.body)?;
    Ok(all["tags"][tag].clone())
}

async fn wait_for_state(
    client: &Client,
    tag: &str,
    states: &[&str],
    limit: Duration,
) -> Result<()> {
    let begin = Instant::now();
    loop {
        let now = stats(client, tag).await?;
        if states.iter().any(|s| now["state"] == *s) {
            return Ok(());
        }
        ensure!(begin.elapsed() < limit, "{tag} stays {now}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The value of a header in an echo.
fn seen(echo: &Value, name: &str) -> Option<String> {
    echo["headers"].as_array()?.iter().find_map(|h| {
        h[0].as_str()?.eq_ignore_ascii_case(name).then(|| h[1].as_str().unwrap_or("").to_owned())
    })
}

macro_rules! same {
    ($left:expr, $right:expr) => {
        match (&$left, &$right) {
            (left, right) => {
                ensure!(*left == *right, "{}: {left:?}, wanted {right:?}", stringify!($left));
            }
        }
    };
}

async fn seeking_in_media(client: &Client) -> Result<()> {
    let part =
        client.request("GET", "/file?size=5000", &[("range", "bytes=1000-1999")], "").await?;
    same!(part.status, 206);
    same!(part.header("content-range"), "bytes 1000-1999/5000");
    same!(part.body.len(), 1000);
    let whole = client.get("/file?size=5000").await?;
    same!((whole.status, whole.header("accept-ranges")), (200, "bytes"));
    same!(whole.body[1000..2000], part.body[..]);
    let tail = client.request("GET", "/file?size=5000", &[("range", "bytes=-10")], "").await?;
    same!((tail.status, tail.header("content-range")), (206, "bytes 4990-4999/5000"));
    let beyond = client.request("GET", "/file?size=10", &[("range", "bytes=20-")], "").await?;
    same!((beyond.status, beyond.header("content-range")), (416, "bytes */10"));
    let old = [("range", "bytes=0-9"), ("if-range", "\"other\"")];
    same!(client.request("GET", "/file?size=50", &old, "").await?.status, 200);
    let same = [("range", "bytes=0-9"), ("if-range", "\"probe-50\"")];
    same!(client.request("GET", "/file?size=50", &same, "").await?.status, 206);
    // An app that answers a part nobody asked for.
    let odd = client.get(&script(r"w HTTP/1.1 206 P\r\nContent-Length: 2\r\n\r\nhi")).await?;
    same!(odd.status, 200);
    Ok(())
}

async fn head_tells_the_length(client: &Client) -> Result<()> {
    let begin = Instant::now();
    let (code, head) = curl(client, "/file?size=5000", &["-I"]).await?;
    let head = String::from_utf8(head)?.to_lowercase();
    same!(code, 0);
    ensure!(head.starts_with("http/1.1 200"), "{head}");
    ensure!(head.contains("\r\ncontent-length: 5000\r\n"), "{head}");
    ensure!(begin.elapsed() < Duration::from_secs(2), "slow");
    let none = client.request("HEAD", "/nothing?status=404", &[], "").await?;
    same!(none.status, 404);
    Ok(())
}

async fn one_sloppy_header(client: &Client) -> Result<()> {
    for line in ["ETag: abc", "no colon", "Set-Cookie: x", "Last-Modified: yesterday"] {
        let path = script(&format!(r"w HTTP/1.1 200 OK\r\n{line}\r\nContent-Length: 2\r\n\r\nhi"));
        let answer = client.get(&path).await.with_context(|| line.to_owned())?;
        same!((answer.status, answer.text().as_str()), (200, "hi"));
        same!(answer.header("etag"), "");
    }
    same!(client.get("/echo").await?.status, 200);
    Ok(())
}

async fn json_errors_stay_json(client: &Client) -> Result<()> {
    for status in [422, 400, 401, 404, 409, 429, 451, 500, 503] {
        let path = script(&format!(
            r#"w HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{{"e":1}}"#
        ));
        let answer = client.get(&path).await?;
        same!(answer.status, status);
        same!(answer.header("content-type"), "application/json");
        same!(answer.text(), "{\"e\":1}");
    }
    Ok(())
}

async fn downloads_keep_their_names(client: &Client) -> Result<()> {
    for value in [
        "attachment; filename=\"r.txt\"; filename*=UTF-8''r%C3%A9.txt",
        "attachment; filename=plain.txt",
        "inline; filename=\"x.pdf\"",
        "attachment",
    ] {
        let path = script(&format!(
            r"w HTTP/1.1 200 OK\r\nContent-Disposition: {value}\r\nContent-Length: 2\r\n\r\nhi"
        ));
        same!(client.get(&path).await?.header("content-disposition"), value);
    }
    Ok(())
}

async fn encoded_slashes(client: &Client) -> Result<()> {
    for path in ["/a%2Fb/c?x=%2F", "/a//b/../c/./d?", "/%E4%BD%A0?q=a+b%20c;d", "/a|b^?`{'}~"] {
        let (code, body) = curl(client, path, &["--globoff"]).await?;
        same!(code, 0);
        let echo: Value = serde_json::from_slice(&body).with_context(|| path.to_owned())?;
        same!(echo["target"], path);
    }
    Ok(())
}

async fn two_cookies_and_one_that_goes(client: &Client) -> Result<()> {
    let path = script(
        r"w HTTP/1.1 200 OK\r\nSet-Cookie: s=1; Path=/\r\nSet-Cookie: t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nhi",
    );
    let answer = client.get(&path).await?;
    let cookies = answer.all("set-cookie");
    let s = cookies.iter().find(|c| c.starts_with("s=1")).context("no s")?;
    let t = cookies.iter().find(|c| c.starts_with("t=;")).context("no t")?;
    ensure!(!s.to_lowercase().contains("expires"), "{s}");
    let t = t.to_lowercase();
    ensure!(t.contains("01 jan 1970") || t.contains("max-age=0"), "{t}");
    // What the browser sends back reaches the app; the hand-over cookie does not.
    let cookie = format!("{}; s=1; u=a=b", client.cookie.clone().unwrap_or_default());
    let echo = client.with_cookie(Some(cookie)).get("/echo").await?;
    let echo: Value = serde_json::from_slice(&echo.body)?;
    same!(seen(&echo, "cookie").as_deref(), Some("s=1; u=a=b"));
    Ok(())
}

async fn a_grown_cookie(client: &Client) -> Result<()> {
    let cookie =
        format!("{}; big={}", client.cookie.clone().unwrap_or_default(), "x".repeat(12_000));
    same!(client.with_cookie(Some(cookie)).get("/echo").await?.status, 200);
    // 600 KB, as a frame can make a browser send; the answer lets them expire, one line each.
    let mut many = client.cookie.clone().unwrap_or_default();
    for at in 0..150 {
        many.push_str(&format!("; c{at}={}", "y".repeat(4000)));
    }
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {}\r\nCookie: {many}\r\nConnection: close\r\n\r\n",
        client.host
    );
    let answer = client.raw(request.as_bytes()).await?;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 200"), "{:?}", answer.get(..200));
    ensure!(answer.to_lowercase().contains("set-cookie: c1=; "), "none is let expire");
    Ok(())
}

async fn an_upload_that_waits_for_100_continue(client: &Client) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("2MB.bin");
    std::fs::write(&file, vec![7u8; 2_000_000])?;
    let file = file.to_str().context("path")?;
    let origin = format!("Origin: {}", client.origin);
    let options =
        ["-H", "Expect: 100-continue", "-H", &origin, "--expect100-timeout", "30", "-T", file];
    let begin = Instant::now();
    let (code, body) = curl(client, "/upload", &options).await?;
    same!(code, 0);
    let echo: Value = serde_json::from_slice(&body)?;
    same!(echo["body"]["bytes"], 2_000_000);
    same!(seen(&echo, "expect"), None);
    ensure!(begin.elapsed() < Duration::from_secs(8), "waited: {:?}", begin.elapsed());
    // A refusal instead.
    let mut all: Vec<&str> = options.to_vec();
    all.extend(["-o", "/dev/null", "-w", "%{http_code}"]);
    let (_, status) = curl(client, "/upload?early=413&leave=1", &all).await?;
    same!(String::from_utf8(status)?, "413");
    Ok(())
}

async fn files_of_unknown_length(client: &Client) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let origin = format!("Origin: {}", client.origin);
    for size in [0usize, 10, 3_000_000] {
        let bytes: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
        let file = dir.path().join("3MB.bin");
        std::fs::write(&file, &bytes)?;
        let input = std::fs::File::open(&file)?;
        let (client, origin) = (client.clone(), origin.clone());
        let output = tokio::task::spawn_blocking(move || {
            let mut command = client.curl();
            command.args(["-H", &origin, "-T", "-"]).arg(client.url("/upload"));
            command.stdin(input).output()
        })
        .await??;
        same!(output.status.code(), Some(0));
        let echo: Value = serde_json::from_slice(&output.stdout)?;
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |h, b| {
            (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3)
        });
        same!(echo["body"]["bytes"], size);
        same!(echo["body"]["hash"], format!("{hash:016x}"));
        // A small one gets a length, for the many servers that know no chunks.
        if size < 1000 {
            same!(echo["body"]["framing"], "length");
        }
    }
    Ok(())
}

async fn live_events(client: &Client) -> Result<()> {
    // Sent when told to, told to when the one before has arrived: what is held back hangs.
    let request =
        client.build("GET", "/sse?bell=live&tag=live").body(Empty::<bytes::Bytes>::new())?;
    let patience = Duration::from_secs(20);
    let answer = tokio::time::timeout(patience, client.send(request))
        .await
        .context("the head waits for the first event")??;
    same!(answer.status().as_u16(), 200);
    same!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    for at in 0..5 {
        same!(client.get("/ring/live").await?.status, 200);
        let frame = tokio::time::timeout(patience, body.frame())
            .await
            .with_context(|| format!("event {at} is held back"))?;
        let data = frame.context("the stream ends")??.into_data().ok().context("no data")?;
        ensure!(data.starts_with(format!("id: {at}\n").as_bytes()), "{data:?}");
    }
    drop(body);
    wait_for_state(client, "live", &["closed"], Duration::from_secs(5)).await?;
    // One that is silent when its reader leaves.
    let request =
        client.build("GET", "/sse?first=100000&tag=quiet").body(Empty::<bytes::Bytes>::new())?;
    let answer = client.send(request).await?;
    drop(answer);
    wait_for_state(client, "quiet", &["closed"], Duration::from_secs(5)).await
}

async fn a_broken_answer(client: &Client) -> Result<()> {
    let body = "x".repeat(400);
    for head in ["Content-Length: 1000", "Transfer-Encoding: chunked"] {
        let chunk = if head.starts_with('T') { r"190\r\n" } else { "" };
        let path = script(&format!(r"w HTTP/1.1 200 OK\r\n{head}\r\n\r\n{chunk}{body}"));
        let begin = Instant::now();
        let (code, _) = curl(client, &path, &[]).await?;
        same!(code, 18);
        ensure!(begin.elapsed() < Duration::from_secs(3), "late: {:?}", begin.elapsed());
    }
    Ok(())
}

async fn websocket_subprotocol(client: &Client) -> Result<()> {
    let (_, answer) = client.websocket("/ws?protocol=v2", &["mqtt", "v2"]).await?;
    same!(answer.headers()["sec-websocket-protocol"], "v2");
    ensure!(!answer.headers().contains_key("sec-websocket-extensions"), "an extension");
    let (mut socket, _) = client.websocket("/ws", &[]).await?;
    socket.send(Message::text("hello")).await?;
    same!(socket.next().await.context("closed")??, Message::text("hello"));
    let big = vec![5u8; 3_000_000];
    socket.send(Message::binary(big.clone())).await?;
    ensure!(socket.next().await.context("closed")?? == Message::binary(big), "a large message");
    Ok(())
}

async fn websocket_first_message(client: &Client) -> Result<()> {
    for at in 0..100 {
        let (mut socket, _) = client.websocket("/ws?hello=hi", &[]).await?;
        let first = tokio::time::timeout(Duration::from_secs(5), socket.next()).await;
        let first = first.with_context(|| format!("number {at}"))?.context("closed")??;
        same!(first, Message::text("hi"));
    }
    Ok(())
}

async fn websocket_close_code(client: &Client) -> Result<()> {
    for path in ["/ws?close=4001&reason=bye&now=1", "/ws?close=4001&reason=bye"] {
        let (mut socket, _) = client.websocket(path, &[]).await?;
        if !path.ends_with("now=1") {
            socket.send(Message::text("x")).await?;
        }
        let Some(Ok(Message::Close(Some(frame)))) = socket.next().await else {
            anyhow::bail!("no close frame");
        };
        same!((u16::from(frame.code), frame.reason.as_str()), (4001, "bye"));
    }
    // And the other way: the app hears of a browser that leaves.
    let (socket, _) = client.websocket("/ws?tag=left", &[]).await?;
    drop(socket);
    wait_for_state(client, "left", &["broken", "closed"], Duration::from_secs(5)).await
}

async fn renaming_over_webdav(client: &Client) -> Result<()> {
    let origin = client.origin.as_str();
    for destination in [format!("{origin}/b%20c.txt"), "/b%20c.txt".to_owned()] {
        let headers =
            [("destination", destination.as_str()), ("overwrite", "F"), ("origin", origin)];
        for verb in ["MOVE", "COPY"] {
            let answer = client.request(verb, "/a.txt?status=201", &headers, "").await?;
            same!(answer.status, 201);
            let echo: Value = serde_json::from_slice(&answer.body)?;
            let value = seen(&echo, "destination").context("no Destination")?;
            // Scheme and host as the app sees its own, one slash, nothing decoded.
            let host = seen(&echo, "host").context("no Host")?;
            same!(value, format!("http://{host}/b%20c.txt"));
            same!(seen(&echo, "overwrite").as_deref(), Some("F"));
        }
    }
    Ok(())
}

async fn webdav_locks_and_options(client: &Client) -> Result<()> {
    let origin = ("origin", client.origin.as_str());
    let lock = script(
        r"w HTTP/1.1 200 OK\r\nLock-Token: <opaquelocktoken:1>\r\nContent-Type: application/xml\r\nContent-Length: 4\r\n\r\n<l/>",
    );
    let headers = [origin, ("content-type", "application/xml"), ("timeout", "Second-60")];
    let answer = client.request("LOCK", &lock, &headers, "<lockinfo/>").await?;
    same!((answer.status, answer.header("lock-token")), (200, "<opaquelocktoken:1>"));
    let put =
        client.request("PUT", "/x", &[origin, ("if", "(<opaquelocktoken:1>)")], "body").await?;
    let echo: Value = serde_json::from_slice(&put.body)?;
    same!(seen(&echo, "if").as_deref(), Some("(<opaquelocktoken:1>)"));
    let options = script(
        r"w HTTP/1.1 200 OK\r\nDAV: 1, 2, calendar-access\r\nAllow: GET, LOCK\r\nContent-Length: 0\r\n\r\n",
    );
    let answer = client.request("OPTIONS", &options, &[origin], "").await?;
    same!(answer.status, 200);
    same!(answer.header("dav"), "1, 2, calendar-access");
    same!(answer.header("allow"), "GET, LOCK");
    Ok(())
}

async fn other_verbs(client: &Client) -> Result<()> {
    let origin = ("origin", client.origin.as_str());
    let xml = ("content-type", "application/xml; charset=utf-8");
    for verb in [
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "REPORT",
        "ACL",
        "MKCALENDAR",
        "PATCH",
        "DELETE",
        "SEARCH",
    ] {
        let body = if verb == "DELETE" { "" } else { "<x/>" };
        let answer = client.request(verb, "/dav/", &[origin, xml, ("depth", "1")], body).await?;
        ensure!(answer.status == 200, "{verb}: {} {}", answer.status, answer.text());
        let echo: Value = serde_json::from_slice(&answer.body)?;
        same!((verb, echo["method"].as_str()), (verb, Some(verb)));
        if !body.is_empty() {
            same!((verb, echo["body"]["start"].as_str()), (verb, Some(body)));
        }
        if matches!(verb, "PROPFIND" | "REPORT") {
            same!((verb, seen(&echo, "depth").as_deref()), (verb, Some("1")));
        }
    }
    // The answer comes before the whole body was sent: curl reads it all the same.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), vec![0u8; (16 << 20) + 1])?;
    let (body, origin) =
        (format!("@{}", file.path().display()), format!("{}: {}", origin.0, origin.1));
    let options = [
        "-X",
        "PATCH",
        "-H",
        &origin,
        "--data-binary",
        &body,
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
    ];
    let (_, status) = curl(client, "/x", &options).await?;
    same!(String::from_utf8(status)?, "413");
    Ok(())
}

async fn workers_need_the_policy_everywhere(client: &Client) -> Result<()> {
    let bad = script("w nonsense");
    for path in ["/", "/echo?status=404", "/file?size=10", &bad] {
        let answer = client.get(path).await?;
        let policy = answer.all("content-security-policy").join("\n");
        ensure!(
            policy.contains("frame-ancestors") && policy.contains("sandbox"),
            "{path}: {policy}"
        );
    }
    same!(client.get(&bad).await?.status, 502);
    let fresh =
        client.request("GET", "/file?size=10", &[("if-none-match", "\"probe-10\"")], "").await?;
    same!(fresh.status, 304);
    ensure!(fresh.header("content-security-policy").contains("frame-ancestors"), "304 without it");
    let worker = [
        ("sec-fetch-dest", "serviceworker"),
        ("service-worker", "script"),
        ("sec-fetch-site", "same-origin"),
    ];
    let refused = client.request("GET", "/sw.js", &worker, "").await?;
    ensure!(refused.status >= 400, "a service worker was let in: {}", refused.status);
    Ok(())
}

async fn a_form_with_null_origin(client: &Client) -> Result<()> {
    let form = ("content-type", "application/x-www-form-urlencoded");
    let own = [("origin", "null"), ("sec-fetch-site", "same-origin"), form];
    let answer = client.request("POST", "/form", &own, "a=b").await?;
    same!(answer.status, 200);
    let echo: Value = serde_json::from_slice(&answer.body)?;
    same!(echo["body"]["start"], "a=b");
    for other in [
        vec![("origin", "null"), ("sec-fetch-site", "cross-site"), form],
        vec![("origin", "null"), ("sec-fetch-site", "same-site"), form],
        vec![("origin", "http://evil.example"), form],
        vec![("origin", "null"), form],
    ] {
        same!(client.request("POST", "/form", &other, "a=b").await?.status, 403);
    }
    Ok(())
}

async fn an_app_that_never_answers(client: &Client) -> Result<()> {
    let before: Value = serde_json::from_slice(&client.get("/stats").await?.body)?;
    let mut waiting = Vec::new();
    for _ in 0..50 {
        let client = client.clone();
        waiting.push(tokio::spawn(async move { client.get("/never").await }));
    }
    tokio::time::sleep(Duration::from_millis(700)).await;
    let begin = Instant::now();
    same!(client.get("/echo").await?.status, 200);
    ensure!(begin.elapsed() < Duration::from_secs(2), "blocked: {:?}", begin.elapsed());
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    drop(waiting);
    let begin = Instant::now();
    loop {
        let now: Value = serde_json::from_slice(&client.get("/stats").await?.body)?;
        if now["open"].as_u64() <= before["open"].as_u64().map(|n| n + 2) {
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(5), "not freed: {now}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn conditional_requests(client: &Client) -> Result<()> {
    for headers in [
        [("if-none-match", "\"probe-10\"")],
        [("if-none-match", "\"x\", W/\"probe-10\"")],
        [("if-modified-since", "Sun, 06 Nov 1994 08:49:37 GMT")],
    ] {
        let answer = client.request("GET", "/file?size=10", &headers, "").await?;
        same!((headers, answer.status), (headers, 304));
        same!(answer.header("etag"), "\"probe-10\"");
        ensure!(answer.body.is_empty(), "a body");
    }
    let answer = client.request("GET", "/file?size=10", &[("if-match", "\"x\"")], "").await?;
    same!(answer.status, 412);
    let answer = client.get("/file?size=10").await?;
    same!(answer.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
    Ok(())
}

async fn exact_statuses(client: &Client) -> Result<()> {
    for status in [200, 201, 202, 203, 207, 226, 402, 408, 423, 424, 451, 501, 503, 507] {
        let path = script(&format!(r"w HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nhi"));
        same!(client.get(&path).await?.status, status);
    }
    for status in [301, 302, 303, 307, 308] {
        let path = script(&format!(
            r"w HTTP/1.1 {status} X\r\nLocation: /x?y=%2F#z\r\nContent-Length: 0\r\n\r\n"
        ));
        let answer = client.get(&path).await?;
        same!((answer.status, answer.header("location")), (status, "/x?y=%2F#z"));
    }
    let challenge = script(
        r"w HTTP/1.1 401 X\r\nWWW-Authenticate: Basic realm=x\r\nContent-Length: 2\r\n\r\nhi",
    );
    let answer = client.get(&challenge).await?;
    same!((answer.status, answer.header("www-authenticate")), (400, ""));
    Ok(())
}

async fn empty_bodies(client: &Client) -> Result<()> {
    for (status, expected) in [(200, 200), (204, 204), (205, 205), (404, 404), (500, 500)] {
        let path = script(&format!(r"w HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"));
        let answer = client.get(&path).await?;
        same!((answer.status, answer.body.len()), (expected, 0));
    }
    let post = client.post("/upload", "text/plain", "").await?;
    let echo: Value = serde_json::from_slice(&post.body)?;
    same!(echo["body"]["bytes"], 0);
    Ok(())
}

async fn compressed_answers(client: &Client) -> Result<()> {
    for status in [200, 404] {
        let path = script(&format!(
            r"w HTTP/1.1 {status} X\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nVary: Accept-Encoding\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\xff"
        ));
        let answer =
            client.request("GET", &path, &[("accept-encoding", "gzip, br;q=0.5")], "").await?;
        same!((answer.status, answer.header("content-encoding")), (status, "gzip"));
        same!(answer.header("content-type"), "text/html");
        same!(answer.body[..], b"\x1f\x8b\x08\xff"[..]);
        same!(answer.header("vary").to_ascii_lowercase().contains("accept-encoding"), true);
    }
    let echo = client
        .request(
            "GET",
            "/echo",
            &[("accept-encoding", "gzip, br;q=0.5"), ("accept", "text/html, */*;q=0.1")],
            "",
        )
        .await?;
    let echo: Value = serde_json::from_slice(&echo.body)?;
    same!(seen(&echo, "accept-encoding").as_deref(), Some("gzip, br;q=0.5"));
    same!(seen(&echo, "accept").as_deref(), Some("text/html, */*;q=0.1"));
    Ok(())
}

/// Rows that look at the processes, too.
struct Tall<'a> {
    runtime: &'a tokio::runtime::Runtime,
    server: &'a Server,
    grain: &'a str,
    client: &'a Client,
}

impl Tall<'_> {
    /// Our processes by name with their memory (proportional set size) in KiB.
    fn memory(&self) -> Result<Vec<(String, u64)>> {
        let mut all = vec![("shell".to_owned(), self.server.pid())];
        for process in self.server.processes(self.grain) {
            if !process.name.starts_with("probe") {
                all.push((process.name, process.pid));
            }
        }
        ensure!(all.len() >= 3, "shell, supervisor and bridge run: {all:?}");
        let pss = |pid: i32| -> Result<u64> {
            let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = text.lines().find(|l| l.starts_with("Pss:")).context("no Pss")?;
            Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
        };
        all.into_iter().map(|(name, pid)| Ok((format!("{name} {pid}"), pss(pid)?))).collect()
    }

    fn check(&self, what: &str, idle: &[(String, u64)]) -> Result<()> {
        for (name, now) in self.memory()? {
            let before = idle.iter().find(|(n, _)| *n == name).map_or(0, |(_, kib)| *kib);
            ensure!(now < before + 30 * 1024, "{what}: {name} grew from {before} to {now} KiB");
        }
        Ok(())
    }

    /// A reader at 1 MB/s of an endless body, and an app that reads an upload at 1 MB/s: the fast
    /// side stalls, and none of our processes grows by 30 MB.
    fn long_bodies_take_no_memory(&self) -> Result<()> {
        self.runtime.block_on(async {
            let client = self.client;
            client.get("/echo").await?;
            let idle = self.memory()?;
            println!("idle: {idle:?} KiB");

            let empty = Empty::<bytes::Bytes>::new();
            let request = client.build("GET", "/endless?tag=endless").body(empty)?;
            let mut body = client.send(request).await?.into_body();
            let (begin, mut read) = (Instant::now(), 0u64);
            while begin.elapsed() < Duration::from_secs(6) {
                let frame = body.frame().await.context("the body ends")??;
                read += frame.data_ref().map_or(0, |d| d.len() as u64);
                let due = Duration::from_secs_f64(read as f64 / 1e6);
                if let Some(wait) = due.checked_sub(begin.elapsed()) {
                    tokio::time::sleep(wait).await;
                    self.check("download", &idle)?;
                }
            }
            let written = stats(client, "endless").await?["written"].as_u64().unwrap_or(0);
            println!("download: read {read}, the app wrote {written}; {:?}", self.memory()?);
            // On the way are the client's own socket (the kernel lets its receive buffer grow up
            // to 32 MiB), the shell's (4 MiB), the app's and the bridge's (1 MiB each, set by the
            // supervisor), and a window of 512 KiB a hop.
            ensure!(written < read + 45_000_000, "read {read}, but the app wrote {written}");
            drop(body);
            let limit = Duration::from_secs(10);
            wait_for_state(client, "endless", &["broken"], limit).await?;

            // 64 KiB each 60 ms is about 1 MB/s.
            let (send, receive) = tokio::sync::mpsc::channel::<bytes::Bytes>(1);
            let body = http_body_util::StreamBody::new(futures::stream::unfold(
                receive,
                |mut receive| async {
                    let piece = receive.recv().await?;
                    Some((Ok::<_, std::io::Error>(hyper::body::Frame::data(piece)), receive))
                },
            ));
            let request = client
                .build("PUT", "/upload?slow=60&tag=slow")
                .header("origin", &client.origin)
                .body(body)?;
            let sender = client.clone();
            let answer = tokio::spawn(async move { sender.send(request).await });
            let piece = bytes::Bytes::from(vec![b'u'; 65536]);
            let (begin, mut sent) = (Instant::now(), 0u64);
            while begin.elapsed() < Duration::from_secs(6) {
                let put = send.send(piece.clone());
                if tokio::time::timeout(Duration::from_millis(500), put).await.is_ok() {
                    sent += piece.len() as u64;
                }
                self.check("upload", &idle)?;
            }
            let read = stats(client, "slow").await?["read"].as_u64().unwrap_or(0);
            println!("upload: sent {sent}, the app read {read}; {:?}", self.memory()?);
            // The client's send buffer (4 MiB), the shell's receive buffer (2 MiB), a window of
            // 512 KiB a hop, the bridge's and the app's buffers (1 MiB each): about 10 MB.
            ensure!(read > 0 && sent < read + 16_000_000, "sent {sent}, the app read {read}");
            answer.abort();
            drop(send);
            // What was sent before the client left is the app's to read, at its own pace, and only
            // then it sees the end; but no more than that.
            wait_for_state(client, "slow", &["cut"], Duration::from_secs(30)).await?;
            let last = stats(client, "slow").await?["read"].as_u64().unwrap_or(0);
            println!("upload: left at {sent}, the app read {last} and saw it cut");
            ensure!(last <= sent + 65_536, "the app read {last} of {sent} bytes");
            Ok(())
        })
    }

    /// "Downloads and music stop after a minute or two": a byte a second for three idle times,
    /// nobody else there; afterwards the grain sleeps.
    fn a_slow_download_keeps_the_grain_up(&self) -> Result<()> {
        let begin = Instant::now();
        let answer = self.runtime.block_on(self.client.get("/drip?n=13&ms=1000"))?;
        same!(answer.body.len(), 13);
        ensure!(begin.elapsed() > Duration::from_secs(11), "too fast to show anything");
        self.server.wait_state(self.grain, "asleep", Duration::from_secs(20))?;
        // And a sleeping grain wakes for the next request.
        same!(self.runtime.block_on(self.client.get("/echo"))?.status, 200);
        Ok(())
    }

    /// "A failed start says nothing useful": the app ends under a request; the next one starts it
    /// anew.
    fn a_failed_start_says_what_ended(&self) -> Result<()> {
        let post = self.client.post("/exit?code=3", "text/plain", "");
        let answer = self.runtime.block_on(post)?;
        ensure!(answer.status >= 500, "{}", answer.status);
        // The log goes through a pipe of its own.
        sandstorm_tests::eventually("the log names the status", Duration::from_secs(10), || {
            let log = self.server.grain_log(self.grain);
            log.contains("** HTTP-BRIDGE: the app exited with status 3").then_some(())
        })?;
        same!(self.runtime.block_on(self.client.get("/echo"))?.status, 200);
        Ok(())
    }
}
