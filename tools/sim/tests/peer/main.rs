//! Peer tunnels (spec 7, "Peer tunneling"): two clients of one server reach each other directly, or go on over the server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod call;
#[path = "../common/mod.rs"]
mod common;
mod hostile;
mod streams;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use call::{CONES, Call, PACE, PROTECTED, Setup, offering};
use common::tunnel::SECOND;
use tsc_csm::client::MAX_PEERS;
use tsc_csm::server::Event as ServerEvent;
use tsc_csm::{PathEnd, Transport};
use tsc_sim::{
    Fate, Firewall, Leg, LinkConfig, NatKind, PathConfig, World, client_config, peer_config,
    server_config,
};
use tsc_tpl::StunMessage;

#[test]
fn it_works_over_every_pair_of_main_transports_and_the_server_relays_nothing() {
    for near in Transport::ALL {
        for far in Transport::ALL {
            let mut call = Call::new(Setup {
                transports: [near, far],
                ..CONES
            });
            call.world.set_peer(call.near, true).unwrap();
            assert_eq!(call.told(call.near), [], "accepted is not in force");
            call.talk(2 * SECOND);
            assert!(call.is_up(), "{near} and {far}");
            assert_eq!(call.told(call.near), [(true, true)]);
            let from = call.sent;
            assert_eq!(call.relayed(5 * SECOND), 0, "{near} and {far}");
            assert_eq!(
                (call.lost(call.near, from), call.lost(call.far, from)),
                (0, 0)
            );
            assert_eq!(call.partners(), [true, true]);
            // Where either is protected, so is the tunnel: nothing of it is in clear.
            let is_clear = !near.is_protected() && !far.is_protected();
            let sent = call.world.peer_datagrams();
            let bare = sent.iter().filter(|sent| sent.bytes[0] >> 4 == 4).count();
            assert_eq!(bare > 0, is_clear, "{near} and {far}");
        }
    }
}

#[test]
fn it_passes_cone_nats_and_falls_back_where_nothing_can() {
    let kinds = [
        None,
        Some(NatKind::Open),
        Some(NatKind::Restricted),
        Some(NatKind::Symmetric),
    ];
    for near in kinds {
        for far in kinds {
            for base in [CONES, PROTECTED] {
                let mut call = Call::new(Setup {
                    nats: [near, far],
                    ..base
                });
                call.world.set_peer(call.near, true).unwrap();
                call.talk(8 * SECOND);
                let symmetric = Some(NatKind::Symmetric);
                let restricted = Some(NatKind::Restricted);
                // A mapping of its own for each receiver is none that a candidate could tell; whoever lets everybody in, or has
                // no NAT, is found nevertheless. The other way round only if the one behind it asks.
                let possible = match (near, far) {
                    (_, far) if far == symmetric => false,
                    (near, far) if near == symmetric && far == restricted => false,
                    _ => true,
                };
                assert_eq!(call.is_up(), possible, "{near:?} and {far:?}");
                let from = call.sent;
                let relayed = call.relayed(2 * SECOND);
                assert_eq!(relayed > 0, !possible, "{near:?} and {far:?}");
                assert_eq!(
                    (call.lost(call.near, from), call.lost(call.far, from)),
                    (0, 0)
                );
                if !possible {
                    assert_eq!(call.told(call.near).last(), Some(&(true, false)));
                }
            }
        }
    }
}

#[test]
fn what_cannot_be_is_tried_more_and_more_seldom() {
    let symmetric = Some(NatKind::Symmetric);
    let mut call = Call::new(Setup {
        nats: [symmetric; 2],
        ..CONES
    });
    call.world.set_peer(call.near, true).unwrap();
    call.pace = SECOND;
    call.talk(600 * SECOND);
    // After 15 s, 30 s, 60 s, 120 s, 240 s, and the time that each takes.
    let requests = call.world.server_stats(call.server).peer_requests;
    assert!((4..=6).contains(&requests), "{requests}");
    assert_eq!(call.told(call.near), [(true, false)]);
}

