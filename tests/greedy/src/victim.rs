//! The victim, as far as the attacks name it.

#[path = "../../../crates/sandstorm-schema/tests/rpc_attacks/method.rs"]
pub mod method;

/// More answers than any victim asks for.
pub const ANSWERS: usize = 24;
