//! ACTIVE, PERSISTENT, CLOSED: what idleness and the loss of a transport do (spec 5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::{SECOND, downs, up};
use common::{Bench, message};
use tsc_csm::Transport;
use tsc_csm::client::{AttemptFailure, DownReason, SuspendReason};
use tsc_csm::server::{DownReason as ServerDown, Event, SessionState, TunnelTimers};
use tsc_sim::{PathConfig, ServerId, World, client_config, server_config};
use tsc_tpl::CmType;

fn states(world: &World, server: ServerId) -> Vec<(u64, SessionState)> {
    let state = |(at, event): &(Duration, Event)| match event {
        Event::StateChanged { state, .. } => Some((at.as_secs(), *state)),
        _ => None,
    };
    world
        .server_events(server)
        .iter()
        .filter_map(state)
        .collect()
}

#[test]
fn a_silent_client_is_persistent_after_the_keepalive_time_and_closed_after_the_persistence_time() {
    for (transport, keepalive) in [(Transport::Udp, 50), (Transport::Dtls, 50)] {
        let (mut world, server, client) = up(transport);
        world.path(client).block(true);
        world.run(Duration::from_secs(1000));
        // The last thing heard is the keepalive that confirmed the tunnel.
        assert_eq!(
            states(&world, server),
            [(keepalive, SessionState::Persistent)],
            "{transport}"
        );
        assert_eq!(
            downs(&world, server),
            [(keepalive + 330, ServerDown::Expired)],
            "{transport}"
        );
    }
}

#[test]
fn a_lost_stream_makes_the_tunnel_persistent_at_once() {
    for transport in [Transport::Tcp, Transport::Tls] {
        let (mut world, server, client) = up(transport);
        world.path(client).block(true);
        world.break_transport(client);
        world.run(SECOND);
        assert_eq!(states(&world, server), [(1, SessionState::Persistent)]);
        let session = world
            .session(server, world.assignment(client).unwrap().tsid)
            .unwrap();
        assert_eq!(world.server(server).binding_of(session), None);
        world.run(Duration::from_secs(400));
        assert_eq!(downs(&world, server)[0].1, ServerDown::Expired);
        assert_eq!(downs(&world, server)[0].0, 331);
    }
}

#[test]
fn packets_for_a_tunnel_without_a_transport_are_dropped_and_counted() {
    let (mut world, server, client) = up(Transport::Tls);
    let sender = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(sender);
    world.run(SECOND);
    let mine = world.assignment(client).unwrap().addresses[0].address;
    world.path(client).block(true);
    world.break_transport(client);
    for _ in 0..5 {
        world.send(sender, mine, b"lost");
    }
    world.run(SECOND);
    assert_eq!(world.undeliverable(server), 5);
    world.path(client).block(false);
    world.run(Duration::from_secs(60));
    world.send(sender, mine, b"found");
    world.run(SECOND);
    assert_eq!(world.received(client).len(), 1);
    assert_eq!(world.received(client)[0].1, b"found");
}

#[test]
fn a_persistent_tunnel_with_a_transport_still_delivers_and_wakes_up() {
    let mut bench = Bench::new();
    let (binding, tsid, _) = bench.tunnel(Transport::Dtls);
    let session = bench.server.session_of(binding).unwrap();
    bench.now += Duration::from_secs(50);
    bench.catch_up();
    assert_eq!(bench.server.state(session), Some(SessionState::Persistent));
    assert_eq!(bench.server.stats().persistent, 1);
    // What the switch asks for each packet.
    assert_eq!(bench.server.route([10, 0, 0, 1].into()), Some(session));
    assert_eq!(bench.server.binding_of(session), Some(binding));
    bench.now += Duration::from_secs(329);
    bench.catch_up();
    let (_, answers) = bench.say(binding, &message(CmType::KEEPALIVE, tsid, 3));
    assert_eq!(answers.len(), 1);
    assert_eq!(bench.server.state(session), Some(SessionState::Active));
    assert_eq!(bench.server.stats().persistent, 0);
}

#[test]
fn a_persistence_time_of_zero_keeps_the_tunnel() {
    let mut world = World::new(8);
    let mut config = server_config(9);
    config.interfaces[0].stream_timers = TunnelTimers {
        persistence: Duration::ZERO,
        ..TunnelTimers::STREAM
    };
    let server = world.add_server(config);
    let mut config = client_config(&[Transport::Tls]);
    config.resume_timeout = Some(Duration::from_secs(100_000));
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    world.path(client).block(true);
    world.break_transport(client);
    world.run(Duration::from_secs(50_000));
    assert_eq!(world.server_stats(server).sessions, 1);
    world.path(client).block(false);
    world.run(Duration::from_secs(120));
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(server).resumed, 1);
}

#[test]
fn a_client_that_cannot_come_back_gives_up_when_the_server_has_forgotten() {
    let (mut world, server, client) = up(Transport::Tls);
    world.path(client).block(true);
    world.break_transport(client);
    world.run(Duration::from_secs(329));
    assert_eq!(world.down_reason(client), None);
    world.run(Duration::from_secs(3));
    match world.down_reason(client) {
        Some(DownReason::Lost {
            cause: SuspendReason::Lost(_),
            last: Some(AttemptFailure::NoAnswer),
        }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(world.server_stats(server).sessions, 0);
}

#[test]
fn traffic_alone_keeps_a_tunnel_active() {
    let (mut world, server, client) = up(Transport::Udp);
    for _ in 0..40 {
        world.send(client, [10, 0, 0, 200].into(), b"one way");
        world.run(Duration::from_secs(20));
    }
    assert_eq!(states(&world, server), []);
    assert_eq!(world.server_stats(server).sessions, 1);
}
