//! The list on the home page: search, filters, order and pages, all in SQL.

use sqlx::{FromRow, QueryBuilder, Sqlite};

use super::{AccountId, Grain, Result, Store};

/// Rows on one page.
pub const PAGE_ROWS: i64 = 100;
/// More words in a search do not narrow it any further.
const MAX_WORDS: usize = 8;

/// Which grains.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Mine and what was shared with me.
    #[default]
    All,
    /// What I own.
    Mine,
    /// What others own.
    Shared,
    /// What I marked.
    Starred,
    /// What waits to be deleted.
    Trash,
    /// Those of one app.
    App(String),
}

/// In which order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Last opened first.
    #[default]
    Opened,
    /// By title.
    Name,
    /// By the app's title, then by title.
    App,
    /// Largest first.
    Size,
}

/// A question to the list.
#[derive(Clone, Debug, Default)]
pub struct GrainQuery {
    /// Which.
    pub filter: Filter,
    /// Words that must all occur in title or app title.
    pub search: String,
    /// Order.
    pub sort: Sort,
    /// Against the order's natural direction.
    pub reverse: bool,
    /// Page, from 0; `None` for all rows at once.
    pub page: Option<i64>,
}

/// A row of the list.
#[derive(Clone, Debug, FromRow)]
pub struct GrainListItem {
    /// The grain.
    #[sqlx(flatten)]
    pub grain: Grain,
    /// Its app's title; hostile text.
    pub app_title: String,
    /// Whether this person marked it.
    pub starred: bool,
}

/// A page of the list.
#[derive(Clone, Debug)]
pub struct GrainPage {
    /// The rows.
    pub rows: Vec<GrainListItem>,
    /// How many match in all.
    pub total: i64,
}

/// Numbers beside the filters.
#[derive(Clone, Copy, Debug, FromRow)]
pub struct GrainCounts {
    /// Outside the trash.
    pub all: i64,
    /// In the trash.
    pub trash: i64,
}

impl Store {
    /// A page of what this person has.
    pub async fn list_grains(&self, account: AccountId, query: &GrainQuery) -> Result<GrainPage> {
        let mut count = QueryBuilder::new("SELECT COUNT(*)");
        push_from(&mut count, account, query);
        let total: i64 = count.build_query_scalar().fetch_one(&self.read).await?;

        let mut select = QueryBuilder::new(format!(
            "SELECT {}, p.title AS app_title, EXISTS
               (SELECT 1 FROM stars s WHERE s.grain = g.id AND s.account = ",
            super::grains::COLUMNS
        ));
        select.push_bind(account).push(") AS starred");
        push_from(&mut select, account, query);
        let down = |natural: bool| if natural != query.reverse { "DESC" } else { "ASC" };
        match query.sort {
            Sort::Opened => {
                // In the trash the moment that counts is when it got there.
                let at = if query.filter == Filter::Trash { "g.trashed_at" } else { "g.last_used" };
                select.push(format!(" ORDER BY {at} {}, g.id", down(true)))
            }
            Sort::Name => select.push(format!(" ORDER BY g.search {}, g.id", down(false))),
            Sort::App => select
                .push(format!(" ORDER BY LOWER(p.title) {0}, g.search {0}, g.id", down(false))),
            Sort::Size => select.push(format!(" ORDER BY g.size {}, g.id", down(true))),
        };
        if let Some(page) = query.page {
            select.push(" LIMIT ").push_bind(PAGE_ROWS);
            select.push(" OFFSET ").push_bind(page.max(0).saturating_mul(PAGE_ROWS));
        }
        let rows = select.build_query_as().fetch_all(&self.read).await?;
        Ok(GrainPage { rows, total })
    }

    /// How many grains this person has.
    pub async fn count_grains(&self, account: AccountId) -> Result<GrainCounts> {
        Ok(sqlx::query_as(
            "SELECT COUNT(CASE WHEN trashed_at IS NULL THEN 1 END) AS \"all\",
                    COUNT(CASE WHEN trashed_at IS NOT NULL AND doomed = 0 THEN 1 END) AS trash
             FROM grains WHERE owner = $1",
        )
        .bind(account)
        .fetch_one(&self.read)
        .await?)
    }
}

/// FROM and WHERE, the same for the rows and for their number.
fn push_from(sql: &mut QueryBuilder<'_, Sqlite>, account: AccountId, query: &GrainQuery) {
    sql.push(" FROM grains g JOIN packages p ON p.package_id = g.package_id WHERE ");
    sql.push(match query.filter {
        Filter::Trash => "g.trashed_at IS NOT NULL AND g.doomed = 0",
        _ => "g.trashed_at IS NULL",
    });
    // Sharing adds "or reached by a share" here; until then what others own is never listed.
    match &query.filter {
        Filter::Shared => {
            sql.push(" AND g.owner <> ").push_bind(account);
            sql.push(" AND 1 = 0");
        }
        _ => {
            sql.push(" AND g.owner = ").push_bind(account);
        }
    }
    match &query.filter {
        Filter::Starred => {
            sql.push(" AND EXISTS (SELECT 1 FROM stars s WHERE s.grain = g.id AND s.account = ");
            sql.push_bind(account).push(")");
        }
        Filter::App(app) => {
            sql.push(" AND g.app_id = ").push_bind(app.clone());
        }
        _ => {}
    }
    for word in query.search.to_lowercase().split_whitespace().take(MAX_WORDS) {
        let word: String = word.chars().take(100).collect();
        sql.push(" AND g.search LIKE ").push_bind(like(&word)).push(" ESCAPE '!'");
    }
}

/// A LIKE pattern for "contains exactly this".
fn like(word: &str) -> String {
    let mut pattern = String::from("%");
    for c in word.chars() {
        if matches!(c, '%' | '_' | '!') {
            pattern.push('!');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}
