//! Two stacks over any network: exactly what was sent, or nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use proptest::prelude::*;
use tsc_eip::{SendOptions, StackConfig};

use crate::fuzz;
use crate::support::{A4, A6, B4, B6, host, payloads, transmits};

fn versions(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        (A6.into(), B6.into())
    } else {
        (A4.into(), B4.into())
    }
}

proptest! {
    /// All operations in any order, on a network that does anything but alter packets.
    #[test]
    fn any_network_gives_the_sent_payload_or_nothing(ops in prop::collection::vec(any::<u8>(), 0..400)) {
        // Sockets to start with, else most operations do nothing.
        let mut input = vec![0x00, 2, 0x00, 3, 0x80, 2, 0x80, 3];
        input.extend(ops);
        fuzz::exchange(&input);
    }

    /// Without loss nothing is missing, whatever the order and however often a packet arrives.
    #[test]
    fn reordering_and_duplication_lose_nothing(
        v6: bool,
        mtu in 576u16..3000,
        lengths in prop::collection::vec(0usize..12_000, 1..6),
        order in prop::collection::vec(any::<prop::sample::Index>(), 200),
    ) {
        let now = Instant::now();
        let (from, to) = versions(v6);
        let config = StackConfig { mtu, ..StackConfig::default() };
        let mut alice = host(config.clone(), 1, &[from]);
        let mut bob = host(config, 2, &[to]);
        let sender = alice.udp_bind(SocketAddr::new(from, 1)).unwrap();
        let server = bob.udp_bind(SocketAddr::new(to, 9)).unwrap();
        let mut expected = BTreeSet::new();
        for (n, len) in lengths.iter().enumerate() {
            let payload: Vec<u8> = (0..*len).map(|at| (at * 7 + n * 101) as u8).collect();
            alice.udp_send_to(now, sender, SocketAddr::new(to, 9), &payload, &SendOptions::default()).unwrap();
            expected.insert(payload);
        }
        let mut packets = transmits(&mut alice);
        prop_assert!(packets.iter().all(|packet| packet.len() <= usize::from(mtu)));
        // Some twice, then any order.
        for index in order.iter().take(20) {
            packets.push(packets[index.index(packets.len())].clone());
        }
        for (n, index) in order.iter().enumerate().take(packets.len()) {
            let other = index.index(packets.len());
            packets.swap(n, other);
        }
        for packet in packets {
            bob.handle_packet(now, &packet);
        }
        let got: BTreeSet<Vec<u8>> = payloads(&mut bob, server).into_iter().collect();
        prop_assert_eq!(got, expected);
    }

    /// A router between may cut IPv4 packets again.
    #[test]
    fn fragments_of_fragments_are_put_together(
        len in 0usize..8000,
        second_mtu in 100usize..576,
        seed: u64,
    ) {
        let now = Instant::now();
        let (from, to) = versions(false);
        let mut alice = host(StackConfig::default(), seed, &[from]);
        let mut bob = host(StackConfig::default(), 2, &[to]);
        let sender = alice.udp_bind(SocketAddr::new(from, 1)).unwrap();
        let server = bob.udp_bind(SocketAddr::new(to, 9)).unwrap();
        let payload: Vec<u8> = (0..len).map(|at| ((at * 13) >> 2) as u8).collect();
        alice.udp_send_to(now, sender, SocketAddr::new(to, 9), &payload, &SendOptions::default()).unwrap();
        let cut: Vec<Vec<u8>> = transmits(&mut alice).iter().flat_map(|packet| cut_again(packet, second_mtu)).collect();
        let pieces = cut.len();
        for packet in cut {
            bob.handle_packet(now, &packet);
        }
        // Beyond 128 pieces the datagram is refused; see the limits.
        let expected = if pieces <= 128 { vec![payload] } else { vec![] };
        prop_assert_eq!(payloads(&mut bob, server), expected);
    }
}

/// What a router does to an IPv4 packet that does not fit its next link (RFC 791, section 3.2).
fn cut_again(packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    use crate::support::{Cut, ipv4};
    if packet.len() <= mtu {
        return vec![packet.to_vec()];
    }
    let id = u16::from_be_bytes([packet[4], packet[5]]);
    let flags = u16::from_be_bytes([packet[6], packet[7]]);
    let step = (mtu - 20) & !7;
    let payload = &packet[20..];
    payload
        .chunks(step)
        .enumerate()
        .map(|(n, piece)| {
            let cut = Cut {
                id: id.into(),
                offset: usize::from(flags & 0x1fff) * 8 + n * step,
                more: flags & 0x2000 != 0 || (n + 1) * step < payload.len(),
            };
            ipv4(A4, B4, 17, cut, piece)
        })
        .collect()
}
