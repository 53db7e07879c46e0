//! A connection as one object.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};

use super::{
    TcpSocket,
    connection::Connection,
    socket::keepalive,
    split::{ReadHalf, WriteHalf},
    split_owned::{self, OwnedReadHalf, OwnedWriteHalf},
};
use crate::Tunnel;

/// Bytes that [`TcpStream::try_read_buf`] moves at a time: a `BufMut` gives its space only as memory that is not
/// initialised.
const CHUNK: usize = 8 * 1024;

/// A TCP connection whose packets travel inside the tunnel.
///
/// It has the methods and the behaviour of `tokio::net::TcpStream`, so that what runs on that (hyper, rustls, a
/// program of one's own) runs inside a tunnel by changing the line that connects:
///
/// ```no_run
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
/// use tsc_tapi::{TcpStream, Tunnel};
///
/// # async fn example(tunnel: &Tunnel) -> std::io::Result<()> {
/// let mut stream = TcpStream::connect(tunnel, "10.0.0.5:80".parse().unwrap()).await?;
/// stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
/// let mut page = Vec::new();
/// stream.read_to_end(&mut page).await?;
/// # Ok(())
/// # }
/// ```
///
/// Differences: Nagle's algorithm is off unless asked for ([`TcpStream::set_nodelay`]), and there is no `ttl`.
///
/// Connections survive a resume of the tunnel: what was lost meanwhile is sent again. They end with
/// [`SocketError::TunnelDown`](crate::SocketError::TunnelDown) when the tunnel does.
///
/// Dropping the stream closes the connection: what was written is still delivered in the background, as long as the
/// tunnel lives and for a minute at most ([`Tunnel::close`] waits for that within its deadline); if data received
/// were not read, the peer gets a reset, as it does from a kernel.
#[derive(Debug)]
pub struct TcpStream {
    connection: Arc<Connection>,
}

