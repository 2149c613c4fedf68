//! Login sessions: a 256-bit secret in a cookie, of which the hash is kept.

use sqlx::FromRow;

use super::{
    Account, AccountId, DAY, LoginId, Result, Store, audit, hash_secret, now_ms, random, word,
};

/// A session ends after so many days without use.
pub const SESSION_DAYS: i64 = 30;
/// `last_seen` is written at most this often (milliseconds), since each write is an fsync.
const SEEN_EVERY: i64 = 10 * 60 * 1000;

/// A signed-in browser and whose it is.
#[derive(Clone, Debug)]
pub struct LoginSession {
    /// Its number, for lists of devices.
    pub id: LoginId,
    /// Who is signed in.
    pub account: Account,
    /// When they signed in.
    pub created: i64,
    /// Last use, to ten minutes.
    pub last_seen: i64,
    /// The browser's own words; hostile text.
    pub user_agent: String,
}

/// A session just made: the only moment at which its secret is known.
#[derive(Debug)]
pub struct NewLogin {
    /// For the cookie.
    pub secret: [u8; 32],
    /// The session's number.
    pub id: LoginId,
}

#[derive(FromRow)]
struct SessionRow {
    id: LoginId,
    created: i64,
    last_seen: i64,
    user_agent: String,
    account: AccountId,
    display_name: String,
    handle: String,
    role: String,
    account_created: i64,
    suspended: Option<i64>,
}

impl TryFrom<SessionRow> for LoginSession {
    type Error = super::StoreError;
    fn try_from(row: SessionRow) -> Result<LoginSession> {
        Ok(LoginSession {
            id: row.id,
            account: Account {
                id: row.account,
                display_name: row.display_name,
                handle: row.handle,
                role: word("role", &row.role)?,
                created: row.account_created,
                suspended: row.suspended,
            },
            created: row.created,
            last_seen: row.last_seen,
            user_agent: row.user_agent,
        })
    }
}

const COLUMNS: &str = "s.id, s.created, s.last_seen, s.user_agent, s.account,
    a.display_name, a.handle, a.role, a.created AS account_created, a.suspended
    FROM login_sessions s JOIN accounts a ON a.id = s.account";

impl Store {
    /// Signs an account in on one browser; none for an account that is suspended.
    pub async fn create_login(
        &self,
        account: AccountId,
        user_agent: &str,
    ) -> Result<Option<NewLogin>> {
        let mut tx = self.write.begin().await?;
        let login = new_login(&mut tx, account, user_agent).await?;
        tx.commit().await?;
        Ok(login)
    }

    /// The live session of this secret, of an account that is not suspended.
    pub async fn login(&self, secret: &[u8; 32]) -> Result<Option<LoginSession>> {
        let now = now_ms();
        let row: Option<SessionRow> = sqlx::query_as(&format!(
            "SELECT {COLUMNS} WHERE s.hash = $1 AND s.expires > $2 AND a.suspended IS NULL"
        ))
        .bind(&hash_secret(secret)[..])
        .bind(now)
        .fetch_optional(&self.read)
        .await?;
        let Some(row) = row else { return Ok(None) };
        if row.last_seen + SEEN_EVERY < now {
            let seen =
                sqlx::query("UPDATE login_sessions SET last_seen = $2, expires = $3 WHERE id = $1")
                    .bind(row.id)
                    .bind(now)
                    .bind(now + SESSION_DAYS * DAY)
                    .execute(&self.write)
                    .await;
            // Reading goes on when nothing can be written: who makes room must be let in.
            if let Err(error) = seen {
                tracing::warn!("a sign-in's last use could not be noted: {error}");
            }
        }
        row.try_into().map(Some)
    }

    /// The live session with this number: for what outlives the request that named the secret.
    pub async fn login_by_id(&self, id: LoginId) -> Result<Option<LoginSession>> {
        let row: Option<SessionRow> = sqlx::query_as(&format!(
            "SELECT {COLUMNS} WHERE s.id = $1 AND s.expires > $2 AND a.suspended IS NULL"
        ))
        .bind(id)
        .bind(now_ms())
        .fetch_optional(&self.read)
        .await?;
        row.map(LoginSession::try_from).transpose()
    }

    /// All live sessions of an account, latest first.
    pub async fn logins_of(&self, account: AccountId) -> Result<Vec<LoginSession>> {
        let rows: Vec<SessionRow> = sqlx::query_as(&format!(
            "SELECT {COLUMNS} WHERE s.account = $1 AND s.expires > $2 ORDER BY s.last_seen DESC"
        ))
        .bind(account)
        .bind(now_ms())
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(LoginSession::try_from).collect()
    }

    /// Signs one session of this account out; false when it is not one of theirs.
    pub async fn end_login(&self, account: AccountId, id: LoginId) -> Result<bool> {
        let done = sqlx::query("DELETE FROM login_sessions WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(account)
            .execute(&self.write)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes what has expired: sessions, links, and notices older than 90 days.
    pub async fn sweep(&self) -> Result<()> {
        let now = now_ms();
        let mut tx = self.write.begin().await?;
        for sql in [
            "DELETE FROM login_sessions WHERE expires <= $1",
            "DELETE FROM grain_sessions WHERE expires IS NOT NULL AND expires <= $1",
            "DELETE FROM one_time_links WHERE expires <= $1",
        ] {
            sqlx::query(sql).bind(now).execute(&mut *tx).await?;
        }
        sqlx::query("DELETE FROM installs WHERE state = 'failed' AND updated < $1")
            .bind(now - 30 * DAY)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM notices WHERE created < $1")
            .bind(now - 90 * DAY)
            .execute(&mut *tx)
            .await?;
        audit::forget_old(&mut tx, now, audit::AUDIT_LINES).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// [`Store::create_login`], as a part of something larger.
pub(super) async fn new_login(
    tx: &mut sqlx::SqliteConnection,
    account: AccountId,
    user_agent: &str,
) -> Result<Option<NewLogin>> {
    let secret = random::<32>();
    let now = now_ms();
    let agent: String = user_agent.chars().filter(|c| !c.is_control()).take(300).collect();
    let id = sqlx::query_scalar(
        "INSERT INTO login_sessions (hash, account, created, last_seen, expires, user_agent)
         SELECT $1, id, $3, $3, $4, $5 FROM accounts WHERE id = $2 AND suspended IS NULL
         RETURNING id",
    )
    .bind(&hash_secret(&secret)[..])
    .bind(account)
    .bind(now)
    .bind(now + SESSION_DAYS * DAY)
    .bind(agent)
    .fetch_optional(tx)
    .await?;
    Ok(id.map(|id| NewLogin { secret, id }))
}
