//! TCP: connections end in a stack of the tunnel's own and are continued by the host.
//!
//! The stack stands for all hosts. Its answer to a request waits until the host has connected, so that a client learns
//! of refusals. Then bytes are copied both ways, from buffer to buffer: nothing is read from one side that the other
//! has no room for (but for one piece), so the window of the faster side closes.

mod link;
mod stacks;

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use slab::Slab;
use tsc_eip::{Event, TcpIncoming, TcpIncomingId, TcpOptions};
use tsc_tpl::{IpPacket, Limits};

use self::link::{Link, Progress};
use self::stacks::{Inner, Stacks};
use super::ports::Random;
use super::reactor::Name;
use super::udp::{World, no_socket};
use super::{UserSpaceCounters, count};
use crate::config::UserSpaceConfig;
use crate::icmp::Complaint;

/// Connections that one turn looks at.
const CONNECTIONS_PER_TURN: usize = 256;

/// Packets that one tunnel is given in a row: what its send queue holds without loss.
const PACKETS_IN_A_ROW: usize = 32;

/// Packets that all tunnels together are given in one turn.
const PACKETS_PER_TURN: usize = 512;

/// See the module.
#[derive(Debug)]
pub(super) struct Tcp {
    connections: Slab<Connection>,
    stacks: Stacks,
    /// A connection is asked at its deadline whether it was used since.
    deadlines: BTreeSet<(Instant, usize)>,
    /// Connections to be looked at, at most once each.
    backlog: VecDeque<usize>,
    /// What is copied passes through here.
    buffer: Vec<u8>,
    per_tunnel: usize,
    total: usize,
    timeout: Duration,
    connect_timeout: Duration,
    connect: fn(SocketAddr) -> io::Result<TcpStream>,
}

/// A connection of a tunnel.
#[derive(Debug)]
struct Connection {
    tunnel: usize,
    stream: TcpStream,
    state: State,
    listed: bool,
    /// When something last happened.
    used: Instant,
    /// The entry in the queue of deadlines.
    armed: Instant,
}

#[derive(Debug)]
enum State {
    /// The host connects; the tunnel's request waits.
    Connecting(TcpIncomingId),
    /// Both sides are connected.
    Open(Link),
}

impl Tcp {
    pub(super) fn new(
        config: &UserSpaceConfig,
        workers: usize,
        total: usize,
        random: &mut Random,
    ) -> Self {
        Self {
            connections: Slab::new(),
            stacks: Stacks::new(config, workers, random.next()),
            deadlines: BTreeSet::new(),
            backlog: VecDeque::new(),
            buffer: vec![0; link::PIECE],
            per_tunnel: count(config.tcp_connections_per_tunnel),
            total,
            timeout: config.tcp_timeout,
            connect_timeout: config.tcp_connect_timeout,
            connect: TcpStream::connect,
        }
    }

