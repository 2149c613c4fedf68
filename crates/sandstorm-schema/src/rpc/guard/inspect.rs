//! The rules for each kind of message, in both directions.
//!
//! Trust: incoming messages are a hostile peer's; their pointers were walked. Outgoing ones are
//! capnp-rpc's own, read only to keep the ledger.

use capnp::message::{Builder, HeapAllocator, Reader};
use capnp::traits::HasTypeId;
use capnp_rpc::rpc_capnp::{
    call, cap_descriptor, disembargo, exception, message, message_target, payload, promised_answer,
    resolve, return_,
};

use super::ledger::{Expected, Ledger};
use super::pace::Pace;
use super::promises::Target;
use super::{GuardLimits, Violation, rewrite, too_many};
use crate::rpc::link::Frame;
use crate::util_capnp::byte_stream;
use crate::web_session_capnp::web_session::web_socket_stream;

/// The calls that carry a stream's bytes: interface and method.
const STREAMS: [(u64, u16); 2] =
    [(byte_stream::Client::TYPE_ID, 0), (web_socket_stream::Client::TYPE_ID, 0)];

/// A piece of a stream from this size on is worth its costs, in bytes.
const STREAM_PIECE: usize = 2048;

/// What becomes of an incoming message.
pub enum Fate {
    Pass,
    /// Passed in the place of the peer's own.
    Replace(Builder<HeapAllocator>),
    /// Sent back; nothing is passed.
    Answer(Builder<HeapAllocator>),
    /// Nothing was entered: may pass later, see [`waits_on_promises`].
    Wait,
}

/// capnp's error for a pointer of the wrong kind, a bad discriminant, a text that is none.
fn malformed(_: impl Sized) -> Violation {
    Violation::Malformed("a field is not what it should be")
}

/// Judges a message of the peer's and enters it. `crowded`: there is no room to hold it. `patient`:
/// it may be judged again.
pub fn incoming(
    reader: &Reader<Frame>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
    crowded: bool,
    patient: bool,
) -> Result<Fate, Violation> {
    let bytes = reader.get_segments().bytes();
    let root: message::Reader<'_> = reader.get_root().map_err(malformed)?;
    match root.which().map_err(|_| Violation::Forbidden("unknown kind"))? {
        message::Call(call) => {
            let call = Incoming { call: call.map_err(malformed)?, bytes, crowded, patient };
            incoming_call(&call, ledger, limits)
        }
        message::Return(ret) => incoming_return(ret.map_err(malformed)?, ledger, limits, crowded),
        message::Finish(finish) => {
            let finish = finish.map_err(malformed)?;
            let release = finish.get_release_result_caps();
            ledger.finish_arrived(finish.get_question_id(), release, limits)?;
            Ok(Fate::Pass)
        }
        message::Release(release) => {
            let release = release.map_err(malformed)?;
            if release.get_reference_count() == 0 {
                ledger.pace.spend(1);
            }
            ledger.release_export(release.get_id(), release.get_reference_count())?;
            Ok(Fate::Pass)
        }
        message::Bootstrap(bootstrap) => {
            let id = bootstrap.map_err(malformed)?.get_question_id();
            ledger.pace.spend(1);
            ledger.check_call(id, limits)?;
            ledger.call_arrived(id, false, 0, 0);
            Ok(Fate::Pass)
        }
        message::Resolve(resolve) => {
            ledger.pace.spend(Pace::price(bytes));
            incoming_resolve(resolve.map_err(malformed)?, ledger, limits)
        }
        message::Disembargo(disembargo) => {
            ledger.pace.spend(1);
            incoming_disembargo(disembargo.map_err(malformed)?, ledger, limits)
        }
        message::Unimplemented(echo) => {
            ledger.pace.spend(Pace::price(bytes));
            incoming_unimplemented(echo.map_err(malformed)?, ledger)
        }
        message::Abort(exception) => {
            let reason = reason(exception.map_err(malformed)?)?;
            too_many("bytes of an error's text", reason.len(), limits.error_text_bytes)?;
            Ok(Fate::Pass)
        }
        message::Provide(_) | message::Accept(_) | message::Join(_) => {
            Err(Violation::Forbidden("introduction of a third party"))
        }
        message::ObsoleteSave(_) | message::ObsoleteDelete(_) => {
            Err(Violation::Forbidden("obsolete kind"))
        }
    }
}

