//! Binding, connecting, sending, receiving.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::time::Instant;

use tsc_eip::{
    BindError, ConnectError, Dscp, MAX_UDP_PAYLOAD, RecvError, SendError, SendOptions, StackConfig,
    UdpPlacement,
};

use crate::support::{
    A4, A6, B4, B6, addr, alice, bob, host, payloads, pump, recv, transmits, udp_packet,
};

const PLAIN: SendOptions = SendOptions {
    source: None,
    dscp: Dscp::BEST_EFFORT,
    hop_limit: None,
    dont_fragment: false,
};

#[test]
fn datagrams_travel_in_both_versions_and_both_directions() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    for (any, own, other) in [
        (
            "0.0.0.0:0",
            SocketAddr::new(A4.into(), 0),
            SocketAddr::new(B4.into(), 5060),
        ),
        (
            "[::]:0",
            SocketAddr::new(A6.into(), 0),
            SocketAddr::new(B6.into(), 5060),
        ),
    ] {
        let caller = alice.udp_bind(addr(any)).unwrap();
        let server = bob.udp_bind(other).unwrap();
        alice
            .udp_send_to(now, caller, other, b"question", &PLAIN)
            .unwrap();
        pump(now, &mut alice, &mut bob);
        let (received, payload) = recv(&mut bob, server).unwrap().unwrap();
        assert_eq!(payload, b"question");
        assert_eq!(received.to, other.ip());
        assert_eq!(received.from.ip(), own.ip());
        assert_eq!(
            Some(received.from.port()),
            alice.udp_local_addr(caller).map(|local| local.port())
        );
        bob.udp_send_to(now, server, received.from, b"answer", &PLAIN)
            .unwrap();
        pump(now, &mut alice, &mut bob);
        assert_eq!(payloads(&mut alice, caller), [b"answer"]);
    }
    assert_eq!(alice.stats().drops, tsc_eip::Drops::default());
    assert_eq!(bob.stats().drops, tsc_eip::Drops::default());
}

#[test]
fn a_stack_can_live_behind_a_lock_that_threads_share() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<std::sync::Mutex<tsc_eip::Stack>>();
}

#[test]
fn an_empty_datagram_is_a_datagram() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    let caller = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    let server = bob.udp_bind(addr("10.0.0.2:7")).unwrap();
    alice
        .udp_send_to(now, caller, addr("10.0.0.2:7"), b"", &PLAIN)
        .unwrap();
    pump(now, &mut alice, &mut bob);
    assert_eq!(payloads(&mut bob, server), [b""]);
}

#[test]
fn binding_refuses_what_it_must() {
    let mut alice = alice();
    let first = alice.udp_bind(addr("10.0.0.1:5060")).unwrap();
    assert_eq!(
        alice.udp_bind(addr("10.0.0.1:5060")),
        Err(BindError::AddressInUse(addr("10.0.0.1:5060")))
    );
    assert_eq!(
        alice.udp_bind(addr("0.0.0.0:5060")),
        Err(BindError::AddressInUse(addr("0.0.0.0:5060")))
    );
    for foreign in [
        "10.0.0.2:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "[::1]:1",
        "[::ffff:10.0.0.1]:1",
    ] {
        assert_eq!(
            alice.udp_bind(addr(foreign)),
            Err(BindError::AddressNotAvailable(addr(foreign).ip()))
        );
    }
    assert!(
        alice.udp_bind(addr("[::]:5060")).is_ok(),
        "the other IP version has its own ports"
    );
    assert!(alice.udp_close(first));
    assert!(
        alice.udp_bind(addr("0.0.0.0:5060")).is_ok(),
        "closing frees the port"
    );
}

