//! UDP and DTLS to one server.

use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

use super::TransportError;
use crate::{
    cert::PeerIdentity,
    datagram::{DatagramSocket, DatagramStats, RecvBatch, SendBatch},
    dtls::{
        DtlsError, DtlsEvent, DtlsInfo, DtlsSendError, DtlsSession, RECORD_OVERHEAD,
        asks_for_certificate,
    },
    socket::{Dscp, OuterDscp},
};

/// Buffers of 64 KiB for receiving: enough for a client, of which each is one process.
const SLOTS: usize = 4;

/// Bytes that may wait for the socket. UDP sockets are hardly ever full; what does not fit is refused by the
/// next [`DatagramTransport::poll_send_batch`].
const SEND_LIMIT: usize = 128 * 1024;

/// Longest payload of a UDP datagram over IPv4 (RFC 768, RFC 791).
const MAX_DATAGRAM: usize = 65_507;

/// Timer expiries handled in one go; more would be a session that cannot settle.
const EXPIRIES: usize = 8;

/// "Nobody listens" answers before the server was heard at all after which it is given up: one could be a leftover or
/// forged.
const REFUSALS: u64 = 2;

/// A connected UDP socket, plain or under DTLS.
pub struct DatagramTransport {
    socket: DatagramSocket,
    peer: SocketAddr,
    inbox: RecvBatch,
    /// Next datagram in `inbox`: buffer and part.
    next: (usize, usize),
    /// Length of a unit that [`DatagramTransport::poll_fill`] has put into the caller's buffer.
    ready: Option<usize>,
    outbox: SendBatch,
    marking: OuterDscp,
    dtls: Option<Dtls>,
    /// Something was received.
    heard: bool,
    /// Received datagrams that did not fit the caller's buffer.
    truncated: u64,
    /// Units that fit no datagram.
    too_long: u64,
    ended: bool,
}

struct Dtls {
    session: Box<dyn DtlsSession>,
    info: Option<DtlsInfo>,
    timer: Pin<Box<Sleep>>,
    /// What `timer` is set to, unless it has expired.
    armed: Option<Instant>,
    /// The server asked for our certificate, as far as an unprotected handshake tells.
    certificate_asked: bool,
    scratch: Vec<u8>,
}

impl DatagramTransport {
    pub(super) fn plain(socket: DatagramSocket, peer: SocketAddr) -> Self {
        Self {
            socket,
            peer,
            inbox: RecvBatch::new(SLOTS),
            next: (0, 0),
            ready: None,
            outbox: SendBatch::new(SEND_LIMIT),
            marking: OuterDscp::Off,
            dtls: None,
            heard: false,
            truncated: 0,
            too_long: 0,
            ended: false,
        }
    }

    /// Runs the handshake of `session` to its end; its deadline is its own.
    pub(super) async fn dtls(
        socket: DatagramSocket,
        peer: SocketAddr,
        session: Box<dyn DtlsSession>,
    ) -> Result<Self, HandshakeError> {
        let mut transport = Self::plain(socket, peer);
        transport.dtls = Some(Dtls {
            session,
            info: None,
            timer: Box::pin(sleep_until(Instant::now().into())),
            armed: None,
            certificate_asked: false,
            scratch: Vec::new(),
        });
        poll_fn(|cx| transport.poll_handshake(cx)).await?;
        Ok(transport)
    }

    /// Data cannot come before the handshake has finished, so nothing is lost by looking at events only.
    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HandshakeError>> {
        loop {
            if let Some(dtls) = &mut self.dtls {
                dtls.session.set_waker(cx.waker());
            }
            if let Err(error) = self.settle(cx) {
                return Poll::Ready(Err(HandshakeError::Dtls {
                    error,
                    certificate_asked: self
                        .dtls
                        .as_ref()
                        .is_some_and(|dtls| dtls.certificate_asked),
                }));
            }
            if self.dtls_info().is_some() {
                return Poll::Ready(Ok(()));
            }
            let input = self.poll_input(cx).map_err(HandshakeError::Io)?;
            if input.is_ready() {
                self.feed();
            }
            if self.socket.stats().refused >= REFUSALS {
                return Poll::Ready(Err(HandshakeError::Refused));
            }
            ready!(input);
        }
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// The server's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// What the DTLS handshake agreed on; `None` on plain UDP.
    #[must_use]
    pub fn dtls_info(&self) -> Option<&DtlsInfo> {
        self.dtls.as_ref()?.info.as_ref()
    }

    /// The server's certificate, under DTLS.
    #[must_use]
    pub fn peer_identity(&self) -> Option<&PeerIdentity> {
        self.dtls_info()?.peer.as_ref()
    }

    /// Whether nobody listens at the server's address: its host said so twice (ICMP), and nothing was received. What
    /// comes later says more than that.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        !self.heard && self.socket.stats().refused >= REFUSALS
    }

