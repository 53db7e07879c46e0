//! How connections begin: our requests, those of peers to a listener, and those to a transparent
//! stack.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Tcp;
use super::connection::{Connection, Owner, Windows};
use super::listener::{HalfOpen, Listener};
use super::receiver::window_shift;
use super::segment::{Segment, Tuple};
use super::seq::Seq;
use super::table::Holder;
use super::timers::Due;
use super::types::{TcpHandle, TcpIncomingId, TcpListenHandle, TcpOptions};
use crate::addresses::{Addresses, is_any, is_unicast};
use crate::egress::Egress;
use crate::error::{BindError, TcpConnectError};
use crate::ip::{v4, v6};
use crate::ports;
use crate::slots::Key;

/// Length of a TCP header without options.
const HEADER_LEN: usize = 20;

/// A request to a transparent stack that waits for its owner.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) tuple: Tuple,
    /// The SYN, without data.
    pub(super) syn: Vec<u8>,
    /// Its sequence number.
    pub(super) sequence: Seq,
    /// The owner knows of it.
    pub(super) announced: bool,
    /// The entry in the queue of deadlines.
    pub(super) armed: Instant,
}

impl Tcp {
    /// Starts opening a connection.
    pub(crate) fn connect(
        &mut self,
        now: Instant,
        own: Option<&Addresses>,
        local: SocketAddr,
        remote: SocketAddr,
        options: TcpOptions,
    ) -> Result<TcpHandle, TcpConnectError> {
        let tuple = self.tuple_for(own, local, remote)?;
        let (initial, windows) = (self.initial_sequence(), self.windows());
        let key = self.insert(now, tuple, initial, windows, options, Owner::Handle)?;
        self.schedule(now, key);
        Ok(TcpHandle(key))
    }

    /// A port that no listener has.
    pub(crate) fn free_port(&mut self, from: IpAddr) -> Option<u16> {
        let listening = &self.listening;
        ports::ephemeral(&self.ephemeral, &mut self.random, |port| {
            listening.is_port_free(from, port)
        })
    }

    /// Fresh for each connection: none tells anything of another (RFC 6528).
    fn initial_sequence(&mut self) -> Seq {
        let [_, _, _, _, number @ ..] = self.random.next().to_be_bytes();
        Seq(u32::from_be_bytes(number))
    }

    /// What a new connection's SYN says.
    fn windows(&self) -> Windows {
        Windows {
            first: u16::try_from(self.budget.offer(0)).unwrap_or(u16::MAX),
            shift: window_shift(self.budget.each()),
        }
    }

