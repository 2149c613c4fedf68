//! The bridge between a grain's RPC socket and an ordinary web server.
//!
//! Trust: the bridge runs inside the sandbox, as the app. It protects nothing from the app; the
//! shell checks every answer again. What it owes both sides is that no request can be forged by
//! what stands in another one ([`http1::RequestHead`]), that nothing malformed is passed on as if
//! it were whole ([`http1`]), and that a slow reader stops a fast writer.
//!
//! `main` reads the command line, starts the app and serves; [`http1`] speaks to the app; `http`
//! translates; `rpc` holds the exported objects.
#![deny(unsafe_code)]

pub mod app;
pub mod args;
pub mod config;
pub mod error;
pub mod http;
pub mod http1;
pub mod log;
pub mod rpc;
pub mod serve;
pub mod sys;
