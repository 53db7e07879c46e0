//! Random worlds: whatever the links, NATs, firewalls and applications do, the invariants hold and in the end both
//! ends agree, or the tunnel is over at both. The world's own watch checks on every step that no address is given to
//! two tunnels or during its quarantine, that no prefix is granted to two tunnels, that no TSID comes twice, that what the server sends is valid, that every
//! request that is accepted is answered, and that no request gets two different answers.
//!
//! A failure names the seed; `TSC_SIM_TRACE=1` prints every message of its run.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tsc_csm::Transport;
use tsc_csm::client::Event;
use tsc_csm::server::{AuthPolicy, Identity, TokenVerifier, TunnelTimers};
use tsc_csm::{Prefix, Secret};
use tsc_sim::{
    ClientId, Firewall, LinkConfig, PathConfig, Rng, ServerId, World, client_config, server_config,
};
use tsc_tpl::ServiceType;

/// What happens to a world between two looks at it.
#[derive(Clone, Copy, Debug)]
enum Act {
    Wait(u16),
    Start,
    Break(u8),
    Block(u8, bool),
    Link(u8, u8, u8, u8),
    Firewall(u8, bool, bool),
    ForgetNat,
    Send(u8, u8),
    Service(u8),
    Prefixes(u8, u8, bool),
    NetworkChange(u8),
    /// Another network, with another address, while the old one still works or not.
    Roam(u8, bool),
    NetworkGone(u8),
    Background(u8, bool),
    /// What the client's name service says: the truth behind so many addresses of nobody, or nothing.
    Directory(u8, u8),
    Release(u8),
    ReleaseByServer(u8),
    Garbage(u8, u64),
    Stranger(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0u16..4000).prop_map(Act::Wait),
        2 => (4000u16..60_000).prop_map(Act::Wait),
        4 => Just(Act::Start),
        2 => any::<u8>().prop_map(Act::Break),
        2 => any::<(u8, bool)>().prop_map(|(client, blocked)| Act::Block(client, blocked)),
        2 => any::<(u8, u8, u8, u8)>().prop_map(|(client, loss, reorder, jitter)| Act::Link(client, loss, reorder, jitter)),
        1 => any::<(u8, bool, bool)>().prop_map(|(client, streams, datagrams)| Act::Firewall(client, streams, datagrams)),
        1 => Just(Act::ForgetNat),
        4 => any::<(u8, u8)>().prop_map(|(from, to)| Act::Send(from, to)),
        1 => any::<u8>().prop_map(Act::Service),
        3 => any::<(u8, u8, bool)>().prop_map(|(client, which, ask)| Act::Prefixes(client, which, ask)),
        1 => any::<u8>().prop_map(Act::NetworkChange),
        2 => any::<(u8, bool)>().prop_map(|(client, works)| Act::Roam(client, works)),
        1 => any::<u8>().prop_map(Act::NetworkGone),
        1 => any::<(u8, bool)>().prop_map(|(client, background)| Act::Background(client, background)),
        1 => any::<(u8, u8)>().prop_map(|(client, which)| Act::Directory(client, which)),
        1 => any::<u8>().prop_map(Act::Release),
        1 => any::<u8>().prop_map(Act::ReleaseByServer),
        1 => any::<(u8, u64)>().prop_map(|(client, seed)| Act::Garbage(client, seed)),
        1 => any::<u64>().prop_map(Act::Stranger),
    ]
}

/// Prefixes that may be behind clients: `one` has the first three, `two` the last three, which overlap them.
const PREFIXES: [&str; 4] = ["10.1.0.0/16", "10.2.0.0/24", "fd00:7::/48", "10.1.2.0/24"];

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A token is its bearer's name.
struct Gateways;

impl TokenVerifier for Gateways {
    fn verify(&self, token: &[u8]) -> Option<Identity> {
        std::str::from_utf8(token).ok().map(Identity::new)
    }
}

