//! Prefixes behind clients (spec 7, "STG").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::asking::{Asking, refusal, request, success};
use common::tunnel::SECOND;
use common::{Bench, code};
use tsc_csm::client::{Event, RequestError, ServiceOutcome};
use tsc_csm::server::{
    AuthPolicy, Event as ServerEvent, Identity, RoutedPrefixError, Server, ServerConfig,
    ServerConfigError,
};
use tsc_csm::{Prefix, ServiceGrant, Transport};
use tsc_sim::{
    ClientId, LinkConfig, PathConfig, Rng, ServerId, Setup, World, client_config, packet,
    server_config,
};
use tsc_tpl::{
    CmType, Limits, MessageBuilder, ResponseCode, RoutedPrefix, Sequence, ServiceList, ServiceType,
    Tlv, Unit,
};

const LAN: &str = "10.1.0.0/16";
const LAN6: &str = "fd00:1::/48";

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| prefix(text)).collect()
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A server that knows clients by certificates, and routes to the gateways of this table.
fn gateways(table: &[(&str, &[&str])]) -> ServerConfig {
    let mut config = server_config(9);
    let interface = &mut config.interfaces[0];
    interface.auth = AuthPolicy::Mtls;
    interface.services = vec![ServiceType::ENABLE_STG];
    for (name, texts) in table {
        let identity = Identity::new(*name);
        interface.routed_prefixes.insert(identity, prefixes(texts));
    }
    config
}

/// A world where client `n` is `names[n]`; all tunnels are up over TLS or DTLS.
fn world(
    config: ServerConfig,
    transport: Transport,
    names: &[&str],
) -> (World, ServerId, Vec<ClientId>) {
    let mut world = World::new(21);
    let certificates: BTreeMap<usize, String> = names
        .iter()
        .map(|name| (*name).to_owned())
        .enumerate()
        .collect();
    let server = world.add_server_with(config, Setup { certificates });
    let clients: Vec<ClientId> = names
        .iter()
        .map(|_| world.add_client(client_config(&[transport]), PathConfig::CLEAN))
        .collect();
    for client in &clients {
        world.start(*client);
    }
    world.run(SECOND);
    assert!(clients.iter().all(|client| world.is_bound(*client)));
    (world, server, clients)
}

/// How a request ended, as text.
fn outcome(event: &Event) -> Option<String> {
    match event {
        Event::Service { outcome, .. } => Some(outcome.to_string()),
        Event::ServiceEnded(grant) => Some(format!("lost: {grant}")),
        _ => None,
    }
}

fn outcomes(world: &World, client: ClientId) -> Vec<String> {
    let events = world.events(client).iter().map(|(_, event)| event);
    events.filter_map(outcome).collect()
}

fn refused(world: &World, client: ClientId) -> Option<ResponseCode> {
    world
        .events(client)
        .iter()
        .rev()
        .find_map(|(_, event)| match event {
            Event::Service {
                outcome: ServiceOutcome::Refused(refusal),
                ..
            } => Some(refusal.code),
            _ => None,
        })
}

#[test]
fn hosts_behind_a_gateway_reach_others_and_are_reached() {
    for transport in [Transport::Tls, Transport::Dtls] {
        let config = gateways(&[("gate", &[LAN, LAN6])]);
        let (mut world, server, clients) = world(config, transport, &["gate", "phone"]);
        let (gate, phone) = (clients[0], clients[1]);
        let phone_address = world.assignment(phone).unwrap().addresses[0].address;
        let host = address("10.1.7.7");
        world.send_from(gate, host, phone_address, b"too early");
        world.send(phone, host, b"too early");
        world.run(SECOND);
        assert_eq!(world.server_stats(server).wrong_source, 1);
        assert_eq!(world.undeliverable(server), 1);

        world.request_routed_prefixes(gate, &[]).unwrap();
        world.run(SECOND);
        let granted = format!("granted: routed prefixes {LAN} {LAN6}");
        assert_eq!(outcomes(&world, gate), [granted]);
        assert_eq!(world.routed_prefixes(gate), prefixes(&[LAN, LAN6]));

        world.send_from(gate, host, phone_address, b"from the lan");
        world.send(phone, host, b"to the lan");
        world.run(SECOND);
        assert_eq!(world.received(phone)[0].1, b"from the lan");
        let (_, to, payload) = &world.routed(gate)[0];
        assert_eq!((*to, payload.as_slice()), (host, &b"to the lan"[..]));
        assert!(
            world.received(gate).is_empty(),
            "not for the gateway itself"
        );
        let session = world.server(server).route(address("fd00:1::77"));
        assert_eq!(session, world.server(server).route(host), "both families");
    }
}

