//! One connection.

use std::{
    cell::RefCell,
    fmt,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use rustls_pki_types::ServerName;
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    QueueDrops, QueueError, Socket, StreamError, UnitClass, handshake,
    queue::{QueueLimits, SendQueue},
};
use crate::{
    cert::{ClientSecurity, PeerIdentity, ServerSecurity},
    socket::{Dscp, MIN_SEND_LIMIT, StreamOptions, enlarge_receive_buffer, set_dscp},
    tls::{self, Role, TlsInfo, TlsSession},
    trace::{ConnectionSecrets, Direction, Tap},
};

/// Least length of the buffer lent to [`StreamTransport::poll_recv`]: two TLS records of the greatest size, one sealed,
/// one open.
pub const MIN_RECV_BUFFER: usize = tls::MIN_RECV_BUFFER;

/// A good length for that buffer: several records are opened for one read.
pub const RECV_BUFFER: usize = 64 * 1024;

/// What is sealed at a time: a TLS record of the greatest size. It cannot be overtaken any more.
const MAX_RECORD: usize = 16 * 1024;

/// What is offered to the socket at a time without TLS. What it does not take stays in the queue.
const MAX_WRITE: usize = 64 * 1024;

/// The receive buffer of a connection whose limit was lifted, as far as the system allows it.
const LIFTED: usize = 4 << 20;

/// Answers of the TLS protocol that may wait for the socket while more is read.
const MAX_ANSWERS: usize = 128 * 1024;

/// A TCP connection, plain or under TLS. See the module.
///
/// Dropping it closes the connection at once; data not yet acknowledged may be lost. [`Self::poll_shutdown`] or
/// [`Self::close`] end it in order.
pub struct StreamTransport {
    pub(super) socket: Socket,
    pub(super) state: State,
}

/// All of a connection but its socket.
pub(super) struct State {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    tls: Option<Box<Tls>>,
    /// Units that wait for the socket; under TLS they are sealed once it takes them. `None` when there are none.
    queue: Option<Box<SendQueue>>,
    limits: QueueLimits,
    /// What queues that are gone have dropped.
    drops: QueueDrops,
    /// What must go next: the rest of a unit, or of a record, that was begun; answers of TLS. At most a record of
    /// [`MAX_RECORD`] and [`MAX_ANSWERS`].
    wire: BytesMut,
    sending: Sending,
    /// Set by the first final error; then nothing is read or sent any more.
    ended: bool,
    /// Set by [`StreamTransport::limit_unread`].
    unread: Option<u32>,
}

struct Tls {
    session: TlsSession,
    info: TlsInfo,
    /// Kept by a capture for as long as the connection lives.
    _secrets: Option<Arc<ConnectionSecrets>>,
}

/// Our direction of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// Nothing more is taken; what waits goes out.
    Closing,
    /// So does close_notify, then FIN.
    Ending,
    Closed,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Where records are put together; one for all streams of a thread.
#[derive(Default)]
struct Scratch {
    plain: Vec<u8>,
    sealed: BytesMut,
}

