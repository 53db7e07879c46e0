//! UDP: one socket of the host for each inner source.

use std::collections::VecDeque;
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::UdpSocket;
use tsc_tpl::{IpPacket, Limits};

use super::mapping::{Full, Mappings};
use super::packet::{Datagram, Segment, Writer, Written};
use super::ports::{PortError, Ports, Random};
use super::reactor::{Name, Reactor};
use super::socket::{self, Failure};
use super::tunnels::{Errors, Tunnels};
use super::{UserSpaceCounters, count};
use crate::config::UserSpaceConfig;
use crate::icmp::Complaint;

/// Datagrams that one mapping passes in a row before the others get their turn.
const IN_A_ROW: usize = 32;

/// Errors of one socket that are looked at in a row.
const ERRORS_IN_A_ROW: usize = 16;

/// How much of a datagram an ICMP error quotes at most is decided elsewhere; the host never has more of it than this.
const QUOTE: usize = 2048;

/// See the module.
#[derive(Debug)]
pub(super) struct Udp {
    mappings: Mappings<Host>,
    v4: Ports,
    v6: Ports,
    segment: Segment,
    writer: Writer,
    /// Mappings with more to read, at most once each.
    backlog: VecDeque<usize>,
    #[cfg(any(target_os = "linux", target_os = "android"))]
    control: Vec<u8>,
}

/// The host's end of a mapping.
#[derive(Debug)]
struct Host {
    socket: UdpSocket,
    port: u16,
}

impl Udp {
    pub(super) fn new(config: &UserSpaceConfig, total: usize, random: &mut Random) -> Self {
        let range = config.udp_ports.as_ref();
        Self {
            mappings: Mappings::new(
                count(config.udp_mappings_per_tunnel),
                total,
                config.udp_timeout,
                config.udp_filtering,
            ),
            v4: Ports::new(range, random.next()),
            v6: Ports::new(range, random.next()),
            segment: Segment::new(),
            writer: Writer::new(random.next()),
            backlog: VecDeque::new(),
            #[cfg(any(target_os = "linux", target_os = "android"))]
            control: super::host_errors::control(),
        }
    }

    /// Whether the datagram belongs to a mapping that has sent to its destination before: then that may be reached.
    pub(super) fn is_known(&self, tunnel: usize, datagram: &Datagram<'_>) -> bool {
        self.mappings
            .find(tunnel, datagram.source)
            .is_some_and(|slot| self.mappings.knows(slot, datagram.destination))
    }

