//! A client and its end of the transports.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_csm::client::{
    BadUnit, ClientConfig, DownReason, Encryption, Endpoint, Epoch, Event, Family, Inbound,
    MAX_WAYS, PeerTransmit, Placement, Redundancy, RedundancyStatus, RequestError, RequestId,
    Spread, Stats, Target, TunnelTransport,
};
use tsc_csm::{Assignment, BoxedRandom, CompanionRole, FlowKey, Prefix, Transport};
use tsc_tpl::{IpPacket, Limits, ServiceType, StreamDecoder, Unit};

use crate::conn::Item;
use crate::packet;
use crate::path::Path;
use crate::peers::Leg;
use crate::rng::Rng;
use crate::world::{ClientId, ConnId, Pending, ServerId, World};

/// A client machine and what it has seen.
#[derive(Debug)]
pub(crate) struct ClientNode {
    pub(crate) core: Family,
    pub(crate) path: Path,
    pub(crate) conns: BTreeMap<Epoch, ConnId>,
    /// What its name service says of a server; of those that are not in it the truth.
    pub(crate) directory: BTreeMap<usize, Vec<SocketAddr>>,
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) received: Vec<(Duration, Vec<u8>)>,
    pub(crate) routed: Vec<(Duration, IpAddr, Vec<u8>)>,
    pub(crate) carried: BTreeMap<Transport, Carried>,
}

/// Inner packets, and frames of them, that one kind of transport has carried for a client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Sent by the client.
    pub up: u64,
    /// Taken by the client.
    pub down: u64,
}

impl ClientNode {
    pub(crate) fn new(number: usize, config: ClientConfig, path: Path, rng: Rng) -> Self {
        let (mut main, mut companions) = (Some(rng), Rng::new(number as u64));
        let random =
            move || -> BoxedRandom { Box::new(main.take().unwrap_or_else(|| companions.fork())) };
        let core = Family::new(config, Box::new(random))
            .unwrap_or_else(|error| panic!("client {number}: {error}"));
        Self {
            core,
            path,
            conns: BTreeMap::new(),
            directory: BTreeMap::new(),
            events: Vec::new(),
            received: Vec::new(),
            routed: Vec::new(),
            carried: BTreeMap::new(),
        }
    }

    fn unit(
        &mut self,
        now: Instant,
        elapsed: Duration,
        (epoch, transport): (Epoch, Transport),
        unit: Unit<'_>,
    ) {
        let inbound = self.core.handle_unit(now, epoch, unit);
        if let Inbound::Deliver(_) | Inbound::Routed(_) | Inbound::DeliverFrame(..) = inbound {
            self.carried.entry(transport).or_default().down += 1;
        }
        match inbound {
            Inbound::Deliver(packet) => self
                .received
                .push((elapsed, packet::payload(packet.as_bytes()).to_vec())),
            Inbound::Routed(packet) => self.routed.push((
                elapsed,
                packet.destination(),
                packet::payload(packet.as_bytes()).to_vec(),
            )),
            Inbound::DeliverFrame(frame, fresh) => {
                let payload = |packet: IpPacket<'_>| packet::payload(packet.as_bytes()).to_vec();
                let packets = fresh.packets(&frame).map(payload);
                self.received
                    .extend(packets.map(|payload| (elapsed, payload)));
            }
            Inbound::Consumed | Inbound::Dropped(_) => {}
        }
    }
}

impl World {
    /// Lets a client begin.
    pub fn start(&mut self, client: ClientId) {
        self.clients[client.0].core.start(self.now);
        self.drain_client(client.0);
    }

    /// What a client has told so far, with the time of each event.
    #[must_use]
    pub fn events(&self, client: ClientId) -> &[(Duration, Event)] {
        &self.clients[client.0].events
    }

    /// The payloads that a client has received so far, with the time of each.
    #[must_use]
    pub fn received(&self, client: ClientId) -> &[(Duration, Vec<u8>)] {
        &self.clients[client.0].received
    }

