//! An encrypted companion beside other services of its clear tunnel: prefixes behind a gateway, and peer tunnels.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;

use common::call::Call;
use common::services::{self, address};
use common::tunnel::SECOND;
use tsc_csm::client::{ClientConfig, Encryption, Placement};
use tsc_csm::server::{AuthPolicy, Identity, ServerConfig, TokenVerifier};
use tsc_csm::{Prefix, Secret, Transport};
use tsc_sim::{ClientId, Fate, Firewall, Leg, client_config, packet, peer_config, server_config};
use tsc_tpl::{
    CmType, Header, Limits, MessageBuilder, ResponseCode, RoutedPrefix, ServiceType, Tlv, Unit,
};

/// Each clear transport with the protected one beside it.
const PAIRS: [(Transport, Transport); 2] = [
    (Transport::Tcp, Transport::Tls),
    (Transport::Udp, Transport::Dtls),
];

/// A host behind the gateway.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 7, 7));

/// A token is its bearer's name.
struct Names;

impl TokenVerifier for Names {
    fn verify(&self, token: &[u8]) -> Option<Identity> {
        std::str::from_utf8(token).ok().map(Identity::new)
    }
}

fn with_token(transport: Transport, name: &str) -> ClientConfig {
    let mut config = client_config(&[transport]);
    config.auth_token = Some(Secret::new(name.as_bytes()));
    config.token_in_clear = true;
    // The companion is at another port, so its address has to be known.
    config.lookup = true;
    config
}

/// A gateway with a clear tunnel, and somebody who talks to it and to its network.
fn gateway((clear, protected): (Transport, Transport)) -> Call {
    let mut server = server_config(9);
    let interface = &mut server.interfaces[0];
    interface.auth = AuthPolicy::Token(Arc::new(Names));
    interface.token_in_clear = true;
    interface.services = vec![ServiceType::ENABLE_STG, ServiceType::ENABLE_DTTE];
    let behind: Prefix = "10.1.0.0/16".parse().unwrap();
    let identity = Identity::new("gate");
    interface.routed_prefixes.insert(identity, vec![behind]);
    let near = with_token(clear, "gate");
    let far = with_token(Transport::Tls, "phone");
    Call::between(29, server, near, far, protected)
}

/// Makes the socket that tests send from an encrypted one.
fn encrypt(call: &mut Call, wish: Encryption) {
    call.world.set_encryption(call.near, wish).unwrap();
    call.world.run(SECOND);
    assert_eq!(placement(call), Some(Placement::Encrypted));
}

fn placement(call: &Call) -> Option<Placement> {
    call.world.placement(call.near, packet::FLOW)
}

/// What the two tunnels of the gateway carry while something happens: packets up and down, clear and protected.
fn carried(call: &mut Call, what: impl FnOnce(&mut Call)) -> [(u64, u64); 2] {
    let transports = [call.main, call.companion];
    let before = transports.map(|transport| call.carried(transport));
    what(call);
    call.world.run(SECOND);
    let after = transports.map(|transport| call.carried(transport));
    [0, 1].map(|n| (after[n].0 - before[n].0, after[n].1 - before[n].1))
}

