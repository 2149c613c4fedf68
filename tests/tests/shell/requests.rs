//! Requests on their way to the app: what it sees, and what never reaches it.

use anyhow::{Result, ensure};

use crate::probe;
use crate::support::{Probe, seen};

#[tokio::test]
async fn what_clients_send_arrives_and_nothing_else() -> Result<()> {
    let probe = probe!();
    paths_are_not_touched(&probe).await?;
    only_listed_headers_arrive(&probe).await?;
    every_verb_arrives(&probe).await?;
    webdav(&probe).await?;
    cookies_of_the_app_alone(&probe).await?;
    large_heads(&probe).await?;
    malformed_heads(&probe).await?;
    addresses_that_cannot_be_read(&probe).await?;
    Ok(())
}

async fn paths_are_not_touched(probe: &Probe) -> Result<()> {
    let done = probe.client.run_curl("/echo/a%2Fb/c?x=%2F&y=%zz;+~", &[])?;
    let echo: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    ensure!(echo["target"] == "/echo/a%2Fb/c?x=%2F&y=%zz;+~", "{echo}");
    let done = probe.client.run_curl("/echo/../echo/./x//y", &[])?;
    let echo: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    ensure!(echo["target"] == "/echo/../echo/./x//y", "{echo}");
    Ok(())
}

async fn only_listed_headers_arrive(probe: &Probe) -> Result<()> {
    let origin = probe.client.origin.clone();
    let echo = probe
        .echo(
            "GET",
            "/echo",
            &[
                ("authorization", "Basic x"),
                ("referer", "http://example.org/"),
                ("origin", &origin),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-real-ip", "1.2.3.4"),
                ("forwarded", "for=1.2.3.4"),
                ("via", "x"),
                ("sec-fetch-site", "same-origin"),
                ("x-sandstorm-user-id", "0123"),
                ("x-sandstorm-permissions", "edit,admin"),
                ("x-sandstorm-app-mine", "yes"),
                ("x-requested-with", "XMLHttpRequest"),
                ("range", "bytes=0-1"),
                ("accept", "text/html;q=0.5, */*"),
                ("accept-language", "de, en;q=0.5"),
                ("proxy-authorization", "x"),
            ],
            "",
        )
        .await?;
    for name in [
        "authorization",
        "referer",
        "origin",
        "x-forwarded-for",
        "x-real-ip",
        "forwarded",
        "via",
        "sec-fetch-site",
        "cookie",
        "proxy-authorization",
    ] {
        ensure!(seen(&echo, name).is_none(), "{name} reached the app: {echo}");
    }
    ensure!(seen(&echo, "x-sandstorm-app-mine") == Some("yes"), "{echo}");
    ensure!(seen(&echo, "x-requested-with") == Some("XMLHttpRequest"), "{echo}");
    ensure!(seen(&echo, "range") == Some("bytes=0-1"), "{echo}");
    ensure!(seen(&echo, "x-sandstorm-permissions") == Some("view,edit"), "{echo}");
    ensure!(seen(&echo, "x-sandstorm-user-id").is_some_and(|id| id.len() == 32), "{echo}");
    ensure!(seen(&echo, "x-sandstorm-base-path") == Some(&*origin), "{echo}");
    ensure!(seen(&echo, "host") == Some(&*probe.client.host), "{echo}");
    // Whoever names no language and no program is told to the app as Sandstorm always did.
    let (_, quiet) = probe.another()?;
    let answer = quiet.request("GET", "/echo", &[("accept", "text/html;;q=0.5")], "").await?;
    let echo: serde_json::Value = serde_json::from_slice(&answer.body)?;
    ensure!(seen(&echo, "accept-language") == Some("en-US,en"), "{echo}");
    ensure!(seen(&echo, "accept") == Some("text/html;q=0.5"), "{echo}");
    Ok(())
}

async fn every_verb_arrives(probe: &Probe) -> Result<()> {
    let there = format!("{}/x", probe.client.origin);
    for verb in [
        "GET",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "MKCOL",
        "REPORT",
        "PROPFIND",
        "PROPPATCH",
        "ACL",
        "LOCK",
        "UNLOCK",
        "COPY",
        "MOVE",
        "OPTIONS",
        "MKCALENDAR",
        "SEARCH",
    ] {
        let headers = [
            ("destination", there.as_str()),
            ("lock-token", "<a:1>"),
            ("content-type", "text/xml"),
        ];
        let echo = probe.echo(verb, "/echo", &headers, "<a/>").await?;
        ensure!(echo["method"] == verb, "{verb}: {echo}");
    }
    // The library would take the last coding off and pass on the rest as if it were plain.
    let answer = probe
        .client
        .raw(
            format!(
                "POST /echo HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nTransfer-Encoding: gzip, chunked\r\n\
                 Connection: close\r\n\r\n0\r\n\r\n",
                probe.client.host,
                probe.client.cookie.as_deref().unwrap_or("")
            )
            .as_bytes(),
        )
        .await?;
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 501"), "{answer}");
    for verb in ["TRACE", "CONNECT"] {
        let line = format!(
            "{verb} / HTTP/1.1\r\nHost: {}\r\nCookie: {}\r\nConnection: close\r\n\r\n",
            probe.client.host,
            probe.client.cookie.as_deref().unwrap_or("")
        );
        let answer = probe.client.raw(line.as_bytes()).await?;
        let answer = String::from_utf8_lossy(&answer);
        ensure!(
            answer.starts_with("HTTP/1.1 501") || answer.starts_with("HTTP/1.1 400"),
            "{verb}: {answer}"
        );
    }
    Ok(())
}

