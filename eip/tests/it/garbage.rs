//! Noise: nothing panics, nothing grows.

use proptest::prelude::*;

use crate::fuzz;

/// A record of the `packet` target.
fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

/// Bytes that look like a header of either version with everything else random.
fn likely_packet() -> impl Strategy<Value = Vec<u8>> {
    let protocol = prop::sample::select(vec![17u8, 1, 58, 44, 60, 43, 0, 59, 6]);
    let rest = prop::collection::vec(any::<u8>(), 0..600);
    (any::<bool>(), protocol, any::<[u8; 2]>(), rest).prop_map(|(v6, protocol, flags, rest)| {
        let mut packet = if v6 {
            let mut packet = vec![0x60; 40];
            packet[6] = protocol;
            packet
        } else {
            let mut packet = vec![0x45; 20];
            packet[6..8].copy_from_slice(&flags);
            packet[9] = protocol;
            packet
        };
        packet.extend(rest);
        // Ports that somebody listens on, when it is UDP.
        if let Some(port) = packet.get_mut(if v6 { 42..44 } else { 22..24 }) {
            port.copy_from_slice(&[0, 9]);
        }
        packet
    })
}

proptest! {
    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        fuzz::packet(&bytes);
        fuzz::packet(&record(3, &bytes));
        fuzz::packet(&record(4, &bytes));
    }

    #[test]
    fn likely_packets_are_survived_within_the_limits(
        packets in prop::collection::vec((3u8..6, likely_packet()), 1..60),
    ) {
        let input: Vec<u8> = packets.iter().flat_map(|(kind, packet)| record(*kind, packet)).collect();
        fuzz::packet(&input);
    }
}
