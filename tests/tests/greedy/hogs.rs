//! The hogs of `tests/greedy`, each beside a well-behaved neighbour, all behind the real shell.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::inotify;
use sandstorm_tests::{App, Client, Mode, Server, apps, eventually, skip};
use serde_json::Value;

use crate::neighbour::{Window, compare};
use crate::{attack_time, emulated, patience, turn};

/// Small enough to be met at once, large enough for an honest app. Memory: a fork bomb at 160 processes
/// holds 28 MiB, but what its refused forks took the kernel frees in its own time; 190 MiB were seen.
const LIMITS: &str = "memory=512M,pids=160,disk=64M,inodes=2500,tmpfs=16M,files=512,log=128K";
/// Seconds of quiet between attacks.
const QUIET: Duration = Duration::from_millis(1200);

/// A grain with a hog in it.
pub struct Hog<'a> {
    pub name: &'static str,
    pub grain: String,
    pub client: Client,
    server: &'a Server,
}

/// A hog's own count: got, refused, the last error.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count {
    pub got: u64,
    pub refused: u64,
    pub errno: i32,
    /// Bytes of endless answers that were taken off the app.
    pub endless: u64,
}

impl<'a> Hog<'a> {
    pub fn new(server: &'a Server, app: &App, name: &'static str) -> Result<Hog<'a>> {
        let grain = server.create(&app.app_id)?;
        let client = server.session(&grain)?;
        Ok(Hog { name, grain, client, server })
    }

    pub async fn start(&self) -> Result<()> {
        let path = format!("/hog/{}", self.name);
        let answer = tokio::time::timeout(patience(20), self.client.get(&path)).await??;
        ensure!(answer.text() == "started", "{}: {}", self.name, answer.text());
        Ok(())
    }

    /// What the hog says of itself; an app that has used everything up may not get to answer.
    pub async fn count(&self) -> Option<Count> {
        let answer = tokio::time::timeout(patience(5), self.client.get("/status"));
        let text = answer.await.ok()?.ok()?.text();
        let words: Vec<&str> = text.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|w| w.parse::<u64>().ok());
        Some(match words.len() {
            5 => Count {
                got: number(0)?,
                refused: number(1)?,
                errno: number(2)? as i32,
                endless: number(4)?,
            },
            _ => Count { endless: number(words.len().checked_sub(1)?)?, ..Count::default() },
        })
    }

    /// One of the grain's limits, as `shell grain list` shows it.
    pub fn limit(&self, name: &str) -> Result<Option<Value>> {
        let list = self.server.json(&["grain", "list"])?;
        let grains = list.as_array().context("a list")?;
        let row = grains.iter().find(|g| g["grainId"] == *self.grain).context("our grain")?;
        let limits = row["limits"].as_array().context("its limits")?;
        Ok(limits.iter().find(|l| l["name"] == name).cloned())
    }

    /// Fails unless the limit was met; prints the counter.
    fn hit(&self, name: &str, by: &str) -> Result<()> {
        let limit = self.limit(name)?.with_context(|| {
            format!("{} runs; its log:\n{}", self.name, self.server.grain_log(&self.grain))
        })?;
        let hits = limit["hits"].as_u64().unwrap_or(0);
        println!("{}: limit {name} by {}: met {hits} times", self.name, limit["by"]);
        ensure!(hits > 0, "{}: the limit {name} was not met: {limit}", self.name);
        ensure!(limit["by"].as_str().is_some_and(|b| b.starts_with(by)), "{limit}");
        Ok(())
    }

    async fn refused(&self, errno: i32) -> Result<Count> {
        let count = self.count().await.with_context(|| format!("{} answers", self.name))?;
        println!(
            "{}: got {}, refused {} times with errno {}",
            self.name, count.got, count.refused, count.errno
        );
        ensure!(count.refused > 0 && count.errno == errno, "{}: {count:?}", self.name);
        Ok(count)
    }

    fn logged(&self, words: &str) -> Result<()> {
        // The log rotates under a flood of the supervisor's own.
        let log = self.server.grain_log(&self.grain);
        let times = log.matches(words).count();
        println!("{}: the grain's log says {times} times: {words}", self.name);
        ensure!(times > 0, "{}: its log:\n{log}", self.name);
        Ok(())
    }

    /// The hog was held at its limit.
    async fn judge(&self, cgroups: bool) -> Result<()> {
        let group = if cgroups { "cgroup" } else { "rlimit" };
        match self.name {
            // In time it may fill its memory too: what refused forks took is freed only later.
            "fork" if cgroups && self.limit("pids")?.is_none() => {
                self.logged("no more processes than 160: refused")
            }
            "fork" if cgroups => self.hit("pids", group),
            "fork" => self.refused(libc::EAGAIN).await.map(drop),
            "memory" if cgroups => self.logged("killed: the grain ran out of memory"),
            "memory" => self.refused(libc::ENOMEM).await.map(drop),
            "disk" | "hidden" => {
                self.hit("disk", "accounting")?;
                self.refused(libc::EFBIG).await.map(drop)
            }
            "inodes" => self.logged("the disk limit is reached"),
            "files" => {
                let count = self.refused(libc::EMFILE).await?;
                ensure!(count.got < 512, "{count:?}");
                Ok(())
            }
            "log" => {
                self.hit("log", "supervisor")?;
                let size = |name: &str| {
                    let path = self.server.installation.grain_dir(&self.grain).join(name);
                    path.metadata().map_or(0, |m| m.len())
                };
                let (log, old) = (size("log"), size("log.1"));
                println!("log: {log} bytes in log, {old} in log.1");
                ensure!(log + old < 3 * (128 << 10), "the log has {} bytes", log + old);
                Ok(())
            }
            "tmp" => {
                self.hit("tmpfs", "tmpfs")?;
                let count = self.refused(libc::ENOSPC).await?;
                ensure!(count.got <= 16 << 20, "{count:?}");
                Ok(())
            }
            "inotify" => self.refused(libc::EMFILE).await.map(drop),
            "pipes" => {
                let count = self.count().await.context("pipes answers")?;
                println!("pipes: {} bytes held, {count:?}", count.got);
                ensure!(count.refused > 0, "{count:?}");
                Ok(())
            }
            "cpu" => self.hit("cpu", "cgroup"),
            other => anyhow::bail!("nobody knows how {other} is held"),
        }
    }

    /// [`Hog::judge`], until it holds: on a busy machine a hog may take longer than the attack to get
    /// as far as its limit. It goes on until it is cleared away.
    async fn judge_in_time(&self, cgroups: bool) -> Result<()> {
        let end = Instant::now() + patience(20);
        loop {
            match self.judge(cgroups).await {
                Err(_) if Instant::now() < end => tokio::time::sleep(QUIET).await,
                judged => return judged,
            }
        }
    }

    /// The grain goes, and everything of it.
    pub fn clear(self) -> Result<()> {
        self.server.try_command(&["grain", "stop", &self.grain, "--now"])?;
        self.server.wait_gone(&self.grain, patience(20))?;
        self.server.json(&["grain", "delete", &self.grain, "--now"]).map(drop)
    }
}

