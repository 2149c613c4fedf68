//! The database as a start would find it, and whether each grain that it knows has its data.

use std::fs;

use nix::fcntl::AtFlags;
use nix::unistd::AccessFlags;

use super::{Problem, problem};
use crate::config::Config;
use crate::ids::GrainId;
use crate::store::{Store, StoreError};

/// Finds what keeps the server from starting, and grains and data that have lost each other.
pub fn database(config: &Config, out: &mut Vec<Problem>) {
    let path = config.home.join("sandstorm.sqlite");
    let is_served = crate::control::is_served(&config.home);
    let there = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file());
    if !there {
        return lost_rows(config, &std::collections::HashSet::new(), is_served, out);
    }
    let rights = AccessFlags::R_OK | AccessFlags::W_OK;
    if nix::unistd::faccessat(nix::fcntl::AT_FDCWD, &path, rights, AtFlags::AT_EACCESS).is_err() {
        let own = nix::unistd::geteuid();
        out.push(problem(
            format!("{} cannot be read and written by uid {own}.", path.display()),
            format!("chown {own} {0} && chmod 600 {0}", path.display()),
        ));
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return };
    // A server that runs has its database in use, and would have told by itself.
    if is_served == Some(false)
        && let Err(error) = runtime.block_on(Store::examine(&path))
    {
        let fix = match error {
            StoreError::Damaged { .. } => "Put back a copy of it, while no server runs.",
            _ => "Until then the server does not start.",
        };
        out.push(problem(sentence(&error.to_string()), fix));
        return;
    }
    let Ok(known) = runtime.block_on(Store::known_grains(&path)) else { return };
    let grains = config.home.join("grains");
    let gone: Vec<&String> =
        known.used.iter().filter(|id| !grains.join(id).join("sandbox").is_dir()).collect();
    if let Some(first) = gone.first() {
        out.push(problem(
            format!(
                "The data of {} grains are not below {} ({first} is one).",
                gone.len(),
                grains.display()
            ),
            "Put that directory back, or mount the disk that it is on. Until then these grains do \
             not start.",
        ));
    }
    lost_rows(config, &known.all, is_served, out);
}

/// Directories of grains that no row tells of. Not asked while a server runs, which makes and removes
/// some.
fn lost_rows(
    config: &Config,
    known: &std::collections::HashSet<String>,
    is_served: Option<bool>,
    out: &mut Vec<Problem>,
) {
    if is_served != Some(false) {
        return;
    }
    let Ok(found) = fs::read_dir(config.home.join("grains")) else { return };
    let mut strange: Vec<String> = found
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.parse::<GrainId>().is_ok() && !known.contains(name))
        .collect();
    strange.sort();
    if let Some(first) = strange.first() {
        out.push(problem(
            format!(
                "Below {}/grains are the data of {} grains that the database does not know ({first} \
                 is one).",
                config.home.display(),
                strange.len()
            ),
            "Put back the database that belongs to them, or move these directories away.",
        ));
    }
}

fn sentence(words: &str) -> String {
    let mut all = words.chars();
    let first = all.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", all.as_str().trim_end_matches('.'))
}
