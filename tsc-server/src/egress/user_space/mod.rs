//! The way out of tunnels by ordinary sockets of the host: the embedded default, which needs no privileges.
//!
//! ```text
//!  tunnel's packet -> hop count -> fragments put together -> UDP: one host socket per inner address and port
//!                                                         -> TCP: ended here, continued on a host connection
//!  host's data <- reactor: only ready sockets are looked at <-'
//! ```
//!
//! - `mapping`, `ports`, `udp`: endpoint-independent UDP mappings (RFC 4787), one socket each.
//! - `tcp`: connections of the inner stack (`tsc_eip`) copied to host connections and back, with back-pressure.
//! - `fragments`, `packet`: IP and UDP, both ways.
//! - `destinations`: what may be reached. `tunnels`: bounds on what is told. `reactor`: which sockets are ready.
//!
//! IPv4 leaves by IPv4 and IPv6 by IPv6; there is no translation. What the host learns about a datagram (ICMP) is told
//! the tunnel. Everything is bounded for each tunnel and in total; beyond a bound the new is refused, so that what runs
//! is not harmed. Hop count, traffic class and options of packets end here, as the connections do.

mod counters;
mod descriptors;
mod destinations;
mod fragments;
pub mod harness;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod host_errors;
mod mapping;
mod packet;
mod ports;
mod reactor;
mod socket;
mod tcp;
mod tunnels;
mod udp;

use std::hash::Hash;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::Context;
use std::time::Instant;

use tsc_tpl::{IpPacket, Limits};

pub use self::counters::UserSpaceCounters;
use self::destinations::{Destinations, Judgement};
use self::fragments::Fragments;
use self::packet::Bad;
use self::ports::Random;
use self::reactor::{Name, Reactor};
use self::tcp::Tcp;
use self::tunnels::{Errors, Tunnels};
use self::udp::{Udp, World};
use crate::config::UserSpaceConfig;
use crate::icmp::Complaint;

/// Datagrams from the host that one turn passes on.
const DATAGRAMS_PER_TURN: usize = 512;

/// What a tunnel was assigned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way<'a> {
    /// Longest inner packet that it takes, in bytes.
    pub(crate) mtu: u16,
    /// Name servers, which it may ask whatever their address.
    pub(crate) name_servers: &'a [IpAddr],
}

/// The egress of one worker. `S` names a tunnel.
#[derive(Debug)]
pub(crate) struct UserSpace<S> {
    destinations: Destinations,
    tunnels: Tunnels<S>,
    fragments: Fragments,
    udp: Udp,
    tcp: Tcp,
    errors: Errors<S>,
    reactor: Reactor,
    /// Reused by each turn.
    ready: Vec<Name>,
    counters: UserSpaceCounters,
    /// When something was last handed in that [`Self::poll`] has not given the results of.
    unpolled: Option<Instant>,
}

impl<S: Copy + Eq + Hash> UserSpace<S> {
    /// An egress without tunnels. `own` are the server's listeners, which tunnels may not reach; `seed` makes ports and
    /// identifications unguessable. To be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// The process has no file descriptor left.
    /// One of the `workers` of a server, which share the limits of `config` evenly.
    pub(crate) fn new(
        config: &UserSpaceConfig,
        workers: usize,
        own: &[SocketAddr],
        seed: u64,
    ) -> io::Result<Self> {
        let mut random = Random::new(seed);
        let (udp, tcp) = (count(config.udp_mappings), count(config.tcp_connections));
        let wanted = udp.saturating_add(tcp);
        let granted = descriptors::grant(wanted);
        if granted < wanted {
            tracing::warn!(
                event = "few-descriptors",
                wanted,
                granted,
                "too few file descriptors for all mappings and connections"
            );
        }
        let part = |of| descriptors::share(of, wanted, granted).div_ceil(workers.max(1));
        let (udp, tcp) = (part(udp), part(tcp));
        Ok(Self {
            destinations: Destinations::new(config, own),
            tunnels: Tunnels::new(),
            fragments: Fragments::default(),
            udp: Udp::new(config, udp, &mut random),
            tcp: Tcp::new(config, workers, tcp, &mut random),
            errors: Errors::new(),
            reactor: Reactor::new()?,
            ready: Vec::new(),
            counters: UserSpaceCounters::default(),
            unpolled: None,
        })
    }

