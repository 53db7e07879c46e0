//! Dynamic tunnel traffic encryption: a protected companion beside a clear tunnel (spec 7, "DTTE"; patent "Dynamic encryption").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::call::{Call, MS};
use common::services::address;
use common::tunnel::SECOND;
use tsc_csm::client::Encryption::{Default, Only, Preferred, Unencrypted};
use tsc_csm::client::{Encryption, Event, Placement, Redundancy, TunnelTransport};
use tsc_csm::server::{DownReason, Event as ServerEvent, ServerConfig};
use tsc_csm::{CompanionRole, FlowKey, InnerTransport, MAX_FLOWS, Transport};
use tsc_sim::{Firewall, LinkConfig, World, client_config, packet, server_config};
use tsc_tpl::ServiceType;

const SERVICE: ServiceType = ServiceType::ENABLE_DTTE;
/// Each clear transport with the protected one beside it.
const PAIRS: [(Transport, Transport); 2] = [
    (Transport::Tcp, Transport::Tls),
    (Transport::Udp, Transport::Dtls),
];

const TCP: FlowKey = FlowKey {
    transport: InnerTransport::Tcp,
    port: 40_000,
};
const OTHER: FlowKey = FlowKey {
    transport: InnerTransport::Udp,
    port: 4000,
};

fn offering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![
        SERVICE,
        ServiceType::ENABLE_DDT,
        ServiceType::ENABLE_REDUNDANCY,
    ];
    config
}

/// Parts of a call of which one end has a clear tunnel.
impl Call {
    fn clear(pair: (Transport, Transport)) -> Self {
        Self::clear_with(17, offering(), pair)
    }

    fn clear_with(
        seed: u64,
        server: ServerConfig,
        (clear, protected): (Transport, Transport),
    ) -> Self {
        let mut config = client_config(&[clear]);
        // The companion is at another port, so its address has to be known.
        config.lookup = true;
        let far = client_config(&[Transport::Tls]);
        Self::between(seed, server, config, far, protected)
    }

    fn encrypt(&mut self, wish: Encryption) {
        self.world.set_encryption(self.near, wish).unwrap();
    }

    fn encrypted(mut self, wish: Encryption) -> Self {
        self.encrypt(wish);
        self.world.run(SECOND);
        assert_eq!(self.placement(), Some(Placement::Encrypted));
        self
    }

    fn placement(&self) -> Option<Placement> {
        self.world.placement(self.near, packet::FLOW)
    }
}

#[test]
fn the_table_of_moves_both_ways() {
    for pair in PAIRS {
        for wish in [Only, Preferred] {
            for back in [Default, Unencrypted] {
                let mut call = Call::clear(pair);
                assert_eq!(call.talk(5), 5);
                assert_eq!(call.carried(call.companion), (0, 0));
                let main = call.own();
                call.encrypt(wish);
                let waiting = match wish {
                    Only => Placement::Nowhere,
                    _ => Placement::Main,
                };
                assert_eq!(call.placement(), Some(waiting), "accepted is not in force");
                assert_eq!(call.told(SERVICE), []);
                call.world.run(SECOND);
                assert_eq!(call.placement(), Some(Placement::Encrypted), "{pair:?}");
                assert_eq!(call.told(SERVICE), [(true, true)]);
                let moved = call.own();
                assert_ne!(main, moved, "it has an address of its own");
                assert_eq!(call.talk(10), 10);
                call.world.run(SECOND);
                assert_eq!(call.carried(call.main), (5, 5));
                assert_eq!(call.carried(call.companion), (10, 10));

                call.encrypt(back);
                assert_eq!(call.placement(), Some(Placement::Main), "at once");
                assert_eq!(call.own(), main);
                assert_eq!(call.talk(10), 10);
                call.world.run(SECOND);
                assert_eq!(call.carried(call.main), (15, 15));
                assert_eq!(call.carried(call.companion), (10, 10));
                assert_eq!(
                    (call.came(call.near).len(), call.came(call.far).len()),
                    (25, 25)
                );
            }
        }
    }
}

#[test]
fn a_level_that_changes_in_place_moves_nothing() {
    let mut call = Call::clear(PAIRS[0]).encrypted(Preferred);
    let own = call.own();
    call.encrypt(Only);
    call.world.run(SECOND);
    call.encrypt(Preferred);
    call.world.run(SECOND);
    assert_eq!(call.own(), own);
    assert!(call.told(SERVICE).iter().all(|told| *told == (true, true)));
    assert_eq!(call.companions(), 1);
}

