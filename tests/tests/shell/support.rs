//! A server with one grain of the probe app, and a session of it.

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Answer, App, Client, Mode, Server, apps};
use serde_json::Value;

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

/// The value of a header in an echo; `None` when the app saw none.
pub fn seen<'a>(echo: &'a Value, name: &str) -> Option<&'a str> {
    echo["headers"].as_array()?.iter().find_map(|pair| {
        let matches = pair[0].as_str()?.eq_ignore_ascii_case(name);
        matches.then(|| pair[1].as_str()).flatten()
    })
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
