//! UDP through real sockets.

use tokio::net::UdpSocket;

use super::*;
use crate::config::UdpFiltering;
use crate::egress::user_space::packet::datagram;

const HOSTS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];

async fn host(address: &str) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn heard(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = tokio::time::timeout(LONG, socket.recv_from(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    buffer.truncate(len);
    (buffer, from)
}

/// Source, destination and payload of a packet for a client.
fn read(bytes: &[u8]) -> (SocketAddr, SocketAddr, Vec<u8>) {
    let packet = IpPacket::decode(bytes, &Limits::new(u16::MAX)).unwrap();
    let read = datagram(&packet).unwrap();
    (read.source, read.destination, read.payload.to_vec())
}

#[tokio::test]
async fn datagrams_go_and_come_over_both_families() {
    let mut world = World::new(&config());
    for address in HOSTS {
        let (socket, to) = host(address).await;
        world.send(1, 4711, to, b"question");
        let (payload, from) = heard(&socket).await;
        assert_eq!(payload, b"question");
        socket.send_to(b"answer", from).await.unwrap();
        // An empty one is one, too.
        socket.send_to(b"", from).await.unwrap();
        for expected in [&b"answer"[..], b""] {
            let (source, destination, payload) = read(&world.next(1).await);
            assert_eq!(source, to);
            assert_eq!(destination.port(), 4711);
            assert!(addresses(1).contains(&destination.ip()));
            assert_eq!(payload, expected);
        }
    }
    let counters = world.counters();
    assert_eq!((counters.udp_sent, counters.udp_received), (2, 4));
    assert_eq!((counters.udp_mappings, counters.tunnels), (2, 1));
}

#[tokio::test]
async fn a_mapping_is_the_same_for_all_hosts_and_never_two_tunnels() {
    let mut world = World::new(&config());
    let (first, first_address) = host(HOSTS[0]).await;
    let (second, second_address) = host(HOSTS[0]).await;
    world.send(1, 4711, first_address, b"a");
    world.send(1, 4711, second_address, b"b");
    let (_, one) = heard(&first).await;
    let (_, same) = heard(&second).await;
    assert_eq!(one, same);
    // Another port of the client, and another client with the same inner address, as after a change of owners.
    world.send(1, 4712, first_address, b"c");
    let (_, port) = heard(&first).await;
    let from = SocketAddr::new(addresses(1)[0], 4711);
    for packet in world.packets(from, first_address, b"d") {
        world.packet(2, &packet);
    }
    let (_, tunnel) = heard(&first).await;
    assert!(one != port && one != tunnel && port != tunnel);
    first.send_to(b"for two", tunnel).await.unwrap();
    assert_eq!(read(&world.next(2).await).2, b"for two");
    assert!(world.got.is_empty());
}

#[tokio::test]
async fn strangers_are_let_in_as_configured() {
    for (filtering, passes) in [
        (UdpFiltering::EndpointIndependent, true),
        (UdpFiltering::AddressDependent, false),
        (UdpFiltering::AddressAndPortDependent, false),
    ] {
        let mut world = World::new(&UserSpaceConfig {
            udp_filtering: filtering,
            ..config()
        });
        let (known, to) = host(HOSTS[0]).await;
        let (stranger, _) = host("127.0.0.2:0").await;
        world.send(1, 4711, to, b"hello");
        let (_, from) = heard(&known).await;
        let mapped = SocketAddr::new([127, 0, 0, 1].into(), from.port());
        stranger.send_to(b"stranger", mapped).await.unwrap();
        known.send_to(b"known", from).await.unwrap();
        let first = read(&world.next(1).await).2;
        assert_eq!(first == b"stranger", passes, "{filtering:?}");
        assert_eq!(world.counters().udp_filtered, u64::from(!passes));
    }
}

#[tokio::test]
async fn long_datagrams_travel_in_fragments() {
    let mut world = World::new(&config());
    for address in HOSTS {
        let (socket, to) = host(address).await;
        let long: Vec<u8> = (0..20_000_u32).map(|at| (at % 253) as u8).collect();
        world.send(1, 4711, to, &long);
        let (payload, from) = heard(&socket).await;
        assert_eq!(payload, long);
        socket.send_to(&long, from).await.unwrap();
        let mut fragments = crate::egress::user_space::Fragments::default();
        let mut counters = UserSpaceCounters::default();
        loop {
            let bytes = world.next(1).await;
            let packet = IpPacket::decode(&bytes, &Limits::new(MTU)).unwrap();
            if let Some(whole) = fragments.add(Instant::now(), 0, &packet, &mut counters) {
                assert_eq!(read(whole).2, long);
                break;
            }
        }
    }
    assert_eq!(world.counters().reassembled, 2);
    assert_eq!(world.counters().fragmented, 2);
}

#[tokio::test]
#[cfg(any(target_os = "linux", target_os = "android"))]
async fn a_port_where_nobody_listens_is_told() {
    let mut world = World::new(&config());
    for (address, expected) in HOSTS.iter().zip([(3, 3, 0), (1, 4, 0)]) {
        let (socket, to) = host(address).await;
        drop(socket);
        world.send(1, 4711, to, b"anybody?");
        let error = world.next(1).await;
        assert_eq!(icmp(&error), Some(expected));
        // It quotes the client's packet.
        let packet = IpPacket::decode(&error, &Limits::new(MTU)).unwrap();
        let quote = &packet.payload().unwrap()[8..];
        let quoted = IpPacket::decode(quote, &Limits::new(MTU)).unwrap();
        assert_eq!(quoted.ports(), Some((4711, to.port())));
        assert_eq!(quoted.destination(), to.ip());
        assert!(addresses(1).contains(&quoted.source()));
    }
    assert_eq!(world.counters().host_errors, 2);
    // The mapping serves on.
    let (socket, to) = host(HOSTS[0]).await;
    world.send(1, 4711, to, b"you?");
    assert_eq!(heard(&socket).await.0, b"you?");
}

#[tokio::test]
async fn refusals_are_told() {
    let mut world = World::new(&UserSpaceConfig::default());
    let denied: SocketAddr = "127.0.0.1:9".parse().unwrap();
    world.send(1, 4711, denied, b"x");
    assert_eq!(icmp(&world.next(1).await), Some((3, 13, 0)));
    assert_eq!(world.counters().denied, 1);

    // IPv4 in IPv6 clothes is not translated.
    let mapped: SocketAddr = "[::ffff:192.0.2.1]:9".parse().unwrap();
    world.send(1, 4711, mapped, b"x");
    assert_eq!(icmp(&world.next(1).await), Some((1, 1, 0)));
    assert_eq!(world.counters().translation, 1);

    let (from, to) = (
        SocketAddr::new(addresses(1)[0], 7),
        "192.0.2.1:9".parse().unwrap(),
    );
    let sound = world.packets(from, to, b"x").remove(0);
    let mut last_hop = sound.clone();
    last_hop[8] = 1;
    world.packet(1, &last_hop);
    assert_eq!(icmp(&world.next(1).await), Some((11, 0, 0)));

    let mut sctp = sound.clone();
    sctp[9] = 132;
    world.packet(1, &sctp);
    assert_eq!(icmp(&world.next(1).await), Some((3, 13, 0)));

    let mut spoilt = sound;
    *spoilt.last_mut().unwrap() ^= 1;
    world.packet(1, &spoilt);
    world.once().await;
    assert!(world.got.is_empty());
    let counters = world.counters();
    assert_eq!(
        (
            counters.hops_exceeded,
            counters.other_protocols,
            counters.bad_checksum
        ),
        (1, 1, 1)
    );
    assert_eq!((counters.icmp_errors, counters.udp_mappings), (4, 0));
}

#[tokio::test]
async fn mappings_end_when_idle_and_with_their_tunnel() {
    let mut world = World::new(&config());
    let (socket, to) = host(HOSTS[0]).await;
    world.send(1, 4711, to, b"a");
    world.send(2, 4711, to, b"b");
    for _ in 0..2 {
        heard(&socket).await;
    }
    world.egress.session_ended(2);
    assert_eq!(
        (world.counters().udp_mappings, world.counters().tunnels),
        (1, 1)
    );
    world.ahead = Duration::from_secs(299);
    world.once().await;
    assert_eq!(world.counters().udp_mappings, 1);
    world.ahead = Duration::from_secs(302);
    world.once().await;
    assert_eq!(
        (
            world.counters().udp_mappings,
            world.counters().udp_timed_out
        ),
        (0, 1)
    );
    assert_eq!(world.egress.poll_timeout(), None);
}

#[tokio::test]
async fn a_flood_from_a_host_does_not_starve_another_mapping() {
    let mut world = World::new(&config());
    let (flooder, flooder_address) = host(HOSTS[0]).await;
    let (quiet, quiet_address) = host(HOSTS[0]).await;
    world.send(1, 1, flooder_address, b"a");
    world.send(2, 2, quiet_address, b"b");
    let (_, flooded) = heard(&flooder).await;
    let (_, other) = heard(&quiet).await;
    for _ in 0..100 {
        flooder.send_to(b"flood", flooded).await.unwrap();
    }
    quiet.send_to(b"quiet", other).await.unwrap();
    assert_eq!(read(&world.next(2).await).2, b"quiet");
    // All of the flood that the host kept comes, too.
    flooder.send_to(b"end", flooded).await.unwrap();
    let mut last = Vec::new();
    while last != b"end" {
        last = read(&world.next(1).await).2;
    }
}
