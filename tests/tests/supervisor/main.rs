//! The real supervisor in both of its modes, without a shell: start, serve, sleep, die, refuse.

mod image;
mod limits;
mod rpc;
mod words;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::fs::FlockOperation;
use sandstorm_tests::supervisor::{Bench, FakeCore, PACKAGE, Running, on_one_thread, within};
use sandstorm_tests::{Mode, eventually, eventually_async, processes};

use self::limits::*;
use self::rpc::*;

const GRAIN: &str = "TestGrain123456789abcd";

/// Each story runs in both modes.
macro_rules! in_both_modes {
    ($($name:ident)*) => {
        mod setuid { $(#[test] fn $name() -> anyhow::Result<()> { super::in_mode(super::Mode::Setuid, super::$name) })* }
        mod userns { $(#[test] fn $name() -> anyhow::Result<()> { super::in_mode(super::Mode::UserNamespace, super::$name) })* }
    };
}

fn in_mode(mode: Mode, story: fn(&Bench) -> Result<()>) -> Result<()> {
    match Bench::new(mode)? {
        Some(bench) => story(&bench),
        None => Ok(()),
    }
}

in_both_modes! {
    what_is_stored_is_there_after_sleep
    a_second_start_joins_the_first
    killing_the_supervisor_leaves_nothing
    killing_the_supervisor_of_a_busy_grain_leaves_nothing
    init_hears_us_among_signals_without_end
    a_grain_nobody_wants_falls_asleep
    the_app_sees_the_contract_and_nothing_else
    a_failed_start_says_what_is_missing
    the_app_can_start_at_once
    one_check_is_like_another
    how_the_app_ended_is_told
    a_flood_of_output_is_capped
    the_log_can_be_watched
    published_files_are_served_without_the_app
    wrong_owners_and_modes_are_refused
    a_start_costs_milliseconds
    a_server_that_steps_back_starts_grains
    mounts_of_a_shared_home_stay_inside
    the_size_is_reported
    a_wake_lock_holds_and_the_owner_can_end_it
    a_grain_ends_when_its_memory_is_used_up
    processes_are_limited
    the_supervisor_confines_itself
    a_full_disk_is_an_error_and_passes
    a_grain_may_have_all_the_files_of_its_limit
    objects_are_saved_across_the_border_and_only_so
    callers_hear_why_the_app_is_gone
}

fn what_is_stored_is_there_after_sleep(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let session = grain.session("Ada").await?;
        ensure!(session.get("/").await?.contains("Ada (abab"));
        ensure!(session.post("first words").await? == "stored 1\n");
        ensure!(session.get("/text").await? == "first words");
        // Its success is the disconnect.
        let answer = within(grain.supervisor.shutdown_request().send().promise).await;
        ensure!(answer.is_err(), "shutdown answered");
        Ok(())
    })?;
    ensure!(running.exit_within(Duration::from_secs(3))?.code() == Some(0));
    ensure!(running.log().contains("shut down as asked"), "{}", running.log());
    let stored = fs::metadata(bench.installation.grain_dir(GRAIN).join("sandbox/text"))?;
    ensure!(stored.uid() == bench.installation.uid, "owner on disk is {}", stored.uid());

    let again = bench.start(&[], GRAIN)?;
    on_one_thread(async {
        let session = again.connect().await?.session("Ada").await?;
        ensure!(session.get("/text").await? == "first words");
        ensure!(session.get("/count").await? == "1");
        Ok(())
    })?;
    let new = bench.refused(&["--new"], PACKAGE, GRAIN);
    drop(again);
    let new = new?;
    ensure!(new.status == Some(5) && new.stderr.contains("exists already"), "{new:?}");
    let missing = bench.refused(&[], PACKAGE, "NoSuchGrain123")?;
    ensure!(missing.status == Some(5) && missing.stderr.contains("--new"), "{missing:?}");
    Ok(())
}

fn a_second_start_joins_the_first(bench: &Bench) -> Result<()> {
    let first = bench.start(&["--new"], GRAIN)?;
    for _ in 0..3 {
        let second = bench.command(&[], PACKAGE, GRAIN, &["/app"]).output()?;
        ensure!(second.status.code() == Some(0), "{second:?}");
        ensure!(second.stdout == b"Already running...\n", "{second:?}");
    }
    on_one_thread(async { first.connect().await?.keep_alive().await })?;

    // Many at once on a sleeping grain: one serves, the others join it.
    drop(first);
    let mut starts = Vec::new();
    for _ in 0..8 {
        starts.push(bench.command(&["--idle-seconds", "20"], PACKAGE, GRAIN, &["/app"]).spawn()?);
    }
    let mut lines = Vec::new();
    for start in &mut starts {
        use std::io::BufRead;
        let mut line = String::new();
        let stdout = start.stdout.take().context("piped")?;
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        lines.push(line);
    }
    let served = lines.iter().filter(|l| *l == "Listening...\n").count();
    let joined = lines.iter().filter(|l| *l == "Already running...\n").count();
    for start in &mut starts {
        let _ = start.kill();
        let _ = start.wait();
    }
    ensure!((served, joined) == (1, 7), "{lines:?}");
    Ok(())
}

fn killing_the_supervisor_leaves_nothing(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        for _ in 0..3 {
            session.get("/spawn").await?;
        }
        Ok(())
    })?;
    let inside: Vec<i32> = running.inside().iter().map(|p| p.pid).collect();
    ensure!(inside.len() == 5, "init, the app and three helpers, not {inside:?}");
    processes::kill(running.pid());
    eventually("the end of every process of the grain", Duration::from_secs(1), || {
        let left = processes::all().into_iter().any(|p| inside.contains(&p.pid));
        (!left).then_some(())
    })?;
    // And a new start meets no old writer, nor a stale socket.
    let again = bench.start(&[], GRAIN)?;
    on_one_thread(async { again.connect().await?.keep_alive().await })
}

