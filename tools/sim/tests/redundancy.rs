//! Redundancy by copies over datagram tunnels (spec 6 and 7, "Redundancy"; SDK guide, "Enabling Redundancy").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use common::asking::{Asking, refusal, request, success};
use common::call::{Call, PACE};
use common::services::{self, address};
use common::tunnel::{SECOND, up_with};
use tsc_csm::Transport;
use tsc_csm::client::{Event, Redundancy, RequestError};
use tsc_csm::server::{DropReason, Event as ServerEvent, ServerConfig, Verdict};
use tsc_csm::{FlowKey, InnerTransport, MAX_FLOWS};
use tsc_sim::{
    ClientId, Firewall, LinkConfig, PathConfig, Rng, ServerId, World, client_config, packet,
    server_config,
};
use tsc_tpl::{
    CmType, ConnectionInfo, IpPacket, Limits, MessageBuilder, RedundancyEntry, RedundancyFactor,
    RedundancyFrame, RedundancyMethod, ResponseCode, Sequence, ServiceList, ServiceType, Tlv,
    TransportCode, Unit,
};

const SERVICE: ServiceType = ServiceType::ENABLE_REDUNDANCY;
const DATAGRAMS: [Transport; 2] = [Transport::Udp, Transport::Dtls];

fn offering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![SERVICE];
    config
}

/// What a client was told of the service: available, enabled.
fn told(world: &World, client: ClientId) -> Vec<(bool, bool)> {
    services::told(world, client, SERVICE)
}

fn granted(world: &World, client: ClientId) -> Option<u8> {
    world.redundancy(client)?.granted
}

/// Whether the server holds the service for the client's tunnel.
fn holds(world: &World, server: ServerId, client: ClientId) -> bool {
    let tsid = world.assignment(client).unwrap().tsid;
    let session = world.session(server, tsid).unwrap();
    world.server(server).has_service(session, SERVICE)
}

/// Parts of a call of which one end has redundancy by copies, and losses.
impl Call {
    fn repeated(transport: Transport, redundancy: Redundancy) -> Self {
        Self::seeded(13, transport, redundancy)
    }

    fn seeded(seed: u64, transport: Transport, redundancy: Redundancy) -> Self {
        let far = client_config(&[Transport::Tls]);
        let near = client_config(&[transport]);
        let mut call = Self::between(seed, offering(), near, far, transport);
        call.payload = 172;
        call.world.set_redundancy(call.near, redundancy).unwrap();
        call.world.run(SECOND);
        call
    }

    fn network(&mut self, loss: f64, burst: f64) {
        self.world.path(self.near).set(LinkConfig {
            burst,
            ..LinkConfig::lossy(loss)
        });
    }

    /// Of all that was sent to a client, the share that never came. Nothing may come twice.
    fn lost(&mut self, client: ClientId) -> f64 {
        self.world.run(SECOND);
        let came = self.came(client);
        let different: HashSet<u32> = came.iter().copied().collect();
        assert_eq!(came.len(), different.len(), "a packet came twice");
        let came = u32::try_from(came.len()).unwrap();
        f64::from(self.sent - came) / f64::from(self.sent)
    }
}

#[test]
fn it_is_in_force_where_it_is_assigned_and_the_application_is_told() {
    for transport in DATAGRAMS {
        let (mut world, server, client) = up_with(offering(), client_config(&[transport]));
        world.set_redundancy(client, Redundancy::Copies(2)).unwrap();
        assert_eq!(told(&world, client), [], "accepted is not in force");
        world.run(SECOND);
        assert_eq!(told(&world, client), [(true, true)], "{transport}");
        assert_eq!(granted(&world, client), Some(2));
        assert!(holds(&world, server, client));
        world.set_redundancy(client, Redundancy::Off).unwrap();
        world.run(SECOND);
        assert!(!holds(&world, server, client), "{transport}");
        assert_eq!(world.redundancy(client), None);
    }
}

