//! Which inner address and port has which socket of the host (RFC 4787): endpoint-independent mappings.
//!
//! A table of its own, without sockets or clocks: `T` is what a mapping holds. Each tunnel has its own index, so no two
//! tunnels can share a mapping, and the end of a tunnel costs what the tunnel had.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::config::UdpFiltering;

/// Hosts that a mapping remembers to have sent to, for filters that depend on it. Beyond, the oldest is forgotten.
pub(super) const PEERS: usize = 64;

/// All mappings.
#[derive(Debug)]
pub(super) struct Mappings<T> {
    slots: Slab<Mapping<T>>,
    /// By tunnel and inner source.
    tunnels: Vec<BTreeMap<SocketAddr, usize>>,
    /// A mapping is asked at its deadline whether it was used since: nothing is moved for a packet.
    deadlines: BTreeSet<(Instant, usize)>,
    timeout: Duration,
    filtering: UdpFiltering,
    per_tunnel: usize,
    total: usize,
}

/// One mapping.
#[derive(Debug)]
pub(super) struct Mapping<T> {
    pub(super) tunnel: usize,
    /// The tunnel's end: where answers go.
    pub(super) inner: SocketAddr,
    /// The host's end.
    pub(super) socket: T,
    /// Waits for its turn to be read.
    pub(super) listed: bool,
    peers: VecDeque<SocketAddr>,
    used: Instant,
    deadline: Instant,
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    /// The tunnel has its share.
    Tunnel,
    /// All tunnels together have all.
    Total,
}

impl<T> Mappings<T> {
    /// At most `per_tunnel` mappings of one tunnel and `total` of all.
    pub(super) const fn new(
        per_tunnel: usize,
        total: usize,
        timeout: Duration,
        filtering: UdpFiltering,
    ) -> Self {
        Self {
            slots: Slab::new(),
            tunnels: Vec::new(),
            deadlines: BTreeSet::new(),
            timeout,
            filtering,
            per_tunnel,
            total,
        }
    }

    /// The mapping of an inner source, whatever it sends to.
    pub(super) fn find(&self, tunnel: usize, inner: SocketAddr) -> Option<usize> {
        self.tunnels.get(tunnel)?.get(&inner).copied()
    }

    /// Whether the tunnel may have one more.
    pub(super) fn room(&self, tunnel: usize) -> Result<(), Full> {
        if self.tunnels.get(tunnel).map_or(0, BTreeMap::len) >= self.per_tunnel {
            Err(Full::Tunnel)
        } else if self.slots.len() >= self.total {
            Err(Full::Total)
        } else {
            Ok(())
        }
    }

    /// The slot that the next mapping will have.
    pub(super) fn vacant(&self) -> usize {
        self.slots.vacant_key()
    }

