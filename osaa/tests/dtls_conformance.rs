//! What every DTLS backend must do with data, losses, noise and misuse, for every pair of them, over an in-memory network.
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
use dtls_common::pki::{self, PKI, SERVER_NAME};
use dtls_common::world::{Conditions, Setup, World};
use tsc_osaa::cert::ClientAuth;
use tsc_osaa::dtls::{DtlsBackendKind, DtlsSendError, Opened, Opening};

for_all_pairs!(
    handshake_and_echo,
    all_sizes_keep_their_boundaries,
    lossy_network_connects,
    silent_hello_does_not_hold_up_others,
    garbage_is_harmless_at_every_stage,
    forged_clear_records_do_not_touch_an_association,
    replayed_records_are_dropped,
    misuse_is_a_typed_error,
    short_buffers_drop_whole_records,
    records_are_sealed_and_opened_in_place,
    data_that_overtakes_the_handshake_is_delivered_once,
    the_last_flight_comes_again_when_it_was_lost,
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
    if !pair.has(DtlsBackendKind::WebRtc) {
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

async fn records_are_sealed_and_opened_in_place(pair: Pair) {
    let mut world = World::new(pair);
    world.echo = false;
    let client = world.connect().await;
    let (address, key) = (world.clients[client].address, world.key(client));
    for length in [1, 200, 1_400, 8_000] {
        let data: Vec<u8> = (0..length).map(|i| i as u8).collect();
        // Up: the endpoint opens what the session has sealed.
        let session = &mut world.clients[client].session;
        let mut datagram = b"before".to_vec();
        let sealed = session.seal(&data, &mut datagram).unwrap();
        if pair.client == DtlsBackendKind::WebRtc {
            assert_eq!(
                (sealed, datagram.len()),
                (0, 6),
                "it comes by poll_transmit"
            );
        } else {
            let mut datagram = datagram.split_off(6);
            assert_eq!(datagram.len(), sealed);
            let mut again = datagram.clone();
            let opened = world.endpoint.open(address, &mut datagram);
            if pair.server == DtlsBackendKind::WebRtc {
                assert_eq!(opened, Opened::NotData);
                world.inject(address, &datagram);
            } else {
                let mut plaintext = data.clone();
                assert_eq!(opened, Opened::Data(key, &mut plaintext));
                assert_eq!(world.endpoint.open(address, &mut again), Opened::Dropped);
                assert_eq!(world.endpoint.recv(key, &mut [0; 16_384]), None, "once");
            }
        }
        // Down.
        let mut datagram = Vec::new();
        let sealed = world.endpoint.seal(key, &data, &mut datagram).unwrap();
        if let Some(transmit) = sealed {
            assert_eq!((transmit.peer, transmit.len), (address, datagram.len()));
            let session = &mut world.clients[client].session;
            let opening = session.open(&mut datagram);
            if pair.client == DtlsBackendKind::WebRtc {
                assert_eq!(opening, Opening::NotData);
            } else {
                let Opening::Data(range) = opening else {
                    panic!("{opening:?}");
                };
                assert_eq!(datagram[range], data);
            }
        } else {
            assert_eq!(pair.server, DtlsBackendKind::WebRtc);
        }
    }
    world.settle().await;
    world.clients[client].received.clear();
    world.assert_alive(client).await;
    assert!(world.ended.is_empty(), "{:?}", world.ended);
}

async fn data_that_overtakes_the_handshake_is_delivered_once(pair: Pair) {
    // webrtc-dtls drops it, as a network may.
    if pair.has(DtlsBackendKind::WebRtc) {
        return;
    }
    let mut world = World::new(pair);
    world.echo = false;
    let client = world.add_client(&pki::client_security(None), SERVER_NAME);
    let mut to_client = Vec::new();
    // By hand: the server's last flight is held back, and data sent after it.
    let key = loop {
        let mut datagram = Vec::new();
        let now = Instant::now();
        let address = world.clients[client].address;
        while world.clients[client]
            .session
            .poll_transmit(&mut datagram)
            .is_some()
        {
            let datagram = std::mem::take(&mut datagram);
            world.endpoint.handle_datagram(now, address, &datagram);
        }
        let connected = world.endpoint.find(address);
        while world.endpoint.poll_transmit(&mut datagram).is_some() {
            to_client.push(std::mem::take(&mut datagram));
        }
        if let Some(key) = connected {
            break key;
        }
        for datagram in to_client.drain(..) {
            world.clients[client]
                .session
                .handle_datagram(now, &datagram);
        }
    };
    let mut early = Vec::new();
    world.endpoint.seal(key, b"early", &mut early).unwrap();
    let now = Instant::now();
    let session = &mut world.clients[client].session;
    for _ in 0..2 {
        session.handle_datagram(now, &early);
    }
    let mut buf = [0; 100];
    assert_eq!(session.recv(&mut buf), None);
    for datagram in to_client.iter().chain([&early]) {
        session.handle_datagram(now, datagram);
    }
    assert_eq!(session.recv(&mut buf), Some(5));
    assert_eq!(buf[..5], *b"early");
    assert_eq!(session.recv(&mut buf), None);
}

async fn the_last_flight_comes_again_when_it_was_lost(pair: Pair) {
    let mut world = World::new(pair);
    let client = world.add_client(&pki::client_security(None), SERVER_NAME);
    world
        .run_until("up at the server", |world| {
            // All that the server says after it is up is lost; the client says its part again.
            let is_up = !world.connected.is_empty();
            world.conditions.loss = if is_up { 1.0 } else { 0.0 };
            is_up
        })
        .await;
    world.drop_what_is_on_the_wire();
    world.conditions = Conditions::default();
    world.until_connected(client).await;
    world.assert_alive(client).await;
    assert_eq!(world.endpoint.stats().started, 1);
}
