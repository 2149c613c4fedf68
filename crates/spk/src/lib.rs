//! Packages: making, checking and taking apart `.spk` files.
//!
//! The library is what the `spk` program, the fuzzer and the benchmarks share. Whoever made a
//! package is a stranger: everything that comes out of one is checked in [`format`] first.
#![deny(unsafe_code)]

pub mod definition;
pub mod error;
pub mod format;
pub mod info;
pub mod keyring;
pub mod pack;
pub mod pgp;
pub mod progress;
pub mod secrets;
pub mod sys;
pub mod tarball;
pub mod tree;
pub mod unpack;

pub use error::{Error, Result};
