//! What the attacks' modules share, for an attacker that has no vat of its own.

pub use crate::doors::addressed;

#[path = "../../../crates/sandstorm-schema/tests/rpc_support/raw.rs"]
#[allow(dead_code)] // each attacker uses its part
pub mod raw;

pub fn put_data(mut content: capnp::any_pointer::Builder<'_>, data: &[u8]) {
    content.set_as::<capnp::data::Owned>(data).expect("a builder takes any data");
}
