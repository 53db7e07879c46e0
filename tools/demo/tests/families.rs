//! Decoupled mode: every IP version outside with every IP version inside, over every transport, and clients that hold
//! both versions at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tsc_demo::lab::{Lab, LabOptions};
use tsc_tapi::{
    AddressWish, DtlsBackendKind, Family, SocketError, Transport, Tunnel, TunnelBuilder, UdpSocket,
};

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(20);
const OPENSSL: DtlsBackendKind = DtlsBackendKind::OpenSsl;
const OUTER: [&str; 2] = ["127.0.0.1", "::1"];
const MTU: u16 = 1300;

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("in time")
}

async fn open(builder: TunnelBuilder) -> Tunnel {
    soon(builder.connect()).await.unwrap()
}

/// Every transport, DTLS by each back end.
fn legs() -> Vec<(Transport, DtlsBackendKind)> {
    let mut legs: Vec<_> = Transport::ALL.map(|transport| (transport, OPENSSL)).into();
    legs.push((Transport::Dtls, DtlsBackendKind::Dimpl));
    legs.push((Transport::Dtls, DtlsBackendKind::WebRtc));
    legs
}

/// A server whose one pool has both versions, reached by the outer `address`.
fn lab(address: &str) -> Lab {
    Lab::start(&LabOptions {
        address: address.to_owned(),
        address_range: "10.64.0.0/24\", \"fd00:64::/120".to_owned(),
        interface: format!("authentication = \"none\"\ninner-mtu = {MTU}"),
        ..LabOptions::default()
    })
    .unwrap()
}

const fn wish(family: Family) -> AddressWish {
    AddressWish { family, count: 1 }
}

/// What a client may ask for.
const WISHES: [&[AddressWish]; 3] = [
    &[wish(Family::Ipv4)],
    &[wish(Family::Ipv6)],
    &[wish(Family::Ipv4), wish(Family::Ipv6)],
];

fn inner(tunnel: &Tunnel) -> Vec<IpAddr> {
    let config = tunnel.config();
    [config.ipv4(), config.ipv6()]
        .into_iter()
        .flatten()
        .collect()
}

async fn exchange(from: &UdpSocket, to: &UdpSocket, len: usize) {
    let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
    let target = to.local_addr().unwrap();
    from.send_to(&payload, target).await.unwrap();
    let mut buffer = vec![0; len + 1];
    let (got, sender) = soon(to.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(buffer[..got], payload);
    assert_eq!(sender, from.local_addr().unwrap());
}

/// An inner TCP connection with more in it than one window of a beginning, answered by its end.
async fn stream(near: &Tunnel, far: &Tunnel, here: IpAddr, there: IpAddr) {
    let listener = far.bind_tcp(SocketAddr::new(there, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let accepting = async {
        let (mut stream, peer) = soon(listener.accept()).await.unwrap();
        assert_eq!(peer.ip(), here);
        let mut all = Vec::new();
        soon(stream.read_to_end(&mut all)).await.unwrap();
        stream.write_all(b"got it").await.unwrap();
        stream.shutdown().await.unwrap();
        all
    };
    let sent: Vec<u8> = (0..50_000_u32).flat_map(u32::to_be_bytes).collect();
    let connecting = async {
        let mut stream = soon(near.connect_tcp(to)).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), here);
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.unwrap();
        answer
    };
    let (received, answer) = tokio::join!(accepting, connecting);
    assert!(received == sent, "{here} -> {to}");
    assert_eq!(answer, b"got it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_outer_version_carries_every_inner_version_over_every_transport() {
    for outer in OUTER {
        let lab = lab(outer);
        for (transport, backend) in legs() {
            for wishes in WISHES {
                let what = format!("{wishes:?} over {transport} {backend} to {outer}");
                let wanted = || {
                    lab.tunnel(transport, backend)
                        .unwrap()
                        .addresses(wishes.to_vec())
                };
                let near = open(wanted()).await;
                let far = open(wanted()).await;
                assert_eq!(near.config().inner_mtu, MTU, "{what}");
                assert_eq!(
                    near.config().nat_view.unwrap().ip(),
                    outer.parse::<IpAddr>().unwrap(),
                    "{what}"
                );
                let (here, there) = (inner(&near), inner(&far));
                assert_eq!(
                    (here.len(), there.len()),
                    (wishes.len(), wishes.len()),
                    "{what}"
                );
                // A client with both has both in use at once.
                let mut pairs = Vec::new();
                for (here, there) in here.into_iter().zip(there) {
                    let one = near.bind_udp(SocketAddr::new(here, 0)).unwrap();
                    let other = far.bind_udp(SocketAddr::new(there, 0)).unwrap();
                    pairs.push((one, other));
                }
                for (one, other) in &pairs {
                    let header = if one.local_addr().unwrap().is_ipv4() {
                        28
                    } else {
                        48
                    };
                    // One packet, the longest one packet, and one in fragments.
                    for len in [1, usize::from(MTU) - header, 3 * usize::from(MTU)] {
                        exchange(one, other, len).await;
                        exchange(other, one, len).await;
                    }
                }
                for (here, there) in inner(&near).into_iter().zip(inner(&far)) {
                    stream(&near, &far, here, there).await;
                }
                for tunnel in [near, far] {
                    soon(tunnel.close(LIMIT)).await.unwrap();
                }
            }
        }
        let counters = lab.server.stop().unwrap().counters;
        assert_eq!(
            (counters.too_big, counters.no_route),
            (0, 0),
            "{counters:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_one_version_cannot_reach_the_other_and_is_told_so_at_once() {
    let lab = lab("127.0.0.1");
    let only_v4 = open(
        lab.tunnel(Transport::Tcp, OPENSSL)
            .unwrap()
            .addresses([wish(Family::Ipv4)]),
    )
    .await;
    let only_v6 = open(
        lab.tunnel(Transport::Udp, OPENSSL)
            .unwrap()
            .addresses([wish(Family::Ipv6)]),
    )
    .await;
    for (tunnel, local, other) in [
        (&only_v4, "0.0.0.0:0", inner(&only_v6)[0]),
        (&only_v6, "[::]:0", inner(&only_v4)[0]),
    ] {
        let target = SocketAddr::new(other, 4000);
        let error = tunnel.local_address_for(target).unwrap_err();
        assert_eq!(SocketError::of(&error), Some(&SocketError::Family(target)));
        let socket = tunnel.bind_udp(local.parse().unwrap()).unwrap();
        let error = socket.send_to(b"hello", target).await.unwrap_err();
        assert_eq!(SocketError::of(&error), Some(&SocketError::Family(target)));
    }
}
