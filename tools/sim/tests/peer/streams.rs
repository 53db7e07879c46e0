//! Peer tunnels over TCP and TLS: where no datagrams pass, and the one who is asked has no NAT.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::call::{CONES, Call, PROTECTED, Setup};
use crate::common::tunnel::SECOND;
use crate::hostile::claim;
use crate::neighbours;
use tsc_csm::{PathEnd, Transport};
use tsc_sim::{ClientId, Firewall, NatKind, Rng, World, fingerprint};
use tsc_tpl::{Limits, ResponseCode, TlvType, Unit};

/// No datagrams pass, and the one who is asked has no NAT.
const STREAMS: Setup = Setup {
    transports: [Transport::Tcp, Transport::Tcp],
    nats: [Some(NatKind::Symmetric), None],
    firewall: Firewall::STREAMS_ONLY,
    ..CONES
};
const PROTECTED_STREAMS: Setup = Setup {
    transports: [Transport::Tls, Transport::Tls],
    ..STREAMS
};

fn transport(call: &Call, client: ClientId) -> Transport {
    let peers = call.world.peers(client);
    peers[0].outer.unwrap().transport
}

/// Over this transport at both ends.
fn goes_over(call: &Call, wanted: Transport) -> bool {
    call.is_up() && transport(call, call.near) == wanted && transport(call, call.far) == wanted
}

/// STUN is not answered, and datagrams have had their time.
const SET_UP: Duration = Duration::from_secs(8);

fn connected(setup: Setup) -> Call {
    let mut call = Call::new(setup);
    call.world.set_peer(call.near, true).unwrap();
    call.talk(SET_UP);
    assert!(call.is_up(), "{:?}", setup.transports);
    call
}

#[test]
fn where_no_datagrams_pass_a_stream_is_taken() {
    for near in [Transport::Tcp, Transport::Tls] {
        for far in [Transport::Tcp, Transport::Tls] {
            for nat in [None, Some(NatKind::Restricted), Some(NatKind::Symmetric)] {
                let mut call = connected(Setup {
                    transports: [near, far],
                    nats: [nat, None],
                    ..STREAMS
                });
                let is_protected = near.is_protected() || far.is_protected();
                let wanted = if is_protected {
                    Transport::Tls
                } else {
                    Transport::Tcp
                };
                assert!(goes_over(&call, wanted), "{near}, {far}, {nat:?}");
                assert_eq!(call.told(call.near), [(true, true)]);
                let from = call.sent;
                assert_eq!(call.relayed(5 * SECOND), 0, "{near}, {far}, {nat:?}");
                assert_eq!(
                    (call.lost(call.near, from), call.lost(call.far, from)),
                    (0, 0)
                );
                assert_eq!(call.partners(), [true, true]);
                assert_eq!(call.world.peer_streams(), 1);
            }
        }
    }
}

#[test]
fn neighbours_find_each_other_over_streams_too() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        let mut call = neighbours(setup);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(SET_UP);
        assert!(call.is_up());
        let outer = call.world.peers(call.near)[0].outer.unwrap();
        assert_eq!(outer.address.ip(), IpAddr::from([192, 168, 1, 2]));
        assert_eq!(call.relayed(2 * SECOND), 0);
    }
}

#[test]
fn nobody_is_connected_to_through_a_nat() {
    for base in [STREAMS, PROTECTED_STREAMS] {
        let mut call = Call::new(Setup {
            nats: [None, Some(NatKind::Open)],
            ..base
        });
        call.world.set_peer(call.near, true).unwrap();
        call.talk(10 * SECOND);
        assert!(!call.is_up());
        assert_eq!(call.world.peer_streams(), 0);
        assert_eq!(call.told(call.near), [(true, false)]);
        assert_eq!((call.lost(call.near, 0), call.lost(call.far, 0)), (0, 0));
    }
}

#[test]
fn datagrams_are_taken_where_they_pass() {
    for base in [CONES, PROTECTED] {
        for seed in 0..20 {
            let mut call = Call::connected(Setup {
                seed,
                nats: [base.nats[0], None],
                ..base
            });
            assert!(!transport(&call, call.near).is_stream());
            call.talk(5 * SECOND);
            assert!(!transport(&call, call.near).is_stream());
            assert_eq!(call.world.peer_streams(), 0);
        }
    }
}

#[test]
fn crossing_requests_make_one_tunnel_over_one_stream() {
    for seed in 0..10 {
        for base in [STREAMS, PROTECTED_STREAMS] {
            let mut call = Call::new(Setup {
                seed,
                nats: [None, None],
                ..base
            });
            call.world.set_peer(call.near, true).unwrap();
            call.world.set_peer(call.far, true).unwrap();
            call.talk(SET_UP);
            assert!(call.is_up(), "seed {seed}");
            assert_eq!(call.relayed(2 * SECOND), 0);
            assert_eq!(call.world.peer_streams(), 1);
        }
    }
}

