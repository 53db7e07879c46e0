//! A socket: what it is now, and waiting for it.
//!
//! Calls try first and wait then: each of them is an attempt that never blocks, repeated whenever the socket is ready for it. So
//! blocking calls, `tsc_select`, `tsc_poll` and the event descriptors all wait for the same thing, [`Socket::ready`].

mod data;
mod events;
mod lifecycle;
mod options;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::{io::Interest, runtime::Handle, sync::Notify, task::JoinHandle};
use tsc_tapi::{TcpListener, TcpStream, UdpSocket};

use self::{events::Events, options::Settings};
use crate::{
    errno::{Errno, Result},
    tunnel::Tunnel,
};

/// What a socket can be ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Write,
}

impl Direction {
    const fn interest(self) -> Interest {
        match self {
            Self::Read => Interest::READABLE,
            Self::Write => Interest::WRITABLE,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    tunnel: Weak<Tunnel>,
    tunnel_id: u32,
    runtime: Handle,
    is_ipv4: bool,
    is_stream: bool,
    nonblocking: AtomicBool,
    is_closed: AtomicBool,
    settings: Mutex<Settings>,
    inner: Mutex<Inner>,
    /// Told when `inner` becomes something else: whoever waits looks anew.
    changed: Notify,
    readable: Events,
    writable: Events,
}

/// What a socket is.
#[derive(Debug)]
enum Inner {
    /// A datagram socket, and what it is bound to it by.
    Datagram(Option<Arc<UdpSocket>>),
    /// A stream that is not connected; its last attempt may have failed, which is told once.
    Fresh {
        local: Option<SocketAddr>,
        error: Option<Errno>,
    },
    Connecting {
        local: Option<SocketAddr>,
        task: JoinHandle<()>,
    },
    Stream {
        stream: Arc<TcpStream>,
        no_read: bool,
        no_write: bool,
    },
    Listener(Arc<Listener>),
    Closed,
}

/// A listener, with connections that came while somebody waited for them without taking them. As many as wait at a time.
#[derive(Debug)]
struct Listener {
    listener: TcpListener,
    came: Mutex<VecDeque<(TcpStream, SocketAddr)>>,
}

impl Listener {
    const fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            came: Mutex::new(VecDeque::new()),
        }
    }

    /// A connection; `EAGAIN` if there is none.
    fn take(&self) -> Result<(TcpStream, SocketAddr)> {
        if let Some(first) = lock(&self.came).pop_front() {
            return Ok(first);
        }
        match now(self.listener.accept()) {
            Some(accepted) => Ok(accepted?),
            None => Err(Errno::AGAIN),
        }
    }

    /// Back to the front: the next one gets it.
    fn give_back(&self, connection: (TcpStream, SocketAddr)) {
        lock(&self.came).push_front(connection);
    }

    /// Waits until there is one, or none can come any more.
    async fn acceptable(&self) {
        if lock(&self.came).is_empty()
            && let Ok(connection) = self.listener.accept().await
        {
            lock(&self.came).push_back(connection);
        }
    }
}

/// What has to be waited for.
enum Source {
    Now,
    Never,
    Datagrams(Arc<UdpSocket>),
    Stream(Arc<TcpStream>),
    Listener(Arc<Listener>),
}

impl Socket {
    pub(crate) const fn tunnel_id(&self) -> u32 {
        self.tunnel_id
    }

    pub(crate) const fn is_stream(&self) -> bool {
        self.is_stream
    }

    /// Its tunnel; `ENETDOWN` if that was deleted.
    pub(crate) fn tunnel(&self) -> Result<Arc<Tunnel>> {
        self.tunnel.upgrade().ok_or(Errno::NET_DOWN)
    }

