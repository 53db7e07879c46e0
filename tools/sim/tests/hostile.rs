//! Clients and servers that break the rules, and people on the path.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use common::tunnel::{SECOND, reasons, up};
use tsc_csm::Transport;
use tsc_csm::client::{DownReason as ClientDown, Event as ClientEvent, SuspendReason};
use tsc_csm::server::{
    AuthPolicy, CloseReason, DownReason, DropReason, Event, SessionState, Verdict,
};
use tsc_sim::{PathConfig, client_config, packet, server_config};
use tsc_tpl::{
    CmType, FramingError, Limits, MessageBuilder, ResponseCode, Sequence, Tlv, TlvType, Tsid, Unit,
    UnitError,
};

use common::{Bench, code, configuration_request, message, proof, resume_request};

#[test]
fn packets_with_another_source_are_dropped_and_counted() {
    let (mut world, server, client) = up(Transport::Tls);
    let victim = world.add_client(client_config(&[Transport::Tls]), PathConfig::CLEAN);
    world.start(victim);
    world.run(SECOND);
    let target = world.assignment(victim).unwrap().addresses[0].address;
    let sources: [IpAddr; 5] = [
        target,
        [10, 0, 0, 77].into(),
        [127, 0, 0, 1].into(),
        [224, 0, 0, 1].into(),
        [0, 0, 0, 0].into(),
    ];
    for source in sources {
        world.send_from(client, source, target, b"forged");
    }
    world.run(SECOND);
    assert_eq!(world.server_stats(server).wrong_source, 5);
    assert!(world.received(victim).is_empty());
    assert!(world.is_bound(client), "the tunnel goes on");
}

#[test]
fn a_client_takes_only_packets_for_its_own_addresses() {
    let (mut world, _, client) = up(Transport::Udp);
    let mine = world.assignment(client).unwrap().addresses[0].address;
    for destination in [
        [10, 0, 0, 2],
        [255, 255, 255, 255],
        [224, 0, 0, 1],
        [10, 0, 0, 255],
    ] {
        world.deliver_raw(
            client,
            &packet::udp([10, 0, 0, 9].into(), destination.into(), b"not mine"),
        );
    }
    world.deliver_raw(client, &packet::udp([10, 0, 0, 9].into(), mine, b"mine"));
    assert_eq!(world.client_stats(client).wrong_destination, 4);
    assert_eq!(world.received(client).len(), 1);
}

#[test]
fn a_wrong_tsid_ends_the_tunnel_of_its_transport_except_on_plain_udp() {
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        let tsid = world.assignment(client).unwrap().tsid;
        world.send_raw(client, message(CmType::KEEPALIVE, Tsid(tsid.0 ^ 1), 5));
        world.run(Duration::from_millis(100));
        if transport == Transport::Udp {
            assert!(world.dropped(server, DropReason::WrongTsid));
            assert_eq!(reasons(&world, server), []);
        } else {
            assert_eq!(
                reasons(&world, server),
                [DownReason::WrongTsid],
                "{transport}"
            );
        }
        assert_eq!(world.server_stats(server).wrong_tsid, 1);
    }
}

#[test]
fn a_server_that_sends_a_wrong_tsid_loses_its_client_except_on_plain_udp() {
    for transport in Transport::ALL {
        let (mut world, _, client) = up(transport);
        let tsid = world.assignment(client).unwrap().tsid;
        world.deliver_raw(
            client,
            &message(CmType::CONFIGURATION_RELEASE_REQUEST, Tsid(tsid.0 ^ 1), 5),
        );
        let down = world.down_reason(client);
        let expected = if transport == Transport::Udp {
            None
        } else {
            Some(&ClientDown::WrongTsid)
        };
        assert_eq!(down, expected, "{transport}");
    }
}

