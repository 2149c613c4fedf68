//! A peer that is no RPC implementation: it writes what it likes and reads when it likes.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use capnp::message::{Builder, HeapAllocator, Reader, ReaderOptions};
use capnp::serialize::OwnedSegments;
use capnp_rpc::rpc_capnp::{call, cap_descriptor, message, resolve, return_};

use super::addressed;

pub struct Raw {
    pub socket: UnixStream,
    /// An object of the victim's that is attacked, if not its bootstrap object.
    pub given: Option<u32>,
    /// Received while something else was waited for.
    backlog: VecDeque<Reader<OwnedSegments>>,
}

pub type Message = Builder<HeapAllocator>;

/// Encodes one message.
pub fn encode(fill: impl FnOnce(message::Builder<'_>)) -> Vec<u8> {
    let mut message = Builder::new_default();
    fill(message.init_root());
    capnp::serialize::write_message_to_words(&message)
}

/// A call of `method` on our object `target` of the victim's.
pub fn call_on(
    question: u32,
    target: u32,
    method: u16,
    fill: impl FnOnce(call::Builder<'_>),
) -> Vec<u8> {
    encode(|root| {
        let mut call = root.init_call();
        call.set_question_id(question);
        let (interface, method) = addressed(method);
        call.set_interface_id(interface);
        call.set_method_id(method);
        call.reborrow().init_target().set_imported_cap(target);
        fill(call);
    })
}

/// A call on what the answer `answer` is (`None`) or holds in its first pointer.
pub fn call_on_answer(
    question: u32,
    answer: u32,
    field: Option<u16>,
    method: u16,
    fill: impl FnOnce(call::Builder<'_>),
) -> Vec<u8> {
    encode(|root| {
        let mut call = root.init_call();
        call.set_question_id(question);
        let (interface, method) = addressed(method);
        call.set_interface_id(interface);
        call.set_method_id(method);
        let mut promised = call.reborrow().init_target().init_promised_answer();
        promised.set_question_id(answer);
        if let Some(field) = field {
            promised.init_transform(1).get(0).set_get_pointer_field(field);
        }
        fill(call);
    })
}

/// A call whose parameters are a structure with one capability.
pub fn call_with_cap(
    question: u32,
    target: u32,
    method: u16,
    describe: impl FnOnce(cap_descriptor::Builder<'_>),
) -> Vec<u8> {
    let mut message = call_on(question, target, method, |call| {
        let mut params = call.init_params();
        describe(params.reborrow().init_cap_table(1).get(0));
        params.get_content().init_as::<capnp_rpc::rpc_capnp::payload::Builder<'_>>();
    });
    // The structure came last, with two null pointers: the first becomes capability 0.
    let at = message.len() - 16;
    assert_eq!(message[at..], [0; 16]);
    message[at] = 3;
    message
}

pub fn finish(question: u32, release: bool) -> Vec<u8> {
    encode(|root| {
        let mut finish = root.init_finish();
        finish.set_question_id(question);
        finish.set_release_result_caps(release);
    })
}

pub fn bootstrap(question: u32) -> Vec<u8> {
    encode(|root| root.init_bootstrap().set_question_id(question))
}

pub fn release(id: u32, count: u32) -> Vec<u8> {
    encode(|root| {
        let mut release = root.init_release();
        release.set_id(id);
        release.set_reference_count(count);
    })
}

pub fn resolve_to(promise: u32, describe: impl FnOnce(cap_descriptor::Builder<'_>)) -> Vec<u8> {
    encode(|root| {
        let mut resolve: resolve::Builder<'_> = root.init_resolve();
        resolve.set_promise_id(promise);
        describe(resolve.init_cap());
    })
}

pub fn return_with(answer: u32, fill: impl FnOnce(return_::Builder<'_>)) -> Vec<u8> {
    encode(|root| {
        let mut ret = root.init_return();
        ret.set_answer_id(answer);
        fill(ret);
    })
}

/// Replaces the only list of structures in `message` by one of `count` structures of no size.
pub fn make_list_empty(message: &mut [u8], count: u32) {
    let words = message.len() / 8;
    let read = |m: &[u8], i: usize| u64::from_le_bytes(m[i * 8..i * 8 + 8].try_into().unwrap());
    let mut found = 0;
    for at in 1..words {
        let word = read(message, at);
        if word & 3 == 1 && (word >> 32) & 7 == 7 {
            let tag = (at as i64 + 1 + i64::from(word as u32 as i32 >> 2)) as usize;
            let pointer = (word & 0xffff_ffff) | 7 << 32;
            message[at * 8..at * 8 + 8].copy_from_slice(&pointer.to_le_bytes());
            message[tag * 8..tag * 8 + 8].copy_from_slice(&(u64::from(count) << 2).to_le_bytes());
            found += 1;
        }
    }
    assert_eq!(found, 1, "one list of structures");
}

impl Raw {
    /// The attacker's end of a connection.
    pub fn new(socket: UnixStream) -> Raw {
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        Raw { socket, given: None, backlog: VecDeque::new() }
    }

    /// False when the victim does not listen (any more).
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).is_ok()
    }

    /// The victim's next message; `None` when it has left.
    pub fn receive(&mut self) -> Option<Reader<OwnedSegments>> {
        let mut options = ReaderOptions::new();
        options.traversal_limit_in_words(None);
        capnp::serialize::try_read_message(&mut self.socket, options).ok().flatten()
    }

    /// Reads until a message for which `pick` has an answer.
    pub fn receive_until<T>(
        &mut self,
        mut pick: impl FnMut(message::Reader<'_>) -> Option<T>,
    ) -> Option<T> {
        for at in 0..self.backlog.len() {
            if let Some(found) = pick(self.backlog[at].get_root().unwrap()) {
                self.backlog.remove(at);
                return Some(found);
            }
        }
        loop {
            let message = self.receive()?;
            if let Some(found) = pick(message.get_root().unwrap()) {
                return Some(found);
            }
            self.backlog.push_back(message);
        }
    }

    /// The id of the victim's next call on us, and its method.
    pub fn receive_call(&mut self) -> Option<(u32, u16)> {
        self.receive_until(|m| match m.which() {
            Ok(message::Call(Ok(call))) => Some((call.get_question_id(), call.get_method_id())),
            _ => None,
        })
    }

    /// Answers the victim's bootstrap question with our object 0.
    pub fn answer_bootstrap(&mut self) {
        let question = self
            .receive_until(|m| match m.which() {
                Ok(message::Bootstrap(Ok(b))) => Some(b.get_question_id()),
                _ => None,
            })
            .expect("the victim asks");
        self.send(&return_with(question, |ret| {
            let mut results = ret.init_results();
            results.reborrow().init_cap_table(1).get(0).set_sender_hosted(0);
            // The pointer gets its index from a table; the real one is the message's.
            let table = Box::leak(Box::new(Vec::new()));
            let mut content = results.get_content();
            capnp::traits::ImbueMut::imbue_mut(&mut content, table);
            content.set_as_capability(
                capnp_rpc::new_broken_cap(capnp::Error::failed("never used".into())).hook,
            );
        }));
    }

    /// Asks for the victim's bootstrap object and returns its id, or the id of what was given.
    pub fn ask_bootstrap(&mut self) -> u32 {
        if let Some(id) = self.given {
            return id;
        }
        self.send(&bootstrap(0));
        let id = self
            .receive_until(|m| match m.which() {
                Ok(message::Return(Ok(ret))) => match ret.which() {
                    Ok(return_::Results(Ok(results))) => {
                        match results.get_cap_table().unwrap().get(0).which() {
                            Ok(cap_descriptor::SenderHosted(id)) => Some(id),
                            _ => None,
                        }
                    }
                    _ => None,
                },
                _ => None,
            })
            .expect("the victim answers");
        self.send(&finish(0, false));
        id
    }

    /// Reads and forgets everything until the victim leaves. In a thread of its own.
    pub fn drain(&self) {
        let mut socket = self.socket.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while matches!(socket.read(&mut buffer), Ok(n) if n > 0) {}
        });
    }

    /// Whether the victim closed the connection within `wait`.
    pub fn is_cut_off(&mut self, wait: Duration) -> bool {
        self.socket.set_read_timeout(Some(wait)).unwrap();
        let mut buffer = vec![0; 1 << 16];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(e) => return e.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}
