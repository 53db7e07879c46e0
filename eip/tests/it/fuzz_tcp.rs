//! The assertions of the TCP fuzz target, as a function of bytes; see `fuzz.rs`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use smoltcp::wire::checksum;
use tsc_eip::{Event, Stack, StackConfig, TcpHandle, TcpIncomingId, TcpListenHandle, TcpOptions};

const ENDS: [&str; 2] = ["10.0.0.1", "10.0.0.2"];
const MAX_IN_FLIGHT: usize = 64;

/// Small limits, so that short inputs reach them.
fn config(transparent: bool) -> StackConfig {
    StackConfig {
        mtu: 576,
        pool_buffers: 16,
        transparent,
        tcp_connections: 4,
        tcp_listeners: 2,
        tcp_half_open: 2,
        tcp_incoming: 2,
        tcp_time_waits: 2,
        tcp_buffer_bytes: 16 * 1024,
        tcp_total_bytes: 3 * 32 * 1024,
        ephemeral_ports: 50_000..=50_007,
        ..StackConfig::default()
    }
}

struct End {
    stack: Stack,
    inbound: Vec<Vec<u8>>,
    listeners: Vec<TcpListenHandle>,
    /// Handle, bytes written, bytes read.
    connections: Vec<(TcpHandle, u32, u32)>,
    incoming: Vec<TcpIncomingId>,
}

/// The byte at `at` of the stream that `from` sends.
fn byte(from: SocketAddr, at: u32) -> u8 {
    let salt = u32::from(from.port());
    let [high, ..] = (at.wrapping_add(1).wrapping_mul(0x9e37_79b1)
        ^ salt.wrapping_mul(0x85eb_ca6b))
    .to_be_bytes();
    high
}

