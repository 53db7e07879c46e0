//! What the fuzzers start from: one of each kind, and each kind of damage.

use crate::shared::generate::{self, Source};
use tsc_tpl::{
    CmType, IpPacket, Limits, MessageBuilder, RedundancyEntry, RedundancyFrame, ReservedFrame,
    ReservedKind, Sequence, StreamDecoder, StunKind, StunMessage, Tlv, Tsid, Unit, registry,
};

type Seed = (&'static str, String, Vec<u8>);

/// All seeds: target, file name, contents.
pub(crate) fn all() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let units = units();
    for (name, bytes) in &units {
        seeds.push(("datagram", name.clone(), bytes.clone()));
    }
    for (name, bytes) in damaged(&units) {
        seeds.push(("datagram", name, bytes));
    }
    // The first byte of a stream seed chooses limits, kind of decoder, and cuts.
    let on_streams: Vec<_> = units
        .iter()
        .filter(|(_, bytes)| fits_stream(bytes))
        .collect();
    for (at, group) in (0u8..).zip(on_streams.chunks(4)) {
        let bytes: Vec<_> = group.iter().flat_map(|(_, bytes)| bytes.clone()).collect();
        seeds.push((
            "stream",
            format!("units-{at:02}"),
            [&[at << 2], bytes.as_slice()].concat(),
        ));
    }
    for (name, bytes) in damaged(&units) {
        let (_, good) = &units[0];
        seeds.push((
            "stream",
            format!("request-then-{name}"),
            [&[0x22], good.as_slice(), &bytes].concat(),
        ));
    }
    for (name, bytes) in stun() {
        seeds.push(("stun", name, bytes));
    }
    for (name, bytes) in entropies() {
        seeds.push(("roundtrip", name, bytes));
    }
    seeds
}

fn fits_stream(bytes: &[u8]) -> bool {
    StreamDecoder::new(Limits::WIDEST)
        .feed(bytes)
        .next()
        .is_ok_and(|unit| unit.is_some())
}

