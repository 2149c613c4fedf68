//! `spk` where it cannot write, or where there is nothing to read: a clear status and a line that
//! says what to do, never a panic, never half a file.

mod spk_support;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

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
        assert_eq!(status.code(), Some(1), "{args:?}");
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
    // One that may be written over is not lost by the try.
    let old = fs::read(dir.path().join("sandstorm-pkgdef.capnp")).unwrap();
    let again = [&args[..1], &["-o", "sandstorm-pkgdef.capnp"], &args[1..]].concat();
    let output = Command::new("sh")
        .args(["-c", script])
        .arg(&program)
        .args(&again)
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(fs::read(dir.path().join("sandstorm-pkgdef.capnp")).unwrap(), old);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let output = run(dir.path(), &again);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_ne!(fs::read(dir.path().join("sandstorm-pkgdef.capnp")).unwrap(), old);
}

/// Nothing comes on stdin: somebody forgot the `curl`, or it hangs.
#[test]
fn ctrl_c_ends_a_wait_for_stdin() {
    let dir = tempfile::tempdir().unwrap();
    for args in [&["verify", "-"][..], &["unpack", "-", "out"], &["unpack", "--tar", "-", "t.tar"]]
    {
        let mut child = spk(dir.path())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // What a package begins with. Once it is taken, more is waited for.
        stdin.write_all(&[0x8f, 0xc6, 0xcd, 0xef, 0x45, 0x1a, 0xea, 0x96]).unwrap();
        while rustix::io::ioctl_fionread(&stdin).unwrap() > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        let end = (0..1000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            child.try_wait().unwrap()
        });
        if end.is_none() {
            let _ = child.kill();
        }
        assert_eq!(end.expect("it goes on waiting").code(), Some(130), "{args:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{args:?}");
        drop(stdin);
    }
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
        let rename = find(&["rename".into(), format!("{name}\"")]).or(file.filter(|_| !renamed));
        assert!(file.is_some() && file <= rename && rename < parent, "{args:?}:\n{calls}");
    }
}

/// Names and contents of a directory, which is flat but for empty directories.
fn everything(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap_or_default()))
        .collect();
    all.sort();
    all
}

/// A key, another one in the keyring, a tree, its package and a definition.
fn author() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    for name in ["app", "app/dev", "app/tmp", "app/var"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    fs::write(dir.join("app/sandstorm-manifest"), spk_support::manifest()).unwrap();
    fs::create_dir(dir.join("other")).unwrap();
    for args in [
        &["keygen", "a.key"][..],
        &["-q", "keygen"],
        &["pack", "app", "a.key", "good.spk"],
        &["unpack", "--tar", "good.spk", "tree.tar"],
        &["pack", "tree.tar", "a.key"],
        &["init", "-r", "-i", APP, "-A", "-I", "app", "--", "/run"],
    ] {
        let output = run(dir, args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    }
    home
}

/// The same for a pipe with a name, which nobody has opened to write to.
#[test]
fn a_pipe_is_waited_for_and_read() {
    let home = author();
    let dir = home.path();
    let pipe = dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    for interrupt in [true, false] {
        let mut child = spk(dir)
            .args(["verify", "pipe"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let open = format!("/proc/{}/fd", child.id());
        let opened = (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            let fds = fs::read_dir(&open).unwrap().flatten();
            fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|to| to == pipe)
        });
        if !opened {
            let _ = child.kill();
        }
        assert!(opened, "it waits inside of open");
        if interrupt {
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        } else {
            fs::write(&pipe, fs::read(dir.join("good.spk")).unwrap()).unwrap();
        }
        let code = if interrupt { 130 } else { 0 };
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

/// The disk that is full need not be the one that anybody thinks of.
#[test]
fn a_full_disk_is_named() {
    let author = author();
    let dir = author.path();
    fs::create_dir(dir.join("small")).unwrap();
    let script = "trap '' XFSZ; ulimit -f 0; exec \"$0\" \"$@\"";
    for (args, place) in [
        (&["verify", "good.spk"][..], "small"),
        (&["unpack", "good.spk", "other/new"], "other"),
        (&["unpack", "good.spk", "new"], "."),
    ] {
        let output = Command::new("sh")
            .args(["-c", script])
            .arg(sandstorm_tests::program("spk"))
            .args(args)
            .current_dir(dir)
            .env("TMPDIR", "small")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        let said = stderr(&output);
        let words = format!("good.spk: cannot write the temporary file in {place}: ");
        assert!(said.contains(&words), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    assert_eq!(fs::read_dir(dir.join("other")).unwrap().count(), 0);
    assert!(!dir.join("new").exists());
}

const COMMANDS: usize = 21;

/// Every command that prints, those that make or change something among them.
fn printing(dir: &Path) -> [Vec<String>; COMMANDS] {
    let own = stdout(&run(dir, &["listkeys"])).trim().to_owned();
    [
        "verify good.spk",
        "verify --json good.spk",
        "appid a.key",
        "listkeys",
        &format!("getkey {own}"),
        "--help",
        "--version",
        "pack --help",
        "keygen z.key",
        "keygen y.key z.key",
        "keygen",
        "-k new.ring keygen",
        "pack app a.key z.spk",
        "pack other a.key good.spk",
        "pack tree.tar a.key",
        "unpack good.spk z",
        "unpack --tar good.spk z.tar",
        "unpack --tar good.spk -",
        "init -o - -r -A -I app -- /run",
        "init -o z.capnp -r -A -I app -- /run",
        &format!("init -o z.capnp -r -i {APP} -A -I app -- /run"),
    ]
    .map(|line| line.split(' ').map(str::to_owned).collect())
}

/// The package is good, or the work is done: it is stdout that is full. That is a failure, and a failure
/// leaves nothing behind.
#[test]
fn a_full_stdout_fails_and_leaves_nothing() {
    let home = author();
    let dir = home.path();
    let before = everything(dir);
    for args in printing(dir) {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let output = spk(dir).args(&args).stdout(full).output().unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        let lines: Vec<_> = said.lines().filter(|line| !line.contains("warning:")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("spk: "), "{args:?}: {said}");
        assert!(lines[0].contains("No space left on device"), "{args:?}: {said}");
        assert!(everything(dir) == before, "{args:?}: {:?}", spk_support::names(dir));
    }
}

/// `spk verify FILE | head -1`: whoever left had enough, and the work is done all the same.
#[test]
fn a_reader_that_left_is_no_failure() {
    for number in 0..COMMANDS {
        // Each in a home of its own, whose keyring has another key.
        let home = author();
        let dir = home.path();
        let args = &printing(dir)[number];
        let before = everything(dir);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = spk(dir).args(args).stdout(writer).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        assert!(!stderr(&output).contains("roken pipe"), "{args:?}: {}", stderr(&output));
        let makes =
            ["keygen", "pack", "unpack", "init"].iter().any(|word| args.contains(&(*word).into()));
        let makes = makes && args.last().is_none_or(|word| word != "-" && word != "--help");
        // `pack tree.tar` gives the same bytes again.
        let makes = makes && !(args.len() == 3 && args[1] == "tree.tar");
        assert_eq!(everything(dir) != before, makes, "{args:?}");
        let hidden = |name: &str| name.starts_with('.') && name != ".sandstorm-keyring";
        assert!(!spk_support::names(dir).iter().any(|name| hidden(name)), "{args:?}");
    }
}
