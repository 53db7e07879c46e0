//! Listeners.

use std::{
    io,
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::{sync::Notify, task::coop::poll_proceed};
use tsc_eip::{TcpListenHandle, TcpOptions};

use super::{
    DEFAULT_BACKLOG, TcpStream, bind_error,
    connection::{Connection, would_block},
};
use crate::{
    Tunnel,
    error::SocketError,
    shared::{Shared, State},
};

/// A listener for TCP connections that come through the tunnel.
///
/// It has the methods of `tokio::net::TcpListener`:
///
/// ```no_run
/// use tokio::io::AsyncWriteExt;
/// use tsc_tapi::{TcpListener, Tunnel};
///
/// # async fn example(tunnel: &Tunnel) -> std::io::Result<()> {
/// let listener = TcpListener::bind(tunnel, "0.0.0.0:8080".parse().unwrap())?;
/// loop {
///     let (mut stream, peer) = listener.accept().await?;
///     tokio::spawn(async move { stream.write_all(peer.to_string().as_bytes()).await });
/// }
/// # }
/// ```
///
/// Dropping it closes it: connections that were not accepted are reset, accepted ones stay.
#[derive(Debug)]
pub struct TcpListener {
    shared: Arc<Shared>,
    handle: TcpListenHandle,
    local: SocketAddr,
    backlog: u32,
    options: TcpOptions,
    acceptable: Arc<Notify>,
}

impl TcpListener {
    /// Opens a listener inside the tunnel. `local` is one of the tunnel's addresses, or the unspecified one for all of
    /// that IP version; port 0 lets the stack choose. At most [`DEFAULT_BACKLOG`] connections wait to be accepted; for
    /// another backlog there is [`TcpSocket::listen`](super::TcpSocket::listen).
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrInUse`], [`io::ErrorKind::AddrNotAvailable`], or the tunnel is over.
    pub fn bind(tunnel: &Tunnel, local: SocketAddr) -> io::Result<Self> {
        Self::open(
            tunnel.shared(),
            local,
            DEFAULT_BACKLOG,
            TcpOptions::default(),
        )
    }

    pub(super) fn open(
        shared: &Arc<Shared>,
        local: SocketAddr,
        backlog: u32,
        options: TcpOptions,
    ) -> io::Result<Self> {
        let mut state = shared.lock();
        state.check_up()?;
        let handle = state
            .stack
            .tcp_listen(local, usize::try_from(backlog).unwrap_or(usize::MAX))
            .map_err(|error| bind_error(error, local))?;
        let local = state.stack.tcp_listener_addr(handle).unwrap_or(local);
        let acceptable = state.listeners.entry(handle).or_default().many();
        drop(state);
        Ok(Self {
            shared: Arc::clone(shared),
            handle,
            local,
            backlog,
            options,
            acceptable,
        })
    }

    /// Waits for a connection, and gives it with its peer. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The tunnel is over.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        loop {
            let mut news = pin!(self.acceptable.notified());
            news.as_mut().enable();
            let taken = self.shared.with(|state| self.take(state));
            if !would_block(&taken) {
                return taken;
            }
            news.await;
        }
    }

    /// As [`TcpListener::accept`], for one task at a time: the last one to ask is woken.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::accept`].
    pub fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let coop = ready!(poll_proceed(cx));
        let (result, former) = self.shared.with(|state| {
            let taken = self.take(state);
            if !would_block(&taken) {
                return (Poll::Ready(taken), None);
            }
            let listener = state.listeners.get_mut(&self.handle);
            let former = listener.and_then(|listener| listener.register(cx));
            (Poll::Pending, former)
        });
        drop(former);
        if result.is_ready() {
            coop.made_progress();
        }
        result
    }

    /// The inner address and port, with the port chosen if port 0 was asked for.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    /// Connections that may wait to be accepted; peers beyond them keep trying until there is room.
    #[must_use]
    pub const fn backlog(&self) -> u32 {
        self.backlog
    }

    fn take(&self, state: &mut State) -> io::Result<(TcpStream, SocketAddr)> {
        let Some((handle, peer)) = state.stack.tcp_accept(self.handle) else {
            state.check_up()?;
            return Err(SocketError::WouldBlock.into());
        };
        if self.options != TcpOptions::default() {
            let now = Instant::now();
            state.stack.tcp_set_options(now, handle, self.options);
        }
        let connection = Connection::adopt(&self.shared, state, handle, peer);
        Ok((TcpStream::new(connection), peer))
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        let waiters = self.shared.with(|state| {
            state.stack.tcp_listener_close(Instant::now(), self.handle);
            state.listeners.remove(&self.handle)
        });
        drop(waiters);
    }
}