#[test]
fn a_forged_release_without_the_tsid_ends_nothing_on_plain_udp() {
    let (mut world, server, client) = up(Transport::Udp);
    let outside = world.assignment(client).unwrap().nat_view.unwrap();
    for guess in 0..100 {
        let release = message(CmType::CONFIGURATION_RELEASE_REQUEST, Tsid(guess), 5);
        world.stranger(server, outside, release);
    }
    world.run(SECOND);
    assert_eq!(world.server_stats(server).wrong_tsid, 100);
    assert_eq!(world.server_stats(server).sessions, 1);
    assert!(world.is_bound(client));
}

#[test]
fn broken_framing_costs_the_stream_and_not_the_tunnel() {
    let (mut world, server, client) = up(Transport::Tcp);
    let tsid = world.assignment(client).unwrap().tsid;
    world.send_raw(client, b"GET / HTTP/1.1\r\n\r\n".to_vec());
    world.run(Duration::from_secs(5));
    let framing = |(_, event): &(Duration, Event)| {
        matches!(
            event,
            Event::CloseBinding {
                reason: CloseReason::Framing(FramingError::Unit(_)),
                ..
            }
        )
    };
    assert!(world.server_events(server).iter().any(framing));
    assert_eq!(world.server_stats(server).resumed, 1);
    assert_eq!(world.assignment(client).unwrap().tsid, tsid);
}

#[test]
fn redundancy_frames_without_a_grant_are_errors() {
    let inner = packet::udp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), b"twice");
    let mut frame = vec![0x1C, 1, 0, 0, 0, 1];
    frame.extend(&inner);
    for transport in Transport::ALL {
        let (mut world, server, client) = up(transport);
        world.send_raw(client, frame.clone());
        world.run(Duration::from_secs(3));
        if transport.is_stream() {
            let closed = |(_, event): &(Duration, Event)| {
                matches!(
                    event,
                    Event::CloseBinding {
                        reason: CloseReason::UnexpectedFrame,
                        ..
                    }
                )
            };
            assert!(
                world.server_events(server).iter().any(closed),
                "{transport}"
            );
            assert_eq!(world.server_stats(server).resumed, 1);
        } else {
            assert!(
                world.dropped(server, DropReason::UnexpectedFrame),
                "{transport}"
            );
        }
        assert_eq!(world.server_stats(server).forwarded, 0);
        world.deliver_raw(client, &frame);
        let suspended = |(_, event): &(Duration, ClientEvent)| {
            *event == ClientEvent::Suspended(SuspendReason::UnexpectedFrame)
        };
        assert_eq!(
            world.events(client).iter().any(suspended),
            transport.is_stream()
        );
        assert!(world.received(client).is_empty());
    }
}

#[test]
fn a_second_configuration_on_a_bound_transport_is_malformed() {
    let (mut world, server, client) = up(Transport::Dtls);
    let mut request = Vec::new();
    MessageBuilder::new(
        CmType::CONFIGURATION_REQUEST,
        Tsid::UNASSIGNED,
        Sequence(0xABCD_EF00),
    )
    .tlv(Tlv::ProtocolRevision(1))
    .encode(&mut request)
    .unwrap();
    world.send_raw(client, request);
    world.run(SECOND);
    assert_eq!(world.server_stats(server).sessions, 1);
    assert_eq!(world.server_stats(server).message_errors, 1);
    assert!(world.is_bound(client));
}

#[test]
fn every_rejected_resume_looks_the_same() {
    let mut bench = Bench::new();
    let (_, tsid, key) = bench.tunnel(Transport::Tls);
    let good = proof(&key, tsid, 5);
    let elsewhere = bench.open(Transport::Tls);
    let (_, answers) = bench.say(elsewhere, &resume_request(tsid, 5, &good));
    assert_eq!(code(&answers[0]), ResponseCode::SUCCESS);
    let stranger = Tsid(tsid.0 ^ 2);
    let cases = [
        ("bad proof", Transport::Tls, tsid, 6, [0; 32]),
        ("old counter", Transport::Tls, tsid, 5, good),
        (
            "unknown tunnel",
            Transport::Tls,
            stranger,
            6,
            proof(&key, stranger, 6),
        ),
        (
            "weaker transport",
            Transport::Tcp,
            tsid,
            6,
            proof(&key, tsid, 6),
        ),
    ];
    for (name, transport, claimed, counter, mac) in cases {
        let binding = bench.open(transport);
        let (_, answers) = bench.say(binding, &resume_request(claimed, counter, &mac));
        assert_eq!(code(&answers[0]), ResponseCode::RESUME_REJECTED, "{name}");
        // The header repeats what was asked; what follows is the same to the bit.
        assert_eq!(answers[0][16..], [0, 14, 0, 2, 0, 9], "{name}");
    }
}

