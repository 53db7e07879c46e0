//! From which of a host's addresses to answer, on ports bound to the unspecified address.
//!
//! There the system would choose by its routes, and a client that reached us at another of our addresses would not hear
//! the answer. So the address that a peer used last is remembered. Ports bound to one address need none of this.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

/// Peers remembered by one port. When full all are forgotten: each of their datagrams brings its address again.
const PEERS: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub(super) struct Sources {
    /// `None` on ports bound to one address.
    used: Option<HashMap<SocketAddr, IpAddr>>,
    /// What was noted last: runs of datagrams from one peer cost one comparison.
    last: Option<(SocketAddr, IpAddr)>,
}

impl Sources {
    /// For a port bound to `local`.
    pub(super) fn new(local: SocketAddr) -> Self {
        Self {
            used: local.ip().is_unspecified().then(HashMap::new),
            last: None,
        }
    }

    /// `peer` has reached us at `local`.
    pub(super) fn note(&mut self, peer: SocketAddr, local: Option<IpAddr>) {
        let (Some(used), Some(local)) = (&mut self.used, local) else {
            return;
        };
        if self.last == Some((peer, local)) {
            return;
        }
        if used.len() >= PEERS && !used.contains_key(&peer) {
            used.clear();
        }
        used.insert(peer, local);
        self.last = Some((peer, local));
    }

    /// Our address for answers to `peer`; `None` leaves the choice to the system.
    pub(super) fn for_peer(&self, peer: SocketAddr) -> Option<IpAddr> {
        match self.last {
            Some((last, local)) if last == peer => Some(local),
            _ => self.used.as_ref()?.get(&peer).copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_answered_from_where_they_came_in_and_their_number_is_bounded() {
        let peer =
            |i: u32| SocketAddr::from(([127, 0, 0, 1], 1 + u16::try_from(i % 60_000).unwrap()));
        let wide = |i: u32| SocketAddr::from((i.to_be_bytes(), 5));
        let (a, b) = (IpAddr::from([127, 0, 0, 2]), IpAddr::from([127, 0, 0, 3]));
        let mut sources = Sources::new("0.0.0.0:5".parse().unwrap());
        sources.note(peer(1), Some(a));
        sources.note(peer(2), Some(b));
        assert_eq!(
            (sources.for_peer(peer(1)), sources.for_peer(peer(2))),
            (Some(a), Some(b))
        );
        assert_eq!(sources.for_peer(peer(3)), None);
        for i in 0..200_000 {
            sources.note(wide(i), Some(a));
        }
        assert!(sources.used.as_ref().unwrap().len() <= PEERS);
        assert_eq!(sources.for_peer(wide(199_999)), Some(a));

        let mut one = Sources::new("127.0.0.1:5".parse().unwrap());
        one.note(peer(1), Some(a));
        assert_eq!(one.for_peer(peer(1)), None);
    }
}
