//! ICMP and ICMPv6: answers, errors, path MTU.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable, Icmpv6Packet, Icmpv6Repr,
};
use tsc_eip::{RecvError, SendOptions, Stack, StackConfig};

use crate::support::{
    A4, A6, B4, B6, Cut, ICMP, ICMPV6, UDP, addr, alice, bob, host, icmp, packet, payloads, pump,
    recv, transmits, udp, udp_packet,
};

const VERSIONS: [(IpAddr, IpAddr, u8, usize); 2] = [
    (IpAddr::V4(A4), IpAddr::V4(B4), ICMP, 20),
    (IpAddr::V6(A6), IpAddr::V6(B6), ICMPV6, 40),
];

const fn echo_request(protocol: u8) -> [u8; 8] {
    [
        if protocol == ICMP { 8 } else { 128 },
        0,
        0,
        0,
        0x12,
        0x34,
        0,
        7,
    ]
}

#[test]
fn echo_is_answered_with_the_same_data() {
    let now = Instant::now();
    let mut bob = bob();
    for (from, to, protocol, header_len) in VERSIONS {
        let request = icmp(from, to, echo_request(protocol), b"are you there?");
        bob.handle_packet(now, &packet(from, to, protocol, None, &request));
        let reply = bob.poll_transmit().unwrap();
        let mut head = echo_request(protocol);
        head[0] = if protocol == ICMP { 0 } else { 129 };
        let expected = icmp(to, from, head, b"are you there?");
        assert_eq!(reply[header_len..], expected);
        assert!(bob.poll_transmit().is_none());
    }
    assert_eq!(bob.stats().echo_replies, 2);
}

#[test]
fn a_long_echo_is_reassembled_and_answered_in_fragments() {
    let now = Instant::now();
    let mut bob = bob();
    for (from, to, protocol, _) in VERSIONS {
        let request = icmp(from, to, echo_request(protocol), &[7; 3992]);
        for (n, piece) in request.chunks(1000).enumerate() {
            let cut = Cut {
                id: 9,
                offset: n * 1000,
                more: n < 3,
            };
            bob.handle_packet(now, &packet(from, to, protocol, Some(cut), piece));
        }
        let replies = transmits(&mut bob);
        assert_eq!(replies.len(), 3);
        assert!(replies.iter().all(|reply| reply.len() <= 1400));
    }
}

#[test]
fn answers_are_rate_limited_and_the_limit_recovers() {
    let now = Instant::now();
    let config = StackConfig {
        echo_replies_per_second: 5,
        icmp_errors_per_second: 3,
        ..StackConfig::default()
    };
    let mut bob = host(config, 1, &[B4.into(), B6.into()]);
    for (from, to, protocol, _) in VERSIONS {
        let request = icmp(from, to, echo_request(protocol), b"");
        let closed = udp_packet(SocketAddr::new(from, 1), SocketAddr::new(to, 9), b"");
        for _ in 0..10 {
            bob.handle_packet(now, &packet(from, to, protocol, None, &request));
            bob.handle_packet(now, &closed);
        }
    }
    assert_eq!(transmits(&mut bob).len(), 5 + 3);
    assert_eq!(bob.stats().drops.icmp_rate_limited, 15 + 17);
    let (from, to, ..) = VERSIONS[0];
    let closed = udp_packet(SocketAddr::new(from, 1), SocketAddr::new(to, 9), b"");
    bob.handle_packet(now + Duration::from_secs(1), &closed);
    assert_eq!(transmits(&mut bob).len(), 1);
}

