//! Who may speak to a grain: cookies, hosts, where a request comes from, and the way in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use sandstorm_tests::{Client, Server, eventually_async};
use tokio_tungstenite::tungstenite::Message;

use crate::probe;
use crate::support::{Probe, Writer};

#[tokio::test]
async fn only_the_grains_own_page_speaks_to_it() -> Result<()> {
    let probe = probe!();
    the_cookie_must_fit_the_host(&probe).await?;
    let browser = Browser::sign_in(&probe.server).await?;
    let frame = browser.open(&probe.grain).await?;
    where_a_request_comes_from(&probe, &frame.client).await?;
    a_whole_document_goes_to_its_page(&probe, &frame.client).await?;
    service_workers_are_refused(&frame.client).await?;
    the_way_in_works_once(&probe, &browser).await?;
    the_page_frames_this_session_alone(&browser, &probe.grain, &frame).await?;
    signing_out_ends_it(&browser, &frame.client).await?;
    Ok(())
}

/// A signed-in browser: the shell's origin and its cookie.
struct Browser {
    shell: Client,
}

/// A grain opened in it.
struct Frame {
    client: Client,
    /// The page around it.
    policy: String,
    init: String,
}

impl Browser {
    async fn sign_in(server: &Server) -> Result<Browser> {
        let link = server.json(&["admin-link"])?;
        let link = link["url"].as_str().context("a link")?.to_owned();
        let shell = server.client()?;
        let path = link.strip_prefix(&shell.origin).context("a link of this server")?;
        let answer = shell.get(path).await?;
        ensure!(answer.status == 303, "{answer:?}");
        ensure!(answer.header("referrer-policy") == "no-referrer", "{answer:?}");
        let cookie = answer.header("set-cookie").split(';').next().context("a cookie")?.to_owned();
        ensure!(cookie.starts_with("__Host-"), "{cookie}");
        ensure!(shell.get(path).await?.status != 303, "the link worked twice");
        Ok(Browser { shell: shell.with_cookie(Some(cookie)) })
    }

    /// The grain's page, and the address that its frame loads.
    async fn page(&self, grain: &str) -> Result<(String, String)> {
        let page = self.shell.get(&format!("/grain/{grain}")).await?;
        ensure!(page.status == 200, "{} {}", page.status, page.text());
        let text = page.text();
        let at = text.find("/_sandstorm-init?").context("the page has no frame")?;
        let begin = text[..at].rfind('"').context("a quote")? + 1;
        let end = at + text[at..].find('"').context("a quote")?;
        let init = text[begin..end].replace("&amp;", "&");
        Ok((init, page.header("content-security-policy").to_owned()))
    }

    async fn open(&self, grain: &str) -> Result<Frame> {
        let (init, policy) = self.page(grain).await?;
        let at = init.find("/_sandstorm-init").context("an address")?;
        let port = self.shell.host.rsplit(':').next().and_then(|p| p.parse().ok()).unwrap_or(80);
        let client = Client::new(&init[..at], port, None)?;
        let answer = client.get(&init[at..]).await?;
        ensure!(answer.status == 303, "{answer:?}");
        let set = answer.header("set-cookie");
        for mark in ["sandstorm-sid=", "HttpOnly", "SameSite=Lax"] {
            ensure!(set.contains(mark), "{mark} is not in {set}");
        }
        ensure!(answer.header("cache-control") == "no-store", "{answer:?}");
        ensure!(answer.header("referrer-policy") == "no-referrer", "{answer:?}");
        let cookie = set.split(';').next().context("a cookie")?.to_owned();
        Ok(Frame { client: client.with_cookie(Some(cookie)), policy, init })
    }
}

async fn the_cookie_must_fit_the_host(probe: &Probe) -> Result<()> {
    ensure!(probe.client.get("/echo").await?.status == 200);
    ensure!(probe.client.with_cookie(None).get("/echo").await?.status == 403);
    let (_, other) = probe.another()?;
    let crossed = probe.client.with_cookie(other.cookie.clone());
    ensure!(crossed.get("/echo").await?.status == 403, "another grain's cookie opened this one");
    // A planted cookie beside the right one does no harm, before or behind it.
    let own = probe.client.cookie.clone().unwrap_or_default();
    let planted = other.cookie.clone().unwrap_or_default();
    for both in [format!("{own}; {planted}"), format!("{planted}; {own}")] {
        ensure!(probe.client.with_cookie(Some(both)).get("/echo").await?.status == 200);
    }
    // Nor do many, as a sibling's script can set them for its domain and any path; they go.
    let mut planted: String = (0..200).map(|n| format!("sandstorm-sid={n:064x}; ")).collect();
    planted += &own;
    let answer = probe.client.with_cookie(Some(planted)).get("/echo").await?;
    ensure!(answer.status == 200, "{}: the own cookie was not found", answer.status);
    let expired = answer.all("set-cookie");
    let domain = "sandstorm-sid=; Path=/; Max-Age=0; Domain=sandstorm.localhost";
    ensure!(expired.iter().any(|line| line == domain), "{expired:?}");
    ensure!(!expired.iter().any(|line| line == "sandstorm-sid=; Path=/; Max-Age=0"));
    // A host that nobody has, with a cookie that somebody has.
    let mut nowhere = probe.client.clone();
    nowhere.host = nowhere.host.replace("ui-", "ui-0");
    ensure!(nowhere.get("/echo").await?.status == 403);
    nowhere.host = format!("example.org:{}", probe.server.port());
    ensure!(nowhere.get("/echo").await?.status == 421);
    Ok(())
}

