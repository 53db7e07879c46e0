//! Floods and garbage: memory stays bounded, and others are unharmed.

use proptest::prelude::*;
use tokio::net::UdpSocket;

use super::tcp::{End, listener, pattern};
use super::*;

#[tokio::test]
async fn mappings_beyond_the_bounds_are_refused_and_told() {
    let mut world = World::new(&UserSpaceConfig {
        udp_mappings: 6,
        udp_mappings_per_tunnel: 4,
        ..config()
    });
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    for name in [1, 2] {
        for port in 1..=10 {
            world.send(name, port, to, b"x");
        }
    }
    let counters = world.counters();
    assert_eq!(counters.udp_mappings, 6);
    assert_eq!((counters.udp_tunnel_full, counters.udp_full), (6, 8));
    assert_eq!(icmp(&world.next(1).await), Some((3, 13, 0)));
    // Those that there are serve on, and room is made by an end.
    world.send(1, 4, to, b"y");
    assert_eq!(world.counters().udp_sent, 7);
    world.egress.session_ended(1);
    world.send(2, 3, to, b"z");
    assert_eq!(world.counters().udp_mappings, 3);
}

#[tokio::test]
async fn an_exhausted_port_range_is_told() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = socket.local_addr().unwrap();
    let near = to.port().min(u16::MAX - 8);
    let mut world = World::new(&UserSpaceConfig {
        udp_ports: Some(near + 1..=near + 4),
        ..config()
    });
    // Others may have some of them.
    for port in 1..=5 {
        world.send(1, port, to, b"x");
    }
    let counters = world.counters();
    assert!(counters.udp_no_port >= 1, "{counters:?}");
    assert_eq!(counters.udp_opened + counters.udp_no_port, 5);
    assert_eq!(icmp(&world.next(1).await), Some((3, 13, 0)));
    for _ in 0..counters.udp_opened {
        let mut buffer = [0; 10];
        let (_, from) = tokio::time::timeout(LONG, socket.recv_from(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!((near + 1..=near + 4).contains(&from.port()));
    }
    world.egress.session_ended(1);
    world.send(2, 1, to, b"x");
    assert_eq!(
        world.counters().udp_mappings,
        u64::from(counters.udp_opened > 0) as usize
    );
}

#[tokio::test]
async fn errors_to_one_tunnel_are_limited() {
    let mut world = World::new(&UserSpaceConfig::default());
    for _ in 0..1000 {
        world.send(1, 1, "127.0.0.1:9".parse().unwrap(), b"x");
    }
    world.send(2, 1, "127.0.0.1:9".parse().unwrap(), b"x");
    world.once().await;
    let counters = world.counters();
    assert_eq!(counters.denied, 1001);
    assert_eq!(counters.icmp_errors + counters.icmp_limited, 1001);
    assert!(counters.icmp_limited > 0);
    assert!(world.got.iter().any(|(name, _)| *name == 2));
}

/// A request for a connection, without a stack behind it.
fn syn(name: u32, port: u16, to: SocketAddr) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(address)) = (addresses(name)[0], to.ip()) else {
        panic!("IPv4 only");
    };
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.octets());
    packet.extend(address.octets());
    let sum = crate::icmp::checksum(&[&packet]);
    packet[10..12].copy_from_slice(&sum);
    let mut segment = Vec::new();
    segment.extend(port.to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xFF, 0xFF, 0, 0, 0, 0]);
    let sum = crate::icmp::checksum(&[&from.octets(), &address.octets(), &[0, 6, 0, 20], &segment]);
    segment[16..18].copy_from_slice(&sum);
    packet.extend(segment);
    packet
}

#[tokio::test]
async fn a_flood_of_requests_takes_no_more_than_its_tunnels_share() {
    let mut world = World::new(&UserSpaceConfig {
        tcp_connections_per_tunnel: 8,
        ..config()
    });
    let (listener, to) = listener(false).await;
    for port in 1..=2000 {
        world.packet(1, &syn(1, port, to));
        if port % 100 == 0 {
            world.once().await;
        }
    }
    let counters = world.counters();
    assert_eq!(counters.tcp_connections, 8);
    assert_eq!(counters.tcp_tunnel_full, 1992);
    assert!(counters.tcp_buffer_bytes <= 8 * 2 * 640 * 1024);
    // Another tunnel works, to the same host.
    let mut end = End::new(&mut world, 2, to, pattern(10));
    // Those of the flood say nothing; the first that speaks is the other tunnel's.
    let core = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut streams = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => {
                    let (mut stream, _) = accepted.unwrap();
                    streams.spawn(async move {
                        let mut data = vec![0; 10];
                        stream.read_exact(&mut data).await.map(|_| data)
                    });
                }
                Some(read) = streams.join_next() => {
                    if let Ok(Ok(data)) = read {
                        return data;
                    }
                }
            }
        }
    });
    world
        .until(|world| {
            end.work(world);
            core.is_finished().then_some(())
        })
        .await;
    assert_eq!(core.await.unwrap(), pattern(10));
    world.egress.session_ended(1);
    world.egress.session_ended(2);
    let counters = world.counters();
    assert_eq!(
        (counters.tcp_connections, counters.tcp_buffer_bytes),
        (0, 0)
    );
}

