//! Messages that the guard puts in the place of a peer's, or answers with.

use capnp::Word;
use capnp::message::{Builder, HeapAllocator};
use capnp_rpc::rpc_capnp::{exception, message};

use crate::rpc::link::{Frame, new_message};

/// `reason` as another message can carry it, cut to `limit` bytes.
fn cut(reason: &str, limit: usize) -> &str {
    let mut end = reason.len().min(limit);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    &reason[..end]
}

/// A Return with an exception for `answer`: to the peer (whose parameters are let go of), or in
/// the place of its own Return.
pub fn failed_return(
    answer: u32,
    kind: exception::Type,
    reason: &str,
    limit: usize,
    no_finish_needed: bool,
) -> Builder<HeapAllocator> {
    let mut message = new_message(64);
    let mut ret = message.init_root::<message::Builder<'_>>().init_return();
    ret.set_answer_id(answer);
    ret.set_release_param_caps(true);
    ret.set_no_finish_needed(no_finish_needed);
    let mut exception = ret.init_exception();
    exception.set_type(kind);
    exception.set_reason(cut(reason, limit));
    message
}

/// A Return that says: given up.
pub fn canceled_return(answer: u32) -> Builder<HeapAllocator> {
    let mut message = new_message(16);
    let mut ret = message.init_root::<message::Builder<'_>>().init_return();
    ret.set_answer_id(answer);
    ret.set_canceled(());
    message
}

/// A Resolve of `promise` with an exception.
pub fn failed_resolve(
    promise: u32,
    kind: exception::Type,
    reason: &str,
    limit: usize,
) -> Builder<HeapAllocator> {
    let mut message = new_message(64);
    let mut resolve = message.init_root::<message::Builder<'_>>().init_resolve();
    resolve.set_promise_id(promise);
    let mut exception = resolve.init_exception();
    exception.set_type(kind);
    exception.set_reason(cut(reason, limit));
    message
}

/// `message` as if it had been received.
pub fn frame(message: &Builder<HeapAllocator>) -> Frame {
    let segments = message.get_segments_for_output();
    let mut words = Word::allocate_zeroed_vec(segments.iter().map(|s| s.len() / 8).sum());
    let (mut at, mut ends) = (0, Vec::new());
    for segment in segments.iter() {
        Word::words_to_bytes_mut(&mut words)[at..at + segment.len()].copy_from_slice(segment);
        at += segment.len();
        ends.push((at / 8) as u32);
    }
    Frame::from_segments(words, ends)
}
