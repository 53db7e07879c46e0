//! Peer tunnels (spec 7, "Peer tunneling"): two clients of one server reach each other directly, or go on over the server.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::tunnel::SECOND;
use tsc_csm::client::{Event, MAX_PEERS, PeerEvent};
use tsc_csm::server::{Event as ServerEvent, ServerConfig};
use tsc_csm::{MOST_UNANSWERED, PathEnd, Transport};
use tsc_sim::{
    ClientId, Fate, Firewall, Leg, LinkConfig, NatKind, PathConfig, ServerId, World, client_config,
    packet, peer_config, server_config,
};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, Sequence, ServiceType, StunMessage, Tlv, TlvType,
    Tsid, TunnelTag, Unit,
};

const SERVICE: ServiceType = ServiceType::ENABLE_PEER;
/// Between two packets of speech.
const PACE: Duration = Duration::from_millis(20);

fn offering() -> ServerConfig {
    let mut config = server_config(20);
    config.interfaces[0].services = vec![SERVICE];
    config
}

/// Two clients behind NATs of their own that talk to each other; the first asks.
struct Call {
    world: World,
    server: ServerId,
    near: ClientId,
    far: ClientId,
    sent: u32,
    pace: Duration,
}

/// How a call is made.
#[derive(Clone, Copy)]
struct Setup {
    seed: u64,
    transports: [Transport; 2],
    nats: [Option<NatKind>; 2],
}

const CONES: Setup = Setup {
    seed: 5,
    transports: [Transport::Udp, Transport::Udp],
    nats: [Some(NatKind::Restricted), Some(NatKind::Restricted)],
};

const PROTECTED: Setup = Setup {
    transports: [Transport::Dtls, Transport::Tls],
    ..CONES
};

impl Call {
    fn new(setup: Setup) -> Self {
        Self::with(setup, offering())
    }

    fn with(setup: Setup, config: ServerConfig) -> Self {
        let mut world = World::new(setup.seed);
        let server = world.add_server(config);
        let mut add = |number: usize| {
            let nat = setup.nats[number].map(|kind| {
                let nat = world.add_nat(Duration::from_secs(120));
                world.nat(nat).kind = kind;
                nat
            });
            let path = PathConfig {
                nat,
                ..PathConfig::CLEAN
            };
            let config = client_config(&[setup.transports[number]]);
            let client = world.add_client(peer_config(config, number), path);
            world.start(client);
            client
        };
        let (near, far) = (add(0), add(1));
        world.run(SECOND);
        Self {
            world,
            server,
            near,
            far,
            sent: 0,
            pace: PACE,
        }
    }

    /// With a tunnel between them.
    fn connected(setup: Setup) -> Self {
        let mut call = Self::new(setup);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(3 * SECOND);
        assert!(call.is_up(), "seed {}", setup.seed);
        call
    }

    fn address(&self, client: ClientId) -> IpAddr {
        self.world.assignment(client).unwrap().addresses[0].address
    }

    /// A packet each way, every 20 ms where nothing else is said.
    fn talk(&mut self, time: Duration) {
        let (near, far) = (self.address(self.near), self.address(self.far));
        let end = self.world.elapsed() + time;
        while self.world.elapsed() < end {
            let payload = self.sent.to_be_bytes();
            self.sent += 1;
            self.world.send(self.near, far, &payload);
            self.world.send(self.far, near, &payload);
            self.world.run(self.pace);
        }
    }

    /// Whether both ends have the tunnel, and use it.
    fn is_up(&self) -> bool {
        let usable = |client| {
            let peers = self.world.peers(client);
            peers.len() == 1 && peers[0].address.is_some()
        };
        usable(self.near) && usable(self.far)
    }

    /// Packets that the server has passed on while so much speech went each way.
    fn relayed(&mut self, time: Duration) -> u64 {
        let before = self.world.server_stats(self.server).forwarded;
        self.talk(time);
        self.world.server_stats(self.server).forwarded - before
    }

