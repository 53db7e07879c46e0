//! What `tsc-demo --service` shows: calls with a service over a bad network, and a service that is not to be had.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{process::Command, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::timeout;
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_sip::{
    client::{ClientOptions, run_client},
    net::{InnerNet, MediaServices},
    report::Outcome,
    server::{ServerOptions, SipServer},
    stop::Stop,
};
use tsc_tapi::{DtlsBackendKind, Redundancy, Transport, TunnelTransport};

const LIMIT: Duration = Duration::from_secs(60);

/// What the program reports of its calls.
fn show(service: &str, transport: &str) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_tsc-demo"))
        .args(["--service", service, "--transport", transport])
        .args(["--duration", "5", "--json"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{errors}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let calls = report["calls"].as_array().unwrap().clone();
    for call in &calls {
        assert_eq!(call["ok"], true, "{call}");
        assert_eq!(
            (&call["service"], &call["transport"]),
            (&service.into(), &transport.into())
        );
    }
    calls
}

fn number(call: &Value, name: &str) -> f64 {
    call[name].as_f64().expect(name)
}

/// The wish is in force before the call where there is one.
fn assert_served(calls: &[Value]) {
    assert_eq!(calls[0]["services_ms"], Value::Null, "{}", calls[0]);
    for call in &calls[1..] {
        assert!(
            number(call, "services_ms") >= 40.0,
            "at least a round trip: {call}"
        );
    }
}

#[test]
fn ddt_takes_media_off_the_stream() {
    for transport in ["tcp", "tls"] {
        let calls = show("ddt", transport);
        let names: Vec<_> = calls.iter().map(|call| &call["with"]).collect();
        assert_eq!(names, ["none", "DDT", "DDT, 2 copies"]);
        assert_served(&calls);
        let [stream, beside, copies] = [&calls[0], &calls[1], &calls[2]];
        assert_eq!(number(stream, "datagrams_percent"), 0.0);
        assert_eq!(number(stream, "lost_percent"), 0.0);
        // Beside the stream packets are lost, and none waits for another. How many are late is a matter of this host, too.
        assert!(number(beside, "lost_percent") > 1.0, "{beside}");
        for call in [beside, copies] {
            assert!(number(call, "datagrams_percent") > 60.0, "{call}");
        }
        assert!(number(copies, "lost_percent") < number(beside, "lost_percent"));
        let bytes = |call| number(call, "bytes_per_packet");
        assert!(bytes(copies) > 2.0 * bytes(beside), "{beside} {copies}");
    }
}

#[test]
fn media_goes_over_further_streams() {
    let calls = show("redundancy", "tcp");
    let names: Vec<_> = calls.iter().map(|call| &call["with"]).collect();
    assert_eq!(
        names,
        ["one stream", "two streams", "three streams", "balanced"]
    );
    assert_served(&calls);
    for call in &calls {
        assert_eq!(number(call, "lost_percent"), 0.0, "{call}");
        assert_eq!(number(call, "datagrams_percent"), 0.0, "{call}");
    }
    let bytes: Vec<f64> = calls
        .iter()
        .map(|call| number(call, "bytes_per_packet"))
        .collect();
    assert!(
        bytes[1] > 1.5 * bytes[0] && bytes[2] > 2.2 * bytes[0],
        "{bytes:?}"
    );
}

#[test]
fn copies_make_up_for_lost_datagrams() {
    let calls = show("redundancy", "udp");
    assert_eq!(calls.len(), 4);
    assert_served(&calls);
    let lost: Vec<f64> = calls
        .iter()
        .map(|call| number(call, "lost_percent"))
        .collect();
    assert!(
        lost[0] > 3.0 && lost[1] < lost[0] / 2.0 && lost[2] <= 1.0,
        "{lost:?}"
    );
}

#[test]
fn a_service_is_not_shown_where_it_does_nothing() {
    let output = Command::new(env!("CARGO_BIN_EXE_tsc-demo"))
        .args(["--service", "ddt", "--transport", "udp"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(
        errors.contains("--service ddt does nothing over udp"),
        "{errors}"
    );
}

/// The callers come in where no service is assigned: calls are made without, at once, and say so.
#[tokio::test(flavor = "multi_thread")]
async fn calls_do_not_wait_for_what_is_not_to_be_had() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let backend = DtlsBackendKind::OpenSsl;
    let connect = async |side, transport| {
        let tunnel = lab.tunnel_to(side, transport, backend).unwrap();
        timeout(LIMIT, tunnel.connect()).await.unwrap().unwrap()
    };
    // The pool of the side without services has one address: here the callee is on the other.
    let callee = Arc::new(connect(Side::Access, Transport::Udp).await);
    let mut server = SipServer::start(Arc::clone(&callee), ServerOptions::default())
        .await
        .unwrap();
    let net = Arc::new(connect(Side::Core, Transport::Tcp).await);
    for services in [
        MediaServices {
            redundancy: Redundancy::Copies(1),
            ..MediaServices::default()
        },
        MediaServices {
            transport: TunnelTransport::Datagram,
            ..MediaServices::default()
        },
    ] {
        let mut options = ClientOptions::new("alice", "play");
        options.sip_server = Some(server.address());
        options.duration = Some(Duration::from_millis(200));
        options.services = services;
        options.services_timeout = 10 * LIMIT;
        let report = run_client(Arc::clone(&net), options, Stop::never());
        let report = timeout(LIMIT, report).await.unwrap().unwrap();
        let [call] = report.calls.as_slice() else {
            unreachable!("one call");
        };
        assert_eq!((call.outcome, call.services_ms), (Outcome::Ok, None));
        let heard = timeout(LIMIT, server.next_report()).await.unwrap().unwrap();
        assert_eq!(heard.received, 10);
    }
    // Where nobody is asked nobody waits either.
    let socket = InnerNet::bind_udp(&*net, (net.addresses()[0], 0).into())
        .await
        .unwrap();
    let served = InnerNet::serve(&*net, &socket, MediaServices::default(), 10 * LIMIT);
    assert!(!timeout(LIMIT, served).await.unwrap().unwrap());
    server.stop(LIMIT).await.unwrap();
}
