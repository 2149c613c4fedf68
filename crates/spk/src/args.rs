//! The command line: what can be typed, with help that teaches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Makes, signs, checks and takes apart Sandstorm packages.
#[derive(Debug, Parser)]
#[command(name = "spk", version, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(flatten)]
    pub definitions: Definitions,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples, a directory that holds the whole app and its manifest:
  spk keygen secret.key              make a signing key; keep it safe, it is your app's identity
  spk pack my-app secret.key         sign and compress: my-app.spk
  spk verify my-app.spk              what a server will see
  spk unpack my-app.spk copy         look inside

Examples, a package definition beside the app's sources:
  spk init -p 8000 -A -I app -- /app/start.sh
                                     write sandstorm-pkgdef.capnp, with a new key
  spk pack my-app.spk                pack what the definition names";

/// Options of the commands that use keys; they may stand before the command too.
#[derive(Debug, Clone, Default, Args)]
pub struct Global {
    /// Keyring with signing keys [default: ~/.sandstorm-keyring]
    #[arg(short, long, value_name = "PATH")]
    pub keyring: Option<PathBuf>,

    /// Do not warn about keeping a new key safe
    #[arg(short, long)]
    pub quiet: bool,
}

impl Global {
    /// What stood after the command wins.
    pub fn over(&self, before: &Global) -> Global {
        Global {
            keyring: self.keyring.clone().or_else(|| before.keyring.clone()),
            quiet: self.quiet || before.quiet,
        }
    }
}

/// Options of the commands that read a package definition.
#[derive(Debug, Clone, Default, Args)]
pub struct Definitions {
    /// Package definition: a Cap'n Proto file, and the constant in it
    /// [default: sandstorm-pkgdef.capnp:pkgdef]
    #[arg(short, long, value_name = "FILE:NAME")]
    pub pkg_def: Option<String>,

    /// Directory to look in for imports of the package definition (may be repeated)
    #[arg(short = 'I', long, value_name = "DIR")]
    pub import_path: Vec<PathBuf>,
}

impl Definitions {
    /// What stood after the command wins; imports add up.
    pub fn over(&self, before: &Definitions) -> Definitions {
        Definitions {
            pkg_def: self.pkg_def.clone().or_else(|| before.pkg_def.clone()),
            import_path: [&before.import_path[..], &self.import_path].concat(),
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a signing key: in FILE, or in the keyring
    #[command(after_help = "\
Whoever has the key can publish updates of your app. It is not encrypted; keep a copy offline, and
never put it into the app or into version control. An existing file is never overwritten.

  spk keygen secret.key     prints the app id and the file's name
  spk keygen                adds a key to the keyring, prints the app id")]
    Keygen {
        #[command(flatten)]
        global: Global,
        /// Print the app id alone
        #[arg(short = 'o', long)]
        only_id: bool,
        /// Files to make
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },

    /// Print the app ids of key files
    Appid {
        /// Print the app id alone
        #[arg(short = 'o', long)]
        only_id: bool,
        #[arg(value_name = "KEYFILE", required = true)]
        files: Vec<PathBuf>,
    },

    /// Print the app ids of the keyring, one a line
    Listkeys {
        #[command(flatten)]
        global: Global,
    },

    /// Write keys of the keyring to stdout, as a keyring
    Getkey {
        #[command(flatten)]
        global: Global,
        #[arg(value_name = "APPID", required = true)]
        ids: Vec<String>,
    },

    /// Write a package definition, with a new key
    #[command(after_help = "\
  spk init -p 8000 -- /usr/bin/node /app/server.js
      for a web server on port 8000, behind the bridge that speaks HTTP to it
  spk init -p 8000 -A -I app -- /start.sh
      the same, and everything below app/ is the package
  spk init -r -- /my-app
      for a program that speaks Cap'n Proto on descriptor 3 itself

Then edit sandstorm-pkgdef.capnp: title, version, description, icons.")]
    Init(Init),

    /// Make and sign a package
    #[command(after_help = "\
  spk pack DIR KEYFILE [OUT]   the directory (or DIR.tar) as it is, with its sandstorm-manifest
  spk pack OUT                 what ./sandstorm-pkgdef.capnp names, signed with a key of the keyring

Without OUT the package is DIR.spk beside the directory; TREE.tar gives TREE.spk. A package that has
the name already is replaced, once the new one is whole; anything else there is left alone and
refused.

The same tree and the same key give the same bytes. Limits: 1 GiB for everything, 512 MiB a file,
63 levels of directories. Sockets, pipes and devices become empty files.")]
    Pack {
        #[command(flatten)]
        global: Global,
        #[command(flatten)]
        definitions: Definitions,
        /// Print the app id alone
        #[arg(short = 'o', long)]
        only_id: bool,
        #[arg(value_name = "DIR KEYFILE [OUT] | OUT", required = true, num_args = 1..=3)]
        words: Vec<PathBuf>,
    },

    /// Check a package and print what it says of itself
    #[command(after_help = "\
Checks the signature, every entry and the manifest; if this passes, unpacking does. `-` reads from
stdin. Output is for people: large texts and data are cut short. `--json` prints everything.")]
    Verify {
        /// Always on; accepted for old scripts
        #[arg(short, long)]
        details: bool,
        /// Print strict JSON, with nothing cut short
        #[arg(long)]
        json: bool,
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
    },

    /// Take a package apart
    #[command(after_help = "\
  spk unpack my-app.spk          into my-app, which must not exist; prints the app id
  spk unpack my-app.spk DIR
  spk unpack --tar my-app.spk    into my-app.tar
  curl URL | spk unpack - DIR

A refused package leaves nothing behind.")]
    Unpack {
        /// Accepted for old scripts
        #[arg(short = 'o', long, hide = true)]
        only_id: bool,
        /// Write a .tar file instead of a directory (`-` for stdout)
        #[arg(long)]
        tar: bool,
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[arg(value_name = "DIR")]
        target: Option<PathBuf>,
    },

    /// Take a package apart for the server (started by it)
    #[command(hide = true)]
    UnpackServer,

    /// Check a PGP statement (started by verify and unpack-server)
    #[command(hide = true)]
    PgpServer { home: Option<PathBuf> },
}

/// What `init` needs to know.
#[derive(Debug, Args)]
pub struct Init {
    #[command(flatten)]
    pub global: Global,
    /// Port that the app's web server listens on
    #[arg(short, long, value_name = "PORT", required_unless_present = "raw",
          conflicts_with = "raw", value_parser = clap::value_parser!(u16).range(1024..))]
    pub port: Option<u16>,
    /// The app speaks Cap'n Proto itself, no bridge
    #[arg(short, long)]
    pub raw: bool,
    /// File to write; `-` is stdout [default: sandstorm-pkgdef.capnp]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Use this app id instead of a new key
    #[arg(short = 'i', long, value_name = "APPID")]
    pub app_id: Option<String>,
    /// Directory with the app's files, instead of this directory and the whole system
    /// (may be repeated; earlier ones win)
    #[arg(short = 'I', long, value_name = "PATH")]
    pub source_path: Vec<String>,
    /// Pack everything in the directories of -I
    #[arg(short = 'A', long, requires = "source_path")]
    pub include_all: bool,
    /// The app's command, with a path inside of the package
    #[arg(value_name = "CMD", required = true, last = true)]
    pub command: Vec<String>,
}
