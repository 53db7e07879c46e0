//! The stack as its owner sees it: packets on one side, socket verbs on the other, timers and
//! events between.

mod input;
mod tcp;
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
use crate::tcp::Tcp;
use crate::udp::UdpSockets;

/// A host inside a tunnel. See the [crate documentation](crate) for the driving loop.
///
/// All verbs are synchronous and short: one input does a bounded amount of work. The owner puts the
/// stack behind a lock if a driver and socket handles share it.
#[derive(Debug)]
pub struct Stack {
    addresses: Addresses,
    /// All destinations are ours.
    transparent: bool,
    udp: UdpSockets,
    tcp: Tcp,
    /// The latest time that a verb was given: connections transmit when they are asked for packets,
    /// which comes without one.
    latest: Option<Instant>,
    others_in_a_row: u8,
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
            transparent: config.transparent,
            udp: UdpSockets::new(&config, seed),
            tcp: Tcp::new(&config, seed),
            latest: None,
            others_in_a_row: 0,
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
        self.egress.path_mtu(now, destination)
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
        self.latest = Some(now);
        self.counted.packets_in += 1;
        self.input(now, input::Origin::Tunnel, packet);
        self.deliver_local(now);
    }

    /// The next IP packet for the tunnel, at most [`mtu`](Self::mtu) bytes as it was when the
    /// packet was made; call until `None`, or as long as there is room for it: connections send no
    /// faster than packets are taken from here. Give the buffer back by [`recycle`](Self::recycle).
    #[must_use]
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.next_packet()
    }

    /// The first packet that is `wanted`, whatever waits before it: for a tunnel that has a way for some of its packets only. What
    /// connections send is not looked at.
    #[must_use]
    pub fn take_transmit(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        self.egress.take(wanted)
    }

    /// The next segment of a connection from one of these addresses, whoever else waits: for a tunnel that has a way for them, and none for
    /// the others now.
    #[must_use]
    pub fn take_transmit_from(&mut self, addresses: &[IpAddr]) -> Option<Vec<u8>> {
        let (now, own) = (self.latest?, &self.addresses);
        let packet = self.tcp.take_from(now, addresses, own, &mut self.egress)?;
        self.counted.packets_out += 1;
        Some(packet)
    }

    /// Drops packets that have waited for [`poll_transmit`](Self::poll_transmit) since before `limit` and that are `stale`, for a
    /// tunnel that had nowhere to send: late media is worthless. Counted in [`Stats::drops`]; the number is returned. What
    /// connections send is not concerned.
    pub fn discard_transmit(&mut self, limit: Instant, stale: impl Fn(&[u8]) -> bool) -> usize {
        let dropped = self.egress.discard(limit, stale);
        self.counted.drops.transmit_late += u64::try_from(dropped).unwrap_or(u64::MAX);
        dropped
    }

    /// Gives back a buffer from [`poll_transmit`](Self::poll_transmit). Any other buffer is welcome
    /// too.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.egress.recycle(buffer);
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) is likely to have a packet.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        self.egress.queued() > 0 || self.tcp.wants_transmit()
    }

    /// The next event; call until `None`.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<Event> {
        let datagrams = self.udp.poll_event().map(Event::UdpReadable);
        datagrams
            .or_else(|| self.tcp.poll_event())
            .or_else(|| self.udp.poll_alarm().map(Event::MediaQuality))
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.reassembly.poll_timeout(), self.tcp.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due at `now`. Calling it early or late is harmless.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.latest = Some(now);
        self.reassembly.handle_timeout(now);
        self.tcp.handle_timeout(now, &mut self.egress);
    }

    /// Counters and gauges as they are now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.counted;
        let sent = self.egress.counters;
        stats.packets_out += sent.packets;
        stats.packets_local += sent.local;
        stats.fragmented = sent.fragmented;
        stats.drops.transmit_full = sent.dropped;
        let reassembly = self.reassembly.counters;
        stats.reassembled = reassembly.completed;
        stats.drops.fragments_refused = reassembly.refused;
        stats.drops.reassembly_full = reassembly.evicted;
        stats.drops.reassembly_timeout = reassembly.timed_out;
        stats.tcp = self.tcp.counters;
        stats.gauges = Gauges {
            sockets: self.udp.len(),
            receive_bytes: self.udp.held(),
            transmit_packets: self.egress.queued(),
            pool_buffers: self.egress.pooled(),
            reassembly_datagrams: self.reassembly.len(),
            reassembly_bytes: self.reassembly.held(),
            path_mtus: self.egress.paths.len(),
            tcp_connections: self.tcp.connections(),
            tcp_listeners: self.tcp.listeners(),
            tcp_half_open: self.tcp.half_open(),
            tcp_incoming: self.tcp.incoming(),
            tcp_time_waits: self.tcp.time_waits(),
            tcp_delivering: self.tcp.delivering(),
            tcp_buffer_bytes: self.tcp.buffer_bytes(),
        };
        stats
    }
}
