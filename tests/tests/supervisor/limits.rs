//! What a grain may take: memory, processes, disk, and the control groups that say so.

use super::*;

pub fn the_size_is_reported(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let core = Rc::new(FakeCore::default());
        grain.give_core(&core).await?;
        let session = grain.session("Ada").await?;
        session.post(&"x".repeat(1_000_000)).await?;
        eventually_async("a report of a megabyte", Duration::from_secs(15), || async {
            core.sizes.borrow().last().filter(|n| (1_000_000..3_000_000).contains(*n)).copied()
        })
        .await?;
        Ok(())
    })
}

/// Whether the supervisor's log says that this is limited by a control group here.
fn is_limited(running: &sandstorm_tests::supervisor::Running, what: &str) -> bool {
    running
        .log()
        .lines()
        .filter_map(|l| l.split_once("limits by cgroup version "))
        .any(|(_, names)| names.contains(what))
}

pub fn a_grain_ends_when_its_memory_is_used_up(bench: &Bench) -> Result<()> {
    let mut running = bench.start(&["--new", "--limit", "memory=64M"], GRAIN)?;
    if !is_limited(&running, "memory") {
        sandstorm_tests::skip!(Ok(()), "no memory controller for this mode: {}", running.log());
    }
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        ensure!(session.get("/hold?mib=16").await? == "held", "the twin within its limit");
        ensure!(session.get("/hold?mib=128").await.is_err());
        Ok(())
    })?;
    ensure!(running.exit_within(Duration::from_secs(3))?.code() == Some(1));
    ensure!(running.log().contains("ran out of memory (limit 64 MiB)"), "{}", running.log());
    Ok(())
}

pub fn processes_are_limited(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new", "--limit", "pids=8"], GRAIN)?;
    if !is_limited(&running, "pids") && bench.installation.mode == Mode::UserNamespace {
        sandstorm_tests::skip!(Ok(()), "no pids controller for this mode: {}", running.log());
    }
    on_one_thread(async {
        let session = running.connect().await?.session("Ada").await?;
        let mut spawned = 0;
        while spawned < 20 && session.get("/spawn").await.is_ok() {
            spawned += 1;
        }
        // The app itself is one of the eight.
        ensure!(spawned == 7, "{spawned} helpers were started");
        Ok(())
    })
}

pub fn a_full_disk_is_an_error_and_passes(bench: &Bench) -> Result<()> {
    let running = bench.start(&["--new", "--limit", "disk=20M"], GRAIN)?;
    on_one_thread(async {
        let grain = running.connect().await?;
        let session = grain.session("Ada").await?;
        session.post("before").await?;
        ensure!(session.get("/fill?mib=5").await? == "wrote 5", "the twin within its limit");
        ensure!(session.get("/fill?mib=14").await? == "wrote 14");
        eventually_async("a warning", Duration::from_secs(5), || async {
            running.log().contains("% of the disk limit are used").then_some(())
        })
        .await?;
        let told = session.get("/fill?mib=200").await?;
        ensure!(told.starts_with("stopped after") && told.contains("too large"), "{told}");
        let stopped: u64 = told
            .split_whitespace()
            .nth(2)
            .and_then(|n| n.trim_end_matches(':').parse().ok())
            .context("a number")?;
        ensure!((0..100).contains(&stopped), "it could write {stopped} MiB more");
        // It goes on running, reads what it has, and can neither write nor lift the limit.
        ensure!(session.get("/text").await? == "before");
        ensure!(session.post("while full").await.is_err());
        ensure!(session.get("/text").await? == "before", "half a write");
        session.get("/unfill").await?;
        eventually_async("writes after room was made", Duration::from_secs(10), || async {
            session.post("after").await.ok()
        })
        .await?;
        ensure!(session.get("/text").await? == "after");
        Ok(())
    })?;
    let log = running.log();
    ensure!(log.contains("writes fail until") && log.contains("writes succeed"), "{log}");
    Ok(())
}