async fn where_a_request_comes_from(probe: &Probe, frame: &Client) -> Result<()> {
    let own = frame.origin.clone();
    let shell = probe.server.origin();
    let navigation = [("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")];
    for (method, headers, status) in [
        ("GET", vec![], 200),
        ("GET", vec![("sec-fetch-site", "same-origin")], 200),
        ("GET", vec![("sec-fetch-site", "none")], 200),
        ("GET", vec![("sec-fetch-site", "same-site")], 403),
        ("GET", vec![("sec-fetch-site", "cross-site")], 403),
        ("GET", [&[("sec-fetch-site", "same-site")], &navigation[..]].concat(), 200),
        ("GET", [&[("sec-fetch-site", "cross-site")], &navigation[..]].concat(), 403),
        ("POST", [&[("sec-fetch-site", "same-site")], &navigation[..]].concat(), 403),
        ("GET", vec![("sec-fetch-site", "same-site"), ("sec-fetch-dest", "image")], 403),
        ("POST", vec![], 403),
        ("POST", vec![("origin", own.as_str())], 200),
        ("POST", vec![("origin", shell.as_str())], 403),
        ("POST", vec![("origin", "null")], 403),
        ("POST", vec![("origin", "null"), ("sec-fetch-site", "same-origin")], 200),
        ("POST", vec![("origin", "null"), ("sec-fetch-site", "cross-site")], 403),
        ("POST", vec![("origin", own.as_str()), ("sec-fetch-site", "same-origin")], 200),
        ("POST", vec![("origin", shell.as_str()), ("sec-fetch-site", "same-origin")], 403),
        ("DELETE", vec![], 403),
        ("GET", vec![("origin", shell.as_str())], 403),
    ] {
        let answer = frame.request(method, "/echo", &headers, "").await?;
        ensure!(answer.status == status, "{method} {headers:?}: {}, not {status}", answer.status);
    }
    ensure!(frame.websocket("/ws", &[]).await.is_ok());
    Ok(())
}

async fn a_whole_document_goes_to_its_page(probe: &Probe, frame: &Client) -> Result<()> {
    let document = [("sec-fetch-dest", "document"), ("sec-fetch-site", "none")];
    let answer = frame.request("GET", "/echo/a%2Fb?x=1", &document, "").await?;
    ensure!(answer.status == 303, "{answer:?}");
    let page = format!("{}/grain/{}/echo/a%2Fb?x=1", probe.server.origin(), probe.grain);
    ensure!(answer.header("location") == page, "{answer:?}");
    let file = probe.script(
        "w HTTP/1.1 200 OK\\r\\nContent-Disposition: attachment\\r\\nContent-Length: 2\\r\\n\\r\\nok",
    );
    let answer = frame.request("GET", &file, &document, "").await?;
    ensure!((answer.status, answer.text().as_str()) == (200, "ok"), "{answer:?}");
    Ok(())
}

async fn service_workers_are_refused(frame: &Client) -> Result<()> {
    let same = ("sec-fetch-site", "same-origin");
    let worker = [("service-worker", "script"), ("sec-fetch-dest", "serviceworker"), same];
    ensure!(frame.request("GET", "/echo", &worker, "").await?.status == 403);
    let worker = [("sec-fetch-dest", "worker"), same];
    ensure!(frame.request("GET", "/echo", &worker, "").await?.status == 200);
    Ok(())
}

