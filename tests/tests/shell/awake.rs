//! What an app may ask of the system on fd 3, through the real supervisor and the real shell: to
//! stay awake, and who somebody is. And what the system hears from it: how much it stores.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Mode, Server, apps, eventually, eventually_async};

use crate::support::wear_out;

/// Seconds without a tab until a grain sleeps, in this test.
const IDLE: u64 = 2;

#[tokio::test]
async fn a_grain_with_a_wake_lock_stays_up_and_sleeps_when_it_lets_go() -> Result<()> {
    let idle = IDLE.to_string();
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_IDLE_SECONDS", &idle).start()?
    else {
        return Ok(());
    };
    let app = server.install(&apps::package("native")?)?;
    let (held, free) = (server.create(&app.app_id)?, server.create(&app.app_id)?);
    let (holder, other) = (server.session(&held)?, server.session(&free)?);
    ensure!(holder.get("/awake").await?.text() == "awake");
    ensure!(other.get("/whoami").await?.status == 200);

    // The same app without a lock falls asleep; by then the other has had its time too.
    server.wait_state(&free, "asleep", Duration::from_secs(60))?;
    tokio::time::sleep(Duration::from_secs(2 * IDLE)).await;
    ensure!(server.state(&held)?.as_deref() == Some("running"), "it sleeps with a wake lock");

    ensure!(holder.get("/asleep").await?.text() == "asleep");
    server.wait_state(&held, "asleep", Duration::from_secs(60))?;
    server.wait_gone(&held, Duration::from_secs(10))
}

/// The new server has heard of no lock: the supervisor tells it.
#[tokio::test]
async fn a_wake_lock_outlives_a_restart_of_the_server() -> Result<()> {
    let idle = IDLE.to_string();
    let started = Server::builder(Mode::Setuid).env("GRAIN_IDLE_SECONDS", &idle).start()?;
    let Some(mut server) = started else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    ensure!(client.get("/awake").await?.text() == "awake");
    for hard in [true, false] {
        if hard {
            server.kill();
        } else {
            server.terminate(Duration::from_secs(20))?;
        }
        server.run()?;
        tokio::time::sleep(Duration::from_secs(3 * IDLE)).await;
        ensure!(server.state(&grain)?.as_deref() == Some("running"), "it sleeps with a wake lock");
    }
    ensure!(client.get("/asleep").await?.text() == "asleep");
    server.wait_state(&grain, "asleep", Duration::from_secs(60))
}

/// A worn connection takes its locks along: they are told over the fresh one, and end by it.
#[tokio::test]
async fn a_wake_lock_outlives_a_change_of_connections() -> Result<()> {
    let idle = IDLE.to_string();
    let started = Server::builder(Mode::Setuid).env("GRAIN_IDLE_SECONDS", &idle).start()?;
    let Some(server) = started else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    ensure!(client.get("/awake").await?.text() == "awake");
    wear_out(&server, &client, "/hang").await?;
    tokio::time::sleep(Duration::from_secs(4 * IDLE)).await;
    ensure!(server.state(&grain)?.as_deref() == Some("running"), "it sleeps with a wake lock");
    ensure!(client.get("/asleep").await?.text() == "asleep");
    server.wait_state(&grain, "asleep", Duration::from_secs(60))?;

    // The owner ends it: nothing of the lock is left for the next run.
    ensure!(client.get("/awake").await?.text() == "awake");
    wear_out(&server, &client, "/hang").await?;
    server.json(&["grain", "stop", &grain])?;
    ensure!(server.state(&grain)?.as_deref() == Some("asleep"));
    ensure!(client.get("/whoami").await?.status == 200);
    server.wait_state(&grain, "asleep", Duration::from_secs(60))
}

/// Of one person's grains so many run as may: one that nobody uses makes room, one in use does not.
#[tokio::test]
async fn a_person_has_so_many_grains_awake() -> Result<()> {
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_LIMITS", "running=2").start()?
    else {
        return Ok(());
    };
    let app = server.install(&apps::package("native")?)?;
    let patience = Duration::from_secs(60);
    let first = server.create(&app.app_id)?;
    server.wait_state(&first, "running", patience)?;
    let second = server.create(&app.app_id)?;
    server.wait_state(&second, "running", patience)?;
    ensure!(server.session(&second)?.get("/awake").await?.text() == "awake");

    let third = server.create(&app.app_id)?;
    server.wait_state(&third, "running", patience)?;
    ensure!(server.state(&first)?.as_deref() == Some("asleep"), "it makes room");
    ensure!(server.state(&second)?.as_deref() == Some("running"), "it is in use");
    ensure!(server.session(&third)?.get("/awake").await?.text() == "awake");

    let refused = server.session(&first)?.get("/whoami").await?;
    ensure!(refused.status == 503, "{refused:?}");
    let text = refused.text();
    ensure!(text.contains("2 other grains of its owner are in use"), "{text}");
    ensure!(server.state(&first)?.as_deref() == Some("asleep"));
    ensure!(server.session(&third)?.get("/asleep").await?.text() == "asleep");
    let answered = eventually_async("it starts in its place", patience, async || {
        let answer = server.session(&first).ok()?.get("/whoami").await.ok()?;
        (answer.status == 200).then_some(())
    });
    answered.await?;
    ensure!(server.state(&third)?.as_deref() == Some("asleep"));
    Ok(())
}

#[tokio::test]
async fn the_system_names_a_person_as_the_session_did() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    let known = client.get("/known").await?.text();
    ensure!(known.len() == 64 && known.bytes().all(|b| b.is_ascii_hexdigit()), "{known}");
    let who = client.get("/whoami").await?.text();
    ensure!(who.contains(&known), "{who} is not {known}");
    // Another grain knows the same person by another name.
    let another = server.create(&app.app_id)?;
    let elsewhere = server.session(&another)?.get("/known").await?.text();
    ensure!(elsewhere.len() == 64 && elsewhere != known, "{elsewhere}");
    Ok(())
}

#[tokio::test]
async fn what_a_grain_stores_is_shown() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("native")?)?;
    let grain = server.create(&app.app_id)?;
    let client = server.session(&grain)?;
    let size = || -> Result<u64> {
        server.json(&["grain", "list"])?[0]["size"].as_u64().context("a size")
    };
    let file = server.installation.grain_dir(&grain).join("sandbox/ten");
    eventually_async("a size is reported", Duration::from_secs(60), async || {
        client.get("/whoami").await.ok()?;
        size().ok().filter(|bytes| *bytes > 0)
    })
    .await?;
    std::fs::write(&file, vec![1; 10 << 20])?;
    eventually_async("the file is counted", Duration::from_secs(90), async || {
        client.get("/whoami").await.ok()?;
        size().ok().filter(|bytes| *bytes > 10 << 20)
    })
    .await?;
    std::fs::remove_file(&file)?;
    eventually("and counted no more", Duration::from_secs(150), || {
        size().ok().filter(|bytes| *bytes < 10 << 20)
    })
    .map(drop)
}