/// A subtree of control groups that belongs to the server's user, as a service manager delegates it
/// (version 2, the server itself in `main`): the grain is born in it, without any other right.
#[test]
fn a_delegated_subtree_holds_the_grain() -> Result<()> {
    let Some(bench) = Bench::new(Mode::UserNamespace)? else { return Ok(()) };
    let tops = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let top = tops.iter().find(|top| fs::metadata(format!("{top}/cgroup.controllers")).is_ok());
    let Some(tree) = top.and_then(|top| Subtree::new(top)) else {
        sandstorm_tests::skip!(Ok(()), "no version 2 hierarchy in which a subtree could be made");
    };
    fs::create_dir(tree.0.join("main"))?;
    for path in ["", "cgroup.procs", "cgroup.subtree_control", "main", "main/cgroup.procs"] {
        bench.give(&tree.0.join(path))?;
    }
    let groups = tree.groups_of_a_grain_started_in("main", &bench)?;
    let own = format!("0::/{}/", tree.name());
    let born = groups.lines().any(|l| l.starts_with(&own) && !l.ends_with("/main"));
    ensure!(born, "the grain is not in the subtree {own}: {groups}");
    Ok(())
}

/// A group of version 1 is used again by the next grain of its number, if root made it for this caller:
/// whoever owns it could move other processes there, or take the limit away.
#[test]
fn a_group_that_somebody_else_made_is_not_used() -> Result<()> {
    let Some(bench) = Bench::new(Mode::Setuid)? else { return Ok(()) };
    let hierarchy = "/sys/fs/cgroup/pids";
    let Some(tree) = fs::metadata(format!("{hierarchy}/tasks")).ok().and(Subtree::new(hierarchy))
    else {
        sandstorm_tests::skip!(Ok(()), "no version 1 hierarchy in which a subtree could be made");
    };
    // Every number that a grain could get; few run beside this one.
    for number in 0..300 {
        let planted = tree.0.join(format!("sandstorm-{number}"));
        fs::create_dir(&planted)?;
        std::os::unix::fs::chown(&planted, Some(65534), Some(bench.installation.gid))?;
        fs::set_permissions(&planted, fs::Permissions::from_mode(0o750))?;
    }
    let groups = tree.groups_of_a_grain_started_in("", &bench)?;
    let own = format!(":/{}/sandstorm-", tree.name());
    let group = groups.lines().find_map(|l| Some(l.split_once(&own)?.1));
    let number = group.with_context(|| format!("the grain is not below {own}: {groups}"))?;
    let group = fs::metadata(tree.0.join(format!("sandstorm-{number}")))?;
    ensure!(group.uid() == 0, "the grain is in the group {number} of {}", group.uid());
    Ok(())
}

/// Where the caller's own group has less processor time than a grain may have, that holds the grain, which
/// is in its group all the same.
#[test]
fn a_caller_with_less_time_than_a_grain_starts_it_in_its_group() -> Result<()> {
    let Some(bench) = Bench::new(Mode::Setuid)? else { return Ok(()) };
    let hierarchy = "/sys/fs/cgroup/cpu";
    let Some(tree) = fs::metadata(format!("{hierarchy}/tasks")).ok().and(Subtree::new(hierarchy))
    else {
        sandstorm_tests::skip!(Ok(()), "no version 1 hierarchy in which a subtree could be made");
    };
    fs::write(tree.0.join("cpu.cfs_quota_us"), "150000")?;
    let groups = tree.groups_of_a_grain_started_in("", &bench)?;
    let own = format!(":/{}/sandstorm-", tree.name());
    ensure!(groups.lines().any(|l| l.contains(&own)), "the grain is not below {own}: {groups}");
    Ok(())
}