#[test]
fn a_protected_tunnel_needs_nothing_and_says_so() {
    for transport in [Transport::Tls, Transport::Dtls] {
        let mut call = Call::clear((transport, transport));
        for wish in [Only, Preferred] {
            call.encrypt(wish);
            assert_eq!(call.placement(), Some(Placement::Main));
            call.world.run(SECOND);
            assert_eq!(call.told(SERVICE).last(), Some(&(true, true)));
            assert_eq!(call.talk(5), 5);
            call.encrypt(Default);
            call.world.run(SECOND);
        }
        assert_eq!(call.companions(), 0);
        assert_eq!(call.world.encrypted(call.near), None);
    }
}

#[test]
fn without_the_service_what_must_be_encrypted_is_not_sent() {
    let mut nobody_listens = offering();
    nobody_listens.interfaces[0].services.clear();
    for pair in PAIRS {
        let mut call = Call::clear_with(3, nobody_listens.clone(), pair);
        call.encrypt(Preferred);
        call.world.run(SECOND);
        assert_eq!(call.told(SERVICE), [(false, false)]);
        assert_eq!(call.placement(), Some(Placement::Main));
        assert_eq!(call.talk(5), 5);
        call.encrypt(Only);
        call.world.run(SECOND);
        assert_eq!(call.placement(), Some(Placement::Nowhere));
        assert_eq!(call.told(SERVICE).last(), Some(&(false, false)));
        let before = call.carried(call.main).0;
        assert_eq!(call.talk(5), 0);
        assert_eq!(call.carried(call.main).0, before);
    }
}

/// Whatever the network does, and whatever the owner sends by mistake, packets with the companion's address are on the protected
/// transport only.
#[test]
fn what_is_encrypted_only_is_never_on_the_clear_transport() {
    for seed in 0..12 {
        let pair = PAIRS[usize::try_from(seed % 2).unwrap()];
        let mut call = Call::clear_with(seed, offering(), pair);
        let far = address(&call.world, call.far);
        call.encrypt(Only);
        let lossy = LinkConfig {
            duplicate: 0.1,
            reorder: 0.2,
            jitter: 40 * MS,
            ..LinkConfig::lossy(0.2)
        };
        call.world.path(call.near).set(lossy);
        let mut known = Vec::new();
        let mut passed = 0;
        for turn in 0..30 {
            match turn % 10 {
                3 => call.world.break_tunnel(call.near, 4),
                5 => call.world.break_transport(call.near),
                7 => call.world.path(call.near).firewall = Firewall::STREAMS_ONLY,
                8 => call.world.path(call.near).firewall = Firewall::OPEN,
                _ => {}
            }
            for _ in 0..40 {
                passed += call.talk(1);
                if let Some(own) = call.world.encrypted(call.near) {
                    let own = own.addresses[0].address;
                    if !known.contains(&own) {
                        known.push(own);
                    }
                }
                // As a packet that was queued before a move.
                for own in known.clone() {
                    call.world.send_from(call.near, own, far, b"late");
                }
            }
            assert_eq!(call.carried(call.main).0, 0, "seed {seed}, turn {turn}");
        }
        assert!(passed > 300, "seed {seed}: {passed}");
    }
}

#[test]
fn every_datagram_of_the_exchange_may_be_lost() {
    for up in [true, false] {
        for nth in 0..6 {
            let mut call = Call::clear(PAIRS[1]);
            call.encrypt(Only);
            let path = call.world.path(call.near);
            let link = if up { &mut path.up } else { &mut path.down };
            link.lose_after = Some(nth);
            let near = call.near;
            let is_there = |world: &mut World| {
                world.placement(near, packet::FLOW) == Some(Placement::Encrypted)
            };
            assert!(
                call.world.run_until(SECOND * 20, is_there),
                "up {up}, datagram {nth}"
            );
            assert_eq!(call.talk(20), 20);
            call.world.run(SECOND);
            assert!(call.carried(Transport::Dtls).1 >= 18);
            assert_eq!(call.companions(), 1);
        }
    }
}

