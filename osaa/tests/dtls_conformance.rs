//! What every DTLS backend must do, for every pair of them, over an in-memory network.
#![cfg(any(feature = "dtls-openssl", feature = "dtls-webrtc"))]
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
use dtls_common::pki::{self, Leaf, PKI, Purpose, SERVER_NAME};
use dtls_common::world::{Conditions, Setup, World};
use tsc_osaa::cert::{CertificateError, ClientAuth, ClientSecurity, Trust};
use tsc_osaa::dtls::{
    DtlsBackendKind, DtlsClientConfig, DtlsConfigError, DtlsError, DtlsOptions, DtlsSendError,
    DtlsServerConfig, DtlsState,
};

for_all_pairs!(
    handshake_and_echo,
    all_sizes_keep_their_boundaries,
    required_client_certificate,
    optional_client_certificate,
    client_certificate_not_asked_for,
    bad_server_certificates_are_refused,
    bad_client_certificates_are_refused,
    verification_can_be_switched_off,
    server_is_found_by_address,
    rsa_server_certificate,
    ed25519_certificates,
    sec1_key,
    lossy_network_connects,
    silent_hello_does_not_hold_up_others,
    garbage_is_harmless_at_every_stage,
    forged_clear_records_do_not_touch_an_association,
    replayed_records_are_dropped,
    hello_from_a_living_address_changes_nothing,
    new_handshake_from_a_living_address_takes_over,
    client_closes,
    server_closes,
    closing_delivers_what_was_sent_before,
    abandoned_handshakes_end_by_deadline,
    misuse_is_a_typed_error,
    short_buffers_drop_whole_records,
    many_clients_at_once,
    buffers_come_and_go_unnoticed,
);

async fn handshake_and_echo(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    world.assert_alive(client).await;
    let is_openssl = |kind| kind == DtlsBackendKind::OpenSsl;
    let alpn = is_openssl(pair.client) && is_openssl(pair.server);
    let info = world.clients[client].info.as_ref().unwrap();
    assert_eq!(info.alpn, alpn);
    assert_eq!(info.peer.as_ref().unwrap().common_name(), Some("server"));
    assert_eq!(world.connected[0].2.alpn, alpn);
    assert!(world.connected[0].2.peer.is_none());
    // Nothing above the 1280 bytes of an outer packet, headers of IPv6 and UDP included.
    assert!(
        world
            .sent
            .iter()
            .all(|(.., datagram)| datagram.len() <= 1_232)
    );
    let stats = world.endpoint.stats();
    assert_eq!((stats.associations, stats.half_open), (1, 0));
    assert_eq!(
        (stats.started, stats.connected_total, stats.failed),
        (1, 1, 0)
    );
    assert_eq!(world.endpoint.poll_timeout(), None, "idle needs no timer");
}

async fn all_sizes_keep_their_boundaries(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    let mut sizes: Vec<usize> = (1..=1_400).step_by(13).collect();
    sizes.extend([2, 3, 16, 255, 256, 1_199, 1_200, 1_399, 1_400, 2_000, 8_000]);
    if pair.client == DtlsBackendKind::OpenSsl && pair.server == DtlsBackendKind::OpenSsl {
        sizes.push(16_384);
    }
    let expected: Vec<Vec<u8>> = sizes
        .iter()
        .enumerate()
        .map(|(seed, &size)| (0..size).map(|i| (i * 31 + seed) as u8).collect())
        .collect();
    for data in &expected {
        world.clients[client].session.send(data).unwrap();
    }
    let count = expected.len();
    world
        .run_until("all echoed", |world| {
            world.clients[client].received.len() == count
        })
        .await;
    assert_eq!(world.clients[client].received, expected);
}

async fn required_client_certificate(pair: Pair) {
    let setup = || {
        let mut setup = Setup::new(pair);
        setup.server = pki::server_security(&PKI.server, ClientAuth::Required(PKI.ca.roots()));
        setup.build()
    };
    let mut world = setup();
    let client = world.add_client(&pki::client_security(Some(&PKI.client)), SERVER_NAME);
    world.until_connected(client).await;
    world.assert_alive(client).await;
    let peer = world.connected[0].2.peer.as_ref().unwrap();
    assert_eq!(peer.common_name(), Some("client"));
    assert_eq!(*peer.fingerprint(), PKI.client.identity().fingerprint());

    let mut world = setup();
    let client = world.add_client(&pki::client_security(None), SERVER_NAME);
    expect_refusal_by_server(&mut world, client, |error| {
        matches!(error, CertificateError::Missing)
    })
    .await;
}

