//! What must hold for any bytes. The fuzz targets, the property tests and the corpus replay all run this.
#![allow(dead_code, reason = "each of them uses a part")]

pub(crate) mod generate;

use tsc_tpl::{
    ControlMessage, DatagramError, FramingError, Limits, MessageBuilder, RedundancyEntry,
    RedundancyFrame, ReservedFrame, ReservedKind, StreamDecoder, StunKind, StunMessage, Unit,
    registry,
};

use generate::Source;

/// Most bytes that a stream decoder may hold under `limits`: one incomplete unit.
fn most_held(limits: &Limits) -> usize {
    registry::MAX_CONTROL_MESSAGE.max(6 + usize::from(limits.inner_mtu))
}

/// Any datagram decodes or is refused; what decodes can be shown, re-encoded, and is cut nowhere else.
pub(crate) fn datagram(data: &[u8]) {
    let wide = Unit::decode_datagram(data, &Limits::WIDEST);
    let narrow = Unit::decode_datagram(data, &Limits::default());
    if let Ok(unit) = narrow {
        assert_eq!(wide, Ok(unit), "a wider limit refuses nothing more");
    }
    let Ok(unit) = wide else { return };
    examine(&unit, &Limits::WIDEST);
    assert_eq!(unit.as_bytes(), data);

    for cut in [1, data.len() / 2, data.len() - 1] {
        let result = Unit::decode_datagram(&data[..cut.min(data.len() - 1)], &Limits::WIDEST);
        assert!(
            matches!(result, Err(DatagramError::Truncated { needed, .. }) if needed <= data.len())
                || matches!(result, Err(DatagramError::Empty)),
            "a prefix is truncated, never wrong: {result:?}"
        );
    }
    let mut longer = data.to_vec();
    longer.push(0);
    assert_eq!(
        Unit::decode_datagram(&longer, &Limits::WIDEST),
        Err(DatagramError::Trailing(1))
    );
}

/// Any datagram is a Binding message or refused; what is one says the same when it is written again.
pub(crate) fn stun(data: &[u8]) {
    let Ok(message) = StunMessage::decode(data) else {
        return;
    };
    let again = message.encode();
    assert_eq!(StunMessage::decode(&again), Ok(message));
    if message.kind == StunKind::Request {
        let seen = core::net::SocketAddr::from(([0x2001_u16, 0xDB8, 0, 0, 0, 0, 0, 1], 40_000));
        let answer = message.success(seen).encode();
        assert!(answer.len() <= data.len() + tsc_tpl::MAX_STUN_GROWTH);
    }
    let _ = message.to_string();
}

/// A stream gives the same units and the same end however it is cut, and each unit is one a datagram
/// could hold. The first byte chooses the cuts and the kind of decoder.
pub(crate) fn stream(data: &[u8]) {
    let Some((&control, data)) = data.split_first() else {
        return;
    };
    let limits = if control & 1 == 0 {
        Limits::default()
    } else {
        Limits::WIDEST
    };
    let decoder = || {
        if control & 2 == 0 {
            StreamDecoder::new(limits)
        } else {
            StreamDecoder::expecting_request(limits)
        }
    };
    let whole = run(decoder(), [data].into_iter(), &limits);
    let mut seed = u32::from(control) | 1;
    let pieces = core::iter::repeat_with(|| {
        // xorshift; pieces of 1 to 64 bytes, so that many cuts fall into headers.
        seed ^= seed << 13;
        seed ^= seed >> 17;
        seed ^= seed << 5;
        1 + (seed % 64) as usize
    });
    let mut rest = data;
    let cut = pieces.map_while(|len| {
        let (piece, left) = rest.split_at(len.min(rest.len()));
        rest = left;
        (!piece.is_empty()).then_some(piece)
    });
    assert_eq!(whole, run(decoder(), cut, &limits));
    if data.len() <= 512 {
        assert_eq!(whole, run(decoder(), data.chunks(1), &limits));
    }

    let (units, end) = whole;
    let mut at = 0;
    for unit in &units {
        assert_eq!(unit, &data[at..at + unit.len()], "nothing is skipped");
        at += unit.len();
        let decoded =
            Unit::decode_datagram(unit, &limits).expect("a stream's unit is a datagram's");
        examine(&decoded, &limits);
    }
    match end {
        Ok(()) => assert_eq!(at, data.len()),
        Err(FramingError::EndInsideUnit(held)) => assert_eq!(at + held, data.len()),
        Err(_) => assert!(at < data.len()),
    }
}

type Outcome = (Vec<Vec<u8>>, Result<(), FramingError>);

