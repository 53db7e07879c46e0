//! What the server says about packets that it cannot pass on: ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443) errors;
//! and the fragments of IPv4 packets that are too long for the next tunnel (RFC 791).
//!
//! The server has no inner address, so an error names as its source the address that the packet was sent to. A client
//! checks inner destinations only (spec 8.1), no other tunnel is ever shown such a packet, and whoever has that address
//! could have said the same. Errors go back through the tunnel that the packet came from, whose source was checked, so
//! that nobody else can be made to receive them.

use std::net::IpAddr;

use tsc_tpl::IpPacket;

/// Largest IPv4 error (RFC 1812, section 4.3.2.3).
const MAX_V4: usize = 576;
/// Largest IPv6 error: the least MTU (RFC 4443, section 2.4 c).
const MAX_V6: usize = 1280;
const HEADER_V4: usize = 20;
const HEADER_V6: usize = 40;
const HEADER_ICMP: usize = 8;
const HOP_LIMIT: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const FRAGMENT_HEADER: usize = 8;

/// Why a packet does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    /// No tunnel, or no host, has the address.
    Unreachable,
    /// The host has nobody at the port.
    PortUnreachable,
    /// The operator forbids it.
    Prohibited,
    /// Longer than the other tunnel, or the path beyond, takes, and not to be fragmented here.
    TooBig {
        /// What it takes, in bytes.
        mtu: u16,
    },
    /// The hop count is used up.
    HopsExceeded,
}

impl Complaint {
    /// Type, code, and the second half of the header.
    const fn v4(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable => (3, 1, 0),
            Self::PortUnreachable => (3, 3, 0),
            Self::Prohibited => (3, 13, 0),
            Self::TooBig { mtu } => (3, 4, mtu as u32),
            Self::HopsExceeded => (11, 0, 0),
        }
    }

    const fn v6(self) -> (u8, u8, u32) {
        match self {
            Self::Unreachable => (1, 3, 0),
            Self::PortUnreachable => (1, 4, 0),
            Self::Prohibited => (1, 1, 0),
            Self::TooBig { mtu } => (2, 0, mtu as u32),
            Self::HopsExceeded => (3, 0, 0),
        }
    }
}

/// Appends the error about `packet` to `out`. False, and nothing appended, where none may be sent (RFC 1122, section
/// 3.2.2; RFC 4443, section 2.4 e): about ICMP errors, fragments other than first ones, and packets that are not from
/// one host to one host. The server's own loopback, if tunnels may reach it, is such a host.
pub(crate) fn error(packet: &IpPacket<'_>, complaint: Complaint, out: &mut Vec<u8>) -> bool {
    if !is_host(packet.source())
        || !(is_host(packet.destination()) || packet.destination().is_loopback())
        || is_later_fragment(packet)
        || may_be_error(packet)
    {
        return false;
    }
    let bytes = packet.as_bytes();
    match (packet.source(), packet.destination()) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            let quote = bytes
                .get(..MAX_V4 - HEADER_V4 - HEADER_ICMP)
                .unwrap_or(bytes);
            let [high, low] = length(HEADER_V4 + HEADER_ICMP + quote.len());
            let mut header = [0; HEADER_V4];
            // Never fragmented, so it needs no identification (RFC 6864).
            header[..10].copy_from_slice(&[0x45, 0, high, low, 0, 0, 0x40, 0, HOP_LIMIT, ICMP]);
            header[12..16].copy_from_slice(&from.octets());
            header[16..].copy_from_slice(&to.octets());
            let check = checksum(&[&header]);
            header[10..12].copy_from_slice(&check);
            let message = head(complaint.v4(), &[], quote);
            out.extend_from_slice(&header);
            out.extend_from_slice(&message);
            out.extend_from_slice(quote);
            true
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            let quote = bytes
                .get(..MAX_V6 - HEADER_V6 - HEADER_ICMP)
                .unwrap_or(bytes);
            let [high, low] = length(HEADER_ICMP + quote.len());
            let mut header = [0; HEADER_V6];
            header[..8].copy_from_slice(&[0x60, 0, 0, 0, high, low, ICMPV6, HOP_LIMIT]);
            header[8..24].copy_from_slice(&from.octets());
            header[24..].copy_from_slice(&to.octets());
            // RFC 8200, section 8.1: addresses, length, next header.
            let pseudo = [0, 0, high, low, 0, 0, 0, ICMPV6];
            let message = head(
                complaint.v6(),
                &[&from.octets(), &to.octets(), &pseudo],
                quote,
            );
            out.extend_from_slice(&header);
            out.extend_from_slice(&message);
            out.extend_from_slice(quote);
            true
        }
        _ => false,
    }
}

/// Whether an IPv4 packet may be fragmented on the way. IPv6 packets may not (RFC 8200, section 4.5).
pub(crate) fn may_fragment(packet: &IpPacket<'_>) -> bool {
    matches!(packet.as_bytes(), [0x40..=0x4F, _, _, _, _, _, flags, ..] if flags & 0x40 == 0)
}

