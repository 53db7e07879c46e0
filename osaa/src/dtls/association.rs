//! One association from its first datagram to its last: a library makes the handshake, the rest is ours.
//!
//! The library and all its memory go when the handshake is done. What is left are keys, so an idle association costs
//! little, and what comes in later meets no code but that of [`established`](super::established).

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::trace::ConnectionSecrets;

use super::established::Established;
use super::filter::{Filter, Filtered};
use super::handshake::{Handshake, Step};
use super::queue::DatagramQueue;
use super::record::{ALERT, APPLICATION_DATA, Record, records};
use super::session::Opening;
use super::{DtlsError, DtlsEvent, DtlsInfo, DtlsSendError, DtlsSession, DtlsState};

/// Bytes of data that are kept when they overtake the end of the handshake.
const EARLY_DATA: usize = 16 * 1_024;

/// A session whose handshake is made by `H`.
pub(super) struct Association<H> {
    phase: Phase<H>,
    /// Events that wait, in this order.
    connected: Option<Box<DtlsInfo>>,
    ended: Option<Box<DtlsError>>,
    /// Kept by a capture for as long as this lives.
    secrets: Option<Arc<ConnectionSecrets>>,
    is_client: bool,
}

enum Phase<H> {
    Handshaking(Box<Handshaking<H>>),
    Established(Established),
    /// The peer has ended it, and what it has sent before is to be received.
    Draining(Established, Option<DtlsError>),
    /// Ended; what is queued may still be sent.
    Closed(DatagramQueue),
}

struct Handshaking<H> {
    handshake: H,
    deadline: Instant,
    filter: Filter,
    /// Records of data and alerts under keys that we do not have yet.
    early: DatagramQueue,
}

impl<H: Handshake> Association<H> {
    pub(super) fn new(now: Instant, timeout: Duration, is_client: bool, handshake: H) -> Self {
        Self {
            phase: Phase::Handshaking(Box::new(Handshaking {
                handshake,
                deadline: now + timeout,
                filter: Filter::new(H::SHORTEST_SEALED),
                early: DatagramQueue::default(),
            })),
            connected: None,
            ended: None,
            secrets: None,
            is_client,
        }
    }

    /// Lets the handshake begin, or go on.
    pub(super) fn advance(&mut self, now: Instant, go: impl FnOnce(&mut H) -> Step) {
        let Phase::Handshaking(state) = &mut self.phase else {
            return;
        };
        state.handshake.outgoing().begin_flight();
        let finished = match go(&mut state.handshake) {
            Ok(None) => return,
            Ok(Some(finished)) => finished,
            Err(error) => return self.end(error),
        };
        let outgoing = std::mem::take(state.handshake.outgoing());
        // Who has sent the last flight repeats it: the server, but after a resumption the client.
        let is_last = self.is_client == finished.info.resumed;
        self.secrets = finished.secrets;
        let mut early = std::mem::take(&mut state.early);
        let established = Established::new(
            now,
            self.is_client,
            &finished.keys,
            outgoing.sealed,
            outgoing.queue,
            is_last.then_some(outgoing.flight),
        );
        match established {
            Ok(established) => {
                self.phase = Phase::Established(established);
                self.connected = Some(Box::new(finished.info));
            }
            Err(error) => return self.end(error),
        }
        while early
            .pop(|record| self.handle_sealed(now, record))
            .is_some()
        {}
    }

    /// Takes a datagram after the handshake.
    fn handle_sealed(&mut self, now: Instant, datagram: &[u8]) {
        let Phase::Established(established) = &mut self.phase else {
            return;
        };
        let Err(error) = established.handle_datagram(now, datagram) else {
            return;
        };
        // Data that came before is received before the end is told.
        if established.has_data() {
            let closed = Phase::Closed(DatagramQueue::default());
            if let Phase::Established(established) = std::mem::replace(&mut self.phase, closed) {
                self.phase = Phase::Draining(established, Some(error));
            }
        } else {
            self.end(error);
        }
    }

    fn end(&mut self, error: DtlsError) {
        let closed = Phase::Closed(DatagramQueue::default());
        let outbound = match std::mem::replace(&mut self.phase, closed) {
            Phase::Handshaking(mut state) => {
                // Who gives up has not failed: an attempt that is not needed any more says nothing.
                if !matches!(error, DtlsError::LocalClosed) {
                    state.handshake.failed();
                }
                std::mem::take(&mut state.handshake.outgoing().queue)
            }
            Phase::Established(established) | Phase::Draining(established, _) => {
                established.outbound
            }
            // It ends once.
            Phase::Closed(outbound) => {
                self.phase = Phase::Closed(outbound);
                return;
            }
        };
        self.phase = Phase::Closed(outbound);
        self.ended = Some(Box::new(error));
    }
}

