//! The socket.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    ops::AddAssign,
    task::{Context, Poll, ready},
};

use quinn_udp::{Transmit, UdpSocketState};
use socket2::{SockRef, Type};
use tracing::debug;

use super::{RecvBatch, SendBatch, batch::RUN_DATAGRAMS, ready::Socket};
use crate::{
    socket::{BindError, Dscp, PortSharing, bound, enlarge_receive_buffer, set_dscp},
    trace::{DatagramTap, Direction, Tap},
};

/// Errors in a row after which a socket is reported broken instead of asked again.
const ERRORS_IN_A_ROW: usize = 64;

/// Whether the system reads as many datagrams as there are buffers, if there are so many.
const READS_MANY: bool = cfg!(any(target_os = "linux", target_os = "android"));

/// Receive buffer of a client in bytes: a window of 1 MiB with the system's bookkeeping for each packet.
const CLIENT_RECV_BUFFER: usize = 2 << 20;

/// How UDP sockets are set up.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct DatagramOptions {
    /// SO_RCVBUF in bytes; the operating system caps it, unless the process may do more (SO_RCVBUFFORCE). Servers want
    /// megabytes.
    pub recv_buffer: Option<usize>,
    /// SO_SNDBUF in bytes; the operating system caps it.
    pub send_buffer: Option<usize>,
    /// Whether several sockets have the address.
    pub sharing: PortSharing,
    /// Outer mark. Other systems than Linux send the datagrams of a marked socket one by one and, on a wildcard address, from
    /// the address that the system chooses: quinn-udp writes the traffic class of each packet itself, and only its ECN part.
    pub dscp: Option<Dscp>,
    /// Where the socket tells what goes through it.
    pub tap: Option<Tap>,
}

impl DatagramOptions {
    /// A receive buffer that takes the window of an inner TCP connection at once: with the system's usual 208 KiB a fast
    /// sender loses the tail of its first windows, and a loss costs inner TCP up to a second.
    #[must_use]
    pub fn client() -> Self {
        Self {
            recv_buffer: Some(CLIENT_RECV_BUFFER),
            ..Self::default()
        }
    }
}

/// Counters since the start, in datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DatagramStats {
    /// Received.
    pub received: u64,
    /// Handed to the operating system.
    pub sent: u64,
    /// Not sent: longer than the path or the interface takes.
    pub too_big: u64,
    /// Not sent, for other reasons.
    pub send_errors: u64,
    /// Errors reported when receiving: mostly ICMP answers to what was sent.
    pub recv_errors: u64,
    /// Of all errors, those that say "nobody listens there" (ECONNREFUSED). Anyone can forge one.
    pub refused: u64,
}

impl AddAssign for DatagramStats {
    /// The counters of several sockets in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            received,
            sent,
            too_big,
            send_errors,
            recv_errors,
            refused,
        } = other;
        self.received += received;
        self.sent += sent;
        self.too_big += too_big;
        self.send_errors += send_errors;
        self.recv_errors += recv_errors;
        self.refused += refused;
    }
}

/// A UDP socket within a tokio runtime.
pub struct DatagramSocket {
    socket: Socket,
    state: UdpSocketState,
    local: SocketAddr,
    /// Set for connected sockets.
    peer: Option<SocketAddr>,
    marked: bool,
    stats: DatagramStats,
    tap: Option<Box<DatagramTap>>,
}

