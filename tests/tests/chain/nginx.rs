//! The examples of deploy/nginx, run by a real nginx with TLS: WebSocket, live events, a gigabyte up.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server, eventually, processes, server::free_port, skip, top};

use crate::with_app;

/// An nginx of the test's own, ended with it.
struct Nginx {
    child: Child,
    port: u16,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        processes::send(self.child.id() as i32, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

fn have_nginx() -> bool {
    Path::new("/usr/sbin/nginx").exists()
}

/// Starts nginx with an example, its names and ports changed as its comments say.
fn nginx(dir: &Path, example: &str, port: u16, changes: &[(&str, &str)]) -> Result<Nginx> {
    let at = |name: &str| dir.join(name).to_string_lossy().into_owned();
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=box.example.org", "-keyout", &at("key.pem"), "-out", &at("cert.pem")])
        .output()
        .context("cannot start openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let mut text = fs::read_to_string(top().join("deploy/nginx").join(example))?;
    let plain = free_port()?;
    let mut changes: Vec<(String, String)> =
        changes.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect();
    changes.push(("listen 443 ssl;".into(), format!("listen 127.0.0.1:{port} ssl;")));
    changes.push(("listen [::]:443 ssl;".into(), String::new()));
    changes.push(("listen 80;".into(), format!("listen 127.0.0.1:{plain};")));
    changes.push(("listen [::]:80;".into(), String::new()));
    for name in ["box.example.org", "example.org"] {
        changes.push((format!("/etc/ssl/private/{name}.crt"), at("cert.pem")));
        changes.push((format!("/etc/ssl/private/{name}.key"), at("key.pem")));
    }
    for (from, to) in &changes {
        text = text.replace(from.as_str(), to);
    }
    let conf = format!(
        "daemon off; pid {pid}; error_log {log}; worker_processes 1; {user}\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; client_body_temp_path {b}; proxy_temp_path {p};\n\
         fastcgi_temp_path {f}; uwsgi_temp_path {u}; scgi_temp_path {s};\n{text}\n}}\n",
        pid = at("nginx.pid"),
        log = at("nginx.log"),
        user = if sandstorm_tests::is_root() { "user root;" } else { "" },
        b = at("body"),
        p = at("proxy"),
        f = at("fastcgi"),
        u = at("uwsgi"),
        s = at("scgi"),
    );
    fs::write(at("nginx.conf"), conf)?;
    let child = Command::new("/usr/sbin/nginx")
        .args(["-c", &at("nginx.conf"), "-e", &at("nginx.log")])
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("cannot start nginx")?;
    let mut nginx = Nginx { child, port };
    eventually("nginx listens", Duration::from_secs(10), || {
        if let Ok(Some(status)) = nginx.child.try_wait() {
            return Some(Err(anyhow::anyhow!(
                "nginx ended ({status}): {}",
                fs::read_to_string(at("nginx.log")).unwrap_or_default()
            )));
        }
        std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(|_| Ok(()))
    })??;
    Ok(nginx)
}

/// curl to an https origin, wherever its name leads.
fn curl(nginx: &Nginx, cookie: &str, args: &[&str]) -> Result<std::process::Output> {
    Command::new("curl")
        .args(["-sSk", "--max-time", "300", "--connect-to", &format!("::127.0.0.1:{}", nginx.port)])
        .args(["-H", &format!("Cookie: {cookie}")])
        .args(args)
        .output()
        .context("cannot start curl")
}

/// The chain behind nginx: what each example must carry.
fn carries(nginx: &Nginx, server: &Server, name: &str) -> Result<()> {
    let app = with_app(server, "dufs")?;
    let grain = server.create(&app.app_id)?;
    let session = server.session(&grain)?;
    let (origin, cookie) = (session.origin.clone(), session.cookie.clone().context("a cookie")?);
    ensure!(origin.starts_with("https://"), "{name}: {origin}");

    // Plain traffic, and the address it says it has.
    let page = curl(nginx, &cookie, &["-i", &format!("{origin}/")])?;
    let page = String::from_utf8_lossy(&page.stdout).into_owned();
    ensure!(page.contains(" 200 "), "{name}: {page}");
    ensure!(page.to_lowercase().contains("strict-transport-security"), "{name}: {page}");

    // A gigabyte up, streamed: the server's disk grows while curl still sends.
    let big = server.installation.dir().join("big.bin");
    fs::File::create(&big)?.set_len(1 << 30)?;
    let arrived = server.installation.grain_dir(&grain).join("sandbox/files/big.bin");
    let url = format!("{origin}/big.bin");
    let mut upload = Command::new("curl")
        .args(["-sSk", "--max-time", "300", "--connect-to"])
        .arg(format!("::127.0.0.1:{}", nginx.port))
        .args(["-H", &format!("Cookie: {cookie}"), "-H", &format!("Origin: {origin}")])
        .args(["-o", "/dev/null", "-w", "%{http_code}", "-T"])
        .arg(&big)
        .arg(&url)
        .stdout(Stdio::piped())
        .spawn()?;
    let begin = Instant::now();
    eventually("the first bytes arrive", Duration::from_secs(30), || {
        fs::metadata(&arrived).ok().filter(|meta| meta.len() > 0).map(drop)
    })?;
    let still_sending = upload.try_wait()?.is_none();
    let done = upload.wait_with_output()?;
    ensure!(done.stdout == b"201", "{name}: {}", String::from_utf8_lossy(&done.stdout));
    ensure!(still_sending, "{name}: the upload was held back until it was whole");
    ensure!(fs::metadata(&arrived)?.len() == 1 << 30);
    println!("{name}: 1 GiB up in {:?}", begin.elapsed());

    // Live events come as they are sent, and a WebSocket speaks both ways.
    let probe = with_app(server, "probe")?;
    let grain = server.create(&probe.app_id)?;
    let session = server.session(&grain)?;
    let (origin, cookie) = (session.origin, session.cookie.context("a cookie")?);
    events(nginx, &origin, &cookie, name)?;
    let upgrade = curl(
        nginx,
        &cookie,
        &[
            "-i",
            "--max-time",
            "3",
            "-N",
            "--http1.1",
            "-H",
            &format!("Origin: {origin}"),
            "-H",
            "Connection: Upgrade",
            "-H",
            "Upgrade: websocket",
            "-H",
            "Sec-WebSocket-Version: 13",
            "-H",
            "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",
            &format!("{origin}/ws"),
        ],
    )?;
    let upgrade = String::from_utf8_lossy(&upgrade.stdout).into_owned();
    ensure!(upgrade.starts_with("HTTP/1.1 101"), "{name}: {upgrade}");
    ensure!(
        upgrade.contains("HSmrc0sMlYUkAGmm5OPpG2HaGWk="),
        "{name}: no accept hash of this key: {upgrade}"
    );
    Ok(())
}

/// The head comes before the first event, and events one by one.
fn events(nginx: &Nginx, origin: &str, cookie: &str, name: &str) -> Result<()> {
    let begin = Instant::now();
    let mut child = Command::new("curl")
        .args(["-skN", "--max-time", "6", "-w", "\nhead %{time_starttransfer}\n", "--connect-to"])
        .arg(format!("::127.0.0.1:{}", nginx.port))
        .args(["-H", &format!("Cookie: {cookie}")])
        .arg(format!("{origin}/sse?first=2000&every=500&n=4"))
        .stdout(Stdio::piped())
        .spawn()?;
    let (mut at, mut head) = (Vec::new(), None);
    for line in BufReader::new(child.stdout.take().context("stdout")?).lines() {
        let line = line?;
        if line.starts_with("data:") {
            at.push(begin.elapsed());
        } else if let Some(seconds) = line.strip_prefix("head ") {
            head = Some(seconds.parse::<f64>()?);
        }
    }
    child.wait()?;
    ensure!(at.len() == 4, "{name}: events came at {at:?}");
    ensure!(head.is_some_and(|s| s < 1.5), "{name}: the head was held back: {head:?}");
    ensure!(at[3] - at[0] > Duration::from_millis(1000), "{name}: events in a lump: {at:?}");
    Ok(())
}

#[test]
fn wildcard_hosts_behind_nginx() -> Result<()> {
    if !have_nginx() {
        skip!(Ok(()), "nginx is not installed");
    }
    let port = free_port()?;
    let Some(server) = Server::builder(Mode::Setuid)
        .env("ROOT_URL", format!("https://box.example.org:{port}"))
        .env("WILDCARD_HOST", format!("*.box.example.org:{port}"))
        .start()?
    else {
        return Ok(());
    };
    let own = format!("127.0.0.1:{}", server.port());
    let nginx =
        nginx(server.installation.dir(), "wildcard.conf", port, &[("127.0.0.1:3000", &own)])?;
    carries(&nginx, &server, "wildcard.conf")
}

#[test]
fn ports_behind_nginx() -> Result<()> {
    if !have_nginx() {
        skip!(Ok(()), "nginx is not installed");
    }
    let port = free_port()?;
    let Some(server) = Server::builder(Mode::Setuid)
        .env("ROOT_URL", format!("https://box.example.org:{port}"))
        .env("GRAIN_MODE", "port")
        .env("GRAIN_PORTS", "7300-7399")
        .start()?
    else {
        return Ok(());
    };
    let own = server.port().to_string();
    let change = [("$sandstorm_port 3000", format!("$sandstorm_port {own}"))];
    let change: Vec<_> = change.iter().map(|(a, b)| (*a, b.as_str())).collect();
    let nginx = nginx(server.installation.dir(), "ports.conf", port, &change)?;
    carries(&nginx, &server, "ports.conf")
}
