//! `make run`: from a built checkout to a server with the demo apps and a link to open.
//!
//! As root nothing of the server runs as root: it gets a system user, the programs are copied to
//! where only root writes, the supervisor's copy with its setuid bit, and the shell runs from there.
//! Without root it runs from the checkout as whoever called, and grains are boxed by user
//! namespaces.

use std::env;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::root_home::{self, Owner};
use crate::{app, paths};

/// What a newcomer finds installed.
const DEMO_APPS: [&str; 2] = ["tiddlywiki", "dufs"];

/// How long the shell may take to answer; it may have a database to bring up to date.
const START: Duration = Duration::from_secs(60);

/// Where the programs are, where the data goes, and who runs it.
struct Place {
    bin: PathBuf,
    home: PathBuf,
    owner: Option<Owner>,
}

/// Runs until the shell ends; its exit status becomes ours.
pub fn run() -> Result<()> {
    let place = choose_place()?;
    let packages = demo_packages();
    let status = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(&place, &packages))?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    std::process::exit(code);
}

fn choose_place() -> Result<Place> {
    let asked = env::var_os("SANDSTORM_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let checkout = paths::top().join(".sandstorm");
    if !nix::unistd::geteuid().is_root() {
        let home = asked.unwrap_or(checkout);
        println!("Data: {}. Not root, so grains are boxed by user namespaces.", home.display());
        return Ok(Place { bin: paths::bin(), home, owner: None });
    }
    let owner = root_home::system_user()?;
    let (home, why) = match asked {
        Some(home) => (home, String::new()),
        None if root_home::can_reach(&owner, &paths::top())? => (checkout, String::new()),
        None => (
            PathBuf::from("/var/sandstorm"),
            format!(" ({} cannot reach {})", owner.name, paths::top().display()),
        ),
    };
    println!(
        "Data: {}{why}. Running as the system user {}; grains get a uid of their own.",
        home.display(),
        owner.name
    );
    let bin = root_home::prepare(&home, &owner, &paths::bin())?;
    Ok(Place { bin, home, owner: Some(owner) })
}

/// Built (or cached) packages of the demo apps. A missing network costs the app, not the server.
fn demo_packages() -> Vec<PathBuf> {
    let mut packages = Vec::new();
    for name in DEMO_APPS {
        match app::build(name) {
            Ok(path) => packages.push(path),
            Err(error) => eprintln!("The demo app {name} is left out: {error:#}"),
        }
    }
    packages
}

impl Place {
    /// The shell, as its user. The caller's environment goes along: PORT, ROOT_URL and the like.
    fn shell(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join("shell"));
        command.args(args).env("SANDSTORM_HOME", &self.home).stdin(Stdio::null());
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid).current_dir("/").env("HOME", &self.home);
        }
        command
    }

    /// `shell ARGS… --json`.
    async fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let done = self.shell(args).arg("--json").output().await?;
        if !done.status.success() {
            bail!("{}", String::from_utf8_lossy(&done.stderr).trim());
        }
        serde_json::from_slice(&done.stdout).context("the shell's answer is no JSON")
    }
}

async fn serve(place: &Place, packages: &[PathBuf]) -> Result<ExitStatus> {
    // Own process group: Ctrl-C reaches the shell once, through us. Killed with us if we are killed.
    let mut command = place.shell(&["serve"]);
    command.process_group(0).stdout(Stdio::piped());
    // SAFETY: prctl is async-signal-safe and touches nothing that fork shares.
    unsafe {
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGTERM)?));
    }
    let mut shell = command.spawn().context("cannot start the shell")?;
    let stdout = shell.stdout.take().context("the shell has a stdout")?;
    // Signals count from here on, also while apps are being installed.
    let mut stop = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
    );
    tokio::spawn(pass_on(stdout));

    let set_up = async {
        wait_until_ready(place).await?;
        install(place, packages).await;
        let link = place.json(&["admin-link"]).await.context("no link to open")?;
        let url = link.get("url").and_then(|u| u.as_str()).context("the link has no address")?;
        println!("Open {url}");
        anyhow::Ok(())
    };
    tokio::select! {
        status = shell.wait() => return Ok(status?),
        _ = stopped(&mut stop) => return end(shell).await,
        done = set_up => if let Err(error) = done {
            end(shell).await?;
            return Err(error);
        },
    }
    tokio::select! {
        status = shell.wait() => Ok(status?),
        _ = stopped(&mut stop) => end(shell).await,
    }
}

type Stop = (tokio::signal::unix::Signal, tokio::signal::unix::Signal, tokio::signal::unix::Signal);

async fn stopped(stop: &mut Stop) {
    tokio::select! {
        _ = stop.0.recv() => {}
        _ = stop.1.recv() => {}
        _ = stop.2.recv() => {}
    }
}

/// SIGTERM lets the shell drain.
async fn end(mut shell: Child) -> Result<ExitStatus> {
    if let Some(pid) = shell.id() {
        let pid = nix::unistd::Pid::from_raw(pid as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    }
    Ok(shell.wait().await?)
}

/// The shell's own lines go through, but for its one-time link: ours comes once the apps are there.
async fn pass_on(stdout: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if !line.starts_with("Open http") {
            println!("{line}");
        }
    }
}

async fn wait_until_ready(place: &Place) -> Result<()> {
    let start = Instant::now();
    loop {
        match place.json(&["app", "list"]).await {
            Ok(_) => return Ok(()),
            Err(error) if start.elapsed() > START => {
                return Err(error.context("the shell did not get ready in a minute"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Installs what is not there yet. A refusal is told and costs only that app.
async fn install(place: &Place, packages: &[PathBuf]) {
    let installed = place.json(&["app", "list"]).await.unwrap_or_default().to_string();
    for package in packages {
        match package_id(package) {
            Ok(id) if installed.contains(&id) => {}
            Ok(_) => {
                let path = package.to_string_lossy();
                match place.json(&["app", "install", &path]).await {
                    Ok(_) => println!("Installed {}", name(package)),
                    Err(error) => eprintln!("{} was not installed: {error:#}", name(package)),
                }
            }
            Err(error) => eprintln!("{} was not installed: {error:#}", name(package)),
        }
    }
}

fn name(package: &Path) -> String {
    package.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// The first half of the file's SHA-256, as the platform names packages.
fn package_id(package: &Path) -> Result<String> {
    let mut file = std::fs::File::open(package)
        .with_context(|| format!("cannot read {}", package.display()))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash)?;
    Ok(hex::encode(&hash.finalize()[..16]))
}
