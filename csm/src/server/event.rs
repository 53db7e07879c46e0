//! What a server tells its owner, and why things end.

use std::net::{IpAddr, SocketAddr};
use std::ops::AddAssign;
use std::time::Instant;

use bytes::Bytes;
use tsc_tpl::{DatagramError, FramingError, MessageError, ResponseCode, Tsid};

use super::arena::Key;
use super::config::Identity;
use super::service::Relayed;
use crate::companion::CompanionRole;
pub use crate::redundancy::{Fresh, MAX_WAYS, Spread};
use crate::service::ServiceGrant;
use crate::transport::Transport;

/// Names a binding: a transport that the server knows. Never reused within a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BindingId {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl BindingId {
    /// Position in the server's slab: small, dense, and reused with another generation. For tables beside it.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Names a tunnel of this server, in whichever shard it lives. Never reused within a server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    index: u32,
    generation: u32,
    shard: Shard,
}

/// Number of a shard, from 0; less than [`MAX_SHARDS`](super::MAX_SHARDS).
pub type Shard = u8;

impl SessionId {
    /// Tunnels that one shard can have: what a word of the address table has room for.
    pub(super) const MOST: u32 = 1 << 24;

    pub(super) const fn new(shard: Shard, (index, generation): Key) -> Self {
        Self {
            index,
            generation,
            shard,
        }
    }

    /// Within its shard.
    pub(super) const fn key(self) -> Key {
        (self.index, self.generation)
    }

    /// All of it in one word, never 0: `| 1 | shard 7 | index 24 | generation 32 |`.
    pub(super) const fn word(self) -> u64 {
        1 << 63
            | (self.shard as u64) << 56
            | ((self.index % Self::MOST) as u64) << 32
            | self.generation as u64
    }

    /// The reverse of [`Self::word`]; `None` for 0.
    #[inline]
    pub(super) const fn from_word(word: u64) -> Option<Self> {
        if word >> 63 == 0 {
            return None;
        }
        let [first, a, b, c, d, e, f, g] = word.to_be_bytes();
        Some(Self {
            index: u32::from_be_bytes([0, a, b, c]),
            generation: u32::from_be_bytes([d, e, f, g]),
            shard: first & 0x7F,
        })
    }

    /// The shard that has the tunnel, and that its packets go to.
    #[must_use]
    pub const fn shard(self) -> Shard {
        self.shard
    }

    /// Position in the slab of its shard: small, dense, and reused with another generation. For tables beside it.
    #[must_use]
    pub const fn index(self) -> usize {
        self.index as usize
    }
}

/// Names a plain UDP socket that the server answers on; made by
/// [`Server::add_listener`](super::Server::add_listener).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u16);

impl ListenerId {
    /// Listeners are numbered from 0 in the order of `add_listener`.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A stream or DTLS association that was accepted.
#[derive(Clone, Debug)]
pub struct BindingInfo {
    /// Index of the interface it came in on.
    pub interface: usize,
    /// TCP, TLS or DTLS. Plain UDP has no connections: see
    /// [`Server::handle_unbound`](super::Server::handle_unbound).
    pub transport: Transport,
    /// The client's outer address.
    pub peer: SocketAddr,
    /// The address of ours that it came to. Companions are opened at the same one where the interface listens there.
    pub local: SocketAddr,
    /// Who the transport says the client is (a verified client certificate).
    pub identity: Option<Identity>,
}

/// A stream or DTLS association without a tunnel that goes from one shard to another.
#[derive(Clone, Debug)]
pub struct MovedBinding {
    /// As it was announced where it comes from.
    pub info: BindingInfo,
    /// Until when it must have a tunnel.
    pub until: Instant,
}

/// Why a transport was not taken. Close it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No interface with this index.
    #[error("no such interface")]
    UnknownInterface,
    /// Plain UDP is not opened this way.
    #[error("plain UDP has no connections to open")]
    NotAConnection,
    /// Too many transports without a tunnel, in all or from this source prefix (spec 8.3).
    #[error("too many connections wait for their configuration")]
    TooManyPending,
    /// Too many new transports from this source prefix in this second.
    #[error("too many connections from this source")]
    RateLimited,
    /// The server is stopping.
    #[error("the server is stopping")]
    Stopping,
}

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Over a stream or DTLS association. It may be one that is just being closed: send, then close.
    Connection(BindingId),
    /// To an address on plain UDP, whether it has a binding or not.
    Udp {
        /// The socket to send from.
        listener: ListenerId,
        /// Where to.
        peer: SocketAddr,
    },
}

