//! A packet costs no memory on its way through rates, policies and the switch.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod counting;
mod egress_support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use counting::allocations;
use egress_support::{HEAD, packet::udp};
use tsc_server::{
    config::{Config, Overrides},
    harness::PacketPath,
};

#[test]
fn packets_of_known_flows_allocate_nothing() {
    let text = format!(
        r#"{HEAD}
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/24"]
egress = "tun"
data-flow = "fast"
protocol-policy = "one, two"
[[tscf-data-flow]]
name = "fast"
group-size = 1
upstream-rate = 122070
downstream-rate = 122070
[[tscf-protocol-policy]]
name = "one"
ip-address = "203.0.113.0/24"
egress = "drop"
[[tscf-protocol-policy]]
name = "two"
ip-address = "192.0.2.0/24"
remote-ip-address = "198.51.100.1"
"#
    );
    let config = Config::parse_with(&text, "test", &Overrides::default()).unwrap();
    let start = Instant::now();
    let mut path = PacketPath::new(&config, start, 2).unwrap();
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let [one, two] = [0, 1].map(|tunnel| SocketAddr::new(path.addresses(tunnel)[0], 4000));
    let out = udp(one, at("192.0.2.1:5060"), &[0; 172]);
    let back = udp(at("198.51.100.1:5060"), one, &[0; 172]);
    let across = udp(one, two, &[0; 172]);
    let mut turn = |now: Instant| {
        for _ in 0..10 {
            path.tunnel_packet(now, 0, &out);
            path.core_packet(now, &back);
            path.tunnel_packet(now, 0, &across);
        }
        let mut passed = 0;
        path.drain(|_, _| passed += 1);
        assert_eq!(passed, 30);
    };
    // Memory that is kept from then on, and both generations of the flows.
    for seconds in [0, 1, 301, 302, 602, 603] {
        turn(start + Duration::from_secs(seconds));
    }
    let before = allocations();
    for step in 0..1000 {
        turn(start + Duration::from_secs(604) + Duration::from_millis(step * 20));
    }
    assert_eq!(allocations(), before);
}
