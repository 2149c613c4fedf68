//! `spk` as an author uses it: both forms, keys, limits, what is never overwritten, and what is
//! said when something is wrong.

mod spk_support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use spk_support::*;

/// A directory with a key and the least tree.
struct Author(tempfile::TempDir);

impl Author {
    fn new() -> Author {
        let home = tempfile::tempdir().unwrap();
        for name in ["dev", "tmp", "var"] {
            fs::create_dir_all(home.path().join("app").join(name)).unwrap();
        }
        fs::write(home.path().join("app/sandstorm-manifest"), manifest()).unwrap();
        let author = Author(home);
        author.ok(&["keygen", "key"]);
        author
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        Command::new(sandstorm_tests::program("spk"))
            .args(args)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    /// Refused with exit 1 (2 for usage), one line, these words, and nothing new.
    fn refused(&self, args: &[&str], code: i32, words: &str) {
        let before = names(self.0.path());
        let output = self.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        if code == 1 {
            let lines = said.lines().filter(|line| !line.contains("warning:")).count();
            assert_eq!(lines, 1, "{args:?}: {said}");
        }
        assert_eq!(names(self.0.path()), before, "{args:?}");
    }
}

fn set_mtime(path: &Path, seconds: i64, nanos: u32) {
    let time = nix::sys::time::TimeSpec::new(seconds, nanos.into());
    nix::sys::stat::utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        nix::sys::stat::UtimensatFlags::NoFollowSymlink,
    )
    .unwrap();
}

fn sparse(path: &Path, size: u64) {
    fs::File::create(path).unwrap().set_len(size).unwrap();
}

#[test]
fn the_2014_form_from_key_to_tree() {
    let author = Author::new();
    let id = author.ok(&["appid", "-o", "key"]).trim().to_owned();
    assert_eq!(id.len(), 52);
    assert_eq!(author.ok(&["appid", "key"]), format!("{id} key\n"));
    fs::write(author.path("app/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(author.path("app/run"), PermissionsExt::from_mode(0o700)).unwrap();
    fs::write(author.path("app/old"), "x").unwrap();
    set_mtime(&author.path("app/old"), -3600, 250_000_000);
    symlink("/nowhere", author.path("app/dangling")).unwrap();

    assert_eq!(author.ok(&["pack", "app", "key"]), format!("{id} app.spk\n"));
    assert_eq!(author.ok(&["pack", "app/", "key", "b.spk"]), format!("{id} b.spk\n"));
    assert_eq!(fs::read(author.path("app.spk")).unwrap(), fs::read(author.path("b.spk")).unwrap());
    assert!(author.ok(&["verify", "b.spk"]).contains(&id));
    let json: serde_json::Value =
        serde_json::from_str(&author.ok(&["verify", "--json", "b.spk"])).unwrap();
    assert_eq!(json["title"]["defaultText"], "Test");

    assert_eq!(author.ok(&["unpack", "b.spk"]), format!("{id}\n"));
    assert_eq!(author.ok(&["unpack", "b.spk", "c"]), format!("{id}\n"));
    let meta = author.path("b/old").metadata().unwrap();
    let mtime = (SystemTime::UNIX_EPOCH - Duration::from_secs(3600)) + Duration::from_millis(250);
    assert_eq!(meta.modified().unwrap(), mtime);
    assert_eq!(meta.accessed().unwrap(), mtime);
    let mode = |name: &str| author.path(name).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("b/run"), mode("b/old"), mode("b/var"), mode("b")),
        (0o755, 0o644, 0o755, 0o755)
    );
    assert_eq!(fs::read_link(author.path("b/dangling")).unwrap(), Path::new("/nowhere"));
    // Packed again, the same: nothing but modes beyond owner-x was lost.
    author.ok(&["pack", "b", "key", "again.spk"]);
    assert_eq!(
        fs::read(author.path("again.spk")).unwrap(),
        fs::read(author.path("app.spk")).unwrap()
    );
    author.refused(&["unpack", "b.spk"], 1, "b: File exists");
    symlink("nothing", author.path("link")).unwrap();
    author.refused(&["unpack", "b.spk", "link"], 1, "link: File exists");
}

