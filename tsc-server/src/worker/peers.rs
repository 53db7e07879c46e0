//! Addresses whose datagrams arrive at one worker while their tunnel lives at another.
//!
//! The system spreads datagrams over the sockets of a port by a hash of their addresses, and a tunnel stays with the
//! worker that configured it. So one that is resumed from a new address may find its datagrams arriving elsewhere: they
//! take one hop more from then on, and its own packets leave from where it lives. Nothing of the tunnel moves, neither
//! its egress mappings nor what was rewritten for it.

use std::{collections::HashMap, net::SocketAddr};

use tsc_csm::server::Shard;

/// See the module. Each map has at most one entry for each binding, here or at another worker.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// Whose datagrams arrive here, and where they live.
    away: HashMap<SocketAddr, Shard>,
    /// Who lives here, and where their datagrams arrive.
    guests: HashMap<SocketAddr, Shard>,
}

impl Peers {
    /// Where a peer's datagrams are to go, if not here.
    #[inline]
    pub(super) fn lives_at(&self, peer: SocketAddr) -> Option<Shard> {
        if self.away.is_empty() {
            return None;
        }
        self.away.get(&peer).copied()
    }

    /// The peer lives at `shard` from now on; gives where it lived before.
    pub(super) fn moves(&mut self, peer: SocketAddr, shard: Shard) -> Option<Shard> {
        self.away.insert(peer, shard)
    }

    /// The peer lives at `shard` no more.
    pub(super) fn leaves(&mut self, peer: SocketAddr, shard: Shard) {
        // Another may have it by now.
        if self.away.get(&peer) == Some(&shard) {
            self.away.remove(&peer);
        }
    }

    /// The peer lives where its datagrams arrive; gives where it lived before.
    pub(super) fn comes_home(&mut self, peer: SocketAddr) -> Option<Shard> {
        if self.away.is_empty() {
            return None;
        }
        self.away.remove(&peer)
    }

    /// How many peers' datagrams arrive here and go elsewhere.
    pub(super) fn away(&self) -> usize {
        self.away.len()
    }

    /// A peer lives here whose datagrams arrive at `via`. True if that is news.
    pub(super) fn welcome(&mut self, peer: SocketAddr, via: Shard) -> bool {
        self.guests.insert(peer, via) != Some(via)
    }

    /// Whether the peer is one whose datagrams arrive elsewhere, and where.
    pub(super) fn guest(&self, peer: SocketAddr) -> Option<Shard> {
        self.guests.get(&peer).copied()
    }

    /// It does not live here any more.
    pub(super) fn farewell(&mut self, peer: SocketAddr) {
        self.guests.remove(&peer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_farewell_takes_nothing_from_the_next_home() {
        let peer: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let mut peers = Peers::default();
        assert_eq!(peers.lives_at(peer), None);
        assert_eq!(peers.moves(peer, 1), None);
        assert_eq!(peers.moves(peer, 2), Some(1));
        peers.leaves(peer, 1);
        assert_eq!(peers.lives_at(peer), Some(2));
        peers.leaves(peer, 2);
        assert_eq!(peers.lives_at(peer), None);
        peers.moves(peer, 2);
        assert_eq!(peers.comes_home(peer), Some(2));
        assert_eq!(peers.comes_home(peer), None);
    }
}
