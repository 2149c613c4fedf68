//! Packages that are unpacked, and who uses which.

use sqlx::FromRow;

use super::{AccountId, Audit, Result, Store, now_ms};

/// A package whose tree stands in `apps/`.
#[derive(Clone, Debug, FromRow)]
pub struct Package {
    /// 32 hexadecimal characters.
    pub package_id: String,
    /// 52 characters: the signing key.
    pub app_id: String,
    /// Hostile text.
    pub title: String,
    /// Orders the versions of one app.
    pub app_version: i64,
    /// The version as people say it; hostile text.
    pub marketing_version: String,
    /// The author's PGP fingerprint, if the package proves one.
    pub fingerprint: Option<String>,
    /// Bytes of the .spk file.
    pub packed_size: i64,
    /// Bytes of the unpacked tree.
    pub unpacked_size: i64,
    /// Bytes on the disk, file and tree.
    pub disk: i64,
    /// Files and directories of the tree; 0 when nobody counted them.
    pub entries: i64,
    /// When it was installed.
    pub installed: i64,
    /// Who brought it, and has it in their budget.
    pub installed_by: Option<AccountId>,
}

impl Package {
    /// The version for people: the author's words, else the number.
    pub fn version(&self) -> String {
        match self.marketing_version.trim() {
            "" => self.app_version.to_string(),
            words => words.to_owned(),
        }
    }

    /// The number that orders the versions, as the control socket tells it.
    pub fn number(&self) -> u32 {
        u32::try_from(self.app_version).unwrap_or(u32::MAX)
    }
}

/// What a package needs to be recorded.
#[derive(Debug)]
pub struct NewPackage<'a> {
    /// Identity and sizes.
    pub package: &'a Package,
    /// The manifest message, framed.
    pub manifest: &'a [u8],
    /// Its actions, in the manifest's order.
    pub actions: &'a [Action],
}

/// One way to make a grain of a package.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Action {
    /// Its index in the manifest.
    pub position: i64,
    /// What it makes ("board"); hostile text.
    pub noun: String,
    /// The author's words; hostile text.
    pub description: String,
}

/// An app in somebody's list.
#[derive(Clone, Debug)]
pub struct AppRow {
    /// The version they have.
    pub package: Package,
    /// What it can make.
    pub actions: Vec<Action>,
    /// How many grains of it they own, outside the trash.
    pub grains: i64,
    /// False when it is there for everybody.
    pub own: bool,
}

pub(super) const COLUMNS: &str = "p.package_id, p.app_id, p.title, p.app_version,
    p.marketing_version, p.fingerprint, p.packed_size, p.unpacked_size, p.disk, p.entries,
    p.installed, p.installed_by";

#[derive(FromRow)]
struct AppQueryRow {
    #[sqlx(flatten)]
    package: Package,
    grains: i64,
    own: bool,
}

impl Store {
    /// Records a package whose tree is in place, and ends its installation with `confirm`, in one
    /// transaction. Recording one that is known already changes nothing but the installation.
    pub async fn add_package(&self, new: &NewPackage<'_>) -> Result<()> {
        let mut tx = self.write.begin().await?;
        let p = new.package;
        let inserted = sqlx::query(
            "INSERT INTO packages (package_id, app_id, title, app_version, marketing_version,
               fingerprint, packed_size, unpacked_size, installed, installed_by, disk, entries)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (package_id) DO NOTHING",
        )
        .bind(&p.package_id)
        .bind(&p.app_id)
        .bind(&p.title)
        .bind(p.app_version)
        .bind(&p.marketing_version)
        .bind(&p.fingerprint)
        .bind(p.packed_size)
        .bind(p.unpacked_size)
        .bind(p.installed)
        .bind(p.installed_by)
        .bind(p.disk)
        .bind(p.entries)
        .execute(&mut *tx)
        .await?;
        // Its files are new ones.
        sqlx::query("DELETE FROM removals WHERE package_id = $1")
            .bind(&p.package_id)
            .execute(&mut *tx)
            .await?;
        if inserted.rows_affected() > 0 {
            sqlx::query("INSERT INTO manifests (package_id, manifest) VALUES ($1, $2)")
                .bind(&p.package_id)
                .bind(new.manifest)
                .execute(&mut *tx)
                .await?;
            for action in new.actions {
                sqlx::query(
                    "INSERT INTO package_actions (package_id, position, noun, description)
                     VALUES ($1, $2, $3, $4)",
                )
                .bind(&p.package_id)
                .bind(action.position)
                .bind(&action.noun)
                .bind(&action.description)
                .execute(&mut *tx)
                .await?;
            }
        }
        sqlx::query(
            "UPDATE installs SET state = 'confirm', step = 'confirm', error_code = NULL,
               error = NULL, updated = $2 WHERE package_id = $1",
        )
        .bind(&p.package_id)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The package, if its tree is in place.
    pub async fn package(&self, package_id: &str) -> Result<Option<Package>> {
        let sql = format!("SELECT {COLUMNS} FROM packages p WHERE p.package_id = $1");
        Ok(sqlx::query_as(&sql).bind(package_id).fetch_optional(&self.read).await?)
    }