async fn webdav(probe: &Probe) -> Result<()> {
    let there = format!("{}/b%20c.txt", probe.client.origin);
    for destination in [there.as_str(), "/b%20c.txt"] {
        let echo = probe.echo("MOVE", "/echo", &[("destination", destination)], "").await?;
        ensure!(seen(&echo, "destination") == Some(&*there), "{echo}");
    }
    let away = probe
        .client
        .request("MOVE", "/echo", &[("destination", "http://example.org/x")], "")
        .await?;
    ensure!(away.status == 502, "{away:?}");
    let echo = probe.echo("PUT", "/echo", &[("if", "(<opaquelocktoken:1>)")], "x").await?;
    ensure!(seen(&echo, "if") == Some("(<opaquelocktoken:1>)"), "{echo}");
    for depth in ["0", "1", "infinity"] {
        let echo = probe.echo("PROPFIND", "/echo", &[("depth", depth)], "").await?;
        ensure!(seen(&echo, "depth") == Some(depth), "{echo}");
    }
    // A body that the public interface cannot carry goes another way, and the depth with it: without
    // it the question would be about everything below.
    for (verb, kind, encoding) in [
        ("PROPFIND", "application/xml", "gzip"),
        ("PROPFIND", "text/plain", ""),
        ("LOCK", "text/plain", ""),
    ] {
        let headers = [("depth", "0"), ("content-type", kind), ("content-encoding", encoding)];
        let headers = &headers[..if encoding.is_empty() { 2 } else { 3 }];
        let echo = probe.echo(verb, "/echo", headers, "x").await?;
        ensure!(seen(&echo, "depth") == Some("0"), "{verb} {kind} {encoding}: {echo}");
        ensure!(seen(&echo, "content-type") == Some(kind), "{echo}");
    }
    let answer = probe
        .client
        .request(
            "LOCK",
            &probe.script(
                "read\nw HTTP/1.1 200 OK\\r\\nLock-Token: <opaquelocktoken:1>\\r\\n\
                 Content-Length: 0\\r\\n\\r\\n",
            ),
            &[("content-type", "application/xml")],
            "<a/>",
        )
        .await?;
    ensure!(answer.header("lock-token") == "<opaquelocktoken:1>", "{answer:?}");
    let answer = probe
        .client
        .request(
            "OPTIONS",
            &probe.script(
                "w HTTP/1.1 200 OK\\r\\nDAV: 1, 2, calendar-access\\r\\nAllow: GET, MKCALENDAR\\r\\n\
                 Content-Length: 0\\r\\n\\r\\n",
            ),
            &[],
            "",
        )
        .await?;
    ensure!(answer.header("dav") == "1, 2, calendar-access", "{answer:?}");
    ensure!(answer.header("allow") == "GET, MKCALENDAR", "{answer:?}");
    Ok(())
}

async fn cookies_of_the_app_alone(probe: &Probe) -> Result<()> {
    let own = probe.client.cookie.clone().unwrap_or_default();
    let client = probe.client.with_cookie(Some(format!(
        "a=1; {own}; sandstorm-sid=planted; __Host-Http-sandstorm=x; sandstorm-shell=y; b=2"
    )));
    let answer = client.get("/echo").await?;
    let echo: serde_json::Value = serde_json::from_slice(&answer.body)?;
    ensure!(seen(&echo, "cookie") == Some("a=1; b=2"), "{echo}");
    Ok(())
}

