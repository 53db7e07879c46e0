//! Redundancy over further streams: each packet over all of them, or over one of them (spec 7, "Redundancy").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::HashSet;
use std::time::Duration;

use common::call::{Call, PACE};
use common::tunnel::SECOND;
use tsc_csm::client::{Redundancy, TunnelTransport};
use tsc_csm::server::ServerConfig;
use tsc_csm::{CompanionRole, FlowKey, InnerTransport, Transport};
use tsc_sim::{ClientId, LinkConfig, client_config, server_config};
use tsc_tpl::ServiceType;

const SERVICE: ServiceType = ServiceType::ENABLE_REDUNDANCY;
const STREAMS: [Transport; 2] = [Transport::Tcp, Transport::Tls];

fn offering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![SERVICE, ServiceType::ENABLE_DDT];
    config
}

/// Parts of a call of which one end has redundancy over streams.
impl Call {
    fn redundant(seed: u64, transport: Transport, redundancy: Redundancy) -> Self {
        let config = client_config(&[transport]);
        let far = client_config(&[Transport::Dtls]);
        let mut call = Self::between(seed, offering(), config, far, transport);
        call.world.set_redundancy(call.near, redundancy).unwrap();
        call.world.run(SECOND);
        call
    }

    /// What is carried for the first client while so many packets go each way, and all of them arrive: up, down.
    #[track_caller]
    fn carried_by(&mut self, packets: u32) -> (u64, u64) {
        let before = self.carried(self.main);
        self.talk(packets);
        self.assert_all_came();
        let after = self.carried(self.main);
        (after.0 - before.0, after.1 - before.1)
    }

    /// Everything has come to both, once.
    #[track_caller]
    fn assert_all_came(&mut self) {
        self.world.run(SECOND * 3);
        for client in [self.near, self.far] {
            let numbers = self.came(client);
            let different: HashSet<u32> = numbers.iter().copied().collect();
            assert_eq!(numbers.len(), different.len(), "a packet came twice");
            assert_eq!(different.len(), usize::try_from(self.sent).unwrap());
        }
    }

    /// The longest time between two packets that came to a client since.
    fn gap(&self, client: ClientId, since: Duration) -> Duration {
        let received = self.world.received(client);
        let moments: Vec<Duration> = received
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| *at >= since)
            .collect();
        let gaps = moments.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap()
    }
}

#[test]
fn each_packet_goes_over_every_stream_and_is_passed_on_once() {
    for transport in STREAMS {
        for copies in [1, 2] {
            let mut call = Call::redundant(3, transport, Redundancy::Copies(copies));
            assert_eq!(call.told(SERVICE), [(true, true)]);
            assert_eq!(call.companions(), usize::from(copies), "{transport}");
            let status = call.world.redundancy(call.near).unwrap();
            assert_eq!(status.granted, Some(copies));
            call.talk(100);
            call.assert_all_came();
            let carried = call.world.carried(call.near, transport);
            assert_eq!(carried.up, 100 * u64::from(copies + 1), "{transport}");
            let status = call.world.redundancy(call.near).unwrap();
            assert_eq!(status.received, 100);
            assert_eq!(status.duplicates, 100 * u64::from(copies));
        }
    }
}

#[test]
fn sockets_that_ask_at_the_same_time_share_the_streams() {
    for seed in 0..10 {
        let mut call = Call::redundant(u64::from(seed), Transport::Tls, Redundancy::Off);
        call.world
            .set_redundancy(call.near, Redundancy::Copies(2))
            .unwrap();
        // The first is granted, and its streams are being claimed.
        call.world.run(Duration::from_millis(50) + PACE * seed);
        let other = FlowKey {
            transport: InnerTransport::Udp,
            port: 4000,
        };
        call.world
            .set_redundancy_of(call.near, other, Redundancy::Copies(2))
            .unwrap();
        call.world.run(SECOND);
        assert_eq!(call.told(SERVICE), [(true, true), (true, true)]);
        assert_eq!(call.companions(), 2, "seed {seed}");
        call.talk(10);
        call.assert_all_came();
        let carried = call.world.carried(call.near, Transport::Tls);
        assert_eq!(carried.up, 30, "seed {seed}");
    }
}

