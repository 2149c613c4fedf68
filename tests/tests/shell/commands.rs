//! What the programs print, and what they do where nobody reads it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use sandstorm_tests::server::free_port;
use sandstorm_tests::{Installation, Mode, Server, eventually, processes};

use crate::probe;
use crate::support::{package, person};

const SOON: Duration = Duration::from_secs(20);

fn full() -> Result<File> {
    Ok(File::options().write(true).open("/dev/full")?)
}

/// A server of this installation, with its stdout elsewhere; killed when dropped.
struct Serving(Child);

impl Serving {
    fn start(installation: &Installation, stdout: Stdio) -> Result<Serving> {
        let mut command = installation.command("shell");
        command.arg("serve").env("PORT", free_port()?.to_string()).stdin(Stdio::null());
        command.stdout(stdout).stderr(Stdio::null());
        Ok(Serving(command.spawn()?))
    }

    fn end(&mut self) -> Result<Option<i32>> {
        processes::send(self.0.id() as i32, Signal::SIGTERM);
        Ok(eventually("it ends", SOON, || self.0.try_wait().ok().flatten())?.code())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whoever started it reads it, and nothing keeps it.
#[test]
fn a_pipe_gets_the_link() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let (reader, writer) = std::io::pipe()?;
    let mut serving = Serving::start(&installation, writer.into())?;
    let mut line = String::new();
    BufReader::new(reader).read_line(&mut line)?;
    ensure!(line.starts_with("Open http") && line.contains("/link/"), "{line:?}");
    ensure!(serving.end()? == Some(0));
    Ok(())
}

/// A file keeps what it is given, and so does a journal, whose stream is a socket: there the first
/// line names the command that prints a link.
#[test]
fn what_keeps_its_lines_gets_no_link() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let path = installation.dir().join("out");
    let appended = File::options().create(true).append(true).open(&path)?;
    let (mut journal, stream) = std::os::unix::net::UnixStream::pair()?;
    let mut said = String::new();
    let mut serving = Serving::start(&installation, appended.into())?;
    let whole = |text: &str| text.ends_with('\n').then_some(());
    eventually("it says where it is", SOON, || {
        said = std::fs::read_to_string(&path).ok()?;
        whole(&said)
    })?;
    ensure!(said.contains(" admin-link --home ") && !said.contains("/link/"), "{said:?}");
    ensure!(serving.end()? == Some(0));
    let stream = std::os::fd::OwnedFd::from(stream);
    let mut serving = Serving::start(&installation, stream.into())?;
    said.clear();
    BufReader::new(&mut journal).read_line(&mut said)?;
    ensure!(said.contains(" admin-link --home ") && !said.contains("/link/"), "{said:?}");
    ensure!(serving.end()? == Some(0));
    Ok(())
}

/// The first line is for a person who may be there. The server serves.
#[test]
fn a_server_serves_wherever_its_output_goes() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    let (reader, closed) = std::io::pipe()?;
    drop(reader);
    for stdout in [closed.into(), full()?.into()] {
        let mut serving = Serving::start(&installation, stdout)?;
        eventually("it answers", SOON, || {
            let mut list = installation.command("shell");
            list.args(["app", "list"]).output().ok()?.status.success().then_some(())
        })?;
        std::thread::sleep(Duration::from_millis(500));
        ensure!(serving.0.try_wait()?.is_none(), "it ended");
        ensure!(serving.end()? == Some(0));
    }
    Ok(())
}

/// Help that is not written is an error; a variable that is no text is named.
#[test]
fn before_any_sub_command() -> Result<()> {
    let Some(installation) = Installation::new(Mode::Setuid)? else { return Ok(()) };
    for words in [&["--help"][..], &["--version"], &["grain", "--help"]] {
        let done = installation.command("shell").args(words).stdout(full()?).output()?;
        ensure!(done.status.code() == Some(1), "{words:?}: {done:?}");
        let (reader, closed) = std::io::pipe()?;
        drop(reader);
        let done = installation.command("shell").args(words).stdout(closed).output()?;
        ensure!(done.status.code() == Some(0) && done.stderr.is_empty(), "{words:?}: {done:?}");
    }
    let bytes = std::ffi::OsString::from_vec(vec![0xff]);
    let done = installation.command("shell").arg("serve").env("PORT", &bytes).output()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    ensure!(done.status.code() == Some(1) && said.contains("PORT in the environment"), "{said}");
    Ok(())
}

/// Whoever follows a quiet log and leaves is noticed.
#[tokio::test]
async fn a_reader_that_leaves_ends_the_following() -> Result<()> {
    let probe = probe!();
    let (mut reader, writer) = std::io::pipe()?;
    let mut command = probe.server.command(&["grain", "log", "--follow", &probe.grain]);
    let mut child = command.stdout(writer).spawn()?;
    drop(command);
    ensure!(reader.read(&mut [0; 4096])? > 0);
    std::thread::sleep(Duration::from_millis(500));
    ensure!(child.try_wait()?.is_none(), "it does not follow");
    drop(reader);
    let ended = eventually("it ends", Duration::from_secs(5), || child.try_wait().ok().flatten());
    let _ = child.kill();
    ensure!(ended?.success());
    Ok(())
}

