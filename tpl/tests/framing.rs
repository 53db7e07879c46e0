//! Where units begin and end, on datagrams and on streams (spec 2 and 6).
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

use std::net::IpAddr;

use tsc_tpl::{
    CmType, DatagramError, EncodeError, FirstByte, FramingError, IpPacket, Limits, MessageBuilder,
    RedundancyEntry, RedundancyFrame, ReservedFrame, ReservedKind, Sequence, StreamDecoder, Tsid,
    Unit, UnitError,
};

const LIMITS: Limits = Limits::new(1400);

fn ipv4(total: u16) -> Vec<u8> {
    let mut packet = vec![0; usize::from(total)];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    packet[9] = 17;
    packet
}

fn ipv6(payload: u16) -> Vec<u8> {
    let mut packet = vec![0; 40 + usize::from(payload)];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet[6] = 59;
    packet
}

fn keepalive() -> Vec<u8> {
    let mut wire = Vec::new();
    MessageBuilder::new(CmType::KEEPALIVE, Tsid(1), Sequence(1))
        .encode(&mut wire)
        .unwrap();
    wire
}

fn datagram(wire: &[u8]) -> Result<Unit<'_>, DatagramError> {
    Unit::decode_datagram(wire, &LIMITS)
}

/// The units and the end of a stream that is fed whole, then byte by byte; both must be the same.
fn stream(wire: &[u8]) -> (usize, Result<(), FramingError>) {
    let run = |size: usize| {
        let mut decoder = StreamDecoder::new(LIMITS);
        let mut units = 0;
        for piece in wire.chunks(size.max(1)) {
            let mut feed = decoder.feed(piece);
            loop {
                match feed.next() {
                    Ok(Some(_)) => units += 1,
                    Ok(None) => break,
                    Err(error) => return (units, Err(error)),
                }
            }
        }
        (units, decoder.finish())
    };
    let whole = run(wire.len());
    assert_eq!(whole, run(1));
    whole
}

#[test]
fn every_first_byte_is_what_the_table_says() {
    for byte in 0..=u8::MAX {
        let expected = match byte {
            0x10 => FirstByte::Control,
            0x40..=0x4F => FirstByte::Ipv4,
            0x60..=0x6F => FirstByte::Ipv6,
            0x1C => FirstByte::Redundancy,
            0x1D..=0x1F => FirstByte::Reserved,
            0x00 | 0x01 => FirstByte::Stun,
            0x14..=0x1B | 0x20..=0x3F => FirstByte::Dtls,
            _ => FirstByte::Invalid,
        };
        assert_eq!(FirstByte::classify(byte), expected, "{byte:#x}");
        if matches!(
            expected,
            FirstByte::Stun | FirstByte::Dtls | FirstByte::Invalid
        ) {
            let error = UnitError::FirstByte(byte);
            assert_eq!(datagram(&[byte; 64]), Err(DatagramError::Unit(error)));
            assert_eq!(stream(&[byte]), (0, Err(FramingError::Unit(error))));
        }
    }
}

#[test]
fn a_datagram_is_exactly_one_unit() {
    assert_eq!(datagram(&[]), Err(DatagramError::Empty));
    for unit in [keepalive(), ipv4(20), ipv6(0), vec![0x1D, 1, 2, 3, 4]] {
        assert_eq!(datagram(&unit).unwrap().as_bytes(), unit);
        let longer = [unit.as_slice(), &[0x10]].concat();
        assert_eq!(datagram(&longer), Err(DatagramError::Trailing(1)));
        for cut in 1..unit.len() {
            assert!(
                matches!(datagram(&unit[..cut]), Err(DatagramError::Truncated { .. })),
                "{cut} of {unit:x?}"
            );
        }
    }
}

