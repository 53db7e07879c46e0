//! What an operator changes of the services of an interface is for tunnels that are configured afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::SocketAddr;

use common::services::{address, companions, told};
use common::tunnel::SECOND;
use tsc_csm::client::{Redundancy, TunnelTransport};
use tsc_csm::server::{InterfaceConfig, ServerConfigError};
use tsc_csm::{Prefix, Transport};
use tsc_sim::{ClientId, PathConfig, ServerId, World, client_config, peer_config, server_config};
use tsc_tpl::ServiceType;

const REDUNDANCY: ServiceType = ServiceType::ENABLE_REDUNDANCY;
const DDT: ServiceType = ServiceType::ENABLE_DDT;
const PEER: ServiceType = ServiceType::ENABLE_PEER;

fn world(services: &[ServiceType]) -> (World, ServerId) {
    let mut world = World::new(17);
    let mut config = server_config(9);
    config.interfaces[0].services = services.to_vec();
    let server = world.add_server(config);
    (world, server)
}

/// One more client: `number` is that of those before it.
fn join(world: &mut World, transport: Transport, number: usize) -> ClientId {
    let config = peer_config(client_config(&[transport, Transport::Udp]), number);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    client
}

fn offered(world: &World, client: ClientId) -> Vec<ServiceType> {
    world.assignment(client).unwrap().services.clone()
}

fn copies(world: &mut World, client: ClientId) {
    world.set_redundancy(client, Redundancy::Copies(1)).unwrap();
    world.run(SECOND);
}

#[test]
fn a_tunnel_keeps_what_it_was_offered_and_new_ones_get_the_new() {
    let (mut world, server) = world(&[REDUNDANCY]);
    let old = join(&mut world, Transport::Udp, 0);
    let change = |interface: &mut InterfaceConfig| interface.services = vec![DDT];
    world.change_offers(server, change).unwrap();
    let new = join(&mut world, Transport::Udp, 1);
    assert_eq!(offered(&world, old), [REDUNDANCY]);
    assert_eq!(offered(&world, new), [DDT]);
    for client in [old, new] {
        copies(&mut world, client);
    }
    assert_eq!(told(&world, old, REDUNDANCY), [(true, true)]);
    assert_eq!(told(&world, new, REDUNDANCY), [(false, false)]);
    // Over a resume, too.
    world.break_transport(old);
    world.run(5 * SECOND);
    assert_eq!(world.client_stats(old).resumes, 1);
    assert_eq!(offered(&world, old), [REDUNDANCY]);
    assert!(world.redundancy(old).is_some());
    // And again.
    let change = |interface: &mut InterfaceConfig| interface.services.clear();
    world.change_offers(server, change).unwrap();
    let last = join(&mut world, Transport::Udp, 2);
    assert_eq!(offered(&world, last), []);
    assert_eq!(offered(&world, old), [REDUNDANCY]);
}

#[test]
fn companions_of_a_tunnel_can_be_had_as_long_as_it_lives() {
    let (mut world, server) = world(&[DDT, REDUNDANCY]);
    let old = join(&mut world, Transport::Tcp, 0);
    let change = |interface: &mut InterfaceConfig| interface.services.clear();
    world.change_offers(server, change).unwrap();
    let new = join(&mut world, Transport::Tcp, 1);
    for client in [old, new] {
        world
            .set_tunnel_transport(client, TunnelTransport::Datagram)
            .unwrap();
        // Copies on the companion.
        copies(&mut world, client);
    }
    world.run(5 * SECOND);
    assert_eq!(told(&world, old, DDT).last(), Some(&(true, true)));
    assert_eq!(told(&world, new, DDT).last(), Some(&(false, false)));
    assert_eq!(companions(&world, server, old), 1);
    assert_eq!(companions(&world, server, new), 0);
    let told = told(&world, old, REDUNDANCY);
    assert_eq!(told.last(), Some(&(true, true)));
}

#[test]
fn peers_go_on_and_newcomers_are_not_brought_together() {
    let (mut world, server) = world(&[PEER]);
    let [near, far] = [0, 1].map(|number| join(&mut world, Transport::Udp, number));
    // `inter-client-block` takes the service away as well.
    let change = |interface: &mut InterfaceConfig| interface.inter_client_block = true;
    world.change_offers(server, change).unwrap();
    let new = join(&mut world, Transport::Udp, 2);
    for client in [near, new] {
        world.set_peer(client, true).unwrap();
        let to = address(&world, far);
        world.send(client, to, b"hello");
        world.run(5 * SECOND);
    }
    assert_eq!(
        world.peers(near).len(),
        1,
        "STUN is answered for those who have it"
    );
    assert_eq!(world.peers(new), []);
    assert_eq!(world.server_stats(server).stun, 2);
    let tsid = |client| world.assignment(client).unwrap().tsid;
    let session = |client| world.session(server, tsid(client)).unwrap();
    let apart = [near, far, new].map(|client| world.server(server).is_kept_apart(session(client)));
    assert_eq!(apart, [false, false, true]);
}

#[test]
fn sip_servers_are_those_of_the_time_of_configuration() {
    let (mut world, server) = world(&[]);
    let old = join(&mut world, Transport::Udp, 0);
    let sip = SocketAddr::from(([10, 0, 0, 5], 5060));
    let change = |interface: &mut InterfaceConfig| interface.sip_servers = vec![sip];
    world.change_offers(server, change).unwrap();
    let new = join(&mut world, Transport::Udp, 1);
    world.break_transport(old);
    world.run(5 * SECOND);
    assert_eq!(world.assignment(old).unwrap().sip_servers, []);
    assert_eq!(world.assignment(new).unwrap().sip_servers, [sip]);
}

#[test]
fn what_cannot_be_used_changes_nothing() {
    let (mut world, server) = world(&[REDUNDANCY]);
    let change = |interface: &mut InterfaceConfig| {
        interface.services = vec![DDT];
        interface.sip_servers = vec![SocketAddr::from(([10, 0, 0, 5], 5060)); 100];
    };
    let refused = world.change_offers(server, change);
    assert!(matches!(
        refused,
        Err(ServerConfigError::TooManyListed { .. })
    ));
    let change = |interface: &mut InterfaceConfig| {
        let prefix = Prefix::new([127, 0, 0, 0].into(), 8).unwrap();
        let gateway = tsc_csm::server::Identity::new("gateway");
        interface.services = vec![DDT];
        interface.routed_prefixes.insert(gateway, vec![prefix]);
    };
    let refused = world.change_offers(server, change);
    assert!(matches!(
        refused,
        Err(ServerConfigError::RoutedPrefix { .. })
    ));
    let client = join(&mut world, Transport::Udp, 0);
    assert_eq!(offered(&world, client), [REDUNDANCY]);
}