#[test]
fn a_stream_that_stalls_delays_nothing_that_another_carries() {
    for tunnel in [0, 2, 3] {
        let mut call = Call::redundant(5, Transport::Tls, Redundancy::Copies(2));
        call.talk(20);
        let since = call.world.elapsed();
        call.world.stall(call.near, tunnel, true);
        call.talk(200);
        for client in [call.near, call.far] {
            let gap = call.gap(client, since);
            assert!(gap <= PACE * 2, "tunnel {tunnel}: {gap:?}");
        }
        call.world.stall(call.near, tunnel, false);
        call.talk(20);
        call.assert_all_came();
    }
}

#[test]
fn losses_of_one_stream_are_covered_by_the_others() {
    let lossy = LinkConfig::lossy(0.03);
    let mut late = Vec::new();
    for redundancy in [Redundancy::Off, Redundancy::Copies(2)] {
        let mut call = Call::redundant(8, Transport::Tcp, redundancy);
        call.world.path(call.near).set(lossy);
        let since = call.world.elapsed();
        call.talk(1_000);
        late.push(call.gap(call.far, since));
        call.assert_all_came();
    }
    assert!(late[1] * 2 < late[0], "{late:?}");
}

#[test]
fn a_stream_that_breaks_loses_nothing_and_comes_back() {
    for tunnel in [0, 2, 3] {
        let mut call = Call::redundant(9, Transport::Tcp, Redundancy::Copies(2));
        call.talk(20);
        call.world.break_tunnel(call.near, tunnel);
        call.talk(100);
        call.assert_all_came();
        call.world.run(SECOND * 10);
        assert_eq!(call.companions(), 2);
        call.talk(20);
        call.assert_all_came();
        assert_eq!(call.carried_by(10).0, 30, "tunnel {tunnel}");
    }
}

#[test]
fn balanced_packets_go_over_one_stream_each() {
    let mut call = Call::redundant(11, Transport::Tls, Redundancy::Balanced(2));
    assert_eq!(call.told(SERVICE), [(true, true)]);
    assert_eq!(call.companions(), 2);
    call.talk(100);
    call.assert_all_came();
    assert_eq!(call.world.carried(call.near, Transport::Tls).up, 100);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!((status.received, status.duplicates), (100, 0));
    // Another method is another grant.
    call.world
        .set_redundancy(call.near, Redundancy::Copies(2))
        .unwrap();
    call.world.run(SECOND);
    call.talk(10);
    call.assert_all_came();
    assert_eq!(call.world.carried(call.near, Transport::Tls).up, 130);
}

#[test]
fn a_companion_that_the_server_ends_is_asked_for_again() {
    let mut call = Call::redundant(12, Transport::Tls, Redundancy::Copies(2));
    let tsid = call.world.assignment(call.near).unwrap().tsid;
    let session = call.world.session(call.server, tsid).unwrap();
    let companions = call.world.server(call.server).companions(session);
    let (role, companion) = companions[0];
    assert!(matches!(role, CompanionRole::Redundancy(_)));
    call.world.release_session(call.server, companion, None);
    call.talk(20);
    call.assert_all_came();
    assert_eq!(call.companions(), 1);
    call.world.run(SECOND * 10);
    assert_eq!(call.companions(), 2);
    call.talk(10);
    call.assert_all_came();
}

#[test]
fn a_stream_that_the_server_still_has_and_the_client_does_not_comes_back() {
    let mut call = Call::redundant(12, Transport::Tls, Redundancy::Copies(2));
    call.world.stall(call.near, 2, true);
    for redundancy in [Redundancy::Off, Redundancy::Copies(2)] {
        call.world.set_redundancy(call.near, redundancy).unwrap();
        call.world.run(SECOND);
    }
    // The server forgets it in the end, and the client asks from time to time.
    call.world.run(SECOND * 1_500);
    assert_eq!(call.carried_by(10), (30, 30));
}

