//! Any bytes as a hostile peer's script: what it sends, and when it lets the victim run.
//!
//! Shared by the smoke test and the fuzz target. Ids are small, so that messages meet.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::rc::Rc;
use std::time::Duration;

use capnp::capability::Client;
use capnp_rpc::rpc_capnp::{cap_descriptor, message_target};
use capnp_rpc::rpc_twoparty_capnp::Side;
use sandstorm_schema::rpc::{Crossing, GuardLimits, Membrane, MembranePolicy, Trust, Vat};

use super::raw::{self, encode};
use super::{call, get_cap, object, put_cap, put_data};

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn next(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A small id; sometimes a wild one.
    fn id(&mut self) -> u32 {
        match self.next() {
            255 => u32::MAX,
            n => u32::from(n % 12),
        }
    }
}

fn describe(bytes: &mut Bytes<'_>, mut cap: cap_descriptor::Builder<'_>) {
    match bytes.next() % 8 {
        0 => cap.set_none(()),
        1 | 2 => cap.set_sender_hosted(bytes.id()),
        3 | 4 => cap.set_sender_promise(bytes.id()),
        5 => cap.set_receiver_hosted(bytes.id()),
        6 => {
            let mut answer = cap.init_receiver_answer();
            answer.set_question_id(bytes.id());
            let steps = bytes.next() % 3;
            let mut transform = answer.init_transform(u32::from(steps));
            for i in 0..u32::from(steps) {
                transform.reborrow().get(i).set_get_pointer_field(u16::from(bytes.next() % 3));
            }
        }
        _ => {
            cap.init_third_party_hosted();
        }
    }
}

fn aim(bytes: &mut Bytes<'_>, mut target: message_target::Builder<'_>) {
    match bytes.next() % 3 {
        0 | 1 => target.set_imported_cap(bytes.id()),
        _ => {
            let mut answer = target.init_promised_answer();
            answer.set_question_id(bytes.id());
            answer.init_transform(1).get(0).set_get_pointer_field(u16::from(bytes.next() % 2));
        }
    }
}

/// The next message of the script.
fn message(bytes: &mut Bytes<'_>) -> Vec<u8> {
    let mut encoded = match bytes.next() % 12 {
        0 => raw::bootstrap(bytes.id()),
        1..=3 => {
            let (id, method) = (bytes.id(), u16::from(bytes.next() % 8));
            let mut message = encode(|root| {
                let mut call = root.init_call();
                call.set_question_id(id);
                call.set_interface_id(super::INTERFACE);
                call.set_method_id(method);
                aim(bytes, call.reborrow().init_target());
                if bytes.next() % 16 == 0 {
                    call.reborrow().get_send_results_to().set_yourself(());
                }
                let mut params = call.init_params();
                describe(bytes, params.reborrow().init_cap_table(1).get(0));
                params.get_content().init_as::<capnp_rpc::rpc_capnp::payload::Builder<'_>>();
            });
            let at = message.len() - 16;
            message[at] = 3;
            message
        }
        4 | 5 => {
            let id = bytes.id();
            raw::return_with(id, |mut ret| {
                ret.set_no_finish_needed(bytes.next() % 2 == 0);
                match bytes.next() % 8 {
                    0..=3 => {
                        let mut results = ret.init_results();
                        describe(bytes, results.reborrow().init_cap_table(1).get(0));
                        put_data(results.get_content(), b"some content");
                    }
                    4 => ret.init_exception().set_reason("no"),
                    5 => ret.set_canceled(()),
                    6 => ret.set_take_from_other_question(bytes.id()),
                    _ => ret.set_results_sent_elsewhere(()),
                }
            })
        }
        6 => raw::finish(bytes.id(), bytes.next() % 2 == 0),
        7 => raw::release(bytes.id(), u32::from(bytes.next() % 3)),
        8 | 9 => raw::resolve_to(bytes.id(), |cap| describe(bytes, cap)),
        10 => encode(|root| {
            let mut disembargo = root.init_disembargo();
            aim(bytes, disembargo.reborrow().init_target());
            let mut context = disembargo.init_context();
            match bytes.next() % 2 {
                0 => context.set_sender_loopback(bytes.id()),
                _ => context.set_receiver_loopback(bytes.id()),
            }
        }),
        _ => encode(|root| {
            let resolve = root.init_unimplemented().init_resolve();
            describe(bytes, resolve.init_cap());
        }),
    };
    // Now and then, some bytes are not what they should be.
    if bytes.next() >= 240 {
        for _ in 0..1 + bytes.next() % 4 {
            let at = usize::from(bytes.next()) * 8 % encoded.len() + usize::from(bytes.next() % 8);
            if let Some(byte) = encoded.get_mut(at) {
                *byte = bytes.next();
            }
        }
    }
    encoded
}

