//! The core's hosts as IP hosts: who may send what, what senders are told, what fits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic
)]

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use tokio::time::timeout;
use tsc_interop::{CORE, Egress, Lab, Namespace, address, isolated, nginx};
use tsc_tapi::{
    PemSource, Roots, Server, SocketError, Transport, Trust, Tunnel, TunnelBuilder, UdpSocket,
};
use tsc_tpl::{CmType, Limits, MessageBuilder, Sequence, StreamDecoder, Tlv, Tsid, Unit, registry};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Something of the core that nobody listens at.
const CLOSED: u16 = 9;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn block_on<T>(what: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.unwrap().block_on(what)
}

fn builder(lab: &Lab, transport: Transport) -> TunnelBuilder {
    let server = lab.address();
    let server = Server::new(transport, server.ip().to_string(), server.port());
    let roots = Roots::from_pem(&PemSource::File(lab.authority())).unwrap();
    Tunnel::builder(server)
        .trust(Trust::Roots(roots))
        .server_name("localhost")
}

async fn open(lab: &Lab, transport: Transport) -> Tunnel {
    soon(builder(lab, transport).connect()).await.unwrap()
}

async fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = soon(socket.recv_from(&mut buffer)).await.unwrap();
    buffer.truncate(len);
    (buffer, from)
}

/// A shell in the core sends a datagram of so many letters.
fn send_from_core(to: SocketAddr, letter: char, len: usize) -> bool {
    let (host, port) = (to.ip(), to.port());
    // In one write, and so in one datagram.
    let script = format!(
        "head -c {len} /dev/zero | tr '\\0' {letter} | \
         dd bs=65536 iflag=fullblock status=none >/dev/udp/{host}/{port}"
    );
    let status = Namespace::Core
        .command("bash")
        .args(["-c", &script])
        .output();
    status.unwrap().status.success()
}

/// Packets that the core got from an address, since [`count`].
fn counted(from: Ipv4Addr) -> u64 {
    let name = from.to_string().replace('.', "_");
    let text = Namespace::Core.run(&format!("nft list counter inet lab from_{name}"));
    let mut words = text
        .split_whitespace()
        .skip_while(|word| *word != "packets");
    words.nth(1).unwrap().parse().unwrap()
}

/// Counts in the core what comes from these addresses.
fn count(addresses: &[Ipv4Addr]) {
    Namespace::Core.run("nft add table inet lab");
    Namespace::Core.run("nft add chain inet lab in { type filter hook input priority 0 ; }");
    for from in addresses {
        let name = from.to_string().replace('.', "_");
        Namespace::Core.run(&format!("nft add counter inet lab from_{name}"));
        Namespace::Core.run(&format!(
            "nft add rule inet lab in ip saddr {from} counter name from_{name}"
        ));
    }
}

/// A tunnel over TCP without a client library, so that any packet can be sent.
struct Raw {
    stream: TcpStream,
    inner: Ipv4Addr,
}

