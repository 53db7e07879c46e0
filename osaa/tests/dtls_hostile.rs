//! What strangers and forgers can do to a DTLS endpoint, and what it costs.
#![cfg(any(
    feature = "dtls-openssl",
    feature = "dtls-dimpl",
    feature = "dtls-webrtc"
))]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm
)]

mod dtls_common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dtls_common::Pair;
use dtls_common::pki::{self, SERVER_NAME};
use dtls_common::world::{Setup, World};
use proptest::prelude::*;
use tsc_osaa::dtls::{DtlsBackendKind, DtlsError};

for_all_pairs!(
    spoofed_hellos_leave_no_or_bounded_state,
    half_open_handshakes_of_one_prefix_are_capped,
    full_table_turns_newcomers_away,
    answers_to_strangers_are_bounded_and_short,
    cookies_are_bound_to_address_and_hello,
    cookie_keys_rotate,
);

/// A real first ClientHello of the pair's client.
async fn hello(pair: Pair) -> Vec<u8> {
    let mut world = World::new(pair);
    world.add_client(&pki::client_security(None), SERVER_NAME);
    world
        .run_until("first datagram", |world| !world.sent.is_empty())
        .await;
    world.sent[0].2.clone()
}

/// Puts another random into a hello: record header 13, message header 12, version 2.
fn with_random(hello: &[u8], seed: u32) -> Vec<u8> {
    let mut hello = hello.to_vec();
    hello[27..31].copy_from_slice(&seed.to_be_bytes());
    hello
}

fn address(index: u32) -> SocketAddr {
    let [a, b, c, d] = (0x0A00_0000 + index).to_be_bytes();
    SocketAddr::from(([a, b, c, d], 5_000))
}

async fn spoofed_hellos_leave_no_or_bounded_state(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.limits.half_open = 50;
    let mut world = setup.build();
    let living = world.connect().await;
    let hello = hello(pair).await;
    for index in 0..1_000 {
        world.inject(address(index), &with_random(&hello, index));
    }
    let stats = world.endpoint.stats();
    match pair.server {
        DtlsBackendKind::OpenSsl | DtlsBackendKind::Dimpl => {
            assert_eq!(stats.associations, 1, "only the living one");
            assert_eq!(stats.half_open, 0);
            assert_eq!(stats.started, 1);
            assert!(stats.verify_requests >= 1_001);
        }
        DtlsBackendKind::WebRtc => {
            assert_eq!(stats.half_open, 50);
            assert_eq!(stats.associations, 51);
            assert_eq!(stats.evicted, 950);
        }
    }
    // The living one and a newcomer do not notice.
    world.assert_alive(living).await;
    let newcomer = world.connect().await;
    world.assert_alive(newcomer).await;
    // All of it is gone after the deadline.
    world
        .endpoint
        .handle_timeout(Instant::now() + Duration::from_secs(11));
    world.settle().await;
    assert_eq!(world.endpoint.stats().associations, 2);
    assert_eq!(world.endpoint.stats().half_open, 0);
    assert_eq!(world.endpoint.poll_timeout(), None);
}

async fn half_open_handshakes_of_one_prefix_are_capped(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.limits.half_open_per_prefix = 5;
    let mut world = setup.build();
    let security = pki::client_security(None);
    // Twenty clients behind one address get to the half-open stage and stop there.
    for _ in 0..20 {
        world.add_client(&security, SERVER_NAME);
    }
    world
        .run_until("capped", |world| {
            let stats = world.endpoint.stats();
            assert!(stats.half_open <= 5);
            stats.prefix_limited > 0
        })
        .await;
    // They retransmit, and so all get their turn.
    world
        .run_until("all connected", |world| world.connected.len() == 20)
        .await;
}

async fn full_table_turns_newcomers_away(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.limits.associations = 2;
    let mut world = setup.build();
    let first = world.connect().await;
    let second = world.connect().await;
    let third = world.add_client(&pki::client_security(None), SERVER_NAME);
    world
        .run_until("turned away", |world| world.endpoint.stats().table_full > 0)
        .await;
    assert!(world.clients[third].info.is_none());
    world.assert_alive(first).await;
    world.assert_alive(second).await;
    // There is room again when one has left.
    world.clients[first].session.close(Instant::now());
    world.until_connected(third).await;
}

