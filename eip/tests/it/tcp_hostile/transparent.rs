//! A stack that stands for the Internet.

use super::*;

fn net() -> Net {
    let config = StackConfig {
        transparent: true,
        tcp_incoming: 3,
        ..StackConfig::default()
    };
    Net::new(
        alice(),
        Stack::new(config, 2),
        Link::delay(Duration::from_millis(10)),
        1,
    )
}

fn connect(net: &mut Net, to: &str) -> TcpHandle {
    let any = if to.starts_with('[') {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    net.stacks[0]
        .tcp_connect(net.now, addr(any), addr(to), TcpOptions::default())
        .unwrap()
}

#[test]
fn a_request_waits_for_its_owner_and_is_answered_once_accepted() {
    for to in ["198.51.100.7:443", "[2001:db8:77::1]:443"] {
        let mut net = net();
        let client = connect(&mut net, to);
        // Repetitions of the SYN are no new requests.
        net.run(Duration::from_secs(5));
        let events = net.events(1);
        let [Event::TcpIncoming(incoming)] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(
            (Some(incoming.remote), incoming.local),
            (net.stacks[0].tcp_local_addr(client), addr(to))
        );
        assert_eq!(net.carried[1], 0, "nothing was answered");
        assert!(net.stacks[1].tcp_incoming_packet(incoming.id).is_some());
        let server = net.stacks[1]
            .tcp_incoming_accept(net.now, incoming.id, TcpOptions::default())
            .unwrap();
        assert_eq!(net.stacks[1].tcp_state(server), Some(TcpState::SynReceived));
        assert_eq!(
            net.stacks[1].tcp_incoming_accept(net.now, incoming.id, TcpOptions::default()),
            Err(tsc_eip::TcpConnectError::Withdrawn)
        );
        net.run(Duration::from_secs(1));
        assert_eq!(net.events(0), [Event::TcpConnected(client)]);
        assert_eq!(net.events(1), [Event::TcpConnected(server)]);
        assert_eq!(net.stacks[1].tcp_local_addr(server), Some(addr(to)));
        net.stacks[1].tcp_send(net.now, server, b"welcome").unwrap();
        net.run(Duration::from_secs(1));
        assert_eq!(net.read(0, client).0, b"welcome");
    }
}

#[test]
fn a_request_can_be_rejected_dropped_or_left_to_expire() {
    let mut net = net();
    let client = connect(&mut net, "198.51.100.7:1");
    net.run(Duration::from_millis(100));
    let Event::TcpIncoming(incoming) = net.events(1)[0] else {
        panic!()
    };
    assert!(net.stacks[1].tcp_incoming_reject(net.now, incoming.id));
    assert!(!net.stacks[1].tcp_incoming_reject(net.now, incoming.id));
    net.run(Duration::from_millis(100));
    assert_eq!(net.events(0), [Event::TcpFailed(client, TcpError::Refused)]);
    // Dropped: the next repetition asks again.
    let _second = connect(&mut net, "198.51.100.7:2");
    net.run(Duration::from_millis(100));
    let Event::TcpIncoming(incoming) = net.events(1)[0] else {
        panic!()
    };
    assert!(net.stacks[1].tcp_incoming_drop(incoming.id));
    net.run(Duration::from_secs(2));
    let Event::TcpIncoming(again) = net.events(1)[0] else {
        panic!()
    };
    assert_ne!(again.id, incoming.id);
    // Left alone.
    net.run(Duration::from_secs(400));
    assert_eq!(net.stacks[1].stats().gauges.tcp_incoming, 0);
    assert!(!net.stacks[1].tcp_incoming_drop(again.id));
}

#[test]
fn requests_are_bounded_whether_or_not_anybody_listens() {
    let mut net = net();
    for port in 1..=500 {
        let packet = segment(
            addr("10.0.0.1:9"),
            SocketAddr::new([8, 8, 8, 8].into(), port),
            7,
            0,
            SYN,
            1000,
            &[],
            &[],
        );
        net.stacks[1].handle_packet(net.now, &packet);
    }
    assert_eq!(net.stacks[1].stats().gauges.tcp_incoming, 3);
    assert_eq!(net.stacks[1].stats().tcp.incoming_evicted, 497);
    let ports: Vec<u16> = net
        .events(1)
        .iter()
        .map(|event| match event {
            Event::TcpIncoming(incoming) => incoming.local.port(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ports, [498, 499, 500], "the youngest");
}

#[test]
fn a_peer_that_gives_up_before_or_after_the_answer_is_let_go() {
    let mut net = net();
    let from = addr("10.0.0.1:9");
    let to = addr("198.51.100.7:80");
    let send = |net: &mut Net, seq, ack, flags| {
        net.stacks[1].handle_packet(net.now, &segment(from, to, seq, ack, flags, 1000, &[], &[]));
    };
    send(&mut net, 7, 0, SYN);
    send(&mut net, 8, 0, RST);
    assert_eq!(net.events(1), [], "withdrawn before it was told");
    send(&mut net, 100, 0, SYN);
    send(&mut net, 200, 0, SYN);
    let events = net.events(1);
    let [Event::TcpIncoming(incoming)] = events[..] else {
        panic!("{events:?}")
    };
    let handle = net.stacks[1]
        .tcp_incoming_accept(net.now, incoming.id, TcpOptions::default())
        .unwrap();
    let answer = read(&transmits(&mut net.stacks[1])[0]);
    assert_eq!((answer.flags, answer.ack), (SYN | ACK, 201));
    send(&mut net, 201, 0, RST);
    assert_eq!(net.events(1), [Event::TcpFailed(handle, TcpError::Refused)]);
}

#[test]
fn shutting_down_before_the_peer_has_acknowledged_loses_nothing() {
    let mut net = net();
    let client = connect(&mut net, "198.51.100.7:80");
    net.run(Duration::from_millis(15));
    let Event::TcpIncoming(incoming) = net.events(1)[0] else {
        panic!()
    };
    let server = net.stacks[1]
        .tcp_incoming_accept(net.now, incoming.id, TcpOptions::default())
        .unwrap();
    net.stacks[1].tcp_shutdown(net.now, server).unwrap();
    net.run(Duration::from_secs(1));
    assert_eq!(net.stacks[1].tcp_state(server), Some(TcpState::FinWait2));
    assert_eq!(net.read(0, client), (Vec::new(), true));
    net.stacks[0].tcp_send(net.now, client, b"still").unwrap();
    net.run(Duration::from_secs(1));
    assert_eq!(net.read(1, server).0, b"still");
}

#[test]
fn other_protocols_get_no_answer() {
    let mut net = net();
    let udp = udp_packet(addr("10.0.0.1:9"), addr("198.51.100.7:53"), b"query");
    let echo = packet(
        A4.into(),
        [8, 8, 8, 8].into(),
        ICMP,
        None,
        &icmp(
            A4.into(),
            [8, 8, 8, 8].into(),
            [8, 0, 0, 0, 0, 1, 0, 1],
            b"ping",
        ),
    );
    for packet in [udp, echo] {
        net.stacks[1].handle_packet(net.now, &packet);
    }
    assert!(transmits(&mut net.stacks[1]).is_empty());
}
