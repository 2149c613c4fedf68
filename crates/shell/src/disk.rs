//! The disk below the server's home: what is free, what of that is kept back, and in which words
//! that is told.
//!
//! Two lines are drawn before a disk is full, because a database that cannot write is worse than an
//! app that cannot: first nothing more is installed, then grains cannot save. Neither is an error
//! of whoever meets it, so each message says what is full, how much is kept back, and who can help.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sandstorm_schema::limits::{INSTALL_RESERVE, grain_reserve};

use crate::cli::output::called;
use crate::install::failure::bytes;

/// Less free space than this (bytes), and an operator should know.
const LOW: u64 = 1 << 30;
/// How often it is looked at for the log.
const LOOK: Duration = Duration::from_secs(30);

/// Fewer free inodes than this, and an operator should know: each file of an app or a grain takes one.
const FEW_FILES: u64 = 10_000;

/// Free space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// To us: what the file system keeps for root is not in it.
    pub free: u64,
    /// All there is.
    pub total: u64,
    /// Files that can still be made; `None` where the file system has no fixed number.
    pub free_files: Option<u64>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Fine,
    /// Nothing is refused yet.
    Low,
    /// Nothing can be installed.
    NoInstalls,
    /// Grains cannot save.
    NoWrites,
}

impl Disk {
    /// The file system of `path`; `None` where it does not say.
    pub fn of(path: &Path) -> Option<Disk> {
        let stat = nix::sys::statvfs::statvfs(path).ok()?;
        let unit = stat.fragment_size() as u64;
        Some(Disk {
            free: stat.blocks_available() as u64 * unit,
            total: stat.blocks() as u64 * unit,
            free_files: (stat.files() > 0).then(|| stat.files_available() as u64),
        })
    }

    /// Which line is crossed.
    pub fn stage(self) -> Stage {
        match self.free {
            free if free < grain_reserve(self.total) => Stage::NoWrites,
            free if free < INSTALL_RESERVE => Stage::NoInstalls,
            free if free < LOW => Stage::Low,
            _ => Stage::Fine,
        }
    }

    /// Whether the next files cannot be made, whatever bytes are free.
    pub fn has_few_files(self) -> bool {
        self.free_files.is_some_and(|free| free < FEW_FILES)
    }

    /// What the operator should know, and do; `None` while there is plenty.
    pub fn told(self, home: &Path) -> Option<(String, String)> {
        let free = format!("{} are free below {}", bytes(self.free), home.display());
        let what = match self.stage() {
            Stage::Fine | Stage::Low if self.has_few_files() => format!(
                "Only {} files can still be made below {}: the file system has no inodes left for more.",
                self.free_files.unwrap_or(0),
                home.display()
            ),
            Stage::Fine => return None,
            Stage::Low => format!("Only {free}."),
            Stage::NoInstalls => format!(
                "Nothing can be installed: {free}, and the last {} are kept back so that grains and \
                 the server can go on writing.",
                bytes(INSTALL_RESERVE)
            ),
            Stage::NoWrites => format!(
                "No grain can save anything, and nothing can be installed: {free}, and the last {} \
                 are kept back for the server's own database.",
                bytes(grain_reserve(self.total))
            ),
        };
        let called = called();
        let fix = format!(
            "Make room on that file system, or move the home to a larger disk; `{called} app delete` \
             removes apps that nobody uses, `{called} grain delete --now` grains."
        );
        Some((what, fix))
    }
}

/// What a person should know while their grains cannot save; `None` while they can.
pub fn stops_saving(home: &Path) -> Option<String> {
    let disk = Disk::of(home).filter(|disk| disk.stage() == Stage::NoWrites)?;
    Some(format!(
        "This server's disk is full: apps cannot save anything now. {} are left, which the server \
         keeps back for itself. Ask whoever runs it to make room; after that saving works again by \
         itself.",
        bytes(disk.free)
    ))
}

/// Tells the log when a line is crossed, in both directions.
pub async fn watch(home: PathBuf) {
    let mut every = tokio::time::interval(LOOK);
    let mut last = (Stage::Fine, false);
    loop {
        every.tick().await;
        let of = home.clone();
        let Ok(Some(disk)) = tokio::task::spawn_blocking(move || Disk::of(&of)).await else {
            continue;
        };
        let stage = disk.stage();
        if (stage, disk.has_few_files()) != last {
            match (stage, disk.told(&home)) {
                (Stage::NoInstalls | Stage::NoWrites, Some((what, fix))) => {
                    tracing::error!("{what} {fix}");
                }
                (_, Some((what, fix))) => tracing::warn!("{what} {fix}"),
                (_, None) => tracing::info!("there is room on the disk again"),
            }
            last = (stage, disk.has_few_files());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_is_told_with_what_is_kept_back() {
        let total = 100 << 30;
        let told = |free: u64| {
            Disk { free, total, free_files: None }.told(Path::new("/home")).map(|(what, _)| what)
        };
        assert_eq!(told(2 << 30), None);
        assert_eq!(told(900 << 20).unwrap(), "Only 944 MB are free below /home.");
        let installs = told(200 << 20).unwrap();
        assert!(installs.contains("Nothing can be installed") && installs.contains("last 268 MB"));
        let writes = told(100 << 20).unwrap();
        assert!(writes.contains("No grain can save") && writes.contains("last 134 MB"), "{writes}");
        // On a small disk a twentieth.
        let few = Disk { free: 90 << 30, total, free_files: Some(9) };
        let (few, _) = few.told(Path::new("/home")).unwrap();
        assert!(few.starts_with("Only 9 files can still be made"), "{few}");
        let small = Disk { free: 60 << 20, total: 1 << 30, free_files: Some(1 << 20) };
        assert_eq!(small.stage(), Stage::NoInstalls);
        assert_eq!(Disk { free: 50 << 20, ..small }.stage(), Stage::NoWrites);
    }
}
