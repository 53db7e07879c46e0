//! TCP through real connections.

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tsc_eip::{Event, TcpError};

use super::*;

/// A listener on loopback, and its address as clients know it.
pub(super) async fn listener(v6: bool) -> (TcpListener, SocketAddr) {
    let address = if v6 { "[::1]:0" } else { "127.0.0.1:0" };
    let listener = TcpListener::bind(address).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, SocketAddr::new(CORE[usize::from(v6)], port))
}

pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 % 251) as u8).collect()
}

/// A client's end of a connection: what it has to send, and what it has got.
pub(super) struct End {
    name: u32,
    pub(super) handle: TcpHandle,
    data: Vec<u8>,
    pub(super) sent: usize,
    pub(super) got: Vec<u8>,
    pub(super) ended: bool,
    pub(super) failed: Option<TcpError>,
}

impl End {
    pub(super) fn new(world: &mut World, name: u32, to: SocketAddr, data: Vec<u8>) -> Self {
        Self {
            name,
            handle: world.connect(name, to),
            data,
            sent: 0,
            got: Vec::new(),
            ended: false,
            failed: None,
        }
    }

    /// Sends and reads what can be. Shuts down behind the last byte.
    pub(super) fn work(&mut self, world: &mut World) {
        let now = world.now();
        let stack = world.client(self.name);
        while self.sent < self.data.len() {
            match stack.tcp_send(now, self.handle, &self.data[self.sent..]) {
                Ok(0) => break,
                Ok(taken) => self.sent += taken,
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
        if self.sent == self.data.len()
            && let Err(error) = stack.tcp_shutdown(now, self.handle)
        {
            self.failed = Some(error);
        }
        self.read(world);
    }

    pub(super) fn read(&mut self, world: &mut World) {
        let now = world.now();
        let mut buffer = [0; 16 * 1024];
        loop {
            match world
                .client(self.name)
                .tcp_recv(now, self.handle, &mut buffer)
            {
                Ok(None) => return,
                Ok(Some(0)) => {
                    self.ended = true;
                    return;
                }
                Ok(Some(len)) => self.got.extend_from_slice(&buffer[..len]),
                Err(error) => {
                    self.failed = Some(error);
                    return;
                }
            }
        }
    }
}

/// How a client's connection failed.
async fn failure(world: &mut World, name: u32) -> TcpError {
    world
        .until(|world| {
            while let Some(event) = world.client(name).poll_event() {
                if let Event::TcpFailed(_, error) = event {
                    return Some(error);
                }
            }
            None
        })
        .await
}

async fn finished<T>(world: &mut World, task: JoinHandle<T>) -> T {
    world.until(|_| task.is_finished().then_some(())).await;
    task.await.unwrap()
}

/// Echoes until the client ends, then ends.
fn echo(listener: TcpListener) -> JoinHandle<()> {
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        stream.write_all(&data).await.unwrap();
        stream.shutdown().await.unwrap();
    })
}

#[tokio::test]
async fn megabytes_pass_both_ways_and_each_end_ends_alone() {
    for v6 in [false, true] {
        let mut world = World::new(&config());
        let (listener, to) = listener(v6).await;
        let core = echo(listener);
        let data = pattern(3_000_000);
        let mut end = End::new(&mut world, 1, to, data.clone());
        world
            .until(|world| {
                end.work(world);
                end.ended.then_some(())
            })
            .await;
        finished(&mut world, core).await;
        assert!(end.got == data, "IPv6 {v6}: {} bytes", end.got.len());
        world
            .until(|world| (world.counters().tcp_connections == 0).then_some(()))
            .await;
        let counters = world.counters();
        assert_eq!((counters.tcp_opened, counters.tcp_reset), (1, 0));
        assert_eq!(
            (counters.tcp_sent_bytes, counters.tcp_received_bytes),
            (3_000_000, 3_000_000)
        );
    }
}

#[tokio::test]
async fn the_core_may_end_first() {
    let mut world = World::new(&config());
    let (listener, to) = listener(false).await;
    let core = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&pattern(100_000)).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        data
    });
    let mut end = End::new(&mut world, 1, to, pattern(200_000));
    // It does not send before the core has ended.
    world
        .until(|world| {
            end.read(world);
            end.ended.then_some(())
        })
        .await;
    assert!(end.got == pattern(100_000));
    world
        .until(|world| {
            end.work(world);
            core.is_finished().then_some(())
        })
        .await;
    assert!(core.await.unwrap() == pattern(200_000));
    assert_eq!(world.counters().tcp_reset, 0);
}

