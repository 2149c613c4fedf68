//! Accounts and the credentials that lead to them.

use std::str::FromStr;

use sqlx::FromRow;

use super::{AccountId, Result, Store, now_ms, word};

/// What an account may do on the server as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Administers the server, and all that a member may.
    Admin,
    /// Installs apps and makes grains.
    Member,
    /// Uses what was shared with them.
    Visitor,
}

impl Role {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Admin => "admin",
            Role::Member => "member",
            Role::Visitor => "visitor",
        }
    }
}

impl FromStr for Role {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        Ok(match s {
            "admin" => Role::Admin,
            "member" => Role::Member,
            "visitor" => Role::Visitor,
            _ => return Err(()),
        })
    }
}

/// The kinds of proof that exist so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialKind {
    /// Whoever can run programs as the server's user: links printed by the server itself.
    Operator,
    /// A development account, chosen by name; only when switched on.
    Dev,
}

impl CredentialKind {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            CredentialKind::Operator => "operator",
            CredentialKind::Dev => "dev",
        }
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its number.
    pub id: AccountId,
    /// Hostile text: what the person calls themselves.
    pub display_name: String,
    /// Lower-case letters, digits and `-`; unique.
    pub handle: String,
    /// What they may do.
    pub role: Role,
    /// When it was made.
    pub created: i64,
    /// Since when it is suspended.
    pub suspended: Option<i64>,
}

#[derive(FromRow)]
pub(super) struct AccountRow {
    id: AccountId,
    display_name: String,
    handle: String,
    role: String,
    created: i64,
    suspended: Option<i64>,
}

impl TryFrom<AccountRow> for Account {
    type Error = super::StoreError;
    fn try_from(row: AccountRow) -> Result<Account> {
        Ok(Account {
            id: row.id,
            display_name: row.display_name,
            handle: row.handle,
            role: word("role", &row.role)?,
            created: row.created,
            suspended: row.suspended,
        })
    }
}

impl Store {
    /// The account, suspended or not.
    pub async fn account(&self, id: AccountId) -> Result<Option<Account>> {
        let row: Option<AccountRow> = sqlx::query_as("SELECT * FROM accounts WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.read)
            .await?;
        row.map(Account::try_from).transpose()
    }

    /// Whether this is the account of whoever runs programs as the server's user.
    pub async fn is_operator(&self, id: AccountId) -> Result<bool> {
        Ok(sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM credentials WHERE account = $1 AND kind = $2)",
        )
        .bind(id)
        .bind(CredentialKind::Operator.as_str())
        .fetch_one(&self.read)
        .await?)
    }

    /// The account with this handle.
    pub async fn account_by_handle(&self, handle: &str) -> Result<Option<Account>> {
        let row: Option<AccountRow> = sqlx::query_as("SELECT * FROM accounts WHERE handle = $1")
            .bind(handle)
            .fetch_optional(&self.read)
            .await?;
        row.map(Account::try_from).transpose()
    }

    /// Every account, oldest first.
    pub async fn accounts(&self) -> Result<Vec<Account>> {
        let rows: Vec<AccountRow> =
            sqlx::query_as("SELECT * FROM accounts ORDER BY id").fetch_all(&self.read).await?;
        rows.into_iter().map(Account::try_from).collect()
    }

    /// Whether somebody can administer this server.
    pub async fn has_admin(&self) -> Result<bool> {
        let count: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM accounts WHERE role = 'admin' AND suspended IS NULL",
        )
        .fetch_one(&self.read)
        .await?;
        Ok(count > 0)
    }

    /// The account that this credential leads to; made with `name` and `role` when there is none.
    ///
    /// An existing account keeps its role, but a `Role::Admin` asked for is given: that is how the
    /// operator's link makes the first administrator.
    pub async fn account_for_credential(
        &self,
        kind: CredentialKind,
        subject: &str,
        name: &str,
        role: Role,
    ) -> Result<Account> {
        let mut tx = self.write.begin().await?;
        let account = of_credential(&mut tx, kind, subject, name, role).await?;
        tx.commit().await?;
        Ok(account)
    }

    /// Changes what a person is called.
    pub async fn rename_account(&self, id: AccountId, name: &str) -> Result<()> {
        sqlx::query("UPDATE accounts SET display_name = $2 WHERE id = $1")
            .bind(id)
            .bind(name)
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// What this app's server may know a person by: 32 random bytes, the same at each call.
    pub async fn grain_identity(&self, grain: &str, account: AccountId) -> Result<[u8; 32]> {
        let known: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT identity FROM grain_identities WHERE grain = $1 AND account = $2",
        )
        .bind(grain)
        .bind(account)
        .fetch_optional(&self.read)
        .await?;
        let bytes = match known {
            Some(bytes) => bytes,
            // The update that changes nothing makes RETURNING answer in both cases.
            None => {
                sqlx::query_scalar(
                    "INSERT INTO grain_identities (grain, account, identity, created)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (grain, account) DO UPDATE SET created = grain_identities.created
                     RETURNING identity",
                )
                .bind(grain)
                .bind(account)
                .bind(&super::random::<32>()[..])
                .bind(now_ms())
                .fetch_one(&self.write)
                .await?
            }
        };
        bytes.try_into().map_err(|bytes: Vec<u8>| super::StoreError::Value {
            what: "identity",
            value: format!("{} bytes", bytes.len()),
        })
    }
}

/// [`Store::account_for_credential`], as a part of something larger.
pub(super) async fn of_credential(
    tx: &mut sqlx::SqliteConnection,
    kind: CredentialKind,
    subject: &str,
    name: &str,
    role: Role,
) -> Result<Account> {
    let now = now_ms();
    let found: Option<AccountId> = sqlx::query_scalar(
        "UPDATE credentials SET last_used = $3 WHERE kind = $1 AND subject = $2
         RETURNING account",
    )
    .bind(kind.as_str())
    .bind(subject)
    .bind(now)
    .fetch_optional(&mut *tx)
    .await?;
    let id = match found {
        Some(id) => {
            if role == Role::Admin {
                sqlx::query("UPDATE accounts SET role = 'admin' WHERE id = $1")
                    .bind(id)
                    .execute(&mut *tx)
                    .await?;
            }
            id
        }
        None => {
            let handle = free_handle(tx, name).await?;
            let id: AccountId = sqlx::query_scalar(
                "INSERT INTO accounts (display_name, handle, role, created)
                 VALUES ($1, $2, $3, $4) RETURNING id",
            )
            .bind(name)
            .bind(&handle)
            .bind(role.as_str())
            .bind(now)
            .fetch_one(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO credentials (kind, subject, account, created, last_used)
                 VALUES ($1, $2, $3, $4, $4)",
            )
            .bind(kind.as_str())
            .bind(subject)
            .bind(id)
            .bind(now)
            .execute(&mut *tx)
            .await?;
            id
        }
    };
    let row: AccountRow =
        sqlx::query_as("SELECT * FROM accounts WHERE id = $1").bind(id).fetch_one(&mut *tx).await?;
    row.try_into()
}

/// A handle made of the name, with a number behind it when the plain one is taken.
async fn free_handle(tx: &mut sqlx::SqliteConnection, name: &str) -> Result<String> {
    let base: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(24)
        .collect();
    let base = base.trim_matches('-');
    let base = if base.is_empty() { "person" } else { base };
    let mut handle = base.to_owned();
    for n in 2.. {
        let taken: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM accounts WHERE handle = $1")
            .bind(&handle)
            .fetch_one(&mut *tx)
            .await?;
        if taken == 0 {
            break;
        }
        handle = format!("{base}-{n}");
    }
    Ok(handle)
}
