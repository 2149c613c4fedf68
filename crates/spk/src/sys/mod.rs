//! The kernel's side: files without names, mappings, trees by directory descriptor, lock-down.
//! All `unsafe` of this program is below this module.

pub mod inherited;
pub mod lockdown;
pub mod map;
pub mod placed;
pub mod scratch;
pub mod tree;