/// Cuts an IPv4 packet into fragments of at most `mtu` bytes, given as header and data in order. False, and nothing
/// given, if that is impossible: no room for data, or an offset beyond what the header can hold.
pub(crate) fn fragment(
    packet: &IpPacket<'_>,
    mtu: u16,
    mut give: impl FnMut(&[u8], &[u8]),
) -> bool {
    let bytes = packet.as_bytes();
    let Some((&[first, _, _, _, _, _, flags, low, ..], _)) = bytes.split_first_chunk::<HEADER_V4>()
    else {
        return false;
    };
    let Some((header, data)) = bytes.split_at_checked(usize::from(first & 0x0F) * 4) else {
        return false;
    };
    // In units of 8 bytes, as on the wire.
    let offset = usize::from(u16::from_be_bytes([flags & 0x1F, low]));
    let room = (usize::from(mtu).saturating_sub(header.len())) / 8 * 8;
    if first >> 4 != 4 || room == 0 || offset + data.len().div_ceil(8) > 0x2000 {
        return false;
    }
    let is_last = flags & 0x20 == 0;
    let later = copied_options(header);
    let pieces = data.len().div_ceil(room);
    for (number, piece) in data.chunks(room).enumerate() {
        let mut header = if number == 0 {
            header.to_vec()
        } else {
            later.clone()
        };
        let more = number + 1 < pieces || !is_last;
        let at = u16::try_from(offset + number * room / 8).unwrap_or(0x1FFF);
        let field = (at | if more { 0x2000 } else { 0 }).to_be_bytes();
        let total = length(header.len() + piece.len());
        for (at, value) in [(2, total), (6, field), (10, [0; 2])] {
            set(&mut header, at, value);
        }
        let check = checksum(&[&header]);
        set(&mut header, 10, check);
        give(&header, piece);
    }
    true
}

/// The header of fragments behind the first: with the options that are copied only (RFC 791, section 3.1). What cannot
/// be read is left out with all behind it.
fn copied_options(header: &[u8]) -> Vec<u8> {
    let (fixed, mut options) = header.split_at_checked(HEADER_V4).unwrap_or((header, &[]));
    let mut kept = fixed.to_vec();
    loop {
        let len = match options {
            // The end of the list, or of the header.
            [] | [0, ..] => break,
            // No operation.
            [1, rest @ ..] => {
                options = rest;
                continue;
            }
            [_, len, ..] if *len >= 2 => usize::from(*len),
            _ => break,
        };
        let Some((option, rest)) = options.split_at_checked(len) else {
            break;
        };
        if option.first().is_some_and(|kind| kind & 0x80 != 0) {
            kept.extend_from_slice(option);
        }
        options = rest;
    }
    // Filled up with ends of the list to whole words. Never longer than it was.
    kept.resize(kept.len().next_multiple_of(4), 0);
    let words = u8::try_from(kept.len() / 4).unwrap_or_default();
    if let Some(first) = kept.first_mut() {
        *first = 0x40 | (words & 0x0F);
    }
    kept
}

/// An address that one host can have: what may be told about an error, and about what.
const fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast())
        }
        IpAddr::V6(address) => {
            !(address.is_unspecified()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_multicast())
        }
    }
}

fn is_later_fragment(packet: &IpPacket<'_>) -> bool {
    if !packet.is_fragment() {
        return false;
    }
    match packet.as_bytes() {
        [0x40..=0x4F, _, _, _, _, _, flags, low, ..] => flags & 0x1F != 0 || *low != 0,
        bytes => {
            // The fragment header is right before the fragment's data.
            let data = packet.payload().map_or(0, <[u8]>::len);
            let at = bytes.len().saturating_sub(data + FRAGMENT_HEADER);
            match bytes.get(at..) {
                Some([_, _, high, low, ..]) => *high != 0 || low & 0xF8 != 0,
                _ => true,
            }
        }
    }
}

/// Whether the packet carries an ICMP error, or may do so for what can be seen of it.
fn may_be_error(packet: &IpPacket<'_>) -> bool {
    let kind = packet.payload().and_then(<[u8]>::first);
    if packet.source().is_ipv4() {
        // Unreachable, source quench, redirect, time exceeded, parameter problem.
        packet.protocol() == ICMP && kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))
    } else {
        // Errors have the high bit clear; a redirect must not be answered either.
        packet.payload().is_none()
            || packet.protocol() == ICMPV6
                && kind.is_none_or(|kind| kind & 0x80 == 0 || *kind == 137)
    }
}

/// An ICMP header over `pseudo` (IPv6) and `quote`.
fn head((kind, code, rest): (u8, u8, u32), pseudo: &[&[u8]], quote: &[u8]) -> [u8; HEADER_ICMP] {
    let [a, b, c, d] = rest.to_be_bytes();
    let head = [kind, code, 0, 0, a, b, c, d];
    let mut parts = pseudo.to_vec();
    parts.extend([&head[..], quote]);
    let [high, low] = checksum(&parts);
    [kind, code, high, low, a, b, c, d]
}

/// RFC 1071. All parts but the last have an even length.
pub(crate) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for part in parts {
        let (words, rest) = part.as_chunks::<2>();
        sum += words
            .iter()
            .map(|word| u64::from(u16::from_be_bytes(*word)))
            .sum::<u64>();
        if let [odd] = rest {
            sum += u64::from(*odd) << 8;
        }
    }
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    (!u16::try_from(sum).unwrap_or_default()).to_be_bytes()
}

/// A length field; nothing here is longer than an inner packet, which is at most 9000 bytes.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

fn set(header: &mut [u8], at: usize, [high, low]: [u8; 2]) {
    if let Some([first, second]) = header.get_mut(at..at + 2) {
        *first = high;
        *second = low;
    }
}

#[cfg(test)]
mod tests;
