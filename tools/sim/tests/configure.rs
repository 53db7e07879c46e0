//! A tunnel comes up: what is asked for, what is given, over which transport.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_csm::client::{
    AddressWish, AttemptFailure, Client, ClientConfigError, DownReason, Epoch, Event,
    TransportFailure,
};
use tsc_csm::server::ServerConfig;
use tsc_csm::server::pool::{AddressRange, Family, PoolRange};
use tsc_csm::{Alternate, Secret, Transport};
use tsc_sim::{Firewall, LinkConfig, PathConfig, Rng, World, client_config, server_config};
use tsc_tpl::{
    CmType, Cookie, Limits, MessageBuilder, ResponseCode, Sequence, ServiceType, Tlv, Tsid, Unit,
};

const SECOND: Duration = Duration::from_secs(1);

/// A server whose pool has IPv6 addresses, too.
fn dual_stack() -> ServerConfig {
    let mut config = server_config(9);
    let v6 = AddressRange {
        first: "fd00::1".parse().unwrap(),
        last: "fd00::ff".parse().unwrap(),
    };
    config.pools[0].ranges.push(PoolRange {
        range: v6,
        prefix_len: 64,
    });
    config
}

#[test]
fn comes_up_on_a_clean_path_over_each_transport() {
    for transport in Transport::ALL {
        let mut world = World::new(1);
        let server = world.add_server(server_config(9));
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        let assignment = world
            .assignment(client)
            .unwrap_or_else(|| panic!("no tunnel over {transport}"));
        assert_eq!(assignment.transport, transport);
        assert_eq!(assignment.tsid.element_id(), 7);
        assert_eq!(assignment.addresses[0].address, IpAddr::from([10, 0, 0, 1]));
        assert_eq!(assignment.addresses[0].prefix_len, 24);
        assert_eq!(assignment.inner_mtu, 1400);
        let keepalive = if transport.is_stream() { 300 } else { 50 };
        assert_eq!(assignment.keepalive, Duration::from_secs(keepalive));
        assert_eq!(assignment.persistence, Duration::from_secs(330));
        assert_eq!(
            assignment.nat_view.unwrap().ip(),
            IpAddr::from([192, 0, 0, 1])
        );
        assert_eq!(world.server_stats(server).sessions, 1);
        let events: Vec<_> = world
            .events(client)
            .iter()
            .map(|(_, event)| event)
            .collect();
        assert!(
            matches!(events[..], [Event::Open { .. }, Event::Configured(_)]),
            "{events:?}"
        );
    }
}

#[test]
fn everything_the_interface_assigns_arrives() {
    let mut world = World::new(1);
    let mut config = server_config(9);
    let interface = &mut config.interfaces[0];
    let sip: SocketAddr = "10.1.0.1:5060".parse().unwrap();
    let sip6: SocketAddr = "[fd00::1]:5061".parse().unwrap();
    let dns: IpAddr = "10.1.0.53".parse().unwrap();
    let alternate = Alternate {
        transport: Transport::Tls,
        address: "203.0.113.77:443".parse().unwrap(),
    };
    interface.sip_servers = vec![sip6, sip];
    interface.dns_servers = vec![dns];
    interface.alternates = vec![alternate];
    interface.services = vec![ServiceType::ENABLE_REDUNDANCY];
    interface.dscp = Some(46);
    interface.inner_mtu = 1300;
    world.add_server(config);
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    let assignment = world.assignment(client).unwrap();
    assert_eq!(assignment.sip_servers, [sip6, sip]);
    assert_eq!(assignment.dns_servers, [dns]);
    assert_eq!(assignment.alternates, [alternate]);
    assert_eq!(assignment.services, [ServiceType::ENABLE_REDUNDANCY]);
    assert_eq!(assignment.dscp, Some(46));
    assert_eq!(assignment.inner_mtu, 1300);
}

