//! Peers that are gone: nobody waits for them longer than needed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{LOOPBACK, PATIENCE, World, client, run};
use tokio::{net::UdpSocket, task::JoinHandle};
use tsc_sip::{
    client::{ClientError, ClientReport, RegisterError},
    endpoint::RequestError,
    report::Outcome,
    server::ServerOptions,
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
