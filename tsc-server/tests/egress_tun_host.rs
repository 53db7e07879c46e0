//! The TUN egress and the host that it is part of: other routes, other hands, several queues, and a device that goes.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

mod egress_support;
mod program_support;

use std::{
    fs,
    net::{SocketAddr, UdpSocket},
    process::{Command, Stdio},
};

use egress_support::{
    HEAD, Tunnel,
    namespace::{host, in_namespace, ip, receive},
    packet::{Read, forbid_fragments, read, udp},
    report, start,
};
use program_support::{Program, command, event, text};
use serde_json::Value;
use tsc_osaa::tun::{TunConfig, TunDevice};
use tsc_server::{
    Server,
    config::{Config, Overrides},
};
use tsc_tpl::CmType;

/// The host is 10.64.0.1 on the device.
fn configuration(pool: &str, tun: &str) -> String {
    format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\n\
         egress = \"tun\"\n{pool}\n[tun-egress]\n{tun}\n"
    )
}

const EXCLUDE: &str = "exclude = [\"10.64.0.1\"]";
const DEVICE: &str = "name = \"tsctest\"\naddresses = [\"10.64.0.1/24\"]";

#[test]
fn a_deleted_device_ends_the_program_in_order() {
    if !in_namespace("a_deleted_device_ends_the_program_in_order") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let text_of = configuration(EXCLUDE, DEVICE);
    let (mut program, ports) = Program::start_json(command(directory.path(), &text_of));
    let mut client = Tunnel::connect(ports[0].address);
    ip(&["link", "delete", "tsctest"]);
    let gone = program.wait_for_event("tun-failed", |_| true);
    assert_eq!(
        (text(&gone, "level"), text(&gone, "name")),
        ("ERROR", "tsctest")
    );
    client.wait_for(CmType::CONFIGURATION_RELEASE_REQUEST);
    // It does not wait for a client that has hung up.
    drop(client);
    let records = program.records_until("failed");
    assert!(records.iter().any(|record| event(record) == "tunnel-down"));
    let last = records.last().unwrap().to_string();
    assert!(
        last.contains("the TUN device tsctest was deleted"),
        "{last}"
    );
    assert_eq!(program.wait().code(), Some(1));
}

#[test]
fn an_embedding_program_learns_why_the_server_ended() {
    if !in_namespace("an_embedding_program_learns_why_the_server_ended") {
        return;
    }
    let server = start(&configuration(EXCLUDE, DEVICE));
    ip(&["link", "delete", "tsctest"]);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime
        .block_on(async { tokio::time::timeout(egress_support::LIMIT, server.failed()).await })
        .expect("in time");
    let failure = server.stop().unwrap().failure.unwrap();
    assert!(
        failure.to_string().contains("tsctest was deleted"),
        "{failure}"
    );
}

fn refusal(text: &str) -> String {
    let config = Config::parse_with(text, "test", &Overrides::default()).unwrap();
    Server::start(&config)
        .expect_err("routes are in the way")
        .to_string()
}

