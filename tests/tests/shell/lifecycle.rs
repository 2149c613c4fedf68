//! Sleep, wake, kills, restarts.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use sandstorm_tests::{Client, Mode, Server, eventually, eventually_async, processes};
use tokio_tungstenite::tungstenite::Message;

use crate::probe;
use crate::support::{Probe, Writer};

#[tokio::test]
async fn a_grain_sleeps_when_nobody_uses_it_and_wakes_on_any_request() -> Result<()> {
    let probe = probe!(("GRAIN_IDLE_SECONDS", "2"));
    let (grain, client) = (&probe.grain, &probe.client);
    client.put("/store/x", "kept").await?;
    probe.server.wait_state(grain, "asleep", Duration::from_secs(10))?;
    probe.server.wait_gone(grain, Duration::from_secs(2))?;
    let begin = Instant::now();
    ensure!(client.get("/store/x").await?.text() == "kept");
    ensure!(begin.elapsed() < Duration::from_secs(5), "waking took {:?}", begin.elapsed());
    // A POST wakes it too: nothing was asked twice.
    probe.server.json(&["grain", "stop", grain])?;
    ensure!(client.post("/echo", "text/plain", "x").await?.status == 200);
    // A body that flows keeps it awake for as long as it flows.
    let seconds = if std::env::var_os("SANDSTORM_SOAK").is_some() { 200 } else { 12 };
    let path = format!("/drip?n={seconds}&ms=1000");
    let answer = client.get(&path).await?;
    ensure!(answer.body.len() == seconds, "{} of {seconds} bytes", answer.body.len());
    ensure!(probe.server.state(grain)?.as_deref() == Some("running"));
    // A socket too, also a silent one.
    let (mut socket, _) = client.websocket("/ws", &[]).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    socket.send(Message::text("still there?")).await?;
    ensure!(socket.next().await.context("an echo")?? == Message::text("still there?"));
    drop(socket);
    probe.server.wait_state(grain, "asleep", Duration::from_secs(10))
}

#[tokio::test]
async fn whatever_is_killed_the_next_request_is_answered() -> Result<()> {
    let probe = probe!();
    let (grain, client) = (&probe.grain, &probe.client);
    client.put("/store/x", "kept").await?;
    for victim in ["probe-app", "sandstorm-http-bridge", "sandstorm-supervisor"] {
        ensure!(probe.server.kill_in_grain(grain, victim) > 0, "no {victim} to kill");
        let begin = Instant::now();
        let answer = client.get("/store/x").await?;
        ensure!(answer.status == 200 && answer.text() == "kept", "{victim}: {answer:?}");
        ensure!(begin.elapsed() < Duration::from_secs(8), "{victim}: {:?}", begin.elapsed());
    }
    // A request that the app dies under: a POST is not repeated, its failure is told.
    let answer = client.post("/exit?code=3", "text/plain", "").await?;
    ensure!(answer.status == 502, "{answer:?}");
    ensure!(client.get("/store/x").await?.text() == "kept");
    Ok(())
}