#[test]
fn packets_of_a_prefix_and_of_the_companion_each_go_their_way() {
    const CLEAR: [(u64, u64); 2] = [(1, 1), (0, 0)];
    const PROTECTED: [(u64, u64); 2] = [(0, 0), (1, 1)];
    for pair in PAIRS {
        for prefix_first in [true, false] {
            let mut call = gateway(pair);
            let (near, far) = (call.near, call.far);
            if !prefix_first {
                encrypt(&mut call, Encryption::Only);
            }
            call.world.request_routed_prefixes(near, &[]).unwrap();
            call.world.run(SECOND);
            if prefix_first {
                encrypt(&mut call, Encryption::Only);
            }
            assert_eq!(call.world.routed_prefixes(near).len(), 1, "{pair:?}");
            let (main, own, phone) = (
                address(&call.world, near),
                call.own(),
                address(&call.world, far),
            );
            assert_ne!(main, own);
            for (source, expected) in [(HOST, CLEAR), (main, CLEAR), (own, PROTECTED)] {
                let (came, routed) = (
                    call.world.received(near).len(),
                    call.world.routed(near).len(),
                );
                let found = carried(&mut call, |call| {
                    assert!(call.world.send_from(near, source, phone, b"there"));
                    assert!(call.world.send(far, source, b"and back"));
                });
                assert_eq!(found, expected, "{pair:?} {source}");
                let hosts = usize::from(source == HOST);
                assert_eq!(call.world.routed(near).len(), routed + hosts);
                assert_eq!(call.world.received(near).len(), came + 1 - hosts);
            }
            assert_eq!(call.world.received(far).len(), 3);
            // The socket that is encrypted, and a host, lose nothing by the end of the other.
            call.world.release_routed_prefixes(near, &[]).unwrap();
            call.world.run(SECOND);
            let found = carried(&mut call, |call| assert_eq!(call.talk(1), 1));
            assert_eq!(found, PROTECTED, "{pair:?}");
        }
    }
}

#[test]
fn a_prefix_outlives_the_companion_and_takes_nothing_of_it() {
    let mut call = gateway(PAIRS[1]);
    let (near, phone) = (call.near, address(&call.world, call.far));
    call.world.request_routed_prefixes(near, &[]).unwrap();
    encrypt(&mut call, Encryption::Only);
    let own = call.own();
    call.world.path(near).firewall = Firewall::CLEAR_ONLY;
    call.world.break_tunnel(near, 4);
    let [clear, protected] = carried(&mut call, |call| {
        call.world.send_from(near, own, phone, b"secret");
        call.world.send_from(near, HOST, phone, b"of a host");
    });
    assert_eq!((clear, protected), ((1, 0), (0, 0)));
    assert_eq!(call.world.received(call.far).len(), 1);
    assert_eq!(call.world.received(call.far)[0].1, b"of a host");
}

/// Somebody on the clear path answers in place of the server.
#[test]
fn a_clear_path_that_grants_the_companions_address_gets_nothing_of_it() {
    let mut call = gateway(PAIRS[1]);
    encrypt(&mut call, Encryption::Only);
    let (near, own, phone) = (call.near, call.own(), address(&call.world, call.far));
    let asked: Rc<Cell<Option<Header>>> = Rc::default();
    let seen = Rc::clone(&asked);
    call.world.meddle(
        move |leg, bytes| match Unit::decode_datagram(bytes, &Limits::WIDEST) {
            Ok(Unit::Control(message))
                if leg == Leg::Up(near)
                    && message.header().cm_type == CmType::CLIENT_SERVICE_REQUEST =>
            {
                seen.set(Some(message.header()));
                Fate::Lose
            }
            _ => Fate::Pass,
        },
    );
    call.world.request_routed_prefixes(near, &[]).unwrap();
    let request = asked.get().unwrap();
    let IpAddr::V4(companion) = own else {
        panic!("{own}")
    };
    let forged = RoutedPrefix::<Ipv4Addr>::new(companion, 32).unwrap();
    let mut answer = Vec::new();
    MessageBuilder::response(&request, ResponseCode::SUCCESS)
        .unwrap()
        .tlv(Tlv::ServiceType(ServiceType::ENABLE_STG))
        .tlv(Tlv::RoutedPrefixIpv4(forged))
        .encode(&mut answer)
        .unwrap();
    call.world.deliver_raw(near, &answer);
    assert_eq!(call.world.routed_prefixes(near).len(), 1, "believed");

    // What the companion carries stays there, also while it cannot.
    let [clear, protected] = carried(&mut call, |call| assert_eq!(call.talk(5), 5));
    assert_eq!((clear, protected), ((0, 0), (5, 5)));
    call.world.path(near).firewall = Firewall::CLEAR_ONLY;
    let [clear, _] = carried(&mut call, |call| {
        call.talk(5);
    });
    assert_eq!(clear.0, 0);
    // And what comes in clear for its address is for nobody.
    let dropped = call.world.client_stats(near).wrong_destination;
    let came = call.world.received(near).len();
    call.world
        .deliver_raw(near, &packet::udp(phone, own, b"forged"));
    assert_eq!(call.world.client_stats(near).wrong_destination, dropped + 1);
    assert_eq!(call.world.received(near).len(), came);
    assert!(call.world.routed(near).is_empty());
}