#[test]
fn only_hosts_of_the_prefix_are_behind_it() {
    let (mut world, server, clients) = world(
        gateways(&[("gate", &[LAN])]),
        Transport::Tls,
        &["gate", "phone"],
    );
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    let phone = world.assignment(clients[1]).unwrap().addresses[0].address;
    for source in [
        "10.2.0.1",
        "10.1.255.255",
        "10.0.0.9",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
    ] {
        world.send_from(clients[0], address(source), phone, b"forged");
    }
    world.run(SECOND);
    assert_eq!(world.server_stats(server).wrong_source, 6);
    assert!(world.received(clients[1]).is_empty());
    assert_eq!(world.server(server).route(address("10.1.255.255")), None);
    assert_eq!(world.server(server).route(address("10.2.0.1")), None);
    // The client looks, too: a server that breaks the rules must not reach beyond the prefix.
    for destination in ["10.2.0.1", "10.1.255.255"] {
        let bytes = packet::udp(phone, address(destination), b"stray");
        world.deliver_raw(clients[0], &bytes);
    }
    assert_eq!(world.client_stats(clients[0]).wrong_destination, 2);
    assert!(world.routed(clients[0]).is_empty());
}

#[test]
fn what_is_wanted_is_granted_as_far_as_it_is_configured() {
    let config = gateways(&[("gate", &[LAN, LAN6])]);
    let (mut world, server, clients) = world(config, Transport::Tls, &["gate"]);
    let gate = clients[0];
    // Part of a prefix is not the prefix, nor is a wider one.
    let wanted = prefixes(&["10.1.2.0/24", "10.0.0.0/8", LAN6, "192.168.0.0/24"]);
    world.request_routed_prefixes(gate, &wanted).unwrap();
    world.run(SECOND);
    assert_eq!(world.routed_prefixes(gate), prefixes(&[LAN6]));
    let session = world.server(server).route(address("fd00:1::1")).unwrap();
    assert_eq!(
        world.server(server).routed_prefixes(session),
        prefixes(&[LAN6])
    );
    world
        .request_routed_prefixes(gate, &prefixes(&["10.1.2.0/24"]))
        .unwrap();
    world.run(SECOND);
    assert_eq!(refused(&world, gate), Some(ResponseCode::NOT_AUTHORIZED));
    assert_eq!(
        world.routed_prefixes(gate),
        prefixes(&[LAN6]),
        "what was granted stays"
    );
}