struct Run {
    world: World,
    server: ServerId,
    clients: Vec<ClientId>,
    nat: tsc_sim::NatId,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        let mut config = server_config(4);
        config.quarantine = Duration::from_secs(10);
        config.interfaces[0].stream_timers = TunnelTimers {
            keepalive: Duration::from_secs(40),
            persistence: Duration::from_secs(60),
        };
        config.interfaces[0].datagram_timers = TunnelTimers {
            keepalive: Duration::from_secs(30),
            persistence: Duration::from_secs(60),
        };
        // Every client is one of two gateways, which contend for their prefixes.
        config.interfaces[0].auth = AuthPolicy::Token(Arc::new(Gateways));
        config.interfaces[0].token_in_clear = true;
        config.interfaces[0].services = vec![
            ServiceType::ENABLE_STG,
            ServiceType::ENABLE_SERVER_KEEPALIVE,
        ];
        for (name, prefixes) in [("one", &PREFIXES[..3]), ("two", &PREFIXES[1..])] {
            let prefixes = prefixes.iter().map(|text| prefix(text)).collect();
            config.interfaces[0]
                .routed_prefixes
                .insert(Identity::new(name), prefixes);
        }
        let server = world.add_server(config);
        let nat = world.add_nat(Duration::from_secs(25));
        Self {
            world,
            server,
            clients: Vec::new(),
            nat,
        }
    }

    fn client(&self, number: u8) -> Option<ClientId> {
        let len = self.clients.len();
        (len > 0).then(|| self.clients[usize::from(number) % len])
    }

    fn start(&mut self, seed: u64) {
        if self.clients.len() >= 12 {
            return;
        }
        let mut rng = Rng::new(seed ^ self.clients.len() as u64);
        let mut transports = Transport::ALL.to_vec();
        transports.rotate_left(usize::try_from(rng.below(4)).unwrap());
        transports.truncate(1 + usize::try_from(rng.below(4)).unwrap());
        let mut config = client_config(&transports);
        config.attempt_timeout = Duration::from_secs(1 + rng.below(20));
        config.auth_token = Some(Secret::new(if rng.chance(0.5) { b"one" } else { b"two" }));
        config.token_in_clear = true;
        config.lookup = rng.chance(0.7);
        config.upgrade = rng.chance(0.3);
        config.race_delay = Duration::from_millis(rng.below(400));
        let nat = rng.chance(0.5).then_some(self.nat);
        let client = self.world.add_client(
            config,
            PathConfig {
                nat,
                ..PathConfig::CLEAN
            },
        );
        self.world.start(client);
        self.clients.push(client);
    }

    fn act(&mut self, act: Act) {
        let seed = self.world.seed();
        match act {
            Act::Wait(ms) => self.world.run(Duration::from_millis(u64::from(ms))),
            Act::Start => self.start(seed),
            Act::ForgetNat => self.world.nat(self.nat).forget(),
            Act::Stranger(seed) => {
                let mut rng = Rng::new(seed);
                let from = ([192, 0, 2, 7], 1 + u16::try_from(rng.below(5)).unwrap()).into();
                self.world.stranger(self.server, from, garbage(&mut rng));
            }
            Act::Break(n) => self.with(n, |world, client| world.break_transport(client)),
            Act::Block(n, blocked) => {
                self.with(n, |world, client| world.path(client).block(blocked))
            }
            Act::Link(n, loss, reorder, jitter) => self.with(n, |world, client| {
                world.path(client).set(LinkConfig {
                    loss: f64::from(loss) / 512.0,
                    reorder: f64::from(reorder) / 1024.0,
                    duplicate: f64::from(reorder) / 1024.0,
                    jitter: Duration::from_millis(u64::from(jitter)),
                    ..LinkConfig::CLEAN
                });
            }),
            Act::Firewall(n, streams, datagrams) => {
                self.with(n, |world, client| {
                    world.path(client).firewall = Firewall {
                        streams,
                        datagrams,
                        protected: true,
                    }
                });
            }
            Act::Send(from, to) => {
                let to = self
                    .client(to)
                    .and_then(|to| self.world.assignment(to))
                    .map(|to| to.addresses[0].address);
                if let Some(to) = to {
                    self.with(from, |world, client| {
                        world.send(client, to, b"payload");
                    });
                }
            }
            Act::Service(n) => self.with(n, |world, client| {
                let _ = world.request_service(client, ServiceType(u16::from(n)));
            }),
            Act::Prefixes(n, which, ask) => self.with(n, |world, client| {
                let wanted: Vec<Prefix> = (0..4)
                    .filter(|bit| which >> bit & 1 == 1)
                    .map(|bit| prefix(PREFIXES[bit]))
                    .collect();
                let _ = if ask {
                    world.request_routed_prefixes(client, &wanted)
                } else {
                    world.release_routed_prefixes(client, &wanted)
                };
            }),
            Act::NetworkChange(n) => self.with(n, |world, client| world.network_changed(client)),
            Act::Roam(n, works) => {
                let nat = self.nat;
                self.with(n, |world, client| {
                    let path = world.path(client);
                    path.nat = if path.nat.is_some() { None } else { Some(nat) };
                    if !works {
                        world.break_transport(client);
                    }
                    world.relocate(client);
                });
            }
            Act::NetworkGone(n) => self.with(n, |world, client| world.network_gone(client)),
            Act::Background(n, background) => {
                self.with(n, |world, client| world.set_background(client, background));
            }
            Act::Directory(n, which) => {
                let server = self.server;
                self.with(n, |world, client| {
                    let nobody =
                        (0..which % 4).map(|host| ([203, 0, 113, 200 + host], 5060).into());
                    let truth = (which % 5 != 0).then(|| ([203, 0, 113, 1], 5060).into());
                    world.set_directory(client, server, nobody.chain(truth));
                });
            }
            Act::Release(n) => self.with(n, |world, client| {
                world.release(client, Duration::from_secs(5))
            }),
            Act::ReleaseByServer(n) => {
                let server = self.server;
                self.with(n, |world, client| {
                    let tsid = world.assignment(client).map(|assignment| assignment.tsid);
                    if let Some(session) = tsid.and_then(|tsid| world.session(server, tsid)) {
                        world.release_session(server, session, None);
                    }
                });
            }
            Act::Garbage(n, seed) => {
                let bytes = garbage(&mut Rng::new(seed));
                self.with(n, |world, client| {
                    world.send_raw(client, bytes);
                });
            }
        }
    }

    fn with(&mut self, number: u8, act: impl FnOnce(&mut World, ClientId)) {
        if let Some(client) = self.client(number) {
            act(&mut self.world, client);
        }
    }

    /// Peace, for longer than every timer; then both ends agree, or the tunnel is over at both.
    fn settle_and_check(&mut self) {
        let seed = self.world.seed();
        for client in self.clients.clone() {
            let path = self.world.path(client);
            path.set(LinkConfig::CLEAN);
            path.firewall = Firewall::OPEN;
            let truth = ([203, 0, 113, 1], 5060).into();
            self.world.set_directory(client, self.server, [truth]);
            self.world.network_changed(client);
        }
        self.world.run(Duration::from_secs(400));
        let mut alive = 0;
        for client in self.clients.clone() {
            if let Some(reason) = self.world.down_reason(client) {
                assert!(!self.world.is_bound(client), "seed {seed}: {reason}");
                continue;
            }
            let events = self.world.events(client);
            let waiting = !events
                .iter()
                .any(|(_, event)| matches!(event, Event::Configured(_)));
            assert!(
                !waiting,
                "seed {seed}: {client:?} neither connected nor gave up: {events:?}"
            );
            alive += 1;
            let assignment = self.world.assignment(client).unwrap();
            let (tsid, address) = (assignment.tsid, assignment.addresses[0].address);
            let server = self.world.server(self.server);
            let session = server.route(address);
            assert_eq!(
                session,
                self.world.session(self.server, tsid),
                "seed {seed}: {client:?}"
            );
            let binding = session.and_then(|session| server.binding_of(session));
            assert!(
                binding.is_some(),
                "seed {seed}: {client:?} is bound at its own end only"
            );
            // What the client takes for its own is routed to it. The server may hold more: its answer can be lost.
            for prefix in self.world.routed_prefixes(client) {
                let held = session.map_or(&[][..], |session| server.routed_prefixes(session));
                assert!(
                    held.contains(prefix),
                    "seed {seed}: {client:?} is not behind {prefix}"
                );
                assert_eq!(
                    server.route(prefix.address()),
                    session,
                    "seed {seed}: {prefix}"
                );
            }
            // A client that relies on the server's Keepalives gets them.
            let relies = self.world.server_keepalive(client).is_some();
            let sends = session.is_some_and(|session| {
                server.has_service(session, ServiceType::ENABLE_SERVER_KEEPALIVE)
            });
            assert!(sends || !relies, "seed {seed}: nobody asks {client:?}");
            // A packet to itself goes all the way round.
            let before = self.world.received(client).len();
            assert!(self.world.send(client, address, b"echo"), "seed {seed}");
            self.world.run(Duration::from_secs(1));
            assert_eq!(
                self.world.received(client).len(),
                before + 1,
                "seed {seed}: {client:?} has no echo"
            );
        }
        let stats = self.world.server_stats(self.server);
        assert_eq!(
            stats.sessions, alive,
            "seed {seed}: tunnels that no client has"
        );
        assert_eq!(stats.transmit_overflow, 0, "seed {seed}");
        assert_eq!(stats.pending, 0, "seed {seed}: transports without a tunnel");
        let pool = &self.world.server(self.server).pool_stats()[0];
        assert_eq!(
            pool.leased,
            u64::try_from(alive).unwrap(),
            "seed {seed}: leaked addresses"
        );
    }
}