/// Clients behind one NAT.
fn neighbours(setup: Setup) -> Call {
    let mut world = World::new(setup.seed);
    let server = world.add_server(offering());
    let nat = world.add_nat(Duration::from_secs(120));
    let mut add = |number: usize| {
        let path = PathConfig {
            nat: Some(nat),
            firewall: setup.firewall,
            ..PathConfig::CLEAN
        };
        let config = client_config(&[setup.transports[number]]);
        let client = world.add_client(peer_config(config, number), path);
        world.start(client);
        client
    };
    let (near, far) = (add(0), add(1));
    world.run(SECOND);
    Call {
        world,
        server,
        near,
        far,
        sent: 0,
        pace: PACE,
    }
}

#[test]
fn neighbours_behind_one_nat_find_each_other_in_their_own_network() {
    for setup in [CONES, PROTECTED] {
        let mut call = neighbours(setup);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(2 * SECOND);
        assert!(call.is_up());
        let address = call.world.peers(call.near)[0].outer.unwrap().address;
        assert_eq!(address.ip(), IpAddr::from([192, 168, 1, 2]));
        assert_eq!(call.relayed(2 * SECOND), 0);
    }
}

#[test]
fn private_addresses_are_told_to_nobody_behind_another_nat() {
    let call = Call::connected(PROTECTED);
    for sent in call.world.peer_datagrams() {
        let IpAddr::V4(to) = sent.to.ip() else {
            panic!("{}", sent.to)
        };
        assert!(!to.is_private(), "{}", sent.to);
    }
    assert!(call.world.server_stats(call.server).peer_struck >= 2);
}

#[test]
fn packets_take_the_two_links_between_the_clients_and_no_more() {
    let mut call = Call::connected(CONES);
    let at = call.world.elapsed();
    let far = call.address(call.far);
    call.world.send(call.near, far, &u32::MAX.to_be_bytes());
    call.world.run(SECOND);
    let came = call.world.received(call.far).last().unwrap().0;
    assert_eq!(came - at, Duration::from_millis(40));
}

#[test]
fn crossing_requests_make_one_tunnel() {
    for seed in 0..20 {
        for base in [CONES, PROTECTED] {
            let mut call = Call::new(Setup { seed, ..base });
            call.world.set_peer(call.near, true).unwrap();
            call.world.set_peer(call.far, true).unwrap();
            call.talk(6 * SECOND);
            assert!(call.is_up(), "seed {seed}");
            // That of the lower inner address stands.
            let near_is_lower = call.address(call.near) < call.address(call.far);
            assert_eq!(call.world.peers(call.far)[0].is_invited, near_is_lower);
            assert_eq!(call.world.peers(call.near)[0].is_invited, !near_is_lower);
            assert_eq!(call.told(call.near).last(), Some(&(true, true)));
            assert_eq!(call.told(call.far).last(), Some(&(true, true)));
            assert_eq!(call.relayed(2 * SECOND), 0);
            assert_eq!(call.world.peer_sockets(call.near).len(), 1);
            assert_eq!(call.world.peer_sockets(call.far).len(), 1);
        }
    }
}

/// A second request, some time after the first: it may find it at any stage.
#[test]
fn requests_that_come_at_any_later_moment_make_one_tunnel() {
    for delay in (0..400).step_by(10) {
        let mut call = Call::new(PROTECTED);
        call.world.set_peer(call.far, true).unwrap();
        let near = call.address(call.near);
        call.world.send(call.far, near, &0_u32.to_be_bytes());
        call.world.run(Duration::from_millis(delay));
        call.world.set_peer(call.near, true).unwrap();
        call.talk(8 * SECOND);
        assert!(call.is_up(), "{delay} ms");
        assert_eq!(call.relayed(2 * SECOND), 0, "{delay} ms");
    }
}

#[test]
fn the_last_socket_that_wants_it_ends_it_for_both() {
    for setup in [CONES, PROTECTED] {
        let mut call = Call::connected(setup);
        call.world.set_peer(call.near, false).unwrap();
        call.talk(SECOND);
        assert_eq!(call.ends(call.near), [PathEnd::Unused]);
        // Its goodbye and the server's word are as fast as each other.
        let ends = call.ends(call.far);
        assert!(matches!(ends[..], [PathEnd::Released | PathEnd::ByServer]));
        assert_eq!(call.partners(), [false, false]);
        let from = call.sent;
        assert!(call.relayed(SECOND) > 0);
        assert_eq!(
            (call.lost(call.near, from), call.lost(call.far, from)),
            (0, 0)
        );
        // And another begins it anew.
        call.world.set_peer(call.near, true).unwrap();
        call.talk(3 * SECOND);
        assert!(call.is_up());
    }
}

