//! DTLS sessions are resumed: what it saves, and where it must not be. Time and keys: `src/dtls/openssl/tests.rs`.
#![cfg(feature = "dtls-openssl")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]

mod dtls_common;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use dtls_common::Pair;
use dtls_common::pki::{self, PKI, Purpose, SERVER_NAME};
use dtls_common::world::{Conditions, Setup, World};
use tsc_osaa::cert::{ClientAuth, ClientSecurity, HelloOptions, Trust};
#[cfg(feature = "dtls-webrtc")]
use tsc_osaa::dtls::Alert;
use tsc_osaa::dtls::{DtlsBackendKind, DtlsError, DtlsInfo, DtlsOptions};

const OPENSSL: Pair = Pair {
    client: DtlsBackendKind::OpenSsl,
    server: DtlsBackendKind::OpenSsl,
};

/// Types of handshake messages, RFC 5246 section 7.4 and RFC 5077 section 3.3.
const SERVER_HELLO: u8 = 2;
const NEW_SESSION_TICKET: u8 = 4;
const CERTIFICATE: u8 = 11;

/// What a connection was like.
struct Made {
    client: DtlsInfo,
    server: DtlsInfo,
    /// How often the client has waited for an answer before it could send.
    round_trips: usize,
    /// Bytes of both directions until then.
    bytes: usize,
    /// Types of the messages in clear of the server.
    said: Vec<u8>,
    address: SocketAddr,
}

async fn connect(world: &mut World, security: &ClientSecurity) -> Made {
    connect_to(world, security, SERVER_NAME).await
}

async fn connect_to(world: &mut World, security: &ClientSecurity, name: &str) -> Made {
    let before = world.sent.len();
    let index = world.add_client(security, name);
    let mut until_client = None;
    let address = world.clients[index].address;
    world
        .run_until("connected", |world| {
            let client = &world.clients[index];
            assert!(client.error.is_none(), "client: {:?}", client.error);
            if client.info.is_some() {
                until_client.get_or_insert(world.sent.len());
            }
            client.info.is_some() && world.endpoint.find(address).is_some()
        })
        .await;
    world.assert_alive(index).await;
    let sent = &world.sent[before..until_client.unwrap()];
    // Without what the client has sent last: nobody waits for that.
    let round_trips = sent
        .windows(2)
        .filter(|pair| pair[0].0 && !pair[1].0)
        .count();
    let made = Made {
        client: world.clients[index].info.take().unwrap(),
        server: world.connected.pop().unwrap().2,
        round_trips,
        bytes: sent.iter().map(|(.., datagram)| datagram.len()).sum(),
        said: sent
            .iter()
            .filter(|(to_server, ..)| !to_server)
            .flat_map(|(.., datagram)| messages(datagram))
            .collect(),
        address,
    };
    assert_eq!(made.client.resumed, made.server.resumed);
    made
}

/// Types of the handshake messages in clear of a datagram.
fn messages(datagram: &[u8]) -> Vec<u8> {
    let mut found = Vec::new();
    let mut rest = datagram;
    while rest.len() > 13 {
        let length = usize::from(u16::from_be_bytes([rest[11], rest[12]]));
        if rest[0] == 22 && rest[3..5] == [0, 0] {
            found.push(rest[13]);
        }
        rest = &rest[13 + length..];
    }
    found
}

#[tokio::test]
async fn the_next_connection_waits_for_one_answer_less() {
    let mut world = World::new(OPENSSL);
    let security = pki::client_security(None);
    let first = connect(&mut world, &security).await;
    assert!(!first.client.resumed);
    assert_eq!(first.round_trips, 3);
    assert!(first.said.contains(&CERTIFICATE) && first.said.contains(&NEW_SESSION_TICKET));
    for resumed in 1..=3 {
        let next = connect(&mut world, &security).await;
        assert!(next.client.resumed);
        assert_eq!(next.round_trips, 2);
        assert!(next.said.contains(&SERVER_HELLO) && !next.said.contains(&CERTIFICATE));
        assert!(next.bytes < first.bytes, "{} {}", next.bytes, first.bytes);
        // Nobody has shown a certificate; who it is was verified the first time.
        assert_eq!(next.client.peer, first.client.peer);
        assert_eq!(next.client.cipher, first.client.cipher);
        assert!(next.client.peer.is_some() && next.client.alpn && next.server.alpn);
        assert!(next.server.peer.is_none());
        assert_eq!(world.endpoint.stats().resumed, resumed);
    }
}