impl TcpStream {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Arc::new(connection),
        }
    }

    /// The same connection again, for a half of it.
    pub(super) fn share(&self) -> Self {
        Self {
            connection: Arc::clone(&self.connection),
        }
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }

    /// Connects to `peer` through the tunnel. For options before connecting, and a local address of one's own, there
    /// is [`TcpSocket`].
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::ConnectionRefused`], [`io::ErrorKind::TimedOut`] after 75 s without an answer,
    /// [`io::ErrorKind::HostUnreachable`]; [`SocketError`](crate::SocketError) inside.
    pub async fn connect(tunnel: &Tunnel, peer: SocketAddr) -> io::Result<Self> {
        TcpSocket::new(tunnel).connect(peer).await
    }

    /// The inner address and port of this end.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.connection.local())
    }

    /// The address and port of the peer.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.connection.peer())
    }

    /// The failure of the connection, if no call has told it yet.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        Ok(self.connection.take_error())
    }

    /// Whether [`Self::take_error`] has something, which stays for that or the next call.
    pub fn has_error(&self) -> bool {
        self.connection.has_error()
    }

    /// Waits until one of the things in `interest` can be done without waiting; a failed connection can do all, and
    /// says then why it fails. Cancel-safe.
    ///
    /// # Errors
    ///
    /// The tunnel is over.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.connection.ready(interest).await
    }

    /// Waits until there is something to read: data, the end, or an error. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::ready`].
    pub async fn readable(&self) -> io::Result<()> {
        self.ready(Interest::READABLE).await.map(drop)
    }

    /// Waits until something can be written. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::ready`].
    pub async fn writable(&self) -> io::Result<()> {
        self.ready(Interest::WRITABLE).await.map(drop)
    }

    /// As [`TcpStream::readable`], for one task at a time: the last one to ask, here or by a poll for reading, is
    /// woken.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::ready`].
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_ready(cx, Interest::READABLE)
    }

    /// As [`TcpStream::writable`], for one task at a time: the last one to ask, here or by a poll for writing, is
    /// woken.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::ready`].
    pub fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.poll_ready(cx, Interest::WRITABLE)
    }

    /// Reads what is there; `0` when the peer has shut down its end.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if nothing is there, [`io::ErrorKind::ConnectionReset`] and the like once
    /// everything received was read.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.connection.try_read(buffer)
    }

    /// As [`TcpStream::try_read`], into several buffers one after another.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::try_read`].
    pub fn try_read_vectored(&self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut total = 0;
        for buffer in buffers.iter_mut().filter(|buffer| !buffer.is_empty()) {
            match self.try_read(buffer) {
                Ok(read) => {
                    total += read;
                    if read < buffer.len() {
                        break;
                    }
                }
                // What was read is told first.
                Err(_) if total > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    /// As [`TcpStream::try_read`], at the end of `buffer`, which moves on.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::try_read`].
    pub fn try_read_buf<B: BufMut>(&self, buffer: &mut B) -> io::Result<usize> {
        let mut chunk = [0; CHUNK];
        let room = buffer.remaining_mut().min(CHUNK);
        let read = self.try_read(chunk.get_mut(..room).unwrap_or_default())?;
        buffer.put_slice(chunk.get(..read).unwrap_or_default());
        Ok(read)
    }

    /// Writes as much as there is room for.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] if there is no room, [`io::ErrorKind::BrokenPipe`] after a shutdown,
    /// [`io::ErrorKind::ConnectionReset`] and the like when the connection has failed.
    pub fn try_write(&self, data: &[u8]) -> io::Result<usize> {
        self.connection.try_write(data)
    }

    /// As [`TcpStream::try_write`], of several buffers one after another.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::try_write`].
    pub fn try_write_vectored(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        self.connection.try_write_vectored(buffers)
    }

    /// Waits for data, and copies from them what fits `buffer` without taking it; `0` at their end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As reading.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.connection.peek(buffer).await
    }

    /// As [`TcpStream::peek`], for one task at a time, which shares its place with those that read by polling.
    ///
    /// # Errors
    ///
    /// As reading.
    pub fn poll_peek(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let peek = self.connection.poll_peek(cx, buffer.initialize_unfilled());
        let len = ready!(peek)?;
        buffer.advance(len);
        Poll::Ready(Ok(len))
    }

    /// Whether small segments are sent at once, instead of waiting for acknowledgements (Nagle's algorithm).
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn nodelay(&self) -> io::Result<bool> {
        Ok(self.connection.options()?.nodelay)
    }

    /// Sets [`TcpStream::nodelay`]. Other than with a kernel it is on from the beginning: tunnels carry signalling,
    /// whose programs write whole messages.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.connection
            .change_options(|options| options.nodelay = nodelay)
    }

    /// After how much silence the peer is probed.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn keepalive(&self) -> io::Result<Option<Duration>> {
        Ok(self.connection.options()?.keep_alive)
    }

    /// Probes a peer that is silent for so long; three probes without an answer end the connection
    /// ([`io::ErrorKind::TimedOut`]). `None` from the beginning; a second at least.
    ///
    /// # Errors
    ///
    /// None today.
    pub fn set_keepalive(&self, silence: Option<Duration>) -> io::Result<()> {
        self.connection
            .change_options(|options| options.keep_alive = silence.map(keepalive))
    }

    /// What a drop does: zero resets the connection, `None` delivers what was written.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn linger(&self) -> io::Result<Option<Duration>> {
        Ok(self.connection.linger())
    }

    /// With zero, a drop resets the connection and what was not sent is lost. With anything else it delivers what was
    /// written in the background, for a minute at most; a drop never waits.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn set_linger(&self, linger: Option<Duration>) -> io::Result<()> {
        self.connection
            .set_abort(linger.is_some_and(|time| time.is_zero()));
        Ok(())
    }

    /// [`TcpStream::set_linger`] with zero.
    ///
    /// # Errors
    ///
    /// None today; the signature is tokio's.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.set_linger(Some(Duration::ZERO))
    }

    /// Tells the peer that nothing more comes, after what was written; reading goes on. What `AsyncWriteExt::shutdown` does, for
    /// code that is not async: it never waits anyway.
    ///
    /// # Errors
    ///
    /// The connection has failed, or the tunnel is over.
    pub fn shutdown_write(&self) -> io::Result<()> {
        self.connection.shutdown()
    }

    /// Two halves that borrow the stream.
    pub const fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        (ReadHalf(self), WriteHalf(self))
    }

    /// Two halves that own the stream together, for two tasks. Dropping the writing half shuts down this end.
    #[must_use]
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        split_owned::split(self)
    }

    pub(super) fn poll_read_into(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.connection.poll_read(cx, buffer.initialize_unfilled());
        buffer.advance(ready!(read)?);
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write_from(
        &self,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.connection.poll_write(cx, data)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_into(cx, buffer)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_from(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing to do: what was written is sent without being asked.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Tells the peer that nothing more comes, after what was written. Reading goes on.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shutdown_write())
    }
}
