//! `cargo xtask bench [NAME] [--json]`: what we cost, beside what a peer costs in the same run. Peers
//! run interleaved with us, so that a busy machine slows both. A row a measure; the goal is part of
//! the row, and a missed one says so.

mod load;
mod sandbox;
mod spk;
mod web;

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// One measure.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    pub measure: String,
    pub ours: f64,
    /// What the peer needed; `None` for a measure against a fixed goal.
    pub peer: Option<f64>,
    pub peer_name: String,
    pub unit: String,
    /// `ours / peer`, or `ours / goal` without a peer.
    pub ratio: f64,
    /// What the goal says, in words or numbers: "at least 0.8", "at most 40 MB".
    pub goal: String,
    /// `None` where there is no goal, only a number, and where the goal is about a peer without one.
    pub met: Option<bool>,
}

/// The direction of a goal, on the ratio to the peer.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// ours / peer must be at least this (rates).
    RatioAtLeast(f64),
    /// ours / peer must be at most this (times, sizes).
    RatioAtMost(f64),
    /// ours must be at most this, whatever the peer needs.
    AtMost(f64),
    /// ours must be at least this, whatever the peer reaches.
    AtLeast(f64),
    /// Only told.
    None,
}

impl Row {
    pub fn new(
        measure: impl Into<String>,
        unit: &str,
        ours: f64,
        peer: Option<(&str, f64)>,
        goal: Goal,
    ) -> Row {
        let measure = measure.into();
        // Nothing is so many times nothing.
        let peer = peer.filter(|(name, value)| {
            let usable = value.is_finite() && *value > 0.0;
            if !usable {
                eprintln!("{measure}: {name} measured {value} {unit}, which compares with nothing");
            }
            usable
        });
        let ratio = match (peer, goal) {
            (Some((_, peer)), _) => ours / peer,
            (None, Goal::AtMost(limit) | Goal::AtLeast(limit)) => ours / limit,
            (None, _) => 1.0,
        };
        let (goal, met) = match goal {
            Goal::RatioAtLeast(limit) => {
                (format!("at least {limit} of the peer"), peer.map(|_| ratio >= limit))
            }
            Goal::RatioAtMost(limit) => {
                (format!("at most {limit} times the peer"), peer.map(|_| ratio <= limit))
            }
            Goal::AtMost(limit) => (format!("at most {limit} {unit}"), Some(ours <= limit)),
            Goal::AtLeast(limit) => (format!("at least {limit} {unit}"), Some(ours >= limit)),
            Goal::None => (String::new(), None),
        };
        Row {
            measure,
            ours,
            peer: peer.map(|(_, value)| value),
            peer_name: peer.map_or(String::new(), |(name, _)| name.to_owned()),
            unit: unit.to_owned(),
            ratio,
            goal,
            met,
        }
    }
}

/// A named group of measures, which it adds to the rows; it may leave out what this machine lacks, with
/// a word on stderr.
type Bench = (&'static str, &'static str, fn(&mut Vec<Row>) -> Result<()>);

const BENCHES: &[Bench] = &[
    (
        "sandbox",
        "starts, memory of idle grains, the filter; against fork+exec, a launcher, bwrap, podman",
        sandbox::run,
    ),
    (
        "web",
        "requests, throughput, opening a sleeping grain, memory; against nginx and Caddy",
        web::run,
    ),
    ("spk", "packing and unpacking, and the memory for it; against tar and xz", spk::run),
];

/// Runs one group, or all.
pub fn run(name: Option<&str>, json: bool) -> Result<()> {
    let chosen: Vec<_> =
        BENCHES.iter().filter(|(known, ..)| name.is_none_or(|name| name == *known)).collect();
    if chosen.is_empty() {
        for (name, what, _) in BENCHES {
            eprintln!("{name:<10} {what}");
        }
        bail!("there is no benchmark {:?}; the list is above", name.unwrap_or_default());
    }
    let mut rows = Vec::new();
    let measured = measure(&chosen, &mut rows);
    // What was measured before a failure took its time, and holds.
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        print_table(&rows);
    }
    measured
}

fn measure(chosen: &[&Bench], rows: &mut Vec<Row>) -> Result<()> {
    for (name, _, bench) in chosen {
        eprintln!("bench {name}");
        bench(rows).with_context(|| format!("bench {name}"))?;
    }
    Ok(())
}

fn print_table(rows: &[Row]) {
    println!("{:<44} {:>11} {:>11} {:<14} {:>7}  goal", "measure", "ours", "peer", "", "ratio");
    for row in rows {
        let peer = row.peer.map_or(String::new(), number);
        let met = match row.met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        println!(
            "{:<44} {:>11} {:>11} {:<14} {:>7.2}  {} {met}",
            format!("{} ({})", row.measure, row.unit),
            number(row.ours),
            peer,
            row.peer_name,
            row.ratio,
            row.goal
        );
    }
}

fn number(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// The middle of a sample.
pub fn median(sample: &mut [f64]) -> f64 {
    sample.sort_by(f64::total_cmp);
    sample.get(sample.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::{Bench, Goal, Row, measure, median};

    #[test]
    fn judges_goals_in_the_right_direction() {
        let rate = Row::new("rate", "1/s", 90.0, Some(("peer", 100.0)), Goal::RatioAtLeast(0.8));
        assert_eq!((rate.met, rate.ratio), (Some(true), 0.9));
        let time = Row::new("time", "s", 1.2, Some(("peer", 1.0)), Goal::RatioAtMost(1.1));
        assert_eq!(time.met, Some(false));
        let size = Row::new("size", "MB", 50.0, None, Goal::AtMost(40.0));
        assert_eq!((size.met, size.ratio), (Some(false), 1.25));
        let starts = Row::new("starts", "1/s", 700.0, Some(("peer", 1000.0)), Goal::AtLeast(600.0));
        assert_eq!((starts.met, starts.ratio), (Some(true), 0.7));
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }

    #[test]
    fn a_peer_that_measured_nothing_is_no_peer() {
        for nothing in [0.0, -0.0, f64::NAN, f64::INFINITY] {
            let row = Row::new("x", "s", 0.0, Some(("peer", nothing)), Goal::RatioAtMost(1.1));
            assert_eq!((row.peer, row.met, row.peer_name.as_str()), (None, None, ""));
            let json = serde_json::to_value(&row).unwrap();
            assert!(json["ratio"].is_number() && json["peer"].is_null(), "{json}");
        }
    }

    #[test]
    fn what_was_measured_before_a_failure_is_kept() {
        fn row() -> Row {
            Row::new("x", "s", 1.0, None, Goal::None)
        }
        let good: Bench = ("good", "", |rows| {
            rows.push(row());
            Ok(())
        });
        let bad: Bench = ("bad", "", |rows| {
            rows.push(row());
            bail!("no peer here")
        });
        let mut rows = Vec::new();
        let error = measure(&[&good, &bad, &good], &mut rows).unwrap_err();
        assert_eq!(rows.len(), 2);
        assert_eq!(format!("{error:#}"), "bench bad: no peer here");
    }
}
