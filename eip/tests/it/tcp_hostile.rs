//! Peers that lie: segments written by hand against a stack.

mod transparent;
mod windows;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tsc_eip::{
    Event, Stack, StackConfig, TcpError, TcpHandle, TcpListenHandle, TcpOptions, TcpState,
};

use crate::net::*;
use crate::support::*;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// A peer of flesh and blood.
struct Peer {
    now: Instant,
    stack: Stack,
    listener: TcpListenHandle,
    here: SocketAddr,
    there: SocketAddr,
    seq: u32,
    ack: u32,
}

/// What a segment of the stack's says.
#[derive(Debug, PartialEq)]
struct Said {
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    payload: Vec<u8>,
}

fn read(packet: &[u8]) -> Said {
    let tcp = &packet[20..];
    assert_eq!(checksum_of(packet), 0, "the checksum is right");
    let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().unwrap());
    Said {
        seq: word(4),
        ack: word(8),
        flags: tcp[13] & 0x1f & !8,
        window: u16::from_be_bytes([tcp[14], tcp[15]]),
        payload: tcp[usize::from(tcp[12] >> 4) * 4..].to_vec(),
    }
}

fn checksum_of(packet: &[u8]) -> u16 {
    let len = (packet.len() - 20) as u16;
    let [a, b] = len.to_be_bytes();
    checksum(&[&packet[12..20], &[0, 6, a, b], &packet[20..]])
}

#[expect(clippy::too_many_arguments, reason = "the fields of a segment")]
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    seq: u32,
    ack: u32,
    flags: u8,
    window: u16,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(seq.to_be_bytes());
    tcp.extend(ack.to_be_bytes());
    tcp.extend([(5 + options.len() as u8 / 4) << 4, flags]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(options);
    tcp.extend(payload);
    let mut whole = packet(from.ip(), to.ip(), 6, None, &tcp);
    let sum = checksum_of(&whole).to_be_bytes();
    whole[36..38].copy_from_slice(&sum);
    whole
}

impl Peer {
    fn new(config: StackConfig) -> Self {
        let mut stack = host(config, 1, &[A4.into()]);
        let there = addr("10.0.0.1:80");
        let listener = stack.tcp_listen(there, 4).unwrap();
        Self {
            now: Instant::now(),
            stack,
            listener,
            here: addr("10.0.0.2:4000"),
            there,
            seq: 1000,
            ack: 0,
        }
    }

    fn tell(&mut self, seq: u32, ack: u32, flags: u8, payload: &[u8]) -> Vec<Said> {
        self.tell_with(seq, ack, flags, &[], payload)
    }

    fn tell_with(
        &mut self,
        seq: u32,
        ack: u32,
        flags: u8,
        options: &[u8],
        payload: &[u8],
    ) -> Vec<Said> {
        let packet = segment(
            self.here, self.there, seq, ack, flags, 60_000, options, payload,
        );
        self.stack.handle_packet(self.now, &packet);
        transmits(&mut self.stack)
            .iter()
            .map(|packet| read(packet))
            .collect()
    }

    /// Opens a connection with window scaling.
    fn open(&mut self) -> TcpHandle {
        let seq = self.seq;
        let answer = self.tell_with(seq, 0, SYN, &[3, 3, 7, 1], &[]);
        assert_eq!(
            (answer.len(), answer[0].flags, answer[0].ack),
            (1, SYN | ACK, seq + 1)
        );
        self.seq = seq + 1;
        self.ack = answer[0].seq.wrapping_add(1);
        assert_eq!(self.tell(self.seq, self.ack, ACK, &[]), []);
        self.stack.tcp_accept(self.listener).unwrap().0
    }

    /// An acknowledgement arrives; the stack has no turn to transmit.
    fn hear(&mut self, seq: u32, ack: u32, window: u16) {
        let packet = segment(self.here, self.there, seq, ack, ACK, window, &[], &[]);
        self.stack.handle_packet(self.now, &packet);
    }

    /// So many seconds pass. Returns how many packets were sent.
    fn wait(&mut self, seconds: u64) -> usize {
        let end = self.now + Duration::from_secs(seconds);
        let mut count = transmits(&mut self.stack).len();
        while let Some(at) = self.stack.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.stack.handle_timeout(self.now);
            count += transmits(&mut self.stack).len();
        }
        self.now = end;
        count
    }

    fn state(&self, handle: TcpHandle) -> Option<TcpState> {
        self.stack.tcp_state(handle)
    }
}

