//! Dynamic datagram tunnels: a datagram companion beside a stream (spec 7, "DDT"; patent "Dynamic datagram tunnels").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use common::call::{Call, MS};
use common::ddt::{PAIRS, is_in_force, offering, told};
use common::services::{address, companions};
use common::tunnel::{SECOND, up_with};
use tsc_csm::client::{Redundancy, TunnelTransport};
use tsc_csm::server::{DownReason, Event as ServerEvent, TunnelTimers};
use tsc_csm::{CompanionRole, FlowKey, InnerTransport, MAX_FLOWS, Transport};
use tsc_sim::{Firewall, LinkConfig, PathConfig, World, client_config, packet};
use tsc_tpl::ServiceType;

#[test]
fn a_socket_moves_to_datagrams_with_its_address_and_without_a_loss() {
    for (stream, datagrams) in PAIRS {
        let mut call = Call::new(stream, datagrams);
        call.talk(10);
        assert_eq!(call.beside(), (0, 0));
        call.want(TunnelTransport::Datagram);
        assert_eq!(told(&call.world, call.near), [], "accepted is not in force");
        call.talk(50);
        assert_eq!(told(&call.world, call.near), [(true, true)], "{stream}");
        call.world.run(SECOND);
        let before = call.beside();
        call.talk(50);
        call.world.run(SECOND);
        let after = call.beside();
        assert_eq!((after.0 - before.0, after.1 - before.1), (50, 50));
        // On a network that keeps order the switch does too.
        call.assert_complete();
        let main = call.world.assignment(call.near).unwrap().clone();
        let companion = call.world.companion(call.near).unwrap();
        assert_eq!(companion.addresses, main.addresses);
        assert_eq!(companion.transport, datagrams);
        assert_ne!(companion.tsid, main.tsid);
    }
}

#[test]
fn only_the_sockets_that_want_it_move() {
    let mut call = Call::new(Transport::Tcp, Transport::Udp).in_force();
    call.talk(5);
    let before = call.world.carried(call.near, Transport::Tcp);
    let (near, far) = (
        address(&call.world, call.near),
        address(&call.world, call.far),
    );
    // Another port in both directions, a fragment, and a packet too large for a tunnel over datagrams.
    let mut other = packet::udp(near, far, b"sip");
    other[20..22].copy_from_slice(&5060_u16.to_be_bytes());
    let mut fragment = packet::udp(near, far, b"frag");
    fragment[6] = 0x20;
    for packet in [other.clone(), fragment.clone()] {
        assert!(call.world.send_packet(call.near, packet));
    }
    for mut packet in [other, fragment] {
        let (IpAddr::V4(near), IpAddr::V4(far)) = (near, far) else {
            panic!()
        };
        packet[12..16].copy_from_slice(&far.octets());
        packet[16..20].copy_from_slice(&near.octets());
        packet[22..24].copy_from_slice(&5060_u16.to_be_bytes());
        assert!(call.world.send_packet(call.far, packet));
    }
    call.world.run(SECOND);
    let after = call.world.carried(call.near, Transport::Tcp);
    assert_eq!((after.up - before.up, after.down - before.down), (2, 2));
    assert_eq!(call.beside(), (5, 5));
}

#[test]
fn without_the_service_everything_stays_on_the_stream() {
    let mut nowhere = offering();
    nowhere.interfaces[0].services = vec![ServiceType::ENABLE_REDUNDANCY];
    for (config, transport) in [
        (nowhere, Transport::Tcp),
        // There are no datagrams beside datagrams.
        (offering(), Transport::Udp),
    ] {
        let is_stream = transport.is_stream();
        let mut call = Call::with(1, config, client_config(&[transport]), Transport::Dtls);
        call.want(TunnelTransport::Datagram);
        call.talk(20);
        call.world.run(SECOND * 600);
        // Over datagrams it is as it is wanted.
        let expected = [(!is_stream, !is_stream)];
        assert_eq!(told(&call.world, call.near), expected, "{transport}");
        call.assert_complete();
        assert_eq!(call.world.server_stats(call.server).sessions, 2);
    }
}