impl StreamTransport {
    /// Takes over a connected socket as it is, without TLS.
    ///
    /// # Errors
    /// The socket's options cannot be set, which includes a connection that is already gone.
    pub fn plain(socket: impl Into<Socket>, options: &StreamOptions) -> io::Result<Self> {
        let mut socket = socket.into();
        options.apply(socket.tcp())?;
        let [local, peer] = [socket.local_addr()?, socket.peer_addr()?];
        if let Some(tap) = &options.tap {
            let opener = if options.accepted {
                Direction::Inbound
            } else {
                Direction::Outbound
            };
            socket.tell(tap, opener, [local, peer]);
        }
        Ok(Self {
            state: State {
                local,
                peer,
                tls: None,
                queue: None,
                limits: QueueLimits {
                    bytes: options.send_limit.max(MIN_SEND_LIMIT),
                    time: options.media_time,
                },
                drops: QueueDrops::default(),
                wire: BytesMut::new(),
                sending: Sending::Open,
                ended: false,
                unread: None,
            },
            socket,
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
        socket: impl Into<Socket>,
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
        socket: impl Into<Socket>,
        security: &ServerSecurity,
        options: &StreamOptions,
    ) -> Result<Self, StreamError> {
        Self::tls(socket, &Role::Server(security), options).await
    }

    async fn tls(
        socket: impl Into<Socket>,
        role: &Role<'_>,
        options: &StreamOptions,
    ) -> Result<Self, StreamError> {
        let mut stream = Self::plain(socket, options)?;
        let secrets = options.tap.as_ref().and_then(Tap::secrets);
        let session = handshake::handshake(&mut stream.socket, role, secrets.as_ref()).await?;
        stream.state.tls = Some(Box::new(Tls {
            info: session.info(),
            session,
            _secrets: secrets,
        }));
        Ok(stream)
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.state.local
    }

    /// The peer's address; the proxy's, if there is one.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.state.peer
    }

    /// Whether the connection leads through a proxy.
    #[must_use]
    pub const fn is_proxied(&self) -> bool {
        self.socket.is_proxied()
    }

    /// What the TLS handshake agreed on; `None` for a plain connection.
    #[must_use]
    pub fn tls_info(&self) -> Option<&TlsInfo> {
        self.state.tls.as_ref().map(|tls| &tls.info)
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
        set_dscp(&SockRef::from(self.socket.tcp()), self.state.local, dscp)
    }

    /// Lets some `bytes` at most wait in the system to be read here, so that the peer holds back what is beyond. `None`: as many
    /// as the system allows. Best called before reading: what the peer was allowed to send before, and does not fit, it has to
    /// send again.
    ///
    /// A connection that never had a limit is left alone; one that had one is not tuned by the system any more. Without a limit
    /// it has 4 MiB then; where the process lacks CAP_NET_ADMIN, net.core.rmem_max at most (socket(7), SO_RCVBUF). A system call
    /// if it is not the limit that it has.
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn limit_unread(&mut self, bytes: Option<u32>) -> io::Result<()> {
        if self.state.unread != bytes {
            let socket = SockRef::from(self.socket.tcp());
            match bytes {
                Some(bytes) => socket.set_recv_buffer_size(bytes as usize)?,
                None => enlarge_receive_buffer(&socket, LIFTED)?,
            }
            self.state.unread = bytes;
        }
        Ok(())
    }

    /// What [`Self::limit_unread`] has set.
    #[must_use]
    pub const fn unread_limit(&self) -> Option<u32> {
        self.state.unread
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
        if self.state.ended {
            return Poll::Ready(Err(StreamError::Ended));
        }
        if buf.len() < MIN_RECV_BUFFER {
            return Poll::Ready(Err(StreamError::BufferTooSmall { len: buf.len() }));
        }
        let result = if self.state.tls.is_some() {
            ready!(self.poll_recv_tls(cx, buf))
        } else {
            match ready!(poll_read(&mut self.socket, cx, buf)) {
                Ok(0) => Err(StreamError::Closed),
                Ok(len) => Ok(len),
                Err(error) => Err(error.into()),
            }
        };
        Poll::Ready(self.state.note(result))
    }

    fn poll_recv_tls(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<Result<usize, StreamError>> {
        let State { tls, wire, .. } = &mut self.state;
        let Some(tls) = tls else {
            return Poll::Ready(Err(StreamError::Ended));
        };
        loop {
            if !wire.is_empty() {
                let flushed = poll_write_all(&mut self.socket, cx, wire)?;
                // A peer that makes us answer must read the answers.
                if flushed.is_pending() && wire.len() > MAX_ANSWERS {
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
            let (plain, sealed) = buf.split_at_mut(half);
            let result = match tls.session.load_tail(sealed) {
                Some(kept) => {
                    let room = sealed.get_mut(kept..).unwrap_or_default();
                    let read = ready!(poll_read(&mut self.socket, cx, room))?;
                    if read == 0 {
                        return Poll::Ready(Err(StreamError::Truncated));
                    }
                    let input = sealed.get_mut(..kept + read).unwrap_or_default();
                    tls.session.open(input, plain, wire)
                }
                None => {
                    let read = ready!(poll_read(&mut self.socket, cx, plain))?;
                    if read == 0 {
                        return Poll::Ready(Err(StreamError::Truncated));
                    }
                    let input = plain.get(..read).unwrap_or_default();
                    tls.session.open_more(input, wire).map(|()| 0)
                }
            };
            match result {
                Ok(0) => {}
                Ok(len) => return Poll::Ready(Ok(len)),
                Err(error) => {
                    // The alert, as far as the socket takes it without waiting.
                    let _unsent = poll_write_all(&mut self.socket, cx, wire);
                    return Poll::Ready(Err(error.into()));
                }
            }
        }
    }

    /// Takes a unit for sending; [`Self::poll_flush`] sends it, in the order of [`UnitClass`]. Copies it once.
    ///
    /// # Errors
    /// No room in its class, or the stream is over; nothing was taken then. Media is always taken, and older media
    /// dropped if need be: see [`Self::take_drops`].
    pub fn queue(&mut self, unit: &[u8]) -> Result<(), QueueError> {
        self.queue_at(Instant::now(), unit)
    }

    /// [`Self::queue`] at a time that the caller knows.
    ///
    /// # Errors
    /// As there.
    pub fn queue_at(&mut self, now: Instant, unit: &[u8]) -> Result<(), QueueError> {
        let state = &mut self.state;
        if state.ended || state.sending != Sending::Open {
            return Err(QueueError::Ended);
        }
        let queue = state.queue.get_or_insert_with(|| SendQueue::take(now));
        queue.push(now, UnitClass::of(unit), unit, &state.limits)
    }

    /// Takes units for sending, whole and in order, and returns how many; without TLS and with nothing waiting they go
    /// to the socket in one vectored write, uncopied. Follow up with [`Self::poll_flush`], unless [`Self::unsent`] is 0.
    ///
    /// Fewer than all means that there is no room for a control message. Packets for which there is none are dropped,
    /// as in any network: waiting for one flow would hold up the others. See [`Self::take_drops`].
    ///
    /// # Errors
    /// The stream is over, or a unit is longer than all of its class may be (the units before it were taken only if the
    /// count says so: the error comes when it is the first).
    pub fn send_vectored(&mut self, units: &[IoSlice<'_>]) -> Result<usize, StreamError> {
        if self.state.ended || self.state.sending != Sending::Open {
            return Err(StreamError::Ended);
        }
        let mut taken = 0;
        if self.state.tls.is_none() && self.unsent() == 0 {
            let mut written = match self.socket.try_write_vectored(units) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return self.state.note(Err(error.into())),
            };
            for unit in units {
                if let Some(rest) = written.checked_sub(unit.len()) {
                    written = rest;
                    taken += 1;
                    continue;
                }
                if written > 0 {
                    // Begun, so the rest must follow.
                    let rest = unit.get(written..).unwrap_or_default();
                    self.state.wire.extend_from_slice(rest);
                    taken += 1;
                }
                break;
            }
        }
        let now = Instant::now();
        for unit in units.get(taken..).unwrap_or_default() {
            match self.queue_at(now, unit) {
                Ok(()) => taken += 1,
                Err(QueueError::Full) if UnitClass::of(unit) != UnitClass::Control => {
                    self.state.drops.full += 1;
                    taken += 1;
                }
                Err(QueueError::TooLong { len, limit }) if taken == 0 => {
                    let text = format!("unit of {len} bytes exceeds the output buffer of {limit}");
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, text).into());
                }
                Err(QueueError::Full | QueueError::TooLong { .. } | QueueError::Ended) => break,
            }
        }
        Ok(taken)
    }

    /// Bytes taken and not yet handed to the operating system; those that wait in the TLS leg to a proxy count as one.
    #[must_use]
    pub fn unsent(&self) -> usize {
        let queued = self.state.queue.as_ref().map_or(0, |queue| queue.len());
        let inside = usize::from(self.socket.waits());
        queued
            .saturating_add(self.state.wire.len())
            .saturating_add(inside)
    }

    /// Units that were taken, and dropped since the last call.
    pub fn take_drops(&mut self) -> QueueDrops {
        let mut drops = std::mem::take(&mut self.state.drops);
        if let Some(queue) = &mut self.state.queue {
            drops.add(queue.take_drops());
        }
        drops
    }

    /// Seals and sends what waits. Ready when all of it is with the operating system; `Pending` registers `cx` for
    /// writing. A call with nothing to do costs nothing.
    ///
    /// # Errors
    /// How the stream ended.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.state.ended {
            return Poll::Ready(Err(StreamError::Ended));
        }
        let result = ready!(self.poll_flush_inner(cx));
        Poll::Ready(self.state.note(result))
    }

