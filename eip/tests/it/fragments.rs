//! Fragmentation and reassembly, both IP versions.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use tsc_eip::{SendOptions, Stack, StackConfig, UdpHandle};

use crate::support::{A4, A6, B4, B6, Cut, UDP, addr, host, packet, payloads, transmits, udp};

const VERSIONS: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(A4), IpAddr::V4(B4)),
    (IpAddr::V6(A6), IpAddr::V6(B6)),
];

struct Receiver {
    now: Instant,
    stack: Stack,
    handle: UdpHandle,
    from: SocketAddr,
    to: SocketAddr,
}

impl Receiver {
    fn new(config: StackConfig, from: IpAddr, to: IpAddr) -> Self {
        let mut stack = host(config, 1, &[to]);
        let to = SocketAddr::new(to, 9);
        Self {
            now: Instant::now(),
            handle: stack.udp_bind(to).unwrap(),
            stack,
            from: SocketAddr::new(from, 1),
            to,
        }
    }

    /// A datagram with this payload, UDP header included.
    fn message(&self, payload: &[u8]) -> Vec<u8> {
        udp(self.from, self.to, payload)
    }

    fn give(&mut self, id: u32, offset: usize, more: bool, piece: &[u8]) {
        let cut = Cut { id, offset, more };
        self.stack.handle_packet(
            self.now,
            &packet(self.from.ip(), self.to.ip(), UDP, Some(cut), piece),
        );
    }

    /// Gives bytes `range` of `message` as a fragment.
    fn give_range(&mut self, id: u32, message: &[u8], range: std::ops::Range<usize>) {
        self.give(id, range.start, range.end < message.len(), &message[range]);
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        payloads(&mut self.stack, self.handle)
    }
}

fn for_both(test: impl Fn(Receiver)) {
    for (from, to) in VERSIONS {
        test(Receiver::new(StackConfig::default(), from, to));
    }
}

#[test]
fn outgoing_fragments_fit_the_mtu_are_multiples_of_eight_and_share_an_identification() {
    let now = Instant::now();
    for (from, to) in VERSIONS {
        let mut alice = host(StackConfig::default(), 3, &[from]);
        let socket = alice.udp_bind(SocketAddr::new(from, 1)).unwrap();
        alice
            .udp_send_to(
                now,
                socket,
                SocketAddr::new(to, 9),
                &[9; 5000],
                &SendOptions::default(),
            )
            .unwrap();
        let packets = transmits(&mut alice);
        let (header, id, flags) = if from.is_ipv4() {
            (20, 4..6, 6..8)
        } else {
            (48, 44..48, 42..44)
        };
        let mut offset = 0;
        for (n, packet) in packets.iter().enumerate() {
            assert!(packet.len() <= 1400);
            assert_eq!(packet[id.clone()], packets[0][id.clone()]);
            let flags = u16::from_be_bytes([packet[flags.start], packet[flags.start + 1]]);
            let last = n + 1 == packets.len();
            let expected = if from.is_ipv4() {
                (offset / 8) | (u16::from(!last) << 13)
            } else {
                offset | u16::from(!last)
            };
            assert_eq!(flags, expected);
            let len = packet.len() - header;
            assert!(last || len % 8 == 0);
            offset += len as u16;
        }
        assert_eq!(offset, 5008);
        assert_eq!(packets.len(), 4);
        assert_eq!(alice.stats().fragmented, 1);
    }
}

#[test]
fn any_order_will_do() {
    for_both(|mut receiver| {
        let message = receiver.message(&[7; 1000]);
        let ranges = [0..400, 400..800, 800..message.len()];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            for index in order {
                receiver.give_range(1, &message, ranges[index].clone());
            }
            assert_eq!(receiver.received(), [vec![7; 1000]], "{order:?}");
        }
        assert_eq!(receiver.stack.stats().reassembled, 6);
        assert_eq!(receiver.stack.stats().gauges.reassembly_bytes, 0);
    });
}

#[test]
fn interleaved_datagrams_stay_apart() {
    for_both(|mut receiver| {
        let one = receiver.message(&[1; 800]);
        let two = receiver.message(&[2; 800]);
        for range in [0..400, 400..808] {
            receiver.give_range(1, &one, range.clone());
            receiver.give_range(2, &two, range);
        }
        assert_eq!(receiver.received(), [[1; 800], [2; 800]]);
    });
}

#[test]
fn exact_duplicates_are_harmless() {
    for_both(|mut receiver| {
        let message = receiver.message(&[7; 1000]);
        for range in [0..400, 0..400, 800..1008, 800..1008, 400..800] {
            receiver.give_range(1, &message, range);
        }
        assert_eq!(receiver.received(), [[7; 1000]]);
    });
}

