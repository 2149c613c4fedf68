//! Calls the independent RPC client.

use std::path::Path;

use anyhow::{Context, Result};
use sandstorm_tests::python;
use serde_json::Value;
use tokio::process::Command;

/// Runs `independent_client.py` on a supervisor's socket; what it printed.
pub async fn ask(socket: &Path, args: &[&str]) -> Result<Value> {
    let output = Command::new(python::interpreter()?)
        .arg(python::programs().join("independent_client.py"))
        .arg(socket)
        .args(args)
        .output()
        .await?;
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{args:?}: {}", String::from_utf8_lossy(&output.stderr)))
}
