//! A share of something for each of many, so that one cannot hold it all.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// So many for each `K` at once, and so many for all together.
///
/// With [`Shares::fair`] one never has more than half of what is left, itself not counted: so however
/// many take all they can, there is room left for one more (the dynamic thresholds of shared packet
/// buffers: Choudhury and Hahne, 1998).
pub struct Shares<K> {
    each: usize,
    all: usize,
    fair: bool,
    held: Mutex<Held<K>>,
}

struct Held<K> {
    by: HashMap<K, usize>,
    total: usize,
}

/// One of them, until it is dropped.
pub struct Share<K: Eq + Hash>(Arc<Shares<K>>, K);

impl<K: Eq + Hash + Clone> Shares<K> {
    pub fn new(each: usize, all: usize) -> Arc<Shares<K>> {
        Arc::new(Shares::of(each, all, false))
    }

    /// The same, where those who hold most get no more first.
    pub fn fair(each: usize, all: usize) -> Arc<Shares<K>> {
        Arc::new(Shares::of(each, all, true))
    }

    fn of(each: usize, all: usize, fair: bool) -> Shares<K> {
        let held = Mutex::new(Held { by: HashMap::new(), total: 0 });
        Shares { each, all, fair, held }
    }

    /// `None`: this one has its share already, or all are taken.
    pub fn enter(self: &Arc<Shares<K>>, who: K) -> Option<Share<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.by.get(&who).copied().unwrap_or(0);
        let left = self.all.saturating_sub(held.total);
        let most = if self.fair { self.each.min(left.div_ceil(2)) } else { self.each };
        if count >= most || left == 0 {
            return None;
        }
        held.by.insert(who.clone(), count + 1);
        held.total += 1;
        drop(held);
        Some(Share(self.clone(), who))
    }

    /// How many are taken.
    #[cfg(test)]
    pub fn taken(&self) -> usize {
        let held = self.held.lock().unwrap();
        assert_eq!(held.by.values().sum::<usize>(), held.total);
        held.total
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.total -= 1;
        if let Some(count) = held.by.get_mut(&self.1) {
            *count -= 1;
            if *count == 0 {
                held.by.remove(&self.1);
            }
        }
    }
}

/// Whose an address is: in IPv6 a household or a rented machine has at least a /64.
pub fn holder(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_its_share_and_all_have_an_end() {
        let shares = Shares::new(2, 3);
        let first = shares.enter("a").unwrap();
        let _second = shares.enter("a").unwrap();
        assert!(shares.enter("a").is_none());
        let other = shares.enter("b").unwrap();
        assert!(shares.enter("c").is_none());
        drop(first);
        let third = shares.enter("c").unwrap();
        drop((other, third));
        assert_eq!(shares.taken(), 1);
        assert_eq!(shares.held.lock().unwrap().by.len(), 1, "who holds nothing is forgotten");
    }

    #[test]
    fn however_many_take_all_they_can_there_is_room_for_one_more() {
        let shares = Shares::fair(2_048, 16_384);
        let mut held = Vec::new();
        let mut most = |who: u32| {
            let before = held.len();
            held.extend(std::iter::from_fn(|| shares.enter(who)));
            held.len() - before
        };
        assert_eq!((most(0), most(1)), (2_048, 2_048));
        assert!((2..12).all(|who| most(who) > 100));
        assert!(most(12) > 50);
    }
}
