//! Every attack on an RPC peer, against the programs themselves: from an app on fd 3, from a false
//! supervisor, from a false unpacker and from a client of the control socket. The connection may
//! end, the grain may die, the sub-command may fail; the program that was attacked goes on, holds
//! little memory, and answers everybody else meanwhile.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use sandstorm_tests::supervisor::{Bench, FakeCore, on_one_thread};
use sandstorm_tests::{App, Client, Mode, Server, apps, eventually, processes, soak};

use crate::{blocking_turn, greedy_app};

/// Attacks at once: each is short, and mostly waits.
const AT_ONCE: usize = 12;
/// Longest time that an attack and what it leads to may take.
const LIMIT: Duration = Duration::from_secs(40);
/// No honest question may wait longer beside an attack, on a machine with two processors.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most memory that an attacked program may have held: a supervisor faces one attacker, the shell
/// a dozen.
const SUPERVISOR_KIB: u64 = 160 << 10;
const SHELL_KIB: u64 = 900 << 10;

fn attacks() -> Result<Vec<String>> {
    let listed = Command::new(greedy_app()).arg("attacks").output()?;
    let names: Vec<String> = String::from_utf8(listed.stdout)?.lines().map(str::to_owned).collect();
    ensure!(names.len() > 45, "{names:?}");
    Ok(names)
}

/// All of them in the soak; else all but most of the small malformed messages, which the library's
/// own suite tries one by one, and with `few` only every third of the rest.
fn chosen_attacks(few: bool) -> Result<Vec<String>> {
    let mut names = attacks()?;
    if !soak() {
        names.retain(|name| !name.starts_with("small-") || name.ends_with('9'));
        if few {
            names = names.into_iter().step_by(3).collect();
        }
    }
    Ok(names)
}

/// Runs `work` for every item, a few at a time; all errors together.
fn side_by_side<T: Sync>(items: &[T], work: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = work(item) {
                        errors.lock().expect("no panic").push(format!("{error:#}"));
                    }
                }
            });
        }
    });
    let errors = errors.into_inner()?;
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    Ok(())
}

/// Most memory that a process has held so far, in KiB; `None` once it is gone.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse().ok()
}

#[test]
fn an_app_on_fd_3_cannot_hurt_its_supervisor() -> Result<()> {
    let _turn = blocking_turn();
    let Some(bench) = Bench::new(Mode::Setuid)? else { return Ok(()) };
    let package = bench.package("hostile", &["dev", "tmp", "var"])?;
    fs::copy(greedy_app(), package.join("app"))?;
    let neighbour = bench.start(&["--new"], "neighbourgrain22222222")?;
    let over = AtomicBool::new(false);
    let worst = Mutex::new((0u64, String::new()));
    let names: Vec<(usize, String)> = attacks()?.into_iter().enumerate().collect();

    let attack = |(number, name): &(usize, String)| -> Result<()> {
        let grain = format!("hostilegrain2222222{number:03}");
        let mut running = bench.start_app(&["--new"], "hostile", &grain, &["/app", "rpc", name])?;
        let pid = running.pid();
        let mut most = 0;
        on_one_thread(async {
            let connection = running.connect().await?;
            let view = connection.supervisor.get_main_view_request().send();
            // Whoever attacks by answering has to be asked; its answers are for nobody.
            let view = view.pipeline.get_view();
            for _ in 0..30 {
                let call = view.get_view_info_request().send().promise;
                tokio::task::spawn_local(async move { drop(call.await) });
            }
            let end = Instant::now() + LIMIT;
            while Instant::now() < end {
                most = most.max(peak(pid).unwrap_or(0));
                if running.log().contains("ATTACK-DONE") || peak(pid).is_none() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Ok(())
        })
        .with_context(|| name.clone())?;
        let log = running.log();
        ensure!(!log.contains("no attack is called"), "{name}: {log}");
        match running.child.try_wait()? {
            // The app is over, and its supervisor says so: exit status 1, no signal.
            Some(status) => ensure!(status.code() == Some(1), "{name}: {status}: {log}"),
            None => {
                ensure!(log.contains("ATTACK-DONE"), "{name} did not come to its end: {log}");
                on_one_thread(async {
                    let connection = running.connect().await?;
                    connection.keep_alive().await.with_context(|| format!("{name}: {log}"))
                })?;
            }
        }
        ensure!(most < SUPERVISOR_KIB, "{name}: the supervisor held {} MiB", most >> 10);
        let mut worst = worst.lock().expect("no panic");
        if most > worst.0 {
            *worst = (most, name.clone());
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            on_one_thread(async {
                let connection = neighbour.connect().await?;
                let session = connection.session("Ada").await?;
                let mut answers = 0;
                while !over.load(Ordering::Relaxed) {
                    let asked = session.get("");
                    tokio::time::timeout(PATIENCE, asked)
                        .await
                        .context("the neighbour waits")??;
                    answers += 1;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(answers)
            })
        });
        let done = side_by_side(&names, attack);
        over.store(true, Ordering::Relaxed);
        let answers = watching.join().expect("no panic")?;
        let (most, name) = &*worst.lock().expect("no panic");
        println!(
            "{} attacks on fd 3; the neighbour answered {answers} times; \
             most memory of a supervisor: {} MiB ({name})",
            names.len(),
            most >> 10
        );
        ensure!(answers > 20, "the neighbour answered {answers} times");
        done
    })
}

