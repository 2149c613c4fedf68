//! Who uses a package and whose budget it is in, and the end of one that nobody uses.

use std::collections::HashSet;
use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, FromRow, SqliteConnection};

use super::packages::COLUMNS;
use super::{AccountId, Audit, Package, Result, Store, now_ms};

/// What an account brought (sums).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Brought {
    /// Packages.
    pub packages: i64,
    /// Bytes on the disk.
    pub disk: i64,
    /// Files and directories.
    pub entries: i64,
}

/// Who uses a package.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromRow)]
pub struct Uses {
    /// Grains, those in the trash among them.
    pub grains: i64,
    /// Of these, in the trash.
    pub trashed: i64,
    /// People who have it in their list of apps.
    pub people: i64,
    /// It is there for everybody who chose no other version.
    pub for_all: bool,
    /// Of the grains, those of the person who asks.
    pub own: i64,
    /// Of these, in the trash.
    pub own_trashed: i64,
    /// The person who asks has it in their list.
    pub own_list: bool,
}

impl Uses {
    /// Whether somebody else has it in their list.
    pub fn in_other_lists(&self) -> bool {
        self.for_all || self.people > i64::from(self.own_list)
    }
}

/// What became of a wish to remove a package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// There is none of this id.
    Unknown,
    /// Somebody uses it; nothing has changed.
    Used(Uses),
    /// It is gone, and off the lists of these people.
    Gone(Vec<AccountId>),
}

/// The files of a package that goes, or comes and fails, are gone within this (milliseconds).
const UNDER_WAY: i64 = 60_000;

const USES: &str = "SELECT
    (SELECT COUNT(*) FROM grains WHERE package_id = $1) AS grains,
    (SELECT COUNT(*) FROM grains WHERE package_id = $1 AND trashed_at IS NOT NULL) AS trashed,
    (SELECT COUNT(*) FROM account_apps WHERE package_id = $1) AS people,
    EXISTS (SELECT 1 FROM server_apps WHERE package_id = $1) AS for_all,
    (SELECT COUNT(*) FROM grains WHERE package_id = $1 AND owner = $2) AS own,
    (SELECT COUNT(*) FROM grains WHERE package_id = $1 AND owner = $2
       AND trashed_at IS NOT NULL) AS own_trashed,
    EXISTS (SELECT 1 FROM account_apps WHERE package_id = $1 AND account = $2) AS own_list";

impl Store {
    /// What the packages that this account brought take.
    pub async fn brought_by(&self, account: AccountId) -> Result<Brought> {
        Ok(sqlx::query_as(
            "SELECT COUNT(*) AS packages, COALESCE(SUM(disk), 0) AS disk,
               COALESCE(SUM(entries), 0) AS entries
             FROM packages WHERE installed_by = $1",
        )
        .bind(account)
        .fetch_one(&self.read)
        .await?)
    }

    /// Bytes on the disk by who brought them.
    pub async fn brought_by_each(&self) -> Result<Vec<(AccountId, i64)>> {
        Ok(sqlx::query_as(
            "SELECT installed_by, COALESCE(SUM(disk), 0) FROM packages
             WHERE installed_by IS NOT NULL GROUP BY installed_by",
        )
        .fetch_all(&self.read)
        .await?)
    }

    /// These packages, the largest first.
    pub async fn packages_of(&self, account: AccountId) -> Result<Vec<Package>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM packages p WHERE p.installed_by = $1
             ORDER BY p.disk DESC, p.package_id"
        );
        Ok(sqlx::query_as(&sql).bind(account).fetch_all(&self.read).await?)
    }

    /// Who uses a package; `of`: the person who asks.
    pub async fn package_uses(&self, package_id: &str, of: Option<AccountId>) -> Result<Uses> {
        Ok(sqlx::query_as(USES).bind(package_id).bind(of).fetch_one(&self.read).await?)
    }

    /// Forgets a package that no grain uses, in one transaction: after it the package is gone for
    /// everybody, whatever becomes of its files. `by`: a person who may not take it out of the
    /// lists of others; `None` may. A line in the audit log goes with it.
    pub async fn remove_package(
        &self,
        package_id: &str,
        by: Option<AccountId>,
        audit: &Audit<'_>,
    ) -> Result<Removal> {
        let mut tx = self.write.begin().await?;
        let known: Option<i64> =
            sqlx::query_scalar("SELECT installed FROM packages WHERE package_id = $1")
                .bind(package_id)
                .fetch_optional(&mut *tx)
                .await?;
        if known.is_none() {
            return Ok(Removal::Unknown);
        }
        let uses: Uses = sqlx::query_as(USES).bind(package_id).bind(by).fetch_one(&mut *tx).await?;
        let people: Vec<AccountId> =
            sqlx::query_scalar("SELECT account FROM account_apps WHERE package_id = $1")
                .bind(package_id)
                .fetch_all(&mut *tx)
                .await?;
        if uses.grains > 0 || (by.is_some() && uses.in_other_lists()) {
            return Ok(Removal::Used(uses));
        }
        sqlx::query("INSERT INTO removals (package_id, at) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(package_id)
            .bind(now_ms())
            .execute(&mut *tx)
            .await?;
        for table in ["account_apps", "server_apps", "installs", "packages"] {
            sqlx::query(&format!("DELETE FROM {table} WHERE package_id = $1"))
                .bind(package_id)
                .execute(&mut *tx)
                .await?;
        }
        audit.write(&mut tx).await?;
        tx.commit().await?;
        Ok(Removal::Gone(people))
    }

    /// Notes that the files of this package are about to get their names: without the row that
    /// [`Store::add_package`] writes then, they are nobody's and go. False for a package that has
    /// its row already.
    pub async fn note_placing(&self, package_id: &str) -> Result<bool> {
        let noted = sqlx::query(
            "INSERT INTO removals (package_id, at) SELECT $1, $2
             WHERE NOT EXISTS (SELECT 1 FROM packages WHERE package_id = $1)
             ON CONFLICT (package_id) DO UPDATE SET at = excluded.at",
        )
        .bind(package_id)
        .bind(now_ms())
        .execute(&self.write)
        .await?;
        Ok(noted.rows_affected() > 0)
    }

    /// Packages that are gone, or never came to have a row, whose files may still be there.
    pub async fn removals(&self) -> Result<Vec<String>> {
        Ok(sqlx::query_scalar(
            "SELECT package_id FROM removals
             WHERE package_id NOT IN (SELECT package_id FROM packages)",
        )
        .fetch_all(&self.read)
        .await?)
    }

    /// The files are gone too.
    pub async fn removal_done(&self, package_id: &str) -> Result<()> {
        sqlx::query("DELETE FROM removals WHERE package_id = $1")
            .bind(package_id)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// Ids of all packages in a database that a running server may have open, those among them
    /// that are just coming or going; nothing is changed.
    pub async fn known_packages(path: &Path) -> Result<HashSet<String>> {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let known = sqlx::query_scalar(
            "SELECT package_id FROM packages
             UNION SELECT package_id FROM installs WHERE state = 'unpack'
             UNION SELECT package_id FROM removals WHERE at > $1",
        )
        .bind(now_ms() - UNDER_WAY)
        .fetch_all(&mut connection)
        .await?;
        connection.close().await?;
        Ok(known.into_iter().collect())
    }
}
