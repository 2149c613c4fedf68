//! The guard's mirror of capnp-rpc's four tables.
//!
//! Trust: ids of questions and imports are the peer's choice, so those tables are hash maps (of
//! std's kind, whose keys an attacker cannot aim); ids of our own questions and exports are dense.

use std::collections::HashMap;

use super::pace::Pace;
use super::promises::{Imports, Target};
use super::{GuardLimits, GuardStats, Violation, too_many};

pub struct Ledger {
    pub pace: Pace,
    pub imports: Imports,
    exports: Vec<Export>,
    live_exports: usize,
    answers: HashMap<u32, Answer>,
    unanswered: usize,
    abandoned: usize,
    kept_bytes: usize,
    questions: Vec<Question>,
    given_up: usize,
    embargoes: usize,
    /// Finishes that may still come for calls which need none: peers are free to send them.
    unneeded_finishes: usize,
}

/// An object of ours that the peer holds.
#[derive(Clone, Copy, Default)]
struct Export {
    references: u32,
    /// It was offered as a settled object, and never as a promise. (capnp-rpc offers a promise as
    /// a promise once, and as if it were settled from then on.)
    settled: bool,
    /// It was a promise, and the peer was told what it became: something settled.
    resolved: bool,
    /// See [`Answer::nesting`].
    nesting: u32,
}

/// A call of the peer's, from its start to its Finish (or our Return that needs none).
#[derive(Default)]
struct Answer {
    returned: bool,
    finished: bool,
    /// Results go to a later call of the peer's; capnp-rpc never sends a Return for it.
    redirected: bool,
    /// Promises inside promises that its parameters are, and so may its results be: capnp-rpc
    /// keeps them all, follows them one by one, and drops them by recursion.
    nesting: u32,
    /// There was a promise, ours or the peer's, in its results.
    promises: bool,
    kept_bytes: usize,
    exports: Vec<u32>,
    /// Given back to the peer's [`Pace`] when the call succeeds.
    refund: u32,
}

/// A call of ours.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Question {
    #[default]
    Free,
    Waiting,
    /// We gave it up; the peer still owes a Return.
    GivenUp,
    /// Answered; we still read the answer.
    Returned,
}

/// Where a Return of the peer's goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    Awaited,
    /// Nobody waits any more: capnp-rpc looks at nothing but the id.
    GivenUp,
}

impl Ledger {
    pub fn new(limits: &GuardLimits) -> Self {
        Ledger {
            pace: Pace::new(limits.messages_per_second),
            imports: Imports::new(limits.imports, limits.promise_chain),
            exports: Vec::new(),
            live_exports: 0,
            answers: HashMap::new(),
            unanswered: 0,
            abandoned: 0,
            kept_bytes: 0,
            questions: Vec::new(),
            given_up: 0,
            embargoes: 0,
            unneeded_finishes: 0,
        }
    }

    pub fn stats(&self) -> GuardStats {
        GuardStats {
            imports: self.imports.len(),
            exports: self.live_exports,
            unanswered_calls: self.unanswered,
            open_answers: self.answers.len() - self.unanswered - self.abandoned,
            abandoned_calls: self.abandoned,
            given_up_calls: self.given_up,
            held_bytes: 0,
        }
    }

    // Calls of the peer's.

    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub fn check_call(&self, id: u32, limits: &GuardLimits) -> Result<(), Violation> {
        if self.answers.contains_key(&id) {
            return Err(Violation::Forbidden("call with the id of an unfinished one"));
        }
        too_many("unfinished calls", self.answers.len() - self.abandoned + 1, limits.open_answers)
    }

    pub fn call_arrived(&mut self, id: u32, redirected: bool, nesting: u32, refund: u32) {
        self.answers.insert(id, Answer { redirected, nesting, refund, ..Answer::default() });
        self.unanswered += 1;
    }

    /// A call was answered by the guard: nothing of it is entered.
    pub fn call_refused(&mut self) {
        self.unneeded_finishes += 1;
    }

    /// Our results, and no error, are on their way to the peer's call `id`.
    pub fn call_succeeded(&mut self, id: u32) {
        let refund =
            self.answers.get_mut(&id).map_or(0, |answer| std::mem::take(&mut answer.refund));
        self.pace.earn(refund);
    }

