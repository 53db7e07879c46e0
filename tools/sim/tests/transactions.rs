//! Requests, repeats and answers (spec 4).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::tunnel::{SECOND, up};
use tsc_csm::Transport;
use tsc_csm::client::{Event, Refusal, RequestError, ServiceOutcome, SuspendReason};
use tsc_csm::server::DropReason;
use tsc_sim::{ClientId, LinkConfig, PathConfig, World, client_config, server_config};
use tsc_tpl::{CmType, MessageBuilder, ResponseCode, Sequence, ServiceType, Tlv};

fn outcomes(world: &World, client: ClientId) -> Vec<(ServiceType, ServiceOutcome)> {
    let service = |(_, event): &(Duration, Event)| match event {
        Event::Service {
            service, outcome, ..
        } => Some((*service, outcome.clone())),
        _ => None,
    };
    world.events(client).iter().filter_map(service).collect()
}

fn refused(code: ResponseCode) -> ServiceOutcome {
    ServiceOutcome::Refused(Refusal {
        code,
        retry_after: None,
        text: None,
    })
}

fn raw_service(world: &World, client: ClientId, sequence: u32, service: ServiceType) -> Vec<u8> {
    let mut bytes = Vec::new();
    MessageBuilder::new(
        CmType::CLIENT_SERVICE_REQUEST,
        world.assignment(client).unwrap().tsid,
        Sequence(sequence),
    )
    .tlv(Tlv::ServiceType(service))
    .encode_datagram(&mut bytes)
    .unwrap();
    bytes
}

#[test]
fn known_services_are_unavailable_and_unknown_ones_unsupported() {
    for transport in Transport::ALL {
        let (mut world, _, client) = up(transport);
        world
            .request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION)
            .unwrap();
        world.request_service(client, ServiceType(999)).unwrap();
        world.run(SECOND);
        assert_eq!(
            outcomes(&world, client),
            [
                (
                    ServiceType::ENABLE_HEADER_COMPRESSION,
                    refused(ResponseCode::SERVICE_UNAVAILABLE)
                ),
                (ServiceType(999), refused(ResponseCode::UNSUPPORTED_SERVICE)),
            ]
        );
    }
}

#[test]
fn a_request_is_answered_through_loss_and_duplication() {
    for seed in 0..30 {
        let mut world = World::new(seed);
        world.add_server(server_config(9));
        let client = world.add_client(client_config(&[Transport::Udp]), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        world.path(client).set(LinkConfig {
            duplicate: 0.3,
            reorder: 0.3,
            ..LinkConfig::lossy(0.3)
        });
        world
            .request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION)
            .unwrap();
        world.run(Duration::from_secs(20));
        let expected = refused(ResponseCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            outcomes(&world, client),
            [(ServiceType::ENABLE_HEADER_COMPRESSION, expected)],
            "seed {seed}"
        );
    }
}

#[test]
fn no_more_than_four_requests_are_outstanding() {
    let (mut world, _, client) = up(Transport::Udp);
    world.path(client).block(true);
    for _ in 0..3 {
        world
            .request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION)
            .unwrap();
    }
    // The fourth place is the keepalive's.
    let fourth = world.request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION);
    assert_eq!(fourth, Err(RequestError::TooMany));
}

#[test]
fn outstanding_requests_survive_the_loss_of_the_transport() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        world.path(client).block(true);
        world
            .request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION)
            .unwrap();
        world.run(Duration::from_millis(10));
        world.break_transport(client);
        world.path(client).block(false);
        world.run(Duration::from_secs(30));
        assert_eq!(world.server_stats(server).resumed, 1, "{transport}");
        let expected = refused(ResponseCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            outcomes(&world, client),
            [(ServiceType::ENABLE_HEADER_COMPRESSION, expected)],
            "{transport}"
        );
    }
}

#[test]
fn an_unanswered_request_fails_on_a_stream_after_10_s() {
    let (mut world, server, client) = up(Transport::Tcp);
    world.set_server_up(server, false);
    world
        .request_service(client, ServiceType::ENABLE_HEADER_COMPRESSION)
        .unwrap();
    world.run(Duration::from_millis(9_900));
    assert!(outcomes(&world, client).is_empty());
    world.run(Duration::from_millis(200));
    assert_eq!(
        outcomes(&world, client),
        [(
            ServiceType::ENABLE_HEADER_COMPRESSION,
            ServiceOutcome::NoAnswer
        )]
    );
}

