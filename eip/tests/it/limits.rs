//! What happens when something is full.

use std::time::Instant;

use tsc_eip::{BindError, MAX_MTU, MIN_MTU, SendOptions, StackConfig};

use crate::support::{A4, B4, addr, alice, host, payloads, transmits, udp_packet};

#[test]
fn a_full_receive_queue_drops_the_oldest_and_counts() {
    let now = Instant::now();
    let config = StackConfig {
        receive_packets: 3,
        ..StackConfig::default()
    };
    let mut bob = host(config, 1, &[B4.into()]);
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    for n in 0..5 {
        bob.handle_packet(
            now,
            &udp_packet(addr("10.0.0.1:1"), addr("10.0.0.2:9"), &[n]),
        );
    }
    assert_eq!(payloads(&mut bob, server), [[2], [3], [4]]);
    assert_eq!(bob.stats().drops.receive_full, 2);
    let stats = bob.udp_stats(server).unwrap();
    assert_eq!((stats.received, stats.dropped), (5, 2));
}

#[test]
fn receive_memory_is_shared_and_bounded() {
    let now = Instant::now();
    let config = StackConfig {
        receive_total_bytes: 64 * 1024,
        ..StackConfig::default()
    };
    let limit = config.receive_total_bytes;
    let mut bob = host(config, 1, &[B4.into()]);
    let sockets: Vec<_> = (1..=200)
        .map(|port| {
            bob.udp_bind(format!("10.0.0.2:{port}").parse().unwrap())
                .unwrap()
        })
        .collect();
    for round in 0..20 {
        for port in 1..=200 {
            let to = format!("10.0.0.2:{port}").parse().unwrap();
            bob.handle_packet(now, &udp_packet(addr("10.0.0.1:1"), to, &[round; 700]));
            assert!(bob.stats().gauges.receive_bytes <= limit);
        }
    }
    assert!(bob.stats().drops.receive_full > 0);
    for socket in &sockets {
        payloads(&mut bob, *socket);
    }
    // A reader that keeps up gets its share even after others filled the memory.
    let last = sockets[199];
    bob.handle_packet(
        now,
        &udp_packet(addr("10.0.0.1:1"), addr("10.0.0.2:200"), b"now"),
    );
    assert_eq!(payloads(&mut bob, last), [b"now"]);
    for socket in sockets {
        bob.udp_close(socket);
    }
    assert_eq!(bob.stats().gauges.receive_bytes, 0);
}

#[test]
fn a_full_transmit_queue_drops_the_oldest_and_counts() {
    let now = Instant::now();
    let config = StackConfig {
        transmit_packets: 0,
        ..StackConfig::default()
    };
    let mut alice = host(config, 1, &[A4.into()]);
    let socket = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    for n in 0..130 {
        alice
            .udp_send_to(
                now,
                socket,
                addr("10.0.0.2:9"),
                &[n],
                &SendOptions::default(),
            )
            .unwrap();
    }
    let packets = transmits(&mut alice);
    assert_eq!(packets.len(), 128, "the least that the limit can be");
    assert_eq!(packets[0].last(), Some(&2));
    assert_eq!(alice.stats().drops.transmit_full, 2);
}

#[test]
fn sockets_are_limited() {
    let config = StackConfig {
        sockets: 2,
        ..StackConfig::default()
    };
    let mut alice = host(config, 1, &[A4.into()]);
    let first = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    assert!(alice.udp_bind(addr("0.0.0.0:0")).is_ok());
    assert_eq!(
        alice.udp_bind(addr("0.0.0.0:0")),
        Err(BindError::TooManySockets)
    );
    assert_eq!(alice.stats().gauges.sockets, 2);
    alice.udp_close(first);
    assert!(alice.udp_bind(addr("0.0.0.0:0")).is_ok());
}

#[test]
fn the_pool_keeps_no_more_than_its_limit() {
    let config = StackConfig {
        pool_buffers: 4,
        ..StackConfig::default()
    };
    let mut alice = host(config, 1, &[A4.into()]);
    for _ in 0..10 {
        alice.recycle(vec![0; 1400]);
    }
    assert_eq!(alice.stats().gauges.pool_buffers, 4);
}

#[test]
fn the_mtu_stays_in_range_and_can_change() {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(addr("0.0.0.0:0")).unwrap();
    for (asked, mtu) in [(0, MIN_MTU), (1300, 1300), (u16::MAX, MAX_MTU)] {
        alice.set_mtu(asked);
        assert_eq!(alice.mtu(), mtu);
        alice
            .udp_send_to(
                now,
                socket,
                addr("10.0.0.2:9"),
                &[0; 20_000],
                &SendOptions::default(),
            )
            .unwrap();
        let longest = transmits(&mut alice).iter().map(Vec::len).max().unwrap();
        assert!(
            longest <= mtu.into() && longest > usize::from(mtu) - 8,
            "{longest} of {mtu}"
        );
    }
}
