//! Properties that hold for any input; the assertions are those of the fuzz targets.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm
)]

#[path = "../fuzz/shared/mod.rs"]
mod shared;

use proptest::collection::vec;
use proptest::prelude::*;
use shared::generate::{self, Source};
use tsc_tpl::{Limits, MessageBuilder, StreamDecoder, Unit};

/// Enough bytes for the generators to make what they like.
fn supply() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..6000)
}

/// Any unit, encoded.
fn unit(source: &mut Source<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    match source.below(3) {
        0 => return generate::ip_packet(source),
        1 => generate::message(source).encode(&mut wire).unwrap(),
        _ => {
            let packet = generate::ip_packet(source);
            let packet = tsc_tpl::IpPacket::decode(&packet, &Limits::default()).unwrap();
            let entry = tsc_tpl::RedundancyEntry {
                sequence: tsc_tpl::Sequence(source.u32()),
                packet,
            };
            tsc_tpl::RedundancyFrame::encode_stream(&entry, &Limits::default(), &mut wire).unwrap();
        }
    }
    wire
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn what_the_specification_allows_encodes_and_decodes_to_itself(bytes in supply()) {
        let builder = generate::message(&mut Source::new(&bytes));
        let mut wire = Vec::new();
        builder.encode(&mut wire).unwrap();
        let Ok(Unit::Control(control)) = Unit::decode_datagram(&wire, &Limits::default()) else { panic!() };
        let message = control.parse().unwrap();
        prop_assert_eq!(message.tlvs(), builder.tlv_list());
        let again = MessageBuilder::new(message.cm_type(), message.tsid(), message.sequence())
            .tlvs(message.tlvs().iter().copied());
        prop_assert_eq!(again, builder);
    }

    #[test]
    fn what_encodes_is_accepted(bytes in supply()) {
        shared::roundtrip(&bytes);
    }

    #[test]
    fn any_stream_is_the_same_in_any_pieces(bytes in vec(any::<u8>(), 0..2000)) {
        shared::stream(&bytes);
    }

    #[test]
    fn a_stream_of_units_in_any_pieces_gives_the_datagrams(
        bytes in supply(),
        count in 1usize..12,
        cuts in vec(1usize..900, 0..40),
    ) {
        let mut source = Source::new(&bytes);
        let units: Vec<_> = (0..count).map(|_| unit(&mut source)).collect();
        let wire = units.concat();
        let mut decoder = StreamDecoder::new(Limits::default());
        let mut seen = 0;
        let mut rest = wire.as_slice();
        for cut in cuts.into_iter().chain([wire.len()]) {
            let (piece, left) = rest.split_at(cut.min(rest.len()));
            rest = left;
            let mut feed = decoder.feed(piece);
            while let Some(unit) = feed.next().unwrap() {
                prop_assert_eq!(Ok(unit), Unit::decode_datagram(&units[seen], &Limits::default()));
                seen += 1;
            }
        }
        prop_assert_eq!(seen, units.len());
        prop_assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn no_datagram_panics(bytes in vec(any::<u8>(), 0..300), first in prop::sample::select(vec![0x10u8, 0x1C, 0x1D, 0x1E, 0x1F, 0x45, 0x60])) {
        shared::datagram(&bytes);
        let mut likely = bytes;
        if let Some(byte) = likely.first_mut() {
            *byte = first;
        }
        shared::datagram(&likely);
    }

    #[test]
    fn a_damaged_message_is_decoded_or_refused(bytes in supply(), damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut wire = unit(&mut Source::new(&bytes));
        for (at, value) in damage {
            let at = at.index(wire.len());
            wire[at] = value;
        }
        shared::datagram(&wire);
        wire.insert(0, 0);
        shared::stream(&wire);
    }
}
