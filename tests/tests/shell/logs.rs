//! A grain's log that somebody follows.

use std::io::Read;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server, eventually, eventually_async};

use crate::probe;
use crate::support::wear_out;

#[tokio::test]
async fn a_followed_log_goes_on_over_a_change_of_connections() -> Result<()> {
    let probe = probe!();
    let mut follower = probe
        .server
        .command(&["grain", "log", "--follow", &probe.grain])
        .stdout(Stdio::piped())
        .spawn()?;
    let shown = Arc::new(Mutex::new(Vec::new()));
    let mut out = follower.stdout.take().context("a pipe")?;
    std::thread::spawn({
        let shown = shown.clone();
        move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut piece) {
                shown.lock().expect("lock").extend_from_slice(&piece[..length]);
            }
        }
    });
    let shows = |what: &str| {
        eventually(format!("{what} is shown"), Duration::from_secs(10), || {
            let shown = shown.lock().expect("lock");
            String::from_utf8_lossy(&shown).contains(what).then_some(())
        })
    };
    // What it does not know, the probe says in its log.
    let say = async |word: &str| probe.client.get(&probe.script(word)).await.map(drop);
    let result = async {
        let _ = say("before-the-change").await;
        shows("before-the-change")?;
        wear_out(&probe.server, &probe.client, "/never").await?;
        let _ = say("after-the-change").await;
        shows("after-the-change")?;
        ensure!(probe.server.state(&probe.grain)?.as_deref() == Some("running"));
        anyhow::Ok(())
    }
    .await;
    let _ = follower.kill();
    let _ = follower.wait();
    result
}

/// Anybody can be refused any number of times.
#[tokio::test]
async fn refused_requests_take_few_lines_of_the_servers_log() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let client = server.client()?;
    let asked = 200;
    let more = "GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n".repeat(asked - 1);
    let last = "GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n";
    let answers = client.raw((more + last).as_bytes()).await?;
    let answers = String::from_utf8_lossy(&answers).into_owned();
    ensure!(answers.matches("HTTP/1.1 421 ").count() == asked, "{answers}");
    let sum =
        eventually_async("the rest is told as a number", Duration::from_secs(30), async || {
            server.output().lines().find(|line| line.contains(" more of these")).map(str::to_owned)
        })
        .await?;
    let output = server.output();
    let lines = output.lines().filter(|line| line.contains("Nothing is served under this name"));
    ensure!(lines.count() == 10 && sum.contains("190 more") && sum.contains("S-HOST"), "{output}");
    Ok(())
}
