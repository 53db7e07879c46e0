//! One DTLS association without I/O: the trait that every backend implements.

use std::fmt;
use std::ops::Range;
use std::task::Waker;
use std::time::Instant;

use crate::cert::PeerIdentity;

use super::{DtlsError, DtlsSendError};

/// Longest plaintext of one record, RFC 6347 section 4.1: 2^14 bytes. A buffer of this size given to
/// [`DtlsSession::recv`] never loses a record.
pub const MAX_PLAINTEXT: usize = 1 << 14;

/// Bytes that one record adds to its plaintext at most, for the suites we allow: header 13, explicit nonce 8,
/// tag 16.
pub const RECORD_OVERHEAD: usize = 13 + 8 + 16;

/// Bound of each session's queues of datagrams, in and out, in bytes. What exceeds it is dropped, as a network
/// would.
pub const QUEUE_LIMIT: usize = 256 * 1024;

/// One end of one DTLS association, client or server, without a socket.
///
/// After every call that may change something (`handle_*`, `send`, `close`, and after the waker was woken)
/// drain it: [`recv`](Self::recv), [`poll_event`](Self::poll_event), [`poll_transmit`](Self::poll_transmit),
/// then arm a timer for [`poll_timeout`](Self::poll_timeout). Draining is always safe and early timers are
/// harmless. Noise from the network is dropped inside and never an error.
///
/// The order is: at most one [`DtlsEvent::Connected`], data, at most one [`DtlsEvent::Closed`]. When the peer closes,
/// the event comes after the data before it was received. Data is only accepted and delivered after the peer's
/// certificate was verified as configured.
///
/// # Time
///
/// `now` runs the handshake deadline, and with `dimpl` the retransmission timers. Those of the other libraries follow the
/// clock of the system (OpenSSL) or of tokio (webrtc-dtls): in a test with virtual time a handshake without
/// loss works, retransmissions do not come early.
pub trait DtlsSession: Send + fmt::Debug {
    /// Takes one datagram from the peer.
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]);

    /// Opens a datagram in place, without copying, if it is exactly one record of data and nothing waits before it.
    /// What is [`NotData`](Opening::NotData) is untouched, and to be given to
    /// [`handle_datagram`](Self::handle_datagram).
    fn open(&mut self, datagram: &mut [u8]) -> Opening {
        let _ = datagram;
        Opening::NotData
    }

    /// Writes the plaintext of the next data record to the front of `buf` and returns its length; `None`
    /// when there is none (yet). Boundaries of records are kept: a record longer than `buf` is dropped, never
    /// split. Empty records are skipped.
    fn recv(&mut self, buf: &mut [u8]) -> Option<usize>;

    /// Seals `plaintext` (1 to [`MAX_PLAINTEXT`] bytes) as one record in a datagram of its own.
    ///
    /// # Errors
    ///
    /// Before the handshake has finished, after close, for a size out of range, and when the transmit queue
    /// is full. Nothing is sent then.
    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsSendError>;

    /// As [`send`](Self::send), but appends the datagram to `out` at once and returns its length. Zero: it was queued
    /// behind others, or is sealed in the background, and comes by [`poll_transmit`](Self::poll_transmit).
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<usize, DtlsSendError> {
        let _ = out;
        self.send(plaintext).map(|()| 0)
    }

    /// Appends the next datagram for the peer to `out` and returns its length; `None` when there is none.
    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize>;

    /// Next event; call until `None`.
    fn poll_event(&mut self) -> Option<DtlsEvent>;

    /// When [`handle_timeout`](Self::handle_timeout) is due; `None` is never.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Lets retransmissions and the handshake deadline happen that are due.
    fn handle_timeout(&mut self, now: Instant);

    /// Registers who is woken when work done in the background has made the session ready to be drained.
    /// Backends without background work never wake. The last waker counts.
    fn set_waker(&mut self, waker: &Waker);

    /// Starts an orderly close: queues close_notify, then reports [`DtlsError::LocalClosed`]. Calling it again
    /// changes nothing. During a handshake it is abandoned.
    fn close(&mut self, now: Instant);

    /// Where the association stands.
    fn state(&self) -> DtlsState;

    /// Whether the peer has shown that it receives what is sent to its address. A server without stateless
    /// cookie keeps sessions for which this is false; they are the first to be evicted.
    fn address_proved(&self) -> bool {
        true
    }
}

/// What [`DtlsSession::open`] has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The plaintext is at these positions of the datagram.
    Data(Range<usize>),
    /// It was a repetition or a forgery; its bytes are now unspecified.
    Dropped,
    /// Nothing: it is something else, or several records.
    NotData,
}

/// Where an association stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsState {
    /// Handshake in progress.
    Handshaking,
    /// Data flows.
    Connected,
    /// Ended, with the reason in the last event. What was queued for transmission may still be drained.
    Closed,
}

/// What happened to an association.
#[derive(Debug)]
pub enum DtlsEvent {
    /// The handshake has finished and the peer is verified.
    Connected(DtlsInfo),
    /// The association has ended.
    Closed(DtlsError),
}

/// What was negotiated.
#[derive(Debug)]
pub struct DtlsInfo {
    /// The peer's certificate, if it presented one. Verified, unless verification was switched off
    /// ([`Trust::DangerousNone`](crate::cert::Trust::DangerousNone)).
    pub peer: Option<PeerIdentity>,
    /// Cipher suite by its IANA name, for logs; `None` where the backend does not tell.
    pub cipher: Option<&'static str>,
    /// Whether both ends agreed on ALPN `tscf`. False when one of them did not offer it.
    pub alpn: bool,
    /// An earlier session was resumed: nobody showed a certificate this time, and `peer` is who it was then.
    pub resumed: bool,
}
