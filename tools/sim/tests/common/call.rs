//! Two clients of one server who talk to each other; what a test is about happens to the first. What a service needs beside that
//! is its own file's.

use std::net::IpAddr;
use std::time::Duration;

use tsc_csm::Transport;
use tsc_csm::client::{ClientConfig, Placement};
use tsc_csm::server::ServerConfig;
use tsc_sim::{ClientId, PathConfig, ServerId, World, packet};
use tsc_tpl::ServiceType;

use super::services::{self, address};
use super::tunnel::SECOND;

/// Between two packets of speech.
pub(crate) const PACE: Duration = Duration::from_millis(20);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// See the module.
pub(crate) struct Call {
    pub(crate) world: World,
    pub(crate) server: ServerId,
    pub(crate) near: ClientId,
    pub(crate) far: ClientId,
    /// Of the first one's tunnel, and of the companion that it may have.
    pub(crate) main: Transport,
    pub(crate) companion: Transport,
    pub(crate) sent: u32,
    /// Bytes of each packet's payload, of which the first four are its number.
    pub(crate) payload: usize,
}

impl Call {
    /// Both tunnels are up.
    pub(crate) fn between(
        seed: u64,
        server: ServerConfig,
        near: ClientConfig,
        far: ClientConfig,
        companion: Transport,
    ) -> Self {
        let main = near.targets[0].transport;
        let mut world = World::new(seed);
        let server = world.add_server(server);
        let near = world.add_client(near, PathConfig::CLEAN);
        let far = world.add_client(far, PathConfig::CLEAN);
        world.start(near);
        world.start(far);
        world.run(SECOND);
        Self {
            world,
            server,
            near,
            far,
            main,
            companion,
            sent: 0,
            payload: 4,
        }
    }

    /// The address that the first one's socket has, if it has any.
    pub(crate) fn own(&self) -> IpAddr {
        match self.world.placement(self.near, packet::FLOW) {
            Some(Placement::Encrypted) => {
                self.world.encrypted(self.near).unwrap().addresses[0].address
            }
            _ => address(&self.world, self.near),
        }
    }

    /// So many packets each way, to the address that the socket has then; how many could be sent from it.
    pub(crate) fn talk(&mut self, packets: u32) -> u32 {
        let far = address(&self.world, self.far);
        let mut sent = 0;
        for _ in 0..packets {
            let mut payload = vec![0; self.payload];
            payload[..4].copy_from_slice(&self.sent.to_be_bytes());
            self.sent += 1;
            sent += u32::from(self.world.send_placed(self.near, far, &payload));
            let near = self.own();
            self.world.send(self.far, near, &payload);
            self.world.run(PACE);
        }
        sent
    }

    /// The numbers of the packets that have come to a client, in order of arrival.
    pub(crate) fn came(&self, client: ClientId) -> Vec<u32> {
        let received = self.world.received(client).iter();
        received
            .map(|(_, payload)| u32::from_be_bytes(*payload.first_chunk().unwrap()))
            .collect()
    }

    /// Packets that a kind of transport has carried for the first client, up and down.
    pub(crate) fn carried(&self, transport: Transport) -> (u64, u64) {
        let carried = self.world.carried(self.near, transport);
        (carried.up, carried.down)
    }

    /// What the first client was told of a service: available, enabled.
    pub(crate) fn told(&self, service: ServiceType) -> Vec<(bool, bool)> {
        services::told(&self.world, self.near, service)
    }

    pub(crate) fn companions(&self) -> usize {
        services::companions(&self.world, self.server, self.near)
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
