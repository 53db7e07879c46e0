//! One endpoint and its clients, joined by a network that loses, repeats and reorders. No sockets. Real time
//! passes only when nothing else can happen.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tsc_osaa::cert::{ClientAuth, ClientSecurity, ServerName, ServerSecurity};
use tsc_osaa::dtls::{
    AssociationKey, DtlsClientConfig, DtlsEndpointEvent, DtlsEndpointLimits, DtlsError, DtlsEvent,
    DtlsInfo, DtlsOptions, DtlsServerConfig, DtlsServerEndpoint, DtlsSession, DtlsState,
    MAX_PLAINTEXT,
};

use super::Pair;
use super::pki::{self, PKI, SERVER_NAME};

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Default)]
pub struct Conditions {
    /// Probabilities per datagram.
    pub loss: f64,
    pub duplication: f64,
    pub reordering: f64,
}

pub struct World {
    pub pair: Pair,
    pub endpoint: DtlsServerEndpoint,
    pub clients: Vec<Client>,
    pub connected: Vec<(AssociationKey, SocketAddr, DtlsInfo)>,
    pub ended: Vec<(SocketAddr, DtlsError)>,
    pub received: Vec<(AssociationKey, Vec<u8>)>,
    /// Every datagram that was put on the network, towards the endpoint (true) or a client.
    pub sent: Vec<(bool, SocketAddr, Vec<u8>)>,
    /// Whether the server sends back what it receives.
    pub echo: bool,
    pub conditions: Conditions,
    network: VecDeque<(bool, SocketAddr, Vec<u8>)>,
    random: u64,
    notify: Arc<Bell>,
    next_port: u16,
}

pub struct Client {
    pub address: SocketAddr,
    pub session: Box<dyn DtlsSession>,
    pub info: Option<DtlsInfo>,
    pub error: Option<DtlsError>,
    pub received: Vec<Vec<u8>>,
}

struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }
}

/// How to set a world up; `World::new` takes good certificates and no client authentication.
pub struct Setup {
    pub pair: Pair,
    pub server: ServerSecurity,
    pub options: DtlsOptions,
    pub limits: DtlsEndpointLimits,
}

impl Setup {
    pub fn new(pair: Pair) -> Self {
        Self {
            pair,
            server: pki::server_security(&PKI.server, ClientAuth::None),
            options: DtlsOptions {
                first_retransmission: Duration::from_millis(100),
                ..DtlsOptions::default()
            },
            limits: DtlsEndpointLimits::default(),
        }
    }

    pub fn build(self) -> World {
        let config = DtlsServerConfig::new(self.pair.server, &self.server, &self.options).unwrap();
        let mut endpoint = DtlsServerEndpoint::new(&config, self.limits, &[7; 32]);
        let notify = Arc::new(Bell(Notify::new()));
        endpoint.set_waker(&Waker::from(Arc::clone(&notify)));
        World {
            pair: self.pair,
            endpoint,
            clients: Vec::new(),
            connected: Vec::new(),
            ended: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
            echo: true,
            conditions: Conditions::default(),
            network: VecDeque::new(),
            random: 0x9E37_79B9_7F4A_7C15,
            notify,
            next_port: 40_000,
        }
    }
}

impl World {
    pub fn new(pair: Pair) -> Self {
        Setup::new(pair).build()
    }

    pub fn seed(&mut self, seed: u64) {
        self.random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }

    /// Adds a client and starts its handshake; returns its index.
    pub fn add_client(&mut self, security: &ClientSecurity, name: &str) -> usize {
        let port = self.next_port;
        self.next_port += 1;
        self.add_client_at(
            SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            security,
            name,
        )
    }

    /// As [`Self::add_client`], with other options.
    pub fn add_client_with(
        &mut self,
        options: &DtlsOptions,
        security: &ClientSecurity,
        name: &str,
    ) -> usize {
        let port = self.next_port;
        self.next_port += 1;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        self.start_client(address, options, security, name)
    }

    pub fn add_client_at(
        &mut self,
        address: SocketAddr,
        security: &ClientSecurity,
        name: &str,
    ) -> usize {
        let options = DtlsOptions {
            first_retransmission: Duration::from_millis(100),
            ..DtlsOptions::default()
        };
        self.start_client(address, &options, security, name)
    }

