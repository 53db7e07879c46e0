//! The verbs of UDP sockets.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use smoltcp::wire::UdpPacket;

use super::Stack;
use crate::addresses::{is_any, is_unicast};
use crate::egress::{Outgoing, Route};
use crate::error::{BindError, ConnectError, RecvError, SendError};
use crate::ip::{HOP_LIMIT, Pair, protocol};
use crate::media::{MediaQuality, MediaWatch};
use crate::udp::{MAX_UDP_PAYLOAD, Received, SendOptions, UdpHandle, UdpPlacement, UdpStats};

/// Offset of the checksum in the UDP header.
const CHECKSUM_AT: usize = 6;

impl Stack {
    /// Opens a socket on `local`: one of the stack's addresses, or the wildcard (`0.0.0.0`, `::`)
    /// for all addresses of that IP version, present and future. Port 0 picks a random free
    /// port of [`StackConfig::ephemeral_ports`](crate::StackConfig::ephemeral_ports) (RFC
    /// 6056). A socket speaks one IP version; `::` does not take IPv4.
    ///
    /// # Errors
    ///
    /// [`BindError`] if the port is taken, the address is not ours, or a limit is reached.
    pub fn udp_bind(&mut self, local: SocketAddr) -> Result<UdpHandle, BindError> {
        self.udp.bind(&self.addresses, local)
    }

    /// Closes a socket and drops what it had not read. Returns whether it was open.
    pub fn udp_close(&mut self, handle: UdpHandle) -> bool {
        self.udp.close(handle)
    }

    /// Fixes the peer: [`udp_send`](Self::udp_send) sends to it, datagrams from others are refused,
    /// and ICMP errors about datagrams to it are reported by [`udp_recv`](Self::udp_recv).
    /// Datagrams already queued stay, an error about the former peer is forgotten. May be
    /// called again.
    ///
    /// # Errors
    ///
    /// [`ConnectError`] if `peer` cannot be reached from this socket in principle.
    pub fn udp_connect(&mut self, handle: UdpHandle, peer: SocketAddr) -> Result<(), ConnectError> {
        self.udp.connect(handle, peer)
    }

    /// Forgets the peer and errors about it. Returns whether there was one.
    pub fn udp_disconnect(&mut self, handle: UdpHandle) -> bool {
        self.udp.disconnect(handle)
    }

    /// The address and port that the socket is bound to, its ephemeral port included. `None` once
    /// it is closed.
    #[must_use]
    pub fn udp_local_addr(&self, handle: UdpHandle) -> Option<SocketAddr> {
        self.udp.get(handle).map(|socket| socket.local)
    }

    /// Moves a socket to one of the stack's addresses, or away from all; what it is bound to stays. Datagrams already queued stay.
    /// False if that is not possible: it is closed, the address is of the other IP version, or another socket has the port there.
    pub fn udp_place(&mut self, handle: UdpHandle, placement: UdpPlacement) -> bool {
        self.udp.place(handle, placement)
    }

    /// Where the socket is. `None` once it is closed.
    #[must_use]
    pub fn udp_placement(&self, handle: UdpHandle) -> Option<UdpPlacement> {
        self.udp.get(handle).map(|socket| socket.placement)
    }

    /// The peer that the socket is connected to.
    #[must_use]
    pub fn udp_peer_addr(&self, handle: UdpHandle) -> Option<SocketAddr> {
        self.udp.get(handle)?.peer
    }

    /// The socket's counters. `None` once it is closed.
    #[must_use]
    pub fn udp_stats(&self, handle: UdpHandle) -> Option<UdpStats> {
        self.udp.get(handle).map(|socket| socket.stats)
    }