    fn poll_flush_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let Self { socket, state } = self;
        ready!(poll_write_all(socket, cx, &mut state.wire))?;
        // Only a queue that the socket did not take at once was there before.
        while let Some(queue) = &mut state.queue {
            let room = if state.tls.is_some() {
                MAX_RECORD
            } else {
                MAX_WRITE
            };
            let offer = queue.offer(Instant::now(), room, &state.limits);
            let written = if offer.len() == 0 {
                0
            } else if let Some(tls) = &mut state.tls {
                let slices = queue.slices(&offer);
                // Sealed is as good as sent: records have an order.
                seal_and_write(socket, cx, &mut tls.session, &slices, &mut state.wire)?;
                offer.len()
            } else {
                let slices = queue.slices(&offer);
                ready!(poll_write_slices(socket, cx, &slices))?
            };
            queue.advance(&offer, written, &mut state.wire);
            if queue.is_empty() {
                state.drop_queue();
            } else if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            ready!(poll_write_all(socket, cx, &mut state.wire))?;
        }
        Pin::new(socket).poll_flush(cx).map_err(Into::into)
    }

    /// Ends our direction in order: sends what waits, close_notify under TLS, then FIN. Receiving goes on until the peer
    /// ends its direction too. May be called again; the deadline is the caller's.
    ///
    /// # Errors
    /// The connection failed before everything was sent.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.state.ended || self.state.sending == Sending::Closed {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_shutdown_inner(cx));
        Poll::Ready(self.state.note(result))
    }

    fn poll_shutdown_inner(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if self.state.sending == Sending::Open {
            self.state.sending = Sending::Closing;
        }
        ready!(self.poll_flush_inner(cx))?;
        let State {
            tls, wire, sending, ..
        } = &mut self.state;
        if *sending == Sending::Closing {
            *sending = Sending::Ending;
            if let Some(tls) = tls {
                tls.session.close(wire)?;
            }
        }
        ready!(self.poll_flush_inner(cx))?;
        self.state.sending = Sending::Closed;
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
            if !self.state.ended {
                handshake::linger(&mut self.socket).await;
            }
            Ok::<(), StreamError>(())
        };
        // Over in any case, and nobody is left to tell.
        drop(timeout(limit, orderly).await);
    }
}

