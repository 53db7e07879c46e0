//! Proxies and forwards with real clients, from this host's network to this host's network: no tunnel is needed to see
//! that they do what their protocols say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod support;

use std::{io::ErrorKind, sync::Arc};

use fast_socks5::{
    ReplyError, SocksError,
    client::{Config, Socks5Datagram, Socks5Stream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
};
use tsc_connect::{accept::Shared, forward, net::HostNet, udp};

use support::{echo, exchange, http_proxy, listener, nobody, running, socks_proxy, soon, udp_echo};

#[tokio::test]
async fn socks_connects_to_addresses_and_names_and_keeps_half_closes() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (target, _target) = echo().await;
    for host in ["127.0.0.1", "localhost"] {
        let connect =
            Socks5Stream::connect(proxy, host.to_owned(), target.port(), Config::default());
        let mut stream = soon(connect).await.unwrap();
        assert_eq!(exchange(&mut stream, b"hello").await, b">hello", "{host}");
    }
    let summary = soon(async {
        loop {
            let summary = shared.counters.summary();
            if summary.bytes_in == 12 {
                break summary;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(
        (summary.accepted, summary.failed, summary.bytes_out),
        (2, 0, 10)
    );
}

#[tokio::test]
async fn socks_says_why_a_target_cannot_be_reached() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let nobody = nobody().await;
    let refused = Socks5Stream::connect(
        proxy,
        nobody.ip().to_string(),
        nobody.port(),
        Config::default(),
    );
    assert!(matches!(
        soon(refused).await,
        Err(SocksError::ReplyError(ReplyError::ConnectionRefused))
    ));
    let unknown = Socks5Stream::connect(proxy, "no such name".to_owned(), 80, Config::default());
    assert!(matches!(
        soon(unknown).await,
        Err(SocksError::ReplyError(ReplyError::AddressTypeNotSupported))
    ));
    // A client that speaks something else is hung up on, and harms nobody.
    let mut wrong = TcpStream::connect(proxy).await.unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    // What it did not read resets the connection; either is an end.
    let end = soon(wrong.read_u8()).await.unwrap_err().kind();
    assert!(
        matches!(end, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset),
        "{end}"
    );
    let (target, _target) = echo().await;
    let right = Socks5Stream::connect(
        proxy,
        "127.0.0.1".to_owned(),
        target.port(),
        Config::default(),
    );
    assert_eq!(exchange(&mut soon(right).await.unwrap(), b"x").await, b">x");
    assert_eq!(shared.counters.summary().failed, 3);
}

#[tokio::test]
async fn socks_takes_datagrams_to_many_targets_and_says_who_answers() {
    let shared = Shared::new(16);
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (one, _one) = udp_echo().await;
    let (two, _two) = udp_echo().await;
    let control = TcpStream::connect(proxy).await.unwrap();
    let association = soon(Socks5Datagram::bind(control, "127.0.0.1:0"))
        .await
        .unwrap();
    let mut buffer = [0; 2000];
    for target in [one, two, one] {
        for payload in [&b"datagram"[..], &[7; 1400], b""] {
            association.send_to(payload, target).await.unwrap();
            let (len, from) = soon(association.recv_from(&mut buffer)).await.unwrap();
            assert_eq!(&buffer[..len], payload);
            let fast_socks5::util::target_addr::TargetAddr::Ip(from) = from else {
                panic!("{from:?}")
            };
            assert_eq!(from, target);
        }
    }
    // Names are resolved where the target is.
    association
        .send_to(b"by name", ("localhost", two.port()))
        .await
        .unwrap();
    let (len, _) = soon(association.recv_from(&mut buffer)).await.unwrap();
    assert_eq!(&buffer[..len], b"by name");
}

#[tokio::test]
async fn forwards_carry_streams_and_datagrams() {
    let shared = Shared::new(16);
    let (target, _target) = echo().await;
    let (listener, address) = listener().await;
    let forwarded = forward::forward(listener, HostNet, target.into(), shared.clone());
    let _tcp = running(tokio::spawn(forwarded));
    let big = vec![7; 1_000_000];
    let (read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
    let sent = big.clone();
    let sender = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut answer = Vec::new();
    let mut read = read;
    soon(read.read_to_end(&mut answer)).await.unwrap();
    soon(sender).await.unwrap();
    assert_eq!(answer.len(), big.len() + 1);
    assert_eq!(answer[1..], big);

    let (target, _target) = udp_echo().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let counters = Arc::clone(&shared.counters);
    let _udp = running(tokio::spawn(async move {
        udp::forward(socket, HostNet, target.into(), udp::PEERS, counters)
            .await
            .unwrap();
    }));
    let mut buffer = [0; 2000];
    // Each peer has its own answers.
    for round in 0..3_u8 {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(&[round; 100], address).await.unwrap();
        let (len, from) = soon(peer.recv_from(&mut buffer)).await.unwrap();
        assert_eq!((&buffer[..len], from), (&[round; 100][..], address));
    }
}

#[tokio::test]
async fn more_peers_than_a_forward_remembers_push_out_the_silent_ones() {
    let shared = Shared::new(16);
    let (target, _target) = udp_echo().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let counters = Arc::clone(&shared.counters);
    let _udp = running(tokio::spawn(async move {
        udp::forward(socket, HostNet, target.into(), udp::PEERS, counters)
            .await
            .unwrap();
    }));
    let mut buffer = [0; 2000];
    let mut peers = Vec::new();
    for _ in 0..udp::PEERS + 10 {
        let peer = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        peer.send_to(b"one", address).await.unwrap();
        soon(peer.recv_from(&mut buffer)).await.unwrap();
        peers.push(peer);
    }
    // One that was pushed out comes back as a new one; the latest is still known.
    for (peer, known) in [(peers.last().unwrap(), true), (&peers[0], false)] {
        let before = shared.counters.summary().accepted;
        peer.send_to(b"two", address).await.unwrap();
        soon(peer.recv_from(&mut buffer)).await.unwrap();
        assert_eq!(shared.counters.summary().accepted == before, known);
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_one_to_end() {
    let shared = Shared::new(1);
    // A listener to which nobody comes takes nothing from the others.
    let (_, _idle) = http_proxy(&shared).await;
    let (proxy, _proxy) = socks_proxy(&shared).await;
    let (target, _target) = echo().await;
    let connect = || {
        Socks5Stream::connect(
            proxy,
            "127.0.0.1".to_owned(),
            target.port(),
            Config::default(),
        )
    };
    let mut first = soon(connect()).await.unwrap();
    let mut first_answer = [0; 1];
    soon(first.read_exact(&mut first_answer)).await.unwrap();
    let second = tokio::spawn(connect());
    assert_eq!(exchange(&mut first, b"done").await, b"done");
    drop(first);
    assert_eq!(
        exchange(&mut soon(second).await.unwrap().unwrap(), b"x").await,
        b">x"
    );
    assert_eq!(shared.counters.summary().accepted, 2);
}
