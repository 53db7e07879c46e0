//! Resuming by proof: what survives, and who may (spec 5, 8.5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::tunnel::{SECOND, up_over};
use tsc_csm::Transport;
use tsc_csm::client::{DownReason, Event};
use tsc_csm::server::AuthPolicy;
use tsc_sim::{LinkConfig, PathConfig, Setup, World, client_config, server_config};

#[test]
fn a_resumed_tunnel_keeps_its_name_and_addresses() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up_over(&[transport]);
        let before = world.assignment(client).unwrap().clone();
        for round in 1..=3 {
            world.break_transport(client);
            world.run(Duration::from_secs(5));
            assert!(
                world.is_bound(client),
                "{transport} round {round}: {:?}",
                world.events(client)
            );
            assert_eq!(world.server_stats(server).resumed, round);
        }
        let after = world.assignment(client).unwrap();
        assert_eq!(
            (after.tsid, &after.addresses),
            (before.tsid, &before.addresses)
        );
        assert_eq!(world.server_stats(server).sessions, 1);
    }
}

#[test]
fn the_tunnel_moves_to_whatever_transport_passes() {
    let (mut world, server, client) = up_over(&[Transport::Dtls, Transport::Tls]);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Dtls);
    world.path(client).firewall = tsc_sim::Firewall::STREAMS_ONLY;
    world.network_changed(client);
    world.run(Duration::from_secs(60));
    let assignment = world.assignment(client).unwrap();
    assert_eq!(assignment.transport, Transport::Tls);
    assert_eq!(
        assignment.keepalive,
        Duration::from_secs(300),
        "the timers are those of the new transport"
    );
    assert_eq!(world.server_stats(server).resumed, 1);
}

#[test]
fn packets_flow_to_the_new_binding_only() {
    let (mut world, server, client) = up_over(&[Transport::Udp]);
    let sender = world.add_client(client_config(&[Transport::Tcp]), PathConfig::CLEAN);
    world.start(sender);
    world.run(SECOND);
    let mine = world.assignment(client).unwrap().addresses[0].address;
    let session = world.server(server).route(mine).unwrap();
    let first = world.server(server).binding_of(session).unwrap();
    world.break_transport(client);
    world.run(SECOND);
    let second = world.server(server).binding_of(session).unwrap();
    assert_ne!(first, second, "each binding is an epoch of its own");
    world.send(sender, mine, b"hello");
    world.run(SECOND);
    assert_eq!(world.received(client).len(), 1);
}

#[test]
fn the_old_transport_is_closed_when_another_takes_over() {
    // The server does not notice the loss of a stream that just falls silent; the client does.
    let (mut world, server, client) = up_over(&[Transport::Tls]);
    world.path(client).block(true);
    world.network_changed(client);
    world.run(Duration::from_secs(16));
    world.path(client).block(false);
    world.run(Duration::from_secs(60));
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(server).resumed, 1);
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn lost_answers_cost_another_attempt_and_nothing_else() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        let server = world.add_server(server_config(9));
        let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        let tsid = world.assignment(client).unwrap().tsid;
        world.path(client).set(LinkConfig {
            duplicate: 0.3,
            reorder: 0.2,
            ..LinkConfig::lossy(0.4)
        });
        world.break_transport(client);
        world.run(Duration::from_secs(120));
        world.path(client).set(LinkConfig::CLEAN);
        world.run(Duration::from_secs(60));
        assert!(
            world.is_bound(client),
            "seed {seed}: {:?}",
            world.events(client)
        );
        assert_eq!(world.assignment(client).unwrap().tsid, tsid, "seed {seed}");
        assert_eq!(world.server_stats(server).sessions, 1, "seed {seed}");
    }
}

