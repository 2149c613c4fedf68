//! Answers of apps, good and bad, as the browser gets them.

use anyhow::{Result, ensure};

use crate::probe;
use crate::support::Probe;

#[tokio::test]
async fn what_apps_answer_arrives_as_it_was_meant() -> Result<()> {
    let probe = probe!();
    one_sloppy_header_costs_only_itself(&probe).await?;
    errors_keep_type_bytes_and_status(&probe).await?;
    downloads_keep_their_names(&probe).await?;
    cookies_stay_apart(&probe).await?;
    redirects_are_exact(&probe).await?;
    common_protocols_have_their_headers(&probe).await?;
    ranges_and_head(&probe).await?;
    conditions(&probe).await?;
    nothing_reaches_beyond_the_frame(&probe).await?;
    nonsense_is_a_clear_502(&probe).await?;
    a_broken_answer_looks_broken(&probe)?;
    Ok(())
}

async fn one_sloppy_header_costs_only_itself(probe: &Probe) -> Result<()> {
    let answer =
        probe.says("HTTP/1.1 200 OK\\r\\nETag: abc\\r\\nContent-Length: 2\\r\\n\\r\\nok").await?;
    ensure!((answer.status, answer.text().as_str()) == (200, "ok"), "{answer:?}");
    ensure!(answer.header("etag").is_empty());
    let twin = probe
        .says("HTTP/1.1 200 OK\\r\\nETag: \"abc\"\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        .await?;
    ensure!(twin.header("etag") == "\"abc\"", "{twin:?}");
    Ok(())
}

async fn errors_keep_type_bytes_and_status(probe: &Probe) -> Result<()> {
    for (status, body) in [(422, "{\"e\":1}"), (429, "{}"), (451, "[]"), (500, "{}"), (503, "{}")] {
        let length = body.len();
        let answer = probe
            .says(&format!(
                "HTTP/1.1 {status} X\\r\\nContent-Type: application/json\\r\\nRetry-After: 7\\r\\n\
                 Content-Length: {length}\\r\\n\\r\\n{body}"
            ))
            .await?;
        ensure!(answer.status == status, "{status}: {answer:?}");
        ensure!(answer.header("content-type") == "application/json", "{status}: {answer:?}");
        ensure!(answer.header("retry-after") == "7", "{status}: {answer:?}");
        ensure!(answer.text() == body, "{status}: {answer:?}");
    }
    // A password prompt in the server's name never reaches the browser.
    let answer = probe
        .says("HTTP/1.1 401 X\\r\\nWWW-Authenticate: Basic\\r\\nContent-Length: 0\\r\\n\\r\\n")
        .await?;
    ensure!(answer.status == 400 && answer.header("www-authenticate").is_empty(), "{answer:?}");
    Ok(())
}

async fn downloads_keep_their_names(probe: &Probe) -> Result<()> {
    for disposition in [
        "attachment; filename=\"r.txt\"; filename*=UTF-8''r%C3%A9.txt",
        "inline; filename=\"a b.pdf\"",
        "attachment",
    ] {
        let answer = probe
            .says(&format!(
                "HTTP/1.1 200 OK\\r\\nContent-Disposition: {disposition}\\r\\n\
                 Content-Length: 2\\r\\n\\r\\nok"
            ))
            .await?;
        ensure!(answer.header("content-disposition") == disposition, "{answer:?}");
    }
    Ok(())
}

async fn cookies_stay_apart(probe: &Probe) -> Result<()> {
    let answer = probe
        .says(
            "HTTP/1.1 200 OK\\r\\nSet-Cookie: s=1; Path=/\\r\\n\
             Set-Cookie: t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT\\r\\n\
             Set-Cookie: u=2; Max-Age=60; HttpOnly; Domain=sandstorm.localhost\\r\\n\
             Set-Cookie: sandstorm-sid=planted\\r\\nContent-Length: 0\\r\\n\\r\\n",
        )
        .await?;
    ensure!(
        answer.all("set-cookie")
            == [
                "s=1; Path=/",
                "t=; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
                // No Domain: a sibling grain is none of its business.
                "u=2; Max-Age=60; HttpOnly",
            ],
        "{:?}",
        answer.all("set-cookie")
    );
    Ok(())
}

async fn redirects_are_exact(probe: &Probe) -> Result<()> {
    for status in [301, 302, 303, 307, 308] {
        let answer = probe
            .says(&format!(
                "HTTP/1.1 {status} X\\r\\nLocation: /else?a=b%2F\\r\\nContent-Length: 0\\r\\n\\r\\n"
            ))
            .await?;
        ensure!(answer.status == status, "{status}: {answer:?}");
        ensure!(answer.header("location") == "/else?a=b%2F", "{answer:?}");
    }
    Ok(())
}

async fn ranges_and_head(probe: &Probe) -> Result<()> {
    let client = &probe.client;
    let whole = client.get("/file?size=5000").await?;
    ensure!(whole.status == 200 && whole.body.len() == 5000);
    ensure!(whole.header("accept-ranges") == "bytes");
    let part =
        client.request("GET", "/file?size=5000", &[("range", "bytes=1000-1999")], "").await?;
    ensure!(part.status == 206, "{}", part.status);
    ensure!(part.header("content-range") == "bytes 1000-1999/5000");
    ensure!(part.body == whole.body[1000..2000]);
    let beyond = client.request("GET", "/file?size=5000", &[("range", "bytes=9000-")], "").await?;
    ensure!(beyond.status == 416, "{}", beyond.status);
    let head = client.request("HEAD", "/file?size=5000", &[], "").await?;
    ensure!(head.status == 200 && head.header("content-length") == "5000", "{head:?}");
    ensure!(head.body.is_empty());
    let curl = client.run_curl("/file?size=5000", &["-I"])?;
    ensure!(String::from_utf8_lossy(&curl.stdout).contains("content-length: 5000"), "{curl:?}");
    Ok(())
}

async fn conditions(probe: &Probe) -> Result<()> {
    let client = &probe.client;
    let first = client.get("/file?size=10").await?;
    let (tag, date) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    ensure!(!tag.is_empty() && !date.is_empty(), "{first:?}");
    for condition in [("if-none-match", tag.as_str()), ("if-modified-since", date.as_str())] {
        let answer = client.request("GET", "/file?size=10", &[condition], "").await?;
        ensure!(answer.status == 304 && answer.body.is_empty(), "{condition:?}: {answer:?}");
        // Also what is kept in a cache must stay within its frame.
        ensure!(!answer.header("content-security-policy").is_empty(), "{answer:?}");
    }
    let other = client.request("GET", "/file?size=10", &[("if-none-match", "\"no\"")], "").await?;
    ensure!(other.status == 200);
    Ok(())
}

async fn nothing_reaches_beyond_the_frame(probe: &Probe) -> Result<()> {
    let forbidden = [
        ("Link", "</x>; rel=preload"),
        ("Refresh", "0; url=http://example.org/"),
        ("Service-Worker-Allowed", "/"),
        ("Clear-Site-Data", "\"*\""),
        ("Alt-Svc", "h2=\":443\""),
        ("NEL", "{}"),
        ("Reporting-Endpoints", "a=\"https://example.org\""),
        ("Content-Security-Policy", "default-src *"),
        ("Access-Control-Allow-Origin", "*"),
        ("Strict-Transport-Security", "max-age=1"),
    ];
    let lines: String = forbidden.iter().map(|(n, v)| format!("{n}: {v}\\r\\n")).collect();
    let answer =
        probe.says(&format!("HTTP/1.1 200 OK\\r\\n{lines}Content-Length: 2\\r\\n\\r\\nok")).await?;
    ensure!(answer.status == 200);
    for (name, value) in forbidden {
        ensure!(!answer.all(name).iter().any(|found| found == value), "{name} got through");
    }
    let policy = answer.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "connect-src 'self' ws://",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "sandbox allow-scripts",
    ] {
        ensure!(policy.contains(part), "{part} is not in {policy}");
    }
    ensure!(policy.contains(&format!("frame-ancestors 'self' {}", probe.server.origin())));
    ensure!(!policy.contains('*') && !policy.contains("allow-top-navigation"), "{policy}");
    ensure!(answer.header("x-dns-prefetch-control") == "off");
    ensure!(answer.header("cross-origin-resource-policy") == "same-origin");
    ensure!(answer.header("referrer-policy") == "same-origin");
    // Our own pages on the grain's host too: a worker made from one would be free otherwise.
    let ours = probe.client.with_cookie(None).get("/").await?;
    ensure!(ours.status == 403 && ours.header("content-security-policy").contains("sandbox"));
    Ok(())
}

