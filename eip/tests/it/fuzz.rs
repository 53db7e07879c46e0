//! The assertions of the fuzz targets, as functions of bytes. `fuzz/fuzz_targets` and the replay of
//! the corpus (`corpus.rs`) share this file, so that what a fuzzer found keeps being checked by the
//! ordinary tests.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;
use std::time::{Duration, Instant};

use smoltcp::wire::checksum;
use tsc_eip::{Dscp, Event, SendOptions, Stack, StackConfig, UdpHandle};

const HERE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const HERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const THERE4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const THERE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

/// Small limits, so that short inputs reach them.
fn config() -> StackConfig {
    StackConfig {
        mtu: 1280,
        sockets: 8,
        receive_packets: 8,
        receive_bytes: 16 * 1024,
        receive_total_bytes: 32 * 1024,
        transmit_packets: 128,
        pool_buffers: 16,
        reassembly_datagrams: 4,
        reassembly_bytes: 8 * 1024,
        path_mtus: 4,
        icmp_errors_per_second: 20,
        echo_replies_per_second: 20,
        ..StackConfig::default()
    }
}

fn assert_bounds(stack: &Stack) {
    let (gauges, limits) = (stack.stats().gauges, config());
    assert!(gauges.sockets <= limits.sockets, "{gauges:?}");
    assert!(
        gauges.receive_bytes <= limits.receive_total_bytes,
        "{gauges:?}"
    );
    assert!(
        gauges.transmit_packets <= limits.transmit_packets,
        "{gauges:?}"
    );
    assert!(gauges.pool_buffers <= limits.pool_buffers, "{gauges:?}");
    assert!(
        gauges.reassembly_datagrams <= limits.reassembly_datagrams,
        "{gauges:?}"
    );
    assert!(
        gauges.reassembly_bytes <= limits.reassembly_bytes,
        "{gauges:?}"
    );
    assert!(gauges.path_mtus <= limits.path_mtus, "{gauges:?}");
    let idle = gauges.reassembly_datagrams == 0;
    assert!(
        idle == stack.poll_timeout().is_none(),
        "a deadline exactly while something waits"
    );
}

/// Takes bytes from the front; an exhausted input gives zeros.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes([self.u8(), self.u8()])
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        front
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Target `packet`: a sequence of packets, raw or repaired so that they get past addresses and
/// checksums, into a stack with sockets; time passes and sockets are read in between.
///
/// Nothing panics, nothing exceeds its limit, and each packet that the stack sends is well-formed,
/// from one of its own addresses and not to one.
pub(crate) fn packet(data: &[u8]) {
    let mut input = Bytes(data);
    let mut now = Instant::now();
    let mut stack = Stack::new(config(), 1);
    stack.set_addresses(&[HERE4.into(), HERE6.into()]).unwrap();
    let bind = |stack: &mut Stack, local: &str| stack.udp_bind(local.parse().unwrap()).unwrap();
    let sockets = [
        bind(&mut stack, "0.0.0.0:9"),
        bind(&mut stack, "[::]:9"),
        bind(&mut stack, "10.0.0.1:10"),
        bind(&mut stack, "[2001:db8::1]:10"),
    ];
    stack
        .udp_connect(sockets[2], SocketAddr::new(THERE4.into(), 10))
        .unwrap();
    stack
        .udp_connect(sockets[3], SocketAddr::new(THERE6.into(), 10))
        .unwrap();
    while !input.is_empty() {
        let kind = input.u8();
        match kind % 6 {
            0 => now += Duration::from_millis(u64::from(input.u8()) * 300),
            1 => stack.handle_timeout(now),
            2 => {
                for socket in sockets {
                    drain(&mut stack, socket);
                }
            }
            _ => {
                let len = usize::from(input.u16() % 2048);
                let mut bytes = input.take(len).to_vec();
                match kind % 6 {
                    3 => {}
                    4 => repair(&mut bytes, true),
                    _ => repair(&mut bytes, false),
                }
                let before = stack.stats();
                stack.handle_packet(now, &bytes);
                let after = stack.stats();
                let answers = after.echo_replies + after.icmp_errors_out
                    - before.echo_replies
                    - before.icmp_errors_out;
                assert!(answers <= 1, "one packet, one answer");
            }
        }
        while let Some(sent) = stack.poll_transmit() {
            assert_sent(&sent, stack.mtu());
            stack.recycle(sent);
        }
        let events: Vec<Event> = std::iter::from_fn(|| stack.poll_event()).collect();
        assert!(events.len() <= sockets.len(), "coalesced");
        assert_bounds(&stack);
    }
}

