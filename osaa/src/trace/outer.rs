//! IP packets made up around what a socket read or wrote.
//!
//! Addresses, ports and payload are true; numbers of TCP count the connection's bytes from 1; all else is made up, checksums true to that.

use std::net::{IpAddr, SocketAddr};

use super::Direction;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOPS: u8 = 64;
/// Where checksums are: from the beginning of the IPv4, the TCP and the UDP header.
const IPV4_CHECKSUM: usize = 10;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// The longest payload of a made-up segment: fits IPv4 as IPv6.
pub(super) const MAX_SEGMENT: usize = 0xFFFF - IPV4_HEADER - TCP_HEADER;

const FIN: u8 = 1;
const SYN: u8 = 2;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A datagram from one address to the other.
pub(super) fn datagram(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Box<[u8]> {
    let mut packet = header(from, to, UDP, UDP_HEADER + payload.len());
    packet.extend_from_slice(&from.port().to_be_bytes());
    packet.extend_from_slice(&to.port().to_be_bytes());
    packet.extend_from_slice(&length(UDP_HEADER + payload.len()));
    packet.extend_from_slice(&[0, 0]);
    packet.extend_from_slice(payload);
    packet.into()
}

/// One TCP connection, as its packets would be numbered.
#[derive(Debug)]
pub(super) struct Flow {
    local: SocketAddr,
    peer: SocketAddr,
    /// The next number of each direction.
    sent: u32,
    received: u32,
}

/// What a segment says besides its payload.
#[derive(Clone, Copy)]
pub(super) enum Mark {
    Open,
    Accept,
    Acknowledge,
    Data,
    End,
}

impl Mark {
    const fn flags(self) -> u8 {
        match self {
            Self::Open => SYN,
            Self::Accept => SYN | ACK,
            Self::Acknowledge => ACK,
            Self::Data => PSH | ACK,
            Self::End => FIN | ACK,
        }
    }
}

impl Flow {
    /// Of a connection that is there already.
    pub(super) const fn new(local: SocketAddr, peer: SocketAddr) -> Self {
        Self {
            local,
            peer,
            sent: 1,
            received: 1,
        }
    }

    /// Its next segment. `payload` is [`MAX_SEGMENT`] long at most.
    pub(super) fn segment(
        &mut self,
        direction: Direction,
        mark: Mark,
        payload: &[u8],
    ) -> Box<[u8]> {
        let (from, to, sequence, acknowledged) = match direction {
            Direction::Outbound => (self.local, self.peer, &mut self.sent, self.received),
            Direction::Inbound => (self.peer, self.local, &mut self.received, self.sent),
        };
        // What opens a connection has the number before its first byte.
        let (number, acknowledged) = match mark {
            Mark::Open => (sequence.wrapping_sub(1), 0),
            Mark::Accept => (sequence.wrapping_sub(1), acknowledged),
            Mark::Acknowledge | Mark::Data | Mark::End => (*sequence, acknowledged),
        };
        let used = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        *sequence = sequence.wrapping_add(used);
        let mut packet = header(from, to, TCP, TCP_HEADER + payload.len());
        packet.extend_from_slice(&from.port().to_be_bytes());
        packet.extend_from_slice(&to.port().to_be_bytes());
        packet.extend_from_slice(&number.to_be_bytes());
        packet.extend_from_slice(&acknowledged.to_be_bytes());
        // Five words; the widest window that needs no option; no checksum yet, nothing urgent.
        packet.extend_from_slice(&[5 << 4, mark.flags(), 0xFF, 0xFF, 0, 0, 0, 0]);
        packet.extend_from_slice(payload);
        packet.into()
    }
}

/// The IP header of a packet, without its checksum.
fn header(from: SocketAddr, to: SocketAddr, protocol: u8, upper: usize) -> Vec<u8> {
    let mut packet = Vec::with_capacity(IPV6_HEADER + upper);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend_from_slice(&[0x45, 0]);
            packet.extend_from_slice(&length(IPV4_HEADER + upper));
            // No identification, and not to be fragmented.
            packet.extend_from_slice(&[0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
        }
        (from, to) => {
            packet.extend_from_slice(&[0x60, 0, 0, 0]);
            packet.extend_from_slice(&length(upper));
            packet.extend_from_slice(&[protocol, HOPS]);
            packet.extend_from_slice(&as_v6(from));
            packet.extend_from_slice(&as_v6(to));
        }
    }
    packet
}

fn as_v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// Writes the checksums of a packet made here.
pub(super) fn seal(packet: &mut [u8]) {
    let (header, addresses, protocol) = match packet.first() {
        Some(0x45) => (IPV4_HEADER, 12, packet.get(9)),
        _ => (IPV6_HEADER, 8, packet.get(6)),
    };
    let protocol = protocol.copied().unwrap_or_default();
    let Some((ip, upper)) = packet.split_at_mut_checked(header) else {
        return;
    };
    // They count as zeros themselves, also when a packet is written again.
    let place = if protocol == TCP {
        TCP_CHECKSUM
    } else {
        UDP_CHECKSUM
    };
    put(upper, place, 0);
    let pseudo = sum(ip.get(addresses..).unwrap_or_default())
        + u64::from(protocol)
        + u64::try_from(upper.len()).unwrap_or_default();
    // In UDP zero says that there is none.
    let checksum = match !fold(pseudo + sum(upper)) {
        0 => u16::MAX,
        checksum => checksum,
    };
    put(upper, place, checksum);
    if header == IPV4_HEADER {
        put(ip, IPV4_CHECKSUM, 0);
        let checksum = !fold(sum(ip));
        put(ip, IPV4_CHECKSUM, checksum);
    }
}

fn put(bytes: &mut [u8], place: usize, checksum: u16) {
    if let Some(to) = bytes.get_mut(place..place + 2) {
        to.copy_from_slice(&checksum.to_be_bytes());
    }
}

/// RFC 1071: of words of 16 bits, before it is folded.
fn sum(bytes: &[u8]) -> u64 {
    // An odd one counts as if a zero followed.
    let (words, last) = bytes.as_chunks::<2>();
    let last = last.first().map_or(0, |last| u64::from(*last) << 8);
    words
        .iter()
        .map(|word| u64::from(u16::from_be_bytes(*word)))
        .sum::<u64>()
        + last
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    u16::try_from(sum).unwrap_or_default()
}
