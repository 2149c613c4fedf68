//! Homes, files and directories as operators have them when something is wrong with them: what is
//! said must name the remedy, and the right one.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use anyhow::{Result, ensure};
use sandstorm_tests::{Installation, Mode, apps};

use crate::probe;

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

/// `shell ARGS…` as the ordinary user, with a tmpfs of its own as the home, mounted with `options`
/// after `prepare` (a shell script, run inside it).
fn on_a_tmpfs(
    installation: &Installation,
    options: &str,
    prepare: &str,
    args: &[&str],
) -> Result<Output> {
    let script = r#"set -e
        mount -t tmpfs -o "$OPTIONS" none "$SANDSTORM_HOME"
        cd "$SANDSTORM_HOME"
        eval "$PREPARE"
        cd /
        exec setpriv --reuid "$OWNER" --regid "$OWNER" --clear-groups -- "$@""#;
    let owner = installation.uid.to_string();
    let done = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg("timeout")
        .arg("10")
        .arg(installation.program("shell"))
        .args(args)
        .env("SANDSTORM_HOME", installation.home())
        .env("OPTIONS", format!("uid={owner},gid={owner},mode=700,{options}"))
        .env("PREPARE", prepare)
        .env("OWNER", &owner)
        .env("PORT", "0")
        .output()?;
    Ok(done)
}

#[test]
fn a_home_that_cannot_be_used_is_named_with_its_remedy() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let read_only = r#"mount -o remount,ro "$SANDSTORM_HOME""#;
    for (options, prepare, remedies) in [
        ("size=8M", read_only, &["read-only", "SANDSTORM_HOME"][..]),
        ("size=8M", &format!("mkdir grains; {read_only}"), &["read-only", "mount it writable"]),
        ("size=64k", "", &["database or disk is full", "make room"]),
        ("size=8M", r#"echo no database > sandstorm.sqlite; chown $OWNER *"#, &["a copy", "move"]),
        ("size=8M", "mkdir sandstorm.sqlite", &["must be a file"]),
    ] {
        let done = on_a_tmpfs(&installation, options, prepare, &["serve"])?;
        let said = said(&done);
        ensure!(done.status.code() == Some(1), "{options} {prepare}: {done:?}");
        for part in remedies {
            ensure!(said.contains(part), "{options} {prepare}: {part:?} is not in {said}");
        }
        ensure!(!said.contains("Start the version that wrote it"), "{said}");
    }
    for (prepare, part) in [
        (read_only, "mounted read-only"),
        ("mkdir sandstorm.sqlite", "sandstorm.sqlite is not a file"),
        ("echo > apps", "apps is not a directory"),
        ("ln -s /var grains", "grains is a symbolic link"),
        ("chmod 777 .", "can be written by everybody"),
    ] {
        let done = on_a_tmpfs(&installation, "size=8M", prepare, &["check", "--json"])?;
        let check: serde_json::Value = serde_json::from_slice(&done.stdout)?;
        let problems = check["problems"].to_string();
        ensure!(problems.contains(part), "{part:?} is not in {problems}");
        ensure!(!problems.contains("chown"), "{problems}");
    }
    Ok(())
}

#[tokio::test]
async fn odd_words_and_places() -> Result<()> {
    let probe = probe!();
    let server = &probe.server;

    // A file may have any name.
    let odd = server.installation.dir().join(OsStr::from_bytes(b"a b\xff.spk"));
    std::fs::copy(apps::package("probe")?, &odd)?;
    std::fs::set_permissions(&odd, std::fs::Permissions::from_mode(0o644))?;
    let done = server.command(&["app", "install", "--json"]).arg(&odd).output()?;
    ensure!(done.status.success(), "{done:?}");

    // A working directory that is gone matters only to what is looked for in it.
    let parent = server.installation.directory("places")?;
    for (home, works) in [(server.home().display().to_string(), true), ("here".into(), false)] {
        let script = r#"cd "$PARENT" && mkdir gone && cd gone && rmdir ../gone && exec "$@""#;
        let mut command = Command::new("sh");
        command
            .args(["-c", script, "sh"])
            .arg(server.installation.program("shell"))
            .args(["app", "list", "--json", "--home", &home])
            .env("PARENT", &parent);
        server.installation.as_user(&mut command);
        let done = command.output()?;
        ensure!(done.status.success() == works, "{done:?}");
        ensure!(works || said(&done).contains("its whole path"), "{done:?}");
    }

    // An unset variable in a script is nobody, and so not the operator.
    let words = ["grain", "create", "--app", &probe.app.app_id, "--owner", ""];
    let done = server.try_command(&words)?;
    ensure!(done.status.code() == Some(2) && said(&done).contains("--owner"), "{done:?}");

    // What is wrong with an address or an id is said, and not something else.
    for (words, parts) in [
        (&["app", "install", "http://127.0.0.1:99999/x"][..], &["cannot be read", "port"][..]),
        (&["app", "install", &format!("http://a.example/{}", "a".repeat(5000))], &["4096"]),
        (&["app", "install", "http://"], &["cannot be read"]),
        (&["grain", "open", "nosuch"], &["8 to 64", "grain list"]),
        (&["grain", "open", &"a".repeat(5000)], &["8 to 64", "grain list"]),
    ] {
        let done = server.try_command(words)?;
        let said = said(&done);
        ensure!(done.status.code() == Some(1) && said.len() < 400, "{done:?}");
        for part in parts {
            ensure!(said.contains(part), "{part:?} is not in {said}");
        }
    }

    // A log that could not be written out is no success.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let done = server.command(&["grain", "log", &probe.grain]).stdout(full).output()?;
    ensure!(done.status.code() == Some(1) && said(&done).contains("stdout"), "{done:?}");

    // A command that is named is one that was typed.
    let done = server.try_command(&["limit", "set", "--app", "nope", "memory=1G"])?;
    ensure!(said(&done).contains("`sandstorm app list`"), "{done:?}");
    Ok(())
}

/// `serve --json`: the ready line is one JSON value.
#[test]
fn serving_is_announced_in_json_too() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let done = on_a_tmpfs(&installation, "size=8M", "", &["serve", "--json"])?;
    let url: serde_json::Value = serde_json::from_slice(&done.stdout)?;
    ensure!(url["url"].as_str().is_some_and(|url| url.contains("/link/")), "{done:?}");
    // The hourly sweep that had just begun is no error at the end.
    ensure!(!said(&done).contains("ERROR sweeping"), "{done:?}");
    Ok(())
}