    fn start_client(
        &mut self,
        address: SocketAddr,
        options: &DtlsOptions,
        security: &ClientSecurity,
        name: &str,
    ) -> usize {
        let config = DtlsClientConfig::new(self.pair.client, security, options).unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut session = config.connect(Instant::now(), &name).unwrap();
        session.set_waker(&Waker::from(Arc::clone(&self.notify)));
        self.clients.push(Client {
            address,
            session,
            info: None,
            error: None,
            received: Vec::new(),
        });
        self.clients.len() - 1
    }

    /// Adds a client with default security and brings it up.
    pub async fn connect(&mut self) -> usize {
        let index = self.add_client(&pki::client_security(None), SERVER_NAME);
        self.until_connected(index).await;
        index
    }

    pub async fn until_connected(&mut self, index: usize) {
        let address = self.clients[index].address;
        self.run_until("connected", |world| {
            let client = &world.clients[index];
            assert!(client.error.is_none(), "client: {:?}", client.error);
            client.info.is_some() && world.endpoint.find(address).is_some()
        })
        .await;
    }

    /// Lets things happen until `done`, which is looked at after each round.
    pub async fn run_until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        loop {
            let moved = self.round();
            if done(self) {
                return;
            }
            if moved {
                continue;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "not {what}: {:?} {:?} {:?} {:?}",
                self.endpoint.stats(),
                self.ended,
                self.clients
                    .iter()
                    .map(|client| (client.session.state(), &client.error))
                    .collect::<Vec<_>>(),
                self.pair,
            );
            let wait = self
                .next_deadline()
                .map_or(PATIENCE, |at| at.saturating_duration_since(Instant::now()))
                .min(PATIENCE.saturating_sub(started.elapsed()));
            // Either the background work of a backend rings, or a deadline comes.
            let _ = tokio::time::timeout(wait, self.notify.0.notified()).await;
            self.handle_timeouts();
        }
    }

    /// One round, and a moment for what happens in the background if there was nothing to do.
    pub async fn tick(&mut self) {
        if !self.round() {
            let moment = Duration::from_millis(20);
            let _ = tokio::time::timeout(moment, self.notify.0.notified()).await;
            self.handle_timeouts();
        }
    }

    /// Lets everything happen that needs no timer, including background work: it is settled when nothing rings
    /// for a moment. Only for tests that show that something does *not* happen.
    pub async fn settle(&mut self) {
        loop {
            if self.round() {
                continue;
            }
            let quiet = Duration::from_millis(150);
            if tokio::time::timeout(quiet, self.notify.0.notified())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Takes the endpoint of another world in the place of this one's, as a second worker.
    pub fn use_endpoint_of(&mut self, other: Self) {
        self.endpoint = other.endpoint;
        let waker = Waker::from(Arc::clone(&self.notify));
        self.endpoint.set_waker(&waker);
    }

    /// Puts a datagram on the wire towards the endpoint, past the conditions.
    pub fn inject(&mut self, from: SocketAddr, datagram: &[u8]) {
        let key = self
            .endpoint
            .handle_datagram(Instant::now(), from, datagram);
        self.drain_endpoint(key);
    }

    /// Gives a datagram to a client, past the conditions.
    pub fn inject_to_client(&mut self, index: usize, datagram: &[u8]) {
        self.clients[index]
            .session
            .handle_datagram(Instant::now(), datagram);
        self.drain_client(index);
    }

    pub fn key(&self, index: usize) -> AssociationKey {
        self.endpoint.find(self.clients[index].address).unwrap()
    }

    /// One echo; fails if it does not come back within patience. Repeats for lossy networks.
    pub async fn assert_alive(&mut self, index: usize) {
        self.echo = true;
        let text = format!("alive {}", self.random());
        let before = self.conditions;
        self.conditions = Conditions::default();
        self.clients[index].session.send(text.as_bytes()).unwrap();
        self.run_until("echoed", |world| {
            world.clients[index]
                .received
                .iter()
                .any(|data| data == text.as_bytes())
        })
        .await;
        self.conditions = before;
    }

    /// Loses all that was sent and not delivered.
    pub fn drop_what_is_on_the_wire(&mut self) {
        self.network.clear();
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.clients
            .iter()
            .filter_map(|client| client.session.poll_timeout())
            .chain(self.endpoint.poll_timeout())
            .min()
    }

    fn handle_timeouts(&mut self) {
        let now = Instant::now();
        if self.endpoint.poll_timeout().is_some_and(|at| at <= now) {
            self.endpoint.handle_timeout(now);
        }
        for client in &mut self.clients {
            if client.session.poll_timeout().is_some_and(|at| at <= now) {
                client.session.handle_timeout(now);
            }
        }
    }

    /// Drains everybody once and delivers what is on the wire. True if anything moved.
    pub fn round(&mut self) -> bool {
        let mut moved = self.drain_endpoint(None);
        for index in 0..self.clients.len() {
            moved |= self.drain_client(index);
        }
        // Only what is there now, so that answers come in the next round.
        for _ in 0..self.network.len() {
            let Some((to_server, address, datagram)) = self.network.pop_front() else {
                break;
            };
            moved = true;
            if to_server {
                self.inject(address, &datagram);
            } else if let Some(index) = self
                .clients
                .iter()
                .rposition(|client| client.address == address)
            {
                self.inject_to_client(index, &datagram);
            }
        }
        moved
    }

    fn drain_endpoint(&mut self, key: Option<AssociationKey>) -> bool {
        let mut moved = false;
        let mut readable: Vec<_> = key.into_iter().collect();
        let mut buf = vec![0; MAX_PLAINTEXT];
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                moved = true;
                match event {
                    DtlsEndpointEvent::Connected { key, peer, info } => {
                        readable.push(key);
                        self.connected.push((key, peer, *info));
                    }
                    DtlsEndpointEvent::Readable { key } => readable.push(key),
                    DtlsEndpointEvent::Closed { peer, error, .. }
                    | DtlsEndpointEvent::HandshakeFailed { peer, error } => {
                        self.ended.push((peer, error));
                    }
                    _ => panic!("new event"),
                }
            }
            let Some(key) = readable.pop() else {
                break;
            };
            while let Some(length) = self.endpoint.recv(key, &mut buf) {
                moved = true;
                self.received.push((key, buf[..length].to_vec()));
                if self.echo {
                    self.endpoint.send(key, &buf[..length]).unwrap();
                }
            }
        }
        let mut datagram = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit(&mut datagram) {
            moved = true;
            assert_eq!(transmit.len, datagram.len());
            self.launch(false, transmit.peer, std::mem::take(&mut datagram));
        }
        moved
    }

    fn drain_client(&mut self, index: usize) -> bool {
        let mut moved = false;
        let mut buf = vec![0; MAX_PLAINTEXT];
        let client = &mut self.clients[index];
        loop {
            let before = moved;
            if let Some(event) = client.session.poll_event() {
                moved = true;
                match event {
                    DtlsEvent::Connected(info) => {
                        assert!(client.info.is_none() && client.error.is_none());
                        client.info = Some(info);
                    }
                    DtlsEvent::Closed(error) => {
                        assert!(client.error.is_none());
                        assert_eq!(client.session.state(), DtlsState::Closed);
                        client.error = Some(error);
                    }
                }
                continue;
            }
            if let Some(length) = client.session.recv(&mut buf) {
                assert!(client.info.is_some(), "data before Connected");
                client.received.push(buf[..length].to_vec());
                moved = true;
                continue;
            }
            if before == moved {
                break;
            }
        }
        let address = client.address;
        let mut datagrams = Vec::new();
        let mut datagram = Vec::new();
        while client.session.poll_transmit(&mut datagram).is_some() {
            datagrams.push(std::mem::take(&mut datagram));
        }
        for datagram in datagrams {
            moved = true;
            self.launch(true, address, datagram);
        }
        moved
    }

    fn launch(&mut self, to_server: bool, address: SocketAddr, datagram: Vec<u8>) {
        self.sent.push((to_server, address, datagram.clone()));
        if self.chance(self.conditions.loss) {
            return;
        }
        if self.chance(self.conditions.duplication) {
            self.network
                .push_back((to_server, address, datagram.clone()));
        }
        if self.chance(self.conditions.reordering) {
            self.network.push_front((to_server, address, datagram));
        } else {
            self.network.push_back((to_server, address, datagram));
        }
    }

    fn chance(&mut self, probability: f64) -> bool {
        probability > 0.0 && (self.random() % 1_000_000) as f64 / 1e6 < probability
    }

    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
