//! A bad network in one process: a relay on loopback that loses and delays datagrams, and has TCP connections suffer as much.
//!
//! Which ones are lost follows from a seed, so that two runs lose alike; what that means for packets depends on what else travels.

mod streams;

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
    time::{Instant, sleep_until},
};
use tsc_sim::{Losses, Rng};

/// Clients that it serves; datagrams and connections of further ones are dropped.
const MAX_CLIENTS: usize = 64;

/// Datagrams that it delays in each direction of each client; further ones are dropped, as by a full router.
const MAX_DELAYED: usize = 10_000;

/// What the relay does, in each direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BadNetwork {
    /// Share of the datagrams that is lost, 0 to 1.
    pub loss: f64,
    /// How many in a row are lost on average (after Gilbert); 1 is independently of each other.
    pub burst: f64,
    /// How long each takes.
    pub delay: Duration,
    /// What chance begins with.
    pub seed: u64,
    /// So many in each direction of each flow are not lost at first: tunnels and calls are set up with them.
    pub spared: u64,
}

impl Default for BadNetwork {
    /// A perfect one.
    fn default() -> Self {
        Self {
            loss: 0.0,
            burst: 1.0,
            delay: Duration::ZERO,
            seed: 1,
            spared: 0,
        }
    }
}

/// The relay; it ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
    /// Of the connections.
    streams: Option<JoinHandle<()>>,
    stream_bytes: streams::Bytes,
}

#[derive(Debug, Default)]
struct Counts {
    up: AtomicU64,
    down: AtomicU64,
    lost: AtomicU64,
    datagrams: AtomicU64,
}

/// What passed the relay so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Bytes of the datagrams from clients, lost ones too, without the headers of UDP and IP.
    pub up: u64,
    /// Bytes to clients.
    pub down: u64,
    /// Datagrams that were lost.
    pub lost: u64,
    /// Datagrams in both directions, lost ones too.
    pub datagrams: u64,
}

impl Passed {
    /// Bytes in both directions with the headers of UDP and IPv4.
    #[must_use]
    pub const fn on_wire(self) -> u64 {
        self.up + self.down + 28 * self.datagrams
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(streams) = &self.streams {
            streams.abort();
        }
    }
}

/// Ports that are tried until one is free for TCP and UDP.
const PAIR_ATTEMPTS: usize = 64;

/// A listener, and a socket with the same number.
async fn bind_both() -> io::Result<(TcpListener, UdpSocket)> {
    // Numbers that are taken for UDP are kept until the end, so that they are not offered again.
    let mut taken = Vec::new();
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) if taken.len() == PAIR_ATTEMPTS => return Err(error),
            Err(_) => taken.push(listener),
        }
    }
}

impl Relay {
    /// Starts it on a port that the system chooses, at the server's address: on loopback, or in a namespace.
    ///
    /// # Errors
    ///
    /// No socket.
    pub async fn start(server: SocketAddr, network: BadNetwork) -> io::Result<Self> {
        Self::of_datagrams(UdpSocket::bind((server.ip(), 0)).await?, server, network)
    }

    /// The same for TCP connections as well, on the same port number: for a server that serves both on one.
    ///
    /// # Errors
    ///
    /// No sockets.
    pub async fn start_both(server: SocketAddr, network: BadNetwork) -> io::Result<Self> {
        let (listener, socket) = bind_both().await?;
        let mut relay = Self::of_datagrams(socket, server, network)?;
        let bytes = Arc::clone(&relay.stream_bytes);
        let streams = streams::serve(listener, server, network, MAX_CLIENTS, bytes);
        relay.streams = Some(tokio::spawn(streams));
        Ok(relay)
    }

    fn of_datagrams(near: UdpSocket, server: SocketAddr, network: BadNetwork) -> io::Result<Self> {
        let near = Arc::new(near);
        let address = near.local_addr()?;
        let counts = Arc::<Counts>::default();
        let task = tokio::spawn(serve(near, server, network, Arc::clone(&counts)));
        Ok(Self {
            address,
            counts,
            task,
            streams: None,
            stream_bytes: streams::Bytes::default(),
        })
    }

