//! Packages from a definition: `init`, source map, file list, bridge, key replacement, and the
//! author's PGP statement.

mod spk_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use spk_support::*;

/// An installation of `spk` with its schemas and a bridge, and an app's sources beside it.
struct Author {
    home: tempfile::TempDir,
}

impl Author {
    fn new() -> Author {
        let home = tempfile::tempdir().unwrap();
        let bin = home.path().join("inst/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["spk", "legacy-bridge"] {
            fs::copy(sandstorm_tests::program(name), bin.join(name)).unwrap();
        }
        symlink(sandstorm_tests::top().join("schema"), home.path().join("inst/include")).unwrap();
        fs::create_dir_all(home.path().join("app/src/lib")).unwrap();
        fs::create_dir(home.path().join("tmp")).unwrap();
        let author = Author { home };
        author.write("src/start.sh", "#!/bin/sh\n");
        author.write("src/lib/a.so", "a");
        symlink("lib", author.path("src/lib64")).unwrap();
        author
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join("app").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.home.path().join("inst/bin/spk"))
            .args(args)
            .current_dir(self.path(""))
            .env("HOME", self.home.path())
            .env("TMPDIR", self.home.path().join("tmp"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        stdout(&output)
    }

    fn refused(&self, args: &[&str], words: &str) {
        let before = names(&self.path(""));
        let output = self.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "{args:?}: {said}");
        assert_eq!(names(&self.path("")), before, "{args:?}");
    }

    /// Paths in a package, directories with a slash.
    fn entries(&self, package: &str) -> Vec<String> {
        let tar = self.run(&["unpack", "--tar", package, "-"]);
        assert!(tar.status.success(), "{}", stderr(&tar));
        fs::write(self.path("entries.tar"), tar.stdout).unwrap();
        let list = Command::new("tar").arg("-tf").arg(self.path("entries.tar")).output().unwrap();
        let text = String::from_utf8(list.stdout).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// A definition with a raw app, and these sources.
    fn definition(&self, sources: &str) {
        let id = self.ok(&["-q", "keygen"]);
        self.write(
            "d.capnp",
            &format!(
                "@0xd0d0d0d0d0d0d0d0;\nusing Spk = import \"/sandstorm/package.capnp\";\n\
                 const pkgdef :Spk.PackageDefinition = (id = \"{}\", manifest = (\n\
                 appTitle = (defaultText = \"T\"), appMarketingVersion = (defaultText = \"1\"),\n\
                 continueCommand = (argv = [\"/start.sh\"])), {sources});\n",
                id.trim()
            ),
        );
    }

    fn pack(&self) -> String {
        self.ok(&["pack", "-p", "d.capnp:pkgdef", "d.spk"])
    }

    fn pack_refused(&self, words: &str) {
        self.refused(&["pack", "-p", "d.capnp:pkgdef", "new.spk"], words);
    }
}

/// What every package has.
const ALWAYS: [&str; 6] = ["dev/", "proc/", "proc/cpuinfo", "sandstorm-manifest", "tmp/", "var/"];

fn expect(found: &[String], more: &[&str]) {
    let mut wanted: Vec<&str> = ALWAYS.iter().chain(more).copied().collect();
    let mut found: Vec<&str> = found.iter().map(String::as_str).collect();
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted);
}

