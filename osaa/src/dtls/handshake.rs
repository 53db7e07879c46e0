//! What a library is needed for: the handshake.

use std::sync::Arc;
use std::time::Instant;

use crate::trace::ConnectionSecrets;

use super::keys::TrafficKeys;
use super::protection::Sealed;
use super::queue::DatagramQueue;
use super::record::{HANDSHAKE, records};
use super::{DtlsError, DtlsInfo};

/// One handshake in progress, by a library.
///
/// It is given datagrams that were [filtered](super::filter) and hold no data, and never one after it has finished.
pub(super) trait Handshake: Send {
    /// Shortest fragment under keys that the library copes with.
    const SHORTEST_SEALED: usize;

    /// Goes on with what a datagram brings.
    ///
    /// # Errors
    ///
    /// Why the handshake has failed; the alert for the peer is among what is outgoing.
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Step;

    /// Sends again what is due.
    ///
    /// # Errors
    ///
    /// As for [`handle_datagram`](Self::handle_datagram).
    fn handle_timeout(&mut self, now: Instant) -> Step;

    /// It has failed, by an error of its own or by its deadline.
    fn failed(&mut self) {}

    /// When something is to be sent again.
    fn poll_timeout(&self) -> Option<Instant>;

    /// What it has sent.
    fn outgoing(&mut self) -> &mut Outgoing;
}

/// How far a handshake has come: `None` is not yet there.
pub(super) type Step = Result<Option<Finished>, DtlsError>;

/// A handshake that is done; the peer is verified.
pub(super) struct Finished {
    pub(super) info: DtlsInfo,
    pub(super) keys: TrafficKeys,
    /// To be kept for as long as the association lives.
    pub(super) secrets: Option<Arc<ConnectionSecrets>>,
}

/// Datagrams that a handshake sends, and what is to be known about them afterwards.
#[derive(Default)]
pub(super) struct Outgoing {
    pub(super) queue: DatagramQueue,
    /// Numbers that records under keys have used.
    pub(super) sealed: Sealed,
    /// The first number of records in the clear that is free.
    #[cfg(feature = "dtls-dimpl")]
    pub(super) next_clear: u64,
    /// All that was sent since [`begin_flight`](Self::begin_flight), as one datagram.
    pub(super) flight: Vec<u8>,
}

impl Outgoing {
    pub(super) fn begin_flight(&mut self) {
        self.flight.clear();
    }

    /// Queues a datagram. A full queue loses it, as a network may; the handshake sends it again.
    pub(super) fn push(&mut self, datagram: &[u8]) {
        for record in records(datagram) {
            if record.epoch != 1 {
                #[cfg(feature = "dtls-dimpl")]
                {
                    self.next_clear = self.next_clear.max(record.sequence + 1);
                }
                continue;
            }
            let next = record.sequence + 1;
            self.sealed.next_sequence = self.sealed.next_sequence.max(next);
            // With suites that send no nonce it is ciphertext, and not used.
            if let Some(nonce) = record.fragment.first_chunk::<8>()
                && record.content_type == HANDSHAKE
            {
                self.sealed.next_nonce = u64::from_be_bytes(*nonce).wrapping_add(1);
            }
        }
        self.flight.extend_from_slice(datagram);
        let _ = self.queue.push(datagram);
    }
}
