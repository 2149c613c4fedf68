//! A server with one grain of the probe app, and a session of it.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, fcntl};
use sandstorm_tests::{Answer, App, Client, Mode, Server, apps};
use serde_json::Value;
use tokio::io::AsyncWriteExt;

/// A running server, the probe app, one grain of it, and a client of that grain.
pub struct Probe {
    pub server: Server,
    pub app: App,
    pub grain: String,
    pub client: Client,
}

impl Probe {
    /// With settings of the shell; `None` when this machine cannot (announced).
    pub fn with(settings: &[(&str, &str)]) -> Result<Option<Probe>> {
        let mut builder = Server::builder(Mode::Setuid);
        for (name, value) in settings {
            builder = builder.env(name, *value);
        }
        let Some(server) = builder.start()? else { return Ok(None) };
        let app = server.install(&apps::package("probe")?)?;
        let grain = server.create(&app.app_id)?;
        let client = server.session(&grain)?;
        Ok(Some(Probe { server, app, grain, client }))
    }

    /// Another grain of the same app.
    pub fn another(&self) -> Result<(String, Client)> {
        let grain = self.server.create(&self.app.app_id)?;
        let client = self.server.session(&grain)?;
        Ok((grain, client))
    }

    /// The path at which the app runs `script` (see the probe's `script.rs`).
    pub fn script(&self, script: &str) -> String {
        let script =
            percent_encoding::utf8_percent_encode(script, percent_encoding::NON_ALPHANUMERIC);
        format!("/run?s={script}")
    }

    /// The app sends these bytes and closes; what the client gets.
    pub async fn says(&self, bytes: &str) -> Result<Answer> {
        self.client.get(&self.script(&format!("w {bytes}"))).await
    }

    /// The same by curl, as people would.
    pub fn curl_says(&self, bytes: &str, options: &[&str]) -> Result<std::process::Output> {
        self.client.run_curl(&self.script(&format!("w {bytes}")), options)
    }

    /// The request as the app saw it.
    pub async fn echo(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Result<Value> {
        let answer = self.client.request(method, path, headers, body.to_owned()).await?;
        ensure!(answer.status == 200, "{method} {path}: {} {}", answer.status, answer.text());
        serde_json::from_slice(&answer.body).context("the echo is JSON")
    }

    /// What became of the request with this tag, by the app's own account: `state`, `read`,
    /// `written`.
    pub async fn fate(&self, tag: &str) -> Result<Value> {
        let answer = self.client.get(&format!("/stats?tag={tag}")).await?;
        let stats: Value = serde_json::from_slice(&answer.body).context("stats are JSON")?;
        Ok(stats["tags"][tag].clone())
    }

    /// Connections that the app has open now, that of this question among them.
    pub async fn open_connections(&self) -> Result<u64> {
        let answer = self.client.get("/stats").await?;
        let stats: Value = serde_json::from_slice(&answer.body).context("stats are JSON")?;
        stats["open"].as_u64().context("a count")
    }
}

/// The one writer that the server's database has, held here: what the server writes waits (it does
/// for ten seconds) until this is dropped.
pub struct Writer(#[allow(dead_code)] File);

impl Writer {
    pub fn hold(server: &Server) -> Result<Writer> {
        // The lock WAL_WRITE_LOCK is byte 120 of this file (sqlite.org/walformat.html, 2.3).
        let name = server.home().join("sandstorm.sqlite-shm");
        let file = File::options().read(true).write(true).open(name)?;
        let lock = libc::flock {
            l_type: libc::F_WRLCK as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: 120,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_SETLKW(&lock)).context("the lock")?;
        Ok(Writer(file))
    }
}

/// The value of a header in an echo; `None` when the app saw none.
pub fn seen<'a>(echo: &'a Value, name: &str) -> Option<&'a str> {
    echo["headers"].as_array()?.iter().find_map(|pair| {
        let matches = pair[0].as_str()?.eq_ignore_ascii_case(name);
        matches.then(|| pair[1].as_str()).flatten()
    })
}