async fn the_way_in_works_once(probe: &Probe, browser: &Browser) -> Result<()> {
    let first = browser.open(&probe.grain).await?;
    let at = first.init.find("/_sandstorm-init").context("an address")?;
    let again = first.client.with_cookie(None).get(&first.init[at..]).await?;
    ensure!(again.status == 403 && again.header("set-cookie").is_empty(), "{again:?}");
    // The same place at each opening, so that what an app stored in the browser is there.
    let second = browser.open(&probe.grain).await?;
    ensure!(first.client.origin == second.client.origin);
    ensure!(first.client.get("/echo").await?.status == 200, "opening again closed the first tab");
    let (other, _) = probe.another()?;
    let (init, _) = browser.page(&other).await?;
    ensure!(!init.starts_with(&first.client.origin), "two grains on one host");
    let at = init.find("/_sandstorm-init").context("an address")?;
    // A ticket of one host opens no other, and is spent by the try.
    ensure!(first.client.get(&init[at..]).await?.status == 403);
    let client = Client::new(&init[..at], probe.server.port(), None)?;
    ensure!(client.get(&init[at..]).await?.status == 403);
    for (path, to) in [
        ("%2F%2Fevil.example%2Fx", "/evil.example/x"),
        ("%2F%5Cevil.example", "/evil.example"),
        ("https%3A%2F%2Fevil.example", "/https://evil.example"),
        ("%2Fa%0D%0ASet-Cookie%3A%20x", "/a%0D%0ASet-Cookie:%20x"),
        ("%2Fdeep%2Fpage%3Fq%3D1%23x", "/deep/page?q=1#x"),
    ] {
        let (init, _) = browser.page(&probe.grain).await?;
        let at = init.find("/_sandstorm-init").context("an address")?;
        let (ticket, _) = init[at..].split_once("&path=").context("a path")?;
        let answer = first.client.with_cookie(None).get(&format!("{ticket}&path={path}")).await?;
        ensure!(answer.status == 303, "{path}: {answer:?}");
        ensure!(answer.header("location") == to, "{path}: {}", answer.header("location"));
    }
    Ok(())
}

async fn the_page_frames_this_session_alone(
    browser: &Browser,
    grain: &str,
    frame: &Frame,
) -> Result<()> {
    let wanted = format!("frame-src {}", frame.client.origin);
    let found = frame.policy.split(';').map(str::trim).find(|part| part.starts_with("frame-src"));
    ensure!(found == Some(&*wanted), "{found:?} instead of {wanted}");
    ensure!(browser.shell.with_cookie(None).get(&format!("/grain/{grain}")).await?.status != 200);
    Ok(())
}

async fn signing_out_ends_it(browser: &Browser, frame: &Client) -> Result<()> {
    let (mut socket, _) = frame.websocket("/ws", &[]).await?;
    socket.send(Message::text("x")).await?;
    socket.next().await.context("an echo")??;
    let done = browser.shell.submit("/", "/sign-out", "").await?;
    ensure!(done.status == 303, "{} {}", done.status, done.text());
    let end = tokio::time::timeout(Duration::from_secs(2), socket.next()).await;
    ensure!(!matches!(end.context("the socket stayed open")?, Some(Ok(Message::Text(_)))));
    ensure!(frame.get("/echo").await?.status == 403);
    Ok(())
}

/// The database is busy, and the browser waits for a second only.
#[tokio::test]
async fn a_sign_out_is_done_though_its_browser_leaves() -> Result<()> {
    let probe = probe!();
    let browser = Browser::sign_in(&probe.server).await?;
    let frame = browser.open(&probe.grain).await?;
    ensure!(frame.client.get("/echo").await?.status == 200);
    let page = browser.shell.get("/").await?.text();
    let token = page.split("name=\"token\" value=\"").nth(1).context("a token")?;
    let form = format!("token={}", token.split('"').next().unwrap_or_default());
    let origin = format!("Origin: {}", browser.shell.origin);
    let writer = Writer::hold(&probe.server)?;
    let options = ["--max-time", "1", "-H", &origin, "-H", "Sec-Fetch-Site: same-origin", "-d"];
    let left = browser.shell.run_curl("/sign-out", &[&options[..], &[&form]].concat())?;
    ensure!(left.status.code() == Some(28), "it did not wait: {left:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    ensure!(frame.client.get("/echo").await?.status == 200);
    drop(writer);
    eventually_async("the frame's session ends", Duration::from_secs(15), async || {
        (frame.client.get("/echo").await.ok()?.status == 403).then_some(())
    })
    .await?;
    ensure!(browser.page(&probe.grain).await.is_err(), "still signed in");
    Ok(())
}

/// Whatever a grain wrote, its log's end is what one wants to read.
#[tokio::test]
async fn a_running_grains_log_is_downloaded_to_its_end() -> Result<()> {
    let probe = probe!();
    let browser = Browser::sign_in(&probe.server).await?;
    ensure!(probe.client.get("/echo").await?.status == 200);
    let log = probe.server.installation.grain_dir(&probe.grain).join("log");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log)?;
    let lines: String = (0..100_000).map(|n| format!("line {n:06}\n")).collect();
    std::io::Write::write_all(&mut file, lines.as_bytes())?;
    ensure!(probe.server.state(&probe.grain)?.as_deref() == Some("running"));
    let text = browser.shell.get(&format!("/grains/{}/log/text", probe.grain)).await?.text();
    ensure!(
        text.contains("line 000000\n") && text.contains("line 099999\n"),
        "{} bytes",
        text.len()
    );
    let page = browser.shell.get(&format!("/grains/{}/log", probe.grain)).await?.text();
    ensure!(page.contains("line 099999\n") && !page.contains("line 000000\n"));
    Ok(())
}
