//! One error enum for each verb of the socket interface.

use std::net::{IpAddr, SocketAddr};

/// Why a list of own addresses was refused. The old list stays in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// More than [`MAX_ADDRESSES`](crate::MAX_ADDRESSES).
    #[error("more than {} addresses", crate::MAX_ADDRESSES)]
    TooMany,
    /// The address is unspecified, loopback, link-local, multicast, broadcast, reserved or
    /// IPv4-mapped.
    #[error("{0} is no unicast address")]
    NotUnicast(IpAddr),
}

/// Why a socket could not be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Another socket has the port, on the same address or on the wildcard.
    #[error("{0} is in use")]
    AddressInUse(SocketAddr),
    /// The address is neither the wildcard nor one of the stack's own.
    #[error("{0} is not an address of this stack")]
    AddressNotAvailable(IpAddr),
    /// [`StackConfig::sockets`](crate::StackConfig::sockets) are open.
    #[error("too many sockets")]
    TooManySockets,
    /// Port 0 was asked for, and no ephemeral port is free.
    #[error("no ephemeral port is free")]
    PortsExhausted,
}

/// Why a socket could not be connected. It stays as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The handle's socket was closed.
    #[error("the socket is closed")]
    Closed,
    /// The peer is no unicast address, or its port is 0.
    #[error("{0} cannot be a peer")]
    InvalidPeer(SocketAddr),
    /// The socket is bound to the other IP version.
    #[error("the socket and {0} are of different IP versions")]
    FamilyMismatch(SocketAddr),
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The handle's socket was closed.
    #[error("the socket is closed")]
    Closed,
    /// No destination was given and the socket is not connected.
    #[error("the socket is not connected")]
    NotConnected,
    /// The destination is no unicast address, or its port is 0.
    #[error("{0} is no destination for a datagram")]
    InvalidDestination(SocketAddr),
    /// The socket is bound to the other IP version.
    #[error("the socket and {0} are of different IP versions")]
    FamilyMismatch(SocketAddr),
    /// The stack has no address of the destination's IP version.
    #[error("no own address to reach {0} from")]
    NoSourceAddress(IpAddr),
    /// The source asked for, or the address the socket is bound to, is not (or no longer) one of
    /// the stack's, or the two differ.
    #[error("{0} cannot be the source")]
    SourceNotAvailable(IpAddr),
    /// The socket may not send for now ([`UdpPlacement::Nowhere`](crate::UdpPlacement::Nowhere)).
    #[error("the socket has no place to send from")]
    Nowhere,
    /// The payload is larger than a datagram can carry, or than the path carries in one packet if
    /// fragmentation was forbidden.
    #[error("the message is too long: at most {max} bytes")]
    MessageTooLong {
        /// Largest payload in bytes that can be sent now with the same options.
        max: usize,
    },
}

/// What a receiving socket learns instead of a datagram. The socket stays usable except after
/// [`Closed`](Self::Closed).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The handle's socket was closed.
    #[error("the socket is closed")]
    Closed,
    /// The connected peer's host says that nobody listens on its port (`ECONNREFUSED`).
    #[error("the peer's port is unreachable")]
    PortUnreachable,
    /// The connected peer's network or host cannot be reached (`EHOSTUNREACH`).
    #[error("the peer is unreachable")]
    Unreachable,
    /// A router or the peer forbids the communication (`EACCES`).
    #[error("communication with the peer is prohibited")]
    Prohibited,
    /// A datagram to the connected peer ran out of hops or of time for reassembly.
    #[error("a datagram did not reach the peer in time")]
    TimeExceeded,
}

/// Why a TCP connection was not started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpConnectError {
    /// The peer is no unicast address, or its port is 0.
    #[error("{0} cannot be a peer")]
    InvalidPeer(SocketAddr),
    /// The local address and the peer are of different IP versions.
    #[error("the local address and {0} are of different IP versions")]
    FamilyMismatch(SocketAddr),
    /// The stack has no address of the peer's IP version.
    #[error("no own address to reach {0} from")]
    NoSourceAddress(IpAddr),
    /// The local address is not one of the stack's.
    #[error("{0} is not an address of this stack")]
    AddressNotAvailable(IpAddr),
    /// There is, or was a moment ago, a connection between the same addresses and ports.
    #[error("{0} is in use towards this peer")]
    AddressInUse(SocketAddr),
    /// No ephemeral port is free towards the peer.
    #[error("no ephemeral port is free")]
    PortsExhausted,
    /// [`StackConfig::tcp_connections`](crate::StackConfig::tcp_connections) are open.
    #[error("too many TCP connections")]
    TooManyConnections,
    /// [`StackConfig::tcp_total_bytes`](crate::StackConfig::tcp_total_bytes) are exhausted.
    #[error("no memory for the buffers of another TCP connection")]
    OutOfMemory,
    /// The request was withdrawn by the peer, has expired, or was answered before.
    #[error("the request for a connection is gone")]
    Withdrawn,
}

/// What happened to a TCP connection, or why a verb cannot be obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TcpError {
    /// The handle was given up.
    #[error("the connection is closed")]
    Closed,
    /// Our end was shut down, or both are (`EPIPE`).
    #[error("the sending end is shut down")]
    ShutDown,
    /// The peer has reset the connection (`ECONNRESET`).
    #[error("the peer has reset the connection")]
    Reset,
    /// Nobody takes connections at the peer's port (`ECONNREFUSED`).
    #[error("the peer refuses the connection")]
    Refused,
    /// The peer does not answer (`ETIMEDOUT`).
    #[error("the peer does not answer")]
    TimedOut,
    /// The peer's network or host cannot be reached (`EHOSTUNREACH`).
    #[error("the peer is unreachable")]
    Unreachable,
    /// A router or the peer forbids the communication (`EACCES`).
    #[error("communication with the peer is prohibited")]
    Prohibited,
}

/// What an ICMP error means to an attempt to open a connection.
impl From<RecvError> for TcpError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::PortUnreachable => Self::Refused,
            RecvError::Prohibited => Self::Prohibited,
            RecvError::Closed => Self::Closed,
            RecvError::Unreachable | RecvError::TimeExceeded => Self::Unreachable,
        }
    }
}
