//! Packets written by hand, independently of the crate, and two stacks joined by a wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use tsc_eip::{Event, Received, RecvError, Stack, StackConfig, UdpHandle};

pub(crate) const A4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub(crate) const B4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(crate) const A6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn host(config: StackConfig, seed: u64, addresses: &[IpAddr]) -> Stack {
    let mut stack = Stack::new(config, seed);
    stack.set_addresses(addresses).unwrap();
    stack
}

/// The host at [`A4`] and [`A6`].
pub(crate) fn alice() -> Stack {
    host(StackConfig::default(), 1, &[A4.into(), A6.into()])
}

/// The host at [`B4`] and [`B6`].
pub(crate) fn bob() -> Stack {
    host(StackConfig::default(), 2, &[B4.into(), B6.into()])
}

/// All packets that wait.
pub(crate) fn transmits(stack: &mut Stack) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| stack.poll_transmit()).collect()
}

pub(crate) fn events(stack: &mut Stack) -> Vec<Event> {
    std::iter::from_fn(|| stack.poll_event()).collect()
}

/// Moves packets both ways until none is left.
pub(crate) fn pump(now: Instant, one: &mut Stack, other: &mut Stack) {
    for _ in 0..100 {
        let (right, left) = (transmits(one), transmits(other));
        if right.is_empty() && left.is_empty() {
            return;
        }
        for packet in right {
            other.handle_packet(now, &packet);
        }
        for packet in left {
            one.handle_packet(now, &packet);
        }
    }
    panic!("the two stacks never fall silent");
}

pub(crate) fn recv(
    stack: &mut Stack,
    handle: UdpHandle,
) -> Option<Result<(Received, Vec<u8>), RecvError>> {
    let mut buffer = vec![0; 70_000];
    let result = stack.udp_recv(handle, &mut buffer)?;
    Some(result.map(|received| (received, buffer[..received.len].to_vec())))
}

/// Payloads of all datagrams that wait.
pub(crate) fn payloads(stack: &mut Stack, handle: UdpHandle) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| recv(stack, handle))
        .map(|result| result.unwrap().1)
        .collect()
}

/// RFC 1071, the slow way.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += (u32::from(pair[0]) << 8) | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut header = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(v4) => header.extend(v4.octets()),
            IpAddr::V6(v6) => header.extend(v6.octets()),
        }
    }
    header.extend((len as u32).to_be_bytes());
    header.extend([0, 0, 0, protocol]);
    header
}

/// A UDP message with its checksum.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    message.extend(from.port().to_be_bytes());
    message.extend(to.port().to_be_bytes());
    message.extend((8 + payload.len() as u16).to_be_bytes());
    message.extend([0, 0]);
    message.extend(payload);
    let sum = match checksum(&[
        &pseudo_header(from.ip(), to.ip(), UDP, message.len()),
        &message,
    ]) {
        0 => 0xffff,
        sum => sum,
    };
    message[6..8].copy_from_slice(&sum.to_be_bytes());
    message
}

/// An ICMP or ICMPv6 message with its checksum.
pub(crate) fn icmp(source: IpAddr, destination: IpAddr, head: [u8; 8], body: &[u8]) -> Vec<u8> {
    let mut message = [&head, body].concat();
    message[2..4].fill(0);
    let pseudo = match source {
        IpAddr::V4(_) => Vec::new(),
        IpAddr::V6(_) => pseudo_header(source, destination, ICMPV6, message.len()),
    };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// Which piece of which datagram a packet is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cut {
    pub(crate) id: u32,
    pub(crate) offset: usize,
    pub(crate) more: bool,
}

/// An IPv4 packet.
pub(crate) fn ipv4(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    cut: Cut,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + payload.len() as u16).to_be_bytes());
    packet.extend((cut.id as u16).to_be_bytes());
    packet.extend(((cut.offset as u16 / 8) | (u16::from(cut.more) << 13)).to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum = checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet; `payload` starts with what `next_header` names.
pub(crate) fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A fragment header followed by `payload`.
pub(crate) fn fragment_header(next_header: u8, cut: Cut, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![next_header, 0];
    header.extend((cut.offset as u16 | u16::from(cut.more)).to_be_bytes());
    header.extend(cut.id.to_be_bytes());
    header.extend(payload);
    header
}

/// A packet of either version that holds `payload` whole, or a piece of a datagram if `cut` is
/// given.
pub(crate) fn packet(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    cut: Option<Cut>,
    payload: &[u8],
) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4(
            source,
            destination,
            protocol,
            cut.unwrap_or_default(),
            payload,
        ),
        (IpAddr::V6(source), IpAddr::V6(destination)) => match cut {
            None => ipv6(source, destination, protocol, payload),
            Some(cut) => ipv6(
                source,
                destination,
                44,
                &fragment_header(protocol, cut, payload),
            ),
        },
        _ => panic!("two IP versions"),
    }
}

/// A UDP datagram in one packet.
pub(crate) fn udp_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    packet(from.ip(), to.ip(), UDP, None, &udp(from, to, payload))
}