#[test]
fn without_the_service_traffic_goes_as_ever() {
    for (config, transport) in [
        (server_config(9), Transport::Udp),
        (server_config(9), Transport::Tls),
    ] {
        let (mut world, _, client) = up_with(config, client_config(&[transport]));
        world.set_redundancy(client, Redundancy::Copies(1)).unwrap();
        world.run(SECOND);
        assert_eq!(told(&world, client), [(false, false)], "{transport}");
        let own = address(&world, client);
        assert!(world.send(client, own, b"to myself"));
        world.run(SECOND);
        assert_eq!(world.received(client).len(), 1);
        assert_eq!(world.redundancy(client).unwrap().sent, 0);
        world.run(SECOND * 60);
        assert_eq!(told(&world, client).len(), 1, "it does not ask for ever");
    }
}

/// The target, and theory: of a packet and its copies, all must be lost.
#[test]
fn what_is_left_of_independent_losses_is_what_theory_says() {
    for (loss, copies) in [(0.05, 0), (0.05, 1), (0.1, 1), (0.1, 2), (0.2, 2)] {
        let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(copies));
        call.network(loss, 1.0);
        call.talk(20_000);
        let expected: f64 = loss.powi(i32::from(copies) + 1);
        for client in [call.near, call.far] {
            let left = call.lost(client);
            // Three standard deviations of 20,000 packets, and a little for losses that touch each other.
            let slack = 4.0 * (expected / 20_000.0).sqrt();
            assert!(
                (left - expected).abs() < slack,
                "loss {loss}, {copies} copies: {left} instead of {expected}"
            );
        }
    }
    let mut call = Call::repeated(Transport::Dtls, Redundancy::Copies(2));
    call.network(0.1, 1.0);
    call.talk(10_000);
    let (near, far) = (call.near, call.far);
    assert!(call.lost(near) < 0.002 && call.lost(far) < 0.002);
    let status = call.world.redundancy(near).unwrap();
    assert!(
        status.recovered > 800 && status.duplicates > 10_000,
        "{status:?}"
    );
    assert!(call.world.server_stats(call.server).recovered > 800);
}

#[test]
fn a_burst_longer_than_the_copies_is_lost_in_part() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    call.network(0.1, 3.0);
    call.talk(20_000);
    // After Gilbert: 0.1 * (1 - 1/3)^2 = 0.044.
    let near = call.near;
    let left = call.lost(near);
    assert!((0.035..0.055).contains(&left), "{left}");
}

#[test]
fn duplicates_and_disorder_of_the_network_change_nothing() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    call.world.path(call.near).set(LinkConfig {
        duplicate: 0.1,
        reorder: 0.1,
        jitter: Duration::from_millis(50),
        ..LinkConfig::lossy(0.05)
    });
    call.talk(5_000);
    let (near, far) = (call.near, call.far);
    assert!(call.lost(near) < 0.002 && call.lost(far) < 0.002);
    let report = call.world.redundancy(near).unwrap().downlink;
    let lost = f64::from(report.expected - report.originals) / f64::from(report.expected);
    assert!(
        (0.03..0.07).contains(&lost),
        "what is late is not lost: {lost}"
    );
}

#[test]
fn adaptive_costs_next_to_nothing_on_a_clean_network() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Adaptive { most: 2 });
    call.talk(50 * 60);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!(
        (status.granted, status.sending, status.copies),
        (Some(0), 0, 0)
    );
    assert_eq!(status.sent, 3_000);
    let keepalives = call.world.client_stats(call.near).reports;
    assert!((110..130).contains(&keepalives), "{keepalives} in a minute");
    // 6 bytes a packet of 200, and two Keepalives of 16 bytes a second with their answers of 46, in UDP.
    let uplink = (3_000 * 6 + keepalives * (16 + 28)) as f64 / (3_000 * 228) as f64;
    let downlink = (3_000 * 6 + keepalives * (46 + 28)) as f64 / (3_000 * 228) as f64;
    assert!(uplink < 0.05 && downlink < 0.05, "{uplink} {downlink}");
}