/// How long a flood goes on, in seconds, and the middle of it that is measured.
const FLOOD: u64 = 5;
const MEASURED: Duration = Duration::from_secs(3);
/// Most of one processor that a flood may cost outside of the grain's own limit. It is half of that
/// at most; on a busy machine others empty its caches.
const FLOOD_SHARE: f64 = 0.40;

/// Most messages that may be taken in that time: a call and its end are two, and what is in the
/// socket counts too.
const FLOOD_TAKEN: u64 = 2 * 6_000 * (FLOOD + 2);

/// The same for messages of very many parts, each of which counts as twenty and more.
const OF_MANY_PARTS: [&str; 2] = ["pointer-lists", "many-capabilities"];

/// Seconds of processor time that a process has used.
fn processor_time(pid: i32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / sysconf(SysconfVar::CLK_TCK).ok()?? as f64)
}

#[test]
fn a_flood_on_fd_3_costs_its_supervisor_little() -> Result<()> {
    let _turn = blocking_turn();
    let Some(bench) = Bench::new(Mode::Setuid)? else { return Ok(()) };
    let package = bench.package("flooding", &["dev", "tmp", "var"])?;
    fs::copy(greedy_app(), package.join("app"))?;
    let listed = Command::new(greedy_app()).arg("floods").output()?;
    let names = String::from_utf8(listed.stdout)?;
    let names: Vec<(usize, &str)> = names.lines().enumerate().collect();
    ensure!(names.len() > 5, "{names:?}");
    side_by_side(&names, |(number, name)| {
        let (grain, seconds) = (format!("floodinggrain222222{number:03}"), FLOOD.to_string());
        let app = ["/app", "flood", name, seconds.as_str()];
        let running = bench.start_app(&["--new"], "flooding", &grain, &app)?;
        let said = async |word: &str| {
            let end = Instant::now() + LIMIT;
            loop {
                if let Some(line) = running.log().lines().find(|l| l.contains(word)) {
                    return Ok(line.to_owned());
                }
                ensure!(Instant::now() < end, "it never said {word}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        on_one_thread(async {
            let connection = running.connect().await?;
            let core = std::rc::Rc::new(FakeCore::default());
            connection.give_core(&core).await?;
            // The app starts when somebody wants something of it.
            let _view = connection.supervisor.get_main_view_request().send();
            said("FLOOD-BEGINS").await?;
            tokio::time::sleep(Duration::from_secs(1)).await;
            let time = || processor_time(running.pid()).context("the supervisor lives");
            let (before, begin) = (time()?, Instant::now());
            tokio::time::sleep(MEASURED).await;
            let (used, passed) = (time()? - before, begin.elapsed().as_secs_f64());
            let share = used / passed;
            let done = said("FLOOD-DONE").await?;
            println!("{name}: {:.0} % of a processor; {done}", share * 100.0);
            ensure!(share < FLOOD_SHARE, "{name} took {used:.2} s of {passed:.2} s");
            let taken = done.split("taken=").nth(1).and_then(|rest| rest.split(' ').next());
            let taken: u64 = taken.and_then(|n| n.parse().ok()).context("a number")?;
            let most = FLOOD_TAKEN / if OF_MANY_PARTS.contains(name) { 20 } else { 1 };
            ensure!(taken < most, "{name}: {taken} messages were taken");
            // It is slowed down, not cut off.
            connection.keep_alive().await
        })
        .with_context(|| format!("{name}: {}", running.log()))
    })
}

/// The real shell, with false programs beside it.
struct Besieged {
    server: Server,
    app: App,
    neighbour: Client,
}

impl Besieged {
    fn new() -> Result<Option<Besieged>> {
        let Some(server) = Server::start(Mode::Setuid)? else { return Ok(None) };
        let app = server.install(&apps::package("greedy")?)?;
        let grain = server.create(&app.app_id)?;
        let neighbour = server.session(&grain)?;
        Ok(Some(Besieged { server, app, neighbour }))
    }

    /// The attacker takes the place of a program, which it finds again beside itself.
    fn replace(&self, name: &str, real: &str) -> Result<()> {
        let place = self.server.installation.program(name);
        fs::rename(&place, place.with_file_name(real))?;
        fs::copy(greedy_app(), &place)?;
        fs::set_permissions(&place, fs::Permissions::from_mode(0o755))?;
        Ok(())
    }

    /// Runs a siege; meanwhile neighbour and shell are asked without pause.
    fn siege(&self, what: &str, siege: impl FnOnce() -> Result<()>) -> Result<()> {
        let (pid, over) = (self.server.pid(), AtomicBool::new(false));
        let before = self.server.output().len();
        let begin = Instant::now();
        let (done, answers) = std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(async {
                    let mut answers = 0;
                    while !over.load(Ordering::Relaxed) {
                        let asked = self.neighbour.get("/");
                        let answer = tokio::time::timeout(PATIENCE, asked);
                        let answer = answer.await.context("the neighbour waits")??;
                        ensure!(answer.status == 200, "the neighbour: {}", answer.status);
                        answers += 1;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    Ok(answers)
                })
            });
            let done = siege();
            over.store(true, Ordering::Relaxed);
            (done, watching.join().expect("no panic"))
        });
        let (answers, most) = (answers?, peak(pid).unwrap_or(0));
        println!(
            "{what}: {:.0} s; the neighbour answered {answers} times; most memory of the shell: {} MiB",
            begin.elapsed().as_secs_f64(),
            most >> 10
        );
        done?;
        ensure!(processes::alive(pid), "the shell is gone");
        ensure!(answers > 20, "the neighbour answered {answers} times");
        ensure!(most < SHELL_KIB, "the shell held {} MiB", most >> 10);
        let said = self.server.output().get(before..).unwrap_or_default().to_owned();
        ensure!(!said.contains("panicked"), "the shell said:\n{said}");
        Ok(())
    }
}

