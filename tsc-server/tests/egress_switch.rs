//! Policies, data flows and the borders between tunnels and egresses, over real tunnels.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_precision_loss,
    missing_docs
)]

mod egress_support;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use egress_support::{
    HEAD, LIMIT, Tunnel, change_offers,
    packet::{Read, read, udp},
    report, start,
};

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pool(lines: &str) -> String {
    format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\n\
         address-quarantine = 0\n{lines}\n"
    )
}

#[test]
fn a_policy_sends_to_another_tunnel_and_answers_come_back_as_asked() {
    let server = start(&pool(
        r#"egress = "switch"
protocol-policy = ["service"]
[[tscf-protocol-policy]]
name = "service"
ip-address = "192.0.2.0/24"
port = "5000-5010"
transport-type = "udp"
remote-ip-address = "10.64.0.1"
remote-port = 7000"#,
    ));
    let mut service = Tunnel::open(&server);
    let mut client = Tunnel::open(&server);
    assert_eq!(service.at(0).ip().to_string(), "10.64.0.1");
    for (asked, from) in [("192.0.2.9:5003", 4000), ("192.0.2.77:5010", 4001)] {
        let asked = address(asked);
        client.send(&udp(client.at(from), asked, b"question"));
        let got = read(&service.receive());
        assert_eq!(
            got,
            Read::Udp(client.at(from), service.at(7000), b"question".to_vec())
        );
        service.send(&udp(service.at(7000), client.at(from), b"answer"));
        let got = read(&client.receive());
        assert_eq!(got, Read::Udp(asked, client.at(from), b"answer".to_vec()));
    }
    // Another port of the same host is nobody's.
    client.send(&udp(client.at(4000), address("192.0.2.9:5011"), b"lost"));
    let Read::Icmp(_, _, 3, 1, _) = read(&client.receive()) else {
        panic!("host unreachable");
    };
}

#[test]
fn what_a_policy_drops_is_said_and_does_not_arrive() {
    let server = start(&pool(
        r#"protocol-policy = ["no"]
[[tscf-protocol-policy]]
name = "no"
ip-address = "10.64.0.1"
port = 25
egress = "drop""#,
    ));
    let mut other = Tunnel::open(&server);
    let mut client = Tunnel::open(&server);
    let (from, to) = (client.at(4000), other.at(25));
    client.send(&udp(from, to, b"spam"));
    let Read::Icmp(_, _, 3, 13, quoted) = read(&client.receive()) else {
        panic!("administratively prohibited");
    };
    assert_eq!(quoted, udp(from, to, b"spam"));
    client.send(&udp(from, other.at(26), b"ham"));
    assert_eq!(
        read(&other.receive()),
        Read::Udp(from, other.at(26), b"ham".to_vec())
    );
    assert_eq!(report(&server).counters.egress.policy_dropped, 1);
}

#[test]
fn nobody_has_anothers_address() {
    let server = start(&pool("egress = \"switch\""));
    let mut other = Tunnel::open(&server);
    let mut client = Tunnel::open(&server);
    let to = other.at(4000);
    // Of the other tunnel, of nobody, and of somebody outside.
    for from in ["10.64.0.1:1", "10.64.0.200:1", "192.0.2.1:1", "127.0.0.1:1"] {
        client.send(&udp(address(from), to, b"forged"));
    }
    client.send(&udp(client.at(1), to, b"true"));
    assert_eq!(
        read(&other.receive()),
        Read::Udp(client.at(1), to, b"true".to_vec())
    );
    assert_eq!(report(&server).sessions.wrong_source, 4);
}

