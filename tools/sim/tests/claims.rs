//! Companions that are reserved and claimed, by those who may and those who may not (spec 7, "Companions"; 8.5).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use common::{Bench, code, message};
use tsc_csm::server::{
    AuthPolicy, BindingId, BindingLoss, DownReason, Event, ServerConfig, Verdict,
};
use tsc_csm::{Alternate, Transport};
use tsc_sim::server_config;
use tsc_tpl::{
    CmType, ConnectionInfo, Dscp, Limits, Message, MessageBuilder, RedundancyFactor,
    RedundancyMethod, ResponseCode, Sequence, ServiceType, Tlv, TransportCode, Tsid, TunnelTag,
    Unit,
};

const SECOND: Duration = Duration::from_secs(1);
const AT: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 1), 5060));

/// The main tunnel's name on the wire, and where it came from.
struct Main {
    binding: BindingId,
    tsid: Tsid,
    sequence: u32,
}

/// A right to claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    tsid: Tsid,
    tag: [u8; 16],
}

fn config() -> ServerConfig {
    let mut config = server_config(9);
    let interface = &mut config.interfaces[0];
    interface.services = vec![ServiceType::ENABLE_DDT, ServiceType::ENABLE_DTTE];
    interface.endpoints = Transport::ALL
        .map(|transport| Alternate {
            transport,
            address: AT,
        })
        .to_vec();
    config
}

fn main_tunnel(bench: &mut Bench, transport: Transport) -> Main {
    let (binding, tsid, _) = bench.tunnel(transport);
    Main {
        binding,
        tsid,
        sequence: 10,
    }
}

/// Asks for a service for a socket with this port; the answer.
fn ask(bench: &mut Bench, main: &mut Main, service: ServiceType, port: u16) -> Vec<u8> {
    ask_with(bench, main, service, port, [])
}

fn ask_with(
    bench: &mut Bench,
    main: &mut Main,
    service: ServiceType,
    port: u16,
    more: impl IntoIterator<Item = Tlv<'static>>,
) -> Vec<u8> {
    main.sequence += 1;
    let session = bench.server.session_of(main.binding).unwrap();
    let address = bench
        .server
        .assigned_addresses(session)
        .next()
        .unwrap()
        .address;
    let std::net::IpAddr::V4(address) = address else {
        panic!()
    };
    let flow = ConnectionInfo {
        transport: TransportCode::UDP,
        source: SocketAddrV4::new(address, port),
        destination: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0),
    };
    let mut builder = MessageBuilder::new(
        CmType::CLIENT_SERVICE_REQUEST,
        main.tsid,
        Sequence(main.sequence),
    )
    .tlv(Tlv::ServiceType(service))
    .tlv(Tlv::ConnectionInfoIpv4(flow));
    if service == ServiceType::ENABLE_REDUNDANCY {
        builder = builder
            .tlv(Tlv::RedundancyFactor(RedundancyFactor::new(1).unwrap()))
            .tlv(Tlv::RedundancyMethod(RedundancyMethod::COPIES));
    }
    let mut request = Vec::new();
    builder.tlvs(more).encode(&mut request).unwrap();
    let (_, answers) = bench.say(main.binding, &request);
    answers[0].to_vec()
}

