//! Signs of life: when they are sent, and what their absence means (spec 5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::{SECOND, up};
use tsc_csm::Transport;
use tsc_csm::client::{Event, SuspendReason};
use tsc_csm::server::{SessionState, TunnelTimers};
use tsc_sim::{ClientId, PathConfig, World, client_config, server_config};

/// When the client suspended, and why.
fn suspended(world: &World, client: ClientId) -> Option<(Duration, SuspendReason)> {
    world
        .events(client)
        .iter()
        .find_map(|(at, event)| match event {
            Event::Suspended(reason) => Some((*at, *reason)),
            _ => None,
        })
}

#[test]
fn an_idle_client_sends_at_half_the_interval_less_up_to_a_tenth() {
    let (mut world, server, client) = up(Transport::Udp);
    world.run(Duration::from_secs(600));
    // 25 s less up to 2.5 s, and the first at once.
    let sent = world.client_stats(client).keepalives;
    assert!((25..=28).contains(&sent), "{sent} keepalives");
    assert_eq!(world.client_stats(client).retransmissions, 0);
    let session = world
        .session(server, world.assignment(client).unwrap().tsid)
        .unwrap();
    assert_eq!(
        world.server(server).state(session),
        Some(SessionState::Active)
    );
}

#[test]
fn a_client_that_sends_needs_no_keepalive() {
    let (mut world, _, client) = up(Transport::Udp);
    let other = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(other);
    world.run(SECOND);
    let [mine, its] =
        [client, other].map(|client| world.assignment(client).unwrap().addresses[0].address);
    let before = world.client_stats(client).keepalives;
    for _ in 0..300 {
        world.send(client, its, b"to");
        world.send(other, mine, b"fro");
        world.run(SECOND);
    }
    assert_eq!(world.client_stats(client).keepalives, before);
}

#[test]
fn sending_without_an_echo_is_checked_after_5_s() {
    let (mut world, _, client) = up(Transport::Tls);
    let before = world.client_stats(client).keepalives;
    // To nobody: nothing comes back.
    world.send(client, [10, 0, 0, 200].into(), b"hello");
    world.run(Duration::from_millis(4_900));
    assert_eq!(world.client_stats(client).keepalives, before);
    world.run(Duration::from_millis(200));
    assert_eq!(world.client_stats(client).keepalives, before + 1);
    assert!(world.is_bound(client));
}

#[test]
fn three_unanswered_keepalives_are_a_lost_transport() {
    // On datagrams 1 s apart, on streams 5 s; the last one is waited for as long.
    for (transport, wait) in [
        (Transport::Udp, 3),
        (Transport::Dtls, 3),
        (Transport::Tcp, 15),
        (Transport::Tls, 15),
    ] {
        let (mut world, server, client) = up(transport);
        world.set_server_up(server, false);
        world.network_changed(client);
        let begun = world.elapsed();
        world.run(Duration::from_secs(20));
        let (at, reason) = suspended(&world, client).unwrap();
        assert_eq!(reason, SuspendReason::KeepaliveFailure, "{transport}");
        assert_eq!(at - begun, Duration::from_secs(wait), "{transport}");
    }
}

#[test]
fn any_unit_answers_a_keepalive() {
    let (mut world, server, client) = up(Transport::Udp);
    let mine = world.assignment(client).unwrap().addresses[0].address;
    world.set_server_up(server, false);
    world.network_changed(client);
    world.run(Duration::from_millis(2_500));
    let packet = tsc_sim::packet::udp([10, 0, 0, 99].into(), mine, b"alive");
    world.deliver_raw(client, &packet);
    world.run(Duration::from_secs(2));
    assert_eq!(suspended(&world, client), None);
}

#[test]
fn a_network_change_is_checked_at_once() {
    let (mut world, _, client) = up(Transport::Tls);
    let before = world.client_stats(client).keepalives;
    world.network_changed(client);
    assert_eq!(world.client_stats(client).keepalives, before + 1);
}

#[test]
fn an_interval_of_zero_sends_none() {
    let mut world = World::new(6);
    let mut config = server_config(9);
    config.interfaces[0].datagram_timers = TunnelTimers {
        keepalive: Duration::ZERO,
        ..TunnelTimers::DATAGRAM
    };
    let server = world.add_server(config);
    let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(3600));
    // The one that confirms the tunnel.
    assert_eq!(world.client_stats(client).keepalives, 1);
    assert_eq!(world.server_stats(server).sessions, 1);
    assert_eq!(
        world.server_stats(server).persistent,
        0,
        "never by this timer"
    );
}

#[test]
fn keepalives_keep_a_nat_binding_that_lasts_30_s() {
    let mut world = World::new(6);
    let server = world.add_server(server_config(9));
    let nat = world.add_nat(Duration::from_secs(30));
    let path = PathConfig {
        nat: Some(nat),
        ..PathConfig::CLEAN
    };
    let client = world.add_client(client_config(&[Transport::Udp]), path);
    world.start(client);
    world.run(Duration::from_secs(900));
    assert_eq!(suspended(&world, client), None);
    assert_eq!(world.server_stats(server).resumed, 0);
    let view = world.assignment(client).unwrap().nat_view.unwrap();
    assert_eq!(view.ip(), std::net::IpAddr::from([198, 51, 100, 1]));
}

#[test]
fn a_nat_that_forgets_sooner_costs_a_resume_and_not_the_tunnel() {
    for transport in [Transport::Udp, Transport::Dtls] {
        let mut world = World::new(6);
        let server = world.add_server(server_config(9));
        let nat = world.add_nat(Duration::from_secs(10));
        let path = PathConfig {
            nat: Some(nat),
            ..PathConfig::CLEAN
        };
        let client = world.add_client(client_config(&[transport]), path);
        world.start(client);
        world.run(SECOND);
        let tsid = world.assignment(client).unwrap().tsid;
        world.run(Duration::from_secs(300));
        assert_eq!(world.assignment(client).unwrap().tsid, tsid, "{transport}");
        assert!(world.server_stats(server).resumed >= 1, "{transport}");
        // Where nobody says so the tunnel moves as soon as it is in doubt, before it is lost.
        let expected = match transport {
            Transport::Udp => Some(SuspendReason::UnknownTunnel),
            _ => None,
        };
        let reason = suspended(&world, client).map(|(_, reason)| reason);
        assert_eq!(reason, expected);
    }
}
