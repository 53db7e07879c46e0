//! One handshake: an `SSL` over a pipe.

use std::time::Instant;

use openssl::error::ErrorStack;
use openssl::ssl::{ErrorCode, Ssl, SslStream};

use crate::cert::{ALPN, CertificateError};
use crate::dtls::handshake::{Finished, Handshake, Outgoing, Step};
use crate::dtls::{Alert, DtlsError, DtlsInfo};

use super::context::{HeldSessions, SessionData, data};
use super::ffi;
use super::pipe::Pipe;
use super::resumption::Resumption;
use super::secrets::traffic_keys;

pub(super) struct OpenSslHandshake {
    stream: SslStream<Pipe>,
    retransmission: Option<Instant>,
    /// A client's that remembers sessions.
    resumption: Option<Resumption>,
    /// Dropped after the `SSL` above.
    held: HeldSessions,
}

impl OpenSslHandshake {
    pub(super) fn new(ssl: Ssl, resumption: Option<Resumption>) -> Result<Self, ErrorStack> {
        let held = data(&ssl).map(SessionData::held).unwrap_or_default();
        Ok(Self {
            stream: SslStream::new(ssl, Pipe::default())?,
            retransmission: None,
            resumption,
            held,
        })
    }

    /// Has the client remember no session of this server.
    pub(super) fn forget_session(&mut self) {
        if let Some(resumption) = &mut self.resumption {
            resumption.give_up();
        }
    }

    /// Whether a session was offered and the hello has become longer than `limit`.
    pub(super) fn offers_too_much(&self, limit: usize) -> bool {
        let offers = self.resumption.as_ref().and_then(Resumption::offered);
        offers.is_some() && self.stream.get_ref().outgoing.flight.len() > limit
    }

    /// Starts a server's handshake with the ClientHello that brought the cookie back.
    pub(super) fn listen(&mut self, now: Instant, hello: &[u8]) -> Step {
        self.stream.get_mut().inbound.push(hello);
        if !ffi::listen(self.stream.ssl()) {
            let reason = ErrorStack::get();
            return Err(DtlsError::Protocol(format!(
                "ClientHello refused: {reason}"
            )));
        }
        self.advance(now)
    }

    /// Goes on with the handshake as far as the datagrams that are there allow.
    pub(super) fn advance(&mut self, now: Instant) -> Step {
        loop {
            let waiting = self.waiting();
            self.held.hold(self.stream.ssl());
            clear_errors();
            match self.stream.do_handshake() {
                Ok(()) => return self.finish().map(Some),
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) if self.is_noise(&error, waiting) => {
                    if self.waiting() == 0 {
                        break;
                    }
                }
                Err(error) => return Err(self.refusal(&error)),
            }
        }
        self.retransmission = ffi::timeout(self.stream.ssl()).map(|left| now + left);
        Ok(None)
    }

    fn finish(&mut self) -> Result<Finished, DtlsError> {
        let ssl = self.stream.ssl();
        let alpn = ssl.selected_alpn_protocol();
        if alpn.is_some_and(|name| name != ALPN) {
            return Err(DtlsError::Alpn);
        }
        let cipher = ssl
            .current_cipher()
            .and_then(|cipher| cipher.standard_name());
        let resumed = ssl.session_reused();
        let peer = match &mut self.resumption {
            Some(resumption) if resumed => {
                let peer = resumption.resumed(ssl);
                Some(peer.ok_or(DtlsError::Certificate(CertificateError::Missing))?)
            }
            resumption => {
                // The verifier has run in the handshake or nothing was presented; either way the verdict is ours.
                let verdict =
                    data(ssl).map_or(Err(CertificateError::Missing), |data| data.take_verdict());
                let peer = verdict.map_err(DtlsError::Certificate)?;
                if let Some(resumption) = resumption {
                    resumption.verified(ssl, peer.as_ref());
                }
                peer
            }
        };
        Ok(Finished {
            info: DtlsInfo {
                peer,
                cipher,
                alpn: alpn.is_some(),
                resumed,
            },
            keys: traffic_keys(ssl)
                .ok_or_else(|| DtlsError::Backend("no keys for this cipher suite".to_owned()))?,
            secrets: data(ssl).and_then(SessionData::secrets),
        })
    }

    /// The reason for an error of OpenSSL's, which has queued the alert.
    fn refusal(&self, error: &openssl::ssl::Error) -> DtlsError {
        let refusal = data(self.stream.ssl()).and_then(|data| data.take_refusal_or_verdict());
        match refusal {
            Some(Err(refusal)) => DtlsError::Certificate(refusal),
            Some(Ok(_)) | None => classify(error),
        }
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
}

impl Handshake for OpenSslHandshake {
    /// The tag of CHACHA20-POLY1305, which sends no nonce.
    const SHORTEST_SEALED: usize = 16;

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Step {
        if let Some(resumption) = &mut self.resumption {
            resumption.answered();
        }
        self.stream.get_mut().inbound.push(datagram);
        self.advance(now)
    }

    fn handle_timeout(&mut self, now: Instant) -> Step {
        if !ffi::handle_timeout(self.stream.ssl()) {
            // It gives up after a number of retransmissions of its own; take its reason off the queue.
            clear_errors();
            return Err(DtlsError::HandshakeTimeout);
        }
        self.advance(now)
    }

    fn failed(&mut self) {
        if let Some(resumption) = &mut self.resumption {
            resumption.failed();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.retransmission
    }

    fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.stream.get_mut().outgoing
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
