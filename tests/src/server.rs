//! The real shell, as a process of an [`Installation`], and its sub-commands.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Client, Installation, Mode, eventually, processes};

/// How long a start may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// An installed app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct App {
    pub app_id: String,
    pub package_id: String,
}

/// Settings before the start.
#[derive(Debug)]
pub struct ServerBuilder {
    mode: Mode,
    env: Vec<(String, String)>,
}

impl ServerBuilder {
    /// One of the shell's settings, e.g. `("GRAIN_IDLE_SECONDS", "2")`.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Installs and starts. `None` when this machine cannot (the skip has been announced).
    pub fn start(self) -> Result<Option<Server>> {
        let Some(installation) = Installation::new(self.mode)? else { return Ok(None) };
        let mut server = Server { child: None, port: free_port()?, env: self.env, installation };
        server.run()?;
        Ok(Some(server))
    }
}

/// A running shell. Everything is ended and removed when it is dropped.
#[derive(Debug)]
pub struct Server {
    // Before the installation, so that the shell ends before its directory goes.
    child: Option<Child>,
    port: u16,
    env: Vec<(String, String)>,
    pub installation: Installation,
}

impl Server {
    /// A server with default settings, on a free port.
    pub fn start(mode: Mode) -> Result<Option<Server>> {
        Server::builder(mode).start()
    }

    pub fn builder(mode: Mode) -> ServerBuilder {
        ServerBuilder { mode, env: Vec::new() }
    }

    /// Starts the shell (again) and waits until it answers. In a restart the port stays.
    pub fn run(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the shell is running");
        // A free port can be taken by somebody else before the shell binds it: try another then,
        // but not once browsers and sessions know the port.
        let first = !self.output_path().exists();
        for attempt in 0..5 {
            match self.try_run() {
                Err(error) if first && attempt < 4 && format!("{error:#}").contains("PORT") => {
                    self.port = free_port()?;
                }
                other => return other,
            }
        }
        unreachable!("the last attempt returned")
    }

