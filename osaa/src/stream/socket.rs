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

use crate::trace::{Direction, StreamTap, Tap};

/// Most sealed bytes that may wait inside a TLS leg. Little: nothing of them can be overtaken.
const LEG_BUFFER: usize = 20 * 1024;

/// A connected byte stream: a TCP connection, or one through a proxy ([`proxy::connect`](crate::proxy::connect)), which may
/// itself be under TLS as far as the proxy.
///
/// For a TCP connection each call is the connection's own, behind two branches.
pub struct Socket {
    leg: Leg,
    /// Told what is read and written; under TLS to a proxy what is inside, and never what was said to the proxy before.
    tap: Option<Box<StreamTap>>,
}

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
        Leg::Tls(Box::new(stream)).into()
    }

    /// A TCP connection to a proxy.
    pub(crate) fn to_proxy(stream: TcpStream) -> Self {
        Leg::Proxied(stream).into()
    }

    /// Tells `tap` from now on; `opener` is who opened the connection.
    pub(super) fn tell(&mut self, tap: &Tap, opener: Direction, [local, peer]: [SocketAddr; 2]) {
        self.tap = Some(Box::new(StreamTap::new(tap, opener, local, peer)));
    }

    /// Whether a proxy is at the other end of the TCP connection, and the peer somewhere behind it.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        !matches!(self.leg, Leg::Tcp(_))
    }

    /// The TCP connection, for its addresses and options.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match &self.leg {
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
        match &self.leg {
            Leg::Tcp(_) | Leg::Proxied(_) => false,
            Leg::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Writes what the system takes at once. Under TLS nothing: there, writing takes a task.
    pub(super) fn try_write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let written = match &self.leg {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream.try_write_vectored(slices)?,
            Leg::Tls(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        if let Some(tap) = &mut self.tap {
            tap.sent(slices, written);
        }
        Ok(written)
    }

    /// Reads what is there at once. Under TLS nothing.
    pub(super) fn try_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = match &self.leg {
            Leg::Tcp(stream) | Leg::Proxied(stream) => stream.try_read(buf)?,
            Leg::Tls(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        if let Some(tap) = &mut self.tap {
            tap.received(buf.get(..read).unwrap_or_default());
        }
        Ok(read)
    }

    /// The TCP connection without its runtime, and its tap; under TLS it cannot be had.
    pub(super) fn into_parts(self) -> io::Result<(std::net::TcpStream, Option<Box<StreamTap>>)> {
        match self.leg {
            Leg::Tcp(stream) | Leg::Proxied(stream) => Ok((stream.into_std()?, self.tap)),
            Leg::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Puts together what [`Self::into_parts`] has given, but for the runtime.
    pub(super) fn from_parts(stream: TcpStream, tap: Option<Box<StreamTap>>) -> Self {
        Self {
            leg: Leg::Tcp(stream),
            tap,
        }
    }
}

impl From<Leg> for Socket {
    fn from(leg: Leg) -> Self {
        Self { leg, tap: None }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Leg::Tcp(stream).into()
    }
}

impl Leg {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) | Self::Proxied(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => {
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

    fn poll_write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) | Self::Proxied(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) | Self::Proxied(stream) => {
                Pin::new(stream).poll_write_vectored(cx, slices)
            }
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) | Self::Proxied(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => {
                ready!(Pin::new(&mut *stream).poll_flush(cx))?;
                Pin::new(stream).poll_shutdown(cx)
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { leg, tap } = &mut *self;
        let Some(tap) = tap else {
            return leg.poll_read(cx, buf);
        };
        tap.release();
        let before = buf.filled().len();
        ready!(leg.poll_read(cx, buf))?;
        match buf.filled().get(before..).unwrap_or_default() {
            [] => tap.ended(Direction::Inbound),
            read => tap.received(read),
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { leg, tap } = &mut *self;
        let written = ready!(leg.poll_write(cx, buf))?;
        if let Some(tap) = tap {
            tap.sent(&[IoSlice::new(buf)], written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { leg, tap } = &mut *self;
        let written = ready!(leg.poll_write_vectored(cx, slices))?;
        if let Some(tap) = tap {
            tap.sent(slices, written);
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.leg {
            Leg::Tcp(_) | Leg::Proxied(_) => Poll::Ready(Ok(())),
            Leg::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { leg, tap } = &mut *self;
        ready!(leg.poll_shutdown(cx))?;
        if let Some(tap) = tap {
            tap.ended(Direction::Outbound);
        }
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket")
            .field("tcp", self.tcp())
            .field("tls", &matches!(self.leg, Leg::Tls(_)))
            .field("proxied", &self.is_proxied())
            .finish()
    }
}