    /// `own` is absent if all addresses are the stack's.
    fn tuple_for(
        &mut self,
        own: Option<&Addresses>,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<Tuple, TcpConnectError> {
        let (from, to) = (local.ip(), remote.ip());
        if remote.port() == 0 || !is_unicast(to) {
            return Err(TcpConnectError::InvalidPeer(remote));
        }
        if from.is_ipv4() != to.is_ipv4() {
            return Err(TcpConnectError::FamilyMismatch(remote));
        }
        let from = match own {
            Some(own) if is_any(from) => own
                .source_for(to)
                .ok_or(TcpConnectError::NoSourceAddress(to))?,
            Some(own) if own.contains(from) => from,
            None if is_unicast(from) => from,
            Some(_) | None => return Err(TcpConnectError::AddressNotAvailable(from)),
        };
        // Flow information and scope mean nothing here, and must not make equal addresses differ.
        let remote = SocketAddr::new(to, remote.port());
        let tuple = |port| Tuple {
            local: SocketAddr::new(from, port),
            remote,
        };
        let (table, listening) = (&self.table, &self.listening);
        let is_free = |port| {
            let tuple = tuple(port);
            table.get(&tuple).is_none() && tuple.local != tuple.remote
        };
        let port = match local.port() {
            // Not a listener's: requests to it would meet the connection.
            0 => ports::ephemeral(&self.ephemeral, &mut self.random, |port| {
                is_free(port) && listening.is_port_free(from, port)
            })
            .ok_or(TcpConnectError::PortsExhausted)?,
            port if is_free(port) => port,
            port => return Err(TcpConnectError::AddressInUse(tuple(port).local)),
        };
        Ok(tuple(port))
    }

    /// A new connection, reachable by its tuple.
    fn insert(
        &mut self,
        now: Instant,
        tuple: Tuple,
        initial: Seq,
        windows: Windows,
        options: TcpOptions,
        owner: Owner,
    ) -> Result<Key, TcpConnectError> {
        if self.connections.is_full() {
            return Err(TcpConnectError::TooManyConnections);
        }
        let charge = self.budget.open().ok_or(TcpConnectError::OutOfMemory)?;
        let connection = Connection::new(now, tuple, initial, charge, windows, options, owner);
        match self.connections.insert(connection) {
            Some(key) => {
                self.table.insert(tuple, Holder::Connection(key));
                Ok(key)
            }
            None => {
                self.budget.release(charge);
                Err(TcpConnectError::TooManyConnections)
            }
        }
    }

    /// A new connection for a peer that has sent `syn`.
    fn insert_passive(
        &mut self,
        now: Instant,
        half: &Passive<'_>,
        options: TcpOptions,
        owner: Owner,
        egress: &mut Egress,
    ) -> Result<Key, TcpConnectError> {
        let syn = half.segment().ok_or(TcpConnectError::Withdrawn)?;
        let key = self.insert(now, half.tuple, half.initial, half.windows, options, owner)?;
        let mtu = egress.path_mtu(now, half.tuple.remote.ip());
        if let Some(connection) = self.connections.get_mut(key) {
            let path = connection.payload_of(mtu);
            connection.learn_syn(&syn, path);
        }
        Ok(key)
    }

    /// Opens a listener.
    pub(crate) fn listen(
        &mut self,
        own: Option<&Addresses>,
        local: SocketAddr,
        backlog: usize,
    ) -> Result<TcpListenHandle, BindError> {
        let address = local.ip();
        let ours = own.map_or_else(|| is_unicast(address), |own| own.contains(address));
        if !is_any(address) && !ours {
            return Err(BindError::AddressNotAvailable(address));
        }
        if self.listeners.is_full() {
            return Err(BindError::TooManySockets);
        }
        let listening = &self.listening;
        let port = match local.port() {
            0 => ports::ephemeral(&self.ephemeral, &mut self.random, |port| {
                listening.is_port_free(address, port)
            })
            .ok_or(BindError::PortsExhausted)?,
            port => port,
        };
        let local = SocketAddr::new(address, port);
        if !self.listening.is_free(local) {
            return Err(BindError::AddressInUse(local));
        }
        let listener = Listener::new(local, backlog.max(1), self.limits.half_open);
        let key = self
            .listeners
            .insert(listener)
            .ok_or(BindError::TooManySockets)?;
        self.listening.insert(local, key);
        Ok(TcpListenHandle(key))
    }

    pub(crate) fn listener_addr(&self, handle: TcpListenHandle) -> Option<SocketAddr> {
        self.listeners.get(handle.0).map(|listener| listener.local)
    }

    /// The oldest connection that waits. `None` if none does: the next event comes after that.
    pub(crate) fn accept(&mut self, handle: TcpListenHandle) -> Option<(TcpHandle, SocketAddr)> {
        let listener = self.listeners.get_mut(handle.0)?;
        let Some(key) = listener.queue.pop_front() else {
            listener.told = false;
            return None;
        };
        let connection = self.connections.get_mut(key)?;
        connection.owner = Owner::Handle;
        let remote = connection.tuple.remote;
        self.signal(key);
        Some((TcpHandle(key), remote))
    }

    /// Returns whether there was such a listener. Who waits to be accepted is turned away.
    pub(crate) fn close_listener(&mut self, handle: TcpListenHandle, egress: &mut Egress) -> bool {
        let Some(mut listener) = self.listeners.remove(handle.0) else {
            return false;
        };
        self.listening.remove(listener.local);
        while let Some((key, half_open)) = listener.half_open.pop() {
            self.half_open = self.half_open.saturating_sub(1);
            self.timers
                .disarm(half_open.armed, Due::HalfOpen(handle.0, key));
            self.table.remove(&half_open.tuple);
        }
        for key in listener.queue {
            self.abort(key, egress);
        }
        true
    }

    /// A SYN for a listener.
    pub(super) fn request(
        &mut self,
        now: Instant,
        key: Key,
        syn: &Segment<'_>,
        egress: &mut Egress,
    ) {
        let (sequence, windows) = (self.initial_sequence(), self.windows());
        let Some(listener) = self.listeners.get_mut(key) else {
            return;
        };
        if let Some((oldest, half_open)) = listener.half_open.evict() {
            self.counters.half_open_evicted += 1;
            self.half_open = self.half_open.saturating_sub(1);
            self.timers
                .disarm(half_open.armed, Due::HalfOpen(key, oldest));
            self.table.remove(&half_open.tuple);
        }
        let half_open = HalfOpen::new(now, syn, sequence, windows);
        let armed = half_open.armed;
        if let Some(new) = listener.half_open.insert(half_open) {
            self.half_open += 1;
            self.timers.arm(armed, Due::HalfOpen(key, new));
            self.table.insert(syn.tuple, Holder::HalfOpen(key, new));
            self.answer(key, new, now, egress);
        }
    }

    /// Sends the answer to a SYN.
    pub(super) fn answer(&mut self, listener: Key, key: Key, now: Instant, egress: &mut Egress) {
        let Some(half_open) = self
            .listeners
            .get(listener)
            .and_then(|listener| listener.half_open.get(key))
        else {
            return;
        };
        let tuple = half_open.tuple;
        let ip_header = match tuple.remote {
            SocketAddr::V4(_) => v4::HEADER_LEN,
            SocketAddr::V6(_) => v6::HEADER_LEN,
        };
        let mtu = egress.path_mtu(now, tuple.remote.ip());
        let mss = usize::from(mtu).saturating_sub(ip_header + HEADER_LEN);
        let reply = half_open.answer(u16::try_from(mss).unwrap_or(u16::MAX));
        self.send(&tuple, &reply, egress);
    }

    pub(super) fn half_open_due(
        &mut self,
        now: Instant,
        listener: Key,
        key: Key,
        egress: &mut Egress,
    ) {
        let Some(half_open) = self
            .listeners
            .get_mut(listener)
            .and_then(|listener| listener.half_open.get_mut(key))
        else {
            return;
        };
        match half_open.repeat(now) {
            Some(at) => {
                self.timers.arm(at, Due::HalfOpen(listener, key));
                self.answer(listener, key, now, egress);
            }
            None => self.forget_half_open(listener, key),
        }
    }

    pub(super) fn forget_half_open(&mut self, listener: Key, key: Key) {
        let removed = self
            .listeners
            .get_mut(listener)
            .and_then(|listener| listener.half_open.remove(key));
        if let Some(half_open) = removed {
            self.half_open = self.half_open.saturating_sub(1);
            self.timers
                .disarm(half_open.armed, Due::HalfOpen(listener, key));
            self.table.remove(&half_open.tuple);
        }
    }

    /// The peer has acknowledged the answer to its SYN by `segment`. If there is no room for the
    /// connection the acknowledgement counts as lost, and the repeated answer asks for another.
    pub(super) fn complete(
        &mut self,
        now: Instant,
        listener_key: Key,
        key: Key,
        segment: &Segment<'_>,
        egress: &mut Egress,
    ) {
        let Some(listener) = self.listeners.get_mut(listener_key) else {
            return;
        };
        if listener.queue.len() >= listener.backlog
            || self.connections.is_full()
            || !self.budget.fits()
        {
            self.counters.backlog_full += 1;
            return;
        }
        let Some(half_open) = listener.half_open.remove(key) else {
            return;
        };
        self.half_open = self.half_open.saturating_sub(1);
        self.timers
            .disarm(half_open.armed, Due::HalfOpen(listener_key, key));
        self.table.remove(&half_open.tuple);
        let passive = Passive {
            tuple: half_open.tuple,
            syn: &half_open.syn,
            initial: half_open.sequence,
            windows: half_open.windows,
        };
        let owner = Owner::Listener(listener_key);
        let Ok(key) = self.insert_passive(now, &passive, TcpOptions::default(), owner, egress)
        else {
            return;
        };
        if let Some(connection) = self.connections.get_mut(key) {
            connection.has_answered();
        }
        self.deliver(now, key, segment, egress);
        let opened = self
            .connections
            .get(key)
            .is_some_and(|connection| connection.announced || connection.owner != owner);
        if !opened && self.connections.get(key).is_some() {
            self.abort(key, egress);
        }
    }

    /// A SYN to a transparent stack.
    pub(super) fn arrive(&mut self, now: Instant, syn: &Segment<'_>) {
        if let Some((oldest, incoming)) = self.incoming.evict() {
            self.counters.incoming_evicted += 1;
            self.timers.disarm(incoming.armed, Due::Incoming(oldest));
            self.table.remove(&incoming.tuple);
            // Both queues are in order of age.
            if self.arrivals.front() == Some(&oldest) {
                self.arrivals.pop_front();
            }
        }
        let armed = now + self.limits.incoming;
        let incoming = Incoming {
            tuple: syn.tuple,
            syn: syn.to_kept_packet(),
            sequence: syn.seq(),
            announced: false,
            armed,
        };
        if let Some(key) = self.incoming.insert(incoming) {
            self.timers.arm(armed, Due::Incoming(key));
            self.table.insert(syn.tuple, Holder::Incoming(key));
            self.arrivals.push_back(key);
        }
    }

    /// Takes the request out of the table.
    pub(super) fn forget_incoming(&mut self, key: Key) -> Option<Incoming> {
        let incoming = self.incoming.remove(key)?;
        self.timers.disarm(incoming.armed, Due::Incoming(key));
        self.table.remove(&incoming.tuple);
        if !incoming.announced {
            self.arrivals.retain(|other| *other != key);
        }
        Some(incoming)
    }

    pub(crate) fn accept_incoming(
        &mut self,
        now: Instant,
        id: TcpIncomingId,
        options: TcpOptions,
        egress: &mut Egress,
    ) -> Result<TcpHandle, TcpConnectError> {
        if self.connections.is_full() {
            return Err(TcpConnectError::TooManyConnections);
        }
        if !self.budget.fits() {
            return Err(TcpConnectError::OutOfMemory);
        }
        let incoming = self
            .forget_incoming(id.0)
            .ok_or(TcpConnectError::Withdrawn)?;
        let passive = Passive {
            tuple: incoming.tuple,
            syn: &incoming.syn,
            initial: self.initial_sequence(),
            windows: self.windows(),
        };
        let key = self.insert_passive(now, &passive, options, Owner::Handle, egress)?;
        self.schedule(now, key);
        Ok(TcpHandle(key))
    }

    /// Returns whether the request was still there.
    pub(crate) fn reject_incoming(&mut self, id: TcpIncomingId, egress: &mut Egress) -> bool {
        let Some(incoming) = self.forget_incoming(id.0) else {
            return false;
        };
        let passive = Passive {
            tuple: incoming.tuple,
            syn: &incoming.syn,
            initial: Seq::default(),
            windows: self.windows(),
        };
        if let Some(syn) = passive.segment() {
            self.counters.resets_out += 1;
            self.send(&incoming.tuple, &super::Reply::reset(&syn), egress);
        }
        true
    }

    /// Returns whether the request was still there.
    pub(crate) fn drop_incoming(&mut self, id: TcpIncomingId) -> bool {
        self.forget_incoming(id.0).is_some()
    }

    /// The SYN of a request that waits, as a packet.
    pub(crate) fn incoming_packet(&self, id: TcpIncomingId) -> Option<&[u8]> {
        self.incoming
            .get(id.0)
            .map(|incoming| incoming.syn.as_slice())
    }
}

/// A connection to be, of a peer that has sent a SYN.
struct Passive<'a> {
    tuple: Tuple,
    syn: &'a [u8],
    initial: Seq,
    windows: Windows,
}

impl Passive<'_> {
    fn segment(&self) -> Option<Segment<'_>> {
        let header = match self.tuple.remote {
            SocketAddr::V4(_) => v4::HEADER_LEN,
            SocketAddr::V6(_) => v6::HEADER_LEN,
        };
        let pair = crate::ip::Pair::new(self.tuple.remote.ip(), self.tuple.local.ip())?;
        Segment::parse(pair, self.syn.get(header..)?)
    }
}
