//! A share of the connections for each address, so that one cannot hold them all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::AddressRange;

/// Connections of one address at once; an office behind one address has a few hundred.
const EACH: usize = 2_048;

/// Who is connected. Proxies that we trust are not counted: all the world comes through them.
pub struct Peers {
    trusted: Vec<AddressRange>,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection of an address, until it is dropped.
pub struct Share(Arc<Peers>, Option<IpAddr>);

impl Peers {
    pub fn new(trusted: Vec<AddressRange>) -> Peers {
        Peers { trusted, open: Mutex::default() }
    }

    /// `None`: this address has its share already.
    pub fn enter(self: &Arc<Peers>, peer: IpAddr) -> Option<Share> {
        if self.trusted.iter().any(|range| range.contains(peer)) {
            return Some(Share(self.clone(), None));
        }
        let who = holder(peer);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(who).or_default();
        if *count >= EACH {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Share(self.clone(), Some(who)))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Some(who) = self.1 else { return };
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&who) {
            *count -= 1;
            if *count == 0 {
                open.remove(&who);
            }
        }
    }
}

/// Whose an address is: in IPv6 a household or a rented machine has at least a /64.
fn holder(peer: IpAddr) -> IpAddr {
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
    fn one_address_has_a_share_and_a_proxy_has_none() {
        let trusted = AddressRange::parse_list("loopback").unwrap();
        let peers = Arc::new(Peers::new(trusted));
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2:1".parse().unwrap();
        let mut held: Vec<Share> = (0..EACH).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(neighbour).is_none());
        assert!(peers.enter("::ffff:192.0.2.1".parse().unwrap()).is_some());
        assert!((0..EACH + 1).all(|_| peers.enter([127, 0, 0, 1].into()).is_some()));
        held.pop();
        assert!(peers.enter(neighbour).is_some());
        drop(held);
        assert!(peers.open.lock().unwrap().is_empty());
    }
}
