//! Bad input of every kind: each gets its clear answer, and a call beside it loses not one packet.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser as _;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tsc_demo::{
    lab::{Lab, LabOptions, Side},
    leg::{self, LegOptions},
};
use tsc_server::{
    cli::{Action, Cli, Exit},
    config::{Config, Environment, Overrides},
};
use tsc_sip::net::MediaServices;
use tsc_tapi::{
    Coded, ConnectError, DtlsBackendKind, ErrorCode, Identity, PemSource, Roots, Server, Transport,
    Trust, Tunnel, TunnelBuilder,
};
use tsc_tpl::{CmType, MessageBuilder, ResponseCode, Sequence, Tlv, Tsid, registry};

const LIMIT: Duration = Duration::from_secs(20);
const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;

/// A valid request with the given TLVs in addition.
fn request(sequence: u32, extra: &[Tlv<'_>]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut message = MessageBuilder::new(
        CmType::CONFIGURATION_REQUEST,
        Tsid::UNASSIGNED,
        Sequence(sequence),
    )
    .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION));
    for tlv in extra {
        message = message.tlv(*tlv);
    }
    message.encode(&mut wire).unwrap();
    wire
}

/// What nobody should send first: by name.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let valid = request(7, &[]);
    let mut huge_count = valid.clone();
    huge_count[2..4].copy_from_slice(&[0xFF, 0xFF]);
    let mut huge_tlv = valid.clone();
    huge_tlv[18..20].copy_from_slice(&[0xFF, 0xFF]);
    let keepalive = {
        let mut wire = Vec::new();
        MessageBuilder::new(CmType::KEEPALIVE, Tsid(1), Sequence(1))
            .encode(&mut wire)
            .unwrap();
        wire
    };
    vec![
        ("zeros", vec![0; 64]),
        ("ones", vec![0xFF; 64]),
        (
            "HTTP",
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
        ),
        ("SIP", b"OPTIONS sip:x SIP/2.0\r\n\r\n".to_vec()),
        ("truncated request", valid[..valid.len() - 1].to_vec()),
        ("TLV count of 65535", huge_count),
        ("TLV of 65535 bytes", huge_tlv),
        ("keepalive first", keepalive),
        (
            "inner packet first",
            vec![
                0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 64, 0, 1, 10, 64, 0, 2,
            ],
        ),
        ("IPv4 header of 4 bytes", vec![0x41, 0, 0, 4]),
        ("redundancy frame", vec![0x1C, 9, 0, 0, 0, 1]),
        (
            "ClientHello cut short",
            vec![0x16, 3, 1, 0xFF, 0xFF, 1, 0, 0],
        ),
        (
            "DTLS handshake cut short",
            vec![0x16, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 1],
        ),
        (
            "DTLS data without association",
            [&[0x17, 0xFE, 0xFD, 0, 1][..], &[0; 40]].concat(),
        ),
        (
            "STUN",
            [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[0; 12]].concat(),
        ),
    ]
}

/// Throws every piece of garbage at every listener once.
async fn throw_garbage(lab: &Lab) {
    for (name, bytes) in garbage() {
        let mut stream = TcpStream::connect(lab.server.address(Transport::Tcp).unwrap())
            .await
            .unwrap();
        stream.write_all(&bytes).await.unwrap();
        // It may have ended the connection by now.
        drop(stream.shutdown().await);
        // The server answers by an end, whatever it says before.
        let mut answer = Vec::new();
        let end = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
        assert!(end.is_ok(), "{name}: the server keeps the connection");

        for port in lab
            .server
            .ports()
            .iter()
            .filter(|port| port.transport == Transport::Dtls)
        {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&bytes, port.address).await.unwrap();
        }
    }
}

/// An interface whose only address is taken, and one that lets in only who has a certificate.
const MORE: &str = r#"
[[tscf-address-pool]]
name = "full"
address-range = ["10.66.0.1"]

[[tscf-interface]]
realm-id = "full"
local-address-pools = ["full"]
authentication = "none"

[tscf-interface.limits]
requests-per-prefix = 10000

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tcp"]

[[tscf-interface]]
realm-id = "guarded"
local-address-pools = ["full"]
authentication = "mtls"

[tscf-interface.limits]
requests-per-prefix = 10000

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tls", "dtls"]
tls-profile = "demo"
"#;