    /// All packages of an app, newest version first.
    pub async fn packages_of_app(&self, app_id: &str) -> Result<Vec<Package>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM packages p WHERE p.app_id = $1
             ORDER BY p.app_version DESC, p.installed DESC, p.package_id"
        );
        Ok(sqlx::query_as(&sql).bind(app_id).fetch_all(&self.read).await?)
    }

    /// Those of them that are this account's business, newest version first: what it brought, has
    /// in its list or has grains of, and what is there for everybody.
    pub async fn packages_of_app_for(
        &self,
        account: AccountId,
        app_id: &str,
    ) -> Result<Vec<Package>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM packages p WHERE p.app_id = $2
               AND (p.installed_by = $1
                 OR EXISTS (SELECT 1 FROM server_apps s WHERE s.package_id = p.package_id)
                 OR EXISTS (SELECT 1 FROM account_apps a
                   WHERE a.account = $1 AND a.package_id = p.package_id)
                 OR EXISTS (SELECT 1 FROM grains g
                   WHERE g.owner = $1 AND g.package_id = p.package_id))
             ORDER BY p.app_version DESC, p.installed DESC, p.package_id"
        );
        Ok(sqlx::query_as(&sql).bind(account).bind(app_id).fetch_all(&self.read).await?)
    }

    /// Every package, by title.
    pub async fn packages(&self) -> Result<Vec<Package>> {
        let sql = format!("SELECT {COLUMNS} FROM packages p ORDER BY p.title, p.app_version DESC");
        Ok(sqlx::query_as(&sql).fetch_all(&self.read).await?)
    }

    /// The framed manifest of a package.
    pub async fn manifest(&self, package_id: &str) -> Result<Option<Vec<u8>>> {
        Ok(sqlx::query_scalar("SELECT manifest FROM manifests WHERE package_id = $1")
            .bind(package_id)
            .fetch_optional(&self.read)
            .await?)
    }

    /// An icon that was kept: its type and bytes, empty where the package has none of this size.
    pub async fn icon(&self, package_id: &str, size: &str) -> Result<Option<(String, Vec<u8>)>> {
        Ok(sqlx::query_as(
            "SELECT mime, bytes FROM package_icons WHERE package_id = $1 AND size = $2",
        )
        .bind(package_id)
        .bind(size)
        .fetch_optional(&self.read)
        .await?)
    }

    /// Keeps an icon of a package that is still there.
    pub async fn keep_icon(
        &self,
        package_id: &str,
        size: &str,
        (mime, bytes): (&str, &[u8]),
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO package_icons (package_id, size, mime, bytes)
             SELECT package_id, $2, $3, $4 FROM packages WHERE package_id = $1
             ON CONFLICT (package_id, size) DO NOTHING",
        )
        .bind(package_id)
        .bind(size)
        .bind(mime)
        .bind(bytes)
        .execute(&self.write)
        .await?;
        Ok(())
    }

    /// A package's actions, in the manifest's order.
    pub async fn actions(&self, package_id: &str) -> Result<Vec<Action>> {
        Ok(sqlx::query_as(
            "SELECT position, noun, description FROM package_actions
             WHERE package_id = $1 ORDER BY position",
        )
        .bind(package_id)
        .fetch_all(&self.read)
        .await?)
    }

    /// The apps that an account can make grains of: its own choice, else the server's.
    pub async fn apps_of(&self, account: AccountId) -> Result<Vec<AppRow>> {
        let sql = format!(
            "SELECT {COLUMNS}, have.own AS own,
               (SELECT COUNT(*) FROM grains g WHERE g.app_id = p.app_id AND g.owner = $1
                  AND g.trashed_at IS NULL) AS grains
             FROM (SELECT package_id, 1 AS own FROM account_apps WHERE account = $1
                   UNION ALL
                   SELECT package_id, 0 AS own FROM server_apps WHERE app_id NOT IN
                     (SELECT app_id FROM account_apps WHERE account = $1)) have
             JOIN packages p ON p.package_id = have.package_id
             ORDER BY LOWER(p.title), p.app_id"
        );
        let rows: Vec<AppQueryRow> =
            sqlx::query_as(&sql).bind(account).fetch_all(&self.read).await?;
        let mut apps = Vec::with_capacity(rows.len());
        for row in rows {
            let actions = self.actions(&row.package.package_id).await?;
            apps.push(AppRow { package: row.package, actions, grains: row.grains, own: row.own });
        }
        Ok(apps)
    }

    /// The version of an app that an account uses.
    pub async fn app_of(&self, account: AccountId, app_id: &str) -> Result<Option<Package>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM packages p WHERE p.package_id = COALESCE(
               (SELECT package_id FROM account_apps WHERE account = $1 AND app_id = $2),
               (SELECT package_id FROM server_apps WHERE app_id = $2))"
        );
        Ok(sqlx::query_as(&sql).bind(account).bind(app_id).fetch_optional(&self.read).await?)
    }

    /// Gives an account this version of its app, in place of another; false when it has just been
    /// deleted.
    pub async fn choose_app(&self, account: AccountId, package: &Package) -> Result<bool> {
        let chosen = sqlx::query(
            "INSERT INTO account_apps (account, app_id, package_id, added)
             SELECT $1, $2, $3, $4 WHERE EXISTS (SELECT 1 FROM packages WHERE package_id = $3)
             ON CONFLICT (account, app_id)
             DO UPDATE SET package_id = excluded.package_id, added = excluded.added",
        )
        .bind(account)
        .bind(&package.app_id)
        .bind(&package.package_id)
        .bind(now_ms())
        .execute(&self.write)
        .await?;
        Ok(chosen.rows_affected() > 0)
    }

    /// Gives everybody this version who has not chosen another, with a line in the audit log; false
    /// when they had it.
    pub async fn choose_app_for_all(&self, package: &Package, audit: &Audit<'_>) -> Result<bool> {
        let mut tx = self.write.begin().await?;
        let chosen = sqlx::query(
            "INSERT INTO server_apps (app_id, package_id, added) VALUES ($1, $2, $3)
             ON CONFLICT (app_id)
             DO UPDATE SET package_id = excluded.package_id, added = excluded.added
             WHERE package_id <> excluded.package_id",
        )
        .bind(&package.app_id)
        .bind(&package.package_id)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        let changed = chosen.rows_affected() > 0;
        if changed {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(changed)
    }

    /// Takes an app out of an account's list; the version it had, for undo. Grains stay.
    pub async fn drop_app(&self, account: AccountId, app_id: &str) -> Result<Option<String>> {
        Ok(sqlx::query_scalar(
            "DELETE FROM account_apps WHERE account = $1 AND app_id = $2 RETURNING package_id",
        )
        .bind(account)
        .bind(app_id)
        .fetch_optional(&self.write)
        .await?)
    }

    /// Every app on the server in the version that it has for everybody; in the newest one, where
    /// only some people have it.
    pub async fn offered_packages(&self) -> Result<Vec<(Package, Vec<Action>)>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM packages p WHERE p.package_id = COALESCE(
               (SELECT s.package_id FROM server_apps s WHERE s.app_id = p.app_id),
               (SELECT q.package_id FROM packages q WHERE q.app_id = p.app_id
                  ORDER BY q.app_version DESC, q.installed DESC, q.package_id LIMIT 1))
             ORDER BY LOWER(p.title), p.package_id"
        );
        let rows: Vec<Package> = sqlx::query_as(&sql).fetch_all(&self.read).await?;
        let mut out = Vec::with_capacity(rows.len());
        for package in rows {
            let actions = self.actions(&package.package_id).await?;
            out.push((package, actions));
        }
        Ok(out)
    }
}
