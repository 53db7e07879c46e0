//! One connection.

use std::{
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::timeout,
};

use super::{QueueError, StreamError, handshake};
use crate::{
    cert::{ClientSecurity, PeerIdentity, ServerSecurity},
    socket::{Dscp, MIN_SEND_LIMIT, StreamOptions, set_dscp},
    tls::{self, Role, TlsInfo, TlsSession},
};

/// Least length of the buffer lent to [`StreamTransport::poll_recv`]: two TLS records of the greatest size, one sealed,
/// one open.
pub const MIN_RECV_BUFFER: usize = tls::MIN_RECV_BUFFER;

/// A good length for that buffer: several records are opened for one read.
pub const RECV_BUFFER: usize = 64 * 1024;

/// A TCP connection, plain or under TLS. See the module.
///
/// Dropping it closes the connection at once; data not yet acknowledged may be lost. [`Self::poll_shutdown`] or
/// [`Self::close`] end it in order.
pub struct StreamTransport {
    pub(super) socket: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) tls: Option<Box<Tls>>,
    /// Units that wait: for the socket, or under TLS for sealing. At most `limit` bytes.
    pub(super) queue: BytesMut,
    pub(super) limit: usize,
    pub(super) sending: Sending,
    /// Set by the first final error; then nothing is read or sent any more.
    pub(super) ended: bool,
}

pub(super) struct Tls {
    session: TlsSession,
    info: TlsInfo,
    /// Sealed bytes that wait for the socket: at most what `queue` held when they were sealed, plus overhead.
    wire: BytesMut,
}

/// Our direction of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Open,
    /// Nothing more is taken; what waits goes out, then FIN.
    Closing,
    Closed,
}

impl StreamTransport {
    /// Takes over a connected socket as it is, without TLS.
    ///
    /// # Errors
    /// The socket's options cannot be set, which includes a connection that is already gone.
    pub fn plain(socket: TcpStream, options: &StreamOptions) -> io::Result<Self> {
        options.apply(&socket)?;
        Ok(Self {
            local: socket.local_addr()?,
            peer: socket.peer_addr()?,
            socket,
            tls: None,
            queue: BytesMut::new(),
            limit: options.send_limit.max(MIN_SEND_LIMIT),
            sending: Sending::Open,
            ended: false,
        })
    }

    /// Runs a client's TLS handshake on a connected socket. `name` is verified, and sent as SNI if it is a DNS
    /// name. The deadline is the caller's; the future may be dropped at any time.
    ///
    /// With TLS 1.3 a server that refuses this client's certificate says so after the handshake: the first
    /// [`Self::poll_recv`] then reports the alert.
    ///
    /// # Errors
    /// The connection or the handshake failed.
    pub async fn tls_client(
        socket: TcpStream,
        security: &ClientSecurity,
        name: ServerName<'static>,
        options: &StreamOptions,
    ) -> Result<Self, StreamError> {
        Self::tls(socket, &Role::Client(security, name), options).await
    }

    /// Runs a server's TLS handshake on a connected socket. The deadline is the caller's; the future may be dropped at
    /// any time.
    ///
    /// # Errors
    /// The connection or the handshake failed. The peer has then been told by an alert.
    pub async fn tls_server(
        socket: TcpStream,
        security: &ServerSecurity,
        options: &StreamOptions,
    ) -> Result<Self, StreamError> {
        Self::tls(socket, &Role::Server(security), options).await
    }

    async fn tls(
        socket: TcpStream,
        role: &Role<'_>,
        options: &StreamOptions,
    ) -> Result<Self, StreamError> {
        let mut stream = Self::plain(socket, options)?;
        let session = handshake::handshake(&mut stream.socket, role).await?;
        stream.tls = Some(Box::new(Tls {
            info: session.info(),
            session,
            wire: BytesMut::new(),
        }));
        Ok(stream)
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// What the TLS handshake agreed on; `None` for a plain connection.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.tls.as_ref().map(|tls| &tls.info)
    }

    /// The peer's certificate, if there is TLS and it presented one.
    #[must_use]
    pub fn peer_identity(&self) -> Option<&Arc<PeerIdentity>> {
        self.tls_info()?.peer.as_ref()
    }

    /// Marks what is sent from now on.
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn set_dscp(&self, dscp: Dscp) -> io::Result<()> {
        set_dscp(&SockRef::from(&self.socket), self.local, dscp)
    }

