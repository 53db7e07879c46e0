//! Peers that are gone: nobody waits for them longer than needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use common::{LOOPBACK, PATIENCE, World, client, run, run_until};
use tokio::{net::UdpSocket, task::JoinHandle};
use tsc_sip::{
    client::{ClientError, ClientOptions, ClientReport, RegisterError, run_client},
    endpoint::RequestError,
    report::Outcome,
    server::ServerOptions,
    sip::{Message, StatusCode},
    stop::{Stop, Stopper},
};

/// A port at which nobody listens, and which nobody else gets: its socket takes datagrams of one stranger only, so the
/// system answers ours with ICMP.
async fn deserted_port() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    let stranger = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    socket
        .connect(stranger.local_addr().unwrap())
        .await
        .unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

/// A caller in a call, which vanishes without a word when this is aborted.
async fn caller(world: &mut World) -> JoinHandle<Result<ClientReport, ClientError>> {
    let mut options = client(world, "play");
    options.duration = Some(PATIENCE);
    let caller = tokio::spawn(run(options));
    let up = world.server.calls_up(1);
    tokio::time::timeout(PATIENCE, up).await.unwrap();
    caller
}

#[tokio::test]
async fn a_call_whose_caller_vanished_is_ended_and_reported() {
    let options = ServerOptions {
        media_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    };
    let mut world = World::start(options).await;
    let caller = caller(&mut world).await;
    caller.abort();
    let report = tokio::time::timeout(PATIENCE, world.server.next_report());
    let report = report.await.expect("the call is ended").unwrap();
    assert_eq!(report.outcome, Outcome::CallFailed);
    let error = report.error.unwrap();
    assert!(error.contains("neither RTP nor RTCP"), "{error}");
    assert!(report.received > 0 && report.duration_ms.is_some());
}

#[tokio::test]
async fn a_stop_does_not_wait_long_for_vanished_callers() {
    let options = ServerOptions {
        media_timeout: Duration::ZERO,
        ..ServerOptions::default()
    };
    let mut world = World::start(options).await;
    let caller = caller(&mut world).await;
    caller.abort();
    assert!(caller.await.unwrap_err().is_cancelled());
    // A request that is not answered takes 32 s, and then the stop would have been broken off, without a report.
    let reports = world.server.stop(Duration::from_secs(25)).await.unwrap();
    assert_eq!(reports.len(), 1, "the call is reported");
    assert!(reports[0].received > 0);
    assert!(
        reports[0].error.as_ref().unwrap().contains("BYE failed"),
        "{:?}",
        reports[0].error
    );
}

#[tokio::test]
async fn a_server_where_nobody_listens_is_noticed_by_icmp() {
    let world = World::start(ServerOptions::default()).await;
    let (_kept, nobody) = deserted_port().await;
    let mut options = client(&world, "play");
    options.sip_server = Some(nobody);
    // With default timers: without ICMP these would end by "no answer" after 32 s.
    let report = run(options.clone()).await.unwrap();
    let error = report.calls[0].error.as_ref().unwrap();
    assert!(error.contains("cannot be reached"), "{error}");
    options.register = true;
    let error = run(options).await.unwrap_err();
    assert!(matches!(
        error,
        ClientError::Registration(RegisterError::Request(RequestError::Unreachable))
    ));
}

/// 32 s would bring "no answer" (RFC 3261 17.1.4: an error of the transport ends a transaction at once).
#[tokio::test]
async fn an_address_that_the_stack_refuses_is_noticed_at_once() {
    let network = common::memory::Memory::default();
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(SocketAddr::new(LOOPBACK, 5060));
    options.register = false;
    options.sessions.chats = 1;
    let caller = network.host([10, 0, 0, 2]);
    let call = run_client(Arc::clone(&caller), options.clone(), Stop::never());
    let report = tokio::time::timeout(PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(report.outcome(), Outcome::CallFailed);
    for error in [&report.calls[0].error, &report.chats[0].error] {
        let error = error.as_ref().unwrap();
        assert!(error.contains("cannot be reached"), "{error}");
    }
    options.register = true;
    let register = run_client(caller, options, Stop::never());
    let error = tokio::time::timeout(PATIENCE, register).await.unwrap();
    assert!(matches!(
        error.unwrap_err(),
        ClientError::Registration(RegisterError::Request(RequestError::Unreachable))
    ));
}

/// A callee that says nothing at all, or that it rings and then nothing more: a stop waits neither for the answer to the
/// INVITE nor for that to the CANCEL.
#[tokio::test]
async fn a_stop_does_not_wait_for_callees_that_say_nothing() {
    for rings in [false, true] {
        let silent = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(silent.local_addr().unwrap());
        options.register = false;
        let (stopper, stop) = Stopper::new();
        let caller = tokio::spawn(run_until(options, stop));
        let mut buffer = vec![0; 4096];
        let invite = tokio::time::timeout(PATIENCE, silent.recv_from(&mut buffer)).await;
        let (length, from) = invite.unwrap().unwrap();
        let Message::Request(invite) = Message::parse(&buffer[..length]).unwrap() else {
            panic!("no request");
        };
        if rings {
            let ringing = invite.response(StatusCode::RINGING, "tag").encode();
            silent.send_to(&ringing, from).await.unwrap();
        }
        stopper.stop();
        let report = caller.await.unwrap().unwrap();
        let error = report.calls[0].error.as_ref().unwrap();
        assert!(error.contains("stopped while ringing"), "{rings}: {error}");
    }
}
