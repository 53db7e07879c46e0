//! SIP, MSRP and HTTP over inner TCP, and RTP beside them, through real tunnels: over every transport and both DTLS back
//! ends, and in numbers that the SDK of the guide does not allow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::time::Duration;

use tsc_demo::{
    inner_tcp::{self, Numbers},
    lab::{Lab, LabOptions},
    leg::LegOptions,
};
use tsc_sip::net::MediaServices;
use tsc_tapi::{DtlsBackendKind, Transport};

/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

async fn run(transport: Transport, backend: DtlsBackendKind, numbers: Numbers) {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let options = LegOptions {
        transport,
        backend,
        calls: 0,
        duration: Some(Duration::from_secs(1)),
        record: None,
        trace: None,
        services: MediaServices::default(),
        network: None,
    };
    let leg = inner_tcp::run(&lab, &options, &numbers);
    let report = tokio::time::timeout(PATIENCE, leg).await.unwrap();
    assert!(report.ok, "{transport}: {:?}", report.error);
    let facts = report.inner_tcp.unwrap();
    assert_eq!(
        (facts.calls, facts.chats, facts.files, facts.downloads),
        (
            numbers.calls,
            numbers.chats,
            numbers.files,
            numbers.downloads
        )
    );
    assert_eq!(facts.messages, numbers.chats as u64 * 10, "five each way");
    let bytes = facts.messages * 3000
        + numbers.files as u64 * numbers.file_size
        + numbers.downloads as u64 * numbers.download_size;
    assert_eq!(facts.bytes, bytes);
    assert_eq!(report.calls.len(), 2 * numbers.calls);
    assert_eq!(lab.server.stop().unwrap().sessions.configured, 2, "tunnels");
}

async fn a_few(transport: Transport, backend: DtlsBackendKind) {
    let numbers = Numbers {
        calls: 2,
        chats: 4,
        files: 2,
        file_size: 300_000,
        downloads: 2,
        download_size: 300_000,
    };
    run(transport, backend, numbers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tcp() {
    a_few(Transport::Tcp, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls() {
    a_few(Transport::Tls, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_udp() {
    a_few(Transport::Udp, DtlsBackendKind::OpenSsl).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_dtls_of_each_back_end() {
    for backend in DtlsBackendKind::ALL {
        if backend.is_available() {
            a_few(Transport::Dtls, backend).await;
        }
    }
}

/// The guide limits an SDK instance to 3 calls, 10 chats and 1 file.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_calls_a_hundred_chats_and_ten_files_in_one_tunnel() {
    let numbers = Numbers::default();
    assert_eq!((numbers.calls, numbers.chats, numbers.files), (50, 100, 10));
    run(Transport::Tls, DtlsBackendKind::OpenSsl, numbers).await;
}
