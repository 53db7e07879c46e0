//! Static forwards of datagrams: a socket of its own in the other network for each peer.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{self, Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::Mutex,
    task::{AbortHandle, Id, JoinSet},
    time::timeout,
};

use crate::{
    names::{Known, LOOKUP, Waiting, look_up},
    net::{Datagrams, Net},
    report::{Counters, add},
    target::{Host, Target},
};

/// Peers of one forward at a time; a further one takes the place of the one that was silent for longest.
pub const PEERS: usize = 256;

/// Of these, peers with the same address in a forward of what strangers send (`-R`).
pub const PEERS_PER_HOST: usize = 64;

/// Silence in both directions after which a peer is forgotten. Longer than RFC 4787 asks of NATs (2 minutes).
pub const IDLE: Duration = Duration::from_secs(300);

/// The longest payload of a datagram.
pub(crate) const LONGEST: usize = 65_535;

/// When something last went through.
#[derive(Debug)]
pub(crate) struct Activity(sync::Mutex<Instant>);

impl Activity {
    pub(crate) fn now() -> Arc<Self> {
        Arc::new(Self(sync::Mutex::new(Instant::now())))
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
    /// Its socket and where that sends to, when they are there; its datagrams wait until then.
    open: Option<(Arc<D>, SocketAddr)>,
    activity: Arc<Activity>,
    task: AbortHandle,
}

/// How a peer's task ended.
enum Ended<D> {
    /// Its socket is open.
    Opened(D, SocketAddr),
    /// It cannot be opened.
    Failed(io::Error),
    /// There was silence for long, or the other network is gone.
    Over,
}

/// The one target of a forward. All peers ask for it, and one look-up is for them all.
#[derive(Debug)]
struct Way<N> {
    net: N,
    target: Target,
    known: Mutex<Option<Known>>,
}

impl<N: Net> Way<N> {
    async fn open(&self) -> io::Result<(N::Datagrams, SocketAddr)> {
        let to = self.address().await?;
        let socket = timeout(LOOKUP, self.net.bind(any(to))).await??;
        Ok((socket, to))
    }

    async fn address(&self) -> io::Result<SocketAddr> {
        if let Host::Address(address) = self.target.host {
            return Ok(SocketAddr::new(address, self.target.port));
        }
        let mut known = self.known.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.holds()) {
            return known.address.ok_or_else(|| io::ErrorKind::NotFound.into());
        }
        let found = look_up(&self.net, &self.target, |_| true).await;
        *known = Some(Known::now(found.as_ref().ok().copied()));
        found
    }
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
/// At most `per_host` peers have the same address. What a new peer needs is prepared beside the datagrams of the others,
/// while its own wait.
///
/// # Errors
///
/// The listener's network is gone.
pub async fn forward<L: Datagrams, N: Net>(
    listener: L,
    net: N,
    target: Target,
    per_host: usize,
    counters: Arc<Counters>,
) -> io::Result<()> {
    let mut forward = Forward {
        listener: Arc::new(listener),
        way: Arc::new(Way {
            net,
            target,
            known: Mutex::default(),
        }),
        per_host,
        counters,
        peers: HashMap::new(),
        waiting: Waiting::default(),
        tasks: JoinSet::new(),
    };
    let listener = Arc::clone(&forward.listener);
    let mut buffer = vec![0; LONGEST];
    loop {
        tokio::select! {
            received = listener.recv_from(&mut buffer) => match received {
                Ok((len, from)) => forward.take(from, buffer.get(..len).unwrap_or_default()).await,
                // A host's socket tells here that an earlier answer was not wanted.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error),
            },
            Some(ended) = forward.tasks.join_next_with_id() => {
                // One that was aborted has given its place away.
                if let Ok((task, (peer, ended))) = ended {
                    forward.ended(task, peer, ended).await;
                }
            }
        }
    }
}

struct Forward<L, N: Net> {
    listener: Arc<L>,
    way: Arc<Way<N>>,
    per_host: usize,
    counters: Arc<Counters>,
    peers: HashMap<SocketAddr, Peer<N::Datagrams>>,
    waiting: Waiting<SocketAddr>,
    tasks: JoinSet<(SocketAddr, Ended<N::Datagrams>)>,
}

impl<L: Datagrams, N: Net> Forward<L, N> {
    /// A datagram of a peer.
    async fn take(&mut self, from: SocketAddr, data: &[u8]) {
        match self.peers.get(&from) {
            Some(peer) => {
                peer.activity.touch();
                match &peer.open {
                    Some((socket, to)) => send(&**socket, data, *to, from, &self.counters).await,
                    None => self.waiting.push(from, data),
                }
            }
            None => {
                add(&self.counters.accepted, 1);
                self.make_room(from);
                let way = Arc::clone(&self.way);
                let task = self.tasks.spawn(async move {
                    let ended = match way.open().await {
                        Ok((socket, to)) => Ended::Opened(socket, to),
                        Err(error) => Ended::Failed(error),
                    };
                    (from, ended)
                });
                let peer = Peer {
                    open: None,
                    activity: Activity::now(),
                    task,
                };
                self.peers.insert(from, peer);
                self.waiting.push(from, data);
            }
        }
    }

