//! TCP connections (RFC 9293) on smoltcp's state machine, one socket at a time.
//!
//! smoltcp's own set of sockets is searched for each packet. Here a table of ours finds the one
//! connection that a packet is about, a queue of deadlines the one that is due, and a queue of
//! ready connections the one whose turn it is to transmit; smoltcp is shown that one only. What it
//! is too lax about is judged before it sees a segment ([`connection`]). `docs/inner-tcp.md` tells
//! the whole design.

mod aged;
mod budget;
mod connection;
mod engine;
mod events;
mod input;
mod listener;
mod opening;
mod segment;
mod sent;
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

use smoltcp::socket::tcp::State;
use tracing::trace;

use aged::Aged;
use budget::Budget;
use connection::{Connection, Owner};
use engine::Engine;
use listener::Listener;
use opening::Incoming;
use segment::Reply;
pub(crate) use segment::{Segment, Tuple};
use table::{Holder, Table};
use timers::{Due, Timers};
use turns::Turns;
pub use types::{TcpHandle, TcpIncoming, TcpIncomingId, TcpListenHandle, TcpOptions, TcpState};
use wait::TimeWait;

use crate::config::StackConfig;
use crate::egress::Egress;
use crate::error::TcpError;
use crate::icmp::RateLimit;
use crate::ports::Demux;
use crate::random::Prf;
use crate::slots::{Key, Slots};
use crate::stats::TcpStats;

/// Segments that a connection sends before it is the next one's turn.
const BURST: usize = 16;

/// If smoltcp says "at once" and then does nothing, it is asked again after this.
const PATIENCE: Duration = Duration::from_millis(10);

/// All connections and listeners of a stack.
#[derive(Debug)]
pub(crate) struct Tcp {
    engine: Engine,
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
    budget: Budget,
    limits: Limits,
    ephemeral: RangeInclusive<u16>,
    random: Prf,
    resets: RateLimit,
    /// Space for packets rewritten for smoltcp; grows once, to at most 64 KiB.
    scratch: Vec<u8>,
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
            engine: Engine::new(config.mtu),
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
            budget: Budget::new(
                config.tcp_total_bytes,
                config.tcp_buffer_bytes,
                config.tcp_connections,
            ),
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
            scratch: Vec::new(),
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
        self.budget.used()
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

    fn take_turn(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.attached {
            return;
        }
        for _ in 0..BURST {
            let Some(mut packet) =
                self.engine
                    .transmit(now, &mut connection.group, &connection.tuple, egress)
            else {
                break;
            };
            connection.mend(&mut packet);
            self.counters.segments_out += 1;
            self.out.push_back((connection.tuple.remote.ip(), packet));
        }
        let idle = self.out.is_empty();
        self.settle(now, key, false, egress);
        if idle {
            self.not_before(now, key);
        }
    }

    /// Guards against a connection that always says "at once" and never sends.
    fn not_before(&mut self, now: Instant, key: Key) {
        // It has just been put at the end.
        if self.ready.unpush(key) {
            self.arm(key, now + PATIENCE);
        }
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
        if connection.patience().is_some_and(|until| until <= now) {
            trace!(tuple = ?connection.tuple, "the peer is silent");
            self.counters.timed_out += 1;
            self.send_reset(now, key, egress);
            self.fail(key, TcpError::TimedOut);
        } else {
            self.schedule(now, key);
        }
    }

    /// Follows what smoltcp has made of the last input; `heard` says that it came from the peer.
    fn settle(&mut self, now: Instant, key: Key, heard: bool, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.attached {
            return;
        }
        connection.note_state();
        let open = matches!(connection.state(), State::Established | State::CloseWait);
        if connection.fin_deferred && connection.may_send_fin() {
            connection.fin_deferred = false;
            connection.group.socket_mut().close();
        }
        // Nobody will read what comes: the peer shall know (RFC 2525, section 2.17).
        if connection.owner == Owner::Nobody && connection.group.socket().recv_queue() > 0 {
            self.send_reset(now, key, egress);
            return self.detach(key);
        }
        connection.update_waiting(now, heard);
        let state = connection.state();
        if open && !connection.announced {
            self.announce(key);
        }
        match state {
            State::TimeWait => self.wait(now, key, egress),
            // The peer has acknowledged our FIN after its own.
            State::Closed => self.detach(key),
            State::Listen
            | State::SynSent
            | State::SynReceived
            | State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => self.schedule(now, key),
        }
        self.signal(key);
    }

    /// Finds out when the connection has something to do next.
    fn schedule(&mut self, now: Instant, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let mut next = connection.patience();
        match self.engine.poll_at(now, &connection.group) {
            Some(at) if at <= now => self.ready.push(key),
            Some(at) => next = Some(next.map_or(at, |next| next.min(at))),
            None => {}
        }
        if let Some(at) = next {
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
        let Some(connection) = self.connections.get(key) else {
            return;
        };
        let (tuple, last) = (connection.tuple, connection.final_acknowledgement());
        self.detach(key);
        let Some(last) = last else { return };
        // smoltcp would have acknowledged the FIN in its next turn.
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

    /// Takes a connection off the network. What it has received can still be read.
    fn detach(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if connection.attached {
            connection.attached = false;
            let tuple = connection.tuple;
            if let Some(armed) = connection.armed.take() {
                self.timers.disarm(armed, Due::Connection(key));
            }
            if self.table.get(&tuple) == Some(Holder::Connection(key)) {
                self.table.remove(&tuple);
            }
        }
        if connection.owner == Owner::Nobody {
            self.forget(key);
        }
    }

    /// Frees a connection that is off the network and that nobody holds.
    fn forget(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(key) {
            self.budget.release(connection.capacity);
        }
    }

    /// Tells the peer that the connection is over, if there is a peer who knows of it.
    fn send_reset(&mut self, now: Instant, key: Key, egress: &mut Egress) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        if !connection.attached || connection.state() == State::SynSent {
            return;
        }
        connection.group.socket_mut().abort();
        let packet = self
            .engine
            .transmit(now, &mut connection.group, &connection.tuple, egress);
        if let Some(mut packet) = packet {
            connection.mend(&mut packet);
            self.counters.resets_out += 1;
            let remote = connection.tuple.remote.ip();
            self.push(remote, packet, egress);
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