fn run<'c>(
    mut decoder: StreamDecoder,
    pieces: impl Iterator<Item = &'c [u8]>,
    limits: &Limits,
) -> Outcome {
    let mut units = Vec::new();
    for piece in pieces {
        let mut feed = decoder.feed(piece);
        loop {
            match feed.next() {
                Ok(Some(unit)) => units.push(unit.as_bytes().to_vec()),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(feed.next(), Err(error), "an error is final");
                    assert_eq!(decoder.finish(), Err(error));
                    return (units, Err(error));
                }
            }
        }
        assert_eq!(decoder.units(), units.len() as u64);
        if let Err(FramingError::EndInsideUnit(held)) = decoder.finish() {
            assert!(held < most_held(limits), "{held} bytes held");
            assert_eq!(decoder.partial(), Some(decoder.units()));
        }
    }
    (units, decoder.finish())
}

/// Messages and frames built from the bytes: what encodes decodes to the same, what is refused
/// leaves the buffer alone, and what is valid by construction is not refused.
pub(crate) fn roundtrip(data: &[u8]) {
    let mut source = Source::new(data);
    match source.below(4) {
        0 => build(&generate::message(&mut source), true),
        1 => build(&generate::any_message(&mut source), false),
        2 => redundancy(&mut source),
        _ => reserved(&mut source),
    }
}

fn build(builder: &MessageBuilder<'_>, valid: bool) {
    let mut wire = vec![0xEE];
    match builder.encode(&mut wire) {
        Err(error) => {
            assert!(!valid, "{error}: {builder:?}");
            assert_eq!(wire, [0xEE]);
        }
        Ok(()) => {
            let wire = &wire[1..];
            assert_eq!(wire.len(), builder.encoded_len());
            let Ok(Unit::Control(control)) = Unit::decode_datagram(wire, &Limits::default()) else {
                panic!("not framed: {builder:?}");
            };
            examine_control(&control);
            match control.parse() {
                Ok(message) => assert_eq!(message.tlvs(), builder.tlv_list()),
                // The answer to an unknown request is the one message that only its asker parses.
                Err(error) => assert!(
                    !valid && !control.header().cm_type.is_known(),
                    "{error}: {builder:?}"
                ),
            }
            let units = run(
                StreamDecoder::new(Limits::default()),
                [wire].into_iter(),
                &Limits::default(),
            );
            assert_eq!(units, (vec![wire.to_vec()], Ok(())));
        }
    }
    let mut datagram = Vec::new();
    if builder.encode_datagram(&mut datagram).is_ok() {
        Unit::decode_datagram(&datagram, &Limits::default()).expect("a datagram decodes");
    }
}

fn redundancy(source: &mut Source<'_>) {
    let limits = Limits::new(source.u16());
    let packets: Vec<_> = (0..source.below(11))
        .map(|_| generate::ip_packet(source))
        .collect();
    let mut sequence = tsc_tpl::Sequence(source.u32());
    let mut falls = true;
    let entries: Vec<_> = packets
        .iter()
        .map(|packet| {
            let packet = tsc_tpl::IpPacket::decode(packet, &Limits::WIDEST).expect("a packet");
            let entry = RedundancyEntry { sequence, packet };
            let step = if source.below(16) == 0 {
                source.u32()
            } else {
                1 + u32::from(source.below(100))
            };
            falls &= (1..1 << 27).contains(&step);
            sequence.0 = sequence.0.wrapping_sub(step);
            entry
        })
        .collect();
    let mut wire = Vec::new();
    match RedundancyFrame::encode_datagram(&entries, &limits, &mut wire) {
        Ok(()) => {
            assert_eq!(wire.len(), RedundancyFrame::encoded_len(&entries));
            let Ok(Unit::Redundancy(frame)) = Unit::decode_datagram(&wire, &limits) else {
                panic!("a frame decodes");
            };
            assert!(frame.entries().eq(entries.iter().copied()));
            examine(&Unit::Redundancy(frame), &limits);
        }
        Err(error) => {
            assert!(wire.is_empty());
            let fits = entries
                .iter()
                .all(|entry| entry.packet.len() <= usize::from(limits.inner_mtu));
            assert!(
                !(falls && fits && (1..=9).contains(&entries.len())),
                "{error}"
            );
        }
    }
    if let [entry, ..] = entries.as_slice() {
        let mut wire = Vec::new();
        if RedundancyFrame::encode_stream(entry, &limits, &mut wire).is_ok() {
            let units = run(
                StreamDecoder::new(limits),
                [wire.as_slice()].into_iter(),
                &limits,
            );
            assert_eq!(units, (vec![wire], Ok(())));
        }
    }
}

