//! Peer tunnels in the world: the clients' sockets for them, and the network between these.
//!
//! ```text
//!   socket --up link--> NAT --> the server's UDP port                              STUN
//!                          '--> NAT of the other --down link--> its socket         direct
//!   socket --up link-------------- down link--> socket behind the same NAT         LAN
//! ```
//!
//! DTLS is a hello and its answer, each with the fingerprint of a certificate, and data; it is repeated as a library would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tsc_csm::client::{Direct, Inbound, PathId, PeerEvent, PeerGuest, PeerStatus, RequestError};
use tsc_csm::{Candidate, Transport, client};

use crate::conn::Item;
use crate::packet;
use crate::path::NatId;
use crate::world::{ClientId, Pending, World};

/// Flights of a hello, by the time before each.
const HELLOS: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];

/// First byte of everything under protection.
const RECORD: u8 = 0x16;
const HELLO: u8 = 1;
const HELLO_ANSWER: u8 = 2;
const DATA: u8 = 3;
const BYE: u8 = 4;

/// Sockets of the world, and what has come of them.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: BTreeMap<(usize, PathId), Socket>,
    next_port: u16,
    /// Certificates that clients show, where these are not their own.
    shown: BTreeMap<usize, [u8; 32]>,
    /// Where a client says it is, beside where it is.
    lies: BTreeMap<usize, SocketAddr>,
    sent: Vec<Sent>,
}

/// A datagram that went out of a client's socket for peer tunnels.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub at: Duration,
    /// Whose.
    pub client: ClientId,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub bytes: Bytes,
}

#[derive(Debug)]
struct Socket {
    local: SocketAddr,
    /// Who is to come, and to which TCP port.
    guest: Option<PeerGuest>,
    listener: Option<SocketAddr>,
    /// Hellos sent and not answered.
    hellos: BTreeSet<SocketAddr>,
    associations: BTreeSet<SocketAddr>,
}

/// The certificate's fingerprint of a client, by its number.
#[must_use]
pub fn fingerprint(client: usize) -> [u8; 32] {
    [u8::try_from(client % 255).unwrap_or_default() + 1; 32]
}

impl World {
    /// Lets a client's socket, the one that tests send from, reach its peers directly; or not any more.
    ///
    /// # Errors
    ///
    /// Those of the machine.
    pub fn set_peer(&mut self, client: ClientId, wanted: bool) -> Result<(), RequestError> {
        let addresses = self.assignment(client).map(|assigned| &assigned.addresses);
        let address = addresses.and_then(|addresses| addresses.first());
        let address = address.map_or_else(|| IpAddr::from([0; 4]), |inner| inner.address);
        let local = SocketAddr::new(address, packet::FLOW.port);
        let core = &mut self.clients[client.0].core;
        let result = core.set_peer(self.now, packet::FLOW, local, wanted);
        self.drain_client(client.0);
        result
    }

    /// A client's peer tunnels.
    #[must_use]
    pub fn peers(&self, client: ClientId) -> Vec<PeerStatus> {
        self.clients[client.0].core.peers(self.now)
    }

    /// What came to a client's sockets for peer tunnels and was not taken.
    #[must_use]
    pub fn peers_refused(&self, client: ClientId) -> u64 {
        self.clients[client.0].core.peers_refused()
    }

    /// What has gone out of all sockets for peer tunnels so far.
    #[must_use]
    pub fn peer_datagrams(&self) -> &[Sent] {
        &self.sockets.sent
    }

    /// The open sockets for peer tunnels of a client, by their own addresses.
    #[must_use]
    pub fn peer_sockets(&self, client: ClientId) -> Vec<SocketAddr> {
        let open = self.sockets.open.iter();
        open.filter(|((of, _), _)| *of == client.0)
            .map(|(_, socket)| socket.local)
            .collect()
    }

    /// Lets a client show another certificate than its own from now on.
    pub fn show_certificate(&mut self, client: ClientId, fingerprint: [u8; 32]) {
        self.sockets.shown.insert(client.0, fingerprint);
    }

    /// Lets a client say that its sockets are here.
    pub fn lie_about_address(&mut self, client: ClientId, address: SocketAddr) {
        self.sockets.lies.insert(client.0, address);
    }

    /// A datagram from anywhere arrives at a client's socket, which is named by its own address: NATs let it through.
    pub fn peer_stranger(&mut self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        self.peer_arrived(from, to, &Bytes::copy_from_slice(bytes));
    }

