//! Grains as the rest of the shell sees them: make, open, wake, stop, watch.
//!
//! The Cap'n Proto clients are `Rc` and live on a small fixed set of threads (`pool`); a
//! [`Grains`] handle talks to them by channels and can be cloned and used from anywhere.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use crate::error::Result;
use crate::ids::{AccountId, GrainId, LoginId, PackageId};

#[derive(Clone)]
pub struct Grains(std::sync::Arc<()>);

/// What a grain is doing right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrainState {
    Asleep,
    /// `step` is a sentence for the person who waits ("Starting the box").
    Starting {
        step: &'static str,
    },
    Running,
    Stopping,
    /// It did not start, or ended by itself. `reason` is a sentence; `code` as on error pages;
    /// `log_tail` the last lines of its log, control characters removed (owner only).
    Crashed {
        reason: String,
        code: String,
        log_tail: String,
    },
}

/// Whose browser (or script) a grain session belongs to. `secret` is the sign-in's raw cookie
/// secret (32 bytes, never stored): host label and hand-over cookie are derived from it, so the
/// same sign-in gets the same host for the same grain each time, and nobody else can guess it.
#[derive(Clone)]
pub struct LoginKey {
    pub login: LoginId,
    pub account: Option<AccountId>,
    pub secret: [u8; 32],
}

/// What the session may do inside the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permissions {
    /// Everything the app defines (owner).
    All,
    /// By the names of the app's view info; unknown names are an error at `open`.
    Names(Vec<String>),
}

/// Where the grain's page points its frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// `scheme://host[:port]`: goes into `frame-src`.
    pub origin: String,
    /// `origin/_sandstorm-init?ticket=…&path=…`: one use, 60 seconds.
    pub init_url: String,
}

/// A ready session for curl and scripts.
#[derive(Clone, Debug)]
pub struct ScriptSession {
    pub origin: String,
    /// Value of a `Cookie` header.
    pub cookie: String,
    /// Seconds since the epoch.
    pub expires: i64,
}

/// A tab shows the grain; dropping this says that it was closed.
pub struct TabGuard(());

impl Grains {
    /// Makes a grain from the package's `action`th action and starts it for the first time.
    pub async fn create(
        &self,
        _owner: AccountId,
        _package: &PackageId,
        _action: usize,
        _title: &str,
    ) -> Result<GrainId> {
        Err(crate::error::Error::Internal("not yet".into()))
    }

    /// Makes or refreshes the grain session of this sign-in and a one-use ticket for its frame.
    /// `path` is where in the app to start (`/` and on). Does not wake the grain: the frame's
    /// first request does.
    pub async fn open(
        &self,
        _login: &LoginKey,
        _grain: &GrainId,
        _permissions: Permissions,
        _path: &str,
    ) -> Result<Frame> {
        Err(crate::error::Error::Internal("not yet".into()))
    }

    pub fn state(&self, _grain: &GrainId) -> GrainState {
        GrainState::Asleep
    }

    pub fn watch(&self, _grain: &GrainId) -> watch::Receiver<GrainState> {
        watch::channel(GrainState::Asleep).1
    }

    /// Starts the grain if it sleeps and waits until it serves.
    pub async fn wake(&self, _grain: &GrainId) -> Result<()> {
        Ok(())
    }

    /// Ends the grain's processes; fine if it sleeps.
    pub async fn stop(&self, _grain: &GrainId) -> Result<()> {
        Ok(())
    }

    pub async fn restart(&self, _grain: &GrainId) -> Result<()> {
        Ok(())
    }

    /// Stops it and removes its data for good, its row in the database included.
    pub async fn destroy(&self, _grain: &GrainId) -> Result<()> {
        Ok(())
    }

    pub fn tab_opened(&self, _grain: &GrainId, _login: LoginId) -> TabGuard {
        TabGuard(())
    }

    /// The last `backlog` bytes of the grain's log, then what comes, until the receiver drops.
    pub async fn log(&self, _grain: &GrainId, _backlog: u64) -> Result<mpsc::Receiver<Bytes>> {
        Ok(mpsc::channel(1).1)
    }

    /// Ends every grain session of a sign-in (sign-out): requests get 403, sockets close.
    pub fn end_login(&self, _login: LoginId) {}
}
