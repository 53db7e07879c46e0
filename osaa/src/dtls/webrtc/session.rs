//! The caller's end of an association.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use webrtc_dtls::config::Config;

use crate::dtls::filter::{Filter, Filtered};
use crate::dtls::record::{self, ClientHello, Record, records};
use crate::dtls::{
    Alert, DtlsError, DtlsEvent, DtlsSendError, DtlsSession, DtlsState, MAX_PLAINTEXT,
};

use super::Judge;
use super::conn::ChannelConn;
use super::shared::Shared;
use super::task::Task;

/// Datagrams, and plaintexts, that wait for the tasks; more are dropped.
const CHANNEL: usize = 256;

/// Nonce and tag of AES-GCM, all we allow; the library panics over less.
const SHORTEST_SEALED: usize = 8 + 16;

/// A server's last flight is sent again at most this often.
const LAST_FLIGHT_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct WebRtcSession {
    shared: Arc<Shared>,
    inbound: mpsc::Sender<Vec<u8>>,
    outgoing: mpsc::Sender<Vec<u8>>,
    close: Option<oneshot::Sender<()>>,
    task: AbortHandle,
    deadline: Instant,
    is_client: bool,
    filter: Filter,
    address_proved: bool,
    last_flight_sent: Option<Instant>,
}

impl WebRtcSession {
    pub(super) fn start(
        runtime: &Handle,
        config: Config,
        is_client: bool,
        judge: Judge,
        deadline: Instant,
    ) -> Self {
        let shared = Arc::new(Shared::default());
        let (inbound, from_session) = mpsc::channel(CHANNEL);
        let (outgoing, from_owner) = mpsc::channel(CHANNEL);
        let (close, closing) = oneshot::channel();
        let task = Task {
            shared: Arc::clone(&shared),
            conn: Arc::new(ChannelConn::new(from_session, Arc::clone(&shared))),
            config,
            is_client,
            judge,
            outgoing: from_owner,
            close: closing,
        };
        Self {
            shared,
            inbound,
            outgoing,
            close: Some(close),
            task: runtime.spawn(task.run()).abort_handle(),
            deadline,
            is_client,
            filter: Filter::new(SHORTEST_SEALED),
            address_proved: is_client,
            last_flight_sent: None,
        }
    }

    /// Notes what is to be known from the clear before the library sees it.
    fn inspect(&mut self, record: &Record<'_>) {
        if record.epoch != 0 {
            return;
        }
        if let (record::ALERT, [2, alert]) = (record.content_type, record.fragment) {
            self.shared.lock().peer_alert = Some(Alert(*alert));
        }
        if !self.address_proved
            && record::is_client_hello(record)
            && let Some(hello) = ClientHello::parse(record)
        {
            let state = self.shared.lock();
            self.address_proved = state
                .last_flight
                .as_deref()
                .and_then(|flight| records(flight).next())
                .and_then(|answer| record::cookie_of_verify_request(&answer))
                .is_some_and(|cookie| cookie == hello.cookie);
        }
    }

    /// After the handshake: what is not under keys is dropped, and a repeated flight answered.
    fn handle_sealed(&mut self, now: Instant, datagram: &[u8]) {
        let mut sealed = Vec::with_capacity(datagram.len());
        let mut is_repeated_flight = false;
        for record in records(datagram) {
            if record.fragment.len() < SHORTEST_SEALED {
                continue;
            }
            match (record.epoch, record.content_type) {
                (1, record::APPLICATION_DATA | record::ALERT) => {
                    sealed.extend_from_slice(record.bytes);
                }
                (1, record::HANDSHAKE) => is_repeated_flight = true,
                _ => {}
            }
        }
        if !sealed.is_empty() {
            // A full channel loses the datagram, as a network may.
            let _ = self.inbound.try_send(sealed);
        }
        let is_due = self
            .last_flight_sent
            .is_none_or(|at| now.saturating_duration_since(at) >= LAST_FLIGHT_INTERVAL);
        if is_repeated_flight && is_due && !self.is_client {
            self.last_flight_sent = Some(now);
            self.shared.change(|state| {
                if let Some(flight) = &state.last_flight {
                    let _ = state.outbound.push(flight);
                }
            });
        }
    }

    fn abort(&mut self, error: DtlsError) {
        self.task.abort();
        self.shared.closed(error);
    }
}

impl DtlsSession for WebRtcSession {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        match self.state() {
            DtlsState::Handshaking => {
                let datagram = match self.filter.apply(datagram) {
                    Filtered::All => datagram.to_vec(),
                    Filtered::Some(rest) => rest,
                    Filtered::None => return,
                };
                for record in records(&datagram) {
                    self.inspect(&record);
                }
                let _ = self.inbound.try_send(datagram);
            }
            DtlsState::Connected => self.handle_sealed(now, datagram),
            DtlsState::Closed => {}
        }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        let mut state = self.shared.lock();
        loop {
            let length = state.plaintext.pop(|plaintext| {
                // A plaintext that does not fit is dropped.
                let to = buf.get_mut(..plaintext.len())?;
                to.copy_from_slice(plaintext);
                Some(plaintext.len())
            })?;
            if length.is_some() {
                return length;
            }
        }
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsSendError> {
        match self.state() {
            DtlsState::Handshaking => return Err(DtlsSendError::NotConnected),
            DtlsState::Connected if self.close.is_some() => {}
            DtlsState::Connected | DtlsState::Closed => return Err(DtlsSendError::Closed),
        }
        if plaintext.is_empty() || plaintext.len() > MAX_PLAINTEXT {
            return Err(DtlsSendError::Size(plaintext.len()));
        }
        self.outgoing
            .try_send(plaintext.to_vec())
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => DtlsSendError::QueueFull,
                mpsc::error::TrySendError::Closed(_) => DtlsSendError::Closed,
            })
    }

    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        self.shared.lock().outbound.pop(|datagram| {
            out.extend_from_slice(datagram);
            datagram.len()
        })
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        let mut state = self.shared.lock();
        // What came before the end is received before the end is told.
        if let Some(DtlsEvent::Closed(_)) = state.events.front()
            && !state.plaintext.is_empty()
        {
            return None;
        }
        state.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        (self.state() == DtlsState::Handshaking).then_some(self.deadline)
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.state() == DtlsState::Handshaking && now >= self.deadline {
            self.abort(DtlsError::HandshakeTimeout);
        }
    }

    fn set_waker(&mut self, waker: &Waker) {
        self.shared.set_waker(waker);
    }

    fn close(&mut self, _now: Instant) {
        match self.state() {
            DtlsState::Handshaking => self.abort(DtlsError::LocalClosed),
            DtlsState::Connected => {
                // The task sends what waits, then the alert, then reports.
                if let Some(close) = self.close.take() {
                    let _ = close.send(());
                }
            }
            DtlsState::Closed => {}
        }
    }

    fn state(&self) -> DtlsState {
        self.shared.lock().phase
    }

    fn address_proved(&self) -> bool {
        self.address_proved
    }
}

impl Drop for WebRtcSession {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for WebRtcSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtcSession")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}