#[test]
fn only_the_exact_number_resets() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    // In the window: a challenge, once in a while. Outside: nothing.
    let challenged = peer.tell(seq + 1, ack, RST, &[]);
    assert_eq!(challenged.len(), 1);
    assert_eq!(
        (challenged[0].seq, challenged[0].ack, challenged[0].flags),
        (ack, seq, ACK)
    );
    for wrong in [
        seq.wrapping_sub(1),
        seq + 2,
        seq + 5000,
        seq + 0x4000_0000,
        0,
    ] {
        assert_eq!(peer.tell(wrong, ack, RST, &[]), []);
        assert_eq!(peer.tell(wrong, 0, RST | ACK, &[]), []);
    }
    assert_eq!(peer.state(handle), Some(TcpState::Established));
    assert_eq!(peer.tell(seq, 0, RST, &[]), []);
    assert_eq!(peer.state(handle), Some(TcpState::Closed));
    assert_eq!(
        events(&mut peer.stack),
        [
            Event::TcpAcceptable(peer.listener),
            Event::TcpFailed(handle, TcpError::Reset)
        ][1..]
    );
}

#[test]
fn a_flood_of_resets_costs_nothing_and_harms_nobody() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let before = peer.stack.stats().gauges;
    let mut answers = 0;
    for n in 0..20_000u32 {
        if n.wrapping_mul(0x9e37_79b9) != peer.seq {
            answers += peer.tell(n.wrapping_mul(0x9e37_79b9), n, RST, &[]).len();
        }
        peer.here.set_port(4001 + (n % 1000) as u16);
        assert_eq!(peer.tell(n, n, RST, &[]), [], "to nobody");
        peer.here.set_port(4000);
    }
    assert!(answers <= 1, "{answers} challenges at one moment");
    assert_eq!(peer.stack.stats().gauges, before);
    assert_eq!(peer.state(handle), Some(TcpState::Established));
    let (seq, ack) = (peer.seq, peer.ack);
    peer.tell(seq, ack, ACK, b"fine");
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut [0; 9]),
        Ok(Some(4))
    );
}

#[test]
fn what_does_not_fit_a_connection_is_challenged_or_dropped() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    let step = Duration::from_secs(1);
    // A SYN in the middle: a peer that has restarted learns where we are.
    for flags in [SYN, SYN | ACK] {
        peer.now += step;
        let said = peer.tell(seq + 77, ack, flags, &[]);
        assert_eq!((said.len(), said[0].flags, said[0].ack), (1, ACK, seq));
    }
    // An acknowledgement of what was not sent, even if it is in the buffer.
    assert_eq!(peer.stack.tcp_send(peer.now, handle, b"data"), Ok(4));
    for beyond in [1, 4, 5, 100_000] {
        peer.now += step;
        let said = peer.tell(seq, ack + beyond, ACK, &[]);
        assert!(said.iter().any(|said| said.ack == seq), "{said:?}");
        if beyond == 1 {
            // The data went out with the answers.
            assert!(said.iter().any(|said| said.payload == b"data"));
            break;
        }
    }
    // No acknowledgement at all.
    assert_eq!(peer.tell(seq, 0, 0, b"x"), []);
    // Nonsense flags.
    assert_eq!(peer.tell(seq, ack, SYN | FIN | ACK, &[]), []);
    assert_eq!(peer.state(handle), Some(TcpState::Established));
    assert_eq!(peer.stack.tcp_recv(peer.now, handle, &mut [0; 9]), Ok(None));
    peer.tell(seq, ack + 4, ACK, b"good");
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut [0; 9]),
        Ok(Some(4))
    );
    assert_eq!(peer.stack.tcp_queued(handle), Some((0, 0)));
}