#[test]
fn an_inner_packet_has_possible_lengths() {
    let check = |wire: &[u8], error: UnitError| {
        assert_eq!(datagram(wire), Err(DatagramError::Unit(error)));
        assert_eq!(stream(wire), (0, Err(FramingError::Unit(error))));
    };
    check(&[0x44], UnitError::Ipv4HeaderLength(4));
    check(
        &[0x45, 0, 0, 19],
        UnitError::Ipv4TotalLength {
            total: 19,
            header: 20,
        },
    );
    check(
        &[0x4F, 0, 0, 59],
        UnitError::Ipv4TotalLength {
            total: 59,
            header: 60,
        },
    );
    check(
        &[0x45, 0, 5, 0x79],
        UnitError::InnerMtu {
            len: 1401,
            mtu: 1400,
        },
    );
    check(
        &[0x60, 0, 0, 0, 5, 0x51],
        UnitError::InnerMtu {
            len: 1401,
            mtu: 1400,
        },
    );
    assert!(datagram(&ipv4(1400)).is_ok());
    assert!(datagram(&ipv6(1360)).is_ok());
    assert_eq!(stream(&ipv4(1400)), (1, Ok(())));
}

#[test]
fn a_control_message_has_at_most_64_tlvs_and_4096_bytes() {
    // As soon as the count is there, before the rest is.
    assert_eq!(
        stream(&[0x10, 7, 0, 65]),
        (0, Err(FramingError::Unit(UnitError::TooManyTlvs(65))))
    );
    let message = |ty: u8, len: u16| {
        let mut wire = vec![0; 20 + usize::from(len)];
        wire[..4].copy_from_slice(&[0x10, ty, 0, 1]);
        wire[16..20].copy_from_slice(&[0x80, 4, (len >> 8) as u8, (len & 0xFF) as u8]);
        wire
    };
    assert_eq!(stream(&message(7, 4076)), (1, Ok(())));
    let long = UnitError::MessageTooLong(4097);
    assert_eq!(
        stream(&message(7, 4077)),
        (0, Err(FramingError::Unit(long)))
    );
    assert_eq!(datagram(&message(1, 4077)), Err(DatagramError::Unit(long)));
    // A path MTU probe on a datagram transport.
    assert!(datagram(&message(7, 9000)).is_ok());
    assert!(matches!(
        datagram(&message(7, 9001)),
        Err(DatagramError::Unit(UnitError::MessageTooLong(9021)))
    ));
    assert!(matches!(
        datagram(&message(8, 9000)),
        Err(DatagramError::Unit(UnitError::MessageTooLong(9020)))
    ));
    // The second TLV's header alone goes beyond.
    let mut two = message(7, 4074);
    two[3] = 2;
    assert!(matches!(
        stream(&two),
        (0, Err(FramingError::Unit(UnitError::MessageTooLong(_))))
    ));
}

