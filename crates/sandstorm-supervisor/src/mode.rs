//! Who started us, and what that lets us do.
#![forbid(unsafe_code)]

/// How this process can build a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Installed setuid root, started by an ordinary user.
    Setuid,
    /// Started by root.
    Root,
    /// Neither: everything happens inside a user namespace.
    UserNamespace,
}

/// The user who started us: owner of the home and of everything on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
}
