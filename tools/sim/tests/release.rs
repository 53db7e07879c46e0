//! Releases, by either side, and the graceful stop (spec 5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::{SECOND, reasons, up};
use tsc_csm::Transport;
use tsc_csm::client::DownReason;
use tsc_csm::server::DownReason as ServerDown;
use tsc_sim::{LinkConfig, PathConfig, World, client_config, server_config};

#[test]
fn a_client_releases_and_the_server_confirms() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        world.release(client, Duration::from_secs(5));
        assert!(!world.is_bound(client), "nothing more is sent");
        world.run(SECOND);
        assert_eq!(
            world.down_reason(client),
            Some(&DownReason::Released { confirmed: true }),
            "{transport}"
        );
        assert_eq!(reasons(&world, server), [ServerDown::ReleasedByClient]);
        assert_eq!(world.server_stats(server).sessions, 0);
    }
}

#[test]
fn a_release_that_nobody_answers_is_done_after_its_last_transmission_or_the_deadline() {
    for (transport, patience, expected) in [
        (Transport::Udp, 60_000, 3_500),
        (Transport::Udp, 2_000, 2_000),
        (Transport::Tls, 60_000, 10_000),
    ] {
        let (mut world, server, client) = up(transport);
        world.set_server_up(server, false);
        let begun = world.elapsed();
        world.release(client, Duration::from_millis(patience));
        world.run(Duration::from_secs(30));
        let (at, _) = world.events(client).last().unwrap();
        assert_eq!(
            world.down_reason(client),
            Some(&DownReason::Released { confirmed: false })
        );
        assert_eq!(*at - begun, Duration::from_millis(expected), "{transport}");
    }
}

#[test]
fn a_server_releases_with_its_reason() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        let session = world
            .session(server, world.assignment(client).unwrap().tsid)
            .unwrap();
        world.release_session(server, session, Some("account closed"));
        world.run(SECOND);
        let expected = DownReason::ReleasedByServer {
            text: Some("account closed".to_owned()),
        };
        assert_eq!(world.down_reason(client), Some(&expected), "{transport}");
        assert_eq!(
            reasons(&world, server),
            [ServerDown::ReleasedByServer { confirmed: true }]
        );
        let attempts = world.attempts(client).len();
        world.run(Duration::from_secs(600));
        assert_eq!(
            world.attempts(client).len(),
            attempts,
            "a released tunnel is not resumed"
        );
    }
}

#[test]
fn a_server_is_done_with_a_silent_client_after_three_transmissions() {
    let (mut world, server, client) = up(Transport::Udp);
    let session = world
        .session(server, world.assignment(client).unwrap().tsid)
        .unwrap();
    world.path(client).block(true);
    world.release_session(server, session, None);
    world.run(Duration::from_millis(3_400));
    assert_eq!(world.server_stats(server).sessions, 1);
    assert_eq!(world.server_stats(server).retransmissions, 2);
    world.run(Duration::from_millis(200));
    assert_eq!(
        reasons(&world, server),
        [ServerDown::ReleasedByServer { confirmed: false }]
    );
}

#[test]
fn crossing_releases_end_both_ends() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        let session = world
            .session(server, world.assignment(client).unwrap().tsid)
            .unwrap();
        world.release_session(server, session, None);
        world.release(client, Duration::from_secs(5));
        world.run(SECOND);
        assert_eq!(
            world.down_reason(client),
            Some(&DownReason::Released { confirmed: true })
        );
        assert_eq!(world.server_stats(server).sessions, 0);
    }
}

#[test]
fn a_graceful_stop_releases_every_client_and_takes_a_bounded_time() {
    let mut world = World::new(10);
    let server = world.add_server(server_config(250));
    let clients: Vec<_> = (0..200)
        .map(|n| {
            let path = PathConfig::both(LinkConfig::lossy(if n % 3 == 0 { 0.1 } else { 0.0 }));
            let client = world.add_client(client_config(&[Transport::ALL[n % 4]]), path);
            world.start(client);
            client
        })
        .collect();
    world.run(Duration::from_secs(30));
    assert_eq!(world.server_stats(server).sessions, 200);
    world.stop_server(server, "maintenance");
    world.run(Duration::from_secs(11));
    assert_eq!(world.server_stats(server).sessions, 0);
    let told = clients.iter().filter(|client| {
        let down = world.down_reason(**client);
        matches!(down, Some(DownReason::ReleasedByServer { text: Some(text) }) if text == "maintenance")
    });
    assert!(told.count() > 190);
}

#[test]
fn a_stop_reaches_more_tunnels_than_one_turn_handles() {
    let mut world = World::new(10);
    let mut config = server_config(250);
    let range = &mut config.pools[0].ranges[0].range;
    range.last = [10, 0, 3, 250].into();
    config.limits.requests_per_second = 0;
    let server = world.add_server(config);
    for _ in 0..600 {
        let client = world.add_client(client_config(&[Transport::Tcp]), PathConfig::CLEAN);
        world.start(client);
    }
    world.run(Duration::from_secs(2));
    assert_eq!(world.server_stats(server).sessions, 600);
    world.stop_server(server, "bye");
    world.run(SECOND);
    assert_eq!(world.server_stats(server).sessions, 0);
}

#[test]
fn a_release_while_looking_for_a_transport_ends_at_once() {
    let (mut world, _, client) = up(Transport::Tls);
    world.path(client).block(true);
    world.break_transport(client);
    world.release(client, Duration::from_secs(30));
    assert_eq!(
        world.down_reason(client),
        Some(&DownReason::Released { confirmed: false })
    );
}