/// Two stacks and a network that loses, repeats, reorders and, if the first byte says so, forges.
/// Without forgery each end reads a prefix of what the other has written.
pub(crate) fn tcp(data: &[u8]) {
    let mut input = data.iter().copied();
    let mut next = || input.next();
    let mode = next().unwrap_or(0);
    let (forging, transparent) = (mode & 1 != 0, mode & 2 != 0);
    let mut now = Instant::now();
    let mut ends = [0, 1].map(|side| {
        let transparent = transparent && side == 1;
        let mut stack = Stack::new(config(transparent), side as u64);
        let address: IpAddr = ENDS[side].parse().unwrap();
        if !transparent {
            stack.set_addresses(&[address]).unwrap();
        }
        let local = SocketAddr::new(address, 80);
        let listeners = stack.tcp_listen(local, 1).into_iter().collect();
        End {
            stack,
            inbound: Vec::new(),
            listeners,
            connections: Vec::new(),
            incoming: Vec::new(),
        }
    });
    while let Some(op) = next() {
        let mut argument = || next().unwrap_or(0);
        let side = usize::from(op >> 7);
        let there: IpAddr = ENDS[1 - side].parse().unwrap();
        let here: IpAddr = ENDS[side].parse().unwrap();
        let end = &mut ends[side];
        match op & 0x0f {
            0 => {
                let choice = argument();
                let port = if choice & 1 == 0 { 80 } else { 81 };
                let local = SocketAddr::new(here, if choice & 2 == 0 { 0 } else { 7000 });
                let remote = SocketAddr::new(there, port);
                let options = TcpOptions {
                    nodelay: choice & 4 == 0,
                    keep_alive: (choice & 8 != 0).then_some(Duration::from_secs(5)),
                    ..TcpOptions::default()
                };
                if let Ok(handle) = end.stack.tcp_connect(now, local, remote, options) {
                    end.connections.push((handle, 0, 0));
                }
            }
            1 => {
                for listener in end.listeners.clone() {
                    while let Some((handle, _)) = end.stack.tcp_accept(listener) {
                        end.connections.push((handle, 0, 0));
                    }
                }
            }
            2 => {
                if let Some(id) = end.incoming.pop() {
                    match argument() % 4 {
                        0 => {
                            end.stack.tcp_incoming_reject(now, id);
                        }
                        1 => {
                            end.stack.tcp_incoming_drop(id);
                        }
                        _ => {
                            let options = TcpOptions::default();
                            if let Ok(handle) = end.stack.tcp_incoming_accept(now, id, options) {
                                end.connections.push((handle, 0, 0));
                            }
                        }
                    }
                }
            }
            3 | 4 => write(end, now, argument(), u32::from(argument()) * 64),
            5 | 6 => read(end, now, argument(), usize::from(argument()) * 64, forging),
            7 => {
                if let Some((handle, ..)) = pick(&end.connections, argument()) {
                    let _ = end.stack.tcp_shutdown(now, handle);
                }
            }
            8 => {
                if let Some((handle, ..)) = pick(&end.connections, argument()) {
                    let abort = argument() & 1 != 0;
                    let held = if abort {
                        end.stack.tcp_abort(now, handle)
                    } else {
                        end.stack.tcp_close(now, handle)
                    };
                    assert!(held, "handles stay until they are given up");
                    end.connections.retain(|(other, ..)| *other != handle);
                }
            }
            9 => {
                let index = usize::from(argument());
                let keep = op & 0x40 != 0;
                if index < end.inbound.len() {
                    let packet = end.inbound[index].clone();
                    if !keep {
                        end.inbound.remove(index);
                    }
                    end.stack.handle_packet(now, &packet);
                }
            }
            10 => {
                for packet in std::mem::take(&mut end.inbound) {
                    end.stack.handle_packet(now, &packet);
                }
            }
            11 => {
                let index = usize::from(argument());
                if index < end.inbound.len() {
                    end.inbound.remove(index);
                }
            }
            12 => {
                now += Duration::from_millis(u64::from(argument()).pow(2));
                for end in &mut ends {
                    end.stack.handle_timeout(now);
                }
            }
            13 if forging => {
                let index = usize::from(argument());
                if let Some(mut packet) = end.inbound.get(index).cloned() {
                    forge(
                        &mut packet,
                        [argument(), argument(), argument(), argument()],
                    );
                    end.stack.handle_packet(now, &packet);
                }
            }
            14 => end.stack.set_mtu(576 + u16::from(argument()) * 4),
            _ => {
                if let Some(listener) = end.listeners.pop() {
                    end.stack.tcp_listener_close(now, listener);
                } else {
                    let local = SocketAddr::new(here, 80);
                    end.listeners.extend(end.stack.tcp_listen(local, 2));
                }
            }
        }
        turn(&mut ends);
    }
    // With nobody talking any more, everything comes to an end.
    for end in &mut ends {
        for (handle, ..) in end.connections.drain(..) {
            assert!(end.stack.tcp_close(now, handle));
        }
        for listener in end.listeners.drain(..) {
            end.stack.tcp_listener_close(now, listener);
        }
        let limit = now + Duration::from_secs(400);
        let mut steps = 0;
        while let Some(at) = end.stack.poll_timeout().filter(|at| *at < limit) {
            end.stack.handle_timeout(at);
            while end.stack.poll_transmit().is_some() {}
            steps += 1;
            assert!(steps < 10_000, "time stands still");
        }
        let gauges = end.stack.stats().gauges;
        let left = (
            gauges.tcp_connections,
            gauges.tcp_half_open,
            gauges.tcp_incoming,
            gauges.tcp_time_waits,
            gauges.tcp_buffer_bytes,
        );
        assert_eq!(left, (0, 0, 0, 0, 0));
        assert_eq!(end.stack.poll_timeout(), None);
    }
}

fn pick(connections: &[(TcpHandle, u32, u32)], choice: u8) -> Option<(TcpHandle, u32, u32)> {
    connections
        .get(usize::from(choice) % connections.len().max(1))
        .copied()
}

fn write(end: &mut End, now: Instant, choice: u8, len: u32) {
    let Some((handle, written, _)) = pick(&end.connections, choice) else {
        return;
    };
    let local = end.stack.tcp_local_addr(handle).unwrap();
    let data: Vec<u8> = (written..written + len).map(|at| byte(local, at)).collect();
    let room = end.stack.tcp_send_capacity(handle).unwrap();
    if let Ok(taken) = end.stack.tcp_send(now, handle, &data) {
        assert_eq!(taken, data.len().min(room));
        for connection in &mut end.connections {
            if connection.0 == handle {
                connection.1 += taken as u32;
            }
        }
    }
}

