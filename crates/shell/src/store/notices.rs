//! Notices to a person ("Moved to trash. Undo").

use std::str::FromStr;

use sqlx::FromRow;

use super::{AccountId, DAY, Result, Store, now_ms, word};

/// How a notice is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Done as asked.
    Good,
    /// Done, but look.
    Warning,
    /// Not done.
    Bad,
}

impl Tone {
    /// The stored word, and the CSS class.
    pub fn as_str(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Warning => "warning",
            Tone::Bad => "bad",
        }
    }
}

impl FromStr for Tone {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        Ok(match s {
            "good" => Tone::Good,
            "warning" => Tone::Warning,
            "bad" => Tone::Bad,
            _ => return Err(()),
        })
    }
}

/// Something that a person should know happened.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Its number.
    pub id: i64,
    /// When.
    pub created: i64,
    /// How it is meant.
    pub tone: Tone,
    /// One or two sentences.
    pub text: String,
    /// The act that takes it back: `restore GRAIN ...`.
    pub undo: Option<String>,
}

#[derive(FromRow)]
struct NoticeRow {
    id: i64,
    created: i64,
    tone: String,
    text: String,
    undo: Option<String>,
}

impl TryFrom<NoticeRow> for Notice {
    type Error = super::StoreError;
    fn try_from(row: NoticeRow) -> Result<Notice> {
        Ok(Notice {
            id: row.id,
            created: row.created,
            tone: word("tone", &row.tone)?,
            text: row.text,
            undo: row.undo,
        })
    }
}

/// Strips on one page; the page of notices has the others.
const MOST_AT_ONCE: i64 = 10;
/// Notices of one account that are kept.
pub(super) const MOST_KEPT: i64 = 200;

/// The last notices that were not shown, newest first.
async fn waiting<'a>(
    from: impl sqlx::SqliteExecutor<'a>,
    account: AccountId,
) -> Result<Vec<NoticeRow>> {
    Ok(sqlx::query_as(
        "SELECT id, created, tone, text, undo FROM notices
         WHERE account = $1 AND shown IS NULL ORDER BY id DESC LIMIT $2",
    )
    .bind(account)
    .bind(MOST_AT_ONCE)
    .fetch_all(from)
    .await?)
}

/// Keeps the number of an account's notices within [`MOST_KEPT`]: each act leaves one, and a script
/// can act without end.
async fn forget_old(tx: &mut sqlx::SqliteConnection, account: AccountId) -> Result<()> {
    sqlx::query(
        "DELETE FROM notices WHERE account = $1 AND id NOT IN
           (SELECT id FROM notices WHERE account = $1
            ORDER BY CASE WHEN shown IS NULL THEN 0 ELSE 1 END, id DESC LIMIT $2)",
    )
    .bind(account)
    .bind(MOST_KEPT)
    .execute(tx)
    .await?;
    Ok(())
}

impl Store {
    /// Leaves a notice, to be shown on the person's next page. One that says the same and waits is
    /// replaced, and of more than [`MOST_KEPT`] those go that were shown, then the oldest.
    pub async fn notify(
        &self,
        account: AccountId,
        tone: Tone,
        text: &str,
        undo: Option<&str>,
    ) -> Result<i64> {
        let mut tx = self.write.begin().await?;
        // The undo names the grain.
        sqlx::query(
            "DELETE FROM notices WHERE account = $1 AND shown IS NULL AND text = $2
               AND COALESCE(undo, '') = COALESCE($3, '')",
        )
        .bind(account)
        .bind(text)
        .bind(undo)
        .execute(&mut *tx)
        .await?;
        let id = sqlx::query_scalar(
            "INSERT INTO notices (account, created, tone, text, undo)
             VALUES ($1, $2, $3, $4, $5) RETURNING id",
        )
        .bind(account)
        .bind(now_ms())
        .bind(tone.as_str())
        .bind(text)
        .bind(undo)
        .fetch_one(&mut *tx)
        .await?;
        forget_old(&mut tx, account).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Leaves a notice that something keeps causing: the same words at most once a day.
    pub async fn notify_daily(&self, account: AccountId, tone: Tone, text: &str) -> Result<()> {
        let mut tx = self.write.begin().await?;
        sqlx::query(
            "INSERT INTO notices (account, created, tone, text)
             SELECT $1, $2, $3, $4 WHERE NOT EXISTS
                 (SELECT 1 FROM notices WHERE account = $1 AND text = $4 AND created > $5)",
        )
        .bind(account)
        .bind(now_ms())
        .bind(tone.as_str())
        .bind(text)
        .bind(now_ms() - DAY)
        .execute(&mut *tx)
        .await?;
        forget_old(&mut tx, account).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Notices not shown yet, marked as shown: for the top of a page. Of many only the last.
    pub async fn take_notices(&self, account: AccountId) -> Result<Vec<Notice>> {
        // Most pages have none: look before taking the writer.
        let seen = waiting(&self.read, account).await?;
        if seen.is_empty() {
            return Ok(Vec::new());
        }
        let rows = match self.mark_shown(account).await {
            Ok(rows) => rows,
            // Shown twice is better than a page that cannot be read.
            Err(error) => {
                tracing::warn!("notices could not be marked as shown: {error}");
                seen
            }
        };
        rows.into_iter().rev().map(Notice::try_from).collect()
    }

    /// Of two pages at once one gets them.
    async fn mark_shown(&self, account: AccountId) -> Result<Vec<NoticeRow>> {
        let mut tx = self.write.begin().await?;
        let rows = waiting(&mut *tx, account).await?;
        sqlx::query("UPDATE notices SET shown = $2 WHERE account = $1 AND shown IS NULL")
            .bind(account)
            .bind(now_ms())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(rows)
    }

    /// Marks one notice as shown: the person saw what happened in another way.
    pub async fn notice_shown(&self, account: AccountId, id: i64) -> Result<()> {
        sqlx::query("UPDATE notices SET shown = $3 WHERE id = $2 AND account = $1")
            .bind(account)
            .bind(id)
            .bind(now_ms())
            .execute(&self.write)
            .await?;
        Ok(())
    }

    /// The latest notices, shown or not.
    pub async fn recent_notices(&self, account: AccountId, limit: i64) -> Result<Vec<Notice>> {
        let rows: Vec<NoticeRow> = sqlx::query_as(
            "SELECT id, created, tone, text, undo FROM notices
             WHERE account = $1 ORDER BY id DESC LIMIT $2",
        )
        .bind(account)
        .bind(limit)
        .fetch_all(&self.read)
        .await?;
        rows.into_iter().map(Notice::try_from).collect()
    }

    /// Takes a notice's undo: of two presses one gets it.
    pub async fn take_undo(&self, account: AccountId, id: i64) -> Result<Option<String>> {
        let mut tx = self.write.begin().await?;
        let undo: Option<Option<String>> =
            sqlx::query_scalar("SELECT undo FROM notices WHERE id = $1 AND account = $2")
                .bind(id)
                .bind(account)
                .fetch_optional(&mut *tx)
                .await?;
        sqlx::query("UPDATE notices SET undo = NULL WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(account)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(undo.flatten())
    }

    /// Puts an undo back that was taken and then failed.
    pub async fn give_undo_back(&self, account: AccountId, id: i64, undo: &str) -> Result<()> {
        sqlx::query("UPDATE notices SET undo = $3 WHERE id = $1 AND account = $2")
            .bind(id)
            .bind(account)
            .bind(undo)
            .execute(&self.write)
            .await?;
        Ok(())
    }
}