impl Raw {
    fn open(lab: &Lab) -> Self {
        let mut stream = TcpStream::connect(lab.address()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .encode(&mut request)
            .unwrap();
        stream.write_all(&request).unwrap();
        let mut decoder = StreamDecoder::new(Limits::WIDEST);
        let mut buffer = [0; 4096];
        loop {
            let len = stream.read(&mut buffer).unwrap();
            assert!(len > 0, "closed");
            let mut feed = decoder.feed(&buffer[..len]);
            while let Some(unit) = feed.next().unwrap() {
                if let Unit::Control(message) = unit {
                    let message = message.parse().unwrap();
                    let inner = message.addresses().find_map(|a| match a.addr {
                        IpAddr::V4(inner) => Some(inner),
                        IpAddr::V6(_) => None,
                    });
                    return Self {
                        stream,
                        inner: inner.unwrap(),
                    };
                }
            }
        }
    }

    /// A UDP packet to the core, from whatever address.
    fn send(&mut self, from: Ipv4Addr) {
        let IpAddr::V4(to) = address::CORE_V4 else {
            unreachable!()
        };
        let mut packet = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
        packet.extend(from.octets());
        packet.extend(to.octets());
        let sum: u32 = packet
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        let sum = (sum & 0xFFFF) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
        // From port 9 to port 9, without a checksum.
        packet.extend([0, 9, 0, 9, 0, 12, 0, 0, 1, 2, 3, 4]);
        self.stream.write_all(&packet).unwrap();
    }
}

#[test]
fn nobody_sends_from_anothers_address() {
    isolated("nobody_sends_from_anothers_address", || {
        let lab = Lab::new(Egress::Tun);
        block_on(async {
            let victim = open(&lab, Transport::Tls).await;
            let Some(IpAddr::V4(address)) = victim.config().ipv4() else {
                panic!("IPv4")
            };
            // A client as another client, as a host of the core, and as the edge.
            let mut raw = Raw::open(&lab);
            let edge = Ipv4Addr::new(198, 51, 100, 1);
            let router = Ipv4Addr::new(203, 0, 113, 7);
            count(&[address, edge, router, raw.inner]);
            for forged in [address, edge, router] {
                raw.send(forged);
            }
            // What the server takes from a stream it takes in order: when this has come, all before has been judged.
            raw.send(raw.inner);
            let all = async {
                while counted(raw.inner) == 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            soon(all).await;
            assert_eq!(
                (counted(address), counted(edge), counted(router)),
                (0, 0, 0)
            );
            assert_eq!(counted(raw.inner), 1);

            // A host of the core as another client. Each of its packets goes by way of the edge's kernel in order, too.
            let socket = victim.bind_udp((address, 4000).into()).unwrap();
            let at: SocketAddr = (address, 4000).into();
            Namespace::Core.run(&format!("ip address add {}/32 dev lo", raw.inner));
            let route = format!("{address}/32 via 198.51.100.1");
            Namespace::Core.run(&format!("ip route add {route} src {}", raw.inner));
            assert!(send_from_core(at, 'f', 10));
            Namespace::Core.run(&format!("ip route del {address}/32"));
            assert!(send_from_core(at, 't', 10));
            let (text, from) = receive(&socket).await;
            assert_eq!(
                (text.as_slice(), from.ip()),
                (&b"tttttttttt"[..], address::CORE_V4)
            );
            lab.server.signal("USR1");
            let _ = lab.server.wait_for("wrong_source=3");
        });
    });
}

/// Closed ports and missing hosts are told at once, by any egress.
fn unreachable(egress: Egress) {
    let lab = Lab::new(egress);
    block_on(async {
        for transport in [Transport::Tls, Transport::Udp] {
            let tunnel = open(&lab, transport).await;
            let nowhere = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
            for (host, expected) in [
                (address::CORE_V4, SocketError::Refused),
                (address::CORE_V6, SocketError::Refused),
                (nowhere, SocketError::Unreachable),
            ] {
                let peer = SocketAddr::new(host, CLOSED);
                let what = format!("{egress:?}, {transport} to {peer}");
                let local = tunnel.local_address_for(peer).unwrap();
                let socket = tunnel.bind_udp((local, 0).into()).unwrap();
                socket.connect(peer).await.unwrap();
                socket.send(b"anybody there?").await.unwrap();
                let error = soon(socket.recv(&mut [0; 64])).await.unwrap_err();
                assert_eq!(SocketError::of(&error), Some(&expected), "UDP, {what}");
                let error = soon(tunnel.connect_tcp(peer)).await.unwrap_err();
                assert_eq!(SocketError::of(&error), Some(&expected), "TCP, {what}");
            }
            soon(tunnel.close(LIMIT)).await.unwrap();
        }
    });
}

#[test]
fn what_cannot_be_reached_is_told_over_tun() {
    isolated("what_cannot_be_reached_is_told_over_tun", || {
        unreachable(Egress::Tun);
    });
}

#[test]
fn what_cannot_be_reached_is_told_over_user_space() {
    isolated("what_cannot_be_reached_is_told_over_user_space", || {
        unreachable(Egress::UserSpace);
    });
}

#[test]
fn hosts_learn_what_fits_into_a_tunnel() {
    isolated("hosts_learn_what_fits_into_a_tunnel", || {
        let lab = Lab::new(Egress::Tun);
        block_on(async {
            let wide = open(&lab, Transport::Tls).await;
            let narrow = soon(builder(&lab, Transport::Tls).inner_mtu(1280).connect());
            let narrow = narrow.await.unwrap();
            for (tunnel, mtu) in [(wide, 1400), (narrow, 1280)] {
                assert_eq!(tunnel.config().inner_mtu, mtu);
                for local in [tunnel.config().ipv4(), tunnel.config().ipv6()] {
                    let at = SocketAddr::new(local.unwrap(), 4000);
                    let socket = tunnel.bind_udp(at).unwrap();
                    // Linux sends with DF: the first is lost, and its sender learns why. It says so to who sends next, and
                    // then sends fragments.
                    let sent = async {
                        let mut length = usize::from(mtu) - 20;
                        loop {
                            send_from_core(at, 'x', length);
                            let wait = Duration::from_millis(200);
                            let mut buffer = vec![0; 2000];
                            if let Ok(got) = timeout(wait, socket.recv_from(&mut buffer)).await {
                                break got.unwrap().0;
                            }
                            length += 1;
                        }
                    };
                    let length = soon(sent).await;
                    assert!(length > usize::from(mtu) - 20, "too long to fit at once");
                    let route = Namespace::Core.run(&format!("ip route get {}", at.ip()));
                    assert!(route.contains(&format!("mtu {mtu}")), "{route}");
                }
            }
        });
    });
}

#[test]
fn clients_learn_what_fits_into_the_core() {
    isolated("clients_learn_what_fits_into_the_core", || {
        let lab = Lab::new(Egress::Tun);
        // A router in the core has a narrower link.
        Namespace::Edge.run("ip link set inner mtu 1300");
        let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &lab.path(""));
        block_on(async {
            let tunnel = open(&lab, Transport::Tls).await;
            for host in [address::CORE_V4, address::CORE_V6] {
                use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
                let mut stream = soon(tunnel.connect_tcp((host, 80).into())).await.unwrap();
                // Of 20 kB, in segments as long as both ends take.
                let request = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(20_000));
                soon(stream.write_all(request.as_bytes())).await.unwrap();
                let mut answer = [0; 12];
                soon(stream.read_exact(&mut answer)).await.unwrap();
                assert_eq!(&answer, b"HTTP/1.1 414");
            }
        });
    });
}

