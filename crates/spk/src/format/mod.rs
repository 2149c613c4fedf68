//! The package format. Hostile bytes end here: what leaves this module was checked.

pub mod archive;
pub mod container;
pub mod frame;
pub mod layout;
pub mod limits;
pub mod manifest;
pub mod replacement;
pub mod signature;
pub mod xz;

#[cfg(test)]
mod proptests;
