//! Cap'n Proto RPC between our processes: the one language they speak to each other.
//!
//! Trust: [`link`] and [`guard`] face the socket, and towards a [`connect::Trust::Hostile`] peer
//! every byte that arrives is an attacker's. [`membrane`] and [`body`] see only what passed them.
//! Everything here is single-threaded (`Rc`) and runs on a `tokio::task::LocalSet`.
//!
//! | module | what it is |
//! |---|---|
//! | [`connect`] | [`connect::Vat`]: one two-party connection; sockets by directory fd |
//! | [`link`] | frames and the out-queue: capnp-rpc's network |
//! | [`guard`] | what a less trusted peer may send, and how much of it |
//! | [`membrane`] | forwards any interface, sees every call, can be revoked |
//! | [`body`] | byte streams with back-pressure |
//! | [`error`] | the four error kinds that cross a connection, and peer text made safe |
//!
//! Rules for code that calls a less trusted peer, which no wrapper can enforce:
//!
//! - set a time-out on every call: a peer may never answer;
//! - do not touch a promise's `pipeline` once its answer is there (a pointer of the wrong kind
//!   makes capnp-rpc panic; it ends that connection only, with a [`connect::Vat::panicked`]);
//! - wait for promises with [`connect::settled`];
//! - never call over the same connection from a server object's `Drop`;
//! - never call what may be a promise with the same promise among the parameters (the guard keeps
//!   peers from it, and sees nothing of what we do);
//! - show peer text only through [`error::text`];
//! - keep SIGPIPE ignored, as Rust's runtime has it: a write to a closed socket must be an error.

pub mod body;
pub mod connect;
pub mod error;
pub mod guard;
pub mod link;
pub mod membrane;

pub use connect::{Budget, GuardLimits, GuardStats, Trust, Vat, bind_at, connect_at, settled};
pub use membrane::{Crossing, Direction, Membrane, MembranePolicy};