#[test]
fn adaptive_follows_the_losses_of_each_direction() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Adaptive { most: 2 });
    let lossy = LinkConfig::lossy(0.1);
    call.world.path(call.near).up.config = lossy;
    call.talk(50 * 10);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!((status.granted, status.sending), (Some(0), 2), "up only");
    call.world.path(call.near).up.config = LinkConfig::CLEAN;
    call.world.path(call.near).down.config = lossy;
    call.talk(50 * 20);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!((status.granted, status.sending), (Some(2), 0), "down only");
    call.world.path(call.near).set(LinkConfig::CLEAN);
    call.talk(50 * 15);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!((status.granted, status.sending), (Some(0), 0), "given back");
    assert_eq!(
        told(&call.world, call.near),
        [(true, true)],
        "that is not news"
    );
}

#[test]
fn adaptive_is_as_good_as_two_copies_at_ten_percent() {
    let mut call = Call::repeated(Transport::Dtls, Redundancy::Adaptive { most: 2 });
    call.network(0.1, 1.0);
    call.talk(50 * 5);
    let begun = call.sent;
    call.talk(10_000);
    call.world.run(SECOND);
    for client in [call.near, call.far] {
        let came =
            call.world.received(client).iter().filter(|(_, payload)| {
                u32::from_be_bytes(*payload.first_chunk().unwrap()) >= begun
            });
        let lost = 10_000 - came.count();
        // 0.1 % with two copies; and some seconds in which one seems to be enough.
        assert!(lost < 40, "{lost} of 10,000");
    }
}

#[test]
fn an_application_may_limit_what_is_adapted() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Adaptive { most: 1 });
    call.network(0.2, 2.0);
    call.talk(50 * 20);
    let status = call.world.redundancy(call.near).unwrap();
    assert_eq!((status.granted, status.sending), (Some(1), 1));
}

#[test]
fn it_survives_a_resume() {
    for transport in DATAGRAMS {
        let mut call = Call::repeated(transport, Redundancy::Copies(2));
        call.talk(100);
        call.world.break_transport(call.near);
        call.world.run(SECOND * 5);
        assert_eq!(call.world.server_stats(call.server).resumed, 1);
        assert_eq!(told(&call.world, call.near).len(), 1, "{transport}");
        call.network(0.1, 1.0);
        let before = call.world.received(call.near).len();
        call.talk(2_000);
        call.world.run(SECOND);
        let came = call.world.received(call.near).len() - before;
        assert!(came >= 1_990, "{transport}: {came}");
        assert!(holds(&call.world, call.server, call.near));
    }
}

/// What is repeated in datagrams goes over further streams where the tunnel is one, and the other way round.
#[test]
fn it_changes_its_way_with_the_tunnel() {
    let mut world = World::new(3);
    let server = world.add_server(offering());
    let config = client_config(&[Transport::Udp, Transport::Tcp]);
    let client = world.add_client(config, PathConfig::CLEAN);
    world.start(client);
    world.run(SECOND);
    world.set_redundancy(client, Redundancy::Copies(2)).unwrap();
    world.run(SECOND);
    assert_eq!(told(&world, client), [(true, true)]);
    world.path(client).firewall.datagrams = false;
    world.break_transport(client);
    world.run(SECOND * 30);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Tcp);
    assert_eq!(told(&world, client)[1..], [(true, false), (true, true)]);
    assert!(holds(&world, server, client));
    let sessions = |world: &World| world.server_stats(server).sessions;
    assert_eq!(sessions(&world), 3, "two further streams");
    let own = address(&world, client);
    world.send(client, own, b"on a stream");
    world.run(SECOND);
    assert_eq!(world.received(client).len(), 1);
    world.path(client).firewall = Firewall {
        streams: false,
        datagrams: true,
        protected: true,
    };
    world.break_transport(client);
    world.run(SECOND * 30);
    assert_eq!(world.assignment(client).unwrap().transport, Transport::Udp);
    assert_eq!(told(&world, client).last(), Some(&(true, true)));
    assert!(holds(&world, server, client));
    world.run(SECOND * 30);
    assert_eq!(sessions(&world), 1);
}

