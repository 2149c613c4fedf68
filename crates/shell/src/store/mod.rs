//! All the SQL of the server, behind plain functions.
//!
//! Trust: callers hand over checked values; nothing here sees a request. Statements stay inside
//! what SQLite and PostgreSQL share (`$n` parameters, `ON CONFLICT`, `RETURNING`), so that a
//! second database is a second set of migrations and not a second program.
//!
//! Two pools: readers in parallel, and one writer. One writer means that a transaction never
//! meets another one half-way, so no statement has to be tried again.
// A row is read whole; some columns wait for the pages that will show them.
#![allow(dead_code)]

mod accounts;
mod audit;
mod examine;
mod grain_list;
mod grain_sessions;
mod grains;
mod installs;
mod limits;
mod links;
mod notices;
mod package_uses;
mod packages;
mod ports;
mod sessions;

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{
    Connection, SqliteConnection, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use crate::ids::{AccountId, LoginId};
pub use accounts::{Account, CredentialKind, Role};
pub use audit::{Audit, By};
pub use grain_list::{Filter, GrainCounts, GrainListItem, GrainPage, GrainQuery, PAGE_ROWS, Sort};
pub use grain_sessions::GrainSessionRow;
pub use grains::{Grain, NewGrain};
pub use installs::{Install, InstallState};
pub use limits::{LimitRow, LimitSubject};
pub use links::{ByLink, LinkPurpose};
pub use notices::{Notice, Tone};
pub use package_uses::{Brought, Removal, Uses};
pub use packages::{Action, AppRow, NewPackage, Package};
pub use ports::PortGrant;
pub use sessions::{LoginSession, NewLogin};

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file could not be opened or was refused.
    #[error("the database {path} cannot be opened: {source}; {}", advice(source))]
    Open {
        /// Where it was looked for.
        path: PathBuf,
        /// SQLite's reason.
        source: sqlx::Error,
    },
    /// The file was written by a newer version, or a migration failed.
    #[error(
        "the database {path} does not fit this version of the server: {source}. \
         Start the version that wrote it, or put back a copy of the file"
    )]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// What the migrator says.
        source: sqlx::migrate::MigrateError,
    },
    /// The file is SQLite's, and not as SQLite wrote it.
    #[error("the database {path} is damaged: {said}")]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// SQLite's own words.
        said: String,
    },
    /// A statement failed.
    #[error("the database: {}{}", .0, mended_by(.0))]
    Sql(#[from] sqlx::Error),
    /// A stored value is not one that this version writes.
    #[error("the database holds an unknown {what}: {value}")]
    Value {
        /// Which column.
        what: &'static str,
        /// What stood there.
        value: String,
    },
}

impl StoreError {
    /// Whether the statement failed for want of room (`SQLITE_FULL`).
    pub fn is_disk_full(&self) -> bool {
        match self {
            StoreError::Sql(sqlx::Error::Database(error)) => error.code().as_deref() == Some("13"),
            _ => false,
        }
    }
}

/// SQLite's primary result code, where the error is one of SQLite's.
fn primary_code(error: &sqlx::Error) -> Option<u32> {
    let sqlx::Error::Database(error) = error else { return None };
    // The low byte; what is above it tells variants apart.
    error.code()?.parse::<u32>().ok().map(|code| code & 0xff)
}

/// What to do when a statement fails for a cause outside of the program, after a semicolon.
fn mended_by(error: &sqlx::Error) -> String {
    match primary_code(error) {
        Some(5 | 6 | 8 | 10 | 11 | 13 | 26) => format!("; {}", advice(error)),
        _ => String::new(),
    }
}

/// What to do when the database cannot be opened.
fn advice(error: &sqlx::Error) -> &'static str {
    match primary_code(error) {
        // BUSY, LOCKED
        Some(5 | 6) => "end the other program that has it open",
        // READONLY
        Some(8) => {
            "it must be writable by the server's user, on a file system that is mounted writable"
        }
        // IOERR, FULL
        Some(10 | 13) => "make room on its file system, and see that its disk works",
        // CORRUPT, NOTADB
        Some(11 | 26) => {
            "put back a copy of it, or move it away to begin anew (its -wal and -shm files too)"
        }
        // CANTOPEN, and what is found before SQLite is asked
        _ => {
            "it must be a file that the server's user can read and write, in a directory of theirs \
             whose name is UTF-8"
        }
    }
}

