//! Bad input of every kind against the running program: each leaves a line in the log by which an operator finds it.
#![cfg(feature = "dtls-openssl")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod pki;
mod program_support;

use std::{
    io::{IoSlice, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, UdpSocket},
    path::Path,
    sync::LazyLock,
};

use pki::Authority;
use program_support::{LIMIT, Port, Program, command, event, run, text};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::time::timeout;
use tsc_osaa::{
    cert::{ClientSecurity, Identity, PemSource, Roots, Trust},
    client::{ClientTransport, ConnectOptions, RECV_BUFFER, Target, TransportKind, connect},
};
use tsc_tpl::{
    CmType, Cookie, Limits, MessageBuilder, Padding, ResponseCode, Sequence, StreamDecoder, Tlv,
    Tsid, Unit, registry,
};

static OURS: LazyLock<Authority> = LazyLock::new(|| Authority::new("ours"));
static FOREIGN: LazyLock<Authority> = LazyLock::new(|| Authority::new("foreign"));

fn client_identity(authority: &Authority) -> Identity {
    let (certificate, key) = authority.issue(ExtendedKeyUsagePurpose::ClientAuth);
    Identity::from_pem(
        &PemSource::Memory(certificate.into_bytes()),
        &PemSource::Memory(key.into_bytes()),
    )
    .unwrap()
}

fn trust(authority: &Authority) -> Trust {
    let pem = PemSource::Memory(authority.pem.clone().into_bytes());
    Trust::Roots(Roots::from_pem(&pem).unwrap())
}

/// An interface that lets everyone in, with one address for each transport, and one that wants certificates.
const CONFIG: &str = r#"
[[tls-profile]]
name = "test"
certificate = "server.pem"
private-key = "server.key"
client-ca = ["ca.pem"]

[[tscf-address-pool]]
name = "small"
address-range = ["10.64.0.1-10.64.0.4"]

[[tscf-address-pool]]
name = "guarded"
address-range = ["10.65.0.1-10.65.0.2"]

