//! The user-space egress between tunnels that send anything and hosts of this machine that answer.
//!
//! Nothing but the hosts made here is reached: every other destination is denied by configuration.
#![allow(clippy::indexing_slicing, reason = "a wrong index is a find")]

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    task::Poll,
    time::{Duration, Instant},
};

use tokio::runtime::Runtime;
use tsc_server::{
    UserSpaceCounters,
    config::Config,
    rewriter::rewrite,
    user_space::{MTU, UserSpacePath},
};
use tsc_tpl::{IpPacket, Limits};

const TABLES: &str = r#"
[[tscf-address-pool]]
name = "clients"
address-range = ["10.64.0.0/24"]
[user-space-egress]
udp-mappings = 6
udp-mappings-per-tunnel = 3
tcp-connections = 4
tcp-connections-per-tunnel = 2
allow-destinations = ["127.0.0.1", "::1"]
deny-destinations = ["0.0.0.0/0", "::/0"]
"#;

const TUNNELS: usize = 3;

/// What stands for the hosts in packets that the input brings, as their ports are the system's choice.
const HOSTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7)),
];

const UDP: u8 = 17;
const TCP: u8 = 6;

/// What one process needs once.
struct Fixed {
    runtime: Runtime,
    config: Config,
    /// Of each family.
    udp: [UdpSocket; 2],
    listener: TcpListener,
}

impl Fixed {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        Self {
            runtime: runtime.expect("a runtime"),
            config: super::config(TABLES),
            udp: ["127.0.0.1:0", "[::1]:0"].map(|local| {
                let socket = UdpSocket::bind(local).expect("loopback of both families");
                socket.set_nonblocking(true).expect("a socket");
                socket
            }),
            listener,
        }
    }
}

thread_local! {
    static FIXED: RefCell<Fixed> = RefCell::new(Fixed::new());
}

/// The far end of a connection, as a tunnel has seen it last.
#[derive(Clone, Copy)]
struct Seen {
    tunnel: usize,
    port: u16,
    next_send: u32,
    next_receive: u32,
}

struct World<'a> {
    fixed: &'a Fixed,
    path: UserSpacePath,
    now: Instant,
    alive: [bool; TUNNELS],
    connections: Vec<TcpStream>,
    seen: Option<Seen>,
}

/// Input: pieces of a choice, a tunnel, a length (u16, big endian) and that many bytes, whose meaning the choice says.
///
/// Whatever they are: no panic; every packet for a tunnel is a sound one, fits into it, and its tunnel is there; limits are kept; and
/// nothing is left when the tunnels have ended.
pub(crate) fn user_space(data: &[u8]) {
    let _counted = user_space_counted(data);
}

/// The same; gives what was counted, so that a test can tell that inputs get anywhere.
pub(crate) fn user_space_counted(data: &[u8]) -> UserSpaceCounters {
    FIXED.with_borrow(|fixed| {
        let _context = fixed.runtime.enter();
        // What an earlier input has left.
        while fixed.listener.accept().is_ok() {}
        World {
            fixed,
            path: UserSpacePath::new(&fixed.config).expect("descriptors"),
            now: Instant::now(),
            alive: [false; TUNNELS],
            connections: Vec::new(),
            seen: None,
        }
        .run(data)
    })
}

