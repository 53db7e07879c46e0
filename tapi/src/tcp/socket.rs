//! Sockets that neither connect nor listen yet.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tsc_csm::client::Encryption;
use tsc_eip::TcpOptions;

use super::{TcpListener, TcpStream, connection::Connection};
use crate::{Tunnel, builder::LONGEST_TIME, encryption::Claim, error::SocketError, shared::Shared};

/// Connections that wait to be accepted at a [`TcpListener`] unless another number is given; tokio's.
pub const DEFAULT_BACKLOG: u32 = 1024;

/// A TCP socket that is being prepared: options, and a local address. Shaped like `tokio::net::TcpSocket`.
///
/// ```no_run
/// use tsc_tapi::{TcpSocket, Tunnel};
///
/// # async fn example(tunnel: &Tunnel) -> std::io::Result<()> {
/// let listener = TcpSocket::new(tunnel).bind("0.0.0.0:5060".parse().unwrap())?.listen(64)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a socket does nothing until it connects or listens"]
pub struct TcpSocket {
    shared: Arc<Shared>,
    local: Option<SocketAddr>,
    options: TcpOptions,
    encryption: Encryption,
}

impl TcpSocket {
    /// A socket of either IP version inside `tunnel`.
    pub fn new(tunnel: &Tunnel) -> Self {
        Self::of(tunnel.shared())
    }

    pub(crate) fn of(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            local: None,
            options: TcpOptions::default(),
            encryption: Encryption::default(),
        }
    }

    /// The address and port of this end: one of the tunnel's addresses or the unspecified one; port 0 lets the stack
    /// choose.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AddrNotAvailable`] if the address is not the tunnel's. A port that is taken is found by
    /// [`TcpSocket::connect`] and [`TcpSocket::listen`].
    pub fn bind(mut self, local: SocketAddr) -> io::Result<Self> {
        let state = self.shared.lock();
        state.check_up()?;
        if !local.ip().is_unspecified() && !state.stack.addresses().contains(&local.ip()) {
            return Err(SocketError::AddressNotAvailable(local).into());
        }
        drop(state);
        self.local = Some(local);
        Ok(self)
    }

    /// Whether small segments are sent at once; see [`TcpStream::set_nodelay`].
    pub const fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// After how much silence the peer is probed; see [`TcpStream::set_keepalive`].
    pub fn keepalive(mut self, silence: Option<Duration>) -> Self {
        self.options.keep_alive = silence.map(keepalive);
        self
    }

    /// How long connecting may take. Default 75 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.options.connect_timeout = timeout.min(LONGEST_TIME);
        self
    }

    /// How long the peer may be silent while something waits for its acknowledgement (RFC 5482). Default 300 s, which
    /// is longer than most tunnels take to be resumed.
    pub fn user_timeout(mut self, timeout: Duration) -> Self {
        self.options.user_timeout = timeout.min(LONGEST_TIME);
        self
    }

    /// Whether the connection is to be encrypted between this host and the server, beside a tunnel that is not (service *DTTE*); as
    /// [`UdpSocket::set_encryption`](crate::UdpSocket::set_encryption), but decided once: the connection begins when it is known
    /// whether there is an encrypted tunnel, and stays where it was begun. One that was begun in an encrypted tunnel ends with
    /// that. Not for listeners: what comes to an address of an encrypted tunnel is encrypted.
    pub const fn encryption(mut self, level: Encryption) -> Self {
        self.encryption = level;
        self
    }

    /// Connects to `peer`. Dropping the future gives up.
    ///
    /// # Errors
    ///
    /// As [`TcpStream::connect`], [`io::ErrorKind::AddrInUse`] if there is a connection between the same addresses
    /// and ports, and [`SocketError::NotEncrypted`] where it must be encrypted and cannot be.
    pub async fn connect(self, peer: SocketAddr) -> io::Result<TcpStream> {
        let mut local = self.local.unwrap_or_else(|| unspecified(peer));
        let claim = if self.encryption.is_wanted() {
            let claim = Claim::new(&self.shared, local, self.encryption)?;
            let limit = self.options.connect_timeout;
            let source = tokio::time::timeout(limit, claim.source()).await;
            local = source.map_err(|_| SocketError::TimedOut)??;
            Some(claim)
        } else {
            None
        };
        let connection = Connection::start(&self.shared, local, peer, self.options, claim)?;
        connection.connected().await?;
        Ok(TcpStream::new(connection))
    }

    /// Listens, with at most `backlog` connections that wait to be accepted (at least one). The options are those of
    /// the connections that come.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`], [`SocketError::NotBound`] without a [`TcpSocket::bind`], and
    /// [`io::ErrorKind::Unsupported`] with a [`TcpSocket::encryption`].
    pub fn listen(self, backlog: u32) -> io::Result<TcpListener> {
        if self.encryption.is_wanted() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let local = self.local.ok_or(SocketError::NotBound)?;
        TcpListener::open(&self.shared, local, backlog.max(1), self.options)
    }
}

/// A probe a second is the most that makes sense.
pub(super) fn keepalive(silence: Duration) -> Duration {
    silence.clamp(Duration::from_secs(1), LONGEST_TIME)
}

const fn unspecified(peer: SocketAddr) -> SocketAddr {
    let address = match peer {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(address, 0)
}