#[test]
fn the_proof_is_that_of_the_specification_and_is_used_up() {
    let mut bench = Bench::new();
    let (first, tsid, key) = bench.tunnel(Transport::Dtls);
    let request = resume_request(tsid, 1, &proof(&key, tsid, 1));
    let second = bench.open(Transport::Dtls);
    let (_, answers) = bench.say(second, &request);
    assert_eq!(code(&answers[0]), ResponseCode::SUCCESS);
    let closed = Event::CloseBinding {
        binding: first,
        reason: CloseReason::Superseded,
    };
    assert!(std::iter::from_fn(|| bench.server.poll_event()).any(|event| event == closed));
    // A retransmission gets the same answer; the proof is worth nothing to anyone else.
    let (_, again) = bench.say(second, &request);
    assert_eq!(again, answers);
    let third = bench.open(Transport::Dtls);
    let (_, stolen) = bench.say(third, &request);
    assert_eq!(code(&stolen[0]), ResponseCode::RESUME_REJECTED);
    // Units of the earlier binding are ignored.
    let (verdict, answers) = bench.say(first, &message(CmType::KEEPALIVE, tsid, 9));
    assert_eq!(
        (verdict, answers.len()),
        (Verdict::Dropped(DropReason::UnknownBinding), 0)
    );
}

#[test]
fn of_parallel_resumes_the_highest_counter_wins() {
    let mut bench = Bench::new();
    let (_, tsid, key) = bench.tunnel(Transport::Tls);
    let [low, high] = [bench.open(Transport::Tls), bench.open(Transport::Tls)];
    let (_, won) = bench.say(high, &resume_request(tsid, 9, &proof(&key, tsid, 9)));
    let (_, lost) = bench.say(low, &resume_request(tsid, 8, &proof(&key, tsid, 8)));
    assert_eq!(code(&won[0]), ResponseCode::SUCCESS);
    assert_eq!(code(&lost[0]), ResponseCode::RESUME_REJECTED);
    let session = bench.server.session_of(high).unwrap();
    assert_eq!(bench.server.binding_of(session), Some(high));
}

#[test]
fn a_wrong_first_unit_closes_a_stream_and_is_dropped_elsewhere() {
    let mut bench = Bench::new();
    let keepalive = message(CmType::KEEPALIVE, Tsid(5), 1);
    let inner = packet::udp([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), b"early");
    for first in [&keepalive, &inner] {
        let stream = bench.open(Transport::Tls);
        let (verdict, _) = bench.say(stream, first);
        let reason = CloseReason::Framing(FramingError::WrongFirstUnit);
        assert_eq!(verdict, Verdict::Close(reason));
        let datagram = bench.open(Transport::Dtls);
        let (verdict, _) = bench.say(datagram, first);
        assert_eq!(verdict, Verdict::Dropped(DropReason::NotConfigured));
    }
}

#[test]
fn eight_malformed_requests_close_a_transport_that_has_no_tunnel_yet() {
    let mut bench = Bench::new();
    let binding = bench.open(Transport::Tls);
    for sequence in 0..8 {
        // No Protocol_Revision.
        let mut request = message(CmType::KEEPALIVE, Tsid::UNASSIGNED, sequence);
        request[1] = CmType::CONFIGURATION_REQUEST.0;
        let (verdict, answers) = bench.say(binding, &request);
        assert_eq!(code(&answers[0]), ResponseCode::MALFORMED);
        assert_eq!(
            matches!(verdict, Verdict::Close(CloseReason::MessageErrors)),
            sequence == 7,
            "{sequence}"
        );
    }
}

