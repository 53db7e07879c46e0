//! Two clients who talk to each other, where one of them may have datagrams beside its stream.

use std::time::Duration;

use tsc_csm::Transport;
use tsc_csm::client::{ClientConfig, TunnelTransport};
use tsc_csm::server::ServerConfig;
use tsc_sim::{ClientId, PathConfig, ServerId, World, client_config, server_config};
use tsc_tpl::ServiceType;

use super::services::{self, address};
use super::tunnel::SECOND;

pub(crate) const SERVICE: ServiceType = ServiceType::ENABLE_DDT;
/// Each stream with the datagrams beside it.
pub(crate) const PAIRS: [(Transport, Transport); 2] = [
    (Transport::Tcp, Transport::Udp),
    (Transport::Tls, Transport::Dtls),
];
/// Between two packets of speech.
pub(crate) const PACE: Duration = Duration::from_millis(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

pub(crate) fn offering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![SERVICE, ServiceType::ENABLE_REDUNDANCY];
    config
}

/// What a client was told of the service: available, enabled.
pub(crate) fn told(world: &World, client: ClientId) -> Vec<(bool, bool)> {
    services::told(world, client, SERVICE)
}

pub(crate) fn is_in_force(world: &World, client: ClientId) -> bool {
    told(world, client).last() == Some(&(true, true))
}

/// Two clients of one server, who talk to each other; only the first wants datagrams beside its stream.
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) server: ServerId,
    pub(crate) near: ClientId,
    pub(crate) far: ClientId,
    pub(crate) datagrams: Transport,
    pub(crate) sent: u32,
}

impl Call {
    pub(crate) fn new(stream: Transport, datagrams: Transport) -> Self {
        Self::with(17, offering(), client_config(&[stream]), datagrams)
    }

    pub(crate) fn with(
        seed: u64,
        server: ServerConfig,
        client: ClientConfig,
        datagrams: Transport,
    ) -> Self {
        let mut world = World::new(seed);
        let server = world.add_server(server);
        let near = world.add_client(client, PathConfig::CLEAN);
        let far = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
        world.start(near);
        world.start(far);
        world.run(SECOND);
        Self {
            world,
            server,
            near,
            far,
            datagrams,
            sent: 0,
        }
    }

    pub(crate) fn want(&mut self, wish: TunnelTransport) {
        self.world.set_tunnel_transport(self.near, wish).unwrap();
    }

    pub(crate) fn in_force(mut self) -> Self {
        self.want(TunnelTransport::Datagram);
        self.world.run(SECOND);
        assert!(is_in_force(&self.world, self.near));
        self
    }

    /// So many packets each way.
    pub(crate) fn talk(&mut self, packets: u32) {
        let near = address(&self.world, self.near);
        let far = address(&self.world, self.far);
        for _ in 0..packets {
            let payload = self.sent.to_be_bytes();
            self.sent += 1;
            self.world.send(self.near, far, &payload);
            self.world.send(self.far, near, &payload);
            self.world.run(PACE);
        }
    }

    /// The numbers of the packets that have come to a client, in order of arrival.
    pub(crate) fn came(&self, client: ClientId) -> Vec<u32> {
        let received = self.world.received(client).iter();
        received
            .map(|(_, payload)| u32::from_be_bytes(*payload.first_chunk().unwrap()))
            .collect()
    }

    /// Packets that the datagram companion has carried: up and down.
    pub(crate) fn beside(&self) -> (u64, u64) {
        let carried = self.world.carried(self.near, self.datagrams);
        (carried.up, carried.down)
    }

    /// Everything has come to both, once and in order.
    #[track_caller]
    pub(crate) fn assert_complete(&mut self) {
        self.world.run(SECOND);
        for client in [self.near, self.far] {
            let came = self.came(client);
            let wrong = (0..self.sent).zip(&came).find(|(sent, came)| sent != *came);
            assert_eq!(wrong, None, "{client:?}");
            assert_eq!(came.len(), usize::try_from(self.sent).unwrap());
        }
    }
}
