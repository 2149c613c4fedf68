//! The control group that a grain leaves behind where the server was given a part of the tree.
//!
//! A supervisor without root makes one named after its grain beside the server's own, and cannot take
//! it away itself: its last processes are still in it. So that is done here once they are gone. Where
//! a start could need it, nothing is taken: both have the slot's gate.

use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use super::pool::Local;
use super::slot::Slot;
use crate::ids::GrainId;

/// Names that a supervisor tries, one after the other, where processes of the last run are still dying:
/// the grain's, then with `.1` to `.7`.
const NAMES: u32 = 8;
/// Seconds before each try: a supervisor that was killed leaves processes that take a while to end.
const TRIES: [u64; 4] = [0, 1, 4, 15];

/// After the end of a supervisor, or of a start that failed: removes the grain's groups, by and by.
pub fn clear(slot: &Rc<Slot>, local: &Rc<Local>) {
    if local.shared.groups.is_some() {
        tokio::task::spawn_local(clear_soon(slot.clone(), local.clone()));
    }
}

async fn clear_soon(slot: Rc<Slot>, local: Rc<Local>) {
    for seconds in TRIES {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let _gate = slot.gate.lock().await;
        // The end of this run comes here again.
        if slot.running().is_some() {
            return;
        }
        let Some(parent) = local.shared.groups.clone() else { return };
        let grain = slot.entry.grain.clone();
        let removed = tokio::task::spawn_blocking(move || remove(&parent, &grain)).await;
        if removed.unwrap_or(true) {
            return;
        }
    }
}

/// Removes the groups of a grain below `parent`; whether none is left. One that has processes stays,
/// by the kernel's rules.
fn remove(parent: &Path, grain: &GrainId) -> bool {
    let mut none_left = true;
    for n in 0..NAMES {
        let name = if n == 0 { grain.to_string() } else { format!("{grain}.{n}") };
        let removed = std::fs::remove_dir(parent.join(name));
        none_left &= removed.map_or_else(|e| e.kind() == io::ErrorKind::NotFound, |()| true);
    }
    none_left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_empty_groups_of_this_grain_go() {
        let tree = tempfile::tempdir().unwrap();
        let make = |name: &str| std::fs::create_dir(tree.path().join(name)).unwrap();
        let there = || {
            let names = std::fs::read_dir(tree.path()).unwrap();
            let mut names: Vec<_> =
                names.map(|name| name.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let grain: GrainId = "abcdefgh".parse().unwrap();
        assert!(remove(tree.path(), &grain), "nothing is there");
        let others = ["abcdefgh.8", "abcdefghi", "abcdefghi.1", "main"];
        others.iter().chain(&["abcdefgh", "abcdefgh.1", "abcdefgh.7"]).for_each(|name| make(name));
        // As good as a process in it: what is in use cannot be removed.
        std::fs::write(tree.path().join("abcdefgh.1/cgroup.procs"), "1").unwrap();
        assert!(!remove(tree.path(), &grain));
        assert_eq!(there(), ["abcdefgh.1", "abcdefgh.8", "abcdefghi", "abcdefghi.1", "main"]);
        std::fs::remove_file(tree.path().join("abcdefgh.1/cgroup.procs")).unwrap();
        assert!(remove(tree.path(), &grain));
        assert_eq!(there(), others);
    }
}
