//! The one shape.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::timeout;

use super::{DatagramTransport, TransportError, TransportKind};
use crate::{
    cert::PeerIdentity,
    socket::OuterDscp,
    stream::{self, StreamTransport},
};

/// Length of the buffer for [`ClientTransport::poll_recv`] that suits every kind: any datagram fits.
pub const RECV_BUFFER: usize = stream::RECV_BUFFER;

/// A transport to a server, ready for units.
///
/// One task drives it: it polls [`poll_recv`](Self::poll_recv) always (record layers run their timers there) and sends
/// with [`poll_send_batch`](Self::poll_send_batch) followed by [`poll_flush`](Self::poll_flush).
#[derive(Debug)]
#[non_exhaustive]
#[allow(clippy::large_enum_variant, reason = "a client has one or two of them")]
pub enum ClientTransport {
    /// TCP or TLS.
    Stream(StreamTransport),
    /// UDP or DTLS.
    Datagram(Box<DatagramTransport>),
}

/// What [`ClientTransport::poll_recv_batch`] gives.
#[derive(Debug)]
pub enum Received<'a> {
    /// Some bytes of a stream.
    Bytes(&'a [u8]),
    /// Datagrams, under DTLS their plaintext.
    Units(Units<'a>),
}

/// A batch of received datagrams. What is not taken comes with the next batch.
#[derive(Debug)]
pub struct Units<'a> {
    datagram: &'a mut DatagramTransport,
    buf: &'a mut [u8],
}

impl Units<'_> {
    /// The next one.
    pub fn take_next(&mut self) -> Option<&[u8]> {
        self.datagram.next_unit(self.buf)
    }
}