#[test]
fn it_comes_into_force_over_any_bad_network() {
    for seed in 0..60 {
        let pair = PAIRS[usize::try_from(seed % 2).unwrap()];
        let mut call = Call::clear_with(seed, offering(), pair);
        call.world.path(call.near).set(LinkConfig {
            duplicate: 0.2,
            reorder: 0.2,
            jitter: 80 * MS,
            ..LinkConfig::lossy(0.25)
        });
        call.encrypt(Preferred);
        let near = call.near;
        let is_there =
            |world: &mut World| world.placement(near, packet::FLOW) == Some(Placement::Encrypted);
        assert!(
            call.world.run_until(SECOND * 180, is_there),
            "seed {seed}: {:?}",
            call.told(SERVICE)
        );
    }
}

#[test]
fn a_companion_that_is_lost_for_a_moment_keeps_its_sockets_and_their_address() {
    for pair in PAIRS {
        let mut call = Call::clear(pair).encrypted(Preferred);
        let own = call.own();
        call.talk(20);
        call.world.break_tunnel(call.near, 4);
        call.talk(100);
        assert_eq!(call.own(), own, "{pair:?}");
        assert_eq!(call.told(SERVICE), [(true, true)]);
        call.world.run(SECOND);
        assert!(
            call.came(call.near).len() >= 100,
            "{}",
            call.came(call.near).len()
        );
    }
}

#[test]
fn a_companion_that_stays_away_gives_up_those_that_may_go_and_no_others() {
    for wish in [Preferred, Only] {
        let mut call = Call::clear(PAIRS[1]).encrypted(wish);
        let own = call.own();
        call.world.path(call.near).firewall = Firewall::CLEAR_ONLY;
        call.world.break_tunnel(call.near, 4);
        call.world.run(SECOND * 4);
        assert_eq!(call.placement(), Some(Placement::Encrypted), "patience");
        call.world.run(SECOND * 3);
        if wish == Preferred {
            assert_eq!(call.placement(), Some(Placement::Main));
            assert_eq!(call.told(SERVICE), [(true, true), (true, false)]);
            assert_eq!(call.talk(5), 5);
            call.world.run(SECOND);
            assert_eq!(call.carried(Transport::Udp), (5, 5));
        } else {
            assert_eq!(call.own(), own);
            call.talk(5);
            assert_eq!(call.carried(Transport::Udp), (0, 0));
        }
        call.world.path(call.near).firewall = Firewall::OPEN;
        call.world.run(SECOND * 120);
        assert_eq!(call.placement(), Some(Placement::Encrypted));
        assert_eq!(call.told(SERVICE).last(), Some(&(true, true)));
        let before = call.carried(Transport::Dtls);
        assert_eq!(call.talk(5), 5);
        call.world.run(SECOND);
        let after = call.carried(Transport::Dtls);
        assert_eq!((after.0 - before.0, after.1 - before.1), (5, 5));
    }
}

#[test]
fn a_companion_that_the_server_ends_is_asked_for_again() {
    for (wish, meanwhile) in [(Preferred, Placement::Main), (Only, Placement::Nowhere)] {
        let mut call = Call::clear(PAIRS[0]).encrypted(wish);
        let before = call.own();
        let tsid = call.world.assignment(call.near).unwrap().tsid;
        let session = call.world.session(call.server, tsid).unwrap();
        let (role, companion) = call.world.server(call.server).companions(session)[0];
        assert_eq!(role, CompanionRole::Dtte);
        call.world.release_session(call.server, companion, None);
        call.world.run(SECOND);
        assert_eq!(call.placement(), Some(meanwhile));
        assert_eq!(call.told(SERVICE), [(true, true), (true, false)]);
        call.talk(5);
        call.world.run(SECOND * 20);
        assert_eq!(call.placement(), Some(Placement::Encrypted));
        assert_ne!(
            call.own(),
            before,
            "an address rests before it is given again"
        );
        assert_eq!(call.talk(5), 5);
    }
}

#[test]
fn the_companion_ends_with_the_main_tunnel() {
    let mut call = Call::clear(PAIRS[0]).encrypted(Only);
    let taken = |call: &Call| call.world.server_stats(call.server).sessions;
    assert_eq!(taken(&call), 3);
    call.world.release(call.near, SECOND);
    call.world.run(SECOND * 2);
    assert_eq!(taken(&call), 1);
    let closed = |(_, event): &(Duration, ServerEvent)| {
        matches!(
            event,
            ServerEvent::CompanionDown {
                reason: DownReason::MainClosed,
                role: CompanionRole::Dtte,
                ..
            }
        )
    };
    let events = call.world.server_events(call.server).iter();
    assert_eq!(events.filter(|event| closed(event)).count(), 1);
}

