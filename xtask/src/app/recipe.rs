//! The recipe: what an app is made of, in about ten lines of TOML. `docs/porting.md` explains it.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::paths;

/// One app. Every source may appear, and they add up to one tree.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recipe {
    /// Directory name below `tests/apps`; set by [`Recipe::load`].
    #[serde(skip)]
    pub name: String,

    // --- what people see ---
    pub title: String,
    /// What one grain is called ("wiki"): the menu says "New wiki".
    pub noun: String,
    /// Orders packages of one app; higher replaces lower.
    #[serde(default = "one")]
    pub version: u32,
    /// Version as people know it.
    pub release: String,
    /// A name of `OpenSourceLicense` in package.capnp, or `publicDomain`.
    pub licence: String,
    #[serde(default)]
    pub website: String,
    #[serde(default)]
    pub code: String,
    /// Markdown for the app's page.
    #[serde(default)]
    pub description: String,
    /// One to three words.
    #[serde(default)]
    pub summary: String,
    #[serde(default)]
    pub categories: Vec<String>,

    // --- what it is made of ---
    /// `name@version`, installed below `/app/node_modules`.
    #[serde(default)]
    pub npm: Vec<String>,
    /// `name@version` and more words for `cargo install`; programs land in `/bin`.
    #[serde(default)]
    pub cargo: Vec<String>,
    /// `name==version`, installed below `/app/python`, for Debian's Python 3.
    #[serde(default)]
    pub pip: Vec<String>,
    /// Debian packages, unpacked at `/` (no dependencies but shared libraries).
    #[serde(default)]
    pub debian: Vec<String>,
    /// Files or directories of this machine, copied to the same place.
    #[serde(default)]
    pub host: Vec<String>,
    /// A package of this workspace whose program, of the same name, is copied to `/bin`.
    #[serde(default)]
    pub workspace: Option<String>,
    /// Paths of the tree that are left out again.
    #[serde(default)]
    pub without: Vec<String>,

    // --- how it runs ---
    /// Port of the app's web server on 127.0.0.1. Without it the app speaks Cap'n Proto on fd 3.
    pub port: Option<u16>,
    /// Shell lines for a new grain, before `start`. Run again if they did not get to their end.
    #[serde(default)]
    pub first: String,
    /// Shell lines that run the app. With no `port`: the argument vector, split at blanks.
    pub start: String,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// A `BridgeConfig` in Cap'n Proto text: roles, API path. Selects today's bridge name.
    pub bridge: Option<String>,
}

fn one() -> u32 {
    1
}

impl Recipe {
    /// Reads `tests/apps/NAME/recipe.toml`.
    pub fn load(name: &str) -> Result<Recipe> {
        ensure!(
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'),
            "{name:?} is no recipe name: letters, digits and '-' only"
        );
        let path = paths::top().join("tests/apps").join(name).join("recipe.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("no recipe at {}", path.display()))?;
        let mut recipe: Recipe =
            toml::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        recipe.name = name.to_owned();
        ensure!(recipe.port != Some(0), "{}: port 0 is no port", path.display());
        Ok(recipe)
    }

    /// The recipe's directory.
    pub fn dir(&self) -> PathBuf {
        paths::top().join("tests/apps").join(&self.name)
    }
}
