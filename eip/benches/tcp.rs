//! Cost of inner TCP, and that a connection does not pay for ten thousand others that were opened before it, with the
//! default configuration.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tsc_eip::{Stack, StackConfig, TcpHandle, TcpListenHandle, TcpOptions};

const SERVER: &str = "10.0.0.2:80";

/// Two stacks with `idle` connections between them and one to be measured.
struct Pair {
    now: Instant,
    client: Stack,
    server: Stack,
    listener: TcpListenHandle,
    near: TcpHandle,
    far: TcpHandle,
}

impl Pair {
    fn new(idle: usize) -> Self {
        let config = StackConfig::default;
        let (mut client, mut server) = (Stack::new(config(), 1), Stack::new(config(), 2));
        client
            .set_addresses(&["10.0.0.1".parse().unwrap()])
            .unwrap();
        server
            .set_addresses(&["10.0.0.2".parse().unwrap()])
            .unwrap();
        let listener = server.tcp_listen(SERVER.parse().unwrap(), 16).unwrap();
        let now = Instant::now();
        for _ in 0..idle {
            open(now, &mut client, &mut server, listener);
        }
        // The last that is opened.
        let (near, far) = open(now, &mut client, &mut server, listener);
        Self {
            now,
            client,
            server,
            listener,
            near,
            far,
        }
    }

    /// Moves `data` from the client to the server.
    fn transfer(&mut self, data: &[u8], buffer: &mut [u8]) {
        let (mut sent, mut got) = (0, 0);
        while got < data.len() {
            sent += self
                .client
                .tcp_send(self.now, self.near, &data[sent..])
                .unwrap();
            exchange(self.now, &mut self.client, &mut self.server);
            while let Ok(Some(n)) = self.server.tcp_recv(self.now, self.far, buffer) {
                got += n;
            }
            exchange(self.now, &mut self.server, &mut self.client);
        }
    }
}

fn exchange(now: Instant, from: &mut Stack, to: &mut Stack) {
    while let Some(packet) = from.poll_transmit() {
        to.handle_packet(now, &packet);
        from.recycle(packet);
    }
}

fn open(
    now: Instant,
    client: &mut Stack,
    server: &mut Stack,
    listener: TcpListenHandle,
) -> (TcpHandle, TcpHandle) {
    let near = client
        .tcp_connect(
            now,
            "0.0.0.0:0".parse().unwrap(),
            SERVER.parse().unwrap(),
            TcpOptions::default(),
        )
        .unwrap();
    for _ in 0..2 {
        exchange(now, client, server);
        exchange(now, server, client);
    }
    while client.poll_event().is_some() {}
    while server.poll_event().is_some() {}
    (near, server.tcp_accept(listener).unwrap().0)
}

/// 256 KiB through one connection, with others idle beside it.
fn throughput(c: &mut Criterion) {
    let mut group = c.benchmark_group("256 KiB beside idle connections");
    let data = vec![0x5a; 256 * 1024];
    let mut buffer = vec![0; 64 * 1024];
    group.throughput(Throughput::Bytes(data.len() as u64));
    for idle in [0, 10, 10_000] {
        let mut pair = Pair::new(idle);
        group.bench_function(idle.to_string(), |b| {
            b.iter(|| pair.transfer(black_box(&data), &mut buffer));
        });
    }
    group.finish();
}

/// A message of 500 bytes and its acknowledgement.
fn message(c: &mut Criterion) {
    let mut group = c.benchmark_group("500 bytes beside idle connections");
    let mut buffer = vec![0; 64 * 1024];
    group.throughput(Throughput::Elements(1));
    for idle in [0, 10_000] {
        let mut pair = Pair::new(idle);
        group.bench_function(idle.to_string(), |b| {
            b.iter(|| pair.transfer(black_box(&[0x5a; 500]), &mut buffer));
        });
    }
    group.finish();
}

/// Open, shut down both ends, forget.
fn open_and_close(c: &mut Criterion) {
    let mut pair = Pair::new(0);
    c.bench_function("open and close", |b| {
        b.iter(|| {
            let (near, far) = open(pair.now, &mut pair.client, &mut pair.server, pair.listener);
            // The client first: it knows which of its ports wait.
            pair.client.tcp_close(pair.now, near);
            exchange(pair.now, &mut pair.client, &mut pair.server);
            pair.server.tcp_close(pair.now, far);
            exchange(pair.now, &mut pair.server, &mut pair.client);
            exchange(pair.now, &mut pair.client, &mut pair.server);
            while pair.client.poll_event().is_some() {}
            while pair.server.poll_event().is_some() {}
        });
    });
}

/// How much slower a connection is beside ten thousand others: the two are measured in turns, so that what else the
/// machine does hits both; the median of the turns counts.
fn ratio(_: &mut Criterion) {
    let (mut alone, mut beside) = (Pair::new(0), Pair::new(10_000));
    let data = vec![0x5a; 256 * 1024];
    let mut buffer = vec![0; 64 * 1024];
    let mut time = |pair: &mut Pair| {
        let start = Instant::now();
        for _ in 0..20 {
            pair.transfer(black_box(&data), &mut buffer);
        }
        start.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..101)
        .map(|_| {
            let first = time(&mut alone);
            time(&mut beside) / first
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let slower = (ratios[ratios.len() / 2] - 1.0) * 100.0;
    println!("256 KiB, the last opened beside 10,000 idle connections: {slower:+.1} % time");
}

criterion_group!(benches, throughput, message, open_and_close, ratio);
criterion_main!(benches);