    /// Of the packets sent since number `from`, those that a client has not got. None may come twice.
    fn lost(&mut self, client: ClientId, from: u32) -> u32 {
        self.world.run(SECOND);
        let mut came = BTreeMap::new();
        for (_, payload) in self.world.received(client) {
            let number = u32::from_be_bytes(*payload.first_chunk().unwrap());
            *came.entry(number).or_insert(0) += 1;
        }
        (from..self.sent)
            .filter(|number| !came.contains_key(number))
            .count()
            .try_into()
            .unwrap()
    }

    /// What a client was told of the service: available, enabled.
    fn told(&self, client: ClientId) -> Vec<(bool, bool)> {
        let told = |event: &Event| match event {
            Event::SocketService {
                service: SERVICE,
                available,
                enabled,
                ..
            } => Some((*available, *enabled)),
            _ => None,
        };
        let events = self.world.events(client).iter();
        events.filter_map(|(_, event)| told(event)).collect()
    }

    /// Why the peer tunnels of a client have ended, in order.
    fn ends(&self, client: ClientId) -> Vec<PathEnd> {
        let end = |event: &Event| match event {
            Event::Peer(PeerEvent::Down { why, .. }) => Some(*why),
            _ => None,
        };
        let events = self.world.events(client).iter();
        events.filter_map(|(_, event)| end(event)).collect()
    }

    /// Whether the server takes the two for partners: each of them.
    fn partners(&self) -> [bool; 2] {
        [self.near, self.far].map(|client| {
            let tsid = self.world.assignment(client).unwrap().tsid;
            let session = self.world.session(self.server, tsid).unwrap();
            self.world.server(self.server).has_service(session, SERVICE)
        })
    }
}

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
        let address = call.world.peers(call.near)[0].address.unwrap();
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

/// Of the datagrams that a client sent to an address outside its peers, the number.
fn sent_to(world: &World, address: IpAddr) -> usize {
    let sent = world.peer_datagrams().iter();
    sent.filter(|sent| sent.to.ip() == address).count()
}

#[test]
fn a_peer_that_lies_about_its_address_sends_nobody_to_a_third_party() {
    for setup in [CONES, PROTECTED] {
        // Whoever asks, and whoever is asked.
        for liar in 0..2 {
            let mut call = Call::new(setup);
            let victim = SocketAddr::from(([192, 0, 2, 77], 53));
            let client = [call.near, call.far][liar];
            call.world.lie_about_address(client, victim);
            call.world.set_peer(call.near, true).unwrap();
            call.talk(10 * SECOND);
            assert_eq!(sent_to(&call.world, victim.ip()), 0);
            assert!(call.world.server_stats(call.server).peer_struck > 0);
        }
        // Within one network private addresses are believed, but not for long.
        for liar in 0..2 {
            let mut call = neighbours(setup);
            let victim = SocketAddr::from(([192, 168, 1, 200], 53));
            let client = [call.near, call.far][liar];
            call.world.lie_about_address(client, victim);
            call.world.set_peer(call.near, true).unwrap();
            call.talk(10 * SECOND);
            let sent = sent_to(&call.world, victim.ip());
            assert!(sent > 0 && sent <= usize::from(MOST_UNANSWERED), "{sent}");
        }
    }
}

#[test]
fn who_shows_another_certificate_gets_nothing() {
    for impostor in 0..2 {
        let mut call = Call::new(PROTECTED);
        let client = [call.near, call.far][impostor];
        call.world.show_certificate(client, [0xEE; 32]);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(8 * SECOND);
        assert!(!call.is_up());
        assert_eq!(call.told(call.near), [(true, false)]);
        let from = call.sent;
        call.talk(SECOND);
        assert_eq!(
            (call.lost(call.near, from), call.lost(call.far, from)),
            (0, 0)
        );
    }
}