    /// Takes a whole TCP packet of a tunnel. Requests for connections are to destinations that may be reached.
    pub(super) fn handle_packet<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        tunnel: usize,
        packet: &IpPacket<'_>,
        world: &mut World<'_, S>,
    ) {
        let mtu = world.tunnels.get(tunnel).map_or(0, |tunnel| tunnel.mtu);
        let Some(inner) = self.stacks.get_or_open(tunnel, mtu) else {
            return;
        };
        inner.stack.handle_packet(now, packet.as_bytes());
        self.stacks.touch(tunnel);
        while let Some(event) = self.event(tunnel) {
            if let Event::TcpIncoming(incoming) = event {
                self.incoming(now, tunnel, &incoming, world);
            } else {
                self.stack_event(now, tunnel, &event, world.counters);
            }
        }
    }

    fn event(&mut self, tunnel: usize) -> Option<Event> {
        self.stacks.get_mut(tunnel)?.stack.poll_event()
    }

    /// A tunnel asks for a connection.
    fn incoming<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        tunnel: usize,
        incoming: &TcpIncoming,
        world: &mut World<'_, S>,
    ) {
        let counters = &mut *world.counters;
        let held = self
            .stacks
            .get_mut(tunnel)
            .map_or(0, |inner| inner.held.len());
        if held >= self.per_tunnel {
            counters.tcp_tunnel_full += 1;
        } else if self.connections.len() >= self.total || self.stacks.is_full() {
            counters.tcp_full += 1;
        } else {
            if let Err(error) = self.connect(now, tunnel, incoming, world) {
                self.failed(now, tunnel, incoming.id, &error, world);
            }
            return;
        }
        self.complain(now, tunnel, incoming.id, Complaint::Prohibited, world);
    }

    fn connect<S>(
        &mut self,
        now: Instant,
        tunnel: usize,
        incoming: &TcpIncoming,
        world: &World<'_, S>,
    ) -> io::Result<()> {
        let mut stream = (self.connect)(incoming.local)?;
        let name = Name::Tcp(self.connections.vacant_key());
        world.reactor.watch(&mut stream, name)?;
        let armed = now + self.connect_timeout;
        let slot = self.connections.insert(Connection {
            tunnel,
            stream,
            state: State::Connecting(incoming.id),
            listed: false,
            used: now,
            armed,
        });
        self.deadlines.insert((armed, slot));
        if let Some(inner) = self.stacks.get_mut(tunnel) {
            inner.held.insert(slot);
        }
        Ok(())
    }

    /// The host could not connect.
    fn failed<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        tunnel: usize,
        id: TcpIncomingId,
        error: &io::Error,
        world: &mut World<'_, S>,
    ) {
        world.counters.tcp_failed += 1;
        #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
        let complaint = match error.kind() {
            io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown => Complaint::Unreachable,
            io::ErrorKind::PermissionDenied => Complaint::Prohibited,
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => {
                if let Some(inner) = self.stacks.get_mut(tunnel) {
                    inner.stack.tcp_incoming_reject(now, id);
                }
                self.stacks.touch(tunnel);
                return;
            }
            _ => {
                world.counters.tcp_no_socket += 1;
                tracing::debug!(%error, "no socket for a TCP connection");
                no_socket(error)
            }
        };
        self.complain(now, tunnel, id, complaint, world);
    }

    /// Answers a request with an ICMP error.
    fn complain<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        tunnel: usize,
        id: TcpIncomingId,
        complaint: Complaint,
        world: &mut World<'_, S>,
    ) {
        let Some(inner) = self.stacks.get_mut(tunnel) else {
            return;
        };
        let syn = inner.stack.tcp_incoming_packet(id).unwrap_or_default();
        if let Ok(packet) = IpPacket::decode(syn, &Limits::new(u16::MAX)) {
            let (tunnels, counters) = (&mut *world.tunnels, &mut *world.counters);
            world
                .errors
                .tell(now, tunnels, tunnel, &packet, complaint, counters);
        }
        inner.stack.tcp_incoming_drop(id);
        self.stacks.touch(tunnel);
    }

    /// What the stack tells about connections that there are.
    fn stack_event(
        &mut self,
        now: Instant,
        tunnel: usize,
        event: &Event,
        counters: &mut UserSpaceCounters,
    ) {
        // Requests come with packets only, and are answered there; the rest is not asked for.
        let (Event::TcpConnected(handle)
        | Event::TcpReadable(handle)
        | Event::TcpWritable(handle)
        | Event::TcpFailed(handle, _)) = event
        else {
            return;
        };
        let slot = self
            .stacks
            .get_mut(tunnel)
            .and_then(|inner| inner.handles.get(handle).copied());
        if let Some(slot) = slot {
            self.advance(now, slot, counters);
        }
    }

    /// The host's socket of this slot has something to say.
    pub(super) fn ready(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot) {
            if let State::Open(link) = &mut connection.state {
                link.ready();
            }
            self.list(slot);
        }
    }

    fn list(&mut self, slot: usize) {
        if let Some(connection) = self.connections.get_mut(slot)
            && !std::mem::replace(&mut connection.listed, true)
        {
            self.backlog.push_back(slot);
        }
    }

    /// Looks at connections that are ready, and gives the packets of their tunnels. True if there is more.
    pub(super) fn run<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        world: &mut World<'_, S>,
        sink: &mut impl FnMut(S, &[u8]),
    ) -> bool {
        for _ in 0..CONNECTIONS_PER_TURN.min(self.backlog.len()) {
            let Some(slot) = self.backlog.pop_front() else {
                break;
            };
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            connection.listed = false;
            if matches!(connection.state, State::Connecting(_)) {
                self.connected(now, slot, world);
            } else {
                self.advance(now, slot, world.counters);
            }
        }
        let mut budget = PACKETS_PER_TURN;
        for _ in 0..self.stacks.touched() {
            if budget == 0 {
                break;
            }
            let Some(tunnel) = self.stacks.next_touched() else {
                break;
            };
            while let Some(event) = self.event(tunnel) {
                self.stack_event(now, tunnel, &event, world.counters);
            }
            let Some(name) = world.tunnels.get(tunnel).map(|tunnel| tunnel.name) else {
                continue;
            };
            let most = budget.min(PACKETS_IN_A_ROW);
            budget -= self
                .stacks
                .transmit(tunnel, most, |packet| sink(name, packet));
        }
        !self.backlog.is_empty() || self.stacks.touched() > 0
    }

    /// Looks whether the host has connected.
    fn connected<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        slot: usize,
        world: &mut World<'_, S>,
    ) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let State::Connecting(id) = connection.state else {
            return;
        };
        let tunnel = connection.tunnel;
        let error = match connection.stream.take_error() {
            Ok(Some(error)) | Err(error) => Some(error),
            Ok(None) => match connection.stream.peer_addr() {
                Ok(_) => None,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => Some(error),
            },
        };
        if let Some(error) = error {
            self.remove(slot);
            return self.failed(now, tunnel, id, &error, world);
        }
        // Whole messages are written at once on the other side, too. Without it things are slower only.
        let _slower = connection.stream.set_nodelay(true);
        let Some(inner) = self.stacks.get_mut(tunnel) else {
            return;
        };
        match inner
            .stack
            .tcp_incoming_accept(now, id, TcpOptions::default())
        {
            Ok(handle) => {
                world.counters.tcp_opened += 1;
                connection.used = now;
                connection.state = State::Open(Link::new(handle));
                inner.handles.insert(handle, slot);
                self.advance(now, slot, world.counters);
            }
            Err(error) => {
                tracing::debug!(%error, "a TCP connection is not wanted any more");
                world.counters.tcp_failed += 1;
                inner.stack.tcp_incoming_reject(now, id);
                self.reset(slot);
            }
        }
        self.stacks.touch(tunnel);
    }

    /// Copies what can be copied.
    fn advance(&mut self, now: Instant, slot: usize, counters: &mut UserSpaceCounters) {
        let Some(connection) = self.connections.get_mut(slot) else {
            return;
        };
        let tunnel = connection.tunnel;
        let Some(inner) = self.stacks.get_mut(tunnel) else {
            return;
        };
        let State::Open(link) = &mut connection.state else {
            return;
        };
        let handle = link.handle();
        let copied = link.copy(
            now,
            &mut inner.stack,
            &mut connection.stream,
            &mut self.buffer,
        );
        counters.tcp_sent_bytes += copied.sent;
        counters.tcp_received_bytes += copied.received;
        if copied.sent + copied.received > 0 {
            connection.used = now;
        }
        match copied.progress {
            Progress::Waiting => {}
            Progress::More => self.list(slot),
            Progress::Ended => {
                inner.stack.tcp_close(now, handle);
                self.remove(slot);
            }
            Progress::Failed => {
                counters.tcp_reset += 1;
                inner.stack.tcp_abort(now, handle);
                self.reset(slot);
            }
        }
        self.stacks.touch(tunnel);
    }

    /// Takes a connection out; its socket closes.
    fn remove(&mut self, slot: usize) -> Option<Connection> {
        let connection = self.connections.try_remove(slot)?;
        self.deadlines.remove(&(connection.armed, slot));
        if let Some(inner) = self.stacks.get_mut(connection.tunnel) {
            inner.held.remove(&slot);
            if let State::Open(link) = &connection.state {
                inner.handles.remove(&link.handle());
            }
        }
        Some(connection)
    }

    /// As [`Self::remove`], and the host's peer learns that it was no orderly end.
    fn reset(&mut self, slot: usize) {
        if let Some(connection) = self.remove(slot) {
            link::close_by_reset(&connection.stream);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let connections = self.deadlines.first().map(|(due, _)| *due);
        [connections, self.stacks.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Gives up what has taken too long; packets come out of [`Self::run`].
    pub(super) fn handle_timeout<S: Copy + Eq + Hash>(
        &mut self,
        now: Instant,
        world: &mut World<'_, S>,
    ) {
        self.stacks.handle_timeout(now);
        while let Some(&(armed, slot)) = self.deadlines.first().filter(|(armed, _)| *armed <= now) {
            self.deadlines.remove(&(armed, slot));
            let Some(connection) = self.connections.get_mut(slot) else {
                continue;
            };
            let (tunnel, patience) = match connection.state {
                State::Connecting(_) => (connection.tunnel, self.connect_timeout),
                State::Open(_) => (connection.tunnel, self.timeout),
            };
            let due = connection.used + patience;
            if due > now {
                connection.armed = due;
                self.deadlines.insert((due, slot));
                continue;
            }
            match &connection.state {
                State::Connecting(id) => {
                    let id = *id;
                    self.remove(slot);
                    let error = io::ErrorKind::TimedOut.into();
                    self.failed(now, tunnel, id, &error, world);
                }
                State::Open(link) => {
                    let handle = link.handle();
                    world.counters.tcp_timed_out += 1;
                    if let Some(inner) = self.stacks.get_mut(tunnel) {
                        inner.stack.tcp_abort(now, handle);
                    }
                    self.reset(slot);
                    self.stacks.touch(tunnel);
                }
            }
        }
    }

    /// Ends all connections of a tunnel; hosts see resets.
    pub(super) fn end(&mut self, tunnel: usize) {
        let held = match self.stacks.get_mut(tunnel) {
            Some(Inner { held, .. }) => std::mem::take(held),
            None => return,
        };
        for slot in held {
            self.reset(slot);
        }
        self.stacks.close(tunnel);
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Bytes reserved for buffers.
    pub(super) fn reserved(&self) -> usize {
        self.stacks.reserved()
    }

    /// Lets tests send connections elsewhere.
    #[cfg(test)]
    pub(super) fn connect_by(&mut self, connect: fn(SocketAddr) -> io::Result<TcpStream>) {
        self.connect = connect;
    }
}
