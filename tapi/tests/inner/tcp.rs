//! TCP sockets behave as tokio's.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    sync::oneshot,
};
use tsc_tapi::{SocketError, TcpListener, TcpSocket, TcpStream, Tunnel};

use crate::{
    soon,
    world::{World, v4, v6},
};

/// A connection from the first tunnel to the second.
pub async fn connected(from: &Tunnel, to: &Tunnel, port: u16) -> (TcpStream, TcpStream) {
    let local = to.config().ipv4().unwrap();
    let listener = TcpListener::bind(to, SocketAddr::new(local, port)).unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) =
        soon(async { tokio::join!(TcpStream::connect(from, address), listener.accept()) }).await;
    (near.unwrap(), far.unwrap().0)
}

/// Bytes that are nowhere alike.
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..len).map(step).collect()
}

/// Sends one way while the other end reads; what arrived.
pub async fn transfer(from: &mut TcpStream, to: &mut TcpStream, data: &[u8]) -> Vec<u8> {
    let send = async {
        from.write_all(data).await.unwrap();
        from.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receive = async { to.read_to_end(&mut received).await.unwrap() };
    soon(async { tokio::join!(send, receive) }).await;
    received
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> ErrorKind {
    result.expect_err("fails").kind()
}

#[tokio::test]
async fn data_go_both_ways_and_each_end_is_shut_down_by_itself() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    assert_eq!(near.peer_addr().unwrap(), SocketAddr::new(v4(1), 80));
    assert_eq!(near.local_addr().unwrap(), far.peer_addr().unwrap());
    assert_eq!(near.local_addr().unwrap().ip(), v4(0));

    let there = pattern(300_000);
    assert_eq!(transfer(&mut near, &mut far, &there).await, there);
    // One end is shut down, the other still speaks.
    assert_eq!(kind(near.write_all(b"more").await), ErrorKind::BrokenPipe);
    let back = pattern(200_000);
    assert_eq!(transfer(&mut far, &mut near, &back).await, back);
    assert_eq!(soon(near.read(&mut [0; 9])).await.unwrap(), 0);
    assert!(near.take_error().unwrap().is_none());
}

#[tokio::test]
async fn both_versions_of_ip_and_the_wildcard_work() {
    let (_world, a, b) = World::with_two().await;
    for (local, address) in [("0.0.0.0:0", v4(1)), ("[::]:0", v6(1))] {
        let listener = b.bind_tcp(local.parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connect = a.connect_tcp(SocketAddr::new(address, port));
        let (near, far) = soon(async { tokio::join!(connect, listener.accept()) }).await;
        let (mut near, (mut far, peer)) = (near.unwrap(), far.unwrap());
        assert_eq!(peer, near.local_addr().unwrap());
        assert_eq!(far.local_addr().unwrap().ip(), address);
        assert_eq!(transfer(&mut near, &mut far, b"hello").await, b"hello");
    }
}

#[tokio::test]
async fn a_tunnel_speaks_with_itself() {
    let world = World::new().await;
    let tunnel = world.tunnel().await;
    let (mut near, mut far) = connected(&tunnel, &tunnel, 80).await;
    let data = pattern(3_000_000);
    assert_eq!(transfer(&mut near, &mut far, &data).await, data);
}

#[tokio::test]
async fn what_cannot_be_has_the_kinds_of_tokio() {
    let (_world, a, b) = World::with_two().await;
    let nobody = SocketAddr::new(v4(1), 9);
    assert_eq!(
        kind(soon(a.connect_tcp(nobody)).await),
        ErrorKind::ConnectionRefused
    );
    let listener = b.bind_tcp(SocketAddr::new(v4(1), 80)).unwrap();
    assert_eq!(
        kind(b.bind_tcp(SocketAddr::new(v4(1), 80))),
        ErrorKind::AddrInUse
    );
    assert_eq!(
        kind(b.bind_tcp(SocketAddr::new(v4(0), 81))),
        ErrorKind::AddrNotAvailable
    );
    assert_eq!(
        kind(TcpSocket::new(&b).bind(SocketAddr::new(v4(0), 81))),
        ErrorKind::AddrNotAvailable
    );
    let error = TcpSocket::new(&b).listen(1).unwrap_err();
    assert_eq!(SocketError::of(&error), Some(&SocketError::NotBound));
    for bad in [
        "0.0.0.0:80",
        "224.0.0.1:80",
        "10.9.0.2:0",
        "127.0.0.1:80",
        "[::1]:80",
    ] {
        let bad: SocketAddr = bad.parse().unwrap();
        // Refused at the first look, not after a wait for somebody who cannot answer.
        let connect = std::pin::pin!(a.connect_tcp(bad));
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Err(error)) = connect.poll(&mut context) else {
            panic!("{bad} is no peer");
        };
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bad}");
        assert_eq!(
            SocketError::of(&error),
            Some(&SocketError::BadDestination(bad))
        );
    }
    // Nobody has this address, so nobody answers.
    let quick = TcpSocket::new(&a).connect_timeout(Duration::from_millis(300));
    let silent = quick.connect("10.9.0.77:80".parse().unwrap());
    assert_eq!(kind(soon(silent).await), ErrorKind::TimedOut);
    drop(listener);
    // The port is free again.
    b.bind_tcp(SocketAddr::new(v4(1), 80)).unwrap();
}

