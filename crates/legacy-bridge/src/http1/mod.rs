//! The HTTP/1.1 client side: one app on one address, and whatever bytes it answers.
//!
//! Hostile bytes end here. What leaves this module is a checked [`Head`] and pieces of a body
//! whose framing held; memory is bounded by [`MAX_HEAD_BYTES`] and one read buffer.

mod body;
mod conn;
mod exchange;
mod head;
mod pool;
mod request;

pub use body::{BodyDecoder, BodyError};
pub use conn::{Conn, write_all};
pub use exchange::{AbortOnDrop, Incoming, Upstream};
pub use head::{
    Field, Framing, Head, HeadError, HeadScanner, MAX_FIELDS, MAX_HEAD_BYTES, parse_head,
};
pub use pool::{Patience, Pool};
pub use request::{Asked, BodyLength, RequestHead};

#[cfg(test)]
mod tests;