    /// Where clients find the server.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of the segments of connections so far, both directions, with the headers of TCP and IPv4, and with those that were sent
    /// again; without acknowledgements that carry nothing else.
    #[must_use]
    pub fn stream_bytes(&self) -> u64 {
        self.stream_bytes.load(Ordering::Relaxed)
    }

    /// What datagrams passed so far.
    #[must_use]
    pub fn passed(&self) -> Passed {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Passed {
            up: read(&self.counts.up),
            down: read(&self.counts.down),
            lost: read(&self.counts.lost),
            datagrams: read(&self.counts.datagrams),
        }
    }
}

/// Takes what clients send.
async fn serve(near: Arc<UdpSocket>, server: SocketAddr, network: BadNetwork, counts: Arc<Counts>) {
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        // A socket of ours has no errors that last.
        let Ok((len, from)) = near.recv_from(&mut buffer).await else {
            continue;
        };
        counts.datagrams.fetch_add(1, Ordering::Relaxed);
        counts
            .up
            .fetch_add(u64::try_from(len).unwrap_or(u64::MAX), Ordering::Relaxed);
        if !clients.contains_key(&from) {
            let seed = network
                .seed
                .wrapping_add(u64::try_from(clients.len()).unwrap_or_default());
            let network = BadNetwork { seed, ..network };
            if clients.len() >= MAX_CLIENTS {
                continue;
            }
            let Ok(client) = Client::start(&near, from, server, network, &counts).await else {
                continue;
            };
            clients.insert(from, client);
        }
        let Some(client) = clients.get_mut(&from) else {
            continue;
        };
        if client.chance.loses(&network) {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            client.up.send(buffer.get(..len).unwrap_or_default());
        }
    }
}

/// One client's way.
struct Client {
    up: Line,
    chance: Chance,
    down: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.down.abort();
    }
}

impl Client {
    async fn start(
        near: &Arc<UdpSocket>,
        client: SocketAddr,
        server: SocketAddr,
        network: BadNetwork,
        counts: &Arc<Counts>,
    ) -> io::Result<Self> {
        let far = Arc::new(UdpSocket::bind((server.ip(), 0)).await?);
        let up = Line::new(Arc::clone(&far), server, network.delay);
        let mut line = Line::new(Arc::clone(near), client, network.delay);
        let mut chance = Chance::new(network.seed ^ 0x5DEE_CE66);
        let counts = Arc::clone(counts);
        let down = tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                let Ok((len, _)) = far.recv_from(&mut buffer).await else {
                    continue;
                };
                counts.datagrams.fetch_add(1, Ordering::Relaxed);
                counts
                    .down
                    .fetch_add(u64::try_from(len).unwrap_or(u64::MAX), Ordering::Relaxed);
                if chance.loses(&network) {
                    counts.lost.fetch_add(1, Ordering::Relaxed);
                } else {
                    line.send(buffer.get(..len).unwrap_or_default());
                }
            }
        });
        Ok(Self {
            up,
            chance: Chance::new(network.seed),
            down,
        })
    }
}

/// A direction that delays. Without a delay it sends at once.
struct Line {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    delay: Duration,
    queue: Option<tokio::sync::mpsc::Sender<(Instant, Vec<u8>)>>,
}

impl Line {
    fn new(socket: Arc<UdpSocket>, to: SocketAddr, delay: Duration) -> Self {
        let queue = (!delay.is_zero()).then(|| {
            let (queue, mut waiting) =
                tokio::sync::mpsc::channel::<(Instant, Vec<u8>)>(MAX_DELAYED);
            let socket = Arc::clone(&socket);
            // It ends with the line.
            tokio::spawn(async move {
                while let Some((at, datagram)) = waiting.recv().await {
                    sleep_until(at).await;
                    drop(socket.send_to(&datagram, to).await);
                }
            });
            queue
        });
        Self {
            socket,
            to,
            delay,
            queue,
        }
    }

