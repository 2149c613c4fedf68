//! Port mode: which port belongs to which (grain, account).

use super::{AccountId, Result, Store, now_ms, random};

/// Ports that are tried for one grain: one, and 16 more, as 2014's Sandstorm did.
const TRIES: usize = 17;

/// So many ports each account may have while there are any.
const FEW: i64 = 8;

impl Store {
    /// The port of this (grain, account): the one it has, else the lowest of the range that
    /// nobody ever had, else, with `reuse`, the one whose grain is gone longest. `None`: all taken.
    /// `open` says of one that would be new whether it can be had: another program may hold it. It is
    /// asked about [`TRIES`] ports at most.
    ///
    /// A browser keeps a port's storage for ever, so a port is given to another grain only where
    /// that storage can be wiped (`reuse`: https), and only when its own grain is destroyed. So a member
    /// who makes grain after grain, and destroys them, has no more than half of what is left once half of
    /// all are gone.
    pub async fn port_for(
        &self,
        grain: &str,
        account: AccountId,
        first: u16,
        last: u16,
        reuse: bool,
        mut open: impl FnMut(u16) -> bool + Send,
    ) -> Result<Option<PortGrant>> {
        let mut tx = self.write.begin().await?;
        let known: Option<(i64, i64, String)> = sqlx::query_as(
            "SELECT port, generation, mark FROM ports WHERE grain = $1 AND account = $2
             AND port >= $3 AND port <= $4 AND (generation = 0 OR $5)",
        )
        .bind(grain)
        .bind(account)
        .bind(i64::from(first))
        .bind(i64::from(last))
        .bind(reuse)
        .fetch_optional(&mut *tx)
        .await?;
        if let Some((port, generation, mark)) = known {
            let mark = (generation > 0).then_some(mark);
            return Ok(Some(PortGrant { port: port as u16, mark }));
        }
        // A range that was moved leaves this pair a port that it cannot have any more. The row
        // stays, since what browsers stored for the port does.
        sqlx::query(
            "UPDATE ports SET grain = '', account = -port WHERE grain = $1 AND account = $2",
        )
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
        // Once most are given out, what is left is for those who have few: a port is given for good,
        // or as long as its grain is there.
        let (given, own, is_admin): (i64, i64, bool) = sqlx::query_as(
            "SELECT COUNT(*), COUNT(*) FILTER (WHERE account = $1),
               EXISTS (SELECT 1 FROM accounts WHERE id = $1 AND role = 'admin')
             FROM ports WHERE port >= $2 AND port <= $3
               AND (NOT $4 OR grain IN (SELECT id FROM grains))",
        )
        .bind(account)
        .bind(i64::from(first))
        .bind(i64::from(last))
        .bind(reuse)
        .fetch_one(&mut *tx)
        .await?;
        let size = i64::from(last) - i64::from(first) + 1;
        let left = size - given;
        if left < size / 2 && !is_admin && own >= (left / 2).max(FEW) {
            return Ok(None);
        }
        let mut taken = taken.into_iter().peekable();
        let fresh: Vec<i64> = (i64::from(first)..=i64::from(last))
            .filter(|port| taken.next_if_eq(port).is_none())
            .take(TRIES)
            .collect();
        let left: Vec<i64> = match TRIES - fresh.len() {
            tries @ 1.. if reuse => {
                sqlx::query_scalar(
                    "SELECT port FROM ports WHERE port >= $1 AND port <= $2
                     AND grain NOT IN (SELECT id FROM grains) ORDER BY created LIMIT $3",
                )
                .bind(i64::from(first))
                .bind(i64::from(last))
                .bind(tries as i64)
                .fetch_all(&mut *tx)
                .await?
            }
            _ => Vec::new(),
        };
        // No script of the earlier grain can guess the mark, and so escape being forgotten.
        let candidates = fresh
            .into_iter()
            .map(|port| (port, false))
            .chain(left.into_iter().map(|port| (port, true)));
        let found = candidates
            .map(|(port, anothers)| PortGrant {
                port: port as u16,
                mark: anothers.then(|| hex::encode(random::<16>())),
            })
            .find(|grant| open(grant.port));
        let Some(grant) = found else { return Ok(None) };
        sqlx::query(
            "INSERT INTO ports (port, grain, account, created, mark) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (port) DO UPDATE SET grain = excluded.grain, account = excluded.account,
               created = excluded.created, mark = excluded.mark, generation = generation + 1",
        )
        .bind(i64::from(grant.port))
        .bind(grain)
        .bind(account)
        .bind(now_ms())
        .bind(grant.mark.as_deref().unwrap_or_default())
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Some(grant))
    }

    /// How many grains had this port before the one that has it now.
    pub async fn port_generation(&self, port: u16) -> Result<i64> {
        let row = sqlx::query_scalar("SELECT generation FROM ports WHERE port = $1")
            .bind(i64::from(port))
            .fetch_optional(&self.read)
            .await?;
        Ok(row.unwrap_or(0))
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortGrant {
    /// Its number.
    pub port: u16,
    /// It was another grain's before: a browser that does not show this mark must be told first to
    /// forget what it stored for that.
    pub mark: Option<String>,
}

#[cfg(test)]
mod tests {
    use crate::store::tests::{grain, package, person, store};

    use super::*;

    #[tokio::test]
    async fn a_new_port_is_one_that_can_be_opened() {
        let (_dir, store) = store().await;
        let ada = person(&store, "Ada").await;
        let app = package(&store, "p1", "app", 1).await;
        for id in ["g1", "g2"] {
            grain(&store, id, &ada, &app, "Notes").await;
        }
        let mut asked = Vec::new();
        let none = store.port_for("g1", ada.id, 7000, 7099, false, |port| {
            asked.push(port);
            false
        });
        assert_eq!(none.await.unwrap(), None);
        assert_eq!(asked, (7000..=7016).collect::<Vec<u16>>());
        let port = async |grain: &'static str, reuse, held: &'static [u16]| {
            let open = |port: u16| !held.contains(&port);
            store.port_for(grain, ada.id, 7000, 7002, reuse, open).await.unwrap()
        };
        let fresh = |port| Some(PortGrant { port, mark: None });
        assert_eq!(port("g1", false, &[7000, 7001]).await, fresh(7002));
        assert_eq!(port("g1", false, &[7002]).await, fresh(7002), "its own is not asked about");
        assert_eq!(port("gone", true, &[7000]).await, fresh(7001));
        // Of those that are left, one that was another's; the mark says so.
        let second = port("g2", true, &[7000]).await.unwrap();
        assert!(second.port == 7001 && second.mark.is_some());
        assert_eq!(port("g3", true, &[7000]).await, None);
    }

    /// Grains of a member who takes what there is leave room for others, also destroyed.
    #[tokio::test]
    async fn one_member_does_not_take_all_ports() {
        let (_dir, store) = store().await;
        let (ada, ben) = (person(&store, "Ada").await, person(&store, "Ben").await);
        let take = async |account, name: &str| {
            let mut count = 0;
            while store
                .port_for(&format!("{name}{count}"), account, 7000, 7099, false, |_| true)
                .await
                .unwrap()
                .is_some()
            {
                count += 1;
            }
            count
        };
        assert_eq!(take(ada.id, "a").await, 51);
        assert_eq!(take(ben.id, "b").await, 16);
        store.make_admin(ada.id).await;
        assert_eq!(take(ada.id, "c").await, 33, "an administrator can have what is left");
    }
}
