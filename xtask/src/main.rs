//! Everything that is neither build nor test: one door, and it lists what it can do.

mod r#gen;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::Path;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Generate the Rust code of schema/ anew (needs the capnp tool)
    Gen,
}

fn main() -> Result<()> {
    let repo =
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask stands in the checkout");
    match Args::parse().command {
        Command::Gen => r#gen::run(repo),
    }
}
