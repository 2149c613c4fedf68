//! The pace of the log's lines about requests that are refused or fail, by their code.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sandstorm_schema::pace::{Paces, Turn, WINDOW};

/// Lines of one code in ten seconds: a page whose every picture fails is told whole, or nearly so,
/// and who floods the log with every code there is gets 20 lines a second at most.
const LINES: u32 = 10;

static PACES: Mutex<Paces> = Mutex::new(Paces::new(LINES));

/// Whether a line about this code is to be written; what is left out is told as a number.
pub fn may_log(code: &str) -> bool {
    let kind = kind(code);
    let turn = paces(|paces| paces.turn(kind, Instant::now()));
    if let Turn::Sum(end) = turn {
        let owned = kind.to_owned();
        let sum = async move {
            tokio::time::sleep_until(end.into()).await;
            let left_out = paces(|paces| paces.left_out(&owned));
            let seconds = WINDOW.as_secs();
            tracing::info!(code = owned, "and {left_out} more of these in {seconds} s");
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(sum)),
            // Nobody could tell the number later.
            Err(_) => drop(paces(|paces| paces.left_out(kind))),
        }
    }
    turn == Turn::Write
}

fn paces<T>(act: impl FnOnce(&mut Paces) -> T) -> T {
    act(&mut PACES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A code without the characters that tell one occurrence from another.
fn kind(code: &str) -> &str {
    match code.rsplit_once('-') {
        Some((kind, _)) if kind.contains('-') => kind,
        _ => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn occurrences_of_one_kind_are_counted_together() {
        let code = |i: u32| format!("T-PACE-{i:04}");
        let written = (0..1000).filter(|&i| may_log(&code(i))).count();
        assert_eq!(written, LINES as usize);
        assert!(may_log("T-OTHER"));
        assert_eq!((kind("S-HOST"), kind("G-START-AAAA"), kind("C")), ("S-HOST", "G-START", "C"));
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!(paces(|paces| paces.left_out("T-PACE")), 0, "the number was told");
    }
}
