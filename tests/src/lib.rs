//! What the suites in `tests/tests/` share: a real installation run by an ordinary user, the real
//! shell on free ports, clients that speak to it, and a clean-up that leaves no process, mount or
//! file behind. Nothing here knows the programs' insides.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use sandstorm_tests::{Mode, Server, apps};
//! let Some(server) = Server::start(Mode::Setuid)? else { return Ok(()) }; // skipped, loudly
//! let app = server.install(&apps::package("dufs")?)?;
//! let grain = server.create(&app.app_id)?;
//! let session = server.session(&grain)?;
//! let answer = session.get("/").await?;
//! assert_eq!(answer.status, 200);
//! # Ok(()) }
//! ```

pub mod apps;
pub mod built;
pub mod http;
pub mod install;
pub mod processes;
pub mod python;
pub mod server;
pub mod skip;
pub mod supervisor;
pub mod wait;

pub use http::{Answer, Client};
pub use install::{Installation, Mode};
pub use server::{App, Server, ServerBuilder};
pub use wait::{eventually, eventually_async};

use std::path::{Path, PathBuf};

/// The checkout's top directory.
pub fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests lie in the checkout").to_owned()
}

/// Where the four programs are: `$SANDSTORM_BIN`, else `bin/` as `make` fills it.
pub fn bin() -> PathBuf {
    std::env::var_os("SANDSTORM_BIN").map_or_else(|| top().join("bin"), PathBuf::from)
}

/// One of our programs.
///
/// # Panics
/// When it is not there: a test without its program would test nothing.
pub fn program(name: &str) -> PathBuf {
    let path = bin().join(name);
    assert!(path.is_file(), "{} is missing: run `make` first", path.display());
    path
}

/// Is this the long run of `cargo xtask soak`?
pub fn soak() -> bool {
    std::env::var_os("SANDSTORM_SOAK").is_some()
}

/// Is this process root?
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
