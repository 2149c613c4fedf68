//! Floods that break no rule: everything asked is finished again, everything sent is allowed, so
//! that they go on for as long as they like. What they cost is the victim's time.
//!
//! Each counts the messages that the victim's socket took.

use crate::floods::Field;
use crate::rpc_support::put_data;
use crate::rpc_support::raw::{Raw, bootstrap, call_on, finish, release, resolve_to};
use crate::victim::method;

type Steady = fn(&mut Raw, &Field) -> u64;

pub const FLOODS: &[(&str, Steady)] = &[
    ("bootstraps", bootstraps),
    ("unknown-methods", unknown_methods),
    ("large-unknown-methods", large_unknown_methods),
    ("pointer-lists", pointer_lists),
    ("many-capabilities", many_capabilities),
    ("trickle", trickle),
    ("calls", calls),
    ("refused-calls", refused_calls),
    ("finishes", finishes),
    ("same-finish", same_finish),
    ("releases", releases),
    ("resolves", resolves),
];

/// Questions in flight: their answers have surely come when they are finished.
const BEHIND: u32 = 500;

/// Calls that a victim has unanswered before it refuses more, and some.
const UNANSWERED: u32 = 2500;

/// Sends what `make` makes of each number, `messages` each time.
fn pour(peer: &mut Raw, field: &Field, messages: u64, make: impl Fn(u32) -> Vec<u8>) -> u64 {
    // Whole batches, so that the victim and not we are what is slow.
    let (mut taken, mut id) = (0, 1);
    while field.goes_on() {
        let mut batch = Vec::new();
        while batch.len() < 16 << 10 {
            batch.extend(make(id));
            id += 1;
            taken += messages;
        }
        if !peer.send(&batch) {
            break;
        }
    }
    taken
}

fn bootstraps(peer: &mut Raw, field: &Field) -> u64 {
    peer.drain();
    pour(peer, field, 2, |q| {
        let mut both = bootstrap(q);
        both.extend(finish(q.saturating_sub(BEHIND), true));
        both
    })
}

fn unknown(peer: &mut Raw, field: &Field, size: usize) -> u64 {
    let target = peer.ask_bootstrap();
    peer.drain();
    let data = vec![1; size];
    pour(peer, field, 2, |q| {
        let mut both = call_on(q, target, method::ECHO, |mut call| {
            call.set_interface_id(1);
            put_data(call.init_params().get_content(), &data);
        });
        both.extend(finish(q.saturating_sub(BEHIND), true));
        both
    })
}

fn unknown_methods(peer: &mut Raw, field: &Field) -> u64 {
    unknown(peer, field, 0)
}

fn large_unknown_methods(peer: &mut Raw, field: &Field) -> u64 {
    unknown(peer, field, 60 << 10)
}

/// Calls that nobody knows, whose contents are small and of many parts.
fn pointer_lists(peer: &mut Raw, field: &Field) -> u64 {
    let target = peer.ask_bootstrap();
    peer.drain();
    pour(peer, field, 2, |q| {
        let mut both = call_on(q, target, method::ECHO, |mut call| {
            call.set_interface_id(1);
            let content = call.init_params().get_content();
            let mut list = content.initn_as::<capnp::text_list::Builder<'_>>(1_000);
            (0..1_000).for_each(|i| list.set(i, "x"));
        });
        both.extend(finish(q.saturating_sub(BEHIND), true));
        both
    })
}

/// Calls that nobody knows, each with as many new objects as one may have.
fn many_capabilities(peer: &mut Raw, field: &Field) -> u64 {
    let target = peer.ask_bootstrap();
    peer.drain();
    pour(peer, field, 2, |q| {
        let mut both = call_on(q, target, method::ECHO, |mut call| {
            call.set_interface_id(1);
            let mut table = call.init_params().init_cap_table(64);
            for i in 0..64 {
                table.reborrow().get(i).set_sender_hosted(i % 8_000);
            }
        });
        both.extend(finish(q.saturating_sub(BEHIND), true));
        both
    })
}

/// One large message, a byte at a time.
fn trickle(peer: &mut Raw, field: &Field) -> u64 {
    let mut head = vec![0, 0, 0, 0];
    head.extend((30u32 << 17).to_le_bytes());
    peer.send(&head);
    let mut taken = 0;
    while field.goes_on() && peer.send(&[0]) {
        taken += 1;
    }
    // Bytes, not messages.
    taken / 1_000
}

/// Calls that are all finished in the end, but for the first ones.
fn good(peer: &mut Raw, field: &Field, wanted: u16, unfinished: u32) -> u64 {
    let target = peer.ask_bootstrap();
    peer.drain();
    pour(peer, field, 2, |q| {
        let mut both = call_on(q, target, wanted, |_| {});
        let done = q.saturating_sub(BEHIND);
        both.extend(finish(if done > unfinished { done } else { 0 }, true));
        both
    })
}

fn calls(peer: &mut Raw, field: &Field) -> u64 {
    good(peer, field, method::ECHO, 0)
}

/// Never answered, and soon more than may be at once.
fn refused_calls(peer: &mut Raw, field: &Field) -> u64 {
    good(peer, field, method::NEVER_ANSWER, UNANSWERED)
}

fn finishes(peer: &mut Raw, field: &Field) -> u64 {
    pour(peer, field, 1, |q| finish(q, false))
}

/// Of a call that is never answered, so that it stays known.
fn same_finish(peer: &mut Raw, field: &Field) -> u64 {
    let target = peer.ask_bootstrap();
    peer.send(&call_on(1, target, method::NEVER_ANSWER, |_| {}));
    peer.drain();
    pour(peer, field, 1, |_| finish(1, true))
}

fn releases(peer: &mut Raw, field: &Field) -> u64 {
    let target = peer.ask_bootstrap();
    pour(peer, field, 1, |_| release(target, 0))
}

fn resolves(peer: &mut Raw, field: &Field) -> u64 {
    peer.drain();
    pour(peer, field, 1, |q| resolve_to(q, |mut cap| cap.set_sender_hosted(q + 1)))
}