/// Bytes that no one chose but that are always the same.
fn noise(mut seed: u32, len: usize) -> Vec<u8> {
    let step = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        seed.to_be_bytes()[0]
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// A message of each type that the generator makes, then packets and frames.
fn units() -> Vec<(String, Vec<u8>)> {
    let mut units = vec![(
        "control-configuration-request-padded".to_owned(),
        encode(
            &MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
                .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
                .pad_to(registry::MIN_UNAUTHENTICATED_REQUEST),
        ),
    )];
    for ty in CmType::ALL {
        // Two of each type, the shortest of some: for responses most likely a grant and a refusal.
        let mut found: Vec<Vec<u8>> = (0..400)
            .map(|seed| noise(seed, 900))
            .filter_map(|supply| {
                let builder = generate::message(&mut Source::new(&supply));
                (builder.header().cm_type == *ty).then(|| encode(&builder))
            })
            .collect();
        found.sort_by_key(Vec::len);
        let middle = found.len() / 2;
        for (at, bytes) in [found[0].clone(), found[middle].clone()]
            .into_iter()
            .enumerate()
        {
            units.push((format!("control-{:02}-{at}", ty.0), bytes));
        }
    }
    let mut probe = Vec::new();
    let builder = MessageBuilder::new(CmType::KEEPALIVE, Tsid(1), Sequence(1)).pad_to(1500);
    builder.encode_datagram(&mut probe).unwrap();
    units.push(("control-probe".to_owned(), probe));

    let udp4 = "4500001d00000000401100000a0000050a00000113c413c40009000000";
    let udp6 = "6000000000091140fd000000000000000000000000000005fd00000000000000000000000000000113c413c40009000000";
    let fragment6 = "6000000000102c40fd000000000000000000000000000005fd000000000000000000000000000001\
                     11000001000000010001020304050607";
    let options6 = "6000000000100040fd000000000000000000000000000005fd000000000000000000000000000001\
                    110001040000000013c413c400080000";
    let options4 = "4600001c00004000400600000a0000050a00000101010101aabbccdd";
    let packets = [
        ("udp4", udp4),
        ("udp6", udp6),
        ("fragment6", fragment6),
        ("options6", options6),
        ("options4", options4),
    ];
    let packets = packets.map(|(name, hex)| (name, unhex(hex)));
    let entry = |at: usize, sequence| RedundancyEntry {
        sequence: Sequence(sequence),
        packet: IpPacket::decode(&packets[at].1, &Limits::WIDEST).unwrap(),
    };
    for count in [1, 2, 9] {
        let entries: Vec<_> = (0..count)
            .map(|at| {
                entry(
                    at % packets.len(),
                    3u32.wrapping_sub(u32::try_from(at).unwrap()),
                )
            })
            .collect();
        let mut wire = Vec::new();
        RedundancyFrame::encode_datagram(&entries, &Limits::WIDEST, &mut wire).unwrap();
        units.push((format!("redundancy-{count}"), wire));
    }
    for (name, kind) in [
        ("compressed-short", ReservedKind::CompressedShort),
        ("compressed-long", ReservedKind::CompressedLong),
        ("extension", ReservedKind::Extension),
    ] {
        let mut wire = Vec::new();
        ReservedFrame::encode(kind, 3, &noise(9, 20), &Limits::WIDEST, &mut wire).unwrap();
        units.push((name.to_owned(), wire));
    }
    units.extend(packets.map(|(name, bytes)| (format!("ip-{name}"), bytes)));
    units
}

/// Units that must be refused, each in its own way.
fn damaged(units: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let message = |ty: u8, count: u16, tlvs: &str| {
        let mut wire = vec![0x10, ty];
        wire.extend(count.to_be_bytes());
        wire.extend([0xFF; 8]);
        wire.extend([0, 0, 0, 1]);
        wire.extend(unhex(tlvs));
        wire
    };
    let (_, whole) = units
        .iter()
        .find(|(name, _)| name == "control-02-1")
        .unwrap();
    let named = [
        ("bad-empty-message", message(1, 0, "")),
        ("bad-cut-message", whole[..whole.len() - 1].to_vec()),
        ("bad-count-over-64", message(1, 65, "")),
        ("bad-count-too-high", message(1, 2, "800500020001")),
        ("bad-tlv-length", message(1, 1, "8005ffff0001")),
        ("bad-revision-length", message(1, 1, "8005000101")),
        (
            "bad-revision-twice",
            message(1, 2, "800500020001800500020001"),
        ),
        ("bad-unknown-tlv", message(1, 2, "80050002000100630000")),
        ("bad-unexpected-tlv", message(7, 1, "001f000100")),
        (
            "bad-unpaired-address",
            message(2, 2, "000e00020000000100040a000001"),
        ),
        (
            "bad-tag-twice",
            message(
                1,
                3,
                &format!("80050002000100160010{0}00160010{0}", "11".repeat(16)),
            ),
        ),
        ("bad-unknown-type", message(13, 0, "")),
        ("bad-private-type", message(200, 0, "")),
        ("bad-netmask", message(2, 1, "00020004ff00ff00")),
        ("bad-text", message(5, 1, "80030002fffe")),
        ("bad-padding", message(7, 1, "8004000101")),
        ("bad-first-byte", vec![0xFF; 20]),
        (
            "bad-stun",
            unhex("000100002112a442000000000000000000000000"),
        ),
        ("bad-dtls", unhex("16fefd0000000000000000")),
        ("bad-ihl", unhex("440000140000000000000000")),
        ("bad-total-length", unhex("4500001300000000")),
        ("bad-mtu", unhex("4500ffff00000000")),
        ("bad-redundancy-count", unhex("1c00")),
        ("bad-redundancy-entry", unhex("1c010000000110")),
        ("bad-extension-length", unhex("1f00ffff00")),
    ];
    named.map(|(name, bytes)| (name.to_owned(), bytes)).to_vec()
}

/// Supplies for the generators: each builds something else.
fn entropies() -> Vec<(String, Vec<u8>)> {
    let mut supplies = vec![
        ("empty".to_owned(), Vec::new()),
        ("zeros".to_owned(), vec![0; 64]),
    ];
    for kind in 0..4u8 {
        for seed in 0..6u32 {
            let mut supply = noise(1000 + u32::from(kind) * 100 + seed, 300);
            supply[0] = kind;
            if kind >= 2 {
                // An inner MTU that lets most frames pass.
                supply[1..3].copy_from_slice(&[0x10, 0]);
            }
            supplies.push((
                format!(
                    "{}-{seed}",
                    ["message", "any-message", "redundancy", "reserved"][usize::from(kind)]
                ),
                supply,
            ));
        }
    }
    supplies
}

fn encode(builder: &MessageBuilder<'_>) -> Vec<u8> {
    let mut wire = Vec::new();
    builder.encode(&mut wire).unwrap();
    assert!(Unit::decode_datagram(&wire, &Limits::default()).is_ok());
    wire
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Binding messages, and what is nearly one.
fn stun() -> Vec<(String, Vec<u8>)> {
    let transaction = *b"transaction!";
    let v4 = "192.0.2.1:40000".parse().unwrap();
    let v6 = "[2001:db8::1]:40000".parse().unwrap();
    let kinds = [
        ("request", StunKind::Request),
        ("indication", StunKind::Indication),
        ("success-v4", StunKind::Success(v4)),
        ("success-v6", StunKind::Success(v6)),
    ];
    let mut seeds = Vec::new();
    for (name, kind) in kinds {
        for fingerprint in [true, false] {
            let message = StunMessage {
                kind,
                transaction,
                fingerprint,
            };
            let bytes = message.encode();
            let marked = if fingerprint { "marked" } else { "bare" };
            seeds.push((
                format!("{name}-{marked}-cut"),
                bytes[..bytes.len() - 3].to_vec(),
            ));
            seeds.push((format!("{name}-{marked}"), bytes));
        }
    }
    seeds
}