#[test]
fn what_a_resume_does_not_list_is_asked_for_anew() {
    let mut asking = asked();
    grant(&mut asking, 1);
    assert_eq!(granted_to(&asking), Some(1));
    asking.lose();
    let active = Tlv::ActiveServices(ServiceList::new(&[]).unwrap());
    asking.answer(success(&asking.request.clone()).tlv(active));
    assert_eq!(granted_to(&asking), None);
    last_request(&mut asking);
    grant(&mut asking, 1);
    assert_eq!(granted_to(&asking), Some(1));
}

fn granted_to(asking: &Asking) -> Option<u8> {
    asking.client.redundancy(packet::FLOW).unwrap().granted
}

/// A client with a tunnel over DTLS that has asked for two copies.
fn asked() -> Asking {
    let mut asking = Asking::new(Transport::Dtls);
    asking.answer(success(&asking.request.clone()));
    let (now, local) = (asking.now, ([10, 0, 0, 1], packet::FLOW.port).into());
    asking
        .client
        .set_redundancy(now, packet::FLOW, local, Redundancy::Copies(2))
        .unwrap();
    last_request(&mut asking);
    asking
}

/// The service that the last request is about.
fn service(asking: &mut Asking) -> Option<ServiceType> {
    let transmit = asking.client.poll_transmit()?;
    let Ok(Unit::Control(message)) = Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST) else {
        return None;
    };
    asking.request = message.header();
    message.parse().unwrap().service_type()
}

/// After a resume the server repeats the answer that it has stored, of what the resume has ended.
#[test]
fn a_stored_answer_of_the_transport_before_is_not_believed() {
    let mut asking = asked();
    asking.lose();
    let active = Tlv::ActiveServices(ServiceList::new(&[]).unwrap());
    asking.answer(success(&asking.request.clone()).tlv(active));
    last_request(&mut asking);
    grant(&mut asking, 2);
    assert_eq!(granted_to(&asking), None);
    // It is ended, whatever it is, and begun again.
    assert_eq!(service(&mut asking), Some(SERVICE.disable()));
    let ended = refusal(&asking.request, ResponseCode::SUCCESS);
    asking.answer(ended.tlv(Tlv::ServiceType(SERVICE.disable())));
    assert_eq!(service(&mut asking), Some(SERVICE));
    grant(&mut asking, 2);
    assert_eq!(granted_to(&asking), Some(2));
}

/// The server may hold it: its frames are taken, and it is ended until that is answered.
#[test]
fn without_an_answer_nothing_is_taken_for_granted() {
    let mut asking = asked();
    grant(&mut asking, 2);
    let (now, local) = (asking.now, ([10, 0, 0, 1], packet::FLOW.port).into());
    asking
        .client
        .set_redundancy(now, packet::FLOW, local, Redundancy::Copies(1))
        .unwrap();
    let mut disables = 0;
    let mut seen = asking.request.sequence;
    for _ in 0..200 {
        while let Some(transmit) = asking.client.poll_transmit() {
            let unit = Unit::decode_datagram(&transmit.bytes, &Limits::WIDEST);
            let Ok(Unit::Control(message)) = unit else {
                panic!("{unit:?}");
            };
            let asked = message.parse().unwrap().service_type();
            let sequence = message.header().sequence;
            if asked == Some(SERVICE.disable()) && sequence != seen {
                disables += 1;
                seen = sequence;
            }
            // Only what is not about the service is answered.
            if asked.is_none() {
                asking.answer(refusal(&message.header(), ResponseCode::SUCCESS));
            }
        }
        asking.now = asking.client.poll_timeout().unwrap();
        asking.client.handle_timeout(asking.now);
        let own = [10, 0, 0, 1].into();
        let bytes = packet::udp([10, 0, 0, 9].into(), own, b"still there");
        let entry = RedundancyEntry {
            sequence: Sequence(1),
            packet: IpPacket::decode(&bytes, &Limits::WIDEST).unwrap(),
        };
        let mut frame = Vec::new();
        RedundancyFrame::encode_datagram(&[entry], &Limits::WIDEST, &mut frame).unwrap();
        assert_eq!(asking.answer_bytes(&frame), None, "it is no error");
    }
    assert!(disables > 2, "{disables}");
    assert_eq!(granted_to(&asking), None);
}

