//! Keepalives that the server sends (spec 5 and 7, "server keepalive").
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

mod common;

use std::time::Duration;

use common::asking::{Asking, refusal, request, success};
use common::tunnel::{SECOND, up_with};
use tsc_csm::Transport;
use tsc_csm::client::{Event, SuspendReason};
use tsc_csm::server::{CloseReason, Event as ServerEvent, ServerConfig, SessionState};
use tsc_sim::{
    ClientId, LinkConfig, PathConfig, Rng, ServerId, World, client_config, server_config,
};
use tsc_tpl::{CmType, ResponseCode, Seconds, ServiceList, ServiceType, Tlv};

const SERVICE: ServiceType = ServiceType::ENABLE_SERVER_KEEPALIVE;
const GRANTED: &str = "granted: keepalives by the server, 50 s";

fn offering() -> ServerConfig {
    let mut config = server_config(9);
    config.interfaces[0].services = vec![SERVICE];
    config
}

/// A client in the background, whose server sends the Keepalives.
fn served(transport: Transport) -> (World, ServerId, ClientId) {
    let (mut world, server, client) = up_with(offering(), client_config(&[transport]));
    world.set_background(client, true);
    world.run(SECOND);
    assert!(world.server_keepalive(client).is_some(), "{transport}");
    (world, server, client)
}

/// How requests for services ended, as text.
fn outcomes(world: &World, client: ClientId) -> Vec<String> {
    let outcome = |event: &Event| match event {
        Event::Service { outcome, .. } => Some(outcome.to_string()),
        Event::ServiceEnded(grant) => Some(format!("lost: {grant}")),
        _ => None,
    };
    let events = world.events(client).iter();
    events.filter_map(|(_, event)| outcome(event)).collect()
}

fn suspended(world: &World, client: ClientId) -> Vec<(Duration, SuspendReason)> {
    let events = world.events(client).iter();
    events
        .filter_map(|(at, event)| match event {
            Event::Suspended(reason) => Some((*at, *reason)),
            _ => None,
        })
        .collect()
}

/// The server's view: the tunnel's state, and whether the service is in force.
fn held(world: &World, server: ServerId, client: ClientId) -> (SessionState, bool) {
    let tsid = world.assignment(client).unwrap().tsid;
    let session = world.session(server, tsid).unwrap();
    let server = world.server(server);
    (
        server.state(session).unwrap(),
        server.has_service(session, SERVICE),
    )
}

#[test]
fn it_is_granted_where_it_is_assigned_and_asked_for_nowhere_else() {
    let (world, server, client) = served(Transport::Udp);
    assert_eq!(outcomes(&world, client), [GRANTED]);
    assert_eq!(held(&world, server, client), (SessionState::Active, true));
    let told = world.server_events(server).iter();
    let told = told.filter(|(_, event)| matches!(event, ServerEvent::ServiceGranted { .. }));
    assert_eq!(told.count(), 1);

    let config = client_config(&[Transport::Udp]);
    let (mut world, server, client) = up_with(server_config(9), config);
    world.set_background(client, true);
    world.run(SECOND);
    assert!(outcomes(&world, client).is_empty(), "it is not offered");
    world.request_service(client, SERVICE).unwrap();
    world.run(SECOND);
    assert_eq!(outcomes(&world, client).len(), 1);
    assert!(world.server_keepalive(client).is_none());
    assert!(!held(&world, server, client).1);
}

#[test]
fn a_tunnel_that_comes_up_in_the_background_has_it() {
    let mut world = World::new(13);
    let server = world.add_server(offering());
    let client = world.add_client(client_config(&[Transport::Dtls]), PathConfig::CLEAN);
    world.set_background(client, true);
    world.start(client);
    world.run(SECOND);
    assert!(held(&world, server, client).1);
    assert!(world.server_keepalive(client).is_some());
}

#[test]
fn the_server_sends_and_the_client_is_silent() {
    for (transport, least, most) in [(Transport::Udp, 118, 136), (Transport::Tls, 19, 23)] {
        let (mut world, server, client) = served(transport);
        let before = world.client_stats(client).keepalives;
        world.run(Duration::from_secs(3_000));
        assert_eq!(world.client_stats(client).keepalives, before, "{transport}");
        let sent = world.server_stats(server).keepalives;
        assert!((least..=most).contains(&sent), "{transport}: {sent} sent");
        assert_eq!(world.server_stats(server).retransmissions, 0);
        assert_eq!(world.server_stats(server).other_drops, 0, "all are answers");
        assert_eq!(suspended(&world, client), []);
        assert_eq!(
            held(&world, server, client),
            (SessionState::Active, true),
            "{transport}"
        );
    }
}

