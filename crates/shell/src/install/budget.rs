//! What the apps that one person brought may take: so that no member fills the server's disk with
//! packages, whose bytes and files come from the network.

use super::failure::{Failure, bytes, number};
use super::{Installer, lock};
use crate::error::Result;
use crate::ids::{AccountId, PackageId};
use crate::limits;
use crate::store::{Brought, Install, Role};

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
    pub fn has_room(&self, more: Taken) -> bool {
        let Some(most) = self.most else { return true };
        let (bytes, entries) = self.taken();
        bytes.saturating_add(more.bytes) <= most.bytes
            && entries.saturating_add(more.entries) <= most.entries
    }

    fn taken(&self) -> (u64, u64) {
        let unsigned = |n: i64| u64::try_from(n).unwrap_or(0);
        (unsigned(self.has.disk), unsigned(self.has.entries))
    }

    /// How much of it is used, and what this person can do: for their eyes only.
    pub fn stands(&self) -> String {
        let used = self.used();
        match (self.most, self.has.packages) {
            (None, _) => used,
            (Some(_), 0) => {
                format!("{used} Ask an administrator for more room; then try again.")
            }
            (Some(_), _) => format!(
                "{used} Delete one that you no longer need (see Apps, “What you brought”), or ask an \
                 administrator for more room; then try again."
            ),
        }
    }

    fn used(&self) -> String {
        let Some(most) = self.most else { return "You may bring as much as you like.".into() };
        let (disk, entries) = self.taken();
        let (may, files) = (bytes(most.bytes), number(most.entries));
        match self.has.packages {
            0 => format!("You may bring apps of {may} and {files} files here."),
            _ => format!(
                "The apps that you brought here take {} of the {may} that you may have, and have {} \
                 of {files} files.",
                bytes(disk),
                number(entries)
            ),
        }
    }

    /// Refuses who has nothing left, before they send anything.
    pub(super) fn check_any(&self) -> std::result::Result<(), Failure> {
        match self.has_room(Taken { bytes: 1, entries: 1 }) {
            true => Ok(()),
            false => Err(Failure::machine(
                NO_ROOM,
                format!("You have no room for another app. {}", self.stands()),
            )),
        }
    }
}

/// The code of what fails for want of room in a budget.
pub(super) const NO_ROOM: &str = "PKG-BUDGET";

/// An app that is too large for everybody who asked for it. Whoever knows its id can read this, so
/// it says nothing of anybody's budget.
pub(super) fn no_room(takes: Taken) -> Failure {
    Failure::machine(
        NO_ROOM,
        format!(
            "This app takes {} on the disk and has {}, which is more room than was left to whoever \
             asked for it.",
            bytes(takes.bytes),
            match takes.entries {
                1 => "1 file".to_owned(),
                n => format!("{} files", number(n)),
            }
        ),
    )
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
            crate::error::Error::Store(error) => self.database(error),
            other => Failure::machine("S-INT", format!("{other}.")),
        })
    }

    /// Whose budget a package goes into: whoever sent it, else the first of those who asked for it
    /// meanwhile that has the room.
    pub(super) async fn payer(
        &self,
        id: &PackageId,
        sent_by: AccountId,
        takes: Taken,
    ) -> std::result::Result<AccountId, Failure> {
        let mut asked = vec![sent_by];
        if let Some(job) = lock(&self.0.jobs).get_mut(id) {
            job.judged = job.asked.len();
            asked.extend(job.asked.iter().filter(|by| **by != sent_by));
        }
        for by in asked {
            if self.budget_of(by).await?.has_room(takes) {
                return Ok(by);
            }
        }
        Err(no_room(takes))
    }

    /// What an installation's page says besides to this person: where their own budget stands, when
    /// it failed for want of room.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn room_of(&self, install: &Install, of: AccountId) -> Result<Option<String>> {
        match &install.failure {
            Some((code, _)) if code.starts_with(NO_ROOM) => {
                let budget = self.budget(of).await?;
                Ok(Some(match install.started_by == Some(of) {
                    true => budget.stands(),
                    false => budget.used() + " Where that leaves room for it, try again.",
                }))
            }
            _ => Ok(None),
        }
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
        let fits = |bytes, entries| budget.has_room(Taken { bytes, entries });
        assert!(fits(100_000_000, 10));
        assert!(!fits(100_000_001, 1) && !fits(1, 11) && !fits(u64::MAX, u64::MAX));
        assert!(Budget { most: None, has }.has_room(Taken { bytes: 1 << 60, entries: 1 }));
        let said = budget.stands();
        assert!(said.contains("take 900 MB of the 1.0 GB") && said.contains("90 of 100 files"));
        assert!(said.contains("ask an administrator"), "{said}");
        assert_eq!(budget.check_any(), Ok(()));
        let full = Budget { has: Brought { disk: 1_000_000_000, ..has }, most };
        let refused = full.check_any().unwrap_err();
        assert!(refused.again && refused.words.starts_with("You have no room"), "{refused}");
        // Who has nothing can delete nothing.
        let said = Budget { has: Brought::default(), most }.stands();
        assert!(!said.contains("Delete") && said.contains("1.0 GB and 100 files"), "{said}");
    }

    #[test]
    fn the_words_for_all_are_about_the_app_alone() {
        let failure = no_room(Taken { bytes: 5_000_000, entries: 12 });
        assert!(
            failure.again && failure.words.contains("5.0 MB") && !failure.words.contains("you")
        );
    }
}