#[test]
fn port_unreachable_quotes_the_packet_as_smoltcp_understands() {
    let now = Instant::now();
    let mut bob = bob();
    let caps = ChecksumCapabilities::default();
    let closed = udp_packet(addr("10.0.0.1:1000"), addr("10.0.0.2:9"), b"hello");
    bob.handle_packet(now, &closed);
    let answer = bob.poll_transmit().unwrap();
    let parsed =
        Icmpv4Repr::parse(&Icmpv4Packet::new_checked(&answer[20..]).unwrap(), &caps).unwrap();
    let Icmpv4Repr::DstUnreachable {
        reason,
        header,
        data,
    } = parsed
    else {
        panic!("{parsed:?}");
    };
    assert_eq!(reason, Icmpv4DstUnreachable::PortUnreachable);
    assert_eq!((header.src_addr, header.dst_addr), (A4, B4));
    assert_eq!(data, &closed[20..]);
    assert_eq!(
        (&answer[12..16], &answer[16..20]),
        (&B4.octets()[..], &A4.octets()[..])
    );

    let closed = udp_packet(
        addr("[2001:db8::1]:1000"),
        addr("[2001:db8::2]:9"),
        b"hello",
    );
    bob.handle_packet(now, &closed);
    let answer = bob.poll_transmit().unwrap();
    let parsed = Icmpv6Repr::parse(
        &B6,
        &A6,
        &Icmpv6Packet::new_checked(&answer[40..]).unwrap(),
        &caps,
    )
    .unwrap();
    let Icmpv6Repr::DstUnreachable {
        reason,
        header,
        data,
    } = parsed
    else {
        panic!("{parsed:?}");
    };
    assert_eq!(reason, Icmpv6DstUnreachable::PortUnreachable);
    assert_eq!((header.src_addr, header.dst_addr), (A6, B6));
    assert_eq!(data, &closed[40..]);
}

#[test]
fn errors_are_no_longer_than_every_path_carries() {
    let now = Instant::now();
    let mut bob = bob();
    for (from, to, _, _) in VERSIONS {
        bob.handle_packet(
            now,
            &udp_packet(SocketAddr::new(from, 1), SocketAddr::new(to, 9), &[0; 8000]),
        );
    }
    let lengths: Vec<_> = transmits(&mut bob).iter().map(Vec::len).collect();
    assert_eq!(lengths, [576, 1280]);
}

#[test]
fn a_refused_peer_is_reported_to_the_connected_socket_only() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    for (from, to, ..) in VERSIONS {
        let connected = alice.udp_bind(SocketAddr::new(from, 1000)).unwrap();
        let unconnected = alice.udp_bind(SocketAddr::new(from, 1001)).unwrap();
        let peer = SocketAddr::new(to, 9);
        alice.udp_connect(connected, peer).unwrap();
        alice
            .udp_send(now, connected, b"x", &SendOptions::default())
            .unwrap();
        alice
            .udp_send_to(now, unconnected, peer, b"x", &SendOptions::default())
            .unwrap();
        pump(now, &mut alice, &mut bob);
        assert_eq!(
            recv(&mut alice, connected),
            Some(Err(RecvError::PortUnreachable))
        );
        assert_eq!(recv(&mut alice, connected), None);
        assert_eq!(recv(&mut alice, unconnected), None);
        assert_eq!(alice.udp_stats(unconnected).unwrap().icmp_errors, 1);
    }
    assert_eq!(alice.stats().icmp_errors_in, 4);
}

/// Sends a datagram from a connected socket and answers it with `head`.
fn answered_with(from: IpAddr, to: IpAddr, protocol: u8, head: [u8; 8]) -> Option<RecvError> {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(SocketAddr::new(from, 1000)).unwrap();
    alice.udp_connect(socket, SocketAddr::new(to, 9)).unwrap();
    alice
        .udp_send(now, socket, &[0; 100], &SendOptions::default())
        .unwrap();
    let sent = alice.poll_transmit().unwrap();
    // Routers may quote no more than the header and eight bytes.
    let quote = &sent[..if protocol == ICMP { 28 } else { 48 }];
    alice.handle_packet(
        now,
        &packet(to, from, protocol, None, &icmp(to, from, head, quote)),
    );
    recv(&mut alice, socket).map(|result| result.unwrap_err())
}