async fn cookies_are_bound_to_address_and_hello(pair: Pair) {
    if pair.server == DtlsBackendKind::WebRtc {
        return;
    }
    let mut world = World::new(pair);
    let client = world.connect().await;
    let with_cookie = second_hello(&world);
    let mut fresh = World::new(pair);
    // From the address it was made for, it is as good as ever (same key), from others it is not.
    for index in 0..10 {
        fresh.inject(address(index), &with_cookie);
    }
    let mut tampered = with_cookie.clone();
    tampered[27] ^= 1;
    fresh.inject(world.clients[client].address, &tampered);
    assert_eq!(fresh.endpoint.stats().started, 0);
    assert_eq!(fresh.endpoint.stats().verify_requests, 11);
    fresh.inject(world.clients[client].address, &with_cookie);
    assert_eq!(fresh.endpoint.stats().started, 1);
}

async fn cookie_keys_rotate(pair: Pair) {
    if pair.server == DtlsBackendKind::WebRtc {
        return;
    }
    let mut world = World::new(pair);
    let client = world.connect().await;
    let address = world.clients[client].address;
    let hello = second_hello(&world);

    let mut once = World::new(pair);
    once.endpoint.rotate_cookie_key(&[8; 32]);
    once.inject(address, &hello);
    assert_eq!(once.endpoint.stats().started, 1, "the key before is valid");

    let mut twice = World::new(pair);
    twice.endpoint.rotate_cookie_key(&[8; 32]);
    twice.endpoint.rotate_cookie_key(&[9; 32]);
    twice.inject(address, &hello);
    assert_eq!(
        twice.endpoint.stats().started,
        0,
        "the one before that is not"
    );
}

/// The hello that brought the cookie back.
fn second_hello(world: &World) -> Vec<u8> {
    let mut hellos = world
        .sent
        .iter()
        .filter(|(to_server, _, datagram)| *to_server && datagram[0] == 22 && datagram[13] == 1);
    hellos.nth(1).unwrap().2.clone()
}

async fn answers_to_strangers_are_bounded_and_short(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.limits.stateless_queue = 10;
    let mut world = setup.build();
    let hello = hello(pair).await;
    let now = Instant::now();
    for index in 0..100 {
        let random = with_random(&hello, index);
        world.endpoint.handle_datagram(now, address(index), &random);
    }
    let mut out = Vec::new();
    let mut answers = 0;
    while let Some(transmit) = world.endpoint.poll_transmit(&mut out) {
        assert!(transmit.len < hello.len(), "no amplification");
        answers += 1;
    }
    if pair.server != DtlsBackendKind::WebRtc {
        assert_eq!(answers, 10);
        assert_eq!(world.endpoint.stats().answers_dropped, 90);
    }
}

#[cfg(feature = "dtls-webrtc")]
#[tokio::test]
async fn first_hellos_without_stateless_cookie_are_rate_limited() {
    let pair = Pair {
        client: DtlsBackendKind::WebRtc,
        server: DtlsBackendKind::WebRtc,
    };
    let mut setup = Setup::new(pair);
    setup.limits.unproved_per_second = 4;
    setup.limits.half_open_per_prefix = 1_000;
    let mut world = setup.build();
    let hello = hello(pair).await;
    for port in 1..=100_u16 {
        let source = SocketAddr::from(([10, 0, 0, 1], port));
        world.inject(source, &with_random(&hello, u32::from(port)));
    }
    let stats = world.endpoint.stats();
    assert!((8..=9).contains(&stats.started), "{stats:?}");
    assert_eq!(stats.started + stats.rate_limited, 100);
}

