//! Streams between clients: peer tunnels over TCP and TLS.
//!
//! ```text
//!   one client's up link --> the other's down link: a connection, if that has a TCP port which no NAT hides
//! ```
//!
//! A connection takes a round trip, TLS another one. What is lost on the way costs time; a stream over which nothing gets through for
//! 30 s breaks.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tsc_csm::client::{Inbound, PathId};
use tsc_csm::{Candidate, Transport};
use tsc_tpl::{Limits, StreamDecoder};

use crate::conn::{Item, Queued, STREAM_RETRY, STREAM_TIMEOUT};
use crate::packet;
use crate::world::{ClientId, Pending, World};

/// Names a stream between clients.
pub type StreamId = u64;

/// The streams of the world.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    all: BTreeMap<StreamId, Stream>,
    next: StreamId,
    is_stalled: bool,
    /// Takes connections at a client's network, and hears what is said.
    third_party: Option<SocketAddr>,
    heard: Vec<u8>,
}

#[derive(Debug)]
struct Stream {
    transport: Transport,
    /// The one who has begun it is first.
    ends: [End; 2],
}

#[derive(Debug)]
struct End {
    /// `None`: a stranger.
    owner: Option<(usize, PathId)>,
    /// The other end, as this one knows it.
    other: SocketAddr,
    decoder: StreamDecoder,
    /// On the way from here.
    queue: VecDeque<Queued>,
    is_closed: bool,
    /// What a stranger has heard.
    heard: Vec<u8>,
}

impl End {
    fn new(owner: Option<(usize, PathId)>, other: SocketAddr, decoder: StreamDecoder) -> Self {
        Self {
            owner,
            other,
            decoder,
            queue: VecDeque::new(),
            is_closed: false,
            heard: Vec::new(),
        }
    }
}

impl World {
    /// How many streams there are between clients.
    #[must_use]
    pub fn peer_streams(&self) -> usize {
        self.streams.all.len()
    }

    /// Breaks all streams between clients: both ends learn of it.
    pub fn break_peer_streams(&mut self) {
        let all: Vec<StreamId> = self.streams.all.keys().copied().collect();
        for id in all {
            self.break_stream(id);
        }
    }

    /// Somebody who has nothing to do with all this takes connections at this address.
    pub fn third_party(&mut self, address: SocketAddr) {
        self.streams.third_party = Some(address);
    }

    /// What was said to it.
    #[must_use]
    pub fn third_party_heard(&self) -> &[u8] {
        &self.streams.heard
    }

    /// Lets nothing through any more on streams between clients, in silence, or everything again.
    pub fn stall_peer_streams(&mut self, stalled: bool) {
        self.streams.is_stalled = stalled;
    }

    /// Somebody connects to a client's TCP port from anywhere, and shows this certificate under protection. `None` if the connection
    /// is not taken, or there is no such port.
    pub fn stranger_connects(
        &mut self,
        client: ClientId,
        from: SocketAddr,
        shown: Option<[u8; 32]>,
    ) -> Option<StreamId> {
        let listening = self.sockets.listening();
        let (name, to) = listening.into_iter().find(|(of, _)| of.0 == client.0)?;
        let transport = match shown {
            Some(_) => Transport::Tls,
            None => Transport::Tcp,
        };
        let id = self.add_stream(transport, None, from, Some(name), to);
        let taken = self.take_stream(id, shown);
        if !taken {
            self.streams.all.remove(&id);
        }
        self.drain_client(client.0);
        taken.then_some(id)
    }

    /// It says something.
    pub fn stranger_says(&mut self, id: StreamId, bytes: &[u8]) {
        self.stream_bytes(id, 1, bytes);
    }

    /// What it has heard so far; `None` when the stream is gone.
    #[must_use]
    pub fn stranger_hears(&self, id: StreamId) -> Option<&[u8]> {
        let stream = self.streams.all.get(&id)?;
        Some(&stream.ends[0].heard)
    }

    fn add_stream(
        &mut self,
        transport: Transport,
        beginner: Option<(usize, PathId)>,
        from: SocketAddr,
        listener: Option<(usize, PathId)>,
        to: SocketAddr,
    ) -> StreamId {
        self.streams.next += 1;
        let id = self.streams.next;
        let ends = [
            End::new(beginner, to, StreamDecoder::new(Limits::WIDEST)),
            End::new(
                listener,
                from,
                StreamDecoder::expecting_request(Limits::WIDEST),
            ),
        ];
        self.streams.all.insert(id, Stream { transport, ends });
        id
    }

