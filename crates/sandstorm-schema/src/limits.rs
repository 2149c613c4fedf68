//! Every bound that more than one program keeps, with its unit and its reason.
//!
//! A limit at a border protects the more trusted side; what the less trusted side loses by it is
//! said in words. The package format's own limits are in `spk`, the sandbox's in the supervisor.

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bytes in a word of Cap'n Proto.
pub const WORD: usize = 8;

// Bodies.

/// Bytes of body in one `write`: fewer, larger messages cost less, and with 128 KiB and more malloc
/// maps and unmaps each one.
pub const BODY_CHUNK: usize = 120 * KIB;

/// Bytes of body on their way per stream, sent but not yet answered for: one chunk with each of the
/// three programs that a body passes, and one more to be ready when the first is through.
pub const BODY_WINDOW: usize = 4 * BODY_CHUNK;

/// Bytes of a body that is small: it travels inside its request or answer, and takes no share of the
/// memory that bodies of one owner may have in the shell.
pub const SMALL_BODY: usize = 64 * KIB;

/// Bytes of a window that a call takes at least, however little it carries: what an unanswered call
/// costs in memory at each end of a connection.
pub const CALL_COST: usize = KIB;

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

// RPC messages. What a less trusted peer may send and hold is in `rpc::GuardLimits`.

/// Depth of pointers in a message. A forwarder answers deeper ones with an error.
pub const NESTING: i32 = 64;

/// Segments of a message.
pub const SEGMENTS: usize = 512;

// Words from a peer that people will see.

/// Bytes of a peer's error text that are kept.
pub const ERROR_TEXT: usize = 1000;

/// Bytes of a title, a handle or another short text of an app.
pub const SHORT_TEXT: usize = 1000;

// The disk that holds the server's home.

/// Bytes that stay free when packages come in: grains and the database go on writing.
pub const INSTALL_RESERVE: u64 = 256 << 20;

/// Bytes of a disk of `total` bytes that stay free when grains write, so that the server itself
/// still can: 128 MiB, on a small disk a twentieth of it.
pub const fn grain_reserve(total: u64) -> u64 {
    const MOST: u64 = 128 << 20;
    let share = total / 20;
    if share < MOST { share } else { MOST }
}

// The limits must leave room for each other; that they do is checked by the compiler.
const _: () = {
    assert!(REQUEST_HEAD_BYTES > HEADER_BYTES + PATH_BYTES + 300_000);
    assert!(INSTALL_RESERVE > grain_reserve(u64::MAX));
};
