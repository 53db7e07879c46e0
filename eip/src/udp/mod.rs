//! UDP sockets: binding, connecting, demultiplexing, receive queues (RFC 768).

mod queue;
mod signals;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use queue::{Budget, Meta, QueueLimits, ReceiveQueue};
use signals::Signals;

use crate::addresses::{Addresses, is_any, is_unicast};
use crate::config::StackConfig;
use crate::error::{BindError, ConnectError, RecvError};
use crate::ip::{Dscp, Pair};
use crate::media::{MediaQuality, MediaWatch, Monitor};
use crate::ports::{self, Demux};
use crate::random::Prf;
use crate::slots::{Key, Slots};

/// Largest payload of one datagram in bytes: what IPv4's length field leaves. The same for IPv6, so
/// that a program need not know which it talks.
pub const MAX_UDP_PAYLOAD: usize = 65_507;

/// Names one UDP socket of one stack. It goes stale when the socket is closed: verbs then answer
/// `Closed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UdpHandle(Key);

/// Where a socket sends from and receives at, beside what it is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UdpPlacement {
    /// As it is bound.
    #[default]
    AsBound,
    /// It sends from this address of the stack's, and receives what is sent there.
    At {
        /// The address, of the socket's IP version.
        address: IpAddr,
        /// What is sent to other addresses does not reach it any more.
        only: bool,
    },
    /// It neither sends nor receives.
    Nowhere,
}

/// How one datagram is sent; [`Default`] is best effort, 64 hops, fragmented where needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOptions {
    /// Own address to send from; `None` lets the stack choose: the address that the socket is
    /// bound to, else the destination if it is an own one, else the first own address of the
    /// IP version.
    pub source: Option<IpAddr>,
    /// Code point of the inner packet.
    pub dscp: Dscp,
    /// Time to live or hop limit; `None` is 64.
    pub hop_limit: Option<NonZeroU8>,
    /// Never fragment, neither here (the send fails) nor on the way (DF of IPv4).
    pub dont_fragment: bool,
}

/// A datagram taken from a receive queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Received {
    /// Bytes written to the buffer.
    pub len: usize,
    /// Length of the payload. If it is above [`len`](Self::len) the buffer was too short and the
    /// rest is lost.
    pub payload_len: usize,
    /// Sender.
    pub from: SocketAddr,
    /// The own address that it was sent to.
    pub to: IpAddr,
    /// Code point that the packet carried.
    pub dscp: Dscp,
}

/// Counters of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct UdpStats {
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams put into the receive queue.
    pub received: u64,
    /// Datagrams dropped from, or not put into, the full receive queue.
    pub dropped: u64,
    /// ICMP errors that concerned the socket, whether it was connected or not.
    pub icmp_errors: u64,
}

/// One socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) placement: UdpPlacement,
    queue: ReceiveQueue,
    error: Option<RecvError>,
    /// Who looks at the media that comes.
    monitor: Option<Box<Monitor>>,
    pub(crate) stats: UdpStats,
}

impl UdpSocket {
    fn is_readable(&self) -> bool {
        self.error.is_some() || !self.queue.is_empty()
    }

    fn accepts(&self, to: IpAddr, peer: SocketAddr) -> bool {
        let is_here = match self.placement {
            UdpPlacement::AsBound => true,
            UdpPlacement::At { address, only } => !only || to == address,
            UdpPlacement::Nowhere => false,
        };
        is_here && self.peer.is_none_or(|expected| expected == peer)
    }

    /// Where it receives that it is not bound to.
    fn alias(&self) -> Option<SocketAddr> {
        match self.placement {
            UdpPlacement::At { address, .. } if !is_any(self.local.ip()) => {
                let alias = SocketAddr::new(address, self.local.port());
                (alias != self.local).then_some(alias)
            }
            UdpPlacement::At { .. } | UdpPlacement::AsBound | UdpPlacement::Nowhere => None,
        }
    }
}

/// All UDP sockets of a stack.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    slots: Slots<UdpSocket>,
    demux: Demux,
    signals: Signals,
    /// Sockets with another alarm; each at most once.
    alarms: VecDeque<UdpHandle>,
    /// Of what the packets come through.
    round_trip: Option<Duration>,
    budget: Budget,
    limits: QueueLimits,
    ephemeral: RangeInclusive<u16>,
    random: Prf,
}