#[tokio::test]
async fn all_workers_and_ports_of_a_server_take_the_same_tickets() {
    let server = pki::server_security(&PKI.server, ClientAuth::None);
    let security = pki::client_security(None);
    for resumed in [false, true, true] {
        let mut setup = Setup::new(OPENSSL);
        setup.server = server.clone();
        let made = connect(&mut setup.build(), &security).await;
        assert_eq!(made.client.resumed, resumed);
    }
}

#[tokio::test]
async fn a_server_that_was_restarted_makes_a_full_handshake() {
    let security = pki::client_security(None);
    let mut before = World::new(OPENSSL);
    connect(&mut before, &security).await;
    assert!(connect(&mut before, &security).await.client.resumed);
    let mut after = World::new(OPENSSL);
    let made = connect(&mut after, &security).await;
    assert!(!made.client.resumed);
    assert_eq!(made.round_trips, 3);
    assert!(connect(&mut after, &security).await.client.resumed);
    // The one before is remembered no more.
    assert!(!connect(&mut before, &security).await.client.resumed);
}

#[tokio::test]
async fn clients_that_are_asked_who_they_are_get_no_tickets() {
    let alice = pki::client_security(Some(&PKI.client));
    let nobody = pki::client_security(None);
    let roots = || PKI.ca.roots();
    for (rule, client) in [
        (ClientAuth::Required(roots()), &alice),
        (ClientAuth::Optional(roots()), &alice),
        (ClientAuth::Optional(roots()), &nobody),
    ] {
        let mut setup = Setup::new(OPENSSL);
        setup.server = pki::server_security(&PKI.server, rule);
        let mut world = setup.build();
        for _ in 0..2 {
            let made = connect(&mut world, client).await;
            assert!(!made.client.resumed);
            assert!(!made.said.contains(&NEW_SESSION_TICKET));
            assert_eq!(made.server.peer.is_some(), client.identity().is_some());
        }
    }
}

#[tokio::test]
async fn a_session_serves_the_name_and_the_settings_that_it_was_made_with() {
    let mut world = World::new(OPENSSL);
    let security = pki::client_security(None);
    connect(&mut world, &security).await;
    let resumed = async |world: &mut World, security: &ClientSecurity, name| {
        connect_to(world, security, name).await.client.resumed
    };
    assert!(resumed(&mut world, &security.clone(), SERVER_NAME).await);
    // The certificate has this name, too, but it was not asked for.
    assert!(!resumed(&mut world, &security, "127.0.0.1").await);
    assert!(resumed(&mut world, &security, "127.0.0.1").await);
    assert!(resumed(&mut world, &security, SERVER_NAME).await);

    let trusting = ClientSecurity::new(Trust::DangerousNone, None).unwrap();
    assert!(!resumed(&mut world, &trusting, SERVER_NAME).await);
    let same = pki::client_security(None);
    assert!(!resumed(&mut world, &same, SERVER_NAME).await);
    let shy = HelloOptions {
        sni: false,
        ..HelloOptions::default()
    };
    assert!(!resumed(&mut world, &security.clone().with_hello(shy), SERVER_NAME).await);
    assert!(resumed(&mut world, &security, SERVER_NAME).await);

    // Whoever trusts other authorities refuses the server still.
    let roots = Trust::Roots(PKI.other_ca.roots());
    let other = ClientSecurity::new(roots, None).unwrap();
    let index = world.add_client(&other, SERVER_NAME);
    world
        .run_until("refused", |world| world.clients[index].error.is_some())
        .await;
    assert!(matches!(
        world.clients[index].error,
        Some(DtlsError::Certificate(_))
    ));
}

