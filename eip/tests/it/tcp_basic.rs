//! TCP between two stacks: opening, data, every order of closing.

use std::time::{Duration, Instant};

use tsc_eip::{BindError, Event, StackConfig, TcpConnectError, TcpError, TcpOptions, TcpState};

use crate::net::*;
use crate::support::*;

const SERVER: &str = "10.0.0.2:80";

#[test]
fn a_connection_carries_data_both_ways() {
    let now = Instant::now();
    for (server, any) in [
        (addr("10.0.0.2:80"), "0.0.0.0:0"),
        (addr("[2001:db8::2]:80"), "[::]:0"),
    ] {
        let (mut a, mut b) = (alice(), bob());
        let listener = b.tcp_listen(server, 8).unwrap();
        let client = a
            .tcp_connect(now, addr(any), server, TcpOptions::default())
            .unwrap();
        assert_eq!(a.tcp_state(client), Some(TcpState::SynSent));
        assert_eq!(a.tcp_send(now, client, b"early"), Ok(0), "not open yet");
        pump(now, &mut a, &mut b);
        assert_eq!(
            events(&mut a),
            [Event::TcpConnected(client), Event::TcpWritable(client)]
        );
        assert_eq!(events(&mut b), [Event::TcpAcceptable(listener)]);
        let (peer, from) = b.tcp_accept(listener).unwrap();
        assert_eq!(b.tcp_accept(listener), None);
        assert_eq!(Some(from), a.tcp_local_addr(client));
        assert_eq!(a.tcp_peer_addr(client), Some(server));
        assert_eq!(b.tcp_local_addr(peer), Some(server));
        assert_eq!(a.tcp_send(now, client, b"hello"), Ok(5));
        pump(now, &mut a, &mut b);
        assert_eq!(events(&mut b), [Event::TcpReadable(peer)]);
        let mut buffer = [0; 100];
        assert_eq!(b.tcp_peek(peer, &mut buffer[..3]), Ok(Some(3)));
        assert_eq!(b.tcp_recv(now, peer, &mut buffer[..2]), Ok(Some(2)));
        assert_eq!(events(&mut b), [], "not read empty");
        assert_eq!(b.tcp_recv(now, peer, &mut buffer[2..]), Ok(Some(3)));
        assert_eq!(&buffer[..5], b"hello");
        assert_eq!(b.tcp_recv(now, peer, &mut buffer), Ok(None));
        assert_eq!(b.tcp_send(now, peer, b"world!"), Ok(6));
        pump(now, &mut a, &mut b);
        assert_eq!(a.tcp_recv(now, client, &mut buffer), Ok(Some(6)));
        assert_eq!(&buffer[..6], b"world!");
        assert_eq!(a.stats().drops, tsc_eip::Drops::default());
        assert_eq!(b.stats().drops, tsc_eip::Drops::default());
    }
}

#[test]
fn either_end_may_close_first() {
    for first in 0..2 {
        let mut net = Net::plain();
        let (client, server, _) = net.connect(addr(SERVER));
        let handles = [client, server];
        let second = 1 - first;
        let now = net.now;
        net.stacks[first]
            .tcp_send(now, handles[first], b"last words")
            .unwrap();
        net.stacks[first].tcp_shutdown(now, handles[first]).unwrap();
        assert_eq!(
            net.stacks[first].tcp_send(now, handles[first], b"more"),
            Err(TcpError::ShutDown)
        );
        net.run(Duration::from_secs(1));
        assert_eq!(
            net.stacks[first].tcp_state(handles[first]),
            Some(TcpState::FinWait2)
        );
        assert_eq!(
            net.stacks[second].tcp_state(handles[second]),
            Some(TcpState::CloseWait)
        );
        assert_eq!(
            net.read(second, handles[second]),
            (b"last words".to_vec(), true)
        );
        // The other direction stays open for as long as it likes.
        for _ in 0..3 {
            net.run(Duration::from_secs(600));
            let now = net.now;
            assert_eq!(
                net.stacks[second].tcp_send(now, handles[second], b"still"),
                Ok(5)
            );
            net.run(Duration::from_secs(1));
            assert_eq!(net.read(first, handles[first]), (b"still".to_vec(), false));
        }
        let now = net.now;
        net.stacks[second]
            .tcp_shutdown(now, handles[second])
            .unwrap();
        net.run(Duration::from_secs(1));
        assert_eq!(net.read(first, handles[first]), (Vec::new(), true));
        for (side, handle) in handles.into_iter().enumerate() {
            assert_eq!(net.stacks[side].tcp_state(handle), Some(TcpState::Closed));
            assert_eq!(
                net.stacks[side].tcp_send(net.now, handle, b"x"),
                Err(TcpError::ShutDown)
            );
            assert!(net.stacks[side].tcp_close(net.now, handle));
            assert!(!net.stacks[side].tcp_close(net.now, handle));
            let gauges = net.stacks[side].stats().gauges;
            assert_eq!(gauges.tcp_connections, 0);
            assert_eq!(gauges.tcp_buffer_bytes, 0);
            assert_eq!(gauges.tcp_time_waits, usize::from(side == first));
            assert_eq!(net.stacks[side].stats().tcp.resets_out, 0);
        }
        net.run(Duration::from_secs(61));
        assert_eq!(net.stacks[first].stats().gauges.tcp_time_waits, 0);
    }
}

