//! Apps that want too much, and peers that lie: each is held at its limit, and nobody else notices.
//!
//! One test at a time in this suite: the measurements want the machine to themselves.

mod disk;
mod doors;
mod hogs;
mod neighbour;
mod overrides;

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits for this test's turn.
async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// The same for a test that is no async function.
fn blocking_turn() -> MutexGuard<'static, ()> {
    TURN.blocking_lock()
}

/// How long an attack goes on.
fn attack_time() -> Duration {
    let seconds = std::env::var("SANDSTORM_ATTACK_SECONDS").ok().and_then(|s| s.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Whether the processor is emulated (tests/vm): what an instruction takes there says nothing of a
/// real one.
fn emulated() -> bool {
    std::env::var_os("SANDSTORM_EMULATED").is_some()
}

/// How long something may take that takes `seconds` at most on a real processor.
fn patience(seconds: u64) -> Duration {
    Duration::from_secs(if emulated() { seconds + 100 } else { seconds })
}

/// The attacker, as cargo built it beside this test.
fn greedy_app() -> PathBuf {
    let program = sandstorm_tests::built::beside("greedy-app");
    assert!(program.is_file(), "greedy-app is not built: cargo build --release -p greedy-app");
    program
}
