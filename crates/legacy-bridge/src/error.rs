//! The bridge's one error type, and what becomes of each variant.
//!
//! Trouble at start ends the process with one line that says what to do. Trouble with one request
//! ends only that request: as a 502 that names what the app did wrong, or as an RPC exception
//! where the interface has no other way.

use std::net::SocketAddr;

use crate::http1::{BodyError, HeadError};

/// Everything that can go wrong in the bridge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// fd 3 is missing or is not a socket.
    #[error(
        "fd 3 is not a socket ({0}). legacy-bridge runs inside a grain: put it into your manifest's \
         command, and let sandstorm-supervisor start it"
    )]
    NoRpcSocket(String),
    /// The command could not be started.
    #[error("cannot start {command:?}: {reason}")]
    Spawn {
        /// argv\[0\] as it was given.
        command: String,
        /// What the kernel said, in words.
        reason: String,
    },
    /// Nothing answered on the app's port in time.
    #[error(
        "the app did not accept connections on {addr} within {seconds} s; check that it listens on \
         this address and port, or give it longer with --start-timeout"
    )]
    StartTimeout {
        /// Where the bridge tried to connect.
        addr: SocketAddr,
        /// How long it tried.
        seconds: u64,
    },
    /// `/sandstorm-http-bridge-config` is there but cannot be used.
    #[error("{path}: {reason}")]
    Config {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Something of the kernel's that the bridge cannot do without.
    #[error("{step}: {source}")]
    System {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The request cannot be put into HTTP without breaking its framing.
    #[error("the request cannot be sent as HTTP: {0}")]
    BadRequest(String),
    /// A path that could leave the part of the app that programs with a token may use.
    #[error("the path has a segment \"..\", which could lead out of the app's API")]
    OutsideApi,
    /// No connection to the app.
    #[error("the app does not accept connections on {addr}: {source}")]
    Connect {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The connection ended before the first byte of an answer.
    #[error("the app closed the connection without an answer")]
    NoAnswer,
    /// The connection ended inside the head.
    #[error("the app closed the connection in the middle of its headers")]
    HeadTruncated,
    /// The socket failed.
    #[error("the connection to the app failed: {0}")]
    Socket(std::io::Error),
    /// The head of the answer is not HTTP.
    #[error("the app's answer is malformed: {0}")]
    Head(#[from] HeadError),
    /// The body of the answer breaks its own framing.
    #[error("the body of the app's answer is malformed: {0}")]
    Body(#[from] BodyError),
    /// The other end of the RPC socket sent something unreadable.
    #[error(transparent)]
    Rpc(#[from] capnp::Error),
    /// Valid HTTP that has no meaning here.
    #[error("the app's answer cannot be passed on: {0}")]
    Unusable(String),
}

impl Error {
    /// True where the app, not the caller, is to blame: the caller gets a 502.
    pub fn is_apps_fault(&self) -> bool {
        matches!(
            self,
            Error::Connect { .. }
                | Error::NoAnswer
                | Error::HeadTruncated
                | Error::Socket(_)
                | Error::Head(_)
                | Error::Body(_)
                | Error::Unusable(_)
        )
    }
}

impl From<std::str::Utf8Error> for Error {
    fn from(_: std::str::Utf8Error) -> Self {
        Error::BadRequest("a text is not UTF-8".into())
    }
}

/// The bridge's result type.
pub type Result<T, E = Error> = std::result::Result<T, E>;
