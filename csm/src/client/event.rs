//! What a client tells its owner, and why things end.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tsc_tpl::{
    FramingError, IpPacket, Message, MessageError, RedundancyFrame, ResponseCode, ServiceType,
};

use super::config::Target;
use super::service::{PeerEvent, Placement};
use crate::assignment::Assignment;
use crate::flow::FlowKey;
pub use crate::redundancy::Fresh;
use crate::service::ServiceGrant;

/// Names one attempt at a transport. Inputs that carry an epoch which is over are ignored (spec 5, "Epochs").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// Names one service request of this client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId(pub(crate) u32);

/// What the machine tells its owner; drained with [`Client::poll_event`](super::Client::poll_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Find out where `target` is, and report with [`Client::resolved`](super::Client::resolved) or
    /// [`Client::not_resolved`](super::Client::not_resolved). Only where
    /// [`ClientConfig::lookup`](super::ClientConfig::lookup) asks for it.
    Resolve {
        /// A configured target.
        target: Target,
    },
    /// Open a transport to `target` and report with `transport_opened` or `transport_failed`. Several may be under way at a
    /// time, at most [`MAX_RACING`](super::MAX_RACING).
    Open {
        /// Name of the attempt.
        epoch: Epoch,
        /// Where to.
        target: Target,
        /// At which address; `None` leaves it to the owner.
        address: Option<SocketAddr>,
    },
    /// Send what `poll_transmit` still holds for this epoch, then close its transport, or stop opening it.
    /// No `transport_lost` is needed afterwards, and one does no harm.
    Close {
        /// The transport.
        epoch: Epoch,
        /// Why it is not wanted any more.
        reason: CloseReason,
    },
    /// The tunnel is up for the first time.
    Configured(Box<Assignment>),
    /// The tunnel has no transport; the machine is trying to resume it. Inner sockets stay.
    Suspended(SuspendReason),
    /// The tunnel is bound again, or has moved from one transport to another without a [`Self::Suspended`] between. Addresses are unchanged; the rest of the assignment may differ.
    Resumed(Box<Assignment>),
    /// A request made with [`Client::request_service`](super::Client::request_service) is over.
    Service {
        /// Which one.
        request: RequestId,
        /// What was asked for.
        service: ServiceType,
        /// How it ended.
        outcome: ServiceOutcome,
    },
    /// What is in force of a service for a socket that wants it. Until it is, and when it is not any more, the socket's traffic goes
    /// as if it had not been asked for.
    SocketService {
        /// The service, by the value that enables it.
        service: ServiceType,
        /// Whether the server offers it.
        available: bool,
        /// Whether it is in force.
        enabled: bool,
        /// The socket.
        local: SocketAddr,
    },
    /// The inner addresses of the encrypted companion, beside those of the main tunnel; none when it is over. What was connected
    /// from one that is not among them any more is over too.
    EncryptedAddresses(Vec<IpAddr>),
    /// Where a socket that wants encryption, or wanted it, is from now on: packets that it sends have an address of that tunnel.
    SocketPlaced {
        /// The socket.
        key: FlowKey,
        /// Its address and port as the wish named them.
        local: SocketAddr,
        /// Where it is; `None` for a connection of which that is not decided yet.
        placement: Option<Placement>,
        /// Whether encryption is in force for it, where that is news: [`Event::SocketService`] follows.
        enabled: Option<bool>,
    },
    /// Something to do or to know about peer tunnels.
    Peer(PeerEvent),
    /// A service that was in force is off, and nobody asked for that: a resume did not bring it back. Ask anew.
    ServiceEnded(ServiceGrant),
    /// An attempt at a transport, or the request made over it, has failed: also one that the owner itself reported.
    /// Another follows when it is time, or [`Event::Down`]. Redirects that are followed are no failures.
    AttemptFailed {
        /// Name of the attempt; `None` when it could not be found out where the target is.
        epoch: Option<Epoch>,
        /// Where it led.
        target: Target,
        /// Why it failed.
        failure: AttemptFailure,
    },
    /// The tunnel is over. The last event.
    Down(DownReason),
}

/// How a service request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceOutcome {
    /// The service is in force.
    Granted(ServiceGrant),
    /// The service is off, as was asked.
    Ended,
    /// The server answered and said no.
    Refused(Refusal),
    /// The server's answer is malformed, or grants nothing that was asked for.
    Unusable,
    /// No answer came.
    NoAnswer,
}

impl fmt::Display for ServiceOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Granted(grant) => write!(f, "granted: {grant}"),
            Self::Ended => f.write_str("ended"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Unusable => f.write_str("the server's answer cannot be used"),
            Self::NoAnswer => f.write_str("no answer from the server"),
        }
    }
}

