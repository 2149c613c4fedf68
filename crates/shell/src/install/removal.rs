//! The end of a package: first for everybody, in the database, then of its files.
//!
//! The database keeps the name until the files are gone too, so a server that is killed in between
//! goes on at its next start. Files that the database does not know are never removed for that
//! reason alone: the database may be the one that is wrong.

use std::collections::HashSet;
use std::path::PathBuf;

use super::{Installer, place};
use crate::error::{Error, Result};
use crate::ids::{AccountId, PackageId};
use crate::state::Event;
use crate::store::{Audit, By, Package, Removal, Tone, Uses};

impl Installer {
    /// Removes a package that no grain uses. `by`: a person, who may remove what they brought as
    /// long as it is in nobody else's list; `None`: an administrator's act, which takes it off all
    /// lists and tells whom it was taken from. `who`: whom the audit log names.
    ///
    /// # Errors
    /// `Conflict` with who uses it and what to do; `Forbidden` for somebody else's package.
    pub async fn remove(&self, id: &PackageId, by: Option<AccountId>, who: By) -> Result<Package> {
        let (this, id) = (self.clone(), *id);
        // On its own task: whoever asked may leave, and then nobody would be told.
        tokio::spawn(async move { this.remove_now(&id, by, who).await })
            .await
            .map_err(|e| Error::Internal(e.to_string()))?
    }

    async fn remove_now(&self, id: &PackageId, by: Option<AccountId>, who: By) -> Result<Package> {
        let name = id.to_string();
        let (store, events) = (&self.0.store, &self.0.events);
        let placing = self.0.placing.lock().await;
        let package = store.package(&name).await?.ok_or(Error::NotFound("package"))?;
        if by.is_some() && package.installed_by != by {
            return Err(Error::Forbidden(
                "this app was brought by somebody else; ask them, or an administrator".into(),
            ));
        }
        if self.is_running(id) {
            return Err(Error::Conflict("it is being installed just now; try again later".into()));
        }
        let audit = Audit { by: who, action: "app-delete", target: &name, detail: &package.title };
        let people = match store.remove_package(&name, by, &audit).await? {
            Removal::Gone(people) => people,
            Removal::Used(uses) => return Err(Error::Conflict(used(&package, &uses, by))),
            Removal::Unknown => return Err(Error::NotFound("package")),
        };
        tracing::info!(package = name, app = package.app_id, "removed {}", package.title);
        let aside = self.set_aside(&name).await;
        drop(placing);
        self.remove_aside(aside);
        for one in people {
            if by != Some(one) {
                let text =
                    format!("{} was removed from this server by an administrator.", package.title);
                // What is done is done, whoever hears of it.
                if let Err(e) = store.notify(one, Tone::Warning, &text, None).await {
                    tracing::error!("a notice of a removed app: {e}");
                }
            }
            events.send(Event::AccountChanged(one));
        }
        events.send(Event::InstallChanged(*id));
        Ok(package)
    }

    /// Whether `by` could remove this package now, as [`Installer::remove`] takes it; an unknown one
    /// is not judged.
    ///
    /// # Errors
    /// `Conflict` with who uses it and what to do.
    pub async fn may_remove(&self, id: &PackageId, by: Option<AccountId>) -> Result<()> {
        let name = id.to_string();
        let Some(package) = self.0.store.package(&name).await? else { return Ok(()) };
        let uses = self.0.store.package_uses(&name, by).await?;
        match uses.grains > 0 || (by.is_some() && uses.in_other_lists()) {
            true => Err(Error::Conflict(used(&package, &uses, by))),
            false => Ok(()),
        }
    }

    /// Removes files that belong to no package and that nobody knows of, when an operator names
    /// them; false when there are none.
    ///
    /// # Errors
    /// Those of the files.
    pub async fn remove_unknown(&self, id: &PackageId) -> Result<bool> {
        let name = id.to_string();
        let _placing = self.0.placing.lock().await;
        if self.0.store.package(&name).await?.is_some() || self.is_running(id) {
            return Ok(false);
        }
        let home = self.0.home.clone();
        tokio::task::spawn_blocking(move || {
            let there = place::remains(&home, &HashSet::new())?.contains(&name);
            if there {
                place::discard(&home, &name)?;
            }
            Ok(there)
        })
        .await
        .map_err(|e| Error::Internal(e.to_string()))?
        .map_err(Error::io("removing a package's files"))
    }

