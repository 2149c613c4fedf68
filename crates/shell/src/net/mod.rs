//! Server-side downloads that cannot be turned against this machine's own network.

use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::error::{Error, Result};

/// Bounds of one download.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub max_bytes: u64,
    pub total_time: Duration,
    /// Longest silence between two bytes.
    pub stall_time: Duration,
    /// Follow addresses of private networks (the setting ALLOW_PRIVATE_DOWNLOADS).
    pub allow_private: bool,
}

/// How far a download is: bytes so far, and the whole if the server told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: u64,
    pub total: Option<u64>,
}

/// GETs `url` into `sink`; `progress` is called at most four times a second and at the end.
/// Returns the number of bytes.
pub async fn fetch<W: AsyncWrite + Unpin>(
    _url: &str,
    _sink: &mut W,
    _limits: Limits,
    _progress: impl FnMut(Progress),
) -> Result<u64> {
    Err(Error::Internal("not yet".into()))
}
