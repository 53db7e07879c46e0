//! TCP connections (RFC 9293).
//!
//! A table finds the connection that a packet is about, a queue of deadlines the one that is due, and a queue of ready
//! connections the one whose turn it is to transmit: nothing scans connections. A connection is two
//! halves, a [`sender`] with the segments in [`flight`] and a [`receiver`], which know nothing of each other, and
//! what holds them together ([`connection`], [`arrival`], [`departure`]). `docs/inner-tcp.md` tells the whole design.

mod aged;
mod arrival;
mod budget;
mod bytes;
mod congestion;
mod connection;
mod departure;
mod events;
mod flight;
mod input;
mod listener;
mod opening;
mod receiver;
mod rtt;
mod segment;
mod sender;
mod seq;
mod stream;
mod table;
mod timers;
mod turns;
mod types;
mod wait;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use tracing::trace;

use aged::Aged;
use budget::Budget;
use connection::{Connection, Owner};
use listener::Listener;
use opening::Incoming;
use segment::Reply;
pub(crate) use segment::{Segment, Tuple};
use table::{Holder, Table};
use timers::{Due, Timers};
use turns::Turns;
pub use types::{TcpHandle, TcpIncoming, TcpIncomingId, TcpListenHandle, TcpOptions, TcpState};
use wait::TimeWait;

use crate::addresses::Addresses;
use crate::config::StackConfig;
use crate::egress::Egress;
use crate::error::TcpError;
use crate::icmp::RateLimit;
use crate::ip::Packet;
use crate::ports::Demux;
use crate::random::Prf;
use crate::slots::{Key, Slots};
use crate::stats::TcpStats;

/// Segments that a connection sends before it is the next one's turn.
const BURST: usize = 16;

/// All connections and listeners of a stack.
#[derive(Debug)]
pub(crate) struct Tcp {
    connections: Slots<Connection>,
    listeners: Slots<Listener>,
    incoming: Aged<Incoming>,
    waits: Aged<TimeWait>,
    table: Table,
    listening: Demux,
    timers: Timers,
    /// Connections with something to transmit.
    ready: Turns,
    /// Packets that could not wait for a turn: answers and resets.
    out: VecDeque<(IpAddr, Vec<u8>)>,
    /// Connections whose owner has to be told something.
    events: Turns,
    /// Listeners with connections to be accepted.
    acceptable: Turns,
    /// Requests that the owner does not know of, at most as many as there are.
    arrivals: VecDeque<Key>,
    /// Half-open connections of all listeners.
    half_open: usize,
    /// Connections that nobody holds and that have something to bring to their peers.
    delivering: usize,
    budget: Budget,
    limits: Limits,
    ephemeral: RangeInclusive<u16>,
    random: Prf,
    resets: RateLimit,
    pub(crate) counters: TcpStats,
}

#[derive(Clone, Copy, Debug)]
struct Limits {
    out: usize,
    half_open: usize,
    time_wait: Duration,
    linger: Duration,
    incoming: Duration,
}

