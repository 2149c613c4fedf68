//! The well-behaved neighbour: how soon it answers, with and without an attack beside it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use sandstorm_tests::Client;

use crate::{emulated, patience};

/// Below this a median is as good as zero: a scheduler's tick more or less is no finding.
const FLOOR: Duration = Duration::from_millis(4);
/// Seconds. No single answer may take longer, whatever goes on.
const WORST: u64 = 20;

/// What was seen in one window.
#[derive(Debug, Default, Clone)]
pub struct Window {
    times: Vec<Duration>,
}

impl Window {
    /// Asks, one request after the other, until the time is over.
    pub async fn measure(client: &Client, time: Duration) -> Result<Window> {
        let end = Instant::now() + time;
        let mut times = Vec::new();
        while Instant::now() < end {
            let begin = Instant::now();
            let answer = tokio::time::timeout(patience(WORST), client.get("/")).await??;
            ensure!(answer.status == 200, "the neighbour answered {}", answer.status);
            times.push(begin.elapsed());
        }
        Ok(Window { times })
    }

    /// Both together.
    pub fn and(mut self, other: &Window) -> Window {
        self.times.extend(&other.times);
        self
    }

    pub fn median(&self) -> Duration {
        let mut sorted = self.times.clone();
        sorted.sort();
        sorted.get(sorted.len() / 2).copied().unwrap_or(patience(WORST))
    }

    pub fn count(&self) -> usize {
        self.times.len()
    }
}

/// The neighbour's answer times beside an attack, against the quiet windows before and after it.
pub fn compare(name: &str, quiet: &Window, attacked: &Window) -> Result<()> {
    let (before, during) = (quiet.median(), attacked.median());
    println!(
        "{name}: neighbour's median {:.2} ms of {} answers, quiet {:.2} ms of {}: {:.2}×",
        during.as_secs_f64() * 1e3,
        attacked.count(),
        before.as_secs_f64() * 1e3,
        quiet.count(),
        during.as_secs_f64() / before.as_secs_f64().max(1e-9),
    );
    if emulated() {
        return Ok(()); // said by the test
    }
    ensure!(
        during <= 2 * before.max(FLOOR),
        "{name}: the neighbour answers in {during:?}, {before:?} when it is quiet"
    );
    Ok(())
}