/// Bytes for a transport: one control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub to: Destination,
    /// One datagram, or a piece of the stream.
    pub bytes: Bytes,
}

/// What became of a unit that was handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// An inner packet of this tunnel, its source checked: forward it.
    Forward(SessionId),
    /// A redundancy frame of this tunnel: forward those of its packets, their sources checked.
    ForwardFrame(SessionId, Fresh),
    /// The server used it.
    Consumed,
    /// It was dropped, and counted in [`Stats`].
    Dropped(DropReason),
    /// The binding is gone. Stop reading; send what is still queued for it, then close the transport.
    /// An [`Event::CloseBinding`] says the same.
    Close(CloseReason),
    /// The tunnel that is to be resumed lives in this shard; here nothing has changed. A stream or association moves there:
    /// [`Server::hand_over`](super::Server::hand_over) here, [`Server::open_moved`](super::Server::open_moved) there, and
    /// this unit is handed in again. On plain UDP the datagram goes there.
    Elsewhere(Shard),
}

/// Where a packet for a tunnel goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing {
    ways: [Option<BindingId>; MAX_WAYS],
    /// In the frame that was written, and not as it is.
    pub framed: bool,
    /// Over all of its ways, or over one of them: the owner's choice, by its queues.
    pub spread: Spread,
}

impl Outgoing {
    /// One way.
    pub(super) const fn over(binding: BindingId, framed: bool) -> Self {
        Self {
            ways: [Some(binding), None, None],
            framed,
            spread: Spread::All,
        }
    }

    pub(super) const fn spread(ways: [Option<BindingId>; MAX_WAYS], spread: Spread) -> Self {
        Self {
            ways,
            framed: true,
            spread,
        }
    }

    /// The transports, at least one and at most [`MAX_WAYS`].
    pub fn bindings(&self) -> impl Iterator<Item = BindingId> + use<> {
        self.ways.into_iter().flatten()
    }
}

/// What became of a datagram from an address without a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Unbound {
    /// A stateless answer was queued; nothing is kept.
    Answered,
    /// The address has a binding now: [`Server::lookup`](super::Server::lookup) finds it.
    Bound(BindingId),
    /// It was dropped, and counted in [`Stats`].
    Dropped(DropReason),
    /// The tunnel that is to be resumed lives in this shard: hand the datagram in there, and further ones from this
    /// address once it is bound there.
    Elsewhere(Shard),
}

/// Why a unit or datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropReason {
    /// The binding does not exist (any more).
    UnknownBinding,
    /// A unit that may not come before the configuration.
    NotConfigured,
    /// From a stranger, and neither a request of at least 128 bytes nor a Keepalive (spec 8.2).
    Stranger,
    /// From a stranger, beyond the rate at which strangers are answered.
    RateLimited,
    /// The inner source is neither assigned to the tunnel nor behind a prefix granted to it (spec 8.1).
    Source,
    /// The TSID is not the tunnel's, on plain UDP, where anyone can send that.
    WrongTsid,
    /// A response to no outstanding request.
    Unmatched,
    /// Well framed, but its content is wrong; a request was answered.
    Message(MessageError),
    /// A datagram that holds no unit.
    Datagram(DatagramError),
    /// A data frame of a service that is not in force (spec 6).
    UnexpectedFrame,
    /// A redundancy frame whose sequences are far from all before; believed when others confirm it.
    FarFrame,
    /// A repeat of a request whose answer is not known any more.
    Repeat,
    /// A message that has no meaning here.
    Unexpected,
}

/// Why the server closes a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The tunnel was resumed on another transport.
    Superseded,
    /// Another tunnel took this UDP address over.
    AddressReused,
    /// The stream broke the framing rules (spec 2).
    Framing(FramingError),
    /// A frame of a service that is not in force, on a stream (spec 6).
    UnexpectedFrame,
    /// Eight message errors on one transport (spec 2).
    MessageErrors,
    /// Nothing came after all Keepalives, where the server sends them (spec 7, "server keepalive").
    KeepaliveFailure,
    /// No tunnel within 10 s (spec 8.3).
    ConfigurationTimeout,
    /// The tunnel is over.
    SessionDown(DownReason),
    /// The server is stopping and this transport has no tunnel.
    Stopping,
}

