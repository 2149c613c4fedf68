//! How much a less trusted peer may use, for each of our doors.

use std::time::Duration;

use crate::limits::{BODY_WINDOW, BUFFERED_REQUEST_BODY, HEADER_BYTES, PATH_BYTES};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bounds on one peer. Every field is per connection.
///
/// Passing a bound marked *refused* answers that one call with `Overloaded`; passing any other
/// ends the connection, since no honest peer comes near it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuardLimits {
    /// Bytes of one message. Memory is taken as bytes arrive, not as a header claims.
    pub frame_bytes: usize,
    /// Bytes of all received messages that we still hold: parameters of calls being served,
    /// answers being read. *Refused* beyond it: calls with `Overloaded`, answers are replaced by
    /// the same error. Messages under 4 KiB still pass: one held download must not stop the rest.
    pub held_bytes: usize,
    /// Capabilities in one message's table.
    pub caps_per_message: u32,
    /// Steps of one pipelined reference (`a.b.c` has three).
    pub transform_steps: u32,
    /// Objects of the peer's that we hold references to. About 0.4 KB each.
    pub imports: usize,
    /// Objects of ours that the peer holds references to.
    pub exports: usize,
    /// Calls of the peer's that we have not answered. About 2.6 KB each. *Refused* beyond it.
    pub unanswered_calls: usize,
    /// Calls of the peer's that it has not finished, answered or not.
    pub open_answers: usize,
    /// Bytes of our answers that carry capabilities and that the peer has not finished: kept for
    /// calls pipelined on them.
    pub kept_answer_bytes: usize,
    /// Calls that the peer finished before our answer. capnp-rpc keeps 0.4 KB of each until the
    /// connection ends, so this is a budget for the connection's whole life: a connection that
    /// lives for long and cancels often must be replaced before ([`super::GuardStats`]).
    pub abandoned_calls: usize,
    /// `Resolve` messages that may stand in a row: promise to promise to promise.
    pub promise_chain: u32,
    /// Calls in a row that each have a promise for an answer, or an unfinished answer, of the one
    /// before as a parameter.
    pub nested_promises: u32,
    /// How long a call on a promise that has another promise as a parameter waits for one of them
    /// to resolve, and with it all that the peer sent later. Then that one call fails.
    pub promise_wait: Duration,
    /// Our `Disembargo` messages that the peer has not sent back.
    pub embargoes: usize,
    /// Bytes of a peer's error text. Longer ones are cut.
    pub error_text_bytes: usize,
    /// Answers to the peer that wait in our queue, in bytes, before we stop reading its messages.
    /// Our own calls do not count: the peer cannot make us send them.
    pub pause_reading_bytes: usize,
    /// While paused with a peer that takes nothing: one more message is read after each such
    /// time, so that a peer which can only read after it has written gets unstuck.
    pub pause_valve: Duration,
    /// Bytes of such answers at most.
    pub answer_bytes: usize,
    /// Bytes of everything that waits in our queue to the peer, our own calls included.
    pub queued_bytes: usize,
    /// Messages a second that nothing of ours led to, in the long run: calls, promises and whatever
    /// else is neither an answer nor owed for one. Faster ones wait in the socket. A message costs
    /// one more for each 16 KiB, and any message for each 50 pointers and each second capability;
    /// each of our own calls is worth four, and a piece of a stream that was taken costs nothing.
    pub messages_per_second: u32,
    /// With data waiting in our queue: time without the peer taking a single byte.
    pub write_stall: Duration,
    /// In the middle of a message: time without a single byte arriving.
    pub read_stall: Duration,
}

