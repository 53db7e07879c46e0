//! What a stream runs over.

use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// Most sealed bytes that may wait inside a TLS leg. Little: nothing of them can be overtaken.
const LEG_BUFFER: usize = 20 * 1024;

/// A connected byte stream: a TCP connection, or one through a proxy ([`proxy::connect`](crate::proxy::connect)), which may
/// itself be under TLS as far as the proxy.
///
/// For a TCP connection each call is the connection's own, behind one branch.
pub struct Socket(Leg);

enum Leg {
    Tcp(TcpStream),
    /// TCP to a proxy.
    Proxied(TcpStream),
    /// TLS that ends at a proxy. What is written may wait in the session: see [`Socket::waits`].
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// A TLS connection to a proxy.
    pub(crate) fn tls(mut stream: TlsStream<TcpStream>) -> Self {
        stream.get_mut().1.set_buffer_limit(Some(LEG_BUFFER));
        Self(Leg::Tls(Box::new(stream)))
    }

    /// A TCP connection to a proxy.
    pub(crate) const fn to_proxy(stream: TcpStream) -> Self {
        Self(Leg::Proxied(stream))
    }

    /// Whether a proxy is at the other end of the TCP connection, and the peer somewhere behind it.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        !matches!(self.0, Leg::Tcp(_))
    }

    /// The TCP connection, for its addresses and options.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match &self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream,
            Leg::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Our address.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// The other end of the TCP connection: with a proxy, the proxy.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Whether bytes that were taken wait for a flush.
    pub(super) fn waits(&self) -> bool {
        match &self.0 {
            Leg::Tcp(_) | Leg::Proxied(_) => false,
            Leg::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Writes what the system takes at once. Under TLS nothing: there, writing takes a task.
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream.try_write_vectored(slices),
            Leg::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Reads what is there at once. Under TLS nothing.
    pub(super) fn try_read(&self, buf: &mut [u8]) -> io::Result<usize> {
        match &self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream.try_read(buf),
            Leg::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// The TCP connection without its runtime; under TLS it cannot be had.
    pub(super) fn into_std(self) -> io::Result<std::net::TcpStream> {
        match self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream.into_std(),
            Leg::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self(Leg::Tcp(stream))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
            Leg::Tls(stream) => {
                // Answers of the TLS protocol must not depend on the caller sending something.
                if stream.get_ref().1.wants_write() {
                    let _flushed = Pin::new(&mut *stream).poll_flush(cx)?;
                }
                match ready!(Pin::new(stream).poll_read(cx, buf)) {
                    // Many proxies end without close_notify. What is inside knows by itself whether it was complete.
                    Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                        Poll::Ready(Ok(()))
                    }
                    result => Poll::Ready(result),
                }
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => Pin::new(stream).poll_write(cx, buf),
            Leg::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => {
                Pin::new(stream).poll_write_vectored(cx, slices)
            }
            Leg::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Leg::Tcp(_) | Leg::Proxied(_) => Poll::Ready(Ok(())),
            Leg::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Leg::Tcp(stream) | Leg::Proxied(stream) => Pin::new(stream).poll_shutdown(cx),
            Leg::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                Pin::new(stream).poll_shutdown(cx)
            }
        }
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("tcp", self.tcp())
            .field("tls", &matches!(self.0, Leg::Tls(_)))
            .field("proxied", &self.is_proxied())
            .finish()
    }
}