async fn optional_client_certificate(pair: Pair) {
    let setup = || {
        let mut setup = Setup::new(pair);
        setup.server = pki::server_security(&PKI.server, ClientAuth::Optional(PKI.ca.roots()));
        setup.build()
    };
    let mut world = setup();
    let with = world.add_client(&pki::client_security(Some(&PKI.client)), SERVER_NAME);
    world.until_connected(with).await;
    let without = world.connect().await;
    world.assert_alive(with).await;
    world.assert_alive(without).await;
    let peers: Vec<_> = world
        .connected
        .iter()
        .map(|(.., info)| info.peer.as_ref().and_then(|peer| peer.common_name()))
        .collect();
    assert_eq!(peers, [Some("client"), None]);

    let mut world = setup();
    let bad = PKI.unknown_issuer(Purpose::Client);
    let client = world.add_client(&pki::client_security(Some(&bad)), SERVER_NAME);
    expect_refusal_by_server(&mut world, client, |error| {
        matches!(error, CertificateError::UnknownIssuer)
    })
    .await;
}

async fn client_certificate_not_asked_for(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.add_client(&pki::client_security(Some(&PKI.client)), SERVER_NAME);
    world.until_connected(client).await;
    assert!(world.connected[0].2.peer.is_none());
}

async fn bad_server_certificates_are_refused(pair: Pair) {
    type Check = fn(&CertificateError) -> bool;
    let cases: [(Leaf, Check); 4] = [
        (PKI.expired(Purpose::Server), |error| {
            matches!(error, CertificateError::Expired { .. })
        }),
        (PKI.unknown_issuer(Purpose::Server), |error| {
            matches!(error, CertificateError::UnknownIssuer)
        }),
        (PKI.wrong_name(), |error| {
            matches!(error, CertificateError::NameMismatch { .. })
        }),
        (PKI.client.clone(), |error| {
            matches!(
                error,
                CertificateError::WrongPurpose { .. } | CertificateError::NameMismatch { .. }
            )
        }),
    ];
    for (leaf, check) in cases {
        let mut setup = Setup::new(pair);
        setup.server = pki::server_security(&leaf, ClientAuth::None);
        let mut world = setup.build();
        let client = world.add_client(&pki::client_security(None), SERVER_NAME);
        world
            .run_until("refused at both ends", |world| {
                world.clients[client].error.is_some() && !world.ended.is_empty()
            })
            .await;
        match world.clients[client].error.as_ref().unwrap() {
            DtlsError::Certificate(error) => assert!(check(error), "{error:?}"),
            other => panic!("{other:?}"),
        }
        assert!(world.clients[client].info.is_none());
        assert!(
            matches!(world.ended[0].1, DtlsError::Alert(_)),
            "{:?}",
            world.ended
        );
        assert_eq!(world.endpoint.stats().associations, 0);
    }
}

async fn bad_client_certificates_are_refused(pair: Pair) {
    type Check = fn(&CertificateError) -> bool;
    let cases: [(Leaf, Check); 3] = [
        (PKI.expired(Purpose::Client), |error| {
            matches!(error, CertificateError::Expired { .. })
        }),
        (PKI.unknown_issuer(Purpose::Client), |error| {
            matches!(error, CertificateError::UnknownIssuer)
        }),
        (PKI.server.clone(), |error| {
            matches!(error, CertificateError::WrongPurpose { .. })
        }),
    ];
    for (leaf, check) in cases {
        let mut setup = Setup::new(pair);
        setup.server = pki::server_security(&PKI.server, ClientAuth::Required(PKI.ca.roots()));
        let mut world = setup.build();
        let client = world.add_client(&pki::client_security(Some(&leaf)), SERVER_NAME);
        expect_refusal_by_server(&mut world, client, check).await;
    }
}

/// The server refuses the client's certificate, and the client is told.
async fn expect_refusal_by_server(
    world: &mut World,
    client: usize,
    check: impl Fn(&CertificateError) -> bool,
) {
    world
        .run_until("refused at both ends", |world| {
            world.clients[client].error.is_some() && !world.ended.is_empty()
        })
        .await;
    match &world.ended[0].1 {
        DtlsError::Certificate(error) => assert!(check(error), "{error:?}"),
        other => panic!("{other:?}"),
    }
    let error = world.clients[client].error.as_ref().unwrap();
    assert!(matches!(error, DtlsError::Alert(_)), "{error:?}");
    assert!(world.connected.is_empty());
    assert!(world.clients[client].info.is_none());
    assert_eq!(world.endpoint.stats().associations, 0);
}