#[test]
fn claims_are_not_authorized() {
    let mut bench = Bench::new();
    let binding = bench.open(Transport::Tls);
    let mut request = Vec::new();
    MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
        .tlv(Tlv::ProtocolRevision(1))
        .tlv(Tlv::TunnelSessionId(Tsid(9)))
        .tlv(Tlv::TunnelTag(tsc_tpl::TunnelTag::new(&[1; 16])))
        .encode(&mut request)
        .unwrap();
    let (_, answers) = bench.say(binding, &request);
    assert_eq!(code(&answers[0]), ResponseCode::NOT_AUTHORIZED);
    assert_eq!(bench.server.stats().sessions, 0);
}

#[test]
fn a_revision_below_ours_is_unsupported_and_one_above_is_met_with_ours() {
    let mut bench = Bench::new();
    for (revision, expected) in [
        (0, ResponseCode::UNSUPPORTED_VERSION),
        (1, ResponseCode::SUCCESS),
        (9, ResponseCode::SUCCESS),
    ] {
        let binding = bench.open(Transport::Tls);
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(revision))
            .encode(&mut request)
            .unwrap();
        let (_, answers) = bench.say(binding, &request);
        assert_eq!(code(&answers[0]), expected, "revision {revision}");
    }
}

#[test]
fn the_clients_type_9_is_taken_for_11_and_answered_with_10() {
    let mut bench = Bench::new();
    let (binding, tsid, _) = bench.tunnel(Transport::Tls);
    let mut request = Vec::new();
    MessageBuilder::new(CmType::SERVICE_REQUEST, tsid, Sequence(3))
        .tlv(Tlv::ServiceType(tsc_tpl::ServiceType::ENABLE_DDT))
        .encode(&mut request)
        .unwrap();
    let (_, answers) = bench.say(binding, &request);
    assert_eq!(answers[0][1], CmType::SERVICE_RESPONSE.0);
    assert_eq!(code(&answers[0]), ResponseCode::SERVICE_UNAVAILABLE);
}

#[test]
fn a_reused_udp_port_makes_a_new_tunnel_with_a_cookie_and_leaves_the_old_one_without_transport() {
    let mut bench = Bench::new();
    let listener = bench
        .server
        .add_listener(0, ([203, 0, 113, 1], 5060).into())
        .unwrap();
    let peer = SocketAddr::from(([192, 0, 2, 1], 4000));
    let request = |sequence: u32, cookie: Option<&[u8]>| {
        let mut bytes = Vec::new();
        MessageBuilder::new(
            CmType::CONFIGURATION_REQUEST,
            Tsid::UNASSIGNED,
            Sequence(sequence),
        )
        .tlv(Tlv::ProtocolRevision(1))
        .tlvs(cookie.map(|cookie| Tlv::Cookie(tsc_tpl::Cookie::new(cookie).unwrap())))
        .pad_to(128)
        .encode_datagram(&mut bytes)
        .unwrap();
        bytes
    };
    // As an owner of a socket does it: look the address up, and treat who has no binding as a stranger.
    let say = |bench: &mut Bench, bytes: &[u8]| -> Option<Bytes> {
        match bench.server.lookup(listener, peer) {
            Some(binding) => _ = bench.say_quietly(binding, bytes),
            None => {
                _ = bench
                    .server
                    .handle_unbound(bench.now, listener, peer, bytes)
            }
        }
        bench.server.poll_transmit().map(|transmit| transmit.bytes)
    };
    let cookie_of = |answer: &[u8]| {
        let Ok(Unit::Control(answer)) = Unit::decode_datagram(answer, &Limits::WIDEST) else {
            panic!()
        };
        answer.raw_value(TlvType::COOKIE).unwrap().to_vec()
    };
    let cookie = cookie_of(&say(&mut bench, &request(1, None)).unwrap());
    let granted = say(&mut bench, &request(2, Some(&cookie))).unwrap();
    assert_eq!(code(&granted), ResponseCode::SUCCESS);
    let first = bench.server.lookup(listener, peer).unwrap();
    let tunnel = bench.server.session_of(first).unwrap();
    let Ok(Unit::Control(header)) = Unit::decode_datagram(&granted, &Limits::WIDEST) else {
        panic!()
    };
    let confirm = message(CmType::KEEPALIVE, header.header().tsid, 3);
    assert!(say(&mut bench, &confirm).is_some());

    // The same request again is a duplicate; one that is just behind it is a late one.
    assert_eq!(say(&mut bench, &request(2, Some(&cookie))), Some(granted));
    assert_eq!(say(&mut bench, &request(1, Some(&cookie))), None);
    // A program that was restarted draws another sequence. It has no cookie at first.
    let asked = say(&mut bench, &request(0x7000_0000, None)).unwrap();
    assert_eq!(code(&asked), ResponseCode::COOKIE_REQUIRED);
    assert_eq!(bench.server.lookup(listener, peer), Some(first));
    let cookie = cookie_of(&asked);
    let granted = say(&mut bench, &request(0x7000_0001, Some(&cookie))).unwrap();
    assert_eq!(code(&granted), ResponseCode::SUCCESS);
    let second = bench.server.lookup(listener, peer).unwrap();
    assert_ne!(bench.server.session_of(second), Some(tunnel));
    assert_eq!(bench.server.binding_of(tunnel), None);
    assert_eq!(bench.server.stats().sessions, 2);
}