fn drain(stack: &mut Stack, socket: UdpHandle) {
    let mut buffer = [0; 2048];
    let mut datagrams = 0;
    while let Some(result) = stack.udp_recv(socket, &mut buffer) {
        if let Ok(received) = result {
            assert!(received.len <= received.payload_len && received.payload_len <= 65_527);
            datagrams += 1;
        }
    }
    assert!(datagrams <= config().receive_packets);
}

/// Makes a packet look as if it came from the neighbour to us, and its checksums right: of the IP
/// header, and with `upper` of what follows it directly.
fn repair(bytes: &mut [u8], upper: bool) {
    let Some(first) = bytes.first_mut() else {
        return;
    };
    let is_v4 = *first & 0x10 == 0;
    if is_v4 {
        *first = 0x40 | (*first & 0x0f).max(5);
    } else {
        *first = 0x60 | (*first & 0x0f);
    }
    let header_len = if is_v4 {
        usize::from(*first & 0x0f) * 4
    } else {
        40
    };
    if bytes.len() < header_len {
        return;
    }
    let len = bytes.len() as u16;
    let (header, payload) = bytes.split_at_mut(header_len);
    let (proto, pseudo) = if is_v4 {
        header[2..4].copy_from_slice(&len.to_be_bytes());
        header[12..16].copy_from_slice(&THERE4.octets());
        header[16..20].copy_from_slice(&HERE4.octets());
        header[10..12].fill(0);
        let sum = !checksum::data(header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        (
            header[9],
            [&THERE4.octets()[..], &HERE4.octets()[..]].concat(),
        )
    } else {
        header[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        header[8..24].copy_from_slice(&THERE6.octets());
        header[24..40].copy_from_slice(&HERE6.octets());
        (
            header[6],
            [&THERE6.octets()[..], &HERE6.octets()[..]].concat(),
        )
    };
    let (at, pseudo) = match proto {
        17 => (6, pseudo),
        58 => (2, pseudo),
        1 => (2, Vec::new()),
        _ => return,
    };
    if !upper || payload.len() < 8 {
        return;
    }
    if proto == 17 {
        let len = payload.len() as u16;
        payload[4..6].copy_from_slice(&len.to_be_bytes());
    }
    payload[at..at + 2].fill(0);
    let tail = if pseudo.is_empty() {
        [0; 4]
    } else {
        [0, proto, (payload.len() >> 8) as u8, payload.len() as u8]
    };
    let sum = !checksum::combine(&[
        checksum::data(&pseudo),
        checksum::data(&tail),
        checksum::data(payload),
    ]);
    let sum = if sum == 0 && proto == 17 { 0xffff } else { sum };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// What the stack sends must be beyond reproach.
fn assert_sent(packet: &[u8], mtu: u16) {
    assert!(packet.len() <= usize::from(mtu));
    match packet[0] >> 4 {
        4 => {
            assert_eq!(packet[0], 0x45);
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[2], packet[3]])),
                packet.len()
            );
            assert_eq!(checksum::data(&packet[..20]), 0xffff);
            assert_eq!(packet[12..16], HERE4.octets());
            assert_ne!(packet[16..20], HERE4.octets());
        }
        6 => {
            assert_eq!(
                usize::from(u16::from_be_bytes([packet[4], packet[5]])) + 40,
                packet.len()
            );
            assert_eq!(packet[8..24], HERE6.octets());
            assert_ne!(packet[24..40], HERE6.octets());
        }
        version => panic!("IP version {version}"),
    }
}

