//! The one seam between the applications and a network: where sockets are opened.
//!
//! A [`Tunnel`](tsc_tapi::Tunnel) opens them inside itself, [`HostNet`] on the host (`--no-tunnel`, for comparison
//! and for tests). Everything else in this crate is written against these traits.

mod host;
mod probe;
mod seats;
mod tunnel;
mod tunnels;

use std::{
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tsc_tapi::{Encryption, Redundancy, TunnelTransport};

pub use host::HostNet;
pub(crate) use probe::Prober;
pub(crate) use seats::Seats;
pub use tunnel::{ConfigSummary, NotificationSummary};
pub use tunnels::{RenewableTunnel, Tunnels};

/// Why there is no network in place of one that is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenewError {
    /// There is only this one, or what ended it would end another as well.
    #[error("there is no other network")]
    Final,
    /// None came up in time, or it is pointless to go on trying.
    #[error("no new tunnel came up: {0}")]
    Failed(String),
}

/// A network to open sockets in.
pub trait InnerNet: Sized + Send + Sync + 'static {
    /// Its UDP sockets.
    type Socket: InnerSocket;
    /// Its TCP connections.
    type Stream: InnerStream;
    /// Its TCP listeners.
    type Listener: InnerListener<Stream = Self::Stream>;

    /// Opens a UDP socket. Port 0 lets the network choose.
    fn bind_udp(&self, local: SocketAddr) -> impl Future<Output = io::Result<Self::Socket>> + Send;

    /// Opens a TCP connection.
    fn connect_tcp(
        &self,
        peer: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens for TCP connections. Port 0 lets the network choose.
    fn bind_tcp(
        &self,
        local: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// Asks the network to treat the packets of one of its sockets so ([`InnerSocket::set_services`]), and waits until it does, for
    /// `patience` at most: whether it does by then. Nobody may wait, and the answer is no, where nothing is asked for, or where
    /// the network does not tell.
    ///
    /// # Errors
    ///
    /// Those of [`InnerSocket::set_services`].
    fn serve(
        &self,
        socket: &Self::Socket,
        services: MediaServices,
        _patience: Duration,
    ) -> impl Future<Output = io::Result<bool>> + Send {
        async move { socket.set_services(services).map(|()| false) }
    }

    /// Our addresses in it, preferred ones first; at least one.
    fn addresses(&self) -> Vec<IpAddr>;

    /// SIP servers that the network names.
    fn sip_servers(&self) -> Vec<SocketAddr>;

    /// Waits until the network is gone for good; says why.
    fn lost(&self) -> impl Future<Output = String> + Send;

    /// Opens another network in place of this one, which is gone: with other addresses, perhaps. It takes as long as the
    /// implementation's own limit at most; dropping the future gives up.
    ///
    /// # Errors
    ///
    /// See [`RenewError`]. Unless an implementation says otherwise there is no other network.
    fn renew(&self) -> impl Future<Output = Result<Arc<Self>, RenewError>> + Send {
        async { Err(RenewError::Final) }
    }
}

/// A TCP connection: whatever reads and writes as tokio's does.
pub trait InnerStream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> InnerStream for S {}

/// A connection of any network.
pub type BoxStream = Box<dyn InnerStream>;

/// A TCP listener. Shaped like tokio's.
pub trait InnerListener: Send + Sync + 'static {
    /// Its connections.
    type Stream: InnerStream;

    /// The next connection, and where it comes from. Cancel-safe.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>> + Send;

    /// Its address.
    ///
    /// # Errors
    ///
    /// What the network says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A UDP socket. Shaped like tokio's.
pub trait InnerSocket: Send + Sync + 'static {
    /// Sets the one peer that datagrams are received from. Only such a socket learns by an error of
    /// [`recv_from`](Self::recv_from) that its peer cannot be reached (ICMP).
    fn connect(&self, peer: SocketAddr) -> impl Future<Output = io::Result<()>> + Send;

    /// Sends one datagram.
    fn send_to(
        &self,
        payload: &[u8],
        to: SocketAddr,
    ) -> impl Future<Output = io::Result<usize>> + Send;

    /// Receives one datagram. Cancel-safe.
    fn recv_from(
        &self,
        buffer: &mut [u8],
    ) -> impl Future<Output = io::Result<(usize, SocketAddr)>> + Send;

    /// Its address.
    ///
    /// # Errors
    ///
    /// What the network says.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Asks the network to treat the socket's packets so. One that cannot does nothing.
    ///
    /// # Errors
    ///
    /// What the network says.
    fn set_services(&self, _services: MediaServices) -> io::Result<()> {
        Ok(())
    }

    /// Packets of the socket that went to the other side, and came from it, without the tunnel server.
    fn direct(&self) -> DirectPackets {
        DirectPackets::default()
    }

    /// Has the socket's packets encrypted, and waits until they are: its address is another one then. Whether they are; a network
    /// that cannot does nothing.
    ///
    /// # Errors
    ///
    /// They must be, and are not.
    fn encrypt(&self, _level: Encryption) -> impl Future<Output = io::Result<bool>> + Send {
        std::future::ready(Ok(false))
    }
}