#[test]
fn ephemeral_ports_are_in_range_distinct_random_and_run_out() {
    let config = StackConfig {
        ephemeral_ports: 50_000..=50_099,
        ..StackConfig::default()
    };
    let ports = |seed| -> Vec<u16> {
        let mut stack = host(config.clone(), seed, &[A4.into(), A6.into()]);
        let reserved = stack.udp_bind(addr("10.0.0.1:50000")).unwrap();
        let mut ports = Vec::new();
        for _ in 0..99 {
            let handle = stack.udp_bind(addr("0.0.0.0:0")).unwrap();
            ports.push(stack.udp_local_addr(handle).unwrap().port());
        }
        assert_eq!(
            stack.udp_bind(addr("0.0.0.0:0")),
            Err(BindError::PortsExhausted)
        );
        assert!(stack.udp_bind(addr("[::]:0")).is_ok());
        assert!(stack.udp_close(reserved));
        assert!(stack.udp_bind(addr("0.0.0.0:0")).is_ok());
        ports
    };
    let first = ports(7);
    let distinct: BTreeSet<u16> = first.iter().copied().collect();
    assert_eq!(distinct, (50_001..=50_099).collect());
    assert_eq!(first, ports(7), "a seed replays");
    assert_ne!(first, ports(8));
    assert_ne!(first, (50_001..=50_099).collect::<Vec<_>>());
}

#[test]
fn stale_handles_are_closed_even_when_the_slot_is_used_again() {
    let now = Instant::now();
    let mut alice = alice();
    let old = alice.udp_bind(addr("0.0.0.0:1000")).unwrap();
    assert!(alice.udp_close(old));
    assert!(!alice.udp_close(old));
    let new = alice.udp_bind(addr("0.0.0.0:1001")).unwrap();
    assert_eq!(
        alice.udp_send_to(now, old, addr("10.0.0.2:1"), b"", &PLAIN),
        Err(SendError::Closed)
    );
    assert_eq!(alice.udp_recv(old, &mut []), Some(Err(RecvError::Closed)));
    assert_eq!(
        alice.udp_connect(old, addr("10.0.0.2:1")),
        Err(ConnectError::Closed)
    );
    assert_eq!(
        (alice.udp_local_addr(old), alice.udp_stats(old)),
        (None, None)
    );
    assert_eq!(alice.udp_local_addr(new), Some(addr("0.0.0.0:1001")));
}

#[test]
fn a_connected_socket_hears_only_its_peer() {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(addr("0.0.0.0:4000")).unwrap();
    alice.udp_connect(socket, addr("10.0.0.2:5060")).unwrap();
    assert_eq!(alice.udp_peer_addr(socket), Some(addr("10.0.0.2:5060")));
    let to = addr("10.0.0.1:4000");
    alice.handle_packet(now, &udp_packet(addr("10.0.0.2:5060"), to, b"peer"));
    alice.handle_packet(now, &udp_packet(addr("10.0.0.2:5061"), to, b"other port"));
    alice.handle_packet(now, &udp_packet(addr("10.0.0.3:5060"), to, b"other host"));
    assert_eq!(payloads(&mut alice, socket), [b"peer"]);
    assert_eq!(alice.stats().drops.no_socket, 2);

    alice.udp_send(now, socket, b"to the peer", &PLAIN).unwrap();
    assert!(alice.udp_disconnect(socket));
    assert!(!alice.udp_disconnect(socket));
    assert_eq!(
        alice.udp_send(now, socket, b"", &PLAIN),
        Err(SendError::NotConnected)
    );
    alice.handle_packet(now, &udp_packet(addr("10.0.0.3:5060"), to, b"anybody"));
    assert_eq!(payloads(&mut alice, socket), [b"anybody"]);
}

#[test]
fn connecting_refuses_what_it_must() {
    let mut alice = alice();
    let socket = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    for bad in [
        "10.0.0.2:0",
        "0.0.0.0:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
    ] {
        assert_eq!(
            alice.udp_connect(socket, addr(bad)),
            Err(ConnectError::InvalidPeer(addr(bad)))
        );
    }
    let v6 = addr("[2001:db8::2]:1");
    assert_eq!(
        alice.udp_connect(socket, v6),
        Err(ConnectError::FamilyMismatch(v6))
    );
    assert_eq!(alice.udp_peer_addr(socket), None);
}