/// Where nothing comes back but the figures, losing them says nothing about the transport.
#[test]
fn adaptive_redundancy_of_one_way_media_does_not_disturb_the_tunnel() {
    let suspended = |redundancy| {
        let mut call = Call::repeated(Transport::Udp, redundancy);
        call.network(0.1, 1.0);
        let far = address(&call.world, call.far);
        for _ in 0..50 * 120 {
            call.world.send(call.near, far, &[0; 172]);
            call.world.run(PACE);
        }
        let events = call.world.events(call.near).iter();
        let suspended = events.filter(|(_, event)| matches!(event, Event::Suspended(_)));
        (
            suspended.count(),
            call.world.server_stats(call.server).resumed,
        )
    };
    let (without, resumed_without) = suspended(Redundancy::Copies(2));
    let (with, resumed_with) = suspended(Redundancy::Adaptive { most: 2 });
    assert!(
        with <= without + 1,
        "{with} suspensions instead of {without}"
    );
    assert!(
        resumed_with <= resumed_without + 4,
        "{resumed_with} resumes instead of {resumed_without}"
    );
}

fn last_request(asking: &mut Asking) {
    while let Some(header) = request(&mut asking.client) {
        asking.request = header;
    }
}

fn grant(asking: &mut Asking, copies: u8) {
    let granted = refusal(&asking.request, ResponseCode::SUCCESS)
        .tlv(Tlv::ServiceType(SERVICE))
        .tlv(Tlv::RedundancyFactor(
            RedundancyFactor::new(copies).unwrap(),
        ))
        .tlv(Tlv::RedundancyMethod(RedundancyMethod::COPIES));
    asking.answer(granted);
}

#[test]
fn a_server_may_grant_less_and_never_more() {
    for (granted, expected) in [(1, Some(1)), (0, Some(0)), (3, None)] {
        let mut asking = asked();
        grant(&mut asking, granted);
        assert_eq!(granted_to(&asking), expected);
        // Settled, and not asked for again; what cannot be is ended, as nobody knows what the server holds.
        let next = request(&mut asking.client);
        assert_eq!(next.is_some(), expected.is_none());
    }
}

#[test]
fn frames_that_were_under_way_when_it_ended_are_taken() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    call.talk(10);
    let frame = frame(&call.world, call.near, 100, 0, None);
    call.world
        .set_redundancy(call.near, Redundancy::Off)
        .unwrap();
    call.world.run(SECOND * 30);
    let before = call.world.server_stats(call.server).forwarded;
    call.world.send_raw(call.near, frame.clone());
    call.world.run(SECOND);
    assert_eq!(call.world.server_stats(call.server).forwarded, before + 1);
    call.world.run(SECOND * 10);
    call.world.send_raw(call.near, frame);
    call.world.run(SECOND);
    assert_eq!(call.world.server_stats(call.server).forwarded, before + 1);
    assert!(call.world.dropped(call.server, DropReason::UnexpectedFrame));
}

