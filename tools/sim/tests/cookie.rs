//! Plain UDP: an address is proved before anything is kept for it (spec 8.2).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Bench, code};
use tsc_csm::Transport;
use tsc_csm::server::{DropReason, Verdict};
use tsc_sim::{LinkConfig, PathConfig, ServerId, World, client_config, server_config};
use tsc_tpl::{CmType, Cookie, MessageBuilder, ResponseCode, Sequence, Tlv, Tsid, registry};

const SECOND: Duration = Duration::from_secs(1);
const STRANGER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 99)),
    999,
);

fn request(cookie: Option<&[u8]>, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let cookie = cookie.map(|cookie| Tlv::Cookie(Cookie::new(cookie).unwrap()));
    MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(5))
        .tlv(Tlv::ProtocolRevision(1))
        .tlvs(cookie)
        .pad_to(length)
        .encode_datagram(&mut bytes)
        .unwrap();
    bytes
}

fn last_verdict(world: &World, server: ServerId) -> Verdict {
    world.verdicts(server).last().unwrap().1
}

#[test]
fn a_client_gets_a_cookie_first_and_then_its_tunnel() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    assert!(world.is_bound(client));
    let stats = world.server_stats(server);
    assert_eq!((stats.cookies, stats.configured), (1, 1));
}

#[test]
fn requests_without_a_cookie_leave_nothing_behind() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    for port in 1..500 {
        world.stranger(
            server,
            SocketAddr::new(STRANGER.ip(), port),
            request(None, 128),
        );
    }
    world.run(SECOND);
    let stats = world.server_stats(server);
    assert_eq!((stats.cookies, stats.sessions, stats.pending), (499, 0, 0));
    assert_eq!(
        world.server(server).poll_timeout(),
        None,
        "nothing waits for a stranger"
    );
}

#[test]
fn a_forged_cookie_is_as_good_as_none() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    world.stranger(server, STRANGER, request(Some(&[7; 21]), 200));
    world.stranger(server, STRANGER, request(Some(&[7; 64]), 200));
    world.run(SECOND);
    let stats = world.server_stats(server);
    assert_eq!((stats.cookies, stats.sessions, stats.refused), (2, 0, 0));
}

#[test]
fn short_requests_get_no_answer() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let short = request(None, 127);
    assert!(short.len() < registry::MIN_UNAUTHENTICATED_REQUEST);
    world.stranger(server, STRANGER, short);
    world.run(SECOND);
    assert_eq!(
        last_verdict(&world, server),
        Verdict::Dropped(DropReason::Stranger)
    );
    assert_eq!(world.server_stats(server).cookies, 0);
}

#[test]
fn a_request_that_breaks_rules_still_gets_only_a_cookie() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let mut bytes = request(None, 160);
    // A TSID that no Configuration_Request may carry.
    bytes[4..12].fill(0x11);
    world.stranger(server, STRANGER, bytes);
    world.run(SECOND);
    let stats = world.server_stats(server);
    assert_eq!((stats.cookies, stats.message_errors), (1, 0));
}

#[test]
fn keepalives_of_strangers_are_answered_with_22_bytes_and_nothing_else_is() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let message = |cm_type| {
        let mut bytes = Vec::new();
        MessageBuilder::new(cm_type, Tsid(77), Sequence(5))
            .encode_datagram(&mut bytes)
            .unwrap();
        bytes
    };
    world.stranger(server, STRANGER, message(CmType::KEEPALIVE));
    world.run(SECOND);
    assert_eq!(world.server_stats(server).unknown_tunnel, 1);
    let mut bench = Bench::new();
    let listener = bench
        .server
        .add_listener(0, ([203, 0, 113, 1], 5060).into());
    let keepalive = message(CmType::KEEPALIVE);
    let _ = bench
        .server
        .handle_unbound(bench.now, listener.unwrap(), STRANGER, &keepalive);
    let answer = bench.server.poll_transmit().unwrap().bytes;
    assert_eq!(answer.len(), 22);
    assert_eq!(
        (answer[1], &answer[4..16]),
        (CmType::KEEPALIVE_RESPONSE.0, &keepalive[4..])
    );
    assert_eq!(code(&answer), ResponseCode::UNKNOWN_TUNNEL);
    world.stranger(
        server,
        STRANGER,
        message(CmType::CONFIGURATION_RELEASE_REQUEST),
    );
    world.run(SECOND);
    assert_eq!(
        last_verdict(&world, server),
        Verdict::Dropped(DropReason::Stranger)
    );
    let ip = tsc_sim::packet::udp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), b"hello");
    world.stranger(server, STRANGER, ip);
    world.run(SECOND);
    assert_eq!(
        last_verdict(&world, server),
        Verdict::Dropped(DropReason::Stranger)
    );
}

#[test]
fn answers_to_strangers_are_limited_in_number() {
    let mut world = World::new(1);
    let mut config = server_config(9);
    config.limits.stateless_per_second = 50;
    let server = world.add_server(config);
    for port in 1..1000 {
        world.stranger(
            server,
            SocketAddr::new(STRANGER.ip(), port),
            request(None, 128),
        );
    }
    world.run(Duration::from_millis(1));
    let stats = world.server_stats(server);
    assert_eq!(stats.cookies, 50);
    assert_eq!(stats.rate_limited, 949);
}

#[test]
fn a_slow_client_outlives_the_change_of_a_slot() {
    // 7 s each way: made at 20 s, the cookie is in its second slot when it comes back at 34 s.
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    world.run(Duration::from_secs(13));
    let slow = LinkConfig {
        delay: Duration::from_secs(7),
        ..LinkConfig::CLEAN
    };
    let mut config = client_config(&[Transport::Udp]);
    config.attempt_timeout = Duration::from_secs(55);
    let client = world.add_client(config, PathConfig::both(slow));
    world.start(client);
    world.run(Duration::from_millis(20_900));
    let cookies = world.server_stats(server).cookies;
    assert_eq!(world.server_stats(server).sessions, 0);
    world.run(Duration::from_millis(200));
    assert_eq!(world.server_stats(server).sessions, 1);
    assert_eq!(world.server_stats(server).cookies, cookies);
    world.run(Duration::from_secs(20));
    assert!(world.is_bound(client), "{:?}", world.events(client));
}

#[test]
fn other_transports_need_no_cookie() {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut world = World::new(1);
        let server = world.add_server(server_config(9));
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        assert!(world.is_bound(client));
        assert_eq!(world.server_stats(server).cookies, 0);
    }
}