#[tokio::test]
async fn a_refusal_of_the_host_is_one_to_the_client() {
    let mut world = World::new(&config());
    let (listener, to) = listener(false).await;
    drop(listener);
    world.connect(1, to);
    assert_eq!(failure(&mut world, 1).await, TcpError::Refused);
    let counters = world.counters();
    assert_eq!(
        (
            counters.tcp_failed,
            counters.tcp_opened,
            counters.tcp_connections
        ),
        (1, 0, 0)
    );
}

#[tokio::test]
async fn what_may_not_be_reached_is_told() {
    let mut world = World::new(&UserSpaceConfig {
        deny: vec!["192.0.2.0/24".parse().unwrap()],
        ..config()
    });
    let (_listener, to) = listener(false).await;
    world.connect(1, to);
    failure(&mut world, 1).await;
    let counters = world.counters();
    assert_eq!(
        (counters.denied, counters.icmp_errors, counters.tcp_failed),
        (1, 1, 0)
    );
    assert_eq!(
        world.egress.poll_timeout(),
        None,
        "no stack was made for it"
    );
}

#[tokio::test]
async fn what_waits_for_a_turn_asks_for_one() {
    let mut world = World::new(&config());
    let (_, core) = held(&mut world, 1).await;
    let due = world.egress.poll_timeout().expect("a time-out");
    let now = world.now();
    assert!(due > now);
    // As an owner does that reads before it looks at its timers.
    let later = due + Duration::from_secs(1);
    world.egress.handle_timeout(later);
    assert!(world.egress.poll_timeout().is_some_and(|due| due <= later));
    world.egress.session_ended(1);
    let _reset = finished(&mut world, core).await;
}

#[tokio::test]
async fn a_core_peer_that_never_reads_stops_its_client_only() {
    let mut world = World::new(&config());
    let (deaf, deaf_address) = listener(false).await;
    let held = tokio::spawn(async move { deaf.accept().await.unwrap() });
    let mut blocked = End::new(&mut world, 1, deaf_address, pattern(64_000_000));
    // Another connection of the same tunnel, and one of another.
    let mut others: Vec<(End, JoinHandle<()>)> = Vec::new();
    for name in [1, 2] {
        let (listener, to) = listener(false).await;
        let end = End::new(&mut world, name, to, pattern(300_000));
        others.push((end, echo(listener)));
    }
    let mut still = (0, Instant::now());
    world
        .until(|world| {
            blocked.work(world);
            for (end, _) in &mut others {
                end.work(world);
            }
            if blocked.sent != still.0 {
                still = (blocked.sent, Instant::now());
            }
            let done = others.iter().all(|(end, _)| end.ended) && world.counters().tcp_opened == 3;
            // All queues between are full.
            (done && still.1.elapsed() > Duration::from_secs(1)).then_some(())
        })
        .await;
    assert!(
        blocked.sent < 64_000_000,
        "kernel buffers and windows are smaller than that"
    );
    assert_eq!(blocked.failed, None);
    for (end, core) in others {
        core.await.unwrap();
        assert!(end.got == pattern(300_000));
    }
    // When it reads at last, the rest comes.
    let (mut stream, _) = held.await.unwrap();
    let core = tokio::spawn(async move {
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        data
    });
    world
        .until(|world| {
            blocked.work(world);
            core.is_finished().then_some(())
        })
        .await;
    assert!(core.await.unwrap() == pattern(64_000_000));
}

#[tokio::test]
async fn a_client_that_never_reads_stops_its_core_peer() {
    let mut world = World::new(&config());
    let (listener, to) = listener(false).await;
    let core = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(&pattern(64_000_000)).await.unwrap();
        stream
    });
    let mut end = End::new(&mut world, 1, to, pattern(1));
    let mut still = (0, Instant::now());
    world
        .until(|world| {
            let received = world.counters().tcp_received_bytes;
            if received != still.0 {
                still = (received, Instant::now());
            }
            (received > 0 && still.1.elapsed() > Duration::from_secs(1)).then_some(())
        })
        .await;
    assert!(world.counters().tcp_received_bytes < 8_000_000);
    assert!(!core.is_finished());
    world
        .until(|world| {
            end.work(world);
            (end.got.len() == 64_000_000).then_some(())
        })
        .await;
    assert!(end.got == pattern(64_000_000));
    drop(core.await.unwrap());
}