/// The other half of the same: datagrams.
#[tokio::test]
async fn datagrams_to_nowhere_are_refused_at_once() {
    let (_world, a, _b) = World::with_two().await;
    for bad in [
        "127.0.0.1:5060",
        "0.0.0.0:5060",
        "224.0.0.1:5060",
        "10.9.0.2:0",
    ] {
        let bad: SocketAddr = bad.parse().unwrap();
        let socket = a.bind_udp(SocketAddr::new(v4(0), 0)).unwrap();
        for error in [
            socket.try_send_to(b"x", bad).unwrap_err(),
            socket.connect(bad).await.unwrap_err(),
        ] {
            assert_eq!(
                SocketError::of(&error),
                Some(&SocketError::BadDestination(bad))
            );
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }
}

#[tokio::test]
async fn a_reset_is_told_once_as_such() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, far) = connected(&a, &b, 80).await;
    far.set_zero_linger().unwrap();
    assert_eq!(far.linger().unwrap(), Some(Duration::ZERO));
    drop(far);
    soon(near.readable()).await.unwrap();
    assert_eq!(
        near.take_error().unwrap().unwrap().kind(),
        ErrorKind::ConnectionReset
    );
    assert!(near.take_error().unwrap().is_none());
    assert_eq!(kind(near.write(b"x").await), ErrorKind::BrokenPipe);
    assert_eq!(
        kind(near.read(&mut [0; 9]).await),
        ErrorKind::ConnectionReset
    );

    // Unread data reset the connection too, as with a kernel.
    let (mut near, far) = connected(&a, &b, 81).await;
    near.write_all(b"never read").await.unwrap();
    soon(far.readable()).await.unwrap();
    drop(far);
    assert_eq!(
        kind(soon(near.read(&mut [0; 9])).await),
        ErrorKind::ConnectionReset
    );
    assert_eq!(kind(near.write(b"x").await), ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn peeking_takes_nothing() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    let mut buffer = [0; 9];
    for word in [&b"one"[..], b"two", b"six"] {
        // Waits for what comes after the last was read to its end, and no further.
        let (written, peeked) =
            soon(async { tokio::join!(near.write(word), far.peek(&mut buffer)) }).await;
        assert_eq!((written.unwrap(), peeked.unwrap()), (3, 3));
        assert_eq!(soon(far.peek(&mut buffer)).await.unwrap(), 3);
        assert_eq!(far.try_read(&mut buffer).unwrap(), 3);
        assert_eq!(&buffer[..3], word);
    }
    assert_eq!(kind(far.try_read(&mut buffer)), ErrorKind::WouldBlock);
    near.shutdown().await.unwrap();
    assert_eq!(soon(far.peek(&mut buffer)).await.unwrap(), 0);
    assert_eq!(far.read(&mut buffer).await.unwrap(), 0);
}