#[test]
fn redundancy_frames_are_checked() {
    let packet = ipv4(24);
    let entry = |sequence| {
        let packet = IpPacket::decode(&packet, &LIMITS).unwrap();
        RedundancyEntry {
            sequence: Sequence(sequence),
            packet,
        }
    };
    let frame = |count: u8, sequences: &[u32]| {
        let mut wire = vec![0x1C, count];
        for sequence in sequences {
            wire.extend(sequence.to_be_bytes());
            wire.extend(&packet);
        }
        wire
    };
    let encode = |sequences: &[u32]| {
        let entries: Vec<_> = sequences.iter().copied().map(entry).collect();
        RedundancyFrame::encode_datagram(&entries, &LIMITS, &mut Vec::new())
    };
    let both = |sequences: &[u32], error: Option<UnitError>| {
        let wire = frame(u8::try_from(sequences.len()).unwrap(), sequences);
        assert_eq!(datagram(&wire).err(), error.map(DatagramError::Unit));
        assert_eq!(encode(sequences).err(), error.map(EncodeError::Unit));
    };
    both(&[], Some(UnitError::RedundancyCount(0)));
    both(&[9, 8, 7, 6, 5, 4, 3, 2, 1], None);
    both(
        &[10, 9, 8, 7, 6, 5, 4, 3, 2, 1],
        Some(UnitError::RedundancyCount(10)),
    );
    both(&[5, 5], Some(UnitError::RedundancyOrder));
    both(&[5, 6], Some(UnitError::RedundancyOrder));
    both(&[1, 0, u32::MAX, u32::MAX - 7], None);
    // Each step is less than half the circle, all of them are more.
    both(
        &[0, 0x9000_0000, 0x2000_0000],
        Some(UnitError::RedundancyOrder),
    );

    // One on streams.
    assert_eq!(stream(&frame(1, &[7])), (1, Ok(())));
    let count = FramingError::Unit(UnitError::RedundancyCount(2));
    assert_eq!(stream(&frame(2, &[7, 6])), (0, Err(count)));
    // The entries are inner packets, nothing else.
    let nested = [&[0x1C, 1, 0, 0, 0, 1][..], &keepalive()].concat();
    assert_eq!(
        datagram(&nested),
        Err(DatagramError::Unit(UnitError::RedundancyEntry(0x10)))
    );
    let long = [&[0x1C, 1, 0, 0, 0, 1][..], &ipv4(1401)].concat();
    assert_eq!(
        datagram(&long),
        Err(DatagramError::Unit(UnitError::InnerMtu {
            len: 1401,
            mtu: 1400
        }))
    );
}

#[test]
fn a_redundancy_frame_is_read_from_either_end() {
    let (one, two) = (ipv4(30), ipv6(3));
    let entries = [
        RedundancyEntry {
            sequence: Sequence(9),
            packet: IpPacket::decode(&one, &LIMITS).unwrap(),
        },
        RedundancyEntry {
            sequence: Sequence(4),
            packet: IpPacket::decode(&two, &LIMITS).unwrap(),
        },
        RedundancyEntry {
            sequence: Sequence(3),
            packet: IpPacket::decode(&one, &LIMITS).unwrap(),
        },
    ];
    let mut wire = Vec::new();
    RedundancyFrame::encode_datagram(&entries, &LIMITS, &mut wire).unwrap();
    let Ok(Unit::Redundancy(frame)) = datagram(&wire) else {
        panic!()
    };
    let oldest_first: Vec<_> = frame
        .entries()
        .rev()
        .map(|entry| entry.sequence.0)
        .collect();
    assert_eq!(oldest_first, [3, 4, 9]);
    let mut both = frame.entries();
    assert_eq!(both.len(), 3);
    assert_eq!(
        (both.next(), both.next_back(), both.len()),
        (Some(entries[0]), Some(entries[2]), 1)
    );
    assert_eq!(
        (both.next_back(), both.next(), both.next_back()),
        (Some(entries[1]), None, None)
    );
}

#[test]
fn reserved_frames_end_at_the_inner_mtu() {
    let long = UnitError::InnerMtu {
        len: 1401,
        mtu: 1400,
    };
    for first in [0x1E, 0x1F] {
        assert_eq!(
            stream(&[first, 0, 5, 0x79]),
            (0, Err(FramingError::Unit(long)))
        );
    }
    let encode =
        |kind, len| ReservedFrame::encode(kind, 0, &vec![0; len], &LIMITS, &mut Vec::new());
    assert_eq!(encode(ReservedKind::CompressedLong, 1400), Ok(()));
    assert_eq!(
        encode(ReservedKind::CompressedLong, 1401),
        Err(EncodeError::Unit(long))
    );
    assert_eq!(encode(ReservedKind::CompressedShort, 255), Ok(()));
    assert!(encode(ReservedKind::CompressedShort, 256).is_err());
}

