//! How many package files are on their way at once: by all, and by one account.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::failure::Failure;
use super::lock;
use crate::ids::AccountId;

/// Files on their way by all accounts together: each may fill a gigabyte of `tmp/` until it is
/// unpacked or refused.
const ALL: usize = 16;
/// By one account.
pub const EACH: usize = 4;

/// The places. Cheap to clone.
#[derive(Clone, Default)]
pub struct Turns(Arc<Mutex<HashMap<AccountId, usize>>>);

/// One place, until it is dropped.
pub struct Turn {
    turns: Turns,
    by: AccountId,
}

impl Turns {
    /// A place for a file that `by` sends, or has this server download. `first`: an administrator,
    /// for whom a few places are left however many members send.
    ///
    /// # Errors
    /// `PKG-BUSY` while all places, or all of this account's, are taken.
    pub fn take(&self, by: AccountId, first: bool) -> Result<Turn, Failure> {
        let mut taken = lock(&self.0);
        if taken.get(&by).is_some_and(|own| *own >= EACH) {
            return Err(Failure::machine(
                "PKG-BUSY",
                format!(
                    "{EACH} app files of yours are on their way to this server already. Try again \
                     when one of them is done."
                ),
            ));
        }
        let all = if first { ALL + EACH } else { ALL };
        if taken.values().sum::<usize>() >= all {
            return Err(Failure::machine(
                "PKG-BUSY",
                "Many other app files are on their way to this server just now. Try again when \
                 they are done.",
            ));
        }
        *taken.entry(by).or_default() += 1;
        Ok(Turn { turns: self.clone(), by })
    }
}

impl Turn {
    /// Whose place it is.
    pub fn by(&self) -> AccountId {
        self.by
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = lock(&self.turns.0);
        if let Some(own) = taken.get_mut(&self.by) {
            *own -= 1;
            if *own == 0 {
                taken.remove(&self.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_all_places() {
        let turns = Turns::default();
        let mut held: Vec<Turn> =
            (0..EACH).map(|_| turns.take(AccountId(1), false).ok().unwrap()).collect();
        let refused = turns.take(AccountId(1), false).err().unwrap();
        assert!(refused.again && refused.words.contains("of yours"), "{refused}");
        for other in 2.. {
            match turns.take(AccountId(other), false) {
                Ok(turn) => held.push(turn),
                Err(refused) => {
                    assert!(refused.words.contains("other"), "{refused}");
                    break;
                }
            }
        }
        assert_eq!(held.len(), ALL);
        assert!(turns.take(AccountId(99), true).is_ok());
        held.remove(0);
        assert!(turns.take(AccountId(1), false).is_ok());
        drop(held);
        assert!(lock(&turns.0).is_empty());
    }
}
