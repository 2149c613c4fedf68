//! Links that work once: the administrator's, and "open this grain as its owner".

use std::net::IpAddr;
use std::str::FromStr;

use super::accounts::of_credential;
use super::sessions::{NewLogin, new_login};
use super::{
    AccountId, Audit, By, CredentialKind, Result, Role, Store, StoreError, hash_secret, now_ms,
    random, word,
};

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

/// What became of a link that somebody opened.
#[derive(Debug)]
pub enum ByLink {
    /// It is none, or was used, or is too old.
    NotGood,
    /// Its account is suspended; the link stays as it is.
    Suspended,
    /// It has just been used up.
    In {
        /// The sign-in that it made.
        login: NewLogin,
        /// The grain that it opens; none for one that opens the server's own pages.
        grain: Option<String>,
    },
}

impl Store {
    /// Makes a link that lives `seconds`, with a line in the audit log if one is given; the answer
    /// is its secret.
    pub async fn create_link(
        &self,
        purpose: LinkPurpose,
        account: Option<AccountId>,
        target: Option<&str>,
        seconds: i64,
        audit: Option<&Audit<'_>>,
    ) -> Result<[u8; 32]> {
        let secret = random::<32>();
        let now = now_ms();
        let mut tx = self.write.begin().await?;
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
        .execute(&mut *tx)
        .await?;
        if let Some(audit) = audit {
            audit.write(&mut tx).await?;
        }
        tx.commit().await?;
        Ok(secret)
    }

    /// Whether [`Store::sign_in_by_link`] would take it.
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

    /// Uses a link up and signs in, with a line in the audit log: all of it or nothing, so that a
    /// link is not used up for somebody who does not come in. Of two who try at once one gets it.
    pub async fn sign_in_by_link(
        &self,
        secret: &[u8; 32],
        user_agent: &str,
        from: IpAddr,
    ) -> Result<ByLink> {
        let mut tx = self.write.begin().await?;
        let row: Option<(String, Option<AccountId>, Option<String>)> = sqlx::query_as(
            "UPDATE one_time_links SET used = $2
             WHERE hash = $1 AND used IS NULL AND expires > $2
             RETURNING purpose, account, target",
        )
        .bind(&hash_secret(secret)[..])
        .bind(now_ms())
        .fetch_optional(&mut *tx)
        .await?;
        let Some((purpose, account, target)) = row else { return Ok(ByLink::NotGood) };
        let purpose: LinkPurpose = word("purpose", &purpose)?;
        let (account, grain) = match (purpose, account, target) {
            (LinkPurpose::Admin, ..) => {
                let (kind, role) = (CredentialKind::Operator, Role::Admin);
                (of_credential(&mut tx, kind, "local", "Operator", role).await?.id, None)
            }
            (LinkPurpose::OpenGrain, Some(account), Some(grain)) => (account, Some(grain)),
            (LinkPurpose::OpenGrain, ..) => {
                let value = "one to a grain, without its account or grain".into();
                return Err(StoreError::Value { what: "link", value });
            }
        };
        let Some(login) = new_login(&mut tx, account, user_agent).await? else {
            tx.rollback().await?;
            return Ok(ByLink::Suspended);
        };
        let (what, how) = match &grain {
            None => ("server", "administrator's link"),
            Some(grain) => (grain.as_str(), "operator's link to a grain"),
        };
        let by = By::Person(account, from);
        let line = Audit { by, action: "sign-in", target: what, detail: how };
        line.write(&mut tx).await?;
        tx.commit().await?;
        Ok(ByLink::In { login, grain })
    }
}