    /// As a network: what cannot be sent is lost.
    fn send(&mut self, datagram: &[u8]) {
        match &self.queue {
            None => drop(self.socket.try_send_to(datagram, self.to)),
            Some(queue) => drop(queue.try_send((Instant::now() + self.delay, datagram.to_vec()))),
        }
    }
}

/// Which datagrams are lost.
struct Chance {
    rng: Rng,
    losses: Losses,
    seen: u64,
}

impl Chance {
    const fn new(seed: u64) -> Self {
        Self {
            rng: Rng::new(seed),
            losses: Losses::new(),
            seen: 0,
        }
    }

    fn loses(&mut self, network: &BadNetwork) -> bool {
        self.seen += 1;
        let loses = self.losses.next(&mut self.rng, network.loss, network.burst);
        loses && self.seen > network.spared
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    #[test]
    fn it_loses_as_much_and_as_long_as_it_says() {
        for (loss, burst) in [(0.0, 1.0), (0.1, 1.0), (0.1, 3.0), (0.2, 2.0)] {
            let network = BadNetwork {
                loss,
                burst,
                ..BadNetwork::default()
            };
            let mut chance = Chance::new(7);
            let lost: Vec<bool> = (0..100_000).map(|_| chance.loses(&network)).collect();
            let count = lost.iter().filter(|lost| **lost).count();
            let runs = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
            let share = count as f64 / 100_000.0;
            assert!((share - loss).abs() < 0.01, "{share} of {loss}");
            if runs > 0 {
                let mean = count as f64 / runs as f64;
                // Independent losses touch each other too.
                let expected = if burst > 1.0 {
                    burst
                } else {
                    1.0 / (1.0 - loss)
                };
                assert!((mean - expected).abs() < 0.1, "{mean} of {expected}");
            }
        }
    }

    #[tokio::test]
    async fn it_passes_datagrams_both_ways_and_delays_them() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let network = BadNetwork {
            delay: Duration::from_millis(20),
            ..BadNetwork::default()
        };
        let relay = Relay::start(server.local_addr().unwrap(), network)
            .await
            .unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let begun = Instant::now();
        client.send_to(b"question", relay.address()).await.unwrap();
        let mut buffer = [0; 100];
        let (len, from) = server.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..len], b"question");
        server.send_to(b"answer", from).await.unwrap();
        let (len, from) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..len], from), (&b"answer"[..], relay.address()));
        assert!(begun.elapsed() >= Duration::from_millis(40));
        assert_eq!(
            relay.passed(),
            Passed {
                up: 8,
                down: 6,
                lost: 0,
                datagrams: 2
            }
        );
    }

    /// What is lost of a connection comes late, and all that follows with it; nothing is missing, and both ends are told of its end.
    #[tokio::test]
    async fn connections_are_held_up_and_complete() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = BadNetwork {
            loss: 0.2,
            delay: Duration::from_millis(5),
            ..BadNetwork::default()
        };
        let relay = Relay::start_both(server.local_addr().unwrap(), network)
            .await
            .unwrap();
        let mut client = TcpStream::connect(relay.address()).await.unwrap();
        let (mut far, _) = server.accept().await.unwrap();
        let begun = Instant::now();
        let mut latest = Duration::ZERO;
        for number in 0..100_u8 {
            let sent = Instant::now();
            client.write_all(&[number; 100]).await.unwrap();
            let mut came = [0; 100];
            far.read_exact(&mut came).await.unwrap();
            assert_eq!(came, [number; 100]);
            assert!(sent.elapsed() >= network.delay);
            latest = latest.max(sent.elapsed());
        }
        // Of a hundred segments some are lost, whatever the seed.
        assert!(latest >= Duration::from_millis(75), "{latest:?}");
        assert!(begun.elapsed() >= 100 * network.delay);
        assert!(
            relay.stream_bytes() > 100 * 152,
            "what is sent again counts"
        );
        assert_eq!(relay.passed().datagrams, 0);
        client.shutdown().await.unwrap();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        far.write_all(b"bye").await.unwrap();
        drop(far);
        let mut said = Vec::new();
        client.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"bye");
    }
}