/// A package of one version of an app, in 2014's form; `name` is the author's name of the version.
pub fn package(server: &Server, number: u32, name: &str) -> Result<String> {
    let dir = server.installation.directory(&format!("version-{number}"))?;
    let manifest = dir.join("sandstorm-manifest");
    let marketing = match name {
        "" => String::new(),
        name => format!("appMarketingVersion = (defaultText = \"{name}\"),"),
    };
    let text = format!(
        "@0xf1ddb6d3b831f794; using P = import \"/sandstorm/package.capnp\";
         const command :P.Manifest.Command = (argv = [\"/none\"]);
         const manifest :P.Manifest = (appTitle = (defaultText = \"Versioned\"),
           appVersion = {number}, {marketing}
           actions = [(nounPhrase = (defaultText = \"thing\"), command = .command)],
           continueCommand = .command);"
    );
    let source = server.installation.write(&format!("manifest-{number}.capnp"), text.as_bytes())?;
    let evaluated = std::process::Command::new("capnp")
        .args(["eval", "-b", "--no-standard-import", "-I"])
        .arg(server.installation.dir().join("usr/include"))
        .arg(source)
        .arg("manifest")
        .output()
        .context("cannot start capnp")?;
    ensure!(evaluated.status.success(), "{evaluated:?}");
    std::fs::write(&manifest, evaluated.stdout)?;
    let key = server.installation.dir().join("versions.key");
    let spk = |words: &[&std::ffi::OsStr]| -> Result<()> {
        let done = std::process::Command::new(server.installation.program("spk"))
            .args(words)
            .output()
            .context("cannot start spk")?;
        ensure!(done.status.success(), "{done:?}");
        Ok(())
    };
    if !key.exists() {
        spk(&["keygen".as_ref(), key.as_os_str()])?;
    }
    let out = server.installation.dir().join(format!("version-{number}.spk"));
    spk(&["pack".as_ref(), dir.as_os_str(), key.as_os_str(), out.as_os_str()])?;
    std::fs::set_permissions(&out, std::fs::Permissions::from_mode(0o644))?;
    Ok(out.display().to_string())
}

/// A browser that somebody signed in to (the server has ALLOW_DEV_ACCOUNTS). `role`: `admin`,
/// `member` or `visitor`.
pub async fn person(server: &Server, name: &str, role: &str) -> Result<Client> {
    let shell = server.client()?;
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", shell.origin.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    let form = format!("name={name}&role={role}");
    let entered = shell.request("POST", "/sign-in/dev", &headers, form).await?;
    ensure!(entered.status == 303, "{role}: {entered:?}");
    let cookie = entered.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
    Ok(shell.with_cookie(Some(cookie)))
}

/// `POST /upload` as the page's script sends it.
pub async fn upload(browser: &Client, file: impl Into<bytes::Bytes>) -> Result<Answer> {
    let page = browser.get("/install").await?.text();
    let token = page
        .split("name=\"token\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .context("a form's token")?;
    let headers = [
        ("x-sandstorm-token", token),
        ("origin", browser.origin.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    browser.request("POST", "/upload", &headers, file).await
}

/// A test with a probe, or none where the machine cannot (announced).
#[macro_export]
macro_rules! probe {
    ($($settings:expr)?) => {{
        let settings: &[(&str, &str)] = &[$($settings)?];
        match $crate::support::Probe::with(settings)? {
            Some(probe) => probe,
            None => return Ok(()),
        }
    }};
}

/// Calls given up until the shell changes its connection to a supervisor (`grains/conn.rs`).
const WORN: usize = 10_000;
/// Of those at once: fewer than an app may have threads.
const AT_ONCE: usize = 200;

/// Gives up requests for `path`, which the app never answers, until the shell has taken a fresh
/// connection to the grain's supervisor.
pub async fn wear_out(server: &Server, client: &Client, path: &str) -> Result<()> {
    let changes = || server.output().matches("a fresh connection for a worn one").count();
    let before = changes();
    let cookie = client.cookie.as_deref().context("a cookie")?;
    let head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nCookie: {cookie}\r\n\r\n", client.host);
    let begin = Instant::now();
    let mut batches = 0;
    loop {
        let mut waiting = Vec::new();
        for _ in 0..AT_ONCE {
            let mut stream = client.connect().await?;
            stream.write_all(head.as_bytes()).await?;
            waiting.push(stream);
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
        drop(waiting);
        batches += 1;
        if batches * AT_ONCE < WORN || batches % 10 > 0 {
            continue;
        }
        // It is changed in a moment in which nobody uses the grain.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        if changes() > before {
            println!("{} calls given up in {:?}", batches * AT_ONCE, begin.elapsed());
            return Ok(());
        }
        ensure!(begin.elapsed() < Duration::from_secs(120), "the connection is not changed");
    }
}
