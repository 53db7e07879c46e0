//! Peer tunnels: their sockets, and what goes over them.
//!
//! ```text
//!   csm::client --PeerEvent--> PeerPath: socket, DTLS; PeerStreams --datagrams, bytes--> the other client
//!        ^--- datagrams, units, fingerprints ---'
//!   stack --packets--> csm::client::direct: over the server, or over a path
//! ```

mod path;
mod streams;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tsc_csm::{
    Candidate,
    client::{Direct, Family, Inbound, PathId, PeerEvent, PeerGuest},
};
use tsc_osaa::{
    datagram::RecvBatch,
    dtls::DtlsBackendKind,
    socket::source_for,
    stream::StreamTransport,
    trace::{Direction, Interface},
};

use self::path::PeerPath;
use super::{Driver, links::CLOSE_TIME};
use crate::{notification::Notification, peers, shared::Shared};

/// Buffers of 64 KiB for receiving, while there is a path.
const SLOTS: usize = 2;
/// Batches of one path in one turn.
const READS_PER_TURN: usize = 8;

/// What a driver has for peer tunnels.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// At most twice [`tsc_csm::client::MAX_PEERS`]: a new one beside the old.
    paths: Vec<PeerPath>,
    inbox: Option<RecvBatch>,
    /// Packets of this turn that do not go over the server.
    pub(super) outbox: Vec<(Direct, Vec<u8>)>,
    backend: Option<DtlsBackendKind>,
}

impl Peers {
    pub(super) fn new(backend: Option<DtlsBackendKind>) -> Self {
        Self {
            backend: backend.or_else(DtlsBackendKind::preferred),
            ..Self::default()
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    fn find(&mut self, id: PathId) -> Option<&mut PeerPath> {
        self.paths.iter_mut().find(|path| path.id == id)
    }
}

/// What a path works with.
struct Hands<'a> {
    now: Instant,
    client: &'a mut Family,
    shared: &'a Shared,
    /// Of the path.
    round_trip: Option<Duration>,
}

impl Driver {
    pub(super) fn peer_event(&mut self, now: Instant, event: PeerEvent) {
        self.send_peer_transmits();
        match event {
            PeerEvent::Open { path, guest } => self.open_path(now, path, guest.as_ref()),
            PeerEvent::StopListening { path } => {
                if let Some(path) = self.peers.find(path) {
                    path.streams.stop_listening();
                }
            }
            PeerEvent::Connect {
                path,
                to,
                fingerprint,
            } => {
                let backend = self.peers.backend;
                let identity = peers::certificate();
                let begun = backend.zip(identity).is_some_and(|(backend, identity)| {
                    self.peers.find(path).is_some_and(|path| {
                        if to.transport.is_stream() {
                            path.streams.connect(identity, to, fingerprint)
                        } else {
                            path.connect(now, backend, identity, to.address, fingerprint)
                        }
                    })
                });
                if !begun {
                    self.client.peer_disconnected(now, path, to);
                }
            }
            PeerEvent::Disconnect { path, from } => {
                let found = self.peers.find(path);
                if from.transport.is_stream() {
                    let stream = found.and_then(|path| path.streams.disconnect(from));
                    self.close_streams(stream);
                } else if let Some(path) = found {
                    path.disconnect(now, from.address);
                }
            }
            PeerEvent::Close { path } => {
                if let Some(place) = self.peers.paths.iter().position(|other| other.id == path) {
                    let streams = self.peers.paths.swap_remove(place).close(now);
                    self.close_streams(streams);
                }
                if self.peers.paths.is_empty() {
                    self.peers.inbox = None;
                }
            }
            PeerEvent::Up {
                own, peer, outer, ..
            } => {
                let Candidate { transport, address } = outer;
                tracing::info!(%own, %peer, %transport, %address, "peer tunnel up");
                self.notify(Notification::PeerTunnel {
                    own,
                    peer,
                    outer: Ok(outer),
                });
            }
            PeerEvent::Down { own, peer, why } => {
                tracing::info!(%own, %peer, %why, "peer tunnel over");
                self.notify(Notification::PeerTunnel {
                    own,
                    peer,
                    outer: Err(why),
                });
            }
            other => tracing::debug!(event = ?other, "ignored"),
        }
    }

    /// What has been queued goes out first.
    fn close_streams(&mut self, streams: impl IntoIterator<Item = StreamTransport>) {
        for stream in streams {
            self.closing.spawn(stream.close(CLOSE_TIME));
        }
        while self.closing.try_join_next().is_some() {}
    }