    /// Counters of the socket.
    #[must_use]
    pub fn stats(&self) -> DatagramStats {
        self.socket.stats()
    }

    /// Received datagrams that were dropped because the caller's buffer was too short.
    #[must_use]
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// Units that were dropped because they fit no datagram, or no record.
    #[must_use]
    pub fn too_long(&self) -> u64 {
        self.too_long
    }

    /// Marks what is sent from now on.
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn set_outer_dscp(&mut self, marking: OuterDscp) -> io::Result<()> {
        self.marking = marking;
        self.socket
            .set_dscp(marking.of_socket().unwrap_or_default())
    }

    /// Writes the next datagram (under DTLS its plaintext) to the front of `buf` and returns its length; never 0. One
    /// that is longer than `buf` is dropped and counted. Under DTLS this also runs timers and retransmissions, so it must
    /// be polled even by who waits for nothing.
    ///
    /// # Errors
    /// The association has ended, or the socket is broken.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, TransportError>> {
        loop {
            ready!(self.poll_fill(cx, buf))?;
            let len = match &mut self.dtls {
                Some(_) => self.next_opened(buf),
                None => {
                    let datagram = next_datagram(&mut self.inbox, &mut self.next);
                    match datagram.map(|datagram| (buf.get_mut(..datagram.len()), datagram)) {
                        Some((Some(room), datagram)) => {
                            room.copy_from_slice(datagram);
                            Some(datagram.len())
                        }
                        Some((None, _)) => {
                            self.truncated += 1;
                            None
                        }
                        None => None,
                    }
                }
            };
            if let Some(len) = len {
                return Poll::Ready(Ok(len));
            }
        }
    }

    /// Receives a batch, to be taken with [`Self::next_unit`] until there is none: `Ready` says that there may be some. All
    /// system calls of receiving are made here. `buf` holds what is taken under DTLS, and is handed in unchanged there.
    /// Otherwise as [`Self::poll_recv`].
    ///
    /// # Errors
    /// The association has ended, or the socket is broken.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<(), TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Ended));
        }
        let result = ready!(self.poll_fill_inner(cx, buf));
        self.ended |= result.is_err();
        Poll::Ready(result)
    }

    fn poll_fill_inner(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<(), TransportError>> {
        if self.ready.is_some() {
            return Poll::Ready(Ok(()));
        }
        if let Some(dtls) = &mut self.dtls {
            // First of all, so that nothing that becomes ready meanwhile is missed.
            dtls.session.set_waker(cx.waker());
            self.ready = dtls.session.recv(buf);
            if self.ready.is_some() {
                return Poll::Ready(Ok(()));
            }
            if !self.inbox.is_filled(self.next.0) {
                self.settle(cx)?;
            }
        }
        if self.inbox.is_filled(self.next.0) {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_input(cx))?;
        Poll::Ready(Ok(()))
    }

    /// The next unit of the batch that [`Self::poll_fill`] has received; `buf` is the one given there. Makes no system
    /// call.
    pub fn next_unit<'a>(&'a mut self, buf: &'a mut [u8]) -> Option<&'a [u8]> {
        if self.dtls.is_some() {
            let len = self.next_opened(buf)?;
            return buf.get(..len);
        }
        next_datagram(&mut self.inbox, &mut self.next).map(|datagram| &*datagram)
    }

    /// Under DTLS: opens datagrams until one holds a unit. One after the other, so that none waits in the session.
    fn next_opened(&mut self, buf: &mut [u8]) -> Option<usize> {
        if let Some(len) = self.ready.take() {
            return Some(len);
        }
        let dtls = self.dtls.as_mut()?;
        let mut now = None;
        loop {
            if let Some(len) = dtls.session.recv(buf) {
                return Some(len);
            }
            let datagram = next_datagram(&mut self.inbox, &mut self.next)?;
            let now = *now.get_or_insert_with(Instant::now);
            dtls.session.handle_datagram(now, datagram);
        }
    }

    /// Receives a batch.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.socket.poll_recv(cx, &mut self.inbox))?;
        self.next = (0, 0);
        self.heard = true;
        Poll::Ready(Ok(()))
    }

    /// Hands a batch to a session that is not connected yet.
    fn feed(&mut self) {
        let Some(dtls) = &mut self.dtls else {
            return;
        };
        let now = Instant::now();
        while let Some(datagram) = next_datagram(&mut self.inbox, &mut self.next) {
            dtls.certificate_asked |= asks_for_certificate(datagram);
            dtls.session.handle_datagram(now, datagram);
        }
    }

    /// Runs what the DTLS session has to do: timers, events, transmission.
    fn settle(&mut self, cx: &mut Context<'_>) -> Result<(), DtlsError> {
        let Some(dtls) = &mut self.dtls else {
            return Ok(());
        };
        for _ in 0..EXPIRIES {
            let Some(deadline) = dtls.session.poll_timeout() else {
                break;
            };
            if dtls.armed != Some(deadline) {
                dtls.timer.as_mut().reset(deadline.into());
                dtls.armed = Some(deadline);
            }
            if dtls.timer.as_mut().poll(cx).is_pending() {
                break;
            }
            dtls.armed = None;
            dtls.session.handle_timeout(Instant::now());
        }
        let mut ended = None;
        while let Some(event) = dtls.session.poll_event() {
            match event {
                DtlsEvent::Connected(info) => dtls.info = Some(info),
                DtlsEvent::Closed(error) => ended = Some(error),
            }
        }
        self.drain_session(None);
        // A socket that is broken shows when receiving; one that is full wakes us.
        let _sent = self.socket.poll_send(cx, &mut self.outbox);
        ended.map_or(Ok(()), Err)
    }

    /// Moves sealed datagrams to the outbox. What does not fit is lost, as on any network.
    fn drain_session(&mut self, mark: Option<Dscp>) {
        let Some(dtls) = &mut self.dtls else {
            return;
        };
        dtls.scratch.clear();
        while dtls.session.poll_transmit(&mut dtls.scratch).is_some() {
            let _fits = self
                .outbox
                .push_marked(self.peer, None, mark, &dtls.scratch);
            dtls.scratch.clear();
        }
    }

    /// Sends each unit as one datagram, and returns how many were taken (from the front); with UDP "taken" may also
    /// mean "dropped", as the counters tell. `Pending`, with `cx` registered for writing, if none could be.
    ///
    /// # Errors
    /// The association has ended, or the runtime shuts down.
    pub fn poll_send_batch(
        &mut self,
        cx: &mut Context<'_>,
        units: &[IoSlice<'_>],
    ) -> Poll<Result<usize, TransportError>> {
        if self.ended {
            return Poll::Ready(Err(TransportError::Ended));
        }
        if self.socket.poll_send(cx, &mut self.outbox)?.is_pending() {
            return Poll::Pending;
        }
        loop {
            let mut taken = 0;
            for unit in units {
                if unit.len() > MAX_DATAGRAM {
                    self.too_long += 1;
                } else if self.outbox.is_full(unit.len() + RECORD_OVERHEAD) {
                    break;
                } else {
                    self.take(unit)?;
                }
                taken += 1;
            }
            // What the socket does not take now waits in the outbox.
            let sent = self.socket.poll_send(cx, &mut self.outbox)?;
            if taken > 0 || units.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            ready!(sent);
        }
    }

    /// Puts a unit that fits into the outbox, sealed under DTLS.
    fn take(&mut self, unit: &[u8]) -> Result<(), TransportError> {
        let mark = self.marking.of_unit(unit);
        let Some(dtls) = &mut self.dtls else {
            let _fits = self.outbox.push_marked(self.peer, None, mark, unit);
            return Ok(());
        };
        match dtls.session.send(unit) {
            Ok(()) => self.drain_session(mark),
            Err(DtlsSendError::Size(_)) => self.too_long += 1,
            // A backend whose own tasks are behind drops, as a network would.
            Err(DtlsSendError::QueueFull) => {}
            // The reason is an event; receiving reports it.
            Err(DtlsSendError::Closed | DtlsSendError::NotConnected) => {
                return Err(TransportError::Ended);
            }
        }
        Ok(())
    }

    /// Ready when everything taken is with the operating system.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        self.socket
            .poll_send(cx, &mut self.outbox)
            .map_err(Into::into)
    }

    /// Ends the transport: under DTLS the peer is told by close_notify. Ready when that is sent.
    ///
    /// # Errors
    /// The runtime shuts down.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        if !self.ended {
            self.ended = true;
            if let Some(dtls) = &mut self.dtls {
                dtls.session.close(Instant::now());
            }
            self.drain_session(None);
        }
        self.poll_flush(cx)
    }
}

/// Why a DTLS handshake failed.
pub(super) enum HandshakeError {
    Dtls {
        error: DtlsError,
        certificate_asked: bool,
    },
    Refused,
    Io(io::Error),
}

/// Advances `next` over the batch; `None` at its end.
fn next_datagram<'a>(inbox: &'a mut RecvBatch, next: &mut (usize, usize)) -> Option<&'a mut [u8]> {
    while inbox.is_filled(next.0) {
        if inbox.datagram(next.0, next.1).is_some() {
            let at = *next;
            next.1 += 1;
            return inbox.datagram(at.0, at.1);
        }
        *next = (next.0 + 1, 0);
    }
    None
}

impl fmt::Debug for DatagramTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramTransport")
            .field("socket", &self.socket)
            .field("dtls", &self.dtls.as_ref().map(|d| d.session.state()))
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