#[test]
fn a_tunnel_without_packets_is_released_after_a_minute() {
    let mut call = Call::connected(CONES);
    call.world.run(59 * SECOND);
    assert!(call.is_up(), "kept awake by Keepalives");
    call.world.run(3 * SECOND);
    assert_eq!(call.ends(call.near), [PathEnd::Unused]);
    assert_eq!(call.ends(call.far).len(), 1);
    // The next packet makes another.
    call.talk(3 * SECOND);
    assert!(call.is_up());
}

#[test]
fn a_path_that_fails_sends_everything_back_over_the_server() {
    for setup in [CONES, PROTECTED] {
        let mut call = Call::connected(setup);
        call.world.meddle(|leg, _| match leg {
            Leg::Direct(_) => Fate::Lose,
            Leg::Up(_) | Leg::Down(_) => Fate::Pass,
        });
        let from = call.sent;
        call.talk(10 * SECOND);
        // What went out before the silence was noticed: less than a second of it.
        let (near, far) = (call.lost(call.near, from), call.lost(call.far, from));
        assert!(near < 50 && far < 50, "{near} and {far} lost");
        assert!(!call.is_up());
        assert_eq!(call.ends(call.near).len(), 1);
        assert_eq!(call.ends(call.far).len(), 1);
        assert_eq!(call.told(call.near), [(true, true), (true, false)]);
        assert_eq!(call.partners(), [false, false]);
        // It is tried again, more and more seldom, and taken when it works.
        call.talk(60 * SECOND);
        call.world.meddle(|_, _| Fate::Pass);
        call.talk(120 * SECOND);
        assert!(call.is_up());
        assert_eq!(call.told(call.near).last(), Some(&(true, true)));
    }
}

#[test]
fn a_path_that_is_silent_for_a_moment_is_used_again() {
    let mut call = Call::connected(CONES);
    call.world.meddle(|leg, _| match leg {
        Leg::Direct(_) => Fate::Lose,
        Leg::Up(_) | Leg::Down(_) => Fate::Pass,
    });
    assert!(call.relayed(2 * SECOND) > 0);
    call.world.meddle(|_, _| Fate::Pass);
    call.talk(2 * SECOND);
    assert_eq!(call.ends(call.near), []);
    assert_eq!(call.relayed(2 * SECOND), 0);
}

#[test]
fn it_ends_with_either_main_tunnel() {
    for setup in [CONES, PROTECTED] {
        let mut call = Call::connected(setup);
        call.world.release(call.near, SECOND);
        call.world.run(SECOND);
        assert_eq!(call.ends(call.near), [PathEnd::MainDown]);
        assert_eq!(call.ends(call.far).len(), 1);
        assert_eq!(call.world.peer_sockets(call.far), []);

        // The server says so too, where the goodbye is lost.
        let mut call = Call::connected(setup);
        call.world.meddle(|leg, _| match leg {
            Leg::Direct(_) => Fate::Lose,
            Leg::Up(_) | Leg::Down(_) => Fate::Pass,
        });
        call.world.release(call.far, SECOND);
        call.world.run(Duration::from_millis(200));
        assert_eq!(call.ends(call.near), [PathEnd::ByServer]);
    }
}

#[test]
fn it_outlives_the_transports_of_the_main_tunnels() {
    let mut call = Call::connected(PROTECTED);
    call.world.break_transport(call.far);
    call.world.break_transport(call.near);
    call.talk(5 * SECOND);
    assert_eq!(call.ends(call.near), []);
    assert!(call.is_up());
    assert_eq!(call.relayed(SECOND), 0);
    assert_eq!(call.world.client_stats(call.far).resumes, 1);
}