#[test]
fn a_stream_that_breaks_sends_everything_back_over_the_server() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        let mut call = connected(setup);
        let from = call.sent;
        call.world.break_peer_streams();
        call.talk(5 * SECOND);
        assert_eq!(call.ends(call.near), [PathEnd::Transport]);
        assert_eq!(call.ends(call.far), [PathEnd::Transport]);
        assert_eq!(call.told(call.near), [(true, true), (true, false)]);
        // What was on its way.
        let (near, far) = (call.lost(call.near, from), call.lost(call.far, from));
        assert!(near <= 5 && far <= 5, "{near} and {far} lost");
        assert_eq!(call.partners(), [false, false]);
        call.talk(30 * SECOND);
        assert!(call.is_up(), "it is tried again");
    }
}

#[test]
fn a_stream_that_is_stuck_sends_everything_over_the_server_until_it_flows() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        for (stuck, ends) in [(3, false), (40, true)] {
            let mut call = connected(setup);
            // Only what is between them: the server is reached as ever.
            call.world.stall_peer_streams(true);
            let before = call.sent;
            call.talk(stuck * SECOND);
            let (near, far) = (call.lost(call.near, before), call.lost(call.far, before));
            assert!(near < 50 && far < 50, "{near} and {far} lost or late");
            call.world.stall_peer_streams(false);
            call.talk(5 * SECOND);
            assert_eq!(call.ends(call.near).is_empty(), !ends);
            if !ends {
                // Nothing is lost on a stream, and nothing goes twice.
                let late = (call.lost(call.near, before), call.lost(call.far, before));
                assert_eq!(late, (0, 0));
                assert_eq!(call.relayed(SECOND), 0);
            }
        }
    }
}

#[test]
fn a_tunnel_over_a_stream_ends_as_any() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        let mut call = connected(setup);
        call.world.set_peer(call.near, false).unwrap();
        call.talk(SECOND);
        assert_eq!(call.ends(call.near), [PathEnd::Unused]);
        assert_eq!(call.ends(call.far), [PathEnd::Released]);
        assert_eq!(call.world.peer_streams(), 0);
        assert_eq!(call.world.peer_sockets(call.far), []);

        let mut call = connected(setup);
        call.world.release(call.far, SECOND);
        call.world.run(SECOND);
        assert_eq!(call.ends(call.far), [PathEnd::MainDown]);
        assert_eq!(call.ends(call.near).len(), 1);
        assert_eq!(call.world.peer_streams(), 0);
    }
}

#[test]
fn a_tunnel_over_a_stream_outlives_the_transports_of_the_main_tunnels() {
    let mut call = connected(PROTECTED_STREAMS);
    call.world.break_transport(call.far);
    call.world.break_transport(call.near);
    call.talk(5 * SECOND);
    assert_eq!(call.ends(call.near), []);
    assert_eq!(call.relayed(SECOND), 0);
}

#[test]
fn bad_streams_do_not_keep_them_apart() {
    let mut rng = Rng::new(9);
    for seed in 0..30 {
        let base = [STREAMS, PROTECTED_STREAMS][usize::try_from(seed % 2).unwrap()];
        let mut call = Call::new(Setup { seed, ..base });
        for client in [call.near, call.far] {
            let path = call.world.path(client);
            path.up.config.loss = 0.1;
            path.down.config.loss = 0.1;
        }
        call.world.set_peer(call.near, true).unwrap();
        call.talk(rng.up_to(SECOND));
        call.talk(40 * SECOND);
        assert!(call.is_up(), "seed {seed}");
        // What was repeated again and again is late, and no more.
        call.world.run(20 * SECOND);
        let (near, far) = (call.lost(call.near, 0), call.lost(call.far, 0));
        assert_eq!((near, far), (0, 0), "seed {seed}");
    }
}

/// The far end listens, and nobody comes: so that somebody else has time. The one who asks has the address 198.51.100.1.
fn listening(setup: Setup) -> Call {
    let mut call = Call::new(setup);
    call.world.set_peer(call.near, true).unwrap();
    // STUN has been given up at both ends.
    call.talk(Duration::from_millis(3900));
    assert!(!call.is_up());
    call
}

const HOST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