#[tokio::test]
async fn connections_beyond_all_are_refused() {
    let mut world = World::new(&UserSpaceConfig {
        udp_mappings: 3,
        tcp_connections: 3,
        ..config()
    });
    let (_listener, to) = listener(false).await;
    for name in 1..=5 {
        world.packet(name, &syn(name, 1, to));
    }
    let counters = world.counters();
    assert_eq!((counters.tcp_connections, counters.tcp_full), (3, 2));
    assert_eq!(icmp(&world.next(4).await), Some((3, 13, 0)));
}

#[tokio::test]
async fn resets_and_strays_leave_nothing() {
    let mut world = World::new(&config());
    let (_listener, to) = listener(false).await;
    for flags in [0x04_u8, 0x10, 0x11, 0x14, 0x00, 0xFF] {
        for port in 1..=50 {
            let mut packet = syn(1, port, to);
            let changed = u16::from(packet[33]) as i32 - i32::from(flags);
            packet[33] = flags;
            // RFC 1624, in the short form: the checksum grows by what the word lost.
            let sum = i32::from(u16::from_be_bytes([packet[36], packet[37]])) + changed;
            let sum = if sum < 0 {
                sum - 1
            } else if sum > 0xFFFF {
                sum - 0xFFFF
            } else {
                sum
            };
            packet[36..38].copy_from_slice(&((sum & 0xFFFF) as u16).to_be_bytes());
            world.packet(1, &packet);
        }
    }
    world.once().await;
    let counters = world.counters();
    assert_eq!(
        (counters.tcp_connections, counters.tcp_buffer_bytes),
        (0, 0)
    );
    assert_eq!(world.egress.poll_timeout(), None, "no stack is left");
}

#[test]
fn garbage_does_no_harm() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    proptest!(ProptestConfig::with_cases(64), |(packets in prop::collection::vec((0_u32..3, any::<bool>(), prop::sample::select(vec![1_u8, 6, 17, 44, 58, 0]), prop::collection::vec(any::<u8>(), 0..120)), 0..60))| {
        runtime.block_on(async {
            let mut world = World::new(&UserSpaceConfig {
                udp_mappings_per_tunnel: 4,
                tcp_connections_per_tunnel: 4,
                ..UserSpaceConfig::default()
            });
            // Nothing of this may leave the machine.
            world.egress.destinations = crate::egress::user_space::Destinations::new(
                &UserSpaceConfig { deny: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()], allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()], ..UserSpaceConfig::default() },
                &[],
            );
            for (name, v6, protocol, body) in packets {
                let [v4_own, v6_own] = addresses(name);
                let mut packet = Vec::new();
                let len = u16::try_from(body.len()).unwrap();
                match (v4_own, v6_own) {
                    (IpAddr::V4(own), _) if !v6 => {
                        let [l1, l2] = (len + 20).to_be_bytes();
                        packet.extend([0x45, 0, l1, l2, 0, 0, body.first().copied().unwrap_or(0) & 0x3F, 0, 64, protocol, 0, 0]);
                        packet.extend(own.octets());
                        packet.extend([127, 0, 0, 1]);
                        let sum = crate::icmp::checksum(&[&packet]);
                        packet[10..12].copy_from_slice(&sum);
                    }
                    (_, IpAddr::V6(own)) => {
                        let [l1, l2] = len.to_be_bytes();
                        packet.extend([0x60, 0, 0, 0, l1, l2, protocol, 64]);
                        packet.extend(own.octets());
                        packet.extend(Ipv6Addr::LOCALHOST.octets());
                    }
                    _ => {}
                }
                packet.extend(body);
                world.packet(name, &packet);
            }
            world.once().await;
            let counters = world.counters();
            assert!(counters.udp_mappings <= 12 && counters.tcp_connections <= 12);
            world.ahead = Duration::from_secs(100_000);
            for _ in 0..3 {
                world.once().await;
            }
            let counters = world.counters();
            assert_eq!((counters.udp_mappings, counters.tcp_connections, counters.fragments), (0, 0, 0));
        });
    });
}
