//! Links that work once: the administrator's, and "open this grain as its owner".

use std::str::FromStr;

use super::{AccountId, Result, Store, hash_secret, now_ms, random, word};

/// What a link does when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPurpose {
    /// Signs in as the operator's account, as administrator.
    Admin,
    /// Signs in as `account` and opens the grain `target`.
    OpenGrain,
}

impl LinkPurpose {
    /// The stored word.
    pub fn as_str(self) -> &'static str {
        match self {
            LinkPurpose::Admin => "admin",
            LinkPurpose::OpenGrain => "open-grain",
        }
    }
}

impl FromStr for LinkPurpose {
    type Err = ();
    fn from_str(s: &str) -> std::result::Result<Self, ()> {
        Ok(match s {
            "admin" => LinkPurpose::Admin,
            "open-grain" => LinkPurpose::OpenGrain,
            _ => return Err(()),
        })
    }
}

/// A link that has just been used up.
#[derive(Debug)]
pub struct RedeemedLink {
    /// What it is for.
    pub purpose: LinkPurpose,
    /// Whom it signs in, unless the purpose says.
    pub account: Option<AccountId>,
    /// What it opens.
    pub target: Option<String>,
}

impl Store {
    /// Makes a link that lives `seconds`; the answer is its secret.
    pub async fn create_link(
        &self,
        purpose: LinkPurpose,
        account: Option<AccountId>,
        target: Option<&str>,
        seconds: i64,
    ) -> Result<[u8; 32]> {
        let secret = random::<32>();
        let now = now_ms();
        sqlx::query(
            "INSERT INTO one_time_links (hash, purpose, account, target, created, expires)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&hash_secret(&secret)[..])
        .bind(purpose.as_str())
        .bind(account)
        .bind(target)
        .bind(now)
        .bind(now + seconds * 1000)
        .execute(&self.write)
        .await?;
        Ok(secret)
    }

    /// Whether [`Store::redeem_link`] would take it.
    pub async fn is_link_good(&self, secret: &[u8; 32]) -> Result<bool> {
        let found: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM one_time_links WHERE hash = $1 AND used IS NULL AND expires > $2",
        )
        .bind(&hash_secret(secret)[..])
        .bind(now_ms())
        .fetch_one(&self.read)
        .await?;
        Ok(found > 0)
    }

    /// Uses a link up. One statement, so of two who try at once one gets it.
    pub async fn redeem_link(&self, secret: &[u8; 32]) -> Result<Option<RedeemedLink>> {
        let row: Option<(String, Option<AccountId>, Option<String>)> = sqlx::query_as(
            "UPDATE one_time_links SET used = $2
             WHERE hash = $1 AND used IS NULL AND expires > $2
             RETURNING purpose, account, target",
        )
        .bind(&hash_secret(secret)[..])
        .bind(now_ms())
        .fetch_optional(&self.write)
        .await?;
        row.map(|(purpose, account, target)| {
            Ok(RedeemedLink { purpose: word("purpose", &purpose)?, account, target })
        })
        .transpose()
    }
}
