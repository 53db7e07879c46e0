//! What callers name and choose.

use std::net::SocketAddr;
use std::time::Duration;

use crate::slots::Key;

/// Names one TCP connection of one stack. It goes stale when the connection is given up by
/// [`Stack::tcp_close`](crate::Stack::tcp_close) or [`Stack::tcp_abort`](crate::Stack::tcp_abort).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpHandle(pub(super) Key);

/// Names one TCP listener of one stack. It goes stale when the listener is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpListenHandle(pub(super) Key);

/// Names one request for a connection that waits for an answer; see
/// [`Event::TcpIncoming`](crate::Event::TcpIncoming).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpIncomingId(pub(super) Key);

/// Somebody asks a transparent stack for a connection; nothing was answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpIncoming {
    /// To be given to [`Stack::tcp_incoming_accept`](crate::Stack::tcp_incoming_accept) and the
    /// like.
    pub id: TcpIncomingId,
    /// The address and port that is asked for.
    pub local: SocketAddr,
    /// Who asks.
    pub remote: SocketAddr,
}

/// How a connection behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpOptions {
    /// Send small segments at once instead of waiting for acknowledgements (the opposite of
    /// Nagle's algorithm). On by default: tunnels carry signalling and media, whose programs write
    /// whole messages.
    /// Beyond 256 small segments that are not acknowledged, writes wait all the same.
    pub nodelay: bool,
    /// Probe the peer after this much silence; three probes without an answer end the connection.
    /// `None`, the default, never probes.
    pub keep_alive: Option<Duration>,
    /// How long opening may take.
    pub connect_timeout: Duration,
    /// How long the peer may be silent while something waits for its acknowledgement. A peer that
    /// answers but keeps its window shut is not silent (RFC 1122, section 4.2.2.17).
    pub user_timeout: Duration,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keep_alive: None,
            // As in BSD.
            connect_timeout: Duration::from_secs(75),
            // RFC 9293, section 3.8.3: at least 100 s; longer than a tunnel takes to resume.
            user_timeout: Duration::from_secs(300),
        }
    }
}

/// The state of a connection (RFC 9293, section 3.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpState {
    /// A connection was asked for.
    SynSent,
    /// The peer's request was answered.
    SynReceived,
    /// Data flows both ways.
    Established,
    /// Our end is shut down, and the peer has not acknowledged that.
    FinWait1,
    /// Our end is shut down, the peer's is not.
    FinWait2,
    /// The peer's end is shut down, ours is not.
    CloseWait,
    /// Both ends were shut down at once.
    Closing,
    /// The peer's end was shut down first, then ours.
    LastAck,
    /// Both ends are shut down; what was received can be read.
    Closed,
}
