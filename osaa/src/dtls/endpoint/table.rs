//! The associations of an endpoint: found by key and by peer address, ordered by age while half-open and by
//! deadline.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::time::Instant;

use slab::Slab;

use super::super::DtlsSession;
use crate::datagram::{LAST_RUNS, slot_of};

use super::source::{Prefix, PrefixCounts};

/// Names one association of one endpoint for ever: keys are not reused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AssociationKey {
    slot: u32,
    generation: u32,
}

impl AssociationKey {
    /// Position in the endpoint's table: small, dense, and reused with another generation. For tables beside it.
    #[must_use]
    pub const fn index(self) -> usize {
        self.slot as usize
    }
}

impl fmt::Debug for AssociationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AssociationKey({}.{})", self.slot, self.generation)
    }
}

pub(super) struct Association {
    pub(super) key: AssociationKey,
    pub(super) peer: SocketAddr,
    pub(super) session: Box<dyn DtlsSession>,
    /// The ClientHello's random: what tells a retransmitted hello from a new one.
    pub(super) random: [u8; 32],
    /// Age, while the handshake is in progress.
    half_open: Option<u64>,
    /// Its entry in the set of deadlines.
    armed: Option<Instant>,
    /// Whether its key waits in the endpoint's transmit queue.
    pub(super) transmit_queued: bool,
}

/// The associations of one peer address.
#[derive(Clone, Copy, Default)]
pub(super) struct PeerEntry {
    /// The one that carries data.
    pub(super) current: Option<AssociationKey>,
    /// The handshake in progress, which leaves the current one untouched until it has finished.
    pub(super) pending: Option<AssociationKey>,
}

/// Entries of the table of recent peers.
const RECENT: usize = LAST_RUNS;

pub(super) struct Table {
    associations: Slab<Association>,
    peers: HashMap<SocketAddr, PeerEntry>,
    /// Connected associations by a cheap hash of their peer: a short cut past `peers`, whose hash nobody can predict. Those
    /// that collide go the long way.
    recent: Box<[Option<AssociationKey>; RECENT]>,
    half_open: BTreeMap<u64, AssociationKey>,
    half_open_by_prefix: PrefixCounts,
    deadlines: BTreeSet<(Instant, AssociationKey)>,
    next_generation: u32,
    next_age: u64,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            associations: Slab::new(),
            peers: HashMap::new(),
            recent: Box::new([None; RECENT]),
            half_open: BTreeMap::new(),
            half_open_by_prefix: PrefixCounts::default(),
            deadlines: BTreeSet::new(),
            next_generation: 0,
            next_age: 0,
        }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.associations.len()
    }

    pub(super) fn half_open(&self) -> usize {
        self.half_open.len()
    }

    pub(super) fn half_open_of(&self, prefix: Prefix) -> usize {
        self.half_open_by_prefix.of(prefix)
    }

    pub(super) fn peer(&self, peer: SocketAddr) -> PeerEntry {
        self.peers.get(&peer).copied().unwrap_or_default()
    }

    /// The association that carries a peer's data.
    pub(super) fn current(&mut self, peer: SocketAddr) -> Option<&mut Association> {
        let slot = slot_of(peer);
        let is_current =
            |association: &Association| association.peer == peer && association.half_open.is_none();
        let recent = self.recent.get(slot).copied().flatten();
        let known = recent.filter(|key| self.get(*key).is_some_and(is_current));
        let key = match known {
            Some(key) => key,
            None => {
                let key = self.peer(peer).current?;
                if let Some(entry) = self.recent.get_mut(slot) {
                    *entry = Some(key);
                }
                key
            }
        };
        self.get_mut(key)
    }

    pub(super) fn get(&self, key: AssociationKey) -> Option<&Association> {
        self.associations
            .get(key.slot as usize)
            .filter(|association| association.key == key)
    }

    pub(super) fn get_mut(&mut self, key: AssociationKey) -> Option<&mut Association> {
        self.associations
            .get_mut(key.slot as usize)
            .filter(|association| association.key == key)
    }

    /// Keys in the order of their slots.
    pub(super) fn keys(&self) -> impl Iterator<Item = AssociationKey> + '_ {
        self.associations
            .iter()
            .map(|(_, association)| association.key)
    }

    /// Adds a half-open association as the pending one of its peer. The caller has removed the previous pending
    /// one and observed the caps. `None` when there are 2^32 associations.
    pub(super) fn insert(
        &mut self,
        peer: SocketAddr,
        random: [u8; 32],
        session: Box<dyn DtlsSession>,
    ) -> Option<AssociationKey> {
        let entry = self.associations.vacant_entry();
        let key = AssociationKey {
            slot: u32::try_from(entry.key()).ok()?,
            generation: self.next_generation,
        };
        self.next_generation = self.next_generation.wrapping_add(1);
        let age = self.next_age;
        self.next_age += 1;
        entry.insert(Association {
            key,
            peer,
            session,
            random,
            half_open: Some(age),
            armed: None,
            transmit_queued: false,
        });
        self.half_open.insert(age, key);
        self.half_open_by_prefix.add(peer.ip().into());
        self.peers.entry(peer).or_default().pending = Some(key);
        Some(key)
    }

    /// The handshake has finished: the association becomes the current one of its peer. Returns the one it
    /// replaces, which is still to be removed.
    pub(super) fn promote(&mut self, key: AssociationKey) -> Option<AssociationKey> {
        let peer = self.get(key)?.peer;
        self.end_half_open(key);
        let entry = self.peers.entry(peer).or_default();
        if entry.pending == Some(key) {
            entry.pending = None;
        }
        entry.current.replace(key)
    }

    pub(super) fn remove(&mut self, key: AssociationKey) -> Option<Association> {
        self.get(key)?;
        self.end_half_open(key);
        self.arm(key, None);
        let association = self.associations.try_remove(key.slot as usize)?;
        if let Some(entry) = self.peers.get_mut(&association.peer) {
            if entry.current == Some(key) {
                entry.current = None;
            }
            if entry.pending == Some(key) {
                entry.pending = None;
            }
            if entry.current.is_none() && entry.pending.is_none() {
                self.peers.remove(&association.peer);
            }
        }
        Some(association)
    }

    /// The half-open association to give up first: the oldest whose peer's address is not proved, else the
    /// oldest.
    pub(super) fn eviction(&self) -> Option<AssociationKey> {
        let is_unproved = |key: &AssociationKey| {
            self.get(*key)
                .is_some_and(|association| !association.session.address_proved())
        };
        self.half_open
            .values()
            .copied()
            .find(is_unproved)
            .or_else(|| self.half_open.values().next().copied())
    }

    /// Moves the association's entry in the set of deadlines.
    pub(super) fn arm(&mut self, key: AssociationKey, deadline: Option<Instant>) {
        let Some(association) = self.get_mut(key) else {
            return;
        };
        let before = std::mem::replace(&mut association.armed, deadline);
        if before == deadline {
            return;
        }
        if let Some(before) = before {
            self.deadlines.remove(&(before, key));
        }
        if let Some(deadline) = deadline {
            self.deadlines.insert((deadline, key));
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Takes the next due entry out of the set of deadlines.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<AssociationKey> {
        let &(at, key) = self.deadlines.first()?;
        if at > now {
            return None;
        }
        self.arm(key, None);
        Some(key)
    }

    fn end_half_open(&mut self, key: AssociationKey) {
        let Some(association) = self.get_mut(key) else {
            return;
        };
        let peer = association.peer;
        if let Some(age) = association.half_open.take() {
            self.half_open.remove(&age);
            self.half_open_by_prefix.remove(peer.ip().into());
        }
    }
}