    /// Waits until something can be done without waiting, be it to fail; `EBADF` when the socket is closed.
    pub(crate) async fn ready(&self, direction: Direction) -> Result<()> {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Registered before looking, so that nothing happens unseen in between.
            changed.as_mut().enable();
            if self.is_closed.load(Ordering::Acquire) {
                return Err(Errno::BAD);
            }
            let source = self.source(direction);
            let wait = async {
                match source {
                    Source::Now => {}
                    Source::Never => std::future::pending().await,
                    // That the tunnel is over is for the call to tell.
                    Source::Datagrams(socket) => drop(socket.readable().await),
                    Source::Stream(stream) => drop(stream.ready(direction.interest()).await),
                    Source::Listener(listener) => {
                        listener.acceptable().await;
                        // Others wait at the listener itself, which has nothing now.
                        self.changed.notify_waiters();
                    }
                }
            };
            tokio::select! {
                biased;
                () = wait => return Ok(()),
                () = changed => {}
            }
        }
    }

    pub(crate) fn is_ready(&self, direction: Direction) -> bool {
        now(self.ready(direction)).is_some()
    }

    /// Waits until the socket is closed.
    pub(crate) async fn gone(&self) {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.is_closed.load(Ordering::Acquire) {
                return;
            }
            changed.await;
        }
    }

    /// Whether it has failed, or its tunnel is over.
    pub(crate) fn has_failed(&self) -> bool {
        let has_error = match &*self.inner() {
            Inner::Fresh { error, .. } => error.is_some(),
            Inner::Stream { stream, .. } => stream.has_error(),
            Inner::Datagram(_) | Inner::Connecting { .. } | Inner::Listener(_) | Inner::Closed => {
                false
            }
        };
        has_error || self.tunnel().map_or(true, |tunnel| tunnel.is_over())
    }

    fn source(&self, direction: Direction) -> Source {
        let is_read = direction == Direction::Read;
        match &*self.inner() {
            Inner::Datagram(Some(socket)) if is_read => Source::Datagrams(Arc::clone(socket)),
            Inner::Datagram(None) if is_read => Source::Never,
            Inner::Stream {
                no_read, no_write, ..
            } if if is_read { *no_read } else { *no_write } => Source::Now,
            Inner::Stream { stream, .. } => Source::Stream(Arc::clone(stream)),
            Inner::Listener(listener) if is_read => Source::Listener(Arc::clone(listener)),
            Inner::Connecting { .. } | Inner::Listener(_) => Source::Never,
            // As with a kernel: what cannot be done fails at once.
            Inner::Datagram(_) | Inner::Fresh { .. } | Inner::Closed => Source::Now,
        }
    }

    /// Makes attempts until one is not `EAGAIN`; the first one is the last if the call must not block, or when the time is over.
    fn until<T>(
        &self,
        direction: Direction,
        blocks: bool,
        limit: Option<Duration>,
        mut attempt: impl FnMut(&Self) -> Result<T>,
    ) -> Result<T> {
        let mut tried = attempt(self);
        if blocks && matches!(&tried, Err(Errno::AGAIN)) {
            tried = self.runtime.block_on(async {
                let attempts = async {
                    loop {
                        self.ready(direction).await?;
                        match attempt(self) {
                            Err(Errno::AGAIN) => {}
                            done => return done,
                        }
                    }
                };
                match limit {
                    Some(limit) => tokio::time::timeout(limit, attempts)
                        .await
                        .unwrap_or(Err(Errno::AGAIN)),
                    None => attempts.await,
                }
            });
        }
        self.events(direction).settle(self, direction);
        tried
    }

    fn blocks(&self) -> bool {
        !self.nonblocking.load(Ordering::Relaxed)
    }

    const fn events(&self, direction: Direction) -> &Events {
        match direction {
            Direction::Read => &self.readable,
            Direction::Write => &self.writable,
        }
    }

    /// Tells all who wait that `inner` has become something else.
    fn has_changed(&self) {
        self.changed.notify_waiters();
        for direction in [Direction::Read, Direction::Write] {
            self.events(direction).settle(self, direction);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        lock(&self.settings)
    }
}

/// What a future gives without waiting.
pub(crate) fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