async fn verification_can_be_switched_off(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.server = pki::server_security(&PKI.unknown_issuer(Purpose::Server), ClientAuth::None);
    let mut world = setup.build();
    let security = ClientSecurity::new(Trust::DangerousNone, None).unwrap();
    let client = world.add_client(&security, "whoever.test");
    world.until_connected(client).await;
    world.assert_alive(client).await;
}

async fn server_is_found_by_address(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.add_client(&pki::client_security(None), "127.0.0.1");
    world.until_connected(client).await;
    let other = world.add_client(&pki::client_security(None), "127.0.0.2");
    world
        .run_until("refused", |world| world.clients[other].error.is_some())
        .await;
    assert!(matches!(
        world.clients[other].error,
        Some(DtlsError::Certificate(
            CertificateError::NameMismatch { .. }
        ))
    ));
}

async fn rsa_server_certificate(pair: Pair) {
    let leaf = pki::rsa_leaf(Purpose::Server);
    let security = pki::server_security(&leaf, ClientAuth::Optional(PKI.ca.roots()));
    if pair.server == DtlsBackendKind::WebRtc {
        let refused = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::UnsupportedKey {
                backend: DtlsBackendKind::WebRtc,
                ..
            })
        ));
        return;
    }
    let mut setup = Setup::new(pair);
    setup.server = security;
    let mut world = setup.build();
    let client = world.connect().await;
    world.assert_alive(client).await;
    if pair.client == DtlsBackendKind::OpenSsl {
        let leaf = pki::rsa_leaf(Purpose::Client);
        let client = world.add_client(&pki::client_security(Some(&leaf)), SERVER_NAME);
        world.until_connected(client).await;
        let peer = world.connected[1].2.peer.as_ref().unwrap();
        assert_eq!(peer.common_name(), Some("client"));
    }
}

async fn ed25519_certificates(pair: Pair) {
    let leaf = |purpose| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        PKI.ca.leaf_with_key(purpose, &key, |_| {})
    };
    let client_auth = || ClientAuth::Required(PKI.ca.roots());
    let mut setup = Setup::new(pair);
    let security = pki::server_security(&leaf(Purpose::Server), client_auth());
    if pair.server == DtlsBackendKind::OpenSsl {
        let refused = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::UnsupportedKey {
                backend: DtlsBackendKind::OpenSsl,
                ..
            })
        ));
        setup.server = pki::server_security(&PKI.server, client_auth());
    } else {
        setup.server = security;
    }
    let mut world = setup.build();
    let security = pki::client_security(Some(&leaf(Purpose::Client)));
    let client = world.add_client(&security, SERVER_NAME);
    world.until_connected(client).await;
    world.assert_alive(client).await;
}

async fn sec1_key(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.server = pki::server_security(&pki::sec1_leaf(), ClientAuth::None);
    let mut world = setup.build();
    let client = world.connect().await;
    world.assert_alive(client).await;
}

async fn lossy_network_connects(pair: Pair) {
    for seed in 1..=4 {
        let mut setup = Setup::new(pair);
        setup.server = pki::server_security(&PKI.server, ClientAuth::Required(PKI.ca.roots()));
        let mut world = setup.build();
        world.seed(seed);
        world.conditions = Conditions {
            loss: 0.2,
            duplication: 0.1,
            reordering: 0.2,
        };
        let client = world.add_client(&pki::client_security(Some(&PKI.client)), SERVER_NAME);
        world.until_connected(client).await;
        world.assert_alive(client).await;
    }
}

async fn silent_hello_does_not_hold_up_others(pair: Pair) {
    let mut world = World::new(pair);
    // A client that starts and is never heard of again, at every point of its handshake.
    let silent = world.add_client(&pki::client_security(None), SERVER_NAME);
    world.until_connected(silent).await;
    let flights: Vec<_> = world
        .sent
        .iter()
        .filter(|(to_server, ..)| *to_server)
        .map(|(.., datagram)| datagram.clone())
        .collect();
    let mut world = World::new(pair);
    for (index, flight) in flights.iter().enumerate() {
        world.inject(SocketAddr::from(([192, 0, 2, 1], index as u16 + 1)), flight);
    }
    let started = Instant::now();
    let client = world.connect().await;
    world.assert_alive(client).await;
    assert!(started.elapsed() < Duration::from_secs(2));
}