impl Tcp {
    pub(crate) fn new(config: &StackConfig, seed: u64) -> Self {
        let mut random = Prf::new(seed, 3);
        Self {
            connections: Slots::new(config.tcp_connections),
            listeners: Slots::new(config.tcp_listeners),
            incoming: Aged::new(config.tcp_incoming),
            waits: Aged::new(config.tcp_time_waits),
            table: Table::new(random.next()),
            listening: Demux::default(),
            timers: Timers::default(),
            ready: Turns::default(),
            out: VecDeque::new(),
            events: Turns::default(),
            acceptable: Turns::default(),
            half_open: 0,
            arrivals: VecDeque::new(),
            delivering: 0,
            budget: Budget::new(config.tcp_total_bytes, config.tcp_buffer_bytes),
            limits: Limits {
                out: config.transmit_packets,
                half_open: config.tcp_half_open,
                time_wait: config.tcp_time_wait,
                linger: config.tcp_linger,
                incoming: config.tcp_incoming_timeout,
            },
            ephemeral: config.ephemeral_ports.clone(),
            random,
            resets: RateLimit::new(config.tcp_resets_per_second),
            counters: TcpStats::default(),
        }
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    pub(crate) fn listeners(&self) -> usize {
        self.listeners.len()
    }

    pub(crate) const fn half_open(&self) -> usize {
        self.half_open
    }

    pub(crate) fn incoming(&self) -> usize {
        self.incoming.len()
    }

    pub(crate) fn time_waits(&self) -> usize {
        self.waits.len()
    }

    pub(crate) const fn buffer_bytes(&self) -> usize {
        self.budget.charged()
    }

    /// Connections that still have something to bring to their peers.
    pub(crate) const fn delivering(&self) -> usize {
        self.delivering
    }

    pub(crate) const fn set_total_bytes(&mut self, bytes: usize) {
        self.budget.set_total(bytes);
    }

    /// Whether a packet waits, or a connection may have one.
    pub(crate) fn wants_transmit(&self) -> bool {
        !self.out.is_empty() || !self.ready.is_empty()
    }

    /// The next packet and where it goes. Segments with data are made here and nowhere else, so
    /// that they never wait in a queue that could overflow: a slow tunnel slows the connections.
    pub(crate) fn poll_transmit(
        &mut self,
        now: Instant,
        egress: &mut Egress,
    ) -> Option<(IpAddr, Vec<u8>)> {
        while self.out.is_empty() {
            let index = self.ready.pop()?;
            if let Some(key) = self.connections.key_at(index) {
                self.take_turn(now, key, egress);
            }
        }
        self.out.pop_front()
    }

    /// As [`Self::poll_transmit`], of connections from one of these addresses only, and to none of the stack's own. Looks at all whose turn
    /// it is.
    pub(crate) fn take_from(
        &mut self,
        now: Instant,
        addresses: &[IpAddr],
        own: &Addresses,
        egress: &mut Egress,
    ) -> Option<Vec<u8>> {
        let is_from = |(remote, packet): &(IpAddr, Vec<u8>)| {
            let source = Packet::parse(packet)
                .ok()
                .map(|packet| packet.pair.source());
            source.is_some_and(|source| addresses.contains(&source)) && !own.contains(*remote)
        };
        loop {
            if let Some(place) = self.out.iter().position(is_from) {
                return self.out.remove(place).map(|(_, packet)| packet);
            }
            let connections = &self.connections;
            let index = self.ready.take(|index| {
                let found = connections
                    .key_at(index)
                    .and_then(|key| connections.get(key));
                found.is_some_and(|found| addresses.contains(&found.tuple.local.ip()))
            })?;
            if let Some(key) = self.connections.key_at(index) {
                self.take_turn(now, key, egress);
            }
        }
    }

    fn take_turn(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.attached {
            return;
        }
        connection.on_time(now);
        for _ in 0..BURST {
            let Some(packet) = connection.depart(now, &self.budget, egress) else {
                break;
            };
            self.counters.segments_out += 1;
            self.out.push_back((connection.tuple.remote.ip(), packet));
        }
        self.settle(now, key, false, egress);
    }

    /// When something is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant, egress: &mut Egress) {
        while let Some(due) = self.timers.pop(now) {
            match due {
                Due::Connection(key) => self.connection_due(now, key, egress),
                Due::HalfOpen(listener, key) => self.half_open_due(now, listener, key, egress),
                Due::Incoming(key) => {
                    if let Some(incoming) = self.incoming.remove(key) {
                        self.table.remove(&incoming.tuple);
                    }
                }
                Due::TimeWait(key) => {
                    if let Some(wait) = self.waits.remove(key) {
                        self.table.remove(&wait.tuple);
                    }
                }
            }
        }
    }

    fn connection_due(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.armed = None;
        if !connection.attached {
            return;
        }
        connection.on_time(now);
        if connection.patience().is_some_and(|until| until <= now) {
            trace!(tuple = ?connection.tuple, "the peer is silent");
            self.counters.timed_out += 1;
            self.send_reset(key, egress);
            self.fail(key, TcpError::TimedOut);
        } else {
            self.schedule(now, key);
        }
    }

    /// Follows what the last input has changed; `heard` says that it came from the peer.
    fn settle(&mut self, now: Instant, key: Key, heard: bool, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.attached {
            return;
        }
        let did = std::mem::take(&mut connection.sender.counters);
        self.counters.retransmissions += did.repeated;
        self.counters.retransmission_timeouts += did.time_outs;
        // Nobody will read what comes: the peer shall know (RFC 2525, section 2.17).
        if connection.owner == Owner::Nobody && connection.readable() > 0 {
            self.send_reset(key, egress);
            return self.detach(key);
        }
        connection.update_waiting(now, heard);
        self.recharge(key);
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (open, announced) = (connection.open, connection.announced);
        let (state, must_wait) = (connection.state(), connection.must_wait());
        if open && !announced {
            self.announce(key);
        }
        match state {
            TcpState::Closed if must_wait => self.wait(now, key, egress),
            // The peer has acknowledged our FIN after its own.
            TcpState::Closed => self.detach(key),
            TcpState::SynSent
            | TcpState::SynReceived
            | TcpState::Established
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::Closing
            | TcpState::LastAck => self.schedule(now, key),
        }
        self.signal(key);
    }