/// What a fuzzer does to a datagram that was really sent.
#[derive(Clone, Debug)]
enum Mutation {
    Random(Vec<u8>),
    Flip {
        datagram: usize,
        byte: usize,
        bits: u8,
    },
    Cut {
        datagram: usize,
        length: usize,
    },
    Join {
        first: usize,
        second: usize,
    },
    Replay {
        datagram: usize,
    },
    /// Another content type, epoch or handshake type on a real datagram.
    Header {
        datagram: usize,
        field: u8,
        value: u8,
    },
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let at = any::<usize>;
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..80).prop_map(Mutation::Random),
        (at(), at(), 1..=255_u8).prop_map(|(datagram, byte, bits)| Mutation::Flip {
            datagram,
            byte,
            bits
        }),
        (at(), at()).prop_map(|(datagram, length)| Mutation::Cut { datagram, length }),
        (at(), at()).prop_map(|(first, second)| Mutation::Join { first, second }),
        at().prop_map(|datagram| Mutation::Replay { datagram }),
        (at(), 0..3_u8, any::<u8>()).prop_map(|(datagram, field, value)| Mutation::Header {
            datagram,
            field,
            value
        }),
    ]
}

fn apply(mutation: &Mutation, sent: &[Vec<u8>]) -> Vec<u8> {
    let pick = |index: &usize| sent[index % sent.len()].clone();
    match mutation {
        Mutation::Random(bytes) => bytes.clone(),
        Mutation::Flip {
            datagram,
            byte,
            bits,
        } => {
            let mut out = pick(datagram);
            let index = byte % out.len();
            out[index] ^= bits;
            out
        }
        Mutation::Cut { datagram, length } => {
            let mut out = pick(datagram);
            out.truncate(length % out.len());
            out
        }
        Mutation::Join { first, second } => [pick(first), pick(second)].concat(),
        Mutation::Replay { datagram } => pick(datagram),
        Mutation::Header {
            datagram,
            field,
            value,
        } => {
            let mut out = pick(datagram);
            let index = [0, 4, 13][usize::from(*field)];
            out[index] = *value;
            out
        }
    }
}

/// Everything that is thrown at both ends from the right addresses leaves a living association alive.
fn survives(pair: Pair, mutations: &[Mutation]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(pair);
        let client = world.connect().await;
        world.assert_alive(client).await;
        let sent: Vec<_> = world
            .sent
            .iter()
            .map(|(.., datagram)| datagram.clone())
            .collect();
        let address = world.clients[client].address;
        let key = world.key(client);
        let served = world.received.len();
        for mutation in mutations {
            let datagram = apply(mutation, &sent);
            world.inject(address, &datagram);
            world.inject(SocketAddr::from(([192, 0, 2, 9], 9)), &datagram);
            world.inject_to_client(client, &datagram);
        }
        prop_assert_eq!(world.received.len(), served, "nothing forged was accepted");
        world.assert_alive(client).await;
        prop_assert_eq!(world.key(client), key);
        let has_ended = world
            .ended
            .iter()
            .any(|(peer, error)| *peer == address && matches!(error, DtlsError::PeerClosed));
        prop_assert!(!has_ended, "{:?}", world.ended);
        let newcomer = world.connect().await;
        world.assert_alive(newcomer).await;
        Ok(())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[cfg(feature = "dtls-openssl")]
    #[test]
    fn openssl_association_survives_mutations(mutations in prop::collection::vec(mutation(), 1..60)) {
        let kind = DtlsBackendKind::OpenSsl;
        survives(Pair { client: kind, server: kind }, &mutations)?;
    }

    #[cfg(feature = "dtls-dimpl")]
    #[test]
    fn dimpl_association_survives_mutations(mutations in prop::collection::vec(mutation(), 1..60)) {
        let kind = DtlsBackendKind::Dimpl;
        survives(Pair { client: kind, server: kind }, &mutations)?;
    }

    #[cfg(feature = "dtls-webrtc")]
    #[test]
    fn webrtc_association_survives_mutations(mutations in prop::collection::vec(mutation(), 1..60)) {
        let kind = DtlsBackendKind::WebRtc;
        survives(Pair { client: kind, server: kind }, &mutations)?;
    }
}