/// What the peer has to send again is told though we have data for it: options take no room from them.
#[test]
fn a_gap_is_told_before_data() {
    let mut peer = Peer::new(StackConfig::default());
    let answer = peer.tell_with(1000, 0, SYN, &[4, 2, 1, 1], &[]);
    peer.seq = 1001;
    peer.ack = answer[0].seq.wrapping_add(1);
    let (seq, ack) = (peer.seq, peer.ack);
    peer.tell(seq, ack, ACK, &[]);
    let handle = peer.stack.tcp_accept(peer.listener).unwrap().0;
    let beyond = segment(
        peer.here,
        peer.there,
        seq + 5,
        ack,
        ACK,
        60_000,
        &[],
        b"later",
    );
    peer.stack.handle_packet(peer.now, &beyond);
    assert_eq!(peer.stack.tcp_send(peer.now, handle, b"data"), Ok(4));
    let packets = transmits(&mut peer.stack);
    assert_eq!(packets.len(), 2);
    assert_eq!(read(&packets[0]).payload, b"");
    let block = [5, 10, (seq + 5).to_be_bytes()[0]];
    assert_eq!(packets[0][40..43], block);
    assert_eq!(packets[0][42..46], (seq + 5).to_be_bytes());
    assert_eq!(packets[0][46..50], (seq + 10).to_be_bytes());
    assert_eq!(read(&packets[1]).payload, b"data");
}

/// A reader that has stopped does not trickle: what is sent into a shut window is answered, not taken.
#[test]
fn probes_of_a_shut_window_are_not_taken() {
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
    assert_eq!(peer.stack.tcp_queued(handle), Some((0, 16 * 1024)));
    for len in [1, 1, 500, 1460] {
        peer.now += Duration::from_secs(5);
        let said = peer.tell(seq, ack, ACK, &vec![2; len]);
        assert_eq!((said.len(), said[0].ack, said[0].window), (1, seq, 0));
    }
    // A little room is not told of, nor taken; a segment's is.
    let mut buffer = [0; 1400];
    for _ in 0..2 {
        peer.stack
            .tcp_recv(peer.now, handle, &mut buffer[..500])
            .unwrap();
        assert!(transmits(&mut peer.stack).is_empty());
        let said = peer.tell(seq, ack, ACK, &[2; 1]);
        assert_eq!((said[0].ack, said[0].window), (seq, 0));
    }
    peer.stack.tcp_recv(peer.now, handle, &mut buffer).unwrap();
    let told = transmits(&mut peer.stack);
    assert_eq!(told.len(), 1);
    assert_eq!((read(&told[0]).ack, read(&told[0]).window), (seq, 2400));
    assert_eq!(peer.stack.tcp_queued(handle), Some((0, 16 * 1024 - 2400)));
}

#[test]
fn data_far_beyond_the_buffer_are_refused() {
    for buffer in [16 * 1024, 1024 * 1024] {
        let config = StackConfig {
            tcp_buffer_bytes: buffer,
            ..StackConfig::default()
        };
        // With the acknowledgement that opens the connection, and after it.
        for early in [true, false] {
            let mut peer = Peer::new(config.clone());
            let handle = if early {
                let answer = peer.tell_with(1000, 0, SYN, &[3, 3, 7, 1], &[]);
                peer.seq = 1001;
                peer.ack = answer[0].seq.wrapping_add(1);
                None
            } else {
                Some(peer.open())
            };
            let (seq, ack) = (peer.seq, peer.ack);
            let buffer = buffer as u32;
            for offset in [
                buffer - 1,
                buffer,
                buffer + 1,
                2 * buffer - 2,
                2 * buffer,
                0xffff,
            ] {
                peer.tell(seq + offset, ack, ACK, &[1; 1000]);
                peer.tell(seq + offset, ack, ACK | FIN, &[1; 10]);
            }
            peer.tell(seq, ack, ACK, b"ok");
            let handle = handle.or_else(|| {
                peer.stack
                    .tcp_accept(peer.listener)
                    .map(|(handle, _)| handle)
            });
            if let Some(handle) = handle {
                let mut data = [0; 9];
                assert_eq!(
                    peer.stack.tcp_recv(peer.now, handle, &mut data),
                    Ok(Some(2))
                );
                assert_eq!(&data[..2], b"ok");
                assert_eq!(peer.state(handle), Some(TcpState::Established));
            }
        }
    }
}