#[test]
fn sending_refuses_what_it_must() {
    let now = Instant::now();
    let mut alice = alice();
    let any = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    let bound = alice.udp_bind(addr("10.0.0.1:0")).unwrap();
    let to = addr("10.0.0.2:1");
    for bad in [
        "10.0.0.2:0",
        "0.0.0.0:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "169.254.0.1:1",
        "[fe80::1]:1",
    ] {
        assert_eq!(
            alice.udp_send_to(now, any, addr(bad), b"", &PLAIN),
            Err(SendError::InvalidDestination(addr(bad)))
        );
    }
    let v6 = addr("[2001:db8::2]:1");
    assert_eq!(
        alice.udp_send_to(now, any, v6, b"", &PLAIN),
        Err(SendError::FamilyMismatch(v6))
    );
    let from = |source: &str| SendOptions {
        source: Some(source.parse().unwrap()),
        ..PLAIN
    };
    let foreign = SendError::SourceNotAvailable(B4.into());
    assert_eq!(
        alice.udp_send_to(now, any, to, b"", &from("10.0.0.2")),
        Err(foreign)
    );
    assert_eq!(
        alice.udp_send_to(now, bound, to, b"", &from("10.0.0.2")),
        Err(foreign)
    );
    assert!(
        alice
            .udp_send_to(now, any, to, b"", &from("10.0.0.1"))
            .is_ok()
    );
    assert!(
        alice
            .udp_send_to(now, any, to, b"", &from("2001:db8::1"))
            .is_err()
    );

    alice.set_addresses(&[A6.into()]).unwrap();
    assert_eq!(
        alice.udp_send_to(now, any, to, b"", &PLAIN),
        Err(SendError::NoSourceAddress(to.ip()))
    );
    assert_eq!(
        alice.udp_send_to(now, bound, to, b"", &PLAIN),
        Err(SendError::SourceNotAvailable(A4.into()))
    );
    alice.set_addresses(&[A4.into()]).unwrap();
    assert!(
        alice.udp_send_to(now, bound, to, b"", &PLAIN).is_ok(),
        "the address is back"
    );
}

#[test]
fn the_longest_payload_passes_and_one_more_byte_does_not() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    for (any, to) in [
        ("0.0.0.0:0", SocketAddr::new(B4.into(), 9)),
        ("[::]:0", SocketAddr::new(B6.into(), 9)),
    ] {
        let caller = alice.udp_bind(addr(any)).unwrap();
        let server = bob.udp_bind(to).unwrap();
        let payload: Vec<u8> = (0..MAX_UDP_PAYLOAD)
            .map(|n| ((n * 31) >> 3) as u8)
            .collect();
        alice
            .udp_send_to(now, caller, to, &payload, &PLAIN)
            .unwrap();
        pump(now, &mut alice, &mut bob);
        assert_eq!(payloads(&mut bob, server), [payload]);
        assert_eq!(
            alice.udp_send_to(now, caller, to, &vec![0; MAX_UDP_PAYLOAD + 1], &PLAIN),
            Err(SendError::MessageTooLong {
                max: MAX_UDP_PAYLOAD
            })
        );
    }
}

#[test]
fn dont_fragment_names_the_largest_payload_that_fits() {
    let now = Instant::now();
    let mut alice = alice();
    let options = SendOptions {
        dont_fragment: true,
        ..PLAIN
    };
    for (any, to, max) in [
        ("0.0.0.0:0", SocketAddr::new(B4.into(), 9), 1400 - 28),
        ("[::]:0", SocketAddr::new(B6.into(), 9), 1400 - 48),
    ] {
        let socket = alice.udp_bind(addr(any)).unwrap();
        let refused = alice.udp_send_to(now, socket, to, &vec![0; max + 1], &options);
        assert_eq!(refused, Err(SendError::MessageTooLong { max }));
        assert!(alice.poll_transmit().is_none());
        alice
            .udp_send_to(now, socket, to, &vec![0; max], &options)
            .unwrap();
        assert_eq!(
            transmits(&mut alice)
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>(),
            [1400]
        );
    }
}