/// The codes of all answers that a stranger has heard, and the last cookie.
fn answers(world: &World, stream: tsc_sim::StreamId) -> (Vec<ResponseCode>, Vec<u8>) {
    let mut decoder = tsc_tpl::StreamDecoder::new(Limits::WIDEST);
    let heard = world.stranger_hears(stream).unwrap().to_vec();
    let mut feed = decoder.feed(&heard);
    let (mut codes, mut cookie) = (Vec::new(), Vec::new());
    while let Some(unit) = feed.next().unwrap() {
        let Unit::Control(message) = unit else {
            panic!("no answer")
        };
        if let Some(bytes) = message.raw_value(TlvType::COOKIE) {
            cookie = bytes.to_vec();
        }
        codes.push(message.parse().unwrap().response_code().unwrap());
    }
    (codes, cookie)
}

#[test]
fn connections_of_other_hosts_and_of_the_wrong_kind_are_not_taken() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        let mut call = listening(setup);
        let far = call.far;
        let right = setup.transports[0].is_protected().then(|| fingerprint(0));
        let wrong = match right {
            Some(_) => None,
            None => Some(fingerprint(0)),
        };
        let guest = SocketAddr::new(HOST, 4000);
        let stranger = SocketAddr::from(([192, 0, 2, 66], 4000));
        assert_eq!(call.world.stranger_connects(far, stranger, right), None);
        assert_eq!(call.world.stranger_connects(far, guest, wrong), None);
        assert!(call.world.stranger_connects(far, guest, right).is_some());
        call.talk(5 * SECOND);
        assert!(call.is_up(), "the right one is taken as ever");
        // And nobody after it.
        assert_eq!(call.world.stranger_connects(far, guest, right), None);
        assert_eq!(call.world.peer_streams(), 1, "the other one was closed");
    }
}

#[test]
fn a_wrong_tag_claims_no_tunnel_over_a_stream() {
    let mut call = listening(STREAMS);
    let guest = SocketAddr::new(HOST, 4000);
    let stream = call.world.stranger_connects(call.far, guest, None).unwrap();
    let before = call.world.peers_refused(call.far);
    call.world.stranger_says(stream, &claim(&[0; 16], None));
    call.world.run(Duration::from_millis(100));
    let (codes, cookie) = answers(&call.world, stream);
    assert_eq!(codes, [ResponseCode::COOKIE_REQUIRED]);
    for guess in 0..100 {
        let claim = claim(&[guess; 16], Some(&cookie));
        call.world.stranger_says(stream, &claim);
    }
    assert_eq!(call.world.peers_refused(call.far), before + 100);
    call.world.run(Duration::from_millis(100));
    let (codes, _) = answers(&call.world, stream);
    assert_eq!(codes[1..], [ResponseCode::NOT_AUTHORIZED; 8]);
    call.talk(5 * SECOND);
    assert!(call.is_up());
}

#[test]
fn another_certificate_is_shown_the_door() {
    for impostor in 0..2 {
        let mut call = Call::new(PROTECTED_STREAMS);
        let client = [call.near, call.far][impostor];
        call.world.show_certificate(client, [0xEE; 32]);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(12 * SECOND);
        assert!(!call.is_up());
        assert_eq!(call.world.peer_streams(), 0);
        assert_eq!((call.lost(call.near, 0), call.lost(call.far, 0)), (0, 0));
    }
}

#[test]
fn garbage_on_a_stream_costs_that_stream() {
    let mut call = listening(STREAMS);
    let guest = |port| SocketAddr::new(HOST, port);
    for (number, garbage) in [&[0xFF; 40][..], &[0x45; 40], &[0x16, 3, 1, 0, 5]]
        .into_iter()
        .enumerate()
    {
        let from = guest(5000 + u16::try_from(number).unwrap());
        let stream = call.world.stranger_connects(call.far, from, None).unwrap();
        call.world.stranger_says(stream, garbage);
        assert_eq!(call.world.stranger_hears(stream), None, "it is closed");
    }
    // So many at a time, and no more: the first four are the ones that stay, and the others are counted.
    let before = call.world.peers_refused(call.far);
    let streams: Vec<_> = (0..8)
        .map(|number| {
            call.world
                .stranger_connects(call.far, guest(6000 + number), None)
        })
        .collect();
    call.world.run(Duration::from_millis(100));
    let open = |stream: &&Option<_>| {
        let stream = stream.unwrap();
        call.world.stranger_hears(stream).is_some()
    };
    assert_eq!(streams.iter().filter(open).count(), 4);
    assert_eq!(call.world.peers_refused(call.far), before + 4);
}

/// Who is behind the NAT finds the one who is not, whoever of the two asks first and has the lower address.
#[test]
fn what_one_end_cannot_do_the_other_does() {
    for base in [STREAMS, PROTECTED_STREAMS, CONES, PROTECTED] {
        for nats in [
            [None, Some(NatKind::Symmetric)],
            [Some(NatKind::Symmetric), None],
        ] {
            for first in 0..2 {
                let mut call = Call::new(Setup { nats, ..base });
                let clients = [call.near, call.far];
                call.world.set_peer(clients[first], true).unwrap();
                call.talk(Duration::from_millis(100));
                call.world.set_peer(clients[1 - first], true).unwrap();
                call.talk(40 * SECOND);
                assert!(call.is_up(), "{:?} {nats:?} {first}", base.transports);
                assert_eq!(call.relayed(2 * SECOND), 0);
            }
        }
    }
}