fn read(end: &mut End, now: Instant, choice: u8, len: usize, forging: bool) {
    let Some((handle, _, had)) = pick(&end.connections, choice) else {
        return;
    };
    let peer = end.stack.tcp_peer_addr(handle).unwrap();
    let (mut buffer, mut peeked) = (vec![0; len + 1], vec![0; len + 1]);
    let seen = end.stack.tcp_peek(handle, &mut peeked);
    let got = end.stack.tcp_recv(now, handle, &mut buffer);
    assert_eq!(seen, got);
    if let Ok(Some(got)) = got {
        assert_eq!(peeked[..got], buffer[..got]);
        for (at, found) in (had..).zip(&buffer[..got]) {
            assert!(
                forging || *found == byte(peer, at),
                "byte {at} of the stream"
            );
        }
        for connection in &mut end.connections {
            if connection.0 == handle {
                connection.2 += got as u32;
            }
        }
    }
}

/// Changes a segment on its way and repairs its checksum.
fn forge(packet: &mut [u8], [field, high, low, flags]: [u8; 4]) {
    if packet.len() < 40 || packet[0] != 0x45 {
        return;
    }
    let delta = i32::from(i16::from_be_bytes([high, low]));
    let (at, scale) = match field & 3 {
        0 => (24, 1),
        1 => (28, 1),
        2 => (24, 1000),
        _ => (28, 1000),
    };
    let old = i32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
    packet[at..at + 4].copy_from_slice(&old.wrapping_add(delta * scale).to_be_bytes());
    if field & 4 != 0 {
        packet[33] = flags & 0x3f;
    }
    if field & 8 != 0 {
        packet[34..36].copy_from_slice(&[high, flags]);
    }
    packet[36..38].fill(0);
    let tcp = packet.split_at(20);
    let address = |at: usize| <[u8; 4]>::try_from(&tcp.0[at..at + 4]).unwrap().into();
    let pseudo = checksum::pseudo_header_v4(
        &address(12),
        &address(16),
        smoltcp::wire::IpProtocol::Tcp,
        tcp.1.len() as u32,
    );
    let sum = !checksum::combine(&[pseudo, checksum::data(tcp.1)]);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}

/// Packets onto the wire, events to those who follow them, and every bound looked at.
fn turn(ends: &mut [End; 2]) {
    for (from, to) in [(0, 1), (1, 0)] {
        let mut sent = 0;
        while let Some(packet) = ends[from].stack.poll_transmit() {
            assert!(packet.len() <= 1600);
            sent += 1;
            assert!(sent < 1000, "a turn ends");
            if ends[to].inbound.len() < MAX_IN_FLIGHT {
                ends[to].inbound.push(packet.clone());
            }
            ends[from].stack.recycle(packet);
        }
        let end = &mut ends[from];
        assert!(!end.stack.wants_transmit());
        while let Some(event) = end.stack.poll_event() {
            let held = |handle| end.connections.iter().any(|(other, ..)| *other == handle);
            match event {
                Event::TcpConnected(handle)
                | Event::TcpReadable(handle)
                | Event::TcpWritable(handle)
                | Event::TcpFailed(handle, _) => assert!(held(handle), "{event:?}"),
                Event::TcpAcceptable(listener) => assert!(end.listeners.contains(&listener)),
                Event::TcpIncoming(incoming) => end.incoming.push(incoming.id),
                _ => panic!("{event:?}"),
            }
        }
        end.incoming.truncate(8);
        let gauges = end.stack.stats().gauges;
        assert!(gauges.tcp_connections <= 4, "{gauges:?}");
        assert!(gauges.tcp_half_open <= 4, "{gauges:?}");
        assert!(gauges.tcp_incoming <= 2, "{gauges:?}");
        assert!(gauges.tcp_time_waits <= 2, "{gauges:?}");
        assert!(gauges.tcp_buffer_bytes <= 3 * 32 * 1024, "{gauges:?}");
    }
}