/// Why the schema was not brought up to date: most often it is the disk, not the schema.
fn at_migration(path: &Path, error: sqlx::migrate::MigrateError) -> StoreError {
    use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
    let path = path.to_owned();
    match error {
        Execute(source) | ExecuteMigration(source, _)
            if matches!(primary_code(&source), Some(5 | 6 | 8 | 10 | 11 | 13 | 14 | 26)) =>
        {
            StoreError::Open { path, source }
        }
        source => StoreError::Migrate { path, source },
    }
}

/// What every function here answers.
pub type Result<T> = std::result::Result<T, StoreError>;

/// All versions of the schema up to this one.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// How long the end waits for statements under way.
const CLOSE: Duration = Duration::from_secs(5);

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    read: SqlitePool,
    write: SqlitePool,
}

impl Store {
    /// Opens (or creates, mode 0600) the database and brings it to this version's schema.
    pub async fn open(path: &Path) -> Result<Store> {
        create_private(path);
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10));
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let write = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(|connection, _| Box::pin(is_clean(connection)))
            .connect_with(options.clone())
            .await
            .map_err(open)?;
        MIGRATIONS.run(&write).await.map_err(|error| at_migration(path, error))?;
        let read = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(open)?;
        Ok(Store { read, write })
    }

    /// Writes back the log and closes the file, in so far as nobody holds on to it for more than a few
    /// seconds; later calls fail.
    pub async fn close(&self) {
        // Best effort: the log is replayed at the next start anyway.
        let close = async {
            self.read.close().await;
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&self.write).await;
            self.write.close().await;
        };
        if tokio::time::timeout(CLOSE, close).await.is_err() {
            tracing::warn!(
                "the database is still in use; its log is written back at the next start"
            );
        }
    }

    /// A setting of the whole server, such as its name.
    pub async fn setting(&self, name: &str) -> Result<Option<String>> {
        Ok(sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
            .bind(name)
            .fetch_optional(&self.read)
            .await?)
    }

    /// Sets a setting of the whole server, with a line in the audit log.
    pub async fn set_setting(&self, name: &str, value: &str, audit: &Audit<'_>) -> Result<()> {
        let mut tx = self.write.begin().await?;
        sqlx::query(
            "INSERT INTO settings (name, value) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        )
        .bind(name)
        .bind(value)
        .execute(&mut *tx)
        .await?;
        audit.write(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// May this connection be used again? When the disk is full SQLite rolls back by itself; sqlx's own
/// ROLLBACK then fails and it goes on counting a transaction that is over, so that every later one
/// would be a savepoint that nobody commits. Such a connection is closed, and the next one is new.
async fn is_clean(connection: &mut SqliteConnection) -> sqlx::Result<bool> {
    // A dropped transaction's rollback is only queued: this waits for it.
    connection.ping().await?;
    Ok(!connection.is_in_transaction())
}

/// Makes the file with mode 0600 before SQLite would make it with the umask's.
fn create_private(path: &Path) {
    use std::os::unix::fs::OpenOptionsExt;
    // An error shows again, with a better text, when SQLite opens the file.
    let _ = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
}

/// Milliseconds.
const DAY: i64 = 24 * 3600 * 1000;

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

/// Fresh bytes from the kernel.
///
/// # Panics
/// When the kernel has no random numbers, in which case no secret may be made.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    bytes
}

/// SHA-256 of a secret: what the database keeps of it.
pub fn hash_secret(secret: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(secret).into()
}

/// Reads a stored word back into its type.
fn word<T: FromStr>(what: &'static str, value: &str) -> Result<T> {
    value.parse().map_err(|_| StoreError::Value { what, value: value.to_owned() })
}

#[cfg(test)]
mod tests;
