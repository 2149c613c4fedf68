//! The schema as app authors use it: from an include directory, with the `capnp` tool.

use std::path::{Path, PathBuf};

use capnp::message::ReaderOptions;
use sandstorm_schema::package_capnp::manifest;

fn here(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schema").join(name)
}

/// `capnp eval` of a file's constant with include directories; its output, or its complaint.
fn eval(
    flags: &[&str],
    includes: &[&Path],
    file: &Path,
    constant: &str,
) -> Result<Vec<u8>, String> {
    let mut args: Vec<std::ffi::OsString> = vec!["eval".into()];
    args.extend(flags.iter().map(Into::into));
    args.extend(includes.iter().map(|dir| format!("-I{}", dir.display()).into()));
    args.push(file.into());
    args.push(constant.into());
    let output = super::capnp(args);
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// A directory as `make install` lays it out below PREFIX. Cap'n Proto's own files are taken from
/// where Debian puts them.
fn installed() -> tempfile::TempDir {
    let prefix = tempfile::tempdir().unwrap();
    let schema = super::repo().join("schema");
    for (from, to) in [
        (schema.join("sandstorm"), "include/sandstorm"),
        (schema.join("sandstorm-2014/sandstorm"), "include/sandstorm-2014/sandstorm"),
        (PathBuf::from("/usr/include/capnp"), "include/capnp"),
    ] {
        let to = prefix.path().join(to);
        std::fs::create_dir_all(&to).unwrap();
        for file in super::schema_files(&from) {
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    prefix
}

fn check_manifest(bytes: &[u8]) {
    let message = capnp::serialize::read_message(bytes, ReaderOptions::new()).unwrap();
    let manifest: manifest::Reader<'_> = message.get_root().unwrap();
    assert_eq!(manifest.get_app_version(), 0);
    let words = |command: manifest::command::Reader<'_>| -> Vec<String> {
        let mut words =
            vec![command.get_deprecated_executable_path().unwrap().to_string().unwrap()];
        let argv = command.get_argv().unwrap();
        words.extend(argv.iter().map(|word| word.unwrap().to_string().unwrap()));
        words
    };
    let bridge = ["/legacy-bridge", "127.0.0.1:8080"];
    let continues = words(manifest.get_continue_command().unwrap());
    assert_eq!(continues, [bridge[0], bridge[1], "/run-continue.sh"]);
    let actions = manifest.get_actions().unwrap();
    assert_eq!(actions.len(), 1);
    let action = actions.get(0);
    assert_eq!(action.get_title().unwrap().get_default_text().unwrap(), "New Widget");
    let first = words(action.get_command().unwrap());
    assert_eq!(first, [bridge[0], bridge[1], "/run-first-time.sh"]);
    let input = action.get_input().which().unwrap();
    assert!(matches!(input, manifest::action::input::None(())));
}

/// The example of the document that this project implements, letter for letter.
#[test]
fn the_example_of_2014_compiles_and_means_the_same() {
    let schema = super::repo().join("schema");
    let old_names = [schema.join("sandstorm-2014")];
    let old_names: Vec<&Path> = old_names.iter().map(PathBuf::as_path).collect();
    let old = eval(&["-b"], &old_names, &here("seed-manifest.capnp"), "manifest").unwrap();
    let today = eval(&["-b"], &[&schema], &here("today-manifest.capnp"), "manifest").unwrap();
    check_manifest(&old);
    assert_eq!(old, today, "the same bytes under either name");
    // And the other way round each file is refused, so the two directories do differ.
    let refused = eval(&["-b"], &[&schema], &here("seed-manifest.capnp"), "manifest");
    assert!(refused.unwrap_err().contains("executablePath"));
    let refused = eval(&["-b"], &old_names, &here("today-manifest.capnp"), "manifest");
    assert!(refused.unwrap_err().contains("deprecatedExecutablePath"));
}

/// Both directories give every type the same id, ordinals and layout; only names differ.
#[test]
fn the_names_of_2014_lie_on_todays_wire() {
    let schema = super::repo().join("schema");
    let compile = |dir: &Path| super::model::Schema::compile(dir, "sandstorm").unwrap();
    let (old, today) = (compile(&schema.join("sandstorm-2014")), compile(&schema));
    let file = "package.capnp\t";
    let rows = |of: &super::model::Schema| -> Vec<String> {
        let mut rows = super::rows::wire(&of.nodes());
        rows.retain(|row| row.starts_with(file));
        rows.iter()
            .map(|row| row.replace("Command.executablePath", "Command.deprecatedExecutablePath"))
            .map(|row| row.replace("Command.args", "Command.argv"))
            // Not typed there, but at its place.
            .map(|row| row.replace("metadata\t@8\tAnyPointer", "metadata\t@8\tMetadata"))
            .collect()
    };
    let today = rows(&today);
    let old = rows(&old);
    assert!(old.len() > 35, "{old:?}");
    for row in old {
        assert!(today.contains(&row), "{row}");
    }
}

/// What an author with an installed Sandstorm writes.
const PKGDEF: &str = r#"@0xb5d4d9c8b0ee5e37;
using Spk = import "/sandstorm/package.capnp";
using Util = import "/sandstorm/util.capnp";
using Grain = import "/sandstorm/grain.capnp";
using Supervisor = import "/sandstorm/supervisor.capnp";

const title :Util.LocalizedText = (defaultText = "Tiny");

const pkgdef :Spk.PackageDefinition = (
  id = "000h40s40n30f209185hs38f1w8124hm2hajd5ss34e1q70x3sgh",
  manifest = (
    appTitle = .title,
    appVersion = 3,
    actions = [(nounPhrase = (defaultText = "thing"), command = .command)],
    continueCommand = .command,
    metadata = (
      icons = (grain = (svg = embed "icon.svg")),
      license = (openSource = apache2),
      categories = [productivity, media],
    ),
  ),
  sourceMap = (searchPath = [(sourcePath = "."), (sourcePath = "/", hidePaths = ["home"])]),
  fileList = "sandstorm-files.list",
  bridgeConfig = (
    viewInfo = (
      permissions = [(name = "edit", title = (defaultText = "can edit"))],
      roles = [(title = (defaultText = "editor"), permissions = [true], default = true)],
    ),
    apiPath = "/api/",
  ),
);

const command :Spk.Manifest.Command = (
  argv = ["/sandstorm-http-bridge", "8000", "--", "/app"],
  environ = [(key = "PATH", value = "/bin")],
);

interface Tiny extends(Grain.UiSession, Supervisor.SystemPersistent) {}
"#;

#[test]
fn an_authors_file_finds_its_imports_in_an_installation() {
    let project = tempfile::tempdir().unwrap();
    let file = project.path().join("sandstorm-pkgdef.capnp");
    std::fs::write(&file, PKGDEF).unwrap();
    std::fs::write(project.path().join("icon.svg"), "<svg/>").unwrap();

    let prefix = installed();
    let include = prefix.path().join("include");
    // With nothing but the installation, and with the tool's own search path beside it.
    for flags in [&["-b", "--no-standard-import"][..], &["-b"]] {
        let bytes = eval(flags, &[&include], &file, "pkgdef").unwrap();
        let message = capnp::serialize::read_message(&bytes[..], ReaderOptions::new()).unwrap();
        let definition: sandstorm_schema::package_capnp::package_definition::Reader<'_> =
            message.get_root().unwrap();
        let manifest = definition.get_manifest().unwrap();
        assert_eq!(manifest.get_app_title().unwrap().get_default_text().unwrap(), "Tiny");
        assert_eq!(definition.get_bridge_config().unwrap().get_api_path().unwrap(), "/api/");
    }
    // The installed names of 2014 stand on their own too.
    let old = prefix.path().join("include/sandstorm-2014");
    let bytes = eval(&["-b"], &[&old], &here("seed-manifest.capnp"), "manifest").unwrap();
    check_manifest(&bytes);
    // And without the installation nothing is found: no file was taken from elsewhere.
    let missing = eval(&["-b", "--no-standard-import"], &[], &file, "pkgdef").unwrap_err();
    assert!(missing.contains("/sandstorm/package.capnp"), "{missing}");
}

/// The names that `make install` links or copies are all there and all readable.
#[test]
fn the_directory_of_2014_is_complete() {
    let schema = super::repo().join("schema");
    let names = |dir: &str| -> Vec<std::ffi::OsString> {
        let files = super::schema_files(&schema.join(dir));
        files.iter().map(|file| file.file_name().unwrap().to_owned()).collect()
    };
    assert_eq!(names("sandstorm"), names("sandstorm-2014/sandstorm"));
    for file in super::schema_files(&schema.join("sandstorm-2014/sandstorm")) {
        std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}