/// Whether a record can only be opened after the handshake.
fn is_early(record: &Record<'_>) -> bool {
    record.epoch == 1 && matches!(record.content_type, APPLICATION_DATA | ALERT)
}

impl<H: Handshake> Handshaking<H> {
    /// What the handshake is to see of a datagram; keeps data that comes early.
    fn sort(&mut self, datagram: &[u8]) -> Filtered {
        let filtered = self.filter.apply(datagram);
        let passed = match &filtered {
            Filtered::All => datagram,
            Filtered::Some(records) => records,
            Filtered::None => return Filtered::None,
        };
        if !records(passed).any(|record| is_early(&record)) {
            return filtered;
        }
        let mut rest = Vec::with_capacity(passed.len());
        for record in records(passed) {
            if !is_early(&record) {
                rest.extend_from_slice(record.bytes);
            } else if self.early.waiting() + record.bytes.len() <= EARLY_DATA {
                let _ = self.early.push(record.bytes);
            }
        }
        if rest.is_empty() {
            Filtered::None
        } else {
            Filtered::Some(rest)
        }
    }
}

impl<H: Handshake> DtlsSession for Association<H> {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        match &mut self.phase {
            Phase::Handshaking(state) => match state.sort(datagram) {
                Filtered::All => self.advance(now, |it| it.handle_datagram(now, datagram)),
                Filtered::Some(rest) => self.advance(now, |it| it.handle_datagram(now, &rest)),
                Filtered::None => {}
            },
            Phase::Established(_) => self.handle_sealed(now, datagram),
            Phase::Draining(..) | Phase::Closed(_) => {}
        }
    }

    fn open(&mut self, datagram: &mut [u8]) -> Opening {
        match &mut self.phase {
            Phase::Established(established) => established.open(datagram),
            Phase::Handshaking(_) | Phase::Draining(..) | Phase::Closed(_) => Opening::NotData,
        }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        match &mut self.phase {
            Phase::Established(established) => established.recv(buf),
            Phase::Draining(established, error) => {
                let received = established.recv(buf);
                if received.is_none()
                    && let Some(error) = error.take()
                {
                    self.end(error);
                }
                received
            }
            Phase::Handshaking(_) | Phase::Closed(_) => None,
        }
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsSendError> {
        match &mut self.phase {
            Phase::Established(established) => established.send(plaintext),
            Phase::Handshaking(_) => Err(DtlsSendError::NotConnected),
            Phase::Draining(..) | Phase::Closed(_) => Err(DtlsSendError::Closed),
        }
    }

    fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<usize, DtlsSendError> {
        match &mut self.phase {
            Phase::Established(established) => established.seal(plaintext, out),
            Phase::Handshaking(_) => Err(DtlsSendError::NotConnected),
            Phase::Draining(..) | Phase::Closed(_) => Err(DtlsSendError::Closed),
        }
    }

    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        let queue = match &mut self.phase {
            Phase::Handshaking(state) => &mut state.handshake.outgoing().queue,
            Phase::Established(established) | Phase::Draining(established, _) => {
                &mut established.outbound
            }
            Phase::Closed(outbound) => outbound,
        };
        queue.pop(|datagram| {
            out.extend_from_slice(datagram);
            datagram.len()
        })
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        if let Some(info) = self.connected.take() {
            return Some(DtlsEvent::Connected(*info));
        }
        self.ended.take().map(|error| DtlsEvent::Closed(*error))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let Phase::Handshaking(state) = &self.phase else {
            return None;
        };
        let again = state.handshake.poll_timeout();
        Some(again.map_or(state.deadline, |at| at.min(state.deadline)))
    }

    fn handle_timeout(&mut self, now: Instant) {
        let Phase::Handshaking(state) = &self.phase else {
            return;
        };
        if now >= state.deadline {
            self.end(DtlsError::HandshakeTimeout);
        } else if state.handshake.poll_timeout().is_some_and(|at| at <= now) {
            self.advance(now, |it| it.handle_timeout(now));
        }
    }

    fn set_waker(&mut self, _: &Waker) {}

    fn close(&mut self, _now: Instant) {
        if let Phase::Established(established) = &mut self.phase {
            established.say_goodbye();
        }
        // What the peer has said about its end is the reason, if it has.
        let reason = match &mut self.phase {
            Phase::Draining(_, error) => error.take(),
            Phase::Handshaking(_) | Phase::Established(_) | Phase::Closed(_) => None,
        };
        self.end(reason.unwrap_or(DtlsError::LocalClosed));
    }

    fn state(&self) -> DtlsState {
        match &self.phase {
            Phase::Handshaking(_) => DtlsState::Handshaking,
            Phase::Established(_) | Phase::Draining(..) => DtlsState::Connected,
            Phase::Closed(_) => DtlsState::Closed,
        }
    }
}

impl<H: Handshake> fmt::Debug for Association<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Association")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
