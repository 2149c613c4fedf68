//! `pack`, both forms.

use std::path::{Path, PathBuf};

use spk::definition::{self, Definition};
use spk::error::{Error, Result, display_path};
use spk::format::manifest::Manifest;
use spk::format::{limits, replacement, xz};
use spk::keyring::{self, Key, Keyring};
use spk::pack::{self, Output};
use spk::progress::Terminal;
use spk::tree::disk::Forbidden;
use spk::tree::{Kind, Node, Tree, dir, tar};

use crate::args::{Definitions, Global};

/// Two or three words are 2014's form, one is today's.
pub fn run(
    global: &Global,
    definition: &Definitions,
    words: &[PathBuf],
    only_id: bool,
) -> Result<()> {
    if words.last().is_some_and(|word| word.as_os_str() == "-") {
        return Err(Error::Usage("pack writes to a file, not to stdout; name one".into()));
    }
    match words {
        [out] => defined(global, definition, out),
        [tree, key] => directory(tree, key, None, only_id),
        [tree, key, out] => directory(tree, key, Some(out), only_id),
        _ => Err(Error::Usage("pack takes DIR KEYFILE [OUT], or OUT".into())),
    }
}

/// `pack OUT`: what a definition names.
fn defined(global: &Global, options: &Definitions, out: &Path) -> Result<()> {
    if out.is_dir() {
        return Err(Error::Usage(format!(
            "{0}: a directory; to pack it, name the key too: spk pack {0} KEYFILE",
            display_path(out)
        )));
    }
    let place = options.pkg_def.as_deref().unwrap_or(definition::DEFAULT);
    let definition = Definition::load(place, &options.import_path)?;
    let app = definition.app_id()?;
    let signer = replacement::signer_of(app);
    let ring_path = keyring::path(global.keyring.as_deref())?;
    let ring = Keyring::load(&ring_path)?;
    let key = ring.find(signer)?;
    Output::check(out, pack::is_package)?;
    let mut forbidden = Forbidden::default();
    forbidden.key(&ring_path);
    forbidden.output(out);
    let tree = definition.tree(&forbidden)?;
    write(&tree, key, ring.keys(), out, || super::print(format_args!("{signer}\n")))
}

/// `pack DIR KEYFILE [OUT]`: the tree as it is.
fn directory(source: &Path, key_file: &Path, out: Option<&Path>, only_id: bool) -> Result<()> {
    let key = Keyring::load(key_file)?.only()?.clone();
    if let Some(warning) = keyring::exposure(key_file) {
        super::warn(format_args!("{warning}"));
    }
    let out = match out {
        Some(out) => out.to_owned(),
        None => default_output(source)?,
    };
    Output::check(&out, pack::is_package)?;
    let tree = if source.is_file() {
        tar::scan(source)?
    } else {
        let mut forbidden = Forbidden::default();
        forbidden.key(key_file);
        forbidden.output(&out);
        dir::scan(source, &forbidden)?
    };
    for missing in missing_parts(&tree) {
        super::warn(format_args!("{}: {missing}", display_path(source)));
    }
    write(&tree, &key, &[], &out, || {
        if only_id {
            super::print(format_args!("{}\n", key.app_id()))
        } else {
            super::print(format_args!("{} {}\n", key.app_id(), display_path(&out)))
        }
    })
}

/// Compresses, signs and names the package, and tells it. Neither `key` nor `others` may be in it.
fn write(
    tree: &Tree,
    key: &Key,
    others: &[Key],
    out: &Path,
    tell: impl FnOnce() -> Result<()>,
) -> Result<()> {
    for warning in &tree.warnings {
        super::warn(format_args!("{warning}"));
    }
    let progress = Terminal::default();
    let threads = xz::encoder_threads(pack::cores());
    let output = Output::create(out)?;
    pack::write(tree, key, others, output.file(), threads, &progress)?;
    output.finish(tell)
}

/// DIR.spk, beside the directory; TREE.tar becomes TREE.spk.
fn default_output(source: &Path) -> Result<PathBuf> {
    // By components: a slash or `/.` at the end is no part of the name.
    let plain: PathBuf = source.components().collect();
    let named = match plain.file_name() {
        Some(_) => plain,
        // `.` and `..` have a name only in their parent.
        None => {
            let real = std::fs::canonicalize(source).map_err(Error::io(display_path(source)))?;
            if real.file_name().is_none() {
                return Err(Error::Usage("name the output: spk pack DIR KEYFILE OUT".into()));
            }
            real
        }
    };
    let stem = match named.extension() {
        Some(extension) if extension == "tar" && source.is_file() => named.with_extension(""),
        _ => named,
    };
    let mut name = stem.into_os_string();
    name.push(".spk");
    Ok(PathBuf::from(name))
}

/// What a server or the sandbox will miss.
fn missing_parts(tree: &Tree) -> Vec<String> {
    let mut missing = Vec::new();
    let name = limits::MANIFEST_NAME;
    let problem = match tree.find(name) {
        Some(Node { kind: Kind::File { executable: false, size, .. }, .. })
            if *size > 8 * limits::MAX_MANIFEST_WORDS + 8192 =>
        {
            Some(format!("{name}: too large"))
        }
        Some(node @ Node { kind: Kind::File { executable: false, .. }, .. }) => tree
            .read(node)
            .and_then(|bytes| Manifest::parse(&bytes)?.refusal())
            .unwrap_or_else(|error| Some(error.to_string())),
        Some(_) => Some(format!("{name}: not a regular file without the executable bit")),
        None => Some(format!("{name}: missing; make it with `capnp eval -b`")),
    };
    missing.extend(problem.map(|problem| format!("{problem} (no server will install this)")));
    missing.extend(
        tree.find(name)
            .and_then(|node| tree.read(node).ok())
            .and_then(|bytes| Manifest::parse(&bytes).ok())
            .map_or(Vec::new(), |manifest| manifest.gaps()),
    );
    for name in ["dev", "tmp", "var"] {
        if !matches!(tree.find(name), Some(node) if matches!(node.kind, Kind::Directory(_))) {
            missing.push(format!("no directory `{name}`, which the sandbox needs; mkdir it"));
        }
    }
    missing
}