fn brokering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![ServiceType::ENABLE_PEER, ServiceType::ENABLE_DTTE];
    config
}

/// Two clients without NATs; the first wants its peers directly.
fn peers(near: Transport, far: Transport, companion: Transport) -> Call {
    let config = |transport, number| {
        let mut config = peer_config(client_config(&[transport]), number);
        config.lookup = true;
        config
    };
    let (near, far) = (config(near, 0), config(far, 1));
    let mut call = Call::between(31, brokering(), near, far, companion);
    call.world.set_peer(call.near, true).unwrap();
    call
}

/// Inner packets that have gone directly and in clear so far.
fn bare(call: &Call) -> usize {
    let sent = call.world.peer_datagrams().iter();
    sent.filter(|sent| sent.bytes[0] >> 4 == 4).count()
}

fn has_peer(call: &Call, client: ClientId) -> bool {
    let peers = call.world.peers(client);
    peers.iter().any(|peer| peer.outer.is_some())
}

#[test]
fn a_socket_that_must_be_encrypted_has_no_peer_tunnel() {
    for (clear, protected) in PAIRS {
        let mut call = peers(clear, Transport::Udp, protected);
        encrypt(&mut call, Encryption::Only);
        // The other end wants it too, and sends to the encrypted address.
        call.world.set_peer(call.far, true).unwrap();
        assert_eq!(call.talk(200), 200);
        call.world.run(SECOND);
        assert_eq!(call.carried(protected), (200, 200), "{clear}");
        assert_eq!(call.carried(clear), (0, 0));
        assert_eq!(bare(&call), 0);
        assert!(!has_peer(&call, call.near) && !has_peer(&call, call.far));
        let told = |client| services::told(&call.world, client, ServiceType::ENABLE_PEER);
        assert_eq!(told(call.near), [], "there was nothing to ask for");
        assert_eq!(told(call.far), [(true, false)]);
    }
}

#[test]
fn a_socket_leaves_its_clear_peer_tunnel_for_the_encrypted_one() {
    for wish in [Encryption::Only, Encryption::Preferred] {
        let mut call = peers(Transport::Udp, Transport::Udp, Transport::Dtls);
        call.talk(100);
        assert!(has_peer(&call, call.near));
        assert!(bare(&call) > 50);
        encrypt(&mut call, wish);
        let before = bare(&call);
        assert_eq!(call.talk(100), 100);
        call.world.run(SECOND);
        assert_eq!(bare(&call), before, "{wish:?}");
        assert_eq!(call.carried(Transport::Dtls), (100, 100));

        // Without the encrypted tunnel one that only prefers it is where it was; one that must be encrypted is nowhere.
        call.world.path(call.near).firewall = Firewall::CLEAR_ONLY;
        call.world.break_tunnel(call.near, 4);
        call.talk(1000);
        let is_direct = wish == Encryption::Preferred;
        assert_eq!(bare(&call) > before, is_direct, "{wish:?}");
        assert_eq!(placement(&call) == Some(Placement::Main), is_direct);
        call.world.path(call.near).firewall = Firewall::OPEN;
        call.world.run(SECOND * 120);
        assert_eq!(placement(&call), Some(Placement::Encrypted));
        let before = bare(&call);
        assert_eq!(call.talk(50), 50);
        call.world.run(SECOND);
        assert_eq!(bare(&call), before, "{wish:?}");
    }
}

#[test]
fn where_the_tunnel_is_encrypted_so_is_the_way_to_the_peer() {
    let mut call = peers(Transport::Dtls, Transport::Udp, Transport::Dtls);
    let wish = call.world.set_encryption(call.near, Encryption::Only);
    wish.unwrap();
    call.talk(200);
    assert_eq!(placement(&call), Some(Placement::Main));
    assert!(has_peer(&call, call.near));
    assert!(call.world.peer_datagrams().len() > 100);
    assert_eq!(bare(&call), 0);
}
