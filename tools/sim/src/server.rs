//! A server and its end of the transports.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_csm::server::{
    BadUnit, BindingId, BindingLoss, Destination, DropReason, Event, Identity, InterfaceConfig,
    ListenerId, MAX_WAYS, Server, ServerConfig, ServerConfigError, SessionId, Spread, Stats,
    Unbound, Verdict, Work,
};
use tsc_csm::{Alternate, Transport};
use tsc_tpl::{CmType, Limits, Sequence, StreamDecoder, Tsid, Unit};

use crate::client::describe;
use crate::conn::Item;
use crate::peers::Leg;
use crate::rng::Rng;
use crate::watch::Watch;
use crate::world::{ClientId, ConnId, Pending, ServerId, World};

/// What is told to a server beside its configuration.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// Names in the certificates that clients show on TLS and DTLS, by the client's number.
    pub certificates: BTreeMap<usize, String>,
}

/// A server machine and what it has seen.
#[derive(Debug)]
pub(crate) struct ServerNode {
    pub(crate) core: Server,
    /// What its interface offers now.
    interface: InterfaceConfig,
    pub(crate) address: IpAddr,
    pub(crate) is_up: bool,
    pub(crate) conns: BTreeMap<BindingId, ConnId>,
    listener: ListenerId,
    setup: Setup,
    watch: Watch,
    events: Vec<(Duration, Event)>,
    verdicts: Vec<(Duration, Verdict)>,
    /// Inner packets for which there was no tunnel, or none with a transport.
    undeliverable: u64,
}

/// Most verdicts other than forwards that are kept.
const KEPT_VERDICTS: usize = 10_000;

impl ServerNode {
    pub(crate) fn new(
        seed: u64,
        number: usize,
        mut config: ServerConfig,
        setup: Setup,
        now: Instant,
        rng: Rng,
    ) -> Self {
        let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
        let address = IpAddr::from([203, 0, 113, last]);
        let watch = Watch::new(seed, config.quarantine);
        for interface in &mut config.interfaces {
            let listens = |transport| Alternate {
                transport,
                address: SocketAddr::new(address, port_of(transport)),
            };
            interface.endpoints = Transport::ALL.map(listens).to_vec();
        }
        let interface = config.interfaces[0].clone();
        let server = Server::new(config, now, Box::new(rng));
        let mut core = server.unwrap_or_else(|error| panic!("server {number}: {error}"));
        let listener = core.add_listener(0, SocketAddr::new(address, 5060));
        let listener = listener.unwrap_or_else(|| panic!("server {number}: no interface"));
        Self {
            core,
            interface,
            address,
            is_up: true,
            conns: BTreeMap::new(),
            listener,
            setup,
            watch,
            events: Vec::new(),
            verdicts: Vec::new(),
            undeliverable: 0,
        }
    }

    /// Where it listens for a transport.
    pub(crate) fn local(&self, transport: Transport) -> SocketAddr {
        SocketAddr::new(self.address, port_of(transport))
    }

    pub(crate) fn identity_of(&self, client: usize, transport: Transport) -> Option<Identity> {
        let name = self
            .setup
            .certificates
            .get(&client)
            .filter(|_| transport.is_protected())?;
        Some(Identity::new(name.as_str()))
    }
}

const fn port_of(transport: Transport) -> u16 {
    if transport.is_protected() { 5061 } else { 5060 }
}

impl World {
    /// The server machine, to be asked.
    #[must_use]
    pub fn server(&self, server: ServerId) -> &Server {
        &self.servers[server.0].core
    }

    /// A server's counters.
    #[must_use]
    pub fn server_stats(&self, server: ServerId) -> Stats {
        self.servers[server.0].core.stats()
    }

    /// What a server has told so far, with the time of each event.
    #[must_use]
    pub fn server_events(&self, server: ServerId) -> &[(Duration, Event)] {
        &self.servers[server.0].events
    }

    /// What a server did with units, forwarded packets apart, with the time of each.
    pub fn verdicts(&self, server: ServerId) -> &[(Duration, Verdict)] {
        &self.servers[server.0].verdicts
    }

