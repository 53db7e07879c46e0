//! A world in which one tunnel is up, and what its ends have told.

use std::time::Duration;

use tsc_csm::Transport;
use tsc_csm::client::ClientConfig;
use tsc_csm::server::{DownReason, Event, ServerConfig};
use tsc_sim::{ClientId, PathConfig, ServerId, World, client_config, server_config};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// A client with a tunnel over this transport.
pub(crate) fn up(transport: Transport) -> (World, ServerId, ClientId) {
    up_over(&[transport])
}

/// A client with a tunnel over the first of these transports.
pub(crate) fn up_over(transports: &[Transport]) -> (World, ServerId, ClientId) {
    up_with(server_config(9), client_config(transports))
}

/// A client with a tunnel, both ends configured so.
pub(crate) fn up_with(server: ServerConfig, client: ClientConfig) -> (World, ServerId, ClientId) {
    let mut world = World::new(13);
    let server = world.add_server(server);
    let client = world.add_client(client, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    assert!(world.is_bound(client));
    (world, server, client)
}

/// In which second and why the server's tunnels ended.
pub(crate) fn downs(world: &World, server: ServerId) -> Vec<(u64, DownReason)> {
    let down = |(at, event): &(Duration, Event)| match event {
        Event::SessionDown { reason, .. } => Some((at.as_secs(), *reason)),
        _ => None,
    };
    world
        .server_events(server)
        .iter()
        .filter_map(down)
        .collect()
}

/// Why the server's tunnels ended.
pub(crate) fn reasons(world: &World, server: ServerId) -> Vec<DownReason> {
    let reason = |(_, reason)| reason;
    downs(world, server).into_iter().map(reason).collect()
}