struct Allow;
impl MembranePolicy for Allow {
    fn check(&self, _: Crossing) -> Result<(), capnp::Error> {
        Ok(())
    }
}

/// 0 echoes; 1 keeps; 2 calls what is kept; 3 drops it; 4 never answers; 5 promises what is kept;
/// 6 is a new object; 7 does not exist.
fn victim() -> Client {
    let kept: Rc<RefCell<Vec<Client>>> = Rc::default();
    object(move |method, params, mut results| {
        let kept = kept.clone();
        async move {
            match method {
                0 => put_cap(results.get(), &get_cap(params.get()?)?),
                1 => kept.borrow_mut().push(get_cap(params.get()?)?),
                2 => {
                    let last = kept.borrow().last().map(|cap| Client::new(cap.hook.add_ref()));
                    if let Some(last) = last {
                        let answer = call(&last, 1, |_| {}).promise.await?;
                        let _ = answer.get()?.target_size()?;
                    }
                }
                3 => drop(std::mem::take(&mut *kept.borrow_mut())),
                4 => futures::future::pending::<()>().await,
                5 => {
                    let last = kept.borrow().last().map(|cap| Client::new(cap.hook.add_ref()));
                    let later: Client = capnp_rpc::new_future_client(async move {
                        tokio::task::yield_now().await;
                        last.ok_or_else(|| capnp::Error::failed("nothing kept".into()))
                    });
                    put_cap(results.get(), &later);
                }
                6 => put_cap(results.get(), &victim()),
                _ => return Err(capnp::Error::unimplemented("no such method".into())),
            }
            Ok(())
        }
    })
}

async fn let_run() {
    for _ in 0..12 {
        tokio::task::yield_now().await;
    }
}

/// Plays the script against a guarded vat, by itself and behind a membrane.
///
/// # Panics
/// When the vat panics or does not end.
pub fn play(script: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (mut attacker, end) = std::os::unix::net::UnixStream::pair().unwrap();
        attacker.set_nonblocking(true).unwrap();
        end.set_nonblocking(true).unwrap();
        let end = tokio::net::UnixStream::from_std(end).unwrap();
        let mut bytes = Bytes(script);
        let served = match bytes.next() % 2 {
            0 => victim(),
            _ => Membrane::new(Rc::new(Allow)).inward_face(victim()),
        };
        // What would wait is refused at once: a script has no time.
        let limits = GuardLimits { promise_wait: Duration::ZERO, ..GuardLimits::app() };
        let vat = Vat::spawn(end, Side::Server, Some(served), Trust::Hostile(limits));
        let peer: Client = vat.bootstrap();
        for _ in 0..3 {
            let answer = call(&peer, 0, |_| {}).promise;
            tokio::task::spawn_local(async move {
                if let Ok(answer) = answer.await {
                    let _ = answer.get().and_then(|content| content.target_size());
                }
            });
        }
        drop(peer);
        let mut sink = [0; 4096];
        while !bytes.0.is_empty() {
            let message = message(&mut bytes);
            if attacker.write_all(&message).is_err() {
                break;
            }
            if bytes.next() % 3 == 0 {
                let_run().await;
            }
            while matches!(attacker.read(&mut sink), Ok(n) if n > 0) {}
        }
        let_run().await;
        drop(attacker);
        let end = tokio::time::timeout(Duration::from_secs(10), vat.closed()).await;
        let end = end.expect("the vat ends");
        assert!(!vat.panicked(), "{end:?}");
    });
}