/// Blocked clients reach the core, and no other client: not by the server, nor by way of the core.
fn blocked(egress: Egress) {
    let interface = "assigned-services = [\"inter-client-block\"]";
    let lab = Lab::with(egress, interface, "");
    let _nginx = nginx(Namespace::Core, &CORE, &lab.path(""), &lab.path(""));
    block_on(async {
        let one = open(&lab, Transport::Tls).await;
        let other = open(&lab, Transport::Udp).await;
        for (from, to, core) in [
            (one.config().ipv4(), other.config().ipv4(), CORE[0]),
            (one.config().ipv6(), other.config().ipv6(), CORE[1]),
        ] {
            let at = SocketAddr::new(to.unwrap(), 4000);
            let listener = other.bind_udp(at).unwrap();
            let socket = one.bind_udp((from.unwrap(), 4000).into()).unwrap();
            socket.connect(at).await.unwrap();
            socket.send(b"hello").await.unwrap();
            let error = soon(socket.recv(&mut [0; 64])).await.unwrap_err();
            let error = SocketError::of(&error).cloned();
            assert!(
                matches!(
                    error,
                    Some(SocketError::Unreachable | SocketError::Prohibited)
                ),
                "{error:?}"
            );
            // What had come before the answer would be here by now, or nearly.
            let mut buffer = [0; 64];
            let came = timeout(Duration::from_millis(200), listener.recv_from(&mut buffer)).await;
            assert!(came.is_err(), "{came:?}");
            drop(soon(one.connect_tcp(core)).await.unwrap());
        }
    });
}

#[test]
fn blocked_clients_reach_only_the_core_over_tun() {
    isolated("blocked_clients_reach_only_the_core_over_tun", || {
        blocked(Egress::Tun);
    });
}

#[test]
fn blocked_clients_reach_only_the_core_over_user_space() {
    isolated(
        "blocked_clients_reach_only_the_core_over_user_space",
        || {
            blocked(Egress::UserSpace);
        },
    );
}
