//! A hostile caller of the setuid program: whatever it hands on at exec, swaps on disk or signals,
//! it gains nothing, and the next honest start works.
//!
//! The races last four seconds, and a minute each in the soak (`SANDSTORM_RACE_SECONDS`).

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::FlockOperation;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{Gid, Uid};
use sandstorm_tests::supervisor::{Bench, PACKAGE, Running, on_one_thread};
use sandstorm_tests::{Mode, eventually, processes};

const GRAIN: &str = "HostileStart1234567890";
/// That of a test which ends processes by this name, beside others.
const KEYED: &str = "TerminalKeys1234567890";

fn bench() -> Result<Option<Bench>> {
    Bench::new(Mode::Setuid)
}

fn race_time() -> Duration {
    let seconds = std::env::var("SANDSTORM_RACE_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(4))
}

/// What the caller does between fork and exec.
fn with(mut command: Command, act: impl FnMut() + Send + Sync + 'static) -> Command {
    let mut act = act;
    // SAFETY: the closures below make system calls only, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            act();
            Ok(())
        });
    }
    command
}

/// A start whose stdout is not ours to read: it serves, or it has ended with words.
fn serves_or_refuses(bench: &Bench, mut child: std::process::Child) -> Result<Option<String>> {
    let socket = bench.installation.grain_dir(GRAIN).join("socket");
    let ended = eventually("a socket or an end", Duration::from_secs(20), || {
        match child.try_wait().ok().flatten() {
            Some(status) => Some(Some(status)),
            None => std::os::unix::net::UnixStream::connect(&socket).is_ok().then_some(None),
        }
    })?;
    match ended {
        None => {
            let served = child.kill();
            child.wait()?;
            served?;
            eventually("the grain's end", Duration::from_secs(10), || {
                processes::naming(GRAIN).is_empty().then_some(())
            })?;
            Ok(None)
        }
        Some(status) => {
            ensure!(status.signal().is_none(), "it died: {status}");
            let mut words = String::new();
            if let Some(mut stderr) = child.stderr.take() {
                std::io::Read::read_to_string(&mut stderr, &mut words)?;
            }
            Ok(Some(format!("{status}: {words}")))
        }
    }
}

fn honest_start(bench: &Bench) -> Result<Running> {
    bench.start(&[], GRAIN).context("an honest start afterwards")
}

fn set_limit(resource: Resource, value: u64) {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    // One that is refused is no test, and what follows says what it then was.
    let _ = rustix::process::setrlimit(resource, limit);
}

