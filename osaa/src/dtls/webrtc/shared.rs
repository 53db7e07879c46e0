//! What a session and its tasks have in common.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::dtls::queue::DatagramQueue;
use crate::dtls::{Alert, DtlsError, DtlsEvent, DtlsInfo, DtlsState};

use super::Verdict;

/// Held for moments only, never across an await.
#[derive(Default)]
pub(super) struct Shared(Mutex<State>);

pub(super) struct State {
    pub(super) phase: DtlsState,
    /// Datagrams for the peer.
    pub(super) outbound: DatagramQueue,
    /// Plaintext of received records.
    pub(super) plaintext: DatagramQueue,
    /// At most Connected and Closed.
    pub(super) events: VecDeque<DtlsEvent>,
    /// What our verification said, once the library has asked.
    pub(super) verdict: Option<Verdict>,
    /// A fatal alert that the peer has sent in the clear.
    pub(super) peer_alert: Option<Alert>,
    /// The newest datagram sent in the handshake. After it: a server's last flight, until data shows that it has
    /// arrived.
    pub(super) last_flight: Option<Vec<u8>>,
    waker: Option<Waker>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: DtlsState::Handshaking,
            outbound: DatagramQueue::default(),
            plaintext: DatagramQueue::default(),
            events: VecDeque::new(),
            verdict: None,
            peer_alert: None,
            last_flight: None,
            waker: None,
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, then wakes the session's owner.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let (result, waker) = {
            let mut state = self.lock();
            (change(&mut state), state.waker.clone())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }

    /// Registers who is woken, and wakes it at once if something happened before.
    pub(super) fn set_waker(&self, waker: &Waker) {
        let is_ready = {
            let mut state = self.lock();
            state.waker = Some(waker.clone());
            !(state.outbound.is_empty() && state.plaintext.is_empty() && state.events.is_empty())
        };
        if is_ready {
            waker.wake_by_ref();
        }
    }

    pub(super) fn connected(&self, is_client: bool, info: DtlsInfo) {
        self.change(|state| {
            if state.phase != DtlsState::Handshaking {
                return;
            }
            state.phase = DtlsState::Connected;
            if is_client {
                // The last flight is the server's.
                state.last_flight = None;
            }
            state.events.push_back(DtlsEvent::Connected(info));
        });
    }

    pub(super) fn closed(&self, error: DtlsError) {
        self.change(|state| {
            if state.phase == DtlsState::Closed {
                return;
            }
            state.phase = DtlsState::Closed;
            state.last_flight = None;
            if !matches!(error, DtlsError::PeerClosed) {
                state.plaintext.clear();
            }
            state.events.push_back(DtlsEvent::Closed(error));
        });
    }
}
