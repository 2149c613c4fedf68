//! Every bound that more than one program keeps, with its unit and its reason.
//!
//! A limit at a border protects the more trusted side; what the less trusted side loses by it is
//! said in words. The package format's own limits are in `spk`, the sandbox's in the supervisor.

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes in a word of Cap'n Proto.
pub const WORD: usize = 8;

// Bodies.

/// Bytes of body in one `write`: fewer, larger messages cost less, and beyond 128 KiB malloc maps
/// and unmaps each one.
pub const BODY_CHUNK: usize = 64 * KIB;

/// Bytes of body on their way per stream, sent but not yet answered for: eight chunks.
pub const BODY_WINDOW: usize = 8 * BODY_CHUNK;

/// Largest request body that travels in one message (PATCH, REPORT, MKCOL, the XML verbs, other
/// verbs through `HttpExt`). Beyond it the shell answers 413.
pub const BUFFERED_REQUEST_BODY: usize = 16 * MIB;

/// Largest body of an error answer, which the interface cannot stream. The bridge cuts it there and
/// says so in the log.
pub const ERROR_BODY: usize = MIB;

// HTTP.

/// Bytes of one header block, names and values, `Cookie` not counted.
pub const HEADER_BYTES: usize = 64 * KIB;

/// Header fields of one message, `Cookie` not counted.
pub const HEADER_COUNT: usize = 100;

/// Bytes of the whole head of a request as the shell reads it. A frame can make a browser send
/// 600 KB of cookies; the shell must still read them to be able to expire them.
pub const REQUEST_HEAD_BYTES: usize = MIB;

/// Bytes of a request's path and query.
pub const PATH_BYTES: usize = 32 * KIB;

/// `Set-Cookie` lines of one answer.
pub const SET_COOKIE_COUNT: usize = 64;

// RPC messages.

/// Largest message of a less trusted peer, in words: the largest buffered body and the header block
/// around it. It is checked before memory is taken, for the frame's header alone claims it.
pub const MESSAGE_WORDS: usize = (BUFFERED_REQUEST_BODY + MIB) / WORD;

/// How often a reader may walk over a message, in words. Far above [`MESSAGE_WORDS`], because one
/// counter serves the RPC layer, a forwarder and every getter, and running it dry inside the RPC
/// layer panics.
pub const TRAVERSAL_WORDS: usize = 16 * MESSAGE_WORDS;

/// Depth of pointers in a message. A forwarder answers deeper ones with an error.
pub const NESTING: i32 = 64;

/// Segments of a message.
pub const SEGMENTS: usize = 512;

/// Capabilities in one message's table. The largest honest one has four.
pub const MESSAGE_CAPS: usize = 64;

/// Operations in the transform of one pipelined call.
pub const TRANSFORM_OPS: usize = 16;

/// Promises that a less trusted peer may resolve into one another.
pub const PROMISE_CHAIN: usize = 4;

// RPC connections to a less trusted peer. Going past one of these ends the connection, since
// waiting would have to hold answers that the peer may need to go on.

/// Calls of the peer that we have not answered yet. Two hundred and fifty-six bodies at once, with
/// their whole windows, and as many calls again.
pub const CALLS_IN_FLIGHT: usize = 4096;

/// Words of those calls together: 128 MiB.
pub const CALLS_IN_FLIGHT_WORDS: usize = 128 * MIB / WORD;

/// Capabilities of the peer that we hold, and of ours that it holds, each.
pub const CAPABILITIES: usize = 16 * KIB;

/// Calls that were given up before their answer came: the RPC layer never forgets these.
pub const ABANDONED_CALLS: usize = 64 * KIB;

/// Bytes written but not yet taken by the peer, above which we stop reading from it.
pub const OUT_QUEUE_BYTES: usize = MIB;

// Words from a peer that people will see.

/// Bytes of a peer's error text that are kept.
pub const ERROR_TEXT: usize = 1000;

/// Bytes of a title, a handle or another short text of an app.
pub const SHORT_TEXT: usize = 1000;

// The limits must leave room for each other; that they do is checked by the compiler.
const _: () = {
    assert!(BUFFERED_REQUEST_BODY + HEADER_BYTES + PATH_BYTES < MESSAGE_WORDS * WORD);
    // A whole window for each of the streams that half of the call limit allows.
    assert!(CALLS_IN_FLIGHT / 2 / 8 * BODY_WINDOW <= CALLS_IN_FLIGHT_WORDS * WORD);
    assert!(TRAVERSAL_WORDS >= 4 * MESSAGE_WORDS);
    // A manifest may have 2^20 words, and crosses between `spk` and shell in one message.
    assert!(MESSAGE_WORDS > (1 << 20) + 1024);
    assert!(REQUEST_HEAD_BYTES > HEADER_BYTES + PATH_BYTES + 300_000);
};
