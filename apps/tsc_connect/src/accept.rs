//! Accepting connections, a bounded number at a time, and copying bytes.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    net::Listener,
    report::{Counters, add},
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
}

impl Shared {
    /// Lets at most `connections` live at a time.
    #[must_use]
    pub fn new(connections: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            counters: Arc::default(),
        }
    }

    /// The same counters, and as many connections of its own: strangers who come by one side cannot use up the other.
    #[must_use]
    pub fn other_side(&self, connections: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(connections)),
            counters: Arc::clone(&self.counters),
        }
    }
}

/// Accepts for ever, and gives each connection a task of its own. Dropping the future ends them all.
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
                    drop(permit);
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

/// Copies both ways until both sides have ended; one may end before the other.
///
/// # Errors
///
/// What either side says; both are closed then.
pub async fn relay<A, B>(near: &mut A, far: &mut B, counters: &Counters) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (out, back) = copy_bidirectional_with_sizes(near, far, BUFFER, BUFFER).await?;
    add(&counters.bytes_out, out);
    add(&counters.bytes_in, back);
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