/// Init must get the processor among hundreds of spinning processes, and must have seen each of
/// them gone before the grain's lock is free.
fn killing_the_supervisor_of_a_busy_grain_leaves_nothing(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        session.get("/spin?n=250").await
    })?;
    let inside: Vec<i32> = running.inside().iter().map(|p| p.pid).collect();
    ensure!(inside.len() == 252, "{} processes", inside.len());
    let lock = fs::File::open(running.grain_dir.join("lock"))?;
    // They begin to spin two seconds after their start.
    std::thread::sleep(Duration::from_secs(3));
    let began = Instant::now();
    processes::kill(running.pid());
    eventually("the lock", Duration::from_secs(10), || {
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()
    })?;
    println!("{:?} after the supervisor's death", began.elapsed());
    let left = processes::all().into_iter().filter(|p| inside[1..].contains(&p.pid)).count();
    ensure!(left == 0, "the lock was free and {left} processes still there");
    Ok(())
}

/// The app may send init any signal, as fast as it can.
fn init_hears_us_among_signals_without_end(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        running.connect().await?.session("Ada").await?.get("/pester?n=8").await
    })?;
    let inside: Vec<i32> = running.inside().iter().map(|p| p.pid).collect();
    ensure!(inside.len() == 10, "{} processes", inside.len());
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    processes::kill(running.pid());
    eventually("the end of init", Duration::from_secs(5), || {
        processes::all().into_iter().all(|p| !inside.contains(&p.pid)).then_some(())
    })?;
    println!("{:?} after the supervisor's death", began.elapsed());
    running.exit_within(Duration::from_secs(1))?;
    Ok(())
}

fn a_grain_nobody_wants_falls_asleep(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new", "--idle-seconds", "2"], GRAIN)?;
    let started = Instant::now();
    on_one_thread(async {
        let grain = running.connect().await?;
        for _ in 0..3 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            grain.keep_alive().await?;
        }
        Ok(())
    })?;
    ensure!(running.exit_within(Duration::from_secs(6))?.code() == Some(0));
    ensure!(started.elapsed() >= Duration::from_millis(4900), "{:?}", started.elapsed());
    ensure!(running.log().contains("falling asleep"), "{}", running.log());
    ensure!(!running.grain_dir.join("socket").exists(), "the socket was left over");
    Ok(())
}

