//! The command line: what was typed, and which part of the program does it.
//!
//! `serve` is the server; everything else speaks to a running one over `shell.socket`.

mod app;
mod client;
mod delegated;
mod grain;
mod limit;
pub mod output;
mod serve;
mod terminal;

use std::ffi::{OsStr, OsString};
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};

use self::output::{called, outln};
use crate::config::Settings;
use crate::error::Result;

/// Web apps as documents, each in a box of its own.
#[derive(Parser)]
#[command(name = "shell", version, max_term_width = 100, subcommand_required = true)]
struct Cli {
    /// Directory that holds all state [env: SANDSTORM_HOME] [default: /var/sandstorm; in a checkout
    /// ./.sandstorm]
    // Read by hand in `config::home`: clap would list it as required in other usage lines.
    #[arg(long, value_name = "DIR", global = true)]
    home: Option<PathBuf>,
    /// Print one JSON value and nothing else
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server in the foreground
    Serve(Box<Settings>),
    /// Print a one-time link that signs in as administrator
    AdminLink,
    /// Installed apps
    #[command(subcommand)]
    App(app::Command),
    /// Grains
    #[command(subcommand)]
    Grain(grain::Command),
    /// What one grain may use, and what one person may install
    #[command(subcommand)]
    Limit(limit::Command),
    /// Look for what keeps the server from working, and say how to mend it
    Check(Box<Settings>),
}

/// What every sub-command knows.
struct Context {
    home: PathBuf,
    json: bool,
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return not_parsed(&error),
    };
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            let mut said = error.to_string();
            // It may quote what an app wrote.
            if std::io::stderr().is_terminal() {
                said = terminal::shown(&said);
            }
            // `eprintln!` would panic where nobody can be told.
            let _ = writeln!(std::io::stderr(), "{}: {said}", called());
            ExitCode::FAILURE
        }
    }
}

/// What clap says: a mistake on stderr, or the help that was asked for.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if error.kind() == ErrorKind::InvalidUtf8
        && let Some(name) = unreadable_setting(|name| std::env::var_os(name))
    {
        let _ = writeln!(
            std::io::stderr(),
            "{}: {name} in the environment is no text (UTF-8); set it again, or unset it",
            called()
        );
        return ExitCode::FAILURE;
    }
    let code = match error.print().and_then(|()| std::io::stdout().flush()) {
        Err(why) if !error.use_stderr() => output::not_written(&why),
        _ => error.exit_code(),
    };
    ExitCode::from(u8::try_from(code).unwrap_or(2))
}

/// The first setting whose variable holds bytes that are no text.
fn unreadable_setting(value: impl Fn(&OsStr) -> Option<OsString>) -> Option<String> {
    let command = Settings::augment_args(clap::Command::new("settings"));
    let mut names = command.get_arguments().filter_map(|argument| argument.get_env());
    names
        .find(|name| value(name).is_some_and(|text| text.to_str().is_none()))
        .map(|name| name.to_string_lossy().into_owned())
}

fn run(cli: Cli) -> Result<ExitCode> {
    let home = crate::config::home(cli.home.as_deref())?;
    let context = Context { home, json: cli.json };
    match cli.command {
        Command::Serve(settings) => serve::run(&context.home, *settings, context.json),
        Command::AdminLink => client::run(&context.home, async |control| {
            let response = control.admin_link_request().send().promise.await?;
            let url = response.get()?.get_url()?.to_string()?;
            print(&context, serde_json::json!({ "url": url }), || outln!("{url}"));
            Ok(())
        }),
        Command::App(command) => app::run(&context, command),
        Command::Grain(command) => grain::run(&context, command),
        Command::Limit(command) => limit::run(&context, command),
        Command::Check(settings) => check(&context, *settings),
    }
}

fn check(context: &Context, settings: Settings) -> Result<ExitCode> {
    let crate::check::Report { problems, machine, notes } =
        crate::check::run(&context.home, settings);
    let runs = crate::control::is_served(&context.home);
    let json = serde_json::json!({
        "ok": problems.is_empty(),
        "running": runs,
        "machine": machine,
        "notes": notes,
        "problems": problems
            .iter()
            .map(|problem| serde_json::json!({ "what": problem.what, "fix": problem.fix }))
            .collect::<Vec<_>>(),
    });
    print(context, json, || {
        if problems.is_empty() {
            outln!("Everything is in place.");
        }
        for problem in &problems {
            outln!("- {}\n  {}", problem.what, problem.fix);
        }
        for note in &notes {
            outln!("{note}");
        }
        if !machine.is_empty() {
            outln!("How grains run here:");
        }
        for line in &machine {
            outln!("- {line}");
        }
    });
    // No problem by itself, but whoever looks why nothing answers must not miss it.
    if !context.json && runs == Some(false) && notes.is_empty() {
        outln!(
            "No server runs with the home {}; `{} serve` starts one.",
            context.home.display(),
            called()
        );
    }
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One JSON value, or words.
fn print(context: &Context, json: serde_json::Value, words: impl FnOnce()) {
    if context.json {
        outln!("{json}");
    } else {
        words();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_variable_that_is_no_text_is_named() {
        use std::os::unix::ffi::OsStringExt;
        let bad = |name: &OsStr| (name == "BIND_IP").then(|| OsString::from_vec(vec![0xff]));
        assert_eq!(unreadable_setting(bad).as_deref(), Some("BIND_IP"));
        assert_eq!(unreadable_setting(|_| Some("fine".into())), None);
    }

    #[test]
    fn contract_lines_parse() {
        for line in [
            "serve --port 4000 --grain-mode port",
            "serve --home /x",
            "admin-link --json",
            "app install a.spk --json",
            "app list --home /x",
            "app delete 0123 --json",
            "grain create --app abc --action 1 --title T --owner ada --json",
            "grain list",
            "grain open g",
            "grain session g --permissions a,b",
            "grain stop g --now",
            "grain log g",
            "grain log g --now",
            "grain delete g --now",
            "check --json",
            "limit list --json",
            "limit set --app abc memory=2G",
            "limit set --account ada disk=1T",
            "limit set --account ada installed=50G",
            "limit clear --app abc",
            "limit clear --account ada disk",
        ] {
            let words = std::iter::once("shell").chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        for line in [
            "limit set memory=2G",
            "limit set --app a --account b memory=2G",
            "limit clear",
            "",
            "grain",
            "grain create",
            "nothing",
            "app install",
            "app delete",
            "grain log g --now --follow",
        ] {
            let words = std::iter::once("shell").chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).err().map(|e| e.exit_code()), Some(2), "{line}");
        }
    }
}
