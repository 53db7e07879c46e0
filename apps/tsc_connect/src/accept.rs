//! Accepting connections, a bounded number at a time, and copying bytes.

use std::{
    collections::{HashMap, hash_map::Entry},
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    net::Listener,
    report::{Counters, add},
    streams::{Counted, Reset},
};

/// How long the handshake of a proxy's client may take.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Bytes that a connection holds in each direction.
const BUFFER: usize = 64 * 1024;

/// After an error of `accept`, which lasts until descriptors are free again.
const REST: Duration = Duration::from_millis(100);

/// What the listeners of one side share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// A permit for each connection.
    pub permits: Arc<Semaphore>,
    /// What went through.
    pub counters: Arc<Counters>,
    /// Who has the connections.
    hosts: Hosts,
}

impl Shared {
    /// Lets at most `connections` live at a time, whoever has them.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            counters: Arc::default(),
            hosts: Hosts::new(usize::MAX),
        }
    }

    /// The same counters, and as many connections of its own, `per_host` at most of one address: strangers who come by
    /// one side cannot use up the other, nor one of them what there is for all.
    #[must_use]
    pub fn other_side(&self, connections: usize, per_host: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            counters: Arc::clone(&self.counters),
            hosts: Hosts::new(per_host),
        }
    }
}

/// How many connections each address has. It knows those addresses only that have some.
#[derive(Clone, Debug)]
struct Hosts {
    most: usize,
    live: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Hosts {
    fn new(most: usize) -> Self {
        Self {
            most,
            live: Arc::default(),
        }
    }

    /// One more connection, until what is given back is dropped; none if the address has as many as it may.
    fn enter(&self, host: IpAddr) -> Option<Present> {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        let count = live.get(&host).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        live.insert(host, count + 1);
        Some(Present {
            host,
            hosts: self.clone(),
        })
    }
}

/// A connection that counts.
#[derive(Debug)]
struct Present {
    host: IpAddr,
    hosts: Hosts,
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut live = self
            .hosts
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = live.entry(self.host) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Accepts for ever, and gives each connection a task of its own. Dropping the future ends them all.
///
/// A connection of an address that has as many as it may have is reset at once: it must not make others wait.
///
/// A permit is taken after a connection was accepted: a listener to which nobody comes holds none. Each listener has at
/// most one connection that waits for its permit.
pub async fn serve<L, F>(
    listener: L,
    shared: Shared,
    what: &'static str,
    handle: impl Fn(L::Stream, SocketAddr) -> F,
) where
    L: Listener,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    loop {
        while tasks.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(present) = shared.hosts.enter(peer.ip()) else {
                    add(&shared.counters.refused, 1);
                    tracing::debug!(event = "refused", %peer, "{what}: too many connections of this host");
                    stream.reset_on_drop();
                    continue;
                };
                if shared.permits.available_permits() == 0 {
                    tracing::info!(event = "full", %peer, "{what}: waits for another connection to end");
                }
                let Ok(permit) = Arc::clone(&shared.permits).acquire_owned().await else {
                    return;
                };
                add(&shared.counters.accepted, 1);
                let work = handle(stream, peer);
                let counters = Arc::clone(&shared.counters);
                tasks.spawn(async move {
                    if let Err(error) = work.await {
                        add(&counters.failed, 1);
                        tracing::info!(event = "failed", %peer, %error, "{what}");
                    }
                    drop((permit, present));
                });
            }
            Err(error) if is_over(&error) => {
                tracing::debug!(%error, "{what}: no longer accepting");
                while tasks.join_next().await.is_some() {}
                return;
            }
            Err(error) => {
                tracing::warn!(event = "accept", %error, "{what}");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Whether a listener's network is gone, as after the end of the tunnel.
fn is_over(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe
    ) && tsc_tapi::SocketError::of(error).is_some()
}

/// Both sides of a connection, which are reset if it ends before they have.
#[derive(Debug)]
struct Pair<A: Reset, B: Reset> {
    near: A,
    far: B,
    ended: bool,
}

impl<A: Reset, B: Reset> Drop for Pair<A, B> {
    fn drop(&mut self) {
        if !self.ended {
            self.near.reset_on_drop();
            self.far.reset_on_drop();
        }
    }
}

/// Copies both ways until both sides have ended; one may end before the other. `far` is the target's side.
///
/// If one side fails, or this future is dropped, both are reset: neither must take half of something for all of it.
///
/// # Errors
///
/// What either side says.
pub async fn relay<A, B>(near: A, far: B, counters: Arc<Counters>) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Reset + Unpin,
    B: AsyncRead + AsyncWrite + Reset + Unpin,
{
    let mut pair = Pair {
        near,
        far: Counted::new(far, counters),
        ended: false,
    };
    copy_bidirectional_with_sizes(&mut pair.near, &mut pair.far, BUFFER, BUFFER).await?;
    pair.ended = true;
    Ok(())
}

/// Takes whatever is left of a handshake's time.
///
/// # Errors
///
/// `TimedOut`, or the handshake's own.
pub async fn in_time<T, E: Into<io::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> io::Result<T> {
    match tokio::time::timeout(HANDSHAKE, work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "no handshake in time",
        )),
    }
}
