//! The tunnels that use the egress, and what is told them.

use std::collections::HashMap;
use std::hash::Hash;
use std::ops::Range;
use std::time::{Duration, Instant};

use slab::Slab;
use tsc_tpl::IpPacket;

use super::UserSpaceCounters;
use crate::icmp::{self, Complaint};

/// ICMP errors a second that one tunnel is sent, and at most at once; as the switch does.
pub(super) const ERRORS_PER_SECOND: u32 = 50;

/// ICMP errors that wait for the end of a turn.
pub(super) const WAITING_ERRORS: usize = 512;

/// Tunnels by the name that the owner gives them. As many as have sent something and not ended.
#[derive(Debug)]
pub(super) struct Tunnels<S> {
    slots: Slab<Tunnel<S>>,
    names: HashMap<S, usize>,
}

/// What the egress knows of a tunnel.
#[derive(Debug)]
pub(super) struct Tunnel<S> {
    pub(super) name: S,
    /// Inner MTU in bytes.
    pub(super) mtu: u16,
    /// When its allowance of errors is whole again.
    allowance: Option<Instant>,
}

impl<S: Copy + Eq + Hash> Tunnels<S> {
    pub(super) fn new() -> Self {
        Self {
            slots: Slab::new(),
            names: HashMap::new(),
        }
    }

    /// The slot of a tunnel, from now on.
    pub(super) fn slot(&mut self, name: S, mtu: u16) -> usize {
        let slot = *self.names.entry(name).or_insert_with(|| {
            self.slots.insert(Tunnel {
                name,
                mtu,
                allowance: None,
            })
        });
        if let Some(tunnel) = self.slots.get_mut(slot) {
            // A resumed tunnel may have another.
            tunnel.mtu = mtu;
        }
        slot
    }

    pub(super) fn get(&self, slot: usize) -> Option<&Tunnel<S>> {
        self.slots.get(slot)
    }

    /// Forgets a tunnel; its slot will be another's.
    pub(super) fn remove(&mut self, name: S) -> Option<usize> {
        let slot = self.names.remove(&name)?;
        self.slots.try_remove(slot).map(|_| slot)
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }
}

/// ICMP errors on their way to tunnels.
#[derive(Debug)]
pub(super) struct Errors<S> {
    bytes: Vec<u8>,
    /// By name: a slot may be another tunnel's by the time it is read.
    packets: Vec<(S, Range<usize>)>,
}

impl<S: Copy + Eq + Hash> Errors<S> {
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            packets: Vec::new(),
        }
    }

    /// Tells a tunnel what became of its packet, if that may be said and was not said too often.
    pub(super) fn tell(
        &mut self,
        now: Instant,
        tunnels: &mut Tunnels<S>,
        slot: usize,
        packet: &IpPacket<'_>,
        complaint: Complaint,
        counters: &mut UserSpaceCounters,
    ) {
        let Some(tunnel) = tunnels.slots.get_mut(slot) else {
            return;
        };
        let start = self.bytes.len();
        if !icmp::error(packet, complaint, &mut self.bytes) {
            return;
        }
        if self.packets.len() < WAITING_ERRORS && tunnel.allows(now) {
            counters.icmp_errors += 1;
            self.packets.push((tunnel.name, start..self.bytes.len()));
        } else {
            counters.icmp_limited += 1;
            self.bytes.truncate(start);
        }
    }

    /// Gives all errors, and keeps the memory.
    pub(super) fn drain(&mut self, sink: &mut impl FnMut(S, &[u8])) {
        for (name, range) in self.packets.drain(..) {
            if let Some(packet) = self.bytes.get(range) {
                sink(name, packet);
            }
        }
        self.bytes.clear();
    }
}

impl<S> Tunnel<S> {
    /// The generic cell rate algorithm, a second deep.
    fn allows(&mut self, now: Instant) -> bool {
        let depth = Duration::from_secs(1);
        let whole_at = self.allowance.map_or(now, |at| at.max(now)) + depth / ERRORS_PER_SECOND;
        let allowed = whole_at.saturating_duration_since(now) <= depth;
        if allowed {
            self.allowance = Some(whole_at);
        }
        allowed
    }
}
