//! Grain sessions: what outlives a restart of the server, so that open tabs go on working.

use sqlx::FromRow;

use super::{AccountId, Audit, LoginId, Result, Store, now_ms};

/// A grain opened by a sign-in, or (without one) for a script.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct GrainSessionRow {
    /// Host label in wildcard mode; `port/` and a part of the hash in port mode.
    pub host: String,
    /// Which grain.
    pub grain: String,
    /// Whose.
    pub account: AccountId,
    /// By which sign-in; none for a script's.
    pub login_session: Option<LoginId>,
    /// SHA-256 of the hand-over cookie.
    pub sid_hash: Vec<u8>,
    /// JSON list of permission names; none means all.
    pub permissions: Option<String>,
    /// Milliseconds since 1970; none: as long as the sign-in.
    pub expires: Option<i64>,
}

impl Store {
    /// Records or refreshes a session, with a line in the audit log if one is given.
    pub async fn save_grain_session(
        &self,
        row: &GrainSessionRow,
        audit: Option<&Audit<'_>>,
    ) -> Result<()> {
        let mut tx = self.write.begin().await?;
        sqlx::query(
            "INSERT INTO grain_sessions
               (host, grain, account, login_session, sid_hash, permissions, created, expires)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
             ON CONFLICT (host) DO UPDATE SET permissions = excluded.permissions,
               sid_hash = excluded.sid_hash, expires = excluded.expires",
        )
        .bind(&row.host)
        .bind(&row.grain)
        .bind(row.account)
        .bind(row.login_session)
        .bind(&row.sid_hash)
        .bind(&row.permissions)
        .bind(now_ms())
        .bind(row.expires)
        .execute(&mut *tx)
        .await?;
        if let Some(audit) = audit {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Whether [`Store::grain_session`] would find this row of a sign-in, were it written.
    pub async fn is_grain_session_good(&self, row: &GrainSessionRow) -> Result<bool> {
        let good: i64 = sqlx::query_scalar(
            "SELECT COUNT(*)
             FROM grains g
             JOIN accounts a ON a.id = $2
             JOIN login_sessions l ON l.id = $3 AND l.account = a.id
             WHERE g.id = $1 AND g.trashed_at IS NULL AND a.suspended IS NULL AND l.expires > $4",
        )
        .bind(&row.grain)
        .bind(row.account)
        .bind(row.login_session)
        .bind(now_ms())
        .fetch_one(&self.read)
        .await?;
        Ok(good > 0)
    }

    /// The live session of this key; see [`Store::grain_sessions`].
    pub async fn grain_session(&self, host: &str) -> Result<Option<GrainSessionRow>> {
        Ok(self.grain_sessions(&[host]).await?.pop())
    }

    /// The live sessions of these keys: neither they nor their sign-ins have ended or expired, their
    /// accounts are not suspended, and their grains are not in the trash.
    pub async fn grain_sessions(&self, hosts: &[&str]) -> Result<Vec<GrainSessionRow>> {
        Ok(sqlx::query_as(
            "SELECT s.host, s.grain, s.account, s.login_session, s.sid_hash, s.permissions,
               s.expires
             FROM grain_sessions s
             JOIN grains g ON g.id = s.grain
             JOIN accounts a ON a.id = s.account
             LEFT JOIN login_sessions l ON l.id = s.login_session
             WHERE s.host IN (SELECT value FROM json_each($1)) AND s.sid_hash IS NOT NULL AND g.trashed_at IS NULL
               AND a.suspended IS NULL
               AND (s.expires IS NULL OR s.expires > $2)
               AND (s.login_session IS NULL OR l.expires > $2)",
        )
        .bind(serde_json::json!(hosts).to_string())
        .bind(now_ms())
        .fetch_all(&self.read)
        .await?)
    }
}