#[test]
fn a_repeat_gets_the_same_answer_for_32_s_and_then_none() {
    let (mut world, server, client) = up(Transport::Udp);
    let request = raw_service(&world, client, 1000, ServiceType::ENABLE_HEADER_COMPRESSION);
    let mut unmatched = 0;
    for (wait, answered) in [(1, true), (1, true), (31, true), (1, false)] {
        world.send_raw(client, request.clone());
        world.run(Duration::from_secs(wait));
        // The client did not ask, so each answer counts as one that matches nothing.
        let now = world.client_stats(client).unmatched;
        assert_eq!(now > unmatched, answered, "after {:?}", world.elapsed());
        unmatched = now;
    }
    assert!(world.dropped(server, DropReason::Repeat));
}

#[test]
fn a_request_far_behind_the_newest_is_never_executed() {
    let (mut world, server, client) = up(Transport::Udp);
    for sequence in [1000, 960, 968, 967] {
        let request = raw_service(
            &world,
            client,
            sequence,
            ServiceType::ENABLE_HEADER_COMPRESSION,
        );
        world.send_raw(client, request);
        world.run(SECOND);
    }
    // 968 is 32 behind and answered; 960 and 967 are further.
    assert_eq!(world.client_stats(client).unmatched, 2);
    assert!(world.dropped(server, DropReason::Repeat));
}

#[test]
fn unknown_requests_are_answered_so_and_unknown_others_are_not() {
    let (mut world, server, client) = up(Transport::Tls);
    let tsid = world.assignment(client).unwrap().tsid;
    let message = |cm_type: u8| {
        let mut bytes = vec![0x10, cm_type, 0, 0];
        bytes.extend(tsid.0.to_be_bytes());
        bytes.extend(7u32.to_be_bytes());
        bytes
    };
    let before = world.client_stats(client);
    world.send_raw(client, message(101));
    world.run(SECOND);
    let after = world.client_stats(client);
    assert_eq!(
        after.unmatched,
        before.unmatched + 1,
        "unsupported_message came back"
    );
    for cm_type in [0, 100, 255, 129, 200] {
        world.send_raw(client, message(cm_type));
    }
    world.run(SECOND);
    assert_eq!(world.client_stats(client).unmatched, after.unmatched);
    assert!(world.dropped(server, DropReason::Unexpected));
    assert!(world.is_bound(client));
}

#[test]
fn the_eighth_message_error_closes_the_transport_but_not_the_tunnel() {
    let (mut world, server, client) = up(Transport::Tls);
    let tsid = world.assignment(client).unwrap().tsid;
    let mut malformed = vec![0x10, 7, 0, 2];
    malformed.extend(tsid.0.to_be_bytes());
    malformed.extend(7u32.to_be_bytes());
    // Padding, twice: it may appear once.
    malformed.extend([0x80, 4, 0, 0, 0x80, 4, 0, 0]);
    for _ in 0..7 {
        world.send_raw(client, malformed.clone());
    }
    world.run(SECOND);
    assert_eq!(world.server_stats(server).resumed, 0);
    world.send_raw(client, malformed);
    world.run(Duration::from_secs(3));
    assert_eq!(world.server_stats(server).message_errors, 8);
    assert_eq!(world.server_stats(server).resumed, 1);
    assert_eq!(world.assignment(client).unwrap().tsid, tsid);
}

#[test]
fn the_clients_eighth_message_error_makes_it_resume() {
    let (mut world, server, client) = up(Transport::Udp);
    let tsid = world.assignment(client).unwrap().tsid;
    let mut malformed = vec![0x10, 5, 0, 1];
    malformed.extend(tsid.0.to_be_bytes());
    malformed.extend(7u32.to_be_bytes());
    // A reason that is not UTF-8.
    malformed.extend([0x80, 3, 0, 1, 0xFF]);
    for _ in 0..8 {
        world.deliver_raw(client, &malformed);
    }
    world.run(SECOND);
    let suspended =
        |(_, event): &(Duration, Event)| *event == Event::Suspended(SuspendReason::MessageErrors);
    assert!(world.events(client).iter().any(suspended));
    assert_eq!(world.server_stats(server).resumed, 1);
}
