//! Transactions (RFC 3261 section 17, with the Accepted states of RFC 6026), sans-IO.
//!
//! [`TransactionLayer`] sits between the datagrams of one socket and the transaction user. It owns no
//! socket, clock or random source: feed it with [`handle_datagram`](TransactionLayer::handle_datagram)
//! and [`handle_timeout`](TransactionLayer::handle_timeout), then drain `poll_transmit`, `poll_event`
//! and `poll_timeout`.
//!
//! Over TCP nothing is repeated but a 2xx, and transactions do not linger for repetitions.
//!
//! What it does on its own, so that a program above it reads like the guide's steps:
//! retransmissions, 100 Trying for every INVITE, ACK for refusals, 200 for a CANCEL that matches (481 for
//! one that does not), and the retransmission of a 2xx until its ACK comes (13.3.1.4; the RFC gives that
//! to the core, but the timers are these).

mod client;
mod layer;
mod server;

use std::time::Duration;

pub use layer::TransactionLayer;

use crate::sip::{Hop, Request, Response};

/// The base timers of RFC 3261 17.1.1.1; all others follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Estimate of the round trip: first retransmission.
    pub t1: Duration,
    /// Largest interval between retransmissions of non-INVITE requests and INVITE responses.
    pub t2: Duration,
    /// How long a message may stay in the network.
    pub t4: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl Timers {
    /// 64 T1: timers B, F, H, J, L and M.
    #[must_use]
    pub const fn give_up(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    /// Timer D: at least 32 s over UDP.
    #[must_use]
    pub fn d(&self) -> Duration {
        self.give_up().max(Duration::from_secs(32))
    }
}

/// Limits of a [`TransactionLayer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Transactions at a time, both kinds together. Requests beyond it are dropped (the peer repeats them), unless another
    /// source has more of peers' transactions: then that one loses its oldest (see [`shares`](crate::shares)).
    pub transactions: usize,
    /// Peers' transactions of one source address. One more takes the place of the oldest that is answered.
    pub per_source: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            transactions: 4096,
            per_source: 2048,
        }
    }
}

/// Names a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u64);

/// Names a server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u64);

/// Names a transaction of either kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionId {
    /// One of ours.
    Client(ClientId),
    /// One of a peer's.
    Server(ServerId),
}

impl From<ClientId> for TransactionId {
    fn from(id: ClientId) -> Self {
        Self::Client(id)
    }
}

impl From<ServerId> for TransactionId {
    fn from(id: ServerId) -> Self {
        Self::Server(id)
    }
}

/// A message to send: one datagram, or the next bytes of the connection with that address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// The transaction that it belongs to. If it cannot be sent, [`TransactionLayer::handle_transport_error`] ends that.
    pub of: TransactionId,
    /// Where to.
    pub to: Hop,
    /// The message.
    pub payload: Vec<u8>,
}

/// What the transaction user has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A response, provisional or final. After a final one only further 2xx of forked INVITEs follow.
    Response {
        /// Which request it answers.
        id: ClientId,
        /// The response.
        response: Box<Response>,
    },
    /// No final response came in time (timer B or F); like 408 (RFC 3261 8.1.3.1).
    Timeout {
        /// Which request failed.
        id: ClientId,
    },
    /// Three copies of a request, or more, and nothing at all has come back yet. Whoever can find out whether there is anybody
    /// at that address calls [`TransactionLayer::handle_unreachable`] if there is not.
    Unanswered {
        /// Where the request goes, over UDP.
        to: std::net::SocketAddr,
    },
    /// The network says that the peer cannot be reached, or does not take the request (17.1.4); like 503 (8.1.3.1).
    Unreachable {
        /// Which request failed.
        id: ClientId,
    },
    /// A new request. Answer it with [`TransactionLayer::respond`].
    Request {
        /// Its transaction.
        id: ServerId,
        /// The request; `received` and `rport` are filled in.
        request: Box<Request>,
        /// Where it came from.
        from: Hop,
    },
    /// A CANCEL for an INVITE that has no final response yet: answer it with 487. The CANCEL itself is answered.
    Cancelled {
        /// The INVITE's transaction.
        id: ServerId,
    },
    /// The ACK for a 2xx to an INVITE.
    Acknowledged {
        /// The INVITE's transaction.
        id: ServerId,
        /// The ACK; it may carry the answer to an offer.
        ack: Box<Request>,
    },
    /// No ACK came for the final response within 64 T1 (timer H, or 13.3.1.4), or the response could not be sent (17.2.4): end
    /// the call.
    AckMissing {
        /// The INVITE's transaction.
        id: ServerId,
    },
}

/// Why the layer refuses what its user asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError {
    /// As many transactions as [`Limits`] allow.
    #[error("too many transactions")]
    Full,
    /// No such transaction, or it is already over.
    #[error("the transaction is over")]
    Unknown,
    /// The verb does not fit: an ACK as a request, CANCEL of something that is no INVITE, a second final response.
    #[error("not possible in this state of the transaction")]
    State,
}

/// Counts of what was dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionStats {
    /// Datagrams that are no SIP message.
    pub malformed: u64,
    /// Responses and ACKs that match no transaction.
    pub stray: u64,
    /// Requests that found the table full.
    pub overload: u64,
    /// Datagrams sent again.
    pub retransmitted: u64,
    /// Received messages absorbed as repetitions.
    pub absorbed: u64,
}

/// What a transaction puts out while it handles an input.
#[derive(Debug, Default)]
struct Output {
    transmits: std::collections::VecDeque<Transmit>,
    events: std::collections::VecDeque<Event>,
    stats: TransactionStats,
}

impl Output {
    fn send(&mut self, of: impl Into<TransactionId>, to: Hop, payload: Vec<u8>) {
        let of = of.into();
        self.transmits.push_back(Transmit { of, to, payload });
    }

    fn resend(&mut self, of: impl Into<TransactionId>, to: Hop, payload: Vec<u8>) {
        self.stats.retransmitted += 1;
        self.send(of, to, payload);
    }
}