/// Bytes for a transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Which transport. Bytes for one that is gone are dropped.
    pub epoch: Epoch,
    /// One control message: one datagram, or a piece of the stream.
    pub bytes: Bytes,
}

/// What became of a unit that was handed in.
#[derive(Debug)]
pub enum Inbound<'a> {
    /// An inner packet for this client: give it to the inner stack.
    Deliver(IpPacket<'a>),
    /// An inner packet for a host behind this client, in a prefix that the server routes here: forward it.
    Routed(IpPacket<'a>),
    /// A redundancy frame: give those of its packets to the inner stack.
    DeliverFrame(RedundancyFrame<'a>, Fresh),
    /// The machine used it.
    Consumed,
    /// It was dropped, and counted in [`Stats`].
    Dropped(DropReason),
}

/// Why a unit was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// It came on a transport that does not belong to the tunnel (any more).
    StaleEpoch,
    /// Its inner destination is neither an assigned address nor in a granted prefix (spec 8.1).
    Destination,
    /// Its TSID is not the tunnel's.
    WrongTsid,
    /// A response to no outstanding request.
    Unmatched,
    /// Well framed, but its content is wrong (spec 2, "Message error").
    Message(MessageError),
    /// A data frame of a service that is not in force (spec 6).
    UnexpectedFrame,
    /// A redundancy frame whose sequences are far from all before; believed when others confirm it.
    FarFrame,
    /// A repeat of a request whose answer is not known any more.
    Repeat,
    /// A message that has no meaning in this state.
    Unexpected,
}

/// Why a transport is closed by the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// A later transport took the tunnel over.
    Superseded,
    /// The attempt took too long or was refused.
    AttemptFailed,
    /// Another attempt was faster, or the transport that was in doubt works.
    NotNeeded,
    /// The transport does not carry answers any more.
    KeepaliveFailure,
    /// The server does not know this outer address; the tunnel moves to a new transport.
    UnknownTunnel,
    /// The stream broke the framing rules.
    Framing(FramingError),
    /// A data frame of a service that is not in force, on a stream (spec 6).
    UnexpectedFrame,
    /// Eight message errors on one transport (spec 2).
    MessageErrors,
    /// The tunnel is over.
    TunnelDown,
}

/// Why a transport could not be opened. Reported by the driver, which keeps the details for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportFailure {
    /// The server's name could not be resolved.
    #[error("the server's name could not be resolved")]
    Resolve,
    /// Unreachable, reset, or no answer at the transport's own level.
    #[error("the server could not be reached")]
    Unreachable,
    /// The server's host says that nobody listens there. A first tunnel is given up once all targets say so; a lost
    /// one is not, as servers are started again.
    #[error("nobody listens at the server's address")]
    Refused,
    /// The handshake of TLS or DTLS failed, other than by a certificate.
    #[error("the secure handshake failed")]
    Handshake,
    /// The server's certificate was rejected. This target is not tried again on this network.
    #[error("the server's certificate was rejected")]
    Certificate,
    /// The server does not accept this client's certificate, or wants one and got none. This target is not tried
    /// again on this network.
    #[error("the server refused this client's certificate")]
    ClientCertificate,
    /// A proxy on the way could not reach the server, or is in trouble itself.
    #[error("a proxy on the way could not connect")]
    ProxyTrouble,
    /// A proxy on the way refused. This target is not tried again on this network.
    #[error("a proxy refused the connection")]
    Proxy,
    /// The transport does not exist in this build or on this system. This target is not tried again.
    #[error("this transport is not supported here")]
    Unsupported,
}

impl TransportFailure {
    /// Whether trying the same target again is pointless.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Certificate | Self::ClientCertificate | Self::Proxy | Self::Unsupported
        )
    }
}

/// How a working transport ended, as the driver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportLoss {
    /// The server closed it in order. The first attempt to resume waits a random 0-2 s, so that all clients
    /// of a restarted server do not come at once (spec 5).
    ClosedByServer,
    /// Reset, time-out, network gone. The first attempt follows at once.
    Failed,
}

/// Why a tunnel lost its transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuspendReason {
    /// The driver reported it.
    Lost(TransportLoss),
    /// Nothing was heard after all keepalives.
    KeepaliveFailure,
    /// The server does not know this outer address any more: a NAT on the way forgot us.
    UnknownTunnel,
    /// The stream broke the framing rules.
    Framing(FramingError),
    /// A data frame of a service that is not in force, on a stream.
    UnexpectedFrame,
    /// Eight message errors on one transport.
    MessageErrors,
}

/// A refusal by the server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused by the server: {code}")]
pub struct Refusal {
    /// The server's code.
    pub code: ResponseCode,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// The server's explanation, peer-controlled text of at most 128 bytes.
    pub text: Option<String>,
}

