//! IPv6 extension headers: what is skipped, what is answered, what is only dropped.

use std::net::SocketAddr;
use std::time::Instant;

use tsc_eip::{Stack, UdpHandle};

use crate::support::{A6, B6, Cut, bob, fragment_header, icmp, ipv6, payloads, transmits, udp};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const OPTIONS: u8 = 60;

fn message() -> Vec<u8> {
    udp(
        SocketAddr::new(A6.into(), 1),
        SocketAddr::new(B6.into(), 9),
        b"payload",
    )
}

/// An extension header with `body` (6 bytes plus a multiple of 8) before `rest`.
fn before(next: u8, body: &[u8], rest: &[u8]) -> Vec<u8> {
    assert_eq!(body.len() % 8, 6);
    [&[next, (body.len() / 8) as u8], body, rest].concat()
}

fn server() -> (Stack, UdpHandle) {
    let mut bob = bob();
    let handle = bob.udp_bind(SocketAddr::new(B6.into(), 9)).unwrap();
    (bob, handle)
}

/// Payloads delivered and packets sent after a packet with this chain.
fn outcome(first: u8, chain: &[u8]) -> (usize, Vec<Vec<u8>>) {
    let (mut bob, handle) = server();
    bob.handle_packet(Instant::now(), &ipv6(A6, B6, first, chain));
    (payloads(&mut bob, handle).len(), transmits(&mut bob))
}

const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];

#[test]
fn known_headers_in_any_sensible_order_are_skipped() {
    let chain = before(17, &[0; 6], &message());
    let chain = before(OPTIONS, &[1, 0, 0, 0, 0, 0], &chain);
    let chain = before(ROUTING, &[5, 2, 0, 0, 1, 0], &chain);
    assert_eq!(outcome(HOP_BY_HOP, &chain).0, 1);
    let long = [&[1, 12][..], &[0; 12]].concat();
    assert_eq!(outcome(OPTIONS, &before(17, &long, &message())).0, 1);
}

#[test]
fn an_atomic_fragment_is_a_whole_datagram() {
    let chain = fragment_header(17, Cut::default(), &message());
    assert_eq!(outcome(44, &chain).0, 1);
}

#[test]
fn unknown_options_do_what_their_type_says() {
    let with = |kind: u8| outcome(OPTIONS, &before(17, &[1, 0, kind, 2, 0, 0], &message()));
    assert_eq!(with(0x1e), (1, vec![]), "skip");
    assert_eq!(with(0x5e), (0, vec![]), "discard");
    for kind in [0x9e, 0xde] {
        let (delivered, answers) = with(kind);
        assert_eq!(delivered, 0);
        assert_eq!(answers[0][40..42], [4, 2]);
        assert_eq!(answers[0][44..48], [0, 0, 0, 44], "pointer to the option");
    }
}

#[test]
fn a_parameter_problem_never_answers_an_error() {
    let error = icmp(A6.into(), B6.into(), [1, 4, 0, 0, 0, 0, 0, 0], &[0; 48]);
    let echo = icmp(A6.into(), B6.into(), [128, 0, 0, 0, 0, 0, 0, 0], &[]);
    let strange = [1, 0, 0x9e, 2, 0, 0];
    assert_eq!(outcome(OPTIONS, &before(58, &strange, &error)).1.len(), 0);
    assert_eq!(outcome(OPTIONS, &before(58, &strange, &echo)).1.len(), 1);
}

#[test]
fn hop_by_hop_comes_first_or_not_at_all() {
    let chain = before(HOP_BY_HOP, &PAD, &before(17, &PAD, &message()));
    let (delivered, answers) = outcome(OPTIONS, &chain);
    assert_eq!(delivered, 0);
    assert_eq!(answers[0][40..42], [4, 1]);
    assert_eq!(answers[0][44..48], [0, 0, 0, 40]);
}

#[test]
fn a_route_that_does_not_end_here_is_refused() {
    let (delivered, answers) = outcome(ROUTING, &before(17, &[0, 1, 0, 0, 0, 0], &message()));
    assert_eq!(delivered, 0);
    assert_eq!(answers[0][40..42], [4, 0]);
    assert_eq!(answers[0][44..48], [0, 0, 0, 42]);
}

#[test]
fn long_and_truncated_chains_are_dropped_in_silence() {
    let mut chain = message();
    let mut next = 17;
    for _ in 0..8 {
        chain = before(next, &PAD, &chain);
        next = OPTIONS;
    }
    assert_eq!(outcome(OPTIONS, &chain).0, 1, "eight headers are the limit");
    let nine = before(OPTIONS, &PAD, &chain);
    assert_eq!(outcome(OPTIONS, &nine), (0, vec![]));
    for len in 0..8 {
        assert_eq!(outcome(OPTIONS, &before(17, &PAD, &[])[..len]), (0, vec![]));
    }
    assert_eq!(outcome(OPTIONS, &[17, 255, 1, 4, 0, 0, 0, 0]), (0, vec![]));
    assert_eq!(
        outcome(OPTIONS, &before(17, &[1, 200, 0, 0, 0, 0], &message())),
        (0, vec![])
    );
}

#[test]
fn a_datagram_with_options_behind_the_fragment_header_is_put_together() {
    let (mut bob, handle) = server();
    let now = Instant::now();
    let whole = before(17, &PAD, &message());
    let (left, right) = whole.split_at(16);
    let first = Cut {
        id: 5,
        offset: 0,
        more: true,
    };
    let second = Cut {
        id: 5,
        offset: 16,
        more: false,
    };
    bob.handle_packet(
        now,
        &ipv6(A6, B6, 44, &fragment_header(OPTIONS, second, right)),
    );
    bob.handle_packet(
        now,
        &ipv6(A6, B6, 44, &fragment_header(OPTIONS, first, left)),
    );
    assert_eq!(payloads(&mut bob, handle), [b"payload"]);
}

#[test]
fn a_first_fragment_without_all_headers_spoils_its_datagram() {
    let (mut bob, handle) = server();
    let now = Instant::now();
    let whole = before(17, &PAD, &message());
    // Eight bytes: the options header alone (RFC 7112).
    let (left, right) = whole.split_at(8);
    for (piece, offset, more) in [(left, 0, true), (right, 8, false)] {
        let cut = Cut {
            id: 6,
            offset,
            more,
        };
        bob.handle_packet(
            now,
            &ipv6(A6, B6, 44, &fragment_header(OPTIONS, cut, piece)),
        );
    }
    // And one that hides a second fragment header.
    let nested = fragment_header(17, Cut::default(), &message());
    let (left, right) = nested.split_at(16);
    for (piece, offset, more) in [(left, 0, true), (right, 16, false)] {
        let cut = Cut {
            id: 7,
            offset,
            more,
        };
        bob.handle_packet(now, &ipv6(A6, B6, 44, &fragment_header(44, cut, piece)));
    }
    assert_eq!(payloads(&mut bob, handle).len(), 0);
    assert_eq!(bob.stats().drops.fragments_refused, 2);
    assert!(bob.poll_transmit().is_none());
}