    /// Takes account of what a connection holds now.
    fn recharge(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let held = connection.held();
        self.budget.recharge(&mut connection.charge, held);
        let delivers = connection.owner == Owner::Nobody && connection.is_delivering();
        let did = std::mem::replace(&mut connection.counted_delivering, delivers);
        self.delivering += usize::from(delivers);
        self.delivering -= usize::from(did);
    }

    /// Finds out when the connection has something to do next.
    fn schedule(&mut self, now: Instant, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.wants_departure(now, &self.budget) {
            self.ready.push(key);
        }
        if let Some(at) = self
            .connections
            .get(key)
            .and_then(|connection| connection.due(now))
        {
            self.arm(key, at);
        }
    }

    /// A deadline that moves away keeps its old entry, which finds out when it is due: one that
    /// moves with each packet costs nothing.
    fn arm(&mut self, key: Key, at: Instant) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.armed {
            Some(armed) if armed <= at => return,
            Some(armed) => self.timers.disarm(armed, Due::Connection(key)),
            None => {}
        }
        connection.armed = Some(at);
        self.timers.arm(at, Due::Connection(key));
    }

    /// Both ends are shut down: the address stays taken for a while, the socket does not.
    fn wait(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let (tuple, last) = (connection.tuple, connection.acknowledgement());
        self.detach(key);
        let Some(last) = last else { return };
        self.send(&tuple, &last, egress);
        if let Some((oldest, wait)) = self.waits.evict() {
            self.timers.disarm(wait.armed, Due::TimeWait(oldest));
            self.table.remove(&wait.tuple);
        }
        let armed = now + self.limits.time_wait;
        if let Some(wait) = self.waits.insert(TimeWait { tuple, last, armed }) {
            self.timers.arm(armed, Due::TimeWait(wait));
            self.table.insert(tuple, Holder::TimeWait(wait));
        }
    }

    /// Ends a connection for a reason that its owner has to know.
    fn fail(&mut self, key: Key, error: TcpError) {
        self.detach(key);
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        connection.failure = Some(error);
        match connection.owner {
            Owner::Handle => {
                connection.pending.failed = true;
                self.raise(key);
            }
            Owner::Listener(listener) => {
                if let Some(listener) = self.listeners.get_mut(listener) {
                    listener.queue.retain(|waiting| *waiting != key);
                }
                self.forget(key);
            }
            Owner::Nobody => self.forget(key),
        }
    }

    /// Fails all connections from an address.
    pub(crate) fn end_at(&mut self, address: IpAddr) {
        let keys: Vec<Key> = self
            .connections
            .keys()
            .filter(|key| {
                let found = self.connections.get(*key);
                found.is_some_and(|found| found.attached && found.tuple.local.ip() == address)
            })
            .collect();
        for key in keys {
            self.fail(key, TcpError::Unreachable);
        }
    }

    /// Takes a connection off the network. What it has received can still be read.
    fn detach(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.attached {
            connection.attached = false;
            connection.sender.clear();
            let tuple = connection.tuple;
            if let Some(armed) = connection.armed.take() {
                self.timers.disarm(armed, Due::Connection(key));
            }
            if self.table.get(&tuple) == Some(Holder::Connection(key)) {
                self.table.remove(&tuple);
            }
        }
        let nobodys = connection.owner == Owner::Nobody;
        self.recharge(key);
        if nobodys {
            self.forget(key);
        }
    }

    /// Frees a connection that is off the network and that nobody holds.
    fn forget(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(key) {
            self.budget.release(connection.charge);
        }
    }

    /// Tells the peer that the connection is over, if there is a peer who knows of it.
    fn send_reset(&mut self, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (tuple, reset) = (connection.tuple, connection.reset());
        if let Some(reset) = reset.filter(|_| connection.attached) {
            self.counters.resets_out += 1;
            self.send(&tuple, &reset, egress);
        }
    }

    /// Sends a segment of our own making.
    fn send(&mut self, tuple: &Tuple, reply: &Reply, egress: &mut Egress) {
        let packet = reply.write(tuple, egress);
        self.push(tuple.remote.ip(), packet, egress);
    }

    fn push(&mut self, remote: IpAddr, packet: Vec<u8>, egress: &mut Egress) {
        if self.out.len() >= self.limits.out {
            // Peers repeat what is not answered.
            self.counters.answers_dropped += 1;
            egress.recycle(packet);
            return;
        }
        self.counters.segments_out += 1;
        self.out.push_back((remote, packet));
    }
}
