//! One handshake by the library.

use std::sync::Arc;
use std::time::Instant;

use dimpl::{Dtls, DtlsCertificate, Error, Output, SecurityError};

use crate::cert::CertificateError;
use crate::dtls::handshake::{Finished, Handshake, Outgoing, Step};
use crate::dtls::record::{self, asks_for_certificate, records};
use crate::dtls::{Alert, DtlsError, DtlsInfo};

use super::chain::Chain;
use super::provider::Context;
use super::{Judge, Shared, Verdict};

pub(super) struct DimplHandshake {
    dtls: Dtls,
    context: Arc<Context>,
    outgoing: Outgoing,
    /// Where the library writes datagrams: as long as they can be.
    buffer: Vec<u8>,
    retransmission: Option<Instant>,
    judge: Judge,
    chain: Chain,
    verdict: Option<Verdict>,
    /// Whether it has to give up when it is asked for a certificate: a client that has none.
    cannot_present: bool,
    connected: bool,
}

impl DimplHandshake {
    pub(super) fn client(
        now: Instant,
        shared: &Shared,
        judge: Judge,
        has_certificate: bool,
    ) -> Self {
        let mut this = Self::new(now, shared, judge, Context::new(None, &shared.keys));
        this.cannot_present = !has_certificate;
        this.dtls.set_active(true);
        this
    }

    pub(super) fn server(now: Instant, shared: &Shared, judge: Judge, cookie: [u8; 32]) -> Self {
        Self::new(now, shared, judge, Context::new(Some(cookie), &shared.keys))
    }

    fn new(now: Instant, shared: &Shared, judge: Judge, context: Arc<Context>) -> Self {
        let certificate = DtlsCertificate {
            certificate: shared.certificate.clone(),
            // The context gives it.
            private_key: Vec::new(),
        };
        let config = Arc::clone(&shared.config);
        Self {
            dtls: context.enter(|| Dtls::new_12(config, certificate, now)),
            context,
            outgoing: Outgoing::default(),
            buffer: vec![0; usize::from(shared.options.mtu)],
            retransmission: None,
            judge,
            chain: Chain::default(),
            verdict: None,
            cannot_present: false,
            connected: false,
        }
    }

    /// A client's first flight.
    pub(super) fn start(&mut self, now: Instant) -> Step {
        self.call(|dtls| dtls.handle_timeout(now))
    }

    /// A server's, with the ClientHello that brought the cookie back.
    pub(super) fn accept(&mut self, now: Instant, datagram: &[u8]) -> Step {
        let hello = records(datagram).next();
        let Some(first) = hello.and_then(|hello| record::without_cookie(&hello)) else {
            return Err(DtlsError::Protocol("malformed ClientHello".to_owned()));
        };
        // The exchange that was ours, to bring the library where it is over. What it answers was answered.
        self.call(|dtls| {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(&first)
        })?;
        self.outgoing = Outgoing::default();
        self.call(|dtls| dtls.handle_packet(datagram))
    }

    /// Calls into the library, then takes what comes out of it.
    fn call(&mut self, call: impl FnOnce(&mut Dtls) -> Result<(), Error>) -> Step {
        let context = Arc::clone(&self.context);
        context.enter(|| {
            let result = call(&mut self.dtls);
            // A certificate that is not accepted is the reason for what follows from it.
            match self.drain(result.is_ok()) {
                Ok(()) => {}
                Err(error) => return Err(self.give_up(DtlsError::Certificate(error))),
            }
            if let Err(error) = result {
                let error = translate(&error);
                return Err(self.give_up(error));
            }
            if !self.connected {
                return Ok(None);
            }
            self.finish().map(Some)
        })
    }

    fn drain(&mut self, may_send: bool) -> Result<(), CertificateError> {
        loop {
            match self.dtls.poll_output(&mut self.buffer) {
                Output::Packet(datagram) => {
                    if may_send {
                        self.outgoing.push(datagram);
                    }
                }
                Output::BufferTooSmall { needed } => self.buffer.resize(needed, 0),
                Output::PeerCert(leaf) => {
                    // Before anything that follows from it is sent.
                    let verdict = (self.judge)(&self.chain.of(leaf));
                    self.verdict = Some(Ok(verdict?));
                }
                Output::Connected => self.connected = true,
                Output::Timeout(at) => {
                    self.retransmission = Some(at);
                    return Ok(());
                }
                // Data is kept from it, and keying material for SRTP not asked for.
                Output::ApplicationData(_)
                | Output::CloseNotify
                | Output::KeyingMaterial(..)
                | _ => {}
            }
        }
    }