#[test]
fn blocked_clients_reach_the_host_and_no_other_client() {
    let text = pool("[user-space-egress]\nallow-destinations = [\"127.0.0.1\"]").replace(
        "[tscf-interface.limits]",
        "assigned-services = \"inter-client-block\"\n[tscf-interface.limits]",
    );
    // The services belong to the interface, before its tables.
    let text = text.replace(
        "authentication = \"none\"\n\nassigned-services",
        "authentication = \"none\"\nassigned-services",
    );
    let server = start(&text);
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(LIMIT)).unwrap();
    let other = Tunnel::open(&server);
    let mut client = Tunnel::open(&server);
    // Whether somebody has the address or not, the answer is the same.
    for to in [other.at(1), address("10.64.0.99:1")] {
        client.send(&udp(client.at(4000), to, b"hello"));
        let Read::Icmp(from, _, 3, 13, _) = read(&client.receive()) else {
            panic!("administratively prohibited");
        };
        assert_eq!(from, to.ip());
    }
    let to = host.local_addr().unwrap();
    client.send(&udp(client.at(4000), to, b"question"));
    let mut buffer = [0; 100];
    let (len, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"question");
    host.send_to(b"answer", from).unwrap();
    assert_eq!(
        read(&client.receive()),
        Read::Udp(to, client.at(4000), b"answer".to_vec())
    );
}

#[test]
fn tunnels_that_exist_are_not_kept_apart_by_a_later_change() {
    let text = pool("");
    let server = start(&text);
    let (mut old, mut other) = (Tunnel::open(&server), Tunnel::open(&server));
    let blocked = text.replacen(
        "authentication = \"none\"",
        "authentication = \"none\"\nassigned-services = \"inter-client-block\"",
        1,
    );
    assert_ne!(blocked, text);
    change_offers(&server, &blocked);
    let mut new = Tunnel::open(&server);
    old.send(&udp(old.at(1), other.at(2), b"hello"));
    assert_eq!(
        read(&other.receive()),
        Read::Udp(old.at(1), other.at(2), b"hello".to_vec())
    );
    new.send(&udp(new.at(1), other.at(2), b"hello"));
    let Read::Icmp(_, _, 3, 13, _) = read(&new.receive()) else {
        panic!("administratively prohibited");
    };
}

#[test]
fn a_host_behind_the_server_is_known_by_another_name() {
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(LIMIT)).unwrap();
    let port = host.local_addr().unwrap().port();
    let server = start(&pool(&format!(
        r#"protocol-policy = "sip"
[user-space-egress]
allow-destinations = ["127.0.0.1"]
[[tscf-protocol-policy]]
name = "sip"
ip-address = "10.99.0.1"
port = 5060
remote-ip-address = "127.0.0.1"
remote-port = {port}"#
    )));
    let mut client = Tunnel::open(&server);
    let asked = address("10.99.0.1:5060");
    client.send(&udp(client.at(5060), asked, b"OPTIONS"));
    let mut buffer = [0; 100];
    let (len, from) = host.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"OPTIONS");
    host.send_to(b"200 OK", from).unwrap();
    assert_eq!(
        read(&client.receive()),
        Read::Udp(asked, client.at(5060), b"200 OK".to_vec())
    );

    // Nobody listens any more: the error speaks of what the client knows.
    drop(host);
    let sent = udp(client.at(5060), asked, b"OPTIONS");
    client.send(&sent);
    let Read::Icmp(from, _, 3, 3, quoted) = read(&client.receive()) else {
        panic!("port unreachable");
    };
    assert_eq!(from, asked.ip());
    assert_eq!(quoted[12..24], sent[12..24], "addresses and ports");
}

/// The rate of the tests below, in bytes a second, and how long a silence is made good for.
const RATE: f64 = 100.0 * 1024.0;
const FILLED: Duration = Duration::from_millis(200);
/// What is offered at once, of 1000 bytes each: as much as the bucket holds.
const ROUND: u64 = 22;