#[test]
fn the_client_loses_a_transport_that_is_silent_for_one_and_a_half_intervals() {
    for (transport, wait) in [(Transport::Udp, 75), (Transport::Dtls, 75)] {
        let (mut world, _, client) = up_with(offering(), client_config(&[transport]));
        world.run(SECOND);
        world.set_background(client, true);
        let begun = world.elapsed();
        assert!(world.run_until(SECOND, |world| !outcomes(world, client).is_empty()));
        world.path(client).block(true);
        world.run(Duration::from_secs(wait + 10));
        let (at, reason) = suspended(&world, client)[0];
        assert_eq!(reason, SuspendReason::KeepaliveFailure, "{transport}");
        assert_eq!((at - begun).as_secs(), wait, "{transport}");
    }
}

/// Where the system says nothing.
#[test]
fn the_client_loses_a_stream_by_silence_too() {
    let mut asking = asking();
    let granted = asking.now;
    while asking.client.can_send().is_some() {
        asking.now = asking.client.poll_timeout().unwrap();
        asking.client.handle_timeout(asking.now);
        assert!(request(&mut asking.client).is_none(), "nothing but silence");
    }
    assert_eq!(asking.now - granted, Duration::from_secs(75));
}

#[test]
fn the_server_loses_a_client_that_does_not_answer() {
    for (transport, wait) in [
        (Transport::Udp, 28),
        (Transport::Dtls, 28),
        (Transport::Tls, 165),
    ] {
        let (mut world, server, client) = served(transport);
        world.path(client).block(true);
        world.run(Duration::from_secs(wait + 1));
        assert_eq!(
            held(&world, server, client).0,
            SessionState::Persistent,
            "{transport}"
        );
        let closed = world.server_events(server).iter().any(|(_, event)| {
            let reason = CloseReason::KeepaliveFailure;
            matches!(event, ServerEvent::CloseBinding { reason: why, .. } if *why == reason)
        });
        assert!(closed, "{transport}");
        let sent = world.server_stats(server).keepalives;
        world.run(Duration::from_secs(60));
        assert_eq!(
            world.server_stats(server).keepalives,
            sent,
            "nowhere to send them"
        );
    }
}

#[test]
fn any_unit_answers_the_server() {
    let (mut world, server, client) = served(Transport::Udp);
    assert!(world.run_until(Duration::from_secs(30), |world| {
        world.server_stats(server).keepalives == 1
    }));
    // The Keepalive is on its way, and gets lost; a packet comes instead of its answer.
    world.path(client).block(true);
    world.run(SECOND / 2);
    world.path(client).block(false);
    world.send(client, [10, 0, 0, 200].into(), b"alive");
    world.run(Duration::from_secs(3));
    assert_eq!(world.server_stats(server).retransmissions, 0);
    assert_eq!(held(&world, server, client).0, SessionState::Active);
}

#[test]
fn a_client_with_something_to_say_still_asks_when_nobody_answers() {
    let (mut world, _, client) = served(Transport::Tls);
    let before = world.client_stats(client).keepalives;
    world.send(client, [10, 0, 0, 200].into(), b"hello");
    world.run(Duration::from_secs(6));
    assert_eq!(world.client_stats(client).keepalives, before + 1);
    world.network_changed(client);
    assert_eq!(world.client_stats(client).keepalives, before + 2);
}

#[test]
fn it_survives_a_resume() {
    for transport in [Transport::Tls, Transport::Udp, Transport::Dtls] {
        let (mut world, server, client) = served(transport);
        world.break_transport(client);
        world.run(Duration::from_secs(10));
        assert_eq!(world.server_stats(server).resumed, 1, "{transport}");
        assert_eq!(outcomes(&world, client).len(), 1, "not asked for anew");
        assert!(world.server_keepalive(client).is_some());
        let before = world.client_stats(client).keepalives;
        let sent = world.server_stats(server).keepalives;
        world.run(Duration::from_secs(600));
        assert_eq!(world.client_stats(client).keepalives, before, "{transport}");
        assert!(world.server_stats(server).keepalives >= sent + 3);
        assert_eq!(suspended(&world, client).len(), 1, "{transport}");
        assert_eq!(held(&world, server, client), (SessionState::Active, true));
    }
}

/// A client without a server that was granted the service.
fn asking() -> Asking {
    let mut asking = Asking::new(Transport::Tls);
    let offered = Tlv::SupportedServices(ServiceList::new(&[SERVICE]).unwrap());
    asking.answer(success(&asking.request.clone()).tlv(offered));
    asking.client.set_background(asking.now, true);
    last_request(&mut asking);
    let granted = refusal(&asking.request, ResponseCode::SUCCESS)
        .tlv(Tlv::ServiceType(SERVICE))
        .tlv(Tlv::KeepaliveInterval(Seconds(50)));
    asking.answer(granted);
    assert!(asking.client.server_keepalive().is_some());
    asking
}

fn last_request(asking: &mut Asking) {
    while let Some(header) = request(&mut asking.client) {
        asking.request = header;
    }
}

