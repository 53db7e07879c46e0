//! Static forwards of datagrams: a socket of its own in the other network for each peer.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::task::{AbortHandle, JoinSet};

use crate::{
    dial::addresses,
    net::{Datagrams, Net},
    report::{Counters, add},
    target::Target,
};

/// Peers of one forward at a time; a further one takes the place of the one that was silent for longest.
pub const PEERS: usize = 256;

/// Silence in both directions after which a peer is forgotten. Longer than RFC 4787 asks of NATs (2 minutes).
pub const IDLE: Duration = Duration::from_secs(300);

/// The longest payload of a datagram.
pub(crate) const LONGEST: usize = 65_535;

/// When something last went through.
#[derive(Debug)]
pub(crate) struct Activity(Mutex<Instant>);

impl Activity {
    pub(crate) fn now() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Instant::now())))
    }

    pub(crate) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns after [`IDLE`] of silence.
    pub(crate) async fn silence(&self) {
        loop {
            let due = self.at() + IDLE;
            if due <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[derive(Debug)]
struct Peer<D> {
    socket: Arc<D>,
    to: SocketAddr,
    activity: Arc<Activity>,
    task: AbortHandle,
}

/// The unspecified address of the version of `like`, any port.
pub(crate) const fn any(like: SocketAddr) -> SocketAddr {
    match like {
        SocketAddr::V4(_) => {
            SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0)
        }
        SocketAddr::V6(_) => {
            SocketAddr::new(std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0)
        }
    }
}

/// Takes the datagrams of `listener` to `target` in the network `net`, and answers back. For ever.
///
/// # Errors
///
/// The listener's network is gone.
pub async fn forward<L: Datagrams, N: Net>(
    listener: L,
    net: N,
    target: Target,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let listener = Arc::new(listener);
    let mut peers: HashMap<SocketAddr, Peer<N::Datagrams>> = HashMap::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; LONGEST];
    loop {
        let (len, from) = tokio::select! {
            received = listener.recv_from(&mut buffer) => match received {
                Ok(received) => received,
                // A host's socket tells here that an earlier answer was not wanted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error),
            },
            Some(ended) = tasks.join_next() => {
                if let Ok(peer) = ended {
                    peers.remove(&peer);
                }
                continue;
            }
        };
        let Some(data) = buffer.get(..len) else {
            continue;
        };
        if !peers.contains_key(&from) {
            add(&counters.accepted, 1);
            let opened = async {
                let to = *addresses(&net, &target)
                    .await?
                    .first()
                    .ok_or(io::ErrorKind::NotFound)?;
                io::Result::Ok((net.bind(any(to)).await?, to))
            };
            let (socket, to) = match opened.await {
                Ok(opened) => opened,
                Err(error) => {
                    add(&counters.failed, 1);
                    tracing::info!(event = "failed", peer = %from, %error, "forward");
                    continue;
                }
            };
            if peers.len() >= PEERS
                && let Some(oldest) = peers.iter().min_by_key(|(_, peer)| peer.activity.at())
            {
                let oldest = *oldest.0;
                if let Some(peer) = peers.remove(&oldest) {
                    peer.task.abort();
                }
            }
            let socket = Arc::new(socket);
            let activity = Activity::now();
            let task = tasks.spawn(answers(
                Arc::clone(&socket),
                to,
                Arc::clone(&listener),
                from,
                Arc::clone(&activity),
                Arc::clone(&counters),
            ));
            peers.insert(
                from,
                Peer {
                    socket,
                    to,
                    activity,
                    task,
                },
            );
        }
        if let Some(peer) = peers.get(&from) {
            peer.activity.touch();
            match peer.socket.send_to(data, peer.to).await {
                Ok(sent) => add(&counters.bytes_out, sent as u64),
                // A datagram may get lost; whether its peer lives is not told by one.
                Err(error) => tracing::debug!(peer = %from, %error, "forward: not sent"),
            }
        }
    }
}

/// Takes answers back until there was silence for long. Says whose they were.
async fn answers<D: Datagrams, L: Datagrams>(
    socket: Arc<D>,
    target: SocketAddr,
    listener: Arc<L>,
    peer: SocketAddr,
    activity: Arc<Activity>,
    counters: Arc<Counters>,
) -> SocketAddr {
    let work = async {
        let mut buffer = vec![0; LONGEST];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((len, from)) if from == target => {
                    activity.touch();
                    if let Some(data) = buffer.get(..len)
                        && let Ok(sent) = listener.send_to(data, peer).await
                    {
                        counters.bytes_in.fetch_add(sent as u64, Ordering::Relaxed);
                    }
                }
                // Not from whom it was asked.
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(_) => return,
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = activity.silence() => {}
    }
    peer
}
