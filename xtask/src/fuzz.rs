//! `cargo xtask fuzz`: runs the targets of `fuzz/` with cargo-fuzz, on the ordinary toolchain.
//!
//! New inputs go to the target directory, so that the committed corpus stays small; what breaks a
//! target is kept below `fuzz/artifacts`.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::{paths, shell_out};

/// Seconds that one input may take.
const ONE: u32 = 20;

/// Runs every target, or one, for so many seconds; an error when one of them found something.
pub fn run(target: Option<&str>, seconds: u64) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<&String> =
        targets.iter().filter(|known| target.is_none_or(|name| name == **known)).collect();
    if chosen.is_empty() {
        bail!(
            "there is no fuzz target `{}`; there are: {}",
            target.unwrap_or_default(),
            targets.join(", ")
        );
    }
    prepare()?;
    let mut found = Vec::new();
    let mut lines = Vec::new();
    for name in chosen {
        println!("=== {name}, {seconds} s");
        let outcome = fuzz(name, seconds)?;
        if !outcome.clean {
            found.push(name.as_str());
        }
        lines.push(format!(
            "{name:<18} {:>10} executions, {:>6} edges, {:>7} features, {}",
            outcome.executions,
            outcome.edges,
            outcome.features,
            if outcome.clean { "nothing found" } else { "FOUND SOMETHING" }
        ));
    }
    println!("\n{}", lines.join("\n"));
    if !found.is_empty() {
        bail!("{}: the inputs are below fuzz/artifacts", found.join(", "));
    }
    Ok(())
}

/// What libFuzzer said last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    clean: bool,
    executions: u64,
    edges: u64,
    features: u64,
}

impl Outcome {
    fn read(&mut self, line: &str) {
        let mut words = line.split_ascii_whitespace();
        while let Some(word) = words.next() {
            let place = match word {
                "cov:" => &mut self.edges,
                "ft:" => &mut self.features,
                "stat::number_of_executed_units:" => &mut self.executions,
                _ => continue,
            };
            if let Some(Ok(number)) = words.next().map(str::parse) {
                *place = number;
            }
        }
    }
}

fn fuzz(name: &str, seconds: u64) -> Result<Outcome> {
    let target_dir = target_dir();
    let grown = target_dir.join("corpus").join(name);
    fs::create_dir_all(&grown).with_context(|| format!("cannot make {}", grown.display()))?;
    let mut child = Command::new("cargo")
        .args(["fuzz", "run", "--fuzz-dir", "fuzz", "--target", "x86_64-unknown-linux-gnu"])
        // Nearly all of it is safe Rust, whose checks need no sanitizer; with one, the build takes
        // several times as long and each input too.
        .args(["--sanitizer", "none"])
        .arg("--target-dir")
        .arg(&target_dir)
        .arg(name)
        // The first directory is the one that grows.
        .arg(&grown)
        .arg(paths::top().join("fuzz/corpus").join(name))
        .args(["--", "-rss_limit_mb=2048", "-print_final_stats=1"])
        .args([format!("-timeout={ONE}"), format!("-max_total_time={seconds}")])
        // The flags for the coverage are unstable; this lets the stable compiler take them.
        .env("RUSTC_BOOTSTRAP", "1")
        .current_dir(paths::top())
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start cargo fuzz")?;
    let mut outcome = Outcome::default();
    let stderr = child.stderr.take().context("no stderr")?;
    for line in BufReader::new(stderr).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        outcome.read(&line);
        // One line a new input is for machines.
        if !line.contains(" NEW ") && !line.contains(" REDUCE ") {
            eprintln!("{line}");
        }
    }
    outcome.clean = child.wait()?.success();
    Ok(outcome)
}

/// Compiler and cargo-fuzz, installed when they are missing.
fn prepare() -> Result<()> {
    let script = paths::top().join("deploy/scripts/prepare.sh");
    let status = Command::new(script).arg("fuzz").status().context("cannot start prepare.sh")?;
    if !status.success() {
        bail!("what fuzzing needs is not here (see above)");
    }
    shell_out::output(Command::new("cargo").args(["fuzz", "--version"])).map(drop)
}

/// A directory of its own: everything is built once more, with counters for the coverage.
fn target_dir() -> PathBuf {
    let base = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::top().join("target"), |dir| paths::top().join(dir));
    base.join("fuzz")
}

fn targets() -> Result<Vec<String>> {
    let dir = paths::top().join("fuzz/fuzz_targets");
    let mut names: Vec<String> = fs::read_dir(&dir)
        .with_context(|| format!("no targets at {}", dir.display()))?
        .flatten()
        .filter_map(|entry| Some(entry.path().file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::Outcome;

    #[test]
    fn reads_what_libfuzzer_says() {
        let mut outcome = Outcome::default();
        for line in [
            "#2048\tpulse  cov: 310 ft: 540 corp: 40/1200b lim: 43 exec/s: 1024 rss: 60Mb",
            "#9000\tDONE   cov: 312 ft: 551 corp: 44/1300b lim: 50 exec/s: 1000 rss: 61Mb",
            "stat::number_of_executed_units: 9000",
            "Done 9000 runs in 9 second(s)",
        ] {
            outcome.read(line);
        }
        let expected = Outcome { clean: false, executions: 9000, edges: 312, features: 551 };
        assert_eq!(outcome, expected);
    }
}
