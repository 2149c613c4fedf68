//! kill -9 at random moments: every record that was acknowledged is there afterwards, nothing of
//! the platform is half-written, and no process or mount is left over.
//!
//! The number of kills of each program is 5, or `SANDSTORM_KILLS` (the soak says 30). The seed of
//! the random moments is printed; `SANDSTORM_SEED` repeats a run.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandstorm_tests::{Client, Mode, Server, apps, eventually, processes};

/// A little linear generator: moments need to vary, not to be secret.
struct Moments(u64);

impl Moments {
    fn new() -> Self {
        let seed = std::env::var("SANDSTORM_SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or_else(|| {
                let mut bytes = [0; 8];
                getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
                u64::from_le_bytes(bytes)
            });
        println!("SANDSTORM_SEED={seed}");
        Moments(seed | 1)
    }

    /// A pause within the range, in milliseconds.
    fn pause(&mut self, from: u64, to: u64) {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(from + (self.0 >> 33) % (to - from)));
    }
}

fn kills() -> usize {
    std::env::var("SANDSTORM_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5)
}

/// A client that writes numbered records without pause and remembers each acknowledged one.
struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<BTreeMap<String, String>>,
}

impl Writer {
    fn start(client: Client) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            let mut kept = BTreeMap::new();
            let mut number = 0u64;
            while !stopped.load(Ordering::Relaxed) {
                number += 1;
                let name = format!("record-{number:07}");
                let text = format!("{name}: {}", "x".repeat((number % 4000) as usize));
                let answer = runtime.block_on(async {
                    let path = format!("/{name}");
                    let put = client.put(&path, text.clone());
                    tokio::time::timeout(Duration::from_secs(30), put).await
                });
                match answer {
                    Ok(Ok(answer)) if (200..300).contains(&answer.status) => {
                        kept.insert(name, text);
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                    // Refused, cut or late: not acknowledged, so nothing is promised.
                    _ => std::thread::sleep(Duration::from_millis(20)),
                }
            }
            kept
        });
        Writer { stop, acknowledged, thread }
    }

    /// Waits until something new has been acknowledged, so that each kill meets real work.
    fn progress(&self, owner: &Owner) -> Result<()> {
        let before = self.acknowledged.load(Ordering::Relaxed);
        let mut looks = 0;
        eventually("a further record is acknowledged", Duration::from_secs(60), || {
            looks += 1;
            // What ends so often gets a pause, and its owner does not wait for that.
            if looks % 100 == 0 {
                owner.wake().ok()?;
            }
            (self.acknowledged.load(Ordering::Relaxed) > before + 2).then_some(())
        })
    }

    fn finish(self) -> Result<BTreeMap<String, String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the writer panicked"))
    }
}

/// The grain's owner, with the grain's page open.
struct Owner {
    grain: String,
    shell: Client,
    runtime: tokio::runtime::Runtime,
}

impl Owner {
    fn new(server: &Server, grain: &str) -> Result<Owner> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let link = server.json(&["grain", "open", grain])?;
        let link = link["url"].as_str().context("a link")?.to_owned();
        let shell = runtime.block_on(server.client()?.sign_in(&link))?;
        Ok(Owner { grain: grain.to_owned(), shell, runtime })
    }

    /// As a click on the grain does.
    fn wake(&self) -> Result<()> {
        let act = format!("/grains/{}/act", self.grain);
        let details = format!("/grains/{}/details", self.grain);
        self.runtime.block_on(self.shell.submit(&details, &act, "act=wake")).map(drop)
    }
}

/// Every acknowledged record is in the grain's storage, whole.
fn check_records(server: &Server, grain: &str, kept: &BTreeMap<String, String>) -> Result<()> {
    ensure!(kept.len() > 20, "only {} records: the writer hardly ran", kept.len());
    let client = server.session(grain)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for (name, text) in kept {
        let answer = runtime.block_on(client.get(&format!("/{name}")))?;
        ensure!(answer.status == 200, "{name} was acknowledged and is {}", answer.status);
        ensure!(answer.text() == *text, "{name} was acknowledged and is not whole");
    }
    println!("{} acknowledged records are all there", kept.len());
    Ok(())
}

/// What to kill.
#[derive(Clone, Copy, Debug)]
enum Victim {
    App,
    Bridge,
    Supervisor,
    Init,
    Shell,
}

fn strike(server: &mut Server, grain: &str, victim: Victim) -> Result<()> {
    match victim {
        Victim::App => drop(server.kill_in_grain(grain, "dufs")),
        Victim::Bridge => {
            server.kill_in_grain(grain, "legacy-bridge");
            server.kill_in_grain(grain, "sandstorm-http-bridge");
        }
        Victim::Supervisor => {
            let spaces = processes::namespaces_of_grain(grain);
            let ours = processes::namespace(std::process::id() as i32, "pid");
            for process in processes::of_grain(grain) {
                if process.name == "sandstorm-super" && Some(process.pid_namespace) == ours {
                    processes::kill(process.pid);
                }
            }
            // The kill is the whole grain's end, within a second.
            eventually("nothing of the old grain is left", Duration::from_secs(3), || {
                processes::in_namespaces(&spaces).is_empty().then_some(())
            })?;
        }
        Victim::Init => {
            let spaces = processes::namespaces_of_grain(grain);
            for process in processes::in_namespaces(&spaces) {
                processes::kill(process.pid);
            }
        }
        Victim::Shell => {
            server.kill();
            server.run()?;
        }
    }
    Ok(())
}

