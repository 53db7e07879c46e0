//! Connections that all peers of a listener share: who has one, and who has to go.

use std::{
    collections::HashMap,
    future, io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::Sleep,
};

use crate::shares::{Admission, Bounds, Shares};

/// How exactly it is known when a connection moved last.
const STAMP: Duration = Duration::from_millis(100);
/// How long a connection counts as busy after it moved last.
pub(crate) const BUSY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct State {
    shares: Shares<u64>,
    evict: HashMap<u64, oneshot::Sender<()>>,
    next: u64,
}

/// The places of a listener's connections; see [`shares`](crate::shares). Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Seats(Arc<Mutex<State>>);

/// The place of one connection, given up when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    key: u64,
    seats: Seats,
    evicted: oneshot::Receiver<()>,
}

impl Seats {
    /// So many places in all, and for one source address.
    pub(crate) fn new(total: usize, per_source: usize) -> Self {
        let bounds = Bounds {
            total,
            per_source,
            busy: BUSY,
        };
        Self(Arc::new(Mutex::new(State {
            shares: Shares::new(bounds),
            evict: HashMap::new(),
            next: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection from `source`; another connection may have to go for it.
    pub(crate) fn take(&self, source: IpAddr) -> Option<Seat> {
        let now = Instant::now();
        let mut state = self.lock();
        let key = state.next;
        match state.shares.take(now, source, key) {
            Admission::Free => {}
            Admission::Instead(victim) => {
                if let Some(evict) = state.evict.remove(&victim) {
                    // It may be over by itself.
                    let _ = evict.send(());
                }
            }
            Admission::Refused => return None,
        }
        state.next += 1;
        let (evict, evicted) = oneshot::channel();
        state.evict.insert(key, evict);
        drop(state);
        let seats = self.clone();
        Some(Seat {
            key,
            seats,
            evicted,
        })
    }
}

impl Seat {
    /// Waits until the connection has to go. Cancel-safe.
    pub(crate) async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_err() {
            // The table is gone, with nobody to make room for.
            future::pending().await
        }
    }

    /// The connection's stream, watched: it counts as busy while it moves, and breaks when the peer takes nothing
    /// for `patience`.
    pub(crate) fn watch<S>(&self, stream: S, patience: Duration) -> Watched<S> {
        Watched {
            stream,
            key: self.key,
            seats: self.seats.clone(),
            stamped: Instant::now(),
            patience,
            stuck: None,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.seats.lock();
        state.shares.leave(self.key);
        state.evict.remove(&self.key);
    }
}

/// See [`Seat::watch`].
#[derive(Debug)]
pub(crate) struct Watched<S> {
    stream: S,
    key: u64,
    seats: Seats,
    /// When the table was told last.
    stamped: Instant,
    patience: Duration,
    /// Runs while the stream takes nothing.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    fn moved(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.stamped) >= STAMP {
            self.stamped = now;
            self.seats.lock().shares.touch(now, self.key);
        }
    }

    fn judge<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stuck = None;
            self.moved();
            return polled;
        }
        let patience = self.patience;
        let stuck = self
            .stuck
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stuck.as_mut().poll(cx));
        let error = io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing");
        Poll::Ready(Err(error))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            self.moved();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.judge(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.judge(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.judge(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.judge(cx, polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn source(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[tokio::test]
    async fn whoever_has_most_makes_room() {
        let seats = Seats::new(3, 2);
        let mut hostile: Vec<Seat> = (0..2).map(|_| seats.take(source(1)).unwrap()).collect();
        assert!(seats.take(source(1)).is_none(), "its share is used up");
        let _good = seats.take(source(2)).unwrap();
        let _other = seats.take(source(3)).unwrap();
        hostile.remove(0).evicted().await;
        drop(hostile);
        assert_eq!(seats.lock().shares.len(), 2);
        assert_eq!(seats.lock().evict.len(), 2, "nothing is left behind");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let seat = Seats::new(1, 1).take(source(1)).unwrap();
        let (ours, mut theirs) = tokio::io::duplex(10);
        let patience = Duration::from_secs(30);
        let mut watched = seat.watch(ours, patience);
        let started = tokio::time::Instant::now();
        // One that takes something now and then is waited for.
        let reader = async {
            let mut byte = [0; 10];
            for _ in 0..3 {
                tokio::time::sleep(patience * 2 / 3).await;
                theirs.read_exact(&mut byte).await.unwrap();
            }
            theirs
        };
        let (written, _theirs) = tokio::join!(watched.write_all(&[0; 100]), reader);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed(), patience * 3);
    }
}