/// How a transport ended, as the owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindingLoss {
    /// The client closed it in order.
    ClosedByClient,
    /// Reset, time-out, or an error of the record layer.
    Failed,
}

/// Why a tunnel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DownReason {
    /// The client released it.
    ReleasedByClient,
    /// The server released it.
    ReleasedByServer {
        /// Whether the client answered.
        confirmed: bool,
    },
    /// Idle for the persistence time.
    Expired,
    /// Not one unit came after the configuration, within 30 s or before the transport was lost.
    Unconfirmed,
    /// A message for another tunnel on this tunnel's own transport (spec 4).
    WrongTsid,
    /// A companion whose main tunnel is over.
    MainClosed,
    /// A companion without a transport, in place of which its client has asked for another.
    Replaced,
}

/// The state of a tunnel (spec 5). Closed ones do not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// In use.
    Active,
    /// Idle for the keepalive time, or without a transport.
    Persistent,
    /// A release was sent; waiting for the answer.
    Releasing,
}

/// What the server tells its owner; drained with [`Server::poll_event`](super::Server::poll_event).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A tunnel was configured.
    SessionUp {
        /// The tunnel.
        session: SessionId,
        /// Its transport.
        binding: BindingId,
        /// Its name on the wire.
        tsid: Tsid,
        /// Its inner addresses.
        addresses: Vec<IpAddr>,
        /// Who it belongs to, where clients are authenticated.
        identity: Option<Identity>,
    },
    /// A companion of a tunnel was configured. It has the tunnel's inner addresses, and no route of its own; one that has its own
    /// ([`CompanionRole::Dtte`]) is a tunnel like any other too, of which [`Event::SessionUp`] told.
    CompanionUp {
        /// The main tunnel.
        session: SessionId,
        /// The companion.
        companion: SessionId,
        /// What it is for.
        role: CompanionRole,
        /// Its transport.
        binding: BindingId,
        /// Its name on the wire.
        tsid: Tsid,
    },
    /// A companion is over.
    CompanionDown {
        /// The main tunnel.
        session: SessionId,
        /// The companion.
        companion: SessionId,
        /// What it was for.
        role: CompanionRole,
        /// Its name on the wire.
        tsid: Tsid,
        /// Why.
        reason: DownReason,
    },
    /// A tunnel was resumed: its packets go to this binding from now on.
    Bound {
        /// The tunnel.
        session: SessionId,
        /// Its new transport.
        binding: BindingId,
    },
    /// A service is in force for a tunnel, or more of it than before; routes and checks know of it already.
    ServiceGranted {
        /// The tunnel.
        session: SessionId,
        /// What was added.
        grant: ServiceGrant,
    },
    /// A service, or a part of it, is over; when its tunnel ends, that is told after.
    ServiceEnded {
        /// The tunnel.
        session: SessionId,
        /// What is over.
        grant: ServiceGrant,
    },
    /// A tunnel became active or persistent.
    StateChanged {
        /// The tunnel.
        session: SessionId,
        /// What it is now.
        state: SessionState,
    },
    /// A tunnel is over; its addresses are in quarantine.
    SessionDown {
        /// The tunnel.
        session: SessionId,
        /// Its name on the wire.
        tsid: Tsid,
        /// Why.
        reason: DownReason,
    },
    /// Send what is still queued for this binding, then close its transport. The binding is gone already; on
    /// plain UDP there is nothing to close.
    CloseBinding {
        /// The binding.
        binding: BindingId,
        /// Why.
        reason: CloseReason,
    },
    /// Something about peer tunnels for another shard: it takes it with
    /// [`Server::handle_relayed`](super::Server::handle_relayed). Of those to one shard the order counts.
    Relay(Relayed),
    /// A request for a tunnel, or for resuming one, was refused. For logs; comes at most at the rate of the limits,
    /// as requests beyond it are only counted.
    Refused {
        /// The client's outer address.
        peer: SocketAddr,
        /// What it was told.
        code: ResponseCode,
    },
}