fn with_message<T>(bytes: &[u8], read: impl FnOnce(&Message<'_>) -> T) -> T {
    let Ok(Unit::Control(answer)) = Unit::decode_datagram(bytes, &Limits::WIDEST) else {
        panic!()
    };
    read(&answer.parse().unwrap())
}

fn pair(answer: &[u8]) -> Option<Pair> {
    with_message(answer, |answer| {
        let (tsid, tag) = answer.companions().next()?;
        Some(Pair {
            tsid,
            tag: *tag.expose(),
        })
    })
}

fn reserve(bench: &mut Bench, main: &mut Main) -> Pair {
    pair(&ask(bench, main, ServiceType::ENABLE_DDT, 4000)).unwrap()
}

fn claim_request(pair: Pair) -> Vec<u8> {
    let mut request = Vec::new();
    MessageBuilder::new(
        CmType::CONFIGURATION_REQUEST,
        Tsid::UNASSIGNED,
        Sequence(77),
    )
    .tlv(Tlv::ProtocolRevision(1))
    .tlv(Tlv::TunnelSessionId(pair.tsid))
    .tlv(Tlv::TunnelTag(TunnelTag::new(&pair.tag)))
    .encode(&mut request)
    .unwrap();
    request
}

/// Claims over a new transport: that, and the answer.
fn claim(bench: &mut Bench, pair: Pair, transport: Transport) -> (BindingId, Vec<u8>) {
    claim_as(bench, pair, transport, None)
}

fn claim_as(
    bench: &mut Bench,
    pair: Pair,
    transport: Transport,
    name: Option<&str>,
) -> (BindingId, Vec<u8>) {
    let binding = bench.open_as(transport, name);
    let (_, answers) = bench.say(binding, &claim_request(pair));
    (binding, answers[0].to_vec())
}

fn confirm(bench: &mut Bench, binding: BindingId, tsid: Tsid) {
    let (verdict, _) = bench.say(binding, &message(CmType::KEEPALIVE, tsid, 78));
    assert_eq!(verdict, Verdict::Consumed);
}

fn companions(bench: &Bench, main: &Main) -> usize {
    let session = bench.server.session_of(main.binding).unwrap();
    bench.server.companions(session).len()
}

#[test]
fn a_tag_claims_once_and_gives_the_addresses_of_the_main_tunnel() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    assert_eq!(
        reserve(&mut bench, &mut main),
        pair,
        "the same while it is reserved"
    );
    let (binding, answer) = claim(&mut bench, pair, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    let session = bench.server.session_of(main.binding).unwrap();
    with_message(&answer, |answer| {
        assert_eq!(answer.tsid(), pair.tsid);
        let leased = bench.server.assigned_addresses(session);
        let given: Vec<_> = answer.addresses().map(|given| given.addr).collect();
        let had: Vec<_> = leased.map(|lease| lease.address).collect();
        assert_eq!(given, had);
    });
    // A repeat of the request is answered, another claim is not granted.
    let (_, again) = bench.say(binding, &claim_request(pair));
    assert_eq!(again[0], answer);
    let (_, answer) = claim(&mut bench, pair, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED);
    assert_eq!(companions(&bench, &main), 1);
    confirm(&mut bench, binding, pair.tsid);
    let further = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4002);
    assert_eq!(code(&further), ResponseCode::SUCCESS);
    assert_eq!(
        self::pair(&further),
        None,
        "not repeated for further sockets"
    );
}

/// The mark that a request may carry is not used here (`docs/services.md`), nor is it a reason to refuse.
#[test]
fn a_mark_in_a_request_changes_nothing() {
    let mut config = config();
    let services = &mut config.interfaces[0].services;
    services.push(ServiceType::ENABLE_REDUNDANCY);
    for (service, transport) in [
        (ServiceType::ENABLE_DDT, Transport::Tls),
        (ServiceType::ENABLE_REDUNDANCY, Transport::Dtls),
    ] {
        let mut bench = Bench::with(config.clone());
        let mut main = main_tunnel(&mut bench, transport);
        let mark = Tlv::Dscp(Dscp::new(46).unwrap());
        let answer = ask_with(&mut bench, &mut main, service, 4000, [mark]);
        assert_eq!(code(&answer), ResponseCode::SUCCESS, "{service}");
        with_message(&answer, |answer| assert!(answer.dscp().is_none()));
    }
}

#[test]
fn whoever_has_no_right_is_told_the_same_whatever_is_wrong() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let good = reserve(&mut bench, &mut main);
    let mut answers = Vec::new();
    let mut forged = good;
    forged.tag[15] ^= 1;
    answers.push(claim(&mut bench, forged, Transport::Dtls).1);
    // The main tunnel itself, and one that does not exist.
    for tsid in [main.tsid, Tsid(good.tsid.0 ^ 1)] {
        answers.push(claim(&mut bench, Pair { tsid, ..good }, Transport::Dtls).1);
    }
    // Not the reserved kind: a stream, and a protected tunnel must have no clear companion.
    for transport in [Transport::Tls, Transport::Tcp] {
        answers.push(claim(&mut bench, good, transport).1);
    }
    for answer in &answers {
        assert_eq!(code(answer), ResponseCode::NOT_AUTHORIZED);
        assert_eq!(answer.len(), answers[0].len());
    }
    let (_, answer) = claim(&mut bench, good, Transport::Dtls);
    assert_eq!(
        code(&answer),
        ResponseCode::SUCCESS,
        "and it has lost nothing"
    );
}