#[test]
fn data_with_an_old_acknowledgement_are_taken() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    peer.stack.tcp_send(peer.now, handle, b"12345678").unwrap();
    let _ = transmits(&mut peer.stack);
    peer.tell(seq, ack + 8, ACK, b"first ");
    // Written before `first`'s acknowledgement was known to the writer.
    peer.tell(seq + 6, ack + 4, ACK, b"second");
    let mut data = [0; 20];
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut data),
        Ok(Some(12))
    );
    assert_eq!(&data[..12], b"first second");
}

#[test]
fn overlapping_segments_make_one_stream_and_the_first_copy_counts() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    peer.tell(seq + 4, ack, ACK, b"efgh");
    peer.tell(seq + 2, ack, ACK, b"cdef");
    peer.tell(seq, ack, ACK, b"ab");
    peer.tell(seq, ack, ACK, b"XXXXXXXXij");
    peer.tell(seq + 9, ack, ACK | FIN, b"jk");
    let mut data = [0; 20];
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut data),
        Ok(Some(11))
    );
    assert_eq!(&data[..11], b"abcdefghijk");
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut data),
        Ok(Some(0))
    );
}

#[test]
fn segments_in_fragments_are_put_together() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let whole = segment(
        peer.here,
        peer.there,
        peer.seq,
        peer.ack,
        ACK,
        6000,
        &[],
        &pattern(600, 1),
    );
    let tcp = &whole[20..];
    let cut = |offset: usize, end: usize, more| {
        let cut = Cut {
            id: 7,
            offset,
            more,
        };
        packet(B4.into(), A4.into(), 6, Some(cut), &tcp[offset..end])
    };
    peer.stack.handle_packet(peer.now, &cut(400, 620, false));
    peer.stack.handle_packet(peer.now, &cut(0, 400, true));
    let mut data = [0; 700];
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut data),
        Ok(Some(600))
    );
    assert_eq!(data[..600], pattern(600, 1));
    // A header that is spread over fragments is nobody's (RFC 1858).
    let cut = |offset: usize, end: usize, more| {
        let cut = Cut {
            id: 8,
            offset,
            more,
        };
        packet(B4.into(), A4.into(), 6, Some(cut), &tcp[offset..end])
    };
    peer.stack.handle_packet(peer.now, &cut(0, 16, true));
    peer.stack.handle_packet(peer.now, &cut(16, 620, false));
    assert_eq!(peer.stack.stats().gauges.reassembly_bytes, 0);
}

#[test]
fn a_bad_checksum_reaches_nobody() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    let mut packet = segment(
        peer.here,
        peer.there,
        peer.seq,
        peer.ack,
        ACK,
        6000,
        &[],
        b"data",
    );
    packet[41] ^= 1;
    peer.stack.handle_packet(peer.now, &packet);
    assert_eq!(peer.stack.tcp_recv(peer.now, handle, &mut [0; 9]), Ok(None));
    assert_eq!(peer.stack.stats().drops.checksum, 1);
    for len in 20..40 {
        let short = shortened(&packet, len);
        peer.stack.handle_packet(peer.now, &short);
    }
    assert_eq!(peer.stack.stats().drops.malformed, 20);
}

/// The packet cut to `len` bytes, with a header that says so.
fn shortened(whole: &[u8], len: usize) -> Vec<u8> {
    packet(B4.into(), A4.into(), 6, None, &whole[20..len])
}