/// One end of `exchange`.
struct End {
    stack: Stack,
    addresses: [IpAddr; 2],
    sockets: Vec<(UdpHandle, SocketAddr)>,
    /// Packets under way to this end.
    inbound: Vec<Vec<u8>>,
}

impl End {
    fn new(addresses: [IpAddr; 2], seed: u64) -> Self {
        let mut stack = Stack::new(config(), seed);
        stack.set_addresses(&addresses).unwrap();
        Self {
            stack,
            addresses,
            sockets: Vec::new(),
            inbound: Vec::new(),
        }
    }
}

/// Packets under way at a time; more are lost.
const MAX_IN_FLIGHT: usize = 512;

/// Target `exchange`: two stacks and a network that delays, reorders, duplicates and loses; the
/// input says what happens.
///
/// A socket receives only payloads that were sent to it, whole, from the address that sent them;
/// events and reads agree; nothing exceeds its limit.
pub(crate) fn exchange(data: &[u8]) {
    let mut input = Bytes(data);
    let mut now = Instant::now();
    let mut ends = [
        End::new([HERE4.into(), HERE6.into()], 1),
        End::new([THERE4.into(), THERE6.into()], 2),
    ];
    // From, to, identity (which says length and content).
    let mut sent: BTreeSet<(SocketAddr, SocketAddr, u32)> = BTreeSet::new();
    let mut count = 0u32;
    while !input.is_empty() {
        let op = input.u8();
        let (this, other) = if op & 0x80 == 0 { (0, 1) } else { (1, 0) };
        match op & 0x0f {
            0 => bind(&mut ends[this], input.u8()),
            1 => close(&mut ends[this], input.u8()),
            2 => {
                let to = pick(&ends[other].sockets, input.u8()).map(|(_, local)| local);
                let handle = pick(&ends[this].sockets, input.u8()).map(|(handle, _)| handle);
                if let (Some(handle), Some(to)) = (handle, to) {
                    let _ = ends[this].stack.udp_connect(handle, to);
                }
            }
            3..=6 => {
                let own = op & 0x40 != 0;
                let to = pick(&ends[if own { this } else { other }].sockets, input.u8())
                    .map(|(_, local)| local);
                let from = pick(&ends[this].sockets, input.u8());
                let len = input.u16();
                if let (Some((handle, from)), Some(to)) = (from, to) {
                    count += 1;
                    let identity = (count << 16) | u32::from(len);
                    let options = SendOptions {
                        dscp: Dscp::new(input.u8() & 63).unwrap(),
                        hop_limit: NonZeroU8::new(input.u8()),
                        ..SendOptions::default()
                    };
                    let result =
                        ends[this]
                            .stack
                            .udp_send_to(now, handle, to, &payload(identity), &options);
                    if result.is_ok() {
                        sent.insert((from, to, identity));
                    } else {
                        assert!(len > 65_507 || from.is_ipv4() != to.is_ipv4(), "{result:?}");
                    }
                }
            }
            7..=9 => deliver(&mut ends[this], now, usize::from(input.u8()), false),
            10 => deliver(&mut ends[this], now, usize::from(input.u8()), true),
            11 => {
                let index = usize::from(input.u8());
                if index < ends[this].inbound.len() {
                    ends[this].inbound.remove(index);
                }
            }
            12 => {
                for packet in std::mem::take(&mut ends[this].inbound) {
                    ends[this].stack.handle_packet(now, &packet);
                }
            }
            13 => {
                now += Duration::from_millis(u64::from(input.u8()) * 250);
                for end in &mut ends {
                    end.stack.handle_timeout(now);
                }
            }
            14 => read(&mut ends[this], &sent),
            _ => ends[this].stack.set_mtu(576 + input.u16() % 1024),
        }
        for (from, to) in [(0, 1), (1, 0)] {
            while let Some(packet) = ends[from].stack.poll_transmit() {
                assert!(packet.len() <= 1600);
                if ends[to].inbound.len() < MAX_IN_FLIGHT {
                    ends[to].inbound.push(packet.clone());
                }
                ends[from].stack.recycle(packet);
            }
            assert_bounds(&ends[from].stack);
        }
    }
    for end in &mut ends {
        read(end, &sent);
    }
}

