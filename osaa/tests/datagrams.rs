//! UDP sockets in batches, on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod common;

use std::{future::poll_fn, net::SocketAddr, task::Poll};

use common::bounded;
use tokio::net::UdpSocket;
use tsc_osaa::{
    datagram::{DatagramOptions, DatagramSocket, RecvBatch, SendBatch},
    socket::{BindError, Dscp, PortSharing},
};

fn bind(address: &str) -> DatagramSocket {
    let mut options = DatagramOptions::default();
    options.recv_buffer = Some(4 << 20);
    DatagramSocket::bind(address.parse().unwrap(), &options).unwrap()
}

async fn send(socket: &mut DatagramSocket, batch: &mut SendBatch) {
    poll_fn(|cx| socket.poll_send(cx, batch)).await.unwrap();
    assert!(batch.is_empty());
}

/// Receives `count` datagrams: peer and bytes.
async fn receive(
    socket: &mut DatagramSocket,
    batch: &mut RecvBatch,
    count: usize,
) -> Vec<(SocketAddr, Vec<u8>)> {
    let mut all = Vec::new();
    while all.len() < count {
        let n = poll_fn(|cx| socket.poll_recv(cx, batch)).await.unwrap();
        let before = all.len();
        all.extend(batch.datagrams().map(|d| (d.peer, d.bytes.to_vec())));
        assert_eq!(all.len() - before, n);
    }
    all
}

