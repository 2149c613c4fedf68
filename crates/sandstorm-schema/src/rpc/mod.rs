//! Cap'n Proto RPC as this project speaks it: connections, body streams, errors.
//!
//! The RPC layer itself bounds nothing that a peer sends. Whoever faces a less trusted process
//! opens its connection with [`connect::Trust::Hostile`].

pub mod body;
pub mod connect;
pub mod error;
