//! An association whose handshake is done: records are ours, whichever library has made the handshake.

use std::fmt;
use std::time::{Duration, Instant};

use super::keys::TrafficKeys;
use super::protection::{Opener, Sealed, Sealer};
use super::queue::DatagramQueue;
use super::record::{self, RECORD_HEADER, records};
use super::session::Opening;
use super::{Alert, DtlsError, DtlsSendError, MAX_PLAINTEXT, RECORD_OVERHEAD};

/// The last flight is sent again at most this often.
const LAST_FLIGHT_INTERVAL: Duration = Duration::from_millis(100);

/// Keys, and what little goes with them. Holds no buffer while nothing waits.
pub(super) struct Established {
    sealer: Sealer,
    opener: Opener,
    /// Opened records that nobody has received yet.
    received: DatagramQueue,
    /// Sealed records to send.
    pub(super) outbound: DatagramQueue,
    /// Until data shows that the peer has it.
    last_flight: Option<LastFlight>,
}

struct LastFlight {
    datagram: Box<[u8]>,
    sent: Instant,
}

/// Why an association ends.
type End = DtlsError;

impl Established {
    /// `last_flight` is that of the handshake if this end has sent it, in one datagram: its ChangeCipherSpec and Finished.
    /// The peer repeats its own flight if it does not come.
    pub(super) fn new(
        now: Instant,
        is_client: bool,
        keys: &TrafficKeys,
        sealed: Sealed,
        outbound: DatagramQueue,
        last_flight: Option<Vec<u8>>,
    ) -> Result<Self, DtlsError> {
        let (own, peers) = if is_client {
            (&keys.client, &keys.server)
        } else {
            (&keys.server, &keys.client)
        };
        let unusable = |_| DtlsError::Backend("keys not usable".to_owned());
        Ok(Self {
            sealer: Sealer::new(keys.suite, own, sealed).map_err(unusable)?,
            opener: Opener::new(keys.suite, peers).map_err(unusable)?,
            received: DatagramQueue::default(),
            outbound,
            last_flight: last_flight.map(|datagram| LastFlight {
                datagram: datagram.into(),
                sent: now,
            }),
        })
    }

    /// Opens the records of a datagram; data waits for [`recv`](Self::recv). An error is how the peer ends it.
    pub(super) fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Result<(), End> {
        for record in records(datagram) {
            // In the clear there is nothing that would still be obeyed.
            if record.epoch != 1 {
                continue;
            }
            match record.content_type {
                record::APPLICATION_DATA => {
                    let opener = &mut self.opener;
                    let taken = self.received.push_with(record.bytes.len(), |queue| {
                        let start = queue.len();
                        queue.extend_from_slice(record.bytes);
                        let bytes = queue.get_mut(start..)?;
                        let plaintext = opener.open(bytes)?;
                        let length = plaintext.len();
                        bytes.copy_within(plaintext, 0);
                        queue.truncate(start + length);
                        // Empty records are allowed and say nothing.
                        (length > 0).then_some(())
                    });
                    if taken {
                        self.last_flight = None;
                    }
                }
                record::ALERT => {
                    let mut bytes = record.bytes.to_vec();
                    let opened = self.opener.open(&mut bytes);
                    match opened.and_then(|range| bytes.get(range)) {
                        Some([_, 0]) => {
                            self.say_goodbye();
                            return Err(DtlsError::PeerClosed);
                        }
                        Some([2, alert]) => return Err(DtlsError::Alert(Alert(*alert))),
                        // A warning.
                        Some(_) | None => {}
                    }
                }
                record::HANDSHAKE => self.repeat_last_flight(now, record.bytes),
                _ => {}
            }
        }
        Ok(())
    }

    /// A Finished that comes again asks for ours; only the peer can ask.
    fn repeat_last_flight(&mut self, now: Instant, record: &[u8]) {
        let Some(flight) = &mut self.last_flight else {
            return;
        };
        let is_due = now.saturating_duration_since(flight.sent) >= LAST_FLIGHT_INTERVAL;
        if is_due && self.opener.open(&mut record.to_vec()).is_some() {
            flight.sent = now;
            // No room is as good as a loss.
            let _ = self.outbound.push(&flight.datagram);
        }
    }

    /// Opens a datagram in place if it is one record of data and nothing waits before it.
    pub(super) fn open(&mut self, datagram: &mut [u8]) -> Opening {
        let &mut [
            record::APPLICATION_DATA,
            0xFE,
            0xFD,
            0,
            1,
            _,
            _,
            _,
            _,
            _,
            _,
            l0,
            l1,
            ..,
        ] = datagram
        else {
            return Opening::NotData;
        };
        let length = RECORD_HEADER + usize::from(u16::from_be_bytes([l0, l1]));
        if length != datagram.len() || !self.received.is_empty() {
            return Opening::NotData;
        }
        match self.opener.open(datagram) {
            Some(plaintext) => {
                self.last_flight = None;
                Opening::Data(plaintext)
            }
            None => Opening::Dropped,
        }
    }

    /// Copies the next received plaintext to `buf`; those that do not fit are dropped.
    pub(super) fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        loop {
            let copied = self.received.pop(|plaintext| {
                buf.get_mut(..plaintext.len())?.copy_from_slice(plaintext);
                Some(plaintext.len())
            })?;
            if copied.is_some() {
                return copied;
            }
        }
    }

    /// Whether received data waits.
    pub(super) fn has_data(&self) -> bool {
        !self.received.is_empty()
    }

    /// Seals one record into the queue of datagrams to send.
    pub(super) fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsSendError> {
        check_size(plaintext)?;
        let longest = plaintext.len() + RECORD_OVERHEAD;
        if !self.outbound.has_room(longest) {
            return Err(DtlsSendError::QueueFull);
        }
        let sealer = &mut self.sealer;
        let sealed = self.outbound.push_with(longest, |queue| {
            sealer
                .seal(record::APPLICATION_DATA, plaintext, queue)
                .ok()?;
            Some(())
        });
        // There was room, so only the numbers can have come to an end.
        sealed.then_some(()).ok_or(DtlsSendError::Closed)
    }

    /// Appends one sealed record to `out`.
    pub(super) fn seal(
        &mut self,
        plaintext: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<usize, DtlsSendError> {
        check_size(plaintext)?;
        self.sealer
            .seal(record::APPLICATION_DATA, plaintext, out)
            .map_err(|_| DtlsSendError::Closed)
    }

    /// Queues a close_notify.
    pub(super) fn say_goodbye(&mut self) {
        const WARNING: u8 = 1;
        let sealer = &mut self.sealer;
        // Without room the peer learns of it by silence, as when the datagram is lost.
        let _ = self.outbound.push_with(2 + RECORD_OVERHEAD, |queue| {
            sealer
                .seal(record::ALERT, &[WARNING, Alert::CLOSE_NOTIFY.0], queue)
                .ok()?;
            Some(())
        });
    }
}

fn check_size(plaintext: &[u8]) -> Result<(), DtlsSendError> {
    if plaintext.is_empty() || plaintext.len() > MAX_PLAINTEXT {
        return Err(DtlsSendError::Size(plaintext.len()));
    }
    Ok(())
}

impl fmt::Debug for Established {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Established").finish_non_exhaustive()
    }
}
