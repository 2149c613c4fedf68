//! Runs one grain. See `--help` for the contract and each module for its part.
//!
//! The order of this file is the security of the program: reset what exec handed on, judge the
//! arguments, find out who we are, open and check directories, build the sandbox, give up every
//! privilege, and only then start an async runtime and speak to anybody.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code))]

mod args;
mod error;
mod explain;
mod grain;
mod harden;
mod home;
mod identity;
mod init;
mod layers;
mod link;
mod rpc;
mod sandbox;
mod serve;
mod slot;
mod sys;

use std::io::Write;
use std::os::unix::net::UnixStream;

use crate::args::{Action, Args};
use crate::error::Error;
use crate::home::Turn;
use crate::identity::Identity;
use crate::sys::process::{self, Ended, Forked, SingleThread};

/// The C library calls this directly: what the language's own start does first (a handler for
/// stack overflows, which reads /proc; open standard descriptors) `harden` undoes or does anyway.
#[cfg(not(test))]
// SAFETY: the one function of this name, with the signature that C libraries call it by.
#[unsafe(no_mangle)]
extern "C" fn main(_: std::ffi::c_int, _: *const *const std::ffi::c_char) -> std::ffi::c_int {
    let one_thread = SingleThread::at_start();
    let code = match run(one_thread) {
        Ok(()) => 0,
        Err(error) => {
            // Not eprintln: a closed stderr must not turn into a panic.
            let _ = writeln!(std::io::stderr(), "sandstorm-supervisor: {error}");
            error.exit_code()
        }
    };
    std::process::exit(code)
}

fn run(one_thread: SingleThread) -> Result<(), Error> {
    harden::first_steps(&one_thread)?;
    match args::parse(std::env::args_os().skip(1))? {
        Action::Print(text) => {
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Action::Check => {
            let identity = identity::establish()?;
            let found = sandbox::check(&one_thread, &identity)?;
            let _ = std::io::stdout().write_all(found.as_bytes());
            Ok(())
        }
        Action::Run(args) => start(one_thread, &args),
    }
}

fn start(one_thread: SingleThread, args: &Args) -> Result<(), Error> {
    let identity = identity::establish()?;
    let dirs = home::open(args, identity.caller)?;
    let turn = home::take_turn(&dirs, |stream| ask(&one_thread, &identity, stream))?;
    let Turn::Ours(lock) = turn else {
        serve::announce("Already running...\n");
        return Ok(());
    };
    let sandbox = sandbox::enter(&one_thread, &identity, &dirs, lock, args)?;
    identity::give_up(identity.privileged, identity.caller)?;
    serve::run(one_thread, sandbox, dirs, args, identity.caller)
}

/// Asks the supervisor behind `stream` whether it serves, in a child that has given up every
/// privilege: no runtime and no message while uid 0, and we can still start if it does not.
fn ask(one_thread: &SingleThread, identity: &Identity, stream: UnixStream) -> Result<bool, Error> {
    match process::clone(one_thread, 0, None).map_err(Error::kernel("fork"))? {
        Forked::Child => {
            let dropped = identity::give_up_in_child(identity);
            let serving = dropped.is_ok() && serve::is_serving(stream);
            process::exit_now(i32::from(!serving))
        }
        Forked::Parent(child) => {
            let ended = process::wait_for(child.pid).map_err(Error::kernel("wait for a child"))?;
            Ok(ended == Ended::Status(0))
        }
    }
}
