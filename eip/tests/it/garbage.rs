//! Noise: nothing panics, nothing grows.

use std::time::Instant;

use proptest::prelude::*;

use crate::fuzz;
use crate::support::*;

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

/// Packets without payload, and IPv6 jumbograms (RFC 2675: no payload length, the true one in an
/// option), which no tunnel carries.
#[test]
fn empty_and_jumbo_packets_are_dropped() {
    let now = Instant::now();
    let mut stack = alice();
    for protocol in [UDP, 6, ICMP, ICMPV6, 44] {
        stack.handle_packet(now, &packet(B4.into(), A4.into(), protocol, None, &[]));
        stack.handle_packet(now, &packet(B6.into(), A6.into(), protocol, None, &[]));
    }
    for len in [0u32, 65_536, 100_000, u32::MAX] {
        let mut payload = vec![UDP, 0, 0xc2, 4];
        payload.extend(len.to_be_bytes());
        payload.extend([0x5a; 70_000]);
        let mut jumbo = ipv6(B6, A6, 0, &[]);
        jumbo.extend(payload);
        stack.handle_packet(now, &jumbo);
    }
    assert!(events(&mut stack).is_empty());
    let stats = stack.stats();
    assert_eq!(stats.datagrams_in, 0);
    assert_eq!(stats.gauges.reassembly_bytes, 0);
    assert_eq!(stats.packets_in, 14);
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
