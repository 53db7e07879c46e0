//! A client that comes back resumes its TLS or DTLS session, whichever worker and port of the server it reaches.
#![cfg(feature = "dtls-openssl")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod pki;
mod program_support;

use std::{io::IoSlice, net::SocketAddr};

use pki::Authority;
use program_support::{LIMIT, Program, command, text};
use rcgen::ExtendedKeyUsagePurpose;
use tokio::time::timeout;
use tsc_osaa::{
    cert::{ClientSecurity, PemSource, Roots, Trust},
    client::{ClientTransport, ConnectOptions, RECV_BUFFER, Target, TransportKind, connect},
};
use tsc_tpl::{CmType, MessageBuilder, Sequence, Tlv, Tsid, registry};

/// Two interfaces of one profile, served by four workers.
const CONFIG: &str = r#"
[tscf-config]
workers = 4

[[tls-profile]]
name = "test"
certificate = "server.pem"
private-key = "server.key"

[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/24"]

[[tscf-interface]]
realm-id = "first"
local-address-pools = ["clients"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tls", "dtls"]
tls-profile = "test"

[[tscf-interface]]
realm-id = "second"
local-address-pools = ["clients"]
authentication = "none"

[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = ["tls", "dtls"]
tls-profile = "test"
"#;

/// Connections to each port: all at the worker of the first happens once in 4^12 runs.
const CONNECTIONS: usize = 12;

/// Whether a connection resumes a session. It asks for a tunnel, too: tickets for TLS 1.3 come with the first bytes of the server.
async fn resumes(to: SocketAddr, kind: TransportKind, security: &ClientSecurity) -> bool {
    let visit = async {
        let target = Target::new(kind, to.ip(), to.port());
        let options = ConnectOptions::default();
        let mut transport = connect(&target, Some(security), &options).await.unwrap();
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .encode(&mut request)
            .unwrap();
        transport.send(&[IoSlice::new(&request)]).await.unwrap();
        let mut buffer = vec![0; RECV_BUFFER];
        assert!(transport.recv(&mut buffer).await.unwrap() > 0);
        match transport {
            ClientTransport::Stream(stream) => stream.tls_info().unwrap().resumed,
            ClientTransport::Datagram(datagram) => datagram.dtls_info().unwrap().resumed,
            other => panic!("{other:?}"),
        }
    };
    timeout(LIMIT, visit).await.expect("in time")
}

#[tokio::test]
async fn a_client_that_comes_back_resumes_wherever_it_gets_to() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new("ours");
    let (certificate, key) = authority.issue(ExtendedKeyUsagePurpose::ServerAuth);
    for (name, text) in [("server.pem", &certificate), ("server.key", &key)] {
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let (program, ports) = Program::start_json(command(directory.path(), CONFIG));
    let pem = PemSource::Memory(authority.pem.into_bytes());
    let trust = Trust::Roots(Roots::from_pem(&pem).unwrap());
    let security = ClientSecurity::new(trust, None).unwrap();
    for (kind, transport) in [(TransportKind::Tls, "tls"), (TransportKind::Dtls, "dtls")] {
        let ports: Vec<SocketAddr> = ports
            .iter()
            .filter(|port| port.transport == transport)
            .map(|port| port.address)
            .collect();
        assert_eq!(ports.len(), 2);
        assert!(!resumes(ports[0], kind, &security).await);
        for port in ports {
            for number in 0..CONNECTIONS {
                assert!(resumes(port, kind, &security).await, "{transport} {number}");
            }
        }
    }
    program.signal("USR1");
    let report = program.wait_for_event("report", |record| text(record, "part") == "dtls");
    assert_eq!(report["connected_total"], 2 * CONNECTIONS + 1);
    assert_eq!(report["resumed"], 2 * CONNECTIONS);
}
