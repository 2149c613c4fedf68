//! Why requests do not start a grain for a while: it did not start, or it ends again and again.
//!
//! A person can start it at any time ("Start again"), so that something in it can be mended.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::store::now_ms;

/// After a failed start, requests get the same answer for so long: a page that reloads itself
/// must not become a fork bomb.
const FAILURE_TIME: Duration = Duration::from_secs(3);
/// A grain that was ended because it takes disk space without end is not started by requests for
/// so long, and twice as long each time until it has run well for a while: each start gets it a
/// little further.
const GREED_TIME: Duration = Duration::from_secs(10);
const GREED_MOST: Duration = Duration::from_secs(6 * 3600);
const GREED_WELL: Duration = Duration::from_secs(600);
/// A run that ended sooner than this, by itself, ended soon after its start.
const SOON: Duration = Duration::from_secs(60);
/// So many such ends in a row cost no pause: a request that an app dies of makes two, since it is
/// repeated once.
const FREE: u32 = 4;
/// The first pause; each further one is twice as long.
const LOOP_TIME: Duration = Duration::from_secs(2);
/// The longest: what was mended is up again by itself soon enough.
const LOOP_MOST: Duration = Duration::from_secs(120);
/// Ends further apart than this are no row.
const LOOP_FORGET: Duration = Duration::from_secs(600);

/// An error that can be told to several who wait.
#[derive(Clone)]
pub enum Failure {
    Grain { reason: String, code: String, log_tail: String },
    NotFound,
    Busy(String),
    Other(String),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error {
            Error::GrainFailed { reason, code, log_tail } => {
                Failure::Grain { reason, code, log_tail }
            }
            Error::NotFound(_) => Failure::NotFound,
            Error::Busy(why) => Failure::Busy(why),
            other => Failure::Other(other.to_string()),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        match failure {
            Failure::Grain { reason, code, log_tail } => {
                Error::GrainFailed { reason, code, log_tail }
            }
            Failure::NotFound => Error::NotFound("grain"),
            Failure::Busy(why) => Error::Busy(why),
            Failure::Other(text) => Error::Internal(text),
        }
    }
}

/// A pause after several ends in a row, as people are told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    /// Ends soon after a start, in a row.
    pub times: u32,
    /// When requests start it again, in milliseconds since 1970.
    pub until: i64,
}

impl Pause {
    /// Whole seconds until its end, at least one; `None` when it is over.
    pub fn seconds(&self) -> Option<u64> {
        let left = u64::try_from(self.until - now_ms()).ok().filter(|left| *left > 0)?;
        Some(left.div_ceil(1000))
    }

    /// Why the grain is not started, and how long yet; `None` when that is over.
    pub fn words(&self) -> Option<String> {
        let seconds = self.seconds()?;
        let unit = if seconds == 1 { "second" } else { "seconds" };
        let times = self.times;
        Some(format!(
            "It has stopped {times} times in a row soon after its start, so it gets a pause of \
             another {seconds} {unit}."
        ))
    }
}

/// What one grain's ends have led to.
#[derive(Default)]
pub struct Pauses {
    held: RefCell<Option<Held>>,
    /// Times in a row that it was ended for taking disk space without end.
    greed: Cell<u32>,
    last_greed: Cell<Option<Instant>>,
    /// Ends soon after a start in a row, and when the last of them was.
    early: Cell<u32>,
    last_early: Cell<Option<Instant>>,
}

struct Held {
    until: Instant,
    failure: Failure,
    why: Why,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// A failed start: not for a second try.
    Failed,
    Loop(Pause),
    Greed,
}

