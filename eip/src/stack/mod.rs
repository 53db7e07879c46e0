//! The stack as its owner sees it: packets on one side, socket verbs on the other, timers and
//! events between.

mod input;
mod udp;

use std::net::IpAddr;
use std::time::Instant;

use crate::addresses::Addresses;
use crate::config::{MAX_MTU, MIN_MTU, StackConfig};
use crate::egress::Egress;
use crate::error::AddressError;
use crate::event::Event;
use crate::icmp::RateLimit;
use crate::reassembly::Reassembly;
use crate::stats::{Gauges, Stats};
use crate::udp::UdpSockets;

/// A host inside a tunnel. See the [crate documentation](crate) for the driving loop.
///
/// All verbs are synchronous and short: one input does a bounded amount of work. The owner puts the
/// stack behind a lock if a driver and socket handles share it.
#[derive(Debug)]
pub struct Stack {
    addresses: Addresses,
    udp: UdpSockets,
    egress: Egress,
    reassembly: Reassembly,
    errors: RateLimit,
    echoes: RateLimit,
    /// Space for a datagram put together from fragments; grows once, to at most 64 KiB.
    assembled: Vec<u8>,
    /// What the parts do not count themselves.
    counted: Stats,
}

impl Stack {
    /// A stack without addresses. `seed` makes ports and identifications unguessable: take it from
    /// the operating system's generator, or from a simulation.
    #[must_use]
    pub fn new(config: StackConfig, seed: u64) -> Self {
        let config = config.normalised();
        Self {
            addresses: Addresses::default(),
            udp: UdpSockets::new(&config, seed),
            egress: Egress::new(&config, seed),
            reassembly: Reassembly::new(&config),
            errors: RateLimit::new(config.icmp_errors_per_second),
            echoes: RateLimit::new(config.echo_replies_per_second),
            assembled: Vec::new(),
            counted: Stats::default(),
        }
    }

    /// Replaces the stack's own addresses, in order of preference as sources. Sockets stay open;
    /// one bound to an address that is gone receives nothing and cannot send until the address
    /// is back.
    ///
    /// # Errors
    ///
    /// [`AddressError`] if the list is too long or holds an address that no host can have.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), AddressError> {
        self.addresses.replace(addresses)
    }

    /// The stack's own addresses.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        self.addresses.as_slice()
    }

    /// Changes the inner MTU (bytes, brought into [`MIN_MTU`]`..=`[`MAX_MTU`]). Packets already
    /// queued keep their size.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.egress.set_mtu(mtu.clamp(MIN_MTU, MAX_MTU));
    }

    /// The inner MTU in bytes.
    #[must_use]
    pub const fn mtu(&self) -> u16 {
        self.egress.mtu()
    }

    /// The largest packet in bytes known to pass to `destination`: the inner MTU, or less if a
    /// router said so.
    #[must_use]
    pub fn path_mtu(&mut self, now: Instant, destination: IpAddr) -> u16 {
        let mtu = self.egress.mtu();
        self.egress.paths.lookup(now, destination, mtu)
    }

    /// The own address from which datagrams to `destination` leave unless the socket or a send
    /// option says otherwise. `None` without an address of that IP version.
    #[must_use]
    pub fn source_for(&self, destination: IpAddr) -> Option<IpAddr> {
        self.addresses.source_for(destination)
    }

    /// Takes an IP packet from the tunnel. Whatever is wrong with it is counted in
    /// [`Stats::drops`].
    pub fn handle_packet(&mut self, now: Instant, packet: &[u8]) {
        self.counted.packets_in += 1;
        self.input(now, input::Origin::Tunnel, packet);
        self.deliver_local(now);
    }

    /// The next IP packet for the tunnel, at most [`mtu`](Self::mtu) bytes as it was when the
    /// packet was made; call until `None`. Give the buffer back by [`recycle`](Self::recycle).
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.egress.poll_transmit()
    }

    /// Gives back a buffer from [`poll_transmit`](Self::poll_transmit). Any other buffer is welcome
    /// too.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.egress.recycle(buffer);
    }

    /// The next event; call until `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        self.udp.poll_event().map(Event::UdpReadable)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.reassembly.poll_timeout()
    }

    /// Does what is due at `now`. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembly.handle_timeout(now);
    }

    /// Counters and gauges as they are now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.counted;
        let sent = self.egress.counters;
        stats.packets_out = sent.packets;
        stats.packets_local = sent.local;
        stats.fragmented = sent.fragmented;
        stats.drops.transmit_full = sent.dropped;
        let reassembly = self.reassembly.counters;
        stats.reassembled = reassembly.completed;
        stats.drops.fragments_refused = reassembly.refused;
        stats.drops.reassembly_full = reassembly.evicted;
        stats.drops.reassembly_timeout = reassembly.timed_out;
        stats.gauges = Gauges {
            sockets: self.udp.len(),
            receive_bytes: self.udp.held(),
            transmit_packets: self.egress.queued(),
            pool_buffers: self.egress.pooled(),
            reassembly_datagrams: self.reassembly.len(),
            reassembly_bytes: self.reassembly.held(),
            path_mtus: self.egress.paths.len(),
        };
        stats
    }
}