    fn finish(&mut self) -> Result<Finished, DtlsError> {
        // Nothing was presented: that is for the verifier to say, too.
        let verdict = self.verdict.take().unwrap_or_else(|| (self.judge)(&[]));
        let peer = match verdict {
            Ok(peer) => peer,
            Err(error) => return Err(self.give_up(DtlsError::Certificate(error))),
        };
        let keys = self
            .context
            .take_keys()
            .ok_or_else(|| DtlsError::Backend("keys not seen".to_owned()))?;
        Ok(Finished {
            info: DtlsInfo {
                peer,
                cipher: Some(keys.suite.ecdsa_name()),
                alpn: false,
                resumed: false,
            },
            keys,
            // The library tells nobody its master secret.
            secrets: None,
        })
    }

    /// Tells the peer, which the library does not.
    fn give_up(&mut self, error: DtlsError) -> DtlsError {
        let alert = if let DtlsError::Certificate(error) = &error {
            alert_for(error)
        } else if matches!(error, DtlsError::Alert(_) | DtlsError::HandshakeTimeout) {
            return error;
        } else {
            Alert::HANDSHAKE_FAILURE
        };
        self.say(alert);
        error
    }

    /// Sends a fatal alert as long as the peer listens to the clear.
    fn say(&mut self, alert: Alert) {
        if self.outgoing.sealed.next_sequence == 0 {
            let sequence = self.outgoing.next_clear;
            self.outgoing.push(&record::fatal_alert(sequence, alert));
        }
    }
}

impl Handshake for DimplHandshake {
    const SHORTEST_SEALED: usize = 16;

    fn handle_datagram(&mut self, now: Instant, datagram: &[u8]) -> Step {
        if self.cannot_present && asks_for_certificate(datagram) {
            self.say(Alert::HANDSHAKE_FAILURE);
            // What a server says that requires one; to others we owe the answer that there is none, which the library does
            // not know how to give.
            return Err(DtlsError::Alert(Alert::CERTIFICATE_REQUIRED));
        }
        if self.verdict.is_none() {
            self.chain.look_at(datagram);
        }
        self.call(|dtls| {
            dtls.handle_timeout(now)?;
            dtls.handle_packet(datagram)
        })
    }

    fn handle_timeout(&mut self, now: Instant) -> Step {
        self.call(|dtls| dtls.handle_timeout(now))
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.retransmission
    }

    fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }
}

fn translate(error: &Error) -> DtlsError {
    const NO_CERTIFICATE: Error =
        Error::CertificateError(dimpl::CertificateError::NoClientCertificateReceived);
    if let Error::SecurityError(SecurityError::FatalAlert { description }) = error {
        DtlsError::Alert(Alert(*description))
    } else if *error == NO_CERTIFICATE {
        DtlsError::Certificate(CertificateError::Missing)
    } else if matches!(error, Error::Timeout(_)) {
        DtlsError::HandshakeTimeout
    } else {
        DtlsError::Protocol(error.to_string())
    }
}

/// What OpenSSL sends for the same.
fn alert_for(error: &CertificateError) -> Alert {
    match error {
        CertificateError::Expired { .. } => Alert::CERTIFICATE_EXPIRED,
        CertificateError::NotYetValid { .. }
        | CertificateError::NameMismatch { .. }
        | CertificateError::Malformed
        | CertificateError::Other(_) => Alert::BAD_CERTIFICATE,
        CertificateError::UnknownIssuer | CertificateError::CaAsEndEntity => Alert::UNKNOWN_CA,
        CertificateError::WrongPurpose { .. } | CertificateError::UnsupportedAlgorithm => {
            Alert::UNSUPPORTED_CERTIFICATE
        }
        CertificateError::BadSignature => Alert::DECRYPT_ERROR,
        CertificateError::Revoked => Alert::CERTIFICATE_REVOKED,
        CertificateError::Missing => Alert::HANDSHAKE_FAILURE,
    }
}
