//! Cost of one media packet, and that it does not grow with the number of sockets.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tsc_eip::{SendOptions, Stack, StackConfig, UdpHandle};

/// RTP header and 20 ms of G.711.
const PAYLOAD: [u8; 172] = [0x5a; 172];
const HERE: [&str; 2] = ["10.0.0.1", "2001:db8::1"];
const THERE: [&str; 2] = ["10.0.0.2", "2001:db8::2"];

fn stack(address: &str) -> Stack {
    let mut stack = Stack::new(StackConfig::default(), 1);
    stack.set_addresses(&[address.parse().unwrap()]).unwrap();
    stack
}

fn bind(stack: &mut Stack, address: &str, port: u16) -> UdpHandle {
    let address: IpAddr = address.parse().unwrap();
    stack.udp_bind(SocketAddr::new(address, port)).unwrap()
}

/// A packet from `HERE` to a port of `THERE`.
fn packet(version: usize, port: u16) -> Vec<u8> {
    let mut sender = stack(HERE[version]);
    let socket = bind(&mut sender, HERE[version], 1000);
    let to = SocketAddr::new(THERE[version].parse().unwrap(), port);
    sender
        .udp_send_to(
            Instant::now(),
            socket,
            to,
            &PAYLOAD,
            &SendOptions::default(),
        )
        .unwrap();
    sender.poll_transmit().unwrap()
}

fn send(c: &mut Criterion) {
    let mut group = c.benchmark_group("send 172 bytes");
    group.throughput(Throughput::Elements(1));
    for (version, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let now = Instant::now();
        let mut sender = stack(HERE[version]);
        let socket = bind(&mut sender, HERE[version], 1000);
        let to = SocketAddr::new(THERE[version].parse().unwrap(), 9);
        group.bench_function(name, |b| {
            b.iter(|| {
                sender
                    .udp_send_to(
                        now,
                        socket,
                        to,
                        black_box(&PAYLOAD),
                        &SendOptions::default(),
                    )
                    .unwrap();
                let packet = sender.poll_transmit().unwrap();
                sender.recycle(black_box(packet));
            });
        });
    }
    group.finish();
}

fn receive(c: &mut Criterion) {
    let mut group = c.benchmark_group("receive 172 bytes");
    group.throughput(Throughput::Elements(1));
    for (version, name) in ["IPv4", "IPv6"].into_iter().enumerate() {
        let now = Instant::now();
        let mut receiver = stack(THERE[version]);
        let server = bind(&mut receiver, THERE[version], 9);
        let packet = packet(version, 9);
        let mut buffer = [0; 2048];
        group.bench_function(name, |b| {
            b.iter(|| {
                receiver.handle_packet(now, black_box(&packet));
                black_box(receiver.poll_event()).unwrap();
                receiver.udp_recv(server, &mut buffer).unwrap().unwrap()
            });
        });
    }
    group.finish();
}

/// Receives with many sockets open. "one busy": all packets go to one socket, so the others must cost
/// nothing. "all busy": each packet goes to another socket; what grows then is the memory touched.
///
/// The packet has no checksum, so that only its port changes.
fn demux(c: &mut Criterion) {
    // Prime to each of the counts: visits all sockets in an order that no prefetcher guesses.
    const STRIDE: usize = 7919;
    for (name, stride) in [("one busy socket of", 0), ("all busy sockets of", STRIDE)] {
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for sockets in [1u16, 100, 10_000] {
            let now = Instant::now();
            let mut receiver = stack(THERE[0]);
            let handles: Vec<_> = (0..sockets)
                .map(|n| bind(&mut receiver, THERE[0], 20_000 + n))
                .collect();
            let mut packet = packet(0, 20_000);
            packet[26..28].fill(0);
            let mut buffer = [0; 2048];
            let mut index = usize::from(sockets) / 2;
            group.bench_function(sockets.to_string(), |b| {
                b.iter(|| {
                    index = (index + stride) % usize::from(sockets);
                    let port = u16::try_from(20_000 + index).unwrap();
                    packet[22..24].copy_from_slice(&port.to_be_bytes());
                    receiver.handle_packet(now, black_box(&packet));
                    black_box(receiver.poll_event()).unwrap();
                    receiver
                        .udp_recv(handles[index], &mut buffer)
                        .unwrap()
                        .unwrap()
                });
            });
        }
        group.finish();
    }
}

/// A datagram of 8,000 bytes cut, carried and put together.
fn fragments(c: &mut Criterion) {
    let now = Instant::now();
    let mut sender = stack(HERE[0]);
    let mut receiver = stack(THERE[0]);
    let socket = bind(&mut sender, HERE[0], 1000);
    let server = bind(&mut receiver, THERE[0], 9);
    let to = SocketAddr::new(THERE[0].parse().unwrap(), 9);
    let mut buffer = vec![0; 8192];
    c.bench_function("8,000 bytes in fragments", |b| {
        b.iter(|| {
            sender
                .udp_send_to(now, socket, to, &[1; 8000], &SendOptions::default())
                .unwrap();
            while let Some(packet) = sender.poll_transmit() {
                receiver.handle_packet(now, &packet);
                sender.recycle(packet);
            }
            receiver.udp_recv(server, &mut buffer).unwrap().unwrap()
        });
    });
}

criterion_group!(benches, send, receive, demux, fragments);
criterion_main!(benches);
