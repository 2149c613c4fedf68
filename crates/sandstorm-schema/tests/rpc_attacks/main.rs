//! Every attack on an RPC peer that we know of, against a vat with its guard and against a bare
//! one. The bare one has to fall, or the attack would prove nothing.
//!
//! Each attack runs in a process of its own, whose allocations are counted, with an honest
//! connection beside it that has to stay quick.

mod answers;
mod floods;
mod frames;
mod memory;
mod process;
mod promises;
#[path = "../rpc_support/mod.rs"]
mod rpc_support;
mod table;
mod victim;

use std::time::Duration;

use memory::MIB;
use process::attack;
use table::{Bare, TABLE};

/// How long an attack goes on.
const ATTACK: Duration = Duration::from_millis(1500);

/// How long it may try to fill a bare vat's memory: until it is as full as the table says.
const FILLING: Duration = Duration::from_secs(15);

/// Not a test by itself: the process in which an attack runs.
#[test]
fn child() {
    process::child();
}

fn check(name: &str) {
    check_number(name, 0);
}

fn check_number(name: &str, number: usize) {
    let row = TABLE.iter().find(|row| row.name == name).unwrap();
    let bare = attack(name, false, number);
    let guarded = attack(name, true, number);
    println!("{name} {number}: bare {bare:?}\n  guarded {guarded:?}");
    match row.bare {
        Bare::Memory(mib) => {
            assert!(bare.peak >= mib * MIB, "only {} MiB", bare.peak / MIB);
            assert!(guarded.peak < bare.peak || guarded.peak < row.guarded_mib * MIB);
        }
        Bare::Panic => assert!(bare.panicked, "no panic"),
        Bare::Hang => assert!(bare.hung, "no hang"),
        Bare::Crash => assert!(bare.died, "no crash"),
        Bare::Slow(ms) => assert!(bare.hung || bare.died || bare.neighbour_ms > ms),
        Bare::Stays => assert!(!bare.cut && !bare.died && !bare.panicked),
        Bare::Harmless => assert!(!bare.died && !bare.hung && !bare.panicked),
    }
    assert!(!guarded.died && !guarded.hung && !guarded.panicked, "the guarded vat fell");
    assert!(guarded.peak < row.guarded_mib * MIB, "{} MiB", guarded.peak / MIB);
    assert!(guarded.neighbour_ms < 2000, "the neighbour waited {} ms", guarded.neighbour_ms);
    assert!(guarded.neighbour_calls > 5);
    if let Some(cut) = row.cut {
        assert_eq!(guarded.cut, cut, "cut off");
    }
}

macro_rules! attacks {
    ($($name:ident)*) => {
        mod against_a_bare_and_a_guarded_vat {
            $(#[test] fn $name() { super::check(stringify!($name)); })*

            #[test]
            fn every_row_has_its_test() {
                let tests = [$(stringify!($name)),*];
                for row in super::TABLE {
                    assert!(tests.contains(&row.name) || row.name == "harmless", "{}", row.name);
                }
            }
        }
    };
}

attacks! {
    answers_not_read endless_calls endless_bootstraps endless_exports endless_objects
    endless_given_up endless_redirected unfinished_answers large_unanswered_calls
    table_of_nothings unknown_kind shared_answer empty_answer wrong_pointer_answer huge_answers
    huge_errors promise_to_itself_called promise_to_our_promise promise_to_itself_disembargo
    promise_chain_called promise_chain_dropped answer_chain promise_in_its_own_queue
    two_promises_are_one queued_call_holds_another embargoes_not_returned
    header_claims_64_mib header_claims_30_mib half_a_frame nothing_is_taken deep_nesting
}

/// Many small processes: a quarter of them here each, so that the harness runs them side by side.
mod harmless_messages {
    fn some(part: usize) {
        let count = (0..).take_while(|n| !super::frames::harmless(*n).is_empty()).count();
        assert!(count > 20);
        for number in (part..count).step_by(4) {
            super::check_number("harmless", number);
        }
    }

    #[test]
    fn first() {
        some(0);
    }
    #[test]
    fn second() {
        some(1);
    }
    #[test]
    fn third() {
        some(2);
    }
    #[test]
    fn fourth() {
        some(3);
    }
}
