//! Why the verbs of this API fail.

use std::{io, net::SocketAddr};

use tsc_csm::client::{AttemptFailure, ClientConfigError, DownReason, Refusal};

use crate::server::Server;

/// Why a tunnel could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The builder was given something that cannot be used.
    #[error("the tunnel's parameters cannot be used: {0}")]
    Parameters(#[from] ClientConfigError),
    /// The name for certificate and SNI is neither a host name nor an address.
    #[error("'{0}' is not a server name that a certificate could carry")]
    ServerName(String),
    /// The certificates or the key given cannot be used.
    #[error("the certificates cannot be used: {0}")]
    Credentials(#[from] tsc_osaa::cert::CredentialError),
    /// The capture file could not be made.
    #[error(transparent)]
    Capture(#[from] tsc_osaa::trace::CaptureError),
    /// No transport could be opened: the last one tried says why. A certificate may have been refused, the server's
    /// ([`ConnectError::is_certificate`]) or ours ([`ConnectError::is_client_certificate`]): that is never retried.
    #[error("cannot reach {server}: {source}")]
    Transport {
        /// The server tried last.
        server: Server,
        /// What happened.
        source: tsc_osaa::client::ConnectError,
    },
    /// The server answered and said no.
    #[error("{0}")]
    Refused(Refusal),
    /// A server was reached, but no tunnel came of it: no answer, or one that breaks the protocol.
    #[error("no tunnel: {0}")]
    NotConfigured(AttemptFailure),
    /// The tunnel ended before it was up, for another reason.
    #[error("no tunnel: {0}")]
    Ended(DownReason),
    /// The runtime stopped the tunnel's task.
    #[error("the runtime is shutting down")]
    RuntimeGone,
}

/// Why a tunnel's capture file could not be begun or completed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The options contradict each other, or the file cannot be written.
    #[error(transparent)]
    Capture(#[from] tsc_osaa::trace::CaptureError),
    /// The tunnel is over.
    #[error("the tunnel is over: {0}")]
    TunnelDown(DownReason),
    /// The runtime stopped what wrote.
    #[error("the runtime is shutting down")]
    RuntimeGone,
}

impl ConnectError {
    /// Whether a proxy on the way wants other credentials, or any.
    #[must_use]
    pub const fn is_proxy_authentication(&self) -> bool {
        matches!(
            self,
            Self::Transport {
                source: tsc_osaa::client::ConnectError::Proxy(error),
                ..
            } if error.is_authentication()
        )
    }

    /// Whether the server's certificate was rejected. Trying again is pointless.
    #[must_use]
    pub const fn is_certificate(&self) -> bool {
        matches!(
            self,
            Self::Transport {
                source: tsc_osaa::client::ConnectError::Certificate(_),
                ..
            }
        )
    }

    /// Whether the server refused this client's certificate, or requires one. Trying again is pointless.
    #[must_use]
    pub const fn is_client_certificate(&self) -> bool {
        matches!(
            self,
            Self::Transport {
                source: tsc_osaa::client::ConnectError::ClientCertificate(_),
                ..
            }
        )
    }
}

/// Why something could not be done with a socket. It travels inside [`io::Error`], whose kind fits; get it back
/// with [`SocketError::of`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// The tunnel is over, so its sockets are.
    #[error("the tunnel is over: {0}")]
    TunnelDown(DownReason),
    /// The address is none of the tunnel's inner addresses.
    #[error("{0} is not an address of this tunnel")]
    AddressNotAvailable(SocketAddr),
    /// The port is taken by another inner socket.
    #[error("{0} is in use inside this tunnel")]
    AddressInUse(SocketAddr),
    /// No ephemeral port or no room for another socket is left.
    #[error("no inner port or socket is left in this tunnel")]
    Exhausted,
    /// The socket was not connected and no destination given.
    #[error("the socket has no peer")]
    NotConnected,
    /// The destination's address family is none of the socket's.
    #[error("{0} is not of this socket's address family")]
    Family(SocketAddr),
    /// The destination cannot be reached from inside a tunnel: unspecified, loopback, link-local, multicast, broadcast or
    /// port 0. Nothing was sent.
    #[error("{0} cannot be a destination inside a tunnel")]
    BadDestination(SocketAddr),
    /// Longer than UDP can carry, or than the stack fragments.
    #[error("a datagram of {length} bytes is longer than {limit}")]
    MessageTooLong {
        /// Payload bytes given.
        length: usize,
        /// The most that can be sent.
        limit: usize,
    },
    /// The peer's end said that nobody listens there (ICMP, or a reset while connecting).
    #[error("the peer refused: nobody listens at its port")]
    Refused,
    /// A router or the peer's host said that it cannot be reached (ICMP).
    #[error("the peer cannot be reached")]
    Unreachable,
    /// A router or the peer's host said that it forbids the communication (ICMP).
    #[error("communication with the peer is prohibited")]
    Prohibited,
    /// The peer has reset the connection.
    #[error("the peer has reset the connection")]
    Reset,
    /// The peer does not answer (any more).
    #[error("the peer does not answer")]
    TimedOut,
    /// This end of the connection was shut down, or the connection has failed before.
    #[error("the connection takes no more data")]
    BrokenPipe,
    /// A listener needs an address first.
    #[error("the socket was not bound")]
    NotBound,
    /// The server does not route the prefixes of a packet socket to this tunnel any more.
    #[error("the prefixes are not routed to this tunnel any more")]
    PrefixesEnded,
    /// The socket is to be encrypted only, and there is no encrypted tunnel (yet, or any more): nothing was sent.
    #[error("there is no encrypted tunnel for a socket that is encrypted only")]
    NotEncrypted,
    /// [`MAX_FLOWS`](crate::MAX_FLOWS) sockets of the tunnel have services already.
    #[error("no more sockets of this tunnel can have services")]
    TooManyServices,
    /// Nothing to read or no room to write, for the `try_` calls.
    #[error("this would have to wait")]
    WouldBlock,
}

impl SocketError {
    /// The socket error inside an [`io::Error`] of this crate.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<SocketError> for io::Error {
    fn from(error: SocketError) -> Self {
        use io::ErrorKind;
        let kind = match &error {
            SocketError::TunnelDown(_) => ErrorKind::ConnectionAborted,
            SocketError::AddressNotAvailable(_) => ErrorKind::AddrNotAvailable,
            SocketError::AddressInUse(_) => ErrorKind::AddrInUse,
            SocketError::Exhausted => ErrorKind::OutOfMemory,
            SocketError::TooManyServices => ErrorKind::QuotaExceeded,
            SocketError::NotConnected | SocketError::PrefixesEnded => ErrorKind::NotConnected,
            SocketError::Family(_)
            | SocketError::BadDestination(_)
            | SocketError::NotBound
            | SocketError::MessageTooLong { .. } => ErrorKind::InvalidInput,
            SocketError::Refused => ErrorKind::ConnectionRefused,
            SocketError::Unreachable => ErrorKind::HostUnreachable,
            SocketError::NotEncrypted => ErrorKind::NetworkUnreachable,
            SocketError::Prohibited => ErrorKind::PermissionDenied,
            SocketError::Reset => ErrorKind::ConnectionReset,
            SocketError::TimedOut => ErrorKind::TimedOut,
            SocketError::BrokenPipe => ErrorKind::BrokenPipe,
            SocketError::WouldBlock => ErrorKind::WouldBlock,
        };
        Self::new(kind, error)
    }
}

/// Why a name could not be looked up. It becomes an [`io::Error`] of a fitting kind by `?`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookupError {
    /// Not a host name.
    #[error("'{0}' is not a host name")]
    Name(String),
    /// The server assigned no DNS server that this tunnel's addresses can reach.
    #[error("no DNS server was assigned to this tunnel")]
    NoServers,
    /// The name does not exist, or has no address of this tunnel's families.
    #[error("'{0}' has no address that this tunnel can reach")]
    NotFound(String),
    /// The DNS servers answered, but could not tell.
    #[error("the DNS servers failed: {0}")]
    Failed(&'static str),
    /// No DNS server answered.
    #[error("no DNS server answered")]
    TimedOut,
    /// No socket for asking, or the tunnel is over.
    #[error(transparent)]
    Socket(SocketError),
}

impl From<LookupError> for io::Error {
    fn from(error: LookupError) -> Self {
        use io::ErrorKind;
        let kind = match error {
            LookupError::Socket(socket) => return socket.into(),
            LookupError::Name(_) => ErrorKind::InvalidInput,
            LookupError::NoServers => ErrorKind::Unsupported,
            LookupError::NotFound(_) => ErrorKind::NotFound,
            LookupError::Failed(_) => ErrorKind::Other,
            LookupError::TimedOut => ErrorKind::TimedOut,
        };
        Self::new(kind, error)
    }
}

/// Why the server does not give a service to this tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// More than [`MAX_ROUTED_PREFIXES`](crate::MAX_ROUTED_PREFIXES), or one that cannot be routed
    /// ([`Prefix::is_routable`](crate::Prefix::is_routable)).
    #[error("too many prefixes, or one that cannot be routed")]
    Prefixes,
    /// The tunnel has a packet socket already, or one is being asked for.
    #[error("the tunnel has a packet socket already")]
    InUse,
    /// The server answered and said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The server's answer is malformed, or grants nothing that was asked for.
    #[error("the server's answer cannot be used")]
    Unusable,
    /// The server did not answer.
    #[error("no answer from the server")]
    NoAnswer,
    /// The tunnel is over.
    #[error(transparent)]
    Socket(SocketError),
}

/// Why a tunnel did not close cleanly. It is closed all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// The server did not confirm within the deadline.
    #[error("the server did not confirm the release")]
    NotConfirmed,
    /// The tunnel was over already, for another reason than this release.
    #[error("the tunnel was over already: {0}")]
    AlreadyDown(DownReason),
}
