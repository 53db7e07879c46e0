//! The Internet checksum (RFC 1071) over what UDP and ICMP cover.
//!
//! Sums come from smoltcp; the decisions are ours, because smoltcp's `verify_checksum` takes
//! everything when built for fuzzing and takes a zero UDP checksum over IPv6.

use smoltcp::wire::{IpProtocol, checksum};

use super::{Pair, protocol};

/// Checksum field of a UDP or ICMP message made of `head` (whose checksum field is zero) and
/// `body`.
///
/// `head` has an even length, so that the two sums add up.
pub(crate) fn of_message(pair: &Pair, proto: u8, head: &[u8; 8], body: &[u8]) -> u16 {
    let sum = checksum::combine(&[
        pseudo_header(pair, proto, head.len().saturating_add(body.len())),
        checksum::data(head),
        checksum::data(body),
    ]);
    match (!sum, proto) {
        // RFC 768: zero says that there is no checksum, all ones is its equal.
        (0, protocol::UDP) => !0,
        (value, _) => value,
    }
}

/// Whether `message` (with its checksum field) adds up.
pub(crate) fn verify(pair: &Pair, proto: u8, message: &[u8]) -> bool {
    checksum::combine(&[
        pseudo_header(pair, proto, message.len()),
        checksum::data(message),
    ]) == !0
}

/// Whether an IPv4 header adds up.
pub(crate) fn verify_header(header: &[u8]) -> bool {
    checksum::data(header) == !0
}

fn pseudo_header(pair: &Pair, proto: u8, len: usize) -> u16 {
    // Upper-layer messages are shorter than 64 KiB: both IP versions' length fields say so.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    match pair {
        // ICMP over IPv4 has no pseudo-header (RFC 792).
        Pair::V4 { .. } if proto == protocol::ICMP => 0,
        Pair::V4 {
            source,
            destination,
        } => checksum::pseudo_header_v4(source, destination, IpProtocol::from(proto), len),
        Pair::V6 {
            source,
            destination,
        } => checksum::pseudo_header_v6(source, destination, IpProtocol::from(proto), len),
    }
}
