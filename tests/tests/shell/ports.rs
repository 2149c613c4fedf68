//! Port mode: 2014's scheme, for people without wildcard DNS.

use anyhow::{Context, Result, ensure};
use sandstorm_tests::Client;
use sandstorm_tests::server::free_ports;

use crate::support::{Probe, seen};

/// A range of ports that is free now.
fn range(count: u16) -> Result<(u16, u16)> {
    let first = free_ports(count)?;
    Ok((first, first + count - 1))
}

#[tokio::test]
async fn every_grain_has_a_port_of_its_own() -> Result<()> {
    let (first, last) = range(2)?;
    let ports = format!("{first}-{last}");
    let settings = [("GRAIN_MODE", "port"), ("GRAIN_PORTS", ports.as_str())];
    let Some(mut probe) = Probe::with(&settings)? else { return Ok(()) };
    let own = probe.client.cookie.clone().context("a cookie")?;
    ensure!(probe.client.origin.ends_with(&format!(":{first}")), "{}", probe.client.origin);
    ensure!(own.starts_with(&format!("sandstorm-sid-{first}=")), "{own}");
    ensure!(probe.client.get("/echo").await?.status == 200);

    let (grain, other) = probe.another()?;
    ensure!(other.origin.ends_with(&format!(":{last}")), "{}", other.origin);
    let theirs = other.cookie.clone().context("a cookie")?;
    // Browsers send every port the cookies of all ports.
    let all = format!("{own}; {theirs}; p{first}-a=1; p{last}-a=2; a=3");
    let echo = probe.client.with_cookie(Some(all.clone())).get("/echo").await?;
    let echo: serde_json::Value = serde_json::from_slice(&echo.body)?;
    ensure!(seen(&echo, "cookie") == Some("a=1"), "{echo}");
    ensure!(probe.client.with_cookie(Some(theirs.clone())).get("/echo").await?.status == 403);
    let renamed = theirs.replace(&last.to_string(), &first.to_string());
    ensure!(probe.client.with_cookie(Some(renamed)).get("/echo").await?.status == 403);
    let set = probe
        .says("HTTP/1.1 200 OK\\r\\nSet-Cookie: s=1; Path=/\\r\\nContent-Length: 0\\r\\n\\r\\n")
        .await?;
    ensure!(set.header("set-cookie") == format!("p{first}-s=1; Path=/"), "{set:?}");

    // The other grain's port under this one's name, and the shell's name on a grain's port.
    let mut crossed = probe.client.clone();
    crossed.host = other.host.clone();
    ensure!(crossed.get("/echo").await?.status == 421);
    crossed.host = probe.server.client()?.host;
    ensure!(crossed.get("/").await?.status == 421);

    // None is free: that is said, and on plain http a destroyed grain's port stays its own.
    let third = probe.server.create(&probe.app.app_id)?;
    let error = probe.server.session(&third).err().context("a third port was found")?.to_string();
    ensure!(error.contains("GRAIN_PORTS"), "{error}");
    probe.server.json(&["grain", "delete", &grain, "--now"])?;
    ensure!(probe.server.session(&third).is_err(), "a port was given to another grain");

    probe.server.kill();
    probe.server.run()?;
    ensure!(probe.client.get("/echo").await?.status == 200, "the port moved or closed");
    let again = probe.server.session(&probe.grain)?;
    ensure!(again.origin == probe.client.origin);
    Ok(())
}

/// What another program holds is given to no new grain. A grain that has a port keeps it.
#[tokio::test]
async fn a_port_that_another_program_holds_is_passed_over() -> Result<()> {
    let (first, last) = range(3)?;
    let ports = format!("{first}-{last}");
    let hold = |port| std::net::TcpListener::bind(("127.0.0.1", port));
    let held = hold(first)?;
    let settings = [("GRAIN_MODE", "port"), ("GRAIN_PORTS", ports.as_str())];
    let Some(mut probe) = Probe::with(&settings)? else { return Ok(()) };
    let second = first + 1;
    ensure!(probe.client.origin.ends_with(&format!(":{second}")), "{}", probe.client.origin);
    ensure!(probe.client.get("/echo").await?.status == 200);
    drop(held);
    // Nothing of the attempt is left: the first is the next grain's.
    let (other, client) = probe.another()?;
    ensure!(client.origin.ends_with(&format!(":{first}")), "{}", client.origin);

    probe.server.kill();
    let held = (hold(second)?, hold(last)?);
    probe.server.run()?;
    let error = probe.server.session(&probe.grain).err().context("it moved")?.to_string();
    ensure!(error.contains(&format!("Port {second}, which belongs to this grain")), "{error}");
    ensure!(probe.server.session(&other)?.get("/echo").await?.status == 200);
    let third = probe.server.create(&probe.app.app_id)?;
    let error = probe.server.session(&third).err().context("no port is free")?.to_string();
    ensure!(error.contains(&format!("port {last}: ")) && error.contains("GRAIN_PORTS"), "{error}");
    drop(held);
    ensure!(probe.server.session(&probe.grain)?.origin == probe.client.origin);
    let late = probe.server.session(&third)?;
    ensure!(late.origin.ends_with(&format!(":{last}")), "{}", late.origin);
    Ok(())
}

