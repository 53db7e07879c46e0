//! What a unit costs: `cargo bench -p tsc-tpl`.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tsc_tpl::{
    CmType, IpPacket, Ipv4Netmask, Limits, MessageBuilder, RedundancyEntry, RedundancyFrame,
    ResponseCode, ResumeKey, Seconds, Sequence, StreamDecoder, Tlv, Tsid, Unit,
};

const LIMITS: Limits = Limits::new(1400);
static KEY: [u8; 32] = [7; 32];

/// An inner UDP packet of 200 bytes: G.711 at 20 ms.
fn packet() -> Vec<u8> {
    let mut packet = vec![0; 200];
    packet.splice(..4, [0x45, 0, 0, 200]);
    packet.splice(8..10, [64, 17]);
    packet.splice(12..20, [10, 0, 0, 5, 10, 0, 0, 1]);
    packet.splice(20..24, [0x13, 0xC4, 0x13, 0xC4]);
    packet
}

/// What a server answers to a client that it takes in.
fn response() -> MessageBuilder<'static> {
    MessageBuilder::new(CmType::CONFIGURATION_RESPONSE, Tsid(1), Sequence(1)).tlvs([
        Tlv::ResponseCode(ResponseCode::SUCCESS),
        Tlv::ProtocolRevision(1),
        Tlv::InternalIpv4Address(Ipv4Addr::new(10, 0, 0, 5)),
        Tlv::InternalIpv4Netmask(Ipv4Netmask::new(24).unwrap()),
        Tlv::SipServerIpv4("10.0.0.1:5060".parse().unwrap()),
        Tlv::KeepaliveInterval(Seconds(50)),
        Tlv::PersistenceTime(Seconds(330)),
        Tlv::NatInfoIpv4("192.0.2.7:55555".parse().unwrap()),
        Tlv::ResumeKey(ResumeKey::new(&KEY)),
        Tlv::InnerMtu(1400),
    ])
}

fn control(c: &mut Criterion) {
    let mut wire = Vec::new();
    response().encode(&mut wire).unwrap();
    c.bench_function("control/frame", |b| {
        b.iter(|| Unit::decode_datagram(black_box(&wire), &LIMITS).is_ok());
    });
    c.bench_function("control/frame and parse", |b| {
        b.iter(|| match Unit::decode_datagram(black_box(&wire), &LIMITS) {
            Ok(Unit::Control(control)) => control.parse().unwrap().tlvs().len(),
            Ok(Unit::Ip(_) | Unit::Redundancy(_) | Unit::Reserved(_)) | Err(_) => 0,
        });
    });
    let mut out = Vec::with_capacity(4096);
    c.bench_function("control/build and encode", |b| {
        b.iter(|| {
            out.clear();
            response().encode(black_box(&mut out)).unwrap();
            out.len()
        });
    });
    let ready = response();
    c.bench_function("control/encode", |b| {
        b.iter(|| {
            out.clear();
            ready.encode(black_box(&mut out)).unwrap();
            out.len()
        });
    });
}

fn datagram(c: &mut Criterion) {
    let wire = packet();
    c.bench_function("datagram/ip, addresses and ports", |b| {
        b.iter(|| match Unit::decode_datagram(black_box(&wire), &LIMITS) {
            Ok(Unit::Ip(packet)) => Some((packet.source(), packet.destination(), packet.ports())),
            Ok(Unit::Control(_) | Unit::Redundancy(_) | Unit::Reserved(_)) | Err(_) => None,
        });
    });
    let packet = IpPacket::decode(&wire, &LIMITS).unwrap();
    let entries = [9, 8, 7].map(|sequence| RedundancyEntry {
        sequence: Sequence(sequence),
        packet,
    });
    let mut frame = Vec::new();
    RedundancyFrame::encode_datagram(&entries, &LIMITS, &mut frame).unwrap();
    c.bench_function("datagram/redundancy of 3, oldest first", |b| {
        b.iter(|| match Unit::decode_datagram(black_box(&frame), &LIMITS) {
            Ok(Unit::Redundancy(frame)) => {
                frame.entries().rev().map(|entry| entry.packet.len()).sum()
            }
            Ok(Unit::Ip(_) | Unit::Control(_) | Unit::Reserved(_)) | Err(_) => 0,
        });
    });
    let mut out = Vec::with_capacity(4096);
    c.bench_function("datagram/encode redundancy of 3", |b| {
        b.iter(|| {
            out.clear();
            RedundancyFrame::encode_datagram(black_box(&entries), &LIMITS, &mut out).unwrap();
            out.len()
        });
    });
}

fn stream(c: &mut Criterion) {
    const PACKETS: u64 = 80;
    let wire: Vec<u8> = std::iter::repeat_n(packet(), 80).flatten().collect();
    let mut group = c.benchmark_group("stream/200-byte packets");
    group.throughput(Throughput::Elements(PACKETS));
    // One read of all; reads that end inside packets; reads as small as a record of one packet.
    for (name, size) in [
        ("whole", 16_000),
        ("reads of 1448", 1448),
        ("reads of 199", 199),
    ] {
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || StreamDecoder::new(LIMITS),
                |decoder| {
                    let mut bytes = 0;
                    for chunk in wire.chunks(size) {
                        let mut feed = decoder.feed(black_box(chunk));
                        while let Ok(Some(unit)) = feed.next() {
                            bytes += unit.as_bytes().len();
                        }
                    }
                    assert_eq!(bytes, wire.len());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, control, datagram, stream);
criterion_main!(benches);