#[test]
fn every_datagram_of_the_exchange_may_be_lost_or_come_twice() {
    for up in [true, false] {
        for nth in 0..5 {
            let mut call = Call::new(Transport::Tcp, Transport::Udp);
            call.want(TunnelTransport::Datagram);
            let path = call.world.path(call.near);
            let link = if up { &mut path.up } else { &mut path.down };
            link.lose_after = Some(nth);
            let near = call.near;
            let limit = SECOND * 20;
            assert!(
                call.world
                    .run_until(limit, |world| is_in_force(world, near)),
                "up {up}, datagram {nth}"
            );
            call.talk(20);
            call.world.run(SECOND);
            // One of the call itself may be the one that is lost.
            assert!(call.beside().0 >= 19 && call.beside().1 >= 18);
            assert_eq!(companions(&call.world, call.server, call.near), 1);
        }
    }
    let mut call = Call::new(Transport::Tls, Transport::Dtls);
    call.world.path(call.near).set(LinkConfig {
        duplicate: 1.0,
        reorder: 0.3,
        ..LinkConfig::CLEAN
    });
    let call = call.in_force();
    assert_eq!(companions(&call.world, call.server, call.near), 1);
}

#[test]
fn it_comes_into_force_over_any_bad_network() {
    for seed in 0..100 {
        let (stream, datagrams) = PAIRS[usize::try_from(seed % 2).unwrap()];
        let mut call = Call::with(seed, offering(), client_config(&[stream]), datagrams);
        call.world.path(call.near).set(LinkConfig {
            duplicate: 0.2,
            reorder: 0.2,
            jitter: 80 * MS,
            ..LinkConfig::lossy(0.25)
        });
        call.want(TunnelTransport::Datagram);
        let near = call.near;
        assert!(
            call.world
                .run_until(SECOND * 120, |world| is_in_force(world, near)),
            "seed {seed}"
        );
    }
}

#[test]
fn where_datagrams_do_not_pass_the_stream_stays_and_they_are_tried_again() {
    let mut call = Call::new(Transport::Tls, Transport::Dtls);
    call.world.path(call.near).firewall = Firewall::STREAMS_ONLY;
    call.want(TunnelTransport::Datagram);
    call.talk(50 * 30);
    assert_eq!(told(&call.world, call.near), [(true, false)]);
    call.assert_complete();
    call.world.path(call.near).firewall = Firewall::OPEN;
    call.world.run(SECOND * 60);
    assert_eq!(told(&call.world, call.near), [(true, false), (true, true)]);
}

#[test]
fn datagrams_that_end_in_the_middle_of_a_call_cost_a_second_and_come_back() {
    for (stream, datagrams) in PAIRS {
        let mut call = Call::new(stream, datagrams).in_force();
        call.talk(50 * 4);
        call.world.path(call.near).firewall = Firewall::STREAMS_ONLY;
        call.talk(50 * 5);
        call.world.run(SECOND);
        assert_eq!(
            told(&call.world, call.near),
            [(true, true), (true, false)],
            "{stream}"
        );
        for client in [call.near, call.far] {
            let came = call.came(client);
            let lost = usize::try_from(call.sent).unwrap() - came.len();
            assert!(lost <= 50, "{stream}: {lost} packets of 20 ms lost");
            assert_eq!(came.last(), Some(&(call.sent - 1)));
        }
        call.world.path(call.near).firewall = Firewall::OPEN;
        call.talk(50 * 60);
        assert!(is_in_force(&call.world, call.near), "{stream}");
        call.world.run(SECOND);
        let before = call.beside();
        call.talk(10);
        call.world.run(SECOND);
        let after = call.beside();
        assert_eq!((after.0 - before.0, after.1 - before.1), (10, 10));
        assert_eq!(companions(&call.world, call.server, call.near), 1);
    }
}

#[test]
fn a_nat_that_forgets_costs_the_companion_a_resume_and_no_fallback_for_long() {
    let mut world = World::new(3);
    let server = world.add_server(offering());
    let nat = world.add_nat(SECOND * 600);
    let path = PathConfig {
        nat: Some(nat),
        ..PathConfig::CLEAN
    };
    let near = world.add_client(client_config(&[Transport::Tcp]), path);
    let far = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(near);
    world.start(far);
    world.run(SECOND);
    let mut call = Call {
        world,
        server,
        near,
        far,
        main: Transport::Tcp,
        companion: Transport::Udp,
        sent: 0,
        payload: 4,
    }
    .in_force();
    call.talk(100);
    call.world.nat(nat).forget();
    call.talk(50 * 10);
    call.world.run(SECOND);
    assert!(is_in_force(&call.world, call.near));
    let lost = usize::try_from(call.sent).unwrap() - call.came(call.near).len();
    assert!(lost <= 60, "{lost}");
    assert_eq!(call.world.server_stats(call.server).resumed, 1);
}