/// A frame of the client's own packets with this newest sequence, and so many copies.
fn frame(
    world: &World,
    client: ClientId,
    newest: u32,
    copies: u32,
    source: Option<IpAddr>,
) -> Vec<u8> {
    let own = address(world, client);
    let bytes = packet::udp(source.unwrap_or(own), own, b"by hand");
    let packet = IpPacket::decode(&bytes, &Limits::WIDEST).unwrap();
    let entries: Vec<_> = (0..=copies)
        .map(|back| RedundancyEntry {
            sequence: Sequence(newest.wrapping_sub(back)),
            packet,
        })
        .collect();
    let mut frame = Vec::new();
    RedundancyFrame::encode_datagram(&entries, &Limits::WIDEST, &mut frame).unwrap();
    frame
}

#[test]
fn frames_without_a_grant_are_errors() {
    for transport in DATAGRAMS {
        let (mut world, server, client) = up_with(offering(), client_config(&[transport]));
        let frame = frame(&world, client, 1, 0, None);
        world.send_raw(client, frame.clone());
        world.deliver_raw(client, &frame);
        world.run(SECOND);
        assert!(world.dropped(server, DropReason::UnexpectedFrame));
        assert_eq!(world.received(client).len(), 0);
        assert!(world.is_bound(client), "one drop, no more");
    }
    let (mut world, server, client) = up_with(offering(), client_config(&[Transport::Tls]));
    let frame = frame(&world, client, 1, 0, None);
    world.send_raw(client, frame);
    world.run(SECOND * 5);
    assert_eq!(
        world.server_stats(server).resumed,
        1,
        "a stream it costs the transport"
    );
}

/// A client that asks and gives back without end costs others nothing, and leaves nothing behind.
#[test]
fn storms_of_requests_are_answered_and_leave_nothing() {
    let ddt = ServiceType::ENABLE_DDT;
    for (transport, service) in [
        (Transport::Dtls, SERVICE),
        (Transport::Tls, SERVICE),
        (Transport::Tls, ddt),
    ] {
        let mut config = offering();
        config.interfaces[0].services = vec![SERVICE, ddt];
        let (mut world, server, client) = up_with(config, client_config(&[transport]));
        let other = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(other);
        world.run(SECOND);
        let (own, theirs) = (address(&world, client), address(&world, other));
        let tsid = world.assignment(client).unwrap().tsid;
        let SocketAddr::V4(source) = SocketAddr::new(own, 4000) else {
            panic!()
        };
        let socket = Tlv::ConnectionInfoIpv4(ConnectionInfo {
            transport: TransportCode::UDP,
            source,
            destination: SocketAddrV4::new([0; 4].into(), 0),
        });
        let method = if transport.is_stream() {
            RedundancyMethod::FAN_OUT
        } else {
            RedundancyMethod::COPIES
        };
        for number in 0..2000 {
            let begins = number % 2 == 0;
            let asked = if begins { service } else { service.disable() };
            let is_redundancy = begins && service == SERVICE;
            let factor = Tlv::RedundancyFactor(RedundancyFactor::new(2).unwrap());
            let method = [factor, Tlv::RedundancyMethod(method)];
            let request = CmType::CLIENT_SERVICE_REQUEST;
            let mut bytes = Vec::new();
            MessageBuilder::new(request, tsid, Sequence(1000 + number))
                .tlv(Tlv::ServiceType(asked))
                .tlv(socket)
                .tlvs(method.into_iter().filter(|_| is_redundancy))
                .encode(&mut bytes)
                .unwrap();
            world.send_raw(client, bytes);
            if number % 20 == 0 {
                world.send(other, own, b"speech");
                world.send(client, theirs, b"speech");
            }
            world.run(Duration::from_micros(500));
        }
        world.run(SECOND);
        for client in [client, other] {
            assert!(world.is_bound(client), "{transport} {service:?}");
            assert_eq!(world.received(client).len(), 100, "{transport}");
        }
        assert!(!holds(&world, server, client), "{transport} {service:?}");
        // A companion waits for another socket, and goes.
        assert!(services::companions(&world, server, client) <= 2);
        world.run(SECOND * 60);
        assert_eq!(services::companions(&world, server, client), 0);
        assert_eq!(world.server_stats(server).sessions, 2);
    }
}