#[test]
fn routes_that_take_addresses_of_tunnels_are_refused_by_name() {
    if !in_namespace("routes_that_take_addresses_of_tunnels_are_refused_by_name") {
        return;
    }
    ip(&["tuntap", "add", "dev", "core0", "mode", "tun"]);
    ip(&["link", "set", "core0", "up"]);
    let taken = |route: &str, interface: &str, address: &str, owner: &str| {
        format!(
            "the host leads {address}, of {owner}, to {interface} by its route {route}, not to the TUN device: \
             remove that route, or give tunnels other addresses (`exclude` of a pool)"
        )
    };
    let pool = "pool \"clients\"";
    let plain = configuration("", "name = \"tsctest\"");
    for (route, address) in [
        ("10.64.0.128/25", "10.64.0.128"),
        ("10.64.0.77/32", "10.64.0.77"),
        ("10.64.0.0/24", "10.64.0.1"),
    ] {
        ip(&["route", "add", route, "dev", "core0", "metric", "100"]);
        assert_eq!(refusal(&plain), taken(route, "core0", address, pool));
        ip(&["route", "delete", route, "dev", "core0", "metric", "100"]);
    }
    // An address of the host itself, and a route to nowhere.
    ip(&["address", "add", "10.64.0.7/32", "dev", "lo"]);
    assert_eq!(
        refusal(&plain),
        taken("10.64.0.7/32", "lo", "10.64.0.7", pool)
    );
    ip(&["address", "delete", "10.64.0.7/32", "dev", "lo"]);
    let six = plain.replace("10.64.0.0/24", "fd64::/112");
    ip(&["route", "add", "blackhole", "fd64::40/122"]);
    assert_eq!(
        refusal(&six),
        taken("fd64::40/122", "no interface", "fd64::40", pool)
    );

    // What is excluded may be there, and what is wider may be anywhere.
    ip(&["route", "add", "10.64.0.128/25", "dev", "core0"]);
    ip(&["route", "add", "10.0.0.0/8", "dev", "core0"]);
    drop(start(&configuration(
        "exclude = [\"10.64.0.1\", \"10.64.0.128-10.64.0.255\"]",
        DEVICE,
    )));
    // Written out, the same network is refused whoever has addresses there.
    ip(&[
        "route",
        "add",
        "10.99.0.0/16",
        "dev",
        "core0",
        "metric",
        "100",
    ]);
    assert_eq!(
        refusal(&configuration("", "routes = [\"10.99.0.0/16\"]")),
        "TUN device: there is already a route to 10.99.0.0/16, by core0"
    );
    assert_eq!(
        refusal(&configuration(
            EXCLUDE,
            "addresses = [\"10.99.0.1/16\"]\nroutes = []"
        )),
        "TUN device: there is already a route to 10.99.0.0/16, by core0"
    );
    let left = fs::read_to_string("/proc/self/net/dev").unwrap();
    assert!(!left.contains("tsc"), "{left}");
}

