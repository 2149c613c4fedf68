//! Apps that do not start, do not answer, or do too much.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
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
