//! What clients were told of the services of their sockets.

use std::net::IpAddr;

use tsc_csm::client::Event;
use tsc_sim::{ClientId, ServerId, World};
use tsc_tpl::ServiceType;

/// What a client was told of a service: available, enabled.
pub(crate) fn told(world: &World, client: ClientId, of: ServiceType) -> Vec<(bool, bool)> {
    let told = |event: &Event| match event {
        Event::SocketService {
            service,
            available,
            enabled,
            ..
        } if *service == of => Some((*available, *enabled)),
        _ => None,
    };
    let events = world.events(client).iter();
    events.filter_map(|(_, event)| told(event)).collect()
}

/// A client's first inner address.
pub(crate) fn address(world: &World, client: ClientId) -> IpAddr {
    world.assignment(client).unwrap().addresses[0].address
}

/// How many companions of a client's tunnel its server has.
pub(crate) fn companions(world: &World, server: ServerId, client: ClientId) -> usize {
    let tsid = world.assignment(client).unwrap().tsid;
    let session = world.session(server, tsid).unwrap();
    world.server(server).companions(session).len()
}