    /// Whether a server dropped a unit for this reason.
    #[must_use]
    pub fn dropped(&self, server: ServerId, reason: DropReason) -> bool {
        self.verdicts(server)
            .iter()
            .any(|(_, verdict)| *verdict == Verdict::Dropped(reason))
    }

    /// Inner packets that a server could not pass on.
    #[must_use]
    pub fn undeliverable(&self, server: ServerId) -> u64 {
        self.servers[server.0].undeliverable
    }

    /// The tunnel that a server has under this name.
    #[must_use]
    pub fn session(&self, server: ServerId, tsid: Tsid) -> Option<SessionId> {
        let mut found = None;
        for (_, event) in &self.servers[server.0].events {
            match event {
                Event::SessionUp {
                    session, tsid: up, ..
                } if *up == tsid => found = Some(*session),
                Event::SessionDown { tsid: down, .. } if *down == tsid => found = None,
                _ => {}
            }
        }
        found
    }

    /// Begins a graceful stop.
    pub fn stop_server(&mut self, server: ServerId, text: &str) {
        self.servers[server.0]
            .core
            .release_all(self.now, Some(text));
        self.drain_server(server.0);
    }

    /// Begins or ends draining.
    pub fn set_draining(&mut self, server: ServerId, draining: bool) {
        self.servers[server.0].core.set_draining(draining);
    }