/// A call that arrived.
struct Incoming<'a> {
    call: call::Reader<'a>,
    bytes: usize,
    crowded: bool,
    patient: bool,
}

fn incoming_call(
    incoming: &Incoming<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<Fate, Violation> {
    let Incoming { call, bytes, crowded, patient } = *incoming;
    let id = call.get_question_id();
    ledger.check_call(id, limits)?;
    let price = Pace::price(bytes);
    let busy = ledger.unanswered() >= limits.unanswered_calls;
    if crowded || busy {
        ledger.pace.spend(price);
        ledger.call_refused();
        let reason = if busy { "too many calls at once" } else { "too many bytes at once" };
        let kind = exception::Type::Overloaded;
        return Ok(Fate::Answer(rewrite::failed_return(id, kind, reason, usize::MAX, false)));
    }
    let redirected = match call.get_send_results_to().which().map_err(malformed)? {
        call::send_results_to::Caller(()) => false,
        call::send_results_to::Yourself(()) => true,
        call::send_results_to::ThirdParty(_) => {
            return Err(Violation::Forbidden("results for a third party"));
        }
    };
    let (target, params) =
        (call.get_target().map_err(malformed)?, call.get_params().map_err(malformed)?);
    check_target(target, limits)?;
    check_table(params, limits)?;
    if waits_on_promises(target, params, ledger)? {
        if patient {
            return Ok(Fate::Wait);
        }
        ledger.pace.spend(price);
        ledger.call_refused();
        let kind = exception::Type::Failed;
        return Ok(Fate::Answer(rewrite::failed_return(id, kind, TWO_PROMISES, usize::MAX, false)));
    }
    let nesting = import_caps(params, ledger, limits)?;
    too_many("promises within promises", nesting as usize, limits.nested_promises as usize)?;
    ledger.pace.spend(price);
    // Whoever takes a stream takes it at a speed of their own.
    let method = (call.get_interface_id(), call.get_method_id());
    let piece = STREAMS.contains(&method) && bytes >= STREAM_PIECE;
    ledger.call_arrived(id, redirected, nesting, if piece { price } else { 0 });
    Ok(Fate::Pass)
}

fn incoming_return(
    ret: return_::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
    crowded: bool,
) -> Result<Fate, Violation> {
    let id = ret.get_answer_id();
    let no_finish = ret.get_no_finish_needed();
    let expected = ledger.expected(id)?;
    let awaited = expected == Expected::Awaited;
    let fate = match ret.which().map_err(|_| Violation::Forbidden("answer of an unknown kind"))? {
        return_::Results(payload) => {
            let payload = payload.map_err(malformed)?;
            if !awaited {
                check_table(payload, limits)?;
                Fate::Pass
            } else if crowded {
                let kind = exception::Type::Overloaded;
                let reason = "too many bytes of answers at once";
                Fate::Replace(rewrite::failed_return(id, kind, reason, usize::MAX, no_finish))
            } else {
                import_caps(payload, ledger, limits)?;
                Fate::Pass
            }
        }
        return_::Exception(exception) => {
            let exception = exception.map_err(malformed)?;
            let kind = exception.get_type().unwrap_or(exception::Type::Failed);
            let reason = reason(exception)?;
            if reason.len() > limits.error_text_bytes {
                let limit = limits.error_text_bytes;
                Fate::Replace(rewrite::failed_return(id, kind, reason, limit, no_finish))
            } else {
                Fate::Pass
            }
        }
        return_::Canceled(()) if !awaited => Fate::Pass,
        return_::Canceled(()) => {
            return Err(Violation::Forbidden("call given up that we still wait for"));
        }
        // capnp-rpc answers this with an echo and keeps the call for ever.
        return_::TakeFromOtherQuestion(_) if !awaited => {
            Fate::Replace(rewrite::canceled_return(id))
        }
        return_::TakeFromOtherQuestion(other) => {
            if !ledger.is_redirected(other) {
                return Err(Violation::Unknown { what: "answer in another answer", id: other });
            }
            Fate::Pass
        }
        return_::ResultsSentElsewhere(()) => {
            return Err(Violation::Forbidden("answer sent elsewhere"));
        }
        return_::AcceptFromThirdParty(_) => {
            return Err(Violation::Forbidden("answer of a third party"));
        }
    };
    ledger.return_arrived(id, !no_finish);
    Ok(fate)
}

fn incoming_resolve(
    resolve: resolve::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<Fate, Violation> {
    let promise = resolve.get_promise_id();
    let cap = match resolve.which().map_err(malformed)? {
        resolve::Cap(cap) => cap.map_err(malformed)?,
        resolve::Exception(exception) => {
            let exception = exception.map_err(malformed)?;
            let kind = exception.get_type().unwrap_or(exception::Type::Failed);
            let reason = reason(exception)?;
            ledger.imports.resolved(promise, Target::Ours)?;
            if reason.len() > limits.error_text_bytes {
                let limit = limits.error_text_bytes;
                return Ok(Fate::Replace(rewrite::failed_resolve(promise, kind, reason, limit)));
            }
            return Ok(Fate::Pass);
        }
    };
    match cap.which().map_err(malformed)? {
        cap_descriptor::SenderHosted(id) => {
            ledger.imports.arrived(id, false)?;
            ledger.imports.resolved(promise, Target::Theirs(id))?;
        }
        cap_descriptor::SenderPromise(id) => {
            ledger.imports.arrived(id, true)?;
            ledger.imports.resolved(promise, Target::Theirs(id))?;
        }
        cap_descriptor::ReceiverHosted(id) => ledger.resolve_to_export(promise, id)?,
        cap_descriptor::ReceiverAnswer(_) => {
            return Err(Violation::Forbidden("promise resolved to an answer of ours"));
        }
        cap_descriptor::None(()) => {
            return Err(Violation::Forbidden("promise resolved to nothing"));
        }
        cap_descriptor::ThirdPartyHosted(_) => {
            return Err(Violation::Forbidden("object of a third party"));
        }
    }
    Ok(Fate::Pass)
}

fn incoming_disembargo(
    disembargo: disembargo::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<Fate, Violation> {
    check_target(disembargo.get_target().map_err(malformed)?, limits)?;
    match disembargo.get_context().which().map_err(malformed)? {
        disembargo::context::SenderLoopback(_) => {}
        disembargo::context::ReceiverLoopback(id) => ledger.disembargo_returned(id)?,
        disembargo::context::Accept(()) | disembargo::context::Provide(_) => {
            return Err(Violation::Forbidden("disembargo of a third party"));
        }
    }
    Ok(Fate::Pass)
}

/// The peer does not know a message of ours: a Resolve it may not know, all others it must.
fn incoming_unimplemented(
    echo: message::Reader<'_>,
    ledger: &mut Ledger,
) -> Result<Fate, Violation> {
    let forbidden = Violation::Forbidden("echo of a message that every peer must know");
    let Ok(message::Resolve(resolve)) = echo.which() else { return Err(forbidden) };
    if let resolve::Cap(cap) = resolve.map_err(malformed)?.which().map_err(malformed)? {
        match cap.map_err(malformed)?.which().map_err(malformed)? {
            cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => {
                ledger.release_export(id, 1)?;
            }
            cap_descriptor::ThirdPartyHosted(_) => return Err(forbidden),
            _ => {}
        }
    }
    Ok(Fate::Pass)
}

fn reason<'a>(exception: exception::Reader<'a>) -> Result<&'a str, Violation> {
    // capnp-rpc has words of its own for a text that is none.
    Ok(exception.get_reason().map_err(malformed)?.to_str().unwrap_or(""))
}

fn check_target(target: message_target::Reader<'_>, limits: &GuardLimits) -> Result<(), Violation> {
    match target.which().map_err(malformed)? {
        message_target::ImportedCap(_) => Ok(()),
        message_target::PromisedAnswer(answer) => check_path(answer.map_err(malformed)?, limits),
    }
}

fn check_path(answer: promised_answer::Reader<'_>, limits: &GuardLimits) -> Result<(), Violation> {
    let steps = answer.get_transform().map_err(malformed)?.len() as usize;
    too_many("steps of a pipelined reference", steps, limits.transform_steps as usize)
}

fn check_table(payload: payload::Reader<'_>, limits: &GuardLimits) -> Result<(), Violation> {
    let caps = payload.get_cap_table().map_err(malformed)?.len() as usize;
    too_many("capabilities in one message", caps, limits.caps_per_message as usize)
}

/// Why a call is not passed on that [`waits_on_promises`].
const TWO_PROMISES: &str = "a call on a promise whose parameters hold a promise: \
                            wait until one of them is resolved, then call";

/// Whether a call is made on what may still be a promise, and has what may be one among its
/// parameters, too.
///
/// capnp-rpc puts such a call into the promise's queue. While it passes the queued calls on to what
/// the promise became, the promise is locked; passing a call on looks at the objects in its
/// parameters, and panics if one of them is that same promise or leads to it. The end of a queued
/// call panics if it held the last reference to another one in the same queue. Which promises turn
/// out to be the same is known only when they resolve, so here it is enough that both may wait:
/// then no call in a queue has a promise among its parameters.
fn waits_on_promises(
    target: message_target::Reader<'_>,
    params: payload::Reader<'_>,
    ledger: &Ledger,
) -> Result<bool, Violation> {
    let waits = match target.which().map_err(malformed)? {
        message_target::ImportedCap(id) => ledger.export_waits(id),
        message_target::PromisedAnswer(answer) => {
            ledger.answer_waits(answer.map_err(malformed)?.get_question_id())
        }
    };
    if !waits {
        return Ok(false);
    }
    for cap in params.get_cap_table().map_err(malformed)? {
        let waits = match cap.which().map_err(malformed)? {
            // The peer's own promise: resolved to an object of ours it has a queue here.
            cap_descriptor::SenderPromise(_) => true,
            cap_descriptor::SenderHosted(id) => ledger.imports.is_promise(id),
            cap_descriptor::ReceiverHosted(id) => ledger.export_waits(id),
            cap_descriptor::ReceiverAnswer(answer) => {
                ledger.answer_waits(answer.map_err(malformed)?.get_question_id())
            }
            cap_descriptor::None(()) | cap_descriptor::ThirdPartyHosted(_) => false,
        };
        if waits {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Enters the objects of a payload; returns how deep the deepest promise among them lies.
fn import_caps(
    payload: payload::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<u32, Violation> {
    check_table(payload, limits)?;
    let caps = payload.get_cap_table().map_err(malformed)?;
    ledger.pace.spend_parts(0, caps.len());
    let mut nesting = 0;
    for cap in caps {
        match cap.which().map_err(malformed)? {
            cap_descriptor::SenderHosted(id) => ledger.imports.arrived(id, false)?,
            cap_descriptor::SenderPromise(id) => ledger.imports.arrived(id, true)?,
            cap_descriptor::ReceiverAnswer(answer) => {
                let answer = answer.map_err(malformed)?;
                check_path(answer, limits)?;
                nesting = nesting.max(ledger.nesting_of_answer(answer.get_question_id()));
            }
            cap_descriptor::ReceiverHosted(id) => {
                nesting = nesting.max(ledger.nesting_of_export(id));
            }
            cap_descriptor::None(()) => {}
            cap_descriptor::ThirdPartyHosted(_) => {
                return Err(Violation::Forbidden("object of a third party"));
            }
        }
    }
    Ok(nesting)
}

/// Enters a message of ours. True when it is an answer to something that the peer sent.
pub fn outgoing(
    message: &Builder<HeapAllocator>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<bool, Violation> {
    let root: message::Reader<'_> = message.get_root_as_reader().map_err(malformed)?;
    match root.which().map_err(malformed)? {
        message::Call(call) => {
            let call = call.map_err(malformed)?;
            ledger.question_sent(call.get_question_id());
            ledger.pace.call_sent();
            export_caps(call.get_params().map_err(malformed)?, ledger, limits)?;
            return Ok(false);
        }
        message::Bootstrap(bootstrap) => {
            ledger.question_sent(bootstrap.map_err(malformed)?.get_question_id());
            return Ok(false);
        }
        message::Return(ret) => {
            let ret = ret.map_err(malformed)?;
            let exports = match ret.which().map_err(malformed)? {
                return_::Results(payload) => {
                    let payload = payload.map_err(malformed)?;
                    ledger.call_succeeded(ret.get_answer_id());
                    let exports = export_caps(payload, ledger, limits)?;
                    if holds_promise(payload, ledger)? {
                        ledger.promise_returned(ret.get_answer_id());
                    }
                    exports
                }
                _ => Vec::new(),
            };
            for export in &exports {
                ledger.export_returned(*export, ret.get_answer_id());
            }
            let needs_finish = !ret.get_no_finish_needed();
            let bytes = message.size_in_words() * 8;
            ledger.return_sent(ret.get_answer_id(), needs_finish, bytes, exports, limits)?;
        }
        message::Finish(finish) => {
            ledger.finish_sent(finish.map_err(malformed)?.get_question_id());
        }
        message::Release(release) => {
            let release = release.map_err(malformed)?;
            ledger.imports.released(release.get_id(), release.get_reference_count());
        }
        message::Resolve(resolve) => {
            let resolve = resolve.map_err(malformed)?;
            let promise = resolve.get_promise_id();
            let waits = match resolve.which().map_err(malformed)? {
                resolve::Cap(cap) => {
                    let cap = cap.map_err(malformed)?;
                    if let Some(export) = export_cap(cap, ledger, limits)? {
                        ledger.export_resolved(promise, export);
                    }
                    is_promise(cap, ledger)?
                }
                resolve::Exception(_) => false,
            };
            if !waits {
                ledger.export_settled(promise);
            }
        }
        message::Disembargo(disembargo) => {
            let context = disembargo.map_err(malformed)?.get_context();
            if let Ok(disembargo::context::SenderLoopback(_)) = context.which() {
                ledger.disembargo_sent(limits)?;
            }
        }
        _ => {}
    }
    Ok(true)
}

fn export_caps(
    payload: payload::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<Vec<u32>, Violation> {
    let mut exports = Vec::new();
    for cap in payload.get_cap_table().map_err(malformed)? {
        exports.extend(export_cap(cap, ledger, limits)?);
    }
    Ok(exports)
}

fn export_cap(
    cap: cap_descriptor::Reader<'_>,
    ledger: &mut Ledger,
    limits: &GuardLimits,
) -> Result<Option<u32>, Violation> {
    let (id, promise) = match cap.which().map_err(malformed)? {
        cap_descriptor::SenderHosted(id) => (id, false),
        cap_descriptor::SenderPromise(id) => (id, true),
        _ => return Ok(None),
    };
    ledger.export_sent(id, promise, limits)?;
    Ok(Some(id))
}

/// Whether an object that we send is a promise, ours or the peer's, that may still wait.
fn is_promise(cap: cap_descriptor::Reader<'_>, ledger: &Ledger) -> Result<bool, Violation> {
    Ok(match cap.which().map_err(malformed)? {
        cap_descriptor::SenderHosted(id) | cap_descriptor::SenderPromise(id) => {
            ledger.export_waits(id)
        }
        cap_descriptor::ReceiverHosted(id) => ledger.imports.is_promise(id),
        // Part of an answer that the peer owes us.
        cap_descriptor::ReceiverAnswer(_) => true,
        cap_descriptor::None(()) | cap_descriptor::ThirdPartyHosted(_) => false,
    })
}

fn holds_promise(payload: payload::Reader<'_>, ledger: &Ledger) -> Result<bool, Violation> {
    for cap in payload.get_cap_table().map_err(malformed)? {
        if is_promise(cap, ledger)? {
            return Ok(true);
        }
    }
    Ok(false)
}
