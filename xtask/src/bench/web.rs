//! The web path: browser → shell → supervisor → bridge → app, against nginx and Caddy as reverse
//! proxies to the very same app (dufs) run bare.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::load::{self, Target};
use super::{Goal, Row, median};
use crate::root_home::{self, Owner};
use crate::{app, paths};

const GIGABYTE: u64 = 1 << 30;
const CONNECTIONS: usize = 32;

/// How often everything is measured; the middle counts. `BENCH_ROUNDS=1` for a quick look.
fn rounds() -> usize {
    std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(5).max(1)
}

/// A child that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // The whole group: nginx and Caddy have workers.
        let group = nix::unistd::Pid::from_raw(self.0.id() as i32);
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        std::thread::sleep(Duration::from_millis(200));
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Result<Running> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {name}"))?;
    Ok(Running(child))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn wait_for(port: u16) -> Result<()> {
    let begin = Instant::now();
    while std::net::TcpStream::connect(address(port)).is_err() {
        ensure!(begin.elapsed() < Duration::from_secs(60), "nobody listens on port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Our server with a grain of the app, as `make run` runs it: as root by the system user and in
/// setuid mode, else with user namespaces.
struct Ours {
    place: Place,
    _shell: Running,
    grain: String,
    target: Target,
    _dir: tempfile::TempDir,
}

/// Programs, home and user of the measured server.
struct Place {
    bin: PathBuf,
    home: PathBuf,
    owner: Option<Owner>,
    port: u16,
}

impl Place {
    fn new(dir: &Path) -> Result<Place> {
        let (home, port) = (dir.join("home"), free_port()?);
        if !nix::unistd::geteuid().is_root() {
            return Ok(Place { bin: paths::bin(), home, owner: None, port });
        }
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
        let owner = root_home::system_user()?;
        let bin = root_home::prepare(&home, &owner, &paths::bin())?;
        Ok(Place { bin, home, owner: Some(owner), port })
    }

    fn shell(&self) -> Command {
        let mut command = Command::new(self.bin.join("shell"));
        command.env("SANDSTORM_HOME", &self.home).env("PORT", self.port.to_string());
        if let Some(owner) = &self.owner {
            command.uid(owner.uid).gid(owner.gid).current_dir("/");
        }
        command
    }

    fn json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let done = crate::shell_out::output(self.shell().args(args).arg("--json"))?;
        Ok(serde_json::from_slice(&done)?)
    }
}

impl Ours {
    fn start() -> Result<Ours> {
        let dir = tempfile::tempdir()?;
        let place = Place::new(dir.path())?;
        let shell = start(place.shell().arg("serve").env("GRAIN_IDLE_SECONDS", "600"))?;
        let package = app::build("dufs")?;
        // The port is bound before the server is ready for its sub-commands.
        let begin = Instant::now();
        while let Err(error) = place.json(&["app", "list"]) {
            if begin.elapsed() > Duration::from_secs(60) {
                return Err(error.context("the server does not come up"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let app = place.json(&["app", "install", &package.to_string_lossy()])?;
        let grain = place.json(&["grain", "create", "--app", text(&app, "appId")?])?;
        let grain = text(&grain, "grainId")?.to_owned();
        let session = place.json(&["grain", "session", &grain])?;
        let host = text(&session, "origin")?.trim_start_matches("http://").to_owned();
        let target = Target {
            address: address(place.port),
            host,
            cookie: Some(text(&session, "cookie")?.to_owned()),
            path: "/small.txt".into(),
        };
        Ok(Ours { place, _shell: shell, grain, target, _dir: dir })
    }

    /// The app's directory on disk: files are put there rather than sent.
    fn files(&self) -> PathBuf {
        self.place.home.join("grains").join(&self.grain).join("sandbox/files")
    }

    fn stop_grain(&self) -> Result<()> {
        self.place.json(&["grain", "stop", &self.grain]).map(drop)
    }
}

fn text<'a>(value: &'a serde_json::Value, field: &str) -> Result<&'a str> {
    value.get(field).and_then(|v| v.as_str()).with_context(|| format!("no {field} in {value}"))
}

/// The app bare, and a proxy before it.
struct Peers {
    _dir: tempfile::TempDir,
    files: PathBuf,
    dufs: PathBuf,
    _app: Running,
    proxies: Vec<(&'static str, Target, Running)>,
}

fn dufs_command(program: &Path, files: &Path, port: u16) -> Command {
    let mut command = Command::new(program);
    command.arg(files).args(["--allow-all", "--bind", "127.0.0.1", "--log-format", ""]);
    command.args(["--port", &port.to_string()]);
    command
}

impl Peers {
    fn start() -> Result<Peers> {
        let dir = tempfile::tempdir()?;
        let files = dir.path().join("files");
        fs::create_dir(&files)?;
        let dufs = app::tree_of("dufs")?.join("bin/dufs");
        let port = free_port()?;
        let app = start(&mut dufs_command(&dufs, &files, port))?;
        wait_for(port)?;
        let mut proxies = Vec::new();
        for (name, started) in
            [("nginx", nginx(dir.path(), port)), ("Caddy", caddy(dir.path(), port))]
        {
            match started {
                Ok((port, running)) => {
                    let target = Target {
                        address: address(port),
                        host: format!("127.0.0.1:{port}"),
                        cookie: None,
                        path: "/small.txt".into(),
                    };
                    proxies.push((name, target, running));
                }
                Err(error) => eprintln!("without {name}: {error:#}"),
            }
        }
        ensure!(!proxies.is_empty(), "neither nginx nor Caddy is here to compare with");
        Ok(Peers { _dir: dir, files, dufs, _app: app, proxies })
    }
}

fn nginx(dir: &Path, app: u16) -> Result<(u16, Running)> {
    let port = free_port()?;
    let conf = dir.join("nginx.conf");
    let dir = dir.display();
    fs::write(
        &conf,
        format!(
            "daemon off; pid {dir}/nginx.pid; error_log {dir}/nginx.err; worker_processes auto;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ access_log off; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;\n\
             fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
             upstream app {{ server 127.0.0.1:{app}; keepalive 64; }}\n\
             server {{ listen 127.0.0.1:{port}; client_max_body_size 0;\n\
             keepalive_requests 1000000000;\n\
             location / {{ proxy_pass http://app; proxy_http_version 1.1;\n\
             proxy_set_header Connection \"\"; proxy_buffering off;\n\
             proxy_request_buffering off; }} }} }}\n"
        ),
    )?;
    let running = start(Command::new("/usr/sbin/nginx").arg("-c").arg(&conf))?;
    wait_for(port)?;
    Ok((port, running))
}

fn caddy(dir: &Path, app: u16) -> Result<(u16, Running)> {
    let port = free_port()?;
    let conf = dir.join("Caddyfile");
    fs::write(
        &conf,
        format!(
            "{{\n admin off\n auto_https off\n}}\n\
             http://127.0.0.1:{port} {{\n reverse_proxy 127.0.0.1:{app}\n}}\n"
        ),
    )?;
    let running = start(
        Command::new("caddy")
            .args(["run", "--adapter", "caddyfile", "--config"])
            .arg(&conf)
            .env("HOME", dir)
            .env("XDG_DATA_HOME", dir)
            .env("XDG_CONFIG_HOME", dir),
    )?;
    wait_for(port)?;
    Ok((port, running))
}

/// All measures of the web path.
pub fn run(rows: &mut Vec<Row>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (ours, peers) = (Ours::start()?, Peers::start()?);
    // dufs makes its directory in a new grain's first start.
    runtime.block_on(load::first_byte(&ours.target.at("/")))?;
    for files in [&ours.files(), &peers.files] {
        fs::write(files.join("small.txt"), "A small answer, as most of them are.\n")?;
        fs::File::create(files.join("big.bin"))?.set_len(GIGABYTE)?;
    }
    runtime.block_on(requests(&ours, &peers, rows))?;
    runtime.block_on(big_bodies(&ours, &peers, rows))?;
    rows.push(runtime.block_on(wake(&ours, &peers))?);
    memory(&ours, rows)
}

/// A file: its server writes head and body with two calls and leaves Nagle's algorithm on, so what
/// counts is how soon a proxy lets the second piece come. An answer in one piece: what counts is
/// each proxy's own work.
const SMALL: [(&str, &str); 2] =
    [("small requests", "/small.txt"), ("one-piece requests", "/__dufs__/health")];

async fn requests(ours: &Ours, peers: &Peers, rows: &mut Vec<Row>) -> Result<()> {
    for (what, path) in SMALL {
        small(what, path, ours, peers, rows).await?;
    }
    Ok(())
}

async fn small(
    what: &str,
    path: &str,
    ours: &Ours,
    peers: &Peers,
    rows: &mut Vec<Row>,
) -> Result<()> {
    let time = Duration::from_secs(3);
    let mut mine = (Vec::new(), Vec::new());
    let mut theirs: Vec<(Vec<f64>, Vec<f64>)> = vec![Default::default(); peers.proxies.len()];
    for _ in 0..rounds() {
        let rate = load::rate(&ours.target.at(path), CONNECTIONS, time).await?;
        mine.0.push(rate.per_second);
        mine.1.push(rate.p99_ms);
        for ((_, target, _), sample) in peers.proxies.iter().zip(&mut theirs) {
            let rate = load::rate(&target.at(path), CONNECTIONS, time).await?;
            sample.0.push(rate.per_second);
            sample.1.push(rate.p99_ms);
        }
    }
    let (rate, p99) = (median(&mut mine.0), median(&mut mine.1));
    for ((name, ..), sample) in peers.proxies.iter().zip(&mut theirs) {
        let (goal_rate, goal_p99) = match *name {
            "Caddy" => (Goal::RatioAtLeast(1.0), Goal::RatioAtMost(1.0)),
            _ => (Goal::None, Goal::None),
        };
        let peer = (*name, median(&mut sample.0));
        rows.push(Row::new(what, "1/s", rate, Some(peer), goal_rate));
        let peer = (*name, median(&mut sample.1));
        rows.push(Row::new(format!("{what}, p99"), "ms", p99, Some(peer), goal_p99));
    }
    Ok(())
}

async fn big_bodies(ours: &Ours, peers: &Peers, rows: &mut Vec<Row>) -> Result<()> {
    for (what, up) in [("download of 1 GB", false), ("upload of 1 GB", true)] {
        let mut mine = Vec::new();
        let mut theirs = vec![Vec::new(); peers.proxies.len()];
        for _ in 0..rounds().min(3) {
            mine.push(body(&ours.target, up).await?);
            for ((_, target, _), sample) in peers.proxies.iter().zip(&mut theirs) {
                sample.push(body(target, up).await?);
            }
        }
        let rate = median(&mut mine);
        for ((name, ..), sample) in peers.proxies.iter().zip(&mut theirs) {
            let goal = if *name == "nginx" { Goal::RatioAtLeast(0.8) } else { Goal::None };
            rows.push(Row::new(what, "MB/s", rate, Some((name, median(sample))), goal));
        }
    }
    Ok(())
}

/// MB/s of one big body.
async fn body(target: &Target, up: bool) -> Result<f64> {
    let rate = if up {
        load::upload(&target.at("/upload.bin"), GIGABYTE).await?
    } else {
        load::download(&target.at("/big.bin"), GIGABYTE).await?
    };
    Ok(rate / 1e6)
}

/// From a request for a sleeping grain to the first byte, against starting the same program bare.
async fn wake(ours: &Ours, peers: &Peers) -> Result<Row> {
    let (mut mine, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..rounds() * 2 {
        ours.stop_grain()?;
        mine.push(load::first_byte(&ours.target).await? * 1e3);

        let port = free_port()?;
        let begin = Instant::now();
        let running = start(&mut dufs_command(&peers.dufs, &peers.files, port))?;
        let target = Target {
            address: address(port),
            host: format!("127.0.0.1:{port}"),
            cookie: None,
            path: "/small.txt".into(),
        };
        while load::first_byte(&target).await.is_err() {
            ensure!(begin.elapsed() < Duration::from_secs(30), "dufs does not start");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        bare.push(begin.elapsed().as_secs_f64() * 1e3);
        drop(running);
    }
    let bare = ("bare start", median(&mut bare));
    Ok(Row::new("opening a sleeping grain", "ms", median(&mut mine), Some(bare), Goal::None))
}

/// Proportional memory of shell, supervisor and bridge, with the grain awake and idle.
fn memory(ours: &Ours, rows: &mut Vec<Row>) -> Result<()> {
    // Idle: bridge and supervisor give memory back a few seconds after the last request.
    std::thread::sleep(Duration::from_secs(12));
    let home = ours.place.home.to_string_lossy().into_owned();
    let processes = processes()?;
    // Other grains' bridges look the same: ours is the one in the box of our grain's init.
    let of_grain = |p: &&Process| {
        p.command.contains("sandstorm-supervisor") && p.command.contains(&ours.grain)
    };
    let own_box = fs::read_link("/proc/self/ns/pid")?;
    let boxes: Vec<_> =
        processes.iter().filter(of_grain).map(|p| &p.space).filter(|s| **s != own_box).collect();
    let mut found = [None, None, None];
    for process in &processes {
        let index = if process.command.contains("serve") && process.environment.contains(&home) {
            0
        } else if of_grain(&process) {
            1
        } else if process.command.starts_with("/legacy-bridge") && boxes.contains(&&process.space) {
            2
        } else {
            continue;
        };
        // The supervisor has an outer half and an init: its cost is both.
        *found[index].get_or_insert(0) += pss_kib(process.pid).unwrap_or(0);
    }
    for (what, kib, goal) in [
        ("memory of the shell", found[0], 40.0),
        ("memory of a supervisor", found[1], 2.0),
        ("memory of a bridge", found[2], 2.0),
    ] {
        match kib {
            Some(kib) => {
                rows.push(Row::new(what, "MB", kib as f64 * 1024.0 / 1e6, None, Goal::AtMost(goal)))
            }
            None => eprintln!("{what}: the process was not found"),
        }
    }
    Ok(())
}

struct Process {
    pid: i32,
    command: String,
    environment: String,
    /// Its pid namespace.
    space: PathBuf,
}

fn processes() -> Result<Vec<Process>> {
    let text =
        |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    Ok(fs::read_dir("/proc")?
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            // One that ended meanwhile, or that is not ours to look at.
            let space = fs::read_link(entry.path().join("ns/pid")).ok()?;
            let command = text(entry.path().join("cmdline"));
            Some(Process { pid, command, environment: text(entry.path().join("environ")), space })
        })
        .collect())
}

fn pss_kib(pid: i32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok())
}