    /// How deep a parameter would lie that is (part of) the answer `id`.
    pub fn nesting_of_answer(&self, id: u32) -> u32 {
        self.answers.get(&id).map_or(0, |answer| answer.nesting + 1)
    }

    /// The same for our object `id`.
    pub fn nesting_of_export(&self, id: u32) -> u32 {
        match self.exports.get(id as usize) {
            Some(export) if export.references > 0 && !export.settled => export.nesting + 1,
            _ => 0,
        }
    }

    /// Whether (part of) the answer `id` may still be a promise.
    pub fn answer_waits(&self, id: u32) -> bool {
        // capnp-rpc lets go of a finished one, answered or not.
        let answer = self.answers.get(&id).filter(|answer| !answer.finished);
        answer.is_some_and(|answer| !answer.returned || answer.promises)
    }

    /// The same for our object `id`.
    pub fn export_waits(&self, id: u32) -> bool {
        let export = self.exports.get(id as usize).filter(|export| export.references > 0);
        export.is_some_and(|export| !export.settled && !export.resolved)
    }

    /// Our promise `promise` became something settled, or an error.
    pub fn export_settled(&mut self, promise: u32) {
        slot(&mut self.exports, promise).resolved = true;
    }

    /// A promise is in the results of the answer `answer`.
    pub fn promise_returned(&mut self, answer: u32) {
        if let Some(answer) = self.answers.get_mut(&answer) {
            answer.promises = true;
        }
    }

    /// An object in the results of the answer `answer`.
    pub fn export_returned(&mut self, id: u32, answer: u32) {
        let nesting = self.answers.get(&answer).map_or(0, |answer| answer.nesting);
        self.nest_export(id, nesting);
    }

    /// Our promise `promise` resolves to our object `id`.
    pub fn export_resolved(&mut self, promise: u32, id: u32) {
        let nesting = self.exports.get(promise as usize).map_or(0, |export| export.nesting);
        self.nest_export(id, nesting);
    }

    fn nest_export(&mut self, id: u32, nesting: u32) {
        let export = slot(&mut self.exports, id);
        export.nesting = export.nesting.max(nesting);
    }

    pub fn finish_arrived(
        &mut self,
        id: u32,
        release_results: bool,
        limits: &GuardLimits,
    ) -> Result<(), Violation> {
        // A Finish for a Return that needed none is legal, and so is one for a refused call.
        let Some(answer) = self.answers.get_mut(&id) else {
            match self.unneeded_finishes.checked_sub(1) {
                Some(left) => self.unneeded_finishes = left,
                None => self.pace.spend(1),
            }
            return Ok(());
        };
        let exports =
            if release_results { std::mem::take(&mut answer.exports) } else { Vec::new() };
        if answer.returned {
            self.kept_bytes -= answer.kept_bytes;
            self.answers.remove(&id);
        } else if !answer.finished {
            answer.finished = true;
            self.unanswered -= 1;
            self.abandoned += 1;
            too_many("calls given up before their answer", self.abandoned, limits.abandoned_calls)?;
        } else {
            // A call is finished once: whatever comes again is owed for nothing.
            self.pace.spend(1);
        }
        exports.into_iter().try_for_each(|export| self.release_export(export, 1))
    }

    /// Our Return for the call `id`, with `exports` in its results.
    pub fn return_sent(
        &mut self,
        id: u32,
        needs_finish: bool,
        bytes: usize,
        exports: Vec<u32>,
        limits: &GuardLimits,
    ) -> Result<(), Violation> {
        let Some(answer) = self.answers.get_mut(&id) else { return Ok(()) };
        if answer.finished {
            self.abandoned -= 1;
            self.answers.remove(&id);
            return Ok(());
        }
        if !answer.returned {
            self.unanswered -= 1;
        }
        if !needs_finish {
            self.answers.remove(&id);
            self.unneeded_finishes += 1;
            return Ok(());
        }
        answer.returned = true;
        // Only results with capabilities are kept: calls may be pipelined on them.
        answer.kept_bytes = if exports.is_empty() { 0 } else { bytes };
        answer.exports = exports;
        self.kept_bytes += answer.kept_bytes;
        too_many("bytes of unfinished answers", self.kept_bytes, limits.kept_answer_bytes)
    }

