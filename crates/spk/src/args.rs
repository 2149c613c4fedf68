//! The command line: what can be typed, with help that teaches.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Makes, signs, checks and takes apart Sandstorm packages.
#[derive(Debug, Parser)]
#[command(name = "spk", version, propagate_version = false, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
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

/// Options of more than one command; they may stand before the command too.
#[derive(Debug, Args)]
pub struct Global {
    /// Keyring with signing keys [default: ~/.sandstorm-keyring]
    #[arg(short, long, value_name = "PATH", global = true)]
    pub keyring: Option<PathBuf>,

    /// Package definition: a Cap'n Proto file, and the constant in it
    #[arg(short, long, value_name = "FILE:NAME", global = true)]
    pub pkg_def: Option<String>,

    /// Directory to look in for imports of the package definition (may be repeated)
    #[arg(short = 'I', long = "import-path", value_name = "DIR", global = true)]
    pub import_path: Vec<PathBuf>,

    /// Do not warn about keeping the key safe
    #[arg(short, long, global = true)]
    pub quiet: bool,
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
    Listkeys,

    /// Write keys of the keyring to stdout, as a keyring
    Getkey {
        #[arg(value_name = "APPID", required = true)]
        ids: Vec<String>,
    },

    /// Make and sign a package
    #[command(after_help = "\
  spk pack DIR KEYFILE [OUT]   the directory (or DIR.tar) as it is, with its sandstorm-manifest
  spk pack OUT                 what ./sandstorm-pkgdef.capnp names, signed with a key of the keyring

The same tree and the same key give the same bytes. Limits: 1 GiB for everything, 512 MiB a file,
63 levels of directories. Sockets, pipes and devices become empty files.")]
    Pack {
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
