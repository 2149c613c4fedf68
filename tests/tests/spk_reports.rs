//! What people reported of other packers: trees that verify and then do not install, and file
//! lists that make the packer fall over. Each in every form in which `spk pack` takes a tree.

mod spk_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use spk_support::*;

/// An app's sources below `app`, a key file, and definitions that pack the former.
struct Author(tempfile::TempDir);

impl Author {
    fn new() -> Author {
        let author = Author(tempfile::tempdir().unwrap());
        // An installation: the program, with the schemas where it looks for them.
        fs::create_dir_all(author.path("inst/bin")).unwrap();
        fs::copy(sandstorm_tests::program("spk"), author.path("inst/bin/spk")).unwrap();
        symlink(sandstorm_tests::top().join("schema"), author.path("inst/include")).unwrap();
        for name in ["dev", "tmp", "var"] {
            fs::create_dir_all(author.path("app").join(name)).unwrap();
        }
        fs::write(author.path("app/sandstorm-manifest"), manifest()).unwrap();
        assert!(author.run(&["keygen", "key"]).status.success());
        let id = stdout(&author.run(&["appid", "-o", "key"]));
        for (name, what) in
            [("all", "alwaysInclude = [\".\"]"), ("list", "fileList = \"files.list\"")]
        {
            let text = format!(
                "@0xd0d0d0d0d0d0d0d0;\nusing Spk = import \"/sandstorm/package.capnp\";\n\
                 const pkgdef :Spk.PackageDefinition = (id = \"{}\", manifest = (\n\
                 appTitle = (defaultText = \"T\"), appMarketingVersion = (defaultText = \"1\"),\n\
                 continueCommand = (argv = [\"/run\"])),\n\
                 sourceMap = (searchPath = [(sourcePath = \"app\")]), {what});\n",
                id.trim()
            );
            fs::write(author.path(&format!("{name}.capnp")), text).unwrap();
        }
        author
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(self.path("inst/bin/spk"))
            .args(args)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .output()
            .unwrap()
    }

    /// `pack`, in this form.
    fn pack(&self, form: &str) -> Output {
        match form {
            "directory" => self.run(&["pack", "app", "key", "out.spk"]),
            "tar" => {
                let tar = Command::new("tar")
                    .args(["-C", "app", "-cf", "app.tar", "."])
                    .current_dir(self.0.path())
                    .status()
                    .unwrap();
                assert!(tar.success());
                self.run(&["pack", "app.tar", "key", "out.spk"])
            }
            definition => {
                let place = format!("{definition}.capnp:pkgdef");
                self.run(&["-k", "key", "pack", "-p", &place, "out.spk"])
            }
        }
    }
}

const FORMS: [&str; 4] = ["directory", "tar", "all", "list"];

fn deep(levels: usize) -> String {
    vec!["d"; levels].join("/")
}

/// So many directories, one in the other, with a file in the innermost.
fn with_tree(author: &Author, levels: usize) -> String {
    let path = deep(levels);
    fs::create_dir_all(author.path("app").join(&path)).unwrap();
    let file = format!("{path}/f");
    fs::write(author.path("app").join(&file), "innermost").unwrap();
    fs::write(author.path("files.list"), format!("{file}\n")).unwrap();
    file
}

#[test]
fn sixty_directories_deep_is_packed_verified_and_unpacked() {
    let author = Author::new();
    let file = with_tree(&author, 60);
    for form in FORMS {
        let packed = author.pack(form);
        assert!(packed.status.success(), "{form}: {}", stderr(&packed));
        for args in [&["verify", "out.spk"][..], &["unpack", "out.spk", "out"]] {
            let output = author.run(args);
            assert!(output.status.success(), "{form}: {args:?}: {}", stderr(&output));
        }
        assert_eq!(fs::read(author.path("out").join(&file)).unwrap(), b"innermost", "{form}");
        fs::remove_dir_all(author.path("out")).unwrap();
    }
}

#[test]
fn seventy_directories_deep_is_refused_by_its_path() {
    let author = Author::new();
    with_tree(&author, 70);
    for form in FORMS {
        let packed = author.pack(form);
        let said = stderr(&packed);
        assert_eq!(packed.status.code(), Some(1), "{form}: {said}");
        let errors: Vec<&str> = said.lines().filter(|line| !line.contains("warning:")).collect();
        assert_eq!(errors.len(), 1, "{form}: {said}");
        // The first level too many, by its whole path.
        assert!(errors[0].contains(&deep(64)), "{form}: {said}");
        assert!(errors[0].contains("more than 63 directories deep"), "{form}: {said}");
        let left = names(author.0.path());
        assert!(!left.iter().any(|name| name.contains("out.spk")), "{form}: {left:?}");
    }
}

#[test]
fn a_list_with_a_link_and_what_is_below_it_is_refused_by_name() {
    let author = Author::new();
    fs::create_dir(author.path("app/real")).unwrap();
    fs::write(author.path("app/real/x.so"), "x").unwrap();
    symlink("real", author.path("app/lib")).unwrap();
    for (list, words) in [
        ("lib\nlib/x.so\n", "lib/x.so: cannot be packed, for lib is a link"),
        ("lib/x.so\nlib\n", "lib: listed both as a file or link and as a directory"),
    ] {
        fs::write(author.path("files.list"), list).unwrap();
        let packed = author.pack("list");
        assert_eq!(packed.status.code(), Some(1), "{list}: {}", stderr(&packed));
        assert!(stderr(&packed).contains(words), "{list}: {}", stderr(&packed));
        assert!(!Path::exists(&author.path("out.spk")), "{list}");
    }
    // What the message says to do works.
    fs::write(author.path("files.list"), "lib\nreal/x.so\n").unwrap();
    let packed = author.pack("list");
    assert!(packed.status.success(), "{}", stderr(&packed));
    assert!(author.run(&["unpack", "out.spk", "out"]).status.success());
    assert_eq!(fs::read(author.path("out/lib/x.so")).unwrap(), b"x");
}