#[tokio::test]
async fn either_end_can_do_without() {
    let security = pki::client_security(None);
    let mut setup = Setup::new(OPENSSL);
    setup.options.resumption = false;
    let mut world = setup.build();
    for _ in 0..2 {
        let made = connect(&mut world, &security).await;
        assert!(!made.client.resumed && !made.said.contains(&NEW_SESSION_TICKET));
    }
    // A client that does not want to offers nothing, and is not sent anything to offer.
    let mut world = World::new(OPENSSL);
    connect(&mut world, &security).await;
    let options = DtlsOptions {
        resumption: false,
        ..DtlsOptions::default()
    };
    let index = world.add_client_with(&options, &security, SERVER_NAME);
    world.until_connected(index).await;
    assert!(!world.clients[index].info.as_ref().unwrap().resumed);
}

#[tokio::test]
async fn resumption_copes_with_a_bad_network() {
    for seed in 1..=12 {
        let mut world = World::new(OPENSSL);
        let security = pki::client_security(None);
        connect(&mut world, &security).await;
        world.seed(seed);
        world.conditions = Conditions {
            loss: 0.25,
            duplication: 0.2,
            reordering: 0.2,
        };
        let index = world.add_client(&security, SERVER_NAME);
        world.until_connected(index).await;
        assert!(
            world.clients[index].info.as_ref().unwrap().resumed,
            "{seed}"
        );
        world.assert_alive(index).await;
    }
}

#[tokio::test]
async fn a_client_repeats_its_last_flight_when_the_server_asks_for_it() {
    let mut world = World::new(OPENSSL);
    let security = pki::client_security(None);
    connect(&mut world, &security).await;
    let index = world.add_client(&security, SERVER_NAME);
    let address = world.clients[index].address;
    while world.clients[index].info.is_none() {
        world.tick().await;
    }
    // Its ChangeCipherSpec and Finished; and data that goes without them.
    world.drop_what_is_on_the_wire();
    assert_eq!(world.endpoint.find(address), None);
    world.echo = true;
    world.clients[index].session.send(b"early").unwrap();
    world
        .run_until("repeated", |world| {
            world.clients[index].received == [b"early".to_vec()]
        })
        .await;
    assert_eq!(world.endpoint.stats().resumed, 1);
}

/// OpenSSL then repeats a message that it has kept with a pointer to a session which it has given up meanwhile. What is read
/// there shows under valgrind.
#[tokio::test]
async fn a_hello_is_repeated_after_its_session_was_declined() {
    let security = pki::client_security(None);
    connect(&mut World::new(OPENSSL), &security).await;
    let mut world = World::new(OPENSSL);
    let index = world.add_client(&security, SERVER_NAME);
    let is_answer = |(to_server, _, datagram): &(bool, SocketAddr, Vec<u8>)| {
        !to_server && messages(datagram).contains(&SERVER_HELLO)
    };
    world
        .run_until("answered", |world| world.sent.iter().any(is_answer))
        .await;
    // Of the answer only the first record arrives: no session is resumed.
    world.drop_what_is_on_the_wire();
    let answer = world.sent.iter().find(|sent| is_answer(sent)).unwrap();
    let answer = answer.2.clone();
    let length = usize::from(u16::from_be_bytes([answer[11], answer[12]]));
    assert_eq!(messages(&answer[..13 + length]), [SERVER_HELLO]);
    world.inject_to_client(index, &answer[..13 + length]);
    world.until_connected(index).await;
    assert!(!world.clients[index].info.as_ref().unwrap().resumed);
    let hellos = world
        .sent
        .iter()
        .filter(|(to_server, _, datagram)| *to_server && messages(datagram) == [1]);
    assert!(hellos.count() >= 3, "nothing was repeated");
}

