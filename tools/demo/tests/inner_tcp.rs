//! SIP, MSRP and HTTP over inner TCP, and RTP beside them, through real tunnels: over every transport and both DTLS back
//! ends, and in numbers that the SDK of the guide does not allow.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{sync::Arc, time::Duration};

use tsc_demo::lab::{Lab, LabOptions, SIP_SERVER, Side};
use tsc_sip::{
    client::{ClientOptions, ClientReport, FileSource, run_client},
    report::{Outcome, SessionKind},
    server::{ServerOptions, SipServer},
    sip::Transport as SipTransport,
    stop::Stop,
};
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel};

/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);
const GOODBYE: Duration = Duration::from_secs(10);

struct Numbers {
    calls: usize,
    chats: usize,
    files: usize,
    file_size: u64,
    downloads: usize,
    download_size: u64,
}

async fn open(
    lab: &Lab,
    side: Side,
    transport: Transport,
    backend: DtlsBackendKind,
) -> Arc<Tunnel> {
    let builder = lab.tunnel_to(side, transport, backend).unwrap();
    let builder = builder.connect_timeout(Duration::from_secs(30));
    Arc::new(builder.connect().await.unwrap())
}

async fn run(transport: Transport, backend: DtlsBackendKind, numbers: Numbers) -> ClientReport {
    let work = try_run(transport, backend, numbers);
    tokio::time::timeout(PATIENCE, work).await.unwrap()
}

async fn try_run(transport: Transport, backend: DtlsBackendKind, numbers: Numbers) -> ClientReport {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let core = open(&lab, Side::Core, transport, backend).await;
    let options = ServerOptions {
        http_port: Some(8080),
        ..ServerOptions::default()
    };
    let mut server = SipServer::start(Arc::clone(&core), options).await.unwrap();
    assert_eq!(server.address().to_string(), SIP_SERVER);
    let mut sessions = server.session_reports().unwrap();

    // One tunnel for everything.
    let access = open(&lab, Side::Access, transport, backend).await;
    let mut options = ClientOptions::new("alice", "play");
    options.transport = SipTransport::Tcp;
    options.duration = Some(Duration::from_secs(1));
    options.calls = numbers.calls;
    options.sessions.chats = numbers.chats;
    options.sessions.files = numbers.files;
    options.sessions.file = FileSource::Pattern(numbers.file_size);
    options.downloads.count = numbers.downloads;
    options.downloads.path = format!("/bytes/{}", numbers.download_size);
    let report = run_client(Arc::clone(&access), options, Stop::never())
        .await
        .unwrap();

    assert_eq!(report.outcome(), Outcome::Ok, "{transport}: {report:?}");
    assert!(report.register_ms.is_some());
    assert_eq!(report.calls.len(), numbers.calls);
    assert_eq!(report.chats.len(), numbers.chats);
    assert_eq!(report.files.len(), numbers.files);
    for chat in &report.chats {
        assert_eq!((chat.sent, chat.received), (5, 5), "{chat:?}");
    }
    for download in &report.downloads {
        assert_eq!(download.bytes, numbers.download_size);
        assert!(download.checked);
    }
    // The callee agrees, file by file.
    for _ in 0..numbers.chats + numbers.files {
        let callee = sessions.recv().await.unwrap();
        assert_eq!(callee.outcome, Outcome::Ok, "{callee:?}");
        if callee.kind == SessionKind::File {
            let file = callee.file.unwrap();
            assert!(file.intact && file.size == numbers.file_size);
            let sent = report.files[0].file.as_ref().unwrap();
            assert_eq!(file.sha1, sent.sha1);
        }
    }
    server.stop(GOODBYE).await.unwrap();
    for tunnel in [access, core] {
        if let Some(tunnel) = Arc::into_inner(tunnel) {
            // Confirmed or not: what was to be shown is shown.
            let _ = tunnel.close(GOODBYE).await;
        }
    }
    report
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
    let numbers = Numbers {
        calls: 50,
        chats: 100,
        files: 10,
        file_size: 200_000,
        downloads: 10,
        download_size: 200_000,
    };
    run(Transport::Tls, DtlsBackendKind::OpenSsl, numbers).await;
}