/// A false supervisor in the place of the real one, for chosen grains.
fn by_supervisors(besieged: &Besieged) -> Result<()> {
    let server = &besieged.server;
    server.installation.directory("var/sandstorm/attacks")?;
    besieged.replace("sandstorm-supervisor", "real-supervisor")?;
    let names = chosen_attacks(false)?;
    // After a failed start a grain rests for a few seconds: as many grains as attacks at once.
    let grains: Vec<String> =
        (0..AT_ONCE).map(|_| server.create(&besieged.app.app_id)).collect::<Result<_>>()?;
    for grain in &grains {
        server.json(&["grain", "stop", grain])?;
    }
    let turns: Vec<(String, Vec<String>)> = grains
        .into_iter()
        .enumerate()
        .map(|(n, grain)| (grain, names.iter().skip(n).step_by(AT_ONCE).cloned().collect()))
        .collect();
    side_by_side(&turns, |(grain, names)| {
        let client = server.session(grain)?;
        let begun = server.installation.grain_dir(grain).join("attacking");
        let note = begun.with_file_name("attacked");
        for name in names {
            server
                .installation
                .write(&format!("var/sandstorm/attacks/{grain}"), name.as_bytes())?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let end = Instant::now() + LIMIT;
                // After a failure the next start waits a few seconds; then it is this attacker's.
                // Over is the attack when the attacker says so, or when the shell has ended it.
                while !(note.exists() || begun.exists() && server.processes(grain).is_empty()) {
                    // What the visitor gets is an error page, or nothing for as long as they wait.
                    let asked = tokio::time::timeout(Duration::from_secs(2), client.get("/"));
                    if let Ok(Ok(answer)) = asked.await {
                        ensure!(answer.status != 200, "{name}: a false supervisor served a page");
                    }
                    ensure!(Instant::now() < end, "{name} did not come to its end");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Ok(())
            })?;
            fs::remove_file(&begun)?;
            let _ = fs::remove_file(&note);
            server.try_command(&["grain", "stop", grain, "--now"])?;
            for process in server.processes(grain) {
                processes::kill(process.pid);
            }
            server.wait_gone(grain, Duration::from_secs(20))?;
        }
        // With its real supervisor the grain is what it was.
        fs::remove_file(server.home().join("attacks").join(grain))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        eventually(format!("grain {grain} serves again"), LIMIT, || {
            let answer = runtime.block_on(client.get("/")).ok()?;
            (answer.status == 200).then_some(())
        })
    })
}