    /// Sends a datagram to the connected peer; otherwise as [`udp_send_to`](Self::udp_send_to).
    ///
    /// # Errors
    ///
    /// [`SendError::NotConnected`] without a peer, and those of [`udp_send_to`](Self::udp_send_to).
    pub fn udp_send(
        &mut self,
        now: Instant,
        handle: UdpHandle,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<(), SendError> {
        let socket = self.udp.get(handle).ok_or(SendError::Closed)?;
        let peer = socket.peer.ok_or(SendError::NotConnected)?;
        self.udp_send_to(now, handle, peer, payload, options)
    }

    /// Sends a datagram: its packets are on the transmit queue when this returns, or in a receive
    /// queue if `destination` is one of the stack's own addresses. Never waits: a full transmit
    /// queue drops its oldest packets.
    ///
    /// # Errors
    ///
    /// [`SendError`]; nothing was sent then.
    pub fn udp_send_to(
        &mut self,
        now: Instant,
        handle: UdpHandle,
        destination: SocketAddr,
        payload: &[u8],
        options: &SendOptions,
    ) -> Result<(), SendError> {
        let socket = self.udp.get(handle).ok_or(SendError::Closed)?;
        let (local, placement) = (socket.local, socket.placement);
        let pair = self.pair_for(local, placement, destination, options.source)?;
        if payload.len() > MAX_UDP_PAYLOAD {
            return Err(SendError::MessageTooLong {
                max: MAX_UDP_PAYLOAD,
            });
        }
        let message = Outgoing {
            pair,
            protocol: protocol::UDP,
            traffic_class: options.dscp.traffic_class(),
            hop_limit: options.hop_limit.map_or(HOP_LIMIT, NonZeroU8::get),
            dont_fragment: options.dont_fragment,
            head: udp_head(local.port(), destination.port(), payload.len()),
            checksum_at: CHECKSUM_AT,
            body: payload,
        };
        let route = self.route(pair.destination());
        self.egress
            .send(now, route, &message)
            .map_err(|too_long| SendError::MessageTooLong { max: too_long.max })?;
        self.counted.datagrams_out += 1;
        if let Some(socket) = self.udp.get_mut(handle) {
            socket.stats.sent += 1;
        }
        self.deliver_local(now);
        Ok(())
    }

    /// Takes the oldest datagram, or an error that was reported about the connected peer. `None` if
    /// nothing waits; the socket's next event comes after that. A closed socket answers
    /// [`RecvError::Closed`] for ever.
    pub fn udp_recv(
        &mut self,
        handle: UdpHandle,
        buffer: &mut [u8],
    ) -> Option<Result<Received, RecvError>> {
        self.udp.recv(handle, buffer)
    }

    /// As [`udp_recv`](Self::udp_recv), but leaves the datagram or error where it is.
    pub fn udp_peek(
        &self,
        handle: UdpHandle,
        buffer: &mut [u8],
    ) -> Option<Result<Received, RecvError>> {
        self.udp.peek(handle, buffer)
    }

    /// Watches the media that comes to a socket, from now on: [`Event::MediaQuality`](crate::Event::MediaQuality) tells of alarms.
    /// False if it is closed.
    pub fn udp_watch_media(&mut self, handle: UdpHandle, watch: MediaWatch) -> bool {
        self.udp.watch(handle, watch)
    }

    /// How the media is that comes to a watched socket; `None` before a whole [`WINDOW`](crate::media::WINDOW) of it.
    #[must_use]
    pub fn udp_media_quality(&self, handle: UdpHandle) -> Option<MediaQuality> {
        self.udp.quality(handle)
    }

    /// Tells the round trip of what the packets come through, for estimates of quality.
    pub const fn set_round_trip(&mut self, round_trip: Option<Duration>) {
        self.udp.set_round_trip(round_trip);
    }

    /// Source and destination of a datagram from a socket bound to `local`.
    fn pair_for(
        &self,
        local: SocketAddr,
        placement: UdpPlacement,
        destination: SocketAddr,
        wanted: Option<IpAddr>,
    ) -> Result<Pair, SendError> {
        let to = destination.ip();
        if destination.port() == 0 || !is_unicast(to) {
            return Err(SendError::InvalidDestination(destination));
        }
        if local.is_ipv4() != to.is_ipv4() {
            return Err(SendError::FamilyMismatch(destination));
        }
        let bound = match placement {
            UdpPlacement::AsBound => (!is_any(local.ip())).then(|| local.ip()),
            UdpPlacement::At { address, .. } => Some(address),
            UdpPlacement::Nowhere => return Err(SendError::Nowhere),
        };
        let source = match (bound, wanted) {
            (Some(bound), Some(wanted)) if bound != wanted => {
                return Err(SendError::SourceNotAvailable(wanted));
            }
            (Some(source), _) | (None, Some(source)) => {
                if !self.addresses.contains(source) {
                    return Err(SendError::SourceNotAvailable(source));
                }
                source
            }
            (None, None) => self
                .addresses
                .source_for(to)
                .ok_or(SendError::NoSourceAddress(to))?,
        };
        Pair::new(source, to).ok_or(SendError::SourceNotAvailable(source))
    }

    /// Packets to one of our own addresses never enter the tunnel.
    pub(super) fn route(&self, destination: IpAddr) -> Route {
        if self.addresses.contains(destination) {
            Route::Local
        } else {
            Route::Tunnel
        }
    }
}

/// UDP header with a zero checksum.
fn udp_head(source: u16, destination: u16, payload_len: usize) -> [u8; 8] {
    let mut view = UdpPacket::new_unchecked([0; 8]);
    view.set_src_port(source);
    view.set_dst_port(destination);
    view.set_len(u16::try_from(payload_len.saturating_add(8)).unwrap_or(u16::MAX));
    view.into_inner()
}