    pub(crate) fn peer_event(&mut self, client: usize, event: &PeerEvent) {
        match event {
            PeerEvent::Open { path, guest } => self.open_socket(client, *path, guest.clone()),
            PeerEvent::Connect { path, to, .. } if to.transport.is_stream() => {
                self.begin_stream(client, *path, *to);
            }
            PeerEvent::Connect { path, to, .. } => {
                if let Some(socket) = self.sockets.open.get_mut(&(client, *path)) {
                    socket.hellos.insert(to.address);
                    self.hello(client, *path, to.address, 0);
                }
            }
            PeerEvent::Disconnect { path, from } if from.transport.is_stream() => {
                self.stream_send(client, *path, *from, Item::End);
            }
            PeerEvent::Disconnect { path, from } => {
                if let Some(socket) = self.sockets.open.get_mut(&(client, *path)) {
                    socket.hellos.remove(&from.address);
                    if socket.associations.remove(&from.address) {
                        self.peer_send(client, *path, from.address, &[RECORD, BYE]);
                    }
                }
            }
            PeerEvent::StopListening { path } => {
                if let Some(socket) = self.sockets.open.get_mut(&(client, *path)) {
                    socket.listener = None;
                }
            }
            PeerEvent::Close { path } => {
                self.close_streams(client, *path);
                self.sockets.open.remove(&(client, *path));
            }
            _ => {}
        }
    }

    fn open_socket(&mut self, client: usize, path: PathId, guest: Option<PeerGuest>) {
        self.sockets.next_port += 1;
        let port = 60_000 + self.sockets.next_port;
        let host = u8::try_from(client + 1).unwrap_or(u8::MAX);
        let local = match self.clients[client].path.nat {
            Some(NatId(nat)) => {
                let net = u8::try_from(nat + 1).unwrap_or(u8::MAX);
                SocketAddr::from(([192, 168, net, host], port))
            }
            None => SocketAddr::from(([192, 0, 0, host], port)),
        };
        let said = self.sockets.lies.get(&client).copied().unwrap_or(local);
        let listener = guest
            .is_some()
            .then(|| SocketAddr::new(local.ip(), port + 1));
        self.sockets.next_port += 1;
        self.sockets.open.insert(
            (client, path),
            Socket {
                local,
                guest,
                listener,
                hellos: BTreeSet::new(),
                associations: BTreeSet::new(),
            },
        );
        let stun = self.servers.first().map(|server| (server.address, 5060));
        let stun = stun.map(SocketAddr::from);
        let core = &mut self.clients[client].core;
        let port = listener.map(|listener| {
            let lie = self.sockets.lies.get(&client).copied();
            lie.unwrap_or(listener).port()
        });
        core.peer_opened(self.now, path, said, stun, port);
    }

    /// A flight of a hello, unless it has been answered.
    pub(crate) fn hello(&mut self, client: usize, path: PathId, to: SocketAddr, flight: usize) {
        let waits = self.sockets.open.get(&(client, path));
        if !waits.is_some_and(|socket| socket.hellos.contains(&to)) {
            return;
        }
        let Some(_) = HELLOS.get(flight) else {
            let core = &mut self.clients[client].core;
            core.peer_disconnected(self.now, path, dtls(to));
            return self.drain_client(client);
        };
        let shown = self.shown(client);
        if self.clients[client].core.peer_may_send(path, to) {
            self.peer_send(client, path, to, &record(HELLO, &shown));
        }
        let next = HELLOS.get(flight + 1).copied();
        let at = self.now + next.unwrap_or(Duration::from_secs(2));
        self.schedule(
            at,
            Pending::Hello {
                client,
                path,
                to,
                flight: flight + 1,
            },
        );
    }

    pub(crate) fn shown(&self, client: usize) -> [u8; 32] {
        let shown = self.sockets.shown.get(&client).copied();
        shown.unwrap_or_else(|| fingerprint(client))
    }

    /// A packet that does not go over the server.
    pub(crate) fn send_direct(&mut self, client: usize, direct: Direct, packet: &[u8]) {
        self.peer_transmit(client, direct.path, direct.to, packet);
    }

    pub(crate) fn peer_transmit(
        &mut self,
        client: usize,
        path: PathId,
        to: Candidate,
        bytes: &[u8],
    ) {
        match to.transport {
            Transport::Tcp | Transport::Tls => {
                self.stream_send(client, path, to, bytes.into());
            }
            Transport::Udp => self.peer_send(client, path, to.address, bytes),
            Transport::Dtls => {
                let socket = self.sockets.open.get(&(client, path));
                if socket.is_some_and(|socket| socket.associations.contains(&to.address)) {
                    self.peer_send(client, path, to.address, &record(DATA, bytes));
                }
            }
        }
    }

