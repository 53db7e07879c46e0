//! The switch between tunnels: what it cannot pass on, and that nobody keeps others from being served.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation
)]

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tsc_demo::{
    lab::{Lab, LabOptions},
    pki::Authority,
};
use tsc_server::config::{Config, Overrides};
use tsc_tapi::{
    DtlsBackendKind, PemSource, Roots, Server, SocketError, Transport, Trust, Tunnel, TunnelBuilder,
};
use tsc_tpl::{CmType, Limits, MessageBuilder, Sequence, StreamDecoder, Tlv, Tsid, Unit, registry};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);
const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

fn builder(lab: &Lab, transport: Transport) -> TunnelBuilder {
    lab.tunnel(transport, OPENSSL).unwrap()
}

async fn open(builder: TunnelBuilder) -> Tunnel {
    soon(builder.connect()).await.unwrap()
}

/// A server by a configuration that differs from the lab's, and an authority for it.
struct Own {
    server: tsc_server::Server,
    authority: Authority,
}

fn start(text: &str) -> Own {
    let authority = Authority::new("test").unwrap();
    let identity = authority.server().unwrap();
    let overrides = Overrides::default()
        .with_file("server.pem", identity.certificate.into_bytes())
        .with_file("server.key", identity.key.into_bytes())
        .with_file("ca.pem", authority.certificate().as_bytes());
    let config = Config::parse_with(text, "test", &overrides).unwrap();
    Own {
        server: tsc_server::Server::start(&config).unwrap(),
        authority,
    }
}

impl Own {
    /// A tunnel over TLS to this server's interface `realm`.
    fn tunnel_to(&self, realm: &str) -> TunnelBuilder {
        let port = self
            .server
            .ports()
            .iter()
            .find(|port| port.interface == realm && port.transport == Transport::Tls)
            .unwrap();
        let address = port.address;
        let pem = PemSource::Memory(self.authority.certificate().as_bytes().to_vec());
        Tunnel::builder(Server::new(
            Transport::Tls,
            address.ip().to_string(),
            address.port(),
        ))
        .trust(Trust::Roots(Roots::from_pem(&pem).unwrap()))
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 251) as u8).collect()
}

/// A tunnel over TCP without a client library, so that any packet can be sent.
struct Raw {
    stream: TcpStream,
    decoder: StreamDecoder,
    inner: [u8; 4],
}

