//! The assertions of the fuzz targets, as functions of bytes. `fuzz_targets` and the replay of the corpus
//! (`tests/corpus.rs`) share this file, so that what a fuzzer found keeps being checked by the ordinary tests.

mod user_space;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tsc_server::{
    config::{Config, Overrides},
    harness::PacketPath,
    rewriter::rewrite,
};

#[allow(unused_imports, reason = "each target uses one of the functions")]
pub(crate) use user_space::{user_space, user_space_counted};

/// Where the packet's addresses are, by version.
fn addresses(packet: &[u8]) -> Option<(usize, usize)> {
    match packet.first()? >> 4 {
        4 => Some((12, 4)),
        6 => Some((8, 16)),
        _ => None,
    }
}

/// Input: a byte of choices, a port, and a packet.
///
/// Whatever the bytes: no panic, the length stays, and what can be rewritten can be rewritten back to the same bytes,
/// but for the two forms of a checksum of zero.
pub(crate) fn rewriter(data: &[u8]) {
    let [choices, high, low, packet @ ..] = data else {
        return;
    };
    let (is_source, quoted) = (choices & 1 != 0, choices & 2 != 0);
    let port = (choices & 4 != 0).then(|| u16::from_be_bytes([*high, *low]));
    let v4 = IpAddr::from([192, 0, 2, *high]);
    let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(*low)]);
    let mut copy = packet.to_vec();
    for address in [v4, v6] {
        let _ = rewrite(&mut copy, is_source, address, port, quoted);
        assert_eq!(copy.len(), packet.len());
    }
    let Some((at, len)) = addresses(packet).filter(|_| !quoted) else {
        return;
    };
    let at = if is_source { at } else { at + len };
    let Some(before) = packet.get(at..at + len) else {
        return;
    };
    let original = match len {
        4 => <[u8; 4]>::try_from(before).map(IpAddr::from).ok(),
        _ => <[u8; 16]>::try_from(before).map(IpAddr::from).ok(),
    };
    let Some(original) = original else { return };
    let other = if len == 4 { v4 } else { v6 };
    let mut copy = packet.to_vec();
    if rewrite(&mut copy, is_source, other, None, false)
        && rewrite(&mut copy, is_source, original, None, false)
    {
        let differing = copy.iter().zip(packet).filter(|(a, b)| a != b).count();
        // Two checksums of two bytes.
        assert!(differing <= 4, "{differing} bytes");
    }
}

/// A server with one interface, whose clients get addresses of the pool `clients`, which is among `tables`.
fn config(tables: &str) -> Config {
    let head = r#"
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"
[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
"#;
    Config::parse_with(&format!("{head}{tables}"), "fuzz", &Overrides::default())
        .expect("a good one")
}

const TABLES: &str = r#"
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0-10.64.0.15", "fd64::0-fd64::f"]
egress = "tun"
data-flow = "slow"
protocol-policy = "port, net, local, six, no"
[[tscf-data-flow]]
name = "slow"
upstream-rate = 100
downstream-rate = 100
[[tscf-protocol-policy]]
name = "port"
ip-address = "192.0.2.1"
port = 5060
remote-ip-address = "198.51.100.1"
remote-port = 6060
[[tscf-protocol-policy]]
name = "net"
ip-address = "192.0.2.0/24"
remote-ip-address = "198.51.100.2"
[[tscf-protocol-policy]]
name = "local"
ip-address = "203.0.113.0/24"
remote-ip-address = "10.64.0.1"
[[tscf-protocol-policy]]
name = "six"
ip-address = "2001:db8::/32"
remote-ip-address = "2001:db9::1"
[[tscf-protocol-policy]]
name = "no"
ip-address = "10.64.0.2"
port = 1
egress = "drop"
"#;

/// Input: pieces of a choice byte, a length (u16, big endian) and that many bytes of a packet. An even choice is a
/// packet of a tunnel, an odd one of the core.
///
/// Whatever the packets: no panic, never a packet out of the tunnel with a source that is not the tunnel's, and none
/// into a tunnel for an address that is not ours. One input gives at most one packet, or its fragments.
pub(crate) fn switch(mut data: &[u8]) {
    let config = config(TABLES);
    let mut now = Instant::now();
    let mut path = PacketPath::new(&config, now, 3).expect("a good one");
    let ours: Vec<IpAddr> = (0..3)
        .flat_map(|tunnel| path.addresses(tunnel).to_vec())
        .collect();
    while let [choice, high, low, rest @ ..] = data {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (packet, rest) = rest.split_at(length);
        data = rest;
        now += Duration::from_millis(u64::from(*choice));
        if choice & 1 == 0 {
            path.tunnel_packet(now, usize::from(choice >> 1) % 3, packet);
        } else {
            path.core_packet(now, packet);
        }
        let mut bytes = 0;
        path.drain(|into_tunnel, out| {
            bytes += out.len();
            let (at, len) = addresses(out).expect("an IP packet");
            let end = |at: usize| match len {
                4 => out
                    .get(at..at + 4)
                    .and_then(|b| <[u8; 4]>::try_from(b).ok())
                    .map(IpAddr::from),
                _ => out
                    .get(at..at + 16)
                    .and_then(|b| <[u8; 16]>::try_from(b).ok())
                    .map(IpAddr::from),
            };
            let (source, destination) = (end(at).expect("whole"), end(at + len).expect("whole"));
            if into_tunnel {
                assert!(ours.contains(&destination), "{destination}");
            } else {
                // An ICMP error to the core says that it is from whom the packet was for.
                assert!(choice & 1 == 1 || ours.contains(&source), "{source}");
                assert!(!ours.contains(&destination), "{destination}");
            }
        });
        assert!(bytes <= 2 * length + 1280 + 60 * 20, "{bytes} for {length}");
    }
}