async fn garbage_is_harmless_at_every_stage(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.add_client(&pki::client_security(None), SERVER_NAME);
    let address = world.clients[client].address;
    let mut rounds_connected = 0;
    while rounds_connected < 10 {
        for seed in 0..40 {
            let garbage = garbage(&mut world, seed);
            world.inject(address, &garbage);
            world.inject(SocketAddr::from(([192, 0, 2, 1], seed + 1)), &garbage);
            world.inject_to_client(client, &garbage);
        }
        let is_up = world.clients[client].info.is_some() && world.endpoint.find(address).is_some();
        rounds_connected += u32::from(is_up);
        assert!(world.clients[client].error.is_none());
        // One exchange of the handshake at a time.
        world.tick().await;
    }
    world.clients[client].received.clear();
    world.assert_alive(client).await;
    assert!(world.ended.is_empty(), "{:?}", world.ended);
    assert_eq!(world.received.len(), 1);
    assert_eq!(world.endpoint.stats().associations, 1);
}

/// Things that anyone may throw at a port. None is a valid ClientHello.
fn garbage(world: &mut World, kind: u16) -> Vec<u8> {
    let length = (world.random() % 100) as usize;
    let random: Vec<u8> = (0..length).map(|_| world.random() as u8).collect();
    let record = |content_type: u8, epoch: u8, fragment: &[u8]| {
        let mut out = vec![content_type, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 99];
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend(fragment);
        out
    };
    match kind % 10 {
        0 => random,
        1 => record(22, 0, &random),
        2 => record(23, 0, &random),
        3 => record(20, 0, &random),
        4 => record(23, 1, &random),
        5 => record(22, 1, &random),
        6 => record(21, 1, &random),
        // A handshake message that claims more than it holds.
        7 => record(22, 0, &[1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9]),
        // A fragment beyond its message.
        8 => record(22, 0, &[11, 0, 0, 4, 0, 1, 0, 0, 9, 0, 0, 1, 7]),
        _ => {
            // A record cut short.
            let mut out = record(22, 0, &random);
            out.truncate(length / 2);
            out
        }
    }
}

async fn forged_clear_records_do_not_touch_an_association(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    let address = world.clients[client].address;
    let forged: [&[u8]; 5] = [
        // Fatal alert, close_notify, data, ChangeCipherSpec, all in the clear.
        &[21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 9, 9, 0, 2, 2, 40],
        &[21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 9, 9, 0, 2, 1, 0],
        &[23, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 9, 9, 0, 3, 1, 2, 3],
        &[20, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 9, 9, 0, 1, 1],
        // HelloRequest, which would ask for renegotiation.
        &[
            22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 9, 9, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ],
    ];
    for datagram in forged {
        world.inject(address, datagram);
        world.inject_to_client(client, datagram);
        world.settle().await;
        world.assert_alive(client).await;
    }
    assert!(world.ended.is_empty());
}

async fn replayed_records_are_dropped(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    world.assert_alive(client).await;
    let all = std::mem::take(&mut world.sent);
    let address = world.clients[client].address;
    let (served, got) = (world.received.len(), world.clients[client].received.len());
    for (to_server, _, datagram) in &all {
        if *to_server {
            world.inject(address, datagram);
        } else {
            world.inject_to_client(client, datagram);
        }
    }
    world.settle().await;
    assert_eq!(world.received.len(), served);
    assert_eq!(world.clients[client].received.len(), got);
    world.assert_alive(client).await;
    assert_eq!(world.connected.len(), 1);
    assert!(world.ended.is_empty(), "{:?}", world.ended);
}

