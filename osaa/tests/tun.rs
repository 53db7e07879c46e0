//! TUN devices on the real kernel. Each test runs in a network namespace of its own, see `tun_common`.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod tun_common;

use std::{
    fs::{self, File},
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    task::Poll,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkMessage},
};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr as NetlinkAddr, protocols::NETLINK_ROUTE};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tsc_osaa::tun::{TunBatch, TunConfig, TunDevice, TunError, interface_counters};
use tun_common::{config, is_intact, mirror, test_in_namespace, within};

/// The host's address and one behind the device, which the mirror answers for.
const FAMILIES: [(&str, &str); 2] = [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")];

fn at(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().unwrap(), port).into()
}

/// Sends one message with a link's index and waits for the answer.
fn change_link(name: &str, change: fn(LinkMessage) -> RouteNetlinkMessage) {
    let mut socket = NetlinkSocket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&NetlinkAddr::new(0, 0)).unwrap();
    let mut link = LinkMessage::default();
    link.header.change_mask = LinkFlags::Up;
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let mut message = NetlinkMessage::from(change(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).unwrap();
    let NetlinkPayload::Error(error) = answer.payload else {
        panic!("{answer:?}");
    };
    assert!(error.code.is_none(), "{error}");
}

/// What the kernel still knows of an interface.
fn traces(name: &str) -> Vec<String> {
    let mut found = Vec::new();
    for table in ["dev", "route", "ipv6_route", "if_inet6"] {
        let table = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        found.extend(
            table
                .lines()
                .filter(|line| line.contains(name))
                .map(str::to_owned),
        );
    }
    found
}

