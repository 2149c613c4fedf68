//! The shell: the web server people talk to, and the only program that starts grains.
//!
//! Trust: everything that arrives here is hostile, from the network above as from supervisors
//! and apps below. Each module's head says which side it faces.
//!
//! A library only so that the fuzz targets reach the filters; the program is [`main`].
#![deny(unsafe_code)]

mod assets;
mod check;
mod cli;
mod config;
mod control;
mod disk;
mod edge;
mod error;
#[doc(hidden)]
pub mod fuzzing;
mod grains;
mod identity;
mod ids;
mod install;
mod limits;
mod live;
mod middleware;
mod net;
mod pace;
mod pages;
mod remove;
mod router;
mod shares;
mod state;
mod store;

pub use cli::main;