impl Pauses {
    /// Whether a request may start the grain now. `again`: it is the second try of the same one.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&self, again: bool) -> Result<(), Error> {
        let held = self.held.borrow();
        let Some(held) = held.as_ref().filter(|held| held.is_in_force(Instant::now())) else {
            return Ok(());
        };
        match (held.why, held.failure.clone()) {
            (Why::Failed, _) if again => Ok(()),
            (Why::Loop(pause), Failure::Grain { reason, code, log_tail }) => {
                Err(Error::GrainPaused { reason, code, log_tail, pause })
            }
            (_, failure) => Err(failure.into()),
        }
    }

    /// A person asks for a start, or the grain was stopped: no pause. The rows are not forgotten.
    pub fn lift(&self) {
        *self.held.borrow_mut() = None;
    }

    /// It runs.
    pub fn started(&self) {
        self.held.borrow_mut().take_if(|held| held.why == Why::Failed);
    }

    /// A start failed.
    pub fn failed(&self, failure: &Failure) {
        let now = Instant::now();
        let mut held = self.held.borrow_mut();
        if held.as_ref().is_none_or(|held| held.why == Why::Failed || !held.is_in_force(now)) {
            let until = now + FAILURE_TIME;
            *held = Some(Held { until, failure: failure.clone(), why: Why::Failed });
        }
    }

    /// The grain ended by itself after it had run for `ran`; zero for one that did not come up.
    /// `code`: for people who are told of it before more is known.
    pub fn ended(&self, ran: Duration, code: impl FnOnce() -> String) {
        let now = Instant::now();
        let times = self.count(ran, now);
        let Some(time) = loop_pause(times) else { return };
        let pause = Pause { times, until: now_ms() + time.as_millis() as i64 };
        let reason = "The app ended by itself.".into();
        let failure = Failure::Grain { reason, code: code(), log_tail: String::new() };
        *self.held.borrow_mut() = Some(Held { until: now + time, failure, why: Why::Loop(pause) });
    }

    /// How many ends soon after a start there are in a row, with this one.
    fn count(&self, ran: Duration, now: Instant) -> u32 {
        let fresh = |last: &Instant| now.saturating_duration_since(*last) <= LOOP_FORGET;
        let before = match self.last_early.get().filter(fresh) {
            Some(_) if ran < SOON => self.early.get(),
            _ => 0,
        };
        let times = if ran < SOON { before.saturating_add(1) } else { 0 };
        self.early.set(times);
        self.last_early.set((times > 0).then_some(now));
        times
    }

    /// It was ended for its greed after it had run for `ran`.
    pub fn greedy(&self, ran: Duration, failure: Failure) {
        let before = if ran > GREED_WELL { 0 } else { self.greed.get() };
        self.greed.set(before.saturating_add(1));
        self.last_greed.set(Some(Instant::now()));
        let time = GREED_TIME.saturating_mul(1 << before.min(16)).min(GREED_MOST);
        *self.held.borrow_mut() =
            Some(Held { until: Instant::now() + time, failure, why: Why::Greed });
    }

    /// Whether the last end for greed was the first in a row.
    pub fn is_first_greed(&self) -> bool {
        self.greed.get() <= 1
    }

    /// The pause in force is told with these words from now on.
    pub fn explain(&self, failure: Failure) {
        if let Some(held) = self.held.borrow_mut().as_mut().filter(|held| held.why != Why::Failed) {
            held.failure = failure;
        }
    }

    /// Whether all of it is so long over that it makes no difference any more.
    pub fn are_over(&self) -> bool {
        self.are_over_at(Instant::now())
    }

    fn are_over_at(&self, now: Instant) -> bool {
        let within = |time: Duration, at: &Cell<Option<Instant>>| {
            at.get().is_some_and(|at| now.saturating_duration_since(at) <= time)
        };
        !within(LOOP_FORGET, &self.last_early)
            // The longest pause, and as long again.
            && !within(GREED_MOST * 2, &self.last_greed)
            && !self.held.borrow().as_ref().is_some_and(|held| held.is_in_force(now))
    }

    /// The pause in force, if it is for ends in a row.
    pub fn in_loop(&self) -> Option<Pause> {
        match self.held.borrow().as_ref()? {
            held @ Held { why: Why::Loop(pause), .. } if held.is_in_force(Instant::now()) => {
                Some(*pause)
            }
            _ => None,
        }
    }
}

impl Held {
    fn is_in_force(&self, now: Instant) -> bool {
        now < self.until
    }
}

