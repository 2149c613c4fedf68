//! Runs one grain. See `--help` for the contract and each module for its part.
//!
//! The order of this file is the security of the program: reset what exec handed on, clone the grain's
//! init, leave root's rights to a helper that does a few named steps, and give them up (all that is
//! `privileged::begin`); only then judge the arguments, open and check directories, have the
//! sandbox built, start an async runtime and speak to anybody.

#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(dead_code))]

mod args;
mod error;
mod explain;
mod explain_exec;
mod grain;
mod helper;
mod home;
mod init;
mod layers;
mod link;
mod mode;
mod privileged;
mod rpc;
mod sandbox;
mod serve;
mod sys;

use std::io::Write;
use std::time::Duration;

use crate::args::{Action, Args};
use crate::error::Error;
use crate::grain::image;
use crate::home::Turn;
use crate::mode::Mode;
use crate::privileged::Begun;
#[cfg(not(test))]
use crate::sys::process;
use crate::sys::process::SingleThread;

/// How long the end waits for its own children: nobody else may.
const LAST_CHILD: Duration = Duration::from_millis(500);

/// The C library calls this directly: what the language's own start does first (a handler for
/// stack overflows, which reads /proc; open standard descriptors) `privileged::reset` undoes or does anyway.
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
    // An init that we have begun ends with our end of its link, which is closed by now.
    process::reap_within(LAST_CHILD);
    std::process::exit(code)
}

fn run(one_thread: SingleThread) -> Result<(), Error> {
    #[cfg(feature = "unsafe-disable")]
    layers::read_names();
    let begun = privileged::begin(&one_thread)?;
    // From here on this process has no right that its caller has not.
    rustix::process::umask(0o077.into());
    match args::parse(std::env::args_os().skip(1))? {
        Action::Print(text) => {
            // A reader that does not read holds nothing of root's.
            drop(begun);
            print(&text)
        }
        Action::Check => print(&sandbox::check(&one_thread, begun)?),
        Action::Run(args) => start(one_thread, begun, &args),
    }
}

/// What was asked for. A reader that left early has what it wanted.
fn print(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::Stdout(e)),
        _ => Ok(()),
    }
}

fn start(one_thread: SingleThread, mut begun: Begun, args: &Args) -> Result<(), Error> {
    if args.image && begun.mode == Mode::UserNamespace {
        // Before anything is made for the grain.
        return Err(image::without_root(true));
    }
    sandbox::announce(&mut begun, &args.limits)?;
    let caller = begun.caller;
    let dirs = home::open(args, caller)?;
    let Turn::Ours(lock) = home::take_turn(&dirs, serve::is_serving)? else {
        // What was begun ends with this.
        drop(begun);
        serve::announce("Already running...\n");
        return Ok(());
    };
    let outside = sandbox::enter(&one_thread, begun, &dirs, lock, args)?;
    serve::run(one_thread, outside, dirs, args, caller)
}
