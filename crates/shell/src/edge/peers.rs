//! A share of the connections for each address, so that one cannot hold them all.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::AddressRange;
use crate::shares::{self, Shares, holder};

/// Connections of one address at once, and fewer when many addresses have many; an office behind one
/// address has a few hundred.
const EACH: usize = 2_048;

/// Who is connected. Proxies that we trust are not counted: all the world comes through them.
pub struct Peers {
    trusted: Vec<AddressRange>,
    open: Arc<Shares<IpAddr>>,
}

/// One connection of an address, until it is dropped.
pub struct Share(#[allow(dead_code)] Option<shares::Share<IpAddr>>);

impl Peers {
    /// `all`: of all addresses together.
    pub fn new(trusted: Vec<AddressRange>, all: usize) -> Peers {
        Peers { trusted, open: Shares::fair(EACH, all) }
    }

    /// `None`: this address has its share already.
    pub fn enter(&self, peer: IpAddr) -> Option<Share> {
        if self.trusted.iter().any(|range| range.contains(peer)) {
            return Some(Share(None));
        }
        self.open.enter(holder(peer)).map(|share| Share(Some(share)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_has_a_share_and_a_proxy_has_none() {
        let trusted = AddressRange::parse_list("loopback").unwrap();
        let peers = Peers::new(trusted, 16_384);
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2:1".parse().unwrap();
        let mut held: Vec<Share> = (0..EACH).map(|_| peers.enter(one).unwrap()).collect();
        assert!(peers.enter(neighbour).is_none());
        assert!(peers.enter("::ffff:192.0.2.1".parse().unwrap()).is_some());
        assert!((0..EACH + 1).all(|_| peers.enter([127, 0, 0, 1].into()).is_some()));
        held.pop();
        assert!(peers.enter(neighbour).is_some());
        drop(held);
        assert_eq!(peers.open.taken(), 0);
    }
}
