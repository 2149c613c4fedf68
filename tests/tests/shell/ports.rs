//! Port mode: 2014's scheme, for people without wildcard DNS.

use anyhow::{Context, Result, ensure};
use sandstorm_tests::server::free_port;

use crate::support::{Probe, seen};

/// A range of ports that is free now.
fn range(count: u16) -> Result<(u16, u16)> {
    for _ in 0..50 {
        let first = free_port()?;
        let Some(last) = first.checked_add(count - 1) else { continue };
        if (first..=last).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok((first, last));
        }
    }
    anyhow::bail!("no {count} free ports in a row")
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