    /// Makes a mapping, for which [`Self::room`] was found and which is not there yet.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        tunnel: usize,
        inner: SocketAddr,
        socket: T,
    ) -> usize {
        let deadline = now + self.timeout;
        let slot = self.slots.insert(Mapping {
            tunnel,
            inner,
            socket,
            listed: false,
            peers: VecDeque::new(),
            used: now,
            deadline,
        });
        if tunnel >= self.tunnels.len() {
            self.tunnels.resize_with(tunnel + 1, BTreeMap::new);
        }
        if let Some(index) = self.tunnels.get_mut(tunnel) {
            index.insert(inner, slot);
        }
        self.deadlines.insert((deadline, slot));
        slot
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Mapping<T>> {
        self.slots.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Mapping<T>> {
        self.slots.get_mut(slot)
    }

    /// Whether `slot` has sent to `peer` before, as far as is remembered.
    pub(super) fn knows(&self, slot: usize, peer: SocketAddr) -> bool {
        // Most send to one host at a time, which is at the end.
        self.get(slot)
            .is_some_and(|mapping| mapping.peers.iter().rev().any(|known| *known == peer))
    }

    /// Notes that `slot` sends to `peer`.
    pub(super) fn sends(&mut self, now: Instant, slot: usize, peer: SocketAddr) {
        let Some(mapping) = self.slots.get_mut(slot) else {
            return;
        };
        mapping.used = now;
        if mapping.peers.back() == Some(&peer) {
            return;
        }
        if let Some(at) = mapping.peers.iter().position(|known| *known == peer) {
            mapping.peers.remove(at);
        } else if mapping.peers.len() == PEERS {
            mapping.peers.pop_front();
        }
        mapping.peers.push_back(peer);
    }

    /// Notes that something came from `peer`. False if the filter does not let it in.
    pub(super) fn receives(&mut self, now: Instant, slot: usize, peer: SocketAddr) -> bool {
        let Some(mapping) = self.slots.get_mut(slot) else {
            return false;
        };
        let known = mapping.peers.iter().rev();
        let passes = match self.filtering {
            UdpFiltering::EndpointIndependent => true,
            UdpFiltering::AddressDependent => known.map(SocketAddr::ip).any(|ip| ip == peer.ip()),
            UdpFiltering::AddressAndPortDependent => known.copied().any(|known| known == peer),
        };
        // Strangers do not keep a mapping alive.
        if passes {
            mapping.used = now;
        }
        passes
    }

    /// Takes a mapping out whose time is over.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Mapping<T>> {
        while let Some(&(deadline, slot)) = self.deadlines.first() {
            if deadline > now {
                return None;
            }
            let mapping = self.slots.get_mut(slot)?;
            let due = mapping.used + self.timeout;
            if due <= now {
                return self.remove(slot);
            }
            mapping.deadline = due;
            self.deadlines.remove(&(deadline, slot));
            self.deadlines.insert((due, slot));
        }
        None
    }

    /// Takes a mapping of a tunnel out, while there is one.
    pub(super) fn pop(&mut self, tunnel: usize) -> Option<Mapping<T>> {
        let (_, slot) = self.tunnels.get(tunnel)?.first_key_value()?;
        self.remove(*slot)
    }

    fn remove(&mut self, slot: usize) -> Option<Mapping<T>> {
        let mapping = self.slots.try_remove(slot)?;
        self.deadlines.remove(&(mapping.deadline, slot));
        if let Some(index) = self.tunnels.get_mut(mapping.tunnel) {
            index.remove(&mapping.inner);
        }
        Some(mapping)
    }

    /// The time before which none expires.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(300);

    fn address(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, host], port))
    }

    fn table(filtering: UdpFiltering) -> (Mappings<u32>, Instant, usize) {
        let now = Instant::now();
        let mut table = Mappings::new(4, 10, TIMEOUT, filtering);
        let slot = table.insert(now, 0, address(1, 5060), 0);
        (table, now, slot)
    }

    #[test]
    fn filters() {
        use UdpFiltering::{AddressAndPortDependent, AddressDependent, EndpointIndependent};
        for (filtering, same, port, host) in [
            (EndpointIndependent, true, true, true),
            (AddressDependent, true, true, false),
            (AddressAndPortDependent, true, false, false),
        ] {
            let (mut table, now, slot) = table(filtering);
            assert!(!table.knows(slot, address(9, 7)));
            table.sends(now, slot, address(9, 7));
            assert!(table.knows(slot, address(9, 7)));
            assert_eq!(table.receives(now, slot, address(9, 7)), same);
            assert_eq!(table.receives(now, slot, address(9, 8)), port);
            assert_eq!(table.receives(now, slot, address(8, 7)), host);
        }
    }

    #[test]
    fn the_peers_of_a_mapping_are_bounded() {
        let (mut table, now, slot) = table(UdpFiltering::AddressDependent);
        for host in 0..=200 {
            table.sends(now, slot, address(host, 7));
            // One that is sent to again and again stays.
            table.sends(now, slot, address(0, 7));
        }
        assert_eq!(table.get_mut(slot).unwrap().peers.len(), PEERS);
        assert!(table.receives(now, slot, address(0, 1)));
        assert!(table.receives(now, slot, address(200, 1)));
        assert!(!table.receives(now, slot, address(1, 1)));
    }

    #[test]
    fn traffic_of_either_direction_keeps_a_mapping_and_strangers_do_not() {
        let (mut table, start, slot) = table(UdpFiltering::AddressDependent);
        let mut now = start;
        for step in 0..10 {
            now += TIMEOUT * 3 / 4;
            if step % 2 == 0 {
                table.sends(now, slot, address(9, 7));
            } else {
                assert!(table.receives(now, slot, address(9, 7)));
            }
            assert!(table.expired(now).is_none());
        }
        assert!(!table.receives(now + TIMEOUT / 2, slot, address(8, 8)));
        assert!(table.expired(now + TIMEOUT).is_some());
        assert_eq!((table.len(), table.poll_timeout()), (0, None));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send(usize, u8, u16),
        Receive(usize),
        Wait(u64),
        End(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0_usize..4, 0_u8..2, 0_u16..6).prop_map(|(t, h, p)| Step::Send(t, h, p)),
            2 => (0_usize..12).prop_map(Step::Receive),
            2 => (0_u64..200).prop_map(Step::Wait),
            1 => (0_usize..4).prop_map(Step::End),
        ]
    }

    proptest! {
        /// Held against a plain list: bounds, one mapping for each tunnel and inner source and never one for two of
        /// them, and each lives exactly as long as it is used.
        #[test]
        fn the_table_is_a_list_with_bounds(steps in prop::collection::vec(step(), 0..300)) {
            let mut now = Instant::now();
            let mut table: Mappings<u32> = Mappings::new(4, 10, TIMEOUT, UdpFiltering::EndpointIndependent);
            // (tunnel, inner, socket, slot, used)
            let mut model: Vec<(usize, SocketAddr, u32, usize, Instant)> = Vec::new();
            let mut sockets = 0;
            for step in steps {
                match step {
                    Step::Send(tunnel, host, port) => {
                        let inner = address(host, port);
                        let known = model.iter_mut().find(|m| (m.0, m.1) == (tunnel, inner));
                        let found = table.find(tunnel, inner);
                        prop_assert_eq!(found, known.as_ref().map(|m| m.3));
                        let of_tunnel = model.iter().filter(|m| m.0 == tunnel).count();
                        if let Some(slot) = found {
                            table.sends(now, slot, address(99, port));
                            model.iter_mut().find(|m| m.3 == slot).unwrap().4 = now;
                        } else if of_tunnel == 4 {
                            prop_assert_eq!(table.room(tunnel), Err(Full::Tunnel));
                        } else if model.len() == 10 {
                            prop_assert_eq!(table.room(tunnel), Err(Full::Total));
                        } else {
                            prop_assert_eq!(table.room(tunnel), Ok(()));
                            let vacant = table.vacant();
                            let slot = table.insert(now, tunnel, inner, sockets);
                            prop_assert_eq!(slot, vacant);
                            model.push((tunnel, inner, sockets, slot, now));
                            sockets += 1;
                        }
                    }
                    Step::Receive(slot) => {
                        let passed = table.receives(now, slot, address(98, 1));
                        let known = model.iter_mut().find(|m| m.3 == slot);
                        prop_assert_eq!(passed, known.is_some());
                        if let Some(known) = known {
                            known.4 = now;
                        }
                    }
                    Step::Wait(seconds) => {
                        now += Duration::from_secs(seconds);
                        while let Some(gone) = table.expired(now) {
                            let at = model.iter().position(|m| m.2 == gone.socket).unwrap();
                            prop_assert!(model.remove(at).4 + TIMEOUT <= now);
                        }
                        prop_assert!(model.iter().all(|m| m.4 + TIMEOUT > now));
                    }
                    Step::End(tunnel) => {
                        while let Some(gone) = table.pop(tunnel) {
                            let at = model.iter().position(|m| m.2 == gone.socket).unwrap();
                            prop_assert_eq!(model.remove(at).0, tunnel);
                        }
                        prop_assert!(model.iter().all(|m| m.0 != tunnel));
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                for (tunnel, inner, socket, slot, _) in &model {
                    prop_assert_eq!(table.find(*tunnel, *inner), Some(*slot));
                    let mapping = table.get_mut(*slot).unwrap();
                    prop_assert_eq!((mapping.tunnel, mapping.inner, mapping.socket), (*tunnel, *inner, *socket));
                }
                let first = model.iter().map(|m| m.4 + TIMEOUT).min();
                prop_assert!(table.poll_timeout() <= first, "never late");
                prop_assert_eq!(table.poll_timeout().is_some(), first.is_some());
            }
        }
    }
}