async fn nonsense_is_a_clear_502(probe: &Probe) -> Result<()> {
    for bytes in [
        "garbage\\r\\n\\r\\n",
        "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nContent-Length: 3\\r\\n\\r\\nok",
        "HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nok",
        "HTTP/1.1 200 OK\\r\\nContent-Length: -2\\r\\n\\r\\nok",
        "HTTP/1.1 302 Found\\r\\nContent-Length: 0\\r\\n\\r\\n",
        "HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: x\\r\\n\\r\\n",
        "HTTP/1.1 999 X\\r\\nContent-Length: 0\\r\\n\\r\\n",
        "HTTP/1.1 20",
        "",
    ] {
        let answer = probe.says(bytes).await?;
        ensure!(answer.status == 502, "{bytes:?}: {answer:?}");
        ensure!(answer.text().len() > 20, "{bytes:?}: {:?}", answer.text());
    }
    let twin = probe.says("HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok").await?;
    ensure!(twin.status == 200);
    Ok(())
}

fn a_broken_answer_looks_broken(probe: &Probe) -> Result<()> {
    for (bytes, sent) in [
        ("HTTP/1.1 200 OK\\r\\nContent-Length: 1000\\r\\n\\r\\n\nrep 400 x", 400),
        ("HTTP/1.1 200 OK\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\nc8\\r\\n\nrep 100 x", 100),
    ] {
        let done = probe.curl_says(bytes, &["-w", "%{stderr}%{time_total}"])?;
        let code = done.status.code();
        ensure!(code == Some(18), "curl ended with {code:?} for {bytes:?}");
        ensure!(done.stdout.len() == sent, "{} of {sent} bytes arrived", done.stdout.len());
    }
    Ok(())
}

