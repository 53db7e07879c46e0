//! One association: an `SSL` over a pipe, and the state around it.

use std::collections::VecDeque;
use std::fmt;
use std::task::Waker;
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslStream};
use tracing::trace;

use crate::cert::{ALPN, CertificateError};
use crate::dtls::filter::{Filter, Filtered};
use crate::dtls::{
    Alert, DtlsError, DtlsEvent, DtlsInfo, DtlsSendError, DtlsSession, DtlsState, MAX_PLAINTEXT,
    RECORD_OVERHEAD,
};

use super::context::data;
use super::ffi;
use super::pipe::Pipe;

/// The tag of CHACHA20-POLY1305, which sends no nonce.
const SHORTEST_SEALED: usize = 16;

pub(super) struct OpenSslSession {
    stream: SslStream<Pipe>,
    state: State,
    events: VecDeque<DtlsEvent>,
    /// Whether the record buffers were given back.
    is_lean: bool,
}

enum State {
    Handshaking {
        deadline: Instant,
        retransmission: Option<Instant>,
        filter: Filter,
    },
    Connected,
    Closed,
}

impl OpenSslSession {
    pub(super) fn new(ssl: Ssl, now: Instant, timeout: Duration) -> Result<Self, ErrorStack> {
        Ok(Self {
            stream: SslStream::new(ssl, Pipe::default())?,
            state: State::Handshaking {
                deadline: now + timeout,
                retransmission: None,
                filter: Filter::new(SHORTEST_SEALED),
            },
            events: VecDeque::new(),
            is_lean: false,
        })
    }

    /// Starts a server's handshake with the ClientHello that brought the cookie back.
    pub(super) fn listen(&mut self, now: Instant, hello: &[u8]) -> Result<(), DtlsError> {
        self.stream.get_mut().inbound.push(hello);
        if !ffi::listen(self.stream.ssl()) {
            let reason = ErrorStack::get();
            return Err(DtlsError::Protocol(format!(
                "ClientHello refused: {reason}"
            )));
        }
        self.advance(now);
        Ok(())
    }

