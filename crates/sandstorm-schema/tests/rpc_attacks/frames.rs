//! Attacks by frames and by what a single message says.

use std::time::Duration;

use crate::ATTACK;
use crate::floods::Field;
use crate::memory::MIB;
use crate::rpc_support::raw::{
    self, Raw, call_on, call_on_answer, encode, finish, resolve_to, return_with,
};
use crate::victim::method;

pub fn header_claims_64_mib(peer: &mut Raw, _: &Field) {
    let mut header = 0u32.to_le_bytes().to_vec();
    header.extend((8u32 * 1024 * 1024 - 1).to_le_bytes());
    peer.send(&header);
    std::thread::sleep(Duration::from_millis(300));
}

/// The same within every guard's limit.
pub fn header_claims_30_mib(peer: &mut Raw, _: &Field) {
    let mut header = 0u32.to_le_bytes().to_vec();
    header.extend((30 * MIB as u32 / 8).to_le_bytes());
    peer.send(&header);
    std::thread::sleep(Duration::from_millis(300));
}

pub fn half_a_frame(peer: &mut Raw, _: &Field) {
    peer.send(&[0, 0, 0, 0, 1]);
}

pub fn nothing_is_taken(_: &mut Raw, _: &Field) {
    std::thread::sleep(ATTACK);
}

/// Three calls, the last of them as deep as no reader goes.
pub fn deep_nesting(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    let mut message = call_on(1, target, method::ECHO, |call| {
        let content = call.init_params().get_content();
        content.init_as::<capnp_rpc::rpc_capnp::payload::Builder<'_>>();
    });
    // The last structure's first pointer leads to a new word, and so on.
    let words = message.len() / 8;
    let depth = 100_000usize;
    let last = words - 2;
    let down = |offset: u64| (offset << 2) | 1 << 48;
    message[last * 8..last * 8 + 8].copy_from_slice(&down(1).to_le_bytes());
    (0..depth).for_each(|_| message.extend(down(0).to_le_bytes()));
    message.extend([0; 8]);
    let segment = (message.len() / 8 - 1) as u32;
    message[4..8].copy_from_slice(&segment.to_le_bytes());
    peer.send(&message);
    std::thread::sleep(Duration::from_millis(200));
}

/// Bad messages that were always harmless: one by one, each on a connection of its own.
pub fn harmless(number: usize) -> Vec<u8> {
    match number {
        0 => finish(77, true),
        1 => raw::release(99, 1),
        2 => raw::release(0, 1000),
        3 => [raw::bootstrap(5), raw::bootstrap(5)].concat(),
        4 => return_with(42, |ret| {
            ret.init_results();
        }),
        5 => encode(|root| {
            root.init_unimplemented().init_join();
        }),
        6 => call_on(9, 12345, 0, |_| {}),
        7 => call_on_answer(9, 1234, Some(3), 0, |_| {}),
        8 => {
            let mut many = 511u32.to_le_bytes().to_vec();
            many.resize(8 + 511 * 4 + 4, 0);
            many
        }
        9 => vec![0xff; 64],
        10 => {
            let mut bad = call_on(9, 0, 0, |_| {});
            bad[16..24].fill(0x55);
            bad
        }
        11 => resolve_to(7, |mut cap| cap.set_none(())),
        12 => resolve_to(7, |mut cap| cap.set_receiver_hosted(0)),
        13 => encode(|root| root.init_abort().set_reason("farewell\x1b[2J")),
        14 => encode(|root| {
            root.init_provide();
        }),
        15 => encode(|root| {
            let mut disembargo = root.init_disembargo();
            disembargo.reborrow().init_target().set_imported_cap(0);
            disembargo.init_context().set_receiver_loopback(3);
        }),
        16 => encode(|root| {
            let mut disembargo = root.init_disembargo();
            disembargo.reborrow().init_target().set_imported_cap(0);
            disembargo.init_context().set_sender_loopback(3);
        }),
        17 => call_on(9, 0, 0, |mut call| {
            call.reborrow().get_send_results_to().init_third_party();
        }),
        18 => raw::call_with_cap(9, 0, 0, |cap| {
            cap.init_third_party_hosted();
        }),
        19 => encode(|root| {
            let resolve = root.init_unimplemented().init_resolve();
            resolve.init_cap().set_sender_hosted(0);
        }),
        20 => call_on_answer(9, 9, None, 0, |_| {}),
        21 => raw::call_with_cap(9, 0, 0, |mut cap| cap.set_receiver_hosted(4_000_000_000)),
        22 => vec![0; 8],
        23 => vec![0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0],
        _ => Vec::new(),
    }
}

pub fn many_harmless(peer: &mut Raw, _: &Field) {
    let number = std::env::var("ATTACK_NUMBER").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    peer.ask_bootstrap();
    peer.send(&harmless(number));
    std::thread::sleep(Duration::from_millis(100));
}
