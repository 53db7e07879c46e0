//! The race of ways to the servers, and moves from one transport to another (docs/networks.md).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::tunnel::{SECOND, up_over};
use tsc_csm::Transport;
use tsc_csm::client::{
    AttemptFailure, ClientConfig, CloseReason, DownReason, Event, MAX_RACING, TransportFailure,
};
use tsc_sim::{
    ClientId, Firewall, LinkConfig, PathConfig, ServerId, World, client_config, server_config,
};

const MS: Duration = Duration::from_millis(1);

/// Server 0 of a world, or a place where nobody is.
fn at(host: u8) -> SocketAddr {
    ([203, 0, 113, host], 5060).into()
}

fn nowhere_v6() -> SocketAddr {
    "[2001:db8::1]:5060".parse().unwrap()
}

fn looked_up(transports: &[Transport]) -> ClientConfig {
    ClientConfig {
        lookup: true,
        ..client_config(transports)
    }
}

fn world(config: ClientConfig, path: PathConfig) -> (World, ServerId, ClientId) {
    let mut world = World::new(7);
    let server = world.add_server(server_config(9));
    let client = world.add_client(config, path);
    (world, server, client)
}

fn up_at(world: &World, client: ClientId) -> Option<Duration> {
    world
        .events(client)
        .iter()
        .find(|(_, event)| matches!(event, Event::Configured(_)))
        .map(|(at, _)| *at)
}

#[test]
fn an_address_that_is_silent_delays_by_no_more_than_the_race() {
    for transport in Transport::ALL {
        let (mut world, server, client) = world(looked_up(&[transport]), PathConfig::CLEAN);
        world.set_directory(client, server, [nowhere_v6(), at(200), at(1)]);
        world.start(client);
        world.run(5 * SECOND);
        let slow = up_at(&world, client).unwrap();
        let (mut direct, _, other) = self::world(looked_up(&[transport]), PathConfig::CLEAN);
        direct.start(other);
        direct.run(5 * SECOND);
        let best = up_at(&direct, other).unwrap();
        assert!(slow <= best + 2 * 50 * MS, "{transport}: {slow:?} {best:?}");
        // Losers are closed.
        let closed = world.events(client).iter().filter(|(_, event)| {
            matches!(
                event,
                Event::Close {
                    reason: CloseReason::NotNeeded,
                    ..
                }
            )
        });
        assert_eq!(closed.count(), 2, "{transport}");
    }
}

#[test]
fn only_one_of_many_that_work_asks_for_a_tunnel() {
    for seed in 0..50 {
        let mut world = World::new(seed);
        let server = world.add_server(server_config(9));
        let jitter = if seed % 2 == 0 {
            Duration::ZERO
        } else {
            80 * MS
        };
        let path = PathConfig::both(LinkConfig {
            jitter,
            ..LinkConfig::CLEAN
        });
        let client = world.add_client(looked_up(&Transport::ALL), path);
        world.start(client);
        world.run(10 * SECOND);
        assert!(world.is_bound(client));
        let configured = world.server_stats(server).configured;
        // Where answers take much longer than the way did another may ask, whose tunnel is closed.
        assert!(
            configured == 1 || (!jitter.is_zero() && configured <= 3),
            "seed {seed}"
        );
        world.run(40 * SECOND);
        assert_eq!(world.server_stats(server).sessions, 1, "seed {seed}");
    }
}

#[test]
fn what_worked_last_gets_a_head_start() {
    let mut config = looked_up(&[Transport::Tcp, Transport::Udp, Transport::Tls]);
    config.first = Some(config.targets[2]);
    let (mut world, _, client) = world(config, PathConfig::CLEAN);
    world.start(client);
    world.run(5 * SECOND);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tls);
    let attempts = world.attempts(client);
    assert_eq!(attempts[0].1.transport, Transport::Tls);
    if let Some((at, _)) = attempts.get(1) {
        assert!(*at - attempts[0].0 >= 250 * MS);
    }
}