    /// Goes on with the handshake as far as the datagrams that are there allow.
    pub(super) fn advance(&mut self, now: Instant) {
        loop {
            let waiting = self.waiting();
            clear_errors();
            match self.stream.do_handshake() {
                Ok(()) => return self.finish_handshake(),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) if self.is_noise(&error, waiting) => {
                    if self.waiting() == 0 {
                        break;
                    }
                }
                Err(error) => return self.fail(&error),
            }
        }
        if let State::Handshaking { retransmission, .. } = &mut self.state {
            *retransmission = ffi::timeout(self.stream.ssl()).map(|left| now + left);
        }
    }

    fn finish_handshake(&mut self) {
        let ssl = self.stream.ssl();
        let alpn = ssl.selected_alpn_protocol();
        if alpn.is_some_and(|name| name != ALPN) {
            return self.close_with(DtlsError::Alpn);
        }
        let alpn = alpn.is_some();
        let cipher = ssl
            .current_cipher()
            .and_then(|cipher| cipher.standard_name());
        // The verifier has run in the handshake or nothing was presented; either way the verdict is ours.
        let verdict = data(ssl).map_or(Err(CertificateError::Missing), |data| data.take_verdict());
        match verdict {
            Ok(peer) => {
                self.state = State::Connected;
                self.events
                    .push_back(DtlsEvent::Connected(DtlsInfo { peer, cipher, alpn }));
            }
            Err(error) => self.close_with(DtlsError::Certificate(error)),
        }
    }

    /// Ends the association for an error of OpenSSL's, which has queued the alert.
    fn fail(&mut self, error: &openssl::ssl::Error) {
        let refusal = data(self.stream.ssl()).and_then(|data| data.take_refusal_or_verdict());
        let error = match refusal {
            Some(Err(refusal)) => DtlsError::Certificate(refusal),
            Some(Ok(_)) | None => classify(error),
        };
        self.end(error);
    }

    /// Ends the association for a reason of ours, with a close_notify.
    fn close_with(&mut self, error: DtlsError) {
        if !self.fill_out() {
            return self.end(error);
        }
        clear_errors();
        // Whether the peer's close_notify is already there does not matter: we do not wait for it.
        if let Err(error) = self.stream.shutdown() {
            trace!(%error, "close_notify not sent");
        }
        self.end(error);
    }

    /// Whether OpenSSL returned without success and without an error because it has dropped a datagram. What
    /// follows it may be good. `waited` is what waited before the call.
    fn is_noise(&self, error: &openssl::ssl::Error, waited: usize) -> bool {
        error.code() == ErrorCode::SYSCALL
            && error
                .ssl_error()
                .is_none_or(|stack| stack.errors().is_empty())
            && self.waiting() < waited
    }

    /// Received bytes that OpenSSL has not read yet.
    fn waiting(&self) -> usize {
        self.stream.get_ref().inbound.waiting()
    }

    /// Takes the record buffers back into use: OpenSSL's DTLS writes without looking whether they are there.
    fn fill_out(&mut self) -> bool {
        if self.is_lean {
            self.is_lean = !ffi::alloc_buffers(self.stream.ssl());
        }
        !self.is_lean
    }

    fn end(&mut self, error: DtlsError) {
        self.state = State::Closed;
        self.stream.get_mut().inbound.clear();
        self.events.push_back(DtlsEvent::Closed(error));
    }

    /// Reads past the rest of a record that did not fit the caller's buffer.
    fn drop_rest_of_record(&mut self) {
        let mut scratch = [0; 512];
        let mut left = self.stream.ssl().pending();
        while left > 0 {
            let length = left.min(scratch.len());
            let Some(part) = scratch.get_mut(..length) else {
                return;
            };
            match self.stream.ssl_read(part) {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                Ok(_) | Err(_) => return,
            }
        }
    }
}

