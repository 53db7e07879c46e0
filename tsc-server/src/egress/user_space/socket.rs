//! Sockets of the host.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use mio::net::UdpSocket;
use socket2::{Domain, Protocol, Socket, Type};

/// Opens a UDP socket for tunnels of one family on `port`, 0 for any; returns the port that it has.
pub(super) fn udp(is_v4: bool, port: u16) -> io::Result<(UdpSocket, u16)> {
    let local: SocketAddr = if is_v4 {
        (Ipv4Addr::UNSPECIFIED, port).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, port).into()
    };
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if !is_v4 {
        // IPv4 is not to be had through IPv6.
        socket.set_only_v6(true)?;
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    super::host_errors::enable(&socket, is_v4)?;
    socket.bind(&local.into())?;
    let socket: std::net::UdpSocket = socket.into();
    let port = socket.local_addr()?.port();
    Ok((UdpSocket::from_std(socket), port))
}

/// What a failed attempt to send says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The socket's queue is full, or the host's.
    Full,
    /// Longer than the host sends to there.
    TooLong,
    /// There is no way to there.
    Unreachable,
    /// The host's rules forbid it.
    Prohibited,
    /// An error about an earlier datagram, or anything else: nothing is known of this one.
    Other,
}

impl Failure {
    #[allow(clippy::wildcard_enum_match_arm, reason = "a foreign enum that grows")]
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => Self::Full,
            io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
            | io::ErrorKind::NetworkDown => Self::Unreachable,
            io::ErrorKind::PermissionDenied => Self::Prohibited,
            _ if error.raw_os_error() == Some(nix::libc::EMSGSIZE) => Self::TooLong,
            _ if error.raw_os_error() == Some(nix::libc::ENOBUFS) => Self::Full,
            _ => Self::Other,
        }
    }
}
