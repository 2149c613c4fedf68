//! `legacy-bridge`: starts an ordinary web server inside a grain and serves it over fd 3.
//!
//! A lifecycle: read the command line and the package's configuration, start the app, serve the
//! grain's view at once (requests wait until the app accepts connections), end with the app.
#![forbid(unsafe_code)]

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use legacy_bridge::args::{self, Action, Run};
use legacy_bridge::error::Error;
use legacy_bridge::{config, log, serve, sys};

fn main() -> ExitCode {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_default();
    let todays_name = Path::new(&name).file_name().is_some_and(|n| n == "sandstorm-http-bridge");
    match args::parse(args) {
        Ok(Action::Help) => said(&args::help()),
        Ok(Action::Version) => said(concat!("legacy-bridge ", env!("CARGO_PKG_VERSION"), "\n")),
        Ok(Action::Run(run)) => ended(start(&run, todays_name)),
        Err(problem) => {
            let _ = writeln!(std::io::stderr(), "legacy-bridge: {problem}");
            ExitCode::from(2)
        }
    }
}

/// Text for whoever asked; where it cannot be written, the status says so and nothing panics.
fn said(text: &str) -> ExitCode {
    let mut out = std::io::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn start(run: &Run, todays_name: bool) -> Result<i32, Error> {
    let config = config::Config::load(Path::new(config::PATH), todays_name)?;
    let socket = sys::take_rpc_socket()?;
    serve::run(run, config, socket)
}

fn ended(outcome: Result<i32, Error>) -> ExitCode {
    match outcome {
        Ok(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
        Err(error) => {
            log!("{error}");
            // The shell's word for a command that cannot be started.
            ExitCode::from(if matches!(error, Error::Spawn { .. }) { 127 } else { 1 })
        }
    }
}
