//! The interfaces that the supervisor exports, one a file.

pub mod border;
pub mod connections;
pub mod core;
pub mod log_watch;
pub mod sandstorm_api;
pub mod supervisor;
pub mod wake_lock;
