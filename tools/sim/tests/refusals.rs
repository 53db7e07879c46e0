//! Refusals: each has its reason, and the client draws the right conclusion.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tsc_csm::client::{AddressWish, AttemptFailure, ClientConfig, DownReason};
use tsc_csm::server::pool::Family;
use tsc_csm::server::{AuthPolicy, Identity, ServerConfig, TokenVerifier};
use tsc_csm::{Secret, Transport};
use tsc_sim::{ClientId, PathConfig, ServerId, Setup, World, client_config, server_config};
use tsc_tpl::ResponseCode;

struct Tokens;

impl TokenVerifier for Tokens {
    fn verify(&self, token: &[u8]) -> Option<Identity> {
        (token == b"open sesame").then(|| Identity::new("ali"))
    }
}

fn run(server: ServerConfig, client: ClientConfig) -> (World, ServerId, ClientId) {
    let mut world = World::new(2);
    let server = world.add_server(server);
    let client = world.add_client(client, PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(2));
    (world, server, client)
}

#[track_caller]
fn assert_refused(world: &World, client: ClientId, code: ResponseCode) {
    match world.down_reason(client) {
        Some(DownReason::CannotConnect(AttemptFailure::Refused(refusal))) => {
            assert_eq!(refusal.code, code)
        }
        other => panic!(
            "not refused with {code}: {other:?}, {:?}",
            world.events(client)
        ),
    }
}

fn with_token(transport: Transport, token: &[u8]) -> ClientConfig {
    let mut config = client_config(&[transport]);
    config.auth_token = Some(Secret::new(token));
    config
}

fn token_server() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].auth = AuthPolicy::Token(Arc::new(Tokens));
    config
}

#[test]
fn the_right_token_opens_and_a_wrong_or_missing_one_is_not_authorized() {
    for transport in [Transport::Tls, Transport::Dtls] {
        let (world, _, client) = run(token_server(), with_token(transport, b"open sesame"));
        assert!(world.is_bound(client));
        let (world, server, client) = run(token_server(), with_token(transport, b"open barley"));
        assert_refused(&world, client, ResponseCode::NOT_AUTHORIZED);
        assert_eq!(
            world.server_stats(server).refused,
            1,
            "final: not tried again"
        );
        let (world, _, client) = run(token_server(), client_config(&[transport]));
        assert_refused(&world, client, ResponseCode::NOT_AUTHORIZED);
    }
}

#[test]
fn a_token_goes_over_a_clear_transport_only_if_both_ends_allow_it() {
    let mut allowing = token_server();
    allowing.interfaces[0].token_in_clear = true;
    let mut sending = with_token(Transport::Udp, b"open sesame");
    sending.token_in_clear = true;
    let (world, _, client) = run(allowing.clone(), sending.clone());
    assert!(world.is_bound(client));
    let (world, _, client) = run(token_server(), sending);
    assert_refused(&world, client, ResponseCode::NOT_AUTHORIZED);
    let (world, _, client) = run(allowing, with_token(Transport::Udp, b"open sesame"));
    assert_refused(&world, client, ResponseCode::NOT_AUTHORIZED);
}

#[test]
fn with_mutual_tls_only_certified_clients_come_in() {
    let mut config = server_config(9);
    config.interfaces[0].auth = AuthPolicy::Mtls;
    let mut world = World::new(2);
    let certificates = BTreeMap::from([(0, "alice".to_owned())]);
    let server = world.add_server_with(config, Setup { certificates });
    let alice = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    let nobody = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    let clear = world.add_client(client_config(&[Transport::Tcp]), PathConfig::CLEAN);
    for client in [alice, nobody, clear] {
        world.start(client);
    }
    world.run(Duration::from_secs(2));
    assert!(world.is_bound(alice));
    assert_refused(&world, nobody, ResponseCode::NOT_AUTHORIZED);
    assert_refused(&world, clear, ResponseCode::NOT_AUTHORIZED);
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn an_empty_pool_is_no_address() {
    let mut client = client_config(&[Transport::Tls]);
    client.connect_timeout = Duration::from_millis(300);
    client.addresses = vec![AddressWish {
        family: Family::Ipv6,
        count: 1,
    }];
    let (world, server, client) = run(server_config(9), client);
    assert_refused(&world, client, ResponseCode::NO_ADDRESS);
    assert_eq!(world.server_stats(server).sessions, 0);
}

#[test]
fn a_full_server_says_when_to_come_back_and_the_client_does() {
    let mut config = server_config(9);
    config.limits.tunnels = 1;
    config.limits.retry_after = Duration::from_secs(8);
    config.quarantine = Duration::ZERO;
    let mut world = World::new(2);
    let server = world.add_server(config);
    let first = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    // Both transports lead to the same busy host: neither may be tried sooner.
    let second = world.add_client(
        client_config(&[Transport::Tls, Transport::Dtls]),
        PathConfig::CLEAN,
    );
    world.start(first);
    world.run(Duration::from_secs(1));
    world.start(second);
    world.run(Duration::from_secs(5));
    assert!(!world.is_bound(second));
    // The second was begun beside the first, and closed when that one was told.
    let begun = world.attempts(second).len();
    assert!(begun <= 2, "{begun}");
    assert_eq!(world.server_stats(server).refused, 1);
    world.release(first, Duration::from_secs(1));
    world.run(Duration::from_secs(9));
    assert!(world.is_bound(second), "{:?}", world.events(second));
    let attempts = world.attempts(second);
    let waited = attempts[begun].0 - attempts[0].0;
    assert!(
        waited >= Duration::from_secs(8) && waited <= Duration::from_millis(12_200),
        "{waited:?}"
    );
    assert_eq!(world.server_stats(server).sessions, 1);
}

#[test]
fn a_wait_beyond_the_time_for_connecting_is_said_at_once() {
    let mut config = server_config(9);
    config.limits.tunnels = 0;
    config.limits.retry_after = Duration::from_secs(300);
    let (world, _, client) = run(config, client_config(&[Transport::Tls]));
    assert_refused(&world, client, ResponseCode::NO_RESOURCES);
    match world.down_reason(client) {
        Some(DownReason::CannotConnect(AttemptFailure::Refused(refusal))) => {
            assert_eq!(refusal.retry_after, Some(Duration::from_secs(300)));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stopping_server_takes_no_new_tunnels() {
    let mut world = World::new(2);
    let server = world.add_server(server_config(9));
    world.stop_server(server, "maintenance");
    let stream = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    let mut config = client_config(&[Transport::Udp]);
    config.connect_timeout = Duration::from_secs(4);
    let datagram = world.add_client(config, PathConfig::CLEAN);
    world.start(stream);
    world.start(datagram);
    world.run(Duration::from_secs(5));
    assert!(!world.is_bound(stream));
    assert_refused(&world, datagram, ResponseCode::BUSY);
}
