//! `cargo xtask app`: turns a recipe of `tests/apps/NAME/recipe.toml` into a signed package, the way
//! an app author would: a chroot tree, a manifest, our own `spk` and `legacy-bridge`. What is
//! downloaded is run only to build (npm and pip with install scripts off); it is trusted no more
//! than any app, since it will live in the sandbox.

mod libraries;
mod manifest;
mod package;
mod recipe;
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::paths;
use recipe::Recipe;

#[derive(Subcommand)]
pub enum Command {
    /// List the recipes
    List,
    /// Build a package and print the path of the .spk (from the cache when nothing changed)
    Build { names: Vec<String> },
    /// Build only the chroot tree, without bridge, manifest and signature, and print its path
    Tree { names: Vec<String> },
    /// Resolve a recipe's dependencies anew and write their lock file beside it
    Lock { names: Vec<String> },
}

pub fn run(command: Command) -> Result<()> {
    match command {
        Command::List => {
            for name in list()? {
                let recipe = Recipe::load(&name)?;
                println!("{name:<12} {} {}", recipe.title, recipe.release);
            }
        }
        Command::Build { names } => {
            for name in names {
                println!("{}", build(&name)?.display());
            }
        }
        Command::Tree { names } => {
            for name in names {
                println!("{}", tree::build(&Recipe::load(&name)?)?.display());
            }
        }
        Command::Lock { names } => {
            for name in names {
                tree::lock(&Recipe::load(&name)?)?;
            }
        }
    }
    Ok(())
}

/// Builds one app's package; returns the path of the .spk in the cache.
pub fn build(name: &str) -> Result<PathBuf> {
    let recipe = Recipe::load(name)?;
    package::build(&recipe).with_context(|| format!("app {name} could not be built"))
}

/// Builds one app's tree; returns its place in the cache.
pub fn tree_of(name: &str) -> Result<PathBuf> {
    tree::build(&Recipe::load(name)?)
}

/// Marks a cache entry as used now. Only the clean-up of old ones looks at it.
fn touch(entry: &Path) {
    let _ = fs::File::open(entry).and_then(|dir| dir.set_modified(SystemTime::now()));
}

/// Names of all recipes, sorted.
pub fn list() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(paths::top().join("tests/apps"))? {
        let entry = entry?;
        if entry.path().join("recipe.toml").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
