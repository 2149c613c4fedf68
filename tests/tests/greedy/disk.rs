//! The disk limit from end to end: warned of, met, and over once space is freed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server, apps, eventually_async};

use crate::hogs::Hog;
use crate::turn;

#[tokio::test(flavor = "multi_thread")]
async fn writes_fail_at_the_limit_and_work_again_when_space_is_freed() -> Result<()> {
    let _turn = turn().await;
    for mode in [Mode::Setuid, Mode::UserNamespace] {
        let limits = "disk=48M,log=128K";
        let Some(server) = Server::builder(mode).env("GRAIN_LIMITS", limits).start()? else {
            continue;
        };
        let app = server.install(&apps::package("greedy")?)?;
        let hog = Hog::new(&server, &app, "disk")?;
        let free = async || anyhow::Ok(hog.client.get("/free").await?.text());
        ensure!(free().await? == "written\n");

        hog.start().await?;
        eventually_async("the app is refused", Duration::from_secs(30), async || {
            hog.count().await.filter(|c| c.refused > 0 && c.errno == libc::EFBIG)
        })
        .await?;
        // The hog's process ends with its grain; what it wrote stays.
        server.json(&["grain", "stop", &hog.grain])?;
        let log = server.grain_log(&hog.grain);
        ensure!(log.contains("the disk limit is reached"), "{log}");

        // A new start of a full grain cannot write either, until it has deleted something.
        ensure!(hog.client.get("/").await?.status == 200, "a full grain still starts");
        eventually_async("a full grain may not write", Duration::from_secs(20), async || {
            let refused = hog.client.get("/write").await.ok()?.text();
            (refused == format!("refused {}\n", libc::EFBIG)).then_some(())
        })
        .await?;
        let _ = free().await?;
        eventually_async("there is room again", Duration::from_secs(30), async || {
            let text = hog.client.get("/write").await.ok()?.text();
            (text == "written\n").then_some(())
        })
        .await?;
        let log = server.grain_log(&hog.grain);
        ensure!(log.contains("there is room on the disk again"), "{log}");
        println!("{mode:?}: refused at 48 MiB, written again after deleting");

        // The owner was told, and is told no more.
        let told = |words: &str| -> Result<bool> {
            let link = server.json(&["grain", "open", &hog.grain])?;
            let page = server.installation.home().join("sandstorm.sqlite");
            ensure!(page.exists() && link["url"].is_string());
            Ok(words_in_notices(&server, words))
        };
        ensure!(told("used up its disk space")?, "no notice");
        hog.clear()?;
    }
    Ok(())
}

/// What takes space without a write cannot be refused: the grain is ended, its owner reads why, a
/// page that reloads itself does not start it again, and yet its owner can, to delete something.
#[tokio::test(flavor = "multi_thread")]
async fn who_goes_on_past_the_limit_is_ended() -> Result<()> {
    let _turn = turn().await;
    for name in ["mapped", "names"] {
        let limits = "disk=48M,inodes=4000,log=128K";
        let mode = if name == "names" { Mode::UserNamespace } else { Mode::Setuid };
        let Some(server) = Server::builder(mode).env("GRAIN_LIMITS", limits).start()? else {
            continue;
        };
        let app = server.install(&apps::package("greedy")?)?;
        let hog = Hog::new(&server, &app, name)?;
        hog.start().await?;
        let row = || -> Option<serde_json::Value> {
            let list = server.json(&["grain", "list"]).ok()?;
            list.as_array()?.iter().find(|g| g["grainId"] == *hog.grain).cloned()
        };
        let row = eventually_async("the grain is ended", Duration::from_secs(60), async || {
            row().filter(|row| row["trouble"] != "")
        })
        .await?;
        let trouble = row["trouble"].as_str().unwrap_or_default().to_owned();
        ensure!(trouble.starts_with("Ended: it went on taking disk space"), "{row}");
        ensure!(row["state"] == "asleep", "{row}");
        server.wait_gone(&hog.grain, Duration::from_secs(20))?;
        let log = server.grain_log(&hog.grain);
        ensure!(log.contains("ended: it went on taking disk space past its limit"), "{log}");
        ensure!(words_in_notices(&server, "was stopped. Ended: it went on"), "no notice");

        // Requests alone do not start it.
        let refused = hog.client.get("/").await?;
        ensure!(refused.status == 502 && refused.text().contains("disk space"), "{refused:?}");
        let text =
            String::from_utf8_lossy(&server.try_command(&["grain", "list"])?.stdout).into_owned();
        ensure!(text.contains(&trouble), "{text}");

        // Its owner does, and deletes.
        let link = server.json(&["grain", "open", &hog.grain])?;
        let shell = server.client()?.sign_in(link["url"].as_str().context("a link")?).await?;
        let page = format!("/grains/{}/details", hog.grain);
        ensure!(shell.get(&page).await?.text().contains("went on taking disk space"));
        let act = format!("/grains/{}/act", hog.grain);
        ensure!(shell.submit(&page, &act, "act=restart").await?.status == 303);
        let freed = hog.client.get("/free").await?;
        println!("{name}: {trouble} Then: {}", freed.text().trim());
        ensure!(freed.status == 200, "{freed:?}");
        eventually_async("there is room again", Duration::from_secs(30), async || {
            let text = hog.client.get("/write").await.ok()?.text();
            (text == "written\n").then_some(())
        })
        .await?;
        hog.clear()?;
    }
    Ok(())
}

/// Whether one of the notices in the database has these words.
fn words_in_notices(server: &Server, words: &str) -> bool {
    let home = server.home();
    ["sandstorm.sqlite", "sandstorm.sqlite-wal"].iter().any(|name| {
        std::fs::read(home.join(name))
            .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(words))
    })
}

/// Four fifths are used: the owner reads so on the grain's page before anything fails.
#[tokio::test(flavor = "multi_thread")]
async fn the_owner_is_warned_before() -> Result<()> {
    let _turn = turn().await;
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_LIMITS", "disk=40M").start()?
    else {
        return Ok(());
    };
    let app = server.install(&apps::package("greedy")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    client.get("/").await?;
    // From outside, as if the app had written it: 34 of 40 MiB.
    let file = server.installation.grain_dir(&grain).join("sandbox/large");
    std::fs::write(&file, vec![1; 34 << 20])?;
    std::os::unix::fs::chown(&file, Some(server.installation.uid), Some(server.installation.gid))?;
    eventually_async("the owner is told", Duration::from_secs(90), async || {
        client.get("/").await.ok()?;
        words_in_notices(&server, "of its disk space").then_some(())
    })
    .await?;
    let log = server.grain_log(&grain);
    ensure!(log.contains("% of the disk limit are used"), "{log}");
    let url = server.json(&["grain", "open", &grain])?;
    let url = url["url"].as_str().context("a link")?.to_owned();
    println!("told at 34 of 40 MiB; the owner's link is {} bytes long", url.len());
    Ok(())
}