/// Behind TLS a port whose grain is destroyed goes to another one: what the first app left in a
/// browser reaches neither the second app nor its page.
#[tokio::test]
async fn a_port_that_was_anothers_starts_empty() -> Result<()> {
    let (first, _) = range(1)?;
    let ports = format!("{first}-{first}");
    let root = "https://box.sandstorm.localhost";
    let settings = [("GRAIN_MODE", "port"), ("GRAIN_PORTS", &*ports), ("ROOT_URL", root)];
    let Some(probe) = Probe::with(&settings)? else { return Ok(()) };
    let (server, one) = (&probe.server, &probe.grain);
    let origin = format!("https://box-{first}.sandstorm.localhost");
    ensure!(probe.client.origin == origin, "{}", probe.client.origin);
    let says = "HTTP/1.1 200 OK\\r\\nSet-Cookie: s=1\\r\\nContent-Length: 0\\r\\n\\r\\n";
    let set = probe.says(says).await?.header("set-cookie").to_owned();
    ensure!(set.starts_with(&format!("p{first}-s=1")), "first: {set:?}");
    let mut jar = vec![format!("p{first}-s=1"), "script=1".to_owned()];
    // The first grain's page may try to look as if it had been forgotten already.
    jar.push(format!("sandstorm-port-{first}=1"));

    // A browser of the owner's, which opens the first grain: nothing is to be forgotten yet.
    let shell = Client::new(root, server.port(), None)?;
    let link = server.json(&["grain", "open", one])?;
    let shell = shell.sign_in(link["url"].as_str().context("a link")?).await?;
    let (_, _, forgot) = enter(&shell, one, &jar).await?;
    ensure!(forgot.is_empty(), "one: {forgot}");

    let two = server.create(&probe.app.app_id)?;
    server.json(&["grain", "delete", one, "--now"])?;
    let (frame, set, forgot) = enter(&shell, &two, &jar).await?;
    ensure!(frame.origin == origin, "{}", frame.origin);
    ensure!(forgot == "\"cache\", \"storage\"", "{forgot:?}");
    for gone in [format!("p{first}-s=; Path=/; Max-Age=0"), "script=; Path=/; Max-Age=0".into()] {
        ensure!(set.contains(&gone), "{gone} is not in {set:?}");
    }
    let marked = set.iter().find(|line| line.starts_with("sandstorm-port-")).context("a mark")?;
    ensure!(marked.contains("HttpOnly") && marked.contains("Secure"), "{marked}");
    let marked = marked.split(';').next().unwrap_or_default().to_owned();

    // A cookie that was left in spite of that reaches nobody, and the second app has its own.
    let own = frame.cookie.clone().unwrap_or_default();
    let all = format!("{own}; p{first}-s=1; p{first}.1-t=2; {marked}");
    let echo = frame.with_cookie(Some(all)).get("/echo").await?;
    let echo: serde_json::Value = serde_json::from_slice(&echo.body)?;
    ensure!(seen(&echo, "cookie") == Some("t=2"), "{echo}");
    let set = frame.get(&probe.script(&format!("w {says}"))).await?.header("set-cookie").to_owned();
    ensure!(set.starts_with(&format!("p{first}.1-s=1")), "first.1: {set:?}");

    // Once a browser: this one has forgotten, another one has not.
    jar.push(marked);
    ensure!(enter(&shell, &two, &jar).await?.2.is_empty(), "told twice");
    jar.pop();
    let (_, _, forgot) = enter(&shell, &two, &jar).await?;
    ensure!(forgot.contains("storage"), "another browser was not told");

    // And once a grain.
    let three = server.create(&probe.app.app_id)?;
    server.json(&["grain", "delete", &two, "--now"])?;
    let (frame, _, forgot) = enter(&shell, &three, &jar).await?;
    ensure!(
        frame.origin == origin && forgot.contains("storage"),
        "third: {} {forgot:?}",
        frame.origin
    );
    let set = frame.get(&probe.script(&format!("w {says}"))).await?.header("set-cookie").to_owned();
    ensure!(set.starts_with(&format!("p{first}.2-s=1")), "first.2: {set:?}");
    Ok(())
}

/// Opens a grain as a browser whose jar for the grain's host holds `jar`: the frame's client, the
/// cookies that were set, and what was to be forgotten.
async fn enter(
    shell: &Client,
    grain: &str,
    jar: &[String],
) -> Result<(Client, Vec<String>, String)> {
    let text = shell.get(&format!("/grain/{grain}")).await?.text();
    let at = text.find("/_sandstorm-init?").context("the page has no frame")?;
    let begin = text[..at].rfind('"').context("a quote")? + 1;
    let end = at + text[at..].find('"').context("a quote")?;
    let frame = shell.at(&text[begin..at])?.with_cookie(Some(jar.join("; ")));
    let answer = frame.get(&text[at..end].replace("&amp;", "&")).await?;
    ensure!(answer.status == 303, "{answer:?}");
    let set = answer.all("set-cookie");
    let sid = set.iter().find(|line| line.starts_with("sandstorm-sid")).context("a cookie")?;
    let sid = sid.split(';').next().unwrap_or_default().to_owned();
    let forgot = answer.header("clear-site-data").to_owned();
    Ok((frame.with_cookie(Some(sid)), set, forgot))
}
