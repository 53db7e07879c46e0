//! The TUN egress on the real kernel, in network namespaces of their own.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod egress_support;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::SocketAddr,
};

use egress_support::{
    HEAD, Tunnel,
    namespace::{host, in_namespace, ip, receive},
    packet::{Read, read, udp},
    report, report_when, start,
};
use tsc_server::Server;

/// The host is 10.64.0.1 and fd64::1 on the device; clients have the rest.
fn server(pool: &str, tun: &str) -> Server {
    start(&text(pool, tun))
}

fn text(pool: &str, tun: &str) -> String {
    format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\n\
         exclude = [\"10.64.0.1\"]\negress = \"tun\"\n{pool}\n\
         [tun-egress]\nname = \"tsctest\"\naddresses = [\"10.64.0.1/24\"]\n{tun}\n"
    )
}

#[test]
fn hosts_and_tunnels_reach_each_other_as_they_are() {
    if !in_namespace("hosts_and_tunnels_reach_each_other_as_they_are") {
        return;
    }
    let server = server("", "");
    let host = host("10.64.0.1:7000");
    let mut client = Tunnel::open(&server);
    let at_host: SocketAddr = "10.64.0.1:7000".parse().unwrap();
    // A tunnel begins.
    client.send(&udp(client.at(4000), at_host, b"question"));
    assert_eq!(receive(&host), (b"question".to_vec(), client.at(4000)));
    host.send_to(b"answer", client.at(4000)).unwrap();
    let got = read(&client.receive());
    assert_eq!(got, Read::Udp(at_host, client.at(4000), b"answer".to_vec()));
    // A host begins, with as many packets as make several batches.
    for number in 0..300_u16 {
        host.send_to(&number.to_be_bytes(), client.at(9)).unwrap();
        let got = read(&client.receive());
        let data = number.to_be_bytes().to_vec();
        assert_eq!(got, Read::Udp(at_host, client.at(9), data));
    }
    let counters = report(&server).counters.egress;
    assert_eq!((counters.outgoing, counters.tun_dropped), (1, 0));
    assert!(counters.incoming >= 301, "{counters:?}");
    assert!(
        fs::read_to_string("/proc/self/net/dev")
            .unwrap()
            .contains("tsctest")
    );
    drop(server);
    assert!(
        !fs::read_to_string("/proc/self/net/dev")
            .unwrap()
            .contains("tsctest")
    );
}

#[test]
fn strangers_and_forgers_get_nowhere() {
    if !in_namespace("strangers_and_forgers_get_nowhere") {
        return;
    }
    let server = server("", "");
    let host_socket = host("10.64.0.1:7000");
    let mut client = Tunnel::open(&server);
    // A tunnel that does not send from its own address.
    client.send(&udp(
        "10.64.0.77:1".parse().unwrap(),
        "10.64.0.1:7000".parse().unwrap(),
        b"forged",
    ));
    client.send(&udp(
        client.at(1),
        "10.64.0.1:7000".parse().unwrap(),
        b"true",
    ));
    assert_eq!(receive(&host_socket), (b"true".to_vec(), client.at(1)));
    // A host that sends from the address of a tunnel.
    ip(&["address", "add", "10.64.0.9/32", "dev", "lo"]);
    let forger = host("10.64.0.9:7000");
    forger.send_to(b"forged", client.at(1)).unwrap();
    host_socket.send_to(b"true", client.at(1)).unwrap();
    let got = read(&client.receive());
    assert_eq!(
        got,
        Read::Udp(
            "10.64.0.1:7000".parse().unwrap(),
            client.at(1),
            b"true".to_vec()
        )
    );
    // Its packets may take another queue of the device than those of others.
    let before = report_when(&server, |report| report.counters.egress.wrong_source > 0).counters;
    assert_eq!((before.egress.wrong_source, before.no_route), (1, 0));
    // A host that asks for a tunnel that is not there.
    host_socket.send_to(b"anybody?", "10.64.0.200:1").unwrap();
    host_socket.send_to(b"mark", client.at(1)).unwrap();
    client.receive();
    let after = report_when(&server, |report| report.counters.icmp_errors > 0).counters;
    assert_eq!((after.no_route, after.icmp_errors), (1, 1));
}