fn kill_many(victim: Victim) -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let app = server.install(&apps::package("dufs")?)?;
    let grain = server.create(&app.app_id)?;
    let owner = Owner::new(&server, &grain)?;
    let writer = Writer::start(server.session(&grain)?);
    let mut moments = Moments::new();
    for number in 1..=kills() {
        writer
            .progress(&owner)
            .with_context(|| format!("after {} kills of {victim:?}", number - 1))?;
        moments.pause(10, 400);
        strike(&mut server, &grain, victim)?;
    }
    writer.progress(&owner)?;
    let kept = writer.finish()?;
    check_records(&server, &grain, &kept)?;

    // Asleep again, nothing of it is left: no process, no mount, and its directory holds only
    // what it should.
    server.json(&["grain", "stop", &grain])?;
    server.wait_gone(&grain, Duration::from_secs(10))?;
    let mounts = processes::mounts_below(&server.home().to_string_lossy());
    ensure!(mounts.is_empty(), "mounts left over: {mounts:?}");
    Ok(())
}

#[test]
fn kills_of_the_app() -> Result<()> {
    kill_many(Victim::App)
}

#[test]
fn kills_of_the_bridge() -> Result<()> {
    kill_many(Victim::Bridge)
}

#[test]
fn kills_of_the_supervisor() -> Result<()> {
    kill_many(Victim::Supervisor)
}

#[test]
fn kills_of_everything_in_the_box() -> Result<()> {
    kill_many(Victim::Init)
}

#[test]
fn kills_of_the_shell() -> Result<()> {
    kill_many(Victim::Shell)
}

/// Names below a directory, one level.
fn names(dir: PathBuf) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect()
}

/// Kills the unpacking process, or the shell, in the middle of installs: afterwards the package is
/// either wholly there or not at all, the next try works, and the work area is empty.
fn kill_during_install(kill_shell: bool) -> Result<()> {
    let Some(mut server) = Server::start(Mode::Setuid)? else { return Ok(()) };
    let package = apps::package("node-red")?;
    let mut moments = Moments::new();
    let mut hits = 0;
    let begun = Instant::now();
    while hits < kills() && begun.elapsed() < Duration::from_secs(40 * kills() as u64) {
        let copy = server.installation.write(&format!("try-{hits}.spk"), &fs::read(&package)?)?;
        let mut install = server.command(&["app", "install", &copy.to_string_lossy(), "--json"]);
        let mut child = install
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let seen = eventually("spk is unpacking", Duration::from_secs(20), || {
            let uid = server.installation.uid;
            let pids: Vec<_> = processes::of_uid(uid)
                .into_iter()
                .filter(|pid| processes::all().iter().any(|p| p.pid == *pid && p.name == "spk"))
                .collect();
            if !pids.is_empty() {
                return Some(Some(pids));
            }
            child.try_wait().ok().flatten().map(|_| None)
        })?;
        if let Some(pids) = seen {
            moments.pause(1, 300);
            if kill_shell {
                server.kill();
                hits += 1;
            } else {
                // A kill that comes too late hits nothing and does not count.
                hits += usize::from(pids.iter().any(|pid| processes::alive(*pid)));
                pids.iter().for_each(|pid| processes::kill(*pid));
            }
        }
        let _ = child.wait();
        fs::remove_file(&copy)?;
        if kill_shell {
            server.run()?;
        }
        // Whatever is listed as installed is whole: its manifest can be read.
        for name in names(server.home().join("apps")) {
            let manifest = server.home().join("apps").join(&name).join("sandstorm-manifest");
            ensure!(manifest.exists(), "apps/{name} is half an app");
        }
        let listed = server.json(&["app", "list"])?;
        if !listed.as_array().context("app list is an array")?.is_empty() {
            // Installed before the kill came: start over on an empty server.
            drop(server);
            let Some(fresh) = Server::start(Mode::Setuid)? else { return Ok(()) };
            server = fresh;
        }
    }
    ensure!(hits >= kills(), "only {hits} kills met an unpacking process");
    let app = server.install(&package)?;
    let grain = server.create(&app.app_id)?;
    server.json(&["grain", "stop", &grain])?;
    let left = eventually("the work area is empty", Duration::from_secs(10), || {
        names(server.home().join("tmp")).is_empty().then_some(())
    });
    left.with_context(|| format!("tmp holds {:?}", names(server.home().join("tmp"))))
}

#[test]
fn kills_of_spk_while_it_unpacks() -> Result<()> {
    kill_during_install(false)
}

#[test]
fn kills_of_the_shell_while_it_installs() -> Result<()> {
    kill_during_install(true)
}
