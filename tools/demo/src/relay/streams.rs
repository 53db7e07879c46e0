//! The same network for TCP connections. A relay cannot lose a segment, so it has the two ends see what they would see then: what is
//! lost comes after it was sent again, and all that follows waits for it.
//!
//! That is a model, and a kind one: kernels send again later than this now and then. `tsc-quality` has the kernel's own TCP over a
//! network that does lose.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{BadNetwork, Chance};

/// What travels as one segment.
const SEGMENT: usize = 1400;
/// Segments on the way in each direction of a connection; then nothing more is taken from its sender.
const MAX_DELAYED: usize = 1000;
/// Headers of a segment: IPv4, and TCP with timestamps.
const HEADERS: u64 = 52;
/// A loss is noticed by what is said of the next three segments: those of speech are so far apart.
const NOTICED: Duration = Duration::from_millis(60);

/// How often a segment is sent at most.
const MOST_TIMES: u64 = 10;

/// Bytes of segments, those sent again too, with headers.
pub(super) type Bytes = Arc<AtomicU64>;

/// Takes connections for `server` until it is dropped, at most `most` at the same time.
pub(super) async fn serve(
    near: TcpListener,
    server: SocketAddr,
    network: BadNetwork,
    most: usize,
    bytes: Bytes,
) {
    // They end with this future.
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = near.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        // One that was gone before it was taken.
        let Ok((client, _)) = accepted else {
            continue;
        };
        if connections.len() >= most {
            continue;
        }
        number += 1;
        let network = BadNetwork {
            seed: network.seed.wrapping_add(number),
            ..network
        };
        connections.spawn(connection(client, server, network, Arc::clone(&bytes)));
    }
}

/// One connection, until both ends have closed it.
async fn connection(
    client: TcpStream,
    server: SocketAddr,
    network: BadNetwork,
    bytes: Bytes,
) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    for end in [&client, &server] {
        end.set_nodelay(true)?;
    }
    let ((near_in, near_out), (far_in, far_out)) = (client.into_split(), server.into_split());
    let back = BadNetwork {
        seed: network.seed ^ 0x5DEE_CE66,
        ..network
    };
    tokio::try_join!(
        direction(near_in, far_out, network, &bytes),
        direction(far_in, near_out, back, &bytes)
    )?;
    Ok(())
}

/// One direction, until its sender closes it: then its receiver is told, after all that was sent.
async fn direction(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    network: BadNetwork,
    bytes: &Bytes,
) -> io::Result<()> {
    let (queue, waiting) = mpsc::channel(MAX_DELAYED);
    tokio::try_join!(take(from, queue, network, bytes), give(waiting, to))?;
    Ok(())
}

async fn take(
    mut from: OwnedReadHalf,
    queue: mpsc::Sender<(Instant, Vec<u8>)>,
    network: BadNetwork,
    bytes: &Bytes,
) -> io::Result<()> {
    let mut chance = Chance::new(network.seed);
    let mut segment = [0; SEGMENT];
    // Nothing overtakes.
    let mut last = Instant::now();
    loop {
        let len = from.read(&mut segment).await?;
        if len == 0 {
            return Ok(());
        }
        let mut due = Instant::now() + network.delay;
        let mut times = 1;
        while times < MOST_TIMES && chance.loses(&network) {
            due += 2 * network.delay + NOTICED;
            times += 1;
        }
        last = last.max(due);
        let on_wire = u64::try_from(len).unwrap_or(u64::MAX) + HEADERS;
        bytes.fetch_add(times * on_wire, Ordering::Relaxed);
        let segment = segment.get(..len).unwrap_or_default().to_vec();
        if queue.send((last, segment)).await.is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut waiting: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    while let Some((due, segment)) = waiting.recv().await {
        sleep_until(due).await;
        to.write_all(&segment).await?;
    }
    to.shutdown().await
}
