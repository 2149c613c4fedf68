//! How many grains of one person run at once.
//!
//! Each takes processes, memory and a uid of the machine, whatever its own limits are; so somebody
//! who opens one after the other is held at a number (limit `running`), not when the machine is full.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use super::GrainState;
use super::pool::Local;
use super::shared::Entry;
use crate::error::{Error, Result};
use crate::ids::AccountId;

/// Makes room for a grain that is about to start, counted already by its state: while more than
/// `most` of its owner's run, the one that nobody has used for longest is put to sleep.
///
/// # Errors
/// `Busy` when all of them are in use.
pub async fn make_room(local: &Rc<Local>, owner: AccountId, most: usize) -> Result<()> {
    let shared = &local.shared;
    let mut running = shared.running_of(owner);
    let mut excess = running.len().saturating_sub(most);
    running.retain(is_quiet);
    running.sort_by_cached_key(|entry| std::cmp::Reverse(entry.quiet_for()));
    for entry in running {
        if excess == 0 {
            break;
        }
        tracing::info!("grain {}: put to sleep, its owner has {most} others awake", entry.grain);
        let thread = shared.thread(&entry).clone();
        let asleep = thread.call(move |local| {
            Box::pin(async move {
                let slot = local.slot(&entry);
                slot.sleep(&local, Duration::from_nanos(1)).await.map(|()| slot.running().is_none())
            })
        });
        match asleep.await? {
            Ok(true) => excess -= 1,
            // Somebody came just now, or it does not end: the next.
            Ok(false) => {}
            Err(e) => tracing::warn!("making room for a grain: {e}"),
        }
    }
    if excess == 0 {
        return Ok(());
    }
    Err(Error::Busy(format!(
        "{most} other grains of its owner are in use, as many as may run at once (limit “running”)."
    )))
}

fn is_quiet(entry: &Arc<Entry>) -> bool {
    entry.state() == GrainState::Running && entry.quiet_for() > Duration::ZERO
}