#[test]
fn a_name_that_is_unknown_fails_and_is_looked_up_again() {
    let (mut world, server, client) = world(looked_up(&[Transport::Tls]), PathConfig::CLEAN);
    world.set_directory(client, server, []);
    world.start(client);
    world.run(3 * SECOND);
    assert!(world.attempts(client).is_empty());
    assert!(world.events(client).iter().any(|(_, event)| matches!(
        event,
        Event::AttemptFailed {
            epoch: None,
            failure: AttemptFailure::Transport(TransportFailure::Resolve),
            ..
        }
    )));
    world.set_directory(client, server, [at(1)]);
    world.run(20 * SECOND);
    assert!(world.is_bound(client));
}

#[test]
fn a_server_that_moved_is_found_by_its_name() {
    let (mut world, server, client) = world(looked_up(&[Transport::Tls]), PathConfig::CLEAN);
    world.set_directory(client, server, [at(77)]);
    let path = world.path(client);
    path.firewall = Firewall::CLOSED;
    world.start(client);
    world.run(SECOND);
    world.set_directory(client, server, [at(1)]);
    world.path(client).firewall = Firewall::OPEN;
    world.run(45 * SECOND);
    assert!(world.is_bound(client), "{:?}", world.events(client));
}

#[test]
fn attempts_are_few_and_bounded_while_nothing_answers() {
    let (mut world, _, client) = world(looked_up(&Transport::ALL), PathConfig::CLEAN);
    world.path(client).block(true);
    world.start(client);
    world.run(59 * SECOND);
    let attempts = world.attempts(client).len();
    assert!((8..=40).contains(&attempts), "{attempts} in a minute");
    let (mut open, mut most) = (0usize, 0);
    for (_, event) in world.events(client) {
        match event {
            Event::Open { .. } => open += 1,
            Event::Close { .. } => open -= 1,
            _ => {}
        }
        most = most.max(open);
    }
    assert!(most <= MAX_RACING, "{most}");
}

#[test]
fn a_tunnel_is_back_within_a_second_of_its_network() {
    for transport in Transport::ALL {
        for outage in [5, 20, 60] {
            let (mut world, server, client) = up_over(&[transport]);
            let mine = world.assignment(client).unwrap().addresses[0].address;
            // A call: something is sent all the time.
            let talk = |world: &mut World, time: Duration| {
                let until = world.elapsed() + time;
                while world.elapsed() < until {
                    world.send(client, mine, b"media");
                    world.run(20 * MS);
                }
            };
            talk(&mut world, SECOND);
            world.path(client).block(true);
            talk(&mut world, outage * SECOND);
            world.path(client).block(false);
            let back = world.elapsed();
            let before = world.attempts(client).len();
            talk(&mut world, 3 * SECOND);
            assert!(world.is_bound(client), "{transport} {outage}");
            let resumed = world
                .events(client)
                .iter()
                .rev()
                .find_map(|(at, event)| matches!(event, Event::Resumed(_)).then_some(*at));
            match resumed {
                Some(at) => assert!(
                    at <= back + SECOND + 500 * MS,
                    "{transport} {outage}: {:?}",
                    at - back
                ),
                // Nothing was lost but packets.
                None => assert!(outage == 5, "{transport} {outage} {before}"),
            }
            assert_eq!(world.server_stats(server).sessions, 1);
        }
    }
}

