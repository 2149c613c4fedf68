//! Sub-commands over the control socket, settings, and the start of the server.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Output;

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Installation, Mode, Server, apps, eventually};

use crate::probe;
use crate::support::package;

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[tokio::test]
async fn sub_commands_speak_json_and_say_what_went_wrong() -> Result<()> {
    let probe = probe!();
    let server = &probe.server;
    let apps = server.json(&["app", "list"])?;
    let app = &apps[0];
    ensure!(app["appId"] == probe.app.app_id.as_str() && app["title"] == "Probe", "{apps}");
    ensure!(app["packageId"] == probe.app.package_id.as_str(), "{apps}");
    ensure!(app["actions"].as_array().is_some_and(|a| a.len() == 1), "{apps}");
    let grains = server.json(&["grain", "list"])?;
    let grain = &grains[0];
    ensure!(grain["grainId"] == probe.grain.as_str() && grain["state"] == "running", "{grains}");
    ensure!(grain["owner"] == "operator" && grain["appId"] == probe.app.app_id.as_str());
    let session = server.json(&["grain", "session", &probe.grain, "--permissions", "view"])?;
    let hour = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs() + 3600;
    ensure!(session["expires"].as_u64().is_some_and(|at| at > hour), "{session}");
    let viewer = server.session_with(&probe.grain, &["--permissions", "view"])?;
    let echo: serde_json::Value = serde_json::from_slice(&viewer.get("/echo").await?.body)?;
    ensure!(crate::support::seen(&echo, "x-sandstorm-permissions") == Some("view"), "{echo}");
    let nothing = server.session_with(&probe.grain, &["--permissions", ""])?;
    let echo: serde_json::Value = serde_json::from_slice(&nothing.get("/echo").await?.body)?;
    ensure!(crate::support::seen(&echo, "x-sandstorm-permissions") == Some(""), "{echo}");

    for (words, code, part) in [
        (&["grain", "create", "--app", "nope"][..], 1, "app list"),
        (&["grain", "create", "--app", &probe.app.app_id, "--action", "7"], 1, "action"),
        (&["grain", "create", "--app", &probe.app.app_id, "--owner", "nobody"], 1, "nobody"),
        (&["grain", "session", &probe.grain, "--permissions", "fly"], 1, "view, edit"),
        (&["grain", "session", "AAAAAAAAAAAAAAAAAAAAAA"], 1, "no grain"),
        (&["grain", "session", "../x"], 1, "grain id"),
        (&["grain", "stop", "AAAAAAAAAAAAAAAAAAAAAA"], 1, "no grain"),
        (&["app", "install", "/nonexistent.spk"], 1, "nonexistent"),
        (&["app", "install", "http://127.0.0.1:1/x.spk"], 1, "cannot be reached"),
        (&["app", "install", "ftp://a.example/x.spk"], 1, "only http and https"),
        (&["grain", "create", "--app", ""], 2, "--app"),
        (&["app", "install", ""], 2, "FILE.spk"),
        (&["limit", "clear", "--app", &probe.app.app_id, "nope"], 1, "memory, pids"),
        (&["limit", "clear", "--account", "nobody"], 1, "once they have signed in"),
        (&["grain", "session"], 2, "Usage"),
        (&["fly"], 2, "Usage"),
    ] {
        let done = server.try_command(words)?;
        ensure!(done.status.code() == Some(code), "{words:?}: {done:?}");
        ensure!(said(&done).contains(part), "{part:?} is not in {}", said(&done));
        ensure!(done.stdout.is_empty(), "{words:?}: {done:?}");
    }

    // A reader that leaves is no error; a disk that is full is one, and neither is a panic.
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let done = server.command(&["grain", "list", "--json"]).stdout(writer).output()?;
    ensure!(done.status.code() == Some(0) && done.stderr.is_empty(), "{done:?}");
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full")?;
    let done = server.command(&["app", "list"]).stdout(full).output()?;
    ensure!(done.status.code() == Some(1) && said(&done).contains("stdout"), "{done:?}");

    let log = server.try_command(&["grain", "log", &probe.grain])?;
    ensure!(String::from_utf8_lossy(&log.stdout).contains("SANDSTORM SUPERVISOR"), "{log:?}");
    let check = server.try_command(&["check", "--json"])?;
    let check: serde_json::Value = serde_json::from_slice(&check.stdout)?;
    ensure!(check["ok"] == check["problems"].as_array().is_some_and(Vec::is_empty), "{check}");
    // How grains run here, in the supervisor's own words.
    ensure!(check["machine"][0].as_str().is_some_and(|line| line.starts_with("mode: ")), "{check}");
    Ok(())
}

