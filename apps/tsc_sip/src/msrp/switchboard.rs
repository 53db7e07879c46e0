//! Connections that come in, and the sessions that wait for them.

use std::{
    collections::HashMap,
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
};

use super::{Chunk, Decoder, Head, Item, MsrpUri, status};
use crate::net::{BoxStream, InnerListener, Seats, is_fatal};

/// Connections that have not said yet which session they belong to, and those of one address; see
/// [`shares`](crate::shares). Known ones are bounded by their sessions.
const UNKNOWN: usize = 512;
const UNKNOWN_PER_SOURCE: usize = 256;
/// How long a connection may take to say it.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection of a session, and what was read from it already.
pub struct Arrival {
    /// The connection.
    pub stream: BoxStream,
    /// The first bytes.
    pub read: Vec<u8>,
    /// Where it came from.
    pub peer: SocketAddr,
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival")
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

type Waiting = Mutex<HashMap<String, oneshot::Sender<Arrival>>>;

/// Listens for the connections of all sessions of a program at one port. Cheap to clone; the last one ends it.
#[derive(Clone, Debug)]
pub struct Switchboard {
    address: SocketAddr,
    waiting: Arc<Waiting>,
    _task: Arc<AbortOnDrop>,
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The place of one session; it waits for its connection until this is dropped.
#[derive(Debug)]
pub struct Arrivals {
    session: String,
    arrival: oneshot::Receiver<Arrival>,
    waiting: Weak<Waiting>,
}

fn lock(waiting: &Waiting) -> MutexGuard<'_, HashMap<String, oneshot::Sender<Arrival>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Switchboard {
    /// Takes a listener and starts its task.
    ///
    /// # Errors
    ///
    /// The listener does not know its address.
    pub fn start<L: InnerListener>(listener: L) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let waiting = Arc::new(Waiting::default());
        let task = tokio::spawn(listen(listener, Arc::clone(&waiting)));
        Ok(Self {
            address,
            waiting,
            _task: Arc::new(AbortOnDrop(task)),
        })
    }

    /// A new session with this unguessable name: our URI for it, and where its connection arrives. As many as the owner has
    /// calls.
    #[must_use]
    pub fn expect(&self, session: String) -> (MsrpUri, Arrivals) {
        let (sender, arrival) = oneshot::channel();
        lock(&self.waiting).insert(session.clone(), sender);
        let uri = MsrpUri::tcp(self.address, &session);
        let arrivals = Arrivals {
            session,
            arrival,
            waiting: Arc::downgrade(&self.waiting),
        };
        (uri, arrivals)
    }
}

impl Arrivals {
    /// The connection; `None` when none can come any more. Cancel-safe.
    pub async fn arrival(&mut self) -> Option<Arrival> {
        (&mut self.arrival).await.ok()
    }
}

impl Drop for Arrivals {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.upgrade() {
            lock(&waiting).remove(&self.session);
        }
    }
}

async fn listen<L: InnerListener>(listener: L, waiting: Arc<Waiting>) {
    let seats = Seats::new(UNKNOWN, UNKNOWN_PER_SOURCE);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let Some(mut seat) = seats.take(peer.ip()) else {
                    tracing::debug!(%peer, "MSRP connection refused: there are too many");
                    continue;
                };
                let waiting = Arc::clone(&waiting);
                tokio::spawn(async move {
                    tokio::select! {
                        () = receive(Box::new(stream), peer, &waiting) => {}
                        () = seat.evicted() => tracing::debug!(%peer, "MSRP connection makes room for another"),
                    }
                });
            }
            Err(error) if is_fatal(&error) => {
                tracing::debug!(%error, "MSRP listener closed");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "MSRP listener");
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Finds the session of a connection, and gives it the connection.
async fn receive(stream: BoxStream, peer: SocketAddr, waiting: &Waiting) {
    match tokio::time::timeout(PATIENCE, identify(stream, peer)).await {
        Ok(Some((head, arrival))) => {
            let session = head.to_path.first().map(|to| &to.session);
            let place = session.and_then(|name| lock(waiting).remove(name));
            // A session that is over meanwhile drops its connection.
            match place {
                Some(place) => drop(place.send(arrival)),
                None => refuse(arrival, &head).await,
            }
        }
        Ok(None) | Err(_) => tracing::debug!(%peer, "not MSRP"),
    }
}

/// Says that there is no such session, and closes.
async fn refuse(mut arrival: Arrival, head: &Head) {
    tracing::debug!(peer = %arrival.peer, "MSRP for no session");
    let response = Chunk::bare(head.response(status::NO_SUCH_SESSION)).encode();
    let say = async {
        arrival.stream.write_all(&response).await?;
        arrival.stream.shutdown().await
    };
    // If it does not arrive, nothing else changes.
    let _ = tokio::time::timeout(PATIENCE, say).await;
}

/// Reads up to the end of the first head, which names the session.
async fn identify(mut stream: BoxStream, peer: SocketAddr) -> Option<(Head, Arrival)> {
    let mut decoder = Decoder::default();
    let mut read = Vec::new();
    let mut buffer = [0; 2048];
    loop {
        let length = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        let bytes = buffer.get(..length)?;
        read.extend_from_slice(bytes);
        decoder.push(bytes);
        if let Some(Item::Head { head, .. }) = decoder.next_item().ok()? {
            return Some((*head, Arrival { stream, read, peer }));
        }
    }
}
