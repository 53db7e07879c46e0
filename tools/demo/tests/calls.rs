//! SIP calls with media through real tunnels: bit-exact both ways, over every transport and both DTLS back ends.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

#[path = "calls/captures.rs"]
mod captures;
#[path = "calls/units.rs"]
mod units;

use std::{path::Path, time::Duration};

use tsc_demo::{
    lab::{Lab, LabOptions},
    leg::{self, LegOptions, LegReport},
};
use tsc_sip::{media::Audio, net::MediaServices, report::Role};
use tsc_tapi::{DtlsBackendKind, Transport};

use self::units::units;

fn options(transport: Transport, backend: DtlsBackendKind) -> LegOptions {
    LegOptions {
        transport,
        backend,
        calls: 1,
        duration: Some(Duration::from_secs(1)),
        record: None,
        trace: None,
        services: MediaServices::default(),
        network: None,
    }
}

async fn good(lab: &Lab, options: &LegOptions) -> LegReport {
    let report = leg::run(lab, options).await;
    assert!(
        report.ok,
        "{} {:?}: {:?}",
        report.transport, report.dtls_backend, report.error
    );
    report
}

/// The samples of a recording are those of the sample that the other side played, from its beginning, as G.711 has
/// them.
fn assert_recorded(path: &Path, played: &Audio) {
    let bytes = std::fs::read(path.with_extension("ulaw")).unwrap();
    let original = tsc_sip::media::Codec::Pcmu.encode(played.samples());
    assert!(
        bytes.len() >= 8000 / 2,
        "half a second at least, not {}",
        bytes.len()
    );
    for (at, (heard, said)) in bytes.iter().zip(original.iter().cycle()).enumerate() {
        assert_eq!(heard, said, "{} differs at sample {at}", path.display());
    }
    // The WAV file says the same.
    let mut wav = hound::WavReader::open(path).unwrap();
    let samples: Vec<i16> = wav.samples::<i16>().map(Result::unwrap).collect();
    assert_eq!(samples, tsc_sip::media::Codec::Pcmu.decode(&bytes));
}

async fn recorded_leg(transport: Transport, backend: DtlsBackendKind) {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let report = good(
        &lab,
        &LegOptions {
            record: Some(directory.path().to_owned()),
            ..options(transport, backend)
        },
    )
    .await;
    assert_eq!(report.calls.len(), 2);
    for call in &report.calls {
        let played = match call.role {
            Role::Caller => Audio::reply(),
            Role::Callee => Audio::speech(),
        };
        assert_recorded(call.recording.as_deref().expect("a recording"), &played);
    }
    let counters = lab.server.stop().unwrap().counters;
    assert_eq!(
        (
            counters.no_route,
            counters.queue_full,
            counters.hops_exceeded
        ),
        (0, 0, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tcp_is_bit_exact_both_ways() {
    recorded_leg(Transport::Tcp, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_tls_is_bit_exact_both_ways() {
    recorded_leg(Transport::Tls, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_udp_is_bit_exact_both_ways() {
    recorded_leg(Transport::Udp, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_dtls_by_openssl_is_bit_exact_both_ways() {
    recorded_leg(Transport::Dtls, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_dtls_by_dimpl_is_bit_exact_both_ways() {
    recorded_leg(Transport::Dtls, DtlsBackendKind::Dimpl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_dtls_by_webrtc_is_bit_exact_both_ways() {
    recorded_leg(Transport::Dtls, DtlsBackendKind::WebRtc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_share_one_tunnel() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let report = good(
        &lab,
        &LegOptions {
            calls: 20,
            ..options(Transport::Tls, DtlsBackendKind::OpenSsl)
        },
    )
    .await;
    assert_eq!(report.calls.len(), 40);
    assert_eq!(lab.server.stop().unwrap().sessions.configured, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_holds_inner_packets_and_control_messages_of_both_directions() {
    let directory = tempfile::tempdir().unwrap();
    let server_file = directory.path().join("server.pcapng");
    let lab = Lab::start(&LabOptions {
        system: format!("trace-file = {:?}", server_file.display().to_string()),
        ..LabOptions::default()
    })
    .unwrap();
    good(
        &lab,
        &LegOptions {
            trace: Some(directory.path().to_owned()),
            ..options(Transport::Dtls, DtlsBackendKind::OpenSsl)
        },
    )
    .await;
    drop(lab.server.stop());
    for name in [
        "dtls-openssl-client.pcapng",
        "dtls-openssl-server.pcapng",
        "server.pcapng",
    ] {
        let units = units(&directory.path().join(name));
        for wanted in [
            (true, false, "Configuration_Request"),
            (true, false, "Configuration_Response"),
            (true, false, "Configuration_Release_Request"),
            (false, true, "SIP/2.0 200 OK"),
            (false, true, "INVITE sip:"),
        ] {
            let (control, inner, text) = wanted;
            let found = units.iter().any(|unit| {
                unit.control == control && unit.control != inner && unit.text.contains(text)
            });
            assert!(found, "{name}: no {text}");
        }
        for inbound in [true, false] {
            assert!(
                units
                    .iter()
                    .any(|unit| !unit.control && unit.inbound == inbound),
                "{name}: one direction only"
            );
        }
    }
}