#[test]
fn odd_inheritances_change_nothing() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    let start = || bench.command(&[], PACKAGE, GRAIN, &["/app"]);

    // Fds 0 to 2 closed.
    let child = with(start(), || {
        for fd in 0..3 {
            // SAFETY: closes numbers that exec would hand on.
            unsafe { libc::close(fd) };
        }
    })
    .spawn()?;
    ensure!(serves_or_refuses(&bench, child)?.is_none(), "closed fds");

    // Umask, niceness, blocked and ignored signals, an interval timer about to go off.
    let child = with(start(), || {
        // SAFETY: plain calls; all-ones and zeroed structures are valid for them.
        unsafe {
            libc::umask(0o777);
            libc::nice(19);
            for signal in 1..32 {
                libc::signal(signal, libc::SIG_IGN);
            }
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
            let mut soon: libc::itimerval = std::mem::zeroed();
            soon.it_value.tv_usec = 500_000;
            libc::setitimer(libc::ITIMER_REAL, &raw const soon, std::ptr::null_mut());
            libc::setsid();
        }
    })
    .spawn()?;
    ensure!(serves_or_refuses(&bench, child)?.is_none(), "signals and umask");
    let modes = fs::metadata(bench.installation.grain_dir(GRAIN).join("log"))?.mode() & 0o777;
    ensure!(modes == 0o600, "the log has mode {modes:o}");

    // A clock by which no short sleep ever ends.
    let child = with(start(), || {
        // SAFETY: one number.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 9_000_000_000_000_000_000_u64) };
    })
    .spawn()?;
    let clock = format!("/proc/{}/timerslack_ns", child.id());
    let pid = child.id();
    eventually("an usual clock", Duration::from_secs(10), || {
        let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        let started = program.to_string_lossy().contains("sandstorm-supervisor");
        (started && fs::read_to_string(&clock).ok()?.trim() == "50000").then_some(())
    })?;
    ensure!(serves_or_refuses(&bench, child)?.is_none(), "timer slack");

    // Ten thousand variables, some that loaders and allocators like.
    let mut command = start();
    for n in 0..10_000 {
        command.env(format!("VARIABLE_{n}"), "x".repeat(20));
    }
    command.env("LD_PRELOAD", "/tmp/evil.so").env("GLIBC_TUNABLES", "glibc.malloc.check=3");
    command.env("MALLOC_PERTURB_", "1").env("TZ", "/etc/shadow");
    ensure!(serves_or_refuses(&bench, command.spawn()?)?.is_none(), "environment");

    // A working directory far down, and then gone.
    let mut deep = bench.installation.directory("deep")?;
    let top = deep.clone();
    for _ in 0..60 {
        deep.push("d".repeat(60));
        if deep.as_os_str().len() > 3500 {
            deep.pop();
            break;
        }
        fs::create_dir(&deep)?;
        bench.give(&deep)?;
    }
    let mut command = start();
    command.current_dir(&deep);
    let command = with(command, move || {
        let path = std::ffi::CString::new(top.as_os_str().as_encoded_bytes()).unwrap_or_default();
        let _ = rustix::fs::rmdir(path.as_c_str());
    });
    let mut command = command;
    ensure!(serves_or_refuses(&bench, command.spawn()?)?.is_none(), "deep working directory");
    drop(honest_start(&bench)?);
    Ok(())
}

/// A control group that allows few processes makes forks fail half-way, and nothing waits for ever.
#[test]
fn too_few_processes_end_in_words() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    let group = Path::new("/sys/fs/cgroup/pids").join(format!("few-{}", std::process::id()));
    if fs::create_dir(&group).is_err() {
        sandstorm_tests::skip!(Ok(()), "no pids controller of version 1 here");
    }
    let entrance = Arc::new(fs::OpenOptions::new().write(true).open(group.join("cgroup.procs"))?);
    let told = (|| {
        for most in (1..=5).cycle().take(60) {
            fs::write(group.join("pids.max"), format!("{most}"))?;
            let command = bench.command(&[], PACKAGE, GRAIN, &["/app"]);
            let entrance = entrance.clone();
            let child = with(command, move || {
                let _ = rustix::io::write(&entrance, b"0");
            });
            let Ok(child) = { child }.spawn() else { continue };
            if let Some(words) = serves_or_refuses(&bench, child)? {
                ensure!(words.contains("sandstorm-supervisor: "), "{most}: {words}");
            }
            eventually("no process of the grain", Duration::from_secs(10), || {
                processes::naming(GRAIN).is_empty().then_some(())
            })
            .with_context(|| format!("after {most}"))?;
        }
        Ok(())
    })();
    let _ = fs::remove_dir(&group);
    told?;
    drop(honest_start(&bench)?);
    Ok(())
}