#[test]
fn a_server_that_has_forgotten_rejects_and_the_client_ends() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up_over(&[transport]);
        world.restart_server(server, server_config(9));
        world.run(Duration::from_secs(60));
        let down = world.down_reason(client);
        assert!(
            matches!(down, Some(DownReason::ResumeRejected { .. })),
            "{transport}: {down:?}"
        );
        assert_eq!(world.server_stats(server).resume_rejected, 1);
    }
}

#[test]
fn a_restarted_server_is_not_stormed() {
    let mut world = World::new(9);
    let server = world.add_server(server_config(250));
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
            world.start(client);
            client
        })
        .collect();
    world.run(Duration::from_secs(2));
    let session = world.session(server, world.assignment(clients[0]).unwrap().tsid);
    assert!(session.is_some());
    // An orderly close of every transport, as by an operator: the first attempts spread over 2 s.
    for client in &clients {
        let tsid = world.assignment(*client).unwrap().tsid;
        let mut broken = vec![0x10, 7, 0, 0];
        broken.extend((tsid.0 ^ 1).to_be_bytes());
        broken.extend([0; 4]);
        world.send_raw(*client, broken);
    }
    let begun = world.elapsed();
    world.run(Duration::from_secs(3));
    let mut second_attempts: Vec<_> = clients
        .iter()
        .filter_map(|client| world.attempts(*client).get(1).map(|(at, _)| *at - begun))
        .collect();
    second_attempts.sort();
    assert_eq!(second_attempts.len(), 50);
    let spread = second_attempts[49] - second_attempts[0];
    assert!(
        spread > Duration::from_secs(1) && spread < Duration::from_millis(2_100),
        "{spread:?}"
    );
}

#[test]
fn a_protected_tunnel_never_tries_a_clear_transport() {
    let (mut world, _, client) = up_over(&[Transport::Dtls, Transport::Udp, Transport::Tcp]);
    let before = world.attempts(client).len();
    world.path(client).firewall = tsc_sim::Firewall::CLOSED;
    world.network_changed(client);
    world.run(Duration::from_secs(400));
    assert!(world.attempts(client).len() > before + 2);
    assert!(
        world
            .attempts(client)
            .iter()
            .skip(before)
            .all(|(_, target)| target.transport == Transport::Dtls)
    );
    assert!(matches!(
        world.down_reason(client),
        Some(DownReason::Lost { .. })
    ));
}

#[test]
fn a_clear_tunnel_may_move_to_a_protected_transport() {
    let (mut world, server, client) = up_over(&[Transport::Udp, Transport::Tls]);
    world.path(client).firewall = tsc_sim::Firewall::STREAMS_ONLY;
    world.network_changed(client);
    world.run(Duration::from_secs(60));
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tls);
    assert_eq!(world.server_stats(server).resumed, 1);
}

#[test]
fn authenticated_clients_resume_with_their_own_identity() {
    let mut world = World::new(9);
    let mut config = server_config(9);
    config.interfaces[0].auth = AuthPolicy::Mtls;
    let setup = Setup {
        certificates: BTreeMap::from([(0, "alice".to_owned())]),
    };
    let server = world.add_server_with(config, setup);
    let client = world.add_client(
        client_config(&[Transport::Tls, Transport::Dtls]),
        PathConfig::CLEAN,
    );
    world.start(client);
    world.run(SECOND);
    world.break_transport(client);
    world.run(SECOND);
    assert_eq!(world.server_stats(server).resumed, 1);
}

#[test]
fn events_tell_the_story_in_order() {
    let (mut world, _, client) = up_over(&[Transport::Udp]);
    world.break_transport(client);
    world.run(SECOND);
    let told: Vec<_> = world
        .events(client)
        .iter()
        .map(|(_, event)| match event {
            Event::Open { .. } => "open",
            Event::Close { .. } => "close",
            Event::Configured(_) => "configured",
            Event::Suspended(_) => "suspended",
            Event::Resumed(_) => "resumed",
            _ => "other",
        })
        .collect();
    assert_eq!(told, ["open", "configured", "suspended", "open", "resumed"]);
}
