//! Inner packets made and read by hand.

use std::net::{IpAddr, SocketAddr};

fn check(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        }
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A packet of `protocol`.
pub fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = if from.is_ipv4() {
        let [high, low] = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
        let mut header = vec![0x45, 0, high, low, 0, 1, 0, 0, 64, protocol, 0, 0];
        header.extend(octets(from));
        header.extend(octets(to));
        let sum = check(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    } else {
        let [high, low] = u16::try_from(payload.len()).unwrap().to_be_bytes();
        let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
        header.extend(octets(from));
        header.extend(octets(to));
        header
    };
    packet.extend_from_slice(payload);
    packet
}

/// A UDP packet with its checksum.
pub fn udp(from: SocketAddr, to: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(from.port().to_be_bytes());
    payload.extend(to.port().to_be_bytes());
    payload.extend(u16::try_from(8 + data.len()).unwrap().to_be_bytes());
    payload.extend([0, 0]);
    payload.extend_from_slice(data);
    let sum = pseudo_sum(from.ip(), to.ip(), 17, &payload);
    payload[6..8].copy_from_slice(&if sum == 0 { 0xFFFF } else { sum }.to_be_bytes());
    ip(from.ip(), to.ip(), 17, &payload)
}

/// Forbids that an IPv4 packet is fragmented.
pub fn forbid_fragments(packet: &mut [u8]) {
    packet[6] |= 0x40;
    packet[10..12].fill(0);
    let sum = check(&[&packet[..20]]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn pseudo_sum(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> u16 {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let (from, to) = (octets(from), octets(to));
    check(&[&from, &to, &len, &[0, 0, 0, protocol], payload])
}

/// What a packet says, its checksums checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    Udp(SocketAddr, SocketAddr, Vec<u8>),
    /// An ICMP error: from, to, type, code, and the packet that it quotes.
    Icmp(IpAddr, IpAddr, u8, u8, Vec<u8>),
}

pub fn read(packet: &[u8]) -> Read {
    let v4 = packet[0] >> 4 == 4;
    let (from, to): (IpAddr, IpAddr) = if v4 {
        assert_eq!(check(&[&packet[..20]]), 0, "header checksum");
        let four = |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap();
        (four(12).into(), four(16).into())
    } else {
        let sixteen = |at: usize| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap();
        (sixteen(8).into(), sixteen(24).into())
    };
    let (protocol, payload) = if v4 {
        (packet[9], &packet[20..])
    } else {
        (packet[6], &packet[40..])
    };
    let port = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
    match protocol {
        17 => {
            if payload[6..8] != [0, 0] {
                assert_eq!(pseudo_sum(from, to, 17, payload), 0, "UDP checksum");
            }
            let ends = (SocketAddr::new(from, port(0)), SocketAddr::new(to, port(2)));
            Read::Udp(ends.0, ends.1, payload[8..].to_vec())
        }
        1 => {
            assert_eq!(check(&[payload]), 0, "ICMP checksum");
            Read::Icmp(from, to, payload[0], payload[1], payload[8..].to_vec())
        }
        58 => {
            assert_eq!(pseudo_sum(from, to, 58, payload), 0, "ICMPv6 checksum");
            Read::Icmp(from, to, payload[0], payload[1], payload[8..].to_vec())
        }
        other => panic!("protocol {other}"),
    }
}
