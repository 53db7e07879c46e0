//! Names to addresses, by a name server on loopback that says what it is told to.
#![cfg(feature = "srv")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::SRV},
};
use tokio::{net::UdpSocket, task::JoinHandle};
use tsc_osaa::{
    client::{Host, TransportKind},
    resolve::{
        Candidate, DEFAULT_PORT, Families, MAX_CANDIDATES, MAX_TARGETS, ResolveError,
        ResolveOptions, Source, resolve,
    },
};

/// What the server knows; of other names it says that there is no such name.
type Zone = HashMap<(String, RecordType), Vec<RData>>;

struct NameServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    async fn start(zone: Zone) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buf = vec![0; 4096];
            loop {
                let (len, from) = socket.recv_from(&mut buf).await.unwrap();
                let question = Message::from_vec(&buf[..len]).unwrap();
                let answer = answer(&zone, &question, &log);
                let bytes = answer.to_vec().unwrap();
                socket.send_to(&bytes, from).await.unwrap();
            }
        });
        Self {
            address,
            asked,
            task,
        }
    }

    fn options(&self) -> ResolveOptions {
        let mut options = ResolveOptions::default();
        options.name_servers = vec![self.address];
        options
    }
}

fn answer(zone: &Zone, question: &Message, log: &Mutex<Vec<String>>) -> Message {
    let query = question.queries[0].clone();
    let name = query.name.to_ascii().to_lowercase();
    let kind = query.query_type;
    log.lock().unwrap().push(format!("{kind} {name}"));
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let owner = query.name.clone();
    answer.add_query(query);
    if name.starts_with("broken.") {
        answer.metadata.response_code = ResponseCode::ServFail;
    } else if !zone.keys().any(|(known, _)| *known == name) {
        answer.metadata.response_code = ResponseCode::NXDomain;
    }
    for data in zone.get(&(name, kind)).into_iter().flatten() {
        answer.add_answer(Record::from_rdata(owner.clone(), 60, data.clone()));
    }
    answer
}

fn host(zone: &mut Zone, name: &str, addresses: &[&str]) {
    for text in addresses {
        let (kind, data) = match text.parse().unwrap() {
            IpAddr::V4(ip) => (RecordType::A, RData::A(ip.into())),
            IpAddr::V6(ip) => (RecordType::AAAA, RData::AAAA(ip.into())),
        };
        let key = (name.to_owned(), kind);
        zone.entry(key).or_default().push(data);
    }
}

fn srv(zone: &mut Zone, name: &str, records: &[(u16, u16, u16, &str)]) {
    let records = records.iter().map(|(priority, weight, port, target)| {
        let target = Name::from_ascii(target).unwrap();
        RData::SRV(SRV::new(*priority, *weight, *port, target))
    });
    let key = (name.to_owned(), RecordType::SRV);
    zone.entry(key).or_default().extend(records);
}

async fn ask(
    host: &str,
    port: Option<u16>,
    transport: TransportKind,
    options: &ResolveOptions,
) -> Result<Vec<Candidate>, ResolveError> {
    let host: Host = host.parse().unwrap();
    resolve(&host, port, transport, options).await
}

fn addresses(candidates: &[Candidate]) -> Vec<String> {
    candidates
        .iter()
        .map(|candidate| candidate.address.to_string())
        .collect()
}

#[tokio::test]
async fn a_port_given_needs_no_srv_record() {
    let mut zone = Zone::new();
    host(
        &mut zone,
        "tsc.example.",
        &["192.0.2.1", "192.0.2.2", "2001:db8::1"],
    );
    srv(&mut zone, "_tscfs._tcp.tsc.example.", &[(1, 1, 1, "x.")]);
    let server = NameServer::start(zone).await;
    let mut options = server.options();
    let found = ask("tsc.example", Some(443), TransportKind::Tls, &options);
    let found = found.await.unwrap();
    let expected = ["[2001:db8::1]:443", "192.0.2.1:443", "192.0.2.2:443"];
    assert_eq!(addresses(&found), expected);
    assert!(found.iter().all(|found| found.source == Source::Address));
    options.families = Families::Ipv4Only;
    let found = ask("tsc.example", Some(443), TransportKind::Tls, &options);
    assert_eq!(addresses(&found.await.unwrap()), &expected[1..]);
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().all(|asked| !asked.starts_with("SRV")));
}