impl State {
    /// Remembers a final error.
    fn note<T>(&mut self, result: Result<T, StreamError>) -> Result<T, StreamError> {
        match &result {
            Ok(_) | Err(StreamError::Closed | StreamError::BufferTooSmall { .. }) => {}
            Err(_) => {
                self.ended = true;
                self.drop_queue();
            }
        }
        result
    }

    fn drop_queue(&mut self) {
        if let Some(mut queue) = self.queue.take() {
            self.drops.add(queue.take_drops());
            queue.give_back();
        }
    }
}

impl fmt::Debug for StreamTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamTransport")
            .field("local", &self.state.local)
            .field("peer", &self.state.peer)
            .field("tls", &self.tls_info().map(|info| info.version))
            .field("unsent", &self.unsent())
            .field("sending", &self.state.sending)
            .field("ended", &self.state.ended)
            .finish_non_exhaustive()
    }
}

fn poll_read(socket: &mut Socket, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
    let mut read = ReadBuf::new(buf);
    ready!(Pin::new(socket).poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

/// Writes until `bytes` is empty, then gives its memory back.
fn poll_write_all(
    socket: &mut Socket,
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

/// The one slice that is not empty, if there is only one: it needs no vector.
fn only<'a>(slices: &'a [IoSlice<'_>]) -> Option<&'a [u8]> {
    let mut filled = slices.iter().filter(|slice| !slice.is_empty());
    let first = filled.next()?;
    filled.next().is_none().then_some(first)
}

fn poll_write_slices(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match only(slices) {
        Some(slice) => Pin::new(socket).poll_write(cx, slice),
        None => Pin::new(socket).poll_write_vectored(cx, slices),
    }
}

/// Makes one record of `slices` and writes it; what the socket does not take goes to `wire`, which was empty.
fn seal_and_write(
    socket: &mut Socket,
    cx: &mut Context<'_>,
    session: &mut TlsSession,
    slices: &[IoSlice<'_>],
    wire: &mut BytesMut,
) -> Result<(), StreamError> {
    let sealed = SCRATCH.try_with(|scratch| {
        // Nothing in here seals again.
        let mut scratch = scratch.borrow_mut();
        let Scratch { plain, sealed } = &mut *scratch;
        sealed.clear();
        if let Some(slice) = only(slices) {
            session.seal(slice, sealed)?;
        } else {
            plain.clear();
            slices
                .iter()
                .for_each(|slice| plain.extend_from_slice(slice));
            session.seal(plain, sealed)?;
        }
        let mut written = 0;
        while let Some(rest) = sealed.get(written..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut *socket).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                Poll::Ready(len) => written += len,
                Poll::Pending => {
                    wire.extend_from_slice(rest);
                    break;
                }
            }
        }
        Ok(())
    });
    // A thread that ends sends nothing any more.
    sealed.unwrap_or(Err(StreamError::Ended))
}