#[test]
fn a_reservation_lapses() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    bench.now += SECOND * 30;
    bench.catch_up();
    let (_, answer) = claim(&mut bench, pair, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED);
    let another = reserve(&mut bench, &mut main);
    assert_ne!(another, pair);
    let (_, answer) = claim(&mut bench, another, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
}

#[test]
fn an_unconfirmed_companion_that_is_lost_is_reserved_again_with_another_tag() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    let (binding, _) = claim(&mut bench, pair, Transport::Dtls);
    bench
        .server
        .binding_lost(bench.now, binding, BindingLoss::Failed);
    let again = reserve(&mut bench, &mut main);
    assert_eq!(again.tsid, pair.tsid);
    assert_ne!(again.tag, pair.tag);
    let (_, answer) = claim(&mut bench, pair, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED);
    let (_, answer) = claim(&mut bench, again, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    // Whoever asks so late has not got there.
    bench.now += SECOND * 10;
    let third = reserve(&mut bench, &mut main);
    assert_ne!(third, again);
    assert_eq!(companions(&bench, &main), 0);
}

/// A client that has lost its companion without a goodbye asks for another, and does not wait for the server's timers.
#[test]
fn a_companion_that_is_not_resumed_is_replaced_for_whoever_asks() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let lost = reserve(&mut bench, &mut main);
    let (binding, _) = claim(&mut bench, lost, Transport::Dtls);
    confirm(&mut bench, binding, lost.tsid);
    bench
        .server
        .binding_lost(bench.now, binding, BindingLoss::Failed);
    bench.now += SECOND * 9;
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4000);
    assert_eq!(pair(&answer), None, "it may be resumed yet");
    bench.now += SECOND;
    let another = reserve(&mut bench, &mut main);
    assert_ne!(another.tsid, lost.tsid);
    let downs = std::iter::from_fn(|| bench.server.poll_event()).filter_map(|event| match event {
        Event::CompanionDown { tsid, reason, .. } => Some((tsid, reason)),
        _ => None,
    });
    assert_eq!(
        downs.collect::<Vec<_>>(),
        [(lost.tsid, DownReason::Replaced)]
    );
    let (binding, answer) = claim(&mut bench, another, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    confirm(&mut bench, binding, another.tsid);
    // One that has a transport is in use, however long it was silent.
    bench.now += SECOND * 20;
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4002);
    assert_eq!(pair(&answer), None);
    assert_eq!(companions(&bench, &main), 1);
}

#[test]
fn the_sockets_of_a_companion_count_among_the_64_of_its_main_tunnel() {
    let (ddt, redundancy) = (ServiceType::ENABLE_DDT, ServiceType::ENABLE_REDUNDANCY);
    let mut config = config();
    config.interfaces[0].services.push(redundancy);
    let mut bench = Bench::with(config);
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    let (binding, _) = claim(&mut bench, pair, Transport::Dtls);
    confirm(&mut bench, binding, pair.tsid);
    let mut companion = Main {
        binding,
        tsid: pair.tsid,
        sequence: 100,
    };
    let mut granted = |of: &mut Main, service, port| code(&ask(&mut bench, of, service, port));
    for port in 4001..4060 {
        assert_eq!(granted(&mut main, ddt, port), ResponseCode::SUCCESS);
    }
    for port in 5000..5004 {
        let answer = granted(&mut companion, redundancy, port);
        assert_eq!(answer, ResponseCode::SUCCESS);
    }
    // That is 64; those that are among them may have both.
    let full = ResponseCode::NO_RESOURCES;
    assert_eq!(granted(&mut companion, redundancy, 5004), full);
    assert_eq!(granted(&mut main, ddt, 5005), full);
    let both = granted(&mut companion, redundancy, 4059);
    assert_eq!(both, ResponseCode::SUCCESS);
    let both = granted(&mut main, ddt, 5003);
    assert_eq!(both, ResponseCode::SUCCESS);
    // And one that ends makes room.
    let disable = ServiceType::DISABLE_REDUNDANCY;
    let ended = granted(&mut companion, disable, 5000);
    assert_eq!(ended, ResponseCode::SUCCESS);
    assert_eq!(granted(&mut main, ddt, 5005), ResponseCode::SUCCESS);
}