#[test]
fn each_packet_of_a_frame_is_checked_like_any_other() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    let victim = address(&call.world, call.far);
    let forged = frame(&call.world, call.near, 1, 2, Some(victim));
    call.world.send_raw(call.near, forged);
    call.world.run(SECOND);
    let stats = call.world.server_stats(call.server);
    assert_eq!((stats.wrong_source, stats.forwarded), (3, 0), "{stats:?}");
    // Nor do they move the window, however many there are.
    for newest in 1_000_000..1_000_010 {
        let forged = frame(&call.world, call.near, newest, 2, Some(victim));
        call.world.send_raw(call.near, forged);
    }
    // Its sequences are still to come.
    let honest = frame(&call.world, call.near, 1, 0, None);
    call.world.send_raw(call.near, honest);
    call.world.run(SECOND);
    assert_eq!(call.world.server_stats(call.server).forwarded, 1);
}

/// On plain UDP anybody who can forge the client's outer address can do this.
#[test]
fn a_forged_jump_of_the_sequence_costs_nothing() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    call.talk(100);
    for newest in [0x4000_0000, 0x7FFF_FFFF, 5_000, 0xFFFF_0000] {
        let forged = frame(&call.world, call.near, newest, 2, None);
        call.world.send_raw(call.near, forged);
        call.talk(10);
    }
    assert!(call.world.dropped(call.server, DropReason::FarFrame));
    let (near, far) = (call.near, call.far);
    assert!(call.lost(near) == 0.0 && call.lost(far) == 0.0);
}

#[test]
fn sockets_that_have_it_are_bounded() {
    let mut asking = Asking::new(Transport::Dtls);
    asking.answer(success(&asking.request.clone()));
    let now = asking.now;
    let mut set = |port: u16, redundancy| {
        let transport = InnerTransport::Udp;
        let key = FlowKey { transport, port };
        let local = ([10, 0, 0, 1], port).into();
        asking.client.set_redundancy(now, key, local, redundancy)
    };
    for port in 1..=u16::try_from(MAX_FLOWS).unwrap() {
        set(port, Redundancy::Copies(1)).unwrap();
    }
    let refused = set(1000, Redundancy::Copies(1));
    assert_eq!(refused, Err(RequestError::TooManySockets));
    set(1, Redundancy::Copies(2)).unwrap();
}

#[test]
fn packets_are_kept_for_a_second_only() {
    let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
    call.talk(10);
    call.world.run(SECOND * 2);
    let before = call.world.server_stats(call.server).duplicates;
    call.talk(1);
    call.world.run(SECOND);
    assert_eq!(
        call.world.server_stats(call.server).duplicates,
        before,
        "no copies"
    );
}