async fn hello_from_a_living_address_changes_nothing(pair: Pair) {
    // A hello of someone else, with and without a cookie, sent under the living client's address.
    let mut other = World::new(pair);
    other.connect().await;
    let hellos: Vec<_> = other
        .sent
        .iter()
        .filter(|(to_server, _, datagram)| *to_server && datagram[0] == 22 && datagram[13] == 1)
        .map(|(.., datagram)| datagram.clone())
        .collect();
    assert!(hellos.len() >= 2);

    let mut world = World::new(pair);
    let client = world.connect().await;
    let address = world.clients[client].address;
    let key = world.key(client);
    for hello in &hellos {
        world.inject(address, hello);
        world.settle().await;
        world.assert_alive(client).await;
        assert_eq!(world.key(client), key);
    }
    // The half-open handshake beside it, if any, ends by its deadline, and the association lives on.
    let later = Instant::now() + Duration::from_secs(11);
    world.endpoint.handle_timeout(later);
    world.settle().await;
    assert_eq!(world.endpoint.stats().half_open, 0);
    assert_eq!(world.endpoint.stats().replaced, 0);
    world.assert_alive(client).await;
}

async fn new_handshake_from_a_living_address_takes_over(pair: Pair) {
    let mut world = World::new(pair);
    let old = world.connect().await;
    let address = world.clients[old].address;
    let old_key = world.key(old);
    // The application has restarted and got the same port.
    let new = world.add_client_at(address, &pki::client_security(None), SERVER_NAME);
    world
        .run_until("taken over", |world| {
            world.clients[new].info.is_some()
                && world
                    .endpoint
                    .find(address)
                    .is_some_and(|key| key != old_key)
        })
        .await;
    assert!(matches!(
        world.ended.as_slice(),
        [(peer, DtlsError::Replaced)] if *peer == address
    ));
    assert_eq!(
        world.endpoint.send(old_key, b"late"),
        Err(DtlsSendError::Closed)
    );
    world.assert_alive(new).await;
    assert_eq!(world.endpoint.stats().associations, 1);
}

async fn client_closes(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    world.clients[client].session.close(Instant::now());
    world
        .run_until("closed at both ends", |world| {
            world.clients[client].error.is_some() && !world.ended.is_empty()
        })
        .await;
    assert!(matches!(
        world.clients[client].error,
        Some(DtlsError::LocalClosed)
    ));
    assert!(matches!(world.ended[0].1, DtlsError::PeerClosed));
    assert_eq!(world.endpoint.stats().associations, 0);
    assert_eq!(
        world.clients[client].session.send(b"late"),
        Err(DtlsSendError::Closed)
    );
    world.clients[client].session.close(Instant::now());
    assert!(world.clients[client].session.poll_event().is_none());
}

async fn server_closes(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    let key = world.key(client);
    world.endpoint.close_all(Instant::now());
    world
        .run_until("closed at both ends", |world| {
            world.clients[client].error.is_some() && !world.ended.is_empty()
        })
        .await;
    assert!(matches!(
        world.clients[client].error,
        Some(DtlsError::PeerClosed)
    ));
    assert!(matches!(world.ended[0].1, DtlsError::LocalClosed));
    assert_eq!(
        world.endpoint.send(key, b"late"),
        Err(DtlsSendError::Closed)
    );
    assert_eq!(world.endpoint.peer(key), None);
    assert_eq!(world.endpoint.stats().associations, 0);
}

async fn closing_delivers_what_was_sent_before(pair: Pair) {
    let mut world = World::new(pair);
    world.echo = false;
    let client = world.connect().await;
    for index in 0..10_u8 {
        world.clients[client].session.send(&[index]).unwrap();
    }
    world.clients[client].session.close(Instant::now());
    world
        .run_until("closed", |world| !world.ended.is_empty())
        .await;
    let data: Vec<_> = world.received.iter().map(|(_, data)| data[0]).collect();
    assert_eq!(data, (0..10).collect::<Vec<_>>());
}

async fn abandoned_handshakes_end_by_deadline(pair: Pair) {
    let options = DtlsOptions {
        handshake_timeout: Duration::from_millis(400),
        ..DtlsOptions::default()
    };
    // The client's second flight, with or without a cookie exchange before, never ends.
    let mut setup = Setup::new(pair);
    setup.options = options.clone();
    let mut world = setup.build();
    world.add_client(&pki::client_security(None), SERVER_NAME);
    world
        .run_until("half open", |world| world.endpoint.stats().half_open == 1)
        .await;
    world.conditions.loss = 1.0;
    world
        .run_until("given up", |world| !world.ended.is_empty())
        .await;
    assert!(
        matches!(world.ended[0].1, DtlsError::HandshakeTimeout),
        "{:?}",
        world.ended
    );
    assert_eq!(world.endpoint.stats().associations, 0);
    assert_eq!(world.endpoint.poll_timeout(), None);

    // A server that never answers.
    let config = DtlsClientConfig::new(pair.client, &pki::client_security(None), &options).unwrap();
    let start = Instant::now();
    let mut session = config
        .connect(start, &SERVER_NAME.try_into().unwrap())
        .unwrap();
    session.handle_timeout(start + Duration::from_millis(399));
    assert_eq!(session.state(), DtlsState::Handshaking);
    session.handle_timeout(start + Duration::from_millis(400));
    assert_eq!(session.state(), DtlsState::Closed);
    assert!(matches!(
        session.poll_event(),
        Some(tsc_osaa::dtls::DtlsEvent::Closed(
            DtlsError::HandshakeTimeout
        ))
    ));
    assert_eq!(session.poll_timeout(), None);
}

