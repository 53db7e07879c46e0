//! Those who lie, forge, replay and ask without end.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::call::{CONES, Call, PROTECTED, SERVICE};
use crate::common::tunnel::SECOND;
use crate::neighbours;
use tsc_csm::MOST_UNANSWERED;
use tsc_csm::client::{Event, PeerEvent};
use tsc_sim::{Fate, Leg, World, packet};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, Sequence, Tlv, TlvType, Tsid, TunnelTag, Unit,
};

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

pub(crate) fn claim(tag: &[u8; 16], cookie: Option<&[u8]>) -> Vec<u8> {
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
    let near = call.world.peers(call.far)[0].outer.unwrap().address;
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
    let outer = call.world.peers(call.far)[0].outer.unwrap().address;
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