/// A neighbour names a third party's port, and a tag that means something there.
#[test]
fn a_third_party_hears_nothing_that_the_liar_has_chosen() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        let mut call = neighbours(setup);
        let victim = SocketAddr::from(([192, 168, 1, 200], 6379));
        call.world.third_party(victim);
        call.world.lie_about_address(call.far, victim);
        call.world.set_peer(call.near, true).unwrap();
        call.talk(12 * SECOND);
        assert!(!call.is_up());
        let heard = call.world.third_party_heard();
        let tags = |bytes: &[u8]| {
            let mut decoder = tsc_tpl::StreamDecoder::new(Limits::WIDEST);
            let mut feed = decoder.feed(bytes);
            let mut tags = 0;
            while let Some(unit) = feed.next().unwrap() {
                let Unit::Control(message) = unit else {
                    panic!("no message")
                };
                tags += usize::from(message.parse().unwrap().tunnel_tag().is_some());
            }
            tags
        };
        // Under protection not even that: there is no handshake with it.
        assert_eq!(heard.is_empty(), setup.transports[0].is_protected());
        assert_eq!(tags(heard), 0);
        let from = call.sent;
        call.talk(SECOND);
        assert_eq!(
            (call.lost(call.near, from), call.lost(call.far, from)),
            (0, 0)
        );
    }
}

/// Something on the way takes every connection and says nothing.
#[test]
fn a_connection_that_swallows_everything_keeps_no_datagrams_away() {
    // Later there is no datagram left that might be sent without an answer.
    for delay in [500, 1200] {
        let mut call = Call::new(Setup {
            nats: [Some(NatKind::Restricted), None],
            ..CONES
        });
        call.world.set_peer(call.near, true).unwrap();
        call.world.stall_peer_streams(true);
        // Until then no request of the near end arrives.
        let until = call.world.elapsed() + Duration::from_millis(delay);
        let clock = std::rc::Rc::new(std::cell::Cell::new(Duration::ZERO));
        let (now, near) = (std::rc::Rc::clone(&clock), call.near);
        call.world.meddle(move |leg, bytes| {
            let is_request = leg == tsc_sim::Leg::Direct(near) && bytes[0] == 0x10;
            if is_request && now.get() < until {
                tsc_sim::Fate::Lose
            } else {
                tsc_sim::Fate::Pass
            }
        });
        for _ in 0..300 {
            clock.set(call.world.elapsed());
            call.talk(Duration::from_millis(20));
        }
        assert!(call.is_up(), "{delay} ms");
        assert_eq!(transport(&call, call.near), Transport::Udp);
    }
}

#[test]
fn a_stream_may_break_or_get_stuck_at_any_time() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        for step in 0..50 {
            let at = Duration::from_millis(4500 + step * 40);
            for stuck in [None, Some(300), Some(6000)] {
                let mut call = Call::new(setup);
                call.world.set_peer(call.near, true).unwrap();
                call.talk(at);
                match stuck {
                    None => call.world.break_peer_streams(),
                    Some(time) => {
                        call.world.stall_peer_streams(true);
                        call.talk(Duration::from_millis(time));
                        call.world.stall_peer_streams(false);
                    }
                }
                call.talk(60 * SECOND);
                assert!(call.is_up(), "{at:?} {stuck:?}");
                assert_eq!(call.world.peer_streams(), 1, "{at:?} {stuck:?}");
                assert_eq!(call.relayed(SECOND), 0, "{at:?} {stuck:?}");
            }
        }
    }
}

#[test]
fn either_end_may_go_at_any_time() {
    for setup in [STREAMS, PROTECTED_STREAMS] {
        for step in 0..40 {
            let at = Duration::from_millis(step * 200);
            for how in 0..3 {
                let mut call = Call::new(setup);
                call.world.set_peer(call.near, true).unwrap();
                call.talk(at);
                match how {
                    0 => call.world.release(call.near, SECOND),
                    1 => call.world.release(call.far, SECOND),
                    _ => call.world.set_peer(call.near, false).unwrap(),
                }
                call.world.run(20 * SECOND);
                assert_eq!(call.world.peer_streams(), 0, "{at:?} {how}");
                let open = [call.near, call.far].map(|client| call.world.peer_sockets(client));
                assert_eq!(open, [vec![], vec![]], "{at:?} {how}");
            }
        }
    }
}
