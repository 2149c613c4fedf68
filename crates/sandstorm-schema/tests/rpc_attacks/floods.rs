//! Attacks by number and size.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::memory::{MIB, NOW};
use crate::rpc_support::put_data;
use crate::rpc_support::raw::{self, Raw, call_on, finish};
use crate::victim::method;

/// Where an attack runs, and how long.
pub struct Field {
    pub end: Instant,
    pub stop_at: usize,
}

impl Field {
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.end && NOW.load(Ordering::Relaxed) < self.stop_at
    }
}

pub type Attack = fn(&mut Raw, &Field);

/// Sends what `make` makes for each question id, until stopped or cut off.
pub fn flood(peer: &mut Raw, field: &Field, mut make: impl FnMut(u32) -> Vec<u8>) {
    let mut id = 1;
    while field.goes_on() {
        let mut batch = Vec::new();
        for _ in 0..16 {
            batch.extend(make(id));
            id += 1;
        }
        if !peer.send(&batch) {
            return;
        }
    }
}

pub fn answers_not_read(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    flood(peer, field, |q| call_on(q, target, method::ANSWER_64K, |_| {}));
}

pub fn endless_calls(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| call_on(q, target, method::NEVER_ANSWER, |_| {}));
}

pub fn endless_bootstraps(peer: &mut Raw, field: &Field) {
    peer.drain();
    flood(peer, field, raw::bootstrap);
}

pub fn endless_exports(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| {
        raw::call_with_cap(q, target, method::KEEP, |mut cap| cap.set_sender_hosted(q))
    });
}

pub fn endless_objects(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| {
        let mut both = call_on(q, target, method::NEW_OBJECT, |_| {});
        // Finished only when it surely was answered, or it would be given up.
        if q > 64 {
            both.extend(finish(q - 64, false));
        }
        both
    });
}

pub fn endless_given_up(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| {
        let mut both = call_on(q, target, method::NEVER_ANSWER, |_| {});
        both.extend(finish(q, true));
        both
    });
}

pub fn endless_redirected(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| {
        let mut both = call_on(q, target, method::ANSWER_64K, |call| {
            call.get_send_results_to().set_yourself(());
        });
        both.extend(finish(q, true));
        both
    });
}

pub fn unfinished_answers(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| call_on(q, target, method::OBJECT_AND_64K, |_| {}));
}

pub fn large_unanswered_calls(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    let data = vec![1u8; MIB];
    let mut id = 1;
    while field.goes_on() {
        let call = call_on(id, target, method::NEVER_ANSWER, |call| {
            put_data(call.init_params().get_content(), &data);
        });
        if !peer.send(&call) {
            return;
        }
        id += 1;
    }
}

pub fn table_of_nothings(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    for question in 1..3 {
        let mut call = call_on(question, target, method::NEVER_ANSWER, |call| {
            call.init_params().init_cap_table(1);
        });
        raw::make_list_empty(&mut call, 8_000_000);
        peer.send(&call);
    }
    std::thread::sleep(Duration::from_millis(300));
}

pub fn unknown_kind(peer: &mut Raw, field: &Field) {
    let mut message = call_on(1, 0, 0, |call| {
        put_data(call.init_params().get_content(), &vec![1u8; MIB]);
    });
    // The first word of the root structure begins with the kind.
    let root = 8 * (1 + 1 + usize::from(message[0] > 0));
    message[root..root + 2].copy_from_slice(&60u16.to_le_bytes());
    while field.goes_on() && peer.send(&message) {}
}