#[test]
fn the_longest_configuration_fits_one_datagram() {
    let mut world = World::new(1);
    let mut config = dual_stack();
    let interface = &mut config.interfaces[0];
    let alternate = Alternate {
        transport: Transport::Dtls,
        address: "[2001:db8::1]:443".parse().unwrap(),
    };
    interface.sip_servers = vec!["[fd00::1]:5061".parse().unwrap(); 8];
    interface.dns_servers = vec!["fd00::53".parse().unwrap(); 8];
    interface.alternates = vec![alternate; 8];
    interface.services = vec![ServiceType::ENABLE_REDUNDANCY; 32];
    interface.max_addresses = 8;
    world.add_server(config);
    let mut config = client_config(&[Transport::Udp]);
    config.addresses = vec![AddressWish {
        family: Family::Ipv6,
        count: 8,
    }];
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    assert_eq!(world.assignment(client).unwrap().addresses.len(), 8);
}

#[test]
fn without_a_wish_each_family_of_the_pool_is_given_once() {
    let mut world = World::new(1);
    let config = dual_stack();
    world.add_server(config);
    let client = world.add_client(client_config(&[Transport::Tcp]), PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    let addresses = &world.assignment(client).unwrap().addresses;
    let expected: [IpAddr; 2] = [[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()];
    assert_eq!(
        addresses
            .iter()
            .map(|inner| inner.address)
            .collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn wishes_are_granted_as_far_as_there_is() {
    let mut world = World::new(1);
    let mut config = server_config(9);
    config.interfaces[0].max_addresses = 3;
    world.add_server(config);
    let mut config = client_config(&[Transport::Tcp]);
    config.addresses = vec![
        AddressWish {
            family: Family::Ipv6,
            count: 2,
        },
        AddressWish {
            family: Family::Ipv4,
            count: 200,
        },
    ];
    config.inner_mtu = Some(600);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    let assignment = world.assignment(client).unwrap();
    assert_eq!(assignment.addresses.len(), 3);
    assert_eq!(assignment.inner_mtu, 600);
}

#[test]
fn packets_travel_between_tunnels_over_all_pairs_of_transports() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let clients = Transport::ALL.map(|transport| {
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        client
    });
    world.run(SECOND);
    let addresses = clients.map(|client| world.assignment(client).unwrap().addresses[0].address);
    for client in clients {
        for address in addresses {
            assert!(world.send(client, address, address.to_string().as_bytes()));
        }
    }
    world.run(SECOND);
    for (client, address) in clients.into_iter().zip(addresses) {
        let received: Vec<_> = world
            .received(client)
            .iter()
            .map(|(_, payload)| payload.clone())
            .collect();
        assert_eq!(received, vec![address.to_string().into_bytes(); 4]);
    }
    assert_eq!(world.server_stats(server).forwarded, 16);
}

#[test]
fn a_silent_server_is_given_up_after_the_time_for_connecting() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    world.set_server_up(server, false);
    let mut config = client_config(&[Transport::Udp]);
    config.connect_timeout = Duration::from_secs(45);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(60));
    assert_eq!(
        world.down_reason(client),
        Some(&DownReason::CannotConnect(AttemptFailure::NoAnswer))
    );
    let at = world.events(client).last().unwrap().0;
    assert!(
        at <= Duration::from_secs(45) && at > Duration::from_secs(35),
        "{at:?}"
    );
    assert!(world.attempts(client).len() >= 2);
}

#[test]
fn behind_a_firewall_the_next_transport_is_tried() {
    let mut world = World::new(1);
    world.add_server(server_config(9));
    let path = PathConfig {
        firewall: Firewall::STREAMS_ONLY,
        ..PathConfig::CLEAN
    };
    let mut config = client_config(&[Transport::Dtls, Transport::Udp, Transport::Tls]);
    config.attempt_timeout = Duration::from_secs(3);
    let client = world.add_client(config, path);
    world.start(client);
    world.run(Duration::from_secs(1));
    let tried: Vec<Transport> = world
        .attempts(client)
        .iter()
        .map(|(_, target)| target.transport)
        .collect();
    // What is silent may be so because it is datagrams: a stream comes next.
    assert_eq!(tried, [Transport::Dtls, Transport::Tls, Transport::Udp]);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tls);
}

