//! The victim's memory, as the attacks ask for it: another process has it, so it is never full.

use std::sync::atomic::AtomicUsize;

pub const MIB: usize = 1024 * 1024;
pub static NOW: AtomicUsize = AtomicUsize::new(0);