fn claim(tag: &[u8; 16], cookie: Option<&[u8]>) -> Vec<u8> {
    let cookie = cookie.map(|cookie| Tlv::Cookie(tsc_tpl::Cookie::new(cookie).unwrap()));
    let mut bytes = Vec::new();
    let request = CmType::CONFIGURATION_REQUEST;
    MessageBuilder::new(request, Tsid::UNASSIGNED, Sequence(1))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::TunnelTag(TunnelTag::new(tag)))
        .tlvs(cookie)
        .pad_to(128)
        .encode(&mut bytes)
        .unwrap();
    bytes
}

/// The far end listens, and the near end's claims do not arrive: so that somebody else has time.
fn listening() -> (Call, SocketAddr) {
    let mut call = Call::new(CONES);
    let near = call.near;
    call.world.meddle(move |leg, bytes| {
        let is_claim = leg == Leg::Direct(near) && bytes[0] == 0x10;
        if is_claim { Fate::Lose } else { Fate::Pass }
    });
    call.world.set_peer(near, true).unwrap();
    call.talk(Duration::from_millis(300));
    let socket = call.world.peer_sockets(call.far)[0];
    (call, socket)
}

#[test]
fn strangers_are_not_answered() {
    let (mut call, socket) = listening();
    let before = call.world.peers_refused(call.far);
    let stranger = SocketAddr::from(([192, 0, 2, 66], 4000));
    for bytes in [
        claim(&[1; 16], None),
        vec![0x10; 200],
        vec![0x45; 40],
        vec![0x16, 1, 2, 3],
        vec![0; 30],
        Vec::new(),
    ] {
        call.world.peer_stranger(stranger, socket, &bytes);
    }
    call.world.run(SECOND);
    assert_eq!(sent_to(&call.world, stranger.ip()), 0);
    assert!(call.world.peers_refused(call.far) >= before + 5);
    call.world.meddle(|_, _| Fate::Pass);
    call.talk(6 * SECOND);
    assert!(call.is_up(), "the right one is taken as ever");
}

/// Somebody who can send in the near end's name and read what comes back, and has not read the tag.
#[test]
fn a_wrong_tag_claims_nothing_and_is_not_answered_for_ever() {
    let (mut call, socket) = listening();
    let forger = SocketAddr::from(([198, 51, 100, 1], 50_000));
    call.world
        .peer_stranger(forger, socket, &claim(&[1; 16], None));
    let cookie = |call: &Call| {
        let sent = call.world.peer_datagrams().iter();
        let to_forger = sent.rev().find(|sent| sent.to == forger).unwrap();
        let Ok(Unit::Control(answer)) = Unit::decode_datagram(&to_forger.bytes, &Limits::WIDEST)
        else {
            panic!("no answer")
        };
        assert!(to_forger.bytes.len() <= 128);
        answer.raw_value(TlvType::COOKIE).unwrap().to_vec()
    };
    let cookie = cookie(&call);
    let before = call.world.peer_datagrams().len();
    for guess in 0..100_u8 {
        let bytes = claim(&[guess; 16], Some(&cookie));
        call.world.peer_stranger(forger, socket, &bytes);
    }
    let answers: Vec<_> = call.world.peer_datagrams()[before..]
        .iter()
        .filter(|sent| sent.to == forger)
        .collect();
    assert_eq!(answers.len(), 8);
    for answer in answers {
        let Ok(Unit::Control(answer)) = Unit::decode_datagram(&answer.bytes, &Limits::WIDEST)
        else {
            panic!("no answer")
        };
        let code = answer.raw_value(TlvType::RESPONSE_CODE).unwrap();
        assert_eq!(code, ResponseCode::NOT_AUTHORIZED.0.to_be_bytes());
    }
    assert_eq!(call.world.peers(call.far), []);
    // A cookie is for one address.
    let other = SocketAddr::new(forger.ip(), 50_001);
    call.world
        .peer_stranger(other, socket, &claim(&[1; 16], Some(&cookie)));
    assert!(call.world.peers_refused(call.far) >= 100);
    call.world.meddle(|_, _| Fate::Pass);
    call.talk(6 * SECOND);
    assert!(call.is_up(), "the right one is taken as ever");
}