#[test]
fn comes_up_through_heavy_loss() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let server = world.add_server(server_config(9));
        let path = PathConfig::both(LinkConfig {
            duplicate: 0.2,
            reorder: 0.2,
            ..LinkConfig::lossy(0.3)
        });
        let mut config = client_config(&[Transport::Udp]);
        config.attempt_timeout = Duration::from_secs(60);
        let client = world.add_client(config, path);
        world.start(client);
        world.run(Duration::from_secs(59));
        assert!(
            world.assignment(client).is_some(),
            "seed {seed}: {:?}",
            world.events(client)
        );
        let alive = world.server_stats(server).sessions;
        assert!(alive >= 1, "seed {seed}");
    }
}

#[test]
fn a_refused_connection_is_tried_again_with_growing_waits() {
    let mut world = World::new(3);
    let mut config = server_config(9);
    config.limits.pending = 0;
    world.add_server(config);
    let mut config = client_config(&[Transport::Tcp]);
    config.connect_timeout = Duration::from_secs(120);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_secs(121));
    let failure = AttemptFailure::Transport(TransportFailure::Unreachable);
    assert_eq!(
        world.down_reason(client),
        Some(&DownReason::CannotConnect(failure))
    );
    let attempts = world.attempts(client);
    assert!(
        (5..20).contains(&attempts.len()),
        "{} attempts",
        attempts.len()
    );
    for (n, pair) in attempts.windows(2).enumerate() {
        let limit = Duration::from_secs(1 << n.min(6)).min(Duration::from_secs(60));
        assert!(
            pair[1].0 - pair[0].0 < limit + Duration::from_millis(50),
            "{attempts:?}"
        );
    }
}

#[test]
fn releasing_before_there_is_a_tunnel_ends_at_once() {
    let mut world = World::new(1);
    let server = world.add_server(server_config(9));
    let client = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(client);
    world.run(Duration::from_millis(30));
    world.release(client, SECOND);
    assert_eq!(
        world.down_reason(client),
        Some(&DownReason::Released { confirmed: false })
    );
    world.run(Duration::from_secs(60));
    assert_eq!(world.server_stats(server).sessions, 0);
}

#[test]
fn the_longest_request_fits_one_datagram_and_a_longer_token_is_refused() {
    for (transport, longest) in [(Transport::Udp, 832), (Transport::Dtls, 900)] {
        let mut config = client_config(&[transport]);
        config.token_in_clear = true;
        config.client_info = Some("x".repeat(128));
        config.supported_services = vec![ServiceType::ENABLE_DDT; 32];
        let family = Family::Ipv4;
        config.addresses = vec![AddressWish { family, count: 1 }; 8];
        config.inner_mtu = Some(1400);
        config.auth_token = Some(Secret::new(vec![b'x'; longest + 1]));
        let refused = Client::new(config.clone(), Box::new(Rng::new(1))).unwrap_err();
        let length = longest + 1;
        let limit = longest;
        assert_eq!(
            refused,
            ClientConfigError::AuthTokenLength { length, limit }
        );
        config.auth_token = Some(Secret::new(vec![b'x'; longest]));
        let mut client = Client::new(config, Box::new(Rng::new(1))).unwrap();
        let now = Instant::now();
        client.start(now);
        client.transport_opened(now, Epoch(0));
        let first = client.poll_transmit().unwrap().bytes;
        // The server asks for the longest cookie there is, and gets it.
        let sequence = Sequence(u32::from_be_bytes(first[12..16].try_into().unwrap()));
        let mut answer = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_RESPONSE, Tsid::UNASSIGNED, sequence)
            .tlv(Tlv::ResponseCode(ResponseCode::COOKIE_REQUIRED))
            .tlv(Tlv::Cookie(Cookie::new(&[7; 64]).unwrap()))
            .encode_datagram(&mut answer)
            .unwrap();
        let unit = Unit::decode_datagram(&answer, &Limits::WIDEST).unwrap();
        let _ = client.handle_unit(now, Epoch(0), unit);
        let second = client.poll_transmit().map(|transmit| transmit.bytes.len());
        // DTLS has a cookie of its own below the tunnel's protocol.
        let expected = (transport == Transport::Udp).then_some(first.len() + 68);
        assert_eq!(second, expected, "{transport}");
        assert!(first.len() + 68 <= 1200 || transport == Transport::Dtls);
    }
}