    /// What has come for hosts behind a client so far: when, to which address, and the payload.
    #[must_use]
    pub fn routed(&self, client: ClientId) -> &[(Duration, IpAddr, Vec<u8>)] {
        &self.clients[client.0].routed
    }

    /// The prefixes behind a client that its server routes to it.
    #[must_use]
    pub fn routed_prefixes(&self, client: ClientId) -> &[Prefix] {
        self.clients[client.0].core.routed_prefixes()
    }

    /// What a client is assigned, while its tunnel exists.
    #[must_use]
    pub fn assignment(&self, client: ClientId) -> Option<&Assignment> {
        self.clients[client.0].core.assignment()
    }

    /// Whether a client's tunnel exists and has a transport.
    #[must_use]
    pub fn is_bound(&self, client: ClientId) -> bool {
        self.clients[client.0].core.can_send().is_some()
    }

    /// Why a client's tunnel is over, if it is.
    #[must_use]
    pub fn down_reason(&self, client: ClientId) -> Option<&DownReason> {
        match self.clients[client.0].events.last() {
            Some((_, Event::Down(reason))) => Some(reason),
            _ => None,
        }
    }

    /// The targets that a client has tried so far, with the time of each.
    #[must_use]
    pub fn attempts(&self, client: ClientId) -> Vec<(Duration, Target)> {
        let open = |(at, event): &(Duration, Event)| match event {
            Event::Open { target, .. } => Some((*at, *target)),
            _ => None,
        };
        self.clients[client.0]
            .events
            .iter()
            .filter_map(open)
            .collect()
    }

    /// A client's counters.
    #[must_use]
    pub fn client_stats(&self, client: ClientId) -> Stats {
        self.clients[client.0].core.stats()
    }

    /// Releases a client's tunnel.
    pub fn release(&mut self, client: ClientId, patience: Duration) {
        self.clients[client.0]
            .core
            .release(self.now, self.now + patience);
        self.drain_client(client.0);
    }

    /// Sets what a client's name service says of a server from now on: nothing is an error. Addresses at which no server is lead
    /// nowhere.
    pub fn set_directory(
        &mut self,
        client: ClientId,
        server: ServerId,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) {
        let addresses = addresses.into_iter().collect();
        self.clients[client.0].directory.insert(server.0, addresses);
    }

    /// Tells a client that another network is the better one now.
    pub fn relocate(&mut self, client: ClientId) {
        self.clients[client.0].core.relocate(self.now, None);
        self.drain_client(client.0);
    }

    /// For which interval the server sends a client's Keepalives, as the client knows it.
    #[must_use]
    pub fn server_keepalive(&self, client: ClientId) -> Option<Duration> {
        self.clients[client.0].core.server_keepalive()
    }

    /// Tells a client whether anybody uses its application.
    pub fn set_background(&mut self, client: ClientId, background: bool) {
        self.clients[client.0]
            .core
            .set_background(self.now, background);
        self.drain_client(client.0);
    }

    /// Tells a client that it has no network.
    pub fn network_gone(&mut self, client: ClientId) {
        self.clients[client.0].core.network_gone();
        self.drain_client(client.0);
    }

    /// Tells a client that its network changed.
    pub fn network_changed(&mut self, client: ClientId) {
        self.clients[client.0].core.network_changed(self.now);
        self.drain_client(client.0);
    }