/// Owners who never signed in: the operator always, others where anybody can be anybody.
#[tokio::test]
async fn owners_who_have_not_been_here() -> Result<()> {
    let started = Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?;
    let Some(server) = started else { return Ok(()) };
    let app = server.install(&sandstorm_tests::apps::package("probe")?)?;
    for owner in ["operator", "ada"] {
        let grain = server.create_with(&app.app_id, &["--owner", owner])?;
        let list = server.json(&["grain", "list"])?;
        let row = list.as_array().and_then(|rows| rows.iter().find(|row| row["grainId"] == grain));
        ensure!(row.context("it is not listed")?["owner"] == owner, "{list}");
    }
    // It is the account that the sign-in page makes.
    let ada = person(&server, "Ada", "member").await?;
    ensure!(ada.get("/").await?.text().contains("/grain/"), "Ada has no grain");
    let grain = server.create_with(&app.app_id, &["--owner", "ada"])?;
    ensure!(ada.get(&format!("/grain/{grain}")).await?.status == 200);
    Ok(())
}

/// A server with the other default home is named, with the command that reaches it.
#[test]
fn the_other_default_home_is_named() -> Result<()> {
    let system = std::path::Path::new("/var/sandstorm/shell.socket");
    if std::os::unix::net::UnixStream::connect(system).is_ok() {
        let test = sandstorm_tests::skip::current_test();
        sandstorm_tests::skip::announce(&test, "a server runs with the home /var/sandstorm");
        return Ok(());
    }
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    // A checkout whose `bin/shell` is called from elsewhere.
    let top = server.installation.directory("checkout")?;
    for dir in ["checkout/crates/sandstorm-supervisor", "checkout/bin"] {
        server.installation.directory(dir)?;
    }
    let program = top.join("bin/shell");
    std::fs::copy(server.installation.program("shell"), &program)?;
    let home = top.join(".sandstorm");
    std::os::unix::fs::symlink(server.home(), &home)?;
    let ask = |more: &[&str]| -> Result<String> {
        let mut command = Command::new(&program);
        command.env_clear().current_dir("/").args(["grain", "list"]).args(more);
        server.installation.as_user(&mut command);
        let done = command.output()?;
        ensure!(done.status.code() == Some(1), "{done:?}");
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let said = ask(&[])?;
    let line = format!("SANDSTORM_HOME={} {} grain list", home.display(), program.display());
    ensure!(said.contains(&line), "{line} is not in {said}");
    // Who names a home means that one.
    ensure!(!ask(&["--home", "/nonexistent"])?.contains("SANDSTORM_HOME="));
    Ok(())
}

/// The caller of the control socket could fetch a private address, too; where a server redirects to
/// is not the caller's choice.
#[tokio::test]
async fn the_operator_installs_from_a_private_address() -> Result<()> {
    let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let file = std::fs::read(package(&server, 1, "")?)?;
    let ok = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", file.len());
    let port = answering([ok.as_bytes(), &file].concat())?;
    let away = format!(
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n"
    );
    let redirecting = answering(away.into_bytes())?;
    let away = format!("http://localhost:{redirecting}/x.spk");
    let refused = server.try_command(&["app", "install", &away])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("not of the public internet"), "{said}");
    server.json(&["app", "install", &format!("http://127.0.0.1:{port}/x.spk")])?;
    let help = server.try_command(&["app", "install", "--help"])?;
    ensure!(String::from_utf8_lossy(&help.stdout).contains("private"), "{help:?}");
    Ok(())
}

/// A web server that gives everybody the same answer; its port.
fn answering(answer: Vec<u8>) -> Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = std::io::Write::write_all(&mut stream, &answer);
        }
    });
    Ok(port)
}

/// A link without a package's id says what is missing.
#[tokio::test]
async fn a_link_with_an_address_alone_says_what_is_missing() -> Result<()> {
    let started = Server::builder(Mode::Setuid).env("ALLOW_DEV_ACCOUNTS", "true").start()?;
    let Some(server) = started else { return Ok(()) };
    let ada = person(&server, "Ada", "member").await?;
    let page = ada.get("/install?url=https%3A%2F%2Fa.example%2Fx.spk").await?;
    ensure!(page.status == 200, "{page:?}");
    let text = page.text();
    ensure!(text.contains("https://a.example/x.spk") && text.contains("but no package"), "{text}");
    ensure!(!ada.get("/install").await?.text().contains("but no package"));
    Ok(())
}
