//! `init`: writes a package definition to start from.

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;

use sandstorm_schema::ids::AppId;
use spk::error::{Error, Result, display_path};
use spk::keyring::{self, Key};
use spk::pack::Output;
use spk::sys::scratch::fill_random;

use crate::args::{Global, Init};

const DEFAULT_OUTPUT: &str = "sandstorm-pkgdef.capnp";
const FILE_LIST: &str = "sandstorm-files.list";

/// What of the author's own system must not get into a package.
const HIDDEN: &str = r#""home", "proc", "sys",
                    "etc/passwd", "etc/hosts", "etc/host.conf",
                    "etc/nsswitch.conf", "etc/resolv.conf""#;

/// `init (-p PORT | -r) … -- CMD…`
pub fn run(global: &Global, init: &Init) -> Result<()> {
    let output = init.output.as_deref();
    let target = output.unwrap_or(Path::new(DEFAULT_OUTPUT));
    // Before a key is made for nothing.
    if output.is_none() && target.symlink_metadata().is_ok() {
        return Err(Error::Key {
            path: display_path(target),
            fault: "it exists; choose another name with -o, or remove it".into(),
        });
    }
    if let Some(path) = output
        && path.as_os_str() != "-"
    {
        Output::check(path, is_schema)?;
    }
    for source in init.source_path.iter().filter(|source| !Path::new(source).exists()) {
        super::warn(format_args!(
            "{}: no such directory yet; `spk pack` looks for it beside the definition",
            display_path(Path::new(source))
        ));
    }
    let Some(text) = &init.app_id else {
        // The key is only kept if there is a definition with it.
        let path = keyring::path(global.keyring.as_deref())?;
        let key = Key::generate()?;
        keyring::append(&path, &key, || write(init, target, key.app_id()))?;
        super::keys::warn_to_keep(global, &path);
        return Ok(());
    };
    let id = text.parse().map_err(|e| Error::Usage(format!("{}: {e}", text.escape_debug())))?;
    write(init, target, id)
}

/// Writes the definition, to stdout if that was asked for, and tells it.
fn write(init: &Init, target: &Path, id: AppId) -> Result<()> {
    let output = init.output.as_deref();
    let mut file_id = [0; 8];
    fill_random(&mut file_id)?;
    let text = definition(init, id, u64::from_le_bytes(file_id) | 1 << 63);
    if output.is_some_and(|path| path.as_os_str() == "-") {
        return super::print(format_args!("{text}"));
    }
    // An older definition stays whole until this one is.
    let file = Output::create(target)?;
    file.file().write_all(text.as_bytes()).map_err(Error::io(display_path(target)))?;
    file.finish(|| super::print(format_args!("wrote: {}\n", display_path(target))))
}

/// What `-o` may write over: a schema, which has its id near its beginning. Never a key, a package
/// or a part of the app.
fn is_schema(start: &[u8]) -> bool {
    start.split(|b| *b == b'\n').any(|line| line.trim_ascii_start().starts_with(b"@0x"))
}

fn definition(init: &Init, id: AppId, file_id: u64) -> String {
    let argv: Vec<String> = match init.port {
        Some(port) => ["/sandstorm-http-bridge".to_owned(), port.to_string(), "--".to_owned()]
            .into_iter()
            .chain(init.command.iter().cloned())
            .collect(),
        None => init.command.clone(),
    };
    let argv: Vec<String> = argv.iter().map(|word| literal(word)).collect();
    let argv = argv.join(", ");
    let bridge = if init.raw {
        ""
    } else {
        r#"
  bridgeConfig = (
    # What the bridge knows of the app. Permissions and roles go here, for example:
    # viewInfo = (
    #   permissions = [(name = "edit", title = (defaultText = "edit"))],
    #   roles = [(title = (defaultText = "editor"), permissions = [true], default = true),
    #            (title = (defaultText = "viewer"), permissions = [false])]
    # ),
    # apiPath = "/api/"
  )"#
    };
    format!(
        r#"@0x{file_id:016x};

using Spk = import "/sandstorm/package.capnp";
# Where the app's files come from and what the system should know about it.
# `spk pack NAME.spk` reads this file.

const pkgdef :Spk.PackageDefinition = (
  id = "{id}",
  # The app's identity: the public half of a key in your keyring.

  manifest = (
    appTitle = (defaultText = "Example App"),

    appVersion = 0,
    # Add one with every release; it orders them.

    appMarketingVersion = (defaultText = "0.0.0"),
    # What people see as the version.

    actions = [
      # What offers to make a new document ("grain") of this app.
      ( nounPhrase = (defaultText = "instance"),
        command = .startCommand
      )
    ],

    continueCommand = .startCommand,
    # How to start a grain that exists already.

    metadata = (
      # For app stores; none of it is needed to run.
      # website = "https://example.com",
      # codeUrl = "https://example.com/code",
      # license = (openSource = apache2),
      # categories = [productivity],
      # icons = (
      #   appGrid = (png = (dpi1x = embed "icon-128.png")),
      #   grain = (png = (dpi1x = embed "icon-24.png"))
      # ),
      # description = (defaultText = embed "description.md"),
      # shortDescription = (defaultText = "Example")
    )
  ),

{sources}{bridge}
);

const startCommand :Spk.Manifest.Command = (
  argv = [{argv}],
  environ = [
    # All that the app finds in its environment.
    (key = "PATH", value = "/usr/local/bin:/usr/bin:/bin"),
    (key = "SANDSTORM", value = "1")
  ]
);
"#,
        sources = sources(init),
    )
}

fn sources(init: &Init) -> String {
    let mut text = String::from(
        "  sourceMap = (\n    # Where files are looked for; the first that has one wins.\n    searchPath = [\n",
    );
    if init.source_path.is_empty() {
        let _ = write!(
            text,
            "      ( sourcePath = \".\" ),\n      ( sourcePath = \"/\",\n        hidePaths = [ {HIDDEN} ]\n      )\n"
        );
    } else {
        let lines: Vec<String> = init
            .source_path
            .iter()
            .map(|path| format!("      ( sourcePath = {} )", literal(path)))
            .collect();
        text.push_str(&lines.join(",\n"));
        text.push('\n');
    }
    text.push_str("    ]\n  ),\n\n");
    if init.include_all {
        text.push_str("  alwaysInclude = [\".\"]\n  # Everything that the source map has.");
    } else {
        let _ = write!(
            text,
            "  fileList = \"{FILE_LIST}\"\n  # A file with the paths to pack, one a line. Write it yourself.",
        );
    }
    // A comma must come before the comment's end of line, not in it.
    if !init.raw {
        let at = text.rfind("\n  #").unwrap_or(text.len());
        let comment = text.split_off(at);
        return text + "," + &comment + "\n";
    }
    text
}

/// A text in the schema language.
fn literal(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => {
                for byte in c.to_string().bytes() {
                    let _ = write!(out, "\\x{byte:02x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