    /// Lets a client ask for a service.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn request_service(
        &mut self,
        client: ClientId,
        service: ServiceType,
    ) -> Result<RequestId, RequestError> {
        let result = self.clients[client.0]
            .core
            .request_service(self.now, service);
        self.drain_client(client.0);
        result
    }

    /// Sets what a client's socket wants, the one that sends and receives what tests send.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_redundancy(
        &mut self,
        client: ClientId,
        redundancy: Redundancy,
    ) -> Result<(), RequestError> {
        self.set_redundancy_of(client, packet::FLOW, redundancy)
    }

    /// The same of any socket.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_redundancy_of(
        &mut self,
        client: ClientId,
        key: FlowKey,
        redundancy: Redundancy,
    ) -> Result<(), RequestError> {
        let local = self.local_of(client, key);
        let core = &mut self.clients[client.0].core;
        let result = core.set_redundancy(self.now, key, local, redundancy);
        self.drain_client(client.0);
        result
    }

    /// Sets which tunnel carries the datagrams of a socket, the one that sends and receives what tests send.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_tunnel_transport(
        &mut self,
        client: ClientId,
        wish: TunnelTransport,
    ) -> Result<(), RequestError> {
        self.set_tunnel_transport_of(client, packet::FLOW, wish)
    }

    /// The same of any socket.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_tunnel_transport_of(
        &mut self,
        client: ClientId,
        key: FlowKey,
        wish: TunnelTransport,
    ) -> Result<(), RequestError> {
        let local = self.local_of(client, key);
        let core = &mut self.clients[client.0].core;
        let result = core.set_tunnel_transport(self.now, key, local, wish);
        self.drain_client(client.0);
        result
    }

    /// Sets whether a client's socket is to be encrypted, the one that sends and receives what tests send.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_encryption(
        &mut self,
        client: ClientId,
        wish: Encryption,
    ) -> Result<(), RequestError> {
        self.set_encryption_of(client, packet::FLOW, wish, false)
    }

    /// The same of any socket, `connected` or not.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_encryption_of(
        &mut self,
        client: ClientId,
        key: FlowKey,
        wish: Encryption,
        connected: bool,
    ) -> Result<(), RequestError> {
        let local = self.local_of(client, key);
        let core = &mut self.clients[client.0].core;
        let result = core.set_encryption(self.now, key, local, wish, connected);
        self.drain_client(client.0);
        result
    }

    /// Where a client's socket is, if it was told.
    #[must_use]
    pub fn placement(&self, client: ClientId, of: FlowKey) -> Option<Placement> {
        let placed = |(_, event): &(Duration, Event)| match event {
            Event::SocketPlaced { key, placement, .. } if *key == of => *placement,
            _ => None,
        };
        let events = &self.clients[client.0].events;
        events.iter().rev().find_map(placed)
    }

    /// What a client's encrypted companion is assigned, while it has one.
    #[must_use]
    pub fn encrypted(&self, client: ClientId) -> Option<&Assignment> {
        self.clients[client.0].core.companion(CompanionRole::Dtte)
    }

    /// As [`World::send`], from where the socket that tests use is: with an address of its tunnel, or not at all.
    pub fn send_placed(&mut self, client: ClientId, destination: IpAddr, payload: &[u8]) -> bool {
        match self.placement(client, packet::FLOW) {
            None | Some(Placement::Main) => self.send(client, destination, payload),
            Some(Placement::Nowhere) => false,
            Some(Placement::Encrypted) => {
                let own = self.encrypted(client).map(|own| own.addresses.clone());
                let mut own = own.into_iter().flatten().map(|inner| inner.address);
                let source = own.find(|own| own.is_ipv4() == destination.is_ipv4());
                source.is_some_and(|source| self.send_from(client, source, destination, payload))
            }
        }
    }

    /// What a kind of transport has carried for a client so far.
    #[must_use]
    pub fn carried(&self, client: ClientId, transport: Transport) -> Carried {
        let carried = &self.clients[client.0].carried;
        carried.get(&transport).copied().unwrap_or_default()
    }

    fn transport_of(&self, client: usize, epoch: Epoch) -> Transport {
        let conn = self.clients[client].conns.get(&epoch);
        let conn = conn.and_then(|id| self.conns.get(id));
        conn.map_or(Transport::Tcp, |conn| conn.transport)
    }

    /// What a client's datagram companion is assigned, while it has one.
    #[must_use]
    pub fn companion(&self, client: ClientId) -> Option<&Assignment> {
        self.clients[client.0].core.companion(CompanionRole::Ddt)
    }

    /// Lets nothing pass any more over the stream of one tunnel of a client's family, or everything again.
    pub fn stall(&mut self, client: ClientId, tunnel: usize, stalled: bool) {
        let node = &self.clients[client.0];
        let epoch = node.core.transport(tunnel);
        let conn = epoch.and_then(|epoch| node.conns.get(&epoch));
        if let Some(conn) = conn.and_then(|id| self.conns.get_mut(id)) {
            conn.stalled = stalled;
        }
    }

    /// Breaks the transport of one tunnel of a client's family: both ends see it fail.
    pub fn break_tunnel(&mut self, client: ClientId, tunnel: usize) {
        let node = &self.clients[client.0];
        let epoch = node.core.transport(tunnel);
        let conn = epoch.and_then(|epoch| node.conns.get(&epoch).copied());
        if let Some(conn) = conn {
            self.break_conn(conn);
        }
    }

    fn local_of(&self, client: ClientId, key: FlowKey) -> SocketAddr {
        let addresses = self.assignment(client).map(|assigned| &assigned.addresses);
        let address = addresses.and_then(|addresses| addresses.first());
        let address = address.map_or_else(|| IpAddr::from([0; 4]), |inner| inner.address);
        SocketAddr::new(address, key.port)
    }

    /// What redundancy does for that socket.
    #[must_use]
    pub fn redundancy(&self, client: ClientId) -> Option<RedundancyStatus> {
        self.clients[client.0].core.redundancy(packet::FLOW)
    }

    /// Lets a client ask for prefixes, or for all that are configured for it.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn request_routed_prefixes(
        &mut self,
        client: ClientId,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let core = &mut self.clients[client.0].core;
        let result = core.request_routed_prefixes(self.now, prefixes);
        self.drain_client(client.0);
        result
    }

    /// Lets a client give prefixes back, or all of them.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn release_routed_prefixes(
        &mut self,
        client: ClientId,
        prefixes: &[Prefix],
    ) -> Result<RequestId, RequestError> {
        let core = &mut self.clients[client.0].core;
        let result = core.release_routed_prefixes(self.now, prefixes);
        self.drain_client(client.0);
        result
    }

    /// Breaks the transport that a client's tunnel is bound to: both ends see it fail.
    pub fn break_transport(&mut self, client: ClientId) {
        self.break_tunnel(client, 0);
    }

    /// Sends an inner packet from a client's first address of the destination's family. `false` if the tunnel has
    /// no transport or no such address.
    pub fn send(&mut self, client: ClientId, destination: IpAddr, payload: &[u8]) -> bool {
        let assigned = self
            .assignment(client)
            .map(|assignment| assignment.addresses.as_slice())
            .unwrap_or_default();
        let of_family = |address: &IpAddr| address.is_ipv4() == destination.is_ipv4();
        let Some(source) = assigned.iter().map(|inner| inner.address).find(of_family) else {
            return false;
        };
        self.send_from(client, source, destination, payload)
    }

    /// Sends an inner packet with any source address, as a client that lies would.
    pub fn send_from(
        &mut self,
        client: ClientId,
        source: IpAddr,
        destination: IpAddr,
        payload: &[u8],
    ) -> bool {
        self.send_packet(client, packet::udp(source, destination, payload))
    }

    /// Sends any inner packet, the way that packets of its socket go.
    pub fn send_packet(&mut self, client: ClientId, packet: Vec<u8>) -> bool {
        let (now, mut frame) = (self.now, Vec::new());
        let direct = self.clients[client.0].core.direct(now, &packet);
        self.drain_client(client.0);
        if let Some(direct) = direct {
            self.send_direct(client.0, direct, &packet);
            return true;
        }
        let core = &mut self.clients[client.0].core;
        let Some(outgoing) = core.outgoing(now, &packet, &mut frame) else {
            return false;
        };
        let ways = match outgoing.spread {
            Spread::All => MAX_WAYS,
            Spread::One => 1,
        };
        let unit = Bytes::from(if outgoing.framed { frame } else { packet });
        for epoch in outgoing.epochs().take(ways) {
            self.clients[client.0].core.note_sent(now, epoch);
            let transport = self.transport_of(client.0, epoch);
            let carried = &mut self.clients[client.0].carried;
            carried.entry(transport).or_default().up += 1;
            self.client_send(client.0, epoch, unit.clone());
        }
        true
    }

    /// Puts any bytes on the transport of a client's tunnel, as a client that breaks the rules would.
    pub fn send_raw(&mut self, client: ClientId, bytes: Vec<u8>) -> bool {
        let node = &mut self.clients[client.0];
        let Some(epoch) = node.core.can_send() else {
            return false;
        };
        node.core.note_sent(self.now, epoch);
        self.client_send(client.0, epoch, bytes.into());
        true
    }

    /// Hands a client any unit as if its server had sent it over the transport of its tunnel.
    pub fn deliver_raw(&mut self, client: ClientId, bytes: &[u8]) {
        let Some(epoch) = self.clients[client.0].core.can_send() else {
            return;
        };
        self.unit_at_client(client.0, epoch, bytes);
        self.drain_client(client.0);
    }

    /// Carries out what a client asks for.
    pub(crate) fn drain_client(&mut self, client: usize) {
        loop {
            while let Some(transmit) = self.clients[client].core.poll_transmit() {
                self.client_send(client, transmit.epoch, transmit.bytes);
            }
            while let Some(transmit) = self.clients[client].core.poll_peer_transmit() {
                let PeerTransmit { path, to, bytes } = transmit;
                self.peer_transmit(client, path, to, &bytes);
            }
            let Some(event) = self.clients[client].core.poll_event() else {
                return;
            };
            self.note(|| format!("client {client}: {event:?}"));
            match &event {
                Event::Resolve { target } => self.resolve_for(client, *target),
                Event::Open {
                    epoch,
                    target,
                    address,
                } => self.open_for(client, *epoch, *target, *address),
                Event::Close { epoch, .. } => self.close_for(client, *epoch),
                Event::Peer(event) => self.peer_event(client, event),
                _ => {}
            }
            let elapsed = self.elapsed();
            self.clients[client].events.push((elapsed, event));
        }
    }

    /// Answers at once.
    fn resolve_for(&mut self, client: usize, target: Target) {
        let number = target.endpoint.origin();
        let node = &mut self.clients[client];
        let truth = self
            .servers
            .get(number)
            .map(|server| (server.address, 5060));
        let found = match node.directory.get(&number) {
            Some(addresses) => addresses.clone(),
            None => truth.map(SocketAddr::from).into_iter().collect(),
        };
        node.core.resolved(self.now, target, &found);
    }

    fn open_for(
        &mut self,
        client: usize,
        epoch: Epoch,
        target: Target,
        address: Option<SocketAddr>,
    ) {
        let server = match target.endpoint {
            Endpoint::Configured(_) if address.is_some() => self
                .servers
                .iter()
                .position(|server| Some(server.address) == address.map(|address| address.ip())),
            Endpoint::Configured(number) => {
                let address = self.servers.get(number).map(|server| server.address);
                self.clients[client].core.learn_hosts(address.as_slice());
                Some(number).filter(|number| *number < self.servers.len())
            }
            Endpoint::Address { address, .. } => self
                .servers
                .iter()
                .position(|server| server.address == address.ip()),
        };
        // Where there is no server there is no answer.
        if let Some(server) = server {
            let conn = self.new_conn(client, epoch, target, server);
            self.clients[client].conns.insert(epoch, conn);
            self.open(conn);
        }
    }

    fn close_for(&mut self, client: usize, epoch: Epoch) {
        let Some(id) = self.clients[client].conns.remove(&epoch) else {
            return;
        };
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        match (conn.transport, conn.binding) {
            (Transport::Tcp | Transport::Tls, Some(_)) => self.push_stream(id, true, Item::End),
            (Transport::Dtls, Some(_)) => {
                let now = self.now;
                let arrivals = self.clients[client].path.up.datagram(now, 50);
                for at in arrivals.into_iter().take(1) {
                    self.schedule(at, Pending::Ended(id, true));
                }
            }
            (Transport::Udp, _) | (_, None) => {
                self.conns.remove(&id);
            }
        }
    }

    /// Bytes from a client onto the network.
    fn client_send(&mut self, client: usize, epoch: Epoch, bytes: Bytes) {
        let now = self.now;
        let Some(id) = self.clients[client].conns.get(&epoch).copied() else {
            return;
        };
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (server, transport, local) = (conn.server, conn.transport, conn.local);
        self.note(|| {
            format!(
                "client {client} > server {server} {transport}: {}",
                describe(&bytes)
            )
        });
        if transport.is_stream() {
            return self.push_stream(id, true, Item::Bytes(bytes));
        }
        let path = &mut self.clients[client].path;
        if !path.firewall.passes(transport) {
            return;
        }
        let from = match path.nat {
            Some(nat) => self.nats[nat.0].outbound(now, local),
            None => local,
        };
        let arrivals = path.up.datagram(now, bytes.len());
        let arrivals = self.fate(Leg::Up(ClientId(client)), &bytes, arrivals);
        for at in arrivals {
            let bytes = bytes.clone();
            self.schedule(
                at,
                Pending::Up {
                    server,
                    transport,
                    conn: id,
                    from,
                    bytes,
                },
            );
        }
    }

    /// A datagram arrives at the outer side of a client's network.
    pub(crate) fn datagram_at_client(
        &mut self,
        server: usize,
        transport: Transport,
        to: SocketAddr,
        bytes: &Bytes,
    ) {
        let now: Instant = self.now;
        let inside = self
            .nats
            .iter()
            .find_map(|nat| nat.inbound(now, to))
            .unwrap_or(to);
        let found = self.conns.values().find(|conn| {
            conn.local == inside && conn.server == server && conn.transport == transport
        });
        let Some((client, epoch)) = found.map(|conn| (conn.client, conn.epoch)) else {
            return;
        };
        self.unit_at_client(client, epoch, bytes);
        self.drain_client(client);
    }

    fn unit_at_client(&mut self, client: usize, epoch: Epoch, bytes: &[u8]) {
        let (now, elapsed) = (self.now, self.elapsed());
        let over = (epoch, self.transport_of(client, epoch));
        let node = &mut self.clients[client];
        match Unit::decode_datagram(bytes, &Limits::WIDEST) {
            Ok(unit) => node.unit(now, elapsed, over, unit),
            Err(error) => node
                .core
                .handle_bad_unit(now, epoch, BadUnit::Datagram(error)),
        }
    }

    /// A piece of a stream arrives at its client.
    pub(crate) fn stream_at_client(&mut self, id: ConnId, bytes: &[u8]) {
        let (now, elapsed) = (self.now, self.elapsed());
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let (client, epoch, transport) = (conn.client, conn.epoch, conn.transport);
        let fresh = StreamDecoder::new(Limits::WIDEST);
        let mut decoder = std::mem::replace(&mut conn.client_decoder, fresh);
        let mut feed = decoder.feed(bytes);
        let node = &mut self.clients[client];
        loop {
            match feed.next() {
                Ok(Some(unit)) => {
                    node.unit(now, elapsed, (epoch, transport), unit);
                }
                Ok(None) => break,
                Err(error) => {
                    node.core
                        .handle_bad_unit(now, epoch, BadUnit::Framing(error));
                    break;
                }
            }
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.client_decoder = decoder;
        }
        self.drain_client(client);
    }
}

/// One line about a unit, for traces.
pub(crate) fn describe(bytes: &[u8]) -> String {
    match Unit::decode_datagram(bytes, &Limits::WIDEST) {
        Ok(unit) => unit.to_string(),
        Err(error) => format!("{} bytes: {error}", bytes.len()),
    }
}