    /// Takes a packet of the tunnel `from`, whose source was checked and whose destination no tunnel has. What it causes
    /// comes out of [`Self::poll`].
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        from: S,
        way: &Way<'_>,
        packet: &IpPacket<'_>,
    ) {
        let tunnel = self.tunnels.slot(from, way.mtu);
        self.unpolled = Some(now);
        // As a router: what arrives with 1 goes no further.
        if packet.hop_limit() <= 1 {
            self.counters.hops_exceeded += 1;
            return self.tell(now, tunnel, packet, Complaint::HopsExceeded);
        }
        if !packet.is_fragment() {
            return self.whole(now, tunnel, way, packet);
        }
        let mut fragments = std::mem::take(&mut self.fragments);
        let whole = fragments.add(now, tunnel, packet, &mut self.counters);
        if let Some(Ok(packet)) = whole.map(|whole| IpPacket::decode(whole, &Limits::new(u16::MAX)))
        {
            self.whole(now, tunnel, way, &packet);
        }
        self.fragments = fragments;
    }

    fn whole(&mut self, now: Instant, tunnel: usize, way: &Way<'_>, packet: &IpPacket<'_>) {
        match packet.protocol() {
            packet::UDP => self.datagram(now, tunnel, way, packet),
            packet::TCP => self.segment(now, tunnel, way, packet),
            _ => {
                self.counters.other_protocols += 1;
                self.tell(now, tunnel, packet, Complaint::Prohibited);
            }
        }
    }

    fn datagram(&mut self, now: Instant, tunnel: usize, way: &Way<'_>, packet: &IpPacket<'_>) {
        let datagram = match packet::datagram(packet) {
            // No answer could reach port 0.
            Ok(datagram) if datagram.source.port() != 0 => datagram,
            Ok(_) | Err(Bad::Malformed) => {
                self.counters.malformed += 1;
                return;
            }
            Err(Bad::Checksum) => {
                self.counters.bad_checksum += 1;
                return;
            }
        };
        if !self.udp.is_known(tunnel, &datagram) {
            match self
                .destinations
                .judge(datagram.destination, way.name_servers)
            {
                Judgement::Allowed => {}
                refusal @ (Judgement::Denied | Judgement::Translation) => {
                    return self.refuse(now, tunnel, packet, refusal);
                }
            }
        }
        let mut world = World {
            reactor: &self.reactor,
            tunnels: &mut self.tunnels,
            errors: &mut self.errors,
            counters: &mut self.counters,
        };
        if let Err(Some(complaint)) = self.udp.send(now, tunnel, &datagram, &mut world) {
            self.tell(now, tunnel, packet, complaint);
        }
    }

    fn segment(&mut self, now: Instant, tunnel: usize, way: &Way<'_>, packet: &IpPacket<'_>) {
        // Before there is anything for it: what may not be reached costs nothing.
        if let Some(destination) = packet::requested(packet) {
            match self.destinations.judge(destination, way.name_servers) {
                Judgement::Allowed => {}
                refusal @ (Judgement::Denied | Judgement::Translation) => {
                    return self.refuse(now, tunnel, packet, refusal);
                }
            }
        }
        let mut world = World {
            reactor: &self.reactor,
            tunnels: &mut self.tunnels,
            errors: &mut self.errors,
            counters: &mut self.counters,
        };
        self.tcp.handle_packet(now, tunnel, packet, &mut world);
    }

    fn refuse(&mut self, now: Instant, tunnel: usize, packet: &IpPacket<'_>, why: Judgement) {
        if why == Judgement::Translation {
            self.counters.translation += 1;
        } else {
            self.counters.denied += 1;
        }
        self.tell(now, tunnel, packet, Complaint::Prohibited);
    }

    fn tell(&mut self, now: Instant, tunnel: usize, packet: &IpPacket<'_>, complaint: Complaint) {
        let counters = &mut self.counters;
        self.errors
            .tell(now, &mut self.tunnels, tunnel, packet, complaint, counters);
    }

    /// Reads the host sockets that are ready, a bounded amount, and gives `sink` the packets for tunnels, each at most as
    /// long as the tunnel's inner MTU. To be called in each turn, after the tunnels' packets. True if something was left
    /// undone: then it is to be called again without waiting.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        sink: &mut impl FnMut(S, &[u8]),
    ) -> bool {
        self.unpolled = None;
        let mut more = self.reactor.poll(cx, &mut self.ready);
        for name in self.ready.drain(..) {
            match name {
                Name::Udp(slot) => self.udp.ready(slot),
                Name::Tcp(slot) => self.tcp.ready(slot),
            }
        }
        let mut world = World {
            reactor: &self.reactor,
            tunnels: &mut self.tunnels,
            errors: &mut self.errors,
            counters: &mut self.counters,
        };
        more |= self.udp.read(now, DATAGRAMS_PER_TURN, &mut world, sink);
        more |= self.tcp.run(now, &mut world, sink);
        self.errors.drain(sink);
        more
    }

    /// When [`Self::handle_timeout`] and [`Self::poll`] are due; `None` is never. In the past if results wait.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let (udp, tcp) = (self.udp.poll_timeout(), self.tcp.poll_timeout());
        [self.unpolled, udp, tcp, self.fragments.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due; what it causes comes out of [`Self::poll`]. Calling it early or late is harmless.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|due| due > now) {
            return;
        }
        self.unpolled = Some(now);
        let mut world = World {
            reactor: &self.reactor,
            tunnels: &mut self.tunnels,
            errors: &mut self.errors,
            counters: &mut self.counters,
        };
        self.tcp.handle_timeout(now, &mut world);
        self.udp.handle_timeout(now, &mut self.counters);
        self.fragments.handle_timeout(now, &mut self.counters);
    }

    /// Closes everything that the tunnel has.
    pub(crate) fn session_ended(&mut self, session: S) {
        if let Some(tunnel) = self.tunnels.remove(session) {
            self.tcp.end(tunnel);
            self.udp.end(tunnel);
            self.fragments.end(tunnel);
        }
    }

    /// Counters and gauges as they are now.
    pub(crate) fn counters(&self) -> UserSpaceCounters {
        UserSpaceCounters {
            udp_mappings: self.udp.len(),
            tcp_connections: self.tcp.len(),
            tcp_buffer_bytes: self.tcp.reserved(),
            fragments: self.fragments.len(),
            fragment_bytes: self.fragments.held(),
            tunnels: self.tunnels.len(),
            ..self.counters
        }
    }
}

/// A limit of the configuration.
fn count(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, reason = "test patterns")]
mod tests;