/// A client of an interface of [`MORE`].
fn client(lab: &Lab, interface: &str, transport: Transport) -> TunnelBuilder {
    let port = lab
        .server
        .ports()
        .iter()
        .find(|port| port.interface == interface && port.transport == transport)
        .unwrap();
    let server = Server::new(
        transport,
        port.address.ip().to_string(),
        port.address.port(),
    );
    Tunnel::builder(server)
        .trust(lab.trust())
        .dtls_backend(OPENSSL)
}

async fn error_of(builder: TunnelBuilder) -> ConnectError {
    let mut notifications = builder.notifications();
    match timeout(LIMIT, builder.connect()).await {
        Ok(result) => result.expect_err("refused"),
        Err(_) => {
            let mut told = Vec::new();
            while let Some(notification) = notifications.recv().await {
                told.push(format!("{notification:?}"));
            }
            panic!("no end in time: {}", told.join("\n"));
        }
    }
}

/// Certificates that one side does not accept, over TLS and DTLS. Nobody tries again: each attempt has a minute, and
/// this takes less.
async fn show_wrong_certificates(lab: &Lab, stranger: &Lab) {
    for transport in [Transport::Tls, Transport::Dtls] {
        let untrusted = lab.tunnel(transport, OPENSSL).unwrap();
        let error = error_of(untrusted.trust(stranger.trust())).await;
        assert!(error.is_certificate(), "{transport}: {error}");
        let mallory = stranger.client_identity("mallory").unwrap();
        let error = error_of(client(lab, "guarded", transport).identity(mallory)).await;
        assert!(error.is_client_certificate(), "{transport}: {error}");
    }
}

