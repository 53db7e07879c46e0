//! The way of an inner packet through the switch: source check, rates, policies, route, copy. Nanoseconds for one
//! packet, and how they grow with tunnels and policies.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::{hint::black_box, net::IpAddr, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tsc_server::{
    config::{Config, Overrides},
    harness::PacketPath,
};

const PACKETS: usize = 256;

/// What a pool says, besides its addresses; and how many policies come before the one that matches.
fn config(lines: &str, policies: usize) -> Config {
    let names: Vec<_> = (0..policies)
        .map(|number| format!("\"p{number}\""))
        .collect();
    let mut text = format!(
        r#"
[tscf-config]
max-tunnels = 200000
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"
[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
[[tscf-data-flow]]
name = "fast"
group-size = 1
upstream-rate = 122070
downstream-rate = 122070
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/14"]
protocol-policy = [{}]
{lines}
"#,
        names.join(", ")
    );
    for number in 0..policies {
        let last = number + 1 == policies;
        let net = if last {
            "192.0.2.0/24".to_owned()
        } else {
            format!("198.18.{number}.0/24")
        };
        text.push_str(&format!(
            "[[tscf-protocol-policy]]\nname = \"p{number}\"\nip-address = \"{net}\"\nport = \"1-60000\"\n\
             remote-ip-address = \"198.51.100.1\"\n"
        ));
    }
    Config::parse_with(&text, "bench", &Overrides::default()).unwrap()
}

/// A UDP packet of 200 bytes, as a voice packet is.
fn udp(from: IpAddr, to: [u8; 4], port: u16) -> Vec<u8> {
    let IpAddr::V4(from) = from else {
        unreachable!()
    };
    let mut packet = vec![0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(from.octets());
    packet.extend(to);
    packet.extend(port.to_be_bytes());
    packet.extend([0x13, 0xC4, 0, 180, 0x12, 0x34]);
    packet.resize(200, 0x55);
    packet
}

fn outgoing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tunnel to TUN");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, lines, policies, tunnels) in [
        ("plain", "egress = \"tun\"", 0, 1),
        ("plain", "egress = \"tun\"", 0, 100_000),
        ("rate", "egress = \"tun\"\ndata-flow = \"fast\"", 0, 1),
        ("rewritten", "egress = \"tun\"", 1, 1),
        ("rewritten", "egress = \"tun\"", 1, 100_000),
        ("rewritten by the 16th", "egress = \"tun\"", 16, 1),
        ("rewritten by the 64th", "egress = \"tun\"", 64, 1),
    ] {
        let now = Instant::now();
        let mut path = PacketPath::new(&config(lines, policies), now, tunnels).unwrap();
        let step = (tunnels / PACKETS).max(1);
        let packets: Vec<_> = (0..PACKETS)
            .map(|number| {
                let tunnel = number * step % tunnels;
                let port = 1024 + u16::try_from(number).unwrap();
                (tunnel, udp(path.addresses(tunnel)[0], [192, 0, 2, 7], port))
            })
            .collect();
        group.bench_function(BenchmarkId::new(name, tunnels), |bencher| {
            bencher.iter(|| {
                let now = Instant::now();
                for (tunnel, packet) in &packets {
                    path.tunnel_packet(now, *tunnel, packet);
                }
                path.drain(|_, packet| {
                    black_box(packet);
                });
            });
        });
    }
    group.finish();
}

fn incoming(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("TUN to tunnel");
    group.throughput(Throughput::Elements(PACKETS as u64));
    for (name, policies, tunnels) in [("plain", 0, 1), ("plain", 0, 100_000), ("rewritten", 1, 1)] {
        let now = Instant::now();
        let mut path =
            PacketPath::new(&config("egress = \"tun\"", policies), now, tunnels).unwrap();
        let step = (tunnels / PACKETS).max(1);
        let packets: Vec<_> = (0..PACKETS)
            .map(|number| {
                let tunnel = number * step % tunnels;
                let IpAddr::V4(to) = path.addresses(tunnel)[0] else {
                    unreachable!()
                };
                let port = 1024 + u16::try_from(number).unwrap();
                // So that there is a flow to be found.
                path.tunnel_packet(now, tunnel, &udp(to.into(), [192, 0, 2, 7], port));
                let mut answer = udp([198, 51, 100, 1].into(), to.octets(), 5060);
                answer[22..24].copy_from_slice(&port.to_be_bytes());
                answer
            })
            .collect();
        path.drain(|_, _| {});
        group.bench_function(BenchmarkId::new(name, tunnels), |bencher| {
            bencher.iter(|| {
                let now = Instant::now();
                for packet in &packets {
                    path.core_packet(now, packet);
                }
                path.drain(|_, packet| {
                    black_box(packet);
                });
            });
        });
    }
    group.finish();
}

criterion_group!(benches, outgoing, incoming);
criterion_main!(benches);
