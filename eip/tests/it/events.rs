//! One event serves a batch.

use std::time::Instant;

use tsc_eip::{Event, RecvError, SendOptions};

use crate::support::{
    A4, B4, addr, alice, bob, events, icmp, ipv4, payloads, recv, transmits, udp_packet,
};

#[test]
fn a_batch_raises_one_event_and_reading_it_rearms() {
    let now = Instant::now();
    let mut bob = bob();
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    let packet = udp_packet(addr("10.0.0.1:1"), addr("10.0.0.2:9"), b"x");
    for _ in 0..10 {
        bob.handle_packet(now, &packet);
    }
    assert_eq!(events(&mut bob), [Event::UdpReadable(server)]);
    bob.handle_packet(now, &packet);
    assert_eq!(events(&mut bob), [], "not read yet");
    for _ in 0..10 {
        assert!(recv(&mut bob, server).is_some());
    }
    bob.handle_packet(now, &packet);
    assert_eq!(events(&mut bob), [], "one was left");
    assert_eq!(payloads(&mut bob, server).len(), 2);
    bob.handle_packet(now, &packet);
    assert_eq!(events(&mut bob), [Event::UdpReadable(server)]);
}

#[test]
fn an_event_that_was_overtaken_by_reading_or_closing_is_not_given() {
    let now = Instant::now();
    let mut bob = bob();
    let server = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    let packet = udp_packet(addr("10.0.0.1:1"), addr("10.0.0.2:9"), b"x");
    bob.handle_packet(now, &packet);
    assert_eq!(payloads(&mut bob, server).len(), 1);
    assert_eq!(events(&mut bob), []);
    bob.handle_packet(now, &packet);
    assert!(bob.udp_close(server));
    let successor = bob.udp_bind(addr("10.0.0.2:9")).unwrap();
    assert_eq!(events(&mut bob), []);
    bob.handle_packet(now, &packet);
    assert_eq!(events(&mut bob), [Event::UdpReadable(successor)]);
}

#[test]
fn each_socket_has_its_own_event_in_order_of_arrival() {
    let now = Instant::now();
    let mut bob = bob();
    let one = bob.udp_bind(addr("10.0.0.2:1")).unwrap();
    let two = bob.udp_bind(addr("10.0.0.2:2")).unwrap();
    for to in ["10.0.0.2:2", "10.0.0.2:1", "10.0.0.2:2"] {
        bob.handle_packet(now, &udp_packet(addr("10.0.0.1:1"), addr(to), b"x"));
    }
    assert_eq!(
        events(&mut bob),
        [Event::UdpReadable(two), Event::UdpReadable(one)]
    );
}

#[test]
fn an_error_about_a_former_peer_is_forgotten() {
    let now = Instant::now();
    let mut alice = alice();
    let to = addr("10.0.0.1:1000");
    let socket = alice.udp_bind(to).unwrap();
    let quote = udp_packet(to, addr("10.0.0.2:9"), b"x");
    let refused = icmp(B4.into(), A4.into(), [3, 3, 0, 0, 0, 0, 0, 0], &quote);
    let refused = ipv4(B4, A4, 1, crate::support::Cut::default(), &refused);
    for reconnect in [true, false] {
        alice.udp_connect(socket, addr("10.0.0.2:9")).unwrap();
        alice.handle_packet(now, &refused);
        assert_eq!(events(&mut alice), [Event::UdpReadable(socket)]);
        if reconnect {
            alice.udp_connect(socket, addr("10.0.0.3:9")).unwrap();
        } else {
            assert!(alice.udp_disconnect(socket));
        }
        assert_eq!(recv(&mut alice, socket), None);
        alice.handle_packet(now, &udp_packet(addr("10.0.0.3:9"), to, b"y"));
        assert_eq!(
            events(&mut alice),
            [Event::UdpReadable(socket)],
            "armed again"
        );
        assert_eq!(payloads(&mut alice, socket), [b"y"]);
    }
}

#[test]
fn an_error_raises_an_event_and_comes_before_datagrams() {
    let now = Instant::now();
    let mut alice = alice();
    let socket = alice.udp_bind(addr("10.0.0.1:1000")).unwrap();
    alice.udp_connect(socket, addr("10.0.0.2:9")).unwrap();
    alice
        .udp_send(now, socket, b"x", &SendOptions::default())
        .unwrap();
    let sent = transmits(&mut alice).remove(0);
    alice.handle_packet(
        now,
        &udp_packet(addr("10.0.0.2:9"), addr("10.0.0.1:1000"), b"late"),
    );
    let refused = icmp(B4.into(), A4.into(), [3, 3, 0, 0, 0, 0, 0, 0], &sent);
    let refused = ipv4(B4, A4, 1, crate::support::Cut::default(), &refused);
    alice.handle_packet(now, &refused);
    assert_eq!(events(&mut alice), [Event::UdpReadable(socket)]);
    assert_eq!(
        recv(&mut alice, socket),
        Some(Err(RecvError::PortUnreachable))
    );
    assert_eq!(payloads(&mut alice, socket), [b"late"]);
    alice.handle_packet(now, &refused);
    assert_eq!(events(&mut alice), [Event::UdpReadable(socket)]);
}