#[test]
fn media_goes_on_beside_a_stream_that_is_lost() {
    let mut call = Call::new(Transport::Tcp, Transport::Udp).in_force();
    call.talk(10);
    call.world.break_transport(call.near);
    call.talk(100);
    call.assert_complete();
    assert!(call.world.is_bound(call.near));
    assert_eq!(told(&call.world, call.near), [(true, true)]);
}

#[test]
fn a_main_tunnel_that_moves_to_datagrams_needs_none_beside_it() {
    let mut config = client_config(&[Transport::Tcp, Transport::Udp]);
    config.upgrade = true;
    let mut call = Call::with(5, offering(), config, Transport::Udp);
    call.world.path(call.near).firewall = Firewall::STREAMS_ONLY;
    call.want(TunnelTransport::Datagram);
    call.world.run(SECOND * 2);
    call.world.path(call.near).firewall = Firewall::OPEN;
    call.world.run(SECOND * 120);
    let transport = call.world.assignment(call.near).unwrap().transport;
    assert_eq!(transport, Transport::Udp);
    assert_eq!(call.world.companion(call.near), None);
    assert_eq!(companions(&call.world, call.server, call.near), 0);
    call.talk(10);
    call.assert_complete();
}

#[test]
fn the_companion_ends_with_the_last_socket_and_with_the_main_tunnel() {
    for (stream, datagrams) in PAIRS {
        let mut call = Call::new(stream, datagrams).in_force();
        let other = FlowKey {
            transport: InnerTransport::Udp,
            port: 4000,
        };
        let wish = TunnelTransport::Datagram;
        call.world
            .set_tunnel_transport_of(call.near, other, wish)
            .unwrap();
        call.world.run(SECOND);
        assert_eq!(told(&call.world, call.near), [(true, true), (true, true)]);
        call.want(TunnelTransport::Main);
        call.world.run(SECOND);
        assert_eq!(companions(&call.world, call.server, call.near), 1);
        call.world
            .set_tunnel_transport_of(call.near, other, TunnelTransport::Main)
            .unwrap();
        call.world.run(SECOND);
        assert_eq!(companions(&call.world, call.server, call.near), 0);
        assert_eq!(call.world.companion(call.near), None);
        call.talk(5);
        call.assert_complete();

        let mut call = call.in_force();
        call.world.release(call.near, SECOND);
        call.world.run(SECOND * 2);
        assert_eq!(call.world.server_stats(call.server).sessions, 1);
        let ended = |(_, event): &(Duration, ServerEvent)| {
            matches!(
                event,
                ServerEvent::CompanionDown {
                    reason: DownReason::MainClosed,
                    ..
                }
            )
        };
        assert_eq!(
            call.world
                .server_events(call.server)
                .iter()
                .filter(|event| ended(event))
                .count(),
            1
        );
    }
}

#[test]
fn a_companion_that_the_server_ends_returns_its_sockets_and_is_asked_for_again() {
    let mut call = Call::new(Transport::Tls, Transport::Dtls).in_force();
    let tsid = call.world.assignment(call.near).unwrap().tsid;
    let session = call.world.session(call.server, tsid).unwrap();
    let (role, companion) = call.world.server(call.server).companions(session)[0];
    assert_eq!(role, CompanionRole::Ddt);
    call.world.release_session(call.server, companion, None);
    call.talk(100);
    assert_eq!(told(&call.world, call.near), [(true, true), (true, false)]);
    call.assert_complete();
    call.world.run(SECOND * 20);
    assert!(is_in_force(&call.world, call.near));
    call.talk(5);
    call.assert_complete();
}