/// A second server on a port of the first, and one with a configuration that is wrong.
fn start_bad_servers(lab: &Lab) {
    let taken = lab.server.address(Transport::Tcp).unwrap();
    let error = second_server(lab, taken).expect_err("taken");
    assert_eq!(error.exit(), Exit::Bind);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bad.toml");
    std::fs::write(&path, "[tscf-config]\nelment-id = 1\n").unwrap();
    let cli = Cli::try_parse_from(["tsc-server", "--config", path.to_str().unwrap()]).unwrap();
    let Action::Refuse { report, exit } = cli.action(&Environment::default()) else {
        panic!("a wrong key is refused");
    };
    assert_eq!(exit.code(), 2);
    assert!(report.contains("did you mean \"element-id\"?"), "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_beside_every_kind_of_bad_input_loses_nothing() {
    let options = LabOptions {
        more: MORE.to_owned(),
        ..LabOptions::default()
    };
    let lab = Arc::new(Lab::start(&options).unwrap());
    let stranger = Lab::start(&LabOptions::default()).unwrap();
    let holder = client(&lab, "full", Transport::Tcp)
        .connect()
        .await
        .unwrap();
    for transport in Transport::ALL {
        let call = LegOptions {
            transport,
            backend: OPENSSL,
            calls: 1,
            duration: Some(Duration::from_millis(1500)),
            record: None,
            trace: None,
            services: MediaServices::default(),
            network: None,
        };
        let beside = Arc::clone(&lab);
        let mut call = tokio::spawn(async move { leg::run(&beside, &call).await });
        // It asks again and again while the call goes on.
        let unlucky = client(&lab, "full", Transport::Tcp).connect_timeout(Duration::from_secs(3));
        let unlucky = tokio::spawn(error_of(unlucky));
        let mut rounds = 0;
        let report = loop {
            throw_garbage(&lab).await;
            show_wrong_certificates(&lab, &stranger).await;
            let beside = Arc::clone(&lab);
            tokio::task::spawn_blocking(move || start_bad_servers(&beside))
                .await
                .unwrap();
            rounds += 1;
            tokio::select! {
                biased;
                report = &mut call => break report.unwrap(),
                () = tokio::task::yield_now() => {}
            }
        };
        assert!(report.ok, "{transport}: {:?}", report.error);
        assert!(rounds > 1, "the call was over before the noise began");
        let error = unlucky.await.unwrap();
        assert!(
            matches!(&error, ConnectError::Refused(refusal) if refusal.code == ResponseCode::NO_ADDRESS),
            "{error}"
        );
    }
    holder.close(LIMIT).await.unwrap();
    let lab = Arc::into_inner(lab).unwrap();
    let report = lab.server.stop().unwrap();
    assert!(report.sessions.bad_units > 0, "{report:?}");
    assert!(report.sessions.refused > 0, "{report:?}");
    assert!(report.listeners.tls_failed > 0, "{report:?}");
    assert!(report.dtls.failed > 0, "{report:?}");
    assert_eq!(report.counters.queue_full, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_on_udp_gets_a_cookie_and_nothing_else() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let address = lab.server.address(Transport::Udp).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    // Shorter than 128 bytes: no answer at all, so the answer below is to the second one.
    socket.send(&request(1, &[])).await.unwrap();
    let padded = request(2, &[Tlv::Padding(tsc_tpl::Padding::new(120).unwrap())]);
    assert!(padded.len() >= 128);
    socket.send(&padded).await.unwrap();
    let mut buffer = [0; 2048];
    let len = timeout(LIMIT, socket.recv(&mut buffer))
        .await
        .expect("in time")
        .unwrap();
    assert!(len <= padded.len(), "no amplification");
    let unit = tsc_tpl::Unit::decode_datagram(&buffer[..len], &tsc_tpl::Limits::default()).unwrap();
    let tsc_tpl::Unit::Control(message) = unit else {
        panic!("{unit}")
    };
    assert_eq!(message.header().sequence, Sequence(2));
    let message = message.parse().unwrap();
    assert_eq!(message.response_code(), Some(ResponseCode::COOKIE_REQUIRED));
    assert_eq!(lab.server.report().await.unwrap().sessions.sessions, 0);
}

async fn refused(
    lab: &Lab,
    (transport, backend): (Transport, DtlsBackendKind),
    trust: Trust,
    identity: Option<Identity>,
) -> ConnectError {
    let mut builder = lab.tunnel(transport, backend).unwrap().trust(trust);
    if let Some(identity) = identity {
        builder = builder.identity(identity);
    }
    error_of(builder).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_certificate_of_either_side_is_told_apart() {
    let options = LabOptions {
        interface: "authentication = \"mtls\"".to_owned(),
        clear: false,
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    let stranger = Lab::start(&LabOptions::default()).unwrap();
    let mine = || lab.client_identity("alice").unwrap();
    for way in [
        (Transport::Tls, OPENSSL),
        (Transport::Dtls, OPENSSL),
        (Transport::Dtls, DtlsBackendKind::Dimpl),
        (Transport::Dtls, DtlsBackendKind::WebRtc),
    ] {
        // A server that the client does not trust: final, and the authentication code.
        let error = refused(&lab, way, stranger.trust(), Some(mine())).await;
        assert!(error.is_certificate(), "{way:?}: {error}");
        assert_eq!(error.code(), ErrorCode::Authenticate);
        // A client that the server does not trust, and one that shows nothing: as final, and in words.
        for (identity, hint) in [
            (
                Some(stranger.client_identity("mallory").unwrap()),
                "our certificate",
            ),
            (None, "requires a certificate from us"),
        ] {
            let error = refused(&lab, way, lab.trust(), identity).await;
            assert!(error.is_client_certificate(), "{way:?}: {error}");
            assert_eq!(error.code(), ErrorCode::Authenticate, "{way:?}: {error}");
            assert!(error.to_string().contains(hint), "{way:?}: {error}");
        }
        // Another server may think otherwise.
        let (transport, backend) = way;
        let other = stranger
            .server_for(Side::Access, transport, backend)
            .unwrap();
        let both = lab.tunnel(transport, backend).unwrap();
        let trust = Trust::Roots(
            Roots::from_pem(&PemSource::Memory(
                [
                    lab.authority.certificate(),
                    stranger.authority.certificate(),
                ]
                .concat()
                .into_bytes(),
            ))
            .unwrap(),
        );
        let tunnel = timeout(LIMIT, both.server(other).trust(trust).connect())
            .await
            .expect("in time")
            .unwrap();
        tunnel.close(LIMIT).await.unwrap();
        let good = lab
            .tunnel(transport, backend)
            .unwrap()
            .identity(mine())
            .connect();
        let tunnel = timeout(LIMIT, good).await.expect("in time").unwrap();
        tunnel.close(LIMIT).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exhausted_pool_refuses_by_name_and_serves_again_when_an_address_returns() {
    let options = LabOptions {
        address_range: "10.64.0.1-10.64.0.2".to_owned(),
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    let connect = || {
        lab.tunnel(Transport::Tls, OPENSSL)
            .unwrap()
            .connect_timeout(Duration::from_secs(3))
            .connect()
    };
    let first = connect().await.unwrap();
    let _second = connect().await.unwrap();
    let error = timeout(LIMIT, connect())
        .await
        .expect("in time")
        .expect_err("no address left");
    let ConnectError::Refused(refusal) = &error else {
        panic!("{error}")
    };
    assert_eq!(refusal.code, ResponseCode::NO_ADDRESS);
    assert_eq!(error.code(), ErrorCode::CannotConfigure);
    first.close(LIMIT).await.unwrap();
    let third = timeout(LIMIT, connect()).await.expect("in time").unwrap();
    third.close(LIMIT).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_the_door_and_a_wrong_one_does_not() {
    // sha256 of "open sesame"
    let hash = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";
    let options = LabOptions {
        interface:
            "authentication = \"token\"\ntoken-file = \"tokens\"\nallow-token-on-clear = true"
                .to_owned(),
        files: vec![("tokens".to_owned(), format!("alice:{hash}\n").into_bytes())],
        ..LabOptions::default()
    };
    let lab = Lab::start(&options).unwrap();
    for transport in [Transport::Tls, Transport::Dtls] {
        let builder = || {
            lab.tunnel(transport, OPENSSL)
                .unwrap()
                .connect_timeout(Duration::from_secs(3))
        };
        let tunnel = timeout(
            LIMIT,
            builder().auth_token(b"open sesame".to_vec()).connect(),
        )
        .await
        .unwrap()
        .unwrap();
        tunnel.close(LIMIT).await.unwrap();
        for attempt in [builder().auth_token(b"open sesam".to_vec()), builder()] {
            let error = timeout(LIMIT, attempt.connect())
                .await
                .unwrap()
                .expect_err("not authorized");
            assert_eq!(error.code(), ErrorCode::Authenticate, "{error}");
        }
    }
    // On a clear transport the client keeps its token to itself, whatever the server would take.
    let clear = lab
        .tunnel(Transport::Tcp, OPENSSL)
        .unwrap()
        .connect_timeout(Duration::from_secs(3));
    let error = timeout(LIMIT, clear.auth_token(b"open sesame".to_vec()).connect())
        .await
        .unwrap()
        .expect_err("clear");
    assert_eq!(error.code(), ErrorCode::Authenticate, "{error}");
}

/// Starts another server with the first port at an address.
fn second_server(
    lab: &Lab,
    address: SocketAddr,
) -> Result<tsc_server::Server, tsc_server::StartError> {
    let options = LabOptions::default();
    let text =
        Lab::config_text(&options).replacen("port = 0", &format!("port = {}", address.port()), 1);
    let identity = lab.authority.server().unwrap();
    let overrides = Overrides::default()
        .with_file("server.pem", identity.certificate.into_bytes())
        .with_file("server.key", identity.key.into_bytes())
        .with_file("ca.pem", lab.authority.certificate().as_bytes());
    let config = Config::parse_with(&text, "test", &overrides).unwrap();
    tsc_server::Server::start(&config)
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let taken = lab.server.address(Transport::Tcp).unwrap();
    let error = second_server(&lab, taken).expect_err("taken");
    assert_eq!(error.exit(), Exit::Bind);
    assert!(error.to_string().contains(&taken.to_string()), "{error}");
}

/// The time for connecting is a minute: the answer must not wait for it.
#[tokio::test]
async fn nobody_there_is_said_at_once_on_every_transport() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    for transport in Transport::ALL {
        // Ports that were just free, on an address that no other test uses.
        let free = |_| {
            let tcp = std::net::TcpListener::bind("127.0.0.78:0").unwrap();
            let port = tcp.local_addr().unwrap().port();
            Server::new(transport, "127.0.0.78", port)
        };
        let [one, other] = [0, 1].map(free);
        let nobody = || Tunnel::builder(one.clone()).server(other.clone());
        let error = error_of(nobody().trust(lab.trust())).await;
        assert_eq!(
            error.code(),
            ErrorCode::CannotConnect,
            "{transport}: {error}"
        );
        assert!(
            matches!(
                error,
                ConnectError::Transport {
                    source: tsc_osaa::client::ConnectError::Refused { .. },
                    ..
                }
            ),
            "{transport}: {error}"
        );
        // Somebody who is there is found behind them.
        let third = lab.server_for(Side::Access, transport, OPENSSL).unwrap();
        let tunnel = nobody().server(third).trust(lab.trust()).connect();
        let tunnel = timeout(LIMIT, tunnel).await.expect("in time").unwrap();
        tunnel.close(LIMIT).await.unwrap();
    }
}
