//! A look at the database from outside, for `check`: nothing is changed, no server need run, and one
//! that runs is not disturbed.

use std::collections::HashSet;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::{MIGRATIONS, Result, Store, StoreError};

/// The grains that a database knows.
#[derive(Debug, Default)]
pub struct KnownGrains {
    /// All of them.
    pub all: HashSet<String>,
    /// Those that have been used, so that there are data; none that is just being destroyed.
    pub used: Vec<String>,
}

impl Store {
    /// Whether a start could use this file: it is sound, and of this version or an older one.
    ///
    /// # Errors
    /// `Open`, `Migrate` or `Damaged`.
    pub async fn examine(path: &Path) -> Result<()> {
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let mut database = connect(path).await.map_err(open)?;
        let said: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut database)
            .await
            .map_err(open)?;
        if said != "ok" {
            return Err(StoreError::Damaged { path: path.to_owned(), said });
        }
        if has_table(&mut database, "_sqlx_migrations").await? {
            let done: Vec<i64> = sqlx::query_scalar("SELECT version FROM _sqlx_migrations")
                .fetch_all(&mut database)
                .await?;
            if let Some(newer) = done.into_iter().find(|v| !MIGRATIONS.version_exists(*v)) {
                let source = sqlx::migrate::MigrateError::VersionMissing(newer);
                return Err(StoreError::Migrate { path: path.to_owned(), source });
            }
        }
        Ok(database.close().await?)
    }

    /// The grains of this database; none where it is still empty.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn known_grains(path: &Path) -> Result<KnownGrains> {
        let mut database = connect(path).await?;
        let mut known = KnownGrains::default();
        if has_table(&mut database, "grains").await? {
            let rows: Vec<(String, bool)> = sqlx::query_as(
                "SELECT id, started IS NOT NULL AND doomed = 0 FROM grains ORDER BY id",
            )
            .fetch_all(&mut database)
            .await?;
            known.used = rows.iter().filter(|(_, used)| *used).map(|(id, _)| id.clone()).collect();
            known.all = rows.into_iter().map(|(id, _)| id).collect();
        }
        database.close().await?;
        Ok(known)
    }
}

async fn connect(path: &Path) -> sqlx::Result<SqliteConnection> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    SqliteConnection::connect_with(&options).await
}

async fn has_table(database: &mut SqliteConnection, name: &str) -> Result<bool> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM sqlite_master WHERE name = $1")
        .bind(name)
        .fetch_one(database)
        .await?;
    Ok(count > 0)
}
