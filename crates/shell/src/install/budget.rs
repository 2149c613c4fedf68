//! What the apps that one person brought may take: so that no member fills the server's disk with
//! packages, whose bytes and files come from the network.

use super::failure::{Failure, bytes};
use super::{Installer, database};
use crate::error::Result;
use crate::ids::AccountId;
use crate::limits;
use crate::store::{Brought, Role};

/// Bytes and files on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// In whole blocks.
    pub bytes: u64,
    /// Files, links and directories.
    pub entries: u64,
}

/// What an account may have, and has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The most; `None` for administrators and the local operator, who set the limits.
    pub most: Option<Taken>,
    /// What its packages take now.
    pub has: Brought,
}

impl Budget {
    /// Whether `more` still fits.
    ///
    /// # Errors
    /// `PKG-BUDGET`, with the numbers and what to do.
    pub fn check(&self, more: Taken) -> std::result::Result<(), Failure> {
        let Some(most) = self.most else { return Ok(()) };
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        let (disk, entries) = (unsigned(self.has.disk), unsigned(self.has.entries));
        let what = if disk.saturating_add(more.bytes) > most.bytes {
            format!(
                "This app takes {}. The apps that you brought here take {} of the {} that you may \
                 have.",
                bytes(more.bytes),
                bytes(disk),
                bytes(most.bytes)
            )
        } else if entries.saturating_add(more.entries) > most.entries {
            format!(
                "This app has {} files. The apps that you brought here have {entries} of the {} \
                 that you may have.",
                more.entries, most.entries
            )
        } else {
            return Ok(());
        };
        Err(Failure::machine(
            "PKG-BUDGET",
            format!(
                "{what} Delete one of them that you no longer need (see Apps, “What you brought”), \
                 or ask an administrator for more room; then try again."
            ),
        ))
    }

    /// Refuses who has nothing left, before they send anything.
    pub(super) fn check_any(&self) -> std::result::Result<(), Failure> {
        self.check(Taken { bytes: 1, entries: 1 })
    }
}

impl Installer {
    /// The budget of an account.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn budget(&self, of: AccountId) -> Result<Budget> {
        let store = &self.0.store;
        let has = store.brought_by(of).await?;
        let own = limits::of_person(store, &self.0.limits, of).await?;
        let role = store.account(of).await?.map(|account| account.role);
        let unbound = role == Some(Role::Admin) || store.is_operator(of).await?;
        let most = (!unbound || own.is_exception)
            .then_some(Taken { bytes: own.installed, entries: own.installed_files });
        Ok(Budget { most, has })
    }

    /// The same while a package is about to be installed.
    pub(super) async fn budget_of(&self, by: AccountId) -> std::result::Result<Budget, Failure> {
        self.budget(by).await.map_err(|error| match error {
            crate::error::Error::Store(error) => database(error),
            other => Failure::machine("S-INT", format!("{other}.")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_numbers_and_a_way_out() {
        let has = Brought { packages: 2, disk: 900_000_000, entries: 90 };
        let most = Some(Taken { bytes: 1_000_000_000, entries: 100 });
        let budget = Budget { most, has };
        let more = |bytes, entries| budget.check(Taken { bytes, entries });
        assert_eq!(more(100_000_000, 10), Ok(()));
        let refused = more(100_000_001, 1).unwrap_err();
        assert!(refused.again && refused.words.contains("take 900 MB of the 1.0 GB"), "{refused}");
        assert!(refused.words.contains("ask an administrator"), "{refused}");
        let refused = more(1, 11).unwrap_err();
        assert!(refused.words.contains("has 11 files") && refused.words.contains("90 of the 100"));
        assert_eq!(Budget { most: None, has }.check(Taken { bytes: 1 << 60, entries: 1 }), Ok(()));
        assert!(more(u64::MAX, u64::MAX).is_err());
    }
}