#[tokio::test]
async fn batches_keep_boundaries_order_and_peers() {
    bounded(async {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let mut server = bind(local);
            let (mut a, mut b) = (bind(local), bind(local));
            let mut inbox = RecvBatch::new(32);
            let mut outbox = SendBatch::new(1 << 20);
            // Runs of equal lengths, a shorter end, a longer one, single bytes.
            let lengths = [200, 200, 200, 150, 1200, 1200, 1, 1, 9000, 200];
            let mut expected = Vec::new();
            for socket in [&mut a, &mut b] {
                for (n, len) in lengths.into_iter().enumerate() {
                    let bytes = vec![u8::try_from(n).unwrap(); len];
                    assert!(outbox.push(server.local_addr(), None, &bytes));
                    expected.push((socket.local_addr(), bytes));
                }
                send(socket, &mut outbox).await;
                assert_eq!(socket.stats().sent, 10);
            }
            let heard = receive(&mut server, &mut inbox, expected.len()).await;
            assert!(heard == expected, "{local}");
            assert_eq!(server.stats().received, 20);

            // And back, to several peers in one batch.
            for (peer, bytes) in &heard {
                assert!(outbox.push(*peer, None, bytes));
            }
            send(&mut server, &mut outbox).await;
            for socket in [&mut a, &mut b] {
                let echoed = receive(socket, &mut inbox, lengths.len()).await;
                let sizes: Vec<_> = echoed.iter().map(|(_, bytes)| bytes.len()).collect();
                assert_eq!(sizes, lengths);
                assert!(echoed.iter().all(|(peer, _)| *peer == server.local_addr()));
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_wildcard_socket_knows_where_it_was_called_and_answers_from_there() {
    bounded(async {
        let mut server = bind("0.0.0.0:0");
        let port = server.local_addr().port();
        let mut inbox = RecvBatch::new(1);
        let mut outbox = SendBatch::new(1000);
        // All of 127/8 is local on Linux; a connected client hears only the address it called.
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(("127.0.0.5", port)).await.unwrap();
        client.send(b"hello").await.unwrap();
        poll_fn(|cx| server.poll_recv(cx, &mut inbox))
            .await
            .unwrap();
        let datagram = inbox.datagrams().next().unwrap();
        assert_eq!(datagram.local_ip, Some([127, 0, 0, 5].into()));
        assert!(outbox.push(datagram.peer, datagram.local_ip, b"world"));
        send(&mut server, &mut outbox).await;
        let mut buffer = [0; 10];
        let n = client.recv(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..n], b"world");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_does_not_listen_harms_nobody() {
    bounded(async {
        let mut server = bind("127.0.0.1:0");
        let gone = UdpSocket::bind("127.0.0.78:0").await.unwrap();
        let nobody = gone.local_addr().unwrap();
        drop(gone);
        let mut outbox = SendBatch::new(10_000);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for _ in 0..10 {
            assert!(outbox.push(nobody, None, b"anybody?"));
        }
        assert!(outbox.push(client.local_addr().unwrap(), None, b"hello"));
        send(&mut server, &mut outbox).await;
        let mut buffer = [0; 10];
        assert_eq!(client.recv(&mut buffer).await.unwrap(), 5);
        client.send_to(b"x", server.local_addr()).await.unwrap();
        let mut inbox = RecvBatch::new(4);
        assert_eq!(receive(&mut server, &mut inbox, 1).await[0].1, b"x");
    })
    .await;
}

#[tokio::test]
async fn what_is_too_big_is_dropped_and_counted_and_the_rest_goes_on() {
    bounded(async {
        let mut server = bind("127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let peer = client.local_addr().unwrap();
        let mut outbox = SendBatch::new(1 << 20);
        // Longer than any UDP datagram can be.
        assert!(outbox.push(peer, None, &vec![0; 65_530]));
        assert!(outbox.push(peer, None, b"small"));
        send(&mut server, &mut outbox).await;
        let mut buffer = [0; 10];
        assert_eq!(client.recv(&mut buffer).await.unwrap(), 5);
        assert_eq!(server.stats().too_big, 1);
        assert_eq!(server.stats().sent, 1);
    })
    .await;
}

#[tokio::test]
async fn empty_datagrams_are_noise() {
    bounded(async {
        let mut server = bind("127.0.0.1:0");
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        for payload in [&b""[..], b"", b"x", b""] {
            client.send_to(payload, server.local_addr()).await.unwrap();
        }
        let mut inbox = RecvBatch::new(2);
        let heard = receive(&mut server, &mut inbox, 1).await;
        assert_eq!(heard[0].1, b"x");
    })
    .await;
}

/// Sent by the path that quinn-udp is not used for, as it would write a traffic class of its own.
#[tokio::test]
async fn marked_sockets_still_keep_boundaries() {
    bounded(async {
        let mut options = DatagramOptions::default();
        options.dscp = Dscp::new(46);
        let mut marked = DatagramSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let mut server = bind("127.0.0.1:0");
        let mut outbox = SendBatch::new(1000);
        for byte in 0..4 {
            assert!(outbox.push(server.local_addr(), None, &[byte; 100]));
        }
        send(&mut marked, &mut outbox).await;
        let heard = receive(&mut server, &mut RecvBatch::new(4), 4).await;
        assert_eq!(heard[3], (marked.local_addr(), vec![3; 100]));
        marked.set_dscp(Dscp::default()).unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_port_in_use_says_so() {
    let first = bind("127.0.0.1:0");
    let error = DatagramSocket::bind(first.local_addr(), &DatagramOptions::default()).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    let mut options = DatagramOptions::default();
    options.sharing = PortSharing::First;
    let one = DatagramSocket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
    // Another program, which shares its ports too, is told.
    let error = DatagramSocket::bind(one.local_addr(), &options).unwrap_err();
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    options.sharing = PortSharing::Another;
    let mut two = DatagramSocket::bind(one.local_addr(), &options).unwrap();
    // Each gets a part of the clients.
    let (address, mut one) = (one.local_addr(), one);
    let mut receive = RecvBatch::new(1);
    let mut heard = [0, 0];
    for _ in 0..64 {
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", address).unwrap();
        let socket = poll_fn(|cx| {
            for (index, socket) in [&mut one, &mut two].into_iter().enumerate() {
                if let Poll::Ready(count) = socket.poll_recv(cx, &mut receive) {
                    assert_eq!(count.unwrap(), 1);
                    return Poll::Ready(index);
                }
            }
            Poll::Pending
        });
        heard[socket.await] += 1;
    }
    assert!(heard.iter().all(|count| *count > 0), "{heard:?}");
}