#[test]
fn tiny_limits_are_lifted_or_end_in_words() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    let cases: &[(&str, Resource, &[u64])] = &[
        ("files", Resource::Nofile, &[0, 3, 4, 6, 8, 12, 16, 20, 24, 32]),
        ("file size", Resource::Fsize, &[0, 1, 100]),
        ("data", Resource::Data, &[0, 100_000, 1 << 20]),
        ("address space", Resource::As, &[0, 1 << 20, 4 << 20, 16 << 20]),
        ("stack", Resource::Stack, &[64 << 10, 1 << 20]),
        ("processor time", Resource::Cpu, &[1]),
        ("processes", Resource::Nproc, &[0, 1, 2]),
        ("locked memory", Resource::Memlock, &[0]),
        ("core", Resource::Core, &[u64::MAX]),
    ];
    for (name, resource, values) in cases {
        for &value in *values {
            let resource = *resource;
            let command = bench.command(&[], PACKAGE, GRAIN, &["/app"]);
            let child = with(command, move || set_limit(resource, value)).spawn();
            // The kernel may refuse the exec itself, or kill it before its first instruction.
            let Ok(child) = child else { continue };
            match serves_or_refuses(&bench, child) {
                Ok(None) => {}
                Ok(Some(words)) => {
                    ensure!(words.contains("sandstorm-supervisor: "), "{name} {value}: {words}");
                }
                Err(died) => {
                    let before_main = ["file", "data", "address space", "files", "stack"];
                    ensure!(before_main.contains(name), "{name} {value}: {died}");
                }
            }
            eventually("no process of the grain", Duration::from_secs(10), || {
                processes::naming(GRAIN).is_empty().then_some(())
            })
            .with_context(|| format!("after {name} {value}"))?;
        }
    }
    let mut dumps = fs::read_dir(bench.home())?.flatten();
    ensure!(!dumps.any(|e| e.file_name().to_string_lossy().starts_with("core")), "a core dump");
    drop(honest_start(&bench)?);
    Ok(())
}

#[test]
fn a_full_pipe_as_stdout_stops_nothing() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    let (read, write) = nix::unistd::pipe()?;
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    while nix::unistd::write(&write, &[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&write, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()))?;
    let mut command = bench.command(&[], PACKAGE, GRAIN, &["/app"]);
    command.stdout(write);
    let child = command.spawn()?;
    ensure!(serves_or_refuses(&bench, child)?.is_none());
    drop(read);
    Ok(())
}

/// Signals at every moment of a start: whatever is killed leaves nothing half-made.
#[test]
fn signals_at_any_step_leave_nothing() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    // How long a start takes here and now.
    let begun = Instant::now();
    drop(bench.start(&["--new"], GRAIN)?);
    let span = begun.elapsed().max(Duration::from_millis(5));
    let until = Instant::now() + race_time();
    let mut round = 0u32;
    while Instant::now() < until {
        round += 1;
        let new = format!("Round{round:08}");
        let mut child = bench.command(&["--new"], PACKAGE, &new, &["/app"]).spawn()?;
        let pid = child.id() as i32;
        let moment = span.mul_f64(f64::from(round % 40) / 30.0);
        // The caller's own uid sends it, as a real one would.
        let send = |signal: i32| {
            let mut kill = Command::new("/bin/kill");
            kill.arg(format!("-{signal}")).arg(pid.to_string()).stderr(std::process::Stdio::null());
            bench.installation.as_user(&mut kill);
            kill.status()
        };
        let started = Instant::now();
        while started.elapsed() < moment {
            std::hint::spin_loop();
        }
        match round % 3 {
            0 => {
                send(libc::SIGSTOP)?;
                send(libc::SIGCONT)?;
                send(libc::SIGTERM)?;
            }
            1 => drop(send(libc::SIGKILL)?),
            _ => processes::kill(pid),
        }
        let _ = child.kill();
        child.wait()?;
        eventually("no process of the grain", Duration::from_secs(2), || {
            processes::naming(&new).is_empty().then_some(())
        })?;
        // Started again: `--new` if the first did not get so far, without it if it did.
        let made = bench.installation.grain_dir(&new).join("sandbox").exists();
        let options: &[&str] = if made { &[] } else { &["--new"] };
        drop(bench.start(options, &new).with_context(|| format!("after round {round}"))?);
    }
    let left = processes::mounts_below(&bench.home().to_string_lossy());
    ensure!(left.is_empty(), "mounts are left: {left:?}");
    eprintln!("{round} starts were interrupted");
    ensure!(round >= 5);
    Ok(())
}

