//! Whole calls between both programs' libraries, over the host's loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use common::{World, assert_both_directions, client, run};
use tsc_sip::{
    client::ClientError,
    digest::Users,
    media::Codec,
    report::Outcome,
    secret::Secret,
    server::{Behaviour, ServerOptions},
    stop::Stopper,
};

#[tokio::test]
async fn a_call_is_bit_exact_both_ways() {
    for codec in Codec::ALL {
        let mut world = World::start(ServerOptions::default()).await;
        let mut options = client(&world, "play");
        options.codecs = vec![codec];
        options.duration = Some(Duration::from_millis(600));
        let report = run(options).await.unwrap();
        assert_eq!(report.outcome(), Outcome::Ok);
        let [caller] = &report.calls[..] else {
            panic!("one call");
        };
        let callee = world.server.next_report().await.unwrap();
        assert_eq!(caller.codec, Some(codec));
        assert_eq!(caller.sent, 30);
        assert!(caller.played.iter().any(|code| *code != codec.silence()));
        assert_both_directions(caller, &callee);
        assert!(caller.setup_ms.is_some() && callee.setup_ms.is_some());
        // The last reports of both sides always bring a round trip.
        assert!(caller.rtt_ms.unwrap() < 1000.0 && callee.rtt_ms.unwrap() < 1000.0);
        assert!(caller.mos.unwrap() > 4.0, "{:?}", caller.mos);
        assert_eq!(caller.remote_lost, Some(0));
        world.stop().await;
    }
}

#[tokio::test]
async fn echo_brings_back_what_was_said() {
    let mut world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "echo");
    options.duration = Some(Duration::from_millis(400));
    let report = run(options).await.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok);
    let callee = world.server.next_report().await.unwrap();
    let caller = &report.calls[0];
    assert_eq!(
        (caller.sent, callee.sent),
        (callee.received, caller.received)
    );
    assert!(caller.played == callee.heard);
    assert!(caller.played.starts_with(&callee.played), "an echo");
    // On a busy machine the echo has nothing to say for a tick, which is heard as silence and was not played.
    let silence = [caller.codec.unwrap().silence(); 160];
    let said = |speech: &[u8]| -> Vec<u8> {
        let parts = speech.chunks(160).filter(|part| **part != silence);
        parts.flatten().copied().collect()
    };
    assert!(said(&caller.heard) == said(&callee.played));
    assert!(!said(&caller.heard).is_empty());
}

#[tokio::test]
async fn twenty_calls_at_once() {
    let mut world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "play");
    options.calls = 20;
    options.duration = Some(Duration::from_millis(500));
    let report = run(options).await.unwrap();
    assert_eq!(report.calls.len(), 20);
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    let mut callees = Vec::new();
    for _ in 0..20 {
        callees.push(world.server.next_report().await.unwrap());
    }
    for caller in &report.calls {
        let callee = callees.iter().find(|c| c.call_id == caller.call_id);
        assert_both_directions(caller, callee.unwrap());
    }
    assert!(world.stop().await.is_empty());
}

#[tokio::test]
async fn the_sample_is_played_once_without_a_duration_and_recorded() {
    let directory = tempfile::tempdir().unwrap();
    let server = ServerOptions {
        record: Some(directory.path().join("callee")),
        ..ServerOptions::default()
    };
    let mut world = World::start(server).await;
    let mut options = client(&world, "play");
    // Not a whole number of packets: the last one is filled with silence.
    let samples: Vec<i16> = options.play.samples()[4000..5700].to_vec();
    options.play = tsc_sip::media::Audio::from_samples(samples.clone());
    options.record = Some(directory.path().join("caller"));
    let report = run(options).await.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    let callee = world.server.next_report().await.unwrap();
    assert_eq!(callee.received, 11);
    let recording = callee.recording.unwrap();
    let raw = std::fs::read(recording.with_extension("ulaw")).unwrap();
    assert!(raw == callee.heard);
    let mut wanted = Codec::Pcmu.encode(&samples);
    wanted.resize(11 * 160, Codec::Pcmu.silence());
    assert!(raw == wanted);
    let heard = tsc_sip::media::Audio::read(&recording).unwrap();
    assert!(heard.samples() == Codec::Pcmu.decode(&wanted));
    assert!(directory.path().join("caller/call-1.wav").exists());
}

fn users() -> Option<Users> {
    Some(Users::parse("alice:wonderland").unwrap())
}

#[tokio::test]
async fn registration_with_a_password() {
    let server = ServerOptions {
        users: users(),
        ..ServerOptions::default()
    };
    let world = World::start(server).await;
    let mut options = client(&world, "play");
    options.register = true;
    options.duration = Some(Duration::from_millis(100));

    options.password = Some(Secret::new("wonderland"));
    let report = run(options.clone()).await.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok);
    assert!(report.register_ms.is_some());

    options.password = Some(Secret::new("looking-glass"));
    let error = run(options.clone()).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::RegistrationRefused);
    assert!(
        error.to_string().contains("user name or password"),
        "{error}"
    );

    options.password = None;
    let error = run(options.clone()).await.unwrap_err();
    assert!(error.to_string().contains("none was given"), "{error}");

    options.user = "bob".into();
    options.password = Some(Secret::new("wonderland"));
    let error = run(options).await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::RegistrationRefused);
}

