//! Windows that shut and open, and acknowledgements at their edges, segment by segment.

use super::*;

#[test]
fn what_is_written_after_the_window_shut_is_probed() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    peer.hear(seq, ack, 0);
    assert_eq!(transmits(&mut peer.stack).len(), 0);
    assert_eq!(peer.stack.tcp_send(peer.now, handle, b"hello"), Ok(5));
    let sent = peer.wait(120);
    assert!(sent > 0, "no zero-window probe in 120 s");
}

#[test]
fn an_open_window_is_told_though_an_acknowledgement_comes_first() {
    let config = StackConfig {
        tcp_buffer_bytes: 16 * 1024,
        ..StackConfig::default()
    };
    let mut peer = Peer::new(config);
    let handle = peer.open();
    let (mut seq, ack) = (peer.seq, peer.ack);
    for _ in 0..16 {
        peer.tell(seq, ack, ACK, &[1; 1024]);
        seq += 1024;
    }
    let _ = peer.wait(1);
    let mut buffer = vec![0; 20_000];
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut buffer),
        Ok(Some(16 * 1024))
    );
    // A pure ACK before the stack's turn to transmit.
    peer.hear(seq, ack, 60_000);
    let sent = peer.wait(120);
    assert!(sent > 0, "the peer never hears of the open window");
}

#[test]
fn keep_alive_survives_a_tail_probe_that_was_overtaken() {
    let mut peer = Peer::new(StackConfig::default());
    let answer = peer.tell_with(1000, 0, SYN, &[3, 3, 7, 1, 4, 2, 1, 1], &[]);
    peer.seq = 1001;
    peer.ack = answer[0].seq.wrapping_add(1);
    assert_eq!(peer.tell(peer.seq, peer.ack, ACK, &[]), []);
    let handle = peer.stack.tcp_accept(peer.listener).unwrap().0;
    let options = TcpOptions {
        keep_alive: Some(Duration::from_secs(10)),
        ..TcpOptions::default()
    };
    peer.stack.tcp_set_options(peer.now, handle, options);
    let (seq, mut ack) = (peer.seq, peer.ack);
    peer.stack.tcp_send(peer.now, handle, b"one").unwrap();
    assert_eq!(transmits(&mut peer.stack).len(), 1);
    peer.now += Duration::from_millis(50);
    ack = ack.wrapping_add(3);
    peer.hear(seq, ack, 60_000);
    peer.stack.tcp_send(peer.now, handle, b"two").unwrap();
    assert_eq!(transmits(&mut peer.stack).len(), 1);
    let at = peer.stack.poll_timeout().unwrap();
    peer.now = at;
    peer.stack.handle_timeout(at);
    // The acknowledgement comes before the stack's turn to transmit.
    ack = ack.wrapping_add(3);
    peer.hear(seq, ack, 60_000);
    let sent = peer.wait(25);
    assert!(sent > 0, "no keep-alive; state {:?}", peer.state(handle));
}

#[test]
fn acknowledgements_from_the_edge_of_the_window_count() {
    let config = StackConfig {
        tcp_buffer_bytes: 16 * 1024,
        ..StackConfig::default()
    };
    let mut peer = Peer::new(config);
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    // The first segment is lost, the rest fills the window.
    for n in 1..16 {
        peer.tell(seq + n * 1024, ack, ACK, &[1; 1024]);
    }
    peer.stack.tcp_send(peer.now, handle, b"hi").unwrap();
    assert_eq!(transmits(&mut peer.stack).len(), 1);
    peer.hear(seq + 16 * 1024, ack.wrapping_add(2), 60_000);
    assert_eq!(
        peer.stack.tcp_queued(handle).unwrap().0,
        0,
        "the acknowledgement was ignored"
    );
}

#[test]
fn a_window_that_a_challenge_tells_is_honoured() {
    let config = StackConfig {
        tcp_buffer_bytes: 16 * 1024,
        ..StackConfig::default()
    };
    let mut peer = Peer::new(config);
    let handle = peer.open();
    let (mut seq, ack) = (peer.seq, peer.ack);
    for _ in 0..16 {
        peer.tell(seq, ack, ACK, &[1; 1024]);
        seq += 1024;
    }
    let _ = peer.wait(1);
    let mut buffer = vec![0; 20_000];
    peer.stack.tcp_recv(peer.now, handle, &mut buffer).unwrap();
    peer.hear(seq, ack, 60_000);
    let _ = peer.wait(10);
    let said = peer.tell(seq.wrapping_sub(1), ack, ACK, &[]);
    assert!(said[0].window > 0);
    peer.tell(seq, ack, ACK, &[3; 1000]);
    assert_eq!(
        peer.stack.tcp_queued(handle),
        Some((0, 1000)),
        "told, then refused"
    );
}

#[test]
fn tiny_writes_are_gathered_once_many_are_on_their_way() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, mut ack) = (peer.seq, peer.ack);
    let mut sent = 0;
    for _ in 0..5000 {
        assert_eq!(peer.stack.tcp_send(peer.now, handle, b"x"), Ok(1));
        sent += transmits(&mut peer.stack).len();
    }
    assert!((250..300).contains(&sent), "{sent} segments");
    // They go on as the peer answers, and nothing is lost.
    let mut whole = sent;
    while peer.stack.tcp_queued(handle).unwrap().0 > 0 {
        ack = ack.wrapping_add(u32::try_from(sent).unwrap());
        sent = 0;
        for said in peer.tell(seq, ack, ACK, &[]) {
            sent += said.payload.len();
        }
        whole += sent;
    }
    assert_eq!(whole, 5000);
}
