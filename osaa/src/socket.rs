//! Options that every kind of socket shares.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;

use crate::trace::Tap;

/// Outer Differentiated Services code point (RFC 2474): 0 to 63. ECN stays Not-ECT (spec 7, *DSCP*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Dscp(u8);

impl Dscp {
    /// `None` above 63.
    #[must_use]
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// The code point.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// The mark of an inner IP packet; `None` if it has none, or is no IP packet. ECN is no part of it.
#[must_use]
#[inline]
pub const fn inner_dscp(packet: &[u8]) -> Option<Dscp> {
    let [first, second, ..] = packet else {
        return None;
    };
    // The field lies behind the version and, in IPv4, behind the whole first byte.
    let value = match *first >> 4 {
        4 => *second >> 2,
        6 => (*first & 0x0f) << 2 | *second >> 6,
        _ => return None,
    };
    match Dscp::new(value) {
        Some(Dscp(0)) | None => None,
        mark => mark,
    }
}

/// How outer packets are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OuterDscp {
    /// Not at all.
    #[default]
    Off,
    /// Each datagram as the inner packet in it; control messages not at all. One connection has one mark, so streams are not
    /// marked. On other systems than Linux nothing is.
    Copy,
    /// All alike.
    Set(Dscp),
}

impl OuterDscp {
    /// The mark of all that a socket sends, if there is one.
    #[must_use]
    pub const fn of_socket(self) -> Option<Dscp> {
        match self {
            Self::Set(dscp) => Some(dscp),
            Self::Off | Self::Copy => None,
        }
    }

    /// Whether datagrams are marked one by one.
    #[must_use]
    pub const fn is_copy(self) -> bool {
        matches!(self, Self::Copy)
    }

    /// The mark of the datagram that carries this unit, where it is marked by itself.
    #[must_use]
    #[inline]
    pub const fn of_unit(self, unit: &[u8]) -> Option<Dscp> {
        match self {
            Self::Copy => match unit {
                // A redundancy frame: as its newest packet, behind the count and the sequence (spec 6).
                [0x1C, _, _, _, _, _, newest @ ..] => inner_dscp(newest),
                _ => inner_dscp(unit),
            },
            Self::Off | Self::Set(_) => None,
        }
    }
}

/// Marks everything that a socket sends from now on.
pub(crate) fn set_dscp(socket: &SockRef<'_>, local: SocketAddr, dscp: Dscp) -> io::Result<()> {
    let field = u32::from(dscp.0) << 2;
    match local {
        SocketAddr::V4(_) => socket.set_tos_v4(field),
        SocketAddr::V6(_) => socket.set_tclass_v6(field),
    }
}

/// How TCP connections are set up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamOptions {
    /// TCP_NODELAY, on by default: media must not wait for acknowledgements.
    pub nodelay: bool,
    /// TCP_USER_TIMEOUT: how long sent data may stay unacknowledged before the connection is given up (spec 5: 30 s on
    /// servers). Linux and Android only.
    pub user_timeout: Option<Duration>,
    /// TCP keepalive after this much silence; three more probes follow, a quarter of it apart (at least 1 s).
    pub keepalive: Option<Duration>,
    /// Outer mark from the first packet of ours on; the handshake of an accepted connection is older than that.
    pub dscp: Option<Dscp>,
    /// Bound of what a stream keeps unsent, in bytes of plaintext: of media, and of bulk data; a quarter of it for signalling,
    /// and 64 KiB for control messages. Values below [`MIN_SEND_LIMIT`] count as that.
    pub send_limit: usize,
    /// How long media may wait before it is dropped.
    pub media_time: Duration,
    /// TCP_NOTSENT_LOWAT: what the kernel takes beyond what it may send at once. Linux and Android only.
    pub kernel_unsent: Option<u32>,
    /// Where connections tell what goes over them, and TLS its secrets.
    pub tap: Option<Tap>,
    /// The peer has opened the connection: what a tap makes its beginning of. Listeners set it.
    pub(crate) accepted: bool,
}

/// Least [`StreamOptions::send_limit`]: the longest unit of the protocol (an inner packet of 9000 bytes) fits each class.
pub const MIN_SEND_LIMIT: usize = 64 * 1024;

/// Default [`StreamOptions::send_limit`]: the window of an inner TCP connection.
pub const DEFAULT_SEND_LIMIT: usize = 1024 * 1024;

/// Default [`StreamOptions::media_time`]: what a jitter buffer may still make use of.
pub const DEFAULT_MEDIA_TIME: Duration = Duration::from_millis(200);

/// Default [`StreamOptions::kernel_unsent`]: 13 ms at 10 Mbit/s, and still a gigabit where the process is woken within
/// 100 us.
const KERNEL_UNSENT: u32 = 16 * 1024;

impl StreamOptions {
    /// For connections that this end opens.
    #[must_use]
    pub const fn client() -> Self {
        Self {
            nodelay: true,
            user_timeout: Some(Duration::from_secs(30)),
            keepalive: Some(Duration::from_secs(60)),
            dscp: None,
            send_limit: DEFAULT_SEND_LIMIT,
            media_time: DEFAULT_MEDIA_TIME,
            kernel_unsent: Some(KERNEL_UNSENT),
            tap: None,
            accepted: false,
        }
    }