async fn misuse_is_a_typed_error(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.add_client(&pki::client_security(None), SERVER_NAME);
    assert_eq!(
        world.clients[client].session.send(b"early"),
        Err(DtlsSendError::NotConnected)
    );
    world.until_connected(client).await;
    let session = &mut world.clients[client].session;
    assert_eq!(session.send(b""), Err(DtlsSendError::Size(0)));
    assert_eq!(session.send(&[0; 16_385]), Err(DtlsSendError::Size(16_385)));
    assert_eq!(session.recv(&mut []), None);
    // Nobody drains: the queue is bounded and says so.
    let results: Vec<_> = (0..2_000).map(|_| session.send(&[7; 1_200])).collect();
    assert!(results.contains(&Err(DtlsSendError::QueueFull)));
    world.settle().await;
    world.assert_alive(client).await;
}

async fn short_buffers_drop_whole_records(pair: Pair) {
    let mut world = World::new(pair);
    world.echo = false;
    let client = world.connect().await;
    let key = world.key(client);
    world.endpoint.send(key, &[1; 300]).unwrap();
    world.endpoint.send(key, &[2; 100]).unwrap();
    world.endpoint.send(key, &[3; 101]).unwrap();
    world.endpoint.send(key, &[4; 50]).unwrap();
    // Carry the datagrams over by hand, so that nobody but this test receives.
    let mut got = Vec::new();
    let mut datagram = Vec::new();
    let mut buf = [0; 100];
    let deadline = Instant::now() + Duration::from_secs(10);
    while got.len() < 2 && Instant::now() < deadline {
        // What was sealed in the background is collected here.
        while world.endpoint.poll_event().is_some() {}
        while world.endpoint.poll_transmit(&mut datagram).is_some() {
            let session = &mut world.clients[client].session;
            session.handle_datagram(Instant::now(), &std::mem::take(&mut datagram));
        }
        while let Some(length) = world.clients[client].session.recv(&mut buf) {
            got.push(buf[..length].to_vec());
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(got, [vec![2; 100], vec![4; 50]]);
}

async fn many_clients_at_once(pair: Pair) {
    let mut world = World::new(pair);
    let security = pki::client_security(None);
    let clients: Vec<_> = (0..40)
        .map(|_| world.add_client(&security, SERVER_NAME))
        .collect();
    world
        .run_until("all connected", |world| {
            world.clients.iter().all(|client| client.info.is_some()) && world.connected.len() == 40
        })
        .await;
    for client in clients {
        world.assert_alive(client).await;
    }
    assert_eq!(world.endpoint.stats().associations, 40);
}

async fn buffers_come_and_go_unnoticed(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.limits.warm = 1;
    let mut world = setup.build();
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(world.connect().await);
    }
    for _ in 0..3 {
        for &client in &clients {
            world.assert_alive(client).await;
        }
    }
    // The server speaks first to those that have given theirs back, twice in a row, and closes them.
    for &client in &clients {
        let key = world.key(client);
        world.clients[client].session.release_buffers();
        world.clients[client].received.clear();
        world.endpoint.send(key, b"one").unwrap();
        world.endpoint.send(key, b"two").unwrap();
    }
    world
        .run_until("all told", |world| {
            world
                .clients
                .iter()
                .all(|client| client.received == [b"one", b"two"])
        })
        .await;
    world.endpoint.close_all(Instant::now());
    world
        .run_until("all closed", |world| {
            world
                .clients
                .iter()
                .all(|client| matches!(client.error, Some(DtlsError::PeerClosed)))
        })
        .await;
}
