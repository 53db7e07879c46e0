//! Names: SRV records, addresses, and what can be wrong with them, by a name server on loopback.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

mod support;

use std::{collections::HashMap, net::UdpSocket, thread};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use support::{Pki, Server, diagnosis, examine, step};
use tsc_demo::lab::LabOptions;
use tsc_tapi::Transport;

type Zone = HashMap<(String, RecordType), RData>;

/// Answers until the test program ends; of names that are not in the zone it says that they do not exist.
fn name_server(zone: Zone) -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            let question = Message::from_vec(&buf[..len]).unwrap();
            let query = question.queries[0].clone();
            let (name, kind) = (query.name.to_ascii().to_lowercase(), query.query_type);
            let id = question.metadata.id;
            let mut answer = Message::new(id, MessageType::Response, OpCode::Query);
            answer.metadata.recursion_available = true;
            let owner = query.name.clone();
            answer.add_query(query);
            if !zone.keys().any(|(known, _)| *known == name) {
                answer.metadata.response_code = ResponseCode::NXDomain;
            }
            if let Some(data) = zone.get(&(name, kind)) {
                answer.add_answer(Record::from_rdata(owner, 60, data.clone()));
            }
            socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
        }
    });
    address
}

fn srv(port: u16, target: &str) -> RData {
    let target = Name::from_ascii(target).unwrap();
    RData::SRV(SRV::new(1, 1, port, target))
}

#[test]
fn srv_records_lead_to_the_server_and_certificates_are_for_the_domain() {
    let pki = Pki::new();
    let server = Server::start(&pki.server(), &LabOptions::default());
    let url = server.url(Transport::Tls);
    let port: u16 = url.rsplit(':').next().unwrap().parse().unwrap();
    let loopback = RData::A(std::net::Ipv4Addr::LOCALHOST.into());
    let zone = [
        ("_tscfs._tcp.tunnels.example.", srv(port, "sbc.example.")),
        ("_tscfs._udp.tunnels.example.", srv(0, ".")),
        ("sbc.example.", loopback),
    ];
    let zone = zone.map(|(name, data)| ((name.to_owned(), data.record_type()), data));
    let dns = name_server(zone.into());
    let ca = pki.ca();

    let arguments = [
        "--only",
        "--dns",
        &dns,
        "--ca",
        &ca,
        "tls://tunnels.example",
    ];
    let (code, targets) = examine(&arguments);
    assert_eq!(code, 1, "{targets:#}");
    let resolve = step(&targets[0], "resolve");
    assert_eq!(resolve["srv"], true);
    assert_eq!(resolve["addresses"][0], format!("127.0.0.1:{port}"));
    // Not for the target either: who answers the DNS would choose the name.
    let problem = &step(&targets[0], "tls")["problem"];
    assert_eq!(problem["kind"], "certificate-name");
    assert!(
        problem["text"]
            .as_str()
            .unwrap()
            .contains("tunnels.example")
    );

    let named = ["--server-name", "localhost", "--count", "1"];
    let (code, targets) = examine(&[&arguments[..], &named].concat());
    assert_eq!(code, 0, "{targets:#}");

    let (code, targets) = examine(&["--dns", &dns, "--ca", &ca, "dtls://tunnels.example"]);
    assert_eq!(code, 1);
    let problem = &step(&targets[0], "resolve")["problem"];
    assert_eq!(problem["kind"], "not-offered");
}

#[test]
fn a_wrong_name_is_not_a_silent_name_server() {
    let dns = name_server(Zone::new());
    let (code, targets) = examine(&["--dns", &dns, "tcp://gone.example"]);
    assert_eq!(code, 1);
    let problem = &step(&targets[0], "resolve")["problem"];
    assert_eq!(problem["kind"], "no-such-name");
    assert!(diagnosis(&targets[0]).contains("misspelt"));
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let dns = silent.local_addr().unwrap().to_string();
    let (code, targets) = examine(&["-w", "0.4", "--dns", &dns, "tcp://gone.example"]);
    assert_eq!(code, 1);
    let problem = &step(&targets[0], "resolve")["problem"];
    assert_eq!(problem["kind"], "no-dns-answer");
    assert!(diagnosis(&targets[0]).contains("No name server answers"));
}