fn reserved(source: &mut Source<'_>) {
    let limits = Limits::new(source.u16());
    let (second, len) = (source.u8(), usize::from(source.u16() % 9100));
    let payload = source.bytes(len);
    let kind = match source.below(3) {
        0 => ReservedKind::CompressedShort,
        1 => ReservedKind::CompressedLong,
        _ => ReservedKind::Extension,
    };
    let mut wire = Vec::new();
    match ReservedFrame::encode(kind, second, payload, &limits, &mut wire) {
        Ok(()) => {
            let Ok(Unit::Reserved(frame)) = Unit::decode_datagram(&wire, &limits) else {
                panic!("a frame decodes");
            };
            assert_eq!(
                (frame.kind(), frame.index(), frame.payload()),
                (kind, second, payload)
            );
        }
        Err(_) => {
            assert!(wire.is_empty());
            assert!(
                len > usize::from(limits.inner_mtu)
                    || (kind == ReservedKind::CompressedShort && len > 255)
            );
        }
    }
}

/// Everything that can be asked of a unit, and that it encodes to what it was decoded from.
fn examine(unit: &Unit<'_>, limits: &Limits) {
    assert!(!format!("{unit} {unit:?}").is_empty());
    match unit {
        Unit::Control(control) => examine_control(control),
        Unit::Ip(packet) => examine_packet(packet),
        Unit::Redundancy(frame) => {
            let entries: Vec<_> = frame.entries().collect();
            assert_eq!(entries.len(), usize::from(frame.count()));
            let mut reversed: Vec<_> = frame.entries().rev().collect();
            reversed.reverse();
            assert_eq!(entries, reversed);
            for (older, newer) in entries.iter().skip(1).zip(&entries) {
                assert!(newer.sequence.is_newer_than(older.sequence));
                examine_packet(&newer.packet);
            }
            let mut wire = Vec::new();
            RedundancyFrame::encode_datagram(&entries, limits, &mut wire)
                .expect("decoded, so encodes");
            assert_eq!(wire, frame.as_bytes());
        }
        Unit::Reserved(frame) => {
            let mut wire = Vec::new();
            ReservedFrame::encode(
                frame.kind(),
                frame.index(),
                frame.payload(),
                limits,
                &mut wire,
            )
            .expect("decoded, so encodes");
            assert_eq!(wire, frame.as_bytes());
        }
    }
}

fn examine_packet(packet: &tsc_tpl::IpPacket<'_>) {
    assert_eq!(packet.source().is_ipv4(), packet.destination().is_ipv4());
    assert!(packet.dscp() < 64);
    if packet.is_fragment() {
        assert_eq!(packet.ports(), None);
    }
    if packet.ports().is_some() {
        assert!(packet.payload().is_some_and(|payload| payload.len() >= 4));
    }
    let _ = (packet.protocol(), packet.hop_limit(), packet.version());
}

fn examine_control(control: &ControlMessage<'_>) {
    assert_eq!(
        control.raw_tlvs().count(),
        usize::from(control.header().tlv_count)
    );
    match control.parse() {
        Ok(message) => {
            assert!(!format!("{message} {message:?}").is_empty());
            let mut wire = Vec::new();
            let builder =
                MessageBuilder::new(message.cm_type(), message.tsid(), message.sequence())
                    .tlvs(message.tlvs().iter().copied());
            // A path MTU probe is the one message that only datagrams carry.
            let long = control.as_bytes().len() > registry::MAX_CONTROL_MESSAGE;
            let result = if long {
                builder.encode_datagram(&mut wire)
            } else {
                builder.encode(&mut wire)
            };
            result.expect("parsed, so encodes");
            assert_eq!(wire, control.as_bytes());
            assert_eq!(
                message.response_code().is_some(),
                message.cm_type().is_response()
            );
            let _ = (
                message.addresses().count(),
                message.companions().count(),
                message.flows().count(),
            );
        }
        Err(error) => {
            assert!(!error.to_string().is_empty());
            if let Some(answer) = MessageBuilder::refuse(&control.header(), &error) {
                let mut wire = Vec::new();
                answer
                    .encode_datagram(&mut wire)
                    .expect("a refusal encodes");
                let Ok(Unit::Control(answer)) = Unit::decode_datagram(&wire, &Limits::default())
                else {
                    panic!("a refusal decodes");
                };
                if answer.header().cm_type.is_known() {
                    let code = answer.parse().expect("a refusal parses").response_code();
                    assert_eq!(code, Some(error.response_code()));
                }
            } else {
                assert_eq!(control.header().cm_type.response(), None);
            }
        }
    }
}
