//! Exceptions from the limits of grains, by app and by account.

use super::{AccountId, Audit, Result, Store};

/// Whose exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSubject {
    /// All grains of an app, by its id.
    App(String),
    /// All grains that an account owns.
    Account(AccountId),
}

/// One exception.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRow {
    /// Whose.
    pub subject: LimitSubject,
    /// Name in the table of limits.
    pub name: String,
    /// In that limit's unit.
    pub value: i64,
}

impl LimitSubject {
    /// Table and key column.
    fn place(&self) -> (&'static str, &'static str) {
        match self {
            LimitSubject::App(_) => ("app_limits", "app_id"),
            LimitSubject::Account(_) => ("account_limits", "account"),
        }
    }
}

/// Binds the subject's key as the first parameter.
macro_rules! keyed {
    ($query:expr, $subject:expr) => {
        match $subject {
            LimitSubject::App(id) => $query.bind(id.clone()),
            LimitSubject::Account(id) => $query.bind(*id),
        }
    };
}

impl Store {
    /// A subject's exceptions: name and value.
    pub async fn limits_of(&self, subject: &LimitSubject) -> Result<Vec<(String, i64)>> {
        let (table, key) = subject.place();
        let sql = format!("SELECT name, value FROM {table} WHERE {key} = $1 ORDER BY name");
        Ok(keyed!(sqlx::query_as(&sql), subject).fetch_all(&self.read).await?)
    }

    /// Every exception: apps first.
    pub async fn all_limits(&self) -> Result<Vec<LimitRow>> {
        let apps: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT app_id, name, value FROM app_limits ORDER BY app_id, name")
                .fetch_all(&self.read)
                .await?;
        let accounts: Vec<(AccountId, String, i64)> = sqlx::query_as(
            "SELECT account, name, value FROM account_limits ORDER BY account, name",
        )
        .fetch_all(&self.read)
        .await?;
        let apps = apps.into_iter().map(|(id, name, value)| (LimitSubject::App(id), name, value));
        let accounts =
            accounts.into_iter().map(|(id, name, value)| (LimitSubject::Account(id), name, value));
        let row = |(subject, name, value)| LimitRow { subject, name, value };
        Ok(apps.chain(accounts).map(row).collect())
    }

    /// Makes or changes an exception, with a line in the audit log.
    pub async fn set_limit(
        &self,
        subject: &LimitSubject,
        name: &str,
        value: i64,
        audit: &Audit<'_>,
    ) -> Result<()> {
        let (table, key) = subject.place();
        let sql = format!(
            "INSERT INTO {table} ({key}, name, value) VALUES ($1, $2, $3)
             ON CONFLICT ({key}, name) DO UPDATE SET value = excluded.value"
        );
        let mut tx = self.write.begin().await?;
        keyed!(sqlx::query(&sql), subject).bind(name).bind(value).execute(&mut *tx).await?;
        audit.write(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Takes back one exception, or all of the subject's; how many there were. A line in the audit
    /// log goes with it if there were any.
    pub async fn clear_limits(
        &self,
        subject: &LimitSubject,
        name: Option<&str>,
        audit: &Audit<'_>,
    ) -> Result<u64> {
        let (table, key) = subject.place();
        let sql = format!("DELETE FROM {table} WHERE {key} = $1 AND ($2 = '' OR name = $2)");
        let query = keyed!(sqlx::query(&sql), subject).bind(name.unwrap_or_default());
        let mut tx = self.write.begin().await?;
        let cleared = query.execute(&mut *tx).await?.rows_affected();
        if cleared > 0 {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(cleared)
    }

    /// Notes how full a grain's disk limit is, in percent; what was noted before.
    pub async fn grain_fullness(&self, id: &str, percent: i64) -> Result<i64> {
        let mut tx = self.write.begin().await?;
        let before: Option<i64> = sqlx::query_scalar("SELECT fullness FROM grains WHERE id = $1")
            .bind(id)
            .fetch_optional(&mut *tx)
            .await?;
        sqlx::query("UPDATE grains SET fullness = $2 WHERE id = $1 AND fullness <> $2")
            .bind(id)
            .bind(percent)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(before.unwrap_or(percent))
    }
}