/// Ten seconds at a tenth of what is offered. A round offers all that the bucket can hold, and waits until the server has
/// seen it, so that nothing is lost unless two rounds take longer than it needs to fill; what that loses is known.
/// `offer` gives the server a round, `seen` says how much it has had. All that passes comes out of `receiver`.
fn meets_its_rate(
    server: &tsc_server::Server,
    receiver: &mut Tunnel,
    mut offer: impl FnMut(),
    seen: impl Fn(&tsc_server::Report) -> u64,
) {
    let before = report(server);
    let (first, switched) = (seen(&before), before.counters.switched);
    let begun = Instant::now();
    let (mut rounds, mut lost) = ([begun; 2], Duration::ZERO);
    let (mut sent, mut got) = (0, 0);
    while begun.elapsed() < Duration::from_secs(10) {
        offer();
        sent += ROUND;
        let asked = Instant::now();
        while seen(&report(server)) - first < sent {
            assert!(asked.elapsed() < LIMIT, "what is offered does not arrive");
        }
        let now = Instant::now();
        lost += (now - rounds[0]).saturating_sub(FILLED);
        rounds = [rounds[1], now];
        // Read, so that no queue on the way fills.
        while got < report(server).counters.switched - switched {
            assert_eq!(receiver.receive().len(), 1000);
            got += 1;
        }
    }
    let elapsed = begun.elapsed();
    let counters = report(server).counters;
    let passed = sent - counters.egress.rate_limited;
    assert_eq!(
        (counters.switched - switched, counters.queue_full),
        (passed, 0)
    );
    assert_eq!(got, passed);
    let bytes = passed as f64 * 1000.0;
    let most = RATE * elapsed.as_secs_f64() * 1.05;
    let least = RATE * elapsed.saturating_sub(lost).as_secs_f64() * 0.95;
    assert!(
        (least..=most).contains(&bytes),
        "{bytes} bytes in {elapsed:?}, {lost:?} lost"
    );
}

#[test]
fn a_data_flow_meets_its_upstream_rate() {
    let server = start(&pool(
        "egress = \"switch\"\ndata-flow = \"slow\"\n[[tscf-data-flow]]\nname = \"slow\"\ngroup-size = 1\n\
         upstream-rate = 100",
    ));
    let mut receiver = Tunnel::open(&server);
    let mut sender = Tunnel::open(&server);
    let (from, to) = (sender.at(4000), receiver.at(4000));
    let offered = udp(from, to, &[0; 972]).repeat(usize::try_from(ROUND).unwrap());
    meets_its_rate(
        &server,
        &mut receiver,
        || sender.send(&offered),
        |report| report.sessions.forwarded,
    );
}

#[test]
fn a_data_flow_meets_its_downstream_rate() {
    let server = start(&pool(
        "data-flow = \"slow\"\n[[tscf-data-flow]]\nname = \"slow\"\ngroup-size = 1\ndownstream-rate = 100\n\
         [user-space-egress]\nallow-destinations = [\"127.0.0.1\"]",
    ));
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(LIMIT)).unwrap();
    let mut receiver = Tunnel::open(&server);
    receiver.send(&udp(
        receiver.at(4000),
        host.local_addr().unwrap(),
        b"ready",
    ));
    let (_, mapped) = host.recv_from(&mut [0; 10]).unwrap();
    meets_its_rate(
        &server,
        &mut receiver,
        || {
            for _ in 0..ROUND {
                host.send_to(&[0; 972], mapped).unwrap();
            }
        },
        |report| report.counters.egress.incoming,
    );
}

#[test]
fn two_families_have_their_own_rules() {
    let text = format!(
        "{}\n[[tscf-address-pool]]\nname = \"six\"\naddress-range = [\"fd64::/120\"]\negress = \"switch\"\n",
        pool("egress = \"user-space\"")
    )
    .replace("[\"clients\"]", "[\"six\"]");
    let server = start(&text);
    let mut client = Tunnel::open(&server);
    let to: IpAddr = "2001:db8::1".parse().unwrap();
    client.send(&udp(client.at(1), SocketAddr::new(to, 2), b"lost"));
    let Read::Icmp(from, _, 1, 3, _) = read(&client.receive()) else {
        panic!("address unreachable");
    };
    assert_eq!(from, to);
}