#[test]
fn a_transport_in_doubt_that_answers_after_all_is_kept() {
    let (mut world, server, client) = up_over(&[Transport::Udp]);
    world.path(client).block(true);
    world.network_changed(client);
    world.run(700 * MS);
    assert!(world.attempts(client).len() > 1, "another is looked for");
    world.path(client).block(false);
    world.run(2 * SECOND);
    assert!(world.is_bound(client));
    let resumed = world.server_stats(server).resumed;
    assert!(resumed <= 1);
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn a_better_network_is_moved_to_while_the_old_one_still_works() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up_over(&[transport]);
        let other = world.add_client(client_config(&[Transport::Tcp]), PathConfig::CLEAN);
        world.start(other);
        world.run(SECOND);
        let mine = world.assignment(client).unwrap().addresses[0].address;
        let begun = world.elapsed();
        world.relocate(client);
        for _ in 0..100 {
            world.send(other, mine, b"media");
            world.run(20 * MS);
            assert!(world.is_bound(client), "{transport}: never without one");
        }
        world.run(SECOND);
        assert_eq!(world.server_stats(server).resumed, 1, "{transport}");
        let arrivals: Vec<Duration> = world
            .received(client)
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at > begun)
            .collect();
        assert_eq!(arrivals.len(), 100, "{transport}: none is lost");
        let gap = arrivals.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert!(gap.unwrap() < 300 * MS, "{transport}: {gap:?}");
    }
}

#[test]
fn a_move_that_leads_nowhere_leaves_the_tunnel_where_it_is() {
    let (mut world, server, client) = up_over(&[Transport::Tls]);
    world.path(client).firewall = Firewall::CLOSED;
    world.relocate(client);
    world.run(400 * MS);
    // What is open passes all the same.
    assert!(world.is_bound(client));
    world.path(client).firewall = Firewall::OPEN;
    world.run(60 * SECOND);
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn nothing_is_tried_without_a_network() {
    let (mut world, _, client) = up_over(&[Transport::Tls, Transport::Udp]);
    world.network_gone(client);
    world.break_transport(client);
    let before = world.attempts(client).len();
    world.run(60 * SECOND);
    assert_eq!(world.attempts(client).len(), before);
    world.network_changed(client);
    world.run(SECOND);
    assert!(world.is_bound(client));
}

#[test]
fn a_tunnel_begins_on_a_stream_and_moves_to_datagrams_when_they_pass() {
    let mut config = looked_up(&[Transport::Tls, Transport::Dtls]);
    config.upgrade = true;
    config.race_delay = SECOND;
    let path = PathConfig {
        firewall: Firewall::STREAMS_ONLY,
        ..PathConfig::CLEAN
    };
    let (mut world, server, client) = world(config, path);
    world.start(client);
    world.run(30 * SECOND);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tls);
    let tries = world.attempts(client).len();
    assert!((2..40).contains(&tries), "{tries}");
    world.path(client).firewall = Firewall::OPEN;
    world.network_changed(client);
    world.run(2 * SECOND);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Dtls);
    assert_eq!(world.server_stats(server).resumed, 1);
    // Blocked again: it falls back, and does not flap.
    world.path(client).firewall = Firewall::STREAMS_ONLY;
    for _ in 0..600 {
        world.send(client, [10, 0, 0, 200].into(), b"media");
        world.run(100 * MS);
    }
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tls);
    assert_eq!(world.server_stats(server).resumed, 2);
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn many_ways_on_a_slow_network_are_all_given_their_time() {
    for delay in [60, 150, 300] {
        let path = PathConfig {
            firewall: Firewall::STREAMS_ONLY,
            ..PathConfig::both(LinkConfig {
                delay: delay * MS,
                ..LinkConfig::CLEAN
            })
        };
        let config = looked_up(&[Transport::Udp, Transport::Dtls, Transport::Tls]);
        let (mut world, server, client) = world(config, path);
        let nobody = [200, 201, 202].map(at);
        world.set_directory(client, server, nobody.into_iter().chain([at(1)]));
        world.start(client);
        world.run(30 * SECOND);
        assert!(
            world.is_bound(client),
            "{delay} ms: {:?}",
            world.events(client)
        );
    }
}

#[test]
fn a_backup_whose_name_was_unknown_is_looked_up_when_it_is_needed() {
    let mut config = looked_up(&[Transport::Tls]);
    let mut backup = config.targets[0];
    backup.endpoint = tsc_csm::client::Endpoint::Configured(1);
    config.targets.push(backup);
    let mut world = World::new(7);
    let first = world.add_server(server_config(9));
    let second = world.add_server(server_config(9));
    let client = world.add_client(config, PathConfig::CLEAN);
    world.set_directory(client, second, []);
    world.start(client);
    world.run(SECOND);
    assert!(world.is_bound(client));
    world.set_directory(client, second, [at(2)]);
    world.set_server_up(first, false);
    world.break_transport(client);
    world.run(20 * SECOND);
    // Nobody there knows the tunnel: that is said, not waited for.
    assert!(world.down_reason(client).is_some());
    assert_eq!(world.server_stats(second).resume_rejected, 1);
}