/// Content from identity: its number, then bytes that a shift or mix-up would change.
fn payload(identity: u32) -> Vec<u8> {
    let len = (identity & 0xffff) as usize;
    let salt = identity >> 16;
    let mut bytes: Vec<u8> = identity.to_be_bytes().to_vec();
    bytes.extend(
        (4..len as u32).map(|n| (n.wrapping_mul(0x9e37_79b1).wrapping_add(salt) >> 24) as u8),
    );
    bytes.truncate(len);
    bytes
}

fn pick(sockets: &[(UdpHandle, SocketAddr)], choice: u8) -> Option<(UdpHandle, SocketAddr)> {
    sockets
        .get(usize::from(choice) % sockets.len().max(1))
        .copied()
}

/// Binds to a specific address, so that the address a peer sees is the one we know.
fn bind(end: &mut End, choice: u8) {
    let address = end.addresses[usize::from(choice & 1)];
    let port = u16::from(choice >> 1 & 7);
    if let Ok(handle) = end.stack.udp_bind(SocketAddr::new(address, port)) {
        let local = end.stack.udp_local_addr(handle).unwrap();
        assert_ne!(local.port(), 0);
        end.sockets.push((handle, local));
    }
}

fn close(end: &mut End, choice: u8) {
    if let Some((handle, _)) = pick(&end.sockets, choice) {
        assert!(end.stack.udp_close(handle));
        end.sockets.retain(|(other, _)| *other != handle);
    }
}

fn deliver(end: &mut End, now: Instant, choice: usize, keep: bool) {
    if end.inbound.is_empty() {
        return;
    }
    let index = choice % end.inbound.len();
    let packet = if keep {
        end.inbound[index].clone()
    } else {
        end.inbound.remove(index)
    };
    end.stack.handle_packet(now, &packet);
}

/// Follows the events, as a driver does, and checks what comes out.
fn read(end: &mut End, sent: &BTreeSet<(SocketAddr, SocketAddr, u32)>) {
    let mut buffer = vec![0; 65_535];
    let mut seen = BTreeSet::new();
    while let Some(Event::UdpReadable(handle)) = end.stack.poll_event() {
        assert!(seen.insert(handle), "one event for each socket");
        let (_, local) = *end
            .sockets
            .iter()
            .find(|(other, _)| *other == handle)
            .unwrap();
        assert!(
            end.stack.udp_peek(handle, &mut buffer).is_some(),
            "an event means something"
        );
        while let Some(result) = end.stack.udp_recv(handle, &mut buffer) {
            let Ok(received) = result else {
                continue;
            };
            assert_eq!(SocketAddr::new(received.to, local.port()), local);
            let got = &buffer[..received.len];
            let known = sent
                .range((received.from, local, 0)..=(received.from, local, u32::MAX))
                .any(|(_, _, identity)| {
                    (*identity & 0xffff) as usize == received.len && payload(*identity) == got
                });
            assert!(
                known,
                "{} bytes from {} to {local} were never sent",
                received.len, received.from
            );
        }
    }
    for (handle, _) in &end.sockets {
        assert!(
            end.stack.udp_peek(*handle, &mut []).is_none(),
            "nothing waits without an event"
        );
    }
}
