//! Inner packets for tests: as little IP as the protocol looks at.

use std::net::IpAddr;

use tsc_csm::{FlowKey, InnerTransport};

/// The socket that packets of [`udp`] come from, and go to.
pub const FLOW: FlowKey = FlowKey {
    transport: InnerTransport::Udp,
    port: 9,
};

/// An IPv4 or IPv6 packet with a UDP header and `payload`. Both addresses must be of one family; checksums are zero.
#[must_use]
pub fn udp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len() + 8).unwrap_or(u16::MAX);
    let mut packet = Vec::with_capacity(48 + payload.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            packet.extend([0x45, 0]);
            packet.extend(length.saturating_add(20).to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
        }
        (source, destination) => {
            let v6 = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped(),
                IpAddr::V6(address) => address,
            };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([17, 64]);
            packet.extend(v6(source).octets());
            packet.extend(v6(destination).octets());
        }
    }
    packet.extend(FLOW.port.to_be_bytes());
    packet.extend(FLOW.port.to_be_bytes());
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The payload of a packet that [`udp`] made.
#[must_use]
pub fn payload(packet: &[u8]) -> &[u8] {
    let header = if packet.first().is_some_and(|first| first >> 4 == 4) {
        28
    } else {
        48
    };
    packet.get(header..).unwrap_or_default()
}
