//! The whole chain, as an operator and their scripts see it: real programs, installed as `make
//! install` does, run by an ordinary user; real apps that nobody here wrote.

mod apps;
mod install;
mod lifecycle;
mod nginx;

use sandstorm_tests::{App, Server, apps as packages};

/// A server with one app installed.
fn with_app(server: &Server, name: &str) -> anyhow::Result<App> {
    server.install(&packages::package(name)?)
}
