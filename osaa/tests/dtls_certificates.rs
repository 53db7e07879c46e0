//! Certificates of both ends, for every pair of DTLS backends, over an in-memory network.
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

use dtls_common::Pair;
use dtls_common::pki::{self, Leaf, PKI, Purpose, SERVER_NAME};
use dtls_common::world::{Setup, World};
use tsc_osaa::cert::{
    CertificateError, ClientAuth, ClientSecurity, Identity, ServerSecurity, Trust,
};
use tsc_osaa::dtls::{
    DtlsBackendKind, DtlsClientConfig, DtlsConfigError, DtlsError, DtlsOptions, DtlsServerConfig,
};

for_all_pairs!(
    required_client_certificate,
    optional_client_certificate,
    client_certificate_not_asked_for,
    bad_server_certificates_are_refused,
    bad_client_certificates_are_refused,
    verification_can_be_switched_off,
    one_certificate_and_no_other_by_its_fingerprint,
    server_is_found_by_address,
    rsa_server_certificate,
    ed25519_certificates,
    chain_with_an_intermediate_authority,
    sec1_key,
);

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
    if pair.client == DtlsBackendKind::Dimpl {
        return expect_that_it_gives_up(&mut world, client).await;
    }
    expect_refusal_by_server(&mut world, client, |error| {
        matches!(error, CertificateError::Missing)
    })
    .await;
}

/// `dimpl` cannot say that it has no certificate: both ends are told.
async fn expect_that_it_gives_up(world: &mut World, client: usize) {
    world
        .run_until("given up at both ends", |world| {
            world.clients[client].error.is_some() && !world.ended.is_empty()
        })
        .await;
    let error = world.clients[client].error.as_ref().unwrap();
    assert!(matches!(error, DtlsError::Alert(_)), "{error:?}");
    let told = &world.ended[0].1;
    assert!(matches!(told, DtlsError::Alert(_)), "{told:?}");
}

async fn optional_client_certificate(pair: Pair) {
    let security = pki::server_security(&PKI.server, ClientAuth::Optional(PKI.ca.roots()));
    if pair.server == DtlsBackendKind::Dimpl {
        let refused = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::Unsupported {
                backend: DtlsBackendKind::Dimpl,
                ..
            })
        ));
        return;
    }
    let setup = || {
        let mut setup = Setup::new(pair);
        setup.server = security.clone();
        setup.build()
    };
    let mut world = setup();
    let with = world.add_client(&pki::client_security(Some(&PKI.client)), SERVER_NAME);
    world.until_connected(with).await;
    if pair.client == DtlsBackendKind::Dimpl {
        let without = world.add_client(&pki::client_security(None), SERVER_NAME);
        return expect_that_it_gives_up(&mut world, without).await;
    }
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