    /// A datagram onto the network.
    fn peer_send(&mut self, client: usize, path: PathId, to: SocketAddr, bytes: &[u8]) {
        let now = self.now;
        let Some(local) = self.sockets.open.get(&(client, path)).map(|s| s.local) else {
            return;
        };
        let bytes = Bytes::copy_from_slice(bytes);
        self.sockets.sent.push(Sent {
            at: self.elapsed(),
            client: ClientId(client),
            to,
            bytes: bytes.clone(),
        });
        self.note(|| format!("client {client} {local} > {to}: {} bytes", bytes.len()));
        let home = self.clients[client].path.nat;
        let neighbour = self.sockets.open.iter().find(|(_, s)| s.local == to);
        let same_net = neighbour
            .is_some_and(|((other, _), _)| home.is_some() && self.clients[*other].path.nat == home);
        let link = &mut self.clients[client].path;
        if !link.firewall.passes(Transport::Udp) {
            return;
        }
        let arrivals = link.up.datagram(now, bytes.len());
        let arrivals = self.fate(Leg::Direct(ClientId(client)), &bytes, arrivals);
        let from = match home {
            Some(nat) if !same_net => self.nats[nat.0].outbound_to(now, local, to),
            _ => local,
        };
        for at in arrivals {
            let bytes = bytes.clone();
            self.schedule(at, Pending::Between { from, to, bytes });
        }
    }

    /// A datagram has come as far as the receiver's network.
    pub(crate) fn peer_between(&mut self, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let now = self.now;
        let server = self.servers.iter().position(|s| s.address == to.ip());
        if let Some(server) = server {
            return self.stranger_at_server(server, from, bytes);
        }
        let nats = self.nats.iter();
        let inside = nats
            .filter_map(|nat| nat.inbound_from(now, to, from))
            .next();
        let behind_nat = self.nats.iter().any(|nat| nat.public() == to.ip());
        let Some(inside) = inside.or_else(|| (!behind_nat).then_some(to)) else {
            return;
        };
        self.down_to_socket(from, inside, bytes);
    }

    /// An answer of a server to a socket for peer tunnels; false if it is for none.
    pub(crate) fn answer_to_socket(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        bytes: &Bytes,
    ) -> bool {
        let now = self.now;
        let nats = self.nats.iter();
        let inside = nats
            .filter_map(|nat| nat.inbound_from(now, to, from))
            .next();
        let inside = inside.unwrap_or(to);
        let is_ours = self.sockets.open.values().any(|s| s.local == inside);
        if is_ours {
            self.down_to_socket(from, inside, bytes);
        }
        is_ours
    }

    fn down_to_socket(&mut self, from: SocketAddr, inside: SocketAddr, bytes: &Bytes) {
        let now = self.now;
        let found = self.sockets.open.iter().find(|(_, s)| s.local == inside);
        let Some(client) = found.map(|((client, _), _)| *client) else {
            return;
        };
        let link = &mut self.clients[client].path;
        if !link.firewall.passes(Transport::Udp) {
            return;
        }
        for at in link.down.datagram(now, bytes.len()) {
            let bytes = bytes.clone();
            let to = inside;
            self.schedule(at, Pending::Direct { from, to, bytes });
        }
    }

    /// A datagram arrives at a socket.
    pub(crate) fn peer_arrived(&mut self, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let found = self.sockets.open.iter().find(|(_, s)| s.local == to);
        let Some((client, path)) = found.map(|(name, _)| *name) else {
            return;
        };
        let now = self.now;
        if bytes.first() == Some(&RECORD) {
            if self.clients[client].core.peer_admits(path, dtls(from)) {
                self.record_arrived(client, path, from, bytes);
            }
        } else {
            let elapsed = self.elapsed();
            let node = &mut self.clients[client];
            let from = Candidate {
                transport: Transport::Udp,
                address: from,
            };
            let inbound = node.core.peer_datagram(now, path, from, bytes);
            if let Inbound::Deliver(packet) = inbound {
                let payload = packet::payload(packet.as_bytes()).to_vec();
                node.received.push((elapsed, payload));
            }
        }
        self.drain_client(client);
    }