#[test]
fn a_main_tunnel_is_not_closed_while_its_companion_is_in_use() {
    let mut config = offering();
    config.interfaces[0].stream_timers = TunnelTimers {
        keepalive: SECOND * 30,
        persistence: SECOND * 10,
    };
    let mut call = Call::with(7, config, client_config(&[Transport::Tcp]), Transport::Udp);
    call = call.in_force();
    // The stream is dead, and nobody knows; datagrams pass.
    call.world.path(call.near).firewall = Firewall {
        streams: false,
        datagrams: true,
        protected: true,
    };
    call.world.break_transport(call.near);
    call.talk(50 * 60);
    assert_eq!(call.world.server_stats(call.server).sessions, 3);
    assert!(call.came(call.near).len() > 50 * 59);
    assert!(call.world.down_reason(call.near).is_none());
}

#[test]
fn redundancy_goes_with_the_socket() {
    let mut call = Call::new(Transport::Tls, Transport::Dtls);
    call.world
        .set_redundancy(call.near, Redundancy::Copies(2))
        .unwrap();
    call = call.in_force();
    call.world.run(SECOND);
    assert_eq!(
        call.world.redundancy(call.near).unwrap().granted,
        Some(2),
        "what a stream does not have the companion has"
    );
    call.world.path(call.near).set(LinkConfig::lossy(0.1));
    call.talk(2_000);
    call.world.run(SECOND);
    for client in [call.near, call.far] {
        let lost = usize::try_from(call.sent).unwrap() - call.came(client).len();
        assert!(lost <= 10, "{lost} of 2,000");
    }
    call.world.path(call.near).set(LinkConfig::CLEAN);
    call.want(TunnelTransport::Main);
    call.world.run(SECOND);
    call.world.run(SECOND);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!(status.granted, Some(2), "over further streams");
}

#[test]
fn more_sockets_than_a_tunnel_may_have_are_refused_here() {
    let (mut world, _, client) = up_with(offering(), client_config(&[Transport::Tcp]));
    let wish = TunnelTransport::Datagram;
    let flow = |port| FlowKey {
        transport: InnerTransport::Udp,
        port,
    };
    let most = u16::try_from(MAX_FLOWS).unwrap();
    for port in 1..=most {
        world
            .set_tunnel_transport_of(client, flow(port), wish)
            .unwrap();
    }
    assert!(
        world
            .set_tunnel_transport_of(client, flow(most + 1), wish)
            .is_err()
    );
    world.run(SECOND * 20);
    assert_eq!(told(&world, client), vec![(true, true); MAX_FLOWS]);
}

/// All sockets leave and one comes back before the server has been told of any.
#[test]
fn a_grant_that_outlives_its_companion_is_ended_and_asked_for_anew() {
    let mut call = Call::new(Transport::Tcp, Transport::Udp).in_force();
    let other = FlowKey {
        transport: InnerTransport::Udp,
        port: 4000,
    };
    let (main, datagram) = (TunnelTransport::Main, TunnelTransport::Datagram);
    let near = call.near;
    call.world
        .set_tunnel_transport_of(near, other, datagram)
        .unwrap();
    call.world.run(SECOND);
    for (key, wish) in [
        (other, main),
        (packet::FLOW, main),
        (packet::FLOW, datagram),
    ] {
        call.world.set_tunnel_transport_of(near, key, wish).unwrap();
    }
    call.world.run(SECOND * 60);
    assert!(is_in_force(&call.world, near));
    call.talk(10);
    assert!(call.beside().0 >= 10);
    call.assert_complete();
}

#[test]
fn changing_ones_mind_without_end_comes_to_rest_with_the_last_word() {
    for seed in 0..20 {
        let config = client_config(&[Transport::Tcp]);
        let mut call = Call::with(seed, offering(), config, Transport::Udp);
        for turn in 0..200 {
            let wish = if turn % 2 == 0 {
                TunnelTransport::Datagram
            } else {
                TunnelTransport::Main
            };
            call.want(wish);
            call.world.run(MS * 7 * u32::try_from(seed + 1).unwrap());
        }
        call.world.run(SECOND * 60);
        assert_eq!(companions(&call.world, call.server, call.near), 0);
        call.want(TunnelTransport::Datagram);
        call.world.run(SECOND * 60);
        assert!(is_in_force(&call.world, call.near), "seed {seed}");
        assert_eq!(companions(&call.world, call.server, call.near), 1);
    }
}