#[test]
fn overlaps_and_contradictions_spoil_the_datagram_for_good() {
    type Pieces = &'static [(usize, usize, bool)];
    let cases: [(&str, Pieces); 8] = [
        ("starts inside", &[(0, 400, true), (392, 800, true)]),
        ("ends inside", &[(400, 800, true), (0, 408, true)]),
        ("covers", &[(400, 800, true), (392, 808, true)]),
        ("is covered", &[(0, 800, true), (400, 408, true)]),
        ("longer", &[(0, 400, true), (0, 408, true)]),
        ("beyond the end", &[(800, 1008, false), (1008, 1016, true)]),
        ("a second end", &[(800, 1008, false), (400, 800, false)]),
        (
            "an end before what is there",
            &[(800, 1008, true), (400, 800, false)],
        ),
    ];
    for (name, pieces) in cases {
        for_both(|mut receiver| {
            let mut message = receiver.message(&[7; 1000]);
            message.resize(2000, 7);
            for (start, end, more) in pieces.iter().copied() {
                receiver.give(1, start, more, &message[start..end]);
            }
            let stats = receiver.stack.stats();
            assert_eq!(stats.drops.fragments_refused, 1, "{name}");
            assert_eq!(stats.gauges.reassembly_bytes, 0, "{name}");
            // What follows of it is dropped too (RFC 5722), until the deadline.
            message.truncate(1008);
            for range in [0..400, 400..800, 800..1008] {
                receiver.give_range(1, &message, range);
            }
            assert_eq!(receiver.received(), Vec::<Vec<u8>>::new(), "{name}");
            receiver.now += Duration::from_secs(61);
            for range in [0..400, 400..800, 800..1008] {
                receiver.give_range(1, &message, range);
            }
            assert_eq!(receiver.received(), [[7; 1000]], "{name}");
            assert_eq!(receiver.stack.stats().drops.reassembly_timeout, 0, "{name}");
        });
    }
}

#[test]
fn a_duplicate_with_other_content_spoils_the_datagram() {
    for_both(|mut receiver| {
        let message = receiver.message(&[7; 1000]);
        receiver.give_range(1, &message, 400..800);
        receiver.give(1, 400, true, &[8; 400]);
        receiver.give_range(1, &message, 0..400);
        receiver.give_range(1, &message, 800..1008);
        assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
        assert_eq!(receiver.stack.stats().drops.fragments_refused, 1);
    });
}

#[test]
fn impossible_fragments_are_dropped_alone() {
    for_both(|mut receiver| {
        let message = receiver.message(&[7; 1000]);
        receiver.give(1, 0, true, &[]);
        receiver.give(1, 8, false, &[]);
        receiver.give(1, 8, true, &[0; 9]);
        receiver.give(1, 65_528, false, &[0; 100]);
        assert_eq!(receiver.stack.stats().drops.malformed, 3);
        assert_eq!(receiver.stack.stats().gauges.reassembly_bytes, 0);
        receiver.give_range(2, &message, 0..400);
        receiver.give(2, 400, true, &[0; 9]);
        receiver.give_range(2, &message, 400..1008);
        assert_eq!(receiver.received(), [[7; 1000]]);
    });
}

#[test]
fn too_many_tiny_fragments_spoil_the_datagram() {
    for_both(|mut receiver| {
        let message = receiver.message(&[7; 8 * 128]);
        for start in (0..message.len()).step_by(8) {
            receiver.give_range(1, &message, start..start + 8);
        }
        assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
        assert_eq!(receiver.stack.stats().drops.fragments_refused, 1);
        assert_eq!(receiver.stack.stats().gauges.reassembly_bytes, 0);
    });
}