    /// Whether the peer's call `id` asked for its results to be kept for a Return of the peer's.
    pub fn is_redirected(&self, id: u32) -> bool {
        self.answers.get(&id).is_some_and(|answer| answer.redirected)
    }

    // Objects of ours.

    pub fn export_sent(
        &mut self,
        id: u32,
        promise: bool,
        limits: &GuardLimits,
    ) -> Result<(), Violation> {
        let export = slot(&mut self.exports, id);
        if export.references == 0 {
            *export = Export { references: 1, settled: !promise, ..Export::default() };
            self.live_exports += 1;
            return too_many("objects of ours held", self.live_exports, limits.exports);
        }
        export.references = export.references.saturating_add(1);
        export.settled &= !promise;
        Ok(())
    }

    pub fn release_export(&mut self, id: u32, count: u32) -> Result<(), Violation> {
        let unknown = Violation::Unknown { what: "release", id };
        let export = self.exports.get_mut(id as usize).ok_or(unknown.clone())?;
        if export.references == 0 || count > export.references {
            return Err(unknown);
        }
        export.references -= count;
        if export.references == 0 {
            self.live_exports -= 1;
        }
        Ok(())
    }

    /// The peer resolves its promise `promise` to our object `export`.
    pub fn resolve_to_export(&mut self, promise: u32, export: u32) -> Result<(), Violation> {
        // A promise of ours may lead back to the peer's promise: a circle that capnp-rpc follows
        // for ever.
        if !self.exports.get(export as usize).is_some_and(|e| e.references > 0 && e.settled) {
            return Err(Violation::Forbidden("promise resolved to a promise of ours"));
        }
        self.imports.resolved(promise, Target::Ours)
    }

    // Calls of ours.

    pub fn question_sent(&mut self, id: u32) {
        *slot(&mut self.questions, id) = Question::Waiting;
    }

    pub fn finish_sent(&mut self, id: u32) {
        let question = slot(&mut self.questions, id);
        match question {
            Question::Waiting => {
                *question = Question::GivenUp;
                self.given_up += 1;
            }
            Question::Returned => *question = Question::Free,
            Question::Free | Question::GivenUp => {}
        }
    }

    pub fn expected(&self, id: u32) -> Result<Expected, Violation> {
        match self.questions.get(id as usize) {
            Some(Question::Waiting) => Ok(Expected::Awaited),
            Some(Question::GivenUp) => Ok(Expected::GivenUp),
            _ => Err(Violation::Unknown { what: "answer", id }),
        }
    }

    pub fn return_arrived(&mut self, id: u32, needs_finish: bool) {
        let question = slot(&mut self.questions, id);
        self.given_up -= usize::from(*question == Question::GivenUp);
        *question = match question {
            Question::Waiting if needs_finish => Question::Returned,
            _ => Question::Free,
        };
    }

    // Embargoes: ours that the peer has to send back.

    pub fn disembargo_sent(&mut self, limits: &GuardLimits) -> Result<(), Violation> {
        self.embargoes += 1;
        too_many("embargoes that were not sent back", self.embargoes, limits.embargoes)
    }

    pub fn disembargo_returned(&mut self, id: u32) -> Result<(), Violation> {
        self.embargoes =
            self.embargoes.checked_sub(1).ok_or(Violation::Unknown { what: "disembargo", id })?;
        Ok(())
    }
}

/// The entry of a dense table.
fn slot<T: Clone + Default>(table: &mut Vec<T>, id: u32) -> &mut T {
    let id = id as usize;
    if table.len() <= id {
        table.resize(id + 1, T::default());
    }
    &mut table[id]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Like every other message that nothing of ours led to: one call must not pay for a flood.
    #[test]
    fn a_finish_that_is_repeated_is_paced() {
        let limits = GuardLimits::app();
        for answered in [false, true] {
            let mut ledger = Ledger::new(&limits);
            ledger.call_arrived(1, false, 0, 0);
            if answered {
                ledger.return_sent(1, true, 0, Vec::new(), &limits).unwrap();
            }
            let finishes = (0..2 * limits.messages_per_second)
                .take_while(|_| {
                    ledger.finish_arrived(1, true, &limits).unwrap();
                    ledger.pace.rest().is_none()
                })
                .count();
            // What a peer that was quiet may send at once, and what this loop's own time allows.
            assert!(finishes < limits.messages_per_second as usize, "{finishes}");
        }
    }
}
