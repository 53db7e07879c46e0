//! A network that goes away in the middle of calls: they are reported and recorded all the same.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod common;

use std::sync::Arc;

use common::{LOOPBACK, PATIENCE, fragile::FragileNet};
use tokio::net::UdpSocket;
use tsc_sip::{
    client::{ClientError, ClientOptions, run_client},
    net::{HostNet, RenewError},
    report::Outcome,
    server::{ServerError, ServerOptions, SipServer},
    stop::Stop,
};

/// A network that no other takes the place of.
fn lonely() -> Arc<FragileNet> {
    let net = FragileNet::new(LOOPBACK);
    net.succeed(Err(RenewError::Final));
    net
}

fn caller(server: &SipServer) -> ClientOptions {
    let mut options = ClientOptions::new("alice", "play");
    options.sip_server = Some(server.address());
    options.duration = Some(PATIENCE);
    options
}

fn callee() -> ServerOptions {
    ServerOptions {
        sip_port: 0,
        ..ServerOptions::default()
    }
}

#[tokio::test]
async fn a_server_that_loses_its_network_reports_its_calls_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let net = lonely();
    let options = ServerOptions {
        record: Some(directory.path().to_owned()),
        ..callee()
    };
    let mut server = SipServer::start(Arc::clone(&net), options).await.unwrap();
    let options = caller(&server);
    let host = Arc::new(HostNet::new(LOOPBACK));
    let running = tokio::spawn(run_client(host, options, Stop::never()));
    tokio::time::timeout(PATIENCE, server.calls_up(1))
        .await
        .unwrap();

    net.pull().await;
    let report = tokio::time::timeout(PATIENCE, server.next_report()).await;
    let report = report.unwrap().expect("a report of the call in progress");
    assert_eq!(report.outcome, Outcome::TunnelFailed);
    assert!(report.error.unwrap().contains("pulled out"));
    assert!(report.received > 0);
    let recording = std::fs::read(report.recording.unwrap().with_extension("ulaw")).unwrap();
    assert!(recording == report.heard && !recording.is_empty());
    let last = tokio::time::timeout(PATIENCE, server.next_report()).await;
    assert!(last.unwrap().is_none(), "ended by itself");
    let error = server.stop(PATIENCE).await.unwrap_err();
    assert!(
        matches!(&error, ServerError::Lost(why) if why == "pulled out"),
        "{error}"
    );
    assert_eq!(error.outcome().exit_code(), 3);
    running.abort();
}

#[tokio::test]
async fn a_caller_that_loses_its_network_reports_its_calls_and_says_why() {
    let directory = tempfile::tempdir().unwrap();
    let host = Arc::new(HostNet::new(LOOPBACK));
    let mut server = SipServer::start(host, callee()).await.unwrap();
    let net = lonely();
    let mut options = caller(&server);
    options.record = Some(directory.path().to_owned());
    let running = tokio::spawn(run_client(Arc::clone(&net), options, Stop::never()));
    tokio::time::timeout(PATIENCE, server.calls_up(1))
        .await
        .unwrap();

    net.pull().await;
    let report = tokio::time::timeout(PATIENCE, running).await.unwrap();
    let report = report.unwrap().unwrap();
    assert_eq!(report.outcome().exit_code(), 3);
    assert!(
        report.lost.as_ref().unwrap().contains("pulled out"),
        "{:?}",
        report.lost
    );
    let call = &report.calls[0];
    assert_eq!(call.outcome, Outcome::TunnelFailed);
    assert!(call.sent > 0 && call.duration_ms.is_some());
    let recording = std::fs::read(call.recording.as_ref().unwrap().with_extension("ulaw")).unwrap();
    assert!(recording == call.heard);
}

#[tokio::test]
async fn a_network_lost_while_registering_or_ringing_is_a_lost_network() {
    // A server that says nothing: the request is on its way when the network goes.
    let silent = UdpSocket::bind((LOOPBACK, 0)).await.unwrap();
    for register in [true, false] {
        let net = lonely();
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(silent.local_addr().unwrap());
        options.register = register;
        let running = tokio::spawn(run_client(Arc::clone(&net), options, Stop::never()));
        let mut buffer = [0; 4096];
        let asked = tokio::time::timeout(PATIENCE, silent.recv_from(&mut buffer));
        asked.await.unwrap().unwrap();
        net.pull().await;
        let result = tokio::time::timeout(PATIENCE, running)
            .await
            .unwrap()
            .unwrap();
        let outcome = match result {
            Ok(report) => report.outcome(),
            Err(error) => {
                assert!(matches!(&error, ClientError::Lost(why) if why == "pulled out"));
                error.outcome()
            }
        };
        assert_eq!(outcome.exit_code(), 3, "register: {register}");
    }
}