    /// Takes the place for `from` from the peer that was silent for longest: one with its address if they are many.
    fn make_room(&mut self, from: SocketAddr) {
        let same = |peer: &SocketAddr| peer.ip() == from.ip();
        let many = self.peers.keys().filter(|peer| same(peer)).count() >= self.per_host;
        if !many && self.peers.len() < PEERS {
            return;
        }
        let candidates = self.peers.iter().filter(|(peer, _)| !many || same(peer));
        let oldest = candidates.min_by_key(|(_, peer)| peer.activity.at());
        if let Some(oldest) = oldest.map(|(peer, _)| *peer)
            && let Some(peer) = self.peers.remove(&oldest)
        {
            peer.task.abort();
            drop(self.waiting.take(|peer| *peer == oldest));
        }
    }

    async fn ended(&mut self, task: Id, from: SocketAddr, ended: Ended<N::Datagrams>) {
        // A task that ended just before its peer gave way is not that of the peer who has come back since.
        let ours = |peer: &&mut Peer<_>| peer.task.id() == task;
        let Some(peer) = self.peers.get_mut(&from).filter(ours) else {
            return;
        };
        match ended {
            Ended::Opened(socket, to) => {
                let socket = Arc::new(socket);
                let (listener, counters) = (Arc::clone(&self.listener), Arc::clone(&self.counters));
                let (far, activity) = (Arc::clone(&socket), Arc::clone(&peer.activity));
                peer.task = self.tasks.spawn(async move {
                    answers(far, to, listener, from, activity, counters).await;
                    (from, Ended::Over)
                });
                for (_, data) in self.waiting.take(|peer| *peer == from) {
                    send(&*socket, &data, to, from, &self.counters).await;
                }
                peer.open = Some((socket, to));
            }
            Ended::Failed(error) => {
                add(&self.counters.failed, 1);
                tracing::info!(event = "failed", peer = %from, %error, "forward");
                self.peers.remove(&from);
                drop(self.waiting.take(|peer| *peer == from));
            }
            Ended::Over => {
                self.peers.remove(&from);
            }
        }
    }
}

async fn send<D: Datagrams>(
    socket: &D,
    data: &[u8],
    to: SocketAddr,
    from: SocketAddr,
    counters: &Counters,
) {
    match socket.send_to(data, to).await {
        Ok(sent) => add(&counters.bytes_out, sent as u64),
        // A datagram may get lost; whether its peer lives is not told by one.
        Err(error) => tracing::debug!(peer = %from, %error, "forward: not sent"),
    }
}

/// Takes answers back until there was silence for long.
async fn answers<D: Datagrams, L: Datagrams>(
    socket: Arc<D>,
    target: SocketAddr,
    listener: Arc<L>,
    peer: SocketAddr,
    activity: Arc<Activity>,
    counters: Arc<Counters>,
) {
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
}