#[test]
fn the_host_learns_what_fits_into_a_tunnel() {
    if !in_namespace("the_host_learns_what_fits_into_a_tunnel") {
        return;
    }
    // The tunnel takes 1400.
    let server = server("", "mtu = 1500");
    let host = host("10.64.0.1:7000");
    let mut client = Tunnel::open(&server);
    let data: Vec<u8> = (0..1440_u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    // The first is lost where the kernel forbids fragments; then it knows and makes fragments. They may come by another
    // queue of the device than the marks, and are of another class: in whatever order.
    let mut parts: HashMap<[u8; 2], BTreeMap<usize, Vec<u8>>> = HashMap::new();
    let whole = 'sent: loop {
        host.send_to(&data, client.at(4000)).unwrap();
        host.send_to(b"mark", client.at(4001)).unwrap();
        loop {
            let packet = client.receive();
            assert!(packet.len() <= 1400, "{}", packet.len());
            if packet.len() == 32 && packet.ends_with(b"mark") {
                break;
            }
            let at = usize::from(u16::from_be_bytes([packet[6], packet[7]]) & 0x1FFF) * 8;
            let parts = parts.entry([packet[4], packet[5]]).or_default();
            parts.insert(at, packet[20..].to_vec());
            if parts.values().map(Vec::len).sum::<usize>() == 8 + data.len() {
                break 'sent parts.values().flatten().copied().collect::<Vec<u8>>();
            }
        }
    };
    assert_eq!(whole[8..], data);
    let counters = report(&server).counters;
    assert!(counters.too_big + counters.fragmented > 0, "{counters:?}");
    // The other way the device's own limit holds; a tunnel cannot send more than 1400 anyway.
    let fits = udp(client.at(1), "10.64.0.1:7000".parse().unwrap(), &[7; 1372]);
    client.send(&fits);
    assert_eq!(receive(&host).0.len(), 1372);
}

#[test]
fn policies_rewrite_towards_the_core_and_back() {
    if !in_namespace("policies_rewrite_towards_the_core_and_back") {
        return;
    }
    let server = server(
        r#"protocol-policy = ["sip", "no"]
[[tscf-protocol-policy]]
name = "sip"
ip-address = "192.0.2.1"
port = 5060
remote-ip-address = "10.64.0.1"
remote-port = 7000
[[tscf-protocol-policy]]
name = "no"
ip-address = "10.64.0.1"
egress = "drop""#,
        "",
    );
    let host = host("10.64.0.1:7000");
    let mut client = Tunnel::open(&server);
    let asked: SocketAddr = "192.0.2.1:5060".parse().unwrap();
    client.send(&udp(client.at(4000), asked, b"question"));
    assert_eq!(receive(&host), (b"question".to_vec(), client.at(4000)));
    host.send_to(b"answer", client.at(4000)).unwrap();
    let got = read(&client.receive());
    assert_eq!(got, Read::Udp(asked, client.at(4000), b"answer".to_vec()));
    // What nobody listens to is said of the address that was asked for.
    drop(host);
    client.send(&udp(client.at(4000), asked, b"question"));
    let Read::Icmp(from, _, 3, 3, _) = read(&client.receive()) else {
        panic!("port unreachable");
    };
    assert_eq!(from, asked.ip());
    client.send(&udp(client.at(4000), "10.64.0.1:22".parse().unwrap(), b"x"));
    let Read::Icmp(_, _, 3, 13, _) = read(&client.receive()) else {
        panic!("administratively prohibited");
    };
}

#[test]
fn the_server_keeps_no_capabilities() {
    if !in_namespace("the_server_keeps_no_capabilities") {
        return;
    }
    let server = start(&format!("[tscf-config]\nworkers = 3\n{}", text("", "")));
    let mut workers = 0;
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        if status
            .lines()
            .any(|line| line.starts_with("Name:\ttsc-worker-"))
        {
            workers += 1;
            for kind in ["CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb"] {
                let line = format!("{kind}:\t0000000000000000");
                assert!(status.contains(&line), "{status}");
            }
        }
    }
    assert_eq!(workers, 3);
    server.give_up_capabilities().unwrap();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
}

#[test]
fn a_device_that_cannot_be_made_is_said() {
    if !in_namespace("a_device_that_cannot_be_made_is_said") {
        return;
    }
    ip(&["tuntap", "add", "dev", "tsctest", "mode", "tun"]);
    let text = format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\n\
         egress = \"tun\"\n[tun-egress]\nname = \"tsctest\"\n"
    );
    let config = tsc_server::config::Config::parse(&text, "test").unwrap();
    let error = Server::start(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "TUN device: a network interface tsctest already exists"
    );
    let text = text.replace("name = \"tsctest\"", "descriptor = \"tun\"");
    let config = tsc_server::config::Config::parse(&text, "test").unwrap();
    let error = Server::start(&config).unwrap_err();
    assert_eq!(
        error.to_string(),
        "TUN device \"tun\" of the service manager: none of LISTEN_FDNAMES has this name"
    );
}