#[test]
fn both_ends_may_close_at_once() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    let now = net.now;
    net.stacks[0].tcp_send(now, client, b"from a").unwrap();
    net.stacks[1].tcp_send(now, server, b"from b").unwrap();
    net.stacks[0].tcp_shutdown(now, client).unwrap();
    net.stacks[1].tcp_shutdown(now, server).unwrap();
    net.run(Duration::from_secs(2));
    assert_eq!(net.read(0, client), (b"from b".to_vec(), true));
    assert_eq!(net.read(1, server), (b"from a".to_vec(), true));
    for (side, handle) in [(0, client), (1, server)] {
        assert_eq!(net.stacks[side].tcp_state(handle), Some(TcpState::Closed));
        assert_eq!(net.stacks[side].stats().gauges.tcp_time_waits, 1);
        assert_eq!(net.stacks[side].stats().tcp.resets_out, 0);
    }
}

#[test]
fn a_closed_connection_delivers_what_was_written() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    let data = pattern(300_000, 7);
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, &data),
        Ok(data.len())
    );
    assert!(net.stacks[0].tcp_close(net.now, client));
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, b"x"),
        Err(TcpError::Closed)
    );
    assert_eq!(net.stacks[0].tcp_state(client), None);
    net.run(Duration::from_secs(5));
    assert_eq!(net.read(1, server), (data, true));
    assert!(net.stacks[1].tcp_close(net.now, server));
    net.run(Duration::from_secs(2));
    assert_eq!(net.stacks[0].stats().gauges.tcp_connections, 0);
    assert_eq!(net.stacks[1].stats().gauges.tcp_connections, 0);
}

#[test]
fn closing_with_unread_data_resets() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    net.stacks[0]
        .tcp_send(net.now, client, b"nobody reads this")
        .unwrap();
    net.run(Duration::from_secs(1));
    net.stacks[1].tcp_close(net.now, server);
    net.run(Duration::from_secs(1));
    assert_eq!(net.events(0), [Event::TcpFailed(client, TcpError::Reset)]);
    assert_eq!(
        net.stacks[0].tcp_recv(net.now, client, &mut [0; 9]),
        Err(TcpError::Reset)
    );
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, b"x"),
        Err(TcpError::Reset)
    );
    assert_eq!(
        net.stacks[0].tcp_shutdown(net.now, client),
        Err(TcpError::Reset)
    );
    net.stacks[0].tcp_close(net.now, client);
    for stack in &net.stacks {
        assert_eq!(stack.stats().gauges.tcp_connections, 0);
    }
}

#[test]
fn data_that_come_after_a_close_are_answered_by_a_reset() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    net.stacks[1].tcp_close(net.now, server);
    net.run(Duration::from_secs(1));
    assert_eq!(net.read(0, client), (Vec::new(), true));
    net.stacks[0]
        .tcp_send(net.now, client, b"too late")
        .unwrap();
    net.run(Duration::from_secs(1));
    assert!(
        net.events(0)
            .contains(&Event::TcpFailed(client, TcpError::Reset))
    );
    assert_eq!(net.stacks[1].stats().gauges.tcp_connections, 0);
}

#[test]
fn an_abort_reaches_the_peer_and_what_it_had_received_stays_readable() {
    let mut net = Net::plain();
    let (client, server, _) = net.connect(addr(SERVER));
    net.stacks[0].tcp_send(net.now, client, b"arrived").unwrap();
    net.run(Duration::from_secs(1));
    assert!(net.stacks[0].tcp_abort(net.now, client));
    net.run(Duration::from_secs(1));
    assert!(
        net.events(1)
            .contains(&Event::TcpFailed(server, TcpError::Reset))
    );
    let mut buffer = [0; 20];
    assert_eq!(
        net.stacks[1].tcp_recv(net.now, server, &mut buffer),
        Ok(Some(7))
    );
    assert_eq!(
        net.stacks[1].tcp_recv(net.now, server, &mut buffer),
        Err(TcpError::Reset)
    );
}

