//! The administrator's exceptions: by app, by account, and which beats which.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server, apps, eventually};
use serde_json::Value;

use crate::turn;

#[tokio::test(flavor = "multi_thread")]
async fn exceptions_hold_from_the_next_start() -> Result<()> {
    let _turn = turn().await;
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_LIMITS", "pids=200").start()?
    else {
        return Ok(());
    };
    let app = server.install(&apps::package("greedy")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    let value = |name: &str| -> Result<u64> {
        let list = server.json(&["grain", "list"])?;
        let limits = list[0]["limits"].as_array().context("limits")?.clone();
        let limit = limits.iter().find(|l| l["name"] == name).context("this limit")?.clone();
        limit["value"].as_u64().context("a number")
    };
    let restarted = async |name: &str| -> Result<u64> {
        server.json(&["grain", "stop", &grain])?;
        ensure!(client.get("/").await?.status == 200);
        value(name)
    };
    ensure!(restarted("pids").await? == 200, "the server's own value");

    server.json(&["limit", "set", "--app", &app.app_id, "pids=150"])?;
    ensure!(value("pids")? == 200, "a running grain keeps what it started with");
    ensure!(restarted("pids").await? == 150, "the app's exception");
    let owner = server.json(&["grain", "list"])?[0]["owner"].as_str().context("owner")?.to_owned();
    server.json(&["limit", "set", "--account", &owner, "pids=170"])?;
    server.json(&["limit", "set", "--account", &owner, "disk=2G"])?;
    ensure!(restarted("pids").await? == 170, "the account's beats the app's");
    ensure!(value("disk")? == 2 << 30);

    let list = server.json(&["limit", "list"])?;
    let rows = list.as_array().context("a list")?;
    let found = |kind: &str, name: &str| -> Option<&Value> {
        rows.iter().find(|row| row["for"] == kind && row["name"] == name)
    };
    ensure!(found("server", "pids").context("server")?["value"] == 200, "{list}");
    ensure!(found("app", "pids").context("app")?["who"] == app.app_id, "{list}");
    ensure!(found("account", "pids").context("account")?["who"] == owner, "{list}");

    ensure!(server.json(&["limit", "clear", "--account", &owner])?["cleared"] == 2);
    ensure!(server.json(&["limit", "clear", "--app", &app.app_id, "disk"])?["cleared"] == 0);
    ensure!(restarted("pids").await? == 150, "the app's again");
    // They outlive the server, and its packages' manifests have no word in it.
    for (words, said) in [
        (&["limit", "set", "--app", &app.app_id, "uid=0"][..], "no limit is called"),
        (&["limit", "set", "--app", "nothere", "pids=1"], "no app nothere"),
        (&["limit", "set", "--account", "nobody", "pids=1"], "nobody"),
        (&["limit", "set", "--app", &app.app_id, "pids=99999999"], "from 1 to"),
        (&["limit", "set", "--app", &app.app_id, "pids"], "NAME=VALUE"),
    ] {
        let done = server.try_command(words)?;
        let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(!done.status.success() && stderr.contains(said), "{words:?}: {stderr}");
    }
    let mut server = server;
    server.terminate(Duration::from_secs(30))?;
    server.run()?;
    let rows = server.json(&["limit", "list"])?;
    ensure!(rows.to_string().contains(&app.app_id), "{rows}");
    eventually("the grain is found again", Duration::from_secs(10), || {
        server.state(&grain).ok().flatten()
    })?;
    Ok(())
}
