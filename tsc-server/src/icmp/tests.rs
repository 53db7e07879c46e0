//! Held against smoltcp's reading of the same bytes.

use proptest::prelude::*;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{
        Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet,
        Icmpv6Repr, Ipv4Packet, Ipv6Packet,
    },
};
use tsc_tpl::Limits;

use super::*;

/// A UDP packet of `len` bytes in all from 10.0.0.1 to `to`, with these flags and offset.
fn v4(to: [u8; 4], len: u16, flags: u16, options: &[u8]) -> Vec<u8> {
    let words = 5 + options.len() / 4;
    let mut packet: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    packet[..20].fill(0);
    packet[0] = 0x40 | u8::try_from(words).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[4..6].copy_from_slice(&[0xAB, 0xCD]);
    packet[6..8].copy_from_slice(&flags.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[10, 0, 0, 1]);
    packet[16..20].copy_from_slice(&to);
    packet[20..20 + options.len()].copy_from_slice(options);
    let check = checksum(&[&packet[..words * 4]]);
    packet[10..12].copy_from_slice(&check);
    packet
}

fn v6(len: u16, next: u8) -> Vec<u8> {
    let mut packet = vec![0; usize::from(len)];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(len - 40).to_be_bytes());
    packet[6] = next;
    packet[7] = 64;
    packet[8] = 0xFD;
    packet[23] = 1;
    packet[24] = 0xFD;
    packet[39] = 2;
    packet
}

fn view(bytes: &[u8]) -> IpPacket<'_> {
    IpPacket::decode(bytes, &Limits::WIDEST).unwrap()
}

fn told(bytes: &[u8], complaint: Complaint) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    error(&view(bytes), complaint, &mut out).then_some(out)
}

const ALL: [Complaint; 4] = [
    Complaint::Unreachable,
    Complaint::Prohibited,
    Complaint::TooBig { mtu: 1280 },
    Complaint::HopsExceeded,
];

#[test]
fn errors_of_ipv4_are_what_others_read() {
    let long = v4([10, 0, 0, 2], 1400, 0x4000, &[]);
    // smoltcp reads quotations of whole packets only.
    let packet = v4([10, 0, 0, 2], 400, 0x4000, &[]);
    for complaint in ALL {
        let cut = told(&long, complaint).unwrap();
        assert_eq!(cut.len(), 576);
        assert_eq!(cut[28..], long[..548]);
        let out = told(&packet, complaint).unwrap();
        assert_eq!(out.len(), 428);
        let ip = Ipv4Packet::new_checked(&out[..]).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!(ip.src_addr().octets(), [10, 0, 0, 2]);
        assert_eq!(ip.dst_addr().octets(), [10, 0, 0, 1]);
        let icmp = Icmpv4Packet::new_checked(ip.payload()).unwrap();
        assert!(icmp.verify_checksum());
        assert_eq!(icmp.data(), packet);
        match (
            complaint,
            Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).unwrap(),
        ) {
            (Complaint::Unreachable, Icmpv4Repr::DstUnreachable { reason, .. }) => {
                assert_eq!(reason, Icmpv4DstUnreachable::HostUnreachable)
            }
            (Complaint::Prohibited, Icmpv4Repr::DstUnreachable { reason, .. }) => {
                assert_eq!(reason, Icmpv4DstUnreachable::CommProhibited)
            }
            (Complaint::TooBig { mtu }, Icmpv4Repr::DstUnreachable { reason, .. }) => {
                assert_eq!(reason, Icmpv4DstUnreachable::FragRequired);
                // RFC 1191: the last two bytes of the header.
                assert_eq!(&ip.payload()[6..8], &mtu.to_be_bytes());
            }
            (Complaint::HopsExceeded, Icmpv4Repr::TimeExceeded { .. }) => {}
            (complaint, other) => panic!("{complaint:?} reads as {other:?}"),
        }
    }
}