#[test]
fn a_server_takes_a_request_first_and_anything_then() {
    let first = |wire: &[u8]| {
        let mut decoder = StreamDecoder::expecting_request(LIMITS);
        let mut feed = decoder.feed(wire);
        let mut units = 0;
        loop {
            match feed.next() {
                Ok(Some(_)) => units += 1,
                Ok(None) => return Ok(units),
                Err(error) => return Err((units, error)),
            }
        }
    };
    let wrong = Err((0, FramingError::WrongFirstUnit));
    assert_eq!(first(&[0x45]), wrong, "told by the first byte");
    assert_eq!(first(&[0x16, 3, 1]), wrong);
    assert_eq!(first(&[0x10, 7]), wrong, "told by the second");
    assert_eq!(first(&[0x10]), Ok(0));
    let mut request = keepalive();
    for ty in [
        CmType::CONFIGURATION_REQUEST,
        CmType::CONFIGURATION_RESUME_REQUEST,
    ] {
        request[1] = ty.0;
        let wire = [request.clone(), ipv4(20), keepalive()].concat();
        assert_eq!(first(&wire), Ok(3));
    }
}

#[test]
fn an_error_is_final_and_units_before_it_are_not_lost() {
    let wire = [keepalive(), vec![0xFF], keepalive()].concat();
    let mut decoder = StreamDecoder::new(LIMITS);
    let mut feed = decoder.feed(&wire);
    assert!(matches!(feed.next(), Ok(Some(Unit::Control(_)))));
    let error = FramingError::Unit(UnitError::FirstByte(0xFF));
    assert_eq!(feed.next(), Err(error));
    assert_eq!(decoder.feed(&keepalive()).next(), Err(error));
    assert_eq!(decoder.finish(), Err(error));
    assert!(!decoder.is_partial());
}

#[test]
fn a_partial_unit_has_an_ordinal_so_that_a_stalled_one_is_told_from_a_busy_stream() {
    let wire = [keepalive(), ipv4(40)].concat();
    let mut decoder = StreamDecoder::new(LIMITS);
    assert_eq!((decoder.is_partial(), decoder.partial()), (false, None));
    assert_eq!(decoder.feed(&wire[..10]).next(), Ok(None));
    assert_eq!(decoder.partial(), Some(0));
    let mut feed = decoder.feed(&wire[10..20]);
    assert!(feed.next().unwrap().is_some());
    assert_eq!(feed.remaining(), &wire[16..20]);
    assert_eq!(feed.next(), Ok(None));
    assert_eq!((decoder.partial(), decoder.units()), (Some(1), 1));
    assert_eq!(decoder.finish(), Err(FramingError::EndInsideUnit(4)));
    let mut feed = decoder.feed(&wire[20..]);
    assert!(feed.next().unwrap().is_some());
    // The unit just returned is still held, but no part of another one.
    assert_eq!((decoder.partial(), decoder.finish()), (None, Ok(())));
    assert_eq!(decoder.feed(&[]).next(), Ok(None));
    assert_eq!(decoder.units(), 2);
}

#[test]
fn limits_may_change_between_two_units_of_one_chunk() {
    let wire = [keepalive(), ipv4(1401), ipv4(577)].concat();
    let mut decoder = StreamDecoder::new(LIMITS);
    let mut feed = decoder.feed(&wire);
    assert!(feed.next().unwrap().is_some());
    feed.set_limits(Limits::new(1500));
    assert!(feed.next().unwrap().is_some());
    feed.set_limits(Limits::new(576));
    assert!(feed.next().is_err());
}

