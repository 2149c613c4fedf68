//! Sleep and wake, kills, a restart of the shell, two grains side by side.

use std::time::Duration;

use anyhow::{Context, Result};
use sandstorm_tests::{Mode, Server, processes};

use crate::with_app;

const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_grain_sleeps_when_nobody_looks_and_wakes_for_a_request() -> Result<()> {
    for mode in [Mode::Setuid, Mode::UserNamespace] {
        let Some(server) = Server::builder(mode).env("GRAIN_IDLE_SECONDS", "2").start()? else {
            continue;
        };
        let app = with_app(&server, "dufs")?;
        let grain = server.create(&app.app_id)?;
        let session = server.session(&grain)?;
        assert_eq!(session.put("/note.txt", "kept").await?.status, 201);
        assert_eq!(server.state(&grain)?.as_deref(), Some("running"));
        assert!(server.processes(&grain).len() >= 3, "{:?}", server.processes(&grain));
        server.wait_gone(&grain, SOON)?;
        server.wait_state(&grain, "asleep", SOON)?;
        assert_eq!(session.get("/note.txt").await?.text(), "kept");
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_part_ends_the_grain_and_the_next_request_wakes_it() -> Result<()> {
    for mode in [Mode::Setuid, Mode::UserNamespace] {
        let Some(server) = Server::start(mode)? else { continue };
        let app = with_app(&server, "dufs")?;
        let grain = server.create(&app.app_id)?;
        let session = server.session(&grain)?;
        assert_eq!(session.put("/note.txt", "kept").await?.status, 201);
        for part in ["dufs", "legacy-bridge", "sandstorm-supervisor"] {
            let spaces = processes::namespaces_of_grain(&grain);
            assert!(!spaces.is_empty(), "the app has a pid namespace");
            assert!(server.kill_in_grain(&grain, part) > 0, "no process {part}");
            sandstorm_tests::eventually(format!("nothing is left after {part}"), SOON, || {
                processes::in_namespaces(&spaces).is_empty().then_some(())
            })
            .with_context(|| format!("left: {:?}", processes::in_namespaces(&spaces)))?;
            assert_eq!(session.get("/note.txt").await?.text(), "kept", "after {part} in {mode:?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_shell_restarts_under_running_grains() -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = with_app(&server, "dufs")?;
    let grain = server.create(&app.app_id)?;
    let session = server.session(&grain)?;
    assert_eq!(session.put("/note.txt", "kept").await?.status, 201);
    let before: Vec<_> = server.processes(&grain).iter().map(|p| p.pid).collect();
    for how in ["kill", "terminate"] {
        match how {
            "kill" => server.kill(),
            _ => drop(server.terminate(SOON)?),
        }
        server.run()?;
        assert_eq!(session.get("/note.txt").await?.text(), "kept", "after {how}");
        assert_eq!(server.state(&grain)?.as_deref(), Some("running"));
        if how == "kill" {
            let now: Vec<_> = server.processes(&grain).iter().map(|p| p.pid).collect();
            assert_eq!(before, now, "the running grain was found again, not started anew");
        }
    }
    Ok(())
}

#[tokio::test]
async fn two_grains_of_one_app_share_nothing() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = with_app(&server, "dufs")?;
    let (one, two) = (server.create(&app.app_id)?, server.create(&app.app_id)?);
    let (first, second) = (server.session(&one)?, server.session(&two)?);
    assert_eq!(first.put("/secret.txt", "of the first").await?.status, 201);
    assert_eq!(second.get("/secret.txt").await?.status, 404);
    // The cookie of one is no key to the other, nor is none.
    for cookie in [first.cookie.clone(), None] {
        let answer = second.with_cookie(cookie).get("/").await?;
        assert!([401, 403].contains(&answer.status), "{}", answer.status);
    }
    // A kernel uid of its own each, in setuid mode.
    let uids = |grain: &str| -> Vec<u32> {
        server.processes(grain).into_iter().filter(|p| p.name == "dufs").map(|p| p.uid).collect()
    };
    let (a, b) = (uids(&one), uids(&two));
    assert!(!a.is_empty() && !b.is_empty());
    assert_ne!(a, b);
    assert!(!a.contains(&server.installation.uid) && !a.contains(&0), "{a:?}");
    Ok(())
}

#[tokio::test]
async fn a_failed_start_says_what_ended_and_why() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = with_app(&server, "dufs")?;
    let grain = server.create(&app.app_id)?;
    server.json(&["grain", "stop", &grain])?;
    // The app's program is gone from the package: what an incomplete package looks like.
    let bin = server.home().join("apps").join(&app.package_id).join("bin/dufs");
    std::fs::rename(&bin, bin.with_file_name("elsewhere"))?;
    let begin = std::time::Instant::now();
    let answer = server.session(&grain)?.get("/").await?;
    assert!(begin.elapsed() < Duration::from_secs(10), "it took {:?}", begin.elapsed());
    assert!(answer.status >= 500, "{}", answer.status);
    assert!(server.grain_log(&grain).contains("dufs"), "{}", server.grain_log(&grain));
    std::fs::rename(bin.with_file_name("elsewhere"), &bin)?;
    assert_eq!(server.session(&grain)?.get("/").await?.status, 200);
    Ok(())
}