#[tokio::test]
async fn a_ticket_that_was_changed_is_no_ticket() {
    let server = pki::server_security(&PKI.server, ClientAuth::None);
    let mut setup = Setup::new(OPENSSL);
    setup.server = server.clone();
    let mut world = setup.build();
    let security = pki::client_security(None);
    connect(&mut world, &security).await;
    let made = connect(&mut world, &security).await;
    assert!(made.client.resumed);
    // The hello with the cookie. Another worker of the server takes it from this address, too.
    let hello = world
        .sent
        .iter()
        .rfind(|(to_server, from, datagram)| {
            *to_server && *from == made.address && messages(datagram) == [1]
        })
        .unwrap()
        .2
        .clone();
    let ticket = Hello::parse(&hello).ticket;
    let said = |hello: &[u8]| {
        let mut setup = Setup::new(OPENSSL);
        setup.server = server.clone();
        let mut world = setup.build();
        world.inject(made.address, hello);
        assert_eq!(world.endpoint.stats().half_open, 1);
        world
            .sent
            .iter()
            .flat_map(|(.., datagram)| messages(datagram))
            .collect::<Vec<_>>()
    };
    // As it was it would resume; who replays it cannot finish what it begins.
    assert!(!said(&hello).contains(&CERTIFICATE));
    // The key's name, the nonce, the session, the tag.
    for at in [0, 15, 16, 40, ticket.len() - 32, ticket.len() - 1] {
        let mut changed = ticket.clone();
        changed[at] ^= 1;
        let said = said(&with_ticket(&hello, &changed));
        assert!(said.contains(&CERTIFICATE), "{at}: {said:?}");
    }
    let long = [&ticket[..], &[0; 4_000]].concat();
    for length in [
        0,
        1,
        15,
        16,
        17,
        32,
        48,
        64,
        80,
        ticket.len() - 1,
        500,
        4_000,
    ] {
        let said = said(&with_ticket(&hello, &long[..length]));
        assert!(said.contains(&CERTIFICATE), "{length}: {said:?}");
    }
}

/// Where things are in a ClientHello that is a datagram of its own.
struct Hello {
    /// Of the length of all extensions.
    extensions: usize,
    /// Of the extension that carries the ticket.
    at: usize,
    ticket: Vec<u8>,
}

impl Hello {
    fn parse(hello: &[u8]) -> Self {
        let length = |at: usize| usize::from(hello[at]) << 8 | usize::from(hello[at + 1]);
        // Headers, version and random; session id, cookie; suites; compressions.
        let mut at = 13 + 12 + 2 + 32;
        at += 1 + usize::from(hello[at]);
        at += 1 + usize::from(hello[at]);
        at += 2 + length(at);
        at += 1 + usize::from(hello[at]);
        let extensions = at;
        at += 2;
        while length(at) != 35 {
            at += 4 + length(at + 2);
        }
        Self {
            extensions,
            at,
            ticket: hello[at + 4..at + 4 + length(at + 2)].to_vec(),
        }
    }
}