/// Counters of one server since it was made, and gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Gauge: tunnels that exist.
    pub sessions: usize,
    /// Gauge: of those, persistent ones.
    pub persistent: usize,
    /// Gauge: transports that have no tunnel yet.
    pub pending: usize,
    /// Tunnels configured.
    pub configured: u64,
    /// Tunnels resumed.
    pub resumed: u64,
    /// Requests for a tunnel that were refused, `cookie_required` apart.
    pub refused: u64,
    /// Resumes that were rejected.
    pub resume_rejected: u64,
    /// `cookie_required` answers.
    pub cookies: u64,
    /// `unknown_tunnel` answers.
    pub unknown_tunnel: u64,
    /// Inner packets passed on.
    pub forwarded: u64,
    /// Inner packets with a source that is not the tunnel's.
    pub wrong_source: u64,
    /// Control messages with a TSID that is not the tunnel's.
    pub wrong_tsid: u64,
    /// Messages with wrong content.
    pub message_errors: u64,
    /// Datagrams that hold no unit, and streams that broke framing.
    pub bad_units: u64,
    /// Datagrams from strangers that got no answer.
    pub strangers: u64,
    /// Requests and transports beyond a rate limit.
    pub rate_limited: u64,
    /// Configuration_Requests refused because of overload, or because the server is being drained.
    pub turned_away: u64,
    /// Times that overload began.
    pub overloads: u64,
    /// Gauge: shards that are overloaded now.
    pub overloaded: usize,
    /// Gauge: shards that are being drained now.
    pub draining: usize,
    /// All other drops.
    pub other_drops: u64,
    /// Keepalives sent, without repetitions (spec 7, "server keepalive").
    pub keepalives: u64,
    /// Retransmissions of the server's own requests.
    pub retransmissions: u64,
    /// Redundancy frames that came.
    pub frames: u64,
    /// Packets in them that came as copies only: their originals were lost, or late.
    pub recovered: u64,
    /// Packets in them that had come before.
    pub duplicates: u64,
    /// Frames and packets in them that are too old, or too far ahead.
    pub outdated: u64,
    /// Gauge: bytes of packets that are kept for being repeated.
    pub kept: usize,
    /// Requests for peer tunnels.
    pub peer_requests: u64,
    /// Of those, the ones that another client has granted.
    pub peer_granted: u64,
    /// Of those, the ones that were refused, by this server or by another client.
    pub peer_refused: u64,
    /// Candidates of peer tunnels that were struck out: not the address that the client is seen at.
    pub peer_struck: u64,
    /// STUN requests answered.
    pub stun: u64,
    /// Answers that were dropped because the owner did not drain the queue.
    pub transmit_overflow: u64,
}

impl AddAssign for Stats {
    /// Those of several shards in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            sessions,
            persistent,
            pending,
            configured,
            resumed,
            refused,
            resume_rejected,
            cookies,
            unknown_tunnel,
            forwarded,
            wrong_source,
            wrong_tsid,
            message_errors,
            bad_units,
            strangers,
            rate_limited,
            turned_away,
            overloads,
            overloaded,
            draining,
            other_drops,
            keepalives,
            retransmissions,
            frames,
            recovered,
            duplicates,
            outdated,
            kept,
            peer_requests,
            peer_granted,
            peer_refused,
            peer_struck,
            stun,
            transmit_overflow,
        } = other;
        self.sessions += sessions;
        self.persistent += persistent;
        self.pending += pending;
        self.configured += configured;
        self.resumed += resumed;
        self.refused += refused;
        self.resume_rejected += resume_rejected;
        self.cookies += cookies;
        self.unknown_tunnel += unknown_tunnel;
        self.forwarded += forwarded;
        self.wrong_source += wrong_source;
        self.wrong_tsid += wrong_tsid;
        self.message_errors += message_errors;
        self.bad_units += bad_units;
        self.strangers += strangers;
        self.rate_limited += rate_limited;
        self.turned_away += turned_away;
        self.overloads += overloads;
        self.overloaded += overloaded;
        self.draining += draining;
        self.other_drops += other_drops;
        self.keepalives += keepalives;
        self.retransmissions += retransmissions;
        self.frames += frames;
        self.recovered += recovered;
        self.duplicates += duplicates;
        self.outdated += outdated;
        self.kept += kept;
        self.peer_requests += peer_requests;
        self.peer_granted += peer_granted;
        self.peer_refused += peer_refused;
        self.peer_struck += peer_struck;
        self.stun += stun;
        self.transmit_overflow += transmit_overflow;
    }
}