#[test]
fn what_is_longer_than_the_device_takes_is_cut_if_it_may_be() {
    if !in_namespace("what_is_longer_than_the_device_takes_is_cut_if_it_may_be") {
        return;
    }
    // Tunnels take 1400.
    let server = start(&configuration(EXCLUDE, &format!("{DEVICE}\nmtu = 1000")));
    let host = host("10.64.0.1:7000");
    let at_host = host.local_addr().unwrap();
    let mut client = Tunnel::open(&server);
    let data: Vec<u8> = (0..1300_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    let long = udp(client.at(4000), at_host, &data);
    client.send(&long);
    assert_eq!(receive(&host), (data, client.at(4000)));
    let counters = report(&server).counters;
    assert_eq!(
        (
            counters.fragmented,
            counters.too_big,
            counters.egress.outgoing
        ),
        (1, 0, 1)
    );

    let mut whole = long;
    forbid_fragments(&mut whole);
    client.send(&whole);
    let error = client.receive();
    let Read::Icmp(_, _, 3, 4, quoted) = read(&error) else {
        panic!("fragmentation needed");
    };
    assert_eq!(error[26..28], 1000_u16.to_be_bytes(), "the MTU");
    assert_eq!(quoted[..20], whole[..20]);
    assert_eq!(report(&server).counters.too_big, 1);
}

/// How many flows there are; the kernel spreads them over the queues by a hash.
const FLOWS: u16 = 64;

#[test]
fn several_queues_carry_all_flows_in_order() {
    if !in_namespace("several_queues_carry_all_flows_in_order") {
        return;
    }
    let server = start(&configuration(EXCLUDE, &format!("{DEVICE}\nqueues = 4")));
    let descriptors = fs::read_dir("/proc/self/fd").unwrap();
    let queues = descriptors.filter(|entry| {
        let target = fs::read_link(entry.as_ref().unwrap().path());
        target.is_ok_and(|target| target.as_os_str() == "/dev/net/tun")
    });
    assert_eq!(queues.count(), 4);
    carries_all_flows(&mut [Tunnel::open(&server), Tunnel::open(&server)]);
    assert_eq!(report(&server).counters.egress.tun_dropped, 0);
}

/// Every flow of hosts and tunnels arrives, in its order.
fn carries_all_flows(clients: &mut [Tunnel]) {
    let hosts: Vec<UdpSocket> = (0..FLOWS).map(|_| host("10.64.0.1:0")).collect();
    for client in clients {
        let to = client.at(9);
        for round in 0..3_u8 {
            for host in &hosts {
                host.send_to(&[round], to).unwrap();
            }
        }
        let mut next = std::collections::HashMap::<SocketAddr, u8>::new();
        for _ in 0..3 * FLOWS {
            let Read::Udp(from, at, data) = read(&client.receive()) else {
                panic!("not a datagram");
            };
            assert_eq!(at, to);
            let expected = next.entry(from).or_default();
            assert_eq!(data, [*expected]);
            *expected += 1;
        }
        assert_eq!(next.len(), usize::from(FLOWS));
        for host in &hosts {
            let at_host = host.local_addr().unwrap();
            for round in 0..3_u8 {
                client.send(&udp(to, at_host, &[round]));
            }
        }
        for host in &hosts {
            for round in 0..3_u8 {
                assert_eq!(receive(host), (vec![round], to));
            }
        }
    }
}

/// As a service manager does it: the helper makes the device with two queues, the server gets them as descriptors, and has no
/// capability from the start.
#[test]
fn a_device_that_is_handed_in_serves_a_program_without_capabilities() {
    if !in_namespace("a_device_that_is_handed_in_serves_a_program_without_capabilities") {
        return;
    }
    let mut device = TunConfig::default();
    device.name = Some("tscgiven".to_owned());
    device.addresses = vec!["10.64.0.1/24".parse().unwrap()];
    device.mtu = 1400;
    device.queues = 2;
    let queues = TunDevice::create(&device).unwrap().into_fds();
    let [first, second] = <[_; 2]>::try_from(queues).unwrap();

    let directory = tempfile::tempdir().unwrap();
    let text_of = configuration(EXCLUDE, "descriptor = \"tun\"\nmtu = 1400");
    let server = command(directory.path(), &text_of);
    let mut manager = Command::new("setpriv");
    manager
        .args(["--bounding-set=-all", "--inh-caps=-all", "sh", "-c"])
        // Descriptors 3 and 4 are what LISTEN_FDS counts from.
        .arg("exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_PID=$$; exec \"$0\" \"$@\"")
        .arg(server.get_program())
        .args(server.get_args())
        .envs([("LISTEN_FDS", "2"), ("LISTEN_FDNAMES", "tun:tun")])
        .env_remove("RUST_LOG")
        .stdin(Stdio::from(first))
        .stdout(Stdio::from(second));
    let (mut program, ports, opened) = started(manager);
    assert_eq!(text(&opened, "name"), "tscgiven");
    assert_eq!(
        (&opened["mtu"], &opened["queues"]),
        (&1400.into(), &2.into())
    );
    let status = fs::read_to_string(format!("/proc/{}/status", program.id())).unwrap();
    assert!(status.contains("CapPrm:\t0000000000000000"), "{status}");
    assert!(status.contains("CapEff:\t0000000000000000"), "{status}");

    let mut clients = [Tunnel::connect(ports), Tunnel::connect(ports)];
    carries_all_flows(&mut clients);
    drop(clients);
    program.signal("TERM");
    assert_eq!(program.wait().code(), Some(0));
    // It was not persistent.
    assert!(
        !fs::read_to_string("/proc/self/net/dev")
            .unwrap()
            .contains("tscgiven")
    );
}

/// A program whose log has told of the device: its port, and that record.
fn started(mut command: Command) -> (Program, SocketAddr, Value) {
    command.args(["--log-format", "json"]);
    let program = Program::start(command);
    let opened = program.wait_for_event("tun-open", |_| true);
    let listening = program.wait_for_event("listening", |_| true);
    let address = text(&listening, "address").parse().unwrap();
    program.wait_for_event("ready", |_| true);
    (program, address, opened)
}
