//! Apps that do not start, do not answer, or do too much.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandstorm_tests::eventually_async;

use crate::probe;

#[tokio::test]
async fn an_app_that_never_answers_blocks_nobody_else() -> Result<()> {
    let probe = probe!();
    let (_, quiet) = probe.another()?;
    let before = probe.open_connections().await?;
    let mut stuck = Vec::new();
    for number in 0..50 {
        let client = probe.client.clone();
        stuck.push(tokio::spawn(
            async move { client.get(&format!("/never?tag=stuck{number}")).await },
        ));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut worst = Duration::ZERO;
    for _ in 0..20 {
        let begin = Instant::now();
        ensure!(quiet.get("/echo").await?.status == 200);
        // The stuck app's other requests go on, too.
        ensure!(probe.client.get("/echo").await?.status == 200);
        worst = worst.max(begin.elapsed());
    }
    ensure!(worst < Duration::from_secs(2), "others waited {worst:?}");
    stuck.into_iter().for_each(|task| task.abort());
    eventually_async("the app sees all 50 leave", Duration::from_secs(5), async || {
        (probe.open_connections().await.ok()? <= before).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_failed_start_says_why() -> Result<()> {
    let probe = probe!();
    // A grain that never answered would run its first command again.
    ensure!(probe.client.get("/echo").await?.status == 200);
    probe.server.json(&["grain", "stop", &probe.grain])?;
    // An operator's edit below apps/ counts at the next start.
    let root = probe.server.home().join("apps").join(&probe.app.package_id);
    let start = root.join("start");
    let original = std::fs::read(&start)?;
    std::fs::write(&start, "#!/bin/sh\necho about to fail\nexit 3\n")?;
    let begin = Instant::now();
    let html = [("accept", "text/html")];
    let answer = probe.client.request("GET", "/echo", &html, "").await?;
    ensure!(begin.elapsed() < Duration::from_secs(5), "it took {:?}", begin.elapsed());
    let text = answer.text();
    ensure!(answer.status == 502, "{} {text}", answer.status);
    for part in ["status 3", "about to fail", "Start again"] {
        ensure!(text.contains(part), "{part:?} is not in {text}");
    }
    std::fs::remove_file(&start)?;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let answer = probe.client.request("GET", "/echo", &html, "").await?;
    ensure!(answer.status == 502 && answer.text().contains("no such file"), "{}", answer.text());
    std::fs::write(&start, original)?;
    std::fs::set_permissions(&start, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    eventually_async("it starts again", Duration::from_secs(10), async || {
        (probe.client.get("/echo").await.ok()?.status == 200).then_some(())
    })
    .await
}

/// What ends soon after each start gets a pause, which people can end; requests are told so.
#[tokio::test]
async fn an_app_that_stops_again_and_again_gets_a_pause() -> Result<()> {
    let probe = probe!();
    let (server, grain, client) = (&probe.server, &probe.grain, &probe.client);
    let link = server.json(&["grain", "open", grain])?;
    let owner = server.client()?.sign_in(link["url"].as_str().context("a link")?).await?;
    let starts = || server.grain_log(grain).matches("** SANDSTORM SUPERVISOR: limits by").count();
    let die = async || -> Result<()> {
        let status = client.post("/exit?code=3", "text/plain", "").await?.status;
        ensure!(status == 502, "{status}");
        // Its bridge may have answered with its last breath.
        server.wait_state(grain, "asleep", Duration::from_secs(5))
    };
    let page = format!("/grain/{grain}");
    // A few ends cost nothing.
    for number in 1..=4 {
        die().await?;
        let answer = client.get("/echo").await?;
        ensure!(answer.status == 200, "after end {number}: {answer:?}");
    }
    die().await?;
    let told = client.get("/echo").await?;
    let before = starts();
    let shown = owner.get(&page).await?.text();
    ensure!(told.status == 503, "{told:?}");
    let wait: u64 = told.header("retry-after").parse().context("Retry-After")?;
    ensure!((1..=2).contains(&wait), "Retry-After: {wait}");
    let words = "stopped 5 times in a row soon after its start";
    for part in [words, "status 3", "in a row"] {
        ensure!(told.text().contains(part), "{part:?} is not in {}", told.text());
    }
    for part in [words, "starts it now", "Start again"] {
        ensure!(shown.contains(part), "{part:?} is not in {shown}");
    }
    ensure!(!shown.contains("<iframe"), "a frame would only be told to wait");
    ensure!(client.websocket("/ws", &[]).await.is_err());
    println!("{}", told.text());
    ensure!(starts() == before, "it was started in its pause");

    // When that is over it starts; the next pause is longer, and a person does not have to wait.
    tokio::time::sleep(Duration::from_secs(wait)).await;
    die().await?;
    let told = client.get("/echo").await?;
    let wait: u64 = told.header("retry-after").parse().context("Retry-After")?;
    ensure!(told.status == 503 && (3..=4).contains(&wait), "{told:?}");
    ensure!(
        owner.submit(&page, &format!("/grains/{grain}/act"), "act=restart").await?.status == 303
    );
    ensure!(client.get("/echo").await?.status == 200);
    // Nor after a stop.
    die().await?;
    ensure!(client.get("/echo").await?.status == 503);
    server.json(&["grain", "stop", grain])?;
    ensure!(client.get("/echo").await?.status == 200);
    Ok(())
}
