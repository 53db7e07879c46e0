//! How associations begin, are taken over and end, for every pair of DTLS backends, over an in-memory network.
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

use std::time::{Duration, Instant};

use dtls_common::Pair;
use dtls_common::pki::{self, SERVER_NAME};
use dtls_common::world::{Setup, World};
use tsc_osaa::dtls::{
    DtlsClientConfig, DtlsError, DtlsEvent, DtlsOptions, DtlsSendError, DtlsState,
};

for_all_pairs!(
    abandoned_handshakes_end_by_deadline,
    hello_from_a_living_address_changes_nothing,
    new_handshake_from_a_living_address_takes_over,
    client_closes,
    server_closes,
    closing_delivers_what_was_sent_before,
    many_clients_at_once,
    an_association_moves_to_the_endpoint_of_another_worker,
);

async fn an_association_moves_to_the_endpoint_of_another_worker(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.connect().await;
    world.assert_alive(client).await;
    let address = world.clients[client].address;
    let key = world.key(client);
    let moved = world.endpoint.detach(key).unwrap();
    assert_eq!(moved.peer(), address);
    assert_eq!(world.endpoint.find(address), None);
    assert_eq!(world.endpoint.stats().associations, 0);
    assert!(world.endpoint.detach(key).is_none());

    // Two endpoints of one configuration: the other world's takes the place of this one's.
    world.use_endpoint_of(World::new(pair));
    let key = world.endpoint.attach(moved).unwrap();
    assert_eq!(world.endpoint.find(address), Some(key));
    assert_eq!(world.endpoint.stats().associations, 1);
    assert!(
        world.endpoint.poll_event().is_none(),
        "it was told of where it came from"
    );
    world.assert_alive(client).await;
    assert!(world.ended.is_empty(), "{:?}", world.ended);
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
        Some(DtlsEvent::Closed(DtlsError::HandshakeTimeout))
    ));
    assert_eq!(session.poll_timeout(), None);
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
