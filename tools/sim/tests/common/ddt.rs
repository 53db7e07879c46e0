//! Calls of which one end may have datagrams beside its stream.

use tsc_csm::Transport;
use tsc_csm::client::{ClientConfig, TunnelTransport};
use tsc_csm::server::ServerConfig;
use tsc_sim::{ClientId, World, client_config, server_config};
use tsc_tpl::ServiceType;

use super::call::Call;
use super::services;
use super::tunnel::SECOND;

const SERVICE: ServiceType = ServiceType::ENABLE_DDT;
/// Each stream with the datagrams beside it.
pub(crate) const PAIRS: [(Transport, Transport); 2] = [
    (Transport::Tcp, Transport::Udp),
    (Transport::Tls, Transport::Dtls),
];

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
        let far = client_config(&[Transport::Tls]);
        Self::between(seed, server, client, far, datagrams)
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

    /// Packets that the datagrams have carried: up and down.
    pub(crate) fn beside(&self) -> (u64, u64) {
        self.carried(self.companion)
    }
}
