//! The door to everything that is neither `make run` nor `make test`. Without arguments it lists
//! what it can do. Runs with the caller's rights, on this checkout only.

mod app;
mod bench;
mod ci;
mod fuzz;
mod r#gen;
#[cfg(test)]
mod imports;
mod paths;
mod root_home;
mod run;
mod shell_out;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Development tasks of the Sandstorm tree.
#[derive(Parser)]
#[command(name = "cargo xtask", arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build packages (.spk) of real apps from the recipes in tests/apps
    #[command(subcommand, arg_required_else_help = true)]
    App(app::Command),
    /// What `make run` does after the build: demo apps, the server in the foreground, a link
    Run,
    /// What `make test` does after the build: every check and test, and a summary
    Ci,
    /// The same tests for hours: more kills, longer attacks
    Soak,
    /// Feed hostile bytes to the parsers: each target, or one by name
    Fuzz {
        target: Option<String>,
        /// How long each target runs
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Measure against peers in the same run: all benchmarks, or one by name
    Bench {
        name: Option<String>,
        /// Print the rows as JSON
        #[arg(long)]
        json: bool,
    },
    /// Generate the Rust code of schema/ anew (needs the capnp tool)
    Gen,
}

fn main() -> ExitCode {
    // Printed by hand: with RUST_BACKTRACE set, anyhow would add a page of frames without names.
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::App(command) => app::run(command),
        Task::Run => run::run(),
        Task::Ci => ci::run(false),
        Task::Soak => ci::run(true),
        Task::Fuzz { target, seconds } => fuzz::run(target.as_deref(), seconds),
        Task::Bench { name, json } => bench::run(name.as_deref(), json),
        Task::Gen => r#gen::run(&paths::top()),
    }
}
