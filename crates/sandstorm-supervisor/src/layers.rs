//! Protections that a build for tests can leave out, one by one, so that a test can show that each
//! of them is what stops an attack.
//!
//! Trust: only with the cargo feature `unsafe-disable`, which no release has. Without it `off` is a
//! constant `false`, no layer can be named on the command line, and the option is unknown.
#![forbid(unsafe_code)]

use rustix::mount::MountAttrFlags;

use crate::sys::mount::{NODEV, NOSUID, RDONLY};

/// One protection. The names on the command line are those of `TABLE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "unsafe-disable"), allow(dead_code))]
pub enum Layer {
    /// The system call filter of init and app.
    Seccomp,
    /// Dropping capabilities, the bounding set, locked securebits.
    Capabilities,
    /// `no_new_privs`.
    NoNewPrivs,
    /// The limit that forbids a nested user namespace.
    Nested,
    /// Init is not dumpable.
    Dumpable,
    PidNamespace,
    NetNamespace,
    IpcNamespace,
    UtsNamespace,
    TimeNamespace,
    /// The app's user namespace is not the one that owns all these.
    Owner,
    /// The package is read-only.
    ReadOnly,
    /// `nosuid` and `nodev` of package, data and `/tmp`.
    MountFlags,
    /// The old root is unmounted; without it the app sees the host's tree.
    Pivot,
    /// Descriptors are closed; without it one of the old root stays open.
    Descriptors,
    /// There is no `/proc` and no `/sys`.
    NoProc,
}

#[cfg(feature = "unsafe-disable")]
mod chosen {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::Layer::{self, *};

    pub const TABLE: &[(&str, Layer)] = &[
        ("seccomp", Seccomp),
        ("caps", Capabilities),
        ("no-new-privs", NoNewPrivs),
        ("nested", Nested),
        ("dumpable", Dumpable),
        ("pid-ns", PidNamespace),
        ("net-ns", NetNamespace),
        ("ipc-ns", IpcNamespace),
        ("uts-ns", UtsNamespace),
        ("time-ns", TimeNamespace),
        ("owner", Owner),
        ("readonly", ReadOnly),
        ("mount-flags", MountFlags),
        ("pivot", Pivot),
        ("descriptors", Descriptors),
        ("no-proc", NoProc),
    ];

    static OFF: AtomicU32 = AtomicU32::new(0);

    /// Leaves out the layer of this name.
    ///
    /// # Errors
    /// `Usage` with the names there are.
    pub fn disable(name: &str) -> Result<(), crate::error::Error> {
        let Some((_, layer)) = TABLE.iter().find(|(known, _)| *known == name) else {
            let names: Vec<_> = TABLE.iter().map(|(known, _)| *known).collect();
            return Err(crate::error::Error::Usage(format!(
                "--unsafe-disable knows no layer {name:?}; it knows {}",
                names.join(", ")
            )));
        };
        OFF.fetch_or(1 << *layer as u32, Ordering::Relaxed);
        Ok(())
    }

    pub fn off(layer: Layer) -> bool {
        OFF.load(Ordering::Relaxed) & (1 << layer as u32) != 0
    }

    /// Before anything is forked; `args` judges the words afterwards.
    pub fn read_names() {
        let words: Vec<_> = std::env::args().collect();
        for (n, word) in words.iter().enumerate() {
            let name = match word.strip_prefix("--unsafe-disable") {
                Some("") => words.get(n + 1).map(String::as_str),
                Some(rest) => rest.strip_prefix('='),
                None => None,
            };
            let _ = name.map(disable);
        }
    }
}

#[cfg(feature = "unsafe-disable")]
pub use chosen::{disable, off, read_names};

/// Whether a layer is left out; never, in a build without the feature.
#[cfg(not(feature = "unsafe-disable"))]
pub const fn off(_: Layer) -> bool {
    false
}

/// Attributes of every mount that the app can write to.
pub fn data_flags() -> MountAttrFlags {
    if off(Layer::MountFlags) { MountAttrFlags::empty() } else { NOSUID | NODEV }
}

/// Attributes of the package's mount.
pub fn package_flags() -> MountAttrFlags {
    if off(Layer::ReadOnly) { data_flags() } else { data_flags() | RDONLY }
}