#[test]
fn where_it_is_not_to_be_had_traffic_goes_as_ever() {
    let mut blocked = offering();
    blocked.interfaces[0].inter_client_block = true;
    let cases = [
        // Told at once, as the server has said so.
        (server_config(20), true, (false, false)),
        (blocked, true, (false, false)),
        // The other end does not offer it.
        (offering(), false, (true, false)),
    ];
    for (config, far_offers, told) in cases {
        let mut world = World::new(3);
        let server = world.add_server(config);
        let near = peer_config(client_config(&[Transport::Udp]), 0);
        let near = world.add_client(near, PathConfig::CLEAN);
        let mut far = peer_config(client_config(&[Transport::Udp]), 1);
        if !far_offers {
            far.supported_services.clear();
        }
        let far = world.add_client(far, PathConfig::CLEAN);
        world.start(near);
        world.start(far);
        world.run(SECOND);
        let mut call = Call {
            world,
            server,
            near,
            far,
            sent: 0,
            pace: PACE,
        };
        call.world.set_peer(near, true).unwrap();
        call.talk(5 * SECOND);
        assert_eq!(call.told(near), [told]);
        assert_eq!((call.lost(near, 0), call.lost(far, 0)), (0, 0));
        assert!(!call.is_up());
        assert_eq!(call.world.peer_sockets(near), [], "closed again");
    }
}

#[test]
fn receivers_that_are_no_clients_are_asked_for_once_in_a_while() {
    let mut call = Call::new(CONES);
    call.world.set_peer(call.near, true).unwrap();
    // An address of the pool that nobody has, and one beyond.
    for to in [[10, 0, 0, 19], [192, 0, 2, 9]] {
        for _ in 0..500 {
            call.world.send(call.near, to.into(), b"1234");
            call.world.run(PACE);
        }
    }
    let stats = call.world.server_stats(call.server);
    assert_eq!((stats.peer_requests, stats.peer_refused), (2, 2));
    assert_eq!(call.told(call.near), [(true, false)]);
}

/// What is sent until a tunnel is up, and what becomes of it if any one of its datagrams is lost, late or doubled.
#[test]
fn any_datagram_may_be_lost_late_or_twice() {
    for setup in [CONES, PROTECTED] {
        for fate in [
            Fate::Lose,
            Fate::Late(Duration::from_millis(700)),
            Fate::Twice(Duration::from_millis(300)),
        ] {
            for number in 0..30 {
                let mut call = Call::new(setup);
                call.pace = Duration::from_millis(100);
                let mut seen = 0;
                // All but speech, which has nothing to do with it.
                call.world.meddle(move |_, bytes| {
                    let is_speech = bytes[0] >> 4 == 4 || bytes.len() == 34;
                    if is_speech {
                        return Fate::Pass;
                    }
                    seen += 1;
                    if seen == number + 1 { fate } else { Fate::Pass }
                });
                call.world.set_peer(call.near, true).unwrap();
                call.talk(40 * SECOND);
                let what = format!("{fate:?} of datagram {number}, {:?}", setup.transports);
                assert!(call.is_up(), "{what}");
                let from = call.sent;
                assert_eq!(call.relayed(SECOND), 0, "{what}");
                assert_eq!(
                    (call.lost(call.near, from), call.lost(call.far, from)),
                    (0, 0),
                    "{what}"
                );
            }
        }
    }
}

/// The same with all of one kind: from the n-th on, for a while.
#[test]
fn any_leg_may_be_dead_for_a_while() {
    for setup in [CONES, PROTECTED] {
        for leg in 0..4 {
            for begin in (0..600).step_by(40) {
                let mut call = Call::new(setup);
                let (near, far) = (call.near, call.far);
                let dead = [
                    Leg::Up(near),
                    Leg::Down(near),
                    Leg::Direct(near),
                    Leg::Direct(far),
                ][leg];
                call.world.set_peer(near, true).unwrap();
                call.talk(Duration::from_millis(begin));
                call.world
                    .meddle(move |leg, _| if leg == dead { Fate::Lose } else { Fate::Pass });
                call.talk(6 * SECOND);
                call.world.meddle(|_, _| Fate::Pass);
                call.pace = Duration::from_millis(200);
                call.talk(90 * SECOND);
                assert!(call.is_up(), "{dead:?} from {begin} ms on");
                assert_eq!(call.relayed(SECOND), 0, "{dead:?} from {begin} ms on");
            }
        }
    }
}