fn the_app_sees_the_contract_and_nothing_else(bench: &Bench) -> Result<()> {
    let options = ["--new", "-e", "A=1", "-e", "LANG=C.UTF-8"];
    let running = bench.start(&options, GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        ensure!(session.get("/env").await? == "A=1\nLANG=C.UTF-8\n");
        let fds = session.get("/fds").await?;
        // 0 to 3 as handed over; the app's own runtime has some above.
        ensure!(fds.starts_with("0\n1\n2\n3\n"), "{fds}");
        Ok(())
    })?;
    for process in running.inside() {
        let status = fs::read_to_string(format!("/proc/{}/status", process.pid))?;
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .map(|v| v.trim().to_owned())
                .unwrap_or_default()
        };
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
            ensure!(field(set) == "0000000000000000", "{set} {}", field(set));
        }
        ensure!(field("NoNewPrivs:") == "1" && field("Seccomp:") == "2");
        let uid = field("Uid:");
        match bench.installation.mode {
            Mode::Setuid => ensure!(uid.starts_with("16106"), "a uid of its own: {uid}"),
            Mode::UserNamespace => {
                ensure!(uid.starts_with(&bench.installation.uid.to_string()), "{uid}");
            }
        }
    }
    // The supervisor itself keeps nothing either.
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid()))?;
    ensure!(status.contains("NoNewPrivs:\t1") && status.contains("CapEff:\t0000000000000000"));
    ensure!(status.contains("CapPrm:\t0000000000000000"), "{status}");
    Ok(())
}

fn a_failed_start_says_what_is_missing(bench: &Bench) -> Result<()> {
    let told = |package: &str, options: &[&str]| -> Result<String> {
        let done = bench.command(options, package, GRAIN, &["/app"]).output()?;
        ensure!(done.status.code() == Some(5), "{done:?}");
        Ok(String::from_utf8_lossy(&done.stderr).into_owned())
    };
    ensure!(told("nothing", &["--new"])?.contains("there is no package"));
    ensure!(told(PACKAGE, &[])?.contains("--new makes one"));
    ensure!(told(PACKAGE, &["--home", "/nowhere"])?.contains("there is no home /nowhere"));
    let package = bench.home().join("apps").join(PACKAGE);
    fs::write(package.join("script"), "#!/bin/nowhere\n")?;
    fs::set_permissions(package.join("script"), fs::Permissions::from_mode(0o755))?;
    fs::write(package.join("text"), "hello")?;
    fs::set_permissions(package.join("text"), fs::Permissions::from_mode(0o755))?;
    fs::write(package.join("data"), "hello")?;
    let cases = [
        ("/no/such/program", "/no/such/program is missing from the package"),
        ("/script", "interpreter that it needs (/bin/nowhere) is missing"),
        ("/text", "not a program for this machine"),
        ("/data", "not executable"),
    ];
    for (n, (program, words)) in cases.iter().enumerate() {
        let grain = format!("{GRAIN}{n}");
        let mut running = bench.start_app(&["--new"], PACKAGE, &grain, &[program])?;
        let told = on_one_thread(async {
            let grain = running.connect().await?;
            Ok(grain.view().await.map(|_| ()).unwrap_err().to_string())
        })?;
        ensure!(told.contains(words), "{program}: {told}");
        ensure!(running.exit_within(Duration::from_secs(3))?.code() == Some(1));
        ensure!(running.log().contains(words), "{}", running.log());
    }
    Ok(())
}

fn one_check_is_like_another(bench: &Bench) -> Result<()> {
    for round in 0..30 {
        let mut command = bench.installation.command("sandstorm-supervisor");
        let checked = command.arg("--home").arg(bench.home()).arg("--check").output()?;
        let words = String::from_utf8_lossy(&checked.stderr);
        ensure!(checked.status.success(), "{round}: {words}");
        ensure!(checked.stdout.starts_with(b"mode: "), "{round}: {checked:?}");
    }
    Ok(())
}

fn the_app_can_start_at_once(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new", "--start"], GRAIN)?;
    // Init and the app, whose exec has succeeded, and nobody has called.
    let inside = running.inside();
    ensure!(inside.len() == 2, "{inside:?}");
    drop(running);
    let mut command = bench.command(&["--start"], PACKAGE, GRAIN, &["/no/such/program"]);
    let failed = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output()?;
    let told = String::from_utf8_lossy(&failed.stderr);
    ensure!(told.contains("/no/such/program is missing from the package"), "{told}");
    ensure!(failed.status.code() == Some(1), "{}", failed.status);
    ensure!(failed.stdout.is_empty(), "it must not say that it serves");
    Ok(())
}