    /// A client connects to a candidate.
    pub(crate) fn begin_stream(&mut self, client: usize, path: PathId, to: Candidate) {
        let now = self.now;
        let Some(own) = self.sockets.local(client, path) else {
            return;
        };
        if self.streams.third_party == Some(to.address) {
            let from = SocketAddr::new(own.ip(), 40_000);
            let id = self.add_stream(to.transport, Some((client, path)), from, None, to.address);
            // It knows nothing of TLS.
            if to.transport == Transport::Tcp {
                self.schedule(now, Pending::StreamOpen(id));
            }
            return;
        }
        let listening = self.sockets.listening();
        let found = listening.iter().find(|(_, at)| *at == to.address);
        let Some((listener, _)) = found.copied() else {
            return;
        };
        let home = self.clients[client].path.nat;
        let their = self.clients[listener.0].path.nat;
        let is_near = home.is_some() && home == their;
        let passes = [client, listener.0].iter().all(|client| {
            let path = &self.clients[*client].path;
            path.firewall.passes(to.transport) && !path.is_blocked()
        });
        // Nobody connects through a NAT from outside.
        if !passes || (their.is_some() && !is_near) {
            return;
        }
        let port = 40_000 + u16::try_from(self.streams.next % 10_000).unwrap_or_default();
        let inside = SocketAddr::new(own.ip(), port);
        let from = match home {
            Some(nat) if !is_near => self.nats[nat.0].outbound_to(now, inside, to.address),
            _ => inside,
        };
        let id = self.add_stream(
            to.transport,
            Some((client, path)),
            from,
            Some(listener),
            to.address,
        );
        let mut at = now;
        // The connection, and with TLS a hello and its answer before the listener is content.
        let crossings = if to.transport.is_protected() { 3 } else { 1 };
        for crossing in 0..crossings {
            let towards = crossing % 2 == 0;
            at = self.crossing(at, client, listener.0, towards, 200);
        }
        self.schedule(at, Pending::StreamComes(id));
    }

    /// When a piece that leaves at this time is at the other client; `true` is from the first to the second.
    fn crossing(
        &mut self,
        at: Instant,
        first: usize,
        second: usize,
        towards: bool,
        len: usize,
    ) -> Instant {
        let (from, to) = if towards {
            (first, second)
        } else {
            (second, first)
        };
        let half = self.clients[from].path.up.segment(at, len);
        self.clients[to].path.down.segment(half, len)
    }

    /// The listener hears of a stream.
    pub(crate) fn stream_comes(&mut self, id: StreamId) {
        let Some(stream) = self.streams.all.get(&id) else {
            return;
        };
        let [first, second] = &stream.ends;
        let (Some((beginner, _)), Some((listener, _))) = (first.owner, second.owner) else {
            return;
        };
        let protected = stream.transport.is_protected();
        let shown = protected.then(|| self.shown(beginner));
        let is_taken = self.take_stream(id, shown);
        let at = self.crossing(self.now, beginner, listener, false, 200);
        let answer = if is_taken {
            Pending::StreamOpen(id)
        } else {
            Pending::StreamRefused(id)
        };
        self.schedule(at, answer);
        self.drain_client(listener);
    }

    /// Whether the owner and the machine of the listener take a stream.
    fn take_stream(&mut self, id: StreamId, shown: Option<[u8; 32]>) -> bool {
        let Some(stream) = self.streams.all.get(&id) else {
            return false;
        };
        let end = &stream.ends[1];
        let Some((client, path)) = end.owner else {
            return false;
        };
        let from = Candidate {
            transport: stream.transport,
            address: end.other,
        };
        let now = self.now;
        let is_guest = self.sockets.takes(client, path, from);
        let core = &mut self.clients[client].core;
        let is_taken = is_guest && core.peer_admits(path, from);
        if is_taken {
            core.peer_connected(now, path, from, shown.as_ref());
        }
        is_taken
    }

    /// The beginner hears that it is taken.
    pub(crate) fn stream_open(&mut self, id: StreamId) {
        let Some(stream) = self.streams.all.get(&id) else {
            return;
        };
        let [first, second] = &stream.ends;
        let Some((client, path)) = first.owner else {
            return;
        };
        let with = Candidate {
            transport: stream.transport,
            address: first.other,
        };
        let protected = stream.transport.is_protected();
        let shown = second.owner.filter(|_| protected);
        let shown = shown.map(|(listener, _)| self.shown(listener));
        let now = self.now;
        let core = &mut self.clients[client].core;
        core.peer_connected(now, path, with, shown.as_ref());
        self.drain_client(client);
    }

    pub(crate) fn stream_refused(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.all.remove(&id) {
            self.stream_gone(&stream, 0);
        }
    }