/// A false `spk unpack-server`: the package itself says which attack.
fn by_unpackers(besieged: &Besieged) -> Result<()> {
    let server = &besieged.server;
    besieged.replace("spk", "real-spk")?;
    // Two unpack at a time.
    let names = chosen_attacks(true)?;
    side_by_side(&names, |name| {
        let package = server
            .installation
            .write(&format!("{name}.spk"), format!("ATTACK {name}\n").as_bytes())?;
        let path = package.to_str().context("a path of plain text")?;
        let begin = Instant::now();
        let done = server.try_command(&["app", "install", path, "--json"])?;
        ensure!(!done.status.success(), "{name}: a false unpacker installed something");
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        ensure!(!said.trim().is_empty() && said.len() < 4000, "{name}: {said:?}");
        ensure!(begin.elapsed() < 2 * LIMIT, "{name}: {:?}", begin.elapsed());
        Ok(())
    })
}

/// Clients of the control socket that are no sub-commands.
fn by_clients(besieged: &Besieged) -> Result<()> {
    let server = &besieged.server;
    let socket = server.home().join("shell.socket");
    // The test's own directory may be closed to the server's user.
    let program = server.installation.dir().join("attacker");
    fs::copy(greedy_app(), &program)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    side_by_side(&chosen_attacks(false)?, |name| {
        let mut command = Command::new(&program);
        command.arg("control").arg(&socket).arg(name).stdin(Stdio::null());
        server.installation.as_user(&mut command);
        let done = command.output()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        ensure!(
            done.status.success() && said.contains("ATTACK-DONE"),
            "{name}: {}: {said} {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    })?;
    ensure!(server.json(&["app", "list"])?.as_array().is_some_and(|apps| apps.len() == 1));
    Ok(())
}

#[test]
fn no_peer_of_the_shell_can_hurt_it() -> Result<()> {
    let _turn = blocking_turn();
    let Some(besieged) = Besieged::new()? else { return Ok(()) };
    besieged.siege("control clients", || by_clients(&besieged))?;
    besieged.siege("false unpackers", || by_unpackers(&besieged))?;
    besieged.siege("false supervisors", || by_supervisors(&besieged))
}