fn how_the_app_ended_is_told(bench: &Bench) -> Result<()> {
    for (n, (path, words)) in [
        ("/exit?status=3", "exit status 3"),
        ("/abort", "SIGABRT"),
        ("/exit?status=0", "exit status 0"),
        ("/close-door", "closed its connection (fd 3)"),
    ]
    .iter()
    .enumerate()
    {
        let grain = format!("{GRAIN}{n}");
        let mut running = bench.start(&["--new"], &grain)?;
        on_one_thread(async {
            let session = running.connect().await?.session("Ada").await?;
            ensure!(session.get(path).await.is_err(), "the app answered while it died");
            Ok(())
        })?;
        ensure!(running.exit_within(Duration::from_secs(3))?.code() == Some(1));
        ensure!(running.log().contains(words), "{path}: {}", running.log());
    }
    Ok(())
}

fn a_flood_of_output_is_capped(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        let started = Instant::now();
        session.get("/log?mib=4").await?;
        // A megabyte at once, then a megabyte a second.
        ensure!(started.elapsed() > Duration::from_secs(2), "{:?}", started.elapsed());
        Ok(())
    })?;
    let size = |name: &str| fs::metadata(running.grain_dir.join(name)).map_or(0, |m| m.len());
    ensure!(size("log") <= 600 << 10, "log has {}", size("log"));
    ensure!(size("log.1") <= 600 << 10, "log.1 has {}", size("log.1"));
    ensure!(size("log.1") >= 400 << 10, "log.1 has {}", size("log.1"));
    Ok(())
}

fn wrong_owners_and_modes_are_refused(bench: &Bench) -> Result<()> {
    let grains = bench.home().join("grains");
    let mode = |m: u32| fs::set_permissions(&grains, fs::Permissions::from_mode(m));
    for bad in [0o777, 0o720, 0o702] {
        mode(bad)?;
        let refusal = bench.refused(&["--new"], PACKAGE, GRAIN)?;
        ensure!(refusal.status == Some(3), "{refusal:?}");
        ensure!(refusal.stderr.contains("chmod go-w"), "{refusal:?}");
    }
    mode(0o700)?;
    if sandstorm_tests::is_root() {
        std::os::unix::fs::chown(&grains, Some(bench.installation.uid + 10_000), None)?;
        mode(0o755)?;
        let refusal = bench.refused(&["--new"], PACKAGE, GRAIN)?;
        ensure!(refusal.status == Some(3), "{refusal:?}");
        ensure!(refusal.stderr.contains("belongs to uid"), "{refusal:?}");
        bench.give(&grains)?;
    }
    fs::rename(&grains, bench.home().join("elsewhere"))?;
    symlink("elsewhere", &grains)?;
    let refusal = bench.refused(&["--new"], PACKAGE, GRAIN)?;
    ensure!(refusal.status == Some(5) && refusal.stderr.contains("not a link"), "{refusal:?}");
    fs::remove_file(&grains)?;
    fs::rename(bench.home().join("elsewhere"), &grains)?;
    mode(0o700)?;
    // The twin without any fault.
    bench.start(&["--new"], GRAIN)?;
    Ok(())
}

fn a_start_costs_milliseconds(bench: &Bench) -> Result<()> {
    drop(bench.start(&["--new"], GRAIN)?);
    let mut times = Vec::new();
    for _ in 0..10 {
        let begun = Instant::now();
        let running = bench.start(&[], GRAIN)?;
        times.push(begun.elapsed());
        drop(running);
    }
    times.sort();
    eprintln!("spawn to `Listening...`: median {:?}, best {:?}", times[5], times[0]);
    ensure!(times[5] < Duration::from_secs(1));
    Ok(())
}

/// A server under `nice`, with few descriptors and an odd umask, as a batch system starts it.
fn a_server_that_steps_back_starts_grains(bench: &Bench) -> Result<()> {
    use std::os::unix::process::CommandExt;
    let mut command = bench.command(&["--new"], PACKAGE, GRAIN, &["/app"]);
    // SAFETY: plain calls that may be made between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::nice(19);
            libc::umask(0o077);
            for (resource, most) in [(libc::RLIMIT_NOFILE, 256), (libc::RLIMIT_SIGPENDING, 64)] {
                let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
                libc::setrlimit(resource, &raw const limit);
            }
            Ok(())
        });
    }
    let running = Running::wait(command.spawn()?, bench.installation.grain_dir(GRAIN))?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        ensure!(session.post("words").await? == "stored 1\n");
        Ok(())
    })
}

