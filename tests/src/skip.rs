//! Skipping: what cannot run here says so where nobody overlooks it, and is counted.

use std::io::Write;

/// Name of the variable that holds the path of the list that `cargo xtask ci` counts.
pub const LIST: &str = "SANDSTORM_TEST_SKIPS";

/// Says on the real stderr (which the test runner does not capture) that `test` did not run, and
/// why, and notes it in the run's list.
pub fn announce(test: &str, reason: &str) {
    // One line a skip, whatever the reason quotes: the list is counted by lines.
    let reason: Vec<&str> = reason.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let line = format!("SKIPPED {test}: {}\n", reason.join("; "));
    // Straight to the descriptor: `eprint!` would be captured.
    let _ = nix::unistd::write(std::io::stderr(), line.as_bytes());
    if let Some(path) = std::env::var_os(LIST) {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut f| f.write_all(line.as_bytes())) {
            panic!("the skip of {test} could not be noted: {error}");
        }
    }
}

/// The running test's name, as the test runner names its thread.
pub fn current_test() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// `skip!("no IPv6 here")`: announces and returns from the test. In a test that returns a
/// `Result`, `skip!(Ok(()), "…")`.
#[macro_export]
macro_rules! skip {
    (Ok(()), $($reason:tt)*) => {{
        $crate::skip::announce(&$crate::skip::current_test(), &format!($($reason)*));
        return Ok(());
    }};
    ($($reason:tt)*) => {{
        $crate::skip::announce(&$crate::skip::current_test(), &format!($($reason)*));
        return;
    }};
}
