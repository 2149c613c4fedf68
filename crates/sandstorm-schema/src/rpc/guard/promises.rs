//! Objects of the peer's that we hold, and what its promises resolved to.
//!
//! Trust: capnp-rpc wraps a promise in another for each `Resolve`, follows the chain without
//! bound, and drops it by recursion: a promise that leads to itself hangs the thread, 200,000 in a
//! row overflow the stack. So no promise leads to itself here, and chains stay short.

use std::collections::HashMap;

use super::{Violation, too_many};

/// The peer's objects that we hold, by the peer's ids.
pub struct Imports {
    held: HashMap<u32, Import>,
    limit: usize,
    chain: u32,
}

#[derive(Default)]
struct Import {
    references: u32,
    /// Promises that stand before this one in the longest chain that leads here.
    before: u32,
    /// What it resolved to, while we still hold it.
    next: Option<u32>,
    /// It came as a promise once: capnp-rpc takes it for one for as long as it is held.
    promise: bool,
}

/// What a promise resolved to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Another object of the peer's.
    Theirs(u32),
    /// A settled object of ours, or an error: the chain ends.
    Ours,
}

impl Imports {
    pub fn new(limit: usize, chain: u32) -> Self {
        Imports { held: HashMap::new(), limit, chain }
    }

    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// A message of the peer's carries its object `id`, as a promise or as a settled object.
    pub fn arrived(&mut self, id: u32, promise: bool) -> Result<(), Violation> {
        let import = self.held.entry(id).or_default();
        import.references = import.references.saturating_add(1);
        import.promise |= promise;
        too_many("objects of the peer's", self.held.len(), self.limit)
    }

    /// Whether the peer's object `id` is a promise of the peer's, resolved or not.
    pub fn is_promise(&self, id: u32) -> bool {
        self.held.get(&id).is_some_and(|import| import.promise)
    }

    /// We gave back `count` references to the peer's object `id`.
    pub fn released(&mut self, id: u32, count: u32) {
        if let Some(import) = self.held.get_mut(&id) {
            import.references = import.references.saturating_sub(count);
            if import.references == 0 {
                self.held.remove(&id);
            }
        }
    }

    /// The peer resolves its promise `promise`. For [`Target::Theirs`], [`Imports::arrived`] was
    /// called before.
    pub fn resolved(&mut self, promise: u32, target: Target) -> Result<(), Violation> {
        let Target::Theirs(target) = target else {
            return Ok(());
        };
        if target == promise {
            return Err(Violation::Forbidden("promise resolved to itself"));
        }
        let Some(before) = self.held.get(&promise).map(|import| import.before) else {
            // Let go of before the peer knew; capnp-rpc lets go of the target, too.
            return Ok(());
        };
        // The target may be resolved already, and not yet let go of by us.
        let (mut at, mut depth) = (target, before + 1);
        loop {
            too_many("promises in a row", depth as usize, self.chain as usize)?;
            let Some(import) = self.held.get_mut(&at) else { break };
            import.before = import.before.max(depth);
            match import.next {
                Some(next) if next == promise => {
                    return Err(Violation::Forbidden("promises resolved in a circle"));
                }
                Some(next) => (at, depth) = (next, depth + 1),
                None => break,
            }
        }
        if let Some(import) = self.held.get_mut(&promise) {
            import.next = Some(target);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(imports: &mut Imports, promise: u32, target: u32) -> Result<(), Violation> {
        imports.arrived(target, true)?;
        imports.resolved(promise, Target::Theirs(target))
    }

    fn promise(chain: u32) -> Imports {
        let mut imports = Imports::new(10, chain);
        imports.arrived(0, true).unwrap();
        imports
    }

    #[test]
    fn a_chain_grows_to_its_limit_and_no_further() {
        let mut imports = promise(4);
        for i in 0..4 {
            resolve(&mut imports, i, i + 1).unwrap();
        }
        assert!(resolve(&mut imports, 4, 5).is_err());
    }

    #[test]
    fn letting_go_of_the_head_does_not_make_it_shorter() {
        // The last promise still stands behind all that resolved to it.
        let mut imports = promise(4);
        for i in 0..4 {
            resolve(&mut imports, i, i + 1).unwrap();
            imports.released(i, 1);
        }
        assert_eq!(imports.len(), 1);
        assert!(resolve(&mut imports, 4, 5).is_err());
    }

    #[test]
    fn built_from_its_tail_it_is_as_long() {
        let mut imports = promise(4);
        (1..6).for_each(|i| imports.arrived(i, true).unwrap());
        for i in (1..5).rev() {
            resolve(&mut imports, i, i + 1).unwrap();
        }
        assert!(resolve(&mut imports, 0, 1).is_err());
    }

    #[test]
    fn no_circles() {
        let mut imports = promise(4);
        assert!(resolve(&mut imports, 0, 0).is_err());
        let mut imports = promise(4);
        resolve(&mut imports, 0, 1).unwrap();
        resolve(&mut imports, 1, 2).unwrap();
        assert!(resolve(&mut imports, 2, 0).is_err());
    }

    #[test]
    fn many_promises_may_resolve_to_one_object() {
        let mut imports = Imports::new(1000, 4);
        for i in 1..1000 {
            imports.arrived(i, true).unwrap();
            resolve(&mut imports, i, 0).unwrap();
        }
        assert!(imports.arrived(1000, true).is_err(), "too many objects");
    }

    #[test]
    fn an_id_that_was_given_back_starts_anew() {
        let mut imports = promise(1);
        resolve(&mut imports, 0, 1).unwrap();
        imports.released(0, 1);
        imports.released(1, 1);
        assert_eq!(imports.len(), 0);
        imports.arrived(0, true).unwrap();
        resolve(&mut imports, 0, 1).unwrap();
    }
}