#[tokio::test]
async fn srv_records_lead_to_targets_by_priority() {
    let mut zone = Zone::new();
    host(&mut zone, "a.example.", &["192.0.2.1", "2001:db8::1"]);
    host(&mut zone, "b.example.", &["192.0.2.2"]);
    for (index, service) in ["_tscf._tcp", "_tscfs._tcp", "_tscf._udp", "_tscfs._udp"]
        .iter()
        .enumerate()
    {
        let port = 5000 + u16::try_from(index).unwrap();
        srv(
            &mut zone,
            &format!("{service}.example."),
            &[
                (20, 0, port, "a.example."),
                (10, 0, port, "b.example."),
                (5, 0, port, "gone.example."),
            ],
        );
    }
    let server = NameServer::start(zone).await;
    let options = server.options();
    for (transport, port) in [
        (TransportKind::Tcp, 5000),
        (TransportKind::Tls, 5001),
        (TransportKind::Udp, 5002),
        (TransportKind::Dtls, 5003),
    ] {
        let found = ask("example", None, transport, &options);
        let found = found.await.unwrap();
        let expected = [
            format!("192.0.2.2:{port}"),
            format!("[2001:db8::1]:{port}"),
            format!("192.0.2.1:{port}"),
        ];
        assert_eq!(addresses(&found), expected);
        let Source::Srv(record) = &found[0].source else {
            panic!("{found:?}");
        };
        assert_eq!((&*record.target, record.priority), ("b.example", 10));
    }
}

#[tokio::test]
async fn without_srv_records_the_default_port_is_tried() {
    let mut zone = Zone::new();
    host(&mut zone, "tsc.example.", &["192.0.2.1"]);
    let server = NameServer::start(zone).await;
    let options = server.options();
    let found = ask("tsc.example", None, TransportKind::Udp, &options);
    let expected = [format!("192.0.2.1:{DEFAULT_PORT}")];
    assert_eq!(addresses(&found.await.unwrap()), expected);
    assert_eq!(
        server.asked.lock().unwrap()[0],
        "SRV _tscf._udp.tsc.example."
    );
}

#[tokio::test]
async fn failures_are_told_apart() {
    let mut zone = Zone::new();
    host(&mut zone, "four.example.", &["192.0.2.1"]);
    host(&mut zone, "none.example.", &["192.0.2.1"]);
    srv(&mut zone, "_tscfs._udp.none.example.", &[(0, 0, 0, ".")]);
    let server = NameServer::start(zone).await;
    let mut options = server.options();
    let error = ask("gone.example", None, TransportKind::Tls, &options).await;
    assert!(matches!(error, Err(ResolveError::NoSuchName { .. })));
    let error = ask("none.example", None, TransportKind::Dtls, &options).await;
    assert!(matches!(error, Err(ResolveError::NotOffered { .. })));
    let error = ask("broken.example", Some(1), TransportKind::Tcp, &options).await;
    let error = error.unwrap_err();
    assert!(matches!(error, ResolveError::NoAnswer { .. }), "{error}");
    assert!(error.is_temporary());
    options.families = Families::Ipv6Only;
    let error = ask("four.example", Some(1), TransportKind::Tcp, &options).await;
    assert!(matches!(error, Err(ResolveError::NoAddress { .. })));
    let error = ask("192.0.2.1", Some(1), TransportKind::Tcp, &options).await;
    assert!(matches!(error, Err(ResolveError::NoAddress { .. })));
}

#[tokio::test]
async fn a_silent_name_server_costs_no_more_than_the_time_given() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut options = ResolveOptions::default();
    options.name_servers = vec![silent.local_addr().unwrap()];
    options.timeout = Duration::from_millis(400);
    let start = Instant::now();
    let error = ask("tsc.example", None, TransportKind::Tls, &options).await;
    let error = error.unwrap_err();
    assert!(error.is_temporary(), "{error}");
    // The bound is generous: the machine may be slow.
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn answers_without_end_are_cut() {
    let mut zone = Zone::new();
    let mut records = Vec::new();
    let names: Vec<String> = (0..12)
        .map(|number| format!("t{number}.example."))
        .collect();
    for (number, target) in names.iter().enumerate() {
        let ips: Vec<String> = (0..10).map(|low| format!("192.0.{number}.{low}")).collect();
        let ips: Vec<&str> = ips.iter().map(String::as_str).collect();
        host(&mut zone, target, &ips);
        records.push((1, 1, 4567, target.as_str()));
    }
    srv(&mut zone, "_tscf._tcp.example.", &records);
    let server = NameServer::start(zone).await;
    let options = server.options();
    let found = ask("example", None, TransportKind::Tcp, &options);
    assert_eq!(found.await.unwrap().len(), MAX_CANDIDATES);
    let asked = server.asked.lock().unwrap();
    let targets = asked.iter().filter(|asked| asked.starts_with("A ")).count();
    assert_eq!(targets, MAX_TARGETS);
}

#[tokio::test]
async fn addresses_are_taken_as_they_are_and_localhost_by_the_system() {
    let options = ResolveOptions::default();
    let found = ask("[::1]", None, TransportKind::Tls, &options).await;
    let found = found.unwrap();
    assert_eq!(addresses(&found), [format!("[::1]:{DEFAULT_PORT}")]);
    assert_eq!(found[0].source, Source::Literal);
    let found = ask("localhost", None, TransportKind::Tls, &options).await;
    let found = found.unwrap();
    assert!(found.iter().all(|found| found.address.ip().is_loopback()));
}