#[tokio::test]
async fn the_control_socket_is_the_owners() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let socket = server.home().join("shell.socket");
    let metadata = std::fs::metadata(&socket)?;
    ensure!(metadata.permissions().mode() & 0o777 == 0o600, "{metadata:?}");
    ensure!(metadata.uid() == server.installation.uid);
    // Even with the modes opened, the kernel's word on who connects counts.
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
    let home = server.home();
    let mode = std::fs::metadata(&home)?.permissions();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755))?;
    let mut stranger = std::process::Command::new(server.installation.program("shell"));
    use std::os::unix::process::CommandExt;
    stranger.args(["grain", "list"]).env_clear().env("SANDSTORM_HOME", &home);
    let done = stranger.uid(65_500).gid(65_500).output()?;
    ensure!(!done.status.success(), "a stranger was answered: {done:?}");
    std::fs::set_permissions(&home, mode)?;
    // Root may.
    let mut root = std::process::Command::new(server.installation.program("shell"));
    let done = root.args(["grain", "list", "--json"]).env("SANDSTORM_HOME", &home).output()?;
    ensure!(done.stdout == b"[]\n", "{done:?}");
    Ok(())
}

#[tokio::test]
async fn a_start_that_cannot_work_says_so() -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    // It answers a moment before it says so.
    eventually("a link is printed", std::time::Duration::from_secs(20), || server.printed_link())?;
    let second = server.try_command(&["serve"])?;
    ensure!(said(&second).contains("another server runs"), "{second:?}");
    let port = server.port().to_string();
    server.terminate(std::time::Duration::from_secs(10))?;
    ensure!(!server.home().join("shell.socket").exists(), "the socket stayed");
    let gone = server.try_command(&["grain", "list"])?;
    ensure!(gone.status.code() == Some(1) && said(&gone).contains(" serve`"), "{gone:?}");

    let taken = std::net::TcpListener::bind(("127.0.0.1", server.port()))
        .context("the port was not given back")?;
    for (settings, part) in [
        (&[][..], "PORT"),
        (&[("ROOT_URL", "http://localhost:3000")], "sandstorm.localhost"),
        (&[("ROOT_URL", "http://192.168.0.1:3000")], "GRAIN_MODE=port"),
        (&[("ROOT_URL", "box")], "ROOT_URL"),
        (&[("WILDCARD_HOST", "x.example.org")], "WILDCARD_HOST"),
        (&[("WILDCARD_HOST", "*.example.org")], "cookies"),
        (&[("GRAIN_MODE", "x")], "GRAIN_MODE"),
        (&[("GRAIN_IDLE_SECONDS", "1")], "GRAIN_IDLE_SECONDS"),
        (&[("GRAIN_PORTS", "junk"), ("WILDCARD_HOST", "*.sandstorm.localhost")], "GRAIN_PORTS"),
    ] {
        let mut command = server.command(&["serve"]);
        if !settings.is_empty() {
            command.env("PORT", "0");
        } else {
            command.env("PORT", &port);
        }
        let done = command.envs(settings.iter().copied()).output()?;
        ensure!(done.status.code() == Some(1), "{settings:?}: {done:?}");
        ensure!(said(&done).contains(part), "{part:?} is not in {}", said(&done));
    }
    drop(taken);
    Ok(())
}