    /// Goes on with removals that were cut off.
    pub(super) async fn finish_removals(&self) {
        let placing = self.0.placing.lock().await;
        let mut aside = Vec::new();
        match self.0.store.removals().await {
            Ok(names) => {
                for name in names {
                    aside.extend(self.set_aside(&name).await);
                }
            }
            Err(error) => tracing::error!("looking for removed packages: {error}"),
        }
        drop(placing);
        self.remove_aside(aside);
    }

    /// Takes a package's names away, in a moment; whoever calls holds `placing`. What remains is to
    /// be removed. What fails is tried again by [`Installer::finish_removals`].
    pub(super) async fn set_aside(&self, name: &str) -> Option<PathBuf> {
        let (home, of) = (self.0.home.clone(), name.to_owned());
        let done = tokio::task::spawn_blocking(move || place::set_aside(&home, &of)).await;
        let (aside, told) = match done {
            Ok(Ok(aside)) => {
                let told = self.0.store.removal_done(name).await;
                (aside, told.map_err(|e| e.to_string()))
            }
            Ok(Err(error)) => (None, Err(error.to_string())),
            Err(error) => (None, Err(error.to_string())),
        };
        if let Err(error) = told {
            tracing::error!(package = name, "removing the files of a package: {error}");
        }
        aside
    }

    /// Removes trees that have no name any more: nobody waits for that, since a large one takes its
    /// time. The next start removes what is left of them.
    pub(super) fn remove_aside(&self, trees: impl IntoIterator<Item = PathBuf>) {
        let trees: Vec<_> = trees.into_iter().collect();
        tokio::task::spawn_blocking(move || place::remove_left_overs(&trees));
    }
}

/// Who uses a package, and what to do about it. `by`: a person, who is told how many of the grains
/// are theirs, and of those of others only that there are some.
fn used(package: &Package, uses: &Uses, by: Option<AccountId>) -> String {
    let title = format!("“{}”", package.title);
    if uses.grains > 0 {
        return format!(
            "{title} is used by {}, so it stays. It can be deleted once these are deleted for good",
            match by {
                Some(_) => uses.for_a_member(),
                None => uses.for_an_administrator(),
            }
        );
    }
    if uses.for_all {
        return format!(
            "{title} is there for everybody here, so only an administrator can delete it"
        );
    }
    format!(
        "{title} is in the list of apps of other people here, so only an administrator can delete it"
    )
}

impl Uses {
    /// In a few words, for who may know of everybody's.
    pub fn for_an_administrator(&self) -> String {
        match (self.grains, self.for_all, self.people) {
            (0, true, _) => "no grain, but in everybody's list".into(),
            (0, false, 0) => "nobody".into(),
            (0, false, n) => {
                format!("no grain, but in the list of {}", plural(n, "person", "people"))
            }
            (n, ..) => grains(n, self.trashed, "grain", "grains"),
        }
    }

    /// The same for the person who asks: of others only that there are some.
    pub fn for_a_member(&self) -> String {
        match (self.own, self.grains - self.own) {
            (0, 0) if self.in_other_lists() => "no grain, but in the lists of others".into(),
            (0, 0) if self.own_list => "no grain, and in your list alone".into(),
            (0, 0) => "nobody".into(),
            (0, _) => "grains of other people".into(),
            (n, 0) => grains(n, self.own_trashed, "grain of yours", "grains of yours"),
            (n, _) => {
                grains(n, self.own_trashed, "grain of yours", "grains of yours")
                    + " and by grains of other people"
            }
        }
    }
}

fn plural(n: i64, one: &str, more: &str) -> String {
    match n {
        1 => format!("1 {one}"),
        n => format!("{n} {more}"),
    }
}

fn grains(n: i64, trashed: i64, one: &str, more: &str) -> String {
    let trash = match trashed {
        0 => String::new(),
        t if t == n => " in the trash".into(),
        t => format!(" ({t} in the trash)"),
    };
    plural(n, one, more) + &trash
}
