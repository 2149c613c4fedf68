//! Every parser of hostile bytes as a function of any bytes, with what must hold of the outcome.
//!
//! The fuzz targets in `fuzz/` call these for as long as one likes (`cargo xtask fuzz`); the smoke
//! test beside this file calls them with the committed corpus and some thousand mutations of it.
//! Another one: a function here, a row in [`TARGETS`], a few small files in `fuzz/corpus/NAME/`, and
//! `fuzz/fuzz_targets/NAME.rs` with its `[[bin]]`.

pub mod bridge;
pub mod package;

#[path = "../../../crates/sandstorm-schema/tests/rpc_support/mod.rs"]
mod rpc_support;

pub use rpc_support::script::play as rpc_guard;
pub use shell::fuzzing::{cookie_filter, request_filter, response_filter};

/// A target's name, and its function; that panics when a promise is broken.
pub type Target = (&'static str, fn(&[u8]));

/// All of them. `fuzz/fuzz_targets/` has a file for each.
pub const TARGETS: &[Target] = &[
    ("bridge_config", bridge::config),
    ("bridge_response", bridge::response),
    ("cookie_filter", cookie_filter),
    ("manifest", package::manifest),
    ("package_archive", package::archive),
    ("package_container", package::container),
    ("request_filter", request_filter),
    ("response_filter", response_filter),
    ("rpc_guard", rpc_guard),
];