    /// An end's owner learns that the stream is gone.
    fn stream_gone(&mut self, stream: &Stream, end: usize) {
        let end = &stream.ends[end];
        let Some((client, path)) = end.owner.filter(|_| !end.is_closed) else {
            return;
        };
        let with = Candidate {
            transport: stream.transport,
            address: end.other,
        };
        let now = self.now;
        self.clients[client].core.peer_disconnected(now, path, with);
        self.drain_client(client);
    }

    fn break_stream(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.all.remove(&id) {
            self.stream_gone(&stream, 0);
            self.stream_gone(&stream, 1);
        }
    }

    /// Of a client's path, the stream to somebody, and which end of it the client is.
    fn stream_of(
        &self,
        client: usize,
        path: PathId,
        other: Candidate,
    ) -> Option<(StreamId, usize)> {
        self.streams.all.iter().find_map(|(id, stream)| {
            let is_it = |end: &End| {
                end.owner == Some((client, path))
                    && end.other == other.address
                    && stream.transport == other.transport
                    && !end.is_closed
            };
            Some((*id, stream.ends.iter().position(is_it)?))
        })
    }

    pub(crate) fn stream_send(&mut self, client: usize, path: PathId, to: Candidate, item: Item) {
        let Some((id, end)) = self.stream_of(client, path, to) else {
            return;
        };
        let now = self.now;
        let other = self
            .streams
            .all
            .get(&id)
            .map(|stream| &stream.ends[1 - end]);
        let at = match other.and_then(|other| other.owner) {
            Some((other, _)) => self.crossing(now, client, other, true, item.len()),
            None => now,
        };
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let from = &mut stream.ends[end];
        from.is_closed |= matches!(item, Item::End);
        from.queue.push_back(Queued {
            at,
            sent: now,
            item,
        });
        if from.queue.len() == 1 {
            self.schedule(at, Pending::PumpStream(id, end));
        }
    }

    /// All streams of a path are closed by its owner.
    pub(crate) fn close_streams(&mut self, client: usize, path: PathId) {
        let all = self.streams.all.values();
        let others = all.flat_map(|stream| {
            let ends = stream.ends.iter();
            let own = ends.filter(|end| end.owner == Some((client, path)) && !end.is_closed);
            own.map(|end| Candidate {
                transport: stream.transport,
                address: end.other,
            })
        });
        let others: Vec<Candidate> = others.collect();
        for other in others {
            self.stream_send(client, path, other, Item::End);
        }
    }

    /// The head of what an end has sent may arrive.
    pub(crate) fn pump_stream(&mut self, id: StreamId, end: usize) {
        let now = self.now;
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let owners = [0, 1].map(|end| stream.ends[end].owner);
        let is_blocked = owners.iter().flatten().any(|(client, _)| {
            let path = &self.clients[*client].path;
            path.is_blocked() || !path.firewall.passes(stream.transport)
        });
        let is_blocked = is_blocked || self.streams.is_stalled;
        let queue = &mut stream.ends[end].queue;
        let Some(head) = queue.front() else { return };
        if is_blocked {
            if now - head.sent >= STREAM_TIMEOUT {
                return self.break_stream(id);
            }
            return self.schedule(now + STREAM_RETRY, Pending::PumpStream(id, end));
        }
        let Some(Queued { item, .. }) = queue.pop_front() else {
            return;
        };
        if let Some(next) = queue.front().map(|next| next.at.max(now)) {
            self.schedule(next, Pending::PumpStream(id, end));
        }
        match item {
            Item::Bytes(bytes) => self.stream_bytes(id, 1 - end, &bytes),
            Item::End => {
                if let Some(stream) = self.streams.all.remove(&id) {
                    self.stream_gone(&stream, 1 - end);
                }
            }
        }
    }

    /// Bytes arrive at an end.
    fn stream_bytes(&mut self, id: StreamId, end: usize, bytes: &[u8]) {
        let (now, elapsed) = (self.now, self.elapsed());
        let Some(stream) = self.streams.all.get_mut(&id) else {
            return;
        };
        let transport = stream.transport;
        let at = &mut stream.ends[end];
        let Some((client, path)) = at.owner else {
            at.heard.extend_from_slice(bytes);
            return self.streams.heard.extend_from_slice(bytes);
        };
        if at.is_closed {
            return;
        }
        let from = Candidate {
            transport,
            address: at.other,
        };
        let node = &mut self.clients[client];
        let mut feed = at.decoder.feed(bytes);
        let is_broken = loop {
            match feed.next() {
                Ok(Some(unit)) => {
                    let inbound = node.core.peer_unit(now, path, from, unit);
                    if let Inbound::Deliver(packet) = inbound {
                        let payload = packet::payload(packet.as_bytes()).to_vec();
                        node.received.push((elapsed, payload));
                    }
                }
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        if is_broken {
            self.break_stream(id);
        }
        self.drain_client(client);
    }
}

impl From<&[u8]> for Item {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}