/// Whether the control groups of grains work here, by the neighbour's own limits.
fn has_cgroups(server: &Server, neighbour: &str) -> Result<bool> {
    let list = server.json(&["grain", "list"])?;
    let grains = list.as_array().context("a list")?;
    let row = grains.iter().find(|g| g["grainId"] == neighbour).context("the neighbour")?;
    let by = |name: &str| {
        let limits = row["limits"].as_array().cloned().unwrap_or_default();
        let limit = limits.iter().find(|l| l["name"] == name).cloned().unwrap_or_default();
        limit["by"].as_str().unwrap_or_default().to_owned()
    };
    println!("limits here: memory by {}, cpu by {}", by("memory"), by("cpu"));
    Ok(["memory", "pids", "cpu"].iter().all(|name| by(name).starts_with("cgroup")))
}

struct Stage {
    server: Server,
    app: App,
    neighbour: Client,
    cgroups: bool,
}

impl Stage {
    async fn new(mode: Mode) -> Result<Option<Stage>> {
        let Some(server) = Server::builder(mode).env("GRAIN_LIMITS", LIMITS).start()? else {
            return Ok(None);
        };
        let app = server.install(&apps::package("greedy")?)?;
        let grain = server.create(&app.app_id)?;
        let neighbour = server.session(&grain)?;
        Window::measure(&neighbour, QUIET).await?;
        let cgroups = has_cgroups(&server, &grain)?;
        Ok(Some(Stage { server, app, neighbour, cgroups }))
    }

