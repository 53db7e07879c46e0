//! What hosts say to each other.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::within;

/// Nothing takes longer unless it is lost.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two datagrams that ask the same.
const AGAIN: Duration = Duration::from_millis(500);

fn at(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().unwrap(), port).into()
}

pub fn udp(namespace: &str, ip: &str) -> UdpSocket {
    let socket = within(namespace, || UdpSocket::bind(at(ip, 0)).unwrap());
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket
}

/// What ICMP says to a ping.
#[derive(Debug, PartialEq, Eq)]
pub enum Pong {
    /// The echo; of IPv4 with the hop count that it came with.
    Echo(Option<u8>),
    /// "Time exceeded", from this address.
    Exceeded(IpAddr),
    /// "Destination unreachable".
    Unreachable,
}

/// Asks until there is an answer.
pub fn ping(namespace: &str, to: &str, hops: u32) -> Pong {
    let v4 = to.contains('.');
    let socket = within(namespace, || {
        let (domain, protocol) = if v4 {
            (Domain::IPV4, Protocol::ICMPV4)
        } else {
            (Domain::IPV6, Protocol::ICMPV6)
        };
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
        if v4 {
            socket.set_ttl_v4(hops).unwrap();
        } else {
            socket.set_unicast_hops_v6(hops).unwrap();
        }
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        UdpSocket::from(OwnedFd::from(socket))
    });
    // Type, code, checksum (IPv6's is the kernel's affair), identifier, sequence number.
    let (request, echo, exceeded, unreachable) = if v4 { (8, 0, 11, 3) } else { (128, 129, 3, 1) };
    let sum: u16 = if v4 { !(0x0800 + 0x1234 + 1) } else { 0 };
    let [a, b] = sum.to_be_bytes();
    let question = [request, 0, a, b, 0x12, 0x34, 0, 1];
    let start = Instant::now();
    let mut bytes = [0; 2000];
    while start.elapsed() < LIMIT {
        socket.send_to(&question, at(to, 0)).unwrap();
        while let Ok((length, from)) = socket.recv_from(&mut bytes) {
            // Of IPv4 with its header.
            let skip = if v4 {
                usize::from(bytes[0] & 15) * 4
            } else {
                0
            };
            let icmp = &bytes[skip..length];
            match icmp[0] {
                kind if kind == echo && from.ip() == at(to, 0).ip() => {
                    assert_eq!(icmp[4..8], question[4..8]);
                    return Pong::Echo(v4.then_some(bytes[8]));
                }
                kind if kind == exceeded => return Pong::Exceeded(from.ip()),
                kind if kind == unreachable => return Pong::Unreachable,
                _ => {}
            }
        }
    }
    panic!("no answer from {to} in {namespace}");
}

/// Datagrams of some lengths from `a` to `b` and back, each until it arrives. Those longer than the MTU go in fragments.
pub fn exchange_datagrams(a: (&str, &str), b: (&str, &str)) {
    let (asking, answering) = (udp(a.0, a.1), udp(b.0, b.1));
    let (ours, theirs) = (
        asking.local_addr().unwrap(),
        answering.local_addr().unwrap(),
    );
    for length in [1_usize, 500, 1200, 1400, 3000] {
        for (from, to, source, target) in [
            (&asking, &answering, ours, theirs),
            (&answering, &asking, theirs, ours),
        ] {
            let sent = vec![u8::try_from(length % 251).unwrap(); length];
            to.set_read_timeout(Some(AGAIN)).unwrap();
            let start = Instant::now();
            let mut bytes = vec![0; 65_536];
            loop {
                assert!(
                    start.elapsed() < LIMIT,
                    "{length} bytes from {source} to {target}"
                );
                // An error is what ICMP said about the one before: that it was too long.
                let _ = from.send_to(&sent, target);
                match to.recv_from(&mut bytes) {
                    Ok((got, peer)) if got == length => {
                        assert_eq!((&bytes[..got], peer), (&sent[..], source));
                        break;
                    }
                    // One that was sent again.
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// A connection from `a` to `b`, on which a lot of data goes there and comes back.
pub fn exchange_stream(a: (&str, &str), b: (&str, &str)) {
    let listener = within(b.0, || TcpListener::bind(at(b.1, 0)).unwrap());
    let target = listener.local_addr().unwrap();
    let echo = thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        limit(&stream);
        let mut reader = stream.try_clone().unwrap();
        io::copy(&mut reader, &mut stream).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        peer
    });
    let mut stream = within(a.0, || TcpStream::connect_timeout(&target, LIMIT).unwrap());
    limit(&stream);
    let source = stream.local_addr().unwrap();
    assert_eq!(source.ip(), at(a.1, 0).ip());
    let sent: Vec<u8> = (0..500_000_u32).flat_map(u32::to_be_bytes).collect();
    let expected = sent.clone();
    let mut writer = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    assert!(
        received == expected,
        "{} of {}",
        received.len(),
        expected.len()
    );
    sending.join().unwrap();
    // Nobody has translated an address.
    assert_eq!(echo.join().unwrap(), source);
}

fn limit(stream: &TcpStream) {
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
}