#[test]
fn a_clear_way_does_not_overtake_a_protected_one_that_is_preferred() {
    for delay in [5, 40, 150] {
        let path = PathConfig::both(LinkConfig {
            delay: delay * MS,
            ..LinkConfig::CLEAN
        });
        let config = looked_up(&[Transport::Tls, Transport::Tcp]);
        let (mut world, _, client) = world(config, path);
        world.start(client);
        world.run(10 * SECOND);
        let transport = world.assignment(client).unwrap().transport;
        assert_eq!(transport, Transport::Tls, "{delay} ms");
    }
    // Where the protected one is silent it is not waited for for ever.
    let config = looked_up(&[Transport::Dtls, Transport::Tcp]);
    let path = PathConfig {
        firewall: Firewall::STREAMS_ONLY,
        ..PathConfig::CLEAN
    };
    let (mut world, _, client) = world(config, path);
    world.start(client);
    world.run(2 * SECOND);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tcp);
}

#[test]
fn changes_in_a_row_break_no_move() {
    for transport in Transport::ALL {
        for pause in (10..200).step_by(10) {
            let (mut world, server, client) = up_over(&[transport]);
            world.relocate(client);
            world.run(pause * MS);
            world.relocate(client);
            world.run(5 * SECOND);
            assert!(world.is_bound(client), "{transport} {pause}");
            let suspended = world
                .events(client)
                .iter()
                .any(|(_, event)| matches!(event, Event::Suspended(_)));
            assert!(
                !suspended,
                "{transport} {pause}: {:?}",
                world.events(client)
            );
            assert_eq!(world.server_stats(server).sessions, 1);
        }
    }
}

#[test]
fn moves_that_cross_each_other_end_at_the_last() {
    let mut suspended = 0;
    for seed in 0..300 {
        let mut world = World::new(seed);
        let server = world.add_server(server_config(9));
        let client = world.add_client(looked_up(&Transport::ALL), PathConfig::CLEAN);
        world.start(client);
        world.run(2 * SECOND);
        world.path(client).set(LinkConfig {
            jitter: 250 * MS,
            ..LinkConfig::CLEAN
        });
        world.relocate(client);
        world.run(10 * SECOND);
        assert!(world.is_bound(client), "seed {seed}");
        assert_eq!(world.server_stats(server).sessions, 1, "seed {seed}");
        suspended += u32::from(
            world
                .events(client)
                .iter()
                .any(|(_, event)| matches!(event, Event::Suspended(_))),
        );
    }
    assert_eq!(suspended, 0);
}

#[test]
fn doubt_that_leads_nowhere_does_not_spin() {
    let (mut world, _, client) = up_over(&[Transport::Tls]);
    // The server says so of itself: nothing else may be tried for a minute.
    world.path(client).block(true);
    world.network_changed(client);
    let before = world.client_stats(client).attempts;
    world.run(14 * SECOND);
    let attempts = world.client_stats(client).attempts - before;
    assert!(attempts < 40, "{attempts}");
}

#[test]
fn a_tunnel_that_is_moving_is_released_all_the_same() {
    for transport in Transport::ALL {
        for pause in (0..200).step_by(10) {
            let (mut world, server, client) = up_over(&[transport]);
            world.relocate(client);
            world.run(pause * MS);
            world.release(client, 5 * SECOND);
            world.run(6 * SECOND);
            assert_eq!(
                world.down_reason(client),
                Some(&DownReason::Released { confirmed: true }),
                "{transport} {pause} ms"
            );
            assert_eq!(world.server_stats(server).sessions, 0);
        }
    }
}