#[test]
fn bad_networks_do_not_keep_them_apart() {
    for seed in 0..30 {
        let base = if seed % 2 == 0 { CONES } else { PROTECTED };
        let mut call = Call::new(Setup { seed, ..base });
        for client in [call.near, call.far] {
            call.world.path(client).set(LinkConfig {
                jitter: Duration::from_millis(30),
                duplicate: 0.05,
                reorder: 0.05,
                ..LinkConfig::lossy(0.1)
            });
        }
        call.world.set_peer(call.near, true).unwrap();
        call.pace = Duration::from_millis(100);
        call.talk(60 * SECOND);
        assert!(call.is_up(), "seed {seed}");
    }
}

/// The server withdraws the service: it is restarted, and does not offer it any more.
#[test]
fn a_server_that_forgets_everything_takes_no_speech_with_it() {
    let mut call = Call::connected(CONES);
    let config = server_config(20);
    call.world.restart_server(call.server, config);
    call.talk(60 * SECOND);
    // The tunnels are over, as nothing can be resumed.
    assert!(call.world.down_reason(call.near).is_some());
    // Whichever end finds out first.
    assert_eq!(
        (call.ends(call.near).len(), call.ends(call.far).len()),
        (1, 1)
    );
    assert_eq!(call.world.peer_sockets(call.near), []);
}

#[test]
fn one_client_has_so_many_tunnels_and_no_more() {
    let mut world = World::new(9);
    let server = world.add_server(offering());
    let mut clients = Vec::new();
    for number in 0..=MAX_PEERS + 1 {
        let config = peer_config(client_config(&[Transport::Dtls]), number);
        let client = world.add_client(config, PathConfig::CLEAN);
        world.start(client);
        clients.push(client);
    }
    world.run(SECOND);
    let address = |world: &World, client| world.assignment(client).unwrap().addresses[0].address;
    world.set_peer(clients[0], true).unwrap();
    for _ in 0..500 {
        for other in &clients[1..] {
            let to = address(&world, *other);
            world.send(clients[0], to, b"1234");
        }
        world.run(PACE);
    }
    assert_eq!(world.peers(clients[0]).len(), MAX_PEERS);
    let others = clients[1..].iter().filter(|c| world.peers(**c).len() == 1);
    assert_eq!(others.count(), MAX_PEERS);
    let granted = world.server_stats(server).peer_granted;
    assert_eq!(granted, MAX_PEERS as u64);
}

#[test]
fn stun_is_answered_where_peer_tunnels_are_offered_and_as_often_as_strangers_are() {
    use tsc_tpl::{MAX_STUN_GROWTH, StunKind};
    let mut config = offering();
    config.limits.stateless_per_second = 10;
    for (config, answers) in [(server_config(9), 0), (config, 10)] {
        let mut world = World::new(1);
        let server = world.add_server(config);
        let request = StunMessage::new(StunKind::Request, [7; 12]);
        assert!(request.success(([192, 0, 2, 1], 9).into()).encode().len() <= 28 + MAX_STUN_GROWTH);
        for port in 1..=200 {
            let from = SocketAddr::from(([192, 0, 2, 1], port));
            world.stranger(server, from, request.encode());
        }
        // What is none, or wants more, or is an answer itself.
        for bytes in [vec![0; 20], vec![1; 600], vec![0]] {
            world.stranger(server, ([192, 0, 2, 2], 9).into(), bytes);
        }
        world.run(Duration::from_millis(1));
        assert_eq!(world.server_stats(server).stun, answers);
    }
}

#[test]
fn hosts_whose_datagrams_do_not_pass_go_on_over_the_server() {
    let mut call = Call::new(PROTECTED);
    call.world.path(call.far).firewall = Firewall::STREAMS_ONLY;
    call.world.set_peer(call.near, true).unwrap();
    call.talk(20 * SECOND);
    assert!(!call.is_up());
    assert_eq!((call.lost(call.near, 0), call.lost(call.far, 0)), (0, 0));
}

/// The server's events name who reaches whom.
#[test]
fn the_server_tells_of_tunnels_and_their_ends() {
    let mut call = Call::connected(CONES);
    call.world.set_peer(call.near, false).unwrap();
    call.world.run(SECOND);
    let events = call.world.server_events(call.server).iter();
    let (mut granted, mut ended) = (0, 0);
    for (_, event) in events {
        match event {
            ServerEvent::ServiceGranted { .. } => granted += 1,
            ServerEvent::ServiceEnded { .. } => ended += 1,
            _ => {}
        }
    }
    assert_eq!((granted, ended), (2, 2));
}
