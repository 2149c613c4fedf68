//! Installations on their way: one row a package id, read by every viewer.

use std::str::FromStr;

use sqlx::FromRow;

use super::{AccountId, Result, Store, now_ms, word};

/// Where an installation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstallState {
    /// The file is being received, or waits for the button that downloads it.
    Get,
    /// Size and SHA-256 are compared with the id.
    Check,
    /// The locked-down child verifies the signature and unpacks.
    Unpack,
    /// In place; waits for each person's yes.
    Confirm,
    /// In place and wanted.
    Ready,
    /// Ended at `step`, with a code and words.
    Failed,
}

impl InstallState {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            InstallState::Get => "get",
            InstallState::Check => "check",
            InstallState::Unpack => "unpack",
            InstallState::Confirm => "confirm",
            InstallState::Ready => "ready",
            InstallState::Failed => "failed",
        }
    }
}

impl InstallState {
    /// Neither over nor waiting for anybody.
    pub fn is_under_way(self) -> bool {
        matches!(self, InstallState::Get | InstallState::Check | InstallState::Unpack)
    }
}

impl FromStr for InstallState {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        Ok(match s {
            "get" => InstallState::Get,
            "check" => InstallState::Check,
            "unpack" => InstallState::Unpack,
            "confirm" => InstallState::Confirm,
            "ready" => InstallState::Ready,
            "failed" => InstallState::Failed,
            _ => return Err(()),
        })
    }
}

/// One installation.
#[derive(Clone, Debug)]
pub struct Install {
    /// What the file must hash to.
    pub package_id: String,
    /// Where it stands.
    pub state: InstallState,
    /// The step that it is in, or failed in.
    pub step: InstallState,
    /// Bytes done in this step.
    pub done: i64,
    /// Bytes in all, 0 when unknown.
    pub total: i64,
    /// Where it is downloaded from.
    pub url: Option<String>,
    /// Code and words of the failure.
    pub failure: Option<(String, String)>,
    /// Who began it.
    pub started_by: Option<AccountId>,
    /// Last change.
    pub updated: i64,
}

#[derive(FromRow)]
struct InstallRow {
    package_id: String,
    state: String,
    step: String,
    done: i64,
    total: i64,
    url: Option<String>,
    error_code: Option<String>,
    error: Option<String>,
    started_by: Option<AccountId>,
    updated: i64,
}

impl TryFrom<InstallRow> for Install {
    type Error = super::StoreError;
    fn try_from(row: InstallRow) -> Result<Install> {
        Ok(Install {
            state: word("install state", &row.state)?,
            step: word("install step", &row.step)?,
            package_id: row.package_id,
            done: row.done,
            total: row.total,
            url: row.url,
            failure: row.error_code.zip(row.error),
            started_by: row.started_by,
            updated: row.updated,
        })
    }
}

/// Failures that are kept of one account: anybody can make any number, each with an address.
const FAILURES: i64 = 50;

const COLUMNS: &str =
    "package_id, state, step, done, total, url, error_code, error, started_by, updated";

impl Store {
    /// The installation of this package id.
    pub async fn install(&self, package_id: &str) -> Result<Option<Install>> {
        let row: Option<InstallRow> =
            sqlx::query_as(&format!("SELECT {COLUMNS} FROM installs WHERE package_id = $1"))
                .bind(package_id)
                .fetch_optional(&self.read)
                .await?;
        row.map(Install::try_from).transpose()
    }

    /// Installations that are not over, or failed: latest first.
    pub async fn installs_pending(&self) -> Result<Vec<Install>> {
        let rows: Vec<InstallRow> = sqlx::query_as(&format!(
            "SELECT {COLUMNS} FROM installs WHERE state NOT IN ('confirm', 'ready')
             ORDER BY updated DESC"
        ))
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(Install::try_from).collect()
    }

    /// Enters a step. Starts the row when there is none; a failure before is forgotten.
    pub async fn install_step(
        &self,
        package_id: &str,
        state: InstallState,
        total: i64,
        url: Option<&str>,
        by: Option<AccountId>,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO installs
               (package_id, state, step, done, total, url, started_by, created, updated)
             VALUES ($1, $2, $2, 0, $3, $4, $5, $6, $6)
             ON CONFLICT (package_id) DO UPDATE SET
               state = excluded.state, step = excluded.step, done = 0, total = excluded.total,
               url = COALESCE(excluded.url, installs.url),
               started_by = COALESCE(excluded.started_by, installs.started_by),
               error_code = NULL, error = NULL, updated = excluded.updated",
        )
        .bind(package_id)
        .bind(state.as_str())
        .bind(total)
        .bind(url)
        .bind(by)
        .bind(now_ms())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Keeps why it failed, at the step where it stood; of one account's failures the latest only.
    pub async fn install_failed(&self, package_id: &str, code: &str, words: &str) -> Result<()> {
        let mut tx = self.write.begin().await?;
        sqlx::query(
            "UPDATE installs SET state = 'failed', error_code = $2, error = $3, updated = $4
             WHERE package_id = $1",
        )
        .bind(package_id)
        .bind(code)
        .bind(words)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM installs WHERE state = 'failed'
               AND started_by = (SELECT started_by FROM installs WHERE package_id = $1)
               AND package_id NOT IN (SELECT package_id FROM installs WHERE state = 'failed'
                 AND started_by = (SELECT started_by FROM installs WHERE package_id = $1)
                 ORDER BY updated DESC, package_id = $1 DESC LIMIT $2)",
        )
        .bind(package_id)
        .bind(FAILURES)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Somebody said yes.
    pub async fn install_ready(&self, package_id: &str) -> Result<()> {
        sqlx::query(
            "UPDATE installs SET state = 'ready', step = 'ready', updated = $2
             WHERE package_id = $1 AND state = 'confirm'",
        )
        .bind(package_id)
        .bind(now_ms())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Forgets an installation that never got in place.
    pub async fn forget_install(&self, package_id: &str) -> Result<()> {
        sqlx::query(
            "DELETE FROM installs WHERE package_id = $1 AND state NOT IN ('confirm', 'ready')",
        )
        .bind(package_id)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// At start: what was under way when the server ended has failed, and may be retried. Files of
    /// it that had their names already belong to nobody.
    pub async fn fail_interrupted_installs(&self) -> Result<u64> {
        let mut tx = self.write.begin().await?;
        sqlx::query(
            "INSERT INTO removals (package_id, at)
             SELECT package_id, $1 FROM installs WHERE state = 'unpack'
               AND package_id NOT IN (SELECT package_id FROM packages)
             ON CONFLICT DO NOTHING",
        )
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        let done = sqlx::query(
            "UPDATE installs SET state = 'failed', error_code = 'PKG-INTERRUPTED',
               error = 'The server stopped while this was under way. Nothing was changed.',
               updated = $1
             WHERE state IN ('get', 'check', 'unpack')",
        )
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected())
    }
}
