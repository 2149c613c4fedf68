//! `shell check` judges what the server's user can do, and each problem has its own advice.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::server::free_port;
use sandstorm_tests::{Installation, Mode};
use serde_json::Value;

fn json(command: &mut Command) -> Result<(Value, Option<i32>)> {
    let done = command.args(["check", "--json"]).env("PORT", free_port()?.to_string()).output()?;
    let value = serde_json::from_slice(&done.stdout)
        .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())?;
    Ok((value, done.status.code()))
}

/// What root finds possible says nothing about a server that another user runs.
#[test]
fn root_judges_as_the_homes_owner() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let root = || {
        let mut command = Command::new(installation.program("shell"));
        command.env_clear().env("SANDSTORM_HOME", installation.home());
        command.env("PATH", "/usr/bin:/bin");
        command
    };
    let theirs = json(&mut installation.command("shell"))?;
    ensure!(theirs.0["machine"][0] == "mode: setuid", "{}", theirs.0);
    ensure!(json(&mut root())? == theirs, "root sees something else");

    // A supervisor for another group: no grain can start.
    let supervisor = installation.program("sandstorm-supervisor");
    chown(&supervisor, Some(0), Some(0))?;
    std::fs::set_permissions(&supervisor, std::fs::Permissions::from_mode(0o4750))?;
    let (told, code) = json(&mut root())?;
    let says = format!("cannot be run by uid {}", installation.uid);
    ensure!(code == Some(1) && told["ok"] == false, "{told}");
    ensure!(told["problems"].to_string().contains(&says), "{told}");
    Ok(())
}

/// A home that the first start makes is no problem; one that it cannot make is, with the reason.
#[test]
fn a_home_that_is_not_there_yet() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let at = |home: &Path| -> Result<(Value, Option<i32>)> {
        json(installation.command("shell").env("SANDSTORM_HOME", home))
    };
    let there = at(&installation.home())?;
    ensure!(there.0["notes"] == serde_json::json!([]), "{}", there.0);

    let open = installation.directory("open")?;
    let home = open.join("deep/home");
    let (told, code) = at(&home)?;
    ensure!(told["problems"] == there.0["problems"] && code == there.1, "{told}");
    ensure!(told["notes"][0].as_str().is_some_and(|n| n.contains("serve` makes it")), "{told}");
    let words = installation.command("shell").arg("check").env("SANDSTORM_HOME", &home).output()?;
    let words = String::from_utf8_lossy(&words.stdout).into_owned();
    ensure!(words.contains("does not exist yet; the first `"), "{words}");
    ensure!(!words.contains("No server runs"), "said twice: {words}");

    let file = installation.write("file", b"")?;
    let link = open.join("link");
    std::os::unix::fs::symlink("/nonexistent/place", &link)?;
    let dir = installation.dir().display().to_string();
    let uid = installation.uid;
    for (home, says) in [
        (installation.dir().join("closed/home"), format!("{dir} cannot be written by uid {uid}")),
        (file.join("home"), "file is not a directory".to_owned()),
        (link, "a symbolic link that leads nowhere".to_owned()),
    ] {
        let (told, code) = at(&home)?;
        ensure!(code == Some(1) && told["ok"] == false, "{told}");
        ensure!(told["problems"].to_string().contains(&says), "{says:?} is not in {told}");
        ensure!(told["notes"] == serde_json::json!([]), "{told}");
    }
    Ok(())
}

/// What keeps the server from starting is no secret of its log.
#[test]
fn a_database_that_no_start_can_use() -> Result<()> {
    let Some(mut server) = sandstorm_tests::Server::start(Mode::Setuid)? else { return Ok(()) };
    server.terminate(std::time::Duration::from_secs(20))?;
    let path = server.installation.home().join("sandstorm.sqlite");
    let whole = std::fs::read(&path)?;
    let judge = || json(&mut server.installation.command("shell"));
    let (clean, _) = judge()?;
    ensure!(!clean["problems"].to_string().contains("sandstorm.sqlite"), "{clean}");

    let put = |bytes: &[u8]| std::fs::write(&path, bytes);
    let mut no_header = whole.clone();
    no_header[..16].fill(b'x');
    let mut torn = whole.clone();
    torn[4096..].iter_mut().for_each(|byte| *byte = 0x5a);
    for (what, bytes, word) in
        [("no database", no_header, "not a database"), ("torn pages", torn, "malformed")]
    {
        put(&bytes)?;
        let (told, code) = judge()?;
        let says = told["problems"].to_string();
        ensure!(code == Some(1) && says.contains("sandstorm.sqlite"), "{what}: {told}");
        ensure!(says.contains(word), "{what}: {told}");
    }
    put(&whole)?;
    chown(&path, Some(0), Some(0))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    let (told, code) = judge()?;
    ensure!(code == Some(1) && told["problems"].to_string().contains("cannot be read"), "{told}");
    chown(&path, Some(server.installation.uid), None)?;

    // An empty one beside grains: somebody has put the wrong file there.
    put(&[])?;
    let lost = server.installation.grain_dir("23456789ABCDEFGHJKLMNP");
    std::fs::create_dir(&lost)?;
    let (told, code) = judge()?;
    let says = told["problems"].to_string();
    ensure!(code == Some(1) && says.contains("the database does not know"), "{told}");
    Ok(())
}
