//! Every attack: what it does to a bare vat, and what the guard makes of it.

use std::time::Duration;

use sandstorm_schema::rpc::GuardLimits;

use crate::answers::*;
use crate::floods::*;
use crate::frames::*;
use crate::promises::*;
use crate::victim::*;

/// What happens to a bare vat.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bare {
    /// More than so many MiB.
    Memory(usize),
    Panic,
    /// The thread never comes back.
    Hang,
    /// The process dies.
    Crash,
    /// Everybody on the thread waits for so many ms.
    Slow(u64),
    /// The connection stays open.
    Stays,
    /// Nothing bad: in the table for the guard's sake.
    Harmless,
}

#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    pub attack: Attack,
    pub script: Option<Script>,
    pub guarded_script: Option<Script>,
    pub bare: Bare,
    /// Most that the guarded process may allocate, in MiB.
    pub guarded_mib: usize,
    /// The guard ends the connection (or must not).
    pub cut: Option<bool>,
    pub limits: fn() -> GuardLimits,
}

pub const ROW: Row = Row {
    name: "",
    attack: nothing_is_taken,
    script: None,
    guarded_script: None,
    bare: Bare::Harmless,
    guarded_mib: 16,
    cut: Some(true),
    limits: unpaced,
};

/// As fast as the attacker can, so that the other limits are reached in time.
pub fn unpaced() -> GuardLimits {
    GuardLimits { messages_per_second: u32::MAX, ..GuardLimits::app() }
}

pub fn short_stalls() -> GuardLimits {
    GuardLimits {
        read_stall: Duration::from_millis(300),
        write_stall: Duration::from_millis(300),
        ..unpaced()
    }
}

#[rustfmt::skip]
pub const TABLE: &[Row] = &[
    Row { name: "answers_not_read", attack: answers_not_read, bare: Bare::Memory(100), cut: Some(false), ..ROW },
    Row { name: "endless_calls", attack: endless_calls, bare: Bare::Memory(40), cut: Some(false), ..ROW },
    Row { name: "endless_bootstraps", attack: endless_bootstraps, bare: Bare::Memory(40), guarded_mib: 24, ..ROW },
    Row { name: "endless_exports", attack: endless_exports, bare: Bare::Memory(30), ..ROW },
    Row { name: "endless_objects", attack: endless_objects, bare: Bare::Memory(30), ..ROW },
    Row { name: "endless_given_up", attack: endless_given_up, bare: Bare::Memory(30), guarded_mib: 24, ..ROW },
    Row { name: "endless_redirected", attack: endless_redirected, bare: Bare::Memory(30), guarded_mib: 24, ..ROW },
    Row { name: "unfinished_answers", attack: unfinished_answers, bare: Bare::Memory(100), guarded_mib: 40, ..ROW },
    Row { name: "large_unanswered_calls", attack: large_unanswered_calls, bare: Bare::Memory(150), guarded_mib: 80, cut: Some(false), ..ROW },
    Row { name: "table_of_nothings", attack: table_of_nothings, bare: Bare::Memory(150), ..ROW },
    Row { name: "unknown_kind", attack: unknown_kind, bare: Bare::Memory(100), ..ROW },
    Row { name: "shared_answer", attack: shared_answer, bare: Bare::Panic, script: Some(reads_often), guarded_script: Some(reads_often), ..ROW },
    Row { name: "empty_answer", attack: empty_answer, bare: Bare::Panic, script: Some(reads_often), guarded_script: Some(reads_often), ..ROW },
    Row { name: "wrong_pointer_answer", attack: wrong_pointer_answer, bare: Bare::Panic, script: Some(uses_pipeline_late),
          guarded_script: Some(uses_pipeline_late_behind_membrane), cut: None, ..ROW },
    Row { name: "huge_answers", attack: huge_answers, bare: Bare::Memory(150), script: Some(holds_answers), guarded_script: Some(holds_answers),
          guarded_mib: 80, cut: Some(false), ..ROW },
    Row { name: "huge_errors", attack: huge_errors, bare: Bare::Memory(150), script: Some(holds_answers), guarded_script: Some(holds_answers),
          guarded_mib: 40, cut: Some(false), ..ROW },
    Row { name: "promise_to_itself_called", attack: promise_to_itself_called, bare: Bare::Panic, ..ROW },
    Row { name: "promise_to_our_promise", attack: promise_to_our_promise, bare: Bare::Panic, ..ROW },
    Row { name: "promise_to_itself_disembargo", attack: promise_to_itself_disembargo, bare: Bare::Hang, ..ROW },
    Row { name: "promise_chain_called", attack: promise_chain_called, bare: Bare::Crash, ..ROW },
    Row { name: "promise_chain_dropped", attack: promise_chain_dropped, bare: Bare::Crash, ..ROW },
    Row { name: "answer_chain", attack: answer_chain, bare: Bare::Slow(100), ..ROW },
    Row { name: "promise_in_its_own_queue", attack: promise_in_its_own_queue, bare: Bare::Panic, cut: Some(false), ..ROW },
    Row { name: "two_promises_are_one", attack: two_promises_are_one, bare: Bare::Panic, cut: Some(false), ..ROW },
    Row { name: "queued_call_holds_another", attack: queued_call_holds_another, bare: Bare::Panic, cut: Some(false), ..ROW },
    Row { name: "embargoes_not_returned", attack: embargoes_not_returned, bare: Bare::Memory(30), ..ROW },
    Row { name: "header_claims_64_mib", attack: header_claims_64_mib, bare: Bare::Memory(60), ..ROW },
    Row { name: "header_claims_30_mib", attack: header_claims_30_mib, bare: Bare::Memory(28), cut: Some(false), ..ROW },
    Row { name: "half_a_frame", attack: half_a_frame, bare: Bare::Stays, limits: short_stalls, ..ROW },
    Row { name: "nothing_is_taken", attack: nothing_is_taken, bare: Bare::Memory(100), script: Some(sends_much), guarded_script: Some(sends_much),
          guarded_mib: 200, limits: short_stalls, ..ROW },
    Row { name: "deep_nesting", attack: deep_nesting, bare: Bare::Harmless, cut: Some(false), ..ROW },
    Row { name: "harmless", attack: many_harmless, bare: Bare::Harmless, cut: None, ..ROW },
];