#[test]
fn init_writes_what_pack_reads() {
    let author = Author::new();
    let said =
        author.ok(&["init", "-p", "8000", "-A", "-I", "src", "--", "/start.sh", "say \"a\\b\""]);
    assert_eq!(said, "wrote: sandstorm-pkgdef.capnp\n");
    let id = author.ok(&["listkeys"]);
    assert_eq!(author.ok(&["pack", "app.spk"]), id);
    let first = fs::read(author.path("app.spk")).unwrap();
    let bridge = ["sandstorm-http-bridge", "sandstorm-http-bridge-config"];
    let own = ["lib/", "lib/a.so", "lib64", "start.sh"];
    expect(&author.entries("app.spk"), &[&bridge[..], &own].concat());
    author.ok(&["unpack", "app.spk"]);
    assert_eq!(
        fs::read(author.path("app/sandstorm-http-bridge")).unwrap(),
        fs::read(sandstorm_tests::program("legacy-bridge")).unwrap()
    );
    // Another day the same bytes.
    author.ok(&["pack", "app.spk"]);
    assert!(fs::read(author.path("app.spk")).unwrap() == first);

    let json: serde_json::Value =
        serde_json::from_str(&author.ok(&["verify", "--json", "app.spk"])).unwrap();
    assert_eq!(json["appId"], id.trim());
    assert_eq!(json["marketingVersion"]["defaultText"], "0.0.0");
    let argv = manifest_text(&author, "app/sandstorm-manifest");
    assert!(
        argv.contains(
            r#"argv = ["/sandstorm-http-bridge", "8000", "--", "/start.sh", "say \"a\\b\""]"#
        ),
        "{argv}"
    );
    assert!(argv.contains(r#"(key = "SANDSTORM", value = "1")"#), "{argv}");

    // Never over the default name; no key is made for nothing.
    author.refused(&["init", "-r", "--", "/x"], "it exists");
    assert_eq!(author.ok(&["listkeys"]), id);
    // Other forms of it, each readable.
    for (args, parts) in [
        (
            &["-r", "-i", APP, "--", "/my app"][..],
            &["argv = [\"/my app\"]", APP, "sourcePath = \"/\""][..],
        ),
        (
            &["-p", "8001", "-I", "a", "-I", "b", "--", "/x"],
            &["sourcePath = \"a\"", "sourcePath = \"b\""],
        ),
        (&["-r", "-A", "-I", "src", "--", "/x"], &["alwaysInclude = [\".\"]"]),
    ] {
        let text = author.ok(&[&["init", "-q", "-o", "-"], args].concat());
        author.write("other.capnp", &text);
        let evaluated = Command::new("capnp")
            .args(["eval", "-I"])
            .arg(sandstorm_tests::top().join("schema"))
            .arg(author.path("other.capnp"))
            .arg("pkgdef")
            .output()
            .unwrap();
        assert!(evaluated.status.success(), "{}\n{text}", stderr(&evaluated));
        let evaluated = stdout(&evaluated).split_whitespace().collect::<Vec<_>>().join(" ");
        for part in parts {
            assert!(evaluated.contains(part), "{part}: {evaluated}");
        }
    }
    for args in [
        &["-p", "80", "--", "/x"][..],
        &["-A", "-r", "--", "/x"],
        &["-p", "8000", "-r", "--", "/x"],
    ] {
        assert_eq!(
            author.run(&[&["init", "-o", "x"], args].concat()).status.code(),
            Some(2),
            "{args:?}"
        );
    }
}

fn manifest_text(author: &Author, name: &str) -> String {
    let output = Command::new("capnp")
        .args(["decode", "-I"])
        .arg(sandstorm_tests::top().join("schema"))
        .arg(sandstorm_tests::top().join("schema/sandstorm/package.capnp"))
        .arg("Manifest")
        .stdin(fs::File::open(author.path(name)).unwrap())
        .output()
        .unwrap();
    stdout(&output).split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn file_lists() {
    let author = Author::new();
    author.definition("sourceMap = (searchPath = [(sourcePath = \"src\")]), fileList = \"files\"");
    author.pack_refused("files: the file list is missing");
    author.write("files", "# a comment\n  start.sh   # spaces\n\nlib\nlib64\n");
    author.pack();
    // A directory adds only itself, a link stays one.
    expect(&author.entries("d.spk"), &["lib/", "lib64", "start.sh"]);
    author.write("files", "lib/a.so\nsandstorm-manifest\nproc/cpuinfo\nvar\n");
    author.pack();
    expect(&author.entries("d.spk"), &["lib/", "lib/a.so"]);
    for (list, words) in [
        ("/start.sh", "/start.sh: paths in a package are written without a leading slash"),
        ("nothing", "nothing: not found in the source map"),
        ("../app/src/start.sh", "the name `.` or `..` is not allowed"),
        // A link and something below it: refused by name, whatever the order.
        ("lib64\nlib64/a.so", "lib64/a.so: cannot be packed, for lib64 is a link"),
        ("lib64/a.so\nlib64", "lib64: listed both as a file or link and as a directory"),
        ("start.sh\nstart.sh/x", "start.sh/x: not found"),
    ] {
        author.write("files", list);
        author.pack_refused(words);
    }
}

#[test]
fn source_maps() {
    let author = Author::new();
    author.write("over/start.sh", "over");
    author.write("over/new", "new");
    author.write("over/lib/b.so", "b");
    author.write("over/home/secret", "secret");
    author.write("over/homework", "homework");
    author.write("src/dev/null", "not for packages");
    author.write("data/x/y", "y");
    author.write("single", "one file");
    symlink("data", author.path("linked")).unwrap();
    author.definition(
        "sourceMap = (searchPath = [\
         (packagePath = \"opt/one\", sourcePath = \"single\"),\
         (packagePath = \"opt/data\", sourcePath = \"linked\"),\
         (sourcePath = \"over\", hidePaths = [\"home\", \"lib/none\"]), (sourcePath = \"src\")]),\
         alwaysInclude = [\".\"]",
    );
    author.pack();
    expect(
        &author.entries("d.spk"),
        &[
            "homework",
            "lib/",
            "lib/a.so",
            "lib/b.so",
            "lib64",
            "new",
            "opt/",
            "opt/data/",
            "opt/data/x/",
            "opt/data/x/y",
            "opt/one",
            "start.sh",
        ],
    );
    author.ok(&["unpack", "d.spk"]);
    assert_eq!(fs::read(author.path("d/start.sh")).unwrap(), b"over");
    assert_eq!(fs::read(author.path("d/opt/one")).unwrap(), b"one file");

    // Relative sources are against the definition's file, the list against where we stand.
    author.write("deep/list", "start.sh\n");
    let text = fs::read_to_string(author.path("d.capnp")).unwrap();
    author.write(
        "deep/d.capnp",
        &text
            .replace("\"src\"", "\"../src\"")
            .replace("alwaysInclude = [\".\"]", "fileList = \"deep/list\""),
    );
    author.ok(&["pack", "-p", "deep/d.capnp:pkgdef", "deep.spk"]);
    expect(&author.entries("deep.spk"), &["start.sh"]);

    author.definition(
        "sourceMap = (searchPath = [(sourcePath = \"over\")]), alwaysInclude = [\"lib\", \"nope\"]",
    );
    author.pack_refused("nope: not found in the source map");
    author.definition("alwaysInclude = [\"x\"]");
    author.pack_refused("which is empty");
    // A slip of the pen packs no empty app.
    author.definition(
        "sourceMap = (searchPath = [(sourcePath = \"typo\")]), alwaysInclude = [\".\"]",
    );
    author.pack_refused("sourceMap: no such file or directory: typo");
    author.definition(
        "sourceMap = (searchPath = [(sourcePath = \"typo\"), (sourcePath = \"src\")]), \
         alwaysInclude = [\".\"]",
    );
    let said = stderr(&author.run(&["pack", "-p", "d.capnp:pkgdef", "d.spk"]));
    assert!(said.contains("typo: no such file or directory, skipped"), "{said}");
    let said = stderr(&author.run(&["init", "-r", "-o", "-", "-I", "typo", "--", "/x"]));
    assert!(said.contains("typo: no such directory yet"), "{said}");
}

#[test]
fn mistakes_in_a_definition() {
    let author = Author::new();
    author.refused(&["pack", "new.spk"], "`spk init` writes one");
    author.definition("alwaysInclude = []");
    let good = fs::read_to_string(author.path("d.capnp")).unwrap();
    author.pack();
    for (from, to, words) in [
        ("appTitle = (defaultText = \"T\"), ", "", "appTitle is missing"),
        ("appMarketingVersion = (defaultText = \"1\"),", "", "appMarketingVersion is missing"),
        ("appTitle", "maxApiVersion = 1, appTitle", "maxApiVersion is greater than 0"),
        ("appTitle", "minApiVersion = 1, appTitle", "minApiVersion is greater than maxApiVersion"),
        (
            "appTitle",
            "metadata = (website = \"ftp://x\"), appTitle",
            "website must begin with http",
        ),
        ("appTitle", "appTitel = 1, appTitle", "appTitel"),
        ("id = \"", "id = \"x", "is no app id"),
        ("/sandstorm/package.capnp", "/sandstorm/nothing.capnp", "their directory with -I"),
    ] {
        author.write("d.capnp", &good.replacen(from, to, 1));
        author.pack_refused(words);
    }
    author.write("d.capnp", &good);
    author.refused(
        &["pack", "-p", "d.capnp:other", "new.spk"],
        "d.capnp: there is no constant `other`",
    );
    // Another app's key.
    author.write("d.capnp", &good.replace(author.ok(&["listkeys"]).trim(), APP));
    author.pack_refused("no key for app");
    // Without the bridge beside us there is none to pack.
    author.write("d.capnp", &good.replace("\"/start.sh\"", "\"./sandstorm-http-bridge\""));
    author.pack();
    assert!(author.entries("d.spk").contains(&"sandstorm-http-bridge".to_owned()));
    fs::remove_file(author.home.path().join("inst/bin/legacy-bridge")).unwrap();
    author.pack_refused("no program");
}

#[test]
fn the_authors_pgp_statement() {
    if !PathBuf::from("/usr/bin/gpg").exists() {
        sandstorm_tests::skip!("gpg is not installed");
    }
    let author = Author::new();
    let gpg = author.path("gnupg");
    fs::create_dir(&gpg).unwrap();
    fs::set_permissions(&gpg, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let run = |args: &[&str], input: &str| {
        use std::io::Write;
        let mut child = Command::new("gpg")
            .args(["--homedir", gpg.to_str().unwrap(), "--batch", "--passphrase", ""])
            .args(["--pinentry-mode", "loopback"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        output.stdout
    };
    run(&["--quick-gen-key", "Author <author@example.com>", "ed25519", "sign", "never"], "");
    let listing = String::from_utf8(run(&["--with-colons", "-K"], "")).unwrap();
    let fingerprint =
        listing.lines().find(|line| line.starts_with("fpr")).unwrap().split(':').nth(9).unwrap();
    fs::write(author.path("keyring"), run(&["--export"], "")).unwrap();

    author.definition("alwaysInclude = []");
    let id = author.ok(&["listkeys"]).trim().to_owned();
    let sentence = format!("I am the author of the Sandstorm.io app with the following ID: {id}\n");
    let definition = fs::read_to_string(author.path("d.capnp")).unwrap();
    let with = |metadata: &str| {
        author.write(
            "d.capnp",
            &definition.replace("appTitle", &format!("metadata = ({metadata}), appTitle")),
        );
        author.pack();
    };
    let both = "pgpKeyring = embed \"keyring\", author = (pgpSignature = embed \"statement\")";
    fs::write(author.path("statement"), run(&["--sign"], &sentence)).unwrap();
    with(both);
    assert!(
        author
            .ok(&["verify", "d.spk"])
            .contains(&format!("\"authorPgpKeyFingerprint\": \"{fingerprint}\""))
    );

    // Another text, a detached signature, one wrong byte, no keyring: each refused.
    fs::write(
        author.path("statement"),
        run(&["--sign"], &sentence.replace("the author", "an author")),
    )
    .unwrap();
    with(both);
    author.refused(&["verify", "d.spk"], "the author did not sign the sentence");
    fs::write(author.path("statement"), run(&["--detach-sign"], &sentence)).unwrap();
    with(both);
    author.refused(&["verify", "d.spk"], "the author's signature is not valid");
    let mut bytes = run(&["--sign", "--compress-algo", "none"], &sentence);
    let middle = bytes.len() - 30;
    bytes[middle] ^= 1;
    fs::write(author.path("statement"), bytes).unwrap();
    with(both);
    author.refused(&["verify", "d.spk"], "the author's signature is not valid");
    with("author = (pgpSignature = embed \"statement\")");
    author.refused(&["verify", "d.spk"], "a signature without a keyring");
    // Plain unpacking does not ask.
    author.ok(&["unpack", "d.spk"]);
    // Nothing is left of gpg's own files.
    assert_eq!(names(&author.home.path().join("tmp")), [""; 0]);
}

#[test]
fn replaced_keys() {
    // An app whose key was replaced is packed with the new key, which only its owner has.
    let author = Author::new();
    author.definition("alwaysInclude = []");
    let text = fs::read_to_string(author.path("d.capnp")).unwrap();
    let (old, new) = (
        "vxe8awcxvtj6yu0vgjpm1tsaeu7x8v8tfp71tyvnm6ykkephu9q0",
        "n8cn71407n4mezn7mg0k5kkm21juuphhecc24hdf9kf56zyxm4ah",
    );
    author.write("d.capnp", &text.replace(author.ok(&["listkeys"]).trim(), old));
    author.pack_refused(&format!("no key for app {new}"));
}