[[tscf-interface]]
realm-id = "open"
local-address-pools = ["small"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tcp", "tls", "udp", "dtls"]
tls-profile = "test"

[[tscf-interface]]
realm-id = "guarded"
local-address-pools = ["guarded"]
authentication = "mtls"

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tls", "dtls"]
tls-profile = "test"
"#;

fn write_files(directory: &Path) {
    let (certificate, key) = OURS.issue(ExtendedKeyUsagePurpose::ServerAuth);
    for (name, text) in [
        ("server.pem", &certificate),
        ("server.key", &key),
        ("ca.pem", &OURS.pem),
    ] {
        std::fs::write(directory.join(name), text).unwrap();
    }
}

fn start(directory: &Path) -> (Program, Vec<Port>) {
    write_files(directory);
    Program::start_json(command(directory, CONFIG))
}

fn port(ports: &[Port], interface: &str, transport: &str) -> SocketAddr {
    let found = ports
        .iter()
        .find(|port| port.interface == interface && port.transport == transport);
    found.unwrap().address
}

/// A request for a tunnel, long enough for UDP.
fn request(sequence: u32, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut message = MessageBuilder::new(
        CmType::CONFIGURATION_REQUEST,
        Tsid::UNASSIGNED,
        Sequence(sequence),
    )
    .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
    .tlv(Tlv::Padding(Padding::new(120).unwrap()));
    if let Some(cookie) = cookie {
        message = message.tlv(Tlv::Cookie(Cookie::new(cookie).unwrap()));
    }
    message.encode(&mut wire).unwrap();
    wire
}

#[test]
fn garbage_truncated_and_hostile_messages_are_logged_for_every_listener() {
    let directory = tempfile::tempdir().unwrap();
    let (program, ports) = start(directory.path());
    let valid = request(7, None);
    let truncated = &valid[..valid.len() - 1];
    let mut hostile = valid.clone();
    // More TLVs than a message may have.
    hostile[2..4].copy_from_slice(&[0xFF, 0xFF]);
    let keepalive_of_nobody = {
        let mut wire = Vec::new();
        MessageBuilder::new(CmType::KEEPALIVE, Tsid(1), Sequence(1))
            .encode(&mut wire)
            .unwrap();
        wire.truncate(15);
        wire
    };
    let hello = [0x16, 3, 1, 0, 5, 9, 9, 9, 9, 9];
    let dtls_hello = [0x16, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 1];
    let dtls_data = [&[0x17, 0xFE, 0xFD, 0, 1][..], &[0; 40]].concat();
    let stun = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[0; 12]].concat();
    let streams: [(&str, &[u8], &str); 5] = [
        ("zeros", &[0; 64], "connection-refused"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n", "connection-refused"),
        ("no ClientHello", &hello, "connection-refused"),
        ("truncated", truncated, "stream-ended"),
        ("hostile", &hostile, "stream-ended"),
    ];
    for interface in ["open", "guarded"] {
        let to = port(&ports, interface, "tls");
        for (name, bytes, expected) in streams {
            if interface == "guarded" && expected == "stream-ended" {
                // No clear port there.
                continue;
            }
            let mut stream = TcpStream::connect(to).unwrap();
            let us = stream.local_addr().unwrap().to_string();
            stream.write_all(bytes).unwrap();
            // The server may have closed the connection by now.
            drop(stream.shutdown(Shutdown::Write));
            let record = program.wait_for_event(expected, |record| record["peer"] == us.as_str());
            assert!(!text(&record, "reason").is_empty(), "{name}: {record}");
        }
    }
    let datagrams: [(&str, &[u8]); 8] = [
        ("ones", &[0xFF; 64]),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
        ("truncated", truncated),
        ("hostile", &hostile),
        ("cut keepalive", &keepalive_of_nobody),
        ("cut ClientHello", &dtls_hello),
        ("DTLS data of nobody", &dtls_data),
        ("STUN", &stun),
    ];
    for interface in ["open", "guarded"] {
        let to = port(&ports, interface, "dtls");
        for (name, bytes) in datagrams {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(bytes, to).unwrap();
            let us = socket.local_addr().unwrap().to_string();
            let record =
                program.wait_for_event("datagram-dropped", |record| record["peer"] == us.as_str());
            assert!(!text(&record, "reason").is_empty(), "{name}: {record}");
        }
    }
}

/// What comes of a connection: the code of the answer to a request, `Err` if it did not get that far.
async fn ask(
    kind: TransportKind,
    to: SocketAddr,
    trust: Trust,
    identity: Option<Identity>,
) -> Result<(ResponseCode, ClientTransport), String> {
    let security = ClientSecurity::new(trust, identity).unwrap();
    let target = Target::new(kind, to.ip(), to.port());
    let mut transport = connect(&target, Some(&security), &ConnectOptions::default())
        .await
        .map_err(|error| error.to_string())?;
    let mut buffer = vec![0; RECV_BUFFER];
    let mut cookie: Option<Vec<u8>> = None;
    for sequence in 1.. {
        let request = request(sequence, cookie.as_deref());
        transport
            .send(&[IoSlice::new(&request)])
            .await
            .map_err(|error| error.to_string())?;
        let mut decoder = StreamDecoder::new(Limits::default());
        let code = loop {
            let len = timeout(LIMIT, transport.recv(&mut buffer))
                .await
                .expect("an answer in time")
                .map_err(|error| error.to_string())?;
            let mut feed = decoder.feed(&buffer[..len]);
            if let Some(Unit::Control(message)) = feed.next().unwrap() {
                let message = message.parse().unwrap();
                cookie = message.cookie().map(|cookie| cookie.expose().to_vec());
                break message.response_code().unwrap();
            }
        };
        if code != ResponseCode::COOKIE_REQUIRED {
            return Ok((code, transport));
        }
    }
    unreachable!()
}

#[tokio::test]
async fn wrong_certificates_of_either_side_are_logged_over_tls_and_dtls() {
    let directory = tempfile::tempdir().unwrap();
    let (program, ports) = start(directory.path());
    for (kind, transport, expected, reason) in [
        (TransportKind::Tls, "tls", "connection-refused", "reason"),
        (TransportKind::Dtls, "dtls", "handshake-failed", "error"),
    ] {
        let to = port(&ports, "guarded", transport);
        for (trust, identity, words) in [
            // A client that the server does not trust, one that shows nothing, one that does not trust the server.
            (trust(&OURS), Some(client_identity(&FOREIGN)), "certificate"),
            (trust(&OURS), None, "certificate"),
            (trust(&FOREIGN), Some(client_identity(&OURS)), "unknown_ca"),
        ] {
            let error = timeout(LIMIT, ask(kind, to, trust, identity))
                .await
                .expect("in time")
                .map(|(code, _)| code)
                .expect_err("refused");
            let record = program.wait_for_event(expected, |_| true);
            let logged = text(&record, reason);
            assert!(logged.contains(words), "{transport}: {logged}; {error}");
            let peer: SocketAddr = text(&record, "peer").parse().unwrap();
            assert!(peer.ip().is_loopback());
        }
        let good = ask(kind, to, trust(&OURS), Some(client_identity(&OURS))).await;
        let (code, _tunnel) = good.expect("let in");
        assert_eq!(code, ResponseCode::SUCCESS, "{transport}");
        let up = program.wait_for_event("tunnel-up", |_| true);
        assert_eq!(text(&up, "interface"), "guarded");
    }
}

#[tokio::test]
async fn tunnels_are_logged_with_their_way_in_and_an_exhausted_pool_with_its_code() {
    let directory = tempfile::tempdir().unwrap();
    let (program, ports) = start(directory.path());
    let mut tunnels = Vec::new();
    for (kind, transport) in [
        (TransportKind::Tcp, "tcp"),
        (TransportKind::Tls, "tls"),
        (TransportKind::Udp, "udp"),
        (TransportKind::Dtls, "dtls"),
    ] {
        let to = port(&ports, "open", transport);
        let (code, way) = ask(kind, to, trust(&OURS), None).await.unwrap();
        assert_eq!(code, ResponseCode::SUCCESS, "{transport}");
        let record = program.wait_for_event("tunnel-up", |_| true);
        assert_eq!(text(&record, "interface"), "open");
        assert_eq!(text(&record, "transport"), transport);
        let us = way.local_addr().port();
        let peer: SocketAddr = text(&record, "peer").parse().unwrap();
        assert_eq!(peer, SocketAddr::from(([127, 0, 0, 1], us)), "{transport}");
        tunnels.push(way);
    }
    let to = port(&ports, "open", "tcp");
    let (code, way) = ask(TransportKind::Tcp, to, trust(&OURS), None)
        .await
        .unwrap();
    assert_eq!(code, ResponseCode::NO_ADDRESS);
    let record = program.wait_for_event("tunnel-refused", |_| true);
    assert_eq!(text(&record, "code"), ResponseCode::NO_ADDRESS.to_string());
    assert_eq!(text(&record, "peer"), way.local_addr().to_string());
}

#[test]
fn a_port_in_use_is_logged_with_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let (_program, ports) = start(directory.path());
    let taken = port(&ports, "guarded", "tls");
    let text_of = CONFIG.replacen("port = 0", &format!("port = {}", taken.port()), 1);
    let second = tempfile::tempdir().unwrap();
    write_files(second.path());
    let mut second = command(second.path(), &text_of);
    let (output, log) = run(second.args(["--log-format", "json"]));
    assert_eq!(output.status.code(), Some(3), "{log}");
    let records = log.lines().map(|line| serde_json::from_str(line).unwrap());
    let failed = records
        .filter(|record: &serde_json::Value| event(record) == "start-failed")
        .collect::<Vec<_>>();
    assert_eq!(failed.len(), 1, "{log}");
    assert_eq!(text(&failed[0], "level"), "ERROR");
    assert!(
        text(&failed[0], "message").contains(&taken.to_string()),
        "{log}"
    );
}