#[test]
fn a_claim_that_is_replayed_gets_the_same_answer_and_from_elsewhere_none() {
    let mut call = Call::connected(CONES);
    let far = call.world.peer_sockets(call.far)[0];
    let near = call.world.peers(call.far)[0].address.unwrap();
    let sent = call.world.peer_datagrams().to_vec();
    let is_claim = |bytes: &[u8]| {
        let Ok(Unit::Control(message)) = Unit::decode_datagram(bytes, &Limits::WIDEST) else {
            return false;
        };
        message.raw_value(TlvType::TUNNEL_TAG).is_some()
    };
    let claim = sent.iter().find(|sent| is_claim(&sent.bytes)).unwrap();
    let answer = sent
        .iter()
        .find(|sent| sent.client == call.far && sent.bytes.len() > 100)
        .unwrap();
    let count = |call: &Call| {
        let sent = call.world.peer_datagrams().iter();
        sent.filter(|sent| sent.bytes == answer.bytes).count()
    };
    let before = count(&call);
    call.world.peer_stranger(near, far, &claim.bytes);
    assert_eq!(count(&call), before + 1);
    let elsewhere = SocketAddr::new(near.ip(), near.port() + 1);
    call.world.peer_stranger(elsewhere, far, &claim.bytes);
    assert_eq!(count(&call), before + 1);
    assert!(call.is_up());
    assert_eq!(call.relayed(SECOND), 0);
}

#[test]
fn packets_between_other_addresses_are_not_taken() {
    let mut call = Call::connected(CONES);
    let far_socket = call.world.peer_sockets(call.far)[0];
    let outer = call.world.peers(call.far)[0].address.unwrap();
    let (near, far) = (call.address(call.near), call.address(call.far));
    let other = IpAddr::from([10, 0, 0, 15]);
    let before = call.world.received(call.far).len();
    let refused = call.world.peers_refused(call.far);
    for (source, destination) in [(other, far), (near, other), (far, near)] {
        let packet = packet::udp(source, destination, b"1234");
        call.world.peer_stranger(outer, far_socket, &packet);
    }
    // And right ones from elsewhere.
    let packet = packet::udp(near, far, b"1234");
    let elsewhere = SocketAddr::new(outer.ip(), 9);
    call.world.peer_stranger(elsewhere, far_socket, &packet);
    assert_eq!(call.world.received(call.far).len(), before);
    assert_eq!(call.world.peers_refused(call.far), refused + 4);
    call.world.peer_stranger(outer, far_socket, &packet);
    assert_eq!(call.world.received(call.far).len(), before + 1);
}

/// A request for a peer tunnel, by hand.
fn ask(call: &Call, sequence: u32, own: IpAddr, peer: IpAddr, candidate: &str) -> Vec<u8> {
    use tsc_tpl::{CertificateFingerprint, ConnectionInfo, TransportCode};
    let v4 = |address: IpAddr, port: u16| match address {
        IpAddr::V4(address) => std::net::SocketAddrV4::new(address, port),
        IpAddr::V6(_) => panic!("IPv4 here"),
    };
    let any = v4([0, 0, 0, 0].into(), 0);
    let tsid = call.world.assignment(call.near).unwrap().tsid;
    let request = CmType::CLIENT_SERVICE_REQUEST;
    let mut bytes = Vec::new();
    MessageBuilder::new(request, tsid, Sequence(sequence))
        .tlv(Tlv::ServiceType(SERVICE))
        .tlv(Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport: TransportCode::UDP,
            source: v4(own, 9),
            destination: v4(peer, 9),
        }))
        .tlv(Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport: TransportCode::UDP,
            source: candidate.parse().unwrap(),
            destination: any,
        }))
        .tlv(Tlv::CertificateFingerprint(CertificateFingerprint(
            &[1; 32],
        )))
        .encode(&mut bytes)
        .unwrap();
    bytes
}

