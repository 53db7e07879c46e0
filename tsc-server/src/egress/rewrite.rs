//! Other addresses and ports for a packet, in place, with its checksums kept right.
//!
//! Checksums are changed by the difference (RFC 1624), never made anew: a packet that was damaged stays so, and a
//! fragment needs only what it holds. That works because one's complement sums do not care for order.

use std::net::IpAddr;

use super::headers::{Headers, Part, UDP};

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) address: IpAddr,
    /// `None` leaves the port as it is.
    pub(crate) port: Option<u16>,
}

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What is changed in one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Edits {
    pub(crate) source: Option<End>,
    pub(crate) destination: Option<End>,
    /// In the packet that an ICMP error quotes.
    pub(crate) quoted: Option<(Side, End)>,
}

impl Edits {
    pub(crate) const fn is_empty(&self) -> bool {
        self.source.is_none() && self.destination.is_none() && self.quoted.is_none()
    }

    /// Changes `packet`. False if that is impossible, as the packet is cut where a change belongs or is of the other
    /// family: then it is of no use any more.
    #[must_use]
    pub(crate) fn apply(&self, packet: &mut [u8]) -> bool {
        let Some(headers) = Headers::of(packet) else {
            return self.is_empty();
        };
        if let Some((side, end)) = self.quoted
            && !set_quoted(packet, &headers, side, end)
        {
            return false;
        }
        let mut set = |side, end: Option<End>| {
            end.is_none_or(|end| set_end(packet, &headers, side, end, true))
        };
        set(Side::Source, self.source) && set(Side::Destination, self.destination)
    }
}

/// Sets one end. A packet that is not `whole` is a quotation: it may end before its ports or checksum.
fn set_end(packet: &mut [u8], headers: &Headers, side: Side, end: End, whole: bool) -> bool {
    let mut change = Change::default();
    let done = match (headers.source, end.address) {
        (IpAddr::V4(_), IpAddr::V4(address)) => {
            let at = if side == Side::Source { 12 } else { 16 };
            let done = change.put(packet, at, &address.octets());
            done && change.adjust(packet, 10)
        }
        (IpAddr::V6(_), IpAddr::V6(address)) => {
            let at = if side == Side::Source { 8 } else { 24 };
            change.put(packet, at, &address.octets())
        }
        _ => false,
    };
    if !done || headers.part == Part::Later {
        return done;
    }
    if let Some(port) = end.port.filter(|_| headers.has_ports()) {
        let at = headers.upper + if side == Side::Source { 0 } else { 2 };
        if !change.put(packet, at, &port.to_be_bytes()) {
            return !whole;
        }
    }
    let Some(at) = headers.checksum() else {
        return true;
    };
    if headers.protocol == UDP && packet.get(at..at + 2).is_some_and(|sum| sum == [0, 0]) {
        // The sender made none.
        return true;
    }
    let adjusted = change.adjust(packet, at);
    if headers.protocol == UDP
        && let Some(sum @ &mut [0, 0]) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut)
    {
        // A sum of zero is written as its other form, as zero says that there is none (RFC 768).
        *sum = [0xFF; 2];
    }
    adjusted || !whole
}

/// Sets one end of the packet that an ICMP error quotes, and the error's own checksum.
fn set_quoted(packet: &mut [u8], headers: &Headers, side: Side, end: End) -> bool {
    let Some(at) = headers.quote(packet) else {
        return false;
    };
    let Some(quote) = packet.get_mut(at..) else {
        return false;
    };
    let Some(inner) = Headers::of(quote) else {
        return false;
    };
    let mut change = Change {
        old: sum(quote),
        new: 0,
    };
    if !set_end(quote, &inner, side, end, false) {
        return false;
    }
    change.new = sum(quote);
    // Both ICMP checksums are the second word.
    change.adjust(packet, headers.upper + 2)
}

/// What a change does to a checksum.
#[derive(Default)]
struct Change {
    old: u32,
    new: u32,
}

impl Change {
    /// Writes `bytes`, an even number of them at an even place. False if there is no room.
    fn put(&mut self, packet: &mut [u8], at: usize, bytes: &[u8]) -> bool {
        let Some(place) = packet.get_mut(at..at + bytes.len()) else {
            return false;
        };
        self.old += sum(place);
        self.new += sum(bytes);
        place.copy_from_slice(bytes);
        true
    }

    /// RFC 1624, equation 3, for the checksum at `at`. False if it is not there.
    fn adjust(&self, packet: &mut [u8], at: usize) -> bool {
        let Some(place) = packet.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else {
            return false;
        };
        let kept = !u16::from_be_bytes(*place);
        let total = u32::from(kept) + u32::from(!fold(self.old)) + u32::from(fold(self.new));
        *place = (!fold(total)).to_be_bytes();
        true
    }
}

/// Sum of 16-bit words; of at most 9000 bytes, so it cannot overflow.
fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u32 = words
        .iter()
        .map(|word| u32::from(u16::from_be_bytes(*word)))
        .sum();
    match rest {
        [odd] => sum + (u32::from(*odd) << 8),
        _ => sum,
    }
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xFFFF {
        sum = (sum >> 16) + (sum & 0xFFFF);
    }
    u16::try_from(sum).unwrap_or(u16::MAX)
}

/// For fuzz targets and benchmarks outside this crate.
pub mod harness {
    use std::net::IpAddr;

    use super::{Edits, End, Side};

    /// Gives a packet another source or destination. False if that is impossible.
    #[must_use]
    pub fn rewrite(
        packet: &mut [u8],
        is_source: bool,
        address: IpAddr,
        port: Option<u16>,
        quoted: bool,
    ) -> bool {
        let end = Some(End { address, port });
        let edits = match (quoted, is_source) {
            (false, true) => Edits {
                source: end,
                ..Edits::default()
            },
            (false, false) => Edits {
                destination: end,
                ..Edits::default()
            },
            (true, true) => Edits {
                quoted: end.map(|end| (Side::Source, end)),
                ..Edits::default()
            },
            (true, false) => Edits {
                quoted: end.map(|end| (Side::Destination, end)),
                ..Edits::default()
            },
        };
        edits.apply(packet)
    }
}

#[cfg(test)]
mod tests;