/// Lists in pages, tus and htmx; and where what was made is, but only then.
async fn common_protocols_have_their_headers(probe: &Probe) -> Result<()> {
    let lines = "X-Total-Count: 42\\r\\nTus-Resumable: 1.0.0\\r\\nUpload-Offset: 7\\r\\n\
                 HX-Trigger: saved\\r\\nLocation: /files/1\\r\\nLink: <https://evil.example>\\r\\n";
    for (status, location) in [(200, ""), (201, "/files/1"), (202, "")] {
        let answer = probe
            .says(&format!("HTTP/1.1 {status} X\\r\\n{lines}Content-Length: 2\\r\\n\\r\\nok"))
            .await?;
        ensure!(answer.status == status, "{answer:?}");
        for (name, value) in [
            ("x-total-count", "42"),
            ("tus-resumable", "1.0.0"),
            ("upload-offset", "7"),
            ("hx-trigger", "saved"),
            ("location", location),
            ("link", ""),
        ] {
            ensure!(answer.header(name) == value, "{status} {name}: {answer:?}");
        }
    }
    let sent =
        [("hx-request", "true"), ("tus-resumable", "1.0.0"), ("upload-metadata", "name eA==")];
    let echo = probe.echo("GET", "/echo", &sent, "").await?;
    for (name, value) in sent {
        ensure!(crate::support::seen(&echo, name) == Some(value), "{name}: {echo}");
    }
    Ok(())
}
