//! The server's audit log: what operators and administrators did, who signed in as one, and what
//! others did to what everybody shares.
//!
//! It has a bound, and whoever has something to hide must not be able to push it out. What members
//! can cause without end are lines of their own alone (an app that they bring and delete, again and
//! again), and a script of the operator's may open a session every minute. So where lines have to go,
//! the oldest go of whoever did the most of one kind; a line of another person's, or of another kind,
//! stays until theirs are as few.

use std::net::IpAddr;

use sqlx::{FromRow, SqliteConnection};

use super::{AccountId, DAY, Result, Store, StoreError, now_ms};

/// Lines are kept for so long: a year and a month, so that a look back once a year misses none.
pub(super) const AUDIT_DAYS: i64 = 396;
/// And so many of them: some 20 MB, and ten an hour for all of that time.
pub(super) const AUDIT_LINES: i64 = 100_000;

/// Who does something that the audit log tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// The operator, by a command: over a socket that only the server's user and root can open.
    Command,
    /// An account, from this address.
    Person(AccountId, IpAddr),
}

/// One line of the audit log.
#[derive(Clone, Debug)]
pub struct AuditLine {
    /// When.
    pub at: i64,
    /// Who, if an account did it that is still there.
    pub account: Option<AccountId>,
    /// From where; none for an operator's command, and for what was done before addresses were noted.
    pub address: Option<IpAddr>,
    /// What was done.
    pub action: String,
    /// To what.
    pub target: String,
    /// How.
    pub detail: String,
}

#[derive(FromRow)]
struct Row {
    at: i64,
    account: Option<AccountId>,
    address: Option<String>,
    action: String,
    target: String,
    detail: String,
}

impl TryFrom<Row> for AuditLine {
    type Error = StoreError;
    fn try_from(row: Row) -> Result<AuditLine> {
        let Row { at, account, address, action, target, detail } = row;
        let address = address.map(|value| super::word("address", &value)).transpose()?;
        Ok(AuditLine { at, account, address, action, target, detail })
    }
}

/// A line to be: written with the change that it tells of, in one transaction, or not at all.
#[derive(Clone, Copy, Debug)]
pub struct Audit<'a> {
    /// Who.
    pub by: By,
    /// What is done.
    pub action: &'a str,
    /// To what.
    pub target: &'a str,
    /// How.
    pub detail: &'a str,
}

impl Audit<'_> {
    /// Adds the line to what `tx` is about to commit.
    pub(super) async fn write(&self, tx: &mut SqliteConnection) -> Result<()> {
        let (account, address) = match self.by {
            By::Command => (None, None),
            By::Person(account, address) => (Some(account), Some(address.to_string())),
        };
        sqlx::query(
            "INSERT INTO audit (at, account, address, action, target, detail)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(now_ms())
        .bind(account)
        .bind(address)
        .bind(self.action)
        .bind(self.target)
        .bind(self.detail)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Takes away lines that are too old, and of more than `most` those of whoever did the most of one
/// kind.
pub(super) async fn forget_old(tx: &mut SqliteConnection, now: i64, most: i64) -> Result<()> {
    sqlx::query("DELETE FROM audit WHERE at < $1")
        .bind(now - AUDIT_DAYS * DAY)
        .execute(&mut *tx)
        .await?;
    let lines: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM audit").fetch_one(&mut *tx).await?;
    if lines > most {
        // An account that is gone has left addresses, which a command has not.
        sqlx::query(
            "DELETE FROM audit WHERE id IN (SELECT id FROM (
               SELECT id, ROW_NUMBER() OVER (
                 PARTITION BY account, address IS NULL, action ORDER BY id DESC) AS place
               FROM audit) ranked ORDER BY place DESC, id LIMIT $1)",
        )
        .bind(lines - most)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

impl Store {
    /// Adds a line to the audit log, about what no change of the database goes with.
    pub async fn audit(&self, line: &Audit<'_>) -> Result<()> {
        let mut writer = self.write.acquire().await?;
        line.write(&mut writer).await
    }

    /// The latest lines of the audit log, and of what one person did of one kind the latest `of_a_kind`.
    pub async fn audit_lines(&self, limit: i64, of_a_kind: i64) -> Result<Vec<AuditLine>> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT at, account, address, action, target, detail FROM (
               SELECT *, ROW_NUMBER() OVER (
                 PARTITION BY account, address IS NULL, action ORDER BY id DESC) AS place
               FROM audit) ranked
             WHERE place <= $1 ORDER BY id DESC LIMIT $2",
        )
        .bind(of_a_kind)
        .bind(limit)
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(AuditLine::try_from).collect()
    }
}