#[test]
fn a_packet_alone_is_activity_and_a_forged_one_is_none() {
    for (source, expected) in [
        ([10, 0, 0, 1], SessionState::Active),
        ([10, 0, 0, 2], SessionState::Persistent),
    ] {
        let mut bench = Bench::new();
        let (binding, _, _) = bench.tunnel(Transport::Dtls);
        let session = bench.server.session_of(binding).unwrap();
        // Half the keepalive time, and then a little more than the other half.
        bench.now += Duration::from_secs(25);
        let inner = packet::udp(source.into(), [10, 0, 0, 9].into(), b"media");
        let forwarded = bench.say_quietly(binding, &inner) == Verdict::Forward(session);
        assert_eq!(forwarded, expected == SessionState::Active);
        bench.now += Duration::from_secs(30);
        bench.catch_up();
        assert_eq!(bench.server.state(session), Some(expected));
    }
}

#[test]
fn a_resume_by_another_identity_or_of_a_released_tunnel_is_rejected_like_any_other() {
    let mut config = server_config(9);
    config.interfaces[0].auth = AuthPolicy::Mtls;
    let mut bench = Bench::with(config);
    let alice = bench.open_as(Transport::Tls, Some("alice"));
    let (tsid, key) = bench.configure(alice);
    let resumed = |bench: &mut Bench, name, counter| {
        let binding = bench.open_as(Transport::Tls, name);
        let request = resume_request(tsid, counter, &proof(&key, tsid, counter));
        bench.say(binding, &request).1.swap_remove(0)
    };
    for (name, counter) in [(Some("mallory"), 1), (None, 2)] {
        let answer = resumed(&mut bench, name, counter);
        assert_eq!(answer[16..], [0, 14, 0, 2, 0, 9], "{name:?}");
    }
    let answer = resumed(&mut bench, Some("alice"), 3);
    assert_eq!(code(&answer), ResponseCode::SUCCESS);
    let session = bench.server.route([10, 0, 0, 1].into()).unwrap();
    bench.server.release(bench.now, session, None);
    assert!(bench.server.poll_transmit().is_some(), "the release");
    let answer = resumed(&mut bench, Some("alice"), 4);
    assert_eq!(answer[16..], [0, 14, 0, 2, 0, 9]);
}