#[test]
fn fewer_streams_are_used_in_both_directions() {
    let mut call = Call::redundant(12, Transport::Tls, Redundancy::Copies(2));
    call.world
        .set_redundancy(call.near, Redundancy::Copies(1))
        .unwrap();
    call.world.run(SECOND);
    assert_eq!(call.carried_by(10), (20, 20));
}

#[test]
fn what_is_missing_is_asked_for_by_the_socket_that_wants_most() {
    let mut call = Call::redundant(12, Transport::Tls, Redundancy::Copies(1));
    let other = FlowKey {
        transport: InnerTransport::Udp,
        port: 4000,
    };
    call.world
        .set_redundancy_of(call.near, other, Redundancy::Copies(2))
        .unwrap();
    call.world.run(SECOND);
    assert_eq!(call.companions(), 2);
    for _ in 0..2 {
        let tsid = call.world.assignment(call.near).unwrap().tsid;
        let session = call.world.session(call.server, tsid).unwrap();
        let companions = call.world.server(call.server).companions(session);
        let (_, companion) = companions[1];
        call.world.release_session(call.server, companion, None);
        call.world.run(SECOND * 20);
        assert_eq!(call.companions(), 2);
    }
}

#[test]
fn streams_end_with_the_last_socket_that_has_them() {
    let mut call = Call::redundant(13, Transport::Tcp, Redundancy::Copies(2));
    call.world
        .set_redundancy(call.near, Redundancy::Copies(1))
        .unwrap();
    call.world.run(SECOND);
    assert_eq!(call.companions(), 1);
    call.world
        .set_redundancy(call.near, Redundancy::Off)
        .unwrap();
    call.world.run(SECOND);
    assert_eq!(call.companions(), 0);
    call.talk(10);
    call.assert_all_came();
    assert_eq!(call.world.server_stats(call.server).sessions, 2);
}

#[test]
fn what_a_transport_cannot_do_is_told_at_once() {
    for (transport, redundancy) in [
        (Transport::Tcp, Redundancy::Adaptive { most: 2 }),
        (Transport::Udp, Redundancy::Balanced(2)),
    ] {
        let mut call = Call::redundant(14, transport, redundancy);
        assert_eq!(call.told(SERVICE), [(true, false)], "{transport}");
        assert_eq!(call.companions(), 0);
        call.talk(10);
        call.assert_all_came();
        assert_eq!(call.world.carried(call.near, call.main).up, 10);
    }
}

#[test]
fn where_datagrams_pass_redundancy_is_theirs_and_the_streams_end() {
    let mut call = Call::redundant(15, Transport::Tls, Redundancy::Copies(1));
    assert_eq!(call.companions(), 1);
    call.world
        .set_tunnel_transport(call.near, TunnelTransport::Datagram)
        .unwrap();
    call.world.run(SECOND * 2);
    assert_eq!(call.companions(), 1);
    assert!(call.world.companion(call.near).is_some());
    assert_eq!(call.world.redundancy(call.near).unwrap().granted, Some(1));
    call.talk(50);
    call.assert_all_came();
    assert!(call.world.carried(call.near, Transport::Dtls).up >= 50);
    call.world
        .set_tunnel_transport(call.near, TunnelTransport::Main)
        .unwrap();
    call.talk(50);
    call.assert_all_came();
    assert_eq!(call.world.redundancy(call.near).unwrap().granted, Some(1));
    assert_eq!(call.companions(), 1);
}

#[test]
fn it_survives_a_resume_of_the_main_tunnel_and_its_end() {
    for seed in 0..20 {
        let mut call = Call::redundant(seed, Transport::Tcp, Redundancy::Copies(2));
        call.world.path(call.near).set(LinkConfig::lossy(0.1));
        call.talk(50);
        call.world.break_transport(call.near);
        call.talk(200);
        call.world.path(call.near).set(LinkConfig::CLEAN);
        call.world.run(SECOND * 30);
        call.assert_all_came();
        assert_eq!(call.told(SERVICE), [(true, true)], "seed {seed}");
        call.world.release(call.near, SECOND);
        call.world.run(SECOND * 3);
        assert_eq!(call.world.server_stats(call.server).sessions, 1);
    }
}