/// Something that happens, by chance.
fn chance(rng: &mut Rng) -> Act {
    let byte = |rng: &mut Rng| u8::try_from(rng.below(256)).unwrap();
    let client = byte(rng);
    match rng.below(20) {
        0..4 => Act::Wait(u16::try_from(rng.below(4_000)).unwrap()),
        4 => Act::Wait(u16::try_from(4_000 + rng.below(50_000)).unwrap()),
        5 | 6 => Act::Start,
        7 => Act::Break(client),
        8 => Act::Block(client, rng.chance(0.6)),
        9 => Act::Link(client, byte(rng), byte(rng), byte(rng)),
        10 => Act::Firewall(client, rng.chance(0.7), rng.chance(0.5)),
        11 => Act::ForgetNat,
        12 | 13 => Act::Send(client, byte(rng)),
        14 => Act::NetworkChange(client),
        15 | 16 => Act::Roam(client, rng.chance(0.6)),
        17 => Act::NetworkGone(client),
        18 => Act::Background(client, rng.chance(0.5)),
        _ => Act::Directory(client, byte(rng)),
    }
}

/// 10,000 worlds of NATs, firewalls, roaming and outages. `TSC_SIM_SEED=n` runs one.
#[test]
fn ten_thousand_worlds_of_bad_networks() {
    let one = std::env::var("TSC_SIM_SEED").ok();
    let seeds = match one.and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..10_000u64,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    let mut rng = Rng::new(seed);
                    let mut run = Run::new(seed);
                    run.start(seed);
                    for _ in 0..5 + rng.below(40) {
                        run.act(chance(&mut rng));
                    }
                    run.settle_and_check();
                }
            });
        }
    });
}

