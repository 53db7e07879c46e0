//! Held against packets that are made with the other ends from the start.

#![allow(clippy::cast_possible_truncation, reason = "lengths of small packets")]

use proptest::prelude::*;

use super::*;
use crate::egress::headers::{DCCP, ICMP, ICMPV6, SCTP, TCP, UDP_LITE};

/// A packet by its parts.
#[derive(Clone, Debug)]
struct Made {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
    payload: Vec<u8>,
    /// Extension headers (IPv6) or options (IPv4), in units of 8 bytes.
    extra: usize,
    checksum: bool,
}

/// RFC 1071, as simple as can be.
fn check(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Made {
    /// What the upper layer is, with its checksum.
    fn upper(&self) -> Vec<u8> {
        let mut upper = match self.protocol {
            TCP => vec![0; 20],
            UDP | UDP_LITE => vec![0; 8],
            DCCP => vec![0; 12],
            SCTP => vec![0; 12],
            _ => vec![128, 0, 0, 0, 0, 0, 0, 0],
        };
        if !matches!(self.protocol, ICMP | ICMPV6) {
            upper[..2].copy_from_slice(&self.source.1.to_be_bytes());
            upper[2..4].copy_from_slice(&self.destination.1.to_be_bytes());
        }
        upper.extend_from_slice(&self.payload);
        let at = match self.protocol {
            TCP => 16,
            UDP | UDP_LITE | DCCP => 6,
            ICMP | ICMPV6 => 2,
            _ => return upper,
        };
        if self.protocol == UDP && !self.checksum {
            return upper;
        }
        let mut summed = Vec::new();
        if self.protocol != ICMP {
            summed.extend(octets(self.source.0));
            summed.extend(octets(self.destination.0));
            summed.extend([0, 0]);
            summed.extend((upper.len() as u16).to_be_bytes());
            summed.extend([0, 0, 0, self.protocol]);
        }
        summed.extend_from_slice(&upper);
        let mut sum = check(&summed);
        if sum == 0 && self.protocol == UDP {
            sum = 0xFFFF;
        }
        upper[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        upper
    }

    fn bytes(&self) -> Vec<u8> {
        let upper = self.upper();
        let mut packet = match self.source.0 {
            IpAddr::V4(_) => {
                let header = 20 + (self.extra * 8).min(40);
                let total = (header + upper.len()) as u16;
                let [high, low] = total.to_be_bytes();
                let mut packet = vec![1; header];
                let fixed = [
                    0x40 | (header / 4) as u8,
                    0,
                    high,
                    low,
                    0,
                    0,
                    0,
                    0,
                    64,
                    self.protocol,
                    0,
                    0,
                ];
                packet[..12].copy_from_slice(&fixed);
                packet[12..16].copy_from_slice(&octets(self.source.0));
                packet[16..20].copy_from_slice(&octets(self.destination.0));
                let sum = check(&packet);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                packet
            }
            IpAddr::V6(_) => {
                let mut packet = vec![0x60, 0, 0, 0, 0, 0, 0, 64];
                packet.extend(octets(self.source.0));
                packet.extend(octets(self.destination.0));
                let length = (self.extra * 8 + upper.len()) as u16;
                packet[4..6].copy_from_slice(&length.to_be_bytes());
                packet[6] = if self.extra > 0 { 60 } else { self.protocol };
                for left in (0..self.extra).rev() {
                    let next = if left > 0 { 60 } else { self.protocol };
                    packet.extend([next, 0, 1, 4, 0, 0, 0, 0]);
                }
                packet
            }
        };
        packet.extend(upper);
        packet
    }
}

fn address(v6: bool) -> impl Strategy<Value = IpAddr> {
    (any::<[u8; 4]>(), any::<[u8; 16]>()).prop_map(
        move |(v4, octets)| {
            if v6 { octets.into() } else { v4.into() }
        },
    )
}

prop_compose! {
    fn made(v6: bool)(
        source in (address(v6), any::<u16>()),
        destination in (address(v6), any::<u16>()),
        protocol in prop::sample::select(vec![
            TCP, UDP, UDP_LITE, DCCP, SCTP, if v6 { ICMPV6 } else { ICMP },
        ]),
        payload in prop::collection::vec(any::<u8>(), 0..200),
        extra in 0_usize..4,
        checksum in prop::bool::weighted(0.9),
    ) -> Made {
        Made { source, destination, protocol, payload, extra, checksum }
    }
}

prop_compose! {
    /// A packet, and other ends for it.
    fn changed()(v6 in any::<bool>())(
        made in made(v6),
        source in prop::option::of((address(v6), prop::option::of(any::<u16>()))),
        destination in prop::option::of((address(v6), prop::option::of(any::<u16>()))),
    ) -> (Made, Edits) {
        let end = |(address, port)| End { address, port };
        let edits = Edits {
            source: source.map(end),
            destination: destination.map(end),
            quoted: None,
        };
        (made, edits)
    }
}

fn with(made: &Made, edits: &Edits) -> Made {
    let change = |from: (IpAddr, u16), end: Option<End>| {
        end.map_or(from, |end| (end.address, end.port.unwrap_or(from.1)))
    };
    Made {
        source: change(made.source, edits.source),
        destination: change(made.destination, edits.destination),
        ..made.clone()
    }
}

/// Two sums that mean the same: 0 and 0xFFFF.
fn same(mut a: Vec<u8>, mut b: Vec<u8>, upper: usize, protocol: u8) -> bool {
    let sums = [
        Some(10).filter(|_| a[0] >> 4 == 4),
        match protocol {
            TCP => Some(upper + 16),
            UDP | UDP_LITE | DCCP => Some(upper + 6),
            ICMPV6 => Some(upper + 2),
            _ => None,
        },
    ];
    for at in sums.into_iter().flatten() {
        for packet in [&mut a, &mut b] {
            // A quotation may end before it.
            if protocol != UDP
                && let Some(sum @ [0xFF, 0xFF]) = packet.get_mut(at..at + 2)
            {
                sum.fill(0);
            }
        }
    }
    a == b
}

proptest! {
    #[test]
    fn a_rewritten_packet_is_as_if_made_so((made, edits) in changed()) {
        let mut packet = made.bytes();
        let upper = Headers::of(&packet).unwrap().upper;
        prop_assert!(edits.apply(&mut packet));
        let wanted = with(&made, &edits).bytes();
        prop_assert!(same(packet.clone(), wanted.clone(), upper, made.protocol), "{:?}\n{:?}", packet, wanted);
    }

    #[test]
    fn damage_stays((made, edits) in changed(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        // A packet damaged in its payload is still damaged in the same way.
        prop_assume!(!made.payload.is_empty() && !edits.is_empty());
        let mut packet = made.bytes();
        let good = { let mut good = packet.clone(); prop_assert!(edits.apply(&mut good)); good };
        let place = packet.len() - 1 - at.index(made.payload.len());
        packet[place] ^= 1_u8 << bit;
        prop_assert!(edits.apply(&mut packet));
        packet[place] ^= 1_u8 << bit;
        prop_assert_eq!(packet, good);
    }

    /// An ICMP error that quotes the first bytes of a packet, however few.
    #[test]
    fn a_quoted_packet_is_rewritten_too((made, edits) in changed(), words in 0_usize..40) {
        let v6 = made.source.0.is_ipv6();
        let whole = made.bytes();
        let least = Headers::of(&whole).unwrap().upper;
        let mut quote = whole.clone();
        // Half a checksum cannot be put right.
        quote.truncate((least + words * 2).min(whole.len()));
        let error = |quote: &[u8], from: IpAddr| {
            let mut made = Made {
                source: (from, 0),
                destination: (made.source.0, 0),
                protocol: if v6 { ICMPV6 } else { ICMP },
                payload: quote.to_vec(),
                extra: 0,
                checksum: true,
            }.bytes();
            // An unreachable destination in place of an echo: the sum changes with the type.
            let upper = if v6 { 40 } else { 20 };
            let kind = if v6 { 1 } else { 3 };
            let old = u16::from_be_bytes([128, 0]);
            let new = u16::from_be_bytes([kind, 0]);
            made[upper] = kind;
            let change = Change { old: old.into(), new: new.into() };
            assert!(change.adjust(&mut made, upper + 2));
            made
        };
        let end = edits.destination.unwrap_or(End { address: made.destination.0, port: None });
        let mut packet = error(&quote, made.destination.0);
        let edit = Edits { quoted: Some((Side::Destination, end)), ..Edits::default() };
        prop_assert!(edit.apply(&mut packet));
        let mut wanted = with(&made, &Edits { source: None, destination: Some(end), quoted: None }).bytes();
        wanted.truncate(quote.len());
        let at = packet.len() - quote.len();
        prop_assert!(same(packet[at..].to_vec(), wanted.clone(), least, made.protocol), "{:?}\n{:?}", packet, wanted);
        // And the error's own sum holds for what is quoted now.
        let mut summed = if v6 {
            let mut pseudo = packet[8..40].to_vec();
            pseudo.extend(((packet.len() - 40) as u32).to_be_bytes());
            pseudo.extend([0, 0, 0, ICMPV6]);
            pseudo
        } else {
            Vec::new()
        };
        summed.extend_from_slice(&packet[at - 8..]);
        prop_assert_eq!(check(&summed), 0);
        if !v6 {
            prop_assert_eq!(check(&packet[at..at + least]), 0, "the quoted header");
        }
    }

    #[test]
    fn any_bytes_are_rewritten_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..120),
        first in prop::sample::select(vec![0x45_u8, 0x46, 0x4F, 0x60, 0x00]),
        v6 in any::<bool>(),
        source in any::<Option<[u8; 16]>>(),
        port in any::<Option<u16>>(),
    ) {
        if let Some(byte) = bytes.first_mut() {
            *byte = first;
        }
        let end = End {
            address: if v6 { source.unwrap_or_default().into() } else { [10, 0, 0, 1].into() },
            port,
        };
        let len = bytes.len();
        let _ = Edits { source: Some(end), destination: Some(end), quoted: None }.apply(&mut bytes);
        let _ = Edits { quoted: Some((Side::Source, end)), ..Edits::default() }.apply(&mut bytes);
        prop_assert_eq!(bytes.len(), len);
    }
}

#[test]
fn later_fragments_change_their_address_only() {
    let end = |text: &str| End {
        address: text.parse().unwrap(),
        port: Some(9),
    };
    let made = Made {
        source: ("10.0.0.1".parse().unwrap(), 0x0102),
        destination: ("10.0.0.2".parse().unwrap(), 0x0304),
        protocol: UDP,
        payload: vec![5; 40],
        extra: 0,
        checksum: true,
    };
    let mut fragment = made.bytes();
    fragment[6..8].copy_from_slice(&[0, 3]);
    fragment[10..12].fill(0);
    let sum = check(&fragment[..20]);
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    let before = fragment.clone();
    let edits = Edits {
        destination: Some(end("192.0.2.7")),
        ..Edits::default()
    };
    assert!(edits.apply(&mut fragment));
    assert_eq!(fragment[20..], before[20..]);
    assert_eq!(fragment[16..20], [192, 0, 2, 7]);
    assert_eq!(check(&fragment[..20]), 0);
}

#[test]
fn what_has_no_room_for_its_checksum_is_refused() {
    let made = Made {
        source: ("10.0.0.1".parse().unwrap(), 1),
        destination: ("10.0.0.2".parse().unwrap(), 2),
        protocol: TCP,
        payload: Vec::new(),
        extra: 0,
        checksum: true,
    };
    let edits = Edits {
        destination: Some(End {
            address: "10.0.0.3".parse().unwrap(),
            port: None,
        }),
        ..Edits::default()
    };
    for len in 0..38 {
        let mut packet = made.bytes();
        packet.truncate(len);
        assert!(!edits.apply(&mut packet), "{len}");
    }
    assert!(edits.apply(&mut made.bytes()));
    let mut v6 = edits;
    v6.destination = Some(End {
        address: "fd00::1".parse().unwrap(),
        port: None,
    });
    assert!(!v6.apply(&mut made.bytes()), "families do not mix");
}
