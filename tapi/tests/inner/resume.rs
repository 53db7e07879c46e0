//! Connections outlive transports, and a slow transport slows them instead of losing their data.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};
use tsc_tapi::{Notification, Notifications, TcpStream};

use crate::{
    soon,
    tcp::{connected, pattern},
    world::{World, v4},
};

async fn resumed(notifications: &mut Notifications) {
    while !matches!(
        soon(notifications.recv()).await.expect("not down"),
        Notification::Resumed(_)
    ) {}
}

#[tokio::test]
async fn a_transfer_goes_on_after_either_end_has_resumed() {
    let (world, a, b) = World::with_two().await;
    let (mut near, mut far) = connected(&a, &b, 80).await;
    let data = pattern(2_000_000);
    let mut told = [a.notifications(), b.notifications()];
    let send = async {
        near.write_all(&data).await.unwrap();
        near.shutdown().await.unwrap();
    };
    let receive = async {
        let mut received = vec![0; 100_000];
        far.read_exact(&mut received).await.unwrap();
        for index in [0, 1] {
            // In the middle of the stream, with packets on their way.
            world.cut(index);
            resumed(&mut told[index]).await;
            let mut more = vec![0; 100_000];
            far.read_exact(&mut more).await.unwrap();
            received.append(&mut more);
        }
        far.read_to_end(&mut received).await.unwrap();
        received
    };
    let ((), received) = soon(async { tokio::join!(send, receive) }).await;
    assert!(received == data);
}

#[tokio::test]
async fn what_is_asked_for_without_a_transport_happens_with_the_next() {
    let (world, a, b) = World::with_two().await;
    let listener = b.bind_tcp(SocketAddr::new(v4(1), 80)).unwrap();
    let mut told = a.notifications();
    world.cut(0);
    while !matches!(soon(told.recv()).await, Some(Notification::Suspended(_))) {}
    let connect = TcpStream::connect(&a, SocketAddr::new(v4(1), 80));
    let (near, far) = soon(async { tokio::join!(connect, listener.accept()) }).await;
    let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
    near.write_all(b"hello").await.unwrap();
    let mut word = [0; 5];
    soon(far.read_exact(&mut word)).await.unwrap();
    assert_eq!(&word, b"hello");
}

/// A server that reads nothing fills the kernel's buffers, then the driver's, then the connection's: the writer waits,
/// and nothing is lost when the server reads on.
#[tokio::test]
async fn a_transport_that_takes_nothing_holds_the_writer_back() {
    let (world, a, b) = World::with_two().await;
    let (near, mut far) = connected(&a, &b, 80).await;
    world.stall(true);
    let data = pattern(64 * 1024);
    let mut written = 0_usize;
    // More than all of the buffers on the way; a loop that is not held back would go on for ever.
    let limit = 256 << 20;
    while let Ok(room) = timeout(Duration::from_millis(500), near.writable()).await {
        room.unwrap();
        if let Ok(some) = near.try_write(&data) {
            written += some;
        }
        assert!(written < limit, "nothing holds the writer back");
    }
    world.stall(false);
    let mut received = 0;
    let mut buffer = vec![0; 64 * 1024];
    while received < written {
        received += soon(far.read(&mut buffer)).await.unwrap();
    }
    soon(near.writable()).await.unwrap();
    assert_eq!(received, written);
}
