//! Bytes to units.

use std::hint::black_box;

use anyhow::ensure;
use tsc_tpl::{Limits, StreamDecoder, Unit};

use super::{Operation, packet};

/// Inner packets as long as the default inner MTU allows.
const LIMITS: Limits = Limits::new(1400);

/// Packets in the prepared stream.
const PACKETS: u32 = 181;

/// What a TCP segment over Ethernet carries.
const PIECE: usize = 1448;

/// One datagram, from bytes to what the switch wants to know.
pub(super) struct Decode(Vec<u8>);

impl Decode {
    pub(super) fn new() -> Self {
        Self(packet([10, 0, 0, 5], [10, 0, 0, 1]))
    }
}

impl Operation for Decode {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        for _ in 0..count {
            let unit = Unit::decode_datagram(black_box(&self.0), &LIMITS)?;
            if let Unit::Ip(packet) = &unit {
                black_box((packet.source(), packet.destination(), packet.ports()));
            }
        }
        Ok(())
    }
}

/// Packets out of a stream. 181 of 200 bytes are 25 pieces of 1448: most pieces begin and end within a packet.
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) fn new() -> Self {
        let one = packet([10, 0, 0, 5], [10, 0, 0, 1]);
        Self(one.repeat(PACKETS as usize))
    }
}

impl Operation for Frame {
    fn run(&mut self, count: u32) -> anyhow::Result<()> {
        let mut left = count;
        let mut decoder = StreamDecoder::new(LIMITS);
        while left > 0 {
            let packets = left.min(PACKETS);
            let bytes = self.0.get(..packets as usize * 200).unwrap_or_default();
            let mut got = 0;
            for piece in bytes.chunks(PIECE) {
                let mut feed = decoder.feed(black_box(piece));
                while let Some(unit) = feed.next()? {
                    black_box(unit.as_bytes());
                    got += 1;
                }
            }
            ensure!(got == packets, "{got} packets came out of {packets}");
            left -= packets;
        }
        Ok(())
    }
}
