//! The world: clients, servers, what lies between them, and the clock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tsc_csm::Transport;
use tsc_csm::client::{ClientConfig, Epoch, PathId, Target};
use tsc_csm::server::ServerConfig;

use crate::client::ClientNode;
use crate::conn::{Conn, Item};
use crate::link::Link;
use crate::nat::Nat;
use crate::path::{NatId, Path, PathConfig};
use crate::peer_streams::{StreamId, Streams};
use crate::peers::{Meddler, Sockets};
use crate::rng::Rng;
use crate::server::{ServerNode, Setup};

/// A client of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(pub(crate) usize);

/// A server of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerId(pub(crate) usize);

/// A transport between a client and a server, also while it is being opened.
pub(crate) type ConnId = u64;

/// Most events of one run: a world that needs more is stuck in a loop.
const MAX_STEPS: u64 = 20_000_000;

/// What will happen.
#[derive(Debug)]
pub(crate) enum Pending {
    /// The client's first flight has arrived: the server accepts, or not.
    Accept(ConnId),
    /// The server's answer has arrived: the transport is open.
    Opened(ConnId),
    /// The other end, or something on the way, said no.
    Refused(ConnId),
    /// A datagram from a client arrives at a server.
    Up {
        server: usize,
        transport: Transport,
        conn: ConnId,
        from: SocketAddr,
        bytes: Bytes,
    },
    /// A datagram from a server arrives at the client's side of the network.
    Down {
        server: usize,
        transport: Transport,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// The head of a stream's queue may arrive; `true` is towards the server.
    Pump(ConnId, bool),
    /// A record that ends a DTLS association arrives; `true` is at the server.
    Ended(ConnId, bool),
    /// A datagram of a peer tunnel's socket is between the networks.
    Between {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// It arrives at a socket.
    Direct {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// A hello is to be repeated.
    Hello {
        client: usize,
        path: PathId,
        to: SocketAddr,
        flight: usize,
    },
    /// A stream of a client arrives at another.
    StreamComes(StreamId),
    /// The one who has begun it hears that it is taken, or that it is not.
    StreamOpen(StreamId),
    StreamRefused(StreamId),
    /// The head of what an end of it has sent may arrive.
    PumpStream(StreamId, usize),
    /// Raw bytes of a stranger arrive at a server's UDP socket.
    Stranger {
        server: usize,
        from: SocketAddr,
        bytes: Bytes,
    },
}

/// Clients and servers on one virtual clock. Everything random comes from one seed.
pub struct World {
    pub(crate) seed: u64,
    start: Instant,
    pub(crate) now: Instant,
    pub(crate) rng: Rng,
    pub(crate) servers: Vec<ServerNode>,
    pub(crate) clients: Vec<ClientNode>,
    pub(crate) nats: Vec<Nat>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    next_conn: ConnId,
    queue: BinaryHeap<Reverse<(Instant, u64)>>,
    pending: BTreeMap<u64, Pending>,
    next_event: u64,
    steps: u64,
    trace: Option<Vec<String>>,
    pub(crate) sockets: Sockets,
    pub(crate) streams: Streams,
    pub(crate) meddler: Option<Meddler>,
}

impl World {
    /// An empty world. The seed is in every message of a failed invariant.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            seed,
            start,
            now: start,
            rng: Rng::new(seed),
            servers: Vec::new(),
            clients: Vec::new(),
            nats: Vec::new(),
            conns: BTreeMap::new(),
            next_conn: 0,
            queue: BinaryHeap::new(),
            pending: BTreeMap::new(),
            next_event: 0,
            steps: 0,
            sockets: Sockets::default(),
            streams: Streams::default(),
            meddler: None,
            // TSC_SIM_TRACE=1 prints every message of a failing test.
            trace: std::env::var_os("TSC_SIM_TRACE").map(|_| Vec::new()),
        }
    }

    /// Adds a server. It listens at 203.0.113.(1 + number) on TCP 5060, TLS 5061, UDP 5060 and DTLS 5061.
    ///
    /// # Panics
    ///
    /// If the configuration is refused.
    pub fn add_server(&mut self, config: ServerConfig) -> ServerId {
        self.add_server_with(config, Setup::default())
    }

    /// Adds a server with identities for its clients' certificates.
    ///
    /// # Panics
    ///
    /// If the configuration is refused.
    pub fn add_server_with(&mut self, config: ServerConfig, setup: Setup) -> ServerId {
        let number = self.servers.len();
        let rng = self.rng.fork();
        let node = ServerNode::new(self.seed, number, config, setup, self.now, rng);
        self.servers.push(node);
        ServerId(number)
    }

    /// Adds a NAT with an outer address of its own.
    pub fn add_nat(&mut self, idle: Duration) -> NatId {
        let number = self.nats.len();
        let last = u8::try_from(number + 1).unwrap_or(u8::MAX);
        self.nats
            .push(Nat::new(IpAddr::from([198, 51, 100, last]), idle));
        NatId(number)
    }

    /// Adds a client, not yet started. `Endpoint::Configured(n)` in its targets is server `n` of the world.
    ///
    /// # Panics
    ///
    /// If the configuration is refused.
    pub fn add_client(&mut self, config: ClientConfig, path: PathConfig) -> ClientId {
        let number = self.clients.len();
        let (up, down) = (self.rng.fork(), self.rng.fork());
        let path = Path {
            nat: path.nat,
            firewall: path.firewall,
            up: Link::new(path.up, up),
            down: Link::new(path.down, down),
        };
        let rng = self.rng.fork();
        self.clients
            .push(ClientNode::new(number, config, path, rng));
        ClientId(number)
    }

    /// Time since the world began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    /// The virtual clock.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// The seed that the world was made from.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    /// The path of a client, to be changed at will.
    pub fn path(&mut self, client: ClientId) -> &mut Path {
        &mut self.clients[client.0].path
    }

    /// A NAT.
    pub fn nat(&mut self, nat: NatId) -> &mut Nat {
        &mut self.nats[nat.0]
    }

    /// Lets `span` pass.
    ///
    /// # Panics
    ///
    /// If an invariant is broken, or the machines keep each other busy without end.
    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while let Some(at) = self.next_time().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.step();
        }
        self.now = end;
    }

    /// Lets time pass until `done`, for `limit` at most; tells whether it came to that.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            if done(self) {
                return true;
            }
            let Some(at) = self.next_time().filter(|at| *at <= end) else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(at);
            self.step();
        }
    }

    /// The messages so far, if `TSC_SIM_TRACE` is set.
    #[must_use]
    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or_default()
    }

    fn next_time(&self) -> Option<Instant> {
        let event = self.queue.peek().map(|Reverse((at, _))| *at);
        let clients = self
            .clients
            .iter()
            .filter_map(|node| node.core.poll_timeout());
        let servers = self
            .servers
            .iter()
            .filter_map(|node| node.core.poll_timeout());
        clients.chain(servers).chain(event).min()
    }

    /// Handles all that is due now.
    fn step(&mut self) {
        self.steps += 1;
        assert!(
            self.steps < MAX_STEPS,
            "seed {}: the world does not come to rest",
            self.seed
        );
        let now = self.now;
        if let Some(Reverse((at, number))) = self.queue.peek().copied()
            && at <= now
        {
            self.queue.pop();
            if let Some(pending) = self.pending.remove(&number) {
                self.happen(pending);
            }
        }
        for client in 0..self.clients.len() {
            if self.clients[client]
                .core
                .poll_timeout()
                .is_some_and(|at| at <= now)
            {
                self.clients[client].core.handle_timeout(now);
                self.drain_client(client);
            }
        }
        for server in 0..self.servers.len() {
            if self.servers[server]
                .core
                .poll_timeout()
                .is_some_and(|at| at <= now)
            {
                self.servers[server].core.handle_timeout(now);
                self.drain_server(server);
            }
        }
    }

    fn happen(&mut self, pending: Pending) {
        match pending {
            Pending::Accept(conn) => self.accept(conn),
            Pending::Opened(conn) => self.opened(conn),
            Pending::Refused(conn) => self.refused(conn),
            Pending::Up {
                server,
                transport,
                conn,
                from,
                bytes,
            } => {
                if transport == Transport::Udp {
                    self.stranger_at_server(server, from, &bytes);
                } else {
                    self.record_at_server(conn, from, &bytes);
                }
            }
            Pending::Down {
                server,
                transport,
                to,
                bytes,
            } => {
                self.datagram_at_client(server, transport, to, &bytes);
            }
            Pending::Pump(conn, up) => self.pump(conn, up),
            Pending::Ended(conn, at_server) => self.ended(conn, at_server),
            Pending::Between { from, to, bytes } => self.peer_between(from, to, &bytes),
            Pending::Direct { from, to, bytes } => self.peer_arrived(from, to, &bytes),
            Pending::Hello {
                client,
                path,
                to,
                flight,
            } => self.hello(client, path, to, flight),
            Pending::StreamComes(id) => self.stream_comes(id),
            Pending::StreamOpen(id) => self.stream_open(id),
            Pending::StreamRefused(id) => self.stream_refused(id),
            Pending::PumpStream(id, end) => self.pump_stream(id, end),
            Pending::Stranger {
                server,
                from,
                bytes,
            } => self.stranger_at_server(server, from, &bytes),
        }
    }

    pub(crate) fn schedule(&mut self, at: Instant, pending: Pending) {
        let number = self.next_event;
        self.next_event += 1;
        self.queue.push(Reverse((at, number)));
        self.pending.insert(number, pending);
    }

    pub(crate) fn new_conn(
        &mut self,
        client: usize,
        epoch: Epoch,
        target: Target,
        server: usize,
    ) -> ConnId {
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns
            .insert(id, Conn::new(client, epoch, target.transport, server, id));
        id
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        let elapsed = self.elapsed();
        if let Some(trace) = &mut self.trace {
            let line = format!("{:>10.4} {}", elapsed.as_secs_f64(), text());
            println!("{line}");
            trace.push(line);
        }
    }

    /// Puts a piece of a stream on its way.
    pub(crate) fn push_stream(&mut self, id: ConnId, up: bool, item: Item) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else {
            return;
        };
        let path = &mut self.clients[conn.client].path;
        let link = if up { &mut path.up } else { &mut path.down };
        let at = link.segment(now, item.len());
        let queue = if up { &mut conn.up } else { &mut conn.down };
        let at = queue.back().map_or(at, |last| at.max(last.at));
        queue.push_back(crate::conn::Queued {
            at,
            sent: now,
            item,
        });
        self.schedule(at, Pending::Pump(id, up));
    }
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("elapsed", &self.elapsed())
            .finish_non_exhaustive()
    }
}
