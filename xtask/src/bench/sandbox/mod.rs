//! The sandbox: how long a start takes, how many a second, what an idle grain weighs, what the filter
//! costs. Peers, interleaved in one run: bare fork+exec, a minimal launcher with the same namespaces
//! and mounts (`launch.c`), bubblewrap, and podman. The measured moment is the first instruction of a
//! program without libc (`first.c`), which tells the time itself. A grain is started as the server
//! does it (`--start`), and counts as started when its supervisor has said that it serves and that
//! the app's exec has succeeded.

mod memory;
mod ours;
mod place;

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use self::ours::Seat;
use self::place::{Mode, Place};
use super::{Goal, Row, median};

/// Rounds of the interleaved start measurement.
const ROUNDS: usize = 60;
/// One `podman run` takes as long as a hundred of ours.
const PODMAN_EVERY: usize = 6;
/// How long each rate is measured, in turns.
const RATE_TURN: Duration = Duration::from_millis(1500);
const RATE_TURNS: usize = 2;

/// `$BENCH_PART` chooses one part: starts, rates, memory or filter; `$BENCH_ROUNDS` how many rounds
/// of starts are measured.
pub fn run(rows: &mut Vec<Row>) -> Result<()> {
    let part = std::env::var("BENCH_PART").unwrap_or_default();
    let wanted = |name: &str| part.is_empty() || part == name;
    let place = Place::new()?;
    if wanted("starts") {
        rows.extend(starts(&place)?);
    }
    for mode in place.modes() {
        if wanted("rates") {
            rows.extend(rates(&place, mode)?);
        }
        if wanted("memory") {
            rows.extend(memory::rows(&place, mode)?);
        }
    }
    if wanted("filter") {
        rows.extend(filter(&place)?);
    }
    Ok(())
}

/// Nanoseconds since 1970, as the measured program sees them too.
fn now() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos())
}

/// The time that `first` printed, in its output or in a grain's log.
fn first_instruction(output: &str) -> Option<u128> {
    output.lines().rev().find_map(|line| line.split('@').nth(1)?.trim().parse().ok())
}

/// Microseconds from before the spawn to the first instruction.
fn timed(command: &mut Command) -> Result<f64> {
    let begin = now();
    let done = command.stdin(Stdio::null()).stderr(Stdio::piped()).output()?;
    let printed = String::from_utf8_lossy(&done.stdout);
    let Some(first) = first_instruction(&printed) else {
        bail!("{:?} did not run: {}", command.get_program(), String::from_utf8_lossy(&done.stderr))
    };
    Ok((first.saturating_sub(begin)) as f64 / 1000.0)
}

/// A peer that starts `/first` in a package.
struct Peer {
    name: &'static str,
    /// The privilege that it works with, for comparing like with like; `None` for all.
    mode: Option<Mode>,
    command: Box<dyn Fn() -> Command>,
    every: usize,
    took: Vec<f64>,
}

fn starts(place: &Place) -> Result<Vec<Row>> {
    let mut peers = place.peers();
    peers.retain_mut(|peer| match timed(&mut (peer.command)()) {
        Ok(_) => true,
        Err(error) => {
            eprintln!("without {}: {error:#}", peer.name);
            false
        }
    });
    let mut seats = Vec::new();
    for mode in place.modes() {
        seats.push((Seat::new(place, mode, 0, 4)?, Vec::new()));
    }
    let rounds = std::env::var("BENCH_ROUNDS").ok().and_then(|n| n.parse().ok());
    for round in 0..rounds.unwrap_or(ROUNDS) {
        for (seat, took) in &mut seats {
            took.push(seat.first_instruction()?);
        }
        for peer in peers.iter_mut().filter(|peer| round % peer.every == 0) {
            peer.took.push(timed(&mut (peer.command)())?);
        }
    }
    let mut rows = Vec::new();
    for (seat, took) in &mut seats {
        let ours = median(took);
        for peer in peers.iter_mut().filter(|p| p.mode.is_none_or(|mode| mode == seat.mode)) {
            let goal = match peer.name {
                "launcher" => Goal::RatioAtMost(1.3),
                "bwrap" => Goal::RatioAtMost(1.0),
                "podman run" => Goal::RatioAtMost(0.05),
                _ => Goal::None,
            };
            rows.push(Row::new(
                format!("start to first instruction, {}", seat.mode.name()),
                "µs",
                ours,
                Some((peer.name, median(&mut peer.took))),
                goal,
            ));
        }
    }
    Ok(rows)
}