/// Has the program started as a job in the foreground of this terminal, whose keys then signal it.
fn in_foreground(command: Command, terminal: std::os::fd::OwnedFd) -> Command {
    let terminal = Arc::new(terminal);
    with(command, move || {
        let terminal = terminal.as_raw_fd();
        // SAFETY: plain calls between fork and exec. The fork leaves a session's leader, as a shell is
        // one, that holds nothing open and ends with its job.
        unsafe {
            libc::setsid();
            libc::ioctl(terminal, libc::TIOCSCTTY, 0);
            let job = libc::fork();
            if job == 0 {
                libc::setpgid(0, 0);
                return;
            }
            libc::setpgid(job, job);
            libc::tcsetpgrp(terminal, job);
            for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
                libc::signal(signal, libc::SIG_IGN);
            }
            libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
            let mut status = 0;
            libc::waitpid(job, &raw mut status, 0);
            libc::_exit(0);
        }
    })
}

/// Keys signal a whole foreground group and ask for no right over it: none of ours may stop or end by
/// them while it is root, since it may hold a slot that every start waits for.
#[test]
fn a_terminals_keys_stop_nothing_that_is_root() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let begun = Instant::now();
    drop(bench.start(&["--new"], KEYED)?);
    let span = begun.elapsed().max(Duration::from_millis(5));
    let until = Instant::now() + race_time();
    let (mut rounds, mut stopped, mut ended) = (0u32, 0u32, 0u32);
    while Instant::now() < until {
        rounds += 1;
        let tty = nix::pty::openpty(None, None)?;
        let mut keys = fs::File::from(tty.master);
        let command = bench.command(&[], PACKAGE, KEYED, &["/app"]);
        let mut child = in_foreground(command, tty.slave).spawn()?;
        // ^Z, ^C, ^\ of a terminal's usual settings.
        let key = [0x1a, 0x1a, 0x03, 0x1c][rounds as usize % 4];
        let moment = span.mul_f64(f64::from(rounds % 50) / 50.0);
        let started = Instant::now();
        while started.elapsed() < moment {
            std::hint::spin_loop();
        }
        keys.write_all(&[key])?;
        std::thread::sleep(Duration::from_millis(10));
        for pid in processes::naming(KEYED) {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let of = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or("");
            let is_stopped = of("State:").trim_start().starts_with('T');
            // Before it is root in every way it has made nothing.
            let real = of("Uid:").split_whitespace().next().unwrap_or("");
            ensure!(!is_stopped || real != "0", "stopped as root: {status}");
            stopped += u32::from(is_stopped);
        }
        match processes::naming(KEYED).is_empty() {
            true => ended += 1,
            false => processes::naming(KEYED).into_iter().for_each(processes::kill),
        }
        child.wait()?;
        eventually("no process of the grain", Duration::from_secs(10), || {
            processes::naming(KEYED).is_empty().then_some(())
        })?;
    }
    eprintln!("{rounds} starts, {stopped} stopped without rights, {ended} ended");
    ensure!(stopped > 0 && ended > 0, "no key was heard");
    drop(bench.start(&[], KEYED)?);
    Ok(())
}