#[test]
fn errors_of_ipv6_are_what_others_read() {
    let packet = v6(1400, 17);
    for complaint in ALL {
        let out = told(&packet, complaint).unwrap();
        assert_eq!(out.len(), 1280);
        let ip = Ipv6Packet::new_checked(&out[..]).unwrap();
        assert_eq!(ip.src_addr().octets(), packet[24..40]);
        assert_eq!(ip.dst_addr().octets(), packet[8..24]);
        let icmp = Icmpv6Packet::new_checked(ip.payload()).unwrap();
        let repr = Icmpv6Repr::parse(
            &ip.src_addr(),
            &ip.dst_addr(),
            &icmp,
            &ChecksumCapabilities::default(),
        );
        match (complaint, repr.expect("a valid checksum")) {
            (Complaint::Unreachable, Icmpv6Repr::DstUnreachable { reason, .. }) => {
                assert_eq!(reason, Icmpv6DstUnreachable::AddrUnreachable)
            }
            (Complaint::Prohibited, Icmpv6Repr::DstUnreachable { reason, .. }) => {
                assert_eq!(reason, Icmpv6DstUnreachable::AdminProhibit)
            }
            (Complaint::TooBig { mtu }, Icmpv6Repr::PktTooBig { mtu: read, .. }) => {
                assert_eq!(read, u32::from(mtu))
            }
            (Complaint::HopsExceeded, Icmpv6Repr::TimeExceeded { .. }) => {}
            (complaint, other) => panic!("{complaint:?} reads as {other:?}"),
        }
    }
}

#[test]
fn what_must_not_be_answered_is_not() {
    let silent = |bytes: &[u8]| told(bytes, Complaint::Unreachable).is_none();
    // A first fragment is answered, others are not.
    assert!(!silent(&v4([10, 0, 0, 2], 100, 0x2000, &[])));
    assert!(silent(&v4([10, 0, 0, 2], 100, 0x2001, &[])));
    assert!(silent(&v4([10, 0, 0, 2], 100, 0x0100, &[])));
    for group in [[224, 0, 0, 1], [255; 4], [169, 254, 1, 1], [0; 4]] {
        assert!(silent(&v4(group, 100, 0, &[])), "{group:?}");
    }
    assert!(
        !silent(&v4([127, 0, 0, 1], 100, 0, &[])),
        "an opened loopback"
    );
    let mut from_loopback = v4([10, 0, 0, 2], 100, 0, &[]);
    from_loopback[12..16].copy_from_slice(&[127, 0, 0, 1]);
    assert!(silent(&from_loopback));
    for (kind, answered) in [
        (8, true),
        (0, true),
        (3, false),
        (4, false),
        (5, false),
        (11, false),
        (12, false),
    ] {
        let mut icmp = v4([10, 0, 0, 2], 100, 0, &[]);
        icmp[9] = 1;
        icmp[20] = kind;
        assert_eq!(!silent(&icmp), answered, "ICMP type {kind}");
    }
    for (kind, answered) in [
        (128, true),
        (129, true),
        (1, false),
        (2, false),
        (127, false),
        (137, false),
    ] {
        let mut icmp = v6(100, 58);
        icmp[40] = kind;
        assert_eq!(!silent(&icmp), answered, "ICMPv6 type {kind}");
    }
    // IPv6: a fragment header in front of UDP.
    let mut fragment = v6(100, 44);
    fragment[40] = 17;
    fragment[43] = 1;
    assert!(!silent(&fragment), "the first of several");
    fragment[43] = 9;
    assert!(silent(&fragment), "a later one");
    let mut group = v6(100, 17);
    group[24] = 0xFF;
    assert!(silent(&group));
    // Extension headers cut short: what follows may be anything.
    let mut cut = v6(44, 0);
    cut[41] = 9;
    assert!(silent(&cut));
}

