//! The administrator's pages against real grains.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sandstorm_tests::processes;

use crate::probe;

/// Supervisors that are stuck cost the overview the wait for one of them, not the sum.
#[tokio::test]
async fn the_overview_asks_all_grains_at_once() -> Result<()> {
    let probe = probe!();
    let mut grains = vec![probe.grain.clone()];
    ensure!(probe.client.get("/echo").await?.status == 200);
    for _ in 0..3 {
        let (grain, client) = probe.another()?;
        ensure!(client.get("/echo").await?.status == 200);
        grains.push(grain);
    }
    let link = probe.server.json(&["admin-link"])?["url"].as_str().context("a link")?.to_owned();
    let admin = probe.server.client()?.sign_in(&link).await?;
    let stuck: Vec<i32> = grains
        .iter()
        .flat_map(|grain| probe.server.processes(grain))
        .filter(|process| process.name == "sandstorm-super")
        .map(|process| process.pid)
        .collect();
    ensure!(stuck.len() >= grains.len(), "{stuck:?}");
    stuck.iter().for_each(|pid| processes::send(*pid, Signal::SIGSTOP));
    let begin = Instant::now();
    let page = admin.get("/admin").await;
    let took = begin.elapsed();
    stuck.iter().for_each(|pid| processes::send(*pid, Signal::SIGCONT));
    let page = page?.text();
    ensure!(page.contains(&format!("Running now <span class=\"n\">{}", grains.len())), "{page}");
    println!("{} stuck grains cost the overview {took:?}", grains.len());
    ensure!(took < Duration::from_secs(5), "it took {took:?}");
    Ok(())
}