/// The owner of the home swaps what is below it for links to other people's directories.
#[test]
fn swapped_directories_lead_nowhere() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    // Not the caller's: as /etc would be.
    let treasure = bench.installation.dir().join("treasure");
    fs::create_dir(&treasure)?;
    fs::create_dir(treasure.join("sandbox"))?;
    fs::write(treasure.join("secret"), "secret")?;
    fs::write(treasure.join("sandbox/text"), "secret")?;
    fs::set_permissions(&treasure, fs::Permissions::from_mode(0o755))?;
    let before = listing(&treasure)?;

    let grain = bench.installation.grain_dir(GRAIN);
    let package = bench.home().join("apps").join(PACKAGE);
    let stop = Arc::new(AtomicBool::new(false));
    let mut swappers = Vec::new();
    // The outer before the inner, which matters for putting back.
    let swapped = [
        (grain.clone(), treasure.clone()),
        (grain.join("sandbox"), treasure.join("sandbox")),
        (package, treasure.clone()),
    ];
    for (path, target) in swapped.clone() {
        let stop = stop.clone();
        let uid = Uid::from_raw(bench.installation.uid);
        let gid = Gid::from_raw(bench.installation.gid);
        swappers.push(std::thread::spawn(move || {
            // This thread alone becomes the caller: these calls leave the others as they are.
            rustix::thread::set_thread_res_gid(gid, gid, gid).unwrap();
            rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
            let aside = path.with_extension("aside");
            let mut swaps = 0u32;
            while !stop.load(Ordering::Relaxed) {
                // Another swap may have come between the halves of the last one.
                put_back(&path);
                if fs::rename(&path, &aside).is_ok() {
                    let _ = symlink(&target, &path);
                    std::thread::yield_now();
                    let _ = fs::remove_file(&path);
                    let _ = fs::rename(&aside, &path);
                    swaps += 1;
                }
                std::thread::sleep(Duration::from_micros(u64::from(swaps * 7919 % 40) * 500));
            }
            swaps
        }));
    }
    let until = Instant::now() + race_time();
    let (mut served, mut refused) = (0u32, 0u32);
    while Instant::now() < until {
        match bench.start(&[], GRAIN) {
            Ok(running) => {
                served += 1;
                let text = on_one_thread(async {
                    let connect = running.connect().await;
                    let Ok(grain) = connect else { return Ok(String::new()) };
                    let Ok(session) = grain.session("Mallory").await else {
                        return Ok(String::new());
                    };
                    let _ = session.post("mine").await;
                    session.get("/text").await
                });
                if let Ok(text) = text {
                    ensure!(text != "secret", "the grain saw another's directory");
                }
            }
            Err(_) => refused += 1,
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps: u32 = swappers.into_iter().map(|s| s.join().unwrap_or(0)).sum();
    swapped.iter().for_each(|(path, _)| put_back(path));
    eprintln!("{swaps} swaps, {served} starts served, {refused} refused");
    ensure!(listing(&treasure)? == before, "the other's directory was changed");
    ensure!(served > 3 && refused > 3 && swaps > 50, "no race took place");
    drop(honest_start(&bench)?);
    Ok(())
}

/// Undoes a swap that stopped half way.
fn put_back(path: &Path) {
    let aside = path.with_extension("aside");
    if fs::symlink_metadata(&aside).is_ok() {
        if fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) {
            let _ = fs::remove_file(path);
        }
        let _ = fs::rename(&aside, path);
    }
}

/// Names, owners, modes and contents below a directory.
fn listing(dir: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let meta = fs::symlink_metadata(&path)?;
        let text = if meta.is_file() { fs::read_to_string(&path)? } else { String::new() };
        lines.push(format!("{} {} {:o} {text}", path.display(), meta.uid(), meta.mode()));
        if meta.is_dir() {
            lines.extend(listing(&path)?);
        }
    }
    lines.sort();
    Ok(lines)
}

#[test]
fn a_wrongly_installed_program_refuses_to_run() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let program = bench.installation.program("sandstorm-supervisor");
    for mode in [0o4755, 0o4770, 0o4710, 0o6750] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode))?;
        let done = bench.command(&["--new"], PACKAGE, GRAIN, &["/app"]).output()?;
        let words = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.code() == Some(3), "{mode:o}: {done:?}");
        ensure!(words.contains("chmod 4750") && words.contains("chown root"), "{words}");
    }
    // Without the bit it is a program like any other, and says what it took.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    let plain = bench.start(&["--new"], GRAIN)?;
    ensure!(plain.log().contains("user-namespace mode"), "{}", plain.log());
    drop(plain);
    // The home changes between the modes without a chown.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4750))?;
    let setuid = honest_start(&bench)?;
    ensure!(setuid.log().contains("setuid mode"), "{}", setuid.log());
    drop(setuid);

    // no_new_privs: the bit has no effect, and that is said.
    let command = with(bench.command(&[], PACKAGE, GRAIN, &["/app"]), || {
        let _ = rustix::thread::set_no_new_privs(true);
    });
    let mut command = command;
    let child = command.spawn()?;
    ensure!(serves_or_refuses(&bench, child)?.is_none());
    let log = fs::read_to_string(bench.installation.grain_dir(GRAIN).join("log"))?;
    ensure!(log.contains("did not honour"), "{log}");
    Ok(())
}