impl DatagramSocket {
    /// Opens a port for many peers. IPv6 sockets take IPv6 only.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn bind(address: SocketAddr, options: &DatagramOptions) -> Result<Self, BindError> {
        Self::open(address, None, options).map_err(|e| BindError::new(address, e))
    }

    /// Opens a socket from `local` (or any address) to one peer; others are not heard.
    ///
    /// # Errors
    /// The local address cannot be used, or there is no route to the peer.
    pub fn connect(
        peer: SocketAddr,
        local: Option<SocketAddr>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let any: IpAddr = match peer {
            SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        let local = local.unwrap_or_else(|| SocketAddr::new(any, 0));
        Self::open(local, Some(peer), options)
    }

    fn open(
        local: SocketAddr,
        peer: Option<SocketAddr>,
        options: &DatagramOptions,
    ) -> io::Result<Self> {
        let socket = bound(Type::DGRAM, local, options.sharing)?;
        if let Some(size) = options.recv_buffer {
            enlarge_receive_buffer(&socket, size)?;
        }
        if let Some(size) = options.send_buffer {
            socket.set_send_buffer_size(size)?;
        }
        if let Some(dscp) = options.dscp {
            set_dscp(&SockRef::from(&socket), local, dscp)?;
        }
        if let Some(peer) = peer {
            socket.connect(&peer.into())?;
        }
        // Sets DF, GRO, and the reporting of local addresses.
        let state = UdpSocketState::new((&socket).into())?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        tell_less(&socket, local)?;
        if state.may_fragment() {
            debug!(%local, "this system may fragment outer packets");
        }
        let socket = Socket::new(socket.into())?;
        let local = socket.local_addr()?;
        let tap = options.tap.as_ref();
        Ok(Self {
            tap: tap.map(|tap| Box::new(DatagramTap::new(tap, local))),
            local,
            socket,
            state,
            peer,
            marked: options.dscp.is_some(),
            stats: DatagramStats::default(),
        })
    }

    /// Our address, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The only peer, for connected sockets.
    #[must_use]
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// The receive buffer that was got, in bytes, which include the system's own book-keeping of each packet; 0 if the system does
    /// not tell.
    #[must_use]
    pub fn receive_buffer(&self) -> usize {
        SockRef::from(&self.socket)
            .recv_buffer_size()
            .unwrap_or_default()
    }

    /// For options.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Counters since the start.
    #[must_use]
    pub fn stats(&self) -> DatagramStats {
        self.stats
    }

    /// Marks what is sent from now on; see [`DatagramOptions::dscp`].
    ///
    /// # Errors
    /// The operating system does not allow it.
    pub fn set_dscp(&mut self, dscp: Dscp) -> io::Result<()> {
        set_dscp(&SockRef::from(&self.socket), self.local, dscp)?;
        self.marked = dscp != Dscp::default();
        Ok(())
    }

    /// Fills `batch` anew with what has arrived and returns the number of datagrams, never 0.
    ///
    /// # Errors
    /// Only if the socket itself is broken: nothing but errors, many times in a row.
    pub fn poll_recv(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut RecvBatch,
    ) -> Poll<io::Result<usize>> {
        batch.clear();
        if let Some(tap) = &mut self.tap {
            tap.release();
        }
        let mut errors = 0;
        loop {
            ready!(self.socket.poll_recv_ready(cx))?;
            let mut drained = None;
            let received = self.socket.try_recv(|socket| {
                let state = &self.state;
                let count =
                    batch.fill(|buffers, metas| state.recv(socket.into(), buffers, metas))?;
                if READS_MANY && !batch.is_full() {
                    // There was no more: to be told so by another call would cost as much as a packet. What comes from
                    // now on makes the socket ready anew.
                    drained = Some(count);
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(count)
            });
            let received = drained.map_or(received, Ok);
            match received {
                // Only empty datagrams; they count as noise.
                Ok(0) => {}
                Ok(count) => {
                    self.stats.received += u64::try_from(count).unwrap_or(u64::MAX);
                    self.tell_received(batch);
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    self.stats.recv_errors += 1;
                    self.note(&error);
                    errors += 1;
                    if errors == ERRORS_IN_A_ROW {
                        return Poll::Ready(Err(error));
                    }
                }
            }
        }
    }

    /// Sends what is in `batch`, from the front. Ready when it is empty; datagrams that cannot be sent are
    /// dropped and counted. `Pending` registers `cx` for writing and leaves the rest in `batch`, where it may also be
    /// cleared: with UDP that is as good as sending it.
    ///
    /// # Errors
    /// The socket takes no more, and cannot be waited for: no file descriptor is left to watch it with, or the runtime
    /// shuts down.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        batch: &mut SendBatch,
    ) -> Poll<io::Result<()>> {
        // Datagrams at the front that go one by one: all of them where the system cannot segment, or those of a run that it
        // has refused as a whole.
        let segments = self.state.max_gso_segments() >= RUN_DATAGRAMS;
        let mut singles = if segments { 0 } else { usize::MAX };
        let mut retried = false;
        while !batch.is_empty() {
            let way = Way {
                state: &self.state,
                to_peers: self.peer.is_none(),
                marked: self.marked,
            };
            let sent = self.socket.try_send(|socket| {
                if singles > 0 {
                    way.send_one(socket, batch).map(|()| 0)
                } else {
                    way.send_runs(socket, batch)
                }
            });
            match sent {
                Ok(runs) => {
                    self.tell_sent(batch, runs);
                    let count = if runs == 0 {
                        singles = singles.saturating_sub(1);
                        batch.advance_one();
                        1
                    } else {
                        batch.advance(runs)
                    };
                    self.stats.sent += u64::try_from(count).unwrap_or(u64::MAX);
                    retried = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.socket.poll_send_ready(cx))?;
                }
                // A connected socket reports what an earlier datagram met; this one was not tried.
                Err(error) if self.is_refusal(&error) && !retried => {
                    self.note(&error);
                    retried = true;
                }
                Err(_) if singles == 0 => {
                    singles = batch.runs().first().map_or(1, |run| run.count);
                }
                Err(error) => {
                    if quinn_udp::is_msg_size_err(&error) {
                        self.stats.too_big += 1;
                    } else {
                        self.stats.send_errors += 1;
                        self.note(&error);
                    }
                    singles = singles.saturating_sub(1);
                    batch.advance_one();
                    retried = false;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the tap, if there is one.
    #[inline]
    fn tell_received(&mut self, batch: &mut RecvBatch) {
        if let Some(tap) = &mut self.tap
            && tap.is_on()
        {
            for datagram in batch.datagrams() {
                let (local, peer) = (datagram.local_ip, datagram.peer);
                tap.put(Direction::Inbound, local, peer, datagram.bytes);
            }
        }
    }

    /// Tells the tap, if there is one, of the first `runs`, or with none of the first datagram.
    #[inline]
    fn tell_sent(&mut self, batch: &SendBatch, runs: usize) {
        if let Some(tap) = &mut self.tap
            && tap.is_on()
        {
            let first = batch.first().filter(|_| runs == 0);
            for (run, datagram) in batch.datagrams(runs).chain(first) {
                tap.put(Direction::Outbound, run.source, run.peer, datagram);
            }
        }
    }

    fn is_refusal(&self, error: &io::Error) -> bool {
        self.peer.is_some() && error.kind() == io::ErrorKind::ConnectionRefused
    }

    fn note(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.stats.refused += 1;
        }
        debug!(local = %self.local, %error, "datagram socket");
    }
}

/// How a socket sends.
struct Way<'a> {
    state: &'a UdpSocketState,
    /// Not connected.
    to_peers: bool,
    marked: bool,
}

impl Way<'_> {
    /// Sends whole runs from the front; gives their number.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn send_runs(&self, socket: &Socket, batch: &SendBatch) -> io::Result<usize> {
        super::mmsg::send(socket, batch, self.to_peers)
    }

    /// Sends whole runs from the front; gives their number.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn send_runs(&self, socket: &Socket, batch: &SendBatch) -> io::Result<usize> {
        let Some((run, bytes)) = batch.first_run() else {
            return Ok(0);
        };
        let transmit = Transmit {
            destination: run.peer,
            ecn: None,
            contents: bytes,
            segment_size: (run.count > 1).then_some(run.segment),
            src_ip: run.source,
        };
        self.state.try_send(socket.into(), &transmit)?;
        Ok(1)
    }

    /// Sends the first datagram alone.
    fn send_one(&self, socket: &Socket, batch: &SendBatch) -> io::Result<()> {
        let Some((run, bytes)) = batch.first() else {
            return Ok(());
        };
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.marked || run.mark.is_some() {
            return super::mmsg::send_one(socket, &run, bytes, self.to_peers);
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        if self.marked {
            let socket = SockRef::from(socket);
            return if self.to_peers {
                socket.send_to(bytes, &run.peer.into())
            } else {
                socket.send(bytes)
            }
            .map(drop);
        }
        let transmit = Transmit {
            destination: run.peer,
            ecn: None,
            contents: bytes,
            segment_size: None,
            src_ip: run.source,
        };
        self.state.try_send(socket.into(), &transmit)
    }
}

/// Switches off what quinn-udp has the system tell of each datagram and nobody here asks for: it costs the receiver of small
/// packets a tenth of its time. The time stamps, once anybody wants them, even every packet of the host.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn tell_less(socket: &socket2::Socket, local: SocketAddr) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    setsockopt(socket, sockopt::ReceiveTimestampns, &false)?;
    // A socket of one address has no other that could be told.
    let one_address = !local.ip().is_unspecified();
    if local.is_ipv4() {
        socket.set_recv_tos_v4(false)?;
        if one_address {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &false)?;
        }
    } else {
        socket.set_recv_tclass_v6(false)?;
        if one_address {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &false)?;
        }
    }
    Ok(())
}

impl fmt::Debug for DatagramSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSocket")
            .field("local", &self.local)
            .field("peer", &self.peer)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
