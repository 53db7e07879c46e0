//! The user-space egress with sockets of this machine: packets of UDP mappings each way, and bytes of a TCP connection that
//! ends here and goes on as one of the host's. What the host's end does is not counted for UDP, and runs on a thread of its own
//! for TCP.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs
)]

use std::{
    future::poll_fn,
    hint::black_box,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tsc_eip::{Event, Stack, StackConfig, TcpHandle, TcpOptions};
use tsc_server::{
    config::{Config, Overrides},
    rewriter::rewrite,
    user_space::{MTU, UserSpacePath},
};

/// Packets at once, each of a mapping of its own. More would not fit into a socket's default buffer.
const BATCH: u16 = 64;

/// Bytes of a TCP measurement.
const BYTES: usize = 8 << 20;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// To be called within a runtime.
fn path() -> UserSpacePath {
    let config = Config::parse_with(
        r#"
[[tscf-interface]]
realm-id = "access"
local-address-pools = ["clients"]
authentication = "none"
[[tscf-interface.tscf-port]]
address = "127.0.0.1"
port = 0
transport-protocol = "tcp"
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/24"]
[user-space-egress]
allow-destinations = ["127.0.0.1"]
"#,
        "bench",
        &Overrides::default(),
    );
    UserSpacePath::new(&config.unwrap()).unwrap()
}

/// A UDP packet of 200 bytes, as a voice packet is, without checksum as IPv4 allows.
fn udp(port: u16, to: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(address) = to.ip() else {
        unreachable!()
    };
    let mut packet = vec![0x45, 0, 0, 200, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 64, 0, 9];
    packet.extend(address.octets());
    packet.extend(port.to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 180, 0, 0]);
    packet.resize(200, 0x55);
    packet
}

fn mappings(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut path = runtime.block_on(async { path() });
    let host = UdpSocket::bind("127.0.0.1:0").unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let to = host.local_addr().unwrap();
    let packets: Vec<_> = (0..BATCH).map(|number| udp(4000 + number, to)).collect();
    // A round trip; gives what the egress needed out and back.
    let mut round = || {
        let start = Instant::now();
        for packet in &packets {
            path.tunnel_packet(start, 0, packet);
        }
        let out = start.elapsed();
        let mut data = [0; 300];
        for _ in &packets {
            let (len, from) = host.recv_from(&mut data).unwrap();
            host.send_to(&data[..len], from).unwrap();
        }
        let mut back = Duration::ZERO;
        let mut answered = 0;
        runtime.block_on(poll_fn(|cx| {
            let start = Instant::now();
            let again = path.poll(cx, start, &mut |_, packet| {
                black_box(packet);
                answered += 1;
            });
            back += start.elapsed();
            if answered == packets.len() {
                return Poll::Ready(());
            }
            if again {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        }));
        [out, back]
    };
    let mut group = criterion.benchmark_group("UDP mappings");
    group.throughput(Throughput::Elements(BATCH.into()));
    for (way, name) in ["tunnel to host", "host to tunnel"].into_iter().enumerate() {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| round()[way]).sum());
        });
    }
    group.finish();
}

/// A host in the core, as the client knows it; a policy would rewrite it, too. It is on this machine.
const CORE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 80));

/// A client's stack, and the egress at the other end of its tunnel.
struct Splice {
    client: Stack,
    path: UserSpacePath,
    handle: TcpHandle,
}

impl Splice {
    /// To be called within a runtime.
    fn new(port: u16) -> Self {
        let config = StackConfig {
            mtu: MTU,
            ..StackConfig::default()
        };
        let mut client = Stack::new(config, 1);
        client
            .set_addresses(&[IpAddr::from([10, 64, 0, 9])])
            .unwrap();
        let (any, to) = (SocketAddr::from(([0; 4], 0)), SocketAddr::new(CORE, port));
        let handle = client
            .tcp_connect(Instant::now(), any, to, TcpOptions::default())
            .unwrap();
        Self {
            client,
            path: path(),
            handle,
        }
    }

    /// Moves what there is to move until `done`.
    async fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool) {
        let local = IpAddr::from([127, 0, 0, 1]);
        loop {
            let turn = poll_fn(|cx| {
                let now = Instant::now();
                self.client.handle_timeout(now);
                let mut quiet = true;
                while let Some(mut packet) = self.client.poll_transmit() {
                    quiet = false;
                    let _rewritten = rewrite(&mut packet, false, local, None, false);
                    self.path.tunnel_packet(now, 0, &packet);
                    self.client.recycle(packet);
                }
                let client = &mut self.client;
                let mut bytes = [0; MTU as usize];
                let again = self.path.poll(cx, now, &mut |_, packet| {
                    quiet = false;
                    let packet_copy = &mut bytes[..packet.len()];
                    packet_copy.copy_from_slice(packet);
                    let _rewritten = rewrite(packet_copy, true, CORE, None, false);
                    client.handle_packet(now, packet_copy);
                });
                while let Some(event) = self.client.poll_event() {
                    assert!(!matches!(event, Event::TcpFailed(..)), "{event:?}");
                }
                if done(self) {
                    return Poll::Ready(());
                }
                if again || !quiet {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            });
            // Also when nothing comes: there are timers.
            if tokio::time::timeout(Duration::from_millis(1), turn)
                .await
                .is_ok()
            {
                return;
            }
        }
    }
}

fn splice(criterion: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&received);
    let (order, orders) = mpsc::channel::<usize>();
    // The host's end: reads all, and sends what it is told to.
    let host = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut writer = stream.try_clone().unwrap();
        let sender = thread::spawn(move || {
            let data = vec![0x55; 64 << 10];
            while let Ok(mut left) = orders.recv() {
                while left > 0 {
                    let part = left.min(data.len());
                    writer.write_all(&data[..part]).unwrap();
                    left -= part;
                }
            }
        });
        let mut data = vec![0; 64 << 10];
        while let Ok(len) = stream.read(&mut data)
            && len > 0
        {
            counter.fetch_add(len, Ordering::Relaxed);
        }
        sender.join().unwrap();
    });
    let runtime = runtime();
    let mut splice = runtime.block_on(async { Splice::new(port) });
    let mut group = criterion.benchmark_group("TCP");
    group
        .throughput(Throughput::Bytes(BYTES as u64))
        .sample_size(10);
    let data = vec![0xAA; 64 << 10];
    group.bench_function("tunnel to host", |bencher| {
        bencher.iter(|| {
            let (target, mut left) = (received.load(Ordering::Relaxed) + BYTES, BYTES);
            runtime.block_on(splice.until(|splice| {
                while left > 0 {
                    let part = &data[..left.min(data.len())];
                    let now = Instant::now();
                    match splice.client.tcp_send(now, splice.handle, part).unwrap() {
                        0 => break,
                        taken => left -= taken,
                    }
                }
                received.load(Ordering::Relaxed) == target
            }));
        });
    });
    let mut buffer = vec![0; 64 << 10];
    group.bench_function("host to tunnel", |bencher| {
        bencher.iter(|| {
            order.send(BYTES).unwrap();
            let mut left = BYTES;
            runtime.block_on(splice.until(|splice| {
                loop {
                    let now = Instant::now();
                    match splice
                        .client
                        .tcp_recv(now, splice.handle, &mut buffer)
                        .unwrap()
                    {
                        None => break,
                        Some(0) => panic!("the host has closed"),
                        Some(len) => left -= len,
                    }
                }
                left == 0
            }));
        });
    });
    group.finish();
    drop((order, splice));
    host.join().unwrap();
}

criterion_group!(benches, mappings, splice);
criterion_main!(benches);