#[test]
fn started_by_root_the_app_is_not_root() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    let home = bench.installation.dir().join("root-home");
    for dir in ["", "apps", "grains"] {
        fs::create_dir(home.join(dir))?;
        fs::set_permissions(home.join(dir), fs::Permissions::from_mode(0o700))?;
    }
    copy_package(&bench.home().join("apps").join(PACKAGE), &home.join("apps").join(PACKAGE))?;
    let mut command = Command::new(bench.installation.program("sandstorm-supervisor"));
    command.arg("--home").arg(&home).args(["--new", PACKAGE, GRAIN, "--", "/app"]);
    command.stdout(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    // It says so once init has given up everything; its socket is there before.
    let mut line = [0; 32];
    let n = child.stdout.take().context("stdout is piped")?.read(&mut line)?;
    ensure!(&line[..n] == b"Listening...\n", "{:?}", String::from_utf8_lossy(&line[..n]));
    let uids: Vec<u32> = processes::naming(GRAIN)
        .into_iter()
        .filter(|pid| *pid != child.id() as i32)
        .map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or("0");
            line.split_whitespace().next().and_then(|u| u.parse().ok()).unwrap_or(0)
        })
        .collect();
    let _ = child.kill();
    child.wait()?;
    if uids.is_empty() {
        bail!("no init was found");
    }
    ensure!(uids.iter().all(|u| *u >= 0x6000_0000), "{uids:?}");
    Ok(())
}

fn copy_package(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for dir in ["dev", "tmp", "var"] {
        fs::create_dir(to.join(dir))?;
    }
    fs::copy(from.join("app"), to.join("app"))?;
    Ok(())
}

/// The helper has root's rights for as long as the program makes it wait, so it must have nothing by
/// which it could keep a grain alive that has lost its supervisor, and it ends with the program.
#[test]
fn the_helper_keeps_nothing_and_ends_with_the_program() -> Result<()> {
    let Some(bench) = bench()? else { return Ok(()) };
    drop(bench.start(&["--new"], GRAIN)?);
    // While somebody else has the grain's lock the program waits, and the helper with it.
    let lock = fs::File::open(bench.installation.grain_dir(GRAIN).join("lock"))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("no lock")?;
    let mut child = bench.command(&[], PACKAGE, GRAIN, &["/app"]).stdout(Stdio::piped()).spawn()?;
    let program = i32::try_from(child.id())?;
    let children = eventually("helper and init wait", Duration::from_secs(5), || {
        let all = processes::all();
        let ours: Vec<_> = all.into_iter().filter(|p| p.parent == program).collect();
        (ours.len() == 2).then_some(ours)
    })?;
    let ours = processes::namespace(program, "pid").unwrap_or(0);
    let helper = children.iter().find(|p| p.pid_namespace == ours).context("the helper")?;
    ensure!(helper.uid == 0, "{helper:?}");
    // What it hears the program by, and what init hears it by; not the program's ends of what leads to
    // the app, nor the caller's stdout. It has more until it has settled.
    eventually("the helper keeps what it needs alone", Duration::from_secs(5), || {
        let open = fs::read_dir(format!("/proc/{}/fd", helper.pid)).ok()?;
        let open: Vec<String> = open
            .flatten()
            .filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned()))
            .collect();
        let of = |start: &str| open.iter().filter(|what| what.starts_with(start)).count();
        (of("socket:") == 2 && of("pipe:") == 0 && of("/dev/null") == 3).then_some(())
    })?;
    child.kill()?;
    child.wait()?;
    eventually("both have ended", Duration::from_secs(5), || {
        children.iter().all(|p| !processes::alive(p.pid)).then_some(())
    })
}