    /// Opens a socket, on the way that the main tunnel takes, and a port for whoever is to come.
    fn open_path(&mut self, now: Instant, id: PathId, guest: Option<&PeerGuest>) {
        match self.new_path(id) {
            Some((mut path, local, stun)) => {
                let identity = peers::certificate();
                let port = guest.zip(identity).and_then(|(guest, identity)| {
                    if let Some((backend, fingerprint)) = self.peers.backend.zip(guest.fingerprint)
                    {
                        path.listen(backend, identity, fingerprint);
                    }
                    let address = SocketAddr::new(local.ip(), 0);
                    path.streams.listen(address, identity, guest)
                });
                self.peers.paths.push(path);
                self.peers
                    .inbox
                    .get_or_insert_with(|| RecvBatch::new(SLOTS));
                self.client.peer_opened(now, id, local, stun, port);
            }
            None => self.client.peer_failed(now, id),
        }
    }

    fn new_path(&self, id: PathId) -> Option<(PeerPath, SocketAddr, Option<SocketAddr>)> {
        let bound = self.client.can_send();
        let link = self.links.iter().find(|link| Some(link.epoch) == bound)?;
        let server = link.transport.peer_addr();
        let own = source_for(server).ok()?;
        let path = PeerPath::open(id, SocketAddr::new(unspecified(own), 0))
            .inspect_err(|error| tracing::debug!(%error, "no socket for a peer tunnel"))
            .ok()?;
        let local = SocketAddr::new(own, path.local_port());
        Some((path, local, self.stun_server(link)))
    }

    /// Where the server answers STUN: at its datagram port. Behind a proxy it is not known where the server is.
    fn stun_server(&self, link: &super::links::Link) -> Option<SocketAddr> {
        let server = link.transport.peer_addr();
        if link.transport.is_proxied() {
            return None;
        }
        if !link.target.transport.is_stream() {
            return Some(server);
        }
        // Where the application knows of no datagram port of this host, the same one (spec 7, as for companions).
        let host = link.server.host();
        let datagrams = self
            .routes
            .iter()
            .map(|route| &route.server)
            .find(|other| other.host() == host && !other.transport().is_stream());
        let port = datagrams.and_then(crate::Server::port);
        Some(SocketAddr::new(
            server.ip(),
            port.unwrap_or_else(|| server.port()),
        ))
    }

    /// Hands the paths what the control plane says over them.
    fn send_peer_transmits(&mut self) {
        while let Some(transmit) = self.client.poll_peer_transmit() {
            if let Some(path) = self.peers.find(transmit.path) {
                path.transmit(&mut self.client, transmit.to, &transmit.bytes);
            }
        }
    }

    /// Sends the packets of this turn that do not go over the server; true if there were any.
    pub(super) fn send_direct(&mut self, cx: &mut Context<'_>) -> bool {
        if self.peers.is_empty() && self.peers.outbox.is_empty() {
            return false;
        }
        self.send_peer_transmits();
        let mut packets = std::mem::take(&mut self.peers.outbox);
        let progress = !packets.is_empty();
        for (direct, packet) in &packets {
            if let Some(path) = self.peers.find(direct.path) {
                super::links::record(&self.tap, packet);
                path.transmit(&mut self.client, direct.to, packet);
            }
        }
        self.shared.drive(|state| {
            for (_, packet) in packets.drain(..) {
                state.recycle(packet);
            }
        });
        self.peers.outbox = packets;
        for path in &mut self.peers.paths {
            path.flush(cx, &mut self.client);
        }
        progress
    }

    /// Reads what has arrived on all paths, and does what their timers ask for.
    pub(super) fn poll_peers(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let Some(mut inbox) = self.peers.inbox.take() else {
            return false;
        };
        let mut progress = false;
        let mut broken = Vec::new();
        let mut buffer = std::mem::take(&mut self.buffer);
        let Self {
            peers,
            client,
            shared,
            ..
        } = self;
        for path in &mut peers.paths {
            let round_trip = client.peer_round_trip(path.id);
            let mut hands = Hands {
                now,
                client,
                shared,
                round_trip,
            };
            progress |= path.turn(cx, &mut hands);
            progress |= path.streams.turn(cx, path.id, &mut hands, &mut buffer);
            for _ in 0..READS_PER_TURN {
                match path.receive(cx, &mut hands, &mut inbox) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => {
                        tracing::debug!(%error, "the socket of a peer tunnel is broken");
                        broken.push(path.id);
                        break;
                    }
                }
            }
            path.flush(cx, hands.client);
        }
        self.peers.inbox = Some(inbox);
        self.buffer = buffer;
        for path in broken {
            progress = true;
            self.client.peer_failed(now, path);
        }
        if progress {
            self.shared.drive(|_| ());
        }
        progress
    }
}

const fn unspecified(of: IpAddr) -> IpAddr {
    match of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// Gives an inner packet that came over a path to the stack.
fn deliver(inbound: Inbound<'_>, hands: &Hands<'_>) {
    if let Inbound::Deliver(packet) = inbound {
        let tap = &hands.shared.trace.tap;
        tap.record(Interface::Inner, Direction::Inbound, packet.as_bytes());
        let mut state = hands.shared.lock();
        state.stack.set_round_trip(hands.round_trip);
        state.peer_counts.note_received(&packet);
        state.stack.handle_packet(hands.now, packet.as_bytes());
    }
}