#[test]
fn a_configuration_just_behind_the_one_that_made_the_tunnel_is_malformed_where_nothing_is_duplicated()
 {
    for transport in [Transport::Tcp, Transport::Tls, Transport::Dtls] {
        let mut bench = Bench::new();
        let (binding, _, _) = bench.tunnel(transport);
        let (_, answers) = bench.say(binding, &configuration_request(0));
        assert_eq!(code(&answers[0]), ResponseCode::MALFORMED, "{transport}");
        assert_eq!(bench.server.stats().message_errors, 1);
    }
}

#[test]
fn a_source_beyond_its_rate_is_answered_no_more_often_than_strangers_and_fills_no_log() {
    let mut config = server_config(9);
    config.limits.requests_per_second = 10;
    config.limits.request_burst = 1;
    config.limits.stateless_per_second = 25;
    let mut bench = Bench::with(config);
    let local = SocketAddr::from(([203, 0, 113, 1], 5060));
    let listener = bench.server.add_listener(0, local).unwrap();
    let mut say = |port: u16, cookie: Option<&[u8]>| {
        let mut bytes = Vec::new();
        let configuration = CmType::CONFIGURATION_REQUEST;
        MessageBuilder::new(configuration, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(1))
            .tlvs(cookie.map(|cookie| Tlv::Cookie(tsc_tpl::Cookie::new(cookie).unwrap())))
            .pad_to(128)
            .encode_datagram(&mut bytes)
            .unwrap();
        let peer = SocketAddr::from(([192, 0, 2, 1], port));
        let _ = bench
            .server
            .handle_unbound(bench.now, listener, peer, &bytes);
        let answer = bench.server.poll_transmit().map(|transmit| transmit.bytes);
        let told = std::iter::from_fn(|| bench.server.poll_event()).count();
        (answer, told)
    };
    let cookies: Vec<_> = (1..=20)
        .map(|port| {
            let answer = say(port, None).0.unwrap();
            let Ok(Unit::Control(asked)) = Unit::decode_datagram(&answer, &Limits::WIDEST) else {
                panic!()
            };
            (port, asked.raw_value(TlvType::COOKIE).unwrap().to_vec())
        })
        .collect();
    let answers: Vec<_> = cookies
        .iter()
        .map(|(port, cookie)| say(*port, Some(cookie)))
        .map(|(answer, told)| (answer.map(|answer| code(&answer)), told))
        .collect();
    // One is within the rate; of 25 answers to strangers 20 were cookies.
    assert_eq!(answers[0], (Some(ResponseCode::SUCCESS), 1));
    assert_eq!(answers[1..6], [(Some(ResponseCode::BUSY), 0); 5]);
    assert_eq!(answers[6..], [(None, 0); 14]);
}

#[test]
fn packets_beyond_the_tunnels_own_inner_mtu_are_errors() {
    for transport in [Transport::Tls, Transport::Dtls] {
        let mut bench = Bench::new();
        let binding = bench.open(transport);
        let mut request = Vec::new();
        let configuration = CmType::CONFIGURATION_REQUEST;
        MessageBuilder::new(configuration, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(1))
            .tlv(Tlv::InnerMtu(600))
            .encode(&mut request)
            .unwrap();
        let _ = bench.say(binding, &request);
        let session = bench.server.session_of(binding).unwrap();
        let mut say = |payload: usize| {
            let (from, to) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
            bench.say_quietly(binding, &packet::udp(from, to, &vec![0; payload]))
        };
        assert_eq!(say(600 - 28), Verdict::Forward(session));
        let error = UnitError::InnerMtu { len: 601, mtu: 600 };
        let expected = if transport.is_stream() {
            Verdict::Close(CloseReason::Framing(error.into()))
        } else {
            Verdict::Dropped(DropReason::Datagram(error.into()))
        };
        assert_eq!(say(601 - 28), expected);
        // The tunnel stays, with or without its transport.
        assert_eq!(bench.server.stats().sessions, 1);
        assert_eq!(bench.server.stats().bad_units, 1);
    }
}