#[test]
fn what_a_packet_says() {
    let mut udp = ipv4(28);
    udp[1] = 46 << 2;
    udp[8] = 64;
    udp[12..20].copy_from_slice(&[10, 0, 0, 5, 10, 0, 0, 1]);
    udp[20..24].copy_from_slice(&[0x13, 0xC4, 0x00, 0x50]);
    let packet = IpPacket::decode(&udp, &LIMITS).unwrap();
    assert_eq!(packet.source(), IpAddr::from([10, 0, 0, 5]));
    assert_eq!(packet.destination(), IpAddr::from([10, 0, 0, 1]));
    assert_eq!(packet.ports(), Some((5060, 80)));
    assert_eq!(
        (packet.protocol(), packet.dscp(), packet.hop_limit()),
        (17, 46, 64)
    );
    assert_eq!(packet.payload().unwrap().len(), 8);

    // Fragments have no ports: More Fragments, an offset; but Don't Fragment is no fragment.
    for (flags, fragment) in [
        ([0x20, 0], true),
        ([0, 1], true),
        ([0x1F, 0xFF], true),
        ([0x40, 0], false),
    ] {
        let mut wire = udp.clone();
        wire[6..8].copy_from_slice(&flags);
        let packet = IpPacket::decode(&wire, &LIMITS).unwrap();
        assert_eq!(
            (packet.is_fragment(), packet.ports().is_none()),
            (fragment, fragment),
            "{flags:x?}"
        );
    }
    // A header that fills the packet, or leaves less than two ports.
    let mut options = ipv4(23);
    options[9] = 6;
    assert_eq!(IpPacket::decode(&options, &LIMITS).unwrap().ports(), None);
}

#[test]
fn ports_behind_ipv6_extension_headers() {
    let build = |next: u8, extensions: &[&[u8]], upper: &[u8]| {
        let rest = [extensions.concat().as_slice(), upper].concat();
        let mut wire = ipv6(u16::try_from(rest.len()).unwrap());
        wire[0..2].copy_from_slice(&[0x6B, 0x80]);
        wire[6] = next;
        wire[7] = 3;
        wire[8] = 0xFD;
        wire[39] = 9;
        wire[40..].copy_from_slice(&rest);
        wire
    };
    let ports = |wire: &[u8]| {
        let packet = IpPacket::decode(wire, &LIMITS).unwrap();
        (packet.protocol(), packet.is_fragment(), packet.ports())
    };
    let upper = [0x13, 0xC4, 0, 80, 0, 8, 0, 0];
    let plain = build(17, &[], &upper);
    assert_eq!(ports(&plain), (17, false, Some((5060, 80))));
    let packet = IpPacket::decode(&plain, &LIMITS).unwrap();
    assert_eq!((packet.dscp(), packet.hop_limit()), (46, 3));
    assert_eq!(packet.source().to_string(), "fd00::");
    assert_eq!(packet.destination().to_string(), "::9");

    let hop: &[u8] = &[60, 0, 1, 4, 0, 0, 0, 0];
    let destination: &[u8] = &[17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        ports(&build(0, &[hop, destination], &upper)),
        (17, false, Some((5060, 80)))
    );
    let authentication: &[u8] = &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(
        ports(&build(51, &[authentication], &upper)),
        (17, false, Some((5060, 80)))
    );
    // Fragments; an atomic one (RFC 6946) is whole.
    let first: &[u8] = &[17, 0, 0, 1, 0, 0, 0, 1];
    assert_eq!(ports(&build(44, &[first], &upper)), (17, true, None));
    let later: &[u8] = &[17, 0, 0, 8, 0, 0, 0, 1];
    assert_eq!(ports(&build(44, &[later], &upper)), (17, true, None));
    let atomic: &[u8] = &[17, 0, 0, 0, 0, 0, 0, 1];
    assert_eq!(
        ports(&build(44, &[atomic], &upper)),
        (17, false, Some((5060, 80)))
    );
    let reserved_bits: &[u8] = &[17, 0, 0, 6, 0, 0, 0, 1];
    assert_eq!(
        ports(&build(44, &[reserved_bits], &upper)),
        (17, false, Some((5060, 80)))
    );
    // Cut short, and more headers than are walked.
    assert_eq!(ports(&build(0, &[], &[17, 9])), (0, false, None));
    let step: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(ports(&build(0, &[step; 20], &upper)), (0, false, None));
}