#[test]
fn incomplete_datagrams_are_given_up_in_time() {
    for ((from, to), seconds) in VERSIONS.into_iter().zip([30, 60]) {
        let mut receiver = Receiver::new(StackConfig::default(), from, to);
        let message = receiver.message(&[7; 1000]);
        assert_eq!(receiver.stack.poll_timeout(), None);
        receiver.give_range(1, &message, 0..400);
        let deadline = receiver.now + Duration::from_secs(seconds);
        assert_eq!(receiver.stack.poll_timeout(), Some(deadline));
        receiver.now += Duration::from_secs(5);
        receiver.give_range(1, &message, 400..800);
        receiver.give_range(2, &message, 0..400);
        assert_eq!(
            receiver.stack.poll_timeout(),
            Some(deadline),
            "a fragment does not prolong"
        );

        receiver
            .stack
            .handle_timeout(deadline - Duration::from_millis(1));
        assert_eq!(receiver.stack.stats().gauges.reassembly_datagrams, 2);
        receiver.stack.handle_timeout(deadline);
        assert_eq!(receiver.stack.stats().gauges.reassembly_datagrams, 1);
        assert_eq!(
            receiver.stack.poll_timeout(),
            Some(deadline + Duration::from_secs(5))
        );
        assert_eq!(receiver.stack.stats().drops.reassembly_timeout, 1);
        receiver.now = deadline;
        receiver.give_range(1, &message, 800..1008);
        assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn the_oldest_datagram_makes_room() {
    let config = StackConfig {
        reassembly_datagrams: 2,
        ..StackConfig::default()
    };
    for (from, to) in VERSIONS {
        let mut receiver = Receiver::new(config.clone(), from, to);
        let message = receiver.message(&[7; 1000]);
        for id in [1, 2, 3] {
            receiver.give_range(id, &message, 0..400);
        }
        assert_eq!(receiver.stack.stats().drops.reassembly_full, 1);
        assert_eq!(receiver.stack.stats().gauges.reassembly_datagrams, 2);
        receiver.give_range(2, &message, 400..1008);
        receiver.give_range(3, &message, 400..1008);
        assert_eq!(receiver.received().len(), 2);
    }
}

#[test]
fn bytes_in_reassembly_are_bounded() {
    let config = StackConfig {
        reassembly_bytes: 2000,
        ..StackConfig::default()
    };
    for (from, to) in VERSIONS {
        let mut receiver = Receiver::new(config.clone(), from, to);
        let message = receiver.message(&[7; 3000]);
        for id in 0..20 {
            receiver.give_range(id, &message, 0..800);
            assert!(receiver.stack.stats().gauges.reassembly_bytes <= 2000);
        }
        // Alone it is too long as well, and takes nothing with it in the end.
        for start in [0, 800, 1600] {
            receiver.give_range(99, &message, start..start + 800);
        }
        assert!(receiver.stack.stats().gauges.reassembly_bytes <= 2000);
        let small = receiver.message(&[8; 1000]);
        receiver.give_range(100, &small, 0..504);
        receiver.give_range(100, &small, 504..1008);
        assert_eq!(receiver.received(), [[8; 1000]]);
    }
}

#[test]
fn only_what_is_stored_pushes_others_out() {
    let config = StackConfig {
        reassembly_bytes: 2000,
        ..StackConfig::default()
    };
    for (from, to) in VERSIONS {
        let mut receiver = Receiver::new(config.clone(), from, to);
        let message = receiver.message(&[7; 1592]);
        receiver.give_range(1, &message, 0..1200);
        let other = receiver.message(&[8; 792]);
        receiver.give_range(2, &other, 0..400);
        receiver.give_range(2, &other, 392..792);
        assert_eq!(receiver.stack.stats().drops.fragments_refused, 1);
        receiver.give_range(3, &other, 0..800 - 8);
        for _ in 0..3 {
            // More of the spoilt one, duplicates, and a piece larger than all memory.
            receiver.give_range(2, &other, 400..800);
            receiver.give_range(3, &other, 0..800 - 8);
            receiver.give(4, 0, true, &receiver.message(&[0; 4000])[..3200]);
        }
        assert_eq!(receiver.stack.stats().gauges.reassembly_bytes, 1992);
        receiver.give_range(3, &other, 792..800);
        receiver.give_range(1, &message, 1200..1600);
        assert_eq!(receiver.received(), [vec![8; 792], vec![7; 1592]]);
    }
}

#[test]
fn fragments_can_be_refused_altogether() {
    let config = StackConfig {
        reassembly_datagrams: 0,
        ..StackConfig::default()
    };
    let mut receiver = Receiver::new(config, A4.into(), B4.into());
    let message = receiver.message(&[7; 1000]);
    receiver.give_range(1, &message, 0..504);
    receiver.give_range(1, &message, 504..1008);
    assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
    assert_eq!(receiver.stack.stats().gauges.reassembly_datagrams, 0);
}

#[test]
fn a_reassembled_datagram_is_checked_like_any_other() {
    for_both(|mut receiver| {
        let mut message = receiver.message(&[7; 1000]);
        message[500] ^= 1;
        receiver.give_range(1, &message, 0..504);
        receiver.give_range(1, &message, 504..1008);
        assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
        assert_eq!(receiver.stack.stats().drops.checksum, 1);
    });
}

#[test]
fn ipv4_keeps_protocols_apart() {
    let mut receiver = Receiver::new(StackConfig::default(), A4.into(), B4.into());
    let message = receiver.message(&[7; 1000]);
    let foreign = packet(
        A4.into(),
        B4.into(),
        1,
        Some(Cut {
            id: 1,
            offset: 504,
            more: false,
        }),
        &message[504..],
    );
    receiver.give_range(1, &message, 0..504);
    receiver.stack.handle_packet(receiver.now, &foreign);
    assert_eq!(receiver.received(), Vec::<Vec<u8>>::new());
    receiver.give_range(1, &message, 504..1008);
    assert_eq!(receiver.received(), [[7; 1000]]);
    assert_eq!(
        receiver.stack.udp_local_addr(receiver.handle),
        Some(addr("10.0.0.2:9"))
    );
}