impl World<'_> {
    fn run(mut self, mut data: &[u8]) -> UserSpaceCounters {
        while let [choice, tunnel, high, low, rest @ ..] = data {
            let length = u16::from_be_bytes([*high, *low]);
            let (bytes, rest) = rest.split_at(usize::from(length).min(rest.len()));
            data = rest;
            let (tunnel, v6) = (usize::from(tunnel & 0x7F) % TUNNELS, tunnel & 0x80 != 0);
            match choice % 8 {
                0 => self.raw(tunnel, bytes),
                1 => {
                    let datagram = self.datagram(v6, bytes);
                    self.give(tunnel, &packet(v6, UDP, &datagram, [0; 2]));
                }
                2 => self.segment(tunnel, bytes),
                3 => {
                    // In tenths of a second.
                    let time = bytes
                        .first_chunk()
                        .map_or(1, |time| u16::from_be_bytes(*time));
                    self.now += Duration::from_millis(100) * time.into();
                }
                4 => self.hosts(bytes),
                5 => {
                    self.path.end(tunnel);
                    self.alive[tunnel] = false;
                }
                6 => self.fragments(tunnel, bytes),
                _ => self.follow(bytes),
            }
            self.poll();
            let counters = self.path.counters();
            assert!(counters.udp_mappings <= 6, "{counters:?}");
            assert!(counters.tcp_connections <= 4, "{counters:?}");
        }
        for tunnel in 0..TUNNELS {
            self.path.end(tunnel);
            self.alive[tunnel] = false;
        }
        self.poll();
        let counters = self.path.counters();
        let left = [
            counters.udp_mappings,
            counters.tcp_connections,
            counters.fragments,
            counters.fragment_bytes,
            counters.tunnels,
        ];
        assert_eq!(left, [0; 5], "{counters:?}");
        counters
    }

    fn give(&mut self, tunnel: usize, packet: &[u8]) {
        self.alive[tunnel] = true;
        self.path.tunnel_packet(self.now, tunnel, packet);
    }

    /// Any packet. What is for one of [`HOSTS`] finds it; loopback itself is not to be named, as others listen there.
    fn raw(&mut self, tunnel: usize, bytes: &[u8]) {
        let Ok(packet) = IpPacket::decode(bytes, &Limits::WIDEST) else {
            return;
        };
        let destination = packet.destination();
        if destination.is_loopback() {
            return;
        }
        let mut copy = bytes.to_vec();
        if HOSTS.contains(&destination) && !packet.is_fragment() && packet.ports().is_some() {
            let v6 = destination.is_ipv6();
            let host = match packet.protocol() {
                TCP => self.fixed.listener.local_addr(),
                _ => self.fixed.udp[usize::from(v6)].local_addr(),
            };
            let host = host.expect("a bound socket");
            if host.is_ipv6() != v6
                || !rewrite(&mut copy, false, host.ip(), Some(host.port()), false)
            {
                return;
            }
        }
        self.give(tunnel, &copy);
    }

    /// A datagram for the host: two bytes of the source port, and the payload.
    fn datagram(&self, v6: bool, bytes: &[u8]) -> Vec<u8> {
        let (port, payload) = bytes.split_at(bytes.len().min(2));
        let to = self.fixed.udp[usize::from(v6)]
            .local_addr()
            .expect("a bound socket")
            .port();
        let payload = &payload[..payload.len().min(1300)];
        let mut datagram = vec![0; 2];
        datagram[..port.len()].copy_from_slice(port);
        datagram.extend(to.to_be_bytes());
        datagram.extend(
            u16::try_from(8 + payload.len())
                .expect("short")
                .to_be_bytes(),
        );
        datagram.extend([0, 0]);
        datagram.extend(payload);
        if v6 {
            let sum = checksum(&pseudo(true, UDP, &datagram), &datagram);
            datagram[6..8].copy_from_slice(&if sum == 0 { 0xFFFF } else { sum }.to_be_bytes());
        }
        datagram
    }

    /// A datagram in fragments: their length in units of 8 bytes, an order, then as [`Self::datagram`].
    fn fragments(&mut self, tunnel: usize, bytes: &[u8]) {
        let [size, order, bytes @ ..] = bytes else {
            return;
        };
        let datagram = self.datagram(false, bytes);
        let size = usize::from(size % 32 + 1) * 8;
        let count = datagram.len().div_ceil(size);
        let mut pieces: Vec<_> = datagram.chunks(size).enumerate().collect();
        match order % 4 {
            0 => {}
            1 => pieces.reverse(),
            2 => pieces.extend(pieces.clone()),
            // One is lost.
            _ => drop(pieces.remove(usize::from(order / 4) % pieces.len())),
        }
        for (number, piece) in pieces {
            let more = if number + 1 < count { 0x2000 } else { 0 };
            let field = u16::try_from(number * size / 8).expect("short") | more;
            let packet = packet(false, UDP, piece, field.to_be_bytes());
            self.give(tunnel, &packet);
        }
    }

    /// A segment for the listener: source port, flags, sequence and acknowledgement number, window, payload.
    fn segment(&mut self, tunnel: usize, bytes: &[u8]) {
        let Some(([a, b, flags, s0, s1, s2, s3, a0, a1, a2, a3, w0, w1], payload)) =
            bytes.split_first_chunk::<13>()
        else {
            return;
        };
        let to = self
            .fixed
            .listener
            .local_addr()
            .expect("a bound socket")
            .port();
        let [high, low] = to.to_be_bytes();
        let mut segment = vec![*a, *b, high, low, *s0, *s1, *s2, *s3, *a0, *a1, *a2, *a3];
        segment.extend([0x50, *flags, *w0, *w1, 0, 0, 0, 0]);
        segment.extend(&payload[..payload.len().min(1300)]);
        let sum = checksum(&pseudo(false, TCP, &segment), &segment);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        self.give(tunnel, &packet(false, TCP, &segment, [0; 2]));
    }

    /// The next segment of the connection that was seen last: flags, a distance from the right sequence number, payload.
    fn follow(&mut self, bytes: &[u8]) {
        let (Some(seen), [flags, distance, payload @ ..]) = (self.seen, bytes) else {
            return;
        };
        let sequence = seen
            .next_send
            .wrapping_add_signed(i32::from(distance.cast_signed()));
        let mut all = seen.port.to_be_bytes().to_vec();
        all.push(*flags);
        all.extend(sequence.to_be_bytes());
        all.extend(seen.next_receive.to_be_bytes());
        all.extend([0x20, 0]);
        all.extend(payload);
        self.segment(seen.tunnel, &all);
    }

    /// The hosts answer what they have got, and do to connections what the bytes say.
    fn hosts(&mut self, bytes: &[u8]) {
        let mut buffer = [0; 2048];
        for socket in &self.fixed.udp {
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..len], from);
            }
        }
        while let Ok((stream, _)) = self.fixed.listener.accept() {
            let _ = stream.set_nonblocking(true);
            self.connections.push(stream);
        }
        for stream in &mut self.connections {
            match bytes.first().map(|choice| choice % 3) {
                Some(0) => drop(stream.write(bytes)),
                Some(1) => drop(stream.read(&mut buffer)),
                Some(_) => drop(stream.shutdown(std::net::Shutdown::Write)),
                None => {}
            }
        }
        if bytes.is_empty() {
            self.connections.clear();
        }
    }

    fn poll(&mut self) {
        let Self {
            fixed,
            path,
            now,
            alive,
            seen,
            ..
        } = self;
        fixed.runtime.block_on(async {
            // Lets the reactor look.
            tokio::task::yield_now().await;
            poll_fn(|cx| {
                path.poll(cx, *now, &mut |tunnel, bytes| {
                    assert!(
                        alive[tunnel],
                        "a packet for tunnel {tunnel}, which has ended"
                    );
                    let packet = IpPacket::decode(bytes, &Limits::new(MTU));
                    let packet = packet.expect("a sound packet that fits");
                    if packet.protocol() == TCP
                        && let Some(payload) = packet.payload()
                    {
                        look_at(seen, tunnel, payload);
                    }
                });
                Poll::Ready(())
            })
            .await;
        });
    }
}

