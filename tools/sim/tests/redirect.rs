//! Redirects: where clients follow, and where they do not (spec 5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::time::Duration;

use tsc_csm::client::{AttemptFailure, ClientConfig, DownReason, Endpoint, Target};
use tsc_csm::server::{RedirectPolicy, ServerConfig};
use tsc_csm::{Alternate, Transport};
use tsc_sim::{ClientId, PathConfig, ServerId, World, client_config, server_config};

/// Where server `number` of the world is.
fn at(number: u8, transport: Transport) -> Alternate {
    Alternate {
        transport,
        address: ([203, 0, 113, number + 1], 5060).into(),
    }
}

fn redirecting(alternates: Vec<Alternate>) -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].redirect = RedirectPolicy::Always;
    config.interfaces[0].alternates = alternates;
    config
}

fn world(first: ServerConfig, client: ClientConfig) -> (World, ServerId, ClientId) {
    let mut world = World::new(5);
    world.add_server(first);
    let second = world.add_server(server_config(9));
    let client = world.add_client(client, PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(70));
    (world, second, client)
}

#[test]
fn a_protected_redirect_is_followed_and_keeps_the_name_of_the_first_server() {
    let config = client_config(&[Transport::Tls]);
    let (world, second, client) = world(redirecting(vec![at(1, Transport::Tls)]), config);
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(second).sessions, 1);
    let attempts = world.attempts(client);
    let address = at(1, Transport::Tls).address;
    let expected = Target {
        transport: Transport::Tls,
        endpoint: Endpoint::Address { address, origin: 0 },
    };
    assert_eq!(attempts[1].1, expected);
    assert_eq!(attempts[1].1.endpoint.origin(), 0);
    assert!(
        attempts[1].0 < Duration::from_secs(1),
        "a redirect is followed at once"
    );
}

#[test]
fn a_protected_client_is_not_redirected_to_a_clear_transport() {
    let config = client_config(&[Transport::Tls]);
    let (world, second, client) = world(redirecting(vec![at(1, Transport::Tcp)]), config);
    assert_eq!(
        world.down_reason(client),
        Some(&DownReason::CannotConnect(
            AttemptFailure::ForbiddenRedirect
        ))
    );
    assert_eq!(world.server_stats(second).sessions, 0);
    assert!(
        world
            .attempts(client)
            .iter()
            .all(|(_, target)| target.transport.is_protected())
    );
}

#[test]
fn a_clear_redirect_to_an_unknown_host_is_not_followed() {
    for transport in [Transport::Tcp, Transport::Udp] {
        let config = client_config(&[transport]);
        let (world, second, client) = world(redirecting(vec![at(1, transport)]), config);
        assert_eq!(
            world.down_reason(client),
            Some(&DownReason::CannotConnect(
                AttemptFailure::ForbiddenRedirect
            ))
        );
        assert_eq!(world.server_stats(second).configured, 0);
    }
}

#[test]
fn a_clear_redirect_to_a_configured_host_is_followed() {
    let mut config = client_config(&[Transport::Tcp]);
    config.known_hosts = vec![at(1, Transport::Tcp).address.ip()];
    let (world, second, client) = world(redirecting(vec![at(1, Transport::Tcp)]), config);
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(second).sessions, 1);
}

#[test]
fn a_client_that_opts_in_follows_clear_redirects_anywhere() {
    let mut config = client_config(&[Transport::Udp]);
    config.follow_clear_redirects = true;
    let (world, second, client) = world(redirecting(vec![at(1, Transport::Udp)]), config);
    assert!(world.is_bound(client));
    assert_eq!(world.server_stats(second).sessions, 1);
}

#[test]
fn a_circle_of_redirects_ends_after_four() {
    let mut world = World::new(5);
    for number in 0..6 {
        world.add_server(redirecting(vec![at((number + 1) % 6, Transport::Tls)]));
    }
    let mut config = client_config(&[Transport::Tls]);
    config.connect_timeout = Duration::from_secs(3);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_millis(1500));
    let visited: Vec<_> = world
        .attempts(client)
        .iter()
        .take(5)
        .map(|(_, target)| target.endpoint)
        .collect();
    let expected: Vec<_> = (1..5)
        .map(|number| Endpoint::Address {
            address: at(number, Transport::Tls).address,
            origin: 0,
        })
        .collect();
    assert_eq!(visited[1..], expected);
    world.run(Duration::from_secs(5));
    let down = world.down_reason(client);
    assert_eq!(
        down,
        Some(&DownReason::CannotConnect(AttemptFailure::TooManyRedirects))
    );
}

#[test]
fn a_full_server_redirects_only_when_it_is_full() {
    let mut world = World::new(5);
    let mut config = server_config(9);
    config.interfaces[0].redirect = RedirectPolicy::WhenFull;
    config.interfaces[0].alternates = vec![at(1, Transport::Tls)];
    config.interfaces[0].max_tunnels = 2;
    let first = world.add_server(config);
    let second = world.add_server(server_config(9));
    for _ in 0..4 {
        let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
        world.start(client);
        world.run(Duration::from_secs(1));
        assert!(world.is_bound(client));
    }
    assert_eq!(world.server_stats(first).sessions, 2);
    assert_eq!(world.server_stats(second).sessions, 2);
}

#[test]
fn a_dead_alternate_leads_back_to_the_first_server() {
    let mut world = World::new(5);
    let first = world.add_server(redirecting(vec![at(1, Transport::Tls)]));
    let second = world.add_server(server_config(9));
    world.set_server_up(second, false);
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(1));
    // The first server has no reason to send clients away any more.
    world.restart_server(first, server_config(9));
    world.run(Duration::from_secs(30));
    assert!(world.is_bound(client), "{:?}", world.events(client));
    assert_eq!(world.server_stats(first).sessions, 1);
}
