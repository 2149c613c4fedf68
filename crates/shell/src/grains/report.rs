//! What a supervisor says of its grain's limits.
//!
//! Trust: the supervisor may be whoever took it over; numbers are taken as numbers, words are cut
//! short and shown as text.

use std::time::Duration;

use capnp::capability::FromClientHook;
use sandstorm_schema::ext_report_capnp::grain_report;
use sandstorm_schema::grain_limits::TABLE;
use sandstorm_schema::supervisor_capnp::supervisor;

use super::conn::timed;
use crate::error::Result;
use crate::identity::text::one_line;

/// It answers from memory.
const TIME: Duration = Duration::from_secs(2);

/// One limit of a running grain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitState {
    /// As the table of limits names it, if it does.
    pub name: String,
    /// In the limit's unit.
    pub value: u64,
    /// What keeps it.
    pub by: String,
    /// Now, in the limit's unit; 0 where nobody counts.
    pub used: u64,
    /// How often it was met.
    pub hits: u64,
}

/// Asks for the limits as they stand.
///
/// # Errors
/// `Unimplemented` from an older supervisor; what the connection says.
pub async fn limits(supervisor: &supervisor::Client) -> Result<Vec<LimitState>> {
    let report = grain_report::Client::new(supervisor.clone().into_client_hook());
    let response = timed("the box", TIME, report.limits_request().send().promise).await?;
    let read = || -> capnp::Result<Vec<LimitState>> {
        let list = response.get()?.get_limits()?;
        let word = |text: capnp::Result<capnp::text::Reader<'_>>| -> capnp::Result<String> {
            Ok(one_line(text?.to_str().unwrap_or_default(), 24))
        };
        // Never more than we know of, and a few that a newer one may have.
        list.iter()
            .take(TABLE.len() + 8)
            .map(|row| {
                Ok(LimitState {
                    name: word(row.get_name())?,
                    value: row.get_value(),
                    by: word(row.get_by())?,
                    used: row.get_used(),
                    hits: row.get_hits(),
                })
            })
            .collect()
    };
    read().map_err(super::conn::from_rpc)
}

/// How full the fuller of both disk limits is, in percent.
pub fn percent_of_disk(rows: &[LimitState]) -> Option<u64> {
    let percent =
        |row: &LimitState| row.used.saturating_mul(100).checked_div(row.value).unwrap_or(0);
    rows.iter().filter(|row| ["disk", "inodes"].contains(&row.name.as_str())).map(percent).max()
}

/// What keeps them, in few words: `cgroup v1, accounting`.
pub fn summary(rows: &[LimitState]) -> String {
    let mut kinds: Vec<&str> = Vec::new();
    for name in ["memory", "pids", "cpu", "disk"] {
        if let Some(row) = rows.iter().find(|row| row.name == name) {
            if !kinds.contains(&row.by.as_str()) {
                kinds.push(&row.by);
            }
        }
    }
    kinds.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, by: &str, used: u64) -> LimitState {
        LimitState { name: name.into(), value: 100, by: by.into(), used, hits: 0 }
    }

    #[test]
    fn the_fuller_counts_and_kinds_are_named_once() {
        let rows = [
            row("memory", "cgroup v1", 99),
            row("pids", "cgroup v1", 1),
            row("cpu", "nothing", 0),
            row("disk", "accounting", 7),
            row("inodes", "accounting", 81),
        ];
        assert_eq!(percent_of_disk(&rows), Some(81));
        assert_eq!(percent_of_disk(&[]), None);
        assert_eq!(summary(&rows), "cgroup v1, nothing, accounting");
        let zero = LimitState { value: 0, ..row("disk", "x", 5) };
        assert_eq!(percent_of_disk(&[zero]), Some(0));
    }
}