/// The first sequence that the near client has not used, far enough ahead.
fn fresh_sequence(call: &mut Call) -> u32 {
    use std::cell::Cell;
    use std::rc::Rc;
    let last = Rc::new(Cell::new(0));
    let seen = Rc::clone(&last);
    let near = call.near;
    call.world.meddle(move |leg, bytes| {
        if leg == Leg::Up(near)
            && let Ok(Unit::Control(message)) = Unit::decode_datagram(bytes, &Limits::WIDEST)
        {
            seen.set(message.header().sequence.0);
        }
        Fate::Pass
    });
    call.world.network_changed(call.near);
    call.world.run(SECOND);
    call.world.meddle(|_, _| Fate::Pass);
    last.get().wrapping_add(1)
}

#[test]
fn requests_in_anothers_name_are_refused() {
    let mut call = Call::new(CONES);
    let first = fresh_sequence(&mut call);
    let (near, far) = (call.address(call.near), call.address(call.far));
    let here = "198.51.100.1:4000";
    // For another's address, for oneself, for nobody, and with nothing that is one's own.
    let cases = [
        (far, near, here),
        (near, near, here),
        (near, [10, 0, 0, 18].into(), here),
        (near, far, "192.0.2.77:53"),
        (near, far, "127.0.0.1:53"),
        (near, far, "224.0.0.1:53"),
        (near, far, "255.255.255.255:53"),
        (near, far, "192.168.7.7:53"),
        (near, far, "198.51.100.1:0"),
    ];
    for (number, (own, peer, candidate)) in cases.into_iter().enumerate() {
        let sequence = first.wrapping_add(u32::try_from(number).unwrap());
        let bytes = ask(&call, sequence, own, peer, candidate);
        call.world.send_raw(call.near, bytes);
        call.world.run(SECOND);
    }
    let stats = call.world.server_stats(call.server);
    assert_eq!((stats.peer_requests, stats.peer_refused), (9, 9));
    assert_eq!(call.world.peer_sockets(call.far), [], "nobody was asked");
    assert!(call.world.peer_datagrams().is_empty());
}

#[test]
fn storms_of_requests_are_bounded_for_the_server_and_for_whoever_is_asked() {
    let mut call = Call::new(CONES);
    let first = fresh_sequence(&mut call);
    let (near, far) = (call.address(call.near), call.address(call.far));
    for number in 0..2_000_u32 {
        let bytes = ask(
            &call,
            first.wrapping_add(number),
            near,
            far,
            "198.51.100.1:4000",
        );
        call.world.send_raw(call.near, bytes);
        call.world.run(Duration::from_millis(5));
    }
    call.world.run(SECOND);
    let stats = call.world.server_stats(call.server);
    assert_eq!(stats.peer_requests, 2_000);
    // 10 s, one a second, and a burst of 16; of which the other end takes half as many, and answers.
    assert!(stats.peer_granted <= 26, "{}", stats.peer_granted);
    let opened = call.world.events(call.far).iter();
    let opened = opened
        .filter(|(_, event)| matches!(event, Event::Peer(PeerEvent::Open { .. })))
        .count();
    assert!(opened <= 14, "{opened}");
    assert!(call.world.peer_sockets(call.far).len() <= 1);
    let to_near = sent_to(&call.world, [198, 51, 100, 1].into());
    assert!(
        to_near <= opened * usize::from(MOST_UNANSWERED),
        "{to_near}"
    );
    // Whoever storms is served nevertheless when it is over.
    call.world.run(30 * SECOND);
    call.world.set_peer(call.far, true).unwrap();
    call.talk(10 * SECOND);
    assert!(call.is_up());
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