impl Refusal {
    pub(super) fn read(code: ResponseCode, answer: &Message<'_>) -> Self {
        Self {
            code,
            retry_after: answer.retry_after().map(|seconds| seconds.duration()),
            text: answer.reason_text().map(|text| text.as_str().to_owned()),
        }
    }
}

/// Why one attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttemptFailure {
    /// The transport could not be opened.
    #[error(transparent)]
    Transport(#[from] TransportFailure),
    /// The transport was lost before the answer.
    #[error("the connection ended before the server answered")]
    Lost,
    /// The transport did not open, or the server did not answer, in time.
    #[error("no answer from the server")]
    NoAnswer,
    /// The server answered and said no.
    #[error(transparent)]
    Refused(Refusal),
    /// The server's answer breaks the protocol.
    #[error("the server's answer is wrong: {0}")]
    BadAnswer(MessageError),
    /// The server's answer is well formed, but cannot be used.
    #[error("the server's answer cannot be used: {0}")]
    Unusable(&'static str),
    /// The stream broke the framing rules.
    #[error(transparent)]
    Framing(FramingError),
    /// More than four redirects in a row (spec 5).
    #[error("too many redirects")]
    TooManyRedirects,
    /// A redirect to nowhere that this client may go: to a clear transport from a protected one, or from a
    /// clear one to an unknown host.
    #[error("a redirect that must not be followed")]
    ForbiddenRedirect,
}

/// Why a tunnel is over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DownReason {
    /// It never came up: the time for connecting is over, or there is nothing left to try.
    #[error("cannot connect: {0}")]
    CannotConnect(AttemptFailure),
    /// It was lost and could not be resumed in time.
    #[error("the tunnel was lost and not resumed")]
    Lost {
        /// Why it was lost.
        cause: SuspendReason,
        /// Why the last attempt failed, if there was one.
        last: Option<AttemptFailure>,
    },
    /// It was lost, and the server does not accept the proof (any more). Start anew.
    #[error("the server does not resume the tunnel")]
    ResumeRejected {
        /// Why it was lost.
        cause: SuspendReason,
    },
    /// The server released it. It cannot be resumed.
    #[error("released by the server")]
    ReleasedByServer {
        /// The server's explanation, peer-controlled text of at most 128 bytes.
        text: Option<String>,
    },
    /// The application released it.
    #[error("released")]
    Released {
        /// Whether the server confirmed it.
        confirmed: bool,
    },
    /// A message for another tunnel on this tunnel's own transport (spec 4, "Wrong TSID").
    #[error("the server sent a message for another tunnel")]
    WrongTsid,
}

/// Why a verb of the application could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The tunnel was not configured yet, or is over.
    #[error("the tunnel is not up")]
    NotUp,
    /// Too many requests are waiting for their answers (spec 4).
    #[error("too many requests are outstanding")]
    TooMany,
    /// The last request about this service waits for its answer.
    #[error("a request about this service is outstanding")]
    InProgress,
    /// More than [`MAX_ROUTED_PREFIXES`](crate::MAX_ROUTED_PREFIXES), or one that cannot be routed
    /// ([`Prefix::is_routable`](crate::Prefix::is_routable)).
    #[error("too many prefixes, or one that cannot be routed")]
    Prefixes,
    /// [`MAX_FLOWS`](crate::MAX_FLOWS) sockets want the service.
    #[error("too many sockets want this service")]
    TooManySockets,
    /// Peer tunnels need a certificate.
    #[error("peer tunnels need a certificate")]
    NoCertificate,
    /// A service of sockets, which is wanted by [`Client::set_redundancy`](super::Client::set_redundancy).
    #[error("a service that sockets ask for")]
    OfSockets,
}

/// Counters of one client since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Transports asked for.
    pub attempts: u64,
    /// Successful resumes.
    pub resumes: u64,
    /// Inner packets delivered.
    pub delivered: u64,
    /// Units dropped because of their transport.
    pub stale: u64,
    /// Inner packets for addresses not assigned.
    pub wrong_destination: u64,
    /// Control messages with another tunnel's TSID.
    pub wrong_tsid: u64,
    /// Responses to nothing.
    pub unmatched: u64,
    /// Messages with wrong content.
    pub message_errors: u64,
    /// Datagrams that hold no unit, and streams that broke framing.
    pub bad_units: u64,
    /// All other drops.
    pub other_drops: u64,
    /// Keepalives sent, without repetitions.
    pub keepalives: u64,
    /// Keepalives sent for the server's figures only, once each.
    pub reports: u64,
    /// Keepalives sent to measure the way, once each.
    pub probes: u64,
    /// Retransmissions of any request.
    pub retransmissions: u64,
}