/// The hello with another ticket, and all lengths as they have to be.
fn with_ticket(hello: &[u8], ticket: &[u8]) -> Vec<u8> {
    let parts = Hello::parse(hello);
    let rest = &hello[parts.at + 4 + parts.ticket.len()..];
    let mut out = hello[..parts.at + 2].to_vec();
    out.extend((ticket.len() as u16).to_be_bytes());
    out.extend(ticket);
    out.extend(rest);
    let total = out.len();
    let mut set = |at: usize, length: usize| {
        out[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    };
    set(11, total - 13);
    // Of the message, and of its only fragment.
    set(13 + 2, total - 25);
    set(13 + 10, total - 25);
    set(parts.extensions, total - parts.extensions - 2);
    out
}

#[tokio::test]
async fn a_hello_with_a_session_fits_a_datagram_or_goes_without() {
    let labels = ["a", "b", "c"].map(|letter| letter.repeat(63)).join(".");
    let long = format!("{labels}.{}", "d".repeat(61));
    assert_eq!(long.len(), 253);
    for (name, resumed) in [(SERVER_NAME, true), (&long, false)] {
        let leaf = PKI.ca.leaf(Purpose::Server, |params| {
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
        });
        let mut setup = Setup::new(OPENSSL);
        setup.server = pki::server_security(&leaf, ClientAuth::None);
        let mut world = setup.build();
        let security = pki::client_security(None);
        let options = DtlsOptions {
            mtu: 548,
            ..DtlsOptions::default()
        };
        for connection in 0..3 {
            let index = world.add_client_with(&options, &security, name);
            world.until_connected(index).await;
            let info = world.clients[index].info.as_ref().unwrap();
            assert_eq!(info.resumed, resumed && connection > 0, "{name}");
            assert_eq!(info.peer.as_ref().unwrap().common_name(), Some("server"));
        }
        assert_eq!(world.endpoint.stats().malformed, 0, "a hello in fragments");
        let mut hellos = world.sent.iter().filter(|(to_server, ..)| *to_server);
        assert!(hellos.all(|(.., datagram)| datagram.len() <= 548));
    }
}

#[tokio::test]
async fn an_offer_that_came_to_nothing_is_not_made_again_unless_nobody_answered() {
    let mut world = World::new(OPENSSL);
    let security = pki::client_security(None);
    connect(&mut world, &security).await;
    let options = DtlsOptions {
        handshake_timeout: Duration::from_millis(200),
        ..DtlsOptions::default()
    };
    let failed = async |world: &mut World, index: usize| {
        world.conditions.loss = 1.0;
        world
            .run_until("given up", |world| world.clients[index].error.is_some())
            .await;
        world.conditions.loss = 0.0;
    };
    // The network was silent.
    world.conditions.loss = 1.0;
    let index = world.add_client_with(&options, &security, SERVER_NAME);
    failed(&mut world, index).await;
    assert!(connect(&mut world, &security).await.client.resumed);

    // Another attempt was there first, and this one is given up in the middle.
    let index = world.add_client_with(&options, &security, SERVER_NAME);
    let sent = world.sent.len();
    world
        .run_until("answered", |world| {
            world.sent[sent..].iter().filter(|sent| sent.0).count() == 2
        })
        .await;
    world.clients[index].session.close(Instant::now());
    assert!(connect(&mut world, &security).await.client.resumed);

    // The server has answered, and then no more.
    let index = world.add_client_with(&options, &security, SERVER_NAME);
    let sent = world.sent.len();
    world
        .run_until("answered", |world| {
            world.sent[sent..].iter().filter(|sent| sent.0).count() == 2
        })
        .await;
    world.drop_what_is_on_the_wire();
    failed(&mut world, index).await;
    assert!(!connect(&mut world, &security).await.client.resumed);
    assert!(connect(&mut world, &security).await.client.resumed);
}

/// Neither resumes, and each does something else with a session that is not its own.
#[cfg(feature = "dtls-dimpl")]
#[tokio::test]
async fn a_server_may_change_to_dimpl() {
    let security = pki::client_security(None);
    connect(&mut World::new(OPENSSL), &security).await;
    let mut world = World::new(Pair {
        server: DtlsBackendKind::Dimpl,
        ..OPENSSL
    });
    for _ in 0..2 {
        assert!(!connect(&mut world, &security).await.client.resumed);
    }
}

#[cfg(feature = "dtls-webrtc")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_change_to_webrtc() {
    let security = pki::client_security(None);
    connect(&mut World::new(OPENSSL), &security).await;
    let mut world = World::new(Pair {
        server: DtlsBackendKind::WebRtc,
        ..OPENSSL
    });
    // It says that it cannot, and the next attempt goes without.
    let index = world.add_client(&security, SERVER_NAME);
    world
        .run_until("refused", |world| world.clients[index].error.is_some())
        .await;
    assert!(matches!(
        world.clients[index].error,
        Some(DtlsError::Alert(Alert::HANDSHAKE_FAILURE))
    ));
    assert!(!connect(&mut world, &security).await.client.resumed);
}