#[test]
fn the_companion_ends_a_while_after_its_last_socket() {
    let mut call = Call::clear(PAIRS[0]).encrypted(Only);
    call.world
        .set_encryption_of(call.near, OTHER, Only, false)
        .unwrap();
    call.world.run(SECOND);
    call.encrypt(Default);
    call.world.run(SECOND * 15);
    assert_eq!(call.companions(), 1);
    call.world
        .set_encryption_of(call.near, OTHER, Default, false)
        .unwrap();
    call.world.run(SECOND * 5);
    assert_eq!(call.companions(), 1, "what is on its way has time");
    call.world.run(SECOND * 7);
    assert_eq!(call.companions(), 0);
    assert_eq!(call.world.encrypted(call.near), None);
    let told: Vec<usize> = call
        .world
        .events(call.near)
        .iter()
        .filter_map(|(_, event)| match event {
            Event::EncryptedAddresses(addresses) => Some(addresses.len()),
            _ => None,
        })
        .collect();
    assert_eq!(told, [1, 0]);
    // And it can be had again.
    let call = call.encrypted(Only);
    assert_eq!(call.companions(), 1);
}

#[test]
fn connections_are_placed_once() {
    let mut call = Call::clear(PAIRS[0]);
    let placement = |call: &Call| call.world.placement(call.near, TCP);
    call.world
        .set_encryption_of(call.near, TCP, Only, true)
        .unwrap();
    assert_eq!(placement(&call), None, "it waits");
    call.world.run(SECOND);
    assert_eq!(placement(&call), Some(Placement::Encrypted));

    // One that was begun on the main tunnel stays there when there is another.
    let mut call = Call::clear(PAIRS[1]);
    call.world.path(call.near).firewall = Firewall::CLEAR_ONLY;
    call.world
        .set_encryption_of(call.near, TCP, Preferred, true)
        .unwrap();
    call.encrypt(Preferred);
    call.world.run(SECOND * 12);
    assert_eq!(placement(&call), Some(Placement::Main));
    call.world.path(call.near).firewall = Firewall::OPEN;
    call.world.run(SECOND * 60);
    assert_eq!(call.placement(), Some(Placement::Encrypted));
    assert_eq!(placement(&call), Some(Placement::Main));
    // So does a connected socket that sends already.
    call.world
        .set_encryption_of(call.near, OTHER, Preferred, true)
        .unwrap();
    call.world.run(SECOND);
    assert_eq!(
        call.world.placement(call.near, OTHER),
        Some(Placement::Main)
    );
}

#[test]
fn redundancy_goes_with_the_socket() {
    let mut call = Call::clear(PAIRS[1]);
    call.world
        .set_redundancy(call.near, Redundancy::Copies(1))
        .unwrap();
    call.world.run(SECOND);
    let told = |call: &Call| call.told(ServiceType::ENABLE_REDUNDANCY);
    assert_eq!(told(&call), [(true, true)]);
    let mut call = call.encrypted(Only);
    call.world.run(SECOND);
    assert_eq!(told(&call).last(), Some(&(true, true)));
    call.world.path(call.near).set(LinkConfig::lossy(0.1));
    call.talk(500);
    call.world.run(SECOND);
    let (near, far) = (call.came(call.near).len(), call.came(call.far).len());
    assert!(near > 480 && far > 480, "{near}, {far} of 500");
    assert_eq!(call.carried(Transport::Udp), (0, 0));
}

#[test]
fn other_services_of_the_main_tunnel_do_not_touch_it() {
    let mut call = Call::clear(PAIRS[0]);
    call.world
        .set_tunnel_transport(call.near, TunnelTransport::Datagram)
        .unwrap();
    call.world.run(SECOND);
    let mut call = call.encrypted(Only);
    assert_eq!(call.companions(), 2);
    assert_eq!(call.talk(20), 20);
    call.world.run(SECOND);
    // The datagrams beside a clear stream would be clear.
    assert_eq!(call.carried(Transport::Udp), (0, 0));
    assert_eq!(call.carried(Transport::Tcp), (0, 0));
    assert_eq!(call.carried(Transport::Tls), (20, 20));
}