    /// For connections that this end accepts.
    #[must_use]
    pub const fn server() -> Self {
        let mut options = Self::client();
        options.user_timeout = Some(Duration::from_secs(30));
        options
    }

    pub(crate) fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        socket.set_tcp_nodelay(self.nodelay)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(unsent) = self.kernel_unsent {
            socket.set_tcp_notsent_lowat(unsent)?;
        }
        if let Some(idle) = self.keepalive {
            let interval = (idle / 4).max(Duration::from_secs(1));
            let keepalive = TcpKeepalive::new()
                .with_time(idle)
                .with_interval(interval)
                .with_retries(4);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        if let Some(dscp) = self.dscp {
            set_dscp(&socket, stream.local_addr()?, dscp)?;
        }
        Ok(())
    }
}

/// Why a local address could not be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket has it.
    #[error("{address} is already in use")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// No interface of this host has the address.
    #[error("{address} is not an address of this host")]
    NotLocal {
        /// The address.
        address: SocketAddr,
    },
    /// The process may not use the port (below 1024 without the privilege).
    #[error("no permission to use {address}")]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else the operating system reports.
    #[error("cannot use {address}: {source}")]
    Io {
        /// The address.
        address: SocketAddr,
        /// The report.
        #[source]
        source: io::Error,
    },
    /// A listener that would accept nothing.
    #[error("neither plain nor TLS connections are enabled on {address}")]
    NothingEnabled {
        /// The address.
        address: SocketAddr,
    },
}

impl BindError {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    pub(crate) fn new(address: SocketAddr, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse { address },
            io::ErrorKind::AddrNotAvailable => Self::NotLocal { address },
            io::ErrorKind::PermissionDenied => Self::Denied { address },
            _ => Self::Io { address, source },
        }
    }
}

/// Whether several sockets of this process have one address, for a worker each (SO_REUSEPORT). The system spreads
/// connections and datagrams over them by their addresses and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortSharing {
    /// One socket has it for itself.
    #[default]
    Alone,
    /// The first of several. It is opened as if alone, so that an address that another program has is refused even if
    /// that program shares it too; and a port that the system chooses is nobody else's.
    First,
    /// One of those that follow.
    Another,
}

/// A non-blocking socket bound to `address`. IPv6 sockets take IPv6 only, so that `[::]:p` and `0.0.0.0:p` can
/// both be used and no address has two spellings.
pub(crate) fn bound(kind: Type, address: SocketAddr, sharing: PortSharing) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restarted server must not wait for old connections; on Linux this never shares a live listener.
    #[cfg(unix)]
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    #[cfg(unix)]
    if sharing == PortSharing::Another {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    // The system looks at the option of a socket that is bound when another one comes.
    #[cfg(unix)]
    if sharing == PortSharing::First {
        socket.set_reuse_port(true)?;
    }
    #[cfg(not(unix))]
    let _ = sharing;
    Ok(socket)
}

/// Where limits on unauthenticated work count (spec 8.3): an IPv4 address, or an IPv6 /64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourcePrefix(IpAddr);

impl SourcePrefix {
    /// The prefix that an address belongs to. An IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self(IpAddr::V4(v4)),
            IpAddr::V6(v6) => {
                let network = u128::from(v6) & !u128::from(u64::MAX);
                Self(IpAddr::V6(network.into()))
            }
        }
    }
}

/// Asks for a receive buffer. Only the privileged may go beyond what the host allows to all.
pub(crate) fn enlarge_receive_buffer(socket: &Socket, size: usize) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        use nix::sys::socket::{setsockopt, sockopt};
        if setsockopt(socket, sockopt::RcvBufForce, &size).is_ok() {
            return Ok(());
        }
    }
    socket.set_recv_buffer_size(size)
}

/// The address from which the host would send to `peer` now. Nothing is sent.
///
/// # Errors
/// There is no route, or no address of that family.
pub fn source_for(peer: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match peer {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect(peer)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_32_and_64() {
        let of = |text: &str| SourcePrefix::of(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }

    #[tokio::test]
    async fn stream_options_reach_the_socket() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut options = StreamOptions::server();
        options.dscp = Dscp::new(46);
        options.apply(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tos_v4().unwrap(), 46 << 2);
        #[cfg(any(target_os = "linux", target_os = "android"))]
        assert_eq!(
            socket.tcp_user_timeout().unwrap(),
            Some(Duration::from_secs(30))
        );
    }

    #[test]
    fn the_inner_mark_is_read_without_ecn() {
        let of = |first, second| inner_dscp(&[first, second, 0, 0]).map(Dscp::get);
        assert_eq!(of(0x45, 46 << 2 | 3), Some(46));
        assert_eq!(of(0x6b, 0x80 | 0x3f), Some(46));
        assert_eq!((of(0x45, 3), of(0x60, 0x3f)), (None, None));
        assert_eq!(of(0x10, 0xff), None, "a control message");
        assert_eq!((inner_dscp(&[0x45]), inner_dscp(&[])), (None, None));
    }

    #[test]
    fn dscp_has_six_bits() {
        assert_eq!(Dscp::new(46).map(Dscp::get), Some(46));
        assert_eq!(Dscp::new(64), None);
    }
}
