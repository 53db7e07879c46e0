//! A real server in this process, the real program, each transport.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::float_cmp
)]

mod support;

use std::fs;

use support::{number, report};
use tsc_demo::lab::{Lab, LabOptions, Side};
use tsc_tapi::{DtlsBackendKind, Transport};

/// So few packets that no socket overflows while a busy machine forgets about us; what is missing may take its time.
const MODEST: &str = "--rate 60 --windows 1 --window 0.5 --drain 20";

fn through(lab: &Lab, transport: Transport, more: &str) -> serde_json::Value {
    let server = lab.server_for(Side::Access, transport, DtlsBackendKind::OpenSsl);
    let server = server.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    fs::write(&authority, lab.authority.certificate()).unwrap();
    let host = server.host();
    let host = if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    report(&format!(
        "run --server {host}:{} --transport {transport} --ca {} {MODEST} {more}",
        server.port().unwrap(),
        authority.display()
    ))
}

fn all_arrives(report: &serde_json::Value, transport: Transport) {
    let subject = &report["subjects"][0];
    assert_eq!(subject["subject"], "tsc-server");
    assert_eq!(subject["transport"], transport.to_string());
    let load = &subject["loads"][0];
    // A window lasts as long as it should, on a busy machine longer.
    assert!(number(load, "/sent") >= 10.0, "{load:#}");
    for counter in ["lost", "duplicates", "unsent"] {
        assert_eq!(number(load, &format!("/{counter}")), 0.0, "{load:#}");
    }
    assert_eq!(number(subject, "/strangers"), 0.0);
    assert_eq!(number(subject, "/suspended"), 0.0);
    for times in ["round_trip_us", "up_us", "down_us", "late_us"] {
        let p50 = number(load, &format!("/{times}/p50"));
        assert!(p50 <= number(load, &format!("/{times}/max")), "{load:#}");
    }
    let round = number(load, "/round_trip_us/p50");
    assert!(round >= number(load, "/down_us/p50"), "{load:#}");
}

#[test]
fn calls_between_tunnels_over_each_transport() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for transport in Transport::ALL {
        let report = through(&lab, transport, "--tunnels 6 --calls 9");
        all_arrives(&report, transport);
        let subject = &report["subjects"][0];
        assert_eq!(number(subject, "/tunnels"), 6.0);
        assert_eq!(number(subject, "/calls"), 9.0);
        assert_eq!(number(subject, "/set_up/clients"), 6.0);
        assert_eq!(number(subject, "/set_up/failed_attempts"), 0.0);
    }
}

/// Not on 127.0.0.0/8, so that clients have sockets of their own.
#[test]
fn clients_with_sockets_of_their_own() {
    let options = LabOptions {
        address: "::1".to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    for transport in Transport::ALL {
        let report = through(&lab, transport, "--tunnels 4");
        all_arrives(&report, transport);
    }
}

#[test]
fn one_way_trains_over_a_trunk() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for transport in [Transport::Udp, Transport::Tls] {
        let more = "--trunk --calls 5 --train 4 --gso --one-way --size 1200";
        let report = through(&lab, transport, more);
        let load = &report["subjects"][0]["loads"][0];
        assert_eq!(number(load, "/lost"), 0.0, "{load:#}");
        assert!(load["round_trip_us"].is_null(), "nothing comes back");
        assert!(number(load, "/up_us/p50") > 0.0);
        assert_eq!(number(&report, "/subjects/0/tunnels"), 2.0);
        assert_eq!(number(&report, "/subjects/0/packet_bytes"), 1200.0);
    }
}

/// A closed loop keeps to its number: far fewer packets than an open one would send.
#[test]
fn saturation_is_measured() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let more = "--tunnels 2 --rate saturate --in-flight 4";
    let report = through(&lab, Transport::Udp, more);
    let loads = report["subjects"][0]["loads"].as_array().unwrap();
    let load = loads.last().unwrap();
    assert_eq!(load["load"], "saturate");
    assert!(load["offered_per_second"].is_null());
    assert!(number(load, "/sent") > 0.0);
}

#[test]
fn tunnels_are_released_at_the_end() {
    let lab = Lab::start(&LabOptions {
        // Room for one run at a time.
        address_range: "10.64.0.1-10.64.0.4".to_owned(),
        ..LabOptions::default()
    })
    .unwrap();
    for _ in 0..3 {
        let report = through(&lab, Transport::Tcp, "--tunnels 4");
        all_arrives(&report, Transport::Tcp);
    }
}