impl DtlsSession for OpenSslSession {
    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) {
        match &mut self.state {
            State::Handshaking { filter, .. } => {
                match filter.apply(datagram) {
                    Filtered::All => self.stream.get_mut().inbound.push(datagram),
                    Filtered::Some(rest) => self.stream.get_mut().inbound.push(&rest),
                    Filtered::None => return,
                };
                self.advance(now);
            }
            // Opened by `recv`, directly into the caller's buffer.
            State::Connected => {
                self.stream.get_mut().inbound.push(datagram);
            }
            State::Closed => {}
        }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        // Nothing can be inside OpenSSL when its buffers were given back.
        if buf.is_empty() || (self.is_lean && self.waiting() == 0) || !self.fill_out() {
            return None;
        }
        while let State::Connected = self.state {
            let waiting = self.waiting();
            clear_errors();
            match self.stream.ssl_read(buf) {
                Ok(0) => {}
                Ok(length) => {
                    let is_cut = length == buf.len()
                        && length < MAX_PLAINTEXT
                        && self.stream.ssl().pending() > 0;
                    if !is_cut {
                        return Some(length);
                    }
                    self.drop_rest_of_record();
                }
                Err(error) if error.code() == ErrorCode::WANT_READ => return None,
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                    self.close_with(DtlsError::PeerClosed);
                }
                Err(error) if self.is_noise(&error, waiting) => {
                    if self.waiting() == 0 {
                        return None;
                    }
                }
                Err(error) => self.fail(&error),
            }
        }
        None
    }

    fn send(&mut self, plaintext: &[u8]) -> Result<(), DtlsSendError> {
        match self.state {
            State::Handshaking { .. } => return Err(DtlsSendError::NotConnected),
            State::Closed => return Err(DtlsSendError::Closed),
            State::Connected => {}
        }
        if plaintext.is_empty() || plaintext.len() > MAX_PLAINTEXT {
            return Err(DtlsSendError::Size(plaintext.len()));
        }
        let outbound = &self.stream.get_ref().outbound;
        if !outbound.has_room(plaintext.len() + RECORD_OVERHEAD) {
            return Err(DtlsSendError::QueueFull);
        }
        if !self.fill_out() {
            self.end(DtlsError::Backend("out of memory".to_owned()));
            return Err(DtlsSendError::Closed);
        }
        clear_errors();
        match self.stream.ssl_write(plaintext) {
            Ok(_) => Ok(()),
            Err(error) => {
                self.fail(&error);
                Err(DtlsSendError::Closed)
            }
        }
    }

    fn poll_transmit(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        self.stream.get_mut().outbound.pop(|datagram| {
            out.extend_from_slice(datagram);
            datagram.len()
        })
    }

    fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Handshaking {
                deadline,
                retransmission,
                ..
            } => Some(retransmission.map_or(deadline, |at| at.min(deadline))),
            State::Connected | State::Closed => None,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        let State::Handshaking {
            deadline,
            retransmission,
            ..
        } = self.state
        else {
            return;
        };
        if now >= deadline {
            return self.end(DtlsError::HandshakeTimeout);
        }
        if retransmission.is_some_and(|at| at <= now) {
            if !ffi::handle_timeout(self.stream.ssl()) {
                // It gives up after a number of retransmissions of its own; take its reason off the queue.
                drop(ErrorStack::get());
                return self.end(DtlsError::HandshakeTimeout);
            }
            self.advance(now);
        }
    }

    fn set_waker(&mut self, _: &Waker) {}

    fn release_buffers(&mut self) {
        if matches!(self.state, State::Connected) && ffi::free_buffers(self.stream.ssl()) {
            self.is_lean = true;
        }
    }

    fn close(&mut self, _now: Instant) {
        match self.state {
            State::Handshaking { .. } => self.end(DtlsError::LocalClosed),
            State::Connected => self.close_with(DtlsError::LocalClosed),
            State::Closed => {}
        }
    }

    fn state(&self) -> DtlsState {
        match self.state {
            State::Handshaking { .. } => DtlsState::Handshaking,
            State::Connected => DtlsState::Connected,
            State::Closed => DtlsState::Closed,
        }
    }
}

impl fmt::Debug for OpenSslSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenSslSession")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

/// OpenSSL takes what an earlier call on this thread, for another association perhaps, has left in the queue of
/// errors for an error of the next call.
fn clear_errors() {
    drop(ErrorStack::get());
}

/// Reasons from <openssl/sslerr.h>.
fn classify(error: &openssl::ssl::Error) -> DtlsError {
    const PEER_DID_NOT_RETURN_A_CERTIFICATE: i32 = 199;
    const NO_APPLICATION_PROTOCOL: i32 = 235;
    const READ_TIMEOUT_EXPIRED: i32 = 312;
    /// A received alert is reported as its number above this.
    const ALERT_OFFSET: i32 = 1_000;

    if error.code() == ErrorCode::ZERO_RETURN {
        return DtlsError::PeerClosed;
    }
    let errors = error
        .ssl_error()
        .map(ErrorStack::errors)
        .unwrap_or_default();
    for entry in errors {
        match entry.reason_code() {
            PEER_DID_NOT_RETURN_A_CERTIFICATE => {
                return DtlsError::Certificate(CertificateError::Missing);
            }
            NO_APPLICATION_PROTOCOL => return DtlsError::Alpn,
            READ_TIMEOUT_EXPIRED => return DtlsError::HandshakeTimeout,
            code => {
                if let Ok(alert) = u8::try_from(code - ALERT_OFFSET) {
                    return DtlsError::Alert(Alert(alert));
                }
            }
        }
    }
    let reason = errors.first().and_then(openssl::error::Error::reason);
    DtlsError::Protocol(reason.unwrap_or("unexpected end").to_owned())
}
