//! Transports between clients and servers.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_csm::Transport;
use tsc_csm::client::{Epoch, TransportFailure, TransportLoss};
use tsc_csm::server::{BindingId, BindingInfo, BindingLoss};
use tsc_tpl::{Limits, StreamDecoder};

use crate::world::{ConnId, Pending, World};

/// A stream over which nothing gets through for so long is dead (TCP_USER_TIMEOUT, spec 5).
pub(crate) const STREAM_TIMEOUT: Duration = Duration::from_secs(30);
/// How often a stuck stream tries again.
pub(crate) const STREAM_RETRY: Duration = Duration::from_millis(500);

/// One transport, from the attempt to open it on.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) client: usize,
    pub(crate) epoch: Epoch,
    pub(crate) transport: Transport,
    pub(crate) server: usize,
    /// The client's own address.
    pub(crate) local: SocketAddr,
    /// The client's address as the server saw it first.
    pub(crate) public: SocketAddr,
    /// Nothing passes, as when one path of several is bad.
    pub(crate) stalled: bool,
    /// The server's end of a stream or DTLS association.
    pub(crate) binding: Option<BindingId>,
    pub(crate) up: VecDeque<Queued>,
    pub(crate) down: VecDeque<Queued>,
    pub(crate) client_decoder: StreamDecoder,
    pub(crate) server_decoder: StreamDecoder,
}

/// A piece of a stream under way.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) at: Instant,
    pub(crate) sent: Instant,
    pub(crate) item: Item,
}

/// What a stream carries.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Bytes(Bytes),
    /// The sender has closed it in order.
    End,
}

impl Item {
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::End => 0,
        }
    }
}

impl Conn {
    pub(crate) fn new(
        client: usize,
        epoch: Epoch,
        transport: Transport,
        server: usize,
        id: ConnId,
    ) -> Self {
        let host = u8::try_from(client % 250 + 1).unwrap_or(1);
        let net = u8::try_from(client / 250).unwrap_or(u8::MAX);
        let port = 10_000 + u16::try_from(id % 50_000).unwrap_or_default();
        let local = SocketAddr::from(([192, 0, net, host], port));
        Self {
            client,
            epoch,
            transport,
            server,
            local,
            public: local,
            stalled: false,
            binding: None,
            up: VecDeque::new(),
            down: VecDeque::new(),
            client_decoder: StreamDecoder::new(Limits::WIDEST),
            server_decoder: StreamDecoder::expecting_request(Limits::default()),
        }
    }
}

impl World {
    /// A client wants a transport.
    pub(crate) fn open(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else {
            return;
        };
        let (client, transport) = (conn.client, conn.transport);
        if transport == Transport::Udp {
            // A socket is all that plain UDP needs.
            let now = self.now;
            return self.schedule(now, Pending::Opened(id));
        }
        let path = &mut self.clients[client].path;
        if !path.firewall.passes(transport) || path.is_blocked() {
            return;
        }
        // One round trip for TCP, one more for TLS, two for DTLS; a lost flight costs its repetition.
        let round_trips = if transport == Transport::Tcp { 0 } else { 1 };
        let at = path.up.segment(self.now, 200) + path.round_trip() * round_trips;
        self.schedule(at, Pending::Accept(id));
    }

    pub(crate) fn accept(&mut self, id: ConnId) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let path = &mut self.clients[conn.client].path;
        if path.is_blocked() {
            return;
        }
        conn.public = match path.nat {
            Some(nat) => self.nats[nat.0].outbound(now, conn.local),
            None => conn.local,
        };
        let server = &mut self.servers[conn.server];
        let back = path.down.segment(now, 200);
        let identity = server.identity_of(conn.client, conn.transport);
        let info = BindingInfo {
            interface: 0,
            transport: conn.transport,
            peer: conn.public,
            local: server.local(conn.transport),
            identity,
        };
        let opened = if server.is_up {
            server.core.open_binding(now, info).ok()
        } else {
            None
        };
        match opened {
            Some(binding) => {
                conn.binding = Some(binding);
                server.conns.insert(binding, id);
                let number = conn.server;
                self.schedule(back, Pending::Opened(id));
                self.drain_server(number);
            }
            None => self.schedule(back, Pending::Refused(id)),
        }
    }

    pub(crate) fn opened(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(&id) {
            let (client, epoch) = (conn.client, conn.epoch);
            self.clients[client].core.transport_opened(self.now, epoch);
            self.drain_client(client);
        }
    }

    pub(crate) fn refused(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.remove(&id) {
            let failure = TransportFailure::Unreachable;
            self.clients[conn.client]
                .core
                .transport_failed(self.now, conn.epoch, failure);
            self.drain_client(conn.client);
        }
    }

    /// The head of a stream's queue may arrive.
    pub(crate) fn pump(&mut self, id: ConnId, up: bool) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let blocked = conn.stalled || self.clients[conn.client].path.is_blocked();
        let queue = if up { &mut conn.up } else { &mut conn.down };
        let Some(head) = queue.front().filter(|head| head.at <= now) else {
            return;
        };
        if blocked {
            if now - head.sent >= STREAM_TIMEOUT {
                return self.break_conn(id);
            }
            return self.schedule(now + STREAM_RETRY, Pending::Pump(id, up));
        }
        let Some(Queued { item, .. }) = queue.pop_front() else {
            return;
        };
        if let Some(next) = queue.front().map(|next| next.at.max(now)) {
            self.schedule(next, Pending::Pump(id, up));
        }
        match (item, up) {
            (Item::Bytes(bytes), true) => self.stream_at_server(id, &bytes),
            (Item::Bytes(bytes), false) => self.stream_at_client(id, &bytes),
            (Item::End, up) => self.ended(id, up),
        }
    }

    /// Breaks a transport: both ends learn that it failed.
    pub(crate) fn break_conn(&mut self, id: ConnId) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        self.clients[conn.client]
            .core
            .transport_lost(self.now, conn.epoch, TransportLoss::Failed);
        if let Some(binding) = conn.binding {
            let server = &mut self.servers[conn.server];
            server.conns.remove(&binding);
            server
                .core
                .binding_lost(self.now, binding, BindingLoss::Failed);
        }
        self.drain_client(conn.client);
        self.drain_server(conn.server);
    }

    /// An orderly end arrives.
    pub(crate) fn ended(&mut self, id: ConnId, at_server: bool) {
        let Some(conn) = self.conns.remove(&id) else {
            return;
        };
        if at_server {
            if let Some(binding) = conn.binding {
                let server = &mut self.servers[conn.server];
                server.conns.remove(&binding);
                server
                    .core
                    .binding_lost(self.now, binding, BindingLoss::ClosedByClient);
                self.drain_server(conn.server);
            }
        } else {
            let client = &mut self.clients[conn.client];
            client
                .core
                .transport_lost(self.now, conn.epoch, TransportLoss::ClosedByServer);
            self.drain_client(conn.client);
        }
    }
}
