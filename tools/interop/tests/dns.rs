//! Names, asked by a tunnel of the DNS server of the host's network, on port 53, through the user-space egress.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        RData, Record, RecordType,
        rdata::{A, AAAA},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_interop::isolated;
use tsc_tapi::{DtlsBackendKind, Transport, Tunnel};

const LIMIT: Duration = Duration::from_secs(30);

/// A name with more addresses than fit into a datagram.
const MANY: &str = "many.example.";
/// As many as that.
const ADDRESSES: u8 = 30;

/// What the server knows: one name with an address of each family, one with many.
fn answer(question: &[u8], stream: bool) -> Vec<u8> {
    let question = Message::from_vec(question).unwrap();
    let mut answer = question.clone();
    answer.metadata.message_type = MessageType::Response;
    let query = &question.queries[0];
    let (name, kind) = (query.name.clone(), query.query_type);
    let record = |data| Record::from_rdata(name.clone(), 60, data);
    match (name.to_ascii().as_str(), kind) {
        ("one.example.", RecordType::A) => {
            answer.add_answers([record(RData::A(A([203, 0, 113, 1].into())))]);
        }
        ("one.example.", RecordType::AAAA) => {
            let address = "2001:db8::1".parse().unwrap();
            answer.add_answers([record(RData::AAAA(AAAA(address)))]);
        }
        (MANY, RecordType::A) if stream => {
            let all = 1..=ADDRESSES;
            answer.add_answers(all.map(|last| record(RData::A(A([203, 0, 113, last].into())))));
        }
        (MANY, RecordType::A) => answer.metadata.truncation = true,
        ("one.example." | MANY, _) => {}
        _ => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer.to_vec().unwrap()
}

/// A DNS server of the host's network.
async fn serve(address: IpAddr) {
    let socket = UdpSocket::bind((address, 53)).await.unwrap();
    let listener = TcpListener::bind((address, 53)).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1024];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let answer = answer(&buffer[..len], false);
            socket.send_to(&answer, from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let len = stream.read_u16().await.unwrap();
            let mut question = vec![0; len.into()];
            stream.read_exact(&mut question).await.unwrap();
            let answer = answer(&question, true);
            stream
                .write_u16(u16::try_from(answer.len()).unwrap())
                .await
                .unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

async fn look_up(tunnel: &Tunnel, name: &str) -> Vec<SocketAddr> {
    let found = timeout(LIMIT, tunnel.lookup_host(name, 80)).await;
    found
        .expect("in time")
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `server` is told to clients; nothing allows it besides.
async fn names_are_found(server: &str) {
    let server: IpAddr = server.parse().unwrap();
    serve(server).await;
    let lab = Lab::start(&LabOptions {
        interface: format!("authentication = \"none\"\ndns-servers = [\"{server}\"]"),
        // With an address of each family it asks for both.
        address_range: "10.64.0.0/24\", \"fd64::/120".to_owned(),
        ..LabOptions::default()
    })
    .unwrap();
    let tunnel = lab
        .tunnel(Transport::Tls, DtlsBackendKind::OpenSsl)
        .unwrap();
    let tunnel = timeout(LIMIT, tunnel.connect())
        .await
        .expect("in time")
        .unwrap();

    let mut found = look_up(&tunnel, "one.example").await;
    found.sort();
    let expected = ["203.0.113.1:80", "[2001:db8::1]:80"].map(|text| text.parse().unwrap());
    assert_eq!(found, expected, "asked {server}");
    // What does not fit into a datagram comes over TCP.
    let found = look_up(&tunnel, "many.example").await;
    assert_eq!(found.len(), usize::from(ADDRESSES), "asked {server}");
    let unknown = timeout(LIMIT, tunnel.lookup_host("none.example", 80)).await;
    assert!(unknown.expect("in time").is_err());

    let counters = lab.server.report().await.unwrap().user_space.unwrap();
    assert!(counters.udp_received >= 4, "{counters:?}");
    assert_eq!(
        (counters.tcp_opened, counters.denied),
        (1, 0),
        "{counters:?}"
    );
    timeout(LIMIT, tunnel.close(LIMIT))
        .await
        .expect("in time")
        .unwrap();
}

#[test]
fn a_tunnel_asks_the_dns_server_of_the_hosts_network() {
    isolated("a_tunnel_asks_the_dns_server_of_the_hosts_network", || {
        ip("link set lo up");
        ip("address add 192.0.2.53/32 dev lo");
        ip("address add 2001:db8:53::1/128 dev lo nodad");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            names_are_found("192.0.2.53").await;
            names_are_found("2001:db8:53::1").await;
        });
    });
}
