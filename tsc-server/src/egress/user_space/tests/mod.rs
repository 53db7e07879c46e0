//! The egress with real sockets of the host, on loopback, and clients made of `tsc_eip` stacks.

mod bounds;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::Poll;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use tsc_eip::{Stack, StackConfig, TcpHandle, TcpOptions};
use tsc_tpl::{IpPacket, Limits};

use super::packet::{Segment, Writer};
use super::{UserSpace, UserSpaceCounters, Way};
use crate::config::UserSpaceConfig;

/// Any wait ends after this; nothing should come near.
const LONG: Duration = Duration::from_secs(60);

const MTU: u16 = 1400;

/// A host in the core, as clients see it: stacks do not send to loopback. TCP to it goes to loopback.
const CORE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80)),
];

/// Loopback of both families is open; little else differs from the default.
fn config() -> UserSpaceConfig {
    UserSpaceConfig {
        allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        ..UserSpaceConfig::default()
    }
}

/// An egress, its clients and what they got.
struct World {
    egress: UserSpace<u32>,
    /// Clients with TCP.
    clients: BTreeMap<u32, Stack>,
    /// Packets for the others.
    got: Vec<(u32, Vec<u8>)>,
    segment: Segment,
    writer: Writer,
    /// Ahead of the host's clock.
    ahead: Duration,
}

impl World {
    fn new(config: &UserSpaceConfig) -> Self {
        let mut egress = UserSpace::new(config, 1, &[], 1).unwrap();
        egress.tcp.connect_by(|to| {
            let to = match to.ip() {
                ip if ip == CORE[0] => SocketAddr::from(([127, 0, 0, 1], to.port())),
                ip if ip == CORE[1] => SocketAddr::from((Ipv6Addr::LOCALHOST, to.port())),
                _ => to,
            };
            TcpStream::connect(to)
        });
        Self {
            egress,
            clients: BTreeMap::new(),
            got: Vec::new(),
            segment: Segment::new(),
            writer: Writer::new(7),
            ahead: Duration::ZERO,
        }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    fn counters(&self) -> UserSpaceCounters {
        self.egress.counters()
    }

    /// A client that speaks TCP.
    fn client(&mut self, name: u32) -> &mut Stack {
        self.clients.entry(name).or_insert_with(|| {
            let config = StackConfig {
                mtu: MTU,
                ..StackConfig::default()
            };
            let mut stack = Stack::new(config, u64::from(name));
            stack.set_addresses(&addresses(name)).unwrap();
            stack
        })
    }

    fn connect(&mut self, name: u32, to: SocketAddr) -> TcpHandle {
        let now = self.now();
        let any = match to {
            SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        self.client(name)
            .tcp_connect(now, any, to, TcpOptions::default())
            .unwrap()
    }

    /// A packet of a client.
    fn packet(&mut self, name: u32, bytes: &[u8]) {
        let now = self.now();
        let packet = IpPacket::decode(bytes, &Limits::new(u16::MAX)).unwrap();
        let way = Way {
            mtu: MTU,
            name_servers: &[],
        };
        self.egress.handle_packet(now, name, &way, &packet);
    }

    /// A datagram of a client, from its address of the family of `to`.
    fn send(&mut self, name: u32, port: u16, to: SocketAddr, payload: &[u8]) {
        let from = SocketAddr::new(addresses(name)[usize::from(to.is_ipv6())], port);
        for packet in self.packets(from, to, payload) {
            self.packet(name, &packet);
        }
    }

    fn packets(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<Vec<u8>> {
        self.segment.payload()[..payload.len()].copy_from_slice(payload);
        let mut packets = Vec::new();
        let (segment, len) = (&mut self.segment, payload.len());
        self.writer.datagram(from, to, segment, len, MTU, |packet| {
            packets.push(packet.to_vec())
        });
        packets
    }

    /// Moves packets between the clients and the egress until it is quiet. True if there is more to do.
    fn turn(&mut self, cx: &mut std::task::Context<'_>) -> bool {
        let mut again = false;
        for _ in 0..64 {
            let now = self.now();
            let mut quiet = true;
            let names: Vec<u32> = self.clients.keys().copied().collect();
            for name in names {
                self.client(name).handle_timeout(now);
                while let Some(packet) = self.client(name).poll_transmit() {
                    quiet = false;
                    self.packet(name, &packet);
                    self.client(name).recycle(packet);
                }
            }
            let Self {
                egress,
                clients,
                got,
                ..
            } = self;
            egress.handle_timeout(now);
            again = egress.poll(cx, now, &mut |name, packet: &[u8]| {
                assert!(
                    packet.len() <= usize::from(MTU),
                    "longer than the tunnel takes"
                );
                quiet = false;
                match clients.get_mut(&name) {
                    Some(client) => client.handle_packet(now, packet),
                    None => got.push((name, packet.to_vec())),
                }
            });
            if quiet {
                break;
            }
        }
        again
    }

    /// Packets that the clients have sent.
    fn sent(&self) -> u64 {
        let stacks = self.clients.values();
        stacks.map(|stack| stack.stats().packets_out).sum()
    }

    /// Runs until `done` gives something.
    async fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            let timers = self.clients.values().map(Stack::poll_timeout);
            let due = timers.chain([self.egress.poll_timeout()]).flatten().min();
            let now = self.now();
            let nap = due.map_or(LONG, |due| due.saturating_duration_since(now));
            let nap = nap.clamp(Duration::from_millis(1), Duration::from_secs(1));
            let turn = poll_fn(|cx| {
                let mut again = self.turn(cx);
                if let Some(value) = done(self) {
                    return Poll::Ready(value);
                }
                // What `done` has caused.
                let sent = self.sent();
                again |= self.turn(cx) || self.sent() != sent;
                if again {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            });
            if let Ok(value) = tokio::time::timeout(nap, turn).await {
                return value;
            }
            assert!(
                started.elapsed() < LONG,
                "it does not come: {:?}",
                self.egress.counters()
            );
        }
    }

    /// The next packet for a client without a stack.
    async fn next(&mut self, name: u32) -> Vec<u8> {
        self.until(|world| {
            let at = world.got.iter().position(|(to, _)| *to == name)?;
            Some(world.got.remove(at).1)
        })
        .await
    }

    /// One turn, whatever comes of it.
    async fn once(&mut self) {
        poll_fn(|cx| {
            self.turn(cx);
            Poll::Ready(())
        })
        .await;
    }
}

/// The addresses of a client, one of each family.
fn addresses(name: u32) -> [IpAddr; 2] {
    let [_, _, high, low] = name.to_be_bytes();
    [
        IpAddr::from([10, 0, high, low]),
        IpAddr::from([0xfd00, 0, 0, 0, 0, 0, u16::from(high), u16::from(low) + 1]),
    ]
}

/// Type and code of an ICMP error, and the rest of its header.
fn icmp(packet: &[u8]) -> Option<(u8, u8, u32)> {
    let packet = IpPacket::decode(packet, &Limits::new(u16::MAX)).ok()?;
    let head = packet.payload()?.first_chunk::<8>()?;
    let rest = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    matches!(packet.protocol(), 1 | 58).then_some((head[0], head[1], rest))
}
