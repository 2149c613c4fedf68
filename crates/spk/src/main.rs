//! `spk`: reads the command line and runs one command. Exit 0 means done, 1 a refused file or a
//! failure (one line on stderr), 2 a command line that makes no sense.
#![forbid(unsafe_code)]

mod args;
mod cmd;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use spk::error::{Error, Result, display_path};
use spk::progress::Terminal;

use args::{Cli, Command};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(words) => return said(&words),
    };
    if !matches!(cli.command, Command::UnpackServer | Command::PgpServer { .. }) {
        Terminal::watch_signals();
    }
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => ExitCode::from(130),
        // A read that was given up, whatever its reader made of that.
        Err(error) if error.is_transient() && Terminal::interrupted() => ExitCode::from(130),
        Err(error) => {
            let line = error.to_string().replace('\n', " ");
            let line = match subject(&cli.command) {
                _ if matches!(cli.command, Command::PgpServer { .. }) => line,
                _ if matches!(error, Error::Stdout(_)) => format!("spk: {line}"),
                Some(subject) if matches!(cli.command, Command::Verify { .. }) => {
                    format!("*** {subject}: {line}")
                }
                Some(subject) if !matches!(error, Error::Usage(_)) => {
                    format!("spk: {subject}: {line}")
                }
                _ => format!("spk: {line}"),
            };
            // `eprintln!` would panic where nobody can be told, and the status must still say it.
            let _ = writeln!(std::io::stderr(), "{line}");
            ExitCode::from(if matches!(error, Error::Usage(_)) { 2 } else { 1 })
        }
    }
}

/// Help, the version, or what is wrong with the command line. Help that was asked for and cannot be
/// written is a failure, as any other output is.
fn said(words: &clap::Error) -> ExitCode {
    let code = u8::try_from(words.exit_code()).unwrap_or(2);
    match words.print().and_then(|()| std::io::stdout().flush()) {
        Err(e) if !words.use_stderr() && e.kind() != std::io::ErrorKind::BrokenPipe => {
            let _ = writeln!(std::io::stderr(), "spk: {}", Error::Stdout(e));
            ExitCode::FAILURE
        }
        _ => ExitCode::from(code),
    }
}

/// The file that a message of this command is about.
fn subject(command: &Command) -> Option<String> {
    match command {
        Command::Unpack { file, .. } | Command::Verify { file, .. } => Some(display_path(file)),
        _ => None,
    }
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Keygen { global, only_id, files } => {
            cmd::keys::keygen(&global.over(&cli.global), files, *only_id)
        }
        Command::Appid { only_id, files } => cmd::keys::appid(files, *only_id),
        Command::Listkeys { global } => cmd::keys::listkeys(&global.over(&cli.global)),
        Command::Getkey { global, ids } => cmd::keys::getkey(&global.over(&cli.global), ids),
        Command::Init(init) => cmd::init::run(&init.global.over(&cli.global), init),
        Command::Pack { global, definitions, only_id, words } => cmd::pack::run(
            &global.over(&cli.global),
            &definitions.over(&cli.definitions),
            words,
            *only_id,
        ),
        Command::Unpack { tar: true, file, target, .. } => {
            cmd::unpack::to_tar(file, target.as_deref())
        }
        Command::Unpack { file, target, .. } => cmd::unpack::run(file, target.as_deref()),
        Command::Verify { json, file, .. } => cmd::verify::run(file, *json),
        Command::UnpackServer => cmd::unpack_server::run(),
        Command::PgpServer { home: None } => spk::pgp::serve(),
        Command::PgpServer { home: Some(home) } => spk::pgp::serve_confined(home),
    }
}
