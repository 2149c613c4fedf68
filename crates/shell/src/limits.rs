//! Which limits a grain runs under, and a person installs under: the table's defaults, the
//! operator's settings, and the administrator's exceptions for an app or an account.
//!
//! Trust: values come from settings and from administrators, judged by the shared table; nothing
//! an app or its manifest says is looked at. A row that the table does not know any more (written
//! by another version) is passed over.

use std::collections::BTreeMap;

use sandstorm_schema::grain_limits::{self, Limit, PERSON, parse_any};

use crate::error::{Error, Result};
use crate::ids::AccountId;
use crate::store::{LimitSubject, Store};

/// Values that differ from the table's defaults, by the limit's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen(BTreeMap<&'static str, u64>);

impl Chosen {
    /// Reads `NAME=VALUE,NAME=VALUE`.
    ///
    /// # Errors
    /// `Config`, naming the word that is wrong.
    pub fn from_setting(text: &str) -> Result<Chosen> {
        let mut chosen = Chosen::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (limit, value) = parse_any(word)
                .map_err(|e| Error::Config(format!("GRAIN_LIMITS: in \"{word}\": {e}")))?;
            chosen.0.insert(limit.name, value);
        }
        Ok(chosen)
    }

    /// The value of this limit.
    pub fn value(&self, limit: &Limit) -> u64 {
        self.0.get(limit.name).copied().unwrap_or(limit.default)
    }

    /// `NAME=VALUE` of each limit of a grain, as the supervisor takes them.
    pub fn assignments(&self) -> impl Iterator<Item = String> {
        let of_grains = self.0.iter().filter(|(name, _)| grain_limits::find(name).is_some());
        of_grains.map(|(name, value)| format!("{name}={value}"))
    }

    fn overlay(&mut self, rows: impl IntoIterator<Item = (String, i64)>) {
        for (name, value) in rows {
            let Some(limit) = grain_limits::find_any(&name) else { continue };
            let value = u64::try_from(value).unwrap_or(0);
            if (1..=limit.ceiling).contains(&value) {
                self.0.insert(limit.name, value);
            }
        }
    }
}

/// What a grain of this app and owner runs under: the account's exceptions beat the app's, and
/// both beat the server's.
///
/// # Errors
/// Those of the database.
pub async fn effective(
    store: &Store,
    server: &Chosen,
    app_id: &str,
    owner: AccountId,
) -> Result<Chosen> {
    let mut chosen = server.clone();
    let (app, account) = (LimitSubject::App(app_id.to_owned()), LimitSubject::Account(owner));
    let (app, account) = tokio::try_join!(store.limits_of(&app), store.limits_of(&account))?;
    chosen.overlay(app);
    chosen.overlay(account);
    Ok(chosen)
}

/// Less than this, and no grain comes up: its own init and bridge, and a small app.
const LEAST: [(&str, u64); 3] = [("memory", 16 << 20), ("pids", 4), ("files", 16)];

/// Whether an exception of this limit makes sense for its subject.
///
/// # Errors
/// `BadRequest` for a person's limit set for an app, and for a value with which nothing would start.
pub fn fits(limit: &Limit, value: u64, subject: &LimitSubject) -> Result<()> {
    let bad = |words| Err(Error::BadRequest(words));
    if matches!(subject, LimitSubject::App(_)) && grain_limits::is_persons(limit) {
        return bad(format!(
            "{} limits what one person has, not an app's grains; set it for a person's account",
            limit.name
        ));
    }
    match LEAST.iter().find(|(name, least)| *name == limit.name && value < *least) {
        Some((name, least)) => bad(format!(
            "{name} must be at least {least} {}, or no grain would start; K, M and G may follow the \
             number",
            limit.unit
        )),
        None => Ok(()),
    }
}

/// Grains of this account that may run at once; of what [`effective`] answers for one of them.
pub fn running(chosen: &Chosen) -> usize {
    let limit = grain_limits::find_any("running").map_or(u64::MAX, |limit| chosen.value(limit));
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// What one person may install.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfPerson {
    /// Bytes on the disk.
    pub installed: u64,
    /// Files and directories.
    pub installed_files: u64,
    /// An administrator set one of them for this person.
    pub is_exception: bool,
}

/// The account's exceptions beat the server's values.
///
/// # Errors
/// Those of the database.
pub async fn of_person(store: &Store, server: &Chosen, account: AccountId) -> Result<OfPerson> {
    let rows = store.limits_of(&LimitSubject::Account(account)).await?;
    let is_exception = rows.iter().any(|(name, _)| name.starts_with("installed"));
    let mut chosen = server.clone();
    chosen.overlay(rows);
    let [bytes, files, _] = PERSON else { unreachable!("the table has these rows") };
    Ok(OfPerson {
        installed: chosen.value(bytes),
        installed_files: chosen.value(files),
        is_exception,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_is_a_list_of_assignments() {
        let chosen = Chosen::from_setting(" disk=64M, pids=100 ,").unwrap();
        let mut words: Vec<_> = chosen.assignments().collect();
        words.sort();
        assert_eq!(words, ["disk=67108864", "pids=100"]);
        assert_eq!(chosen.value(grain_limits::find("cpu").unwrap()), 200);
        assert_eq!(Chosen::from_setting("").unwrap(), Chosen::default());
        let persons = Chosen::from_setting("installed=1G,pids=9").unwrap();
        assert_eq!(persons.assignments().collect::<Vec<_>>(), ["pids=9"]);
        assert_eq!(persons.value(&PERSON[0]), 1 << 30);
        for bad in ["disk", "disk=0", "uid=0", "disk=64M pids=1", "memory=99999999T"] {
            let error = Chosen::from_setting(bad).unwrap_err().to_string();
            assert!(error.contains("GRAIN_LIMITS"), "{error}");
        }
    }

    #[test]
    fn the_later_beats_the_earlier_and_nonsense_is_passed_over() {
        let mut chosen = Chosen::from_setting("disk=1G").unwrap();
        chosen.overlay([("disk".to_owned(), 5), ("gone".to_owned(), 1), ("pids".to_owned(), -1)]);
        assert_eq!(chosen.assignments().collect::<Vec<_>>(), ["disk=5"]);
    }
}