    /// Hogs that have nothing to do with each other, at once, for the time of an attack; the
    /// neighbour's answers meanwhile.
    async fn attack(&self, names: &[&'static str]) -> Result<Window> {
        if names.contains(&"cpu") && self.cgroups {
            // So little that it is used up on a busy machine too; the neighbour runs already. An
            // emulated processor would take minutes to start a grain with that.
            let cpu = if emulated() { "cpu=50" } else { "cpu=5" };
            self.server.json(&["limit", "set", "--app", &self.app.app_id, cpu])?;
        }
        let hogs: Vec<Hog<'_>> = names
            .iter()
            .map(|name| Hog::new(&self.server, &self.app, name))
            .collect::<Result<_>>()?;
        for hog in &hogs {
            hog.start().await?;
        }
        let end = Instant::now() + attack_time();
        let mut window = Window::default();
        while Instant::now() < end {
            let part = Duration::from_secs(1).min(end.saturating_duration_since(Instant::now()));
            window = window.and(&Window::measure(&self.neighbour, part).await?);
            for hog in hogs.iter().filter(|hog| hog.name == "memory" && self.cgroups) {
                // It was killed, and is woken to be killed again.
                let _ = hog.start().await;
            }
        }
        for hog in &hogs {
            hog.judge_in_time(self.cgroups).await?;
        }
        for hog in hogs {
            hog.clear()?;
        }
        self.server.json(&["limit", "clear", "--app", &self.app.app_id])?;
        Ok(window)
    }

    /// Answers that never end or never come, twenty readers each, none of whom reads.
    async fn endless_answers(&self) -> Result<Window> {
        let hog = Hog::new(&self.server, &self.app, "answers")?;
        let mut held = Vec::new();
        for path in ["/slow-head", "/endless"] {
            for _ in 0..20 {
                let client = hog.client.clone();
                held.push(tokio::spawn(async move {
                    let request = client.build("GET", path).body(String::new())?;
                    let answer = client.send(request).await?;
                    // Held, and not read.
                    tokio::time::sleep(Duration::from_secs(600)).await;
                    drop(answer);
                    anyhow::Ok(())
                }));
            }
        }
        let giant = hog.client.get("/giant-head").await?;
        println!("answers: headers without end are answered with {}", giant.status);
        ensure!(giant.status == 502, "{giant:?}");
        let window = Window::measure(&self.neighbour, attack_time()).await?;
        let one = hog.count().await.context("the app answers")?.endless;
        let window = window.and(&Window::measure(&self.neighbour, QUIET).await?);
        let two = hog.count().await.context("the app answers")?.endless;
        println!("answers: 20 bodies without end and without a reader stand at {two} bytes");
        ensure!(one == two && two < 20 * (16 << 20), "they go on: {one}, then {two}");
        held.iter().for_each(tokio::task::JoinHandle::abort);
        hog.clear()?;
        Ok(window)
    }

    /// The grain and the shell are as they were.
    async fn still_well(&self, pid: i32) -> Result<()> {
        ensure!(self.server.pid() == pid, "the shell was started again");
        let answer = self.server.client()?.get("/").await?;
        ensure!(answer.status < 500, "the shell answers {}", answer.status);
        Ok(())
    }
}

async fn in_turn(mode: Mode, acts: &[&[&'static str]]) -> Result<()> {
    let Some(stage) = Stage::new(mode).await? else { return Ok(()) };
    let pid = stage.server.pid();
    if mode == Mode::Setuid && !stage.cgroups {
        skip::announce(
            &skip::current_test(),
            "no control groups here: what a neighbour notices is not measured, only that rlimits, \
             tmpfs sizes, disk accounting and the log's rate hold",
        );
    }
    if emulated() {
        skip::announce(
            &skip::current_test(),
            "an emulated processor: only the limits are judged, not what a neighbour notices",
        );
    }
    let mut quiet = Window::measure(&stage.neighbour, QUIET).await?;
    let mut outcome = Vec::new();
    for act in acts {
        let name = act.join("+");
        let attacked = match act {
            ["answers"] => stage.endless_answers().await,
            hogs => stage.attack(hogs).await,
        }
        .with_context(|| name.clone())?;
        let after = Window::measure(&stage.neighbour, QUIET).await?;
        let compared = compare(&name, &quiet.and(&after), &attacked);
        if stage.cgroups {
            outcome.push(compared);
        }
        quiet = after;
        stage.still_well(pid).await?;
    }
    outcome.into_iter().collect()
}

/// With everything that a root-owned supervisor can set up.
#[tokio::test(flavor = "multi_thread")]
async fn hogs_starve_only_themselves() -> Result<()> {
    let _turn = turn().await;
    let acts: &[&[&'static str]] = &[
        &["cpu"],
        &["fork"],
        &["memory"],
        &["disk", "inodes", "hidden"],
        &["log"],
        &["files", "tmp", "inotify", "pipes"],
        &["answers"],
    ];
    in_turn(Mode::Setuid, acts).await
}

/// Without root: what still holds is rlimits by process and by user namespace, the sizes of tmpfs,
/// the accounting of the disk and the rate of the log. Memory of the grain as a whole, and the
/// processors, are not limited there (they are where the machine delegates control groups).
#[tokio::test(flavor = "multi_thread")]
async fn without_root_the_floor_holds() -> Result<()> {
    let _turn = turn().await;
    let acts: &[&[&'static str]] =
        &[&["fork", "files"], &["memory", "disk", "hidden", "tmp"], &["log"]];
    in_turn(Mode::UserNamespace, acts).await
}

/// The limits that hold are shown, with what keeps them.
#[tokio::test(flavor = "multi_thread")]
async fn the_list_tells_what_limits_a_grain() -> Result<()> {
    let _turn = turn().await;
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_LIMITS", LIMITS).start()? else {
        return Ok(());
    };
    let app = server.install(&apps::package("greedy")?)?;
    let grain = server.create(&app.app_id)?;
    let hog = Hog { name: "none", client: server.session(&grain)?, grain, server: &server };
    hog.client.get("/").await?;
    let disk = hog.limit("disk")?.context("disk")?;
    ensure!(disk["value"] == 64 << 20 && disk["by"] == "accounting", "{disk}");
    let files = hog.limit("files")?.context("files")?;
    ensure!(files["value"] == 512 && files["by"] == "rlimit", "{files}");
    let text = server.try_command(&["grain", "list"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains("limited by") && text.contains("accounting"), "{text}");
    // Asleep, it is limited by nothing.
    server.json(&["grain", "stop", &hog.grain])?;
    eventually("the grain sleeps", Duration::from_secs(20), || {
        hog.limit("disk").ok()?.is_none().then_some(())
    })
}

/// What the kernel counts by user (inotify, queued signals, timers) it counts in every user namespace
/// above as well, by the namespace's owner: had all grains one owner, a single app could use up what the
/// others have, and root's too.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_counted_by_user_is_a_grains_own() -> Result<()> {
    let _turn = turn().await;
    let setting = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances")?;
    let most: u64 = setting.trim().parse()?;
    if !(100..=400).contains(&most) {
        let why =
            format!("fs.inotify.max_user_instances is {most}: a hog meets another limit first");
        sandstorm_tests::skip!(Ok(()), "{why}");
    }
    let Some(server) = Server::builder(Mode::Setuid).env("GRAIN_LIMITS", LIMITS).start()? else {
        return Ok(());
    };
    let app = server.install(&apps::package("greedy")?)?;
    let mut hogs = Vec::new();
    for _ in 0..3 {
        let hog = Hog::new(&server, &app, "inotify")?;
        hog.start().await?;
        hogs.push(hog);
    }
    let mut counts = Vec::new();
    for hog in &hogs {
        let end = Instant::now() + patience(20);
        let count = loop {
            match hog.count().await {
                Some(count) if count.refused > 0 => break count,
                _ if Instant::now() > end => anyhow::bail!("the hog does not get to its limit"),
                _ => tokio::time::sleep(QUIET / 4).await,
            }
        };
        counts.push(count.got);
    }
    println!("inotify instances of three hogs at once: {counts:?}");
    // All of the grain's own, and perhaps one that the kernel counts for it elsewhere.
    ensure!(counts.iter().all(|got| (most - 4..=most).contains(got)), "{counts:?} of {most}");
    inotify::init(inotify::CreateFlags::CLOEXEC).context("root cannot make one")?;
    for hog in hogs {
        hog.clear()?;
    }
    Ok(())
}
