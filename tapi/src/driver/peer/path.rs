//! One UDP socket for a peer tunnel, and the DTLS on it: server for the one who was asked, client of each candidate for the one who
//! asks. Beside it, the streams.

use std::{
    fmt,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::time::Sleep;
use tsc_csm::{
    Candidate, Transport,
    client::{Family, PathId},
};
use tsc_osaa::{
    cert::{ClientAuth, ClientSecurity, Identity, ServerName, ServerSecurity, Trust},
    datagram::{DatagramOptions, DatagramSocket, RecvBatch, SendBatch},
    dtls::{
        AssociationKey, DtlsBackendKind, DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits,
        DtlsEvent, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint, DtlsSession, MAX_PLAINTEXT,
        Opened, Opening,
    },
    random::OsRandom,
    stream::StreamTransport,
};
use tsc_tpl::FirstByte;

use super::{Hands, deliver, streams::PeerStreams};

/// Bytes that wait for the socket.
const SEND_LIMIT: usize = 64 * 1024;
/// Handshakes of the other end at a time: from each of its ways here.
const HALF_OPEN: usize = 4;
/// A handshake takes no longer than the search (spec 7.4).
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Timer expiries handled in one go; more would be a session that cannot settle.
const EXPIRIES: usize = 8;

/// See the module.
pub(super) struct PeerPath {
    pub(super) id: PathId,
    pub(super) streams: PeerStreams,
    socket: DatagramSocket,
    out: SendBatch,
    /// As the server of the other end.
    endpoint: Option<DtlsServerEndpoint>,
    /// Its associations.
    keys: Vec<(SocketAddr, AssociationKey)>,
    /// As the client of the other end's addresses; at most [`tsc_csm::MAX_CANDIDATES`].
    sessions: Vec<(SocketAddr, Box<dyn DtlsSession>)>,
    timer: Pin<Box<Sleep>>,
    scratch: Vec<u8>,
    plain: Vec<u8>,
}

impl PeerPath {
    pub(super) fn open(id: PathId, address: SocketAddr) -> io::Result<Self> {
        let socket =
            DatagramSocket::bind(address, &DatagramOptions::client()).map_err(io::Error::other)?;
        Ok(Self {
            id,
            streams: PeerStreams::default(),
            socket,
            out: SendBatch::new(SEND_LIMIT),
            endpoint: None,
            keys: Vec::new(),
            sessions: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            scratch: Vec::new(),
            plain: Vec::new(),
        })
    }

    pub(super) fn local_port(&self) -> u16 {
        self.socket.local_addr().port()
    }

    /// Takes handshakes from whoever has this certificate.
    pub(super) fn listen(
        &mut self,
        backend: DtlsBackendKind,
        identity: &Identity,
        fingerprint: [u8; 32],
    ) {
        let security = ServerSecurity::new(identity.clone(), ClientAuth::Fingerprint(fingerprint));
        let config = security
            .map_err(|error| error.to_string())
            .and_then(|security| {
                DtlsServerConfig::new(backend, &security, &options())
                    .map_err(|error| error.to_string())
            });
        match config {
            Ok(config) => {
                let limits = DtlsEndpointLimits {
                    associations: HALF_OPEN * 2,
                    half_open: HALF_OPEN,
                    half_open_per_prefix: HALF_OPEN,
                    stateless_queue: HALF_OPEN,
                    ..DtlsEndpointLimits::default()
                };
                let mut cookie_key = [0; 32];
                OsRandom.fill(&mut cookie_key);
                self.endpoint = Some(DtlsServerEndpoint::new(&config, limits, &cookie_key));
            }
            // The other end does not get through, and goes on over the server.
            Err(error) => tracing::warn!(%error, "no peer tunnels over DTLS"),
        }
    }

    /// Begins a handshake with whoever has this certificate; false if that is not possible.
    pub(super) fn connect(
        &mut self,
        now: Instant,
        backend: DtlsBackendKind,
        identity: &Identity,
        address: SocketAddr,
        fingerprint: [u8; 32],
    ) -> bool {
        let trust = Trust::Fingerprint(fingerprint);
        let security = ClientSecurity::new(trust, Some(identity.clone()));
        let session = security
            .map_err(|error| error.to_string())
            .and_then(|security| {
                let config = DtlsClientConfig::new(backend, &security, &options())
                    .map_err(|error| error.to_string())?;
                // Compared with nothing: the fingerprint says more.
                let name = ServerName::from(address.ip());
                config
                    .connect(now, &name)
                    .map_err(|error| error.to_string())
            });
        match session {
            Ok(session) => {
                self.sessions.retain(|(other, _)| *other != address);
                self.sessions.push((address, session));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "no peer tunnels over DTLS");
                false
            }
        }
    }

    pub(super) fn disconnect(&mut self, now: Instant, address: SocketAddr) {
        if let Some(place) = self.sessions.iter().position(|(to, _)| *to == address) {
            let (_, mut session) = self.sessions.swap_remove(place);
            session.close(now);
            self.scratch.clear();
            while session.poll_transmit(&mut self.scratch).is_some() {
                let _fits = self.out.push(address, None, &self.scratch);
                self.scratch.clear();
            }
        }
        let key = self.keys.iter().find(|(from, _)| *from == address);
        if let Some((_, key)) = key
            && let Some(endpoint) = &mut self.endpoint
        {
            endpoint.close(now, *key);
        }
    }

    /// Closes all associations, and the socket as soon as what is queued is with the system, if that is at once: what is lost here
    /// is only politeness. Gives the streams, which are to be closed.
    pub(super) fn close(mut self, now: Instant) -> impl Iterator<Item = StreamTransport> {
        let addresses: Vec<_> = self.sessions.iter().map(|(to, _)| *to).collect();
        for address in addresses {
            self.disconnect(now, address);
        }
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.close_all(now);
            self.scratch.clear();
            while let Some(transmit) = endpoint.poll_transmit(&mut self.scratch) {
                let _fits = self.out.push(transmit.peer, None, &self.scratch);
                self.scratch.clear();
            }
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let _ = self.socket.poll_send(&mut cx, &mut self.out);
        self.streams.into_streams()
    }

    /// Queues a datagram as it is, or a unit for the association or the stream.
    pub(super) fn transmit(&mut self, client: &mut Family, to: Candidate, bytes: &[u8]) {
        match to.transport {
            Transport::Tcp | Transport::Tls => self.streams.send(to, bytes),
            Transport::Udp => {
                // What does not fit is lost, as on any network.
                let _fits = self.out.push(to.address, None, bytes);
            }
            Transport::Dtls => self.seal(client, to.address, bytes),
        }
    }

    fn seal(&mut self, client: &mut Family, to: SocketAddr, bytes: &[u8]) {
        if let Some((_, session)) = self.sessions.iter_mut().find(|(peer, _)| *peer == to) {
            if session.send(bytes).is_ok() {
                self.drain_sessions(client);
            }
            return;
        }
        let key = self.keys.iter().find(|(peer, _)| *peer == to);
        if let Some((_, key)) = key
            && let Some(endpoint) = &mut self.endpoint
            && endpoint.send(*key, bytes).is_ok()
        {
            self.drain_endpoint(client);
        }
    }

    /// Moves what the sessions want to send to the socket's queue: to addresses from which nothing has come, so many.
    fn drain_sessions(&mut self, client: &mut Family) {
        for (to, session) in &mut self.sessions {
            self.scratch.clear();
            while session.poll_transmit(&mut self.scratch).is_some() {
                if client.peer_may_send(self.id, *to) {
                    let _fits = self.out.push(*to, None, &self.scratch);
                }
                self.scratch.clear();
            }
        }
    }

    fn drain_endpoint(&mut self, client: &mut Family) {
        let Some(endpoint) = &mut self.endpoint else {
            return;
        };
        self.scratch.clear();
        while let Some(transmit) = endpoint.poll_transmit(&mut self.scratch) {
            if client.peer_may_send(self.id, transmit.peer) {
                let _fits = self.out.push(transmit.peer, None, &self.scratch);
            }
            self.scratch.clear();
        }
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>, client: &mut Family) {
        self.drain_sessions(client);
        self.drain_endpoint(client);
        self.streams.flush(cx);
        // A broken socket shows when receiving; one that is full wakes us.
        let _sent = self.socket.poll_send(cx, &mut self.out);
    }

    /// Timers, and what was done in the background; true if anything came of it.
    pub(super) fn turn(&mut self, cx: &mut Context<'_>, hands: &mut Hands<'_>) -> bool {
        if let Some(endpoint) = &mut self.endpoint {
            endpoint.set_waker(cx.waker());
        }
        for (_, session) in &mut self.sessions {
            session.set_waker(cx.waker());
        }
        let mut progress = false;
        for _ in 0..EXPIRIES {
            let sessions = self.sessions.iter();
            let sessions = sessions.filter_map(|(_, session)| session.poll_timeout());
            let endpoint = self.endpoint.as_ref();
            let endpoint = endpoint.and_then(DtlsServerEndpoint::poll_timeout);
            let Some(due) = sessions.chain(endpoint).min() else {
                break;
            };
            let due = tokio::time::Instant::from_std(due);
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                break;
            }
            progress = true;
            let now = Instant::now();
            for (_, session) in &mut self.sessions {
                if session.poll_timeout().is_some_and(|due| due <= now) {
                    session.handle_timeout(now);
                }
            }
            if let Some(endpoint) = &mut self.endpoint {
                endpoint.handle_timeout(now);
            }
        }
        progress |= self.session_events(hands);
        progress |= self.endpoint_events(hands);
        progress
    }

    /// Takes a batch of datagrams.
    pub(super) fn receive(
        &mut self,
        cx: &mut Context<'_>,
        hands: &mut Hands<'_>,
        inbox: &mut RecvBatch,
    ) -> Poll<io::Result<()>> {
        ready!(self.socket.poll_recv(cx, inbox))?;
        for datagram in inbox.datagrams() {
            let from = SocketAddr::new(datagram.peer.ip().to_canonical(), datagram.peer.port());
            let bytes = datagram.bytes;
            let first = bytes.first().map(|first| FirstByte::classify(*first));
            if first != Some(FirstByte::Dtls) {
                let from = Candidate {
                    transport: Transport::Udp,
                    address: from,
                };
                let inbound = hands.client.peer_datagram(hands.now, self.id, from, bytes);
                deliver(inbound, hands);
            } else if hands.client.peer_admits(self.id, dtls(from)) {
                self.record(from, bytes, hands);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A record of a handshake or an association.
    fn record(&mut self, from: SocketAddr, bytes: &mut [u8], hands: &mut Hands<'_>) {
        let (id, now) = (self.id, hands.now);
        if let Some((_, session)) = self.sessions.iter_mut().find(|(peer, _)| *peer == from) {
            match session.open(bytes) {
                Opening::Data(range) => {
                    let unit = bytes.get(range).unwrap_or_default();
                    let inbound = hands.client.peer_datagram(now, id, dtls(from), unit);
                    deliver(inbound, hands);
                }
                Opening::Dropped => {}
                Opening::NotData => {
                    session.handle_datagram(now, bytes);
                    self.session_events(hands);
                }
            }
        } else if let Some(endpoint) = &mut self.endpoint {
            match endpoint.open(from, bytes) {
                Opened::Data(_, unit) => {
                    let inbound = hands.client.peer_datagram(now, id, dtls(from), unit);
                    deliver(inbound, hands);
                }
                Opened::Dropped => {}
                Opened::NotData => {
                    let key = endpoint.handle_datagram(now, from, bytes);
                    self.endpoint_events(hands);
                    if let Some(key) = key {
                        self.read(from, key, hands);
                    }
                }
            }
        }
    }

    /// What has become of the handshakes and associations with candidates.
    fn session_events(&mut self, hands: &mut Hands<'_>) -> bool {
        let (id, now) = (self.id, hands.now);
        let mut progress = false;
        let mut buffer = std::mem::take(&mut self.plain);
        let mut ended = Vec::new();
        for (address, session) in &mut self.sessions {
            while let Some(event) = session.poll_event() {
                progress = true;
                match event {
                    DtlsEvent::Connected(info) => match &info.peer {
                        Some(peer) => {
                            let fingerprint = Some(peer.fingerprint());
                            let with = dtls(*address);
                            hands.client.peer_connected(now, id, with, fingerprint);
                        }
                        None => ended.push(*address),
                    },
                    DtlsEvent::Closed(error) => {
                        tracing::debug!(%address, %error, "association with a peer ended");
                        ended.push(*address);
                    }
                }
            }
            buffer.resize(MAX_PLAINTEXT, 0);
            while let Some(len) = session.recv(&mut buffer) {
                progress = true;
                let unit = buffer.get(..len).unwrap_or_default();
                let inbound = hands.client.peer_datagram(now, id, dtls(*address), unit);
                deliver(inbound, hands);
            }
        }
        self.plain = buffer;
        self.sessions
            .retain(|(address, _)| !ended.contains(address));
        for address in ended {
            hands.client.peer_disconnected(now, id, dtls(address));
        }
        progress
    }

    /// What has become of the other end's handshakes and associations.
    fn endpoint_events(&mut self, hands: &mut Hands<'_>) -> bool {
        let (id, now) = (self.id, hands.now);
        let mut progress = false;
        while let Some(event) = self
            .endpoint
            .as_mut()
            .and_then(DtlsServerEndpoint::poll_event)
        {
            progress = true;
            match event {
                DtlsEndpointEvent::Connected { key, peer, info } => {
                    let address = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                    self.keys.retain(|(other, _)| *other != address);
                    self.keys.push((address, key));
                    if let Some(certificate) = &info.peer {
                        let fingerprint = Some(certificate.fingerprint());
                        let with = dtls(address);
                        hands.client.peer_connected(now, id, with, fingerprint);
                        self.read(address, key, hands);
                    }
                }
                DtlsEndpointEvent::Readable { key } => {
                    let found = self.keys.iter().find(|(_, other)| *other == key);
                    if let Some((address, _)) = found {
                        let address = *address;
                        self.read(address, key, hands);
                    }
                }
                DtlsEndpointEvent::Closed { key, error, .. } => {
                    let found = self.keys.iter().position(|(_, other)| *other == key);
                    if let Some(place) = found {
                        let (address, _) = self.keys.swap_remove(place);
                        tracing::debug!(%address, %error, "association with a peer ended");
                        hands.client.peer_disconnected(now, id, dtls(address));
                    }
                }
                other => tracing::debug!(event = ?other, "of a peer"),
            }
        }
        progress
    }

    fn read(&mut self, address: SocketAddr, key: AssociationKey, hands: &mut Hands<'_>) {
        let mut buffer = std::mem::take(&mut self.plain);
        buffer.resize(MAX_PLAINTEXT, 0);
        while let Some(endpoint) = &mut self.endpoint
            && let Some(len) = endpoint.recv(key, &mut buffer)
        {
            let unit = buffer.get(..len).unwrap_or_default();
            let inbound = hands
                .client
                .peer_datagram(hands.now, self.id, dtls(address), unit);
            deliver(inbound, hands);
        }
        self.plain = buffer;
    }
}

fn options() -> DtlsOptions {
    DtlsOptions {
        handshake_timeout: HANDSHAKE,
        // Each tunnel is with whom the server has named for it.
        resumption: false,
        ..DtlsOptions::default()
    }
}

const fn dtls(address: SocketAddr) -> Candidate {
    let transport = Transport::Dtls;
    Candidate { transport, address }
}

impl fmt::Debug for PeerPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerPath")
            .field("id", &self.id)
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