#[test]
fn a_tight_umask_changes_nothing() {
    let author = Author::new();
    author.ok(&["pack", "app", "key"]);
    let spk = sandstorm_tests::program("spk");
    let script = format!("umask 077; exec {} unpack app.spk out", spk.display());
    let status = Command::new("sh").args(["-c", &script]).current_dir(author.0.path()).status();
    assert!(status.unwrap().success());
    for (name, mode) in [("out", 0o755), ("out/var", 0o755), ("out/sandstorm-manifest", 0o644)] {
        let found = author.path(name).metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(found, mode, "{name}");
    }
}

#[test]
fn keys_are_never_overwritten_and_never_packed() {
    let author = Author::new();
    let key = fs::read(author.path("key")).unwrap();
    assert_eq!(key.len(), 128);
    assert_eq!(author.path("key").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    author.refused(&["keygen", "key"], 1, "never overwritten");
    author.refused(&["pack", "app", "key", "key"], 1, "something else is there");
    author.refused(&["pack", "app", "key", "app/sandstorm-manifest"], 1, "something else is there");
    author.refused(&["init", "-r", "-o", "key", "--", "/x"], 1, "something else is there");
    assert_eq!(fs::read(author.path("key")).unwrap(), key);
    for copy in ["secret.key", "etc/backup"] {
        fs::create_dir_all(author.path("app/etc")).unwrap();
        fs::copy(author.path("key"), author.path("app").join(copy)).unwrap();
        author.refused(&["pack", "app", "key"], 1, &format!("{copy}: a signing key is in it"));
        fs::remove_file(author.path("app").join(copy)).unwrap();
    }
    // Two keys in one file, a backup, an image of a disk.
    author.ok(&["keygen", "other"]);
    let other = fs::read(author.path("other")).unwrap();
    let ring = [&other[..], &key].concat();
    let image = [&vec![7; 300_001][..], &key, b"more"].concat();
    for (copy, bytes) in [("ring", ring), ("etc/image", image)] {
        fs::write(author.path("app").join(copy), bytes).unwrap();
        author.refused(&["pack", "app", "key"], 1, &format!("{copy}: a signing key is in it"));
        fs::remove_file(author.path("app").join(copy)).unwrap();
    }
    fs::hard_link(author.path("key"), author.path("app/k")).unwrap();
    author.refused(&["pack", "app", "app/k"], 1, "k: a signing key is in it");
    fs::remove_file(author.path("app/k")).unwrap();
    // A package may replace a package, an empty file or nothing.
    fs::write(author.path("app.spk"), "").unwrap();
    author.ok(&["pack", "app", "key"]);
    author.ok(&["pack", "app", "key"]);
    author.refused(&["unpack", "key", "x"], 1, "not a package");
    author.refused(&["pack", "app", "app.spk"], 1, "not a key file");
    fs::write(author.path("two"), [&key[..], &key].concat()).unwrap();
    author.refused(&["pack", "app", "two"], 1, "several keys");
}

#[test]
fn one_byte_past_a_limit_is_refused_by_name() {
    let author = Author::new();
    sparse(&author.path("app/big"), 1 << 29);
    author.refused(&["pack", "app", "key"], 1, "big: a file of 536870912 bytes");
    // The least tree: what the layout needs beside two files.
    for (name, size) in [("big", (1 << 29) - 1), ("bigger", (1 << 29) - 8)] {
        sparse(&author.path("app").join(name), size);
    }
    author.refused(&["pack", "app", "key"], 1, "the format allows 1073741824");
    let said = stderr(&author.run(&["pack", "app", "key"]));
    assert!(
        said.contains("sandstorm-manifest: with it") || said.contains("bigger: with it"),
        "{said}"
    );
    fs::remove_file(author.path("app/big")).unwrap();
    fs::remove_file(author.path("app/bigger")).unwrap();

    let deep = |levels: usize| {
        let _ = fs::remove_dir_all(author.path("app/d"));
        fs::create_dir_all(author.path("app").join(vec!["d"; levels].join("/"))).unwrap();
    };
    deep(64);
    author.refused(&["pack", "app", "key"], 1, "d/d: more than 63 directories deep");
    deep(70);
    author.refused(&["pack", "app", "key"], 1, "more than 63 directories deep");
    for levels in [60, 63] {
        deep(levels);
        author.ok(&["pack", "app", "key"]);
        author.ok(&["verify", "app.spk"]);
        author.ok(&["unpack", "app.spk", "deep"]);
        assert!(author.path("deep").join(vec!["d"; levels].join("/")).is_dir());
        fs::remove_dir_all(author.path("deep")).unwrap();
    }
}

#[test]
fn the_archive_may_have_exactly_a_gibibyte() {
    // The refusal comes from the layout, before a byte is read. It tells how far the tree was over
    // the limit at the entry that crossed it; so shrink until nothing is said.
    let author = Author::new();
    sparse(&author.path("app/a"), (1 << 29) - 8);
    let start = |size: u64| {
        sparse(&author.path("app/b"), size);
        Command::new(sandstorm_tests::program("spk"))
            .args(["pack", "app", "key"])
            .current_dir(author.0.path())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let over = |size: u64| {
        let mut child = start(size);
        for _ in 0..100 {
            if child.try_wait().unwrap().is_some() {
                let said = stderr(&child.wait_with_output().unwrap());
                let (_, rest) = said.split_once("the archive has ").unwrap();
                let total: u64 = rest.split(' ').next().unwrap().parse().unwrap();
                return Some(total - (1 << 30));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for left in names(author.0.path()).iter().filter(|name| name.starts_with('.')) {
            fs::remove_file(author.path(left)).unwrap();
        }
        None
    };
    let mut fits = (1 << 29) - 8;
    while let Some(over) = over(fits) {
        fits -= over;
    }
    // One byte more takes a whole word more.
    assert_eq!(over(fits + 1), Some(8));
    let mut child = start(fits);
    // It fits: packing begins. Not waited for; interrupted, it leaves nothing.
    std::thread::sleep(Duration::from_millis(1500));
    if child.try_wait().unwrap().is_some() {
        panic!("it ended early: {}", stderr(&child.wait_with_output().unwrap()));
    }
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(author.0.path()), ["app", "key"]);
}

#[test]
fn odd_files_become_empty_ones_with_a_warning() {
    let author = Author::new();
    nix::unistd::mkfifo(&author.path("app/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(author.path("app/socket")).unwrap();
    let output = author.run(&["pack", "app", "key"]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.contains("warning: pipe: a named pipe, packed as an empty file"), "{said}");
    assert!(said.contains("warning: socket: a socket, packed as an empty file"), "{said}");
    author.ok(&["unpack", "app.spk", "out"]);
    for name in ["out/pipe", "out/socket"] {
        let meta = author.path(name).symlink_metadata().unwrap();
        assert!(meta.is_file() && meta.len() == 0, "{name}");
        assert_eq!(meta.permissions().mode() & 0o777, 0o644);
    }
}

#[test]
fn what_a_server_will_miss_is_told() {
    let author = Author::new();
    fs::remove_file(author.path("app/sandstorm-manifest")).unwrap();
    fs::remove_dir(author.path("app/var")).unwrap();
    let output = author.run(&["pack", "app", "key"]);
    assert!(output.status.success());
    let said = stderr(&output);
    assert!(said.contains("sandstorm-manifest: missing"), "{said}");
    assert!(said.contains("no directory `var`"), "{said}");
    author.refused(&["verify", "app.spk"], 1, "*** app.spk: sandstorm-manifest: missing");
    author.ok(&["unpack", "app.spk", "out"]);

    // A manifest that is one, yet of no use.
    for (text, words) in [
        ("()", "no actions"),
        ("(actions = [(title = (defaultText = \"x\"))])", "actions[0] has an empty command"),
        ("(actions = [(command = (argv = [\"/x\"]))])", "continueCommand is empty"),
        ("(minApiVersion = 1, maxApiVersion = 1)", "minApiVersion is 1, servers have 0"),
        ("(minApiVersion = 2, maxApiVersion = 1)", "minApiVersion is greater than maxApiVersion"),
    ] {
        fs::write(author.path("app/sandstorm-manifest"), encoded(text)).unwrap();
        let said = stderr(&author.run(&["pack", "app", "key"]));
        assert!(said.contains(words), "{text}: {said}");
    }
    let good = "(actions = [(command = (deprecatedExecutablePath = \"/x\"))], \
                continueCommand = (argv = [\"/x\"]))";
    fs::write(author.path("app/sandstorm-manifest"), encoded(good)).unwrap();
    fs::create_dir(author.path("app/var")).unwrap();
    assert_eq!(stderr(&author.run(&["pack", "app", "key"])), "");
}

/// A manifest from its text.
fn encoded(text: &str) -> Vec<u8> {
    use std::io::Write;
    let schema = sandstorm_tests::top().join("schema");
    let mut child = Command::new("capnp")
        .args(["encode", "-I"])
        .arg(&schema)
        .arg(schema.join("sandstorm/package.capnp"))
        .arg("Manifest")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    output.stdout
}

#[test]
fn the_output_is_named_after_the_directory_however_it_is_written() {
    let author = Author::new();
    for name in ["app", "app/", "app//", "app/.", "./app", "./app/."] {
        let said = author.ok(&["pack", name, "key"]);
        assert!(said.trim_end().ends_with("app.spk"), "{name}: {said}");
        assert_eq!(names(author.0.path()), ["app", "app.spk", "key"], "{name}");
        assert_eq!(names(&author.path("app")), ["dev", "sandstorm-manifest", "tmp", "var"]);
        fs::remove_file(author.path("app.spk")).unwrap();
    }
    // From inside, it goes beside the tree and not into it.
    let inside = Command::new(sandstorm_tests::program("spk"))
        .args(["pack", ".", "../key"])
        .current_dir(author.path("app"))
        .output()
        .unwrap();
    assert!(inside.status.success(), "{}", stderr(&inside));
    assert_eq!(names(author.0.path()), ["app", "app.spk", "key"]);
    assert_eq!(names(&author.path("app")), ["dev", "sandstorm-manifest", "tmp", "var"]);
    author.refused(&["pack", "app", "key", "-"], 2, "not to stdout");
    author.refused(&["pack", "-"], 2, "not to stdout");
}

#[test]
fn what_is_refused_is_no_usage_error() {
    let author = Author::new();
    fs::create_dir(author.path("there")).unwrap();
    fs::write(author.path("text"), "text").unwrap();
    author.refused(&["pack", "app", "key", "there"], 1, "there: a directory");
    author.refused(&["pack", "text", "key"], 1, "text: not a tar file");
    // All the names or none.
    author.refused(&["keygen", "a", "a"], 2, "a: named twice");
    author.refused(&["keygen", "a", "key"], 1, "key: it exists");
    // A tar file that was not copied to its end.
    fs::write(author.path("app/f"), vec![1; 100_000]).unwrap();
    let done = Command::new("tar")
        .args(["-cf", "t.tar", "app"])
        .current_dir(author.0.path())
        .status()
        .unwrap();
    assert!(done.success());
    let mut tar = fs::read(author.path("t.tar")).unwrap();
    tar.truncate(60_000);
    fs::write(author.path("t.tar"), tar).unwrap();
    author.refused(&["pack", "t.tar", "key"], 1, "the tar file ends in the middle of it");
}

#[test]
fn a_tree_that_changes_is_noticed() {
    let author = Author::new();
    fs::write(author.path("app/f"), vec![1; 64 << 20]).unwrap();
    let spk = sandstorm_tests::program("spk");
    let mut child = Command::new(spk)
        .args(["pack", "app", "key"])
        .current_dir(author.0.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Somebody keeps writing to it, and keeps its time stamp where it was.
    let mtime = author.path("app/f").metadata().unwrap().modified().unwrap();
    let file = fs::File::options().write(true).open(author.path("app/f")).unwrap();
    let mut count = 0u32;
    while child.try_wait().unwrap().is_none() {
        // Other bytes each time: what is the same in both passes is no change.
        count += 1;
        std::os::unix::fs::FileExt::write_at(&file, &count.to_le_bytes(), 5).unwrap();
        file.set_modified(mtime).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("f: it changed while it was packed"), "{}", stderr(&output));
    assert_eq!(names(author.0.path()), ["app", "key"]);
}

#[test]
fn two_packs_of_hard_linked_trees_do_not_disturb_each_other() {
    // Recipes share their files by hard links; making and removing those changes the inode's time.
    let author = Author::new();
    fs::write(author.path("app/f"), vec![1; 32 << 20]).unwrap();
    let start = |out: &str| {
        Command::new(sandstorm_tests::program("spk"))
            .args(["pack", "app", "key", out])
            .current_dir(author.0.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut children = [start("one.spk"), start("two.spk")];
    let mut links = 0;
    while children.iter_mut().any(|child| child.try_wait().unwrap().is_none()) {
        fs::hard_link(author.path("app/f"), author.path("link")).unwrap();
        fs::remove_file(author.path("link")).unwrap();
        links += 1;
    }
    assert!(links > 10, "{links}");
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    assert!(fs::read(author.path("one.spk")).unwrap() == fs::read(author.path("two.spk")).unwrap());
}

#[test]
fn the_package_does_not_contain_itself() {
    let author = Author::new();
    author.ok(&["pack", "app", "key", "app/out.spk"]);
    let first = fs::read(author.path("app/out.spk")).unwrap();
    let output = author.run(&["pack", "app", "key", "app/out.spk"]);
    assert!(output.status.success());
    assert!(stderr(&output).contains("out.spk: the package itself, left out"));
    assert!(fs::read(author.path("app/out.spk")).unwrap() == first);
}

#[test]
fn tar_files_in_and_out() {
    let author = Author::new();
    fs::write(author.path("app/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(author.path("app/run"), PermissionsExt::from_mode(0o755)).unwrap();
    set_mtime(&author.path("app/run"), -7, 500_000_000);
    symlink("run", author.path("app/link")).unwrap();
    let long = ["n".repeat(200), "m".repeat(255)].join("/");
    fs::create_dir_all(author.path("app").join("n".repeat(200))).unwrap();
    fs::write(author.path("app").join(&long), "long").unwrap();
    symlink("t".repeat(300), author.path("app/far")).unwrap();
    author.ok(&["pack", "app", "key"]);

    // Ours and the system's tar file give the same package; so does one of the other kind.
    author.ok(&["unpack", "--tar", "app.spk"]);
    author.ok(&["pack", "app.tar", "key", "ours.spk"]);
    assert_eq!(
        fs::read(author.path("ours.spk")).unwrap(),
        fs::read(author.path("app.spk")).unwrap()
    );
    for format in ["posix", "pax"] {
        let status = Command::new("tar")
            .arg(format!("--format={format}"))
            .args(["-C", "app", "-cf", "sys.tar", "."])
            .current_dir(author.0.path())
            .status()
            .unwrap();
        assert!(status.success());
        author.ok(&["pack", "sys.tar", "key", "sys.spk"]);
        assert_eq!(
            fs::read(author.path("sys.spk")).unwrap(),
            fs::read(author.path("app.spk")).unwrap(),
            "{format}"
        );
    }
    // GNU's own format keeps whole seconds.
    let status = Command::new("tar")
        .args(["--format=gnu", "-C", "app", "-cf", "gnu.tar", "."])
        .current_dir(author.0.path())
        .status()
        .unwrap();
    assert!(status.success());
    author.ok(&["pack", "gnu.tar", "key"]);
    author.ok(&["unpack", "gnu.spk", "gnu"]);
    assert_eq!(fs::read(author.path("gnu").join(&long)).unwrap(), b"long");

    // The system's tar reads ours.
    fs::create_dir(author.path("x")).unwrap();
    let status = Command::new("tar")
        .args(["-C", "x", "-xf", "app.tar"])
        .current_dir(author.0.path())
        .status()
        .unwrap();
    assert!(status.success());
    author.ok(&["pack", "x", "key", "x.spk"]);
    assert_eq!(fs::read(author.path("x.spk")).unwrap(), fs::read(author.path("app.spk")).unwrap());

    let stdout = author.run(&["unpack", "--tar", "app.spk", "-"]).stdout;
    assert_eq!(stdout, fs::read(author.path("app.tar")).unwrap());
    author.refused(&["unpack", "--tar", "app.spk"], 1, "app.tar: it exists");

    for (bytes, words) in [
        (b"\x1f\x8b\x08\0\0\0\0\0".to_vec(), "gzip -d"),
        (b"this is no tar file".repeat(100), "not a tar file"),
        (vec![], "not a tar file"),
    ] {
        fs::write(author.path("bad.tar"), bytes).unwrap();
        author.refused(&["pack", "bad.tar", "key"], 1, words);
    }
}

#[test]
fn hostile_tar_files() {
    // Name, type, link: what they try, and what is said.
    let author = Author::new();
    let block = |name: &str, kind: u8, link: &str| {
        let mut block = vec![0u8; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[100..107].copy_from_slice(b"0000644");
        block[124..135].copy_from_slice(b"00000000000");
        block[136..147].copy_from_slice(b"00000000000");
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar  \0");
        block[483..494].copy_from_slice(b"00000000000");
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    };
    let tar = |blocks: &[Vec<u8>]| [blocks.concat(), vec![0; 1024]].concat();
    for (blocks, words) in [
        (vec![block("a/../../b", b'0', "")], "a/../../b: the name `.` or `..`"),
        (vec![block("l", b'2', "/etc"), block("l/passwd", b'0', "")], "l/passwd: it stands below"),
        (vec![block("h", b'1', "nowhere")], "h: a hard link to nowhere"),
        (vec![block("l", b'2', "")], "l: a symbolic link without a target"),
        (vec![block("d", b'5', ""), block("d", b'0', "")], "d: a directory of this name"),
        (vec![block("q", b'Q', "")], "q: of unknown kind 'Q'"),
        (vec![block(&["d"; 48].join("/"), b'5', ""), block("s", b'S', "")], "s: a sparse file"),
    ] {
        fs::write(author.path("t.tar"), tar(&blocks)).unwrap();
        author.refused(&["pack", "t.tar", "key"], 1, words);
    }
    let good = [block("/abs", b'0', ""), block("abs2", b'1', "abs"), block("./x/./y", b'0', "")];
    fs::write(author.path("t.tar"), tar(&good)).unwrap();
    author.ok(&["pack", "t.tar", "key"]);
    author.ok(&["unpack", "t.spk", "out"]);
    assert_eq!(names(&author.path("out")), ["abs", "abs2", "x"]);
}

#[test]
fn keyrings_of_today() {
    let author = Author::new();
    author.refused(&["listkeys"], 1, ".sandstorm-keyring");
    let first = author.ok(&["keygen"]).trim().to_owned();
    let second = author.ok(&["-q", "keygen"]).trim().to_owned();
    assert_eq!(author.ok(&["listkeys"]), format!("{first}\n{second}\n"));
    let ring = author.path(".sandstorm-keyring");
    assert_eq!(ring.metadata().unwrap().len(), 256);
    assert_eq!(ring.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let output = author.run(&["getkey", &second]);
    assert_eq!(output.stdout, fs::read(&ring).unwrap()[128..]);
    fs::write(author.path("one"), &output.stdout).unwrap();
    assert_eq!(author.ok(&["-k", "one", "listkeys"]), format!("{second}\n"));
    assert_eq!(author.ok(&["listkeys", "--keyring", "one"]), format!("{second}\n"));
    // 2014's file is a keyring, and the other way round.
    assert_eq!(author.ok(&["pack", "app", "one"]), format!("{second} app.spk\n"));
    author.refused(&["getkey", "nonsense"], 2, "an app id is 52 characters");
    author.refused(&["getkey", APP], 1, "no key for app");
    let warned = stderr(&author.run(&["keygen"]));
    assert!(warned.contains("keep a copy"), "{warned}");
    // Replaced keys are named by a warning.
    let paperwork = "vxe8awcxvtj6yu0vgjpm1tsaeu7x8v8tfp71tyvnm6ykkephu9q0";
    let said = stderr(&author.run(&["getkey", paperwork]));
    assert!(said.contains("n8cn71407n4mezn7mg0k5kkm21juuphhecc24hdf9kf56zyxm4ah"), "{said}");
}

#[test]
fn help_teaches() {
    let author = Author::new();
    for args in [&["--help"][..], &["pack", "--help"], &["init", "--help"], &["unpack", "--help"]] {
        let text = author.ok(args);
        assert!(text.contains("spk ") && text.lines().count() > 8, "{args:?}: {text}");
    }
    let words = author.ok(&["pack", "--help"]);
    assert!(words.contains("TREE.spk") && words.contains("is replaced"), "{words}");
    author.refused(&[], 2, "Usage");
    author.refused(&["pack", "a", "b", "c", "d"], 2, "unexpected");
    author.refused(&["pack", "app"], 2, "name the key too");
    author.refused(&["unpack", "-"], 2, "name the target");
    author.refused(&["unpack", "nothing.spk"], 1, "nothing.spk: cannot open it");
}