async fn ping(host: &str, behind: &str) {
    let v4 = host.contains('.');
    let (domain, protocol) = if v4 {
        (Domain::IPV4, Protocol::ICMPV4)
    } else {
        (Domain::IPV6, Protocol::ICMPV6)
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.connect(&at(behind, 0).into()).unwrap();
    let socket = UdpSocket::from_std(OwnedFd::from(socket).into()).unwrap();
    // Type, code, checksum (IPv6's is the kernel's affair), identifier, sequence number.
    let (request, answer) = if v4 { (8, 0) } else { (128, 129) };
    let sum: u16 = if v4 { !(0x0800 + 0x1234 + 1) } else { 0 };
    let [a, b] = sum.to_be_bytes();
    let echo = [request, 0, a, b, 0x12, 0x34, 0, 1];
    let mut bytes = [0; 256];
    socket.send(&echo).await.unwrap();
    loop {
        let length = socket.recv(&mut bytes).await.unwrap();
        let icmp = &bytes[if v4 { 20 } else { 0 }..length];
        // The mirrored request comes first.
        if icmp[0] == answer {
            assert_eq!(icmp[4..8], echo[4..8]);
            return;
        }
    }
}

/// Sends a datagram of each length to an echo server behind the mirror.
async fn udp(host: &str, behind: &str, lengths: &[usize]) {
    let server = UdpSocket::bind(at(host, 0)).await.unwrap();
    let port = server.local_addr().unwrap().port();
    let client = UdpSocket::bind(at(host, 0)).await.unwrap();
    client.connect(at(behind, port)).await.unwrap();
    let mut bytes = vec![0; 65_536];
    for &length in lengths {
        let sent = vec![u8::try_from(length % 251).unwrap(); length];
        client.send(&sent).await.unwrap();
        let (received, peer) = server.recv_from(&mut bytes).await.unwrap();
        assert_eq!(peer.ip(), behind.parse::<IpAddr>().unwrap());
        server.send_to(&bytes[..received], peer).await.unwrap();
        let received = client.recv(&mut bytes).await.unwrap();
        assert!(bytes[..received] == sent, "{length}");
    }
}

/// Sends `length` bytes and takes them back.
async fn tcp(host: &str, behind: &str, length: usize) {
    let listener = TcpListener::bind(at(host, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let client = TcpStream::connect(at(behind, port)).await.unwrap();
    let (mut reader, mut writer) = client.into_split();
    let sent: Vec<u8> = (0..length).map(|at| (at % 251) as u8).collect();
    let expected = sent.clone();
    let sending = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut received = Vec::new();
    reader.read_to_end(&mut received).await.unwrap();
    assert!(received == expected);
    sending.await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn ping_udp_and_tcp_of_both_families_pass() {
    if !test_in_namespace("ping_udp_and_tcp_of_both_families_pass") {
        return;
    }
    for offload in [true, false] {
        let mut config = config("tsctest");
        config.offload = offload;
        let device = TunDevice::create(&config).unwrap();
        assert_eq!((device.name(), device.mtu()), ("tsctest", 1500));
        let mut queues = device.into_queues();
        assert_eq!(queues.len(), 1);
        let (seen, task) = mirror(queues.remove(0));
        within(async {
            for (host, behind) in FAMILIES {
                ping(host, behind).await;
                udp(host, behind, &[0, 1, 1000, 1452, 1472, 9000, 65_000]).await;
                tcp(host, behind, 1_000_000).await;
            }
        })
        .await;
        task.abort();
        let _ = task.await;
        let seen = seen.lock().unwrap();
        assert!(seen.packets > 100 && seen.longest <= 1500, "{seen:?}");
        assert_eq!((seen.broken, seen.stats.malformed), (0, 0), "{seen:?}");
        assert_eq!((seen.stats.dropped, seen.stats.refused), (0, 0), "{seen:?}");
        assert_eq!(seen.stats.sent, seen.packets);
    }
}

#[tokio::test]
async fn super_packets_are_split_and_joined() {
    if !test_in_namespace("super_packets_are_split_and_joined") {
        return;
    }
    for mtu in [1500, 1280, 9000] {
        let mut config = config("tsctest");
        config.mtu = mtu;
        let device = TunDevice::create(&config).unwrap();
        let (seen, task) = mirror(device.into_queues().remove(0));
        within(async {
            for (host, behind) in FAMILIES {
                tcp(host, behind, 4_000_000).await;
            }
        })
        .await;
        task.abort();
        let _ = task.await;
        let seen = seen.lock().unwrap();
        assert_eq!((seen.broken, seen.longest), (0, mtu.into()), "{seen:?}");
        assert!(seen.stats.reads * 2 < seen.stats.received, "{seen:?}");
        assert!(seen.stats.writes * 2 < seen.stats.sent, "{seen:?}");
        assert_eq!((seen.stats.dropped, seen.stats.refused), (0, 0), "{seen:?}");
    }
}

#[tokio::test]
async fn datagrams_sent_as_a_train_arrive_one_by_one() {
    if !test_in_namespace("datagrams_sent_as_a_train_arrive_one_by_one") {
        return;
    }
    let device = TunDevice::create(&config("tsctest")).unwrap();
    let mut queue = device.into_queues().remove(0);
    let mut batch = TunBatch::default();
    within(async {
        for (host, behind) in FAMILIES {
            let socket = UdpSocket::bind(at(host, 0)).await.unwrap();
            let state = quinn_udp::UdpSocketState::new((&socket).into()).unwrap();
            let contents: Vec<u8> = (0..9_500_u32).map(|at| (at / 1000) as u8).collect();
            let train = quinn_udp::Transmit {
                destination: at(behind, 9),
                ecn: None,
                contents: &contents,
                segment_size: Some(1000),
                src_ip: None,
            };
            state.try_send((&socket).into(), &train).unwrap();
            let headers = if host.contains('.') { 28 } else { 48 };
            let mut arrived = Vec::new();
            while arrived.len() < 10 {
                queue.recv(&mut batch).await.unwrap();
                for packet in batch.iter() {
                    assert!(is_intact(packet));
                    let number = packet[packet.len() - 1];
                    arrived.push((number, packet.len() - headers));
                }
            }
            let expected = (0..10).map(|number| (number, if number < 9 { 1000 } else { 500 }));
            assert_eq!(arrived, expected.collect::<Vec<_>>());
        }
    })
    .await;
}

#[tokio::test]
async fn datagrams_are_joined_on_their_way_in() {
    if !test_in_namespace("datagrams_are_joined_on_their_way_in") {
        return;
    }
    let device = TunDevice::create(&config("tsctest")).unwrap();
    let (seen, _task) = mirror(device.into_queues().remove(0));
    within(async {
        for (host, behind) in FAMILIES {
            let server = UdpSocket::bind(at(host, 0)).await.unwrap();
            let port = server.local_addr().unwrap().port();
            let client = UdpSocket::bind(at(host, 0)).await.unwrap();
            let state = quinn_udp::UdpSocketState::new((&client).into()).unwrap();
            let contents: Vec<u8> = (0..9_500_u32).map(|at| (at / 1000) as u8).collect();
            let train = quinn_udp::Transmit {
                destination: at(behind, port),
                ecn: None,
                contents: &contents,
                segment_size: Some(1000),
                src_ip: None,
            };
            state.try_send((&client).into(), &train).unwrap();
            let mut bytes = [0; 2000];
            for (number, expected) in contents.chunks(1000).enumerate() {
                let (length, _) = server.recv_from(&mut bytes).await.unwrap();
                assert!(bytes[..length] == *expected, "datagram {number}");
            }
        }
    })
    .await;
    let seen = seen.lock().unwrap();
    assert!(seen.packets >= 20, "{seen:?}");
    // Kernels before 6.2 know no UDP trains on TUN devices; then as many calls as packets.
    assert!(seen.stats.writes <= seen.stats.sent, "{seen:?}");
    assert_eq!(seen.stats.dropped + seen.stats.refused, 0, "{seen:?}");
    assert_eq!(seen.broken, 0);
}

#[tokio::test]
async fn a_super_packet_goes_on_in_the_next_batch() {
    if !test_in_namespace("a_super_packet_goes_on_in_the_next_batch") {
        return;
    }
    // 64 KiB of payload become more than the 64 KiB of the smallest batch.
    let mut config = config("tsctest");
    config.mtu = 1280;
    let device = TunDevice::create(&config).unwrap();
    let mut queue = device.into_queues().remove(0);
    let (host, behind) = FAMILIES[1];
    let reader = tokio::spawn(async move {
        let mut batch = TunBatch::new(0);
        let mut filled = false;
        loop {
            let Ok(count) = queue.recv(&mut batch).await else {
                return filled;
            };
            filled |= batch.is_full(1280) && count >= 40;
            for packet in batch.iter_mut() {
                assert!(is_intact(packet) && packet.len() <= 1280);
                let (source, destination) = packet[8..40].split_at_mut(16);
                source.swap_with_slice(destination);
            }
            queue.try_send(&batch).unwrap();
        }
    });
    within(async {
        tcp(host, behind, 8_000_000).await;
        change_link("tsctest", RouteNetlinkMessage::DelLink);
        assert!(reader.await.unwrap(), "no batch was ever full");
    })
    .await;
}

#[tokio::test]
async fn flows_spread_over_the_queues() {
    if !test_in_namespace("flows_spread_over_the_queues") {
        return;
    }
    let mut config = config("tsctest");
    config.queues = 4;
    let device = TunDevice::create(&config).unwrap();
    let mirrors: Vec<_> = device.into_queues().into_iter().map(mirror).collect();
    assert_eq!(mirrors.len(), 4);
    within(async {
        // 64 flows that all miss one of four queues: a chance of 4 * 0.75^64, one in 25 million.
        for (host, behind) in FAMILIES {
            for _ in 0..32 {
                udp(host, behind, &[100]).await;
            }
            tcp(host, behind, 1_000_000).await;
        }
    })
    .await;
    for (seen, _) in &mirrors {
        let seen = seen.lock().unwrap();
        assert!(seen.packets > 0 && seen.broken == 0, "{seen:?}");
    }
}

#[tokio::test]
async fn a_full_queue_drops_and_counts() {
    if !test_in_namespace("a_full_queue_drops_and_counts") {
        return;
    }
    let mut config = config("tsctest");
    config.queue_length = 16;
    let device = TunDevice::create(&config).unwrap();
    let mut queue = device.into_queues().remove(0);
    let mut batch = TunBatch::default();
    let socket = std::net::UdpSocket::bind(at("10.9.0.1", 0)).unwrap();
    let before = interface_counters("tsctest").unwrap();
    for number in 0..200_u8 {
        socket.send_to(&[number], "10.9.0.2:9").unwrap();
    }
    let dropped = interface_counters("tsctest").unwrap().to_us_dropped - before.to_us_dropped;
    within(async {
        let count = queue.recv(&mut batch).await.unwrap();
        let ours = |packet: &&[u8]| packet[0] == 0x45 && packet[9] == 17;
        let kept = batch.iter().filter(ours).count();
        assert!((1..=16).contains(&kept) && count <= 16, "{kept} of {count}");
        // Packets of others, such as multicast reports, may have found the queue full too.
        assert!(
            dropped >= 200 - kept as u64,
            "{dropped} dropped, {kept} kept"
        );
        assert!(
            batch
                .iter()
                .filter(ours)
                .zip(0..)
                .all(|(packet, number)| packet[28] == number)
        );
        // There is room again.
        socket.send_to(&[250], "10.9.0.2:9").unwrap();
        queue.recv(&mut batch).await.unwrap();
        assert!(batch.iter().any(|packet| packet.ends_with(&[250])));
    })
    .await;
}

#[tokio::test]
async fn what_the_kernel_does_not_take_is_counted() {
    if !test_in_namespace("what_the_kernel_does_not_take_is_counted") {
        return;
    }
    for offload in [true, false] {
        let mut config = config("tsctest");
        config.offload = offload;
        let mut queue = TunDevice::create(&config).unwrap().into_queues().remove(0);
        let mut batch = TunBatch::default();
        assert_eq!(queue.try_send(&batch).unwrap(), 0);
        for packet in [&[][..], &[0xFF; 40], &[0; 1], &[0x15; 2000]] {
            assert!(batch.push(packet));
        }
        assert_eq!(queue.try_send(&batch).unwrap(), 0);
        assert_eq!(queue.stats().refused, 4);

        let server = UdpSocket::bind("10.9.0.1:0").await.unwrap();
        let port = server.local_addr().unwrap().port();
        // From 10.9.0.9 port 9, without a checksum (RFC 768), its IP checksum right.
        let mut packet = vec![
            0x45, 0, 0, 30, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 9, 10, 9, 0, 1,
        ];
        let sum: u32 = packet
            .chunks(2)
            .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
            .sum();
        let sum = !u16::try_from((sum & 0xFFFF) + (sum >> 16)).unwrap();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0, 9]);
        packet.extend(port.to_be_bytes());
        packet.extend([0, 10, 0, 0, b'h', b'i']);
        batch.clear();
        assert!(batch.push(&[0xFF; 40]) && batch.push(&packet) && batch.push(&packet));
        assert_eq!(queue.try_send(&batch).unwrap(), 2);
        let mut bytes = [0; 64];
        for _ in 0..2 {
            let received = within(server.recv_from(&mut bytes)).await.unwrap();
            assert_eq!(
                (&bytes[..received.0], received.1),
                (&b"hi"[..], at("10.9.0.9", 9))
            );
        }

        // Down, the interface takes nothing; up again, it goes on.
        change_link("tsctest", RouteNetlinkMessage::SetLink);
        assert_eq!(queue.try_send(&batch).unwrap(), 0);
        let stats = queue.stats();
        assert_eq!(
            (stats.sent, stats.dropped + stats.refused),
            (2, 4 + 1 + 3),
            "{stats:?}"
        );
        assert!(stats.dropped >= 2, "{stats:?}");
        change_link("tsctest", |mut link| {
            link.header.flags = LinkFlags::Up;
            RouteNetlinkMessage::SetLink(link)
        });
        assert_eq!(queue.try_send(&batch).unwrap(), 2);
    }
}

#[tokio::test]
async fn a_device_that_goes_away_ends_its_queues() {
    if !test_in_namespace("a_device_that_goes_away_ends_its_queues") {
        return;
    }
    let mut config = config("tsctest");
    config.queues = 2;
    let mut queues = TunDevice::create(&config).unwrap().into_queues();
    let mut waiting = queues.remove(0);
    let mut other = queues.remove(0);
    let waiting = tokio::spawn(async move {
        let mut batch = TunBatch::default();
        loop {
            if let Err(error) = waiting.recv(&mut batch).await {
                return error;
            }
        }
    });
    // On this runtime of one thread, the task has registered by then.
    tokio::task::yield_now().await;
    change_link("tsctest", RouteNetlinkMessage::DelLink);
    within(waiting).await.unwrap();
    let mut batch = TunBatch::default();
    assert!(batch.push(&[0x45; 20]));
    other.try_send(&batch).unwrap_err();
    loop {
        if within(other.recv(&mut batch)).await.is_err() {
            break;
        }
    }
}

#[tokio::test]
async fn set_up_is_complete_and_tear_down_leaves_nothing() {
    if !test_in_namespace("set_up_is_complete_and_tear_down_leaves_nothing") {
        return;
    }
    let mut config = config("tsctest");
    config.queues = 3;
    config.mtu = 1400;
    config.routes = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"]
        .map(|prefix| prefix.parse().unwrap())
        .to_vec();
    for _ in 0..3 {
        let device = TunDevice::create(&config).unwrap();
        assert_eq!(
            fs::read_to_string("/proc/sys/net/ipv6/conf/tsctest/mtu").unwrap(),
            "1400\n"
        );
        let mut queues = device.into_queues();
        let routes = fs::read_to_string("/proc/self/net/route").unwrap();
        // In the order of the machine's bytes.
        for network in [[10, 9, 0, 0], [192, 0, 2, 0], [198, 51, 100, 7]] {
            let line = format!("tsctest\t{:08X}\t", u32::from_ne_bytes(network));
            assert!(routes.contains(&line), "{line} in {routes}");
        }
        // Reached through a route, not only through the address's own prefix.
        let socket = UdpSocket::bind("[fd09::1]:0").await.unwrap();
        socket.send_to(b"x", "[2001:db8::5]:9").await.unwrap();
        let mut batch = TunBatch::default();
        within(poll_fn(|cx| {
            let mut found = false;
            for queue in &mut queues {
                while let Poll::Ready(count) = queue.poll_recv(cx, &mut batch) {
                    count.unwrap();
                    found |= batch.iter().any(|packet| packet.ends_with(b"x"));
                }
            }
            if found {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        }))
        .await;
        // The last queue takes the device with it.
        drop(queues.drain(1..));
        assert!(!traces("tsctest").is_empty());
        drop(queues);
        assert_eq!(traces("tsctest"), [""; 0]);
        assert!(interface_counters("tsctest").is_err());
    }
}

#[tokio::test]
async fn failures_say_what_is_in_the_way_and_leave_nothing() {
    if !test_in_namespace("failures_say_what_is_in_the_way_and_leave_nothing") {
        return;
    }
    let first = TunDevice::create(&config("tscfirst")).unwrap();
    let fails = |change: fn(&mut TunConfig)| {
        let mut config = TunConfig::default();
        config.name = Some("tscsecond".to_owned());
        config.addresses = vec!["10.8.0.1/24".parse().unwrap()];
        change(&mut config);
        let error = TunDevice::create(&config).unwrap_err();
        assert_eq!(traces("tscsecond"), [""; 0], "{error}");
        error
    };

    let error = fails(|config| config.name = Some("tscfirst".to_owned()));
    assert!(
        matches!(&error, TunError::NameTaken { name } if name == "tscfirst"),
        "{error}"
    );
    let error = fails(|config| config.name = Some("lo".to_owned()));
    assert!(matches!(error, TunError::NameTaken { .. }), "{error}");
    for name in ["", "sixteen-letters-", "a/b", "a b", "..", "a:b", "a\0b"] {
        let mut config = TunConfig::default();
        config.name = Some(name.to_owned());
        let error = TunDevice::create(&config).unwrap_err();
        assert!(matches!(error, TunError::InvalidName { .. }), "{error}");
    }
    let error = fails(|config| config.queues = 0);
    assert!(
        matches!(error, TunError::InvalidQueues { queues: 0 }),
        "{error}"
    );
    let error = fails(|config| config.queues = 257);
    assert!(
        matches!(error, TunError::InvalidQueues { queues: 257 }),
        "{error}"
    );
    let error = fails(|config| config.mtu = 67);
    assert!(
        matches!(error, TunError::InvalidMtu { mtu: 67, least: 68 }),
        "{error}"
    );
    let error = fails(|config| {
        config.mtu = 1279;
        config.routes.push("2001:db8::/32".parse().unwrap());
    });
    assert!(
        matches!(error, TunError::InvalidMtu { least: 1280, .. }),
        "{error}"
    );
    for taken in ["10.9.0.1/32", "fd09::1/128"] {
        let mut config = TunConfig::default();
        config.name = Some("tscsecond".to_owned());
        config.addresses = vec!["10.8.0.1/24".parse().unwrap(), taken.parse().unwrap()];
        let error = TunDevice::create(&config).unwrap_err();
        assert!(
            matches!(&error, TunError::AddressInUse { interface, .. } if interface == "tscfirst"),
            "{error}"
        );
        assert_eq!(traces("tscsecond"), [""; 0]);
    }
    let error = fails(|config| config.addresses.extend(config.addresses.clone()));
    assert!(matches!(error, TunError::AddressInUse { .. }), "{error}");
    // In the configuration, and of another interface, whose route has its own metric where the family has metrics.
    for (route, taken_by) in [
        ("10.10.0.0/24", "tscsecond"),
        ("2001:db8::/32", "tscsecond"),
        ("10.9.0.0/24", "tscfirst"),
        ("fd09::/64", "tscfirst"),
    ] {
        let mut config = TunConfig::default();
        config.name = Some("tscsecond".to_owned());
        config.routes = vec![route.parse().unwrap(); 2];
        let error = TunDevice::create(&config).unwrap_err();
        assert!(
            matches!(&error, TunError::RouteExists { interface, .. } if interface == taken_by),
            "{error}"
        );
        assert_eq!(traces("tscsecond"), [""; 0]);
    }

    fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let error = fails(|config| config.addresses.push("2001:db8::1/64".parse().unwrap()));
    assert!(matches!(error, TunError::Ipv6Disabled { .. }), "{error}");
    // IPv4 does without.
    let second = TunDevice::create(&TunConfig::default()).unwrap();
    assert!(second.name().starts_with("tsc"), "{second:?}");

    // The first has not suffered.
    let (_seen, _task) = mirror(first.into_queues().remove(0));
    within(udp("10.9.0.1", "10.9.0.2", &[10])).await;
}

#[tokio::test]
async fn queues_are_handed_over_by_descriptor() {
    if !test_in_namespace("queues_are_handed_over_by_descriptor") {
        return;
    }
    for offload in [true, false] {
        let mut config = config("tsctest");
        config.offload = offload;
        config.queues = 2;
        let fds = TunDevice::create(&config).unwrap().into_fds();
        assert_eq!(fds.len(), 2);
        let device = TunDevice::from_fds(fds, 1500).unwrap();
        assert_eq!(device.name(), "tsctest");
        let mirrors: Vec<_> = device.into_queues().into_iter().map(mirror).collect();
        within(async {
            for (host, behind) in FAMILIES {
                udp(host, behind, &[100, 3000]).await;
                tcp(host, behind, 1_000_000).await;
            }
        })
        .await;
        let broken: u64 = mirrors
            .iter()
            .map(|(seen, _)| seen.lock().unwrap().broken)
            .sum();
        assert_eq!(broken, 0);
        for (_, task) in mirrors {
            task.abort();
            let _ = task.await;
        }
        assert_eq!(traces("tsctest"), [""; 0]);
    }

    let null = || OwnedFd::from(File::open("/dev/null").unwrap());
    let error = TunDevice::from_fds(vec![null()], 1500).unwrap_err();
    assert!(matches!(error, TunError::NotTun { position: 0 }), "{error}");
    let unattached = OwnedFd::from(File::open("/dev/net/tun").unwrap());
    let error = TunDevice::from_fds(vec![unattached], 1500).unwrap_err();
    assert!(matches!(error, TunError::NotTun { position: 0 }), "{error}");
    let error = TunDevice::from_fds(Vec::new(), 1500).unwrap_err();
    assert!(
        matches!(error, TunError::InvalidQueues { queues: 0 }),
        "{error}"
    );
    let mut fds = TunDevice::create(&TunConfig::default()).unwrap().into_fds();
    fds.extend(TunDevice::create(&TunConfig::default()).unwrap().into_fds());
    let error = TunDevice::from_fds(fds, 1500).unwrap_err();
    assert!(matches!(error, TunError::SeveralDevices { .. }), "{error}");
}

#[test]
fn a_queue_outside_of_a_runtime_is_an_error() {
    if !test_in_namespace("a_queue_outside_of_a_runtime_is_an_error") {
        return;
    }
    let device = TunDevice::create(&config("tsctest")).unwrap();
    let mut queue = device.into_queues().remove(0);
    let mut batch = TunBatch::default();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let answer = queue.poll_recv(&mut cx, &mut batch);
    assert!(matches!(answer, Poll::Ready(Err(_))), "{answer:?}");
    // And works inside of one afterwards.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let result: io::Result<()> = runtime.block_on(async {
        let (_seen, _task) = mirror(queue);
        within(udp("10.9.0.1", "10.9.0.2", &[10])).await;
        Ok(())
    });
    result.unwrap();
}