#[tokio::test]
async fn a_registration_is_renewed_while_the_call_lasts() {
    let mut server = ServerOptions {
        users: users(),
        nonce_lifetime: Duration::from_millis(500),
        ..ServerOptions::default()
    };
    server.registrar.min_expires = 1;
    let world = World::start(server).await;
    let mut options = client(&world, "play");
    options.register = true;
    options.password = Some(Secret::new("wonderland"));
    // Renewed after one second, with a nonce that is stale by then.
    options.expires = 2;
    options.duration = Some(Duration::from_millis(1500));
    let report = run(options).await.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
}

#[tokio::test]
async fn refusals_are_clear() {
    let mut server = ServerOptions {
        codecs: vec![Codec::Pcma],
        ..ServerOptions::default()
    };
    server.callees.insert("full".into(), Behaviour::Busy);
    let world = World::start(server).await;
    for (callee, codec, status) in [
        ("nobody", Codec::Pcma, 404),
        ("busy", Codec::Pcma, 486),
        ("full", Codec::Pcma, 486),
        ("play", Codec::Pcmu, 488),
    ] {
        let mut options = client(&world, callee);
        options.codecs = vec![codec];
        let report = run(options).await.unwrap();
        let call = &report.calls[0];
        assert_eq!(call.status, Some(status), "{callee}");
        assert_eq!(call.outcome, Outcome::CallFailed);
        assert!(call.error.as_ref().unwrap().contains(&status.to_string()));
        assert_eq!((call.sent, call.received, call.mos), (0, 0, None));
    }
}

#[tokio::test]
async fn more_calls_than_the_server_takes_are_busy() {
    let server = ServerOptions {
        max_calls: 2,
        ..ServerOptions::default()
    };
    let world = World::start(server).await;
    let mut options = client(&world, "play");
    options.calls = 3;
    options.duration = Some(Duration::from_millis(600));
    let report = run(options).await.unwrap();
    let mut statuses: Vec<_> = report.calls.iter().map(|c| c.status.unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 486]);
    assert_eq!(report.outcome(), Outcome::CallFailed);
}

#[tokio::test]
async fn an_unanswered_call_is_cancelled() {
    let server = ServerOptions {
        ring: common::PATIENCE,
        ..ServerOptions::default()
    };
    let mut world = World::start(server).await;
    let mut options = client(&world, "play");
    options.ring_timeout = Duration::from_millis(200);
    let report = run(options).await.unwrap();
    let error = report.calls[0].error.as_ref().unwrap();
    assert!(error.contains("cancelled"), "{error}");
    let callee = world.server.next_report().await.unwrap();
    assert_eq!(callee.status, Some(487));
}

#[tokio::test]
async fn nobody_there_is_a_timeout() {
    let world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "play");
    // A socket that never answers.
    let silent = tokio::net::UdpSocket::bind((common::LOOPBACK, 0))
        .await
        .unwrap();
    options.sip_server = Some(silent.local_addr().unwrap());
    options.timers.t1 = Duration::from_millis(5);
    let report = run(options.clone()).await.unwrap();
    assert!(
        report.calls[0]
            .error
            .as_ref()
            .unwrap()
            .contains("no answer")
    );
    options.register = true;
    let error = run(options).await.unwrap_err();
    assert!(matches!(error, ClientError::Registration(_)));
}

#[tokio::test]
async fn without_a_server_nothing_is_tried() {
    let error = run(tsc_sip::client::ClientOptions::new("alice", "play")).await;
    assert!(matches!(error, Err(ClientError::NoSipServer)));
    assert_eq!(ClientError::NoSipServer.outcome().exit_code(), 2);
}

#[tokio::test]
async fn the_server_hangs_up_when_it_stops() {
    let mut world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "play");
    options.duration = Some(common::PATIENCE);
    options.register = true;
    let caller = tokio::spawn(run(options));
    world.server.calls_up(1).await;
    let callees = world.stop().await;
    assert_eq!(callees.len(), 1);
    // The registrar is gone, too: the caller does not wait for it as long as a request may take (32 s).
    let stopped = std::time::Instant::now();
    let report = caller.await.unwrap().unwrap();
    assert!(stopped.elapsed() < Duration::from_secs(20));
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    assert_both_directions(&report.calls[0], &callees[0]);
}

#[tokio::test]
async fn the_caller_hangs_up_when_it_is_stopped() {
    let mut world = World::start(ServerOptions::default()).await;
    let mut options = client(&world, "play");
    options.duration = Some(common::PATIENCE);
    let (stopper, stop) = Stopper::new();
    let timer = async {
        world.server.calls_up(1).await;
        stopper.stop();
    };
    let (report, ()) = tokio::join!(common::run_until(options, stop), timer);
    let report = report.unwrap();
    assert_eq!(report.outcome(), Outcome::Ok, "{report:?}");
    let callee = world.server.next_report().await.unwrap();
    assert_both_directions(&report.calls[0], &callee);
}