/// Where systemd started the machine every mount is shared, and a copy of one is too: what a grain
/// mounts on it would appear outside, and it could not become the grain's root.
fn mounts_of_a_shared_home_stay_inside(bench: &Bench) -> Result<()> {
    if !sandstorm_tests::is_root() {
        sandstorm_tests::skip!(Ok(()), "only root makes mounts shared");
    }
    let shared = SharedMount::over(bench.home())?;
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        ensure!(session.post("kept").await? == "stored 1\n");
        Ok(())
    })?;
    let outside = processes::mounts_below(&bench.home().to_string_lossy());
    ensure!(outside.len() == 1, "mounts of the grain are outside: {outside:?}");
    drop(running);
    drop(shared);
    Ok(())
}

/// On a file system that cannot be id-mapped a grain still runs, as it would without root: nothing that
/// root opened is left to processes of the caller's uid.
#[test]
fn a_home_that_cannot_be_id_mapped_will_do() -> Result<()> {
    let Some(bench) = Bench::new(Mode::Setuid)? else { return Ok(()) };
    let mapped = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let session = mapped.connect().await?.session("Ada").await?;
        ensure!(session.post("before").await? == "stored 1\n");
        Ok(())
    })?;
    drop(mapped);

    let (upper, work) =
        (bench.installation.dir().join("upper"), bench.installation.dir().join("work"));
    let grains = bench.home().join("grains");
    for dir in [&upper, &work] {
        fs::create_dir(dir)?;
    }
    bench.give(&upper)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o700))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        grains.display(),
        upper.display(),
        work.display()
    );
    let mut mount = std::process::Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(&grains);
    if !mount.status()?.success() {
        sandstorm_tests::skip!(Ok(()), "no overlay can be mounted here");
    }
    let mounted = SharedMount(grains);
    let running = bench.start(&[], GRAIN)?;
    let log = running.log();
    if !log.contains("without a uid of its own") {
        sandstorm_tests::skip!(Ok(()), "this kernel maps ids of an overlay: {log}");
    }
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        ensure!(session.get("/text").await? == "before");
        ensure!(session.post("after").await? == "stored 2\n");
        Ok(())
    })?;
    let inside = running.inside();
    ensure!(inside.len() >= 2, "{inside:?}");
    ensure!(inside.iter().all(|p| p.uid == bench.installation.uid), "{inside:?}");
    let now = log.rsplit("without a uid of its own").next().unwrap_or_default();
    ensure!(!now.contains("limits by cgroup version 1"), "{now}");
    for process in inside.iter().map(|p| p.pid).chain([running.pid()]) {
        let open = processes::open_files(process);
        ensure!(!open.iter().any(|path| path.contains("/sys/fs/cgroup")), "{open:?}");
    }
    drop(running);
    drop(mounted);
    Ok(())
}

/// A directory bound over itself and made shared.
struct SharedMount(std::path::PathBuf);

impl SharedMount {
    fn over(dir: std::path::PathBuf) -> Result<SharedMount> {
        for option in ["--bind", "--make-shared"] {
            let mut mount = std::process::Command::new("mount");
            mount.arg(option).arg(&dir);
            if option == "--bind" {
                mount.arg(&dir);
            }
            ensure!(mount.status()?.success(), "mount {option} {}", dir.display());
        }
        Ok(SharedMount(dir))
    }
}

impl Drop for SharedMount {
    fn drop(&mut self) {
        // Lazily: the grain may still be ending, and everything below goes with it.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn the_supervisor_confines_itself(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid()))?;
    ensure!(status.contains("Seccomp:\t2"), "no filter: {status}");
    ensure!(!running.log().contains("Landlock"), "{}", running.log());
    // Undumpable: its /proc entries belong to root, so that nobody of its uid can look into it.
    let owner = fs::metadata(format!("/proc/{}/environ", running.pid()))?.uid();
    ensure!(owner == 0, "its /proc entries belong to {owner}");
    let init = running.inside().first().context("init")?.pid;
    let owner = fs::metadata(format!("/proc/{init}/environ"))?.uid();
    ensure!(owner == 0, "init's /proc entries belong to {owner}");
    Ok(())
}
