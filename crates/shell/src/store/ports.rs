//! Port mode: which port belongs to which (grain, account).

use super::{AccountId, Result, Store, now_ms};

impl Store {
    /// The port of this (grain, account): the one it has, else the lowest of the range that
    /// nobody ever had, else, with `reuse`, the one whose grain is gone longest. `None`: all taken.
    ///
    /// A browser keeps a port's storage for ever, so a port is given to another grain only where
    /// that storage can be wiped (`reuse`: https), and only when its own grain is destroyed.
    pub async fn port_for(
        &self,
        grain: &str,
        account: AccountId,
        first: u16,
        last: u16,
        reuse: bool,
    ) -> Result<Option<PortGrant>> {
        let mut tx = self.write.begin().await?;
        let known: Option<i64> = sqlx::query_scalar(
            "SELECT port FROM ports WHERE grain = $1 AND account = $2
             AND port >= $3 AND port <= $4",
        )
        .bind(grain)
        .bind(account)
        .bind(i64::from(first))
        .bind(i64::from(last))
        .fetch_optional(&mut *tx)
        .await?;
        if let Some(port) = known {
            return Ok(Some(PortGrant { port: port as u16, was_used: false }));
        }
        // A range that was moved leaves old rows behind; this pair's would block the new one.
        sqlx::query("DELETE FROM ports WHERE grain = $1 AND account = $2")
            .bind(grain)
            .bind(account)
            .execute(&mut *tx)
            .await?;
        let taken: Vec<i64> = sqlx::query_scalar(
            "SELECT port FROM ports WHERE port >= $1 AND port <= $2 ORDER BY port",
        )
        .bind(i64::from(first))
        .bind(i64::from(last))
        .fetch_all(&mut *tx)
        .await?;
        let mut taken = taken.into_iter().peekable();
        let free =
            (i64::from(first)..=i64::from(last)).find(|port| taken.next_if_eq(port).is_none());
        let grant = match free {
            Some(port) => PortGrant { port: port as u16, was_used: false },
            None if reuse => {
                let oldest: Option<i64> = sqlx::query_scalar(
                    "SELECT port FROM ports WHERE port >= $1 AND port <= $2
                     AND grain NOT IN (SELECT id FROM grains) ORDER BY created LIMIT 1",
                )
                .bind(i64::from(first))
                .bind(i64::from(last))
                .fetch_optional(&mut *tx)
                .await?;
                match oldest {
                    Some(port) => PortGrant { port: port as u16, was_used: true },
                    None => return Ok(None),
                }
            }
            None => return Ok(None),
        };
        sqlx::query(
            "INSERT INTO ports (port, grain, account, created) VALUES ($1, $2, $3, $4)
             ON CONFLICT (port) DO UPDATE SET grain = excluded.grain, account = excluded.account,
               created = excluded.created",
        )
        .bind(i64::from(grant.port))
        .bind(grain)
        .bind(account)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(grant))
    }

    /// Every port in use, to listen on at start.
    pub async fn ports(&self) -> Result<Vec<(u16, String, AccountId)>> {
        let rows: Vec<(i64, String, AccountId)> =
            sqlx::query_as("SELECT port, grain, account FROM ports ORDER BY port")
                .fetch_all(&self.read)
                .await?;
        Ok(rows
            .into_iter()
            .filter_map(|(port, grain, account)| Some((u16::try_from(port).ok()?, grain, account)))
            .collect())
    }
}

/// A port for a (grain, account).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortGrant {
    /// Its number.
    pub port: u16,
    /// It was another grain's before: what browsers stored for it must be wiped first.
    pub was_used: bool,
}