/// Remembers where a connection stands.
fn look_at(seen: &mut Option<Seen>, tunnel: usize, segment: &[u8]) {
    let Some(([_, _, p0, p1, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags], _)) =
        segment.split_first_chunk::<14>()
    else {
        return;
    };
    let length = segment.len().saturating_sub(usize::from(offset >> 4) * 4);
    // SYN and FIN count.
    let length =
        u32::try_from(length).unwrap_or(0) + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
    *seen = Some(Seen {
        tunnel,
        port: u16::from_be_bytes([*p0, *p1]),
        next_send: u32::from_be_bytes([*a0, *a1, *a2, *a3]),
        next_receive: u32::from_be_bytes([*s0, *s1, *s2, *s3]).wrapping_add(length),
    });
}

/// A packet from a tunnel's address to the host.
fn packet(v6: bool, protocol: u8, payload: &[u8], fragment: [u8; 2]) -> Vec<u8> {
    let [from, to] = ends(v6);
    let mut packet = if v6 {
        let [high, low] = u16::try_from(payload.len()).expect("short").to_be_bytes();
        vec![0x60, 0, 0, 0, high, low, protocol, 64]
    } else {
        let [high, low] = u16::try_from(20 + payload.len())
            .expect("short")
            .to_be_bytes();
        let [offset, rest] = fragment;
        vec![0x45, 0, high, low, 0, 9, offset, rest, 64, protocol, 0, 0]
    };
    packet.extend(from);
    packet.extend(to);
    if !v6 {
        let sum = checksum(&[], &packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
    }
    packet.extend(payload);
    packet
}

fn ends(v6: bool) -> [Vec<u8>; 2] {
    let octets = |end: SocketAddr| match end.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let texts = if v6 {
        ["[fd64::9]:0", "[::1]:0"]
    } else {
        ["10.64.0.9:0", "127.0.0.1:0"]
    };
    texts.map(|end| octets(end.parse().expect("an address")))
}

fn pseudo(v6: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut pseudo = ends(v6).concat();
    pseudo.extend(u32::try_from(payload.len()).expect("short").to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    pseudo
}

/// RFC 1071. `head` has an even length.
fn checksum(head: &[u8], bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in head.chunks(2).chain(bytes.chunks(2)) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([pair[0], low]));
    }
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}