/// What the database is told of an end comes late here, after somebody has asked for the grain again.
#[tokio::test]
async fn a_grain_that_was_started_again_is_not_shown_as_ended() -> Result<()> {
    let probe = probe!();
    let (grain, client) = (&probe.grain, &probe.client);
    let link = probe.server.json(&["grain", "open", grain])?;
    let browser = probe.server.client()?.sign_in(link["url"].as_str().context("a link")?).await?;
    // That it came up is on record.
    ensure!(client.get("/echo").await?.status == 200);
    probe.server.json(&["grain", "stop", grain])?;
    ensure!(client.get("/echo").await?.status == 200);

    let writer = Writer::hold(&probe.server)?;
    ensure!(probe.server.kill_in_grain(grain, "sandstorm-supervisor") > 0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = tokio::spawn({
        let client = client.clone();
        async move { client.get("/echo").await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    drop(writer);
    ensure!(asked.await??.status == 200);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(probe.server.state(grain)?.as_deref() == Some("running"));
    let page = browser.get(&format!("/grain/{grain}")).await?;
    ensure!(page.status == 200 && page.text().contains("<iframe"), "{}", page.text());
    Ok(())
}

/// It does not answer, and no server of now has a connection to it.
#[tokio::test]
async fn a_stuck_supervisor_of_an_earlier_shell_is_ended() -> Result<()> {
    let mut probe = probe!();
    ensure!(probe.client.get("/echo").await?.status == 200);
    probe.server.kill();
    let all = probe.server.processes(&probe.grain);
    let supervisor = all.iter().map(|process| process.pid).min().context("a supervisor")?;
    processes::send(supervisor, Signal::SIGSTOP);
    probe.server.run()?;
    ensure!(probe.server.state(&probe.grain)?.as_deref() == Some("asleep"));
    probe.server.json(&["grain", "stop", &probe.grain, "--now"])?;
    probe.server.wait_gone(&probe.grain, Duration::from_secs(10))?;
    ensure!(probe.client.get("/echo").await?.status == 200);
    Ok(())
}

/// Nobody waits for it where nothing depends on its end, and it is ended all the same.
#[tokio::test]
async fn a_grain_whose_supervisor_is_stuck_goes_to_the_trash_at_once() -> Result<()> {
    let probe = probe!();
    ensure!(probe.client.get("/echo").await?.status == 200);
    let link = probe.server.json(&["grain", "open", &probe.grain])?;
    let browser = probe.server.client()?.sign_in(link["url"].as_str().context("a link")?).await?;
    let all = probe.server.processes(&probe.grain);
    let supervisor = all.iter().map(|process| process.pid).min().context("a supervisor")?;
    processes::send(supervisor, Signal::SIGSTOP);
    let (page, act) = ["details", "act"].map(|at| format!("/grains/{}/{at}", probe.grain)).into();
    let pressed = browser.submit(&page, &act, "act=trash");
    let answer = tokio::time::timeout(Duration::from_secs(8), pressed).await;
    ensure!(answer.context("it waited for the supervisor")??.status == 303);
    ensure!(probe.server.state(&probe.grain)?.as_deref() == Some("trash"));
    ensure!(probe.client.get("/echo").await?.status == 403, "a way in is open");
    probe.server.wait_gone(&probe.grain, Duration::from_secs(20))?;
    Ok(())
}

#[tokio::test]
async fn a_restarted_shell_finds_what_runs() -> Result<()> {
    let mut probe = probe!();
    let supervisor = |probe: &Probe| {
        let all = probe.server.processes(&probe.grain);
        all.into_iter().map(|process| process.pid).min()
    };
    ensure!(probe.client.put("/store/x", "kept").await?.status < 300);
    let before = supervisor(&probe).context("no process of the grain")?;
    for hard in [true, false] {
        let pending = tokio::spawn({
            let client = probe.client.clone();
            async move { client.get("/drip?n=3&ms=500").await }
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        if hard {
            probe.server.kill();
            ensure!(pending.await?.is_err(), "a cut answer looked whole");
        } else {
            let begin = Instant::now();
            ensure!(probe.server.terminate(Duration::from_secs(20))?.success());
            ensure!(pending.await??.body.len() == 3, "SIGTERM cut an answer");
            ensure!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        }
        ensure!(supervisor(&probe) == Some(before), "the grain did not outlive the shell");
        probe.server.run()?;
        ensure!(probe.server.state(&probe.grain)?.as_deref() == Some("running"));
        // The session from before still opens it, and it is the same process.
        ensure!(probe.client.get("/store/x").await?.text() == "kept");
        ensure!(supervisor(&probe) == Some(before), "the grain was started again");
    }
    Ok(())
}

/// A sub-command under way is given up, and so is whatever it holds of the database.
#[tokio::test]
async fn sigterm_ends_a_server_that_sub_commands_use() -> Result<()> {
    let mut probe = probe!();
    for round in 0..12_u64 {
        let commands: Vec<_> = (0..3)
            .map(|_| {
                let mut create = probe.server.installation.command("shell");
                create.args(["grain", "create", "--app", &probe.app.app_id]);
                create.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
                create.spawn()
            })
            .collect::<Result<_, _>>()?;
        tokio::time::sleep(Duration::from_millis(20 + round * 17)).await;
        let begin = Instant::now();
        let ended = probe.server.terminate(Duration::from_secs(60));
        ensure!(begin.elapsed() < Duration::from_secs(20), "round {round}: {:?}", begin.elapsed());
        ensure!(ended?.success());
        for mut command in commands {
            command.wait()?;
        }
        probe.server.run()?;
    }
    Ok(())
}

/// As when the disk with the grains is not mounted: nothing is made in the place of what there was.
#[tokio::test]
async fn a_grain_whose_data_are_gone_is_not_begun_anew() -> Result<()> {
    let probe = probe!();
    probe.client.put("/store/x", "kept").await?;
    probe.server.json(&["grain", "stop", &probe.grain])?;
    probe.server.wait_gone(&probe.grain, Duration::from_secs(5))?;
    let dir = probe.server.installation.grain_dir(&probe.grain);
    let aside = dir.with_extension("aside");
    std::fs::rename(&dir, &aside)?;
    let answer = probe.client.get("/store/x").await?;
    ensure!(answer.status == 502 && answer.text().contains("Its data are gone"), "{answer:?}");
    ensure!(!dir.exists(), "an empty grain was made in its place");
    let told = probe.server.try_command(&["check"])?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    ensure!(told.contains("The data of 1 grains are not below"), "{told}");

    std::fs::rename(&aside, &dir)?;
    probe.server.json(&["grain", "stop", &probe.grain])?;
    ensure!(probe.client.get("/store/x").await?.text() == "kept");
    Ok(())
}

#[tokio::test]
async fn the_end_of_a_grain() -> Result<()> {
    let probe = probe!();
    let (grain, client) = (&probe.grain, &probe.client);
    client.put("/store/x", "kept").await?;
    probe.server.json(&["grain", "stop", grain])?;
    probe.server.wait_gone(grain, Duration::from_secs(1))?;
    client.get("/echo").await?;
    probe.server.json(&["grain", "stop", grain, "--now"])?;
    probe.server.wait_gone(grain, Duration::from_secs(1))?;
    probe.server.json(&["grain", "delete", grain])?;
    ensure!(probe.server.state(grain)?.as_deref() == Some("trash"));
    ensure!(client.get("/store/x").await?.status == 403, "a grain in the trash was opened");
    ensure!(probe.server.session(grain).is_err());
    let dir = probe.server.installation.grain_dir(grain);
    ensure!(dir.exists());
    probe.server.json(&["grain", "delete", grain, "--now"])?;
    ensure!(!dir.exists() && probe.server.state(grain)?.is_none());
    let tmp = probe.server.home().join("tmp");
    eventually("its files are gone", Duration::from_secs(5), || {
        std::fs::read_dir(&tmp).ok()?.next().is_none().then_some(())
    })
}

#[tokio::test]
async fn one_start_for_many_who_wait() -> Result<()> {
    let probe = probe!();
    probe.server.json(&["grain", "stop", &probe.grain])?;
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let client = probe.client.clone();
            tokio::spawn(async move { client.get("/echo").await })
        })
        .collect();
    for answer in asked {
        ensure!(answer.await??.status == 200);
    }
    let log = probe.server.grain_log(&probe.grain);
    let starts = log.matches("** SANDSTORM SUPERVISOR: limits by").count();
    ensure!(starts <= 2, "{starts} starts in\n{log}");
    eventually_async("one supervisor", Duration::from_secs(2), async || {
        let all = probe.server.processes(&probe.grain);
        let supervisors = all.iter().filter(|p| p.name.starts_with("sandstorm-super")).count();
        // The outer half and the box's init.
        (1..=2).contains(&supervisors).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_server_whose_log_cannot_be_written_serves() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let port = sandstorm_tests::server::free_port()?;
    let home = server.installation.directory("other-home")?;
    let mut child = server
        .installation
        .command("shell")
        .args(["serve", "--home"])
        .arg(&home)
        .env("SANDSTORM_HOME", &home)
        .env("PORT", port.to_string())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::options().write(true).open("/dev/full")?)
        .spawn()?;
    let client = Client::new(&format!("http://127.0.0.1:{port}"), port, None)?;
    let answers = eventually_async("it answers", Duration::from_secs(30), || async {
        // Another host is refused, with a line in the log.
        client.get("/").await.ok().map(|answer| answer.status)
    })
    .await;
    let mut later = Vec::new();
    for _ in 0..3 {
        later.push(client.get("/").await.map(|answer| answer.status));
    }
    // A closed terminal ends it in order.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGHUP,
    )?;
    let ended = child.wait()?;
    answers?;
    ensure!(later.iter().all(Result::is_ok), "{later:?}");
    ensure!(ended.success(), "{ended}");
    Ok(())
}

/// Who asked for the end of a grain may be killed, and the server too: it goes on to its end.
#[tokio::test]
async fn a_deletion_that_is_cut_off_is_finished() -> Result<()> {
    let mut probe = probe!();
    let (second, other) = probe.another()?;
    let first = probe.grain.clone();
    for (grain, client) in [(&first, &probe.client), (&second, &other)] {
        ensure!(client.put("/store/x", "kept").await?.status < 300);
        probe.server.json(&["grain", "stop", grain])?;
    }
    let patience = Duration::from_secs(30);
    for (grain, hard) in [(first, false), (second, true)] {
        let dir = probe.server.installation.grain_dir(&grain);
        // As a process of the grain's that is slow to end: the deletion waits for it.
        let lock = File::options().read(true).write(true).open(dir.join("lock"))?;
        let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let mut client = probe.server.command(&["grain", "delete", &grain, "--now"]).spawn()?;
        let begun = eventually("it has begun", patience, || {
            (probe.server.state(&grain).ok()?.as_deref() == Some("trash")).then_some(())
        });
        client.kill()?;
        client.wait()?;
        begun?;
        if hard {
            probe.server.kill();
        }
        ensure!(dir.join("sandbox").exists(), "it did not wait");
        drop(lock);
        if hard {
            probe.server.run()?;
        }
        eventually("it is gone", patience, || {
            (probe.server.state(&grain).ok()?.is_none() && !dir.exists()).then_some(())
        })?;
        // Nor does anything of it lie elsewhere.
        let tmp = probe.server.home().join("tmp");
        eventually("its files are removed", patience, || {
            let mut left = std::fs::read_dir(&tmp).ok()?.flatten();
            left.all(|file| !file.file_name().to_string_lossy().contains(&grain)).then_some(())
        })?;
    }
    Ok(())
}