impl ClientTransport {
    /// Which of the four it is.
    #[must_use]
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::Stream(stream) if stream.tls_info().is_some() => TransportKind::Tls,
            Self::Stream(_) => TransportKind::Tcp,
            Self::Datagram(datagram) if datagram.dtls_info().is_some() => TransportKind::Dtls,
            Self::Datagram(_) => TransportKind::Udp,
        }
    }

    /// Our outer address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Stream(stream) => stream.local_addr(),
            Self::Datagram(datagram) => datagram.local_addr(),
        }
    }

    /// Whether it leads through a proxy, so that [`Self::peer_addr`] is not the server's.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.is_proxied(),
            Self::Datagram(_) => false,
        }
    }

    /// The server's outer address; the proxy's, if there is one.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        match self {
            Self::Stream(stream) => stream.peer_addr(),
            Self::Datagram(datagram) => datagram.peer_addr(),
        }
    }

    /// The server's certificate, on protected transports.
    #[must_use]
    pub fn peer_identity(&self) -> Option<&PeerIdentity> {
        match self {
            Self::Stream(stream) => stream.peer_identity().map(AsRef::as_ref),
            Self::Datagram(datagram) => datagram.peer_identity(),
        }
    }

    /// Whether the server's host says that nobody listens there, though the transport is open: only plain UDP, which
    /// opens without a word from the server, and only until the server is heard. See
    /// [`DatagramTransport::is_refused`].
    #[must_use]
    pub fn is_refused(&self) -> bool {
        match self {
            Self::Stream(_) => false,
            Self::Datagram(datagram) => datagram.is_refused(),
        }
    }

    /// Marks what is sent from now on (spec 7, *DSCP*).
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn set_outer_dscp(&mut self, marking: OuterDscp) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.set_dscp(marking.of_socket().unwrap_or_default()),
            Self::Datagram(datagram) => datagram.set_outer_dscp(marking),
        }
    }

    /// Writes what has arrived to the front of `buf` ([`RECV_BUFFER`] bytes) and returns its length, never 0: some
    /// bytes of a stream, or exactly one datagram.
    ///
    /// # Errors
    /// How the transport ended.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, TransportError>> {
        match self {
            Self::Stream(stream) => stream.poll_recv(cx, buf).map_err(Into::into),
            Self::Datagram(datagram) => datagram.poll_recv(cx, buf),
        }
    }

    /// Receives as much as one call gives: some bytes of a stream, at the front of `buf` ([`RECV_BUFFER`] bytes), or a batch of
    /// datagrams, which are then taken one by one without further system calls.
    ///
    /// # Errors
    /// How the transport ended.
    pub fn poll_recv_batch<'a>(
        &'a mut self,
        cx: &mut Context<'_>,
        buf: &'a mut [u8],
    ) -> Poll<Result<Received<'a>, TransportError>> {
        match self {
            Self::Stream(stream) => {
                let len = ready!(stream.poll_recv(cx, buf))?;
                let bytes = buf.get(..len).unwrap_or_default();
                Poll::Ready(Ok(Received::Bytes(bytes)))
            }
            Self::Datagram(datagram) => {
                ready!(datagram.poll_fill(cx, buf))?;
                Poll::Ready(Ok(Received::Units(Units { datagram, buf })))
            }
        }
    }

    /// Takes whole units from the front of `units` and returns how many: all of a turn on a stream become one vectored
    /// write, or one record under TLS; on datagram transports each becomes one datagram. `Pending`, with `cx` registered
    /// for writing, if there is no room; on a stream only control messages wait for that, as packets are queued by their
    /// class and dropped by its rules ([`UnitClass`](crate::stream::UnitClass)).
    ///
    /// What was taken leaves at the latest with [`Self::poll_flush`].
    ///
    /// # Errors
    /// How the transport ended.
    pub fn poll_send_batch(
        &mut self,
        cx: &mut Context<'_>,
        units: &[IoSlice<'_>],
    ) -> Poll<Result<usize, TransportError>> {
        let stream = match self {
            Self::Datagram(datagram) => return datagram.poll_send_batch(cx, units),
            Self::Stream(stream) => stream,
        };
        loop {
            let taken = stream.send_vectored(units)?;
            // Flushing makes room, or registers for it.
            let flushed = stream.poll_flush(cx)?;
            if taken > 0 || units.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            ready!(flushed);
        }
    }

    /// Ready when everything taken is with the operating system; `Pending` registers `cx` for writing.
    ///
    /// # Errors
    /// How the transport ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Stream(stream) => stream.poll_flush(cx).map_err(Into::into),
            Self::Datagram(datagram) => datagram.poll_flush(cx),
        }
    }

    /// Ends our direction in order: what was taken, then close_notify, then FIN. The deadline is the caller's.
    ///
    /// # Errors
    /// The transport failed before all was sent.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        match self {
            Self::Stream(stream) => stream.poll_shutdown(cx).map_err(Into::into),
            Self::Datagram(datagram) => datagram.poll_shutdown(cx),
        }
    }

    /// [`Self::poll_recv`] as a future; dropping it loses nothing.
    ///
    /// # Errors
    /// As there.
    pub async fn recv(&mut self, buf: &mut [u8]) -> Result<usize, TransportError> {
        poll_fn(|cx| self.poll_recv(cx, buf)).await
    }

    /// Sends all units and waits until the operating system has them.
    ///
    /// # Errors
    /// How the transport ended.
    pub async fn send(&mut self, units: &[IoSlice<'_>]) -> Result<(), TransportError> {
        let mut left = units;
        while !left.is_empty() {
            let taken = poll_fn(|cx| self.poll_send_batch(cx, left)).await?;
            left = left.get(taken..).unwrap_or_default();
        }
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ends the transport in order, within `limit`; afterwards it is dropped in any case.
    pub async fn close(self, limit: Duration) {
        match self {
            Self::Stream(stream) => stream.close(limit).await,
            Self::Datagram(mut datagram) => {
                drop(timeout(limit, poll_fn(|cx| datagram.poll_shutdown(cx))).await);
            }
        }
    }
}
