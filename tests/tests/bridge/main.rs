//! The real bridge before the real probe app, with this test in the supervisor's place: a
//! socketpair is fd 3, and what the shell would say is said here. Both programs run in a chroot of
//! nothing but themselves, so there is no `/proc`, no resolver and no library.

mod bad_answers;
mod client;
mod grain;
mod http;
mod pool;
mod process;
mod smuggling;
mod streams;
mod websocket;