async fn large_heads(probe: &Probe) -> Result<()> {
    let own = probe.client.cookie.clone().unwrap_or_default();
    for size in [12_000, 600_000] {
        let big = format!("{own}; big={}", "x".repeat(size));
        let answer = probe.client.with_cookie(Some(big)).get("/echo").await?;
        ensure!(answer.status == 200, "{size}: {}", answer.status);
        ensure!(answer.all("set-cookie").iter().any(|c| c.starts_with("big=; ")), "{answer:?}");
    }
    // The shell's own pages too.
    let shell = probe.server.client()?;
    let answer =
        shell.with_cookie(Some(format!("big={}", "x".repeat(600_000)))).get("/about").await?;
    ensure!(answer.status == 200, "{}", answer.status);
    let names: Vec<String> = (0..101).map(|i| format!("x-sandstorm-app-{i}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    // Host is one of them.
    ensure!(probe.client.request("GET", "/echo", &many[..99], "").await?.status == 200);
    ensure!(probe.client.request("GET", "/echo", &many, "").await?.status == 431);
    let long = "x".repeat(70_000);
    let answer = probe.client.request("GET", "/echo", &[("x-sandstorm-app-a", &long)], "").await?;
    ensure!(answer.status == 431, "{}", answer.status);
    Ok(())
}

async fn malformed_heads(probe: &Probe) -> Result<()> {
    let cookie = probe.client.cookie.as_deref().unwrap_or("");
    let host = &probe.client.host;
    let ask = async |lines: &str| -> Result<String> {
        let text = lines.replace("HOST", host).replace("COOKIE", cookie);
        let answer = probe.client.raw(text.as_bytes()).await?;
        Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or("nothing").to_owned())
    };
    let end = "Connection: close\r\n\r\n";
    for (lines, wanted) in [
        ("GET /echo HTTP/1.1\r\nCookie: COOKIE\r\n", "400"),
        ("GET /echo HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\nCookie: COOKIE\r\n", "400"),
        ("GET http://example.org/echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\n", "400"),
        ("GET /echo HTTP/1.1\r\nHost: example.org\r\nCookie: COOKIE\r\n", "421"),
        ("GET /echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nA: b\0c\r\n", "400"),
        ("GET /echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nA b: c\r\n", "400"),
        ("GET /echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nTransfer-Encoding: x\r\n", "400"),
        (
            "POST /echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\nContent-Length: 1\r\n\
             Content-Length: 2\r\n",
            "400",
        ),
        ("GET /echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\n", "200"),
        ("GET http://HOST/echo HTTP/1.1\r\nHost: HOST\r\nCookie: COOKIE\r\n", "200"),
    ] {
        let line = ask(&format!("{lines}{end}")).await?;
        ensure!(line.contains(wanted), "{lines:?} got {line}, not {wanted}");
    }
    Ok(())
}

/// Whatever stands in an address, the answer has words: the app's, or a page.
async fn addresses_that_cannot_be_read(probe: &Probe) -> Result<()> {
    let shell = probe.server.client()?;
    let ask = async |host: &str, lines: &str| -> Result<String> {
        let text = lines.replace("HOST", host);
        let answer = probe.client.raw(text.as_bytes()).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let close = "Host: HOST\r\nConnection: close\r\n";
    for host in [&shell.host, &probe.client.host] {
        for byte in (0x20u8..0x7f).chain([0x7f, 0x09]) {
            let c = char::from(byte);
            for address in [format!("/about{c}x"), format!("/about?{c}=1")] {
                let answer = ask(host, &format!("GET {address} HTTP/1.1\r\n{close}\r\n")).await?;
                let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
                ensure!(!body.is_empty(), "{address:?} at {host} got {answer:?}");
            }
        }
        for bad in ["/<", "/a?b=\"", "/`"] {
            let answer = ask(host, &format!("GET {bad} HTTP/1.1\r\n{close}\r\n")).await?;
            ensure!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("percent codes"));
            ensure!(answer.contains("content-type: text/plain"), "{answer}");
            let html = format!("{close}Accept: text/html\r\n");
            let page = ask(host, &format!("GET {bad} HTTP/1.1\r\n{html}\r\n")).await?;
            ensure!(page.contains("<h1>This address cannot be read"), "{page}");
        }
        let long = "x".repeat(70_000);
        let answer = ask(host, &format!("GET /?{long} HTTP/1.1\r\n{close}\r\n")).await?;
        ensure!(answer.starts_with("HTTP/1.1 414 ") && answer.contains("too long"), "{answer}");
    }
    // The connection is still good, in the order of the requests.
    let cookie = probe.client.cookie.as_deref().unwrap_or("");
    let next = format!(
        "GET /< HTTP/1.1\r\nHost: HOST\r\n\r\nGET /echo HTTP/1.1\r\nCookie: {cookie}\r\n{close}\r\n"
    );
    let answer = ask(&probe.client.host, &next).await?;
    let (first, second) = answer.split_once("HTTP/1.1 200 ").unwrap_or_default();
    ensure!(first.starts_with("HTTP/1.1 400 ") && second.contains("\"/echo\""), "{answer}");
    Ok(())
}
