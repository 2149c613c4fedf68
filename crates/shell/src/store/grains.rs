//! Grains: who owns which, of which package, and how each last ended.

use sqlx::FromRow;

use super::{AccountId, Audit, Result, Store, now_ms};

/// One grain.
#[derive(Clone, Debug, FromRow)]
pub struct Grain {
    /// Its id, in every path and address.
    pub id: String,
    /// The version that it runs.
    pub package_id: String,
    /// Whose app.
    pub app_id: String,
    /// The version's order number.
    pub app_version: i64,
    /// Who owns it.
    pub owner: AccountId,
    /// Hostile text.
    pub title: String,
    /// What the app calls such a thing; hostile text, may be empty.
    pub noun: String,
    /// The action (index in the manifest) that made it.
    pub action: i64,
    /// When it first came up; null means that the action's command still has to run.
    pub started: Option<i64>,
    /// When it was made.
    pub created: i64,
    /// When it was last opened.
    pub last_used: i64,
    /// Bytes of its storage, as last measured.
    pub size: i64,
    /// Percent of its disk limit, as last measured.
    pub fullness: i64,
    /// Since when it is in the trash.
    pub trashed_at: Option<i64>,
    /// When it last ended by itself.
    pub exit_at: Option<i64>,
    /// Code of that end, for page and log.
    pub exit_code: Option<String>,
    /// Words for it.
    pub exit_reason: Option<String>,
}

/// What a new grain is made of.
#[derive(Debug)]
pub struct NewGrain<'a> {
    /// A fresh id.
    pub id: &'a str,
    /// Of which package.
    pub package: &'a super::Package,
    /// Whose.
    pub owner: AccountId,
    /// What it is called.
    pub title: &'a str,
    /// What kind of thing it is.
    pub noun: &'a str,
    /// Which action makes it.
    pub action: i64,
}

pub(super) const COLUMNS: &str = "g.id, g.package_id, g.app_id, g.app_version, g.owner, g.title,
    g.noun, g.action, g.started, g.created, g.last_used, g.size, g.fullness, g.trashed_at,
    g.exit_at, g.exit_code, g.exit_reason";

/// What the search box looks through.
fn search_text(title: &str, app_title: &str) -> String {
    format!("{title}\n{app_title}").to_lowercase()
}

impl Store {
    /// Records a new grain.
    pub async fn create_grain(&self, new: &NewGrain<'_>) -> Result<()> {
        sqlx::query(
            "INSERT INTO grains (id, package_id, app_id, app_version, owner, title, search, noun,
               action, created, last_used)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
        )
        .bind(new.id)
        .bind(&new.package.package_id)
        .bind(&new.package.app_id)
        .bind(new.package.app_version)
        .bind(new.owner)
        .bind(new.title)
        .bind(search_text(new.title, &new.package.title))
        .bind(new.noun)
        .bind(new.action)
        .bind(now_ms())
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// The grain, in the trash or not.
    pub async fn grain(&self, id: &str) -> Result<Option<Grain>> {
        let sql = format!("SELECT {COLUMNS} FROM grains g WHERE g.id = $1");
        Ok(sqlx::query_as(&sql).bind(id).fetch_optional(&self.read).await?)
    }

    /// Every grain, for the operator.
    pub async fn all_grains(&self) -> Result<Vec<Grain>> {
        let sql = format!("SELECT {COLUMNS} FROM grains g ORDER BY g.created, g.id");
        Ok(sqlx::query_as(&sql).fetch_all(&self.read).await?)
    }