    fn try_run(&mut self) -> Result<()> {
        let output = File::options().create(true).append(true).open(self.output_path())?;
        let begin = output.metadata()?.len() as usize;
        let mut command = self.installation.command("shell");
        command
            .arg("serve")
            .env("PORT", self.port.to_string())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            // In a file the first line would name a command in place of the link.
            .stdout(Stdio::piped())
            .stderr(output.try_clone()?)
            .process_group(0);
        let mut child = command.spawn().context("cannot start the shell")?;
        let (mut said, mut output) = (child.stdout.take().context("it has a stdout")?, output);
        std::thread::spawn(move || std::io::copy(&mut said, &mut output));
        self.child = Some(child);
        let ready = eventually("the shell answers", START, || {
            let child = self.child.as_mut().expect("just started");
            if let Ok(Some(status)) = child.try_wait() {
                return Some(Err(status));
            }
            let answer = self.command(&["app", "list"]).output().ok()?;
            answer.status.success().then_some(Ok(()))
        });
        let said = || self.output().get(begin..).unwrap_or_default().to_owned();
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                let said = said();
                self.child = None;
                bail!("the shell ended at once ({status}):\n{said}")
            }
            Err(error) => Err(error.context(format!("the shell said:\n{}", said()))),
        }
    }

    /// Port of the listener.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The shell as browsers see it.
    pub fn origin(&self) -> String {
        self.env
            .iter()
            .find(|(name, _)| name == "ROOT_URL")
            .map_or_else(|| format!("http://sandstorm.localhost:{}", self.port), |(_, v)| v.clone())
    }

    /// The shell's process.
    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("the shell runs").id() as i32
    }

    pub fn home(&self) -> PathBuf {
        self.installation.home()
    }

    fn output_path(&self) -> PathBuf {
        self.installation.dir().join("shell.log")
    }

    /// All that the shell has written so far, over all its starts.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.output_path()).unwrap_or_default()).into_owned()
    }

    /// The one-time administrator link of the first start.
    pub fn printed_link(&self) -> Option<String> {
        let output = self.output();
        let line = output.lines().find(|line| line.starts_with("Open http"))?;
        line.split_whitespace().nth(1).map(str::to_owned)
    }

    // --- ending ---

    /// SIGKILL to the shell alone; grains go on.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM; waits for the end.
    pub fn terminate(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let mut child = self.child.take().context("the shell does not run")?;
        processes::send(child.id() as i32, Signal::SIGTERM);
        let ended =
            eventually("the shell ends after SIGTERM", limit, || child.try_wait().ok().flatten());
        if ended.is_err() {
            let _ = child.kill();
            let _ = child.wait();
        }
        ended
    }

    // --- sub-commands ---

    /// `shell ARGS…` as the server's user.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.installation.command("shell");
        command.args(args).env("PORT", self.port.to_string()).envs(self.env.iter().cloned());
        command.stdin(Stdio::null());
        command
    }

    /// `shell ARGS… --json`; the parsed value, or an error with what it wrote to stderr.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let done = self.try_command(&[args, &["--json"]].concat())?;
        ensure!(
            done.status.success(),
            "`shell {}` ended with {}: {}",
            args.join(" "),
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        serde_json::from_slice(&done.stdout)
            .with_context(|| format!("`shell {}` printed no JSON", args.join(" ")))
    }

    /// `shell ARGS…`, whatever comes of it.
    pub fn try_command(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output().context("cannot start the shell's sub-command")
    }

    fn text(value: &Value, field: &str) -> Result<String> {
        let found = value.get(field).and_then(Value::as_str);
        Ok(found.with_context(|| format!("no text {field:?} in {value}"))?.to_owned())
    }

    /// `shell app install FILE`.
    pub fn install(&self, package: &Path) -> Result<App> {
        let path = package.to_str().context("a path of plain text")?;
        // The cache may lie where only root reads; the user gets a copy.
        let copy = self.installation.dir().join("install.spk");
        fs::copy(path, &copy).with_context(|| format!("cannot read {path}"))?;
        let bytes = copy.to_str().context("a path of plain text")?;
        let answer = self.json(&["app", "install", bytes]);
        fs::remove_file(&copy)?;
        let answer = answer?;
        Ok(App {
            app_id: Self::text(&answer, "appId")?,
            package_id: Self::text(&answer, "packageId")?,
        })
    }

    /// `shell grain create --app APPID`; the grain's id.
    pub fn create(&self, app_id: &str) -> Result<String> {
        self.create_with(app_id, &[])
    }

    /// [`Server::create`] with more arguments (`--title`, `--owner`, `--action`).
    pub fn create_with(&self, app_id: &str, more: &[&str]) -> Result<String> {
        let args = [&["grain", "create", "--app", app_id], more].concat();
        Self::text(&self.json(&args)?, "grainId")
    }

    /// `shell grain session GRAIN`: a client that talks to the grain.
    pub fn session(&self, grain: &str) -> Result<Client> {
        self.session_with(grain, &[])
    }

    /// [`Server::session`] with more arguments (`--permissions a,b`).
    pub fn session_with(&self, grain: &str, more: &[&str]) -> Result<Client> {
        let answer = self.json(&[&["grain", "session", grain], more].concat())?;
        Client::new(
            &Self::text(&answer, "origin")?,
            self.port,
            Some(Self::text(&answer, "cookie")?),
        )
    }

    /// A client of the shell itself, without a cookie.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.origin(), self.port, None)
    }

    /// State of a grain by `shell grain list`: `running`, `asleep`, `trash`; `None` = not listed.
    pub fn state(&self, grain: &str) -> Result<Option<String>> {
        let list = self.json(&["grain", "list"])?;
        let list = list.as_array().context("grain list is an array")?;
        Ok(list
            .iter()
            .find(|g| g.get("grainId").and_then(Value::as_str) == Some(grain))
            .and_then(|g| g.get("state").and_then(Value::as_str))
            .map(str::to_owned))
    }

    /// Waits for a state.
    pub fn wait_state(&self, grain: &str, state: &str, limit: Duration) -> Result<()> {
        eventually(format!("grain {grain} is {state}"), limit, || {
            (self.state(grain).ok()?.as_deref() == Some(state)).then_some(())
        })
    }

    /// The app's log.
    pub fn grain_log(&self, grain: &str) -> String {
        let bytes = fs::read(self.installation.grain_dir(grain).join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // --- processes of a grain ---

    /// All processes of a grain, its supervisor among them.
    pub fn processes(&self, grain: &str) -> Vec<processes::Process> {
        processes::of_grain(grain)
    }

    /// Waits until nothing of the grain is left.
    pub fn wait_gone(&self, grain: &str, limit: Duration) -> Result<()> {
        eventually(format!("no process of grain {grain} is left"), limit, || {
            processes::of_grain(grain).is_empty().then_some(())
        })
        .map_err(|error| error.context(format!("left: {:?}", processes::of_grain(grain))))
    }

    /// SIGKILL to the grain's processes of this name (`node`, `legacy-bridge`,
    /// `sandstorm-supe` …: the kernel keeps 15 bytes); how many there were.
    pub fn kill_in_grain(&self, grain: &str, name: &str) -> usize {
        let short = &name[..name.len().min(15)];
        let pids: Vec<i32> = processes::of_grain(grain)
            .into_iter()
            .filter(|p| p.name == short)
            .map(|p| p.pid)
            .collect();
        pids.iter().for_each(|&pid| processes::kill(pid));
        pids.len()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the shell said ---\n{}--- end ---", self.output());
        }
        self.kill();
    }
}

/// A port that nobody listens on now, and that neither another test of this run nor the kernel
/// (which gives outgoing connections numbers from 32768 on) takes before the program does.
pub fn free_port() -> Result<u16> {
    free_ports(1)
}

/// The first of so many of these in a row.
pub fn free_ports(count: u16) -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    (0..20_000)
        .map(|_| {
            let next = NEXT.fetch_add(u32::from(count), Ordering::Relaxed);
            let offset = std::process::id().wrapping_mul(97).wrapping_add(next);
            12_000 + (offset % 20_000) as u16
        })
        .find(|&first| {
            (first..first + count).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        })
        .context("no port is free")
}