#[test]
fn a_flood_of_requests_leaves_room_and_open_connections_unharmed() {
    let config = StackConfig {
        tcp_half_open: 64,
        ..StackConfig::default()
    };
    let mut peer = Peer::new(config);
    let handle = peer.open();
    let (seq, ack) = (peer.seq, peer.ack);
    let bytes = peer.stack.stats().gauges.tcp_buffer_bytes;
    let flood = |peer: &mut Peer, count: u32| {
        for n in 0..count {
            peer.here = SocketAddr::new(
                [10, 9, (n >> 8) as u8, n as u8].into(),
                1000 + (n % 60_000) as u16,
            );
            let answers = peer.tell(n, 0, SYN, &[]);
            assert_eq!(answers.len(), 1);
        }
        peer.here = addr("10.0.0.2:4000");
    };
    flood(&mut peer, 50_000);
    let stats = peer.stack.stats();
    assert_eq!(stats.gauges.tcp_half_open, 64);
    assert_eq!(stats.gauges.tcp_connections, 1);
    assert_eq!(
        stats.gauges.tcp_buffer_bytes, bytes,
        "half-open connections have no buffers"
    );
    assert_eq!(stats.tcp.half_open_evicted, 50_000 - 64);
    peer.tell(seq, ack, ACK, b"unharmed");
    assert_eq!(
        peer.stack.tcp_recv(peer.now, handle, &mut [0; 9]),
        Ok(Some(8))
    );
    // Who answers soon enough gets in.
    peer.here = addr("10.0.0.3:5000");
    let answer = peer.tell(5, 0, SYN, &[]);
    peer.here = addr("10.0.0.2:4000");
    flood(&mut peer, 60);
    peer.here = addr("10.0.0.3:5000");
    peer.tell(6, answer[0].seq.wrapping_add(1), ACK, b"hello");
    let (second, from) = peer.stack.tcp_accept(peer.listener).unwrap();
    assert_eq!(from, peer.here);
    assert_eq!(
        peer.stack.tcp_recv(peer.now, second, &mut [0; 9]),
        Ok(Some(5))
    );
    // The rest is answered a few times more, and forgotten.
    let start = peer.now;
    let mut repeated = 0;
    while let Some(at) = peer
        .stack
        .poll_timeout()
        .filter(|at| *at < start + Duration::from_secs(40))
    {
        peer.now = at;
        peer.stack.handle_timeout(at);
        repeated += transmits(&mut peer.stack).len();
    }
    assert_eq!(peer.stack.stats().gauges.tcp_half_open, 0);
    assert!(repeated <= 64 * 4, "{repeated}");
}

#[test]
fn a_full_backlog_makes_peers_wait() {
    let mut net = Net::plain();
    let server = addr("10.0.0.2:80");
    let listener = net.stacks[1].tcp_listen(server, 2).unwrap();
    let clients: Vec<_> = (0..3)
        .map(|_| {
            net.stacks[0]
                .tcp_connect(net.now, addr("0.0.0.0:0"), server, TcpOptions::default())
                .unwrap()
        })
        .collect();
    net.run(Duration::from_millis(500));
    assert_eq!(net.stacks[1].stats().gauges.tcp_connections, 2);
    assert!(net.stacks[1].stats().tcp.backlog_full >= 1);
    for client in &clients {
        net.stacks[0]
            .tcp_send(net.now, *client, b"waiting")
            .unwrap();
    }
    assert!(net.stacks[1].tcp_accept(listener).is_some());
    net.run(Duration::from_secs(20));
    let mut served = 1;
    while let Some((handle, _)) = net.stacks[1].tcp_accept(listener) {
        assert_eq!(net.read(1, handle).0, b"waiting");
        served += 1;
    }
    assert_eq!(served, 3);
    // Closing the listener turns away who was not accepted.
    let late = net.stacks[0]
        .tcp_connect(net.now, addr("0.0.0.0:0"), server, TcpOptions::default())
        .unwrap();
    net.run(Duration::from_secs(1));
    net.events(0);
    assert!(net.stacks[1].tcp_listener_close(net.now, listener));
    net.run(Duration::from_secs(1));
    assert!(
        net.events(0)
            .contains(&Event::TcpFailed(late, TcpError::Reset))
    );
}

#[test]
fn limits_of_connections_and_memory_hold() {
    let config = StackConfig {
        tcp_connections: 8,
        tcp_total_bytes: 6 * 32 * 1024,
        tcp_buffer_bytes: 16 * 1024,
        ..StackConfig::default()
    };
    let mut net = Net::new(
        alice(),
        host(config, 2, &[B4.into()]),
        Link::delay(Duration::from_millis(1)),
        1,
    );
    let server = addr("10.0.0.2:80");
    net.stacks[1].tcp_listen(server, 100).unwrap();
    for _ in 0..50 {
        net.stacks[0]
            .tcp_connect(net.now, addr("0.0.0.0:0"), server, TcpOptions::default())
            .unwrap();
    }
    net.run(Duration::from_secs(5));
    let gauges = net.stacks[1].stats().gauges;
    assert_eq!(
        (gauges.tcp_connections, gauges.tcp_buffer_bytes),
        (6, 6 * 32 * 1024)
    );
    let none = net.stacks[1].tcp_connect(
        net.now,
        addr("0.0.0.0:0"),
        addr("10.0.0.1:1"),
        TcpOptions::default(),
    );
    assert_eq!(none, Err(tsc_eip::TcpConnectError::OutOfMemory));
}