/// Has both sockets of a stream encrypted. Whether they are.
///
/// # Errors
///
/// They must be, and are not.
pub(crate) async fn encrypt_both<S: InnerSocket>(
    (rtp, rtcp): &(S, S),
    level: Encryption,
) -> io::Result<bool> {
    Ok(rtp.encrypt(level).await? && rtcp.encrypt(level).await?)
}

/// What is asked of the tunnel for RTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaServices {
    /// How it is protected against loss.
    pub redundancy: Redundancy,
    /// Which tunnel carries it, where there are two.
    pub transport: TunnelTransport,
    /// Whether it is encrypted in a tunnel that is not.
    pub encryption: Encryption,
    /// Whether it is to reach the other side without the tunnel server, by a peer tunnel.
    pub peer: bool,
}

impl MediaServices {
    /// What is in force without another address.
    pub(crate) fn without_encryption(self) -> Self {
        Self {
            encryption: Encryption::Default,
            ..self
        }
    }

    /// What is asked of the tunnel for RTCP: it has to go the way of its RTP, or its round trip is that of another way.
    pub(crate) fn rtcp(self) -> Self {
        Self {
            peer: self.peer,
            ..Self::default()
        }
    }
}

/// Packets that went without the tunnel server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DirectPackets {
    /// To the other side.
    pub sent: u64,
    /// From the other side.
    pub received: u64,
}

impl std::ops::AddAssign for DirectPackets {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.received += more.received;
    }
}

/// Our address in a network for talking to `peer`: the first of its family.
pub(crate) fn address_for<N: InnerNet>(net: &N, peer: Option<SocketAddr>) -> Option<IpAddr> {
    let fits = |ip: &IpAddr| peer.is_none_or(|peer| peer.is_ipv4() == ip.is_ipv4());
    net.addresses().into_iter().find(fits)
}

/// Opens a UDP socket and a TCP listener with the same port number, as SIP wants it (RFC 3261 18.2.1).
///
/// # Errors
///
/// What binding says; if the network is to choose the port, when no free pair was found.
pub async fn bind_both<N: InnerNet>(
    net: &N,
    local: SocketAddr,
) -> io::Result<(N::Socket, N::Listener)> {
    // Sockets whose number is taken for TCP are kept until the end, so that it is not offered again.
    let mut taken = Vec::new();
    loop {
        let socket = net.bind_udp(local).await?;
        match net.bind_tcp(socket.local_addr()?).await {
            Ok(listener) => return Ok((socket, listener)),
            Err(error) if local.port() != 0 || taken.len() == PAIR_ATTEMPTS => return Err(error),
            Err(_) => taken.push(socket),
        }
    }
}

/// Pairs of ports that are tried for RTP and RTCP, or for UDP and TCP.
const PAIR_ATTEMPTS: usize = 64;

/// Opens the two sockets of a stream: RTP on an even port, RTCP on the next (RFC 3550 11).
///
/// # Errors
///
/// What binding says, when no pair of free ports was found.
pub async fn bind_media_pair<N: InnerNet>(
    net: &N,
    ip: IpAddr,
) -> io::Result<(N::Socket, N::Socket)> {
    // Odd sockets are kept until the end, so that the network does not offer the same port again.
    let mut odd = Vec::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..PAIR_ATTEMPTS {
        let rtp = net.bind_udp(SocketAddr::new(ip, 0)).await?;
        let port = rtp.local_addr()?.port();
        if port % 2 == 0 {
            match net.bind_udp(SocketAddr::new(ip, port + 1)).await {
                Ok(rtcp) => return Ok((rtp, rtcp)),
                Err(error) => last_error = error,
            }
        }
        odd.push(rtp);
    }
    Err(last_error)
}

/// Asks for the services of a stream, for both its sockets.
pub(crate) fn set_services<S: InnerSocket>(
    (rtp, rtcp): &(S, S),
    services: MediaServices,
) -> io::Result<()> {
    rtp.set_services(services)?;
    rtcp.set_services(services.rtcp())
}

/// Whether a socket is of no more use after this error. Others (a peer's port that is closed) pass.
pub(crate) fn is_fatal(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock
    )
}

/// Whether an error says that the peer cannot be reached.
pub(crate) fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Whether an error says that a datagram was not sent, and that it would be no different another time: the stack refuses the
/// address, or the network the peer. Others pass (a full queue), or concern the socket as a whole.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    is_unreachable(error)
        || matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::InvalidInput
                | io::ErrorKind::NetworkDown
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::Unsupported
        )
}

/// Sockets of a network that goes away may close a moment before the network says why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whether a network is gone by now.
pub(crate) async fn is_gone<N: InnerNet>(net: &N) -> bool {
    why_gone(net).await.is_some()
}

/// Why a network is gone whose sockets were closed.
pub(crate) async fn why_gone<N: InnerNet>(net: &N) -> Option<String> {
    tokio::time::timeout(LAST_WORDS, net.lost()).await.ok()
}
