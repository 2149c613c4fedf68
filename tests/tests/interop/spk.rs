//! Package files in both directions: what our `spk` packs an independent reader reads, and what an
//! independent writer writes, in every way that the format allows, our `spk` unpacks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use sandstorm_tests::{program, python};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What a package keeps of an entry.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Entry {
    kind: &'static str,
    /// Content's SHA-256 in hex, or a link's target.
    content: String,
    mtime_ns: i64,
}

/// Path below the root to entry.
type Tree = BTreeMap<String, Entry>;

/// A name as the independent reader prints it: bytes that are no UTF-8 as `\xff`.
fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

fn tree_of(root: &Path) -> Result<Tree> {
    fn walk(root: &Path, dir: &Path, tree: &mut Tree) -> Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let meta = path.symlink_metadata()?;
            let (kind, content) = if meta.is_symlink() {
                ("symlink", printable(std::fs::read_link(&path)?.as_os_str().as_bytes()))
            } else if meta.is_dir() {
                walk(root, &path, tree)?;
                ("directory", String::new())
            } else {
                let kind = if meta.mode() & 0o100 != 0 { "executable" } else { "regular" };
                (kind, hex::encode(Sha256::digest(std::fs::read(&path)?)))
            };
            let mtime_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
            let name = printable(path.strip_prefix(root)?.as_os_str().as_bytes());
            tree.insert(name, Entry { kind, content, mtime_ns });
        }
        Ok(())
    }
    let mut tree = Tree::new();
    walk(root, root, &mut tree)?;
    Ok(tree)
}

/// The entries that the independent reader prints.
fn tree_in(report: &Value) -> Result<Tree> {
    let mut tree = Tree::new();
    for entry in report["entries"].as_array().context("no entries")? {
        let text = |key: &str| entry[key].as_str().map(str::to_owned);
        let kind = match entry["kind"].as_str() {
            Some("regular") => "regular",
            Some("executable") => "executable",
            Some("symlink") => "symlink",
            Some("directory") => "directory",
            other => bail!("{other:?}"),
        };
        let content = text("sha256").or_else(|| text("target")).unwrap_or_default();
        let mtime_ns = entry["mtimeNs"].as_i64().context("no time")?;
        tree.insert(text("path").context("no path")?, Entry { kind, content, mtime_ns });
    }
    Ok(tree)
}

/// A directory with everything that a package can hold, names that nobody likes included.
fn make_tree(root: &Path) -> Result<()> {
    for dir in ["dev", "tmp", "var", "etc/empty", "...", " blank "] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    let files: [(&[u8], &[u8]); 8] = [
        (b"etc/passwd", b"root\n"),
        (b"empty", b""),
        (b"line\nbreak", b"1"),
        (b"back\\slash", b"2"),
        (b"latin-\xe9", b"3"),
        (b"...\xc3\xa9/..a", b"4"),
        ("etc/\u{1f600}".as_bytes(), b"5"),
        (b"bin/run", b"#!/bin/sh\n"),
    ];
    for (name, content) in files {
        let path = root.join(OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().context("in a directory")?)?;
        std::fs::write(&path, content)?;
    }
    std::fs::set_permissions(root.join("bin/run"), PermissionsExt::from_mode(0o755))?;
    // Larger than any buffer: once not compressible, once very.
    std::fs::write(root.join("zeros"), vec![0; 3 << 20])?;
    let mut noise = vec![0; 200_000];
    getrandom::fill(&mut noise).map_err(|e| anyhow::anyhow!("{e}"))?;
    std::fs::write(root.join("noise"), &noise)?;
    std::fs::write(root.join("sandstorm-manifest"), manifest())?;
    symlink("/nowhere/../at all", root.join("dangling"))?;
    symlink(OsStr::from_bytes(b"latin-\xe9"), root.join("etc/link"))?;
    let deep = root.join(vec!["d"; 50].join("/"));
    std::fs::create_dir_all(&deep)?;
    std::fs::write(deep.join("bottom"), "")?;
    // Directories get their time when they are complete.
    for (name, seconds, nanos) in
        [("empty", 0, 1), ("bin/run", -5, 250_000_000), ("etc", 1 << 33, 0)]
    {
        let since = |s: i64, n: i64| nix::sys::time::TimeSpec::new(s, n);
        let time = since(seconds, nanos);
        let follow = nix::sys::stat::UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, &root.join(name), &time, &time, follow)?;
    }
    Ok(())
}