/// How long requests start nothing after so many ends soon after a start in a row.
fn loop_pause(times: u32) -> Option<Duration> {
    let doublings = times.checked_sub(FREE + 1)?;
    Some(LOOP_TIME.saturating_mul(1 << doublings.min(16)).min(LOOP_MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::ZERO;

    fn end(pauses: &Pauses, ran: Duration) -> Option<Pause> {
        pauses.ended(ran, || "G-EXIT-TEST".into());
        pauses.in_loop()
    }

    #[test]
    fn pauses_grow_and_have_an_end() {
        assert_eq!(loop_pause(FREE), None);
        let seconds: Vec<_> =
            (FREE + 1..FREE + 9).map(|times| loop_pause(times).unwrap().as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(loop_pause(u32::MAX), Some(LOOP_MOST));
    }

    #[test]
    fn a_few_ends_are_free_then_requests_wait_and_people_do_not() {
        let pauses = Pauses::default();
        for _ in 0..FREE {
            assert_eq!(end(&pauses, AT_ONCE), None);
        }
        assert!(pauses.admit(false).is_ok());
        let pause = end(&pauses, Duration::from_secs(59)).expect("a pause");
        assert_eq!((pause.times, pause.seconds()), (FREE + 1, Some(2)));
        pauses.explain(Failure::Grain {
            reason: "Status 3.".into(),
            code: "C".into(),
            log_tail: String::new(),
        });
        // The second try of the same request waits, too.
        for again in [false, true] {
            let told = pauses.admit(again);
            let Err(Error::GrainPaused { reason, pause: told, .. }) = told else {
                panic!("{told:?}")
            };
            assert_eq!((reason.as_str(), told), ("Status 3.", pause));
        }
        // What failed meanwhile does not shorten it.
        pauses.failed(&Failure::NotFound);
        assert_eq!(pauses.in_loop(), Some(pause));
        pauses.lift();
        assert!(pauses.admit(false).is_ok());
        assert_eq!(end(&pauses, AT_ONCE).expect("the row goes on").times, FREE + 2);
    }

    #[test]
    fn a_run_that_went_well_ends_the_row() {
        let pauses = Pauses::default();
        for _ in 0..FREE {
            end(&pauses, AT_ONCE);
        }
        assert_eq!(end(&pauses, SOON), None);
        for _ in 0..FREE {
            assert_eq!(end(&pauses, AT_ONCE), None);
        }
        assert!(end(&pauses, AT_ONCE).is_some());
        // So do ends that are far apart.
        let later = Instant::now() + LOOP_FORGET + Duration::from_secs(1);
        assert_eq!(pauses.count(AT_ONCE, later), 1);
        assert_eq!(pauses.count(AT_ONCE, later), 2);
    }

    #[test]
    fn a_failed_start_is_tried_again_within_one_request_and_greed_is_not() {
        let pauses = Pauses::default();
        pauses.failed(&Failure::NotFound);
        assert!(matches!(pauses.admit(false), Err(Error::NotFound(_))));
        assert!(pauses.admit(true).is_ok());
        pauses.greedy(AT_ONCE, Failure::Other("greed".into()));
        assert!(pauses.admit(true).is_err() && pauses.is_first_greed());
        pauses.greedy(AT_ONCE, Failure::Other("greed".into()));
        assert!(!pauses.is_first_greed());
        pauses.greedy(GREED_WELL * 2, Failure::Other("greed".into()));
        assert!(pauses.is_first_greed());
    }

    #[test]
    fn what_is_long_over_can_be_forgotten() {
        let pauses = Pauses::default();
        assert!(pauses.are_over());
        let later = |time: Duration| Instant::now() + time;
        pauses.failed(&Failure::NotFound);
        assert!(!pauses.are_over() && pauses.are_over_at(later(FAILURE_TIME)));
        end(&pauses, AT_ONCE);
        assert!(!pauses.are_over_at(later(LOOP_FORGET - SOON)));
        assert!(pauses.are_over_at(later(LOOP_FORGET + SOON)));
        pauses.greedy(AT_ONCE, Failure::NotFound);
        pauses.lift();
        assert!(!pauses.are_over_at(later(GREED_MOST + SOON)));
        assert!(pauses.are_over_at(later(GREED_MOST * 2 + SOON)));
    }
}