    /// Sends a datagram whose destination may be reached.
    ///
    /// # Errors
    /// What the tunnel is to be told, if anything.
    pub(super) fn send<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        tunnel: usize,
        datagram: &Datagram<'_>,
        world: &mut World<'_, S>,
    ) -> Result<(), Option<Complaint>> {
        let slot = match self.mappings.find(tunnel, datagram.source) {
            Some(slot) => slot,
            None => self.open(now, tunnel, datagram.source, world)?,
        };
        self.mappings.sends(now, slot, datagram.destination);
        for attempt in 0..2 {
            let Some(mapping) = self.mappings.get(slot) else {
                break;
            };
            let socket = &mapping.socket.socket;
            let Err(error) = socket.send_to(datagram.payload, datagram.destination) else {
                world.counters.udp_sent += 1;
                return Ok(());
            };
            let complaint = match Failure::of(&error) {
                Failure::Full => {
                    world.counters.udp_send_full += 1;
                    return Err(None);
                }
                // About an earlier datagram; this one was not tried.
                Failure::Other if attempt == 0 => {
                    self.errors(now, slot, world);
                    continue;
                }
                Failure::Other => None,
                Failure::TooLong => Some(Complaint::TooBig {
                    mtu: least_mtu(datagram.destination),
                }),
                Failure::Unreachable => Some(Complaint::Unreachable),
                Failure::Prohibited => Some(Complaint::Prohibited),
            };
            world.counters.udp_send_errors += 1;
            return Err(complaint);
        }
        Err(None)
    }

    fn open<S>(
        &mut self,
        now: Instant,
        tunnel: usize,
        inner: SocketAddr,
        world: &mut World<'_, S>,
    ) -> Result<usize, Option<Complaint>> {
        let counters = &mut *world.counters;
        match self.mappings.room(tunnel) {
            Ok(()) => {}
            Err(full) => {
                match full {
                    Full::Tunnel => counters.udp_tunnel_full += 1,
                    Full::Total => counters.udp_full += 1,
                }
                return Err(Some(Complaint::Prohibited));
            }
        }
        let is_v4 = inner.is_ipv4();
        let ports = self.ports(is_v4);
        let opened = ports.open(inner.port(), |port| socket::udp(is_v4, port));
        let (mut socket, port) = opened.map_err(|error| match error {
            PortError::Exhausted => {
                counters.udp_no_port += 1;
                Some(Complaint::Prohibited)
            }
            PortError::Host(error) => {
                counters.udp_no_socket += 1;
                tracing::debug!(%error, "no socket for a UDP mapping");
                Some(no_socket(&error))
            }
        })?;
        let name = Name::Udp(self.mappings.vacant());
        if let Err(error) = world.reactor.watch(&mut socket, name) {
            counters.udp_no_socket += 1;
            tracing::debug!(%error, "a UDP mapping cannot be watched");
            self.ports(is_v4).release(port);
            return Err(Some(Complaint::Prohibited));
        }
        counters.udp_opened += 1;
        Ok(self
            .mappings
            .insert(now, tunnel, inner, Host { socket, port }))
    }

    const fn ports(&mut self, is_v4: bool) -> &mut Ports {
        if is_v4 { &mut self.v4 } else { &mut self.v6 }
    }

    /// The socket of this slot has something.
    pub(super) fn ready(&mut self, slot: usize) {
        if let Some(mapping) = self.mappings.get_mut(slot)
            && !std::mem::replace(&mut mapping.listed, true)
        {
            self.backlog.push_back(slot);
        }
    }

    /// Reads what is ready, at most `budget` datagrams. True if there is more.
    pub(super) fn read<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        mut budget: usize,
        world: &mut World<'_, S>,
        sink: &mut impl FnMut(S, &[u8]),
    ) -> bool {
        while budget > 0 {
            let Some(slot) = self.backlog.pop_front() else {
                return false;
            };
            if let Some(mapping) = self.mappings.get_mut(slot) {
                mapping.listed = false;
            }
            let most = budget.min(IN_A_ROW);
            let read = self.read_one(now, slot, most, world, sink);
            budget -= read;
            if read == most {
                self.ready(slot);
            }
        }
        !self.backlog.is_empty()
    }

    /// Reads at most `most` datagrams of a mapping; fewer only if there are no more.
    fn read_one<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        slot: usize,
        most: usize,
        world: &mut World<'_, S>,
        sink: &mut impl FnMut(S, &[u8]),
    ) -> usize {
        let mut errors = 0;
        let mut read = 0;
        while read < most {
            let Some(mapping) = self.mappings.get(slot) else {
                return read;
            };
            let (inner, tunnel) = (mapping.inner, mapping.tunnel);
            match mapping.socket.socket.recv_from(self.segment.payload()) {
                Ok((len, peer)) => {
                    read += 1;
                    // Scope and flow label mean nothing inside.
                    let peer = SocketAddr::new(peer.ip(), peer.port());
                    if !self.mappings.receives(now, slot, peer) {
                        world.counters.udp_filtered += 1;
                        continue;
                    }
                    let Some(tunnel) = world.tunnels.get(tunnel) else {
                        continue;
                    };
                    let (segment, mtu) = (&mut self.segment, tunnel.mtu);
                    let written = self
                        .writer
                        .datagram(peer, inner, segment, len, mtu, |packet| {
                            sink(tunnel.name, packet)
                        });
                    match written {
                        Written::Whole => world.counters.udp_received += 1,
                        Written::Fragments => {
                            world.counters.udp_received += 1;
                            world.counters.fragmented += 1;
                        }
                        Written::TooLong => world.counters.udp_too_long += 1,
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What an earlier datagram met.
                Err(_) => {
                    self.errors(now, slot, world);
                    errors += 1;
                    if errors == ERRORS_IN_A_ROW {
                        return most;
                    }
                }
            }
        }
        read
    }

    /// Passes on what the host has learned about datagrams of this mapping.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn errors<S: Copy + Eq + Hash>(&mut self, now: Instant, slot: usize, world: &mut World<'_, S>) {
        let Some(mapping) = self.mappings.get(slot) else {
            return;
        };
        for _ in 0..ERRORS_IN_A_ROW {
            let quote = self.segment.payload().get_mut(..QUOTE).unwrap_or_default();
            let socket = &mapping.socket.socket;
            let error = match super::host_errors::next(socket, quote, &mut self.control) {
                None => return,
                Some(None) => continue,
                Some(Some(error)) => error,
            };
            let bytes = self.writer.quoted(
                mapping.inner,
                error.destination,
                &mut self.segment,
                error.len,
            );
            let Ok(packet) = IpPacket::decode(bytes, &Limits::new(u16::MAX)) else {
                continue;
            };
            world.counters.host_errors += 1;
            world.errors.tell(
                now,
                world.tunnels,
                mapping.tunnel,
                &packet,
                error.complaint,
                world.counters,
            );
        }
    }

    /// Other systems do not tell which datagram an error is about.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn errors<S>(&mut self, _now: Instant, _slot: usize, _world: &mut World<'_, S>) {}

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.mappings.poll_timeout()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, counters: &mut UserSpaceCounters) {
        while let Some(mapping) = self.mappings.expired(now) {
            counters.udp_timed_out += 1;
            self.ports(mapping.inner.is_ipv4())
                .release(mapping.socket.port);
        }
    }

    /// Closes the mappings of a tunnel.
    pub(super) fn end(&mut self, tunnel: usize) {
        while let Some(mapping) = self.mappings.pop(tunnel) {
            self.ports(mapping.inner.is_ipv4())
                .release(mapping.socket.port);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.mappings.len()
    }
}

/// What mappings need besides themselves.
pub(super) struct World<'a, S> {
    pub(super) reactor: &'a Reactor,
    pub(super) tunnels: &'a mut Tunnels<S>,
    pub(super) errors: &'a mut Errors<S>,
    pub(super) counters: &'a mut UserSpaceCounters,
}

/// A host without the family has no way there; one that is out of sockets does not want more.
pub(super) fn no_socket(error: &io::Error) -> Complaint {
    let code = error.raw_os_error();
    if code == Some(nix::libc::EAFNOSUPPORT) || error.kind() == io::ErrorKind::AddrNotAvailable {
        Complaint::Unreachable
    } else {
        Complaint::Prohibited
    }
}

/// What every path of the family takes.
const fn least_mtu(destination: SocketAddr) -> u16 {
    if destination.is_ipv4() { 576 } else { 1280 }
}
