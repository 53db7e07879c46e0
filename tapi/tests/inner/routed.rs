//! A gateway's packets.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tsc_tapi::{
    MAX_ROUTED_PACKETS, Notification, PacketBatch, Prefix, ServiceError, SocketError, Tunnel,
};
use tsc_tpl::ResponseCode;

use crate::{
    soon,
    world::{World, v4},
};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 7, 9);

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A UDP packet, without a checksum as IPv4 allows.
fn packet(from: Ipv4Addr, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(to) = to else { panic!() };
    let udp = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&(20 + udp).to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let sum = !u16::try_from((sum & 0xFFFF) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    for field in [4000, port, udp, 0] {
        packet.extend_from_slice(&field.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

async fn world() -> (World, Tunnel, Tunnel) {
    let (world, a, b) = World::with_two().await;
    world.allow(&[prefix("192.168.7.0/24"), prefix("192.168.8.0/24")]);
    (world, a, b)
}

#[tokio::test]
async fn hosts_behind_a_client_reach_others_and_are_reached() {
    let (world, a, b) = world().await;
    let gateway = soon(a.request_routed_prefixes(&[prefix("192.168.7.0/24")]))
        .await
        .unwrap();
    assert_eq!(gateway.prefixes(), [prefix("192.168.7.0/24")]);
    assert_eq!(world.routes().len(), 1);
    let peer = b.bind_udp(SocketAddr::new(v4(1), 5000)).unwrap();

    let hello = packet(HOST, v4(1), 5000, b"hello");
    let stranger = packet(Ipv4Addr::new(192, 168, 8, 1), v4(1), 5000, b"no");
    let batch: [&[u8]; 4] = [&hello, &stranger, b"rubbish", &hello];
    assert_eq!(gateway.send_batch(batch).unwrap(), 2);
    let mut buffer = [0; 99];
    for _ in 0..2 {
        let (len, from) = soon(peer.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(&buffer[..len], b"hello");
        assert_eq!(from, SocketAddr::from((HOST, 4000)));
    }
    let stats = gateway.stats();
    assert_eq!((stats.sent, stats.wrong_source, stats.malformed), (2, 1, 1));

    peer.send_to(b"and back", (HOST, 4000).into())
        .await
        .unwrap();
    let mut batch = PacketBatch::new();
    assert_eq!(soon(gateway.recv_batch(&mut batch)).await.unwrap(), 1);
    let back = batch.iter().next().unwrap();
    assert_eq!(back[16..20], HOST.octets());
    assert_eq!(&back[28..], b"and back");
    assert_eq!(gateway.stats().received, 1);

    // The tunnel's own address stays the business of its own sockets.
    let own = a.bind_udp(SocketAddr::new(v4(0), 6000)).unwrap();
    peer.send_to(b"own", SocketAddr::new(v4(0), 6000))
        .await
        .unwrap();
    let (len, _) = soon(own.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..len], b"own");
    assert_eq!(gateway.stats().received, 1);
}

#[tokio::test]
async fn a_reader_that_sleeps_finds_the_newest_packets() {
    let (_world, a, b) = world().await;
    let gateway = soon(a.request_routed_prefixes(&[])).await.unwrap();
    assert_eq!(gateway.prefixes().len(), 2);
    let peer = b.bind_udp(SocketAddr::new(v4(1), 5000)).unwrap();
    let total = 3 * MAX_ROUTED_PACKETS as u64;
    let mut sent = 0_u64;
    // In bursts that no queue on the way drops from.
    while sent < total {
        for _ in 0..64 {
            sent += 1;
            let number = sent.to_be_bytes();
            peer.send_to(&number, (HOST, 4000).into()).await.unwrap();
        }
        soon(async {
            while gateway.stats().received < sent {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    let (mut batch, mut numbers) = (PacketBatch::new(), Vec::new());
    while numbers.last() != Some(&total) {
        soon(gateway.recv_batch(&mut batch)).await.unwrap();
        assert!(batch.len() <= tsc_tapi::MAX_BATCH);
        numbers.extend(
            batch
                .iter()
                .map(|packet| u64::from_be_bytes(packet[28..].try_into().unwrap())),
        );
    }
    let first = total - MAX_ROUTED_PACKETS as u64 + 1;
    assert!(numbers.into_iter().eq(first..=total));
    assert_eq!(gateway.stats().dropped_inbound, first - 1);
}

#[tokio::test]
async fn prefixes_are_refused_given_back_and_granted_again() {
    let (world, a, _b) = world().await;
    let refused = soon(a.request_routed_prefixes(&[prefix("192.168.9.0/24")])).await;
    assert!(matches!(
        refused,
        Err(ServiceError::Refused(refusal)) if refusal.code == ResponseCode::NOT_AUTHORIZED
    ));
    for bad in ["0.0.0.0/0", "127.0.0.0/8", "224.0.0.0/4"] {
        let result = soon(a.request_routed_prefixes(&[prefix(bad)])).await;
        assert_eq!(result.unwrap_err(), ServiceError::Prefixes, "{bad}");
    }
    for round in 0..3 {
        let socket = soon(a.request_routed_prefixes(&[])).await.unwrap();
        assert_eq!(
            soon(a.request_routed_prefixes(&[])).await.unwrap_err(),
            ServiceError::InUse
        );
        assert_eq!(world.routes().len(), 2, "{round}");
        drop(socket);
        // Given up while it is being asked for, before or after the server has heard of it.
        let request = a.request_routed_prefixes(&[]);
        drop(tokio::time::timeout(std::time::Duration::from_millis(round), request).await);
    }
    soon(async {
        while !world.routes().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn prefixes_survive_a_resume_unless_the_server_forgets_them() {
    let (world, a, b) = world().await;
    let gateway = soon(a.request_routed_prefixes(&[prefix("192.168.7.0/24")]))
        .await
        .unwrap();
    let peer = b.bind_udp(SocketAddr::new(v4(1), 5000)).unwrap();
    let mut told = a.notifications();
    let mut batch = PacketBatch::new();
    world.cut(0);
    while !matches!(soon(told.recv()).await, Some(Notification::Resumed(_))) {}
    peer.send_to(b"again", (HOST, 4000).into()).await.unwrap();
    assert_eq!(soon(gateway.recv_batch(&mut batch)).await.unwrap(), 1);

    world.forget_services();
    world.cut(0);
    let error = soon(gateway.recv_batch(&mut batch)).await.unwrap_err();
    assert_eq!(SocketError::of(&error), Some(&SocketError::PrefixesEnded));
    let error = gateway.send_batch([&b"x"[..]]).unwrap_err();
    assert_eq!(SocketError::of(&error), Some(&SocketError::PrefixesEnded));
    // A new socket has them again.
    drop(gateway);
    let gateway = soon(a.request_routed_prefixes(&[])).await.unwrap();
    drop(a);
    let error = soon(gateway.recv_batch(&mut batch)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
}
