//! Waiting for a state, with a limit and a reason.

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(20);

/// Asks again and again until `probe` gives a value; after `limit` the error names `what`.
pub fn eventually<T>(
    what: impl Display,
    limit: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe() {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for this, in vain: {what}");
        }
        std::thread::sleep(PAUSE);
    }
}

/// [`eventually`] for a probe that awaits.
pub async fn eventually_async<T, F: Future<Output = Option<T>>>(
    what: impl Display,
    limit: Duration,
    mut probe: impl FnMut() -> F,
) -> Result<T> {
    let start = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return Ok(value);
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} for this, in vain: {what}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