#[test]
fn nobody_sends_from_the_others_address() {
    let mut call = Call::clear(PAIRS[1]).encrypted(Only);
    let (main, own) = (address(&call.world, call.near), call.own());
    let far = address(&call.world, call.far);
    assert_ne!(main, own);
    // Over the clear tunnel with the address of the protected one, as somebody on the path could.
    let forged = packet::udp(own, far, b"forged");
    call.world.send_raw(call.near, forged);
    call.world.run(SECOND);
    assert_eq!(call.came(call.far).len(), 0);
    assert_eq!(call.world.server_stats(call.server).wrong_source, 1);
    // And to it.
    let forged = packet::udp(far, own, b"forged");
    call.world.deliver_raw(call.near, &forged);
    assert_eq!(call.came(call.near).len(), 0);
}

#[test]
fn more_sockets_than_a_tunnel_may_have_are_refused_here() {
    let mut call = Call::clear(PAIRS[0]);
    for port in 0..MAX_FLOWS {
        let key = FlowKey {
            transport: InnerTransport::Udp,
            port: 10_000 + u16::try_from(port).unwrap(),
        };
        call.world
            .set_encryption_of(call.near, key, Preferred, false)
            .unwrap();
    }
    assert!(call.world.set_encryption(call.near, Only).is_err());
    call.world.run(SECOND * 20);
    let told = call.told(SERVICE);
    assert_eq!(told, vec![(true, true); MAX_FLOWS]);
}

#[test]
fn changing_ones_mind_without_end_comes_to_rest_with_the_last_word() {
    for seed in 0..40 {
        let pair = PAIRS[usize::try_from(seed % 2).unwrap()];
        let mut call = Call::clear_with(seed, offering(), pair);
        call.world.path(call.near).set(LinkConfig {
            jitter: 30 * MS,
            ..LinkConfig::lossy(0.1)
        });
        for turn in 0..60_u64 {
            let wish = match (seed * 7 + turn * 13) % 5 {
                0 => Default,
                1 => Unencrypted,
                2 | 3 => Only,
                _ => Preferred,
            };
            call.encrypt(wish);
            call.world
                .run(MS * u32::try_from((seed * 31 + turn * 17) % 300).unwrap());
        }
        call.encrypt(Only);
        call.world.path(call.near).set(LinkConfig::CLEAN);
        call.world.run(SECOND * 60);
        assert_eq!(call.placement(), Some(Placement::Encrypted), "seed {seed}");
        call.encrypt(Default);
        call.world.run(SECOND * 40);
        assert_eq!(call.placement(), Some(Placement::Main));
        assert_eq!(call.companions(), 0, "seed {seed}");
    }
}

#[test]
fn a_connected_socket_whose_address_is_gone_gets_another_and_is_told() {
    for wish in [Preferred, Only] {
        let mut call = Call::clear(PAIRS[0]).encrypted(wish);
        call.world
            .set_encryption_of(call.near, packet::FLOW, wish, true)
            .unwrap();
        let before = call.own();
        let tsid = call.world.assignment(call.near).unwrap().tsid;
        let session = call.world.session(call.server, tsid).unwrap();
        let (_, companion) = call.world.server(call.server).companions(session)[0];
        call.world.release_session(call.server, companion, None);
        call.world.run(SECOND);
        assert_ne!(call.placement(), Some(Placement::Encrypted));
        assert_eq!(call.told(SERVICE).last(), Some(&(true, false)));
        call.world.run(SECOND * 20);
        if wish == Only {
            assert_eq!(call.placement(), Some(Placement::Encrypted));
            assert_ne!(call.own(), before);
            assert_eq!(call.told(SERVICE).last(), Some(&(true, true)));
        } else {
            // It is connected on the main tunnel now.
            assert_eq!(call.placement(), Some(Placement::Main));
        }
    }
}

#[test]
fn a_connected_socket_that_must_be_encrypted_moves_even_so() {
    let mut call = Call::clear(PAIRS[1]);
    let set = |call: &mut Call, wish| {
        call.world
            .set_encryption_of(call.near, packet::FLOW, wish, true)
            .unwrap();
        call.world.run(SECOND);
    };
    set(&mut call, Preferred);
    assert_eq!(call.placement(), Some(Placement::Main));
    set(&mut call, Only);
    assert_eq!(call.placement(), Some(Placement::Encrypted));
    assert_eq!(call.told(SERVICE).last(), Some(&(true, true)));
}
