//! Two clients behind NATs that talk to each other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::common::services;
use crate::common::tunnel::SECOND;
use tsc_csm::client::{Event, PeerEvent};
use tsc_csm::server::ServerConfig;
use tsc_csm::{PathEnd, Transport};
use tsc_sim::{
    ClientId, Firewall, NatKind, PathConfig, ServerId, World, client_config, peer_config,
    server_config,
};
use tsc_tpl::ServiceType;

pub(crate) const SERVICE: ServiceType = ServiceType::ENABLE_PEER;
/// Between two packets of speech.
pub(crate) const PACE: Duration = Duration::from_millis(20);

pub(crate) fn offering() -> ServerConfig {
    let mut config = server_config(20);
    config.interfaces[0].services = vec![SERVICE];
    config
}

/// Two clients behind NATs of their own that talk to each other; the first asks.
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) server: ServerId,
    pub(crate) near: ClientId,
    pub(crate) far: ClientId,
    pub(crate) sent: u32,
    pub(crate) pace: Duration,
}

/// How a call is made.
#[derive(Clone, Copy)]
pub(crate) struct Setup {
    pub(crate) seed: u64,
    pub(crate) transports: [Transport; 2],
    pub(crate) nats: [Option<NatKind>; 2],
    pub(crate) firewall: Firewall,
}

pub(crate) const CONES: Setup = Setup {
    seed: 5,
    transports: [Transport::Udp, Transport::Udp],
    nats: [Some(NatKind::Restricted), Some(NatKind::Restricted)],
    firewall: Firewall::OPEN,
};

pub(crate) const PROTECTED: Setup = Setup {
    transports: [Transport::Dtls, Transport::Tls],
    ..CONES
};

impl Call {
    pub(crate) fn new(setup: Setup) -> Self {
        Self::with(setup, offering())
    }

    pub(crate) fn with(setup: Setup, config: ServerConfig) -> Self {
        let mut world = World::new(setup.seed);
        let server = world.add_server(config);
        let mut add = |number: usize| {
            let nat = setup.nats[number].map(|kind| {
                let nat = world.add_nat(Duration::from_secs(120));
                world.nat(nat).kind = kind;
                nat
            });
            let path = PathConfig {
                nat,
                firewall: setup.firewall,
                ..PathConfig::CLEAN
            };
            let config = client_config(&[setup.transports[number]]);
            let client = world.add_client(peer_config(config, number), path);
            world.start(client);
            client
        };
        let (near, far) = (add(0), add(1));
        world.run(SECOND);
        Self {
            world,
            server,
            near,
            far,
            sent: 0,
            pace: PACE,
        }
    }

    /// With a tunnel between them.
    pub(crate) fn connected(setup: Setup) -> Self {
        let mut call = Self::new(setup);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(3 * SECOND);
        assert!(call.is_up(), "seed {}", setup.seed);
        call
    }

    pub(crate) fn address(&self, client: ClientId) -> IpAddr {
        services::address(&self.world, client)
    }

    /// A packet each way, every 20 ms where nothing else is said.
    pub(crate) fn talk(&mut self, time: Duration) {
        let (near, far) = (self.address(self.near), self.address(self.far));
        let end = self.world.elapsed() + time;
        while self.world.elapsed() < end {
            let payload = self.sent.to_be_bytes();
            self.sent += 1;
            self.world.send(self.near, far, &payload);
            self.world.send(self.far, near, &payload);
            self.world.run(self.pace);
        }
    }

    /// Whether both ends have the tunnel, and use it.
    pub(crate) fn is_up(&self) -> bool {
        let usable = |client| {
            let peers = self.world.peers(client);
            peers.len() == 1 && peers[0].outer.is_some()
        };
        usable(self.near) && usable(self.far)
    }

    /// Packets that the server has passed on while so much speech went each way.
    pub(crate) fn relayed(&mut self, time: Duration) -> u64 {
        let before = self.world.server_stats(self.server).forwarded;
        self.talk(time);
        self.world.server_stats(self.server).forwarded - before
    }

    /// Of the packets sent since number `from`, those that a client has not got. None may come twice.
    pub(crate) fn lost(&mut self, client: ClientId, from: u32) -> u32 {
        self.world.run(SECOND);
        let mut came = BTreeMap::new();
        for (_, payload) in self.world.received(client) {
            let number = u32::from_be_bytes(*payload.first_chunk().unwrap());
            *came.entry(number).or_insert(0) += 1;
        }
        (from..self.sent)
            .filter(|number| !came.contains_key(number))
            .count()
            .try_into()
            .unwrap()
    }

    /// What a client was told of the service: available, enabled.
    pub(crate) fn told(&self, client: ClientId) -> Vec<(bool, bool)> {
        services::told(&self.world, client, SERVICE)
    }

    /// Why the peer tunnels of a client have ended, in order.
    pub(crate) fn ends(&self, client: ClientId) -> Vec<PathEnd> {
        let end = |event: &Event| match event {
            Event::Peer(PeerEvent::Down { why, .. }) => Some(*why),
            _ => None,
        };
        let events = self.world.events(client).iter();
        events.filter_map(|(_, event)| end(event)).collect()
    }

    /// Whether the server takes the two for partners: each of them.
    pub(crate) fn partners(&self) -> [bool; 2] {
        [self.near, self.far].map(|client| {
            let tsid = self.world.assignment(client).unwrap().tsid;
            let session = self.world.session(self.server, tsid).unwrap();
            self.world.server(self.server).has_service(session, SERVICE)
        })
    }
}