/// Both ends have a certificate that nobody has signed, and have been told the other's.
async fn one_certificate_and_no_other_by_its_fingerprint(pair: Pair) {
    let (near, far) = (
        Identity::self_signed().unwrap(),
        Identity::self_signed().unwrap(),
    );
    assert_ne!(near.fingerprint(), far.fingerprint());
    let setup = |wanted: [u8; 32]| {
        let mut setup = Setup::new(pair);
        let auth = ClientAuth::Fingerprint(wanted);
        setup.server = ServerSecurity::new(far.clone(), auth).unwrap();
        setup.build()
    };
    let client = |wanted: [u8; 32]| {
        ClientSecurity::new(Trust::Fingerprint(wanted), Some(near.clone())).unwrap()
    };
    let mut world = setup(near.fingerprint());
    let right = world.add_client(&client(far.fingerprint()), "192.0.2.1");
    world.until_connected(right).await;
    world.assert_alive(right).await;
    let peer = world.connected[0].2.peer.as_ref().unwrap();
    assert_eq!(*peer.fingerprint(), near.fingerprint());

    let mut world = setup(far.fingerprint());
    let wrong = world.add_client(&client(far.fingerprint()), "192.0.2.1");
    expect_refusal_by_server(&mut world, wrong, |_| true).await;

    let mut world = setup(near.fingerprint());
    let deceived = world.add_client(&client(near.fingerprint()), "192.0.2.1");
    world
        .run_until("refused by the client", |world| {
            world.clients[deceived].error.is_some()
        })
        .await;
    let error = world.clients[deceived].error.as_ref().unwrap();
    assert!(matches!(error, DtlsError::Certificate(_)), "{error:?}");
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
    if pair.server != DtlsBackendKind::OpenSsl {
        let refused = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::UnsupportedKey { backend, .. }) if backend == pair.server
        ));
        return;
    }
    let mut setup = Setup::new(pair);
    setup.server = pki::server_security(&leaf, ClientAuth::None);
    let mut world = setup.build();
    if pair.client == DtlsBackendKind::Dimpl {
        // It offers nothing that an RSA key could do.
        let client = world.add_client(&pki::client_security(None), SERVER_NAME);
        world
            .run_until("refused", |world| world.clients[client].error.is_some())
            .await;
        let error = world.clients[client].error.as_ref().unwrap();
        assert!(matches!(error, DtlsError::Alert(_)), "{error:?}");
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
    if pair.server != DtlsBackendKind::WebRtc {
        let refused = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::UnsupportedKey { backend, .. }) if backend == pair.server
        ));
        setup.server = pki::server_security(&PKI.server, client_auth());
    } else {
        setup.server = security;
    }
    let security = pki::client_security(Some(&leaf(Purpose::Client)));
    if pair.client == DtlsBackendKind::Dimpl {
        let refused = DtlsClientConfig::new(pair.client, &security, &DtlsOptions::default());
        assert!(matches!(
            refused,
            Err(DtlsConfigError::UnsupportedKey { backend, .. }) if backend == pair.client
        ));
        return;
    }
    let mut world = setup.build();
    if pair.server == DtlsBackendKind::Dimpl {
        // It can neither verify nor ask for it: the client has nothing to show, or is refused.
        let client = world.add_client(&security, SERVER_NAME);
        world
            .run_until("refused", |world| world.clients[client].error.is_some())
            .await;
        assert!(world.connected.is_empty());
        return;
    }
    let client = world.add_client(&security, SERVER_NAME);
    world.until_connected(client).await;
    world.assert_alive(client).await;
}

async fn chain_with_an_intermediate_authority(pair: Pair) {
    // Each end shows one, and each must find the way up to the authority.
    let client_auth = ClientAuth::Required(PKI.ca.roots());
    let own = |kind, leaf: &Leaf, purpose| {
        if kind == DtlsBackendKind::Dimpl {
            leaf.clone()
        } else {
            PKI.behind_an_intermediate(purpose)
        }
    };
    let mut setup = Setup::new(pair);
    let leaf = own(pair.server, &PKI.server, Purpose::Server);
    setup.server = pki::server_security(&leaf, client_auth.clone());
    // Fragments, which may come in any order.
    setup.options.mtu = 548;
    let mut world = setup.build();
    world.conditions.reordering = 0.3;
    let leaf = own(pair.client, &PKI.client, Purpose::Client);
    let client = world.add_client(&pki::client_security(Some(&leaf)), SERVER_NAME);
    world.until_connected(client).await;
    world.assert_alive(client).await;

    let security = pki::server_security(&PKI.behind_an_intermediate(Purpose::Server), client_auth);
    let config = DtlsServerConfig::new(pair.server, &security, &DtlsOptions::default());
    match config {
        Ok(_) => assert_ne!(pair.server, DtlsBackendKind::Dimpl),
        Err(error) => assert!(matches!(
            error,
            DtlsConfigError::Unsupported {
                backend: DtlsBackendKind::Dimpl,
                ..
            }
        )),
    }
}

async fn sec1_key(pair: Pair) {
    let mut setup = Setup::new(pair);
    setup.server = pki::server_security(&pki::sec1_leaf(), ClientAuth::None);
    let mut world = setup.build();
    let client = world.connect().await;
    world.assert_alive(client).await;
}