#[test]
fn what_a_resume_does_not_list_is_off_and_asked_for_anew() {
    let mut asking = asking();
    asking.lose();
    let offered = Tlv::SupportedServices(ServiceList::new(&[SERVICE]).unwrap());
    let active = Tlv::ActiveServices(ServiceList::new(&[]).unwrap());
    let answer = success(&asking.request.clone());
    asking.answer(answer.tlv(active).tlv(offered));
    let ended = std::iter::from_fn(|| asking.client.poll_event())
        .any(|event| matches!(event, Event::ServiceEnded(grant) if grant.service() == SERVICE));
    assert!(ended);
    assert_eq!(asking.client.server_keepalive(), None);
    last_request(&mut asking);
    assert_eq!(asking.request.cm_type, CmType::CLIENT_SERVICE_REQUEST);
}

#[test]
fn a_grant_without_an_interval_is_none() {
    let mut asking = Asking::new(Transport::Tls);
    asking.answer(success(&asking.request.clone()));
    asking.client.request_service(asking.now, SERVICE).unwrap();
    last_request(&mut asking);
    asking.answer(refusal(&asking.request, ResponseCode::SUCCESS).tlv(Tlv::ServiceType(SERVICE)));
    assert_eq!(asking.client.server_keepalive(), None);
}

#[test]
fn it_ends_in_the_foreground() {
    let (mut world, server, client) = served(Transport::Udp);
    world.set_background(client, false);
    assert_eq!(world.server_keepalive(client), None, "off at once");
    world.run(SECOND);
    assert_eq!(outcomes(&world, client), [GRANTED, "ended"]);
    assert!(!held(&world, server, client).1);
    let (mine, its) = (
        world.client_stats(client).keepalives,
        world.server_stats(server).keepalives,
    );
    world.run(Duration::from_secs(60));
    assert!(world.client_stats(client).keepalives >= mine + 2);
    assert_eq!(world.server_stats(server).keepalives, its);
}

#[test]
fn a_change_of_mind_on_the_way_is_settled() {
    let (mut world, server, client) = up_with(offering(), client_config(&[Transport::Dtls]));
    for background in [true, false, true, false, true] {
        world.set_background(client, background);
    }
    world.run(SECOND);
    assert!(held(&world, server, client).1);
    assert!(world.server_keepalive(client).is_some());
    for background in [false, true, false] {
        world.set_background(client, background);
        world.run(SECOND / 100);
    }
    world.run(SECOND);
    assert!(!held(&world, server, client).1);
    assert!(world.server_keepalive(client).is_none());
}

#[test]
fn lost_messages_never_break_the_agreement() {
    for seed in 0..60 {
        let transport = Transport::ALL[usize::try_from(seed % 4).unwrap()];
        let mut rng = Rng::new(seed);
        let mut world = World::new(seed);
        let server = world.add_server(offering());
        let client = world.add_client(client_config(&[transport]), PathConfig::CLEAN);
        world.start(client);
        world.run(SECOND);
        world.path(client).set(LinkConfig {
            duplicate: 0.2,
            reorder: 0.2,
            ..LinkConfig::lossy(0.2 + f64::from(u32::try_from(seed).unwrap()) / 200.0)
        });
        for _ in 0..20 {
            world.set_background(client, rng.chance(0.5));
            world.run(Duration::from_millis(rng.below(20_000)));
            if rng.chance(0.1) {
                world.break_transport(client);
            }
        }
        let background = rng.chance(0.7);
        world.set_background(client, background);
        world.path(client).set(LinkConfig::CLEAN);
        world.run(Duration::from_secs(500));
        assert!(world.is_bound(client), "seed {seed}");
        let (state, holds) = held(&world, server, client);
        assert_eq!(state, SessionState::Active, "seed {seed}");
        // Who is silent is asked. The server may ask in vain: its answer can be lost.
        if world.server_keepalive(client).is_some() {
            assert!(holds && background, "seed {seed}");
        }
        let before = suspended(&world, client).len();
        world.run(Duration::from_secs(1_000));
        assert_eq!(suspended(&world, client).len(), before, "seed {seed}");
    }
}

#[test]
fn a_nat_that_forgets_between_two_keepalives_is_kept_awake_by_the_client() {
    let mut world = World::new(6);
    let server = world.add_server(offering());
    let nat = world.add_nat(Duration::from_secs(15));
    let path = PathConfig {
        nat: Some(nat),
        ..PathConfig::CLEAN
    };
    let client = world.add_client(client_config(&[Transport::Udp]), path);
    world.start(client);
    world.set_background(client, true);
    world.run(Duration::from_secs(1_800));
    let before = suspended(&world, client).len();
    // Each silence that is too long is believed when it has failed twice.
    assert!((2..=10).contains(&before), "{before} losses");
    world.run(Duration::from_secs(1_800));
    // A longer one is tried now and then.
    let more = suspended(&world, client).len() - before;
    assert!(more <= 4, "{more} more losses");
    assert_eq!(held(&world, server, client), (SessionState::Active, true));
}