    fn record_arrived(&mut self, client: usize, path: PathId, from: SocketAddr, bytes: &Bytes) {
        let (now, elapsed) = (self.now, self.elapsed());
        let Some(socket) = self.sockets.open.get_mut(&(client, path)) else {
            return;
        };
        let rest = bytes.get(2..).unwrap_or_default();
        let shown: Option<&[u8; 32]> = rest.try_into().ok();
        match (bytes.get(1).copied(), shown) {
            (Some(HELLO), Some(shown)) if socket.takes_handshakes() => {
                socket.associations.insert(from);
                let answer = record(HELLO_ANSWER, &self.shown(client));
                if self.clients[client].core.peer_may_send(path, from) {
                    self.peer_send(client, path, from, &answer);
                }
                let core = &mut self.clients[client].core;
                core.peer_connected(now, path, dtls(from), Some(shown));
            }
            (Some(HELLO_ANSWER), Some(shown)) if socket.hellos.remove(&from) => {
                socket.associations.insert(from);
                let core = &mut self.clients[client].core;
                core.peer_connected(now, path, dtls(from), Some(shown));
            }
            (Some(DATA), _) if socket.associations.contains(&from) => {
                let node = &mut self.clients[client];
                let inbound = node.core.peer_datagram(now, path, dtls(from), rest);
                if let Inbound::Deliver(packet) = inbound {
                    let payload = packet::payload(packet.as_bytes()).to_vec();
                    node.received.push((elapsed, payload));
                }
            }
            (Some(BYE), _) if socket.associations.remove(&from) => {
                let core = &mut self.clients[client].core;
                core.peer_disconnected(now, path, dtls(from));
            }
            _ => {}
        }
    }
}

impl Socket {
    fn takes_handshakes(&self) -> bool {
        let guest = self.guest.as_ref();
        guest.is_some_and(|guest| guest.fingerprint.is_some())
    }
}

impl Sockets {
    pub(crate) fn local(&self, client: usize, path: PathId) -> Option<SocketAddr> {
        self.open.get(&(client, path)).map(|socket| socket.local)
    }

    /// The TCP ports, and whose they are.
    pub(crate) fn listening(&self) -> Vec<((usize, PathId), SocketAddr)> {
        let open = self.open.iter();
        open.filter_map(|(name, socket)| Some((*name, socket.listener?)))
            .collect()
    }

    /// Whether the owner of a path takes a connection, before the machine is asked.
    pub(crate) fn takes(&self, client: usize, path: PathId, from: Candidate) -> bool {
        let socket = self.open.get(&(client, path));
        socket.is_some_and(|socket| {
            let is_guest = |guest: &PeerGuest| {
                guest.fingerprint.is_some() == from.transport.is_protected()
                    && guest.hosts.contains(&from.address.ip())
            };
            socket.listener.is_some() && socket.guest.as_ref().is_some_and(is_guest)
        })
    }
}

const fn dtls(address: SocketAddr) -> Candidate {
    let transport = Transport::Dtls;
    Candidate { transport, address }
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![RECORD, kind];
    record.extend_from_slice(content);
    record
}

/// A configuration that can do peer tunnels and lets others ask for them: for the client that is added next to so many.
#[must_use]
pub fn peer_config(mut config: client::ClientConfig, client: usize) -> client::ClientConfig {
    config.peer_fingerprint = Some(fingerprint(client));
    config.supported_services = vec![tsc_tpl::ServiceType::ENABLE_PEER];
    config
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// From a client to a server, over its tunnel's transport.
    Up(ClientId),
    /// From a server to a client, over its tunnel's transport.
    Down(ClientId),
    /// From a client's socket for peer tunnels.
    Direct(ClientId),
}

/// What becomes of a datagram, beside what its link does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nothing special.
    Pass,
    /// It is lost.
    Lose,
    /// It comes so much later.
    Late(Duration),
    /// It comes again after this time.
    Twice(Duration),
}

/// Decides about each datagram.
pub(crate) type Meddler = Box<dyn FnMut(Leg, &[u8]) -> Fate>;

impl World {
    /// Lets `decide` have a say in what becomes of each datagram from now on.
    pub fn meddle(&mut self, decide: impl FnMut(Leg, &[u8]) -> Fate + 'static) {
        self.meddler = Some(Box::new(decide));
    }

    pub(crate) fn fate(
        &mut self,
        leg: Leg,
        bytes: &[u8],
        mut arrivals: Vec<std::time::Instant>,
    ) -> Vec<std::time::Instant> {
        match self.meddler.as_mut().map(|decide| decide(leg, bytes)) {
            None | Some(Fate::Pass) => {}
            Some(Fate::Lose) => arrivals.clear(),
            Some(Fate::Late(by)) => arrivals.iter_mut().for_each(|at| *at += by),
            Some(Fate::Twice(after)) => {
                let again: Vec<_> = arrivals.iter().map(|at| *at + after).collect();
                arrivals.extend(again);
            }
        }
        arrivals
    }
}