/// Whole starts a second: until the app runs, then everything is killed.
fn rates(place: &Place, mode: Mode) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for at_once in [1, 2, 8] {
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..RATE_TURNS {
            ours.push(rate(at_once, |n| {
                let seat = Seat::new(place, mode, 1 + n, 4)?;
                Ok(Box::new(move || seat.start_and_kill()) as Start<'_>)
            })?);
            peers.push(rate(at_once, |_| {
                let command = place.launcher(mode);
                Ok(Box::new(move || timed(&mut command()).map(drop)) as Start<'_>)
            })?);
        }
        let goal = if at_once == 8 { Goal::AtLeast(600.0) } else { Goal::None };
        rows.push(Row::new(
            format!("starts a second, {at_once} at once, {}", mode.name()),
            "1/s",
            median(&mut ours),
            Some(("launcher", median(&mut peers))),
            goal,
        ));
    }
    Ok(rows)
}

type Start<'a> = Box<dyn FnMut() -> Result<()> + 'a>;

/// How often `at_once` threads, each with what `make` gives it, get through in a second.
fn rate<'a>(at_once: usize, make: impl Fn(usize) -> Result<Start<'a>> + Sync) -> Result<f64> {
    let worker = &|number: usize| -> Result<f64> {
        let mut start = make(number)?;
        start()?;
        let (begin, mut count) = (Instant::now(), 0u32);
        while begin.elapsed() < RATE_TURN {
            start()?;
            count += 1;
        }
        Ok(f64::from(count) / begin.elapsed().as_secs_f64())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|n| scope.spawn(move || worker(n))).collect();
        workers
            .into_iter()
            .map(|w| w.join().map_err(|_| anyhow::anyhow!("a starting thread panicked"))?)
            .sum()
    })
}

/// A syscall-heavy app in the box and bare; the best of its rounds each.
fn filter(place: &Place) -> Result<Vec<Row>> {
    const WHAT: [&str; 3] =
        ["a call allowed outright", "a call with arguments checked", "a byte through a pipe"];
    let numbers = |text: &str| -> Option<[f64; 3]> {
        let line = text.lines().rev().find_map(|line| line.split('@').nth(1))?;
        let found: Vec<f64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        found.try_into().ok()
    };
    let mode = place.modes()[0];
    let (mut boxed, mut bare) = ([f64::MAX; 3], [f64::MAX; 3]);
    for round in 0..3 {
        let text = Seat::new(place, mode, 100 + round, 1)?.run_to_end("/calls")?;
        let inside = numbers(&text).with_context(|| format!("no numbers in the log:\n{text}"))?;
        let mut command = Command::new(place.package().join("calls"));
        let done = command.process_group(0).output()?;
        let outside =
            numbers(&String::from_utf8_lossy(&done.stdout)).context("calls said nothing")?;
        for k in 0..3 {
            boxed[k] = boxed[k].min(inside[k]);
            bare[k] = bare[k].min(outside[k]);
        }
    }
    Ok((0..3)
        .map(|k| {
            let measure = format!("under the filter: {}", WHAT[k]);
            Row::new(measure, "ns", boxed[k], Some(("bare", bare[k])), Goal::None)
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::first_instruction;

    #[test]
    fn the_newest_time_in_a_log_counts() {
        assert_eq!(first_instruction("@12\n** started\n@34\n** ended\n"), Some(34));
        assert_eq!(first_instruction("nothing\nuser@host\n"), None);
    }
}