#[test]
fn each_kind_of_error_has_its_name() {
    let table = [
        (ICMP, 3, 0, Some(RecvError::Unreachable)),
        (ICMP, 3, 1, Some(RecvError::Unreachable)),
        (ICMP, 3, 2, Some(RecvError::PortUnreachable)),
        (ICMP, 3, 3, Some(RecvError::PortUnreachable)),
        (ICMP, 3, 9, Some(RecvError::Prohibited)),
        (ICMP, 3, 10, Some(RecvError::Prohibited)),
        (ICMP, 3, 13, Some(RecvError::Prohibited)),
        (ICMP, 3, 200, Some(RecvError::Unreachable)),
        (ICMP, 11, 0, Some(RecvError::TimeExceeded)),
        (ICMP, 4, 0, None),
        (ICMP, 5, 0, None),
        (ICMP, 12, 0, None),
        (ICMPV6, 1, 0, Some(RecvError::Unreachable)),
        (ICMPV6, 1, 1, Some(RecvError::Prohibited)),
        (ICMPV6, 1, 3, Some(RecvError::Unreachable)),
        (ICMPV6, 1, 4, Some(RecvError::PortUnreachable)),
        (ICMPV6, 1, 5, Some(RecvError::Prohibited)),
        (ICMPV6, 3, 0, Some(RecvError::TimeExceeded)),
        (ICMPV6, 4, 1, Some(RecvError::PortUnreachable)),
        (ICMPV6, 4, 0, None),
        (ICMPV6, 137, 0, None),
    ];
    for (protocol, kind, code, expected) in table {
        let (from, to, ..) = VERSIONS[usize::from(protocol == ICMPV6)];
        let head = [kind, code, 0, 0, 0, 0, 0, 0];
        assert_eq!(
            answered_with(from, to, protocol, head),
            expected,
            "{protocol} type {kind} code {code}"
        );
    }
}

#[test]
fn errors_about_what_was_not_sent_are_ignored() {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(addr("0.0.0.0:1000")).unwrap();
    alice.udp_connect(socket, addr("10.0.0.2:9")).unwrap();
    let report = |alice: &mut Stack, quote: &[u8]| {
        let message = icmp(B4.into(), A4.into(), [3, 3, 0, 0, 0, 0, 0, 0], quote);
        alice.handle_packet(now, &packet(B4.into(), A4.into(), ICMP, None, &message));
    };
    let real = udp_packet(addr("10.0.0.1:1000"), addr("10.0.0.2:9"), b"x");
    let later_fragment = packet(
        A4.into(),
        B4.into(),
        UDP,
        Some(Cut {
            id: 1,
            offset: 8,
            more: false,
        }),
        &real[20..],
    );
    for quote in [
        udp_packet(addr("10.0.0.1:1001"), addr("10.0.0.2:9"), b"other socket"),
        udp_packet(addr("10.0.0.1:1000"), addr("10.0.0.2:10"), b"other peer"),
        udp_packet(
            addr("10.0.0.9:1000"),
            addr("10.0.0.2:9"),
            b"not our address",
        ),
        udp_packet(
            addr("[2001:db8::1]:1000"),
            addr("[2001:db8::2]:9"),
            b"other version",
        ),
        packet(A4.into(), B4.into(), 6, None, &real[20..]),
        later_fragment,
        real[..27].to_vec(),
        Vec::new(),
    ] {
        report(&mut alice, &quote);
        assert_eq!(recv(&mut alice, socket), None);
    }
    assert_eq!(alice.stats().drops.icmp_ignored, 8);
    report(&mut alice, &real);
    assert!(recv(&mut alice, socket).is_some());
}

#[test]
fn no_error_answers_an_error_or_a_later_fragment_or_a_bad_checksum() {
    let now = Instant::now();
    let mut bob = bob();
    for (from, to, protocol, header_len) in VERSIONS {
        let (sender, closed) = (SocketAddr::new(from, 1), SocketAddr::new(to, 9));
        let quote = udp_packet(closed, sender, b"x");
        let head = if protocol == ICMP {
            [3, 3, 0, 0, 0, 0, 0, 0]
        } else {
            [1, 4, 0, 0, 0, 0, 0, 0]
        };
        bob.handle_packet(
            now,
            &packet(from, to, protocol, None, &icmp(from, to, head, &quote)),
        );
        let cut = Cut {
            id: 1,
            offset: 8,
            more: false,
        };
        bob.handle_packet(
            now,
            &packet(from, to, UDP, Some(cut), &udp(sender, closed, b"x")),
        );
        let mut broken = udp_packet(sender, closed, b"x");
        broken[header_len + 6] ^= 1;
        bob.handle_packet(now, &broken);
    }
    assert_eq!(transmits(&mut bob), Vec::<Vec<u8>>::new());
    assert_eq!(bob.stats().drops.checksum, 2);
}

#[test]
fn a_first_fragment_for_a_closed_port_is_answered_and_the_rest_costs_nothing() {
    let now = Instant::now();
    let mut bob = bob();
    for (from, to, _, header_len) in VERSIONS {
        let message = udp(SocketAddr::new(from, 1), SocketAddr::new(to, 9), &[0; 1592]);
        for (n, piece) in message.chunks(800).enumerate() {
            let cut = Cut {
                id: 3,
                offset: n * 800,
                more: n == 0,
            };
            bob.handle_packet(now, &packet(from, to, UDP, Some(cut), piece));
        }
        let answers = transmits(&mut bob);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][header_len], if header_len == 20 { 3 } else { 1 });
        assert_eq!(bob.stats().gauges.reassembly_bytes, 0);
    }
}