#[test]
fn time_wait_answers_a_repeated_fin_and_admits_a_successor() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    peer.stack.tcp_shutdown(peer.now, handle).unwrap();
    let (seq, ack) = (peer.seq, peer.ack);
    let fin = transmits(&mut peer.stack);
    assert_eq!(read(&fin[0]).flags, FIN | ACK);
    let last = peer.tell(seq, ack + 1, FIN | ACK, &[]);
    assert_eq!(
        (last[0].seq, last[0].ack, last[0].flags),
        (ack + 1, seq + 1, ACK)
    );
    assert_eq!(peer.stack.stats().gauges.tcp_time_waits, 1);
    peer.stack.tcp_close(peer.now, handle);
    assert_eq!(peer.stack.stats().gauges.tcp_connections, 0);
    peer.now += Duration::from_secs(50);
    assert_eq!(peer.tell(seq, ack + 1, FIN | ACK, &[]), last);
    assert_eq!(
        peer.tell(seq + 2, ack + 1, RST, &[]),
        [],
        "not the exact number"
    );
    assert_eq!(peer.tell(seq + 1, ack + 1, ACK, &[]), [], "nothing to say");
    peer.now += Duration::from_secs(50);
    peer.stack.handle_timeout(peer.now);
    assert_eq!(
        peer.stack.stats().gauges.tcp_time_waits,
        1,
        "the FIN has restarted the wait"
    );
    let old = peer.tell(seq - 5, 0, SYN, &[]);
    assert_eq!(old, last, "an old duplicate");
    let new = peer.tell(seq + 1000, 0, SYN, &[]);
    assert_eq!((new[0].flags, new[0].ack), (SYN | ACK, seq + 1001));
    assert_eq!(peer.stack.stats().gauges.tcp_time_waits, 0);
}

/// A new request whose number happens to look old: the peer resets what it does not know, and tries
/// again.
#[test]
fn time_wait_ends_by_an_exact_reset() {
    let mut peer = Peer::new(StackConfig::default());
    let handle = peer.open();
    peer.stack.tcp_shutdown(peer.now, handle).unwrap();
    let (seq, ack) = (peer.seq, peer.ack);
    assert_eq!(transmits(&mut peer.stack).len(), 1, "the FIN");
    peer.tell(seq, ack + 1, FIN | ACK, &[]);
    let old = peer.tell(seq.wrapping_sub(5000), 0, SYN, &[]);
    assert_eq!(old[0].flags, ACK);
    assert_eq!(peer.tell(old[0].ack, 0, RST, &[]), []);
    let new = peer.tell(seq.wrapping_sub(5000), 0, SYN, &[]);
    assert_eq!(
        (new[0].flags, new[0].ack),
        (SYN | ACK, seq.wrapping_sub(4999))
    );
}

#[test]
fn time_waits_are_bounded_and_keep_ports_apart() {
    let config = StackConfig {
        tcp_time_waits: 3,
        ephemeral_ports: 40_000..=40_003,
        ..StackConfig::default()
    };
    let mut net = Net::new(
        host(config, 1, &[A4.into()]),
        bob(),
        Link::delay(Duration::from_millis(1)),
        1,
    );
    let server = addr("10.0.0.2:80");
    let listener = net.stacks[1].tcp_listen(server, 16).unwrap();
    for n in 0..10 {
        let client = net.stacks[0]
            .tcp_connect(net.now, addr("0.0.0.0:0"), server, TcpOptions::default())
            .unwrap();
        net.run(Duration::from_millis(20));
        let (peer, _) = net.stacks[1].tcp_accept(listener).unwrap();
        net.stacks[0].tcp_close(net.now, client);
        net.run(Duration::from_millis(20));
        assert_eq!(net.read(1, peer), (Vec::new(), true));
        net.stacks[1].tcp_close(net.now, peer);
        net.run(Duration::from_millis(20));
        let gauges = net.stacks[0].stats().gauges;
        assert_eq!(
            (gauges.tcp_connections, gauges.tcp_time_waits),
            (0, 3.min(n + 1))
        );
    }
}