/// Bytes that often begin as a unit does.
fn garbage(rng: &mut Rng) -> Vec<u8> {
    let first =
        [0x10, 0x45, 0x60, 0x1C, 0x1D, 0x1F, 0x16, 0xFF][usize::try_from(rng.below(8)).unwrap()];
    let mut bytes = vec![
        first,
        u8::try_from(rng.below(14)).unwrap(),
        0,
        u8::try_from(rng.below(4)).unwrap(),
    ];
    bytes.extend((0..rng.below(200)).map(|_| u8::try_from(rng.below(256)).unwrap()));
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_agree_or_end(seed: u64, acts in prop::collection::vec(act(), 1..60)) {
        let mut run = Run::new(seed);
        run.start(seed);
        for act in acts {
            run.act(act);
        }
        run.settle_and_check();
    }

    /// The same seed and acts give the same world, to the last event.
    #[test]
    fn a_seed_is_a_replay(seed: u64, acts in prop::collection::vec(act(), 1..20)) {
        let story = || {
            let mut run = Run::new(seed);
            run.start(seed);
            acts.iter().for_each(|act| run.act(*act));
            run.world.run(Duration::from_secs(100));
            let events: Vec<_> = run.clients.iter().map(|client| run.world.events(*client).to_vec()).collect();
            (events, run.world.server_events(run.server).to_vec())
        };
        prop_assert_eq!(story(), story());
    }
}
