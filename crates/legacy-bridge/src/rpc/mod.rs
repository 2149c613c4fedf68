//! The objects that the bridge exports: the grain's view, its sessions, upload streams, WebSockets.

mod pump;
mod session;
mod upload;
mod view;
mod websocket;
mod window;

pub use view::{Bridge, ViewImpl};

use crate::error::Error;

impl From<Error> for capnp::Error {
    fn from(error: Error) -> capnp::Error {
        match error {
            Error::Rpc(error) => error,
            other => capnp::Error::failed(other.to_string()),
        }
    }
}