#[test]
fn a_connection_may_be_shut_down_closed_or_aborted_before_it_is_open() {
    // Shut down: the peer gets it, with its end.
    let mut net = Net::plain();
    let listener = net.stacks[1].tcp_listen(addr(SERVER), 1).unwrap();
    let open = |net: &mut Net| {
        net.stacks[0]
            .tcp_connect(
                net.now,
                addr("0.0.0.0:0"),
                addr(SERVER),
                TcpOptions::default(),
            )
            .unwrap()
    };
    let client = open(&mut net);
    net.stacks[0].tcp_shutdown(net.now, client).unwrap();
    net.run(Duration::from_secs(1));
    let (server, _) = net.stacks[1].tcp_accept(listener).unwrap();
    assert_eq!(net.read(1, server), (Vec::new(), true));
    assert_eq!(net.stacks[1].tcp_send(net.now, server, b"hi"), Ok(2));
    net.run(Duration::from_secs(1));
    assert_eq!(net.read(0, client), (b"hi".to_vec(), false));
    net.stacks[1].tcp_close(net.now, server);
    net.stacks[0].tcp_close(net.now, client);
    // Closed or aborted: nobody hears more of it than the request.
    for abort in [false, true] {
        let client = open(&mut net);
        if abort {
            net.stacks[0].tcp_abort(net.now, client);
        } else {
            net.stacks[0].tcp_close(net.now, client);
        }
        net.run(Duration::from_secs(90));
        assert_eq!(net.stacks[1].tcp_accept(listener), None);
        assert_eq!(net.stacks[1].stats().gauges.tcp_half_open, 0);
        assert_eq!(net.stacks[0].stats().gauges.tcp_connections, 0);
    }
}

#[test]
fn a_port_without_listener_refuses() {
    let mut net = Net::plain();
    let client = net.stacks[0]
        .tcp_connect(
            net.now,
            addr("0.0.0.0:0"),
            addr(SERVER),
            TcpOptions::default(),
        )
        .unwrap();
    net.run(Duration::from_millis(100));
    assert_eq!(net.events(0), [Event::TcpFailed(client, TcpError::Refused)]);
    assert_eq!(net.stacks[1].stats().tcp.resets_out, 1);
}

#[test]
fn two_sockets_of_one_stack_talk() {
    let mut net = Net::plain();
    let home = addr("10.0.0.1:99");
    let listener = net.stacks[0].tcp_listen(home, 1).unwrap();
    let client = net.stacks[0]
        .tcp_connect(net.now, addr("0.0.0.0:0"), home, TcpOptions::default())
        .unwrap();
    net.run(Duration::from_secs(1));
    let (server, _) = net.stacks[0].tcp_accept(listener).unwrap();
    let data = pattern(500_000, 3);
    assert_eq!(
        net.stacks[0].tcp_send(net.now, client, &data),
        Ok(data.len())
    );
    let mut got = Vec::new();
    for _ in 0..1000 {
        net.run(Duration::from_millis(10));
        got.extend(net.read(0, server).0);
    }
    assert!(got == data);
    assert_eq!(net.carried, [0, 0], "nothing enters the tunnel");
}