#[test]
fn lost_messages_never_break_the_agreement() {
    let wishes = [
        Redundancy::Off,
        Redundancy::Copies(0),
        Redundancy::Copies(1),
        Redundancy::Copies(2),
        Redundancy::Adaptive { most: 2 },
    ];
    for seed in 0..60 {
        let transport = DATAGRAMS[usize::try_from(seed % 2).unwrap()];
        let mut rng = Rng::new(seed);
        let mut call = Call::seeded(seed, transport, Redundancy::Copies(1));
        call.world.path(call.near).set(LinkConfig {
            duplicate: 0.2,
            reorder: 0.2,
            ..LinkConfig::lossy(0.2 + f64::from(u32::try_from(seed).unwrap()) / 200.0)
        });
        for _ in 0..20 {
            let wish = wishes[usize::try_from(rng.below(5)).unwrap()];
            call.world.set_redundancy(call.near, wish).unwrap();
            call.world.run(Duration::from_millis(rng.below(10_000)));
            call.talk(5);
            if rng.chance(0.1) {
                call.world.break_transport(call.near);
            }
        }
        call.world.path(call.near).set(LinkConfig::CLEAN);
        call.world.run(SECOND * 100);
        assert!(call.world.is_bound(call.near), "seed {seed}");
        call.world
            .set_redundancy(call.near, Redundancy::Copies(2))
            .unwrap();
        call.world.run(SECOND * 5);
        assert_eq!(granted(&call.world, call.near), Some(2), "seed {seed}");
        assert!(holds(&call.world, call.server, call.near), "seed {seed}");
        let before = (
            call.world.received(call.near).len(),
            call.world.received(call.far).len(),
        );
        call.talk(100);
        call.world.run(SECOND);
        let after = (
            call.world.received(call.near).len(),
            call.world.received(call.far).len(),
        );
        assert_eq!(after, (before.0 + 100, before.1 + 100), "seed {seed}");
        let verdicts = call.world.verdicts(call.server).iter();
        let errors = verdicts
            .filter(|(_, verdict)| matches!(verdict, Verdict::Dropped(DropReason::Message(_))));
        assert_eq!(errors.count(), 0, "seed {seed}");
    }
}

/// What the server grants is bounded by itself, and to the tunnel's own addresses.
#[test]
fn the_server_grants_no_more_than_it_may() {
    let (mut world, server, client) = up_with(offering(), client_config(&[Transport::Dtls]));
    let own = address(&world, client);
    let tsid = world.assignment(client).unwrap().tsid;
    let mut sequence = 1000;
    let mut ask = |source: Option<SocketAddr>| {
        sequence += 1;
        let info = source.map(|source| match source {
            SocketAddr::V4(source) => Tlv::ConnectionInfoIpv4(ConnectionInfo {
                transport: TransportCode::UDP,
                source,
                destination: SocketAddrV4::new([0, 0, 0, 0].into(), 0),
            }),
            SocketAddr::V6(_) => panic!("IPv4 only"),
        });
        let mut bytes = Vec::new();
        MessageBuilder::new(CmType::CLIENT_SERVICE_REQUEST, tsid, Sequence(sequence))
            .tlv(Tlv::ServiceType(SERVICE))
            .tlvs(info)
            .tlv(Tlv::RedundancyFactor(RedundancyFactor::new(2).unwrap()))
            .tlv(Tlv::RedundancyMethod(RedundancyMethod::COPIES))
            .encode(&mut bytes)
            .unwrap();
        world.send_raw(client, bytes);
        world.run(SECOND / 10);
        let events = world.server_events(server).iter();
        let granted =
            events.filter(|(_, event)| matches!(event, ServerEvent::ServiceGranted { .. }));
        granted.count()
    };
    assert_eq!(ask(None), 0, "without a socket");
    assert_eq!(ask(Some(([10, 0, 0, 77], 9).into())), 0, "of another");
    for port in 1..=100 {
        let granted = ask(Some(SocketAddr::new(own, port)));
        assert_eq!(granted, usize::from(port).min(MAX_FLOWS));
    }
}

/// Packets are kept while they are to be repeated, and nothing of them stays.
#[test]
fn nothing_stays_of_what_was_kept() {
    let kept = |call: &Call| call.world.server_stats(call.server).kept;
    let ends: [fn(&mut Call); 4] = [
        |call| call.world.run(SECOND * 2),
        |call| call.world.release(call.near, SECOND),
        |call| {
            call.world
                .set_redundancy(call.near, Redundancy::Off)
                .unwrap()
        },
        |call| call.world.break_transport(call.near),
    ];
    for (number, end) in ends.into_iter().enumerate() {
        let mut call = Call::repeated(Transport::Udp, Redundancy::Copies(2));
        call.talk(10);
        assert!(kept(&call) >= 2 * 200, "{number}");
        end(&mut call);
        call.world.run(SECOND * 2);
        assert_eq!(kept(&call), 0, "{number}");
    }
}