/// Puts fragments back together, checking each header: data, and whether more follow.
fn join(packet: &[u8], mtu: u16) -> Option<(Vec<u8>, bool, Vec<Vec<u8>>)> {
    let mut pieces = Vec::new();
    let whole = view(packet);
    fragment(&whole, mtu, |header, data| {
        pieces.push([header, data].concat())
    })
    .then_some(())?;
    let base = Ipv4Packet::new_checked(packet).ok()?.frag_offset();
    let (mut data, mut more) = (Vec::new(), true);
    for piece in &pieces {
        assert!(piece.len() <= usize::from(mtu));
        let ip = Ipv4Packet::new_checked(&piece[..]).unwrap();
        assert!(ip.verify_checksum());
        assert_eq!(usize::from(ip.frag_offset() - base), data.len());
        assert_eq!(ip.ident(), 0xABCD);
        assert!(more, "nothing follows the last");
        more = ip.more_frags();
        data.extend_from_slice(ip.payload());
    }
    Some((data, more, pieces))
}

#[test]
fn fragments_make_up_the_packet() {
    let packet = v4([10, 0, 0, 2], 1400, 0, &[]);
    let (data, more, pieces) = join(&packet, 576).unwrap();
    assert_eq!(data, packet[20..]);
    assert!(!more);
    assert_eq!(
        pieces.iter().map(Vec::len).collect::<Vec<_>>(),
        [572, 572, 296]
    );
    // A fragment is cut further, and the last piece still says that more follow.
    let packet = v4([10, 0, 0, 2], 1396, 0x2010, &[]);
    let (data, more, _) = join(&packet, 600).unwrap();
    assert_eq!(data, packet[20..]);
    assert!(more);
}

#[test]
fn only_copied_options_are_in_later_fragments() {
    // No operation, record route (not copied), router alert (copied).
    let options = [1, 7, 3, 4, 0x94, 4, 0, 0];
    let packet = v4([10, 0, 0, 2], 1400, 0, &options);
    let (data, _, pieces) = join(&packet, 576).unwrap();
    assert_eq!(data, packet[28..]);
    assert_eq!(pieces[0][..1], [0x47]);
    assert_eq!(pieces[1][..1], [0x46]);
    assert_eq!(pieces[1][20..24], [0x94, 4, 0, 0]);
}

#[test]
fn nothing_grows_beyond_what_an_offset_can_say() {
    assert!(join(&v4([10, 0, 0, 2], 1400, 0x1FFF, &[]), 576).is_none());
    assert!(!may_fragment(&view(&v4([10, 0, 0, 2], 1400, 0x4000, &[]))));
    assert!(!may_fragment(&view(&v6(1400, 17))));
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(
        mut bytes in proptest::collection::vec(any::<u8>(), 40..1500),
        is_v6: bool,
        words in 5..16_u8,
        mtu in 0..1500_u16,
    ) {
        let len = u16::try_from(bytes.len()).unwrap();
        if is_v6 {
            bytes[0] = 0x60;
            bytes[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        } else {
            let words = words.min(10);
            bytes[0] = 0x40 | words;
            bytes[2..4].copy_from_slice(&len.to_be_bytes());
        }
        let packet = IpPacket::decode(&bytes, &Limits::WIDEST).unwrap();
        for complaint in ALL {
            let mut out = Vec::new();
            if error(&packet, complaint, &mut out) {
                let answer = IpPacket::decode(&out, &Limits::WIDEST).unwrap();
                prop_assert_eq!(answer.destination(), packet.source());
                // An error about the error is never sent.
                prop_assert!(!error(&answer, complaint, &mut Vec::new()));
            } else {
                prop_assert!(out.is_empty());
            }
        }
        if !is_v6 {
            let mut data = Vec::new();
            if fragment(&packet, mtu, |header, piece| {
                assert!(header.len() + piece.len() <= usize::from(mtu));
                data.extend_from_slice(piece);
            }) {
                prop_assert_eq!(&data, &bytes[usize::from(bytes[0] & 0x0F) * 4..]);
            }
        }
    }
}