impl GuardLimits {
    /// Supervisor towards an app. The app chooses the size of an answer that it sends in one
    /// message, and today's apps send files that way: hence 32 MiB.
    pub const fn app() -> Self {
        Self {
            frame_bytes: 32 * MIB,
            held_bytes: 64 * MIB,
            caps_per_message: 64,
            transform_steps: 16,
            imports: 10_000,
            exports: 10_000,
            unanswered_calls: 2_000,
            open_answers: 10_000,
            kept_answer_bytes: 16 * MIB,
            abandoned_calls: 20_000,
            promise_chain: 4,
            nested_promises: 64,
            promise_wait: Duration::from_millis(500),
            embargoes: 1_000,
            error_text_bytes: 16 * KIB,
            pause_reading_bytes: MIB,
            pause_valve: Duration::from_millis(50),
            answer_bytes: 8 * MIB,
            queued_bytes: 128 * MIB,
            messages_per_second: 6_000,
            write_stall: Duration::from_secs(300),
            read_stall: Duration::from_secs(60),
        }
    }

    /// Shell towards a supervisor. A supervisor passes on what its app sent, so every bound is a
    /// little wider than [`GuardLimits::app`]: the app must meet the supervisor's bound first.
    pub const fn supervisor() -> Self {
        Self {
            frame_bytes: 40 * MIB,
            held_bytes: 128 * MIB,
            imports: 20_000,
            exports: 20_000,
            unanswered_calls: 4_000,
            open_answers: 20_000,
            kept_answer_bytes: 24 * MIB,
            messages_per_second: 16_000,
            ..Self::app()
        }
    }

    /// Shell towards the `spk` process that unpacks a hostile file: progress reports and one
    /// manifest (with its embedded pictures).
    pub const fn unpacker() -> Self {
        Self {
            frame_bytes: 16 * MIB,
            held_bytes: 32 * MIB,
            caps_per_message: 4,
            transform_steps: 4,
            imports: 16,
            exports: 16,
            unanswered_calls: 64,
            open_answers: 64,
            kept_answer_bytes: MIB,
            abandoned_calls: 64,
            embargoes: 16,
            queued_bytes: 4 * MIB,
            write_stall: Duration::from_secs(60),
            ..Self::app()
        }
    }

    /// Shell towards its own sub-commands on the control socket: small calls, and packages or
    /// backups as streams of chunks.
    pub const fn control() -> Self {
        Self {
            frame_bytes: 4 * MIB,
            held_bytes: 16 * MIB,
            caps_per_message: 16,
            imports: 256,
            exports: 256,
            unanswered_calls: 256,
            open_answers: 512,
            kept_answer_bytes: 4 * MIB,
            abandoned_calls: 1_000,
            embargoes: 64,
            queued_bytes: 32 * MIB,
            // Whoever may connect may do worse with the server's own files.
            messages_per_second: 1_000_000,
            ..Self::app()
        }
    }
}

// The limits must leave room for each other, and for what honest peers send.
const _: () = {
    let (app, supervisor, unpacker) =
        (GuardLimits::app(), GuardLimits::supervisor(), GuardLimits::unpacker());
    assert!(app.frame_bytes > BUFFERED_REQUEST_BODY + HEADER_BYTES + PATH_BYTES);
    assert!(app.held_bytes >= app.frame_bytes);
    // A hundred bodies at once, with their whole windows.
    assert!(app.held_bytes >= 100 * BODY_WINDOW);
    assert!(app.unanswered_calls >= 100 * (BODY_WINDOW / crate::limits::BODY_CHUNK + 1));
    // Whatever an app may send to its supervisor, the supervisor may pass on.
    assert!(supervisor.frame_bytes > app.frame_bytes);
    assert!(supervisor.held_bytes > app.held_bytes + app.frame_bytes);
    assert!(supervisor.imports > app.imports && supervisor.exports > app.exports);
    assert!(supervisor.unanswered_calls > app.unanswered_calls);
    assert!(supervisor.messages_per_second >= 2 * app.messages_per_second);
    // A manifest may have 2^20 words, and crosses in one message.
    assert!(unpacker.frame_bytes > (1 << 23) + MIB);
};