    /// Changes what a server's new tunnels are offered.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn change_offers(
        &mut self,
        server: ServerId,
        change: impl FnOnce(&mut InterfaceConfig),
    ) -> Result<(), ServerConfigError> {
        let node = &mut self.servers[server.0];
        let mut interface = node.interface.clone();
        change(&mut interface);
        node.core.change_offers(0, &interface)?;
        node.interface = interface;
        Ok(())
    }

    /// Lets a server release one tunnel.
    pub fn release_session(&mut self, server: ServerId, session: SessionId, text: Option<&str>) {
        self.servers[server.0].core.release(self.now, session, text);
        self.drain_server(server.0);
    }

    /// Tells a server what its worker has done and rested since its start; see [`Server::note_work`].
    pub fn note_work(&mut self, server: ServerId, work: Work) -> Option<bool> {
        self.servers[server.0].core.note_work(self.now, work)
    }

    /// Replaces a server by a new one that remembers nothing; its streams break.
    pub fn restart_server(&mut self, server: ServerId, config: ServerConfig) {
        let rng = self.rng.fork();
        let setup = self.servers[server.0].setup.clone();
        self.servers[server.0] = ServerNode::new(self.seed, server.0, config, setup, self.now, rng);
        let broken: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| conn.server == server.0 && conn.transport != Transport::Udp)
            .map(|(id, _)| *id)
            .collect();
        for conn in broken {
            // Bindings of the old server mean nothing to the new one.
            if let Some(conn) = self.conns.get_mut(&conn) {
                conn.binding = None;
            }
            self.break_conn(conn);
        }
    }

    /// Turns a server off (nothing answers any more, in silence) or on again, with all that it knew.
    pub fn set_server_up(&mut self, server: ServerId, up: bool) {
        self.servers[server.0].is_up = up;
    }

    /// Sends bytes from any address to a server's plain UDP socket, as anyone on the Internet can.
    pub fn stranger(&mut self, server: ServerId, from: SocketAddr, bytes: Vec<u8>) {
        let now = self.now;
        self.schedule(
            now,
            Pending::Stranger {
                server: server.0,
                from,
                bytes: bytes.into(),
            },
        );
    }

    /// A datagram arrives at the plain UDP socket.
    pub(crate) fn stranger_at_server(&mut self, number: usize, from: SocketAddr, bytes: &[u8]) {
        let (now, elapsed) = (self.now, self.elapsed());
        let server = &mut self.servers[number];
        if !server.is_up {
            return;
        }
        if let Some(binding) = server.core.lookup(server.listener, from) {
            return self.datagram_of_binding(number, binding, bytes);
        }
        let verdict = match server
            .core
            .handle_unbound(now, server.listener, from, bytes)
        {
            Unbound::Dropped(reason) => Verdict::Dropped(reason),
            Unbound::Answered | Unbound::Bound(_) => Verdict::Consumed,
            Unbound::Elsewhere(shard) => Verdict::Elsewhere(shard),
        };
        server.verdicts.push((elapsed, verdict));
        self.drain_server(number);
    }

    /// A DTLS record arrives. Without connection IDs the association is known by its address only.
    pub(crate) fn record_at_server(&mut self, id: ConnId, from: SocketAddr, bytes: &[u8]) {
        let Some(conn) = self.conns.get(&id).filter(|conn| conn.public == from) else {
            return;
        };
        let number = conn.server;
        if let Some(binding) = conn.binding.filter(|_| self.servers[number].is_up) {
            self.datagram_of_binding(number, binding, bytes);
        }
    }

    fn datagram_of_binding(&mut self, number: usize, binding: BindingId, bytes: &[u8]) {
        let verdict = match Unit::decode_datagram(bytes, &Limits::default()) {
            Ok(unit) => self.unit_at_server(number, binding, &unit),
            Err(error) => {
                let bad = BadUnit::Datagram(error);
                self.servers[number]
                    .core
                    .handle_bad_unit(self.now, binding, bad)
            }
        };
        self.keep(number, verdict);
        self.drain_server(number);
    }

    /// A piece of a stream arrives at its server.
    pub(crate) fn stream_at_server(&mut self, id: ConnId, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let number = conn.server;
        let Some(binding) = conn.binding.filter(|_| self.servers[number].is_up) else {
            return;
        };
        let fresh = StreamDecoder::new(Limits::default());
        let mut decoder = std::mem::replace(&mut conn.server_decoder, fresh);
        let mut feed = decoder.feed(bytes);
        loop {
            let verdict = match feed.next() {
                Ok(Some(unit)) => self.unit_at_server(number, binding, &unit),
                Ok(None) => break,
                Err(error) => {
                    let bad = BadUnit::Framing(error);
                    self.servers[number]
                        .core
                        .handle_bad_unit(self.now, binding, bad)
                }
            };
            self.keep(number, verdict);
            if matches!(verdict, Verdict::Close(_)) {
                break;
            }
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.server_decoder = decoder;
        }
        self.drain_server(number);
    }

    fn unit_at_server(&mut self, number: usize, binding: BindingId, unit: &Unit<'_>) -> Verdict {
        let now = self.now;
        let verdict = self.servers[number].core.handle_unit(now, binding, unit);
        match (unit, verdict) {
            (Unit::Ip(packet), Verdict::Forward(_)) => {
                self.forward(number, packet.destination(), packet.as_bytes());
            }
            (Unit::Redundancy(frame), Verdict::ForwardFrame(_, fresh)) => {
                for packet in fresh.packets(frame) {
                    self.forward(number, packet.destination(), packet.as_bytes());
                }
            }
            (Unit::Control(request), verdict) => {
                let sent = self.drain_server(number);
                self.servers[number].watch.answered(request, verdict, &sent);
            }
            _ => {}
        }
        verdict
    }

    /// What the switch of a server does: the route, the binding, the transport.
    fn forward(&mut self, number: usize, destination: IpAddr, packet: &[u8]) {
        let server = &mut self.servers[number];
        let session = server.core.route(destination);
        let (now, mut frame) = (self.now, Vec::new());
        let outgoing =
            session.and_then(|session| server.core.outgoing(now, session, packet, &mut frame));
        let Some(outgoing) = outgoing else {
            server.undeliverable += 1;
            return;
        };
        let unit = Bytes::from(if outgoing.framed {
            frame
        } else {
            packet.to_vec()
        });
        let ways = match outgoing.spread {
            Spread::All => MAX_WAYS,
            Spread::One => 1,
        };
        for binding in outgoing.bindings().take(ways) {
            match self.servers[number].core.destination_of(binding) {
                Some(to) => self.server_send(number, to, unit.clone()),
                None => self.servers[number].undeliverable += 1,
            }
        }
    }

    fn keep(&mut self, number: usize, verdict: Verdict) {
        let elapsed = self.elapsed();
        let verdicts = &mut self.servers[number].verdicts;
        let is_packet = matches!(verdict, Verdict::Forward(_) | Verdict::ForwardFrame(..));
        if !is_packet && verdicts.len() < KEPT_VERDICTS {
            verdicts.push((elapsed, verdict));
        }
    }

    /// Carries out what a server asks for; gives the kinds and transactions of what it sent.
    pub(crate) fn drain_server(&mut self, number: usize) -> Vec<(CmType, Sequence)> {
        let now = self.now;
        let mut sent = Vec::new();
        loop {
            while let Some(transmit) = self.servers[number].core.poll_transmit() {
                if transmit.bytes.first() == Some(&1) {
                    // STUN is no control message.
                    self.server_send(number, transmit.to, transmit.bytes);
                    continue;
                }
                self.servers[number].watch.transmit(now, &transmit.bytes);
                if let Ok(Unit::Control(message)) =
                    Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST)
                {
                    sent.push((message.header().cm_type, message.header().sequence));
                }
                self.server_send(number, transmit.to, transmit.bytes);
            }
            let Some(event) = self.servers[number].core.poll_event() else {
                return sent;
            };
            self.note(|| format!("server {number}: {event:?}"));
            self.servers[number].watch.event(now, &event);
            if let Event::CloseBinding { binding, .. } = &event
                && let Some(conn) = self.servers[number].conns.remove(binding)
            {
                self.close_from_server(conn);
            }
            let elapsed = self.elapsed();
            self.servers[number].events.push((elapsed, event));
        }
    }

    fn close_from_server(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        conn.binding = None;
        let client = conn.client;
        if conn.transport.is_stream() {
            return self.push_stream(id, false, Item::End);
        }
        for at in self.clients[client]
            .path
            .down
            .datagram(now, 50)
            .into_iter()
            .take(1)
        {
            self.schedule(at, Pending::Ended(id, false));
        }
    }

    /// Bytes from a server onto the network.
    fn server_send(&mut self, number: usize, to: Destination, bytes: Bytes) {
        let now = self.now;
        if !self.servers[number].is_up {
            return;
        }
        self.note(|| format!("server {number} > {to:?}: {}", describe(&bytes)));
        match to {
            Destination::Connection(binding) => {
                let Some(id) = self.servers[number].conns.get(&binding).copied() else {
                    return;
                };
                let Some(conn) = self.conns.get(&id) else {
                    return;
                };
                if conn.transport.is_stream() {
                    return self.push_stream(id, false, Item::Bytes(bytes));
                }
                self.datagram_down(now, number, conn.transport, conn.public, &bytes);
            }
            Destination::Udp { peer, .. } => {
                self.datagram_down(now, number, Transport::Udp, peer, &bytes)
            }
        }
    }

    fn datagram_down(
        &mut self,
        now: Instant,
        server: usize,
        transport: Transport,
        to: SocketAddr,
        bytes: &Bytes,
    ) {
        // The path is that of whoever is behind the address now.
        let inside = self
            .nats
            .iter()
            .find_map(|nat| nat.inbound(now, to))
            .unwrap_or(to);
        let Some(client) = self
            .conns
            .values()
            .find(|conn| conn.local == inside)
            .map(|conn| conn.client)
        else {
            let from = SocketAddr::new(self.servers[server].address, 5060);
            self.answer_to_socket(from, to, bytes);
            return;
        };
        let path = &mut self.clients[client].path;
        if !path.firewall.passes(transport) {
            return;
        }
        let arrivals = path.down.datagram(now, bytes.len());
        let arrivals = self.fate(Leg::Down(ClientId(client)), bytes, arrivals);
        for at in arrivals {
            self.schedule(
                at,
                Pending::Down {
                    server,
                    transport,
                    to,
                    bytes: bytes.clone(),
                },
            );
        }
    }

    /// Reports a transport as lost to the server only, as when a client vanishes.
    pub fn lose_at_server(&mut self, server: ServerId, binding: BindingId) {
        self.servers[server.0].conns.remove(&binding);
        self.servers[server.0]
            .core
            .binding_lost(self.now, binding, BindingLoss::Failed);
        self.drain_server(server.0);
    }
}