impl UdpSockets {
    pub(crate) fn new(config: &StackConfig, seed: u64) -> Self {
        Self {
            slots: Slots::new(config.sockets),
            demux: Demux::default(),
            signals: Signals::default(),
            alarms: VecDeque::new(),
            round_trip: None,
            budget: Budget::new(config.receive_total_bytes),
            limits: QueueLimits {
                packets: config.receive_packets,
                bytes: config.receive_bytes,
            },
            ephemeral: config.ephemeral_ports.clone(),
            random: Prf::new(seed, 1),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) const fn held(&self) -> usize {
        self.budget.held()
    }

    pub(crate) fn get(&self, handle: UdpHandle) -> Option<&UdpSocket> {
        self.slots.get(handle.0)
    }

    pub(crate) fn get_mut(&mut self, handle: UdpHandle) -> Option<&mut UdpSocket> {
        self.slots.get_mut(handle.0)
    }

    pub(crate) fn bind(
        &mut self,
        own: &Addresses,
        local: SocketAddr,
    ) -> Result<UdpHandle, BindError> {
        let address = local.ip();
        if !is_any(address) && !own.contains(address) {
            return Err(BindError::AddressNotAvailable(address));
        }
        if self.slots.is_full() {
            return Err(BindError::TooManySockets);
        }
        // Flow information and scope mean nothing here, and must not make equal addresses differ.
        let local = match local.port() {
            0 => SocketAddr::new(
                address,
                self.ephemeral_port(address)
                    .ok_or(BindError::PortsExhausted)?,
            ),
            port => SocketAddr::new(address, port),
        };
        if !self.demux.is_free(local) {
            return Err(BindError::AddressInUse(local));
        }
        let socket = UdpSocket {
            local,
            peer: None,
            placement: UdpPlacement::AsBound,
            queue: ReceiveQueue::default(),
            error: None,
            monitor: None,
            stats: UdpStats::default(),
        };
        let key = self.slots.insert(socket).ok_or(BindError::TooManySockets)?;
        self.demux.insert(local, key);
        self.signals.reset(key.index());
        Ok(UdpHandle(key))
    }

    fn ephemeral_port(&mut self, address: IpAddr) -> Option<u16> {
        let demux = &self.demux;
        ports::ephemeral(&self.ephemeral, &mut self.random, |port| {
            demux.is_port_free(address, port)
        })
    }

    /// Whether there was such a socket.
    pub(crate) fn close(&mut self, handle: UdpHandle) -> bool {
        let Some(mut socket) = self.slots.remove(handle.0) else {
            return false;
        };
        socket.queue.release(&mut self.budget);
        if let Some(alias) = socket.alias() {
            self.demux.remove(alias);
        }
        self.demux.remove(socket.local);
        true
    }

    /// Whether the socket is there now; else it is as it was.
    pub(crate) fn place(&mut self, handle: UdpHandle, placement: UdpPlacement) -> bool {
        let Some(socket) = self.slots.get_mut(handle.0) else {
            return false;
        };
        if let UdpPlacement::At { address, .. } = placement
            && address.is_ipv4() != socket.local.is_ipv4()
        {
            return false;
        }
        let before = std::mem::replace(&mut socket.placement, placement);
        let alias = socket.alias();
        socket.placement = before;
        let former = socket.alias();
        if alias != former {
            if alias.is_some_and(|alias| !self.demux.is_free(alias)) {
                return false;
            }
            if let Some(former) = former {
                self.demux.remove(former);
            }
            if let Some(alias) = alias {
                self.demux.insert(alias, handle.0);
            }
        }
        socket.placement = placement;
        true
    }

    pub(crate) fn connect(
        &mut self,
        handle: UdpHandle,
        peer: SocketAddr,
    ) -> Result<(), ConnectError> {
        let socket = self.slots.get_mut(handle.0).ok_or(ConnectError::Closed)?;
        if peer.port() == 0 || !is_unicast(peer.ip()) {
            return Err(ConnectError::InvalidPeer(peer));
        }
        if socket.local.is_ipv4() != peer.is_ipv4() {
            return Err(ConnectError::FamilyMismatch(peer));
        }
        socket.peer = Some(SocketAddr::new(peer.ip(), peer.port()));
        self.forget_error(handle);
        Ok(())
    }

    /// Whether there was a peer.
    pub(crate) fn disconnect(&mut self, handle: UdpHandle) -> bool {
        let peer = self
            .slots
            .get_mut(handle.0)
            .and_then(|socket| socket.peer.take());
        self.forget_error(handle);
        peer.is_some()
    }

    /// An error is about the peer that the socket had when it arrived.
    fn forget_error(&mut self, handle: UdpHandle) {
        if let Some(socket) = self.slots.get_mut(handle.0) {
            socket.error = None;
            if !socket.is_readable() {
                self.signals.drained(handle.0.index());
            }
        }
    }

    /// The socket for a datagram from `peer` to `local`.
    pub(crate) fn lookup(&self, local: SocketAddr, peer: SocketAddr) -> Option<UdpHandle> {
        let key = self.demux.lookup(local)?;
        let socket = self.slots.get(key)?;
        socket.accepts(local.ip(), peer).then_some(UdpHandle(key))
    }

    /// Appends a datagram to a socket's queue. Returns whether it was taken, and how many were
    /// dropped.
    pub(crate) fn deliver(
        &mut self,
        now: Instant,
        handle: UdpHandle,
        pair: &Pair,
        from: SocketAddr,
        traffic_class: u8,
        payload: &[u8],
    ) -> (bool, u64) {
        let Some(socket) = self.slots.get_mut(handle.0) else {
            return (false, 0);
        };
        let meta = Meta {
            from,
            to: pair.destination(),
            traffic_class,
            len: payload.len(),
        };
        let pushed = socket
            .queue
            .push(meta, payload, self.limits, &mut self.budget);
        socket.stats.dropped += pushed.dropped;
        if pushed.accepted {
            socket.stats.received += 1;
        }
        if socket.is_readable() {
            self.signals.raise(handle.0.index());
        }
        if let Some(monitor) = &mut socket.monitor
            && monitor.observe(now, payload, self.round_trip)
            && !self.alarms.contains(&handle)
        {
            self.alarms.push_back(handle);
        }
        (pushed.accepted, pushed.dropped)
    }

    /// Tells the socket at `local` of an ICMP error about a datagram that it sent to `peer`. Only a
    /// connected one can know which peer is meant (RFC 1122, section 4.1.3.3; POSIX practice).
    /// Returns whether there is such a socket.
    pub(crate) fn deliver_error(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        error: RecvError,
    ) -> bool {
        let Some(handle) = self.lookup(local, peer) else {
            return false;
        };
        let Some(socket) = self.slots.get_mut(handle.0) else {
            return false;
        };
        socket.stats.icmp_errors += 1;
        if socket.peer.is_some() {
            socket.error = Some(error);
            self.signals.raise(handle.0.index());
        }
        true
    }

    pub(crate) fn recv(
        &mut self,
        handle: UdpHandle,
        buffer: &mut [u8],
    ) -> Option<Result<Received, RecvError>> {
        let Some(socket) = self.slots.get_mut(handle.0) else {
            return Some(Err(RecvError::Closed));
        };
        let result = match socket.error.take() {
            Some(error) => Some(Err(error)),
            None => socket
                .queue
                .peek(buffer)
                .map(|meta| Ok(received(meta, buffer.len()))),
        };
        if let Some(Ok(_)) = result {
            socket.queue.pop();
        }
        if !socket.is_readable() {
            socket.queue.relax(&mut self.budget);
            self.signals.drained(handle.0.index());
        }
        result
    }

    pub(crate) fn peek(
        &self,
        handle: UdpHandle,
        buffer: &mut [u8],
    ) -> Option<Result<Received, RecvError>> {
        let Some(socket) = self.slots.get(handle.0) else {
            return Some(Err(RecvError::Closed));
        };
        match socket.error {
            Some(error) => Some(Err(error)),
            None => socket
                .queue
                .peek(buffer)
                .map(|meta| Ok(received(meta, buffer.len()))),
        }
    }

    /// Watches a socket's media from now on, or not any more. False if it is closed.
    pub(crate) fn watch(&mut self, handle: UdpHandle, watch: MediaWatch) -> bool {
        let socket = self.slots.get_mut(handle.0);
        let monitor = Monitor::new(watch).map(Box::new);
        socket.map(|socket| socket.monitor = monitor).is_some()
    }

    pub(crate) fn quality(&self, handle: UdpHandle) -> Option<MediaQuality> {
        self.get(handle)?.monitor.as_ref()?.quality()
    }

    pub(crate) const fn set_round_trip(&mut self, round_trip: Option<Duration>) {
        self.round_trip = round_trip;
    }

    /// The next socket with another alarm.
    pub(crate) fn poll_alarm(&mut self) -> Option<UdpHandle> {
        self.alarms.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<UdpHandle> {
        let slots = &self.slots;
        let index = self.signals.poll(|index| {
            let socket = slots.key_at(index).and_then(|key| slots.get(key));
            socket.is_some_and(UdpSocket::is_readable)
        })?;
        self.slots.key_at(index).map(UdpHandle)
    }
}

fn received(meta: Meta, room: usize) -> Received {
    Received {
        len: meta.len.min(room),
        payload_len: meta.len,
        from: meta.from,
        to: meta.to,
        dscp: Dscp::from_traffic_class(meta.traffic_class),
    }
}