#[test]
fn who_is_not_configured_or_not_known_gets_nothing() {
    let (mut world, _, clients) = world(gateways(&[("gate", &[LAN])]), Transport::Tls, &["phone"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    assert_eq!(
        refused(&world, clients[0]),
        Some(ResponseCode::NOT_AUTHORIZED)
    );

    let mut config = gateways(&[("gate", &[LAN])]);
    config.interfaces[0].auth = AuthPolicy::None;
    let (mut world, _, clients) = self::world(config, Transport::Tls, &["gate"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    assert_eq!(
        refused(&world, clients[0]),
        Some(ResponseCode::NOT_AUTHORIZED)
    );
}

#[test]
fn without_the_assigned_service_it_is_unavailable() {
    let mut config = gateways(&[("gate", &[LAN])]);
    config.interfaces[0].services.clear();
    let (mut world, server, clients) = world(config, Transport::Tls, &["gate"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    assert_eq!(
        refused(&world, clients[0]),
        Some(ResponseCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(world.server(server).route(address("10.1.0.1")), None);
}

#[test]
fn a_prefix_is_behind_one_tunnel_until_that_gives_it_back_or_ends() {
    let config = gateways(&[("one", &[LAN]), ("two", &["10.1.2.0/24"])]);
    let (mut world, server, clients) = world(config, Transport::Tls, &["one", "two", "one"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    // Neither an overlapping one nor, for the same identity, the same one.
    for other in &clients[1..] {
        world.request_routed_prefixes(*other, &[]).unwrap();
        world.run(SECOND);
        assert_eq!(refused(&world, *other), Some(ResponseCode::NO_ADDRESS));
    }
    world.release_routed_prefixes(clients[0], &[]).unwrap();
    assert!(world.routed_prefixes(clients[0]).is_empty(), "off at once");
    world.request_routed_prefixes(clients[1], &[]).unwrap();
    world.run(SECOND);
    assert_eq!(outcomes(&world, clients[0])[1], "ended");
    assert_eq!(
        world.routed_prefixes(clients[1]),
        prefixes(&["10.1.2.0/24"])
    );
    // The end of the tunnel frees it.
    world.release(clients[1], SECOND);
    world.run(SECOND);
    assert_eq!(world.server(server).route(address("10.1.2.1")), None);
    world.request_routed_prefixes(clients[2], &[]).unwrap();
    world.run(SECOND);
    assert_eq!(world.routed_prefixes(clients[2]), prefixes(&[LAN]));
    let told: Vec<&str> = world
        .server_events(server)
        .iter()
        .filter_map(|(_, event)| match event {
            ServerEvent::ServiceGranted { .. } => Some("granted"),
            ServerEvent::ServiceEnded { .. } => Some("ended"),
            ServerEvent::SessionDown { .. } => Some("down"),
            _ => None,
        })
        .collect();
    assert_eq!(
        told,
        ["granted", "ended", "granted", "ended", "down", "granted"]
    );
}

#[test]
fn one_of_several_prefixes_can_be_given_back() {
    let config = gateways(&[("gate", &[LAN, LAN6])]);
    let (mut world, server, clients) = world(config, Transport::Dtls, &["gate"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    world
        .release_routed_prefixes(clients[0], &prefixes(&[LAN]))
        .unwrap();
    world.run(SECOND);
    assert_eq!(world.routed_prefixes(clients[0]), prefixes(&[LAN6]));
    assert_eq!(world.server(server).route(address("10.1.0.1")), None);
    assert!(world.server(server).route(address("fd00:1::1")).is_some());
    // What it does not have can be given back, too: the client comes to rest whatever was lost before.
    world
        .release_routed_prefixes(clients[0], &prefixes(&[LAN]))
        .unwrap();
    world.run(SECOND);
    assert_eq!(outcomes(&world, clients[0])[1..], ["ended", "ended"]);
}

#[test]
fn prefixes_survive_a_resume() {
    for transport in [Transport::Tls, Transport::Dtls] {
        let (mut world, server, clients) =
            world(gateways(&[("gate", &[LAN])]), transport, &["gate", "phone"]);
        world.request_routed_prefixes(clients[0], &[]).unwrap();
        world.run(SECOND);
        world.break_transport(clients[0]);
        world.run(Duration::from_secs(10));
        assert_eq!(world.server_stats(server).resumed, 1, "{transport}");
        let active = &world.assignment(clients[0]).unwrap().active_services;
        assert_eq!(*active, [ServiceType::ENABLE_STG]);
        assert_eq!(world.routed_prefixes(clients[0]), prefixes(&[LAN]));
        world.send(clients[1], address("10.1.7.7"), b"still there");
        world.run(SECOND);
        assert_eq!(world.routed(clients[0])[0].2, b"still there", "{transport}");
    }
}

#[test]
fn prefixes_end_with_a_tunnel_that_expires() {
    let (mut world, server, clients) =
        world(gateways(&[("gate", &[LAN])]), Transport::Dtls, &["gate"]);
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    world.path(clients[0]).block(true);
    world.run(Duration::from_secs(100));
    assert!(
        world.server(server).route(address("10.1.0.1")).is_some(),
        "persistent"
    );
    world.run(Duration::from_secs(400));
    assert_eq!(world.server(server).route(address("10.1.0.1")), None);
}

#[test]
fn a_request_is_granted_once_through_loss_and_duplication() {
    for seed in 0..20 {
        let (mut world, server, clients) =
            world(gateways(&[("gate", &[LAN])]), Transport::Dtls, &["gate"]);
        world.path(clients[0]).set(LinkConfig {
            duplicate: 0.3,
            reorder: 0.3,
            ..LinkConfig::lossy(0.2 + f64::from(seed) / 100.0)
        });
        world.request_routed_prefixes(clients[0], &[]).unwrap();
        world.run(Duration::from_secs(25));
        assert_eq!(outcomes(&world, clients[0]).len(), 1, "one outcome");
        let granted = world
            .server_events(server)
            .iter()
            .filter(|(_, event)| matches!(event, ServerEvent::ServiceGranted { .. }))
            .count();
        assert!(granted <= 1, "granted {granted} times");
    }
}

#[test]
fn one_request_about_prefixes_is_outstanding() {
    let (mut world, _, clients) = world(gateways(&[("gate", &[LAN])]), Transport::Dtls, &["gate"]);
    let gate = clients[0];
    world.request_routed_prefixes(gate, &[]).unwrap();
    let second = world.release_routed_prefixes(gate, &[]);
    assert_eq!(second, Err(RequestError::InProgress));
    world.run(SECOND);
    let wrong = prefixes(&["0.0.0.0/0"]);
    assert_eq!(
        world.request_routed_prefixes(gate, &wrong),
        Err(RequestError::Prefixes)
    );
    let many = vec![prefix(LAN); 33];
    assert_eq!(
        world.request_routed_prefixes(gate, &many),
        Err(RequestError::Prefixes)
    );
    world.release(gate, SECOND);
    assert_eq!(
        world.request_routed_prefixes(gate, &[]),
        Err(RequestError::NotUp)
    );
}

/// A client with a tunnel that has asked for LAN and was granted these.
fn answered_with(granted: &[&str]) -> Asking {
    let mut asking = Asking::new(Transport::Tls);
    asking.answer(success(&asking.request.clone()));
    let now = asking.now;
    asking
        .client
        .request_routed_prefixes(now, &prefixes(&[LAN]))
        .unwrap();
    while let Some(header) = request(&mut asking.client) {
        asking.request = header;
    }
    let tlv = |text: &&str| -> Tlv<'_> {
        let (address, len) = (prefix(text).address(), prefix(text).prefix_len());
        match address {
            IpAddr::V4(v4) => {
                Tlv::RoutedPrefixIpv4(RoutedPrefix::<Ipv4Addr>::new(v4, len).unwrap())
            }
            IpAddr::V6(v6) => {
                Tlv::RoutedPrefixIpv6(RoutedPrefix::<Ipv6Addr>::new(v6, len).unwrap())
            }
        }
    };
    let answer = refusal(&asking.request, ResponseCode::SUCCESS)
        .tlv(Tlv::ServiceType(ServiceType::ENABLE_STG))
        .tlvs(granted.iter().map(tlv));
    asking.answer(answer);
    asking
}

/// How its requests ended, and what is in force.
fn result(asking: &mut Asking) -> (Vec<String>, Vec<Prefix>) {
    let events: Vec<Event> = std::iter::from_fn(|| asking.client.poll_event()).collect();
    let routed = asking.client.routed_prefixes().to_vec();
    (events.iter().filter_map(outcome).collect(), routed)
}

#[test]
fn after_a_resume_only_what_the_server_lists_is_in_force() {
    for listed in [true, false] {
        let mut asking = answered_with(&[LAN]);
        asking.lose();
        let services = [ServiceType::ENABLE_STG];
        let active = ServiceList::new(if listed { &services } else { &[] }).unwrap();
        let answer = success(&asking.request).tlv(Tlv::ActiveServices(active));
        assert_eq!(asking.answer(answer), None);
        let (outcomes, routed) = result(&mut asking);
        if listed {
            assert_eq!((outcomes, routed), (vec![], prefixes(&[LAN])));
        } else {
            let lost = format!("lost: routed prefixes {LAN}");
            assert_eq!((outcomes, routed), (vec![lost], vec![]));
        }
    }
}

#[test]
fn a_server_cannot_grant_more_than_was_wanted() {
    let (outcomes, routed) = result(&mut answered_with(&[
        LAN,
        "192.168.0.0/16",
        "0.0.0.0/0",
        "127.0.0.0/8",
    ]));
    assert_eq!(outcomes, [format!("granted: routed prefixes {LAN}")]);
    assert_eq!(routed, prefixes(&[LAN]));
    for unusable in [&["192.168.0.0/16"][..], &[]] {
        let (outcomes, routed) = result(&mut answered_with(unusable));
        assert_eq!(outcomes, ["the server's answer cannot be used"]);
        assert!(routed.is_empty());
    }
}

#[test]
fn host_bits_in_a_request_mean_nothing_and_a_repeat_changes_nothing() {
    let mut bench = Bench::with(gateways(&[("gate", &[LAN])]));
    let binding = bench.open_as(Transport::Tls, Some("gate"));
    let (tsid, _) = bench.configure(binding);
    let request = |sequence| {
        let mut bytes = Vec::new();
        let wanted = RoutedPrefix::<Ipv4Addr>::new([10, 1, 2, 3].into(), 16).unwrap();
        MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, tsid, Sequence(sequence))
            .tlv(Tlv::ServiceType(ServiceType::ENABLE_STG))
            .tlv(Tlv::RoutedPrefixIpv4(wanted))
            .encode(&mut bytes)
            .unwrap();
        bytes
    };
    let (_, first) = bench.say(binding, &request(2));
    let (_, repeated) = bench.say(binding, &request(2));
    assert_eq!(first, repeated);
    // Asked again, it is the same grant, and no event tells of it.
    let (_, again) = bench.say(binding, &request(3));
    assert_eq!(code(&again[0]), ResponseCode::SUCCESS);
    let Ok(Unit::Control(answer)) = Unit::decode_datagram(&again[0], &Limits::WIDEST) else {
        panic!()
    };
    let granted: Vec<_> = answer.parse().unwrap().routed_prefixes().collect();
    assert_eq!(granted, [(address("10.1.0.0"), 16)]);
    let grants = std::iter::from_fn(|| bench.server.poll_event())
        .filter(|event| {
            matches!(event, ServerEvent::ServiceGranted { grant, .. }
            if *grant == ServiceGrant::RoutedPrefixes(prefixes(&[LAN])))
        })
        .count();
    assert_eq!(grants, 1);
}

#[test]
fn the_server_tells_whose_and_from_where_a_tunnel_is() {
    let (world, server, clients) = world(gateways(&[("gate", &[LAN])]), Transport::Tls, &["gate"]);
    let core = world.server(server);
    let mine = world.assignment(clients[0]).unwrap().addresses[0].address;
    let session = core.route(mine).unwrap();
    assert_eq!(
        core.identity_of(session).map(Identity::as_str),
        Some("gate")
    );
    assert_eq!(core.interface_of(session), Some(0));
    assert_eq!(core.pool_of(session), Some(0));
    assert_eq!(core.pool_of_source(session, mine), Some(0));
    assert_eq!(
        core.pool_of_source(session, address("10.1.0.1")),
        None,
        "not granted"
    );
    let addresses: Vec<IpAddr> = core
        .assigned_addresses(session)
        .map(|lease| lease.address)
        .collect();
    assert_eq!(addresses, [mine]);
    let mut world = world;
    world.request_routed_prefixes(clients[0], &[]).unwrap();
    world.run(SECOND);
    let pool = world
        .server(server)
        .pool_of_source(session, address("10.1.0.1"));
    assert_eq!(pool, Some(0), "hosts behind it go by the tunnel's own pool");
}

#[test]
fn harmful_prefixes_are_no_configuration() {
    let refused = |texts: &[&str]| {
        let config = gateways(&[("gate", texts)]);
        let random = Box::new(Rng::new(1));
        match Server::new(config, std::time::Instant::now(), random) {
            Err(ServerConfigError::RoutedPrefix { error, .. }) => error,
            other => panic!("{texts:?}: {other:?}"),
        }
    };
    for text in [
        "0.0.0.0/0",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "::/0",
        "fe80::/10",
        "ff00::/8",
    ] {
        assert_eq!(
            refused(&[text]),
            RoutedPrefixError::NotRoutable(prefix(text))
        );
    }
    // The pool is 10.0.0.1 - 10.0.0.9.
    for text in ["10.0.0.0/8", "10.0.0.8/29", "10.0.0.1/32", "10.0.0.9/32"] {
        assert_eq!(
            refused(&[text]),
            RoutedPrefixError::OverlapsPool(prefix(text))
        );
    }
    let inner = prefix("10.1.2.0/24");
    assert_eq!(
        refused(&[LAN, "10.1.2.0/24"]),
        RoutedPrefixError::Overlap(inner)
    );
    let many: Vec<String> = (0..33).map(|n| format!("10.1.{n}.0/24")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(refused(&many), RoutedPrefixError::TooMany);
    assert!(
        Server::new(
            gateways(&[("gate", &many[..32])]),
            std::time::Instant::now(),
            Box::new(Rng::new(1))
        )
        .is_ok()
    );
}

#[test]
fn the_longest_list_of_prefixes_fits_one_datagram() {
    let many: Vec<String> = (0..32).map(|n| format!("fd00:{n}::/64")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (mut world, _, clients) = world(gateways(&[("gate", &many)]), Transport::Dtls, &["gate"]);
    world
        .request_routed_prefixes(clients[0], &prefixes(&many))
        .unwrap();
    world.run(SECOND);
    assert_eq!(world.routed_prefixes(clients[0]).len(), 32);
}