#[test]
fn send_options_reach_the_packet_and_the_code_point_the_receiver() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    let options = SendOptions {
        dscp: Dscp::EF,
        hop_limit: NonZeroU8::new(3),
        dont_fragment: true,
        ..PLAIN
    };
    let caller4 = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    let caller6 = alice.udp_bind(addr("[::]:0")).unwrap();
    let server = bob.udp_bind(addr("[::]:9")).unwrap();
    alice
        .udp_send_to(now, caller4, addr("10.0.0.2:9"), b"", &options)
        .unwrap();
    alice
        .udp_send_to(now, caller6, SocketAddr::new(B6.into(), 9), b"", &options)
        .unwrap();
    let packets = transmits(&mut alice);
    assert_eq!(
        (packets[0][1], packets[0][6], packets[0][8]),
        (46 << 2, 0x40, 3)
    );
    assert_eq!(
        (packets[1][0], packets[1][1], packets[1][7]),
        (0x6b, 0x80, 3)
    );
    bob.handle_packet(now, &packets[1]);
    assert_eq!(recv(&mut bob, server).unwrap().unwrap().0.dscp, Dscp::EF);
    // Default: 64 hops, may be fragmented.
    alice
        .udp_send_to(now, caller4, addr("10.0.0.2:9"), b"", &PLAIN)
        .unwrap();
    let packet = alice.poll_transmit().unwrap();
    assert_eq!((packet[1], packet[6], packet[8]), (0, 0, 64));
}

#[test]
fn own_addresses_are_reached_without_the_tunnel() {
    let now = Instant::now();
    let mut alice = alice();
    for (from, to) in [
        ("0.0.0.0:1000", "10.0.0.1:2000"),
        ("[::]:1000", "[2001:db8::1]:2000"),
    ] {
        let one = alice.udp_bind(addr(from)).unwrap();
        let two = alice.udp_bind(addr(to)).unwrap();
        for payload in [vec![1; 100], vec![2; MAX_UDP_PAYLOAD]] {
            alice
                .udp_send_to(now, one, addr(to), &payload, &PLAIN)
                .unwrap();
            let (received, got) = recv(&mut alice, two).unwrap().unwrap();
            assert_eq!(got, payload);
            assert_eq!(received.from, SocketAddr::new(addr(to).ip(), 1000));
        }
    }
    assert!(alice.poll_transmit().is_none());
    assert_eq!(alice.stats().packets_local, 4);
}

#[test]
fn a_local_send_to_a_closed_port_is_refused_at_once() {
    let now = Instant::now();
    let mut alice = alice();
    for (from, to) in [
        ("0.0.0.0:1000", "10.0.0.1:2000"),
        ("[::]:1000", "[2001:db8::1]:2000"),
    ] {
        let socket = alice.udp_bind(addr(from)).unwrap();
        alice.udp_connect(socket, addr(to)).unwrap();
        alice.udp_send(now, socket, b"anybody?", &PLAIN).unwrap();
        assert_eq!(
            recv(&mut alice, socket),
            Some(Err(RecvError::PortUnreachable))
        );
        assert_eq!(recv(&mut alice, socket), None, "told once");
    }
}

#[test]
fn a_short_buffer_gets_the_front_and_peeking_takes_nothing() {
    let now = Instant::now();
    let mut bob = bob();
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    bob.handle_packet(
        now,
        &udp_packet(addr("10.0.0.1:1"), addr("10.0.0.2:9"), b"abcdef"),
    );
    let mut short = [0; 4];
    for _ in 0..2 {
        let peeked = bob.udp_peek(server, &mut short).unwrap().unwrap();
        assert_eq!((peeked.len, peeked.payload_len), (4, 6));
    }
    assert_eq!(
        bob.udp_recv(server, &mut short)
            .unwrap()
            .unwrap()
            .payload_len,
        6
    );
    assert_eq!(&short, b"abcd");
    assert_eq!(bob.udp_recv(server, &mut short), None);
    assert_eq!(bob.udp_peek(server, &mut short), None);
}

#[test]
fn packets_for_others_or_from_nowhere_are_dropped() {
    let now = Instant::now();
    let mut bob = bob();
    let server = bob.udp_bind(addr("0.0.0.0:9")).unwrap();
    bob.handle_packet(
        now,
        &udp_packet(addr("10.0.0.1:1"), addr("10.0.0.3:9"), b"not ours"),
    );
    bob.handle_packet(
        now,
        &udp_packet(addr("10.0.0.1:1"), addr("224.0.0.1:9"), b"multicast"),
    );
    assert_eq!(bob.stats().drops.not_ours, 2);
    for source in [
        "0.0.0.0:1",
        "127.0.0.1:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
        "10.0.0.2:1",
    ] {
        bob.handle_packet(
            now,
            &udp_packet(addr(source), addr("10.0.0.2:9"), b"spoofed"),
        );
    }
    assert_eq!(bob.stats().drops.bad_source, 5);
    assert_eq!(payloads(&mut bob, server), Vec::<Vec<u8>>::new());
    assert!(bob.poll_transmit().is_none(), "and never answered");
}