#[tokio::test]
async fn a_core_peer_that_vanishes_resets_its_client() {
    let mut world = World::new(&config());
    let (listener, to) = listener(false).await;
    let core = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).await.unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let handle = world.connect(1, to);
    world
        .until(|world| {
            let now = world.now();
            (world.client(1).tcp_send(now, handle, b"x").unwrap() == 1).then_some(())
        })
        .await;
    assert_eq!(failure(&mut world, 1).await, TcpError::Reset);
    core.await.unwrap();
    let counters = world.counters();
    assert_eq!((counters.tcp_reset, counters.tcp_connections), (1, 0));
}

/// A connection whose core end waits for its error.
async fn held(world: &mut World, name: u32) -> (TcpHandle, JoinHandle<std::io::ErrorKind>) {
    let (listener, to) = listener(false).await;
    let core = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let error = stream.read_to_end(&mut Vec::new()).await;
        error.expect_err("an orderly end").kind()
    });
    let handle = world.connect(name, to);
    let opened = world.counters().tcp_opened;
    world
        .until(|world| (world.counters().tcp_opened > opened).then_some(()))
        .await;
    (handle, core)
}

#[tokio::test]
async fn a_reset_of_the_client_the_end_of_the_tunnel_and_silence_reset_the_core_peer() {
    use std::io::ErrorKind::ConnectionReset;
    let mut world = World::new(&config());

    let (handle, core) = held(&mut world, 1).await;
    let now = world.now();
    world.client(1).tcp_abort(now, handle);
    assert_eq!(finished(&mut world, core).await, ConnectionReset);

    let (_, core) = held(&mut world, 1).await;
    world.egress.session_ended(1);
    assert_eq!(finished(&mut world, core).await, ConnectionReset);
    let counters = world.counters();
    assert_eq!(
        (
            counters.tcp_connections,
            counters.tunnels,
            counters.tcp_buffer_bytes
        ),
        (0, 0, 0)
    );

    let (_, core) = held(&mut world, 2).await;
    world.ahead = config().tcp_timeout - Duration::from_secs(120);
    world.once().await;
    assert_eq!(world.counters().tcp_connections, 1);
    world.ahead = config().tcp_timeout + Duration::from_secs(1);
    assert_eq!(finished(&mut world, core).await, ConnectionReset);
    assert_eq!(world.counters().tcp_timed_out, 1);
    assert_eq!(failure(&mut world, 2).await, TcpError::Reset);
}

/// A listener that answers nobody, and who keeps it busy.
#[cfg(target_os = "linux")]
fn silent() -> (socket2::Socket, Vec<socket2::Socket>, u16) {
    use socket2::{Domain, Socket, Type};
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let fillers = (0..8).map(|_| {
        let filler = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _in_progress = filler.connect(&address);
        filler
    });
    let fillers = fillers.collect();
    (listener, fillers, address.as_socket().unwrap().port())
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_host_that_does_not_answer_is_given_up() {
    let mut world = World::new(&config());
    let (_listener, _fillers, port) = silent();
    world.connect(1, SocketAddr::new(CORE[0], port));
    world
        .until(|world| (world.counters().tcp_connections == 1).then_some(()))
        .await;
    world.once().await;
    assert_eq!(world.counters().tcp_opened, 0, "the client waits, too");
    world.ahead = config().tcp_connect_timeout + Duration::from_secs(1);
    assert_eq!(failure(&mut world, 1).await, TcpError::Unreachable);
    let counters = world.counters();
    assert_eq!((counters.tcp_failed, counters.tcp_connections), (1, 0));
}

#[tokio::test]
async fn a_stream_is_not_lost_when_both_ends_hurry() {
    // The core writes and closes at once; the client reads late.
    let mut world = World::new(&config());
    let (listener, to) = listener(true).await;
    let core = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut data = Vec::new();
        stream.read_to_end(&mut data).await.unwrap();
        stream.write_all(&pattern(500_000)).await.unwrap();
        drop::<TcpStream>(stream);
        data
    });
    let mut end = End::new(&mut world, 1, to, pattern(10));
    world
        .until(|world| {
            end.work(world);
            end.ended.then_some(())
        })
        .await;
    assert_eq!(finished(&mut world, core).await, pattern(10));
    assert!(end.got == pattern(500_000));
}