impl Raw {
    fn open(lab: &Lab) -> Self {
        let stream = TcpStream::connect(lab.server.address(Transport::Tcp).unwrap()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut raw = Self {
            stream,
            decoder: StreamDecoder::new(Limits::WIDEST),
            inner: [0; 4],
        };
        let mut request = Vec::new();
        MessageBuilder::new(CmType::CONFIGURATION_REQUEST, Tsid::UNASSIGNED, Sequence(1))
            .tlv(Tlv::ProtocolRevision(registry::PROTOCOL_REVISION))
            .encode(&mut request)
            .unwrap();
        raw.stream.write_all(&request).unwrap();
        raw.inner = raw.next(|unit| match unit {
            Unit::Control(message) => {
                let message = message.parse().unwrap();
                match message.addresses().next().unwrap().addr {
                    IpAddr::V4(address) => Some(address.octets()),
                    IpAddr::V6(_) => None,
                }
            }
            _ => None,
        });
        raw
    }

    /// What `wanted` makes of the first unit that it wants.
    fn next<T>(&mut self, wanted: impl Fn(&Unit<'_>) -> Option<T>) -> T {
        let mut buffer = [0; 4096];
        loop {
            let len = self.stream.read(&mut buffer).unwrap();
            assert!(len > 0, "closed");
            let mut feed = self.decoder.feed(&buffer[..len]);
            while let Some(unit) = feed.next().unwrap() {
                if let Some(found) = wanted(&unit) {
                    return found;
                }
            }
        }
    }

    fn packet(&mut self) -> Vec<u8> {
        self.next(|unit| match unit {
            Unit::Ip(packet) => Some(packet.as_bytes().to_vec()),
            _ => None,
        })
    }

    /// A UDP packet of `len` bytes in all, with a checksum of zero: none.
    fn udp(&self, to: [u8; 4], len: u16, flags: u8, ttl: u8) -> Vec<u8> {
        let mut packet = pattern(usize::from(len));
        packet[..28].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[5] = 1;
        packet[6] = flags;
        packet[8] = ttl;
        packet[9] = 17;
        packet[12..16].copy_from_slice(&self.inner);
        packet[16..20].copy_from_slice(&to);
        packet[20..24].copy_from_slice(&[0x0F, 0xA0, 0x0F, 0xA0]);
        packet[24..26].copy_from_slice(&(len - 20).to_be_bytes());
        let mut sum: u32 = packet[..20]
            .chunks(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
            .sum();
        sum = (sum & 0xFFFF) + (sum >> 16);
        sum = (sum & 0xFFFF) + (sum >> 16);
        packet[10..12].copy_from_slice(&(!u16::try_from(sum).unwrap()).to_be_bytes());
        packet
    }
}

/// Two families of addresses on the access side.
fn both_families() -> LabOptions {
    LabOptions {
        address_range: "10.64.0.0/24\", \"fd00:64::/120".to_owned(),
        ..LabOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_for_the_other_tunnel_is_fragmented_or_told() {
    let lab = Lab::start(&both_families()).unwrap();
    for transport in Transport::ALL {
        let wide = open(builder(&lab, transport)).await;
        let narrow = open(builder(&lab, Transport::Udp).inner_mtu(1280)).await;
        assert_eq!(
            (wide.config().inner_mtu, narrow.config().inner_mtu),
            (1400, 1280)
        );
        let payload = pattern(1340);
        let mut buffer = [0; 4000];

        // IPv4: the switch fragments, and nothing is lost.
        let to = SocketAddr::new(narrow.config().ipv4().unwrap(), 4000);
        let receiver = narrow.bind_udp(to).unwrap();
        let sender = wide
            .bind_udp((wide.config().ipv4().unwrap(), 0).into())
            .unwrap();
        sender.send_to(&payload, to).await.unwrap();
        let (len, _) = soon(receiver.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..len], payload, "{transport}");

        // IPv6: the first is lost, the sender's stack learns from it.
        let to = SocketAddr::new(narrow.config().ipv6().unwrap(), 4000);
        let receiver = narrow.bind_udp(to).unwrap();
        let sender = wide
            .bind_udp((wide.config().ipv6().unwrap(), 0).into())
            .unwrap();
        let arrived = async {
            loop {
                sender.send_to(&payload, to).await.unwrap();
                let wait = Duration::from_millis(50);
                if let Ok(received) = timeout(wait, receiver.recv_from(&mut buffer)).await {
                    break received.unwrap();
                }
            }
        };
        let (len, _) = soon(arrived).await;
        assert_eq!(buffer[..len], payload, "{transport}");
        soon(wide.close(LIMIT)).await.unwrap();
        soon(narrow.close(LIMIT)).await.unwrap();
    }
    let report = lab.server.stop().unwrap();
    assert_eq!(report.counters.fragmented, 4, "{report:?}");
    assert!(report.counters.too_big >= 4, "{report:?}");
    assert!(report.counters.icmp_errors >= 4, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interfaces_may_differ_in_their_inner_mtu() {
    let text = Lab::config_text(&LabOptions::default()).replacen(
        "realm-id = \"core\"",
        "realm-id = \"core\"\ninner-mtu = 576",
        1,
    );
    let lab = start(&text);
    let wide = open(lab.tunnel_to("access")).await;
    let narrow = open(lab.tunnel_to("core")).await;
    assert_eq!(narrow.config().inner_mtu, 576);
    let to = SocketAddr::new(narrow.config().ipv4().unwrap(), 4000);
    let receiver = narrow.bind_udp(to).unwrap();
    let from = SocketAddr::new(wide.config().ipv4().unwrap(), 4000);
    let sender = wide.bind_udp(from).unwrap();
    // In one packet, and in fragments that are cut further.
    for size in [1372, 4000] {
        let payload = pattern(size);
        sender.send_to(&payload, to).await.unwrap();
        let mut buffer = [0; 5000];
        let (len, sent_by) = soon(receiver.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..len], payload);
        // The other way there is room for each packet.
        receiver.send_to(&buffer[..len], sent_by).await.unwrap();
        let (len, _) = soon(sender.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(buffer[..len], payload);
    }
    let report = lab.server.report().await.unwrap();
    assert_eq!(report.counters.fragmented, 4, "{report:?}");
    assert_eq!(report.counters.too_big, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_nobody_has_is_unreachable_at_once() {
    let options = LabOptions {
        pool: "address-quarantine = 0\negress = \"switch\"".to_owned(),
        ..both_families()
    };
    let lab = Lab::start(&options).unwrap();
    for transport in Transport::ALL {
        let tunnel = open(builder(&lab, transport)).await;
        for (local, nobody) in [
            (tunnel.config().ipv4(), "10.64.0.250:5060"),
            (tunnel.config().ipv4(), "203.0.113.1:5060"),
            (tunnel.config().ipv6(), "[fd00:64::fa]:5060"),
        ] {
            let socket = tunnel.bind_udp((local.unwrap(), 0).into()).unwrap();
            socket.connect(nobody.parse().unwrap()).await.unwrap();
            socket.send(b"anybody there?").await.unwrap();
            let error = soon(socket.recv(&mut [0; 64])).await.unwrap_err();
            assert_eq!(
                SocketError::of(&error),
                Some(&SocketError::Unreachable),
                "{transport} {nobody}"
            );
        }
        soon(tunnel.close(LIMIT)).await.unwrap();
    }
    assert_eq!(lab.server.stop().unwrap().counters.no_route, 12);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_the_packets_destination_and_are_not_endless() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    let narrow = open(builder(&lab, Transport::Tcp).inner_mtu(600)).await;
    let IpAddr::V4(to) = narrow.config().ipv4().unwrap() else {
        panic!("IPv4")
    };
    let to = to.octets();
    // The stream stays open until all is counted: a socket closed with answers unread resets its connection, and the
    // server would lose what it has not read yet.
    let (lab, _raw) = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::open(&lab);
        // May not be fragmented: fragmentation needed, with the MTU.
        let packet = raw.udp(to, 1000, 0x40, 64);
        raw.stream.write_all(&packet).unwrap();
        let answer = raw.packet();
        assert_eq!(answer[12..16], to);
        assert_eq!(answer[16..20], raw.inner);
        assert_eq!(answer[20..22], [3, 4]);
        assert_eq!(answer[26..28], 600_u16.to_be_bytes());
        assert_eq!(answer[28..], packet[..548]);
        // Its last hop is here.
        raw.stream.write_all(&raw.udp(to, 100, 0, 1)).unwrap();
        assert_eq!(raw.packet()[20..22], [11, 0]);
        // A flood into the void is answered now and then.
        let packet = raw.udp([10, 64, 0, 250], 100, 0, 64);
        for _ in 0..2000 {
            raw.stream.write_all(&packet).unwrap();
        }
        assert_eq!(raw.packet()[20..22], [3, 1]);
        // A later fragment of something is not; this is the end of the flood.
        let mut fragment = raw.udp([10, 64, 0, 250], 100, 0, 64);
        fragment[7] = 1;
        raw.stream.write_all(&fragment).unwrap();
        (lab, raw)
    })
    .await
    .unwrap();
    let report = soon(async {
        loop {
            let report = lab.server.report().await.unwrap();
            if report.counters.no_route == 2001 {
                break report;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(report.counters.icmp_limited > 1000, "{report:?}");
    assert!(report.counters.icmp_errors < 1000, "{report:?}");
    assert_eq!(report.counters.too_big, 1);
    assert_eq!(report.counters.hops_exceeded, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_may_not_reach_others_are_told_so() {
    let text = Lab::config_text(&LabOptions::default()).replacen(
        "\"SIP\"",
        "\"SIP\", \"inter-client-block\"",
        1,
    );
    let lab = start(&text);
    let tunnel = open(lab.tunnel_to("access")).await;
    let other = open(lab.tunnel_to("access")).await;
    for peer in [
        other.config().ipv4().unwrap(),
        "10.64.0.250".parse().unwrap(),
    ] {
        let local = tunnel.config().ipv4().unwrap();
        let socket = tunnel.bind_udp((local, 0).into()).unwrap();
        socket.connect((peer, 5060).into()).await.unwrap();
        socket.send(b"anybody there?").await.unwrap();
        let error = soon(socket.recv(&mut [0; 64])).await.unwrap_err();
        assert_eq!(SocketError::of(&error), Some(&SocketError::Unreachable));
    }
    // The same whether somebody has the address or not.
    assert_eq!(lab.server.report().await.unwrap().counters.blocked, 2);
}

/// Streams that are always readable, more than fit one turn.
const FLOODERS: usize = 48;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_do_not_starve_behind_busy_streams() {
    // So busy that newcomers would be sent away.
    let lab = Lab::start(&LabOptions {
        system: "busy-when-overloaded = false".to_owned(),
        ..LabOptions::default()
    })
    .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let mut floods = Vec::new();
    for _ in 0..FLOODERS {
        let raw = Raw::open(&lab);
        // Longest packets to where nobody is: much to read, little to do.
        let burst = raw.udp([10, 64, 0, 250], 1400, 0x40, 64).repeat(700);
        let stop = Arc::clone(&stop);
        floods.push(std::thread::spawn(move || {
            let mut raw = raw;
            raw.stream.set_write_timeout(Some(LIMIT)).unwrap();
            while !stop.load(Ordering::Relaxed) && raw.stream.write_all(&burst).is_ok() {}
        }));
    }
    let busy = async {
        while lab.server.report().await.unwrap().counters.no_route < 10_000 {
            tokio::task::yield_now().await;
        }
    };
    soon(busy).await;
    for transport in [Transport::Udp, Transport::Dtls] {
        let tunnel = open(builder(&lab, transport)).await;
        let local = SocketAddr::new(tunnel.config().ipv4().unwrap(), 4000);
        let other = open(builder(&lab, transport)).await;
        let from = other
            .bind_udp((other.config().ipv4().unwrap(), 0).into())
            .unwrap();
        let socket = tunnel.bind_udp(local).unwrap();
        from.send_to(b"through", local).await.unwrap();
        let mut buffer = [0; 64];
        let (len, _) = soon(socket.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], b"through");
    }
    stop.store(true, Ordering::Relaxed);
    drop(lab);
    for flood in floods {
        flood.join().unwrap();
    }
}

#[tokio::test]
async fn dropping_a_server_does_not_wait_for_clients() {
    let lab = Lab::start(&LabOptions::default()).unwrap();
    // A connection that the server closes, at whose other end nobody reacts.
    let mut stream = TcpStream::connect(lab.server.address(Transport::Tcp).unwrap()).unwrap();
    let mut nonsense = vec![0x10, CmType::CONFIGURATION_REQUEST.0];
    nonsense.extend([0xFF; 14]);
    stream.write_all(&nonsense).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = Vec::new();
    let _ended = stream.read_to_end(&mut answer);
    // And a tunnel, whose client shares this thread.
    let _tunnel = open(builder(&lab, Transport::Tcp)).await;
    let begun = Instant::now();
    drop(lab);
    assert!(begun.elapsed() < Duration::from_secs(1));
}
