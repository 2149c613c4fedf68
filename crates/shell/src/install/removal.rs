//! The end of a package: first for everybody, in the database, then of its files.
//!
//! The database keeps the name until the files are gone too, so a server that is killed in between
//! goes on at its next start. Files that the database does not know are never removed for that
//! reason alone: the database may be the one that is wrong.

use std::collections::HashSet;

use super::{Installer, lock, place};
use crate::error::{Error, Result};
use crate::ids::{AccountId, PackageId};
use crate::state::Event;
use crate::store::{Package, Removal, Tone, Uses};

impl Installer {
    /// Removes a package that no grain uses. `by`: a person, who may remove what they brought as
    /// long as it is in nobody else's list; `None`: an administrator's act, which takes it off all
    /// lists and tells whom it was taken from.
    ///
    /// # Errors
    /// `Conflict` with who uses it and what to do; `Forbidden` for somebody else's package.
    pub async fn remove(&self, id: &PackageId, by: Option<AccountId>) -> Result<Package> {
        let name = id.to_string();
        let (store, events) = (&self.0.store, &self.0.events);
        let _placing = self.0.placing.lock().await;
        let package = store.package(&name).await?.ok_or(Error::NotFound("package"))?;
        if by.is_some() && package.installed_by != by {
            return Err(Error::Forbidden(
                "this app was brought by somebody else; ask them, or an administrator".into(),
            ));
        }
        if lock(&self.0.jobs).contains_key(id) {
            return Err(Error::Conflict("it is being installed just now; try again later".into()));
        }
        let people = match store.remove_package(&name, by).await? {
            Removal::Gone(people) => people,
            Removal::Used(uses) => return Err(Error::Conflict(used(&package, &uses))),
            Removal::Unknown => return Err(Error::NotFound("package")),
        };
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
        tracing::info!(package = name, app = package.app_id, "removed {}", package.title);
        self.discard(name).await;
        Ok(package)
    }

    /// Whether an administrator could remove this package now; an unknown one is not judged.
    ///
    /// # Errors
    /// `Conflict` with who uses it and what to do.
    pub async fn may_remove(&self, id: &PackageId) -> Result<()> {
        let name = id.to_string();
        let Some(package) = self.0.store.package(&name).await? else { return Ok(()) };
        let uses = self.0.store.package_uses(&name).await?;
        if uses.grains > 0 { Err(Error::Conflict(used(&package, &uses))) } else { Ok(()) }
    }

    /// Removes files that belong to no package and that nobody knows of, when an operator names
    /// them; false when there are none.
    ///
    /// # Errors
    /// Those of the files.
    pub async fn remove_unknown(&self, id: &PackageId) -> Result<bool> {
        let name = id.to_string();
        let _placing = self.0.placing.lock().await;
        if self.0.store.package(&name).await?.is_some() || lock(&self.0.jobs).contains_key(id) {
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
        let _placing = self.0.placing.lock().await;
        match self.0.store.removals().await {
            Ok(names) => {
                for name in names {
                    self.discard(name).await;
                }
            }
            Err(error) => tracing::error!("looking for removed packages: {error}"),
        }
    }

    /// What cannot be removed now is tried again by [`Installer::finish_removals`].
    async fn discard(&self, name: String) {
        let (home, of) = (self.0.home.clone(), name.clone());
        let done = tokio::task::spawn_blocking(move || place::discard(&home, &of)).await;
        let told = match done {
            Ok(Ok(())) => self.0.store.removal_done(&name).await.map_err(|e| e.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = told {
            tracing::error!(package = name, "removing the files of a package: {error}");
        }
    }
}

/// Who uses a package, and what to do about it.
fn used(package: &Package, uses: &Uses) -> String {
    let title = &package.title;
    let plural = |n: i64, one: &str, more: &str| match n {
        1 => format!("1 {one}"),
        n => format!("{n} {more}"),
    };
    if uses.grains > 0 {
        let trash = match uses.trashed {
            0 => String::new(),
            n if n == uses.grains => " in the trash".into(),
            n => format!(" ({n} in the trash)"),
        };
        return format!(
            "{title} is used by {}{trash}, so it stays. It can be deleted once these are deleted \
             for good",
            plural(uses.grains, "grain", "grains")
        );
    }
    if uses.for_all {
        return format!(
            "{title} is there for everybody here, so only an administrator can delete it"
        );
    }
    format!(
        "{title} is in the list of apps of {}, you included if it is in yours; ask an administrator \
         to delete it for all",
        plural(uses.people, "person", "people")
    )
}
