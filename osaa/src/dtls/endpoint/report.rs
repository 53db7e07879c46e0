//! What an endpoint tells: datagrams to send, events, counters.

use std::net::SocketAddr;
use std::ops::AddAssign;

use super::AssociationKey;
use crate::dtls::{DtlsError, DtlsInfo};

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DtlsTransmit {
    /// Where to.
    pub peer: SocketAddr,
    /// How many bytes were appended to the buffer.
    pub len: usize,
}

/// What [`DtlsServerEndpoint::open`](super::DtlsServerEndpoint::open) has done.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'d> {
    /// It was data of the association; this is the plaintext.
    Data(AssociationKey, &'d mut [u8]),
    /// It was a repetition, a forgery or empty; its bytes are now unspecified.
    Dropped,
    /// Nothing: it is something else.
    NotData,
}

/// What happened at an endpoint.
#[derive(Debug)]
#[non_exhaustive]
pub enum DtlsEndpointEvent {
    /// A handshake has finished. Data may be waiting: call [`DtlsServerEndpoint::recv`](super::DtlsServerEndpoint::recv).
    Connected {
        /// The new association.
        key: AssociationKey,
        /// Its peer.
        peer: SocketAddr,
        /// What was negotiated, and who the peer is.
        info: Box<DtlsInfo>,
    },
    /// The backend has received data in the background: call [`DtlsServerEndpoint::recv`](super::DtlsServerEndpoint::recv).
    Readable {
        /// The association.
        key: AssociationKey,
    },
    /// A connected association has ended; its key is no longer valid.
    Closed {
        /// The association.
        key: AssociationKey,
        /// Its peer.
        peer: SocketAddr,
        /// Why.
        error: DtlsError,
    },
    /// A handshake has failed. Dropped when too many events wait.
    HandshakeFailed {
        /// Who tried.
        peer: SocketAddr,
        /// Why it failed.
        error: DtlsError,
    },
}

/// Counters since the endpoint was made, and two gauges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DtlsEndpointStats {
    /// Datagrams that do not start with a DTLS record, and malformed or fragmented ClientHellos.
    pub malformed: u64,
    /// Datagrams other than a ClientHello from an address without association.
    pub strangers: u64,
    /// Repeated ClientHellos of associations that are already connected.
    pub duplicate_hellos: u64,
    /// HelloVerifyRequests sent without keeping state.
    pub verify_requests: u64,
    /// Stateless answers and last alerts dropped because the queue was full.
    pub answers_dropped: u64,
    /// ClientHellos refused because they offer another application protocol.
    pub alpn_refused: u64,
    /// ClientHellos dropped by the rate limit (backends without stateless cookie).
    pub rate_limited: u64,
    /// ClientHellos dropped by the cap per source prefix.
    pub prefix_limited: u64,
    /// ClientHellos dropped because the table is full.
    pub table_full: u64,
    /// Half-open handshakes given up for newer ones.
    pub evicted: u64,
    /// Handshakes started, i.e. sessions made.
    pub started: u64,
    /// Handshakes finished.
    pub connected_total: u64,
    /// Those of them that resumed an earlier session.
    pub resumed: u64,
    /// Handshakes failed, by timeout too.
    pub failed: u64,
    /// Associations replaced by a newer one of the same peer address.
    pub replaced: u64,
    /// Associations in the table now, half-open ones included.
    pub associations: usize,
    /// Half-open handshakes now.
    pub half_open: usize,
}

impl AddAssign for DtlsEndpointStats {
    /// The counters of several endpoints in one.
    fn add_assign(&mut self, other: Self) {
        let Self {
            malformed,
            strangers,
            duplicate_hellos,
            verify_requests,
            answers_dropped,
            alpn_refused,
            rate_limited,
            prefix_limited,
            table_full,
            evicted,
            started,
            connected_total,
            resumed,
            failed,
            replaced,
            associations,
            half_open,
        } = other;
        self.malformed += malformed;
        self.strangers += strangers;
        self.duplicate_hellos += duplicate_hellos;
        self.verify_requests += verify_requests;
        self.answers_dropped += answers_dropped;
        self.alpn_refused += alpn_refused;
        self.rate_limited += rate_limited;
        self.prefix_limited += prefix_limited;
        self.table_full += table_full;
        self.evicted += evicted;
        self.started += started;
        self.connected_total += connected_total;
        self.resumed += resumed;
        self.failed += failed;
        self.replaced += replaced;
        self.associations += associations;
        self.half_open += half_open;
    }
}
