//! What idle grains weigh: their supervisors' share of memory, and all that the machine misses.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::ours::{Seat, Started};
use super::place::{Mode, Place};
use crate::bench::{Goal, Row};

const MANY: usize = 500;
const MB: f64 = 1_000_000.0;

pub fn rows(place: &Place, mode: Mode) -> Result<Vec<Row>> {
    let start = |from: usize, to: usize| -> Result<Vec<Started>> {
        (from..to).map(|n| Seat::new(place, mode, 1000 + n, 1)?.start("/stay")).collect()
    };
    // Warm: the program's pages are in the cache, the allocator of the kernel has its slabs.
    drop(start(0, 10)?);
    settle();

    let before = available()?;
    let mut running = start(0, 1)?;
    settle();
    let alone = pss(&running)?;
    running.extend(start(1, 10)?);
    settle();
    let ten = pss(&running)? / 10.0;
    running.extend(start(10, MANY)?);
    settle();
    let each = (before - available()?) / MANY as f64;
    let many = pss(&running)? / MANY as f64;
    drop(running);
    settle();

    let row = |measure: &str, value: f64, goal| {
        Row::new(format!("{measure}, {}", mode.name()), "MB", value / MB, None, goal)
    };
    Ok(vec![
        row("PSS of supervisor and init, one grain", alone, Goal::AtMost(2.0)),
        row("PSS of supervisor and init, each of ten", ten, Goal::AtMost(0.5)),
        row("PSS of supervisor and init, each of 500", many, Goal::None),
        row("whole machine, each of 500 idle grains", each, Goal::AtMost(1.0)),
    ])
}

/// Freed by the kernel in its own time: namespaces, tmpfs, control groups.
fn settle() {
    thread::sleep(Duration::from_millis(1500));
}

/// Proportional set size of the supervisors and their inits, without the apps; bytes.
fn pss(running: &[Started]) -> Result<f64> {
    let mut sum = 0.0;
    for started in running {
        let supervisor = started.0.id();
        sum += pss_of(supervisor)?;
        let children =
            fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"))?;
        for child in children.split_whitespace() {
            sum += pss_of(child.parse()?)?;
        }
    }
    Ok(sum)
}

fn pss_of(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("the memory of {pid}"))?;
    field(&text, "Pss:").with_context(|| format!("no Pss of {pid}"))
}

/// Bytes that new programs could have without swapping.
fn available() -> Result<f64> {
    field(&fs::read_to_string("/proc/meminfo")?, "MemAvailable:").context("no MemAvailable")
}

/// The value in kB of a line, as bytes.
fn field(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib * 1024.0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn fields_are_kibibytes() {
        assert_eq!(super::field("MemFree: 3 kB\nPss:      2 kB\n", "Pss:"), Some(2048.0));
        assert_eq!(super::field("Pss_Anon: 2 kB\n", "Pss:"), None);
    }
}