const MOVED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 1));

#[test]
fn a_socket_that_is_moved_sends_from_there_and_may_still_hear_what_it_is_bound_to() {
    let now = Instant::now();
    for (local, only) in [
        ("0.0.0.0:4000", false),
        ("0.0.0.0:4000", true),
        ("10.0.0.1:4000", false),
        ("10.0.0.1:4000", true),
    ] {
        let (mut alice, mut bob) = (alice(), bob());
        alice.set_addresses(&[A4.into(), A6.into(), MOVED]).unwrap();
        let socket = alice.udp_bind(addr(local)).unwrap();
        let server = bob.udp_bind(addr("10.0.0.2:5060")).unwrap();
        let to = addr("10.0.0.2:5060");
        let there = UdpPlacement::At {
            address: MOVED,
            only,
        };
        assert!(alice.udp_place(socket, there));
        assert_eq!(alice.udp_placement(socket), Some(there));
        alice
            .udp_send_to(now, socket, to, b"from there", &PLAIN)
            .unwrap();
        pump(now, &mut alice, &mut bob);
        let (received, _) = recv(&mut bob, server).unwrap().unwrap();
        assert_eq!(received.from, SocketAddr::new(MOVED, 4000));
        bob.udp_send_to(now, server, received.from, b"to there", &PLAIN)
            .unwrap();
        bob.udp_send_to(now, server, addr("10.0.0.1:4000"), b"to before", &PLAIN)
            .unwrap();
        pump(now, &mut alice, &mut bob);
        let heard: &[&[u8]] = if only {
            &[b"to there"]
        } else {
            &[b"to there", b"to before"]
        };
        assert_eq!(payloads(&mut alice, socket), heard, "{local} {only}");
        // And back, as if nothing had been.
        assert!(alice.udp_place(socket, UdpPlacement::AsBound));
        alice.udp_send_to(now, socket, to, b"back", &PLAIN).unwrap();
        pump(now, &mut alice, &mut bob);
        let (received, _) = recv(&mut bob, server).unwrap().unwrap();
        assert_eq!(received.from, addr("10.0.0.1:4000"));
        // Its port there is free again.
        assert!(alice.udp_close(socket));
        assert!(alice.udp_bind(SocketAddr::new(MOVED, 4000)).is_ok());
    }
}

#[test]
fn a_socket_without_a_place_neither_sends_nor_hears() {
    let now = Instant::now();
    let (mut alice, mut bob) = (alice(), bob());
    let socket = alice.udp_bind(addr("0.0.0.0:4000")).unwrap();
    let server = bob.udp_bind(addr("10.0.0.2:5060")).unwrap();
    assert!(alice.udp_place(socket, UdpPlacement::Nowhere));
    let refused = alice.udp_send_to(now, socket, addr("10.0.0.2:5060"), b"no", &PLAIN);
    assert_eq!(refused, Err(SendError::Nowhere));
    bob.udp_send_to(now, server, addr("10.0.0.1:4000"), b"no", &PLAIN)
        .unwrap();
    pump(now, &mut alice, &mut bob);
    assert!(payloads(&mut alice, socket).is_empty());
    assert_eq!(alice.stats().drops.no_socket, 1);
}

#[test]
fn a_place_that_cannot_be_had_changes_nothing() {
    let mut alice = alice();
    alice.set_addresses(&[A4.into(), A6.into(), MOVED]).unwrap();
    let there = UdpPlacement::At {
        address: MOVED,
        only: false,
    };
    let _holder = alice.udp_bind(SocketAddr::new(MOVED, 4000)).unwrap();
    let socket = alice.udp_bind(addr("10.0.0.1:4000")).unwrap();
    assert!(!alice.udp_place(socket, there), "taken");
    let other = alice.udp_bind(SocketAddr::new(A6.into(), 4000)).unwrap();
    assert!(!alice.udp_place(other, there), "another IP version");
    for socket in [socket, other] {
        assert_eq!(alice.udp_placement(socket), Some(UdpPlacement::AsBound));
    }
    assert!(alice.udp_close(socket));
    assert!(!alice.udp_place(socket, there), "closed");
}
