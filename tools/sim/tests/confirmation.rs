//! A tunnel is confirmed by the first unit after its configuration (spec 5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::Bench;
use common::tunnel::{SECOND, downs};
use tsc_csm::Transport;
use tsc_csm::server::DownReason;
use tsc_sim::{LinkConfig, PathConfig, World, client_config, server_config};

#[test]
fn a_client_confirms_at_once_without_any_traffic() {
    for transport in Transport::ALL {
        let mut world = World::new(11);
        let server = world.add_server(server_config(9));
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        world.run(Duration::from_secs(100));
        assert_eq!(downs(&world, server), [], "{transport}");
        assert!(world.is_bound(client));
    }
}

#[test]
fn a_tunnel_whose_client_vanishes_before_the_answer_lasts_30_s_and_is_not_persistent() {
    for transport in [Transport::Udp, Transport::Dtls] {
        let mut world = World::new(11);
        let server = world.add_server(server_config(9));
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        assert!(world.run_until(SECOND, |world| world.server_stats(server).sessions == 1));
        world.path(client).set(LinkConfig {
            blocked: true,
            ..LinkConfig::CLEAN
        });
        world.run(Duration::from_secs(40));
        assert_eq!(
            downs(&world, server),
            [(30, DownReason::Unconfirmed)],
            "{transport}"
        );
        assert_eq!(world.server_stats(server).persistent, 0);
    }
}

#[test]
fn an_unconfirmed_tunnel_ends_with_its_stream() {
    let mut world = World::new(11);
    let server = world.add_server(server_config(9));
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    assert!(world.run_until(SECOND, |world| world.server_stats(server).sessions == 1));
    let session = world.server(server).route([10, 0, 0, 1].into()).unwrap();
    let binding = world.server(server).binding_of(session).unwrap();
    world.lose_at_server(server, binding);
    assert_eq!(downs(&world, server), [(0, DownReason::Unconfirmed)]);
}

#[test]
fn the_first_packet_confirms_as_well() {
    let mut world = World::new(11);
    let server = world.add_server(server_config(9));
    let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(client);
    assert!(world.run_until(SECOND, |world| world.is_bound(client)));
    world.send(client, [10, 0, 0, 99].into(), b"first");
    world.run(Duration::from_millis(30));
    assert_eq!(world.server_stats(server).forwarded, 1);
    world.path(client).block(true);
    world.run(Duration::from_secs(40));
    assert_eq!(downs(&world, server), []);
}

#[test]
fn a_confirmation_that_is_lost_is_repeated_until_it_is_answered() {
    for seed in 0..40 {
        let mut world = World::new(seed);
        let server = world.add_server(server_config(9));
        let path = PathConfig::both(LinkConfig {
            duplicate: 0.3,
            ..LinkConfig::lossy(0.25)
        });
        let mut config = client_config(&[Transport::Udp]);
        config.attempt_timeout = Duration::from_secs(60);
        let client = world.add_client(config, path);
        world.start(client);
        world.run(Duration::from_secs(90));
        assert!(
            world.assignment(client).is_some(),
            "seed {seed}: {:?}",
            world.events(client)
        );
        assert!(world.server_stats(server).sessions >= 1, "seed {seed}");
    }
}

#[test]
fn an_unconfirmed_tunnel_that_is_being_released_does_not_keep_the_server_busy() {
    let mut bench = Bench::new();
    let binding = bench.open(Transport::Tls);
    bench.configure(binding);
    let session = bench.server.session_of(binding).unwrap();
    bench.now += Duration::from_secs(29);
    bench.catch_up();
    bench.server.release(bench.now, session, None);
    // Its 30 s are over; the release is given 10 s.
    bench.now += Duration::from_secs(2);
    bench.catch_up();
    assert_eq!(bench.server.stats().sessions, 1);
    assert!(bench.server.poll_timeout() > Some(bench.now));
    bench.now += Duration::from_secs(8);
    bench.catch_up();
    assert_eq!(bench.server.stats().sessions, 0);
}