/// A small manifest, built with our generated code.
fn manifest() -> Vec<u8> {
    let mut message = capnp::message::Builder::new_default();
    let mut manifest: sandstorm_schema::package_capnp::manifest::Builder<'_> = message.init_root();
    manifest.reborrow().init_app_title().set_default_text("Interop");
    manifest.reborrow().init_app_marketing_version().set_default_text("1.0");
    let mut argv = manifest.init_continue_command().init_argv(1);
    argv.set(0, "/bin/run");
    capnp::serialize::write_message_to_words(&message)
}

fn finish(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("{command:?}"))
}

/// What a program that must succeed printed.
fn printed(command: &mut Command) -> Result<String> {
    let output = finish(command)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {complaint}");
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

fn spk() -> Command {
    Command::new(program("spk"))
}

fn theirs() -> Result<Command> {
    let mut command = Command::new(python::interpreter()?);
    command.arg(python::programs().join("spk_interop.py"));
    Ok(command)
}

/// What the independent reader says of a package.
fn read_by_theirs(package: &Path) -> Result<Value> {
    Ok(serde_json::from_str(&printed(theirs()?.arg("read").arg(package))?)?)
}

struct Scene {
    _home: tempfile::TempDir,
    tree: PathBuf,
    dir: PathBuf,
}

impl Scene {
    fn new() -> Result<Scene> {
        let home = tempfile::tempdir()?;
        let dir = home.path().to_owned();
        let tree = dir.join("tree");
        std::fs::create_dir(&tree)?;
        make_tree(&tree)?;
        Ok(Scene { _home: home, tree, dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The independent writer's package in `name`.
    fn made_by_theirs(
        &self,
        key: &Path,
        name: &str,
        options: &[&str],
    ) -> Result<(PathBuf, String)> {
        let package = self.path(name);
        let mut make = theirs()?;
        make.arg("make").args(options).args([&self.tree, key, &package]);
        let app_id = printed(&mut make)?;
        Ok((package, app_id))
    }
}

#[test]
fn what_spk_packs_an_independent_reader_reads() -> Result<()> {
    let scene = Scene::new()?;
    let (key, package) = (scene.path("key"), scene.path("ours.spk"));
    let app_id = printed(spk().arg("keygen").arg(&key))?;
    let said = printed(spk().arg("pack").args([&scene.tree, &key, &package]))?;
    ensure!(said.starts_with(app_id.split(' ').next().unwrap_or("?")), "{said} for {app_id}");

    let report = read_by_theirs(&package)?;
    ensure!(said.split(' ').next() == report["appId"].as_str(), "{said}: {}", report["appId"]);
    let hash = hex::encode(Sha256::digest(std::fs::read(&package)?));
    ensure!(report["packageId"] == hash[..32]);
    assert_eq!(tree_in(&report)?, tree_of(&scene.tree)?);
    Ok(())
}

/// Ways to write the same content that the format allows: each must give the same tree.
const VARIANTS: &[&[&str]] = &[
    &[],
    &["--segment-words", "8"],
    &["--segment-words", "2"],
    &["--segment-words", "1000", "--reverse"],
    &["--streams"],
    &["--streams", "--padding", "8"],
    &["--padding", "4"],
    &["--check", "none"],
    &["--check", "crc32", "--preset", "0"],
    &["--check", "sha256", "--preset", "9"],
    &["--null-directories"],
    // Hashed, and not part of the message.
    &["--after", "xyz"],
    &["--after", "eight..."],
];

#[test]
fn what_an_independent_writer_makes_spk_unpacks() -> Result<()> {
    let scene = Scene::new()?;
    let key = scene.path("key");
    printed(theirs()?.arg("keygen").arg(&key))?;
    let expected = tree_of(&scene.tree)?;
    for (number, options) in VARIANTS.iter().enumerate() {
        let (package, app_id) = scene.made_by_theirs(&key, &format!("{number}.spk"), options)?;
        let out = scene.path(&format!("out{number}"));
        let said = printed(spk().arg("unpack").args([&package, &out]))?;
        ensure!(said.contains(&app_id), "{options:?}: {said} for {app_id}");
        assert_eq!(tree_of(&out)?, expected, "{options:?}");
    }
    // The form of 2014 has no times: they read as 1970.
    let (package, _) = scene.made_by_theirs(&key, "2014.spk", &["--form", "2014"])?;
    let out = scene.path("out2014");
    printed(spk().arg("unpack").args([&package, &out]))?;
    let mut expected = expected;
    expected.values_mut().for_each(|entry| entry.mtime_ns = 0);
    assert_eq!(tree_of(&out)?, expected);
    Ok(())
}

const FAULTS: &[&str] = &[
    "magic",
    "hash",
    "signature",
    "short-signature",
    "trailing",
    "padding",
    "cut",
    "name-empty",
    "name-dot",
    "name-dotdot",
    "name-slash",
    "name-nul",
    "duplicate",
    "kind",
];

/// The same package with one fault: refused in one line, and nothing is left behind. That the twin
/// without the fault is accepted is shown above.
#[test]
fn what_an_independent_writer_breaks_spk_refuses() -> Result<()> {
    let scene = Scene::new()?;
    let key = scene.path("key");
    printed(theirs()?.arg("keygen").arg(&key))?;
    for fault in FAULTS {
        let (package, _) =
            scene.made_by_theirs(&key, &format!("{fault}.spk"), &["--fault", fault])?;
        let out = scene.path(&format!("out-{fault}"));
        let refused = finish(spk().arg("unpack").args([&package, &out]))?;
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1), "{fault}: {} {complaint}", refused.status);
        ensure!(complaint.trim_end().lines().count() == 1, "{fault}: {complaint}");
        ensure!(!out.exists(), "{fault} left {} behind", out.display());
        // The independent reader is of the same mind, so the fault is one.
        let refused = finish(theirs()?.arg("read").arg(&package))?;
        ensure!(refused.status.code() == Some(1), "{fault} is none to the independent reader");
    }
    Ok(())
}

#[test]
fn keys_are_the_same_on_both_sides() -> Result<()> {
    let scene = Scene::new()?;
    let (ours, theirs_key) = (scene.path("ours"), scene.path("theirs"));
    printed(spk().arg("keygen").arg(&ours))?;
    let their_id = printed(theirs()?.arg("keygen").arg(&theirs_key))?;
    // 128 bytes: one message with the two keys.
    assert_eq!(std::fs::metadata(&ours)?.len(), 128);
    assert_eq!(std::fs::metadata(&theirs_key)?.len(), 128);
    let said = printed(spk().arg("appid").arg(&theirs_key))?;
    ensure!(said.contains(&their_id), "{said} for {their_id}");

    let package = scene.path("theirs-key.spk");
    printed(spk().arg("pack").args([&scene.tree, &theirs_key, &package]))?;
    ensure!(read_by_theirs(&package)?["appId"] == their_id.as_str());

    let (package, our_id) = scene.made_by_theirs(&ours, "our-key.spk", &[])?;
    let said = printed(spk().arg("unpack").arg(&package).arg(scene.path("out")))?;
    ensure!(said.contains(&our_id), "{said} for {our_id}");
    Ok(())
}