/// `shell check` finds out by trying: where no user namespace can be made, it says so.
#[test]
fn check_tries_what_a_start_needs() -> Result<()> {
    let Some(installation) = Installation::new(Mode::UserNamespace)? else { return Ok(()) };
    let check = |before: &str| -> Result<serde_json::Value> {
        let shell = installation.program("shell");
        let script = format!("{before} exec {} check --json", shell.display());
        let mut command = std::process::Command::new("unshare");
        command
            .args(["--user", "--map-current-user", "--keep-caps", "sh", "-c", &script])
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("SANDSTORM_HOME", installation.home());
        installation.as_user(&mut command);
        let done = command.output()?;
        serde_json::from_slice(&done.stdout)
            .with_context(|| String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let with = check("")?;
    ensure!(!with.to_string().contains("_namespaces"), "{with}");
    for kind in ["user", "pid", "net"] {
        let setting = format!("user.max_{kind}_namespaces=15000");
        let without = check(&format!("echo 0 > /proc/sys/user/max_{kind}_namespaces;"))?;
        ensure!(without["ok"] == false && without.to_string().contains(&setting), "{without}");
    }
    Ok(())
}

/// What changes nothing leaves no trace in the audit log, and what may surprise is said.
#[tokio::test]
async fn twice_is_once_and_an_older_version_is_told() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let (old, new) = (package(&server, 3, "")?, package(&server, 4, "four")?);
    let text = |words: &[&str]| -> Result<String> {
        let done = server.try_command(words)?;
        ensure!(done.status.success(), "{words:?}: {}", said(&done));
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    let shell = server.client()?;
    let link = server.json(&["admin-link"])?["url"].as_str().context("a link")?.to_owned();
    let path = link.strip_prefix(&shell.origin).context("a link of this server")?;

    // Looking at a link does not use it up, and a used one looks used.
    let looks = async |headers: &[(&str, &str)], method: &str| -> Result<u16> {
        Ok(shell.request(method, path, headers, "").await?.status)
    };
    ensure!(looks(&[], "HEAD").await? == 303);
    ensure!(looks(&[("sec-purpose", "prefetch")], "GET").await? == 503);
    let admin = shell.sign_in(&link).await?;
    ensure!(looks(&[], "HEAD").await? == 410);
    ensure!(looks(&[], "GET").await? == 410);
    let audited = async |act: &str| -> Result<usize> {
        Ok(admin.get("/admin/log").await?.text().matches(act).count())
    };

    ensure!(text(&["app", "install", &old])?.contains("Versioned 3\n"));
    let installs = audited("Installed an app for all").await?;
    ensure!(installs > 0, "the log does not name installations");
    let again = text(&["app", "install", &old])?;
    ensure!(again.contains("Versioned 3\n") && !again.contains("newer"), "{again}");
    ensure!(
        audited("Installed an app for all").await? == installs,
        "nothing changed, and that was noted"
    );
    ensure!(server.json(&["app", "list"])?[0]["version"] == "3");
    ensure!(server.json(&["app", "install", &new])?.get("newer").is_none());
    ensure!(server.json(&["app", "install", &old])?["newer"] == "four");
    let told = text(&["app", "install", &old])?;
    ensure!(told.contains("Version four (number 4) is newer"), "{told}");
    ensure!(told.contains("made with 3 from now on"), "{told}");
    // The list names what new grains are made from.
    let listed = server.json(&["app", "list"])?;
    ensure!(listed.as_array().is_some_and(|apps| apps.len() == 1), "{listed}");
    ensure!(listed[0]["version"] == "3", "{listed}");
    ensure!(server.json(&["app", "install", &new])?.get("newer").is_none());
    ensure!(server.json(&["app", "list"])?[0]["version"] == "four");
    // Two versions in the same words.
    let same = package(&server, 5, "four")?;
    ensure!(text(&["app", "install", &same])?.contains("Versioned four\n"));
    let told = text(&["app", "install", &new])?;
    ensure!(told.contains("Version four (number 5) is newer"), "{told}");
    ensure!(told.contains("made with four (number 4) from now on"), "{told}");

    // Addresses that cannot be taken apart get a page, too.
    for (method, path, status, says) in [
        ("GET", "/?page=99999999999999999999", 400, "part of it cannot be read"),
        ("GET", "/sign-in?to=a&to=b", 400, "part of it cannot be read"),
        ("GET", "/grain/%ff", 400, "part of it cannot be read"),
        ("DELETE", "/", 405, "Not done this way"),
    ] {
        let answer = admin.request(method, path, &[], "").await?;
        let text = answer.text().to_lowercase();
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
        ensure!(text.contains(&says.to_lowercase()) && text.contains("<h1"), "{path}: {text}");
        ensure!(status != 405 || answer.header("allow").contains("GET"), "{answer:?}");
    }

    ensure!(text(&["grain", "list"])?.contains("There are no grains"));
    let probe = server.install(&sandstorm_tests::apps::package("probe")?)?;
    let grain = server.create(&probe.app_id)?;
    ensure!(text(&["grain", "log", &grain, "--now"])?.contains("SANDSTORM SUPERVISOR"));
    ensure!(text(&["grain", "delete", &grain])?.contains("Moved to the trash"));
    let trashed = audited("Moved a grain to the trash").await?;
    ensure!(trashed > 0, "the log does not name the trash");
    ensure!(text(&["grain", "delete", &grain])?.contains("already"));
    ensure!(
        audited("Moved a grain to the trash").await? == trashed,
        "nothing changed, and that was noted"
    );
    Ok(())
}

/// What each role sees of apps: an installation that failed is its own person's and the
/// administrators', and nobody is shown a button that refuses them.
#[tokio::test]
async fn roles_see_their_own_part_of_the_apps() -> Result<()> {
    let Some(server) = Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?
    else {
        return Ok(());
    };
    let app = server.install(&sandstorm_tests::apps::package("probe")?)?;
    let broken = server.installation.write("broken.spk", b"no package at all")?;
    let refused = server.try_command(&["app", "install", &broken.display().to_string()])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let shell = server.client()?;
    for (role, failed, makes) in
        [("admin", true, true), ("member", false, true), ("visitor", false, false)]
    {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", shell.origin.as_str()),
            ("sec-fetch-site", "same-origin"),
        ];
        let form = format!("name=A+{role}&role={role}");
        let entered = shell.request("POST", "/sign-in/dev", &headers, form).await?;
        ensure!(entered.status == 303, "{role}: {entered:?}");
        let cookie = entered.header("set-cookie").split(';').next().unwrap_or_default().to_owned();
        let browser = shell.with_cookie(Some(cookie));
        let list = browser.get("/apps").await?.text();
        ensure!(list.contains("Probe") && list.contains("installation failed") == failed, "{role}");
        let page = browser.get(&format!("/apps/{}", app.app_id)).await?;
        ensure!(page.status == 200, "{role}: {}", page.text());
        ensure!(page.text().contains("name=\"make\"") == makes, "{role}");
    }
    Ok(())
}

/// Grains of an app whose files are gone cannot start.
#[test]
fn check_misses_the_files_of_apps() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    server.install(&apps::package("probe")?)?;
    let told = || -> Result<bool> {
        let check = server.try_command(&["check", "--json"])?;
        Ok(String::from_utf8_lossy(&check.stdout).contains("installed packages are not below"))
    };
    ensure!(!told()?, "nothing is missing");
    let apps = server.home().join("apps");
    std::fs::rename(&apps, apps.with_file_name("elsewhere"))?;
    ensure!(told()?, "everything is missing");
    Ok(())
}

