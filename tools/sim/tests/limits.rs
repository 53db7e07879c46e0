//! Pools, quarantine, and what one source or identity may use up (spec 8.3).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tsc_csm::Transport;
use tsc_csm::client::{AttemptFailure, ClientConfig, DownReason};
use tsc_csm::server::{AuthPolicy, CloseReason, Event, ServerConfig};
use tsc_sim::{ClientId, PathConfig, Setup, World, client_config, server_config};
use tsc_tpl::ResponseCode;

const SECOND: Duration = Duration::from_secs(1);

fn impatient(transport: Transport) -> ClientConfig {
    let mut config = client_config(&[transport]);
    config.connect_timeout = Duration::from_millis(400);
    config
}

/// Starts clients one after the other; tells which of them have a tunnel then.
fn start_in_turn(world: &mut World, count: usize) -> (Vec<ClientId>, Vec<bool>) {
    let start = |_| {
        let client = world.add_client(impatient(Transport::Tls), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        client
    };
    let clients: Vec<ClientId> = (0..count).map(start).collect();
    let up = clients.iter().map(|client| world.is_bound(*client));
    let up = up.collect();
    (clients, up)
}

fn refused_with(world: &World, client: ClientId) -> Option<ResponseCode> {
    match world.down_reason(client) {
        Some(DownReason::CannotConnect(AttemptFailure::Refused(refusal))) => Some(refusal.code),
        _ => None,
    }
}

#[test]
fn the_last_address_is_given_and_then_no_more() {
    let mut world = World::new(12);
    let server = world.add_server(server_config(3));
    let (clients, up) = start_in_turn(&mut world, 5);
    assert_eq!(up, [true, true, true, false, false]);
    assert_eq!(
        refused_with(&world, clients[4]),
        Some(ResponseCode::NO_ADDRESS)
    );
    let stats = &world.server(server).pool_stats()[0];
    assert_eq!((stats.total, stats.leased, stats.quarantined), (3, 3, 0));
}

#[test]
fn a_released_address_is_given_again_after_its_quarantine() {
    let mut world = World::new(12);
    let server = world.add_server(server_config(1));
    let first = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(first);
    world.run(SECOND);
    world.release(first, SECOND);
    world.run(SECOND);
    let early = world.add_client(impatient(Transport::Udp), PathConfig::CLEAN);
    world.start(early);
    world.run(Duration::from_secs(20));
    assert_eq!(refused_with(&world, early), Some(ResponseCode::NO_ADDRESS));
    assert_eq!(world.server(server).pool_stats()[0].quarantined, 1);
    world.run(Duration::from_secs(11));
    let late = world.add_client(impatient(Transport::Udp), PathConfig::CLEAN);
    world.start(late);
    world.run(SECOND);
    assert_eq!(
        world.assignment(late).unwrap().addresses[0].address,
        IpAddr::from([10, 0, 0, 1])
    );
}

fn many_behind_one_nat(config: ServerConfig, clients: usize) -> (World, Vec<ClientId>) {
    let mut world = World::new(12);
    world.add_server(config);
    let nat = world.add_nat(Duration::from_secs(300));
    let path = PathConfig {
        nat: Some(nat),
        ..PathConfig::CLEAN
    };
    let clients = (0..clients)
        .map(|_| {
            let client = world.add_client(impatient(Transport::Tcp), path);
            world.start(client);
            world.run(SECOND);
            client
        })
        .collect();
    (world, clients)
}

#[test]
fn tunnels_are_limited_by_source_prefix_persistent_ones_included() {
    let mut config = server_config(50);
    config.limits.tunnels_per_prefix = 4;
    let (mut world, clients) = many_behind_one_nat(config, 4);
    // One loses its transport and is persistent: it still counts.
    world.path(clients[0]).block(true);
    world.break_transport(clients[0]);
    world.run(SECOND);
    let nat = world.path(clients[1]).nat;
    let fifth = world.add_client(
        impatient(Transport::Tcp),
        PathConfig {
            nat,
            ..PathConfig::CLEAN
        },
    );
    let elsewhere = world.add_client(impatient(Transport::Tcp), PathConfig::CLEAN);
    world.start(fifth);
    world.start(elsewhere);
    world.run(SECOND);
    assert_eq!(
        refused_with(&world, fifth),
        Some(ResponseCode::NO_RESOURCES)
    );
    assert!(world.is_bound(elsewhere));
    world.release(clients[1], SECOND);
    world.run(SECOND);
    let sixth = world.add_client(
        impatient(Transport::Tcp),
        PathConfig {
            nat,
            ..PathConfig::CLEAN
        },
    );
    world.start(sixth);
    world.run(SECOND);
    assert!(world.is_bound(sixth));
}

#[test]
fn tunnels_are_limited_by_identity() {
    let mut world = World::new(12);
    let mut config = server_config(50);
    config.interfaces[0].auth = AuthPolicy::Mtls;
    config.limits.tunnels_per_identity = 2;
    let certificates: BTreeMap<usize, String> = (0..4)
        .map(|n| (n, if n < 3 { "alice" } else { "bob" }.to_owned()))
        .collect();
    world.add_server_with(config, Setup { certificates });
    let (clients, up) = start_in_turn(&mut world, 4);
    assert_eq!(up, [true, true, false, true]);
    assert_eq!(
        refused_with(&world, clients[2]),
        Some(ResponseCode::NO_RESOURCES)
    );
}

#[test]
fn requests_of_one_source_are_limited_in_rate_and_others_are_not() {
    let mut world = World::new(12);
    let mut config = server_config(250);
    config.limits.requests_per_second = 10;
    config.limits.request_burst = 20;
    let server = world.add_server(config);
    let nat = world.add_nat(Duration::from_secs(300));
    let crowd: Vec<_> = (0..60)
        .map(|_| {
            world.add_client(
                impatient(Transport::Udp),
                PathConfig {
                    nat: Some(nat),
                    ..PathConfig::CLEAN
                },
            )
        })
        .collect();
    let other = world.add_client(impatient(Transport::Udp), PathConfig::CLEAN);
    for client in &crowd {
        world.start(*client);
    }
    world.start(other);
    world.run(SECOND);
    let up = crowd
        .iter()
        .filter(|client| world.is_bound(**client))
        .count();
    assert!((20..=26).contains(&up), "{up} of 60 came in");
    assert!(world.is_bound(other));
    assert!(world.server_stats(server).rate_limited > 0);
    let busy = crowd
        .iter()
        .filter(|client| refused_with(&world, **client) == Some(ResponseCode::BUSY))
        .count();
    assert_eq!(busy, 60 - up);
}

#[test]
fn a_transport_has_10_s_to_configure_a_tunnel() {
    let mut world = World::new(12);
    let server = world.add_server(server_config(9));
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    // The stream opens and then carries nothing.
    world.run(Duration::from_millis(60));
    assert_eq!(world.server_stats(server).pending, 1);
    world.path(client).block(true);
    world.run(Duration::from_millis(9_900));
    assert_eq!(world.server_stats(server).pending, 1);
    world.run(Duration::from_millis(200));
    assert_eq!(world.server_stats(server).pending, 0);
    let closed = world.server_events(server).iter().any(|(_, event)| {
        matches!(
            event,
            Event::CloseBinding {
                reason: CloseReason::ConfigurationTimeout,
                ..
            }
        )
    });
    assert!(closed);
}

#[test]
fn an_interface_takes_no_more_tunnels_than_configured() {
    let mut config = server_config(50);
    config.interfaces[0].max_tunnels = 3;
    let (world, clients) = many_behind_one_nat(config, 4);
    let up: Vec<bool> = clients
        .iter()
        .map(|client| world.is_bound(*client))
        .collect();
    assert_eq!(up, [true, true, true, false]);
}

#[test]
fn thousands_of_tunnels_have_one_entry_each_in_every_table() {
    let mut world = World::new(12);
    let mut config = server_config(1);
    config.pools[0].ranges[0].range.last = [10, 0, 15, 254].into();
    config.limits.requests_per_second = 0;
    let server = world.add_server(config);
    let clients: Vec<_> = (0..1000)
        .map(|_| {
            let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
            world.start(client);
            client
        })
        .collect();
    world.run(Duration::from_secs(3));
    assert_eq!(world.server_stats(server).sessions, 1000);
    for client in clients {
        world.release(client, SECOND);
    }
    world.run(Duration::from_secs(3));
    let stats = world.server_stats(server);
    assert_eq!((stats.sessions, stats.pending, stats.persistent), (0, 0, 0));
    assert_eq!(world.server(server).poll_timeout(), None);
    assert_eq!(stats.transmit_overflow, 0);
}

/// All who are behind one address lose their transports at once, and come back within the rate.
#[test]
fn resumes_of_one_source_are_limited_in_rate_and_all_come_back() {
    let mut world = World::new(12);
    let mut config = server_config(250);
    config.limits.requests_per_second = 10;
    config.limits.request_burst = 20;
    let server = world.add_server(config);
    let nat = world.add_nat(Duration::from_secs(300));
    let path = PathConfig {
        nat: Some(nat),
        ..PathConfig::CLEAN
    };
    let start = |_| {
        let client = world.add_client(client_config(&[Transport::Udp]), path);
        world.start(client);
        world.run(SECOND / 5);
        client
    };
    let crowd: Vec<_> = (0..60).map(start).collect();
    assert!(crowd.iter().all(|client| world.is_bound(*client)));
    let before = world.server_stats(server).rate_limited;
    for client in &crowd {
        world.break_transport(*client);
    }
    world.run(SECOND);
    let stats = world.server_stats(server);
    assert!(
        (20..=32).contains(&stats.resumed),
        "{} came back",
        stats.resumed
    );
    assert!(stats.rate_limited > before);
    world.run(SECOND * 60);
    assert!(crowd.iter().all(|client| world.is_bound(*client)));
    assert_eq!(world.server_stats(server).sessions, 60, "none was lost");
}