    /// Reads into `buf` and returns how many bytes of plaintext are now at its front; never 0. Whatever else was in
    /// `buf` is overwritten. Also moves along output that waits (answers of the TLS protocol must not
    /// depend on the caller sending something).
    ///
    /// `Pending` registers `cx` for reading, and for writing if output waits. After an error the stream is over,
    /// except for [`StreamError::BufferTooSmall`]; after [`StreamError::Closed`] sending still works.
    ///
    /// # Errors
    /// How the stream ended.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        if self.ended {
            return Poll::Ready(Err(StreamError::Ended));
        }
        if buf.len() < MIN_RECV_BUFFER {
            return Poll::Ready(Err(StreamError::BufferTooSmall { len: buf.len() }));
        }
        let result = if self.tls.is_some() {
            ready!(self.poll_recv_tls(cx, buf))
        } else {
            match ready!(poll_read(&mut self.socket, cx, buf)) {
                Ok(0) => Err(StreamError::Closed),
                Ok(len) => Ok(len),
                Err(error) => Err(error.into()),
            }
        };
        Poll::Ready(self.note(result))
    }

    fn poll_recv_tls(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        loop {
            let Some(tls) = &mut self.tls else {
                return Poll::Ready(Err(StreamError::Ended));
            };
            if !tls.wire.is_empty() {
                let flushed = poll_write_all(&mut self.socket, cx, &mut tls.wire)?;
                // A peer that makes us answer must read the answers.
                if flushed.is_pending() && tls.wire.len() > 2 * self.limit {
                    return Poll::Pending;
                }
            }
            let early = tls.session.take_early(buf);
            if early > 0 {
                return Poll::Ready(Ok(early));
            }
            if tls.session.is_peer_closed() {
                return Poll::Ready(Err(StreamError::Closed));
            }
            let half = buf.len() / 2;
            let (sealed, plain) = buf.split_at_mut(half);
            let result = match tls.session.load_tail(sealed) {
                Some(kept) => {
                    let room = sealed.get_mut(kept..).unwrap_or_default();
                    let read = ready!(poll_read(&mut self.socket, cx, room))?;
                    if read == 0 {
                        return Poll::Ready(Err(StreamError::Truncated));
                    }
                    let input = sealed.get_mut(..kept + read).unwrap_or_default();
                    let opened = tls.session.open(input, plain, &mut tls.wire);
                    opened.inspect(|len| buf.copy_within(half..half + len, 0))
                }
                None => {
                    let read = ready!(poll_read(&mut self.socket, cx, plain))?;
                    if read == 0 {
                        return Poll::Ready(Err(StreamError::Truncated));
                    }
                    let input = plain.get(..read).unwrap_or_default();
                    tls.session.open_more(input, &mut tls.wire).map(|()| 0)
                }
            };
            match result {
                Ok(0) => {}
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => {
                    // The alert, as far as the socket takes it without waiting.
                    let _unsent = poll_write_all(&mut self.socket, cx, &mut tls.wire);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    /// Takes a unit for sending; [`Self::poll_flush`] sends it. Copies it once.
    ///
    /// # Errors
    /// No room, or the stream is over; nothing was taken then.
    pub fn queue(&mut self, unit: &[u8]) -> Result<(), QueueError> {
        if self.ended || self.sending != Sending::Open {
            return Err(QueueError::Ended);
        }
        if unit.len() > self.limit {
            return Err(QueueError::TooLong {
                len: unit.len(),
                limit: self.limit,
            });
        }
        if unit.len() > self.limit.saturating_sub(self.queue.len()) {
            return Err(QueueError::Full);
        }
        self.queue.extend_from_slice(unit);
        Ok(())
    }

    /// Takes units for sending, whole and in order, and returns how many; without TLS and with nothing waiting they go
    /// to the socket in one vectored write, uncopied. Follow up with [`Self::poll_flush`], unless [`Self::unsent`] is 0.
    ///
    /// Fewer than all means that the buffer is full.
    ///
    /// # Errors
    /// The stream is over, or a unit is longer than the whole buffer (the units before it were taken only if the count
    /// says so: the error comes when it is the first).
    pub fn send_vectored(&mut self, units: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        if self.ended || self.sending != Sending::Open {
            return Err(StreamError::Ended);
        }
        let mut taken = 0;
        if self.tls.is_none() && self.queue.is_empty() {
            let mut written = match self.socket.try_write_vectored(units) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return self.note(Err(error.into())),
            };
            for unit in units {
                if let Some(rest) = written.checked_sub(unit.len()) {
                    written = rest;
                    taken += 1;
                    continue;
                }
                if written > 0 {
                    // Begun, so the rest must follow. It is the only one in the buffer.
                    self.queue
                        .extend_from_slice(unit.get(written..).unwrap_or_default());
                    taken += 1;
                }
                break;
            }
        }
        for unit in units.get(taken..).unwrap_or_default() {
            match self.queue(unit) {
                Ok(()) => taken += 1,
                Err(QueueError::TooLong { len, limit }) if taken == 0 => {
                    let text = format!("unit of {len} bytes exceeds the output buffer of {limit}");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
                }
                Err(QueueError::Full | QueueError::TooLong { .. } | QueueError::Ended) => break,
            }
        }
        Ok(taken)
    }

    /// Bytes taken and not yet handed to the operating system.
    #[must_use]
    pub fn unsent(&self) -> usize {
        let wire = self.tls.as_ref().map_or(0, |tls| tls.wire.len());
        self.queue.len().saturating_add(wire)
    }

    /// Seals and sends what waits. Ready when all of it is with the operating system; `Pending` registers `cx` for
    /// writing. A call with nothing to do costs nothing.
    ///
    /// # Errors
    /// How the stream ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.ended {
            return Poll::Ready(Err(StreamError::Ended));
        }
        let result = ready!(self.poll_flush_inner(cx));
        Poll::Ready(self.note(result))
    }

    fn poll_flush_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Some(tls) = &mut self.tls else {
            return poll_write_all(&mut self.socket, cx, &mut self.queue).map_err(Into::into);
        };
        loop {
            ready!(poll_write_all(&mut self.socket, cx, &mut tls.wire))?;
            if self.queue.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let sealed = tls.session.seal(&self.queue, &mut tls.wire);
            self.queue = BytesMut::new();
            sealed?;
        }
    }

    /// Ends our direction in order: sends what waits, close_notify under TLS, then FIN. Receiving goes on until the peer
    /// ends its direction too. May be called again; the deadline is the caller's.
    ///
    /// # Errors
    /// The connection failed before everything was sent.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.ended || self.sending == Sending::Closed {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_shutdown_inner(cx));
        Poll::Ready(self.note(result))
    }

    fn poll_shutdown_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.sending == Sending::Open {
            self.sending = Sending::Closing;
            if let Some(tls) = &mut self.tls {
                // Sealed in order: close_notify comes after the last unit.
                if !self.queue.is_empty() {
                    tls.session.seal(&self.queue, &mut tls.wire)?;
                    self.queue = BytesMut::new();
                }
                tls.session.close(&mut tls.wire)?;
            }
        }
        ready!(self.poll_flush_inner(cx))?;
        self.sending = Sending::Closed;
        match ready!(Pin::new(&mut self.socket).poll_shutdown(cx)) {
            // The peer was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result.map_err(Into::into)),
        }
    }

    /// [`Self::poll_recv`] as a future; dropping it loses nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, buf: &mut [u8]) -> Result<usize, StreamError> {
        poll_fn(|cx| self.poll_recv(cx, buf)).await
    }

    /// Sends all units and waits until the operating system has them. If the future is dropped, some whole units may
    /// have been taken and go out with the next flush.
    ///
    /// # Errors
    /// As [`Self::send_vectored`] and [`Self::poll_flush`].
    pub async fn send(&mut self, units: &[IoSlice<'_>]) -> Result<(), StreamError> {
        let mut left = units;
        loop {
            let taken = self.send_vectored(left)?;
            left = left.get(taken..).unwrap_or_default();
            self.flush().await?;
            if left.is_empty() {
                return Ok(());
            }
        }
    }

    /// [`Self::poll_flush`] as a future; dropping it loses nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn flush(&mut self) -> Result<(), StreamError> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the connection in order, within `limit`: what waits is sent, the peer is told, and its last bytes
    /// are awaited (and thrown away) so that no reset overtakes ours. After `limit` the connection is dropped.
    pub async fn close(mut self, limit: Duration) {
        let orderly = async {
            poll_fn(|cx| self.poll_shutdown(cx)).await?;
            if !self.ended {
                handshake::linger(&mut self.socket).await;
            }
            Ok::<(), StreamError>(())
        };
        // Over in any case, and nobody is left to tell.
        drop(timeout(limit, orderly).await);
    }

    /// Remembers a final error.
    fn note<T>(&mut self, result: Result<T, StreamError>) -> Result<T, StreamError> {
        match &result {
            Ok(_) | Err(StreamError::Closed | StreamError::BufferTooSmall { .. }) => {}
            Err(_) => self.ended = true,
        }
        result
    }
}

impl fmt::Debug for StreamTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamTransport")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("tls", &self.tls.as_ref().map(|tls| tls.info.version))
            .field("unsent", &self.unsent())
            .field("sending", &self.sending)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

fn poll_read(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    buf: &mut [u8],
) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(buf);
    ready!(Pin::new(socket).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Writes until `bytes` is empty, then gives its memory back.
fn poll_write_all(
    socket: &mut TcpStream,
    cx: &mut Context<'_>,
    bytes: &mut BytesMut,
) -> Poll<io::Result<()>> {
    while !bytes.is_empty() {
        let written = ready!(Pin::new(&mut *socket).poll_write(cx, bytes))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        bytes.advance(written);
    }
    *bytes = BytesMut::new();
    Poll::Ready(Ok(()))
}