    /// Calls a grain something else.
    pub async fn rename_grain(&self, id: &str, title: &str) -> Result<()> {
        let mut tx = self.write.begin().await?;
        let app: Option<String> = sqlx::query_scalar(
            "SELECT p.title FROM grains g JOIN packages p ON p.package_id = g.package_id
             WHERE g.id = $1",
        )
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(app) = app {
            sqlx::query("UPDATE grains SET title = $2, search = $3 WHERE id = $1")
                .bind(id)
                .bind(title)
                .bind(search_text(title, &app))
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// The first start succeeded: from now on the package's continue command runs.
    pub async fn grain_started(&self, id: &str) -> Result<()> {
        sqlx::query("UPDATE grains SET started = $2 WHERE id = $1 AND started IS NULL")
            .bind(id)
            .bind(now_ms())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Somebody opened it.
    pub async fn grain_opened(&self, id: &str) -> Result<()> {
        sqlx::query("UPDATE grains SET last_used = $2 WHERE id = $1")
            .bind(id)
            .bind(now_ms())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// How much it stores, in bytes.
    pub async fn grain_size(&self, id: &str, bytes: i64) -> Result<()> {
        sqlx::query("UPDATE grains SET size = $2 WHERE id = $1 AND size <> $2")
            .bind(id)
            .bind(bytes)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// How it ended by itself; `None` forgets that, once it runs again.
    pub async fn grain_exit(&self, id: &str, exit: Option<(&str, &str)>) -> Result<()> {
        sqlx::query(
            "UPDATE grains SET exit_at = $2, exit_code = $3, exit_reason = $4
             WHERE id = $1 AND (exit_at IS NOT NULL OR $2 IS NOT NULL)",
        )
        .bind(id)
        .bind(exit.map(|_| now_ms()))
        .bind(exit.map(|e| e.0))
        .bind(exit.map(|e| e.1))
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// Moves grains of one owner into the trash, or back, with a line in the audit log if one is
    /// given and any moved; how many did.
    pub async fn trash_grains(
        &self,
        owner: AccountId,
        ids: &[&str],
        into: bool,
        audit: Option<&Audit<'_>>,
    ) -> Result<u64> {
        let mut tx = self.write.begin().await?;
        let mut moved = 0;
        let now = now_ms();
        for id in ids {
            let sql = if into {
                "UPDATE grains SET trashed_at = $3
                 WHERE id = $1 AND owner = $2 AND trashed_at IS NULL"
            } else {
                "UPDATE grains SET trashed_at = NULL
                 WHERE id = $1 AND owner = $2 AND trashed_at IS NOT NULL AND doomed = 0"
            };
            let mut update = sqlx::query(sql).bind(*id).bind(owner);
            if into {
                update = update.bind(now);
            }
            moved += update.execute(&mut *tx).await?.rows_affected();
        }
        if let Some(audit) = audit.filter(|_| moved > 0) {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(moved)
    }

    /// Grains that have been in the trash since before `before`, and those whose end was begun.
    pub async fn trashed_before(&self, before: i64) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar("SELECT id FROM grains WHERE trashed_at < $1 OR doomed = 1")
            .bind(before)
            .fetch_all(&self.read)
            .await?)
    }

    /// Begins a grain's end, which can only be finished from here on; whether it was to be had: with
    /// `trashed_before` only out of the trash, since before that time. A line in the audit log goes with it if one
    /// is given.
    pub async fn doom_grain(
        &self,
        id: &str,
        trashed_before: Option<i64>,
        audit: Option<&Audit<'_>>,
    ) -> Result<bool> {
        let mut tx = self.write.begin().await?;
        let doomed = sqlx::query(
            "UPDATE grains SET doomed = 1, trashed_at = COALESCE(trashed_at, $2)
             WHERE id = $1 AND ($3 IS NULL OR trashed_at < $3 OR doomed = 1)",
        )
        .bind(id)
        .bind(now_ms())
        .bind(trashed_before)
        .execute(&mut *tx)
        .await?;
        let doomed = doomed.rows_affected() > 0;
        if let Some(audit) = audit.filter(|_| doomed) {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(doomed)
    }

    /// Takes that back, while nothing has been removed: it is in the trash then.
    pub async fn spare_grain(&self, id: &str) -> Result<()> {
        sqlx::query("UPDATE grains SET doomed = 0 WHERE id = $1")
            .bind(id)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Forgets a grain whose storage is gone.
    pub async fn destroy_grain(&self, id: &str) -> Result<()> {
        sqlx::query("DELETE FROM grains WHERE id = $1").bind(id).execute(&self.write).await?;
        Ok(())
    }

    /// Marks a grain as a favourite of a person, or not.
    pub async fn star(&self, account: AccountId, grain: &str, on: bool) -> Result<()> {
        let sql = if on {
            "INSERT INTO stars (account, grain) VALUES ($1, $2) ON CONFLICT DO NOTHING"
        } else {
            "DELETE FROM stars WHERE account = $1 AND grain = $2"
        };
        sqlx::query(sql).bind(account).bind(grain).execute(&self.write).await?;
        Ok(())
    }

    /// Whether a person marked it.
    pub async fn starred(&self, account: AccountId, grain: &str) -> Result<bool> {
        let n: i64 =
            sqlx::query_scalar("SELECT COUNT(*) FROM stars WHERE account = $1 AND grain = $2")
                .bind(account)
                .bind(grain)
                .fetch_one(&self.read)
                .await?;
        Ok(n > 0)
    }
}
