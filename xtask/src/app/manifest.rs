//! Step 4 of the porting guide: the manifest, written as Cap'n Proto text and compiled by `capnp`.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::recipe::Recipe;
use crate::{paths, shell_out};

/// What a bridge looks for beside itself when it runs under today's name.
const BRIDGE_CONFIG: &str = "sandstorm-http-bridge-config";

/// Writes `sandstorm-manifest` (and the bridge's configuration, if there is one) into `root`.
/// `work` holds the text on the way.
pub fn write(recipe: &Recipe, root: &Path, work: &Path) -> Result<()> {
    fs::write(work.join("manifest.capnp"), text(recipe))?;
    let icon = recipe.dir().join("icon.svg");
    if icon.is_file() {
        fs::copy(&icon, work.join("icon.svg"))?;
    }
    eval(work, "manifest", &root.join("sandstorm-manifest"))?;
    if recipe.bridge.is_some() {
        eval(work, "bridgeConfig", &root.join(BRIDGE_CONFIG))?;
    }
    Ok(())
}

fn eval(work: &Path, constant: &str, to: &Path) -> Result<()> {
    let schema = paths::top().join("schema");
    ensure!(
        schema.join("sandstorm/package.capnp").is_file(),
        "{}/sandstorm/package.capnp is missing",
        schema.display()
    );
    let bytes = shell_out::output(
        Command::new("capnp")
            .args(["eval", "--binary", "-I"])
            .arg(&schema)
            .args(["manifest.capnp", constant])
            .current_dir(work),
    )?;
    fs::write(to, bytes).with_context(|| format!("cannot write {}", to.display()))
}

/// A Cap'n Proto text literal.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => write!(out, "\\x{:02x}", c as u32).expect("string"),
            c => out.push(c),
        }
    }
    out + "\""
}

fn localized(text: &str) -> String {
    format!("(defaultText = {})", quoted(text))
}

fn list(items: impl IntoIterator<Item = String>) -> String {
    format!("[{}]", items.into_iter().collect::<Vec<_>>().join(", "))
}

/// argv and environment of one of the two commands.
fn command(recipe: &Recipe, script: &str) -> String {
    let words: Vec<String> = match recipe.port {
        None => recipe.start.split_whitespace().map(str::to_owned).collect(),
        Some(port) if recipe.bridge.is_some() => {
            ["/sandstorm-http-bridge", &port.to_string(), "--", script].map(str::to_owned).into()
        }
        Some(port) => {
            ["/legacy-bridge", &format!("127.0.0.1:{port}"), script].map(str::to_owned).into()
        }
    };
    let mut environ = recipe.env.clone();
    environ.entry("PATH".into()).or_insert("/bin:/usr/bin".into());
    environ.entry("HOME".into()).or_insert("/var".into());
    format!(
        "(argv = {}, environ = {})",
        list(words.iter().map(|w| quoted(w))),
        list(environ.iter().map(|(k, v)| format!("(key = {}, value = {})", quoted(k), quoted(v))))
    )
}

fn text(recipe: &Recipe) -> String {
    let icon = if recipe.dir().join("icon.svg").is_file() {
        "icons = (appGrid = (svg = embed \"icon.svg\"), grain = (svg = embed \"icon.svg\")),"
    } else {
        ""
    };
    let licence = match recipe.licence.as_str() {
        "publicDomain" => "(publicDomain = \"\")".to_owned(),
        name => format!("(openSource = {name})"),
    };
    let bridge = recipe.bridge.as_ref().map_or(String::new(), |config| {
        format!("const bridgeConfig :Package.BridgeConfig = {};\n", config.trim())
    });
    format!(
        r#"@0xe1b9f5a3c7d2408b;
using Package = import "/sandstorm/package.capnp";

const manifest :Package.Manifest = (
  appTitle = {title},
  appVersion = {version},
  appMarketingVersion = {release},
  actions = [(
    nounPhrase = {noun},
    title = {new},
    input = (none = void),
    command = {first},
  )],
  continueCommand = {again},
  metadata = (
    {icon}
    website = {website}, codeUrl = {code}, license = {licence},
    categories = {categories},
    shortDescription = {summary}, description = {description},
  ),
);
{bridge}"#,
        title = localized(&recipe.title),
        version = recipe.version,
        release = localized(&recipe.release),
        noun = localized(&recipe.noun),
        new = localized(&format!("New {}", recipe.noun)),
        first = command(recipe, "/start-new"),
        again = command(recipe, "/start"),
        website = quoted(&recipe.website),
        code = quoted(&recipe.code),
        categories = list(recipe.categories.iter().cloned()),
        summary = localized(&recipe.summary),
        description = localized(&recipe.description),
    )
}

#[cfg(test)]
mod tests {
    use super::{quoted, write};
    use crate::app::{list, recipe::Recipe};

    #[test]
    fn every_recipe_makes_a_manifest_that_compiles() {
        let names = list().unwrap();
        assert!(names.len() >= 4, "{names:?}");
        for name in names {
            let (root, work) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            write(&Recipe::load(&name).unwrap(), root.path(), work.path()).unwrap();
            let bytes = std::fs::read(root.path().join("sandstorm-manifest")).unwrap();
            let message = capnp::serialize::read_message(&mut &bytes[..], Default::default());
            let message = message.unwrap();
            let manifest = message
                .get_root::<sandstorm_schema::package_capnp::manifest::Reader<'_>>()
                .unwrap();
            assert_eq!(manifest.get_actions().unwrap().len(), 1, "{name}");
            assert!(!manifest.get_continue_command().unwrap().get_argv().unwrap().is_empty());
        }
    }

    #[test]
    fn quotes_what_the_compiler_would_misread() {
        assert_eq!(quoted("a\"b\\c\nd\x01é"), r#""a\"b\\c\nd\x01é""#);
    }
}
