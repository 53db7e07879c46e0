//! Data flows in simulated time: exact, whatever the machine does meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    missing_docs
)]

mod egress_support;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use egress_support::{HEAD, packet::udp};
use tsc_server::{
    config::{Config, Overrides},
    harness::PacketPath,
};

const SECONDS: u32 = 10;

/// Bytes that pass in ten seconds, up and down, of what is offered each way: packets of `len` bytes, `each` a millisecond.
fn passed(upstream: u32, downstream: u32, len: usize, each: u32) -> [u64; 2] {
    let text = format!(
        "{HEAD}\n[[tscf-address-pool]]\nname = \"clients\"\naddress-range = [\"10.64.0.0/24\"]\negress = \"tun\"\n\
         data-flow = \"slow\"\n[[tscf-data-flow]]\nname = \"slow\"\ngroup-size = 2\nupstream-rate = {upstream}\n\
         downstream-rate = {downstream}\n"
    );
    let config = Config::parse_with(&text, "test", &Overrides::default()).unwrap();
    let start = Instant::now();
    let mut path = PacketPath::new(&config, start, 2).unwrap();
    let host: SocketAddr = "192.0.2.1:5060".parse().unwrap();
    let data = vec![0; len - 28];
    // Both tunnels of a group, in turns: the rate is for both.
    let ends = [0, 1].map(|tunnel| SocketAddr::new(path.addresses(tunnel)[0], 4000));
    let out = ends.map(|end| udp(end, host, &data));
    let back = ends.map(|end| udp(host, end, &data));
    let mut bytes = [0; 2];
    for step in 0..SECONDS * 1000 {
        let now = start + Duration::from_millis(step.into());
        for number in 0..each {
            let tunnel = usize::from((step + number) % 2 == 1);
            path.tunnel_packet(now, tunnel, &out[tunnel]);
            path.core_packet(now, &back[tunnel]);
        }
        path.drain(|down, packet| bytes[usize::from(down)] += packet.len() as u64);
    }
    bytes
}

#[test]
fn rates_are_met_within_five_percent_in_both_directions() {
    // Offered is far more: in packets of media and of the longest kind, at rates from a call to a fast line.
    for (upstream, downstream, len, each) in [
        (20, 10, 200, 2),
        (10, 20, 1400, 1),
        (100, 1000, 1000, 4),
        (12207, 1220, 1400, 20),
    ] {
        let [up, down] = passed(upstream, downstream, len, each);
        for (bytes, rate, way) in [(up, upstream, "up"), (down, downstream, "down")] {
            let wanted = f64::from(rate) * 1024.0 * f64::from(SECONDS);
            let ratio = bytes as f64 / wanted;
            assert!(
                (0.95..=1.05).contains(&ratio),
                "{way} {rate} KB/s, packets of {len}: {ratio}"
            );
        }
    }
}

#[test]
fn what_is_slower_than_its_rate_passes_whole_and_no_rate_is_no_limit() {
    // 200 bytes a millisecond are 195.3 KB/s.
    let offered = 200 * u64::from(SECONDS) * 1000;
    assert_eq!(passed(196, 0, 200, 1), [offered, offered]);
    assert_eq!(passed(0, 196, 200, 1), [offered, offered]);
}