/// Somebody removes the control socket of a running server.
#[tokio::test]
async fn a_removed_control_socket_comes_back() -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let socket = server.home().join("shell.socket");
    std::fs::remove_file(&socket)?;
    // The command waits for it.
    ensure!(server.json(&["app", "list"])?.is_array());
    ensure!(std::fs::metadata(&socket)?.permissions().mode() & 0o777 == 0o600);
    // Told in its log, which is read by another thread.
    eventually("the log tells", std::time::Duration::from_secs(5), || {
        server.output().contains("made anew").then_some(())
    })?;

    // What is not this server's is left, and named.
    std::fs::remove_file(&socket)?;
    let other = std::os::unix::net::UnixListener::bind(&socket)?;
    drop(other);
    std::os::unix::fs::chown(&socket, Some(server.installation.uid), None)?;
    let done = server.try_command(&["app", "list"])?;
    ensure!(done.status.code() == Some(1), "{done:?}");
    ensure!(said(&done).contains("is not its control socket"), "{}", said(&done));
    // Told in its log, which is read by another thread.
    eventually("the log tells", std::time::Duration::from_secs(5), || {
        server.output().contains("was replaced").then_some(())
    })?;
    std::fs::remove_file(&socket)?;
    ensure!(server.json(&["app", "list"])?.is_array());

    // `check` says whether a server runs; that none does is no problem by itself.
    let check = |server: &Server| -> Result<(String, serde_json::Value)> {
        let words = server.try_command(&["check"])?;
        let json = server.try_command(&["check", "--json"])?;
        Ok((
            String::from_utf8_lossy(&words.stdout).into_owned(),
            serde_json::from_slice(&json.stdout)?,
        ))
    };
    let (words, json) = check(&server)?;
    ensure!(!words.contains("No server runs") && json["running"] == true, "{words} {json}");
    let problems = json["problems"].clone();
    server.terminate(std::time::Duration::from_secs(10))?;
    let (words, json) = check(&server)?;
    ensure!(words.contains("No server runs") && words.contains(" serve`"), "{words}");
    ensure!(json["running"] == false && json["problems"] == problems, "{json}");
    Ok(())
}

/// An app's output on a terminal cannot command it; in a pipe it is what it is.
#[tokio::test]
async fn a_terminal_is_not_commanded_by_a_log() -> Result<()> {
    let probe = probe!();
    let log = probe.server.installation.grain_dir(&probe.grain).join("log");
    let mut file = std::fs::OpenOptions::new().append(true).open(&log)?;
    std::io::Write::write_all(&mut file, b"\x1b]0;owned\x07 gr\xc3\xbcn \xc2\x9b31m\r\n")?;
    let piped = probe.server.try_command(&["grain", "log", &probe.grain])?.stdout;
    ensure!(piped.ends_with(b"\x1b]0;owned\x07 gr\xc3\xbcn \xc2\x9b31m\r\n"), "{piped:?}");

    let pty = nix::pty::openpty(None, None)?;
    let mut command = probe.server.command(&["grain", "log", &probe.grain]);
    let mut child = command.stdout(pty.slave).spawn()?;
    drop(command);
    let mut shown = Vec::new();
    // EIO once the other end has closed.
    let _ = std::io::Read::read_to_end(&mut std::fs::File::from(pty.master), &mut shown);
    ensure!(child.wait()?.success());
    let text = String::from_utf8(shown)?;
    ensure!(text.contains("\\u{1b}]0;owned\\u{7} grün \\u{9b}31m"), "{text:?}");
    ensure!(!text.contains(|c: char| c.is_control() && !"\r\n\t".contains(c)), "{text:?}");
    Ok(())
}