#[test]
fn an_unknown_protocol_is_refused_by_name() {
    let now = Instant::now();
    let mut bob = bob();
    bob.handle_packet(now, &packet(A4.into(), B4.into(), 132, None, &[0; 20]));
    let answer = bob.poll_transmit().unwrap();
    assert_eq!(answer[20..22], [3, 2]);
    bob.handle_packet(now, &packet(A6.into(), B6.into(), 132, None, &[0; 20]));
    let answer = bob.poll_transmit().unwrap();
    assert_eq!(answer[40..42], [4, 1]);
    assert_eq!(
        answer[44..48],
        [0, 0, 0, 6],
        "pointer to the next-header field"
    );
    assert_eq!(bob.stats().drops.protocol, 2);
    bob.handle_packet(now, &packet(A6.into(), B6.into(), 59, None, &[]));
    assert!(bob.poll_transmit().is_none(), "no next header is no error");
    assert_eq!(bob.stats().drops.protocol, 3);
}

/// Tells `alice` that `sent` met a link that carries `mtu`.
fn too_big(now: Instant, alice: &mut Stack, mtu: u32, sent: &[u8]) {
    let (from, to, protocol, _) = VERSIONS[usize::from(sent[0] >> 4 == 6)];
    let [a, b, c, d] = mtu.to_be_bytes();
    let head = if protocol == ICMP {
        [3, 4, 0, 0, 0, 0, c, d]
    } else {
        [2, 0, 0, 0, a, b, c, d]
    };
    let quote = &sent[..sent.len().min(500)];
    alice.handle_packet(
        now,
        &packet(to, from, protocol, None, &icmp(to, from, head, quote)),
    );
}

#[test]
fn too_big_lowers_the_path_mtu_for_ten_minutes_and_datagrams_follow() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    for (from, to, ..) in VERSIONS {
        let socket = alice.udp_bind(SocketAddr::new(from, 1000)).unwrap();
        let server = bob.udp_bind(SocketAddr::new(to, 9)).unwrap();
        let payload = vec![5; 1340];
        let send = |alice: &mut Stack, now| {
            alice
                .udp_send_to(
                    now,
                    socket,
                    SocketAddr::new(to, 9),
                    &payload,
                    &SendOptions::default(),
                )
                .unwrap();
            transmits(alice)
        };
        let sent = send(&mut alice, now);
        assert_eq!(sent.len(), 1);
        too_big(now, &mut alice, 1280, &sent[0]);
        assert_eq!(alice.path_mtu(now, to), 1280);
        let pieces = send(&mut alice, now);
        assert_eq!(pieces.len(), 2);
        assert!(pieces.iter().all(|piece| piece.len() <= 1280));
        for piece in pieces {
            bob.handle_packet(now, &piece);
        }
        assert_eq!(payloads(&mut bob, server), std::slice::from_ref(&payload));
        let later = now + Duration::from_secs(600);
        assert_eq!(send(&mut alice, later).len(), 1);
    }
    assert_eq!(alice.stats().path_mtu_updates, 2);
}

#[test]
fn a_too_big_that_makes_no_sense_changes_nothing() {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(SocketAddr::new(A6.into(), 1000)).unwrap();
    alice
        .udp_send_to(
            now,
            socket,
            SocketAddr::new(B6.into(), 9),
            &[0; 1340],
            &SendOptions::default(),
        )
        .unwrap();
    let sent = alice.poll_transmit().unwrap();
    too_big(now, &mut alice, 1279, &sent);
    too_big(now, &mut alice, 1388, &sent);
    let strange = udp_packet(
        SocketAddr::new(A6.into(), 1001),
        SocketAddr::new(B6.into(), 9),
        &[0; 1340],
    );
    too_big(now, &mut alice, 1300, &strange);
    assert_eq!(alice.path_mtu(now, B6.into()), 1400);
    assert_eq!(alice.stats().path_mtu_updates, 0);
    too_big(now, &mut alice, 1387, &sent);
    assert_eq!(alice.path_mtu(now, B6.into()), 1387);
}