#[tokio::test]
async fn try_calls_and_readiness_agree() {
    let (_world, a, b) = World::with_two().await;
    let (near, far) = connected(&a, &b, 80).await;
    assert_eq!(kind(near.try_read(&mut [0; 9])), ErrorKind::WouldBlock);
    let ready = soon(near.ready(Interest::READABLE | Interest::WRITABLE))
        .await
        .unwrap();
    assert!(ready.is_writable() && !ready.is_readable());

    // Fill all that is between them, then wait for room.
    let data = pattern(1 << 16);
    let mut written = 0;
    loop {
        match near.try_write(&data) {
            Ok(some) => written += some,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let full = tokio::time::timeout(Duration::from_millis(300), near.writable());
                if full.await.is_err() {
                    break;
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(written > 0);
    let mut read = 0;
    let mut buffer = vec![0; 1 << 16];
    let reader = async {
        while read < written {
            far.readable().await.unwrap();
            match far.try_read(&mut buffer) {
                Ok(some) => read += some,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    };
    soon(async { tokio::join!(reader, near.writable()) })
        .await
        .1
        .unwrap();
    assert_eq!(read, written);
    assert!(near.try_write(b"x").is_ok());
    let mut more = Vec::with_capacity(8);
    soon(far.readable()).await.unwrap();
    assert_eq!(far.try_read_buf(&mut more).unwrap(), 1);
    assert_eq!(more, b"x");
}

#[tokio::test]
async fn room_is_told_to_who_filled_the_buffer_to_the_last_byte() {
    let (world, a, b) = World::with_two().await;
    let (probe, _far) = connected(&a, &b, 80).await;
    let (near, mut far) = connected(&a, &b, 81).await;
    world.stall(true);
    // Nothing is acknowledged, so that this is all that there is room for.
    let data = pattern(64 << 20);
    let room = probe.try_write(&data).unwrap();
    assert!(room < data.len());
    assert_eq!(near.try_write(&data[..room]).unwrap(), room);
    let mut received = vec![0; room];
    world.stall(false);
    let (read, writable) =
        soon(async { tokio::join!(far.read_exact(&mut received), near.writable()) }).await;
    writable.unwrap();
    assert_eq!(read.unwrap(), room);
    assert!(received == data[..room]);
}

#[tokio::test]
async fn many_tasks_may_wait_for_one_stream_and_one_listener() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, far) = connected(&a, &b, 80).await;
    let far = std::sync::Arc::new(far);
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let far = std::sync::Arc::clone(&far);
            tokio::spawn(async move { far.readable().await })
        })
        .collect();
    tokio::task::yield_now().await;
    near.write_all(b"x").await.unwrap();
    for waiter in waiters {
        soon(waiter).await.unwrap().unwrap();
    }

    let listener = std::sync::Arc::new(b.bind_tcp(SocketAddr::new(v4(1), 81)).unwrap());
    let accepts: Vec<_> = (0..4)
        .map(|_| {
            let listener = std::sync::Arc::clone(&listener);
            tokio::spawn(async move { listener.accept().await })
        })
        .collect();
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(
            soon(a.connect_tcp(SocketAddr::new(v4(1), 81)))
                .await
                .unwrap(),
        );
    }
    for accept in accepts {
        soon(accept).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn halves_work_from_two_tasks_and_find_together() {
    let (_world, a, b) = World::with_two().await;
    let (near, mut far) = connected(&a, &b, 80).await;
    let (mut other, _far) = connected(&a, &b, 81).await;
    let (mut read, mut write) = near.into_split();
    let data = pattern(500_000);
    let sent = data.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut received = vec![0; data.len()];
    soon(far.read_exact(&mut received)).await.unwrap();
    assert!(received == data);
    let write = soon(writer).await.unwrap();
    far.write_all(b"reply").await.unwrap();
    let mut reply = [0; 5];
    soon(read.read_exact(&mut reply)).await.unwrap();
    assert_eq!(&reply, b"reply");

    let (_, strange) = other.split();
    assert_ne!(strange.local_addr().unwrap(), read.local_addr().unwrap());
    let (foreign, _keep) = other.into_split();
    let wrong = foreign.reunite(write).unwrap_err();
    let near = read.reunite(wrong.1).unwrap();

    // A dropped writing half is the end of data; a forgotten one is not.
    let (mut read, write) = near.into_split();
    write.forget();
    far.write_all(b"still").await.unwrap();
    soon(read.read_exact(&mut reply)).await.unwrap();
    assert_eq!(kind(far.try_read(&mut reply)), ErrorKind::WouldBlock);
    drop(read);
    let end = soon(far.read(&mut reply)).await;
    assert_eq!(end.unwrap(), 0);
}

#[tokio::test]
async fn a_dropped_writing_half_ends_the_data() {
    let (_world, a, b) = World::with_two().await;
    let (near, mut far) = connected(&a, &b, 80).await;
    let (mut read, write) = near.into_split();
    drop(write);
    assert_eq!(soon(far.read(&mut [0; 9])).await.unwrap(), 0);
    far.write_all(b"on").await.unwrap();
    let mut word = [0; 2];
    soon(read.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"on");
}

#[tokio::test]
async fn options_are_kept() {
    let (_world, a, b) = World::with_two().await;
    let (near, _far) = connected(&a, &b, 80).await;
    assert!(near.nodelay().unwrap());
    near.set_nodelay(false).unwrap();
    assert!(!near.nodelay().unwrap());
    assert_eq!(near.keepalive().unwrap(), None);
    let minute = Some(Duration::from_secs(60));
    near.set_keepalive(minute).unwrap();
    assert_eq!(near.keepalive().unwrap(), minute);
    near.set_linger(minute).unwrap();
    assert_eq!(near.linger().unwrap(), None);

    // A listener's options are those of its connections.
    let local = SocketAddr::new(v4(1), 90);
    let socket = TcpSocket::new(&b).bind(local).unwrap();
    let listener = socket.nodelay(false).keepalive(minute).listen(3).unwrap();
    assert_eq!(listener.backlog(), 3);
    let own = TcpSocket::new(&a)
        .bind(SocketAddr::new(v4(0), 4711))
        .unwrap();
    let (near, far) = soon(async { tokio::join!(own.connect(local), listener.accept()) }).await;
    let (far, peer) = far.unwrap();
    assert_eq!(peer, SocketAddr::new(v4(0), 4711));
    assert!(!far.nodelay().unwrap());
    assert_eq!(far.keepalive().unwrap(), minute);
    drop(near.unwrap());
}

#[tokio::test]
async fn loss_is_repaired_in_both_directions_at_once() {
    let (world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    world.lose(67);
    let (there, back) = (pattern(500_000), pattern(300_000));
    let (mut near_read, mut near_write) = near.split();
    let (mut far_read, mut far_write) = far.split();
    let (mut at_far, mut at_near) = (vec![0; there.len()], vec![0; back.len()]);
    let results = soon(async {
        tokio::join!(
            near_write.write_all(&there),
            far_write.write_all(&back),
            far_read.read_exact(&mut at_far),
            near_read.read_exact(&mut at_near),
        )
    })
    .await;
    results.0.unwrap();
    results.1.unwrap();
    assert!(at_far == there && at_near == back);
}

/// Data that were written reach the peer although the program closes the stream and the tunnel at once.
#[tokio::test]
async fn closing_delivers_what_was_written() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    let data = pattern(400_000);
    near.write_all(&data).await.unwrap();
    drop(near);
    let read = async {
        let mut received = Vec::new();
        far.read_to_end(&mut received).await.unwrap();
        // The peer closes too: nothing is left to wait for.
        drop(far);
        received
    };
    let (closed, received) =
        soon(async { tokio::join!(a.close(Duration::from_secs(30)), read) }).await;
    closed.unwrap();
    assert!(received == data);
}

/// A peer that has everything and keeps its own half open is not waited for: half of the deadline, half an hour, would
/// have to pass.
#[tokio::test]
async fn closing_does_not_wait_for_a_peer_that_never_ends() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    let data = pattern(100_000);
    near.write_all(&data).await.unwrap();
    drop(near);
    let mut received = Vec::new();
    soon(far.read_to_end(&mut received)).await.unwrap();
    assert!(received == data);
    soon(a.close(Duration::from_secs(3600))).await.unwrap();
    // Still held, and never ended.
    drop(far);
}

#[tokio::test]
async fn the_end_of_the_tunnel_is_the_end_of_its_sockets() {
    let (_world, a, b) = World::with_two().await;
    let (mut near, _far) = connected(&a, &b, 80).await;
    let listener = a.bind_tcp(SocketAddr::new(v4(0), 80)).unwrap();
    let (refused, refusal) = oneshot::channel();
    let accept = tokio::spawn(async move {
        let result = listener.accept().await;
        refused.send(()).unwrap();
        result.map(drop)
    });
    let silent = TcpSocket::new(&a).connect("10.9.0.77:80".parse().unwrap());
    let silent = tokio::spawn(silent);
    let mut buffer = [0; 9];
    let (read, closed) =
        soon(async { tokio::join!(near.read(&mut buffer), a.close(Duration::from_secs(5))) }).await;
    closed.unwrap();
    assert_eq!(
        kind(soon(silent).await.unwrap()),
        ErrorKind::ConnectionAborted
    );
    assert_eq!(kind(read), ErrorKind::ConnectionAborted);
    soon(refusal).await.unwrap();
    assert_eq!(kind(accept.await.unwrap()), ErrorKind::ConnectionAborted);
    assert_eq!(kind(near.write(b"x").await), ErrorKind::ConnectionAborted);
    assert_eq!(
        kind(soon(near.writable()).await),
        ErrorKind::ConnectionAborted
    );
}
