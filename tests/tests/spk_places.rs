//! `spk` where it cannot write, or where there is nothing to read: a clear status and a line that
//! says what to do, never a panic, never half a file.

mod spk_support;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use spk_support::{APP, stderr, stdout};

fn spk(dir: &Path) -> Command {
    let mut command = Command::new(sandstorm_tests::program("spk"));
    command.current_dir(dir).env("HOME", dir);
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    spk(dir).args(args).output().unwrap()
}

/// Both streams on a disk that is full.
#[test]
fn nobody_can_be_told() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("nothing.spk"), "").unwrap();
    for args in [
        &["--help"][..],
        &["keygen", "new.key"],
        &["verify", "nothing.spk"],
        &["unpack", "nothing.spk"],
        &["unpack", "missing.spk"],
        &["listkeys"],
    ] {
        let full = || File::options().write(true).open("/dev/full").unwrap();
        let status = spk(dir.path()).args(args).stdout(full()).stderr(full()).status().unwrap();
        // Help that nobody reads is no failure of clap's.
        let expected = if args == ["--help"] { 0 } else { 1 };
        assert_eq!(status.code(), Some(expected), "{args:?}");
    }
}

#[test]
fn a_key_file_without_a_key_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("empty.key"), "").unwrap();
    let output = run(dir.path(), &["appid", "empty.key"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    assert_eq!(stderr(&output), "spk: empty.key: no key in it\n");
    // A keyring may be empty.
    let output = run(dir.path(), &["-k", "empty.key", "listkeys"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn without_a_keyring_it_says_how_to_get_one() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["listkeys"][..], &["getkey", APP]] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        assert!(said.contains("there is no keyring yet; `spk keygen` makes one"), "{said}");
    }
}

#[test]
fn half_a_definition_is_not_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    // No byte can be written: what a full disk looks like.
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    let program = sandstorm_tests::program("spk");
    let args = ["init", "-p", "8000", "-i", APP, "-A", "-I", ".", "--", "/run"];
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(&program)
        .args(args)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("sandstorm-pkgdef.capnp"), "{}", stderr(&output));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    // So that the next try works.
    let output = run(dir.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
}

/// Calls of `spk` that make something last or give it a name, with the paths that they are about.
fn lasting(dir: &Path, args: &[&str]) -> String {
    let log = tempfile::NamedTempFile::new().unwrap();
    let output = Command::new("strace")
        .args(["-f", "-y", "-qq", "-e", "trace=fsync,fdatasync,rename,renameat,renameat2", "-o"])
        .arg(log.path())
        .arg(sandstorm_tests::program("spk"))
        .args(args)
        .current_dir(dir)
        .env("HOME", dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    fs::read_to_string(log.path()).unwrap()
}

/// A name that a power cut leaves over must stand for the whole file.
#[test]
fn what_has_a_name_is_on_the_disk() {
    if Command::new("strace").arg("-V").output().is_err() {
        sandstorm_tests::skip!("strace is not installed");
    }
    let home = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(home.path()).unwrap();
    fs::create_dir(dir.join("app")).unwrap();
    for (args, name, renamed) in [
        (&["keygen", "new.key"][..], "new.key", false),
        (&["keygen"], ".sandstorm-keyring", true),
        (&["pack", "app", "new.key", "new.spk"], "new.spk", true),
        (&["unpack", "--tar", "new.spk", "new.tar"], "new.tar", true),
    ] {
        let calls = lasting(&dir, args);
        let find = |words: &[String]| {
            calls.lines().position(|line| words.iter().all(|word| line.contains(word.as_str())))
        };
        let file = find(&["sync(".into(), format!("<{}/", dir.display())]);
        let parent = find(&["sync(".into(), format!("<{}>", dir.display())]);
        let rename = find(&["rename".into(), format!("{name}\")")]).or(file.filter(|_| !renamed));
        assert!(file.is_some() && file <= rename && rename < parent, "{args:?}:\n{calls}");
    }
}