/// The kernel counts what a uid has in flight against the soft limit of whoever sends next, and without
/// root all grains have one uid.
#[test]
fn descriptors_in_flight_keep_no_other_grain_from_starting() -> Result<()> {
    let Some(bench) = Bench::new(Mode::UserNamespace)? else { return Ok(()) };
    const FLY: &str = "import array, os, resource, socket, sys\n\
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n\
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))\n\
        null, kept = os.open('/dev/null', 0), []\n\
        while True:\n\
        \ta, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        \tkept += [a, b]\n\
        \ttry: a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [null] * 250))])\n\
        \texcept OSError: break\n\
        print('sent', flush=True)\n\
        sys.stdin.read()\n";
    let mut command = std::process::Command::new("python3");
    command.args(["-c", FLY]).stdin(Stdio::piped()).stdout(Stdio::piped());
    bench.installation.as_user(&mut command);
    let mut child = command.spawn()?;
    let mut line = [0; 8];
    let n = std::io::Read::read(child.stdout.as_mut().context("stdout is piped")?, &mut line)?;
    let started = bench.start(&["--new"], GRAIN);
    let _ = child.kill();
    child.wait()?;
    ensure!(line[..n].starts_with(b"sent"), "they were not sent");
    started.map(drop)
}

pub fn a_grain_may_have_all_the_files_of_its_limit(bench: &Bench) -> Result<()> {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    if most.is_some_and(|most| most < 20_000) {
        sandstorm_tests::skip!(Ok(()), "these tests may not open so many files");
    }
    let running = bench.start(&["--new", "--start", "--limit", "files=20000"], GRAIN)?;
    let limits: Vec<_> = running
        .inside()
        .iter()
        .filter_map(|p| fs::read_to_string(format!("/proc/{}/limits", p.pid)).ok())
        .filter_map(|all| Some(all.lines().find(|l| l.starts_with("Max open files"))?.to_owned()))
        .collect();
    let hard = |line: &String| line.split_whitespace().nth(4) == Some("20000");
    ensure!(limits.iter().any(hard), "{limits:?}");
    Ok(())
}

/// A control group of the test's own, removed with those below it once their processes are gone.
struct Subtree(std::path::PathBuf);

impl Subtree {
    /// Where this process may make one.
    fn new(hierarchy: &str) -> Option<Subtree> {
        let tree = format!("{hierarchy}/sandstorm-test-{}", std::process::id());
        fs::create_dir(&tree).is_ok().then(|| Subtree(tree.into()))
    }

    fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// `/proc/PID/cgroup` of the init of a new grain, whose supervisor was started in `group` here as a
    /// service would be: by a shell that moves itself there first.
    fn groups_of_a_grain_started_in(&self, group: &str, bench: &Bench) -> Result<String> {
        let plain = bench.command(&["--new"], PACKAGE, GRAIN, &["/app"]);
        let user = &bench.installation;
        let script = "echo 0 >\"$1\"; u=$2; g=$3; shift 3; \
                      exec setpriv --reuid $u --regid $g --clear-groups \"$@\"";
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(self.0.join(group).join("cgroup.procs"));
        command.args([user.uid.to_string(), user.gid.to_string()]);
        command.arg(plain.get_program()).args(plain.get_args());
        let mut child = command.stdout(std::process::Stdio::piped()).spawn()?;
        let mut line = [0; 32];
        let n = std::io::Read::read(child.stdout.as_mut().context("stdout is piped")?, &mut line)?;
        let init = processes::all().into_iter().find(|p| p.parent == child.id() as i32);
        let groups = init.map(|p| fs::read_to_string(format!("/proc/{}/cgroup", p.pid)));
        processes::kill(child.id() as i32);
        child.wait()?;
        ensure!(&line[..n] == b"Listening...\n", "{:?}", String::from_utf8_lossy(&line[..n]));
        Ok(groups.context("no init")??)
    }
}

impl Drop for Subtree {
    fn drop(&mut self) {
        for _ in 0..100 {
            let below = fs::read_dir(&self.0).into_iter().flatten().flatten();
            for entry in below.filter(|e| e.path().is_dir()) {
                let _ = fs::remove_dir(entry.path());
            }
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}