#[test]
fn simultaneous_open_makes_one_connection() {
    let mut net = Net::plain();
    let (a, b) = (addr("10.0.0.1:5000"), addr("10.0.0.2:6000"));
    let one = net.stacks[0]
        .tcp_connect(net.now, a, b, TcpOptions::default())
        .unwrap();
    let other = net.stacks[1]
        .tcp_connect(net.now, b, a, TcpOptions::default())
        .unwrap();
    net.run(Duration::from_secs(10));
    assert_eq!(net.events(0), [Event::TcpConnected(one)]);
    assert_eq!(net.events(1), [Event::TcpConnected(other)]);
    net.stacks[0].tcp_send(net.now, one, b"hello").unwrap();
    net.run(Duration::from_secs(1));
    assert_eq!(net.read(1, other).0, b"hello");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let now = Instant::now();
    let mut a = host(
        StackConfig {
            tcp_connections: 1,
            tcp_listeners: 1,
            ..StackConfig::default()
        },
        1,
        &[A4.into()],
    );
    let mut connect =
        |local, remote| a.tcp_connect(now, addr(local), addr(remote), TcpOptions::default());
    let any = "0.0.0.0:0";
    assert_eq!(
        connect(any, "10.0.0.2:0"),
        Err(TcpConnectError::InvalidPeer(addr("10.0.0.2:0")))
    );
    assert_eq!(
        connect(any, "224.0.0.1:1"),
        Err(TcpConnectError::InvalidPeer(addr("224.0.0.1:1")))
    );
    assert_eq!(
        connect(any, "[2001:db8::2]:1"),
        Err(TcpConnectError::FamilyMismatch(addr("[2001:db8::2]:1")))
    );
    assert_eq!(
        connect("[::]:0", "[2001:db8::2]:1"),
        Err(TcpConnectError::NoSourceAddress(B6.into()))
    );
    assert_eq!(
        connect("10.0.0.9:0", SERVER),
        Err(TcpConnectError::AddressNotAvailable([10, 0, 0, 9].into()))
    );
    assert_eq!(
        connect("10.0.0.1:7", "10.0.0.1:7"),
        Err(TcpConnectError::AddressInUse(addr("10.0.0.1:7")))
    );
    assert!(connect("0.0.0.0:7", SERVER).is_ok());
    assert_eq!(
        connect("10.0.0.1:7", SERVER),
        Err(TcpConnectError::AddressInUse(addr("10.0.0.1:7")))
    );
    assert_eq!(
        connect(any, SERVER),
        Err(TcpConnectError::TooManyConnections)
    );
    assert_eq!(
        a.tcp_listen(addr("10.0.0.9:1"), 1),
        Err(BindError::AddressNotAvailable([10, 0, 0, 9].into()))
    );
    let listener = a.tcp_listen(addr("0.0.0.0:0"), 1).unwrap();
    assert!(a.tcp_listener_addr(listener).unwrap().port() >= 32_768);
    assert_eq!(
        a.tcp_listen(addr("0.0.0.0:1"), 1),
        Err(BindError::TooManySockets)
    );
    assert!(a.tcp_listener_close(now, listener));
    assert!(!a.tcp_listener_close(now, listener));
    let again = a.tcp_listen(addr("0.0.0.0:1"), 1);
    assert!(again.is_ok());
}

#[test]
fn connections_end_with_the_address_that_they_are_from() {
    let now = Instant::now();
    let (mut a, mut b) = (alice(), bob());
    let moved = addr("10.0.1.1:0");
    a.set_addresses(&[A4.into(), moved.ip()]).unwrap();
    let _listener = b.tcp_listen(addr(SERVER), 8).unwrap();
    let options = TcpOptions::default();
    let stays = a.tcp_connect(now, addr("0.0.0.0:0"), addr(SERVER), options);
    let port = a.tcp_free_port(moved.ip()).unwrap();
    let from = std::net::SocketAddr::new(moved.ip(), port);
    let ends = a.tcp_connect(now, from, addr(SERVER), options);
    let (stays, ends) = (stays.unwrap(), ends.unwrap());
    pump(now, &mut a, &mut b);
    assert_eq!(a.tcp_local_addr(ends), Some(from));
    let _ = events(&mut a);
    a.set_addresses(&[A4.into()]).unwrap();
    a.tcp_end_at(now, moved.ip());
    assert_eq!(
        events(&mut a),
        [Event::TcpFailed(ends, TcpError::Unreachable)]
    );
    assert_eq!(a.tcp_send(now, stays, b"goes on"), Ok(7));
    pump(now, &mut a, &mut b);
    assert_eq!(a.tcp_state(stays), Some(TcpState::Established));
}

#[test]
fn connections_of_an_address_can_be_taken_before_all_others() {
    let now = Instant::now();
    let (mut a, mut b) = (alice(), bob());
    let moved = addr("10.0.1.1:0");
    a.set_addresses(&[A4.into(), moved.ip()]).unwrap();
    let listener = b.tcp_listen(addr(SERVER), 8).unwrap();
    let options = TcpOptions::default();
    for local in [addr("0.0.0.0:0"), moved, addr("0.0.0.0:0")] {
        a.tcp_connect(now, local, addr(SERVER), options).unwrap();
    }
    assert_eq!(a.take_transmit_from(&[]), None);
    let segment = a.take_transmit_from(&[moved.ip()]).unwrap();
    assert_eq!(segment[12..16], [10, 0, 1, 1]);
    assert_eq!(a.take_transmit_from(&[moved.ip()]), None);
    b.handle_packet(now, &segment);
    // The others have lost nothing.
    pump(now, &mut a, &mut b);
    let accepted = std::iter::from_fn(|| b.tcp_accept(listener)).count();
    assert_eq!(accepted, 3);
}