#[test]
fn another_identity_does_not_claim() {
    let mut config = config();
    config.interfaces[0].auth = AuthPolicy::Mtls;
    let mut bench = Bench::with(config);
    let binding = bench.open_as(Transport::Tls, Some("alice"));
    let (tsid, _) = bench.configure(binding);
    confirm(&mut bench, binding, tsid);
    let mut main = Main {
        binding,
        tsid,
        sequence: 10,
    };
    let pair = reserve(&mut bench, &mut main);
    for name in [Some("mallory"), None] {
        let (_, answer) = claim_as(&mut bench, pair, Transport::Dtls, name);
        assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED);
    }
    let (_, answer) = claim_as(&mut bench, pair, Transport::Dtls, Some("alice"));
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
}

#[test]
fn reserved_companions_count_as_tunnels_and_end_with_theirs() {
    let mut config = config();
    config.limits.tunnels_per_prefix = 3;
    let mut bench = Bench::with(config);
    let mut first = main_tunnel(&mut bench, Transport::Tls);
    let mut second = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut first);
    let refused = ask(&mut bench, &mut second, ServiceType::ENABLE_DDT, 4000);
    assert_eq!(code(&refused), ResponseCode::NO_RESOURCES);
    let release = message(CmType::CONFIGURATION_RELEASE_REQUEST, first.tsid, 99);
    let _ = bench.say(first.binding, &release);
    let (_, answer) = claim(&mut bench, pair, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED);
    // And what it took is free.
    reserve(&mut bench, &mut second);
    main_tunnel(&mut bench, Transport::Tls);
}

#[test]
fn there_is_nothing_to_reserve_where_nobody_listens_and_elsewhere_is_told() {
    let mut nobody = config();
    nobody.interfaces[0].endpoints.clear();
    let mut bench = Bench::with(nobody);
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let refused = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4000);
    assert_eq!(code(&refused), ResponseCode::SERVICE_UNAVAILABLE);

    let elsewhere = SocketAddr::from(([203, 0, 113, 9], 4433));
    let mut config = config();
    config.interfaces[0].endpoints = vec![Alternate {
        transport: Transport::Dtls,
        address: elsewhere,
    }];
    let mut bench = Bench::with(config);
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4000);
    let told = with_message(&answer, |answer| answer.companion_endpoint());
    assert_eq!(told.unwrap().addr, elsewhere);
    // A wildcard stands for the address that the client came to.
    let mut config = self::config();
    config.interfaces[0].endpoints[3].address = SocketAddr::from(([0; 8], 5060));
    let mut bench = Bench::with(config);
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DDT, 4000);
    let told = with_message(&answer, |answer| answer.companion_endpoint());
    assert_eq!(told, None);
}

#[test]
fn a_companion_has_no_companions_and_no_tag_makes_an_ordinary_tunnel() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    let (binding, _) = claim(&mut bench, pair, Transport::Dtls);
    confirm(&mut bench, binding, pair.tsid);
    let mut companion = Main {
        binding,
        tsid: pair.tsid,
        sequence: 100,
    };
    let refused = ask(&mut bench, &mut companion, ServiceType::ENABLE_DDT, 4000);
    assert_eq!(code(&refused), ResponseCode::SERVICE_UNAVAILABLE);
    // A tag by itself is what peers use, and this is no peer.
    let mut request = Vec::new();
    MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::TunnelTag(TunnelTag::new(&pair.tag)))
        .encode(&mut request)
        .unwrap();
    let binding = bench.open(Transport::Dtls);
    let (_, answers) = bench.say(binding, &request);
    assert_eq!(code(&answers[0]), ResponseCode::NOT_AUTHORIZED);
}

#[test]
fn a_companion_that_nobody_uses_ends() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let pair = reserve(&mut bench, &mut main);
    let (binding, _) = claim(&mut bench, pair, Transport::Dtls);
    confirm(&mut bench, binding, pair.tsid);
    ask(&mut bench, &mut main, ServiceType::DISABLE_DDT, 4000);
    bench.now += SECOND * 29;
    bench.catch_up();
    assert_eq!(companions(&bench, &main), 1, "who falls back may return");
    bench.now += SECOND;
    bench.catch_up();
    let released = std::iter::from_fn(|| bench.server.poll_transmit()).find(|sent| {
        let unit = Unit::decode_datagram(&sent.bytes, &Limits::WIDEST);
        let Ok(Unit::Control(sent)) = unit else {
            return false;
        };
        sent.header().cm_type == CmType::CONFIGURATION_RELEASE_REQUEST
            && sent.header().tsid == pair.tsid
    });
    assert!(released.is_some());
    // One who asks in that moment gets another.
    let another = reserve(&mut bench, &mut main);
    assert_ne!(another.tsid, pair.tsid);
    let (_, answer) = claim(&mut bench, another, Transport::Dtls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    assert_eq!(companions(&bench, &main), 1);
    let downs = std::iter::from_fn(|| bench.server.poll_event())
        .filter(|event| matches!(event, Event::CompanionDown { .. }));
    assert_eq!(downs.count(), 1);
}

#[test]
fn an_encrypted_companion_has_addresses_of_its_own_and_is_claimed_on_its_transport_only() {
    let mut bench = Bench::with(config());
    let mut main = main_tunnel(&mut bench, Transport::Tcp);
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DTTE, 4000);
    let told = with_message(&answer, |answer| answer.companion_endpoint());
    assert_eq!(
        told.map(|at| at.addr),
        Some(AT),
        "not the port after this one"
    );
    let pair = pair(&answer).unwrap();
    for wrong in [Transport::Tcp, Transport::Dtls] {
        let (_, answer) = claim(&mut bench, pair, wrong);
        assert_eq!(code(&answer), ResponseCode::NOT_AUTHORIZED, "{wrong}");
    }
    let (binding, answer) = claim(&mut bench, pair, Transport::Tls);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    let given: Vec<_> = with_message(&answer, |answer| {
        answer.addresses().map(|given| given.addr).collect()
    });
    let session = bench.server.session_of(main.binding).unwrap();
    let mut had = bench.server.assigned_addresses(session);
    assert!(had.all(|lease| !given.contains(&lease.address)));
    drop(had);
    assert_eq!(given.len(), 1);
    // Routed to it, and not to its main tunnel.
    let companion = bench.server.session_of(binding).unwrap();
    assert_eq!(bench.server.route(given[0]), Some(companion));
    // What ends the main tunnel ends it, and the address rests.
    let release = message(CmType::CONFIGURATION_RELEASE_REQUEST, main.tsid, 99);
    let _ = bench.say(main.binding, &release);
    assert_eq!(bench.server.route(given[0]), None);
    assert_eq!(bench.server.stats().sessions, 0);
}

#[test]
fn at_the_port_after_the_clear_one_an_encrypted_companion_needs_no_telling() {
    let mut config = config();
    config.interfaces[0].endpoints[1].address = SocketAddr::new(AT.ip(), AT.port() + 1);
    let mut bench = Bench::with(config);
    let mut main = main_tunnel(&mut bench, Transport::Tcp);
    let answer = ask(&mut bench, &mut main, ServiceType::ENABLE_DTTE, 4000);
    assert!(pair(&answer).is_some());
    let told = with_message(&answer, |answer| answer.companion_endpoint());
    assert_eq!(told, None);
    // Beside what is protected there is nothing to be had.
    let mut main = main_tunnel(&mut bench, Transport::Tls);
    let refused = ask(&mut bench, &mut main, ServiceType::ENABLE_DTTE, 4000);
    assert_eq!(code(&refused), ResponseCode::SERVICE_UNAVAILABLE);
}

#[test]
fn without_an_address_left_an_encrypted_companion_stays_reserved() {
    let mut config = config();
    config.pools = server_config(1).pools;
    let mut bench = Bench::with(config);
    let mut main = main_tunnel(&mut bench, Transport::Tcp);
    let pair = pair(&ask(&mut bench, &mut main, ServiceType::ENABLE_DTTE, 4000)).unwrap();
    let before = bench.server.stats().sessions;
    let (_, answer) = claim(&mut bench, pair, Transport::Tls);
    assert_eq!(code(&answer), ResponseCode::NO_ADDRESS);
    let again = ask(&mut bench, &mut main, ServiceType::ENABLE_DTTE, 4001);
    assert_eq!(self::pair(&again), Some(pair));
    assert_eq!(bench.server.stats().sessions, before);
}
